/* The control socket: whatever a client writes, each line has one answer that ends with "done",
 * what is wrong is told and changes nothing, and no client holds more than its share. */
#include "workers/control.h"

#include "core/base/clock.h"
#include "tests/unit/queue_fixture.h"
#include "tests/unit/spool_fixture.h"
#include "workers/control_priv.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

enum { MESSAGES = 3, HOUR = 3600000, ANSWER_SIZE = 1 << 16, PATIENCE_S = 30 };

/* A relay without workers: three messages wait, and nobody carries them. */
struct world {
    char path[64], socket[96];
    struct config config;
    struct store *store;
    struct queue queue;
    struct health *health;
    struct resolver *resolver;
    struct suspensions *suspensions;
    struct control *control;
};

static struct world *world; /* one for all tests: each leaves it as it was */

static bool spool_is_to_fail;
static atomic_bool syncs_fail;

/* Stands before libc's, for LMDB too. */
int fdatasync(int fd)
{
    if (!syncs_fail)
        return (int)syscall(SYS_fdatasync, fd);
    errno = EIO;
    return -1;
}

static void on_fatal(void *context, const char *what)
{
    (void)context;
    if (!spool_is_to_fail)
        fail_msg("%s", what);
}

static void store_messages(struct world *w)
{
    static const char *const recipients[MESSAGES] = {"a@x.example", "b@y.example", "c@x.example"};
    for (uint64_t i = 0; i < MESSAGES; i++) {
        struct buf record;
        buf_init(&record, ENVELOPE_ENCODED_MAX);
        encode_envelope(&record, i + 1, clock_wall_ms(),
                        (const char *const[]){recipients[i], NULL});
        assert_int_equal(store_begin(w->store), STORE_OK);
        assert_int_equal(store_put_envelope(w->store, i + 1, buf_slice(&record)), STORE_OK);
        assert_int_equal(
            store_put_chunk(w->store, i + 1, 0, SLICE_LIT("Subject: s\r\n\r\nhello\r\n")),
            STORE_OK);
        assert_int_equal(store_commit(w->store), STORE_OK);
        buf_fini(&record);
    }
}

static void start_parts(struct world *w, struct error *error)
{
    static const char *const none[] = {NULL}, *const nowhere[] = {"127.0.0.1@9", NULL};
    static const struct resolver_zone stubs[] = {{NULL, NULL}};
    struct health_options health = {.entries = 64, .demote_max_ms = HOUR, .patience_max_ms = 5000};
    struct resolver_options resolver = {.forwarders = nowhere,
                                        .stubs = stubs,
                                        .unbound_options = none,
                                        .own_names = none,
                                        .delivery_port = 25,
                                        .use_ipv4 = true,
                                        .use_ipv6 = true,
                                        .flights_max = 4,
                                        .flight_limit_ms = 1000,
                                        .cache_entries_max = 16};
    w->health = health_create(&health);
    char path[96];
    (void)snprintf(path, sizeof path, "%s/suspended", w->path);
    w->suspensions = suspensions_load(path, clock_mono_ms(), clock_wall_ms(), error);
    const struct schedule_options schedule = {
        .policy = {.retry_first_ms = HOUR, .retry_max_ms = HOUR, .age_limit_ms = HOUR},
        .suspensions = w->suspensions,
        .random_seed = 1};
    queue_create(&w->queue, 1024, schedule, clock_mono_ms(), clock_wall_ms());
    queue_start_committer(&w->queue,
                          (struct committer_options){.store = w->store, .on_fatal = on_fatal});
    w->resolver = resolver_start(&resolver, error);
}

