#include "tests/sim/sim_spool.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_trail.h"

#include <stdlib.h>

enum { RECORD_MAX = 1 << 20, CONTENT_MAX = 8 << 20, COMMIT_US_MAX = 20000 };

static struct {
    struct schedule *schedule;
    struct sim_message *messages;
    struct sim_totals totals;
    unsigned pending;
    uint64_t last_commit_us;
} spool;

struct store_reader {
    bool reading;
};

/* ---- the books ---- */

struct sim_message *sim_messages(void)
{
    return spool.messages;
}

unsigned sim_commits_pending(void)
{
    return spool.pending;
}

struct sim_totals sim_spool_totals(void)
{
    return spool.totals;
}

static struct sim_message *find(uint64_t id)
{
    for (struct sim_message *m = spool.messages; m != NULL; m = m->next)
        if (m->id == id)
            return m;
    return NULL;
}

void sim_spool_reset(struct schedule *schedule)
{
    while (spool.messages != NULL) {
        struct sim_message *m = spool.messages;
        spool.messages = m->next;
        buf_fini(&m->record);
        buf_fini(&m->content);
        free(m->recipients);
        free(m);
    }
    spool.schedule = schedule;
    spool.totals = (struct sim_totals){0};
    spool.pending = 0;
    spool.last_commit_us = 0;
}

static struct sim_message *store(struct slice record, struct slice content)
{
    struct sim_message *m = calloc(1, sizeof *m);
    ASSERT(m != NULL);
    buf_init(&m->record, RECORD_MAX);
    buf_init(&m->content, CONTENT_MAX);
    buf_append(&m->record, record);
    buf_append(&m->content, content);
    bool sound = envelope_decode(buf_slice(&m->record), &m->envelope);
    ASSERT(sound);
    ASSERT(buf_ok(&m->content));
    m->id = m->envelope.id;
    m->recipients = calloc(m->envelope.recipient_count, sizeof *m->recipients);
    ASSERT(m->recipients != NULL && find(m->id) == NULL);
    m->next = spool.messages;
    spool.messages = m;
    spool.totals.messages++;
    spool.totals.recipients += m->envelope.recipient_count;
    bool added =
        schedule_add(spool.schedule, m->id, buf_slice(&m->record), NULL, NULL) == SCHEDULE_ADDED;
    ASSERT(added);
    return m;
}

struct sim_message *sim_spool_add(const struct envelope *e, struct slice content)
{
    struct buf record;
    buf_init(&record, RECORD_MAX);
    envelope_encode(e, &record);
    ASSERT(buf_ok(&record));
    struct sim_message *m = store(buf_slice(&record), content);
    buf_fini(&record);
    return m;
}

/* ---- the committer ---- */

static void note_verdict(struct sim_message *m, const struct commit_op *op,
                         const struct outcome_recipient *v)
{
    struct sim_recipient *r = &m->recipients[v->recipient];
    ASSERT(v->recipient < m->envelope.recipient_count);
    ASSERT(r->end == SIM_WAITING);                /* one end each */
    ASSERT(v->reply->code != LOCAL_NO_RESOURCES); /* nothing is ever wanting here */
    sim_trail_note("verdict", m->id << 32 | v->recipient,
                   slice_of(v->reply->text, strlen(v->reply->text)));
    r->attempts++;
    r->state.attempts = (uint16_t)r->attempts;
    r->state.last = *v->reply;
    if (v->reply->code == LOCAL_UNKNOWN_OUTCOME) {
        ASSERT(v->verdict == OUTCOME_DEFERRED);
        r->was_unknown = true;
        spool.totals.unknown++;
    }
    if (v->verdict == OUTCOME_DEFERRED) {
        r->state.due_wall_ms = op->u.outcome.next_due_wall_ms;
        spool.totals.deferrals++;
        return;
    }
    r->end = v->verdict == OUTCOME_DELIVERED ? SIM_DELIVERED : SIM_BOUNCED;
    r->ended_us = sim_now_us();
    *(r->end == SIM_DELIVERED ? &spool.totals.delivered : &spool.totals.bounced) += 1;
}

