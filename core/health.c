#include "core/health.h"

#include "core/base/assert.h"
#include "core/base/random.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

/* A fixed table; an address lives in one of the NEIGHBOURS entries its hash points at. Writers take
 * the stripe's lock for a few stores. Readers take none: each entry is a seqlock, its sequence odd
 * while it is being written, and a reader that saw it odd or changed reads again. Every field is an
 * atomic, stored with release and loaded with acquire order: whoever sees one new value sees the
 * odd sequence that came before it, so the check needs no fence. */
enum {
    NEIGHBOURS = 8,
    STRIPES = 256,
    STRIKES_TO_DEMOTE = 2,
    PROBE_LIMIT_MS = 60000, /* a claim without a verdict lapses: something was lost with it */
    READ_TRIES = 256,    /* then the fields are taken as they are: no reader waits for a writer */
    READ_SPINS = 64,     /* of them without yielding to a writer that lost its processor */
    PATIENCE_FACTOR = 8, /* times the usual latency */
    LATENCY_UNITS = 8,   /* latencies are kept in eighths of a millisecond */
    LATENCY_MS_MAX = 1 << 24,
    RUNS_FOR_BDAT = 4,
    RUNS_FOR_WINDOW = RUNS_FOR_BDAT + 8,
    RUNS_PER_STEP = 8, /* for each further transaction in flight */
    RUNS_MAX = UINT16_MAX,
    MISFIRES_MAX = 2,
    /* Eight times this is under the longest patience, so nothing waits longer than that behind a
     * content's end; and a host slower than this spends its time there, not on round trips. */
    BEHIND_LATENCY_MS_MAX = 500,
    DISTRUST_MS = 24 * 3600000, /* unheard of for so long, what was not trusted is anybody */
};

/* A host that failed behind its EHLO is not cleared by the next EHLO. */
enum lateness {
    LATE_STUCK = 1, /* silent, or broken */
    LATE_DOWN = 2,  /* reset or closed */
};

struct entry {
    _Atomic uint32_t sequence;
    _Atomic uint32_t parked; /* sessions open now: counted apart from the sequence */
    _Atomic uint64_t ip[2];
    _Atomic uint8_t used;
    _Atomic uint8_t state; /* enum health_state */
    _Atomic uint8_t strikes;
    _Atomic uint8_t late;     /* how it failed behind an accepted EHLO: enum lateness */
    _Atomic uint8_t by_hand;  /* demoted by an operator */
    _Atomic uint8_t backoffs; /* back-offs since the last success: each is twice the one before */
    _Atomic uint8_t one_by_one, nothing_behind; /* not trusted with more, for good */
    _Atomic uint8_t misfires;
    _Atomic uint16_t runs;
    _Atomic uint64_t since_wall_ms;
    _Atomic uint64_t again_ms;
    _Atomic uint64_t tls_broken_until_ms;
    _Atomic uint64_t probe_until_ms; /* 0: no probe under way */
    _Atomic uint64_t last_used_ms;
    _Atomic uint64_t successes;
    _Atomic uint64_t failures;
    _Atomic uint32_t latency[HEALTH_PHASES]; /* usual, in LATENCY_UNITS; 0 = not learned */
};

struct health {
    struct health_options options;
    uint64_t seed; /* of the hash: nobody outside can choose addresses that collide */
    struct entry *entries;
    pthread_mutex_t stripes[STRIPES]; /* a neighbourhood's writers */
};

#define LOAD(field)         atomic_load_explicit(&(field), memory_order_acquire)
#define STORE(field, value) atomic_store_explicit(&(field), (value), memory_order_release)

/* ---- states ---- */

#define BIT(state)  (1u << (state))
#define BACKING_OFF (BIT(HEALTH_DOWN) | BIT(HEALTH_BUSY) | BIT(HEALTH_REFUSING))
#define WELL        (BIT(HEALTH_HEALTHY) | BIT(HEALTH_SUSPECT))
#define ANY_STATE   (WELL | BIT(HEALTH_DEMOTED) | BACKING_OFF)

