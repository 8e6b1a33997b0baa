#include "bench/tools/sink_ledger.h"
#include "bench/tools/histogram.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PREFIXES_MAX = 64, GROUPS = 26 };

/* Addresses that behave alike, and what they saw. */
struct prefix {
    uint32_t network, mask; /* host order */
    unsigned bits;
    bool hung;
    double changed_s;       /* when it last began to hang, or was healed */
    double first_message_s; /* since then; 0 = none */
    uint64_t connections, open, open_max;
    uint64_t hung_connections, hung_open, hung_open_max; /* of them, never answered */
    uint64_t messages;
};

/* Messages whose id begins with one letter. */
struct group {
    uint64_t messages, recipients, distinct; /* distinct: pairs of message and recipient */
    uint64_t verified, damaged, goal;
    double first_s, last_s, goal_s; /* 0 = not yet */
    struct histogram *latency; /* submission begun to arrival; NULL where none carried a time */
};

/* The deliveries seen, as 64-bit hashes: open addressing, 0 = free. */
struct seen {
    uint64_t *slots;
    size_t capacity, count; /* capacity: a power of two */
};

struct ledger {
    pthread_mutex_t lock; /* guards all of it */
    struct prefix prefixes[PREFIXES_MAX];
    unsigned prefix_count;
    struct group groups[GROUPS];
    struct seen seen;
    uint64_t without_room;
};

static double now_s(void)
{
    return (double)mark_now_ns() / 1e9;
}

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        abort();
    return memory;
}

/* ---- the set of deliveries seen ---- */

/* Puts a hash in its place; false where it is there already. */
static bool put(uint64_t *slots, size_t capacity, uint64_t hash)
{
    size_t at = hash & (capacity - 1);
    while (slots[at] != 0 && slots[at] != hash)
        at = (at + 1) & (capacity - 1);
    bool is_new = slots[at] == 0;
    slots[at] = hash;
    return is_new;
}

static void grow(struct seen *s)
{
    size_t capacity = s->capacity > 0 ? s->capacity * 2 : 1 << 16;
    uint64_t *slots = zeroed(capacity, sizeof *slots);
    for (size_t i = 0; i < s->capacity; i++)
        if (s->slots[i] != 0)
            (void)put(slots, capacity, s->slots[i]);
    free(s->slots);
    s->slots = slots;
    s->capacity = capacity;
}

/* True the first time. */
static bool note_seen(struct seen *s, uint64_t hash)
{
    if (s->count * 2 >= s->capacity)
        grow(s);
    bool is_new = put(s->slots, s->capacity, hash);
    s->count += is_new;
    return is_new;
}

/* ---- prefixes ---- */

/* "127.2.0.0/16", or an address alone; false where it is neither. */
static bool parse_prefix(const char *text, uint32_t *network_out, unsigned *bits_out)
{
    char address[INET_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
    char *end = NULL;
    unsigned long bits = slash != NULL ? strtoul(slash + 1, &end, 10) : 32;
    struct in_addr in;
    if (len >= sizeof address || bits > 32 || (end != NULL && *end != '\0'))
        return false;
    memcpy(address, text, len);
    address[len] = '\0';
    if (inet_pton(AF_INET, address, &in) != 1)
        return false;
    *bits_out = (unsigned)bits;
    *network_out = ntohl(in.s_addr);
    return true;
}

static uint32_t mask_of(unsigned bits)
{
    return bits > 0 ? UINT32_MAX << (32 - bits) : 0;
}

/* The prefix of this name, made where missing; NULL where there is no room. */
static struct prefix *prefix_named(struct ledger *l, uint32_t network, unsigned bits)
{
    struct prefix *p = l->prefixes;
    while (p < l->prefixes + l->prefix_count && (p->network != network || p->bits != bits))
        p++;
    if (p == l->prefixes + PREFIXES_MAX)
        return NULL;
    if (p == l->prefixes + l->prefix_count) {
        l->prefix_count++;
        *p = (struct prefix){.network = network, .mask = mask_of(bits), .bits = bits};
    }
    return p;
}

bool ledger_set_prefix(struct ledger *l, const char *text, bool hung)
{
    uint32_t network;
    unsigned bits;
    if (!parse_prefix(text, &network, &bits))
        return false;
    (void)pthread_mutex_lock(&l->lock);
    struct prefix *p = prefix_named(l, network & mask_of(bits), bits);
    if (p != NULL) {
        p->hung = hung;
        p->changed_s = now_s();
        p->first_message_s = 0;
    }
    (void)pthread_mutex_unlock(&l->lock);
    return p != NULL;
}

static struct prefix *prefix_of(struct ledger *l, uint32_t address)
{
    struct prefix *best = &l->prefixes[0]; /* 0.0.0.0/0 */
    for (unsigned i = 1; i < l->prefix_count; i++) {
        struct prefix *p = &l->prefixes[i];
        if ((address & p->mask) == p->network && p->bits >= best->bits)
            best = p;
    }
    return best;
}

struct ledger *ledger_create(void)
{
    struct ledger *l = zeroed(1, sizeof *l);
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)ledger_set_prefix(l, "0.0.0.0/0", false);
    return l;
}

unsigned ledger_open(struct ledger *l, uint32_t address, bool *hung_out)
{
    (void)pthread_mutex_lock(&l->lock);
    struct prefix *p = prefix_of(l, address);
    p->connections++;
    if (++p->open > p->open_max)
        p->open_max = p->open;
    *hung_out = p->hung;
    p->hung_connections += p->hung;
    p->hung_open += p->hung;
    if (p->hung_open > p->hung_open_max)
        p->hung_open_max = p->hung_open;
    (void)pthread_mutex_unlock(&l->lock);
    return (unsigned)(p - l->prefixes);
}

