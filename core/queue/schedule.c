#include "core/queue/schedule.h"

#include "core/base/assert.h"
#include "core/base/random.h"
#include "core/queue/destination.h"
#include "core/queue/domain_table.h"
#include "core/queue/shares.h"

#include <stdlib.h>

enum {
    LOOK_AGAIN_MS = 60000, /* past the age limit but with a session: when to ask once more */
    RING_FULL_WAIT_MS = 10,
    RELEASED_A_MS = 4,
    EDIT_MESSAGES = 10000, /* looked at, and recipients matched, in one call of schedule_edit */
    EDIT_RECIPIENTS = 1000,
    LOOK_MAX = 64, /* deliveries of a message, for one that a recipient fits */
    RELEASE_BRAKE_MS =
        1000, /* an attempt made: an exchange that comes and goes wears nothing out */
};

struct schedule {
    struct schedule_policy policy;
    struct jobs *jobs;
    struct destination_table *destinations;
    struct suspensions *suspensions;
    void (*on_pushed)(void *context, unsigned count);
    void *context;
    struct random random;
    uint64_t mono_ms, wall_ms; /* as of the last schedule_set_time */
    struct timer_wheel wheel;
    struct domain_table *domains;
    struct shares *shares;         /* what of `recipient_count` is each domain's */
    struct link messages;          /* struct message, by queue_link */
    struct link *edit_next;        /* on `messages`: where the edit under way goes on */
    struct link ready[PRIORITIES]; /* struct delivery, by shared.queue_link: due, waiting for room
                                      in the ring */
    struct link stranded; /* struct domain, by stranded_link; those without any are taken off when
                             they are met */
    uint64_t message_count, recipient_count;
    uint64_t recipients_of[PRIORITIES]; /* the same by class */
};

static void on_timer(struct timer *timer, void *owner);

struct schedule *schedule_create(const struct schedule_options *options, uint64_t mono_ms,
                                 uint64_t wall_ms)
{
    struct schedule *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->policy = options->policy;
    s->jobs = options->jobs;
    s->destinations = options->destinations;
    s->suspensions = options->suspensions;
    s->on_pushed = options->on_pushed;
    s->context = options->context;
    s->mono_ms = mono_ms;
    s->wall_ms = wall_ms;
    random_init_seed(&s->random, options->random_seed);
    timer_wheel_init(&s->wheel, mono_ms, s);
    list_init(&s->messages);
    s->edit_next = &s->messages;
    for (int p = 0; p < PRIORITIES; p++)
        list_init(&s->ready[p]);
    list_init(&s->stranded);
    s->domains = domain_table_create(random_u64(&s->random));
    s->shares = shares_create(random_u64(&s->random));
    if (s->domains != NULL && s->shares != NULL)
        return s;
    if (s->domains != NULL)
        domain_table_destroy(&s->domains);
    shares_destroy(&s->shares);
    free(s);
    return NULL;
}

static void free_delivery(struct schedule *s, struct delivery *d)
{
    timer_disarm(&s->wheel, &d->timer);
    list_remove(&d->message_link);
    if (d->place == PLACE_WAITING)
        list_remove(&d->shared.queue_link);
    domain_table_release(s->domains, d->domain);
    if (d->recipient_count > 1)
        free(d->recipient.many);
    free(d->try_first);
    free(d);
}

static void free_message(struct schedule *s, struct message *m)
{
    ASSERT(list_empty(&m->deliveries));
    if (s->edit_next == &m->queue_link)
        s->edit_next = m->queue_link.next;
    list_remove(&m->queue_link);
    s->message_count--;
    free(m);
}

void schedule_destroy(struct schedule **s)
{
    if (*s == NULL)
        return;
    for (struct link *l; (l = list_pop_front(&(*s)->messages)) != NULL;) {
        struct message *m = CONTAINER_OF(l, struct message, queue_link);
        for (struct link *k; (k = list_pop_front(&m->deliveries)) != NULL;)
            free_delivery(*s, CONTAINER_OF(k, struct delivery, message_link));
        free_message(*s, m);
    }
    domain_table_destroy(&(*s)->domains);
    shares_destroy(&(*s)->shares);
    free(*s);
    *s = NULL;
}

void schedule_set_policy(struct schedule *s, const struct schedule_policy *policy)
{
    s->policy = *policy;
}

