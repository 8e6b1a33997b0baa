#include "dns/draft.h"

#include "core/base/assert.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    KEY_LEN_MAX = 511,
    KEY_TEXT_SIZE = ROUTE_EXCHANGES_MAX * (DOMAIN_SIZE + 8),
};

static_assert((int)KEY_LEN_MAX > (int)(sizeof "sha256 " + 2 * EVP_MAX_MD_SIZE),
              "a hashed key is a short key");

/* ---- the MX answer ---- */

void draft_init(struct draft *d, struct slice domain)
{
    *d = (struct draft){.kind = ROUTE_MX, .secure = true};
    bool fits = slice_to_cstr(domain, d->domain, sizeof d->domain);
    ASSERT(fits);
}

void draft_fini(struct draft *d)
{
    free(d->exchanges);
    d->exchanges = NULL;
    d->exchange_count = 0;
}

static void fail(struct draft *d, enum reply_local why)
{
    d->failure = (uint16_t)why;
}

static bool mx_before(const struct packet_mx *a, const struct packet_mx *b)
{
    return a->preference != b->preference ? a->preference < b->preference
                                          : strcmp(a->host, b->host) < 0;
}

/* The best records of an answer, sorted, each host once. */
struct mx_list {
    unsigned count;
    struct packet_mx records[ROUTE_EXCHANGES_MAX];
};

static void remove_at(struct mx_list *l, unsigned at)
{
    l->count--;
    memmove(&l->records[at], &l->records[at + 1], (l->count - at) * sizeof l->records[0]);
}

static void insert(struct mx_list *l, const struct packet_mx *mx)
{
    for (unsigned i = 0; i < l->count; i++) {
        if (strcmp(l->records[i].host, mx->host) != 0)
            continue;
        if (!mx_before(mx, &l->records[i]))
            return;
        remove_at(l, i);
        break;
    }
    unsigned at = l->count;
    while (at > 0 && mx_before(mx, &l->records[at - 1]))
        at--;
    if (at == ROUTE_EXCHANGES_MAX)
        return;
    if (l->count == ROUTE_EXCHANGES_MAX)
        l->count--; /* the worst makes room */
    memmove(&l->records[at + 1], &l->records[at], (l->count - at) * sizeof l->records[0]);
    l->records[at] = *mx;
    l->count++;
}

static bool make_exchanges(struct draft *d, const struct packet_mx *records, unsigned count)
{
    d->exchanges = calloc(count, sizeof *d->exchanges);
    if (d->exchanges == NULL) {
        fail(d, LOCAL_NO_RESOURCES);
        return false;
    }
    d->exchange_count = count;
    for (unsigned i = 0; i < count; i++) {
        struct draft_exchange *e = &d->exchanges[i];
        e->preference = records[i].preference;
        e->ttl_s = records[i].ttl_s;
        e->address_ttl_s = e->absence_ttl_s = UINT32_MAX;
        memcpy(e->name, records[i].host, sizeof e->name);
    }
    return true;
}

static void take_mx_records(struct draft *d, struct packet *p)
{
    struct mx_list list = {.count = 0};
    struct packet_mx mx;
    bool only_roots = true;
    while (packet_next_mx(p, &mx)) {
        only_roots = only_roots && mx.is_root;
        if (mx.host[0] != '\0')
            insert(&list, &mx);
    }
    if (list.count > 0)
        (void)make_exchanges(d, list.records, list.count);
    else
        /* RFC 7505 knows one record of preference 0. Whatever the number and the preferences, roots
         * alone can mean nothing else; beside real exchanges they mean nothing. */
        fail(d, only_roots ? LOCAL_NULL_MX : LOCAL_EXCHANGES_NO_ADDRESS);
}

/* RFC 5321 5.1: where the domain exists and has no MX at all, it is its own exchange. */
static void take_implicit_mx(struct draft *d)
{
    struct packet_mx self = {.preference = 0};
    memcpy(self.host, d->domain, sizeof self.host);
    d->kind = ROUTE_IMPLICIT_MX;
    (void)make_exchanges(d, &self, 1);
}

