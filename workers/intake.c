#include "workers/intake.h"

#include "core/base/clock.h"
#include "core/base/memory.h"

#include <stdlib.h>
#include <unistd.h>

enum {
    RECIPIENT_BYTES = 300, /* of memory, that a queued recipient takes at most */
    SHARE_LOG_MS = 60000,
};

struct intake {
    struct store *store;
    struct committer *committer;
    int memory_fd;
    enum intake_state logged;      /* main thread; likewise: */
    uint64_t logged_recipients;    /* of `refused_recipients` */
    uint64_t logged_recipients_ms; /* when, monotonic; 0: never */
    struct {
        _Atomic(enum intake_state) phase;   /* OPEN, STARTING, FAILED or DRAINING */
        _Atomic(enum intake_state) pressed; /* OPEN, MEMORY or QUEUE_FULL, as of the last refresh */
        _Atomic uint64_t memory_max, messages_max, recipients_max;
        _Atomic uint64_t memory_bytes, allocated_bytes;
        _Atomic uint64_t since_mono_ms;
        _Alignas(64) _Atomic uint64_t refused, refused_recipients; /* others write them often */
    } shared; /* written by the main thread, save `phase` and what is refused; read by any */
};

/* ---- the table ---- */

static const struct smtp_refusal *replies(void)
{
    static const struct smtp_refusal table[] = {
#define X(name, word, code, enhanced, text) {code, enhanced, text},
        INTAKE_STATES(X)
#undef X
    };
    return table;
}

const struct smtp_refusal *intake_reply(enum intake_state state)
{
    return &replies()[state];
}

const char *intake_word(enum intake_state state)
{
    static const char *const words[] = {
#define X(name, word, code, enhanced, text) word,
        INTAKE_STATES(X)
#undef X
    };
    return words[state];
}

/* ---- its life ---- */

struct intake *intake_create(const struct intake_limits *limits)
{
    size_t size = (sizeof(struct intake) + 63) / 64 * 64;
    struct intake *i = aligned_alloc(64, size);
    if (i == NULL)
        return NULL;
    memset(i, 0, size);
    i->memory_fd = memory_open();
    i->logged = INTAKE_STARTING;
    atomic_init(&i->shared.phase, INTAKE_STARTING);
    atomic_init(&i->shared.since_mono_ms, clock_mono_ms());
    intake_set_limits(i, limits);
    return i;
}

void intake_destroy(struct intake **i)
{
    if (*i == NULL)
        return;
    if ((*i)->memory_fd >= 0)
        (void)close((*i)->memory_fd);
    free(*i);
    *i = NULL;
}

void intake_open(struct intake *i, struct store *store, struct committer *committer)
{
    i->store = store;
    i->committer = committer;
    atomic_store(&i->shared.phase, INTAKE_OPEN);
}

void intake_close(struct intake *i)
{
    atomic_store(&i->shared.phase, INTAKE_STARTING);
}

void intake_drain(struct intake *i)
{
    enum intake_state open = INTAKE_OPEN;
    (void)atomic_compare_exchange_strong(&i->shared.phase, &open, INTAKE_DRAINING);
}

void intake_fail(struct intake *i)
{
    atomic_store(&i->shared.phase, INTAKE_FAILED);
}

void intake_set_limits(struct intake *i, const struct intake_limits *limits)
{
    atomic_store(&i->shared.memory_max, limits->memory_bytes);
    atomic_store(&i->shared.messages_max, limits->messages);
    atomic_store(&i->shared.recipients_max, limits->recipients);
}

/* ---- judging ---- */

static uint64_t load(const _Atomic uint64_t *figure)
{
    return atomic_load_explicit(figure, memory_order_relaxed);
}

/* Has it reached its limit, or is it, having reached it, not 5 % below it yet? */
static bool is_over(uint64_t used, uint64_t max, bool was_over)
{
    return max > 0 && used >= (was_over ? max - max / 20 : max);
}

static bool is_full(const struct intake *i, bool was_full)
{
    struct committer_figures f = committer_figures(i->committer);
    return is_over(f.messages_queued, load(&i->shared.messages_max), was_full) ||
           is_over(f.recipients_queued, load(&i->shared.recipients_max), was_full);
}

enum intake_state intake_state(const struct intake *i)
{
    enum intake_state phase = atomic_load(&i->shared.phase);
    if (phase != INTAKE_OPEN)
        return phase;
    if (!store_has_room(i->store))
        return INTAKE_NO_ROOM;
    enum intake_state pressed = atomic_load_explicit(&i->shared.pressed, memory_order_relaxed);
    if (pressed != INTAKE_OPEN)
        return pressed;
    return is_full(i, false) ? INTAKE_QUEUE_FULL : INTAKE_OPEN;
}

/* ---- a domain's share ---- */

static const struct smtp_refusal share_reply = {
    452, "4.3.1",
    "The queue is nearly full and has its share of mail for this domain, try again later"};

static uint64_t left_of(uint64_t used, uint64_t max)
{
    return max > used ? max - used : 0;
}

/* The least of `share` and of INTAKE_SHARE times what is left, where a recipient takes
 * so much of it. */
static double lesser_share(double share, uint64_t left, double each)
{
    double other = (double)INTAKE_SHARE * (double)left;
    return other < share * each ? other / each : share;
}

