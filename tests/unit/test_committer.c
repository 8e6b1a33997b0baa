/* The committer: what arrives during one commit shares the next, and whatever stands together in a
 * batch, the spool holds afterwards what the queue in memory holds. */
#include "core/spool/committer.h"

#include "core/base/clock.h"
#include "tests/unit/queue_fixture.h"
#include "tests/unit/spool_fixture.h"

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum {
    ID = 42,
    BATCH = 50,
    HOUR = 3600000,
    RING = 4096,
    MANY = 1500, /* messages, */
    CHUNK_BYTES = 6000,
    TIGHT_MAP = 20 << 20, /* and a map that holds them and a third as many */
};

/* One stored message for one recipient, whose delivery is out; and the committer's thread stopped
 * at a gate, so that what is submitted next stands in one batch. */
struct world {
    char path[64];
    struct store *store;
    struct queue queue;
    struct delivery *delivery;
    bool may_fail;
    struct error fatal; /* what was said then */
    sem_t pushed, at_gate, open_gate, done;
};

/* An op of these tests; it comes back on the committer's thread. */
struct op {
    struct commit_op op;
    struct world *world;
};

static void await(sem_t *event)
{
    while (sem_wait(event) != 0)
        continue;
}

static void on_pushed(void *context, unsigned count)
{
    struct world *w = context;
    while (count-- > 0)
        (void)sem_post(&w->pushed);
}

static void on_fatal(void *context, const char *what)
{
    struct world *w = context;
    if (!w->may_fail)
        fail_msg("%s", what);
    (void)snprintf(w->fatal.text, sizeof w->fatal.text, "%s", what);
    (void)sem_post(&w->done);
}

static void on_done(struct mail *mail, void *owner)
{
    (void)owner;
    (void)sem_post(&CONTAINER_OF(mail, struct op, op.mail)->world->done);
}

static void on_gate(struct mail *mail, void *owner)
{
    (void)owner;
    struct world *w = CONTAINER_OF(mail, struct op, op.mail)->world;
    (void)sem_post(&w->at_gate);
    await(&w->open_gate);
}

static void submit(struct world *w, struct op *op)
{
    struct commit_op *gone = &op->op;
    op->world = w;
    if (gone->on_done == NULL)
        gone->on_done = on_done;
    committer_submit(w->queue.committer, &gone);
    assert_null(gone);
}

static void store_one(struct world *w, uint64_t id)
{
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, id, clock_wall_ms(), (const char *const[]){"a@x.example", NULL});
    assert_int_equal(store_begin(w->store), STORE_OK);
    assert_int_equal(store_put_envelope(w->store, id, buf_slice(&record)), STORE_OK);
    assert_int_equal(store_commit(w->store), STORE_OK);
    buf_fini(&record);
}

static void start(struct world *w)
{
    const struct schedule_options schedule = {.policy = {.retry_first_ms = HOUR,
                                                         .retry_max_ms = HOUR,
                                                         .age_limit_ms = UINT64_C(100) * HOUR},
                                              .on_pushed = on_pushed,
                                              .context = w,
                                              .random_seed = 1};
    queue_create(&w->queue, RING, schedule, clock_mono_ms(), clock_wall_ms());
    queue_start_committer(&w->queue, (struct committer_options){
                                         .store = w->store, .on_fatal = on_fatal, .context = w});
}

static const char chunk[CHUNK_BYTES];

/* More messages behind the first, each with content. */
static void store_many(struct world *w)
{
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, ID, clock_wall_ms(), (const char *const[]){"a@x.example", NULL});
    for (uint64_t id = ID + 1; id < ID + MANY; id++) {
        if ((id - ID) % BATCH == 1)
            assert_int_equal(store_begin(w->store), STORE_OK);
        assert_int_equal(store_put_envelope(w->store, id, buf_slice(&record)), STORE_OK);
        assert_int_equal(store_put_chunk(w->store, id, 0, slice_of(chunk, sizeof chunk)), STORE_OK);
        if ((id - ID) % BATCH == 0 || id == ID + MANY - 1)
            assert_int_equal(store_commit(w->store), STORE_OK);
    }
    buf_fini(&record);
}