static uint32_t ttl_of(enum dns_answer answer, const struct packet *p)
{
    switch (answer) {
    case ANSWER_DATA:
        return (uint32_t)p->ttl_s;
    case ANSWER_NODATA:
    case ANSWER_NXDOMAIN:
        if (p->ttl_s == PACKET_TTL_UNKNOWN)
            return DRAFT_FAILURE_TTL_S; /* without an SOA it should not be kept at all (RFC 2308 5)
                                         */
        return p->ttl_s < DRAFT_NEGATIVE_TTL_S_MAX ? (uint32_t)p->ttl_s : DRAFT_NEGATIVE_TTL_S_MAX;
    case ANSWER_FAILED:
    case ANSWER_BOGUS:
        break;
    }
    return DRAFT_FAILURE_TTL_S;
}

void draft_take_mx(struct draft *d, enum dns_answer answer, struct packet *p, bool secure,
                   struct slice why)
{
    ASSERT(d->exchanges == NULL && d->failure == 0);
    d->secure = d->secure && secure;
    d->ttl_s = ttl_of(answer, p);
    switch (answer) {
    case ANSWER_DATA:
        take_mx_records(d, p);
        return;
    case ANSWER_NODATA:
        take_implicit_mx(d);
        return;
    case ANSWER_NXDOMAIN:
        fail(d, LOCAL_NXDOMAIN);
        return;
    case ANSWER_FAILED:
        fail(d, LOCAL_DNS_TEMPFAIL);
        return;
    case ANSWER_BOGUS:
        (void)slice_to_cstr(slice_take(why, sizeof d->about - 1), d->about, sizeof d->about);
        fail(d, LOCAL_DNS_BOGUS);
        return;
    }
    ASSERT(false);
}

/* ---- addresses ---- */

static bool take_address_records(struct draft_exchange *e, struct packet *p)
{
    bool v4 = p->type == PACKET_A;
    struct address *list = v4 ? e->v4 : e->v6;
    uint8_t count = 0;
    struct address a;
    while (count < ROUTE_ADDRESSES_MAX && packet_next_address(p, &a))
        /* 0.0.0.0 and :: are used to mean "no mail here"; connecting to them reaches ourselves. */
        if (!address_is_unspecified(&a))
            list[count++] = a;
    if (v4)
        e->v4_count = count;
    else
        e->v6_count = count;
    return count > 0;
}

static void lower(uint32_t *ttl_s, uint32_t bound_s)
{
    if (bound_s < *ttl_s)
        *ttl_s = bound_s;
}

void draft_take_addresses(struct draft *d, unsigned exchange, enum packet_type type,
                          enum dns_answer answer, struct packet *p, bool secure)
{
    ASSERT(exchange < d->exchange_count && (type == PACKET_A || type == PACKET_AAAA));
    struct draft_exchange *e = &d->exchanges[exchange];
    d->secure = d->secure && secure;
    uint32_t ttl_s = ttl_of(answer, p);
    switch (answer) {
    case ANSWER_DATA:
        lower(take_address_records(e, p) ? &e->address_ttl_s : &e->absence_ttl_s, ttl_s);
        return;
    case ANSWER_NODATA:
    case ANSWER_NXDOMAIN:
        lower(&e->absence_ttl_s, ttl_s);
        return;
    case ANSWER_BOGUS:
        e->bogus = true;
        e->lookup_failed = true;
        return;
    case ANSWER_FAILED:
        e->lookup_failed = true;
        return;
    }
    ASSERT(false);
}

static bool has_address(const struct draft_exchange *e)
{
    return e->v4_count + e->v6_count > 0;
}

static bool any_has_address(const struct draft_exchange *exchanges, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (has_address(&exchanges[i]))
            return true;
    return false;
}