/* ---- time ---- */

void schedule_set_time(struct schedule *s, uint64_t mono_ms, uint64_t wall_ms)
{
    s->mono_ms = mono_ms > s->mono_ms ? mono_ms : s->mono_ms;
    s->wall_ms = wall_ms;
}

uint64_t schedule_due_wall_ms(const struct schedule *s, const struct delivery *d)
{
    return s->wall_ms + d->due_mono_ms - s->mono_ms;
}

/* When a stored attempt is due, told by what the wall clock says now. */
static uint64_t due_of_stored(const struct schedule *s, uint64_t due_wall_ms)
{
    uint64_t wait = due_wall_ms > s->wall_ms ? due_wall_ms - s->wall_ms : 0;
    uint64_t longest = s->policy.retry_max_ms / 100 * (100 + s->policy.jitter_percent);
    return s->mono_ms + (wait < longest ? wait : longest);
}

/* The age of what has its last chance before it is returned. */
static uint64_t age_of_last_chance(const struct schedule *s)
{
    uint64_t limit = s->policy.age_limit_ms;
    return limit > SCHEDULE_LAST_CHANCE_MS ? limit - SCHEDULE_LAST_CHANCE_MS : 0;
}

/* When a stored message came, so that it is not older than its last chance allows. */
static int64_t arrival_of_stored(const struct schedule *s, uint64_t arrived_wall_ms)
{
    uint64_t oldest = age_of_last_chance(s);
    uint64_t age = s->wall_ms > arrived_wall_ms ? s->wall_ms - arrived_wall_ms : 0;
    return (int64_t)s->mono_ms - (int64_t)(age < oldest ? age : oldest);
}

/* Whoever lets a message go wants it tried, however long it was held. */
static void give_last_chance(const struct schedule *s, struct message *m)
{
    int64_t oldest = (int64_t)s->mono_ms - (int64_t)age_of_last_chance(s);
    if (atomic_load_explicit(&m->arrived_mono_ms, memory_order_relaxed) < oldest)
        atomic_store_explicit(&m->arrived_mono_ms, oldest, memory_order_relaxed);
}

static uint64_t expiry_of(const struct schedule *s, const struct delivery *d)
{
    int64_t at = atomic_load_explicit(&d->message->arrived_mono_ms, memory_order_relaxed) +
                 (int64_t)s->policy.age_limit_ms;
    return at > 0 ? (uint64_t)at : 0;
}

static bool is_held(const struct delivery *d)
{
    return (d->flags & DELIVERY_HELD) != 0;
}

static bool is_suspended(const struct schedule *s, const struct delivery *d)
{
    return suspensions_hold(s->suspensions, d->domain->name);
}

static void make_ready(struct schedule *s, struct delivery *d)
{
    ASSERT(d->place == PLACE_WAITING);
    timer_disarm(&s->wheel, &d->timer);
    list_remove(&d->shared.queue_link); /* no longer stranded */
    list_push_back(&s->ready[d->message->priority], &d->shared.queue_link);
}

/* For its next attempt or its age limit, whichever is first. */
static void arm(struct schedule *s, struct delivery *d)
{
    uint64_t due = expiry_of(s, d);
    if (d->due_mono_ms < due && !is_suspended(s, d))
        due = d->due_mono_ms;
    if (due <= s->mono_ms)
        make_ready(s, d);
    else
        timer_arm(&s->wheel, &d->timer, due);
}

static void let_wait(struct schedule *s, struct delivery *d)
{
    ASSERT(d->place == PLACE_WAITING);
    list_remove(&d->shared.queue_link);
    if (is_held(d))
        timer_disarm(&s->wheel, &d->timer);
    else
        arm(s, d);
}

static void on_timer(struct timer *timer, void *owner)
{
    struct schedule *s = owner;
    struct delivery *d = CONTAINER_OF(timer, struct delivery, timer);
    switch ((enum delivery_place)d->place) {
    case PLACE_WAITING:
        make_ready(s, d);
        return;
    case PLACE_OUT: /* the age limit, and it is still at the workers */
        if (destination_withdraw(s->destinations, d)) {
            d->place = PLACE_WAITING;
            make_ready(s, d);
        } else {
            timer_arm(&s->wheel, timer, s->mono_ms + LOOK_AGAIN_MS);
        }
        return;
    case PLACE_COMMITTING:
        break;
    }
    ASSERT(false); /* its timer was disarmed when its outcome came */
}