/* What a state means: which may follow it, and how long its silence is borne. */
struct state_rule {
    unsigned next;
    bool impatient;         /* the shortest patience, whatever was learned */
    bool impatient_strange; /* the shortest where nothing was learned */
};

static const struct state_rule *rule_of(enum health_state state)
{
    static const struct state_rule rules[] = {
        [HEALTH_HEALTHY] = {ANY_STATE, false, false},
        [HEALTH_SUSPECT] = {ANY_STATE, true, true},
        /* Only a greeting and an accepted EHLO end a demotion: a refusal proves no more life than a
         * connect() does. */
        [HEALTH_DEMOTED] = {BIT(HEALTH_HEALTHY) | BIT(HEALTH_DEMOTED), true, true},
        [HEALTH_DOWN] = {ANY_STATE, false, true},
        /* These two do answer, only not kindly. */
        [HEALTH_BUSY] = {ANY_STATE, false, false},
        [HEALTH_REFUSING] = {ANY_STATE, false, false},
    };
    return &rules[state];
}

const char *health_state_name(enum health_state state)
{
    static const char *const names[] = {
#define X(state_, name_) [state_] = (name_),
        HEALTH_STATES(X)
#undef X
    };
    return names[state];
}

static enum health_state state_of(const struct entry *e)
{
    return (enum health_state)LOAD(e->state);
}

/* The one place that writes a state. */
static void move(struct entry *e, enum health_state next, uint64_t wall_ms)
{
    enum health_state now = state_of(e);
    ASSERT(rule_of(now)->next & BIT(next));
    if (now != next || LOAD(e->since_wall_ms) == 0)
        STORE(e->since_wall_ms, wall_ms);
    STORE(e->state, (uint8_t)next);
}

/* ---- beginning and end ---- */

struct health *health_create(const struct health_options *options)
{
    ASSERT(options->entries >= NEIGHBOURS && (options->entries & (options->entries - 1)) == 0);
    ASSERT(options->patience_min_ms <= options->patience_max_ms);
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
    static_assert(sizeof k.ip == sizeof a->ip, "an address fills its key");
    memcpy(k.ip, a->ip, sizeof k.ip);
    uint64_t hash = mix(mix(k.ip[0] ^ h->seed) + (k.ip[1] ^ (h->seed >> 32)));
    k.base = (uint32_t)(hash & (h->options.entries - 1)) & ~(uint32_t)(NEIGHBOURS - 1);
    return k;
}

static bool is_entry_of(const struct entry *e, const struct key *k)
{
    return LOAD(e->used) != 0 && LOAD(e->ip[0]) == k->ip[0] && LOAD(e->ip[1]) == k->ip[1];
}

static struct entry *find(const struct health *h, const struct key *k)
{
    for (uint32_t i = 0; i < NEIGHBOURS; i++)
        if (is_entry_of(&h->entries[k->base + i], k))
            return &h->entries[k->base + i];
    return NULL;
}

/* ---- latencies ---- */

/* Up at once, down slowly, so that one quick reply does not make the next usual one look late. */
static uint32_t latency_after(uint32_t old, uint32_t ms)
{
    /* At least one unit: faster than the clock's tick is a latency, too. */
    uint32_t sample = ms < LATENCY_MS_MAX ? ms * LATENCY_UNITS + 1 : LATENCY_MS_MAX * LATENCY_UNITS;
    return old == 0 || sample > old ? sample : old - (old - sample) / 8;
}

void health_learn(struct health *h, const struct address *a, enum health_phase phase, uint32_t ms)
{
    struct key k = key_of(h, a);
    struct entry *e = find(h, &k);
    if (e == NULL)
        return; /* its neighbourhood is full of hosts with open sessions */
    uint32_t old = LOAD(e->latency[phase]);
    uint32_t learned = latency_after(old, ms);
    if (learned !=
        old) /* the caller's session is counted, so the entry is not forgotten meanwhile */
        STORE(e->latency[phase], learned);
}

