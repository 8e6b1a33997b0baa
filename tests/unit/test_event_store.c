/* The store of events: what a webhook has not taken stays, across restarts, up to a bound. */
#include "workers/events/event_store.h"

#include "tests/unit/spool_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>
#include <cmocka.h>

enum { BODY_MAX = 1 << 20, ALL = 1000000 };

#define KIND(k) (1u << (k))

static const struct config_webhook both[] = {
    {.url = "http://a.example/", .events = KIND(EVENT_DELIVERED) | KIND(EVENT_BOUNCED)},
    {.url = "http://b.example/", .events = KIND(EVENT_BOUNCED)},
};

struct fixture {
    char path[64];
    struct event_store *store;
};

static void open_with(struct fixture *f, const struct config_webhook *hooks, unsigned count,
                      uint64_t bytes_max)
{
    struct error error = {{0}};
    struct event_store_options options = {
        .path = f->path, .bytes_max = bytes_max, .webhooks = hooks, .webhook_count = count};
    event_store_close(&f->store);
    f->store = event_store_open(&options, &error);
    if (f->store == NULL)
        fail_msg("%s", error.text);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    make_spool_path(f->path);
    open_with(f, both, 2, 1 << 20);
    *state = f;
    return 0;
}

static int take_down(void **state)
{
    struct fixture *f = *state;
    event_store_close(&f->store);
    remove_spool(f->path);
    free(f);
    return 0;
}

static void put(struct fixture *f, enum event_kind kind, unsigned first, unsigned count)
{
    char line[64];
    assert_true(event_store_begin(f->store));
    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(line, sizeof line, "{\"event\":\"e\",\"n\":%u}\n", first + i);
        event_store_append(f->store, kind, slice_str(line));
    }
    assert_true(event_store_commit(f->store));
}

static void done(struct fixture *f, unsigned webhook, uint64_t upto)
{
    assert_true(event_store_begin(f->store));
    event_store_advance(f->store, webhook, upto);
    assert_true(event_store_commit(f->store));
}

/* A batch as the array it is. */
static json_t *batch(struct fixture *f, unsigned webhook, unsigned max, struct event_batch *out)
{
    struct buf body;
    buf_init(&body, BODY_MAX);
    buf_append_str(&body, "[");
    *out = event_store_read(f->store, webhook, max, BODY_MAX / 2, &body);
    buf_append_str(&body, "]");
    assert_true(buf_ok(&body));
    json_t *array = json_loadb(buf_slice(&body).ptr, buf_len(&body), JSON_REJECT_DUPLICATES, NULL);
    buf_fini(&body);
    assert_int_equal(json_array_size(array), out->count);
    return array;
}

static json_int_t number(const json_t *array, size_t i)
{
    return json_integer_value(json_object_get(json_array_get(array, i), "n"));
}

static void expect(struct fixture *f, unsigned webhook, unsigned first, unsigned count)
{
    struct event_batch b;
    json_t *events = batch(f, webhook, ALL, &b);
    assert_int_equal(b.count, count);
    assert_int_equal(event_store_pending(f->store, webhook), count);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(number(events, i), first + i);
    json_decref(events);
}

static void events_come_oldest_first_and_only_those_that_are_wanted(void **state)
{
    struct fixture *f = *state;
    put(f, EVENT_DELIVERED, 0, 3);
    put(f, EVENT_BOUNCED, 3, 2);
    expect(f, 0, 0, 5);
    expect(f, 1, 3, 2);
}

static void what_one_webhook_has_taken_waits_for_the_other(void **state)
{
    struct fixture *f = *state;
    struct event_batch b;
    put(f, EVENT_BOUNCED, 0, 4);
    json_decref(batch(f, 0, 3, &b));
    assert_int_equal(b.count, 3);
    done(f, 0, b.upto);
    expect(f, 0, 3, 1);
    expect(f, 1, 0, 4);
}

static void a_restart_goes_on_where_it_was(void **state)
{
    struct fixture *f = *state;
    struct event_batch b;
    put(f, EVENT_BOUNCED, 0, 10);
    json_decref(batch(f, 0, 4, &b));
    done(f, 0, b.upto);
    open_with(f, both, 2, 1 << 20);
    expect(f, 0, 4, 6);
    expect(f, 1, 0, 10);
}

/* Also where nothing is left that could tell the last number. */
static void no_id_is_given_twice(void **state)
{
    struct fixture *f = *state;
    struct event_batch b;
    put(f, EVENT_BOUNCED, 0, 1);
    json_t *first = batch(f, 0, ALL, &b);
    done(f, 0, b.upto);
    done(f, 1, b.upto);
    open_with(f, both, 2, 1 << 20);
    put(f, EVENT_BOUNCED, 1, 1);
    json_t *second = batch(f, 0, ALL, &b);
    const char *id = json_string_value(json_object_get(json_array_get(first, 0), "event_id"));
    assert_non_null(id);
    assert_string_not_equal(
        id, json_string_value(json_object_get(json_array_get(second, 0), "event_id")));
    json_decref(first);
    json_decref(second);
}