/* Into the ring of this priority, in order, until it is full. */
static unsigned push_ready(struct schedule *s, struct link *ready)
{
    unsigned pushed = 0;
    while (!list_empty(ready)) {
        struct delivery *d = CONTAINER_OF(ready->next, struct delivery, shared.queue_link);
        list_remove(&d->shared.queue_link);
        if (s->mono_ms >= expiry_of(s, d))
            d->flags |= DELIVERY_EXPIRED;
        bool marked = (d->flags & (DELIVERY_EXPIRED | DELIVERY_OPERATOR_BOUNCE)) != 0;
        if (!marked && is_suspended(s, d)) { /* since it became due */
            arm(s, d);
            continue;
        }
        d->place = PLACE_OUT;
        if (!marked)
            timer_arm(&s->wheel, &d->timer, expiry_of(s, d));
        if (!jobs_push(s->jobs, d)) {
            d->place = PLACE_WAITING;
            timer_disarm(&s->wheel, &d->timer);
            list_push_front(ready, &d->shared.queue_link);
            break;
        }
        pushed++;
    }
    return pushed;
}

int schedule_run(struct schedule *s, uint64_t mono_ms, uint64_t wall_ms)
{
    schedule_set_time(s, mono_ms, wall_ms);
    (void)timer_wheel_advance(&s->wheel, s->mono_ms);
    unsigned pushed = push_ready(s, &s->ready[PRIORITY_TRANSACTIONAL]);
    pushed += push_ready(s, &s->ready[PRIORITY_BULK]);
    if (pushed > 0)
        s->on_pushed(s->context, pushed);
    int wait = timer_wheel_wait_ms(&s->wheel, s->mono_ms);
    bool waits =
        !list_empty(&s->ready[PRIORITY_TRANSACTIONAL]) || !list_empty(&s->ready[PRIORITY_BULK]);
    if (waits && (wait < 0 || wait > RING_FULL_WAIT_MS))
        return RING_FULL_WAIT_MS;
    return wait;
}

/* ---- how many there are ---- */

static struct slice name_of(const struct domain *domain)
{
    return slice_of(domain->name, domain->name_len);
}

static void count_in(struct schedule *s, const struct delivery *d)
{
    s->recipient_count += d->recipient_count;
    s->recipients_of[d->message->priority] += d->recipient_count;
    shares_add(s->shares, name_of(d->domain), d->recipient_count);
}

static void count_out(struct schedule *s, const struct delivery *d, uint32_t recipients)
{
    s->recipient_count -= recipients;
    s->recipients_of[d->message->priority] -= recipients;
    if (recipients > 0)
        shares_drop(s->shares, name_of(d->domain), recipients);
}

/* ---- messages come in ---- */

/* What two recipients of one domain must agree on to share a delivery. */
struct standing {
    uint8_t progress;
    uint8_t delay_noticed;
    uint16_t attempts;
    uint64_t due_mono_ms;
    bool has_try_first;
    struct address try_first;
};

static struct standing standing_of(const struct schedule *s, const struct store_state *state)
{
    if (state == NULL)
        return (struct standing){.due_mono_ms = s->mono_ms};
    return (struct standing){.progress = state->progress,
                             .delay_noticed = state->delay_noticed,
                             .attempts = state->attempts,
                             .due_mono_ms = due_of_stored(s, state->due_wall_ms),
                             .has_try_first = state->has_try_first,
                             .try_first = state->try_first};
}

static bool fits(const struct delivery *d, const struct domain *domain, const struct standing *st)
{
    bool held = st->progress == PROGRESS_HELD;
    return d->domain == domain && d->attempts == st->attempts &&
           d->due_mono_ms == st->due_mono_ms && is_held(d) == held &&
           (d->try_first != NULL) == st->has_try_first;
}

static bool add_recipient(struct delivery *d, uint32_t index)
{
    if (d->recipient_count == 0) {
        d->recipient.one = index;
        d->recipient_count = 1;
        return true;
    }
    /* Room doubles at each power of two. */
    uint32_t n = d->recipient_count;
    uint32_t *many = n > 1 ? d->recipient.many : NULL;
    if (n == 1 || (n & (n - 1)) == 0) {
        uint32_t *grown = reallocarray(many, (size_t)n * 2, sizeof *grown);
        if (grown == NULL)
            return false;
        if (n == 1)
            grown[0] = d->recipient.one;
        many = grown;
    }
    many[n] = index;
    d->recipient.many = many;
    d->recipient_count = n + 1;
    return true;
}

