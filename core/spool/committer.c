#include "core/spool/committer.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/thread.h"
#include "core/queue/schedule.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

enum {
    BATCH_OPS_MAX = 2048,
    BATCH_BYTES_MAX = 32 << 20, /* content in one transaction: bounds its memory and its time */
    TIGHT_OPS_MAX = 128, /* where there is no room for new mail: what the store's reserve holds */
    TIGHT_BYTES_MAX = 4 << 20,
    STATE_BYTES = 512, /* what a recipient who is put off may take */
    FORGET_MARKS_MAX = 1000,
    NAP_US = 150, /* a fraction of what a commit takes on a fast disk */
    NAPS_MAX = 6,
    TIMER_SLACK_NS = 1000, /* the kernel's default, 50 us, would make a nap a third longer */
    OUTCOME_WAIT_MS = 5,   /* what a crash meanwhile sends a second time is bounded by it */
    GAIN_ONE = 16,         /* a message gained, in the fixed point of `gain` */
    PROBE_EVERY = 32,      /* batches without a nap, then one to see whether it would pay */
    NO_ROOM_WAIT_MS = 100, /* before what cannot be refused is written once more */
    NO_ROOM_TRIES = 50,
    MISSED_MAX = 8192, /* messages that are stored but not in the schedule, for want of memory */
    MISSED_WAIT_MS = 50,
    LOAD_MS = 5, /* of taking in the store's queue, before other work has its turn */
};

/* Ops that share a transaction; or several, one part after the other, where there is no room for
 * all at once. */
struct batch {
    struct commit_op *ops[BATCH_OPS_MAX];
    unsigned count;
    unsigned first, end; /* the part that is to be committed now */
    uint64_t bytes;      /* of content, envelopes and what is noted of recipients */
    bool sparing;        /* there is no room even for outcomes: plain deferrals are not noted */
};

struct committer {
    struct committer_options options;
    struct mailbox mailbox; /* its owner is the committer */
    struct store_reader *reader;
    pthread_t thread;
    bool stopping;
    bool failed;                                    /* the store has: final */
    struct commit_op *arrived_first, *arrived_last; /* not yet in a batch, linked by mail.next */
    unsigned arrived;                               /* how many those are */
    unsigned arrived_content;                       /* of them, what a submitter waits for */
    unsigned gain;               /* ops that a nap has brought lately: a moving average */
    unsigned since_nap;          /* batches */
    bool loading;                /* the store's queue is not all taken in */
    uint64_t loaded_id, last_id; /* of it: taken in so far, and to be */
    struct batch batch;          /* the one under way */
    unsigned missed_count;
    uint64_t missed_again_ms; /* monotonic: when to try again */
    uint64_t missed[MISSED_MAX];
    struct commit_op *edits_first, *edits_last; /* to be carried out, linked by mail.next */
    struct {
        _Atomic uint64_t commits, messages, outcomes, messages_queued, recipients_queued,
            transactional_queued;
        struct histogram commit_times;
    } shared; /* written by the thread, read by any (relaxed) */
};

/* ---- ops come in and go back ---- */

static bool brings_content(const struct commit_op *op)
{
    return op->kind == COMMIT_MESSAGE || op->kind == COMMIT_CHUNK || op->kind == COMMIT_RECEIPT;
}

static void append_op(struct commit_op **first, struct commit_op **last, struct commit_op *op)
{
    op->mail.next = NULL;
    if (*last != NULL)
        (*last)->mail.next = &op->mail;
    else
        *first = op;
    *last = op;
}

static struct commit_op *pop_op(struct commit_op **first, struct commit_op **last)
{
    struct commit_op *op = *first;
    struct mail *next = op->mail.next;
    *first = next != NULL ? CONTAINER_OF(next, struct commit_op, mail) : NULL;
    if (next == NULL)
        *last = NULL;
    return op;
}