static void beyond_the_bound_the_oldest_go_and_are_counted(void **state)
{
    struct fixture *f = *state;
    enum { COUNT = 2000 };
    open_with(f, both, 2, 20000);
    for (unsigned i = 0; i < COUNT; i += 100)
        put(f, EVENT_BOUNCED, i, 100);
    uint64_t kept = event_store_pending(f->store, 0);
    assert_in_range(kept, 200, 1000); /* of 20 to 100 bytes each */
    assert_int_equal(event_store_dropped(f->store, 0), COUNT - kept);
    assert_int_equal(event_store_dropped(f->store, 1), COUNT - kept);
    expect(f, 0, (unsigned)(COUNT - kept), (unsigned)kept);
}

static void what_a_webhook_does_not_want_is_not_counted_as_dropped(void **state)
{
    struct fixture *f = *state;
    open_with(f, both, 2, 20000);
    for (unsigned i = 0; i < 2000; i += 100)
        put(f, EVENT_DELIVERED, i, 100);
    assert_true(event_store_dropped(f->store, 0) > 0);
    assert_int_equal(event_store_dropped(f->store, 1), 0);
}

/* Taken while it was dropped: neither counted twice nor below zero. */
static void a_batch_that_is_dropped_under_way_does_no_harm(void **state)
{
    struct fixture *f = *state;
    struct event_batch b;
    open_with(f, both, 2, 20000);
    put(f, EVENT_BOUNCED, 0, 100);
    json_decref(batch(f, 0, 50, &b));
    for (unsigned i = 100; i < 2000; i += 100)
        put(f, EVENT_BOUNCED, i, 100);
    uint64_t pending = event_store_pending(f->store, 0);
    done(f, 0, b.upto);
    assert_int_equal(event_store_pending(f->store, 0), pending);
}

static void a_webhook_that_wants_nothing_of_it_holds_nothing_back(void **state)
{
    struct fixture *f = *state;
    struct event_batch b;
    put(f, EVENT_DELIVERED, 0, 5);
    json_decref(batch(f, 0, ALL, &b));
    done(f, 0, b.upto);
    /* Removed: a webhook of the first one's name that begins anew finds nothing of it. */
    open_with(f, both + 1, 1, 1 << 20);
    open_with(f, both, 2, 1 << 20);
    expect(f, 0, 0, 0);
}

static void a_new_webhook_begins_with_what_comes_from_now_on(void **state)
{
    struct fixture *f = *state;
    open_with(f, both, 1, 1 << 20);
    put(f, EVENT_BOUNCED, 0, 3);
    open_with(f, both, 2, 1 << 20);
    expect(f, 0, 0, 3);
    expect(f, 1, 0, 0);
    put(f, EVENT_BOUNCED, 3, 1);
    expect(f, 1, 3, 1);
}

/* A file that was cut short raises in whoever reads its map what a disk does that fails to
 * read: SIGBUS. */
static void events_that_cannot_be_read_are_told_of_and_end_the_process(void **state)
{
    struct fixture *f = *state;
    char path[96], said[2048];
    int ends[2], status = 0;
    size_t len = 0;
    put(f, EVENT_DELIVERED, 1, 2000);
    event_store_close(&f->store);
    (void)snprintf(path, sizeof path, "%s/data.mdb", f->path);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        (void)close(ends[0]);
        open_with(f, both, 2, 1 << 20);
        struct buf out;
        buf_init(&out, BODY_MAX);
        if (truncate(path, 8192) == 0) /* LMDB's two first pages are what it began with */
            (void)event_store_read(f->store, 0, ALL, BODY_MAX, &out);
        _exit(0);
    }
    (void)close(ends[1]);
    for (ssize_t n; (n = read(ends[0], said + len, sizeof said - 1 - len)) > 0;)
        len += (size_t)n;
    said[len] = '\0';
    (void)close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EX_IOERR);
    assert_non_null(strstr(said, f->path));
    assert_non_null(strstr(said, "their data.mdb was cut short"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, take_down)
        TEST(events_come_oldest_first_and_only_those_that_are_wanted),
        TEST(what_one_webhook_has_taken_waits_for_the_other),
        TEST(a_restart_goes_on_where_it_was),
        TEST(no_id_is_given_twice),
        TEST(beyond_the_bound_the_oldest_go_and_are_counted),
        TEST(what_a_webhook_does_not_want_is_not_counted_as_dropped),
        TEST(a_batch_that_is_dropped_under_way_does_no_harm),
        TEST(a_webhook_that_wants_nothing_of_it_holds_nothing_back),
        TEST(a_new_webhook_begins_with_what_comes_from_now_on),
        TEST(events_that_cannot_be_read_are_told_of_and_end_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
