#include "core/health.h"

#include "core/base/assert.h"
#include "core/base/random.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* A fixed table; an address lives in one of NEIGHBOURS entries behind its hash. Writers take the stripe's lock, which is
 * held for a few stores; readers take none: each entry has a sequence number that is odd while it is being written, and a
 * reader that saw it odd or changed reads again (a seqlock; all fields are atomics, so no read is a data race). */
enum {
    NEIGHBOURS = 8,
    STRIPES = 256,
    PATIENCE_FACTOR = 8,          /* times the usual latency */
    PROBE_LIMIT_MS = 60000,       /* a probe without a verdict is forgotten */
    STRIKES_TO_DEMOTE = 2,
};

struct entry {
    _Atomic uint32_t sequence;
    _Atomic uint32_t parked;      /* sessions open now: counted apart from the sequence */
    _Atomic uint64_t ip[2];
    _Atomic uint8_t used;
    _Atomic uint8_t state;        /* enum health_state */
    _Atomic uint8_t strikes;
    _Atomic uint8_t late;         /* it fell silent behind an accepted EHLO */
    _Atomic uint8_t backoffs;     /* how often the current back-off has doubled */
    _Atomic uint64_t since_wall_ms;
    _Atomic uint64_t again_ms;
    _Atomic uint64_t tls_broken_until_ms;
    _Atomic uint64_t probe_until_ms; /* 0: no probe under way */
    _Atomic uint64_t last_used_ms;
    _Atomic uint64_t successes;
    _Atomic uint64_t failures;
    _Atomic uint32_t latency_us8[HEALTH_PHASES]; /* smoothed, in 1/8 ms; 0 = not learned */
};

struct health {
    struct health_options options;
    uint64_t seed;
    struct entry *entries;
    pthread_mutex_t stripes[STRIPES]; /* writers of a neighbourhood */
};

#define RELAXED(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define STORE_RELAXED(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)

const char *health_state_name(enum health_state state)
{
    static const char *const names[] = {"healthy", "suspect", "demoted", "down", "busy", "refusing"};
    return names[state];
}

struct health *health_create(const struct health_options *options)
{
    ASSERT(options->entries >= NEIGHBOURS && (options->entries & (options->entries - 1)) == 0);
    struct health *h = calloc(1, sizeof *h);
    if (h == NULL)
        return NULL;
    struct random random;
    random_init(&random);
    h->options = *options;
    h->seed = random_u64(&random);
    h->entries = calloc(options->entries, sizeof *h->entries);
    if (h->entries == NULL) {
        free(h);
        return NULL;
    }
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_init(&h->stripes[i], NULL);
    return h;
}

void health_destroy(struct health **h)
{
    if (*h == NULL)
        return;
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&(*h)->stripes[i]);
    free((*h)->entries);
    free(*h);
    *h = NULL;
}

/* ---- finding ---- */

struct key {
    uint64_t ip[2];
    uint32_t base; /* first entry of the neighbourhood */
};

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * UINT64_C(0x7fb5d329728ea185);
    x = (x ^ (x >> 27)) * UINT64_C(0x81dadef4bc2dd44d);
    return x ^ (x >> 33);
}

static struct key key_of(const struct health *h, const struct address *a)
{
    struct key k;
    memcpy(k.ip, a->ip, sizeof k.ip);
    uint64_t hash = mix(k.ip[0] ^ h->seed) ^ mix(k.ip[1] + h->seed);
    k.base = (uint32_t)(mix(hash) & (h->options.entries - 1)) & ~(uint32_t)(NEIGHBOURS - 1);
    return k;
}

static bool is_entry_of(const struct entry *e, const struct key *k)
{
    return RELAXED(e->used) != 0 && RELAXED(e->ip[0]) == k->ip[0] && RELAXED(e->ip[1]) == k->ip[1];
}

static struct entry *find(const struct health *h, const struct key *k)
{
    for (uint32_t i = 0; i < NEIGHBOURS; i++)
        if (is_entry_of(&h->entries[k->base + i], k))
            return &h->entries[k->base + i];
    return NULL;
}

/* ---- reading ---- */

static struct health_view read_entry(const struct entry *e)
{
    struct health_view v = {.known = true};
    uint64_t ip[2] = {RELAXED(e->ip[0]), RELAXED(e->ip[1])};
    memcpy(v.address.ip, ip, sizeof ip);
    v.state = (enum health_state)RELAXED(e->state);
    v.strikes = RELAXED(e->strikes);
    v.since_wall_ms = RELAXED(e->since_wall_ms);
    v.again_mono_ms = RELAXED(e->again_ms);
    v.tls_broken_until_mono_ms = RELAXED(e->tls_broken_until_ms);
    v.probing = RELAXED(e->probe_until_ms) != 0;
    for (int i = 0; i < HEALTH_PHASES; i++)
        v.latency_ms[i] = (RELAXED(e->latency_us8[i]) + 7) / 8;
    v.successes = RELAXED(e->successes);
    v.failures = RELAXED(e->failures);
    v.parked = RELAXED(e->parked);
    return v;
}

