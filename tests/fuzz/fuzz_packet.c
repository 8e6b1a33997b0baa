/* Any bytes as a DNS answer, for each type, and the route that follows from it. The first byte
 * chooses the type. */
#include "dns/draft.h"

#include "core/base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const enum packet_type types[] = {PACKET_MX, PACKET_A, PACKET_AAAA};

static void check_route(const struct route *r)
{
    ASSERT(r != NULL);
    ASSERT(r->exchange_count <= ROUTE_EXCHANGES_MAX && strlen(r->destination_key) < 512);
    for (unsigned i = 1; i < r->exchange_count; i++)
        ASSERT(r->exchanges[i - 1].preference <= r->exchanges[i].preference);
    struct random random;
    random_init_seed(&random, 1);
    struct route_target targets[ROUTE_TARGETS_MAX];
    unsigned count = route_targets(r, &random, targets);
    ASSERT(count <= ROUTE_TARGETS_MAX);
    ASSERT((count > 0) == (r->kind != ROUTE_FAILED));
}

/* The packet as the answer for MX; its bytes again as addresses of every exchange. */
static void draw_up(struct slice bytes, const struct draft_rules *rules)
{
    struct draft d;
    struct packet p;
    draft_init(&d, SLICE_LIT("sampleorg.com"));
    enum dns_answer answer = packet_open(&p, bytes, PACKET_MX);
    draft_take_mx(&d, answer, &p, true, SLICE_LIT(""));
    for (unsigned i = 0; i < d.exchange_count; i++) {
        for (int type = 1; type < 3; type++) {
            answer = packet_open(&p, bytes, types[type]);
            draft_take_addresses(&d, i, types[type], answer, &p, true);
        }
        struct address a = {.ip = {0x20, 0x01, (uint8_t)i}};
        d.exchanges[i].v6[0] = a;
        d.exchanges[i].v6_count = 1;
        d.exchanges[i].address_ttl_s = 60;
    }
    const struct route *r = draft_finish(&d, rules, 1, 1);
    check_route(r);
    route_release(&r);
    draft_fini(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct draft_rules rules = {
        .delivery_port = 25, .use_ipv4 = true, .use_ipv6 = true};
    if (size == 0)
        return 0;
    struct slice bytes = slice_of(data + 1, size - 1);
    enum packet_type type = types[data[0] % 3];
    struct packet p;
    bool found = packet_open(&p, bytes, type) == ANSWER_DATA;
    unsigned count = 0;
    if (type == PACKET_MX) {
        struct packet_mx mx;
        while (found && packet_next_mx(&p, &mx))
            count++;
        ASSERT(!found || count > 0);
        draw_up(bytes, &rules);
    } else {
        struct address a;
        while (found && packet_next_address(&p, &a))
            count++;
    }
    ASSERT(count <= size / 11); /* no record is shorter */
    return 0;
}