static int set_up(void **state)
{
    (void)state;
    struct error error = {{0}};
    struct world *w = calloc(1, sizeof *w);
    if (w == NULL)
        return -1;
    make_spool_path(w->path);
    (void)snprintf(w->socket, sizeof w->socket, "%s/control.sock", w->path);
    w->config.control.socket = w->socket;
    w->config.hostname = "relay.example.net";
    w->store = open_spool(w->path, 64 << 20, 0);
    store_messages(w);
    start_parts(w, &error);
    struct control_options control = {.config = &w->config,
                                      .store = w->store,
                                      .committer = w->queue.committer,
                                      .health = w->health,
                                      .resolver = w->resolver,
                                      .destinations = w->queue.destinations,
                                      .suspensions = w->suspensions};
    w->control = control_start(&control, &error);
    if (w->control == NULL || w->resolver == NULL)
        fail_msg("%s", error.text);
    world = w;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    struct world *w = world;
    control_stop(w->control);
    resolver_stop(&w->resolver);
    queue_destroy(&w->queue);
    control_destroy(&w->control);
    health_destroy(&w->health);
    suspensions_destroy(&w->suspensions);
    store_close(&w->store);
    remove_spool(w->path);
    free(w);
    return 0;
}

/* ---- a client ---- */

static int connect_client(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", world->socket);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = PATIENCE_S}; /* a hang becomes a failure */
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* What goes before the peer closes; it may close with input unread. */
static void say(int fd, struct slice text)
{
    while (text.len > 0) {
        ssize_t n = send(fd, text.ptr, text.len, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        text = slice_skip(text, (size_t)n);
    }
}

/* One line without its end; false where the connection is closed. */
static bool hear_line(int fd, char line[ANSWER_SIZE])
{
    for (size_t len = 0; len < ANSWER_SIZE - 1; len++) {
        ssize_t n = recv(fd, &line[len], 1, 0);
        if (n <= 0) {
            assert_true(n == 0 || errno == ECONNRESET); /* not the time limit */
            return false;
        }
        line[len + 1] = '\0';
        if (line[len] == '\n') {
            line[len] = '\0';
            return true;
        }
    }
    fail_msg("an endless line");
    return false;
}

/* The answer's last line, which has "done"; `*others_out` lines stand before it. */
static json_t *hear(int fd, unsigned *others_out)
{
    static char line[ANSWER_SIZE];
    for (*others_out = 0;; ++*others_out) {
        assert_true(hear_line(fd, line));
        json_t *answer = json_loads(line, 0, NULL);
        if (!json_is_object(answer))
            fail_msg("not an object: %s", line);
        if (json_is_true(json_object_get(answer, "done")))
            return answer;
        json_decref(answer);
    }
}

static json_t *ask(int fd, const char *request, unsigned *others_out)
{
    say(fd, slice_str(request));
    say(fd, SLICE_LIT("\n"));
    return hear(fd, others_out);
}

static void assert_refused(int fd, const char *request)
{
    unsigned others = 0;
    json_t *answer = ask(fd, request, &others);
    if (json_string_value(json_object_get(answer, "error")) == NULL || others > 0)
        fail_msg("%.200s: %s, %u lines before", request, json_dumps(answer, JSON_COMPACT), others);
    json_decref(answer);
}

/* The recipients that a list has, and that nothing else went wrong. */
static unsigned count_listed(int fd, const char *request)
{
    unsigned others = 0;
    json_t *answer = ask(fd, request, &others);
    assert_null(json_object_get(answer, "error"));
    assert_int_equal(json_integer_value(json_object_get(answer, "count")), others);
    json_decref(answer);
    return others;
}

/* ---- lines that are wrong ---- */

static void every_line_that_is_no_request_has_an_error_and_nothing_else(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "",
        " ",
        "x",
        "{",
        "}",
        "[",
        "[]",
        "{}",
        "null",
        "true",
        "1",
        "\"status\"",
        "[\"status\"]",
        "{\"op\"}",
        "{\"op\":}",
        "{\"op\":null}",
        "{\"op\":1}",
        "{\"op\":{}}",
        "{\"op\":[\"status\"]}",
        "{\"op\":\"\"}",
        "{\"op\":\"Status\"}",
        "{\"op\":\"status \"}",
        "{\"op\":\"queue\"}",
        "{\"op\":\"queue.lists\"}",
        "{'op':'status'}",
        "{op:\"status\"}",
        "{\"op\":\"status\"",
        "{\"op\":\"status\"}}",
        "{\"op\":\"status\"}{\"op\":\"status\"}",
        "{\"op\":\"status\",}",
        "{\"op\":\"status\",\"op\":\"status\"}",
        "{\"op\":\"status\"} // why",
        "\xef\xbb\xbf{}",
        "{\"op\":\"stat\xff\"}",
        "{\"op\":\"\\ud800\"}",
        "{\"op\":\"status\\u0000\"}",
        "{\"op\":\"status\",\"x\":1e999}",
        "{\"op\":\"status\",\"x\":99999999999999999999}",
        "{\"op\":\"status\",\"x\":1}",
    };
    int fd = connect_client();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_refused(fd, lines[i]);
    char deep[4000];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    assert_refused(fd, deep);
    (void)close(fd);
}

static void every_request_with_a_wrong_member_has_an_error_and_changes_nothing(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "{\"op\":\"queue.list\",\"limit\":\"5\"}",
        "{\"op\":\"queue.list\",\"limit\":1.5}",
        "{\"op\":\"queue.list\",\"domain\":{}}",
        "{\"op\":\"queue.list\",\"domain\":\"no domain\"}",
        "{\"op\":\"queue.list\",\"state\":\"waiting\"}",
        "{\"op\":\"queue.list\",\"after\":\"xyz\"}",
        "{\"op\":\"queue.list\",\"older_than_ms\":null}",
        "{\"op\":\"queue.show\"}",
        "{\"op\":\"queue.show\",\"id\":1}",
        "{\"op\":\"queue.show\",\"id\":-1}",
        "{\"op\":\"queue.show\",\"id\":\"1\"}",
        "{\"op\":\"queue.show\",\"id\":\"00000000000000ff\"}",
        "{\"op\":\"queue.show\",\"id\":\"0000000000000001\",\"content\":\"yes\"}",
        "{\"op\":\"queue.hold\"}",
        "{\"op\":\"queue.hold\",\"all\":false}",
        "{\"op\":\"queue.hold\",\"all\":1}",
        "{\"op\":\"queue.hold\",\"all\":true,\"id\":\"0000000000000001\"}",
        "{\"op\":\"queue.hold\",\"all\":true,\"domain\":\"x.example\"}",
        "{\"op\":\"queue.hold\",\"domain\":\"x.example\",\"id\":\"0000000000000001\"}",
        "{\"op\":\"queue.hold\",\"domain\":\"x.example\",\"id\":\"mistyped\"}",
        "{\"op\":\"queue.hold\",\"all\":true,\"id\":7}",
        "{\"op\":\"queue.hold\",\"all\":true,\"domian\":\"x.example\"}",
        "{\"op\":\"queue.hold\",\"domain\":\"\"}",
        "{\"op\":\"queue.hold\",\"domain\":[\"x.example\"]}",
        "{\"op\":\"queue.bounce\",\"id\":\"0000000000000000\"}",
        "{\"op\":\"health.demote\"}",
        "{\"op\":\"health.demote\",\"address\":1}",
        "{\"op\":\"health.demote\",\"address\":\"mx.example\"}",
        "{\"op\":\"health.demote\",\"address\":\"192.0.2.1:25\"}",
        "{\"op\":\"health.demote\",\"address\":\"192.0.2.1\",\"duration_ms\":\"60\"}",
        "{\"op\":\"health.demote\",\"address\":\"192.0.2.1\",\"duration_ms\":0}",
        "{\"op\":\"health.demote\",\"address\":\"192.0.2.1\",\"duration_ms\":9223372036854775807}",
        "{\"op\":\"health.clear\",\"address\":\"\"}",
        "{\"op\":\"health.list\",\"address\":\"192.0.2.1\"}",
        "{\"op\":\"route\"}",
        "{\"op\":\"route\",\"domain\":1}",
        "{\"op\":\"route\",\"domain\":\"\"}",
        "{\"op\":\"route\",\"domain\":\"a b\"}",
        "{\"op\":\"route\",\"domain\":\"x.example\",\"fresh\":\"no\"}",
        "{\"op\":\"suspend\"}",
        "{\"op\":\"suspend\",\"domain\":\"\"}",
        "{\"op\":\"suspend\",\"domain\":\"a b\"}",
        "{\"op\":\"suspend\",\"all\":false}",
        "{\"op\":\"suspend\",\"all\":true,\"domain\":\"x.example\"}",
        "{\"op\":\"suspend\",\"domain\":\"x.example\",\"for_ms\":0}",
        "{\"op\":\"suspend\",\"domain\":\"x.example\",\"for_ms\":-5}",
        "{\"op\":\"suspend\",\"domain\":\"x.example\",\"for_ms\":9223372036854775807}",
        "{\"op\":\"suspend\",\"domain\":\"x.example\",\"for_ms\":\"2h\"}",
        "{\"op\":\"suspend\",\"domain\":\"x.example\",\"reason\":\"two\\nlines\"}",
        "{\"op\":\"suspend\",\"domain\":\"x.example\",\"reason\":7}",
        "{\"op\":\"suspend\",\"domain\":\"x.example\",\"id\":\"0000000000000001\"}",
        "{\"op\":\"resume\"}",
        "{\"op\":\"resume\",\"all\":true}",
        "{\"op\":\"resume\",\"domain\":\"x.example\"}",
        "{\"op\":\"suspend.list\",\"domain\":\"x.example\"}",
    };
    int fd = connect_client();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_refused(fd, lines[i]);
    assert_int_equal(count_listed(fd, "{\"op\":\"queue.list\",\"state\":\"active\"}"), MESSAGES);
    unsigned hosts = 0;
    json_decref(ask(fd, "{\"op\":\"health.list\"}", &hosts));
    assert_int_equal(hosts, 0);
    (void)close(fd);
}