static struct delivery *create_delivery(struct message *m, struct domain *domain,
                                        const struct standing *st)
{
    struct delivery *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    if (st->has_try_first && (d->try_first = malloc(sizeof *d->try_first)) == NULL) {
        free(d);
        return NULL;
    }
    if (st->has_try_first)
        *d->try_first = st->try_first;
    d->message = m;
    d->domain = domain;
    d->due_mono_ms = st->due_mono_ms;
    d->attempts = st->attempts;
    d->place = PLACE_WAITING;
    d->flags = (uint8_t)((st->progress == PROGRESS_HELD ? DELIVERY_HELD : 0) |
                         (st->delay_noticed ? DELIVERY_DELAY_NOTICED : 0));
    list_init(&d->shared.queue_link);
    timer_init(&d->timer, on_timer);
    list_push_back(&m->deliveries, &d->message_link);
    return d;
}

/* Where a message that is taken in has its deliveries, by what their recipients agree on: a long
 * list of recipients, at many domains in any order, still makes one delivery for each. A message of
 * few does without. */
struct sorter {
    struct delivery **slots; /* open addressing; NULL: none, or no memory for it */
    size_t mask;
};

static void sorter_init(struct sorter *sorter, uint32_t recipient_count)
{
    *sorter = (struct sorter){NULL, 0};
    if (recipient_count <= LOOK_MAX)
        return;
    size_t slots = 2 * LOOK_MAX;
    while (slots < 2 * (size_t)recipient_count)
        slots *= 2;
    sorter->slots = calloc(slots, sizeof(struct delivery *));
    sorter->mask = slots - 1;
}

/* The slot with the delivery that fits, or that it is to have; NULL: too many others
 * are in its way. */
static struct delivery **slot_of(const struct sorter *sorter, const struct domain *domain,
                                 const struct standing *st)
{
    uint64_t hash = ((uintptr_t)domain + st->due_mono_ms) * UINT64_C(0x9e3779b97f4a7c15);
    size_t at = (size_t)(hash >> 32);
    for (int looked = 0; looked < LOOK_MAX; looked++, at++) {
        struct delivery **slot = &sorter->slots[at & sorter->mask];
        if (*slot == NULL || fits(*slot, domain, st))
            return slot;
    }
    return NULL;
}

/* The newest deliveries are looked at first: recipients of one domain usually stand together. */
static struct delivery *look_back(struct message *m, const struct domain *domain,
                                  const struct standing *st)
{
    int looked = 0;
    for (struct link *l = m->deliveries.prev; l != &m->deliveries && looked < LOOK_MAX;
         l = l->prev, looked++) {
        struct delivery *d = CONTAINER_OF(l, struct delivery, message_link);
        if (fits(d, domain, st))
            return d;
    }
    return NULL;
}

static bool place_recipient(struct schedule *s, struct message *m, struct slice name,
                            uint32_t index, const struct standing *st, struct sorter *sorter)
{
    struct domain *domain = domain_table_acquire(s->domains, name);
    if (domain == NULL)
        return false;
    struct delivery **slot = sorter->slots != NULL ? slot_of(sorter, domain, st) : NULL;
    struct delivery *d = slot != NULL ? *slot : look_back(m, domain, st);
    if (d != NULL) {
        domain_table_release(s->domains, domain);
    } else {
        d = create_delivery(m, domain, st);
        if (d == NULL) {
            domain_table_release(s->domains, domain);
            return false;
        }
    }
    if (!add_recipient(d, index)) {
        if (d->recipient_count == 0)
            free_delivery(s, d);
        return false;
    }
    if (slot != NULL)
        *slot = d;
    m->recipients_left++;
    return true;
}