struct health_view health_view(const struct health *h, const struct address *a)
{
    struct key k = key_of(h, a);
    for (;;) {
        const struct entry *e = find(h, &k);
        if (e == NULL)
            return (struct health_view){.address = *a, .state = HEALTH_HEALTHY};
        uint32_t before = atomic_load_explicit(&e->sequence, memory_order_acquire);
        struct health_view v = read_entry(e);
        bool same = is_entry_of(e, &k);
        atomic_thread_fence(memory_order_acquire);
        if ((before & 1) == 0 && before == RELAXED(e->sequence) && same)
            return v;
    }
}

/* ---- writing: under the stripe's lock ---- */

static pthread_mutex_t *lock_of(struct health *h, const struct key *k)
{
    pthread_mutex_t *lock = &h->stripes[k->base / NEIGHBOURS % STRIPES];
    pthread_mutex_lock(lock);
    return lock;
}

static void begin_write(struct entry *e)
{
    STORE_RELAXED(e->sequence, RELAXED(e->sequence) + 1);
    atomic_thread_fence(memory_order_release);
}

static void end_write(struct entry *e)
{
    atomic_store_explicit(&e->sequence, RELAXED(e->sequence) + 1, memory_order_release);
}

/* Healthy entries teach least, and the longest unused of them least of all; entries with open sessions stay. */
static uint64_t usefulness(const struct entry *e)
{
    bool in_use = RELAXED(e->parked) > 0;
    bool unwell = RELAXED(e->state) != HEALTH_HEALTHY;
    return (in_use ? UINT64_C(1) << 63 : 0) | (unwell ? UINT64_C(1) << 62 : 0) | RELAXED(e->last_used_ms);
}

static void clear_entry(struct entry *e)
{
    STORE_RELAXED(e->state, HEALTH_HEALTHY);
    STORE_RELAXED(e->strikes, 0);
    STORE_RELAXED(e->late, 0);
    STORE_RELAXED(e->backoffs, 0);
    STORE_RELAXED(e->since_wall_ms, 0);
    STORE_RELAXED(e->again_ms, 0);
    STORE_RELAXED(e->tls_broken_until_ms, 0);
    STORE_RELAXED(e->probe_until_ms, 0);
    STORE_RELAXED(e->successes, 0);
    STORE_RELAXED(e->failures, 0);
    for (int i = 0; i < HEALTH_PHASES; i++)
        STORE_RELAXED(e->latency_us8[i], 0);
}

/* The address's entry, made where missing by forgetting the least useful of its neighbourhood. NULL where all of them
 * have open sessions. */
static struct entry *find_or_make(struct health *h, const struct key *k)
{
    struct entry *e = find(h, k);
    if (e != NULL)
        return e;
    struct entry *worst = NULL;
    for (uint32_t i = 0; i < NEIGHBOURS; i++) {
        struct entry *candidate = &h->entries[k->base + i];
        if (RELAXED(candidate->used) == 0) {
            worst = candidate;
            break;
        }
        if (worst == NULL || usefulness(candidate) < usefulness(worst))
            worst = candidate;
    }
    if (RELAXED(worst->used) != 0 && RELAXED(worst->parked) > 0)
        return NULL;
    begin_write(worst);
    clear_entry(worst);
    STORE_RELAXED(worst->ip[0], k->ip[0]);
    STORE_RELAXED(worst->ip[1], k->ip[1]);
    STORE_RELAXED(worst->used, 1);
    end_write(worst);
    return worst;
}

static void set_state(struct entry *e, enum health_state state, uint64_t wall_ms)
{
    if (RELAXED(e->state) != state)
        STORE_RELAXED(e->since_wall_ms, wall_ms);
    STORE_RELAXED(e->state, (uint8_t)state);
}

/* The next back-off: `first`, doubling with each one since the last success, moved by up to a tenth. */
static uint64_t next_backoff(const struct health *h, struct entry *e, uint64_t first, uint64_t jitter)
{
    uint64_t wait = first;
    uint8_t backoffs = RELAXED(e->backoffs);
    for (uint8_t i = 0; i < backoffs && wait < h->options.demote_max_ms; i++)
        wait *= 2;
    if (wait > h->options.demote_max_ms)
        wait = h->options.demote_max_ms;
    if (backoffs < UINT8_MAX)
        STORE_RELAXED(e->backoffs, (uint8_t)(backoffs + 1));
    uint64_t tenth = wait / 10;
    return tenth > 0 ? wait - tenth + jitter % (2 * tenth + 1) : wait;
}