static void a_line_with_a_nul_has_an_error_and_the_next_line_its_answer(void **state)
{
    (void)state;
    int fd = connect_client();
    unsigned others = 0;
    say(fd, SLICE_LIT("{\"op\":\"status\"}\0\n"));
    json_t *answer = hear(fd, &others);
    assert_non_null(json_object_get(answer, "error"));
    json_decref(answer);
    answer = ask(fd, "{\"op\":\"status\"}", &others);
    assert_null(json_object_get(answer, "error"));
    json_decref(answer);
    (void)close(fd);
}

/* ---- lines that are right ---- */

static void lists_are_filtered_and_go_on_where_they_stopped(void **state)
{
    (void)state;
    int fd = connect_client();
    static const struct {
        const char *request;
        unsigned count;
    } table[] = {
        {"{\"op\":\"queue.list\"}", 3},
        {"{\"op\":\"queue.list\",\"domain\":\"x.example\"}", 2},
        {"{\"op\":\"queue.list\",\"domain\":\"X.Example\"}", 2},
        {"{\"op\":\"queue.list\",\"domain\":\"z.example\"}", 0},
        {"{\"op\":\"queue.list\",\"state\":\"held\"}", 0},
        {"{\"op\":\"queue.list\",\"older_than_ms\":3600000}", 0},
        {"{\"op\":\"queue.list\",\"limit\":2}", 2},
        {"{\"op\":\"queue.list\",\"after\":\"\"}", 3},
        {"{\"op\":\"queue.list\",\"after\":\"0000000000000002\"}", 1},
        {"{\"op\":\"queue.list\",\"after\":\"0000000000000003\"}", 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (count_listed(fd, table[i].request) != table[i].count)
            fail_msg("%s", table[i].request);
    (void)close(fd);
}

static void edits_touch_what_they_name(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        json_int_t matched;
    } table[] = {
        {"{\"op\":\"queue.hold\",\"id\":\"0000000000000002\"}", 1},
        {"{\"op\":\"queue.release\",\"id\":\"0000000000000002\"}", 1},
        {"{\"op\":\"queue.hold\",\"id\":\"0000000000000009\"}", 0},
        {"{\"op\":\"queue.retry\",\"domain\":\"Y.EXAMPLE\"}", 1},
    };
    int fd = connect_client();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        unsigned others = 0;
        json_t *answer = ask(fd, table[i].request, &others);
        assert_null(json_object_get(answer, "error"));
        assert_int_equal(json_integer_value(json_object_get(answer, "matched")), table[i].matched);
        json_decref(answer);
    }
    (void)close(fd);
}