/* Makes the deliveries for all recipients that are not done with. */
static enum schedule_added place_recipients(
    struct schedule *s, struct message *m, struct slice record, uint32_t recipient_count,
    bool (*state_of)(void *context, uint64_t id, uint32_t recipient, struct store_state *state_out),
    void *context)
{
    enum schedule_added added = SCHEDULE_ADDED;
    struct sorter sorter;
    sorter_init(&sorter, recipient_count);
    for (uint32_t i = 0; i < recipient_count && added == SCHEDULE_ADDED; i++) {
        struct envelope_recipient r;
        struct store_state state;
        bool has_state = state_of != NULL && state_of(context, m->id, i, &state);
        struct standing st = standing_of(s, has_state ? &state : NULL);
        if (st.progress == PROGRESS_DONE)
            continue;
        if (!envelope_decode_recipient(record, i, &r))
            added = SCHEDULE_DAMAGED;
        else if (!place_recipient(s, m, r.domain, i, &st, &sorter))
            added = SCHEDULE_NO_MEMORY;
    }
    free(sorter.slots);
    return added;
}

static void drop_message(struct schedule *s, struct message *m)
{
    for (struct link *k; (k = list_pop_front(&m->deliveries)) != NULL;)
        free_delivery(s, CONTAINER_OF(k, struct delivery, message_link));
    free_message(s, m);
}

enum schedule_added schedule_add(struct schedule *s, uint64_t id, struct slice record,
                                 bool (*state_of)(void *context, uint64_t id, uint32_t recipient,
                                                  struct store_state *state_out),
                                 void *context)
{
    struct envelope e;
    if (!envelope_decode(record, &e))
        return SCHEDULE_DAMAGED;
    struct message *m = calloc(1, sizeof *m);
    if (m == NULL)
        return SCHEDULE_NO_MEMORY;
    m->id = id;
    m->priority = e.priority;
    atomic_init(&m->arrived_mono_ms,
                state_of == NULL ? (int64_t)s->mono_ms : arrival_of_stored(s, e.arrived_wall_ms));
    list_init(&m->deliveries);
    list_push_back(&s->messages, &m->queue_link);
    s->message_count++;
    enum schedule_added added =
        place_recipients(s, m, record, e.recipient_count, state_of, context);
    if (added != SCHEDULE_ADDED) {
        drop_message(s, m);
        return added;
    }
    for (struct link *l = m->deliveries.next; l != &m->deliveries; l = l->next) {
        struct delivery *d = CONTAINER_OF(l, struct delivery, message_link);
        count_in(s, d);
        let_wait(s, d);
    }
    if (m->recipients_left == 0)
        drop_message(s, m);
    return SCHEDULE_ADDED;
}

/* ---- mail that no exchange could be reached for ---- */

static void strand(struct schedule *s, struct delivery *d, uint64_t marks)
{
    if (d->place != PLACE_WAITING || is_held(d) || !list_empty(&d->shared.queue_link))
        return; /* somebody wants otherwise */
    list_push_back(&d->domain->stranded, &d->shared.queue_link);
    if (list_empty(&d->domain->stranded_link)) {
        list_push_back(&s->stranded, &d->domain->stranded_link);
        d->domain->stranded_at = 0;
    }
    d->domain->stranded_at |= marks;
}

/* Lets go what is stranded at this domain, behind `before` others. Returns how many that makes.
 * What is not let go before the exchange fails again goes anew with the next release. */
static uint64_t release_domain(struct schedule *s, struct domain *domain, uint64_t before)
{
    for (struct link *l = domain->stranded.next, *next; l != &domain->stranded; l = next) {
        struct delivery *d = CONTAINER_OF(l, struct delivery, shared.queue_link);
        next = l->next;
        uint64_t due = s->mono_ms + before++ / RELEASED_A_MS + d->attempts * RELEASE_BRAKE_MS;
        if (due < d->due_mono_ms) {
            d->due_mono_ms = due;
            arm(s, d);
        }
    }
    return before;
}

void schedule_release(struct schedule *s, uint64_t mark)
{
    uint64_t released = 0;
    for (struct link *l = s->stranded.next, *next; l != &s->stranded; l = next) {
        struct domain *domain = CONTAINER_OF(l, struct domain, stranded_link);
        next = l->next;
        if (list_empty(&domain->stranded))
            list_remove(&domain->stranded_link);
        else if ((domain->stranded_at & mark) == mark)
            released = release_domain(s, domain, released);
    }
}

/* ---- outcomes ---- */

