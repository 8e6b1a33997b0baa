#include "workers/chronicle.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { NEIGHBOURS = 8 };

struct exchange {
    bool used;
    uint64_t ip[2];
    uint64_t used_at; /* in calls: the longest unused of a neighbourhood makes place */
    struct chronicle_exchange known;
};

struct chronicle {
    pthread_mutex_t lock; /* guards everything below */
    uint64_t failure_keys[CHRONICLE_FAILURES];
    struct failure failures[CHRONICLE_FAILURES]; /* in no order; `count` 0: free */
    struct chronicle_change changes[CHRONICLE_CHANGES];
    uint64_t change_count; /* ever; the newest is at (change_count - 1) % CHRONICLE_CHANGES */
    struct chronicle_sample samples[CHRONICLE_SAMPLES];
    uint64_t sample_count;
    struct exchange exchanges[CHRONICLE_EXCHANGES];
    uint64_t calls;
};

struct chronicle *chronicle_create(void)
{
    struct chronicle *c = calloc(1, sizeof *c);
    if (c != NULL)
        pthread_mutex_init(&c->lock, NULL);
    return c;
}

void chronicle_destroy(struct chronicle **c)
{
    if (*c == NULL)
        return;
    pthread_mutex_destroy(&(*c)->lock);
    free(*c);
    *c = NULL;
}

/* ---- failures ---- */

const char *failure_kind_name(enum failure_kind kind)
{
    static const char *const names[] = {
#define X(kind_, name_) [kind_] = (name_),
        FAILURE_KINDS(X)
#undef X
    };
    return names[kind];
}

/* Every bit of the result depends on every bit of both: addresses differ in one byte, wherever that
 * comes to stand. */
static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ hash >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return hash ^ hash >> 32;
}

/* What makes two failures the same. The text is not of it: it may name the recipient. */
static uint64_t key_of(const struct failure *f)
{
    uint64_t ip[2] = {0, 0};
    if (f->has_address)
        memcpy(ip, f->address.ip, sizeof ip);
    uint64_t hash = mix(mix(mix(1, ip[0]), ip[1]), f->kind);
    for (const char *p = f->phase; *p != '\0'; p++)
        hash = mix(hash, (unsigned char)*p);
    uint64_t status = (uint64_t)f->reply.subject << 32 | f->reply.detail;
    return mix(mix(mix(hash, f->reply.code), f->reply.class), status);
}

static unsigned place_of(const struct chronicle *c, uint64_t key)
{
    unsigned oldest = 0;
    for (unsigned i = 0; i < CHRONICLE_FAILURES; i++) {
        if (c->failures[i].count > 0 && c->failure_keys[i] == key)
            return i;
        if (c->failures[i].wall_ms < c->failures[oldest].wall_ms)
            oldest = i;
    }
    return oldest;
}

void chronicle_failure(struct chronicle *c, const struct failure *f)
{
    if (c == NULL)
        return;
    uint64_t key = key_of(f);
    pthread_mutex_lock(&c->lock);
    unsigned i = place_of(c, key);
    struct failure *kept = &c->failures[i];
    bool again = kept->count > 0 && c->failure_keys[i] == key;
    uint64_t first = again ? kept->first_wall_ms : f->wall_ms, count = again ? kept->count : 0;
    c->failure_keys[i] = key;
    *kept = *f;
    kept->first_wall_ms = first;
    kept->count = count + 1;
    pthread_mutex_unlock(&c->lock);
}

static int newest_first(const void *a, const void *b)
{
    const struct failure *x = a, *y = b;
    return (x->wall_ms < y->wall_ms) - (x->wall_ms > y->wall_ms);
}

unsigned chronicle_failures(struct chronicle *c, struct failure out[CHRONICLE_FAILURES])
{
    unsigned count = 0;
    if (c == NULL)
        return 0;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < CHRONICLE_FAILURES; i++)
        if (c->failures[i].count > 0)
            out[count++] = c->failures[i];
    pthread_mutex_unlock(&c->lock);
    qsort(out, count, sizeof *out, newest_first);
    return count;
}

/* ---- changes ---- */