bool draft_is_usable(const struct draft *d)
{
    return any_has_address(d->exchanges, d->exchange_count);
}

/* ---- our own host ---- */

static bool is_loopback(const struct address *a)
{
    static const uint8_t v6[16] = {[15] = 1};
    return address_is_v4(a) ? a->ip[12] == 127 : memcmp(a->ip, v6, sizeof v6) == 0;
}

static bool is_own_address(const struct draft_rules *rules, const struct address *a)
{
    for (unsigned i = 0; i < rules->own_address_count; i++) {
        const struct address *own = &rules->own_addresses[i];
        bool same = address_same_ip(own, a) || (address_is_unspecified(own) && is_loopback(a));
        if (same && (own->port == 0 || own->port == rules->delivery_port))
            return true;
    }
    return false;
}

static bool is_own(const struct draft_rules *rules, const struct draft_exchange *e)
{
    for (unsigned i = 0; i < rules->own_name_count; i++)
        if (strcmp(rules->own_names[i], e->name) == 0)
            return true;
    for (unsigned i = 0; i < e->v4_count; i++)
        if (is_own_address(rules, &e->v4[i]))
            return true;
    for (unsigned i = 0; i < e->v6_count; i++)
        if (is_own_address(rules, &e->v6[i]))
            return true;
    return false;
}

/* How many exchanges are left when our own host and all of its preference or worse are cut (RFC
 * 5321 5.1): those would hand the mail back to us. */
static unsigned count_before_own(const struct draft *d, const struct draft_rules *rules)
{
    for (unsigned i = 0; i < d->exchange_count; i++) {
        if (!is_own(rules, &d->exchanges[i]))
            continue;
        while (i > 0 && d->exchanges[i - 1].preference == d->exchanges[i].preference)
            i--;
        return i;
    }
    return d->exchange_count;
}

/* ---- from the facts to the route ---- */

/* What is put together into one allocation. */
struct plan {
    const struct draft *draft;
    enum route_kind kind;
    uint16_t failure;
    uint16_t port;
    bool own_host_cut;
    unsigned exchange_count;
    uint32_t ttl_s;
    uint64_t mono_ms, wall_ms;
};

static uint16_t why_no_address(const struct draft *d, unsigned count)
{
    bool failed = false, bogus = false;
    for (unsigned i = 0; i < count; i++) {
        failed = failed || d->exchanges[i].lookup_failed;
        bogus = bogus || d->exchanges[i].bogus;
    }
    if (failed)
        return bogus ? LOCAL_DNS_BOGUS : LOCAL_DNS_TEMPFAIL;
    return d->kind == ROUTE_IMPLICIT_MX ? LOCAL_NO_ADDRESS : LOCAL_EXCHANGES_NO_ADDRESS;
}

static uint16_t conclude(const struct draft *d, unsigned exchange_count)
{
    if (d->failure != 0)
        return d->failure;
    if (exchange_count == 0)
        return LOCAL_MAIL_LOOP;
    if (!any_has_address(d->exchanges, exchange_count))
        return why_no_address(d, exchange_count);
    return 0;
}

/* How long the conclusion holds. An absent family counts only where an exchange has no address at
 * all: most have no AAAA, and that is no reason to look their domain up every few minutes. */
static uint32_t lifetime_s(const struct draft *d, unsigned exchange_count, uint16_t failure)
{
    uint32_t ttl_s = d->ttl_s;
    for (unsigned i = 0; i < exchange_count; i++) {
        const struct draft_exchange *e = &d->exchanges[i];
        lower(&ttl_s, has_address(e) ? e->address_ttl_s : e->absence_ttl_s);
        if (e->lookup_failed)
            lower(&ttl_s, DRAFT_FAILURE_TTL_S);
    }
    lower(&ttl_s, failure != 0 ? DRAFT_NEGATIVE_TTL_S_MAX : DRAFT_TTL_S_MAX);
    bool failed = failure == LOCAL_DNS_TEMPFAIL || failure == LOCAL_DNS_BOGUS ||
                  failure == LOCAL_NO_RESOURCES || failure == LOCAL_SHUTDOWN;
    if (failed)
        ttl_s = DRAFT_FAILURE_TTL_S;
    return ttl_s > DRAFT_TTL_S_MIN ? ttl_s : DRAFT_TTL_S_MIN;
}