static void on_op(struct mail *mail, void *owner)
{
    struct committer *c = owner;
    struct commit_op *op = CONTAINER_OF(mail, struct commit_op, mail);
    if (op->kind == COMMIT_EDIT) {
        append_op(&c->edits_first, &c->edits_last, op);
        return;
    }
    append_op(&c->arrived_first, &c->arrived_last, op);
    c->arrived++;
    c->arrived_content += brings_content(op);
}

void committer_submit(struct committer *c, struct commit_op **op)
{
    struct mail *mail = &(*op)->mail;
    mail->on_arrival = on_op;
    *op = NULL;
    mailbox_post(&c->mailbox, &mail);
}

static void answer(struct committer *c, struct commit_op *op)
{
    struct mail *mail = &op->mail;
    mail->next = NULL;
    mail->on_arrival = op->on_done;
    if (op->reply_to != NULL)
        mailbox_post(op->reply_to, &mail);
    else
        op->on_done(mail, c);
}

/* ---- one batch ---- */

static uint64_t bytes_of(const struct commit_op *op)
{
    const struct commit_message *m = NULL;
    if (op->kind == COMMIT_MESSAGE || op->kind == COMMIT_CHUNK)
        m = &op->u.message;
    else if (op->kind == COMMIT_OUTCOME)
        m = op->u.outcome.generated;
    uint64_t bytes = op->kind == COMMIT_OUTCOME ? op->u.outcome.recipient_count * STATE_BYTES : 0;
    for (; m != NULL; m = m->next)
        bytes += m->chunk.len + m->envelope.len;
    return bytes;
}

static void gather(struct committer *c, struct batch *b)
{
    bool tight = !store_has_room(c->options.store);
    unsigned ops_max = tight ? TIGHT_OPS_MAX : BATCH_OPS_MAX;
    uint64_t bytes_max = tight ? TIGHT_BYTES_MAX : BATCH_BYTES_MAX;
    b->count = b->first = 0;
    b->bytes = 0;
    b->sparing = false;
    while (c->arrived_first != NULL && b->count < ops_max && b->bytes < bytes_max) {
        struct commit_op *op = pop_op(&c->arrived_first, &c->arrived_last);
        c->arrived--;
        c->arrived_content -= brings_content(op);
        b->bytes += bytes_of(op);
        op->status = STORE_OK;
        b->ops[b->count++] = op;
    }
}

static enum store_status put_message(struct store *store, const struct commit_message *m)
{
    enum store_status status = STORE_OK;
    if (m->chunk.len > 0)
        status = store_put_chunk(store, m->id, m->chunk_number, m->chunk);
    if (status == STORE_OK && m->envelope.len == 0) /* the first of them may have been refused */
        status = store_put_unfinished(store, m->id);
    if (status == STORE_OK && m->envelope.len > 0)
        status = store_put_envelope(store, m->id, m->envelope);
    if (status == STORE_OK && m->receipt != NULL)
        status = store_put_mark(store, m->receipt, m->id);
    return status;
}

static struct store_state state_after(const struct commit_op *op, uint32_t i)
{
    const struct delivery *d = op->u.outcome.delivery;
    const struct outcome_recipient *r = &op->u.outcome.recipients[i];
    struct store_state s = {
        .progress = r->verdict == OUTCOME_DEFERRED ? PROGRESS_WAITING : PROGRESS_DONE,
        .delay_noticed = (d->flags & DELIVERY_DELAY_NOTICED) != 0 || op->u.outcome.delay_noticed,
        .attempts = (uint16_t)(d->attempts < UINT16_MAX ? d->attempts + 1 : UINT16_MAX),
        .due_wall_ms = op->u.outcome.next_due_wall_ms,
        .has_try_first = op->u.outcome.has_try_first,
        .try_first = op->u.outcome.try_first,
        .last = *r->reply};
    if (s.progress == PROGRESS_WAITING && (d->wanted & DELIVERY_HELD) != 0)
        s.progress = PROGRESS_HELD;
    if (op->u.outcome.exchange != NULL)
        (void)slice_to_cstr(
            slice_take(slice_str(op->u.outcome.exchange), sizeof s.last_exchange - 1),
            s.last_exchange, sizeof s.last_exchange);
    return s;
}