static struct world *create_with(uint64_t map_bytes, bool many)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    make_spool_path(w->path);
    w->store = open_spool(w->path, map_bytes, 0);
    bool made = sem_init(&w->pushed, 0, 0) == 0 && sem_init(&w->at_gate, 0, 0) == 0 &&
                sem_init(&w->open_gate, 0, 0) == 0 && sem_init(&w->done, 0, 0) == 0;
    assert_true(made);
    store_one(w, ID);
    if (many)
        store_many(w);
    start(w);
    await(&w->pushed);
    w->delivery = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_non_null(w->delivery);
    return w;
}

static struct world *create(void)
{
    return create_with(128 << 20, false);
}

static void destroy(struct world *w)
{
    queue_destroy(&w->queue);
    store_close(&w->store);
    remove_spool(w->path);
    free(w);
}

/* From here on what is submitted waits, and is one batch when the gate opens. */
static void close_gate(struct world *w, struct op *gate)
{
    *gate = (struct op){.op = {.kind = COMMIT_DISCARD, .u.discard_id = 1, .on_done = on_gate}};
    submit(w, gate);
    await(&w->at_gate);
}

static void open_gate(struct world *w, unsigned ops)
{
    (void)sem_post(&w->open_gate);
    for (unsigned i = 0; i < ops; i++)
        await(&w->done);
}

static struct op outcome_of(struct world *w, struct outcome_recipient *recipient)
{
    return (struct op){
        .op = {
            .kind = COMMIT_OUTCOME,
            .u.outcome = {.delivery = w->delivery, .recipients = recipient, .recipient_count = 1}}};
}

static bool stored_state(const struct world *w, struct store_state *out)
{
    struct store_reader *r = store_reader_create(w->store);
    assert_true(store_read_begin(r));
    bool found = store_get_state(r, ID, 0, out);
    store_read_end(r);
    store_reader_destroy(&r);
    return found;
}

static const struct reply later = {.code = 450, .class = 4};

static void what_arrives_during_a_commit_shares_the_next_one(void **state)
{
    (void)state;
    struct world *w = create();
    struct op gate, ops[BATCH];
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, ID, clock_wall_ms(), (const char *const[]){"a@x.example", NULL});
    close_gate(w, &gate);
    uint64_t before = committer_figures(w->queue.committer).commits;
    for (unsigned i = 0; i < BATCH; i++) {
        ops[i] = (struct op){.op = {.kind = COMMIT_MESSAGE,
                                    .u.message = {.id = ID + 1 + i,
                                                  .envelope = buf_slice(&record),
                                                  .chunk = SLICE_LIT("x\r\n")}}};
        submit(w, &ops[i]);
    }
    open_gate(w, BATCH);
    for (unsigned i = 0; i < BATCH; i++) {
        assert_int_equal(ops[i].op.status, STORE_OK);
        await(&w->pushed);
    }
    assert_int_equal(committer_figures(w->queue.committer).commits, before + 1);
    assert_int_equal(jobs_length(w->queue.jobs), BATCH);
    queue_destroy(&w->queue);
    uint64_t last;
    assert_true(store_last_id(w->store, &last));
    assert_int_equal(last, ID + BATCH);
    start(w); /* all are there again */
    for (unsigned i = 0; i < BATCH + 1; i++)
        await(&w->pushed);
    buf_fini(&record);
    destroy(w);
}