static uint64_t retry_delay(struct schedule *s, unsigned attempts)
{
    uint64_t delay = s->policy.retry_first_ms;
    for (unsigned i = 0; i < attempts && delay < s->policy.retry_max_ms; i++)
        delay *= 2;
    if (delay > s->policy.retry_max_ms)
        delay = s->policy.retry_max_ms;
    return random_jitter(&s->random, delay, s->policy.jitter_percent);
}

void schedule_plan_outcome(struct schedule *s, struct commit_op *op)
{
    struct delivery *d = op->u.outcome.delivery;
    ASSERT(d->place == PLACE_OUT && op->u.outcome.recipient_count == d->recipient_count);
    timer_disarm(&s->wheel, &d->timer);
    d->place = PLACE_COMMITTING;
    uint32_t finished = 0;
    for (uint32_t i = 0; i < op->u.outcome.recipient_count; i++)
        finished += op->u.outcome.recipients[i].verdict != OUTCOME_DEFERRED;
    ASSERT(finished <= d->message->recipients_left);
    d->message->recipients_left -= finished;
    op->u.outcome.left_in_message = d->message->recipients_left;
    uint64_t delay = retry_delay(s, d->attempts), probe = op->u.outcome.probe_in_ms;
    if (op->u.outcome.recipients[0].reply->code == LOCAL_SUSPENDED)
        delay = 0; /* it is due: what is suspended goes at once when that is over */
    d->due_mono_ms = s->mono_ms + (probe > 0 && probe < delay ? probe : delay);
    op->u.outcome.next_due_wall_ms = schedule_due_wall_ms(s, d);
}

/* Keeps only the deferred recipients. */
static void keep_deferred(struct delivery *d, const struct commit_op *op)
{
    uint32_t kept = 0, last = 0;
    for (uint32_t i = 0; i < op->u.outcome.recipient_count; i++) {
        if (op->u.outcome.recipients[i].verdict != OUTCOME_DEFERRED)
            continue;
        last = op->u.outcome.recipients[i].recipient;
        if (d->recipient_count > 1)
            d->recipient.many[kept] = last;
        kept++;
    }
    if (d->recipient_count > 1 && kept <= 1) {
        free(d->recipient.many);
        d->recipient.one = last;
    }
    d->recipient_count = kept;
}

static void note_try_first(struct delivery *d, const struct commit_op *op)
{
    free(d->try_first);
    d->try_first = NULL;
    if (!op->u.outcome.has_try_first)
        return;
    d->try_first =
        malloc(sizeof *d->try_first); /* without memory for it the usual order is tried */
    if (d->try_first != NULL)
        *d->try_first = op->u.outcome.try_first;
}

void schedule_apply_outcome(struct schedule *s, const struct commit_op *op)
{
    struct delivery *d = op->u.outcome.delivery;
    struct message *m = d->message;
    ASSERT(d->place == PLACE_COMMITTING);
    uint32_t before = d->recipient_count;
    keep_deferred(d, op);
    count_out(s, d, before - d->recipient_count);
    if (d->recipient_count == 0) {
        free_delivery(s, d);
        if (list_empty(&m->deliveries))
            free_message(s, m);
        return;
    }
    d->place = PLACE_WAITING;
    if (d->attempts < UINT16_MAX)
        d->attempts++;
    bool was_expired = (d->flags & DELIVERY_EXPIRED) != 0;
    d->flags &= (uint8_t) ~(DELIVERY_EXPIRED | DELIVERY_OPERATOR_BOUNCE);
    if (op->u.outcome.delay_noticed)
        d->flags |= DELIVERY_DELAY_NOTICED;
    d->flags |= d->wanted;
    d->wanted = 0;
    note_try_first(d, op);
    if ((d->flags & DELIVERY_OPERATOR_BOUNCE) != 0)
        make_ready(s, d);
    else if (was_expired && !is_held(d)) /* it could not even be returned: not again at once */
        timer_arm(&s->wheel, &d->timer, d->due_mono_ms);
    else
        let_wait(s, d);
    if (op->u.outcome.stranded_at != 0)
        strand(s, d, op->u.outcome.stranded_at);
}

/* ---- an operator's wishes ---- */

static bool matches(const struct delivery *d, const struct commit_op *op)
{
    if (op->u.edit.id != 0)
        return d->message->id == op->u.edit.id;
    return op->u.edit.domain[0] == '\0' || strcmp(d->domain->name, op->u.edit.domain) == 0;
}