/* That it was put off is known in memory. A start without a record of it tries it anew, and sooner:
 * which harms nobody, unless more was to be remembered. */
static bool can_be_spared(const struct commit_op *op, uint32_t i)
{
    return op->u.outcome.recipients[i].verdict == OUTCOME_DEFERRED &&
           !op->u.outcome.has_try_first && !op->u.outcome.delay_noticed &&
           (op->u.outcome.delivery->wanted & DELIVERY_HELD) == 0;
}

static enum store_status put_outcome(struct store *store, const struct commit_op *op, bool sparing)
{
    uint64_t id = op->u.outcome.delivery->message->id;
    enum store_status status = STORE_OK;
    if (op->u.outcome.left_in_message == 0) {
        status = store_remove(store, id);
    } else {
        for (uint32_t i = 0; i < op->u.outcome.recipient_count && status == STORE_OK; i++) {
            if (sparing && can_be_spared(op, i))
                continue;
            struct store_state s = state_after(op, i);
            status = store_put_state(store, id, op->u.outcome.recipients[i].recipient, &s);
        }
    }
    for (const struct commit_message *m = op->u.outcome.generated; m != NULL && status == STORE_OK;
         m = m->next)
        status = put_message(store, m);
    return status;
}

/* What an edit touches, as the store must know it. */
struct edit_context {
    struct committer *committer;
    enum store_status status;
};

static void put_edited(void *context, const struct delivery *d)
{
    struct edit_context *e = context;
    const uint32_t *indexes = delivery_recipients(d);
    for (uint32_t i = 0; i < d->recipient_count && e->status == STORE_OK; i++) {
        struct store_state s = {0};
        struct store_reader *reader = e->committer->reader;
        if (store_read_begin(reader)) {
            if (!store_get_state(reader, d->message->id, indexes[i], &s))
                s = (struct store_state){.attempts = d->attempts};
            store_read_end(reader);
        }
        s.progress = (d->flags & DELIVERY_HELD) != 0 ? PROGRESS_HELD : PROGRESS_WAITING;
        s.due_wall_ms = schedule_due_wall_ms(e->committer->options.schedule, d);
        e->status = store_put_state(e->committer->options.store, d->message->id, indexes[i], &s);
    }
}

static enum store_status put_op(struct committer *c, struct commit_op *op, bool sparing)
{
    switch (op->kind) {
    case COMMIT_MESSAGE:
    case COMMIT_CHUNK:
        return put_message(c->options.store, &op->u.message);
    case COMMIT_RECEIPT:
        return store_put_receipt(c->options.store, &op->u.receipt.receipt);
    case COMMIT_FORGET:
        return store_forget_receipt(c->options.store, &op->u.receipt.receipt, FORGET_MARKS_MAX,
                                    &op->u.receipt.more);
    case COMMIT_DISCARD:
        return store_remove(c->options.store, op->u.discard_id);
    case COMMIT_OUTCOME:
        return put_outcome(c->options.store, op, sparing);
    case COMMIT_RELEASE:
        return STORE_OK;
    case COMMIT_EDIT: /* has transactions of its own */
        break;
    }
    ASSERT(false);
}

/* Writes and commits what of the part is still marked STORE_OK. */
static enum store_status write_part(struct committer *c, const struct batch *b)
{
    struct store *store = c->options.store;
    enum store_status status = store_begin(store);
    for (unsigned i = b->first; i < b->end && status == STORE_OK; i++)
        if (b->ops[i]->status == STORE_OK)
            status = put_op(c, b->ops[i], b->sparing);
    if (status != STORE_OK) {
        store_abort(store);
        return status;
    }
    return store_commit(store);
}

/* Of this part and all behind it. */
static unsigned refuse_content(struct batch *b)
{
    unsigned refused = 0;
    for (unsigned i = b->first; i < b->count; i++)
        if (b->ops[i]->status == STORE_OK && brings_content(b->ops[i])) {
            b->ops[i]->status = STORE_NO_ROOM;
            refused++;
        }
    return refused;
}