uint32_t health_patience_ms(const struct health *h, const struct address *a,
                            enum health_phase phase)
{
    uint64_t min = h->options.patience_min_ms, max = h->options.patience_max_ms;
    struct key k = key_of(h, a);
    const struct entry *e = find(h, &k);
    if (e == NULL)
        return (uint32_t)max;
    const struct state_rule *rule = rule_of(state_of(e));
    uint64_t usual = LOAD(e->latency[phase]);
    uint64_t patience = usual * PATIENCE_FACTOR / LATENCY_UNITS;
    if (phase == HEALTH_COMMIT)
        return (uint32_t)(usual == 0 ? max : patience < min ? min : patience);
    if (rule->impatient || (rule->impatient_strange && usual == 0))
        return (uint32_t)min;
    if (usual == 0)
        return (uint32_t)max;
    return (uint32_t)(patience < min ? min : patience > max ? max : patience);
}

/* ---- trust ---- */

struct health_trust health_trust(const struct health *h, const struct address *a,
                                 unsigned window_max)
{
    struct key k = key_of(h, a);
    const struct entry *e = find(h, &k);
    struct health_trust t = {.behind = true, .window = 1};
    if (e == NULL)
        return t;
    bool is_quick =
        LOAD(e->latency[HEALTH_COMMIT]) <= (uint32_t)BEHIND_LATENCY_MS_MAX * LATENCY_UNITS;
    unsigned runs = LOAD(e->runs);
    t.behind = is_quick && LOAD(e->nothing_behind) == 0;
    t.bdat = runs >= RUNS_FOR_BDAT && LOAD(e->one_by_one) == 0 && state_of(e) == HEALTH_HEALTHY;
    if (t.bdat && is_quick && runs >= RUNS_FOR_WINDOW)
        t.window = 2 + (runs - RUNS_FOR_WINDOW) / RUNS_PER_STEP;
    if (t.window > window_max)
        t.window = window_max;
    return t;
}

/* Short of what proves BDAT, DATA proves nothing more. */
static void count_run(struct entry *e, bool by_bdat)
{
    uint16_t runs = LOAD(e->runs);
    if (runs < (by_bdat ? RUNS_MAX : RUNS_FOR_BDAT))
        STORE(e->runs, (uint16_t)(runs + 1));
    if (LOAD(e->misfires) != 0)
        STORE(e->misfires, 0);
}

static void restart_runs(struct entry *e)
{
    if (LOAD(e->runs) != 0)
        STORE(e->runs, 0);
}

void health_show(struct health *h, const struct address *a, enum health_showing what)
{
    struct key k = key_of(h, a);
    struct entry *e = find(h, &k);
    if (e == NULL)
        return; /* as in health_learn */
    switch (what) {
    case HEALTH_RUN:
    case HEALTH_RUN_BDAT:
        count_run(e, what == HEALTH_RUN_BDAT);
        return;
    case HEALTH_MISFIRE:
        if (LOAD(e->misfires) < MISFIRES_MAX)
            STORE(e->misfires, (uint8_t)(LOAD(e->misfires) + 1));
        if (LOAD(e->misfires) == MISFIRES_MAX)
            STORE(e->nothing_behind, 1);
        break;
    case HEALTH_MISMATCH:
        STORE(e->nothing_behind, 1);
        STORE(e->one_by_one, 1);
        break;
    case HEALTH_BATCH_LOST:
        STORE(e->one_by_one, 1);
        break;
    case HEALTH_RESTART:
        break;
    }
    restart_runs(e);
}

/* ---- reading ---- */