/* How many recipients a domain may have queued, of so many that are. UINT64_MAX: any number. */
static uint64_t share_of(const struct intake *i, const struct committer_figures *f)
{
    uint64_t recipients_max = load(&i->shared.recipients_max);
    uint64_t messages_max = load(&i->shared.messages_max);
    uint64_t memory_max = load(&i->shared.memory_max);
    double all = (double)f->recipients_queued, share = all;
    if (f->recipients_queued == 0)
        return UINT64_MAX;
    if (recipients_max > 0)
        share = lesser_share(share, left_of(f->recipients_queued, recipients_max), 1);
    if (messages_max > 0)
        share = lesser_share(share, left_of(f->messages_queued, messages_max),
                             (double)f->messages_queued / all);
    if (memory_max > 0)
        share = lesser_share(share, left_of(load(&i->shared.memory_bytes), memory_max),
                             RECIPIENT_BYTES);
    share = lesser_share(share, store_left(i->store), (double)store_used(i->store) / all);
    return share < all ? (uint64_t)share : UINT64_MAX;
}

const struct smtp_refusal *intake_refuse_domain(struct intake *i, const char *domain)
{
    if (atomic_load(&i->shared.phase) != INTAKE_OPEN)
        return NULL; /* that is said of the whole message */
    struct committer_figures f = committer_figures(i->committer);
    uint64_t share = share_of(i, &f);
    if (share == UINT64_MAX || committer_recipients_at(i->committer, domain) <= share)
        return NULL;
    atomic_fetch_add_explicit(&i->shared.refused_recipients, 1, memory_order_relaxed);
    return &share_reply;
}

/* ---- memory, and what is logged ---- */

/* What the allocator only keeps is given back before mail is refused for it. */
static bool lacks_memory(struct intake *i, bool was_over)
{
    uint64_t max = load(&i->shared.memory_max);
    struct memory_figures m = memory_read(i->memory_fd);
    if (is_over(m.anonymous_bytes, max, was_over)) {
        memory_give_back();
        m = memory_read(i->memory_fd);
    }
    atomic_store(&i->shared.memory_bytes, m.anonymous_bytes);
    atomic_store(&i->shared.allocated_bytes, m.allocated_bytes);
    return is_over(m.anonymous_bytes, max, was_over);
}

static void log_state(const struct intake *i, struct log *log, enum intake_state state)
{
    struct intake_view v = intake_view(i);
    struct log_line line;
    log_begin(&line, log, "intake");
    log_cstr(&line, "state", intake_word(state));
    log_cstr(&line, "text", intake_reply(state)->text);
    log_u64(&line, "memory_bytes", v.memory_bytes);
    log_u64(&line, "messages_queued", v.messages);
    log_u64(&line, "recipients_queued", v.recipients);
    log_u64(&line, "disk_free_bytes", v.disk_free_bytes);
    log_end(&line);
}

/* Once a minute at most, while there is something new to say. */
static void log_shares(struct intake *i, struct log *log)
{
    uint64_t now = clock_mono_ms(), refused = load(&i->shared.refused_recipients);
    struct log_line line;
    if (refused == i->logged_recipients ||
        (i->logged_recipients_ms != 0 && now < i->logged_recipients_ms + SHARE_LOG_MS))
        return;
    log_begin(&line, log, "intake_share");
    log_cstr(&line, "text", share_reply.text);
    log_u64(&line, "recipients_refused", refused - i->logged_recipients);
    log_end(&line);
    i->logged_recipients = refused;
    i->logged_recipients_ms = now;
}

void intake_refresh(struct intake *i, struct log *log)
{
    if (atomic_load(&i->shared.phase) != INTAKE_STARTING) {
        enum intake_state was = atomic_load(&i->shared.pressed), pressed = INTAKE_OPEN;
        if (lacks_memory(i, was == INTAKE_MEMORY))
            pressed = INTAKE_MEMORY;
        else if (is_full(i, was == INTAKE_QUEUE_FULL))
            pressed = INTAKE_QUEUE_FULL;
        atomic_store(&i->shared.pressed, pressed);
    }
    log_shares(i, log);
    enum intake_state state = intake_state(i);
    if (state == i->logged)
        return;
    i->logged = state;
    atomic_store(&i->shared.since_mono_ms, clock_mono_ms());
    log_state(i, log, state);
}

/* ---- looking ---- */

struct intake_view intake_view(const struct intake *i)
{
    struct intake_view v = {.state = intake_state(i),
                            .since_ms = clock_mono_ms() - atomic_load(&i->shared.since_mono_ms),
                            .refused = load(&i->shared.refused),
                            .refused_recipients = load(&i->shared.refused_recipients),
                            .share = UINT64_MAX,
                            .limits = {.memory_bytes = load(&i->shared.memory_max),
                                       .messages = load(&i->shared.messages_max),
                                       .recipients = load(&i->shared.recipients_max)},
                            .memory_bytes = load(&i->shared.memory_bytes),
                            .allocated_bytes = load(&i->shared.allocated_bytes)};
    if (v.state == INTAKE_STARTING)
        return v;
    struct committer_figures f = committer_figures(i->committer);
    v.messages = f.messages_queued;
    v.recipients = f.recipients_queued;
    v.share = share_of(i, &f);
    store_disk(i->store, &v.disk_free_bytes, &v.disk_floor_bytes);
    return v;
}

void intake_count_refusals(struct intake *i, unsigned count)
{
    if (count > 0)
        atomic_fetch_add_explicit(&i->shared.refused, count, memory_order_relaxed);
}