/* Makes the part so small that what the store keeps behind its pages holds it. False: it is. */
static bool make_tight(struct batch *b)
{
    unsigned end = b->first, ops = 0;
    uint64_t bytes = 0;
    for (; end < b->end && ops < TIGHT_OPS_MAX && bytes < TIGHT_BYTES_MAX; end++)
        if (b->ops[end]->status == STORE_OK) {
            bytes += bytes_of(b->ops[end]);
            ops++;
        }
    bool smaller = end < b->end;
    b->end = end;
    return smaller;
}

/* New mail is refused first: outcomes free room, and what was accepted stays. What cannot be
 * refused goes in smaller parts, each of which frees room for the next. Then what can be spared is
 * not written, and what is left waits a little for whoever else uses up the room. */
static enum store_status commit_part(struct committer *c, struct batch *b)
{
    const struct timespec pause = {.tv_nsec = NO_ROOM_WAIT_MS * 1000000L};
    enum store_status status = write_part(c, b);
    for (int tries = 0; status == STORE_NO_ROOM && tries < NO_ROOM_TRIES; tries++) {
        if (refuse_content(b) == 0 && !make_tight(b)) {
            if (b->sparing)
                (void)nanosleep(&pause, NULL);
            b->sparing = true;
        }
        status = write_part(c, b);
    }
    return status == STORE_OK ? STORE_OK : STORE_FAILED;
}

static void add_figure(_Atomic uint64_t *figure, uint64_t n)
{
    atomic_fetch_add_explicit(figure, n, memory_order_relaxed);
}

static void tell_damaged(struct committer *c, uint64_t id)
{
    if (c->options.on_damaged != NULL)
        c->options.on_damaged(c->options.context, id);
}

/* What became of taking a stored message into the schedule. Without memory for it, it is tried
 * again, and no new mail is taken meanwhile. */
static void note_added(struct committer *c, uint64_t id, enum schedule_added added)
{
    bool missed = added == SCHEDULE_NO_MEMORY && c->missed_count < MISSED_MAX;
    if (missed) {
        c->missed[c->missed_count++] = id;
        c->missed_again_ms = clock_mono_ms() + MISSED_WAIT_MS;
    } else if (added != SCHEDULE_ADDED) {
        tell_damaged(c, id); /* the next start finds it */
    }
}

static void enqueue(struct committer *c, const struct commit_message *m)
{
    note_added(c, m->id, schedule_add(c->options.schedule, m->id, m->envelope, NULL, NULL));
    add_figure(&c->shared.messages, 1);
}

/* The batch is durable: the queue in memory follows, in the same order. */
static void apply(struct committer *c, const struct commit_op *op)
{
    if (op->status != STORE_OK)
        return;
    if (op->kind == COMMIT_MESSAGE) {
        enqueue(c, &op->u.message);
    } else if (op->kind == COMMIT_OUTCOME) {
        schedule_apply_outcome(c->options.schedule, op);
        for (const struct commit_message *m = op->u.outcome.generated; m != NULL; m = m->next)
            if (m->envelope.len > 0)
                enqueue(c, m);
        add_figure(&c->shared.outcomes, 1);
    } else if (op->kind == COMMIT_RELEASE) {
        schedule_release(c->options.schedule, op->u.release_mark);
    }
}

static void fail(struct committer *c, const char *what)
{
    c->failed = true;
    c->loading = false;
    c->options.on_fatal(c->options.context, what);
}

static void fail_writing(struct committer *c)
{
    struct error error;
    store_explain(c->options.store, &error);
    fail(c, error.text);
}

static void publish_lengths(struct committer *c)
{
    const struct schedule *s = c->options.schedule;
    atomic_store_explicit(&c->shared.messages_queued, schedule_messages(s), memory_order_relaxed);
    atomic_store_explicit(&c->shared.recipients_queued, schedule_recipients(s),
                          memory_order_relaxed);
    atomic_store_explicit(&c->shared.transactional_queued,
                          schedule_recipients_of(s, PRIORITY_TRANSACTIONAL), memory_order_relaxed);
}