static void a_suspension_is_shown_and_ends_by_hand_or_by_its_time(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        json_int_t matched;
    } table[] = {
        {"{\"op\":\"suspend\",\"domain\":\"X.Example\",\"reason\":\"asked to\"}", 2},
        {"{\"op\":\"suspend\",\"all\":true,\"for_ms\":3600000}", 3},
        {"{\"op\":\"resume\",\"all\":true}", 3},
        {"{\"op\":\"suspend\",\"domain\":\"y.example\",\"for_ms\":1}", 1},
    };
    int fd = connect_client();
    unsigned others = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        json_t *answer = ask(fd, table[i].request, &others);
        assert_null(json_object_get(answer, "error"));
        assert_int_equal(json_integer_value(json_object_get(answer, "matched")), table[i].matched);
        json_decref(answer);
    }
    while (suspensions_hold(world->suspensions, "y.example")) /* its time is up at once */
        (void)usleep(1000);
    assert_int_equal(count_listed(fd, "{\"op\":\"queue.list\",\"state\":\"suspended\"}"), 2);
    assert_int_equal(count_listed(fd, "{\"op\":\"queue.list\",\"state\":\"active\"}"), 1);
    json_decref(ask(fd, "{\"op\":\"suspend.list\"}", &others));
    assert_int_equal(others, 1);
    assert_refused(fd, "{\"op\":\"resume\",\"domain\":\"y.example\"}");
    json_decref(ask(fd, "{\"op\":\"resume\",\"domain\":\"x.example\"}", &others));
    assert_int_equal(suspensions_count(world->suspensions), 0);
    (void)close(fd);
}