static void on_success(struct entry *e, uint64_t wall_ms)
{
    set_state(e, HEALTH_HEALTHY, wall_ms);
    STORE_RELAXED(e->strikes, 0);
    STORE_RELAXED(e->late, 0);
    STORE_RELAXED(e->backoffs, 0);
    STORE_RELAXED(e->again_ms, 0);
    STORE_RELAXED(e->probe_until_ms, 0);
    STORE_RELAXED(e->successes, RELAXED(e->successes) + 1);
}

/* Demotes, or demotes anew. A host that is demoted already, whose time is not up and that is not being probed, gains
 * nothing from sessions that were opened before: a thousand of them are one finding. */
static void demote(const struct health *h, struct entry *e, uint64_t mono_ms, uint64_t wall_ms, uint64_t jitter)
{
    bool demoted = RELAXED(e->state) == HEALTH_DEMOTED;
    if (demoted && RELAXED(e->again_ms) > mono_ms && RELAXED(e->probe_until_ms) == 0)
        return;
    if (!demoted)
        STORE_RELAXED(e->backoffs, 0);
    set_state(e, HEALTH_DEMOTED, wall_ms);
    STORE_RELAXED(e->again_ms, mono_ms + next_backoff(h, e, h->options.demote_first_ms, jitter));
    STORE_RELAXED(e->probe_until_ms, 0);
}

static void on_silence(const struct health *h, struct entry *e, uint64_t mono_ms, uint64_t wall_ms, uint64_t jitter)
{
    uint8_t strikes = RELAXED(e->strikes);
    if (strikes < UINT8_MAX)
        STORE_RELAXED(e->strikes, ++strikes);
    if (strikes >= STRIKES_TO_DEMOTE || RELAXED(e->state) == HEALTH_DEMOTED)
        demote(h, e, mono_ms, wall_ms, jitter);
    else
        set_state(e, HEALTH_SUSPECT, wall_ms);
}

/* DOWN, BUSY, REFUSING: told at once, so short back-offs do. A demoted host stays demoted: a refusal proves no more life
 * than a connect does. */
static void back_off(const struct health *h, struct entry *e, enum health_state state, uint64_t mono_ms,
                     uint64_t wall_ms, uint64_t jitter)
{
    if (RELAXED(e->state) == HEALTH_DEMOTED) {
        demote(h, e, mono_ms, wall_ms, jitter);
        return;
    }
    if (RELAXED(e->state) == state && RELAXED(e->again_ms) > mono_ms)
        return;
    set_state(e, state, wall_ms);
    STORE_RELAXED(e->again_ms, mono_ms + next_backoff(h, e, h->options.down_first_ms, jitter));
}

static bool is_good(enum health_event event)
{
    return event == HEALTH_EVENT_SUCCESS || event == HEALTH_EVENT_CARRIED;
}

static void apply_event(struct health *h, struct entry *e, enum health_event event, uint64_t mono_ms,
                        uint64_t wall_ms, uint64_t jitter)
{
    if (!is_good(event))
        STORE_RELAXED(e->failures, RELAXED(e->failures) + 1);
    switch (event) {
    case HEALTH_EVENT_SUCCESS:
        if (RELAXED(e->late) == 0)
            on_success(e, wall_ms);
        return;
    case HEALTH_EVENT_CARRIED:
        on_success(e, wall_ms);
        return;
    case HEALTH_EVENT_SILENT_LATE:
        STORE_RELAXED(e->late, 1);
        on_silence(h, e, mono_ms, wall_ms, jitter);
        return;
    case HEALTH_EVENT_SILENT:
        on_silence(h, e, mono_ms, wall_ms, jitter);
        return;
    case HEALTH_EVENT_BROKEN:
        demote(h, e, mono_ms, wall_ms, jitter);
        return;
    case HEALTH_EVENT_DOWN:
        back_off(h, e, HEALTH_DOWN, mono_ms, wall_ms, jitter);
        return;
    case HEALTH_EVENT_BUSY:
        back_off(h, e, HEALTH_BUSY, mono_ms, wall_ms, jitter);
        return;
    case HEALTH_EVENT_REFUSING:
        back_off(h, e, HEALTH_REFUSING, mono_ms, wall_ms, jitter);
        return;
    case HEALTH_EVENT_TLS_BROKEN:
        STORE_RELAXED(e->tls_broken_until_ms, mono_ms + h->options.tls_broken_ms);
        return;
    }
}

/* The common case costs readers nothing: a healthy host stays healthy without a write to the entry. */
static bool is_news(const struct entry *e, enum health_event event)
{
    return !is_good(event) || RELAXED(e->state) != HEALTH_HEALTHY || RELAXED(e->strikes) != 0 ||
           RELAXED(e->probe_until_ms) != 0 || RELAXED(e->successes) == 0;
}