static void a_hold_is_stored_whatever_its_place_in_the_batch_of_an_outcome(void **state)
{
    (void)state;
    for (int hold_first = 0; hold_first < 2; hold_first++) {
        struct world *w = create();
        struct op gate,
            hold = {.op = {.kind = COMMIT_EDIT, .u.edit = {.edit = EDIT_HOLD, .id = ID}}};
        struct outcome_recipient r = {.verdict = OUTCOME_DEFERRED, .reply = &later};
        struct op outcome = outcome_of(w, &r);
        close_gate(w, &gate);
        submit(w, hold_first ? &hold : &outcome);
        submit(w, hold_first ? &outcome : &hold);
        open_gate(w, 2);
        assert_int_equal(hold.op.status, STORE_OK);
        assert_int_equal(hold.op.u.edit.matched, 1);
        assert_int_equal(outcome.op.status, STORE_OK);
        struct store_state stored;
        assert_true(stored_state(w, &stored));
        assert_int_equal(stored.progress, PROGRESS_HELD);
        assert_int_equal(stored.attempts, 1);
        assert_true((w->delivery->flags & DELIVERY_HELD) != 0);
        destroy(w);
    }
}

static void a_finished_message_leaves_and_its_notice_comes_in_one_commit(void **state)
{
    (void)state;
    struct world *w = create();
    struct op gate;
    struct buf record;
    struct slice stored;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, ID + 1, clock_wall_ms(), (const char *const[]){"s@y.example", NULL});
    struct commit_message notice = {
        .id = ID + 1, .envelope = buf_slice(&record), .chunk = SLICE_LIT("sorry\r\n")};
    struct outcome_recipient r = {.verdict = OUTCOME_BOUNCED, .reply = &later};
    struct op outcome = outcome_of(w, &r);
    outcome.op.u.outcome.generated = &notice;
    close_gate(w, &gate);
    uint64_t before = committer_figures(w->queue.committer).commits;
    submit(w, &outcome);
    open_gate(w, 1);
    await(&w->pushed);
    assert_int_equal(committer_figures(w->queue.committer).commits, before + 1);
    struct store_reader *reader = store_reader_create(w->store);
    assert_true(store_read_begin(reader));
    assert_false(store_get_envelope(reader, ID, &stored));
    assert_true(store_get_envelope(reader, ID + 1, &stored));
    assert_true(store_get_chunk(reader, ID + 1, 0, &stored));
    store_read_end(reader);
    store_reader_destroy(&reader);
    buf_fini(&record);
    destroy(w);
}

/* Outcomes of one message each, every one of which is returned with so much content. */
/* As where there was no room for the first of them, and the process died before it could give
 * up the second. */
static void a_later_chunk_alone_is_gone_at_the_next_start(void **state)
{
    (void)state;
    struct world *w = create();
    struct slice bytes;
    struct op later_chunk = {.op = {.kind = COMMIT_CHUNK,
                                    .u.message = {.id = ID + 1,
                                                  .chunk = slice_of(chunk, sizeof chunk),
                                                  .chunk_number = 1}}};
    submit(w, &later_chunk);
    await(&w->done);
    assert_int_equal(later_chunk.op.status, STORE_OK);
    queue_destroy(&w->queue);
    store_close(&w->store);
    w->store = open_spool(w->path, 128 << 20, 0);
    struct store_reader *r = store_reader_create(w->store);
    assert_true(store_read_begin(r));
    assert_false(store_get_chunk(r, ID + 1, 1, &bytes));
    store_read_end(r);
    store_reader_destroy(&r);
    destroy(w);
}

static void bounces_count_in_what_a_transaction_may_hold(void **state)
{
    (void)state;
    enum { OUTCOMES = 3, CONTENT_BYTES = 17 << 20 }; /* two of them are more than the bound */
    struct world *w = create();
    struct op gate, outcomes[OUTCOMES];
    struct commit_message notices[OUTCOMES];
    struct outcome_recipient r = {.verdict = OUTCOME_BOUNCED, .reply = &later};
    char *content = calloc(1, CONTENT_BYTES);
    struct buf record;
    assert_non_null(content);
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    queue_destroy(&w->queue);
    for (uint64_t id = ID + 1; id < ID + OUTCOMES; id++)
        store_one(w, id);
    start(w);
    encode_envelope(&record, ID, clock_wall_ms(), (const char *const[]){"s@y.example", NULL});
    for (unsigned i = 0; i < OUTCOMES; i++) {
        await(&w->pushed);
        w->delivery = jobs_take(w->queue.jobs, &w->queue.turn);
        notices[i] = (struct commit_message){.id = ID + OUTCOMES + i,
                                             .envelope = buf_slice(&record),
                                             .chunk = slice_of(content, CONTENT_BYTES)};
        outcomes[i] = outcome_of(w, &r);
        outcomes[i].op.u.outcome.generated = &notices[i];
    }
    close_gate(w, &gate);
    uint64_t before = committer_figures(w->queue.committer).commits;
    for (unsigned i = 0; i < OUTCOMES; i++)
        submit(w, &outcomes[i]);
    open_gate(w, OUTCOMES);
    assert_int_equal(committer_figures(w->queue.committer).commits, before + 2);
    assert_int_equal(committer_figures(w->queue.committer).messages, OUTCOMES);
    buf_fini(&record);
    free(content);
    destroy(w);
}