static json_int_t member(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_integer(value))
        fail_msg("no number %s", name);
    return json_integer_value(value);
}

static void the_view_surveys_the_queue_by_domain_and_age(void **state)
{
    (void)state;
    int fd = connect_client();
    unsigned others = 0;
    json_decref(ask(fd, "{\"op\":\"queue.hold\",\"domain\":\"y.example\"}", &others));
    json_t *view = ask(fd, "{\"op\":\"view\",\"history\":true}", &others);
    const json_t *queue = json_object_get(view, "queue"), *ages = json_object_get(queue, "ages");
    const json_t *domains = json_object_get(queue, "domains");
    assert_int_equal(others, 0);
    assert_true(json_is_true(json_object_get(queue, "complete")));
    assert_int_equal(member(queue, "scanned"), MESSAGES);
    assert_int_equal(member(ages, "1m"), MESSAGES);
    assert_int_equal(member(ages, "older"), 0);
    assert_int_equal(json_array_size(domains), 2);
    const json_t *most = json_array_get(domains, 0), *least = json_array_get(domains, 1);
    assert_string_equal(json_string_value(json_object_get(most, "domain")), "x.example");
    assert_int_equal(member(most, "recipients"), 2);
    assert_int_equal(member(least, "recipients"), 1); /* held is queued, too */
    assert_int_equal(member(most, "deferred"), 0);
    assert_int_equal(json_array_size(json_object_get(view, "suspended")), 0);
    assert_int_equal(json_array_size(json_object_get(view, "samples")), 0); /* no chronicle */
    json_decref(view);
    json_decref(ask(fd, "{\"op\":\"queue.release\",\"domain\":\"y.example\"}", &others));
    (void)close(fd);
}

static void a_message_is_shown_with_its_content_where_it_is_asked_for(void **state)
{
    (void)state;
    int fd = connect_client();
    unsigned others = 0;
    json_t *answer =
        ask(fd, "{\"op\":\"queue.show\",\"id\":\"0000000000000001\",\"content\":true}", &others);
    assert_int_equal(others, 1);
    assert_non_null(json_object_get(answer, "content"));
    json_decref(answer);
    answer = ask(fd, "{\"op\":\"queue.show\",\"id\":\"0000000000000001\"}", &others);
    assert_null(json_object_get(answer, "content"));
    json_decref(answer);
    (void)close(fd);
}