/* "10 a.example 20 b.example". Exchanges without an address count too, so that the key, and with it
 * the queue, does not change when one look-up fails for a while. */
static size_t write_key(const struct plan *plan, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < plan->exchange_count; i++) {
        const struct draft_exchange *e = &plan->draft->exchanges[i];
        int n = snprintf(out + len, size - len, "%s%u %s", i > 0 ? " " : "",
                         (unsigned)e->preference, e->name);
        ASSERT(n > 0 && (size_t)n < size - len);
        len += (size_t)n;
    }
    return len;
}

/* A long key is replaced by its SHA-256. No weaker hash will do: whoever could make two sets
 * collide would get another domain's mail sent to exchanges of his own. */
static bool shorten_key(char *key, size_t len)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    if (EVP_Digest(key, len, digest, &digest_len, EVP_sha256(), NULL) != 1)
        return false;
    static const char prefix[] = "sha256 ", digits[] = "0123456789abcdef";
    memcpy(key, prefix, sizeof prefix);
    char *at = key + sizeof prefix - 1;
    for (unsigned i = 0; i < digest_len; i++) {
        *at++ = digits[digest[i] >> 4];
        *at++ = digits[digest[i] & 0xf];
    }
    *at = '\0';
    return true;
}

/* Space behind the route itself, handed out from the front; what needs the widest alignment goes
 * first. */
struct space {
    char *at;
    char *end;
};

static void *take_space(struct space *s, size_t bytes)
{
    ASSERT((size_t)(s->end - s->at) >= bytes);
    void *taken = s->at;
    s->at += bytes;
    return taken;
}

static const char *put_text(struct space *s, const char *text)
{
    size_t bytes = strlen(text) + 1;
    return memcpy(take_space(s, bytes), text, bytes);
}

static const struct address *put_addresses(struct space *s, const struct address *from,
                                           unsigned count, uint16_t port)
{
    struct address *to = take_space(s, count * sizeof *to);
    for (unsigned i = 0; i < count; i++) {
        to[i] = from[i];
        to[i].port = port;
    }
    return to;
}

static void put_exchange(struct space *s, const struct plan *plan,
                         const struct draft_exchange *from, struct route_exchange *to)
{
    bool known = has_address(from);
    *to = (struct route_exchange){
        .preference = from->preference,
        .ttl_s = from->ttl_s,
        .v4_count = from->v4_count,
        .v6_count = from->v6_count,
        .v4 = put_addresses(s, from->v4, from->v4_count, plan->port),
        .v6 = put_addresses(s, from->v6, from->v6_count, plan->port),
        .address_ttl_s = known ? from->address_ttl_s : 0,
        .lookup_failed = from->lookup_failed,
    };
}

static size_t space_needed(const struct plan *plan, const char *key)
{
    size_t bytes = plan->exchange_count * sizeof(struct route_exchange);
    for (unsigned i = 0; i < plan->exchange_count; i++) {
        const struct draft_exchange *e = &plan->draft->exchanges[i];
        bytes += ((size_t)e->v4_count + e->v6_count) * sizeof(struct address) + strlen(e->name) + 1;
    }
    return bytes + strlen(plan->draft->domain) + 1 + strlen(key) + 1;
}

static struct reply explain(const struct draft *d, enum reply_local why)
{
    const char *about = d->about[0] != '\0' ? d->about : d->domain;
    return about[0] != '\0' ? reply_local_about(why, slice_str(about)) : reply_local(why);
}