static void run_part(struct committer *c, struct batch *b)
{
    uint64_t began_us = clock_mono_us();
    if (!c->failed && commit_part(c, b) != STORE_OK)
        fail_writing(c);
    if (!c->failed) {
        add_figure(&c->shared.commits, 1);
        histogram_note(&c->shared.commit_times, clock_mono_us() - began_us, 1);
    }
    for (unsigned i = b->first; i < b->end; i++) {
        if (c->failed)
            b->ops[i]->status = STORE_FAILED;
        else
            apply(c, b->ops[i]);
        answer(c, b->ops[i]);
    }
}

/* Outcomes are planned all together: each counts those of its message that stand before it, in
 * whichever part. */
static void run_batch(struct committer *c, struct batch *b)
{
    struct store *store = c->options.store;
    schedule_set_time(c->options.schedule, clock_mono_ms(), clock_wall_ms());
    for (unsigned i = 0; i < b->count && !c->failed; i++)
        if (b->ops[i]->kind == COMMIT_OUTCOME)
            schedule_plan_outcome(c->options.schedule, b->ops[i]);
    if (!c->failed &&
        (!store_has_room(store) || !store_reserve(store, b->bytes) || c->missed_count > 0))
        (void)refuse_content(b);
    bool tight = false;
    for (b->first = 0; b->first < b->count; b->first = b->end) {
        b->end = b->count;
        if (tight)
            (void)make_tight(b);
        run_part(c, b);
        tight = b->end < b->count;
    }
    publish_lengths(c);
}

/* ---- an operator's edits ---- */

/* A suspension stands elsewhere, and writes nothing here: no want of room stops it halfway. */
static enum store_status edit_part(struct committer *c, struct commit_op *op, bool *done_out)
{
    struct store *store = c->options.store;
    if (op->u.edit.edit == EDIT_SUSPENSION) {
        *done_out = schedule_edit(c->options.schedule, op, put_edited, NULL);
        return STORE_OK;
    }
    struct edit_context context = {.committer = c, .status = store_begin(store)};
    if (context.status == STORE_OK)
        *done_out = schedule_edit(c->options.schedule, op, put_edited, &context);
    if (context.status == STORE_OK)
        return store_commit(store);
    store_abort(store);
    return context.status;
}

/* A part of the oldest edit. Where the store has no room for it, the operator is told; what was
 * matched so far may then stand as wished until the next start. */
static void edit_some(struct committer *c)
{
    struct commit_op *op = c->edits_first;
    bool done = false;
    enum store_status status = c->failed ? STORE_FAILED : edit_part(c, op, &done);
    if (status == STORE_FAILED && !c->failed)
        fail_writing(c);
    if (!done && status == STORE_OK)
        return;
    op->status = status;
    (void)pop_op(&c->edits_first, &c->edits_last);
    answer(c, op);
}

/* ---- the queue as the last process left it ---- */

static bool load_state(void *context, uint64_t id, uint32_t recipient, struct store_state *out)
{
    return store_get_state(context, id, recipient, out);
}

/* Takes in some of it, of one snapshot: a long one keeps pages from reuse. What is submitted
 * meanwhile has higher ids. */
static void load_some(struct committer *c)
{
    uint64_t until = clock_mono_ms() + LOAD_MS;
    struct slice record;
    struct error error;
    if (!store_read_begin(c->reader)) {
        fail(c, "the spool's queue cannot be read");
        return;
    }
    do {
        c->loading = store_next_envelope(c->reader, c->loaded_id, &c->loaded_id, &record) &&
                     c->loaded_id <= c->last_id;
        if (c->loading)
            note_added(
                c, c->loaded_id,
                schedule_add(c->options.schedule, c->loaded_id, record, load_state, c->reader));
    } while (c->loading && clock_mono_ms() < until);
    bool damaged = !c->loading && store_ended_early(c->reader);
    store_read_end(c->reader);
    if (damaged) { /* what lies behind it must not be forgotten in silence */
        store_explain_damage(c->options.store, c->loaded_id, &error);
        fail(c, error.text);
    }
    publish_lengths(c);
}