static void hosts_are_demoted_and_forgotten_by_hand(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        unsigned others;
    } table[] = {
        {"{\"op\":\"health.demote\",\"address\":\"192.0.2.1\",\"duration_ms\":60000}", 0},
        {"{\"op\":\"health.demote\",\"address\":\"2001:db8::1\"}", 0},
        {"{\"op\":\"health.list\"}", 2},
        {"{\"op\":\"route\",\"domain\":\"[192.0.2.1]\"}", 1},
        {"{\"op\":\"health.clear\",\"address\":\"192.0.2.1\"}", 0},
        {"{\"op\":\"health.clear\",\"address\":\"2001:db8::1\"}", 0},
    };
    int fd = connect_client();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        unsigned others = 0;
        json_t *answer = ask(fd, table[i].request, &others);
        if (json_object_get(answer, "error") != NULL || others != table[i].others)
            fail_msg("%s: %u lines", table[i].request, others);
        json_decref(answer);
    }
    (void)close(fd);
}

/* ---- limits ---- */

static void requests_that_come_together_are_answered_in_order(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    int fd = connect_client();
    struct buf all;
    buf_init(&all, 1 << 20);
    for (int i = 0; i < COUNT; i++)
        buf_printf(&all,
                   i % 2 == 0 ? "{\"op\":\"no.%d\"}\n"
                              : "{\"op\":\"queue.hold\",\"id\":\"00000000000000%02x\"}\n",
                   i + 16);
    say(fd, buf_slice(&all));
    buf_fini(&all);
    for (int i = 0; i < COUNT; i++) {
        unsigned others = 0;
        char expected[32];
        json_t *answer = hear(fd, &others);
        const char *error = json_string_value(json_object_get(answer, "error"));
        (void)snprintf(expected, sizeof expected, "unknown op no.%d", i + 16);
        if (i % 2 == 0)
            assert_string_equal(error, expected);
        else
            assert_true(error == NULL && json_object_get(answer, "matched") != NULL);
        json_decref(answer);
    }
    (void)close(fd);
}

static void a_line_longer_than_any_request_ends_the_connection(void **state)
{
    (void)state;
    static char line[ANSWER_SIZE];
    int fd = connect_client(), other = connect_client();
    struct buf text;
    buf_init(&text, 2 * CONTROL_LINE_MAX);
    for (int i = 0; i < CONTROL_LINE_MAX + 5000; i++)
        buf_append_str(&text, "x");
    say(fd, buf_slice(&text));
    buf_fini(&text);
    assert_false(hear_line(fd, line));
    assert_int_equal(count_listed(other, "{\"op\":\"queue.list\"}"), MESSAGES);
    (void)close(fd);
    (void)close(other);
}

static void clients_beyond_the_limit_are_sent_away_and_the_others_served(void **state)
{
    (void)state;
    static char line[ANSWER_SIZE];
    int fds[CONTROL_CLIENTS_MAX];
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        fds[i] = connect_client();
        assert_int_equal(count_listed(fds[i], "{\"op\":\"queue.list\"}"), MESSAGES);
    }
    int late = connect_client();
    assert_false(hear_line(late, line));
    (void)close(late);
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        assert_int_equal(count_listed(fds[i], "{\"op\":\"queue.list\"}"), MESSAGES);
        (void)shutdown(fds[i], SHUT_WR);
        assert_false(hear_line(fds[i], line)); /* gone: its place is free */
        (void)close(fds[i]);
    }
    int fd = connect_client();
    assert_int_equal(count_listed(fd, "{\"op\":\"queue.list\"}"), MESSAGES);
    (void)close(fd);
}

static void a_client_that_leaves_before_its_answer_harms_nobody(void **state)
{
    (void)state;
    for (int i = 0; i < CONTROL_CLIENTS_MAX / 2; i++) {
        int fd = connect_client();
        say(fd,
            SLICE_LIT("{\"op\":\"queue.retry\",\"all\":true}\n{\"op\":\"queue.list\"}\n{\"op\":"));
        (void)close(fd);
    }
    int fd = connect_client();
    assert_int_equal(count_listed(fd, "{\"op\":\"queue.list\"}"), MESSAGES);
    (void)close(fd);
}