/* As many as are not taken in at once. */
enum { LONG = 50000 };

static void store_long(struct world *w)
{
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    assert_int_equal(store_begin(w->store), STORE_OK);
    for (uint64_t id = ID + 1; id < ID + LONG; id++) {
        buf_clear(&record);
        encode_envelope(&record, id, clock_wall_ms(), (const char *const[]){"a@x.example", NULL});
        assert_int_equal(store_put_envelope(w->store, id, buf_slice(&record)), STORE_OK);
    }
    assert_int_equal(store_commit(w->store), STORE_OK);
    buf_fini(&record);
}

static void a_long_queue_is_taken_in_beside_new_mail_each_message_once(void **state)
{
    (void)state;
    struct world *w = create();
    bool *seen = calloc(LONG + 1, sizeof *seen);
    struct op message;
    struct buf record;
    queue_destroy(&w->queue);
    store_long(w);
    start(w);
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, ID + LONG, clock_wall_ms(),
                    (const char *const[]){"a@x.example", NULL});
    message = (struct op){.op = {.kind = COMMIT_MESSAGE,
                                 .u.message = {.id = ID + LONG, .envelope = buf_slice(&record)}}};
    submit(w, &message);
    for (unsigned i = 0; i < LONG + 1; i++) {
        await(&w->pushed);
        struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(d);
        assert_false(seen[d->message->id - ID]);
        seen[d->message->id - ID] = true;
    }
    await(&w->done);
    assert_int_equal(message.op.status, STORE_OK);
    assert_int_equal(committer_figures(w->queue.committer).recipients_queued, LONG + 1);
    buf_fini(&record);
    free(seen);
    destroy(w);
}

/* LMDB's pages, as far as this test goes: a header of 16 bytes, whose bytes 10 and 11 say what the
 * page is, then offsets of two bytes each to its nodes. A branch page's node begins with the number
 * of the page below it. */
enum {
    PAGE = 4096,
    PAGE_KIND_AT = 10,
    PAGE_IS_BRANCH = 1,
    PAGE_OFFSETS_AT = 16,
    FIRST_DATA_PAGE = 2
};

/* A page of messages is lost: what leads to it leads out of the file. Only the table of
 * envelopes has branch pages. */
static void lose_a_page(const char *spool)
{
    char path[80];
    unsigned char page[PAGE];
    unsigned lost = 0;
    (void)snprintf(path, sizeof path, "%s/data.mdb", spool);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    for (long at = (long)FIRST_DATA_PAGE * PAGE;
         fseek(file, at, SEEK_SET) == 0 && fread(page, sizeof page, 1, file) == 1; at += PAGE) {
        if (page[PAGE_KIND_AT] != PAGE_IS_BRANCH || page[PAGE_KIND_AT + 1] != 0)
            continue;
        long node = page[PAGE_OFFSETS_AT + 2] | page[PAGE_OFFSETS_AT + 3] << 8;
        assert_true(fseek(file, at + node, SEEK_SET) == 0 &&
                    fwrite("\xff\xff\xff", 3, 1, file) == 1);
        lost++;
    }
    assert_int_equal(fclose(file), 0);
    assert_true(lost > 0);
}