void chronicle_change(struct chronicle *c, const struct chronicle_change *change)
{
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    c->changes[c->change_count++ % CHRONICLE_CHANGES] = *change;
    pthread_mutex_unlock(&c->lock);
}

/* Where the oldest of a ring's last `size` entries is, and how many there are. */
static unsigned kept_of(uint64_t total, unsigned size, uint64_t *first_out)
{
    uint64_t kept = total < size ? total : size;
    *first_out = total - kept;
    return (unsigned)kept;
}

unsigned chronicle_changes(struct chronicle *c, struct chronicle_change out[CHRONICLE_CHANGES])
{
    uint64_t first;
    if (c == NULL)
        return 0;
    pthread_mutex_lock(&c->lock);
    unsigned count = kept_of(c->change_count, CHRONICLE_CHANGES, &first);
    for (unsigned i = 0; i < count; i++)
        out[i] = c->changes[(first + i) % CHRONICLE_CHANGES];
    pthread_mutex_unlock(&c->lock);
    return count;
}

/* ---- exchanges ---- */

/* The address's entry, made where missing. The lock is held. */
static struct exchange *entry_locked(struct chronicle *c, const struct address *a)
{
    uint64_t ip[2];
    memcpy(ip, a->ip, sizeof ip);
    size_t base = mix(mix(0, ip[0]), ip[1]) % (CHRONICLE_EXCHANGES / NEIGHBOURS) * NEIGHBOURS;
    struct exchange *oldest = &c->exchanges[base];
    c->calls++;
    for (size_t i = base; i < base + NEIGHBOURS; i++) {
        struct exchange *e = &c->exchanges[i];
        if (e->used && memcmp(e->ip, ip, sizeof ip) == 0) {
            e->used_at = c->calls;
            return e;
        }
        if (e->used_at < oldest->used_at)
            oldest = e;
    }
    *oldest = (struct exchange){.used = true, .ip = {ip[0], ip[1]}, .used_at = c->calls};
    return oldest;
}

void chronicle_connect(struct chronicle *c, const struct address *a, const char *name)
{
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    struct exchange *e = entry_locked(c, a);
    (void)snprintf(e->known.name, sizeof e->known.name, "%s", name);
    pthread_mutex_unlock(&c->lock);
}

void chronicle_race(struct chronicle *c, const struct address *a, bool won)
{
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    struct exchange *e = entry_locked(c, a);
    e->known.races_won += won;
    e->known.races_lost += !won;
    pthread_mutex_unlock(&c->lock);
}

struct chronicle_exchange chronicle_exchange(struct chronicle *c, const struct address *a)
{
    struct chronicle_exchange known = {{0}, 0, 0};
    uint64_t ip[2];
    if (c == NULL)
        return known;
    memcpy(ip, a->ip, sizeof ip);
    size_t base = mix(mix(0, ip[0]), ip[1]) % (CHRONICLE_EXCHANGES / NEIGHBOURS) * NEIGHBOURS;
    pthread_mutex_lock(&c->lock);
    for (size_t i = base; i < base + NEIGHBOURS; i++)
        if (c->exchanges[i].used && memcmp(c->exchanges[i].ip, ip, sizeof ip) == 0)
            known = c->exchanges[i].known;
    pthread_mutex_unlock(&c->lock);
    return known;
}

/* ---- figures over time ---- */

void chronicle_sample(struct chronicle *c, const struct chronicle_sample *sample)
{
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    c->samples[c->sample_count++ % CHRONICLE_SAMPLES] = *sample;
    pthread_mutex_unlock(&c->lock);
}

unsigned chronicle_samples(struct chronicle *c, struct chronicle_sample out[CHRONICLE_SAMPLES])
{
    uint64_t first;
    if (c == NULL)
        return 0;
    pthread_mutex_lock(&c->lock);
    unsigned count = kept_of(c->sample_count, CHRONICLE_SAMPLES, &first);
    for (unsigned i = 0; i < count; i++)
        out[i] = c->samples[(first + i) % CHRONICLE_SAMPLES];
    pthread_mutex_unlock(&c->lock);
    return count;
}