static void a_second_relay_on_a_live_socket_is_refused_with_the_reason(void **state)
{
    (void)state;
    struct error error = {{0}};
    struct control_options options = {.config = &world->config, .store = world->store};
    assert_null(control_start(&options, &error));
    assert_non_null(strstr(error.text, "another relay answers"));
    int fd = connect_client();
    assert_int_equal(count_listed(fd, "{\"op\":\"queue.list\"}"), MESSAGES);
    (void)close(fd);
}

static void what_is_resumed_on_a_full_disk_is_resumed_with_a_warning_and_saved_later(void **state)
{
    (void)state;
    char part[128], file[128];
    unsigned others = 0;
    struct stat st;
    int fd = connect_client();
    json_decref(ask(fd, "{\"op\":\"suspend\",\"domain\":\"x.example\"}", &others));
    (void)snprintf(file, sizeof file, "%s/suspended", world->path);
    (void)snprintf(part, sizeof part, "%s/suspended.part", world->path);
    assert_int_equal(mkdir(part, 0700), 0);
    assert_refused(fd, "{\"op\":\"suspend\",\"domain\":\"y.example\"}");
    json_t *answer = ask(fd, "{\"op\":\"resume\",\"domain\":\"x.example\"}", &others);
    assert_null(json_object_get(answer, "error"));
    assert_int_equal(member(answer, "matched"), 2);
    assert_non_null(
        strstr(json_string_value(json_object_get(answer, "warning")), "a restart would"));
    json_decref(answer);
    assert_false(suspensions_hold(world->suspensions, "x.example"));
    assert_int_equal(stat(file, &st), 0);
    assert_true(st.st_size > 0);
    assert_int_equal(rmdir(part), 0);
    while (stat(file, &st) == 0 && st.st_size > 0) /* written again every few seconds */
        (void)usleep(20000);
    (void)close(fd);
}

static atomic_bool failed;

static void on_failed(struct mail *mail, void *owner)
{
    (void)mail, (void)owner;
    failed = true;
}

/* The last: no spool is left behind it. */
static void a_queue_that_cannot_be_gone_through_is_told(void **state)
{
    (void)state;
    unsigned others = 0;
    int fd = connect_client();
    spool_is_to_fail = true;
    syncs_fail = true;
    struct commit_op write = {.kind = COMMIT_DISCARD, .u.discard_id = 1, .on_done = on_failed};
    struct commit_op *op = &write;
    committer_submit(world->queue.committer, &op);
    while (!failed)
        (void)usleep(1000);
    syncs_fail = false;
    json_t *answer = ask(fd, "{\"op\":\"suspend\",\"domain\":\"x.example\"}", &others);
    assert_non_null(json_object_get(answer, "error"));
    assert_non_null(
        strstr(json_string_value(json_object_get(answer, "error")), "not gone through"));
    assert_true(suspensions_hold(world->suspensions, "x.example"));
    json_decref(answer);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_line_that_is_no_request_has_an_error_and_nothing_else),
        cmocka_unit_test(every_request_with_a_wrong_member_has_an_error_and_changes_nothing),
        cmocka_unit_test(a_line_with_a_nul_has_an_error_and_the_next_line_its_answer),
        cmocka_unit_test(lists_are_filtered_and_go_on_where_they_stopped),
        cmocka_unit_test(edits_touch_what_they_name),
        cmocka_unit_test(a_suspension_is_shown_and_ends_by_hand_or_by_its_time),
        cmocka_unit_test(the_view_surveys_the_queue_by_domain_and_age),
        cmocka_unit_test(a_message_is_shown_with_its_content_where_it_is_asked_for),
        cmocka_unit_test(hosts_are_demoted_and_forgotten_by_hand),
        cmocka_unit_test(requests_that_come_together_are_answered_in_order),
        cmocka_unit_test(a_line_longer_than_any_request_ends_the_connection),
        cmocka_unit_test(clients_beyond_the_limit_are_sent_away_and_the_others_served),
        cmocka_unit_test(a_client_that_leaves_before_its_answer_harms_nobody),
        cmocka_unit_test(a_second_relay_on_a_live_socket_is_refused_with_the_reason),
        cmocka_unit_test(what_is_resumed_on_a_full_disk_is_resumed_with_a_warning_and_saved_later),
        cmocka_unit_test(a_queue_that_cannot_be_gone_through_is_told),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