static void a_queue_that_cannot_be_read_to_its_end_is_not_taken_for_a_short_one(void **state)
{
    (void)state;
    struct world *w = create();
    struct buf record;
    queue_destroy(&w->queue);
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, ID, clock_wall_ms(), (const char *const[]){"a@x.example", NULL});
    assert_int_equal(store_begin(w->store), STORE_OK);
    for (uint64_t id = ID + 1; id < ID + MANY; id++)
        assert_int_equal(store_put_envelope(w->store, id, buf_slice(&record)), STORE_OK);
    assert_int_equal(store_commit(w->store), STORE_OK);
    buf_fini(&record);
    store_close(&w->store);
    lose_a_page(w->path);
    w->store = open_spool(w->path, 128 << 20, 0);
    w->may_fail = true;
    start(w);
    await(&w->done);
    assert_non_null(strstr(w->fatal.text, w->path));
    assert_non_null(strstr(w->fatal.text, "cannot be read behind message 00000000000000"));
    destroy(w);
}

static void an_edit_reaches_all_of_a_queue_that_is_still_being_taken_in(void **state)
{
    (void)state;
    struct world *w = create();
    queue_destroy(&w->queue);
    store_long(w);
    start(w);
    struct op hold = {.op = {.kind = COMMIT_EDIT, .u.edit = {.edit = EDIT_HOLD}}};
    submit(w, &hold);
    await(&w->done);
    assert_int_equal(hold.op.status, STORE_OK);
    assert_int_equal(hold.op.u.edit.matched, LONG);
    unsigned held = 0;
    struct store_state s;
    struct store_reader *r = store_reader_create(w->store);
    assert_true(store_read_begin(r));
    for (uint64_t id = ID; id < ID + LONG; id++)
        held += store_get_state(r, id, 0, &s) && s.progress == PROGRESS_HELD;
    store_read_end(r);
    store_reader_destroy(&r);
    assert_in_range(held, LONG - RING, LONG); /* what is out is stored with its outcome */
    destroy(w);
}

enum {
    CROWD = 60,
    CROWDS = 150,
    SMALL_MAP = 10 << 20
}; /* recipients of a message; such messages */

static void store_crowds(struct world *w)
{
    static char addresses[CROWD][16];
    const char *recipients[CROWD + 1] = {NULL};
    for (unsigned i = 0; i < CROWD; i++) {
        (void)snprintf(addresses[i], sizeof addresses[i], "a%u@x.example", i);
        recipients[i] = addresses[i];
    }
    assert_int_equal(store_begin(w->store), STORE_OK);
    for (uint64_t id = ID; id < ID + CROWDS; id++) {
        struct buf record;
        buf_init(&record, ENVELOPE_ENCODED_MAX);
        encode_envelope(&record, id, clock_wall_ms(), recipients);
        assert_int_equal(store_put_envelope(w->store, id, buf_slice(&record)), STORE_OK);
        buf_fini(&record);
    }
    assert_int_equal(store_commit(w->store), STORE_OK);
}

/* Content, until no more of it is taken. */
static void fill_spool(struct store *s)
{
    for (uint32_t n = 0; store_reserve(s, CHUNK_BYTES); n++) {
        assert_int_equal(store_begin(s), STORE_OK);
        assert_int_equal(store_put_chunk(s, 1, n, slice_of(chunk, sizeof chunk)), STORE_OK);
        assert_int_equal(store_commit(s), STORE_OK);
    }
}

/* What is told of each recipient that is put off is more than the reserve: that it is put off is
 * known in memory, and without a record of it the next start tries it anew, which harms nobody. */