static void fill(struct route *r, struct space *s, const struct plan *plan, const char *key)
{
    const struct draft *d = plan->draft;
    struct route_exchange *exchanges = take_space(s, plan->exchange_count * sizeof *exchanges);
    for (unsigned i = 0; i < plan->exchange_count; i++)
        put_exchange(s, plan, &d->exchanges[i], &exchanges[i]);
    for (unsigned i = 0; i < plan->exchange_count; i++)
        exchanges[i].name = put_text(s, d->exchanges[i].name);
    atomic_init(&r->shared.references, 1);
    r->kind = plan->kind;
    if (plan->failure != 0)
        r->failure = explain(d, (enum reply_local)plan->failure);
    r->domain = put_text(s, d->domain);
    r->destination_key = put_text(s, key);
    r->resolved_wall_ms = plan->wall_ms;
    r->expires_mono_ms = plan->mono_ms + (uint64_t)plan->ttl_s * 1000;
    r->secure = d->secure && plan->kind != ROUTE_LITERAL;
    r->own_host_cut = plan->own_host_cut;
    r->exchange_count = (uint16_t)plan->exchange_count;
    r->exchanges = exchanges;
}

static const struct route *assemble(const struct plan *plan)
{
    char key[KEY_TEXT_SIZE];
    size_t key_len = write_key(plan, key, sizeof key);
    if (key_len > KEY_LEN_MAX && !shorten_key(key, key_len))
        return NULL;
    size_t bytes = space_needed(plan, key);
    struct route *r = calloc(1, sizeof *r + bytes);
    if (r == NULL)
        return NULL;
    struct space s = {(char *)r + sizeof *r, (char *)r + sizeof *r + bytes};
    fill(r, &s, plan, key);
    ASSERT(s.at == s.end);
    return r;
}

const struct route *draft_finish(const struct draft *d, const struct draft_rules *rules,
                                 uint64_t mono_ms, uint64_t wall_ms)
{
    unsigned count = count_before_own(d, rules);
    uint16_t failure = conclude(d, count);
    struct plan plan = {.draft = d,
                        .kind = failure != 0 ? ROUTE_FAILED : d->kind,
                        .failure = failure,
                        .port = rules->delivery_port,
                        .own_host_cut = count < d->exchange_count,
                        .exchange_count = failure != 0 ? 0 : count,
                        .ttl_s = lifetime_s(d, count, failure),
                        .mono_ms = mono_ms,
                        .wall_ms = wall_ms};
    return assemble(&plan);
}

const struct route *draft_literal(struct slice domain, const struct draft_rules *rules,
                                  uint64_t mono_ms, uint64_t wall_ms)
{
    struct draft d;
    struct draft_exchange e = {.address_ttl_s = DRAFT_TTL_S_MAX, .absence_ttl_s = DRAFT_TTL_S_MAX};
    draft_init(&d, domain);
    d.kind = ROUTE_LITERAL;
    d.ttl_s = DRAFT_TTL_S_MAX;
    d.secure = false;
    d.exchanges = &e;
    d.exchange_count = 1;
    memcpy(e.name, d.domain, sizeof e.name);
    struct address a;
    bool valid = address_parse_literal(domain, &a);
    ASSERT(valid); /* a routing key that starts with a bracket was normalised as one */
    bool v4 = address_is_v4(&a);
    if (v4 ? rules->use_ipv4 : rules->use_ipv6) {
        *(v4 ? e.v4 : e.v6) = a;
        e.v4_count = v4;
        e.v6_count = !v4;
    }
    return draft_finish(&d, rules, mono_ms, wall_ms);
}

const struct route *draft_failure(struct slice domain, enum reply_local why, uint64_t mono_ms,
                                  uint64_t wall_ms)
{
    struct draft d;
    draft_init(&d, domain);
    d.secure = false;
    fail(&d, why);
    d.ttl_s = DRAFT_NEGATIVE_TTL_S_MAX;
    struct draft_rules nothing = {.own_name_count = 0};
    return draft_finish(&d, &nothing, mono_ms, wall_ms);
}