/* Memory may be back for what was missed. */
static void take_missed(struct committer *c)
{
    struct slice record;
    uint64_t now = clock_mono_ms();
    if (c->missed_count == 0 || now < c->missed_again_ms || !store_read_begin(c->reader))
        return;
    c->missed_again_ms = now + MISSED_WAIT_MS;
    while (c->missed_count > 0) {
        uint64_t id = c->missed[c->missed_count - 1];
        enum schedule_added added = SCHEDULE_DAMAGED;
        if (store_get_envelope(c->reader, id, &record))
            added = schedule_add(c->options.schedule, id, record, load_state, c->reader);
        if (added == SCHEDULE_NO_MEMORY)
            break;
        c->missed_count--;
        note_added(c, id, added);
    }
    store_read_end(c->reader);
    publish_lengths(c);
}

/* ---- the thread ---- */

/* There is work besides what arrives. */
static bool is_busy(const struct committer *c)
{
    return c->loading || c->edits_first != NULL;
}

static void sleep_until_mail(struct committer *c, int wait_ms)
{
    if (!mailbox_prepare_sleep(&c->mailbox))
        return;
    struct pollfd fd = {.fd = c->mailbox.event_fd, .events = POLLIN};
    (void)poll(&fd, 1, wait_ms);
    mailbox_awake(&c->mailbox);
}

/* Sleeps so long that more may arrive, and takes it in; returns what of it a submitter
 * waits for. */
static unsigned nap(struct committer *c)
{
    const struct timespec t = {.tv_nsec = NAP_US * 1000};
    unsigned before = c->arrived_content;
    (void)nanosleep(&t, NULL); /* awake for its senders: none of them writes the eventfd */
    (void)mailbox_deliver(&c->mailbox);
    return c->arrived_content - before;
}

/* As many messages as are worth waiting for: half of those who may send one. More would leave too
 * few at work meanwhile; with fewer, the syncs rather than the submitters set the pace. */
static unsigned enough(const struct committer *c)
{
    return c->options.submitters != NULL ? atomic_load(c->options.submitters) / 2 : 0;
}

/* A moment for more messages to arrive, as long as each nap brings one: one sync serves them all.
 * Where only one submitter is at work it brings none, and soon nobody waits any more. */
static void await_others(struct committer *c)
{
    unsigned wanted = enough(c), naps = 0, gained = 0, last;
    if (c->gain < GAIN_ONE / 2 && ++c->since_nap < PROBE_EVERY)
        return;
    c->since_nap = 0;
    do {
        last = nap(c);
        gained += last;
    } while (c->arrived_content < wanted && last > 0 && ++naps < NAPS_MAX);
    c->gain += (gained < GAIN_ONE ? gained : GAIN_ONE) * (GAIN_ONE / 8) - c->gain / 8;
}

/* Nobody waits for an outcome, and the next message's sync is its too: it waits for
 * that a little. */
static void await_message(struct committer *c)
{
    uint64_t until = clock_mono_ms() + OUTCOME_WAIT_MS, now;
    while (c->arrived_content == 0 && !c->stopping && (now = clock_mono_ms()) < until) {
        sleep_until_mail(c, (int)(until - now));
        (void)mailbox_deliver(&c->mailbox);
    }
}

static void linger(struct committer *c)
{
    if (c->arrived == 0 || c->stopping || c->failed || is_busy(c))
        return;
    if (c->arrived_content > 0)
        await_others(c);
    else
        await_message(c);
}