static struct health_view read_entry(const struct entry *e)
{
    struct health_view v = {.known = true};
    uint64_t ip[2] = {LOAD(e->ip[0]), LOAD(e->ip[1])};
    memcpy(v.address.ip, ip, sizeof ip);
    v.state = state_of(e);
    v.strikes = LOAD(e->strikes);
    v.since_wall_ms = LOAD(e->since_wall_ms);
    v.again_mono_ms = LOAD(e->again_ms);
    v.tls_broken_until_mono_ms = LOAD(e->tls_broken_until_ms);
    v.probe_until_mono_ms = LOAD(e->probe_until_ms);
    v.probing = v.probe_until_mono_ms != 0;
    for (int i = 0; i < HEALTH_PHASES; i++)
        v.latency_ms[i] = (LOAD(e->latency[i]) + LATENCY_UNITS - 1) / LATENCY_UNITS;
    v.successes = LOAD(e->successes);
    v.failures = LOAD(e->failures);
    v.parked = LOAD(e->parked);
    v.runs = LOAD(e->runs);
    v.one_by_one = LOAD(e->one_by_one) != 0;
    v.nothing_behind = LOAD(e->nothing_behind) != 0;
    return v;
}

/* Reads an entry at one instant. Where a writer has lost its processor half way for long, the
 * fields are taken as they are: each is whole, and which exchange is tried first may rest on a mix
 * of two neighbouring instants, but not on when that writer wakes up. False: it is another
 * address's entry, or none's. */
static bool read_stable(const struct entry *e, const struct key *k, struct health_view *v_out)
{
    for (int tries = 0; tries < READ_TRIES; tries++) {
        uint32_t before = LOAD(e->sequence);
        *v_out = read_entry(e);
        bool same = is_entry_of(e, k);
        if ((before & 1) == 0 && before == LOAD(e->sequence))
            return same;
        if (tries >= READ_SPINS)
            (void)sched_yield();
    }
    return is_entry_of(e, k);
}

struct health_view health_view(const struct health *h, const struct address *a)
{
    struct key k = key_of(h, a);
    const struct entry *e = find(h, &k);
    struct health_view v;
    if (e == NULL || !read_stable(e, &k, &v))
        v = (struct health_view){.state = HEALTH_HEALTHY};
    v.address = *a;
    return v;
}

