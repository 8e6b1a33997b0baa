/* A message's way into the spool: what is refused leaves nothing behind. */
#include "core/base/clock.h"
#include "core/spool/store_priv.h"
#include "tests/unit/queue_fixture.h"
#include "tests/unit/spool_fixture.h"
#include "workers/inbound/upload.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { ID = 7, MAP_BYTES = 64 << 20, WAIT_MS = 60000 };

struct world {
    char path[64];
    struct store *store;
    struct queue queue;
    struct mailbox mailbox; /* of the test */
    struct upload upload;
    unsigned stored; /* ops that came back */
    bool ended;
    bool passed; /* the op of pass_through came back */
};

static void on_stored(struct upload *u, bool ended)
{
    struct world *w = CONTAINER_OF(u, struct world, upload);
    w->stored++;
    w->ended |= ended;
}

static struct world *create(void)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    make_spool_path(w->path);
    w->store = open_spool(w->path, MAP_BYTES, 0);
    const struct schedule_options schedule = {
        .policy = {.retry_first_ms = 1000, .retry_max_ms = 1000, .age_limit_ms = 100000}};
    queue_create(&w->queue, 64, schedule, clock_mono_ms(), clock_wall_ms());
    queue_start_committer(&w->queue, (struct committer_options){.store = w->store});
    assert_int_equal(mailbox_init(&w->mailbox, w), 0);
    upload_init(&w->upload, w->queue.committer, &w->mailbox, on_stored);
    upload_begin(&w->upload, ID);
    return w;
}

static void destroy(struct world *w)
{
    queue_destroy(&w->queue);
    (void)mailbox_deliver(&w->mailbox);
    upload_fini(&w->upload);
    mailbox_fini(&w->mailbox);
    store_close(&w->store);
    remove_spool(w->path);
    free(w);
}

static void await(struct world *w, const bool *flag, unsigned stored)
{
    while (!*flag && w->stored < stored) {
        if (mailbox_prepare_sleep(&w->mailbox)) {
            struct pollfd fd = {.fd = w->mailbox.event_fd, .events = POLLIN};
            assert_int_equal(poll(&fd, 1, WAIT_MS), 1);
            mailbox_awake(&w->mailbox);
        }
        (void)mailbox_deliver(&w->mailbox);
    }
}

struct passing {
    struct commit_op op;
    struct world *world;
};

static void on_passed(struct mail *mail, void *owner)
{
    (void)owner;
    CONTAINER_OF(mail, struct passing, op.mail)->world->passed = true;
}

/* All that was submitted before has been committed. */
static void pass_through(struct world *w)
{
    struct passing p = {.op = {.kind = COMMIT_DISCARD,
                               .u.discard_id = ID + 1,
                               .reply_to = &w->mailbox,
                               .on_done = on_passed},
                        .world = w};
    struct commit_op *op = &p.op;
    w->passed = false;
    committer_submit(w->queue.committer, &op);
    await(w, &w->passed, UINT32_MAX);
}

/* On the committer's thread, which looks at the floor. */
static void on_turn(struct mail *mail, void *owner)
{
    struct world *w = CONTAINER_OF(mail, struct passing, op.mail)->world;
    w->store->free_floor_bytes = UINT64_MAX;
    atomic_store(&w->store->shared.room_checked_ms, 0);
    (void)owner;
}

/* From here on there is no room. */
static void use_up_room(struct world *w)
{
    struct passing p = {.op = {.kind = COMMIT_DISCARD, .u.discard_id = ID + 1, .on_done = on_turn},
                        .world = w};
    struct commit_op *op = &p.op;
    committer_submit(w->queue.committer, &op);
    pass_through(w);
}

static void put_chunk(struct world *w)
{
    static const char block[STORE_CHUNK_BYTES];
    const bool never = false;
    unsigned stored = w->stored;
    buf_append(&w->upload.content, slice_of(block, sizeof block));
    upload_chunk(&w->upload);
    await(w, &never, stored + 1);
    assert_int_equal(w->upload.status, STORE_OK);
}

static bool put_message(struct world *w)
{
    struct envelope_recipient r = {.address = SLICE_LIT("a@x.example"),
                                   .domain = SLICE_LIT("x.example"),
                                   .orcpt = SLICE_LIT("")};
    struct envelope e = {.id = ID,
                         .arrived_wall_ms = clock_wall_ms(),
                         .sender = SLICE_LIT("s@y.example"),
                         .envid = SLICE_LIT(""),
                         .origin = SLICE_LIT("test"),
                         .recipients = &r,
                         .recipient_count = 1};
    buf_append(&w->upload.content, SLICE_LIT("the end\r\n"));
    return upload_message(&w->upload, &e, NULL);
}

static bool has_chunk(struct world *w, uint32_t chunk)
{
    struct slice bytes;
    struct store_reader *r = store_reader_create(w->store);
    assert_true(store_read_begin(r));
    bool has = store_get_chunk(r, ID, chunk, &bytes);
    store_read_end(r);
    store_reader_destroy(&r);
    return has;
}

static void a_message_that_is_stored_keeps_its_chunks(void **state)
{
    (void)state;
    struct world *w = create();
    put_chunk(w);
    put_chunk(w);
    assert_true(put_message(w));
    await(w, &w->ended, UINT32_MAX);
    assert_int_equal(w->upload.status, STORE_OK);
    upload_discard(&w->upload); /* its client has gone since: it is accepted all the same */
    pass_through(w);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(has_chunk(w, i));
    destroy(w);
}

static void a_message_that_comes_back_refused_leaves_no_chunks(void **state)
{
    (void)state;
    struct world *w = create();
    put_chunk(w);
    put_chunk(w);
    assert_true(has_chunk(w, 0) && has_chunk(w, 1));
    use_up_room(w);
    assert_true(put_message(w));
    await(w, &w->ended, UINT32_MAX);
    assert_int_equal(w->upload.status, STORE_NO_ROOM);
    pass_through(w);
    assert_false(has_chunk(w, 0) || has_chunk(w, 1) || has_chunk(w, 2));
    destroy(w);
}

static void a_chunk_that_is_refused_takes_those_before_it_along(void **state)
{
    (void)state;
    struct world *w = create();
    const bool never = false;
    put_chunk(w);
    use_up_room(w);
    buf_append(&w->upload.content, SLICE_LIT("more"));
    upload_chunk(&w->upload);
    await(w, &never, 2);
    assert_int_equal(w->upload.status, STORE_NO_ROOM);
    assert_false(put_message(w));
    pass_through(w);
    assert_false(has_chunk(w, 0) || has_chunk(w, 1));
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_that_is_stored_keeps_its_chunks),
        cmocka_unit_test(a_message_that_comes_back_refused_leaves_no_chunks),
        cmocka_unit_test(a_chunk_that_is_refused_takes_those_before_it_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