static void *run(void *context)
{
    struct committer *c = context;
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
    for (;;) {
        take_missed(c);
        if (c->loading)
            load_some(c);
        else if (c->edits_first != NULL)
            edit_some(c);
        int wait =
            c->failed ? -1 : schedule_run(c->options.schedule, clock_mono_ms(), clock_wall_ms());
        if (c->missed_count > 0 && (wait < 0 || wait > MISSED_WAIT_MS))
            wait = MISSED_WAIT_MS;
        if (!c->stopping && c->arrived == 0 && !is_busy(c))
            sleep_until_mail(c, wait);
        (void)mailbox_deliver(&c->mailbox);
        linger(c);
        gather(c, &c->batch);
        if (c->batch.count > 0)
            run_batch(c, &c->batch);
        else if (c->stopping && c->edits_first == NULL)
            break;
    }
    return NULL;
}

struct committer *committer_start(const struct committer_options *options, struct error *error)
{
    struct committer *c = calloc(1, sizeof *c);
    if (c == NULL) {
        error_set(error, "out of memory for the committer");
        return NULL;
    }
    c->options = *options;
    c->reader = store_reader_create(options->store);
    if (c->reader == NULL || mailbox_init(&c->mailbox, c) != 0) {
        error_set(error, "the committer cannot start: out of memory, spool readers or descriptors");
        store_reader_destroy(&c->reader);
        free(c);
        return NULL;
    }
    if (!store_last_id(options->store, &c->last_id)) {
        store_explain_damage(options->store, 0, error);
        store_reader_destroy(&c->reader);
        mailbox_fini(&c->mailbox);
        free(c);
        return NULL;
    }
    load_some(c);
    int rc = thread_start(&c->thread, "committer", run, c);
    if (rc != 0) {
        error_set(error, "the committer cannot start its thread: %s", strerrordesc_np(rc));
        store_reader_destroy(&c->reader);
        mailbox_fini(&c->mailbox);
        free(c);
        return NULL;
    }
    return c;
}

static void on_stop(struct mail *mail, void *owner)
{
    (void)mail;
    struct committer *c = owner;
    c->stopping = true;
}

void committer_stop(struct committer **c)
{
    if (*c == NULL)
        return;
    struct mail stop = {.on_arrival = on_stop};
    struct mail *mail = &stop;
    mailbox_post(&(*c)->mailbox, &mail);
    int rc = pthread_join((*c)->thread, NULL);
    ASSERT(rc == 0);
    store_reader_destroy(&(*c)->reader);
    mailbox_fini(&(*c)->mailbox);
    free(*c);
    *c = NULL;
}

/* ---- reload, figures ---- */

struct policy_mail {
    struct mail mail;
    struct schedule_policy policy;
};

static void on_policy(struct mail *mail, void *owner)
{
    struct committer *c = owner;
    struct policy_mail *p = CONTAINER_OF(mail, struct policy_mail, mail);
    schedule_set_policy(c->options.schedule, &p->policy);
    free(p);
}

bool committer_set_policy(struct committer *c, const struct schedule_policy *policy)
{
    struct policy_mail *p = malloc(sizeof *p);
    if (p == NULL)
        return false;
    *p = (struct policy_mail){.mail.on_arrival = on_policy, .policy = *policy};
    struct mail *mail = &p->mail;
    mailbox_post(&c->mailbox, &mail);
    return true;
}

struct committer_figures committer_figures(const struct committer *c)
{
    return (struct committer_figures){
        .commits = atomic_load_explicit(&c->shared.commits, memory_order_relaxed),
        .messages = atomic_load_explicit(&c->shared.messages, memory_order_relaxed),
        .outcomes = atomic_load_explicit(&c->shared.outcomes, memory_order_relaxed),
        .messages_queued = atomic_load_explicit(&c->shared.messages_queued, memory_order_relaxed),
        .recipients_queued =
            atomic_load_explicit(&c->shared.recipients_queued, memory_order_relaxed),
        .transactional_queued =
            atomic_load_explicit(&c->shared.transactional_queued, memory_order_relaxed)};
}

uint64_t committer_recipients_at(const struct committer *c, const char *domain)
{
    return schedule_recipients_at(c->options.schedule, slice_str(domain));
}

void committer_commit_times(const struct committer *c, struct histogram_reading *sum)
{
    histogram_read(&c->shared.commit_times, sum);
}