void ledger_close(struct ledger *l, unsigned prefix, bool hung)
{
    (void)pthread_mutex_lock(&l->lock);
    l->prefixes[prefix].open--;
    l->prefixes[prefix].hung_open -= hung;
    (void)pthread_mutex_unlock(&l->lock);
}

void ledger_without_room(struct ledger *l)
{
    (void)pthread_mutex_lock(&l->lock);
    l->without_room++;
    (void)pthread_mutex_unlock(&l->lock);
}

/* ---- messages ---- */

static void reach_goal(struct group *g, double now)
{
    if (g->goal > 0 && g->distinct >= g->goal && g->goal_s <= 0)
        g->goal_s = now;
}

static void note_latency(struct group *g, const struct mark *m, uint64_t now_ns)
{
    if (g->latency == NULL)
        g->latency = zeroed(1, sizeof *g->latency);
    histogram_note(g->latency, now_ns - m->sent_ns);
}

static void arrive_at_group(struct ledger *l, const struct arrival *a, uint64_t now_ns)
{
    struct group *g = &l->groups[a->mark.group];
    g->messages++;
    g->recipients += a->recipient_count;
    g->last_s = (double)now_ns / 1e9;
    if (g->messages == 1)
        g->first_s = g->last_s;
    for (size_t i = 0; i < a->recipient_count; i++) {
        uint64_t delivery = a->mark.id_hash ^ a->recipients[i] * UINT64_C(0x9e3779b97f4a7c15);
        g->distinct += note_seen(&l->seen, delivery != 0 ? delivery : 1);
    }
    if (a->mark.verifiable) {
        g->damaged += a->damaged;
        g->verified += !a->damaged;
        note_latency(g, &a->mark, now_ns);
    }
    reach_goal(g, g->last_s);
}

void ledger_arrive(struct ledger *l, const struct arrival *a)
{
    uint64_t now_ns = mark_now_ns();
    (void)pthread_mutex_lock(&l->lock);
    struct prefix *p = &l->prefixes[a->prefix];
    p->messages++;
    if (p->first_message_s <= 0)
        p->first_message_s = (double)now_ns / 1e9;
    if (a->mark.id_hash != 0)
        arrive_at_group(l, a, now_ns);
    (void)pthread_mutex_unlock(&l->lock);
}

void ledger_set_goal(struct ledger *l, unsigned group, uint64_t goal)
{
    (void)pthread_mutex_lock(&l->lock);
    l->groups[group].goal = goal;
    l->groups[group].goal_s = 0;
    reach_goal(&l->groups[group], now_s());
    (void)pthread_mutex_unlock(&l->lock);
}

/* ---- figures ---- */

static void print_prefix(const struct prefix *p, FILE *out)
{
    struct in_addr in = {.s_addr = htonl(p->network)};
    char address[INET_ADDRSTRLEN];
    (void)inet_ntop(AF_INET, &in, address, sizeof address);
    (void)fprintf(out,
                  "\"%s/%u\": {\"hung\": %s, \"changed_s\": %.6f, \"first_message_s\": %.6f, "
                  "\"connections\": %" PRIu64 ", \"open\": %" PRIu64 ", \"open_max\": %" PRIu64
                  ", \"hung_connections\": %" PRIu64 ", \"hung_open\": %" PRIu64
                  ", \"hung_open_max\": %" PRIu64 ", \"messages\": %" PRIu64 "}",
                  address, p->bits, p->hung ? "true" : "false", p->changed_s, p->first_message_s,
                  p->connections, p->open, p->open_max, p->hung_connections, p->hung_open,
                  p->hung_open_max, p->messages);
}

static void print_group(const struct group *g, char letter, FILE *out)
{
    (void)fprintf(out,
                  "\"%c\": {\"messages\": %" PRIu64 ", \"recipients\": %" PRIu64
                  ", \"distinct\": %" PRIu64 ", \"duplicates\": %" PRIu64 ", \"verified\": %" PRIu64
                  ", \"damaged\": %" PRIu64
                  ", \"first_s\": %.6f, \"last_s\": %.6f, \"goal_s\": %.6f, \"latency\": ",
                  letter, g->messages, g->recipients, g->distinct, g->recipients - g->distinct,
                  g->verified, g->damaged, g->first_s, g->last_s, g->goal_s);
    if (g->latency != NULL)
        histogram_print(g->latency, out);
    else
        (void)fputs("null", out);
    (void)fputc('}', out);
}

void ledger_print(struct ledger *l, FILE *out)
{
    const char *separator = "";
    (void)pthread_mutex_lock(&l->lock);
    (void)fprintf(out, "{\"t\": %.6f, \"without_room\": %" PRIu64 ", \"groups\": {", now_s(),
                  l->without_room);
    for (unsigned i = 0; i < GROUPS; i++) {
        if (l->groups[i].messages == 0 && l->groups[i].goal == 0)
            continue;
        (void)fputs(separator, out);
        print_group(&l->groups[i], (char)('a' + i), out);
        separator = ", ";
    }
    (void)fputs("}, \"prefixes\": {", out);
    for (unsigned i = 0; i < l->prefix_count; i++) {
        (void)fputs(i > 0 ? ", " : "", out);
        print_prefix(&l->prefixes[i], out);
    }
    (void)fputs("}}\n", out);
    (void)pthread_mutex_unlock(&l->lock);
}