static void deferrals_that_find_no_room_stop_nothing(void **state)
{
    (void)state;
    struct world *w = create_with(SMALL_MAP, false);
    struct op *ops = calloc(CROWDS, sizeof *ops), gate;
    struct outcome_recipient put_off[CROWD];
    struct reply long_reply = {.code = 450, .class = 4, .text_len = REPLY_TEXT_SIZE};
    queue_destroy(&w->queue);
    store_crowds(w);
    fill_spool(w->store);
    start(w);
    for (uint32_t i = 0; i < CROWD; i++)
        put_off[i] = (struct outcome_recipient){i, OUTCOME_DEFERRED, &long_reply};
    for (unsigned i = 0; i < CROWDS; i++) {
        await(&w->pushed);
        w->delivery = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_int_equal(w->delivery->recipient_count, CROWD);
        ops[i] = outcome_of(w, put_off);
        ops[i].op.u.outcome.recipient_count = CROWD;
    }
    close_gate(w, &gate);
    for (unsigned i = 0; i < CROWDS; i++)
        submit(w, &ops[i]);
    open_gate(w, CROWDS);
    for (unsigned i = 0; i < CROWDS; i++)
        assert_int_equal(ops[i].op.status, STORE_OK);
    assert_int_equal(committer_figures(w->queue.committer).recipients_queued, CROWD * CROWDS);
    assert_int_equal(jobs_length(w->queue.jobs), 0);
    destroy(w);
    free(ops);
}

/* All in one transaction they would need as many pages again as they free: there are not. */
static void outcomes_gathered_before_the_room_ran_out_go_in_parts_that_find_room(void **state)
{
    (void)state;
    struct world *w = create_with(TIGHT_MAP, true);
    struct op gate, *ops = calloc(MANY, sizeof *ops);
    struct commit_message *bounces = calloc(MANY, sizeof *bounces);
    struct outcome_recipient bounced = {.verdict = OUTCOME_BOUNCED, .reply = &later};
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, ID, clock_wall_ms(), (const char *const[]){"a@x.example", NULL});
    for (unsigned i = 1; i < MANY; i++)
        await(&w->pushed);
    close_gate(w, &gate);
    uint64_t before = committer_figures(w->queue.committer).commits;
    for (unsigned i = 0; i < MANY; i++) {
        if (i > 0)
            w->delivery = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(w->delivery);
        ops[i] = outcome_of(w, &bounced);
        bounces[i] = (struct commit_message){.id = ID + 2 * MANY + i,
                                             .envelope = buf_slice(&record),
                                             .chunk = slice_of(chunk, sizeof chunk)};
        ops[i].op.u.outcome.generated = &bounces[i];
        submit(w, &ops[i]);
    }
    open_gate(w, MANY);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(ops[i].op.status, STORE_OK);
    assert_true(committer_figures(w->queue.committer).commits > before + 3);
    queue_destroy(&w->queue);
    while (sem_trywait(&w->pushed) == 0)
        continue;
    start(w); /* what the spool says: each bounce, and nothing else */
    for (unsigned i = 0; i < MANY; i++)
        await(&w->pushed);
    struct op last = {.op = {.kind = COMMIT_DISCARD, .u.discard_id = 1}};
    submit(w, &last);
    await(&w->done);
    assert_int_equal(committer_figures(w->queue.committer).messages_queued, MANY);
    destroy(w);
    buf_fini(&record);
    free(bounces);
    free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_arrives_during_a_commit_shares_the_next_one),
        cmocka_unit_test(a_hold_is_stored_whatever_its_place_in_the_batch_of_an_outcome),
        cmocka_unit_test(a_finished_message_leaves_and_its_notice_comes_in_one_commit),
        cmocka_unit_test(a_later_chunk_alone_is_gone_at_the_next_start),
        cmocka_unit_test(bounces_count_in_what_a_transaction_may_hold),
        cmocka_unit_test(deferrals_that_find_no_room_stop_nothing),
        cmocka_unit_test(outcomes_gathered_before_the_room_ran_out_go_in_parts_that_find_room),
        cmocka_unit_test(a_long_queue_is_taken_in_beside_new_mail_each_message_once),
        cmocka_unit_test(a_queue_that_cannot_be_read_to_its_end_is_not_taken_for_a_short_one),
        cmocka_unit_test(an_edit_reaches_all_of_a_queue_that_is_still_being_taken_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