/* True where the stored state changes now. */
static bool edit_waiting(struct schedule *s, struct delivery *d, enum commit_edit edit)
{
    switch (edit) {
    case EDIT_HOLD: /* also what was to be returned: the last word counts */
        d->flags = (uint8_t)((d->flags & ~DELIVERY_OPERATOR_BOUNCE) | DELIVERY_HELD);
        let_wait(s, d);
        return true;
    case EDIT_RELEASE:
        if (!is_held(d))
            return false;
        d->flags &= (uint8_t) ~(DELIVERY_HELD | DELIVERY_EXPIRED);
        d->due_mono_ms = s->mono_ms;
        give_last_chance(s, d->message);
        let_wait(s, d);
        return true;
    case EDIT_RETRY:
        if (is_held(d))
            return false;
        d->due_mono_ms = s->mono_ms;
        let_wait(s, d);
        return true;
    case EDIT_BOUNCE:
        d->flags = (uint8_t)((d->flags & ~DELIVERY_HELD) | DELIVERY_OPERATOR_BOUNCE);
        make_ready(s, d);
        return false; /* its outcome will be the change */
    case EDIT_SUSPENSION:
        if (!is_held(d) && (d->flags & DELIVERY_OPERATOR_BOUNCE) == 0)
            arm(s, d);
        return false; /* it stands elsewhere */
    }
    ASSERT(false);
}

static void edit_out(struct delivery *d, enum commit_edit edit)
{
    switch (edit) {
    case EDIT_HOLD:
        d->wanted = DELIVERY_HELD;
        return;
    case EDIT_BOUNCE:
        d->wanted = DELIVERY_OPERATOR_BOUNCE;
        return;
    case EDIT_RELEASE:
        d->wanted = 0;
        return;
    case EDIT_RETRY:      /* it is being tried */
    case EDIT_SUSPENSION: /* or told as it comes to a destination */
        return;
    }
}

/* Returns how many recipients of the message match. */
static uint64_t edit_message(struct schedule *s, struct message *m, const struct commit_op *op,
                             void (*on_touched)(void *context, const struct delivery *d),
                             void *context)
{
    uint64_t matched = 0;
    enum commit_edit edit = op->u.edit.edit;
    for (struct link *k = m->deliveries.next; k != &m->deliveries; k = k->next) {
        struct delivery *d = CONTAINER_OF(k, struct delivery, message_link);
        if (!matches(d, op))
            continue;
        matched += d->recipient_count;
        bool unwanted = edit == EDIT_HOLD || edit == EDIT_BOUNCE ||
                        (edit == EDIT_SUSPENSION && is_suspended(s, d));
        bool take_back = d->place == PLACE_OUT && unwanted;
        if (take_back && destination_withdraw(s->destinations, d)) {
            d->place = PLACE_WAITING;
            timer_disarm(&s->wheel, &d->timer);
        }
        if (d->place != PLACE_WAITING)
            edit_out(d, edit);
        else if (edit_waiting(s, d, edit))
            on_touched(context, d);
    }
    return matched;
}

bool schedule_edit(struct schedule *s, struct commit_op *op,
                   void (*on_touched)(void *context, const struct delivery *d), void *context)
{
    uint64_t id = op->u.edit.id, matched = 0;
    if (!op->u.edit.begun)
        s->edit_next = s->messages.next;
    op->u.edit.begun = true;
    for (unsigned n = 0; n < EDIT_MESSAGES && matched < EDIT_RECIPIENTS; n++) {
        if (s->edit_next == &s->messages)
            break;
        struct message *m = CONTAINER_OF(s->edit_next, struct message, queue_link);
        s->edit_next = m->queue_link.next;
        if (id != 0 && m->id != id)
            continue;
        matched += edit_message(s, m, op, on_touched, context);
        if (id != 0)
            s->edit_next = &s->messages;
    }
    op->u.edit.matched += matched;
    return s->edit_next == &s->messages;
}

uint64_t schedule_messages(const struct schedule *s)
{
    return s->message_count;
}

uint64_t schedule_recipients(const struct schedule *s)
{
    return s->recipient_count;
}

uint64_t schedule_recipients_of(const struct schedule *s, enum envelope_priority priority)
{
    return s->recipients_of[priority];
}

uint64_t schedule_recipients_at(const struct schedule *s, struct slice domain)
{
    return shares_of(s->shares, domain);
}