static void commit_outcome(struct commit_op *op)
{
    ASSERT(op->kind == COMMIT_OUTCOME); /* nothing else comes from the delivering half */
    struct sim_message *m = find(op->u.outcome.delivery->message->id);
    ASSERT(m != NULL);
    schedule_set_time(spool.schedule, clock_mono_ms(), clock_wall_ms());
    schedule_plan_outcome(spool.schedule, op);
    for (uint32_t i = 0; i < op->u.outcome.recipient_count; i++)
        note_verdict(m, op, &op->u.outcome.recipients[i]);
    schedule_apply_outcome(spool.schedule, op);
    for (const struct commit_message *n = op->u.outcome.generated; n != NULL; n = n->next) {
        ASSERT(!m->is_notice || m->envelope.sender.len > 0); /* never a bounce of a bounce */
        store(n->envelope, n->chunk)->is_notice = true;
        spool.totals.notices++;
    }
}

static void on_commit(void *context, uint64_t unused)
{
    (void)unused;
    struct commit_op *op = context;
    spool.pending--;
    if (op->kind == COMMIT_RELEASE)
        schedule_release(spool.schedule, op->u.release_mark);
    else
        commit_outcome(op);
    op->status = STORE_OK;
    op->mail.on_arrival = op->on_done;
    struct mail *mail = &op->mail;
    mailbox_post(op->reply_to, &mail);
}

void committer_submit(struct committer *c, struct commit_op **op)
{
    (void)c;
    if ((*op)->kind == COMMIT_RELEASE)
        sim_trail_note("release", (*op)->u.release_mark, SLICE_LIT(""));
    uint64_t at = sim_now_us() + random_below(sim_random(), COMMIT_US_MAX);
    if (at < spool.last_commit_us)
        at = spool.last_commit_us;
    spool.last_commit_us = at;
    spool.pending++;
    sim_after(at - sim_now_us(), on_commit, *op, 0);
    *op = NULL;
}

/* ---- the store ---- */

struct store_reader *store_reader_create(struct store *s)
{
    (void)s;
    return calloc(1, sizeof(struct store_reader));
}

void store_reader_destroy(struct store_reader **r)
{
    ASSERT(!(*r)->reading);
    free(*r);
    *r = NULL;
}

bool store_read_begin(struct store_reader *r)
{
    ASSERT(!r->reading);
    r->reading = true;
    return true;
}

void store_read_end(struct store_reader *r)
{
    ASSERT(r->reading);
    r->reading = false;
}

bool store_get_envelope(struct store_reader *r, uint64_t id, struct slice *record_out)
{
    ASSERT(r->reading);
    const struct sim_message *m = find(id);
    if (m != NULL)
        *record_out = buf_slice(&m->record);
    return m != NULL;
}

bool store_get_chunk(struct store_reader *r, uint64_t id, uint32_t chunk, struct slice *bytes_out)
{
    ASSERT(r->reading);
    const struct sim_message *m = find(id);
    if (m == NULL)
        return false;
    *bytes_out = slice_take(slice_skip(buf_slice(&m->content), (size_t)chunk * STORE_CHUNK_BYTES),
                            STORE_CHUNK_BYTES);
    return true;
}

bool store_get_state(struct store_reader *r, uint64_t id, uint32_t recipient,
                     struct store_state *state_out)
{
    ASSERT(r->reading);
    const struct sim_message *m = find(id);
    if (m == NULL || m->recipients[recipient].attempts == 0)
        return false;
    *state_out = m->recipients[recipient].state;
    return true;
}

bool store_has_room(struct store *s)
{
    (void)s;
    return true;
}

uint64_t store_left(struct store *s)
{
    (void)s;
    return UINT64_MAX;
}

uint64_t store_used(const struct store *s)
{
    (void)s;
    return 0;
}

void store_disk(const struct store *s, uint64_t *free_bytes_out, uint64_t *floor_bytes_out)
{
    (void)s;
    *free_bytes_out = UINT64_MAX;
    *floor_bytes_out = 0;
}

struct committer_figures committer_figures(const struct committer *c)
{
    (void)c;
    return (struct committer_figures){0};
}

uint64_t committer_recipients_at(const struct committer *c, const char *domain)
{
    (void)c;
    return schedule_recipients_at(spool.schedule, slice_str(domain));
}