enum health_state health_tell(struct health *h, const struct address *a, enum health_event event, uint64_t mono_ms,
                              uint64_t wall_ms, uint64_t jitter)
{
    struct key k = key_of(h, a);
    struct entry *known = find(h, &k);
    if (known != NULL && !is_news(known, event) && is_entry_of(known, &k))
        return HEALTH_HEALTHY;
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find_or_make(h, &k);
    enum health_state state = HEALTH_HEALTHY;
    if (e != NULL) {
        begin_write(e);
        STORE_RELAXED(e->last_used_ms, mono_ms);
        apply_event(h, e, event, mono_ms, wall_ms, jitter);
        state = (enum health_state)RELAXED(e->state);
        end_write(e);
    }
    pthread_mutex_unlock(lock);
    return state;
}

void health_learn(struct health *h, const struct address *a, enum health_phase phase, uint32_t ms)
{
    struct key k = key_of(h, a);
    struct entry *e = find(h, &k);
    if (e == NULL)
        return; /* the first success makes the entry; what comes behind it is learned */
    uint32_t sample = ms < (1u << 24) ? ms * 8 + 1 : 1u << 27;
    uint32_t old = RELAXED(e->latency_us8[phase]);
    /* Up fast, down slowly, so that one quick reply does not make the next usual one look late. Two learners at once lose
     * one sample: harmless. */
    uint32_t learned = old == 0 || sample > old ? sample : old - (old - sample) / 8;
    if (learned != old && is_entry_of(e, &k))
        STORE_RELAXED(e->latency_us8[phase], learned);
}

uint32_t health_patience_ms(const struct health *h, const struct address *a, enum health_phase phase)
{
    struct key k = key_of(h, a);
    const struct entry *e = find(h, &k);
    uint64_t min = h->options.patience_min_ms, max = h->options.patience_max_ms;
    if (e == NULL)
        return (uint32_t)max;
    if (RELAXED(e->state) != HEALTH_HEALTHY)
        return (uint32_t)min;
    uint64_t usual = RELAXED(e->latency_us8[phase]);
    if (usual == 0)
        return (uint32_t)max;
    uint64_t patience = usual * PATIENCE_FACTOR / 8;
    return (uint32_t)(patience < min ? min : patience > max ? max : patience);
}

/* ---- probes, counts, operators ---- */

bool health_claim_probe(struct health *h, const struct address *a, uint64_t mono_ms)
{
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find(h, &k);
    bool claimed = e != NULL && RELAXED(e->state) == HEALTH_DEMOTED && RELAXED(e->again_ms) <= mono_ms &&
                   RELAXED(e->probe_until_ms) <= mono_ms;
    if (claimed) {
        begin_write(e);
        STORE_RELAXED(e->probe_until_ms, mono_ms + PROBE_LIMIT_MS);
        end_write(e);
    }
    pthread_mutex_unlock(lock);
    return claimed;
}

void health_probe_drop(struct health *h, const struct address *a)
{
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find(h, &k);
    if (e != NULL) {
        begin_write(e);
        STORE_RELAXED(e->probe_until_ms, 0);
        end_write(e);
    }
    pthread_mutex_unlock(lock);
}

void health_count_session(struct health *h, const struct address *a, int change)
{
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = change > 0 ? find_or_make(h, &k) : find(h, &k);
    /* An entry with open sessions is never forgotten, so the count comes back to where it was. Where none could be made,
     * the session was not counted, and a later entry of that address must not fall below nothing. */
    if (e != NULL && (change > 0 || RELAXED(e->parked) > 0))
        STORE_RELAXED(e->parked, RELAXED(e->parked) + (uint32_t)change);
    pthread_mutex_unlock(lock);
}

void health_demote(struct health *h, const struct address *a, uint64_t duration_ms, uint64_t mono_ms,
                   uint64_t wall_ms)
{
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find_or_make(h, &k);
    if (e != NULL) {
        begin_write(e);
        set_state(e, HEALTH_DEMOTED, wall_ms);
        STORE_RELAXED(e->again_ms, mono_ms + duration_ms);
        STORE_RELAXED(e->last_used_ms, mono_ms);
        end_write(e);
    }
    pthread_mutex_unlock(lock);
}

bool health_clear(struct health *h, const struct address *a)
{
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find(h, &k);
    if (e != NULL) {
        begin_write(e);
        clear_entry(e);
        end_write(e);
    }
    pthread_mutex_unlock(lock);
    return e != NULL;
}

void health_visit(const struct health *h, void (*visit)(void *context, const struct health_view *v), void *context)
{
    for (unsigned i = 0; i < h->options.entries; i++) {
        const struct entry *e = &h->entries[i];
        if (RELAXED(e->used) == 0)
            continue;
        struct health_view v = read_entry(e);
        v = health_view(h, &v.address);
        if (v.known)
            visit(context, &v);
    }
}