void health_visit(const struct health *h, void (*visit)(void *context, const struct health_view *v),
                  void *context)
{
    for (unsigned i = 0; i < h->options.entries; i++) {
        const struct entry *e = &h->entries[i];
        if (LOAD(e->used) == 0)
            continue;
        struct address a = read_entry(e).address;
        struct health_view v;
        struct key k = key_of(h, &a);
        if (read_stable(e, &k, &v))
            visit(context, &v);
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
    STORE(e->sequence, LOAD(e->sequence) + 1);
}

static void end_write(struct entry *e)
{
    STORE(e->sequence, LOAD(e->sequence) + 1);
}

/* An operator's word holds until its time is up, whatever sessions find out. */
static bool is_held(const struct entry *e, uint64_t mono_ms)
{
    return LOAD(e->by_hand) != 0 && LOAD(e->again_ms) > mono_ms;
}

/* Does it say more than that the host is well? Not for ever: dead addresses that nobody asks for
 * any more, be they an attacker's or of years, would crowd out all that carry mail. */
static bool warns(const struct health *h, const struct entry *e, uint64_t mono_ms)
{
    uint64_t used = LOAD(e->last_used_ms), again = LOAD(e->again_ms);
    uint64_t last = again > used ? again : used;
    bool distrusted = LOAD(e->one_by_one) != 0 || LOAD(e->nothing_behind) != 0;
    return (state_of(e) != HEALTH_HEALTHY && mono_ms < last + h->options.demote_max_ms) ||
           (distrusted && mono_ms < used + DISTRUST_MS);
}

/* Entries with open sessions stay, and so does an operator's word; what does not warn teaches
 * least, and the longest unused of that least of all. */
static uint64_t usefulness(const struct health *h, const struct entry *e, uint64_t mono_ms)
{
    bool stays = LOAD(e->parked) > 0 || is_held(e, mono_ms);
    return (stays ? UINT64_C(1) << 63 : 0) | (warns(h, e, mono_ms) ? UINT64_C(1) << 62 : 0) |
           LOAD(e->last_used_ms);
}

/* All but whose it is and the sessions now open. */
static void clear_entry(struct entry *e)
{
    STORE(e->state, HEALTH_HEALTHY);
    STORE(e->strikes, 0);
    STORE(e->late, 0);
    STORE(e->by_hand, 0);
    STORE(e->backoffs, 0);
    STORE(e->one_by_one, 0);
    STORE(e->nothing_behind, 0);
    STORE(e->misfires, 0);
    STORE(e->runs, 0);
    STORE(e->since_wall_ms, 0);
    STORE(e->again_ms, 0);
    STORE(e->tls_broken_until_ms, 0);
    STORE(e->probe_until_ms, 0);
    STORE(e->last_used_ms, 0);
    STORE(e->successes, 0);
    STORE(e->failures, 0);
    for (int i = 0; i < HEALTH_PHASES; i++)
        STORE(e->latency[i], 0);
}

/* A free entry of the neighbourhood, or the least useful. */
static struct entry *choose_victim(const struct health *h, const struct key *k, uint64_t mono_ms)
{
    struct entry *least = &h->entries[k->base];
    for (uint32_t i = 0; i < NEIGHBOURS; i++) {
        struct entry *candidate = &h->entries[k->base + i];
        if (LOAD(candidate->used) == 0)
            return candidate;
        if (usefulness(h, candidate, mono_ms) < usefulness(h, least, mono_ms))
            least = candidate;
    }
    return least;
}

/* The address's entry, made where missing. NULL where all of the neighbourhood have open sessions,
 * or stay for an operator. */
static struct entry *find_or_make(struct health *h, const struct key *k, uint64_t mono_ms)
{
    struct entry *e = find(h, k);
    if (e != NULL)
        return e;
    e = choose_victim(h, k, mono_ms);
    if (LOAD(e->used) != 0 && (LOAD(e->parked) > 0 || is_held(e, mono_ms)))
        return NULL;
    begin_write(e);
    clear_entry(e);
    STORE(e->ip[0], k->ip[0]);
    STORE(e->ip[1], k->ip[1]);
    STORE(e->used, 1);
    end_write(e);
    return e;
}

/* The next back-off: `first`, doubling with each one since the last success, moved by up to a tenth
 * so that hosts that failed together do not come back together. */
static uint64_t next_backoff(const struct health *h, struct entry *e, uint64_t first,
                             uint64_t jitter)
{
    uint64_t wait = first;
    uint8_t backoffs = LOAD(e->backoffs);
    for (uint8_t i = 0; i < backoffs && wait < h->options.demote_max_ms; i++)
        wait *= 2;
    if (wait > h->options.demote_max_ms)
        wait = h->options.demote_max_ms;
    if (backoffs < UINT8_MAX)
        STORE(e->backoffs, (uint8_t)(backoffs + 1));
    uint64_t tenth = wait / 10;
    return wait - tenth + jitter % (2 * tenth + 1);
}

/* When and by what an entry is written. */
struct telling {
    const struct health *health;
    uint64_t mono_ms, wall_ms, jitter;
};

static void recover(struct entry *e, const struct telling *t)
{
    move(e, HEALTH_HEALTHY, t->wall_ms);
    STORE(e->strikes, 0);
    STORE(e->late, 0);
    STORE(e->by_hand, 0);
    STORE(e->backoffs, 0);
    STORE(e->again_ms, 0);
    STORE(e->probe_until_ms, 0);
}

static void on_success(struct entry *e, const struct telling *t)
{
    STORE(e->successes, LOAD(e->successes) + 1);
    if (LOAD(e->late) == 0 && !is_held(e, t->mono_ms))
        recover(e, t);
}

/* Takes back what a failure behind EHLO did, and that alone: a session that was open before goes on
 * carrying while new ones are refused, or hang at the greeting. */
static void on_carried(struct entry *e, const struct telling *t)
{
    enum health_state state = state_of(e);
    uint8_t late = LOAD(e->late);
    bool was_stuck = state == HEALTH_SUSPECT || state == HEALTH_DEMOTED;
    bool was_down = state == HEALTH_DOWN && (late & LATE_DOWN) != 0;
    if (late == 0)
        return;
    STORE(e->late, 0);
    STORE(e->strikes, 0);
    if ((was_stuck || was_down) && !is_held(e, t->mono_ms))
        recover(e, t);
}

/* Demotes, or demotes anew. A host that is demoted already, whose time is not up and that is not
 * being probed, gains nothing from sessions that were opened before: a thousand of them are one
 * finding. */
static void demote(struct entry *e, const struct telling *t)
{
    bool demoted = state_of(e) == HEALTH_DEMOTED;
    if (demoted && LOAD(e->again_ms) > t->mono_ms && LOAD(e->probe_until_ms) == 0)
        return;
    if (!demoted)
        STORE(e->backoffs, 0);
    move(e, HEALTH_DEMOTED, t->wall_ms);
    STORE(e->by_hand, 0);
    uint64_t wait = next_backoff(t->health, e, t->health->options.demote_first_ms, t->jitter);
    STORE(e->again_ms, t->mono_ms + wait);
    STORE(e->probe_until_ms, 0);
}

static bool is_backing_off(const struct entry *e, uint64_t mono_ms)
{
    return (BIT(state_of(e)) & BACKING_OFF) && LOAD(e->again_ms) > mono_ms;
}

/* A first silence makes a suspect, but never brings forward a host whose back-off is running. */
static void on_silence(struct entry *e, const struct telling *t)
{
    uint8_t strikes = LOAD(e->strikes);
    if (strikes < UINT8_MAX)
        STORE(e->strikes, ++strikes);
    if (strikes >= STRIKES_TO_DEMOTE || state_of(e) == HEALTH_DEMOTED) {
        demote(e, t);
    } else if (!is_backing_off(e, t->mono_ms)) {
        move(e, HEALTH_SUSPECT, t->wall_ms);
        STORE(e->again_ms, 0);
    }
}

/* DOWN, BUSY, REFUSING: told at once and so cheap to find out again; a short back-off does. */
static void on_refusal(struct entry *e, enum health_state state, const struct telling *t)
{
    if (state_of(e) == HEALTH_DEMOTED) {
        demote(e, t);
        return;
    }
    /* While a back-off runs, more of the same comes from sessions opened together with the one that
     * found out: the latest word counts, but nothing doubles. */
    bool running = is_backing_off(e, t->mono_ms);
    move(e, state, t->wall_ms);
    if (running)
        return;
    uint64_t wait = next_backoff(t->health, e, t->health->options.down_first_ms, t->jitter);
    STORE(e->again_ms, t->mono_ms + wait);
}

static void note_lateness(struct entry *e, enum health_event event)
{
    uint8_t late = LOAD(e->late);
    if (event == HEALTH_EVENT_SILENT_LATE || event == HEALTH_EVENT_BROKEN_LATE)
        STORE(e->late, late | LATE_STUCK);
    else if (event == HEALTH_EVENT_DOWN_LATE)
        STORE(e->late, late | LATE_DOWN);
    else if (event == HEALTH_EVENT_DOWN) /* now its EHLO would be news */
        STORE(e->late, late & (uint8_t)~LATE_DOWN);
}

static void apply_event(struct entry *e, enum health_event event, const struct telling *t)
{
    STORE(e->last_used_ms, t->mono_ms);
    note_lateness(e, event);
    switch (event) {
    case HEALTH_EVENT_SUCCESS:
        on_success(e, t);
        return;
    case HEALTH_EVENT_CARRIED:
        on_carried(e, t);
        return;
    case HEALTH_EVENT_SILENT_LATE:
    case HEALTH_EVENT_SILENT:
        on_silence(e, t);
        break;
    case HEALTH_EVENT_BROKEN_LATE:
    case HEALTH_EVENT_BROKEN:
        demote(e, t);
        break;
    case HEALTH_EVENT_DOWN_LATE:
    case HEALTH_EVENT_DOWN:
        on_refusal(e, HEALTH_DOWN, t);
        break;
    case HEALTH_EVENT_BUSY:
        on_refusal(e, HEALTH_BUSY, t);
        break;
    case HEALTH_EVENT_REFUSING:
        on_refusal(e, HEALTH_REFUSING, t);
        break;
    case HEALTH_EVENT_TLS_BROKEN:
        STORE(e->tls_broken_until_ms, t->mono_ms + t->health->options.tls_broken_ms);
        break;
    }
    restart_runs(e);
    STORE(e->failures, LOAD(e->failures) + 1);
}

struct health_change health_tell(struct health *h, const struct address *a, enum health_event event,
                                 uint64_t mono_ms, uint64_t wall_ms, uint64_t jitter)
{
    struct key k = key_of(h, a);
    if (event ==
        HEALTH_EVENT_CARRIED) { /* one a message: no lock and no write where it says nothing new */
        const struct entry *known = find(h, &k);
        if (known == NULL || LOAD(known->late) == 0) {
            enum health_state same = known == NULL ? HEALTH_HEALTHY : state_of(known);
            return (struct health_change){same, same};
        }
    }
    struct telling t = {h, mono_ms, wall_ms, jitter};
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find_or_make(h, &k, mono_ms);
    struct health_change change = {HEALTH_HEALTHY, HEALTH_HEALTHY};
    if (e != NULL) {
        begin_write(e);
        change.before = state_of(e);
        apply_event(e, event, &t);
        change.now = state_of(e);
        end_write(e);
    }
    pthread_mutex_unlock(lock);
    return change;
}

/* ---- probes, counts, operators ---- */

uint64_t health_claim_probe(struct health *h, const struct address *a, uint64_t mono_ms)
{
    uint64_t claim = 0;
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find(h, &k);
    bool claimed = e != NULL && state_of(e) == HEALTH_DEMOTED && LOAD(e->again_ms) <= mono_ms &&
                   LOAD(e->probe_until_ms) <= mono_ms;
    if (claimed) {
        claim = mono_ms +
                PROBE_LIMIT_MS; /* no other claim ends just then: there is a back-off between two */
        begin_write(e);
        STORE(e->probe_until_ms, claim);
        end_write(e);
    }
    pthread_mutex_unlock(lock);
    return claim;
}

void health_probe_drop(struct health *h, const struct address *a, uint64_t claim)
{
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find(h, &k);
    if (e != NULL && LOAD(e->probe_until_ms) == claim) {
        begin_write(e);
        STORE(e->probe_until_ms, 0);
        end_write(e);
    }
    pthread_mutex_unlock(lock);
}

uint64_t health_mark(const struct health *h, const struct address *a)
{
    uint64_t ip[2];
    memcpy(ip, a->ip, sizeof ip);
    uint64_t hash = mix(mix(ip[0] ^ h->seed) + (ip[1] ^ (h->seed >> 32)));
    return UINT64_C(1) << (hash >> 58) | UINT64_C(1) << (hash >> 52 & 63);
}

void health_count_session(struct health *h, const struct address *a, int change, uint64_t mono_ms)
{
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = change > 0 ? find_or_make(h, &k, mono_ms) : find(h, &k);
    /* An entry with open sessions is never forgotten, so its count comes back to where it was. A
     * session that came when no entry could be made was not counted, and takes nothing off on
     * leaving. */
    if (e != NULL && (change > 0 || LOAD(e->parked) > 0))
        STORE(e->parked, LOAD(e->parked) + (uint32_t)change);
    pthread_mutex_unlock(lock);
}

void health_demote(struct health *h, const struct address *a, uint64_t duration_ms,
                   uint64_t mono_ms, uint64_t wall_ms)
{
    struct key k = key_of(h, a);
    pthread_mutex_t *lock = lock_of(h, &k);
    struct entry *e = find_or_make(h, &k, mono_ms);
    if (e != NULL) {
        begin_write(e);
        move(e, HEALTH_DEMOTED, wall_ms);
        STORE(e->again_ms, mono_ms + duration_ms);
        STORE(e->by_hand, 1);
        STORE(e->probe_until_ms, 0); /* a probe under way does not shorten what an operator said */
        STORE(e->last_used_ms, mono_ms);
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
