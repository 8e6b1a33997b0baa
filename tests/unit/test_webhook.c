/* A webhook: when a request is due, what it says, and how long it leaves a receiver alone that
 * refuses, against a server of one socket that answers as it is told. */
#include "workers/events/webhook.h"

#include "tests/unit/spool_fixture.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

enum { EVENTS = 8, REQUEST_MAX = 8192, PATIENCE_MS = 20000 };

/* Takes one connection after the other, reads a request whole, and answers with `answer`. */
struct server {
    int fd;
    pthread_t thread;
    const char *_Atomic answer;
    char request[REQUEST_MAX]; /* the last one; read when its answer has come */
    atomic_bool stopping;
};

struct fixture {
    char path[64], url[64];
    struct config_webhook config;
    struct event_store *store;
    struct server server;
    CURLM *multi;
    struct webhook hook;
    struct random random;
    uint64_t now; /* virtual: nothing waits for it */
};

static bool is_whole(const char *request, size_t len)
{
    const char *end = memmem(request, len, "\r\n\r\n", 4);
    const char *field = memmem(request, len, "Content-Length: ", 16);
    if (end == NULL || field == NULL)
        return false;
    return len >= (size_t)(end + 4 - request) + strtoul(field + 16, NULL, 10);
}

static void *serve(void *context)
{
    struct server *s = context;
    for (;;) {
        int fd = accept(s->fd, NULL, NULL);
        size_t len = 0;
        if (fd < 0 || atomic_load(&s->stopping)) {
            (void)close(fd);
            return NULL;
        }
        while (len < sizeof s->request - 1 && !is_whole(s->request, len)) {
            ssize_t n = read(fd, s->request + len, sizeof s->request - 1 - len);
            if (n <= 0)
                break;
            len += (size_t)n;
        }
        s->request[len] = '\0';
        const char *answer = atomic_load(&s->answer);
        (void)!send(fd, answer, strlen(answer), MSG_NOSIGNAL);
        (void)close(fd);
    }
}

static void start_server(struct fixture *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct server *s = &f->server;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(listen(s->fd, 16), 0);
    (void)snprintf(f->url, sizeof f->url, "http://u:secret@127.0.0.1:%u/hook?key=secret",
                   ntohs(address.sin_port));
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void stop_server(struct fixture *f)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    atomic_store(&f->server.stopping, true);
    assert_int_equal(getsockname(f->server.fd, (struct sockaddr *)&address, &size), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(pthread_join(f->server.thread, NULL), 0);
    (void)close(fd);
    (void)close(f->server.fd);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct error error = {{0}};
    assert_non_null(f);
    make_spool_path(f->path);
    start_server(f);
    f->config = (struct config_webhook){.url = f->url,
                                        .events = 1u << EVENT_DELIVERED,
                                        .batch_size = EVENTS,
                                        .max_delay_ms = 1000,
                                        .timeout_ms = PATIENCE_MS};
    struct event_store_options options = {
        .path = f->path, .bytes_max = 1 << 20, .webhooks = &f->config, .webhook_count = 1};
    f->store = event_store_open(&options, &error);
    f->multi = curl_multi_init();
    assert_non_null(f->store);
    random_init_seed(&f->random, 1);
    assert_true(webhook_init(&f->hook, &f->config, 0, f->multi, NULL));
    f->now = 1000000;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    webhook_fini(&f->hook);
    (void)curl_multi_cleanup(f->multi);
    event_store_close(&f->store);
    stop_server(f);
    remove_spool(f->path);
    free(f);
    return 0;
}

static void put(struct fixture *f, enum event_kind kind, unsigned count)
{
    assert_true(event_store_begin(f->store));
    for (unsigned i = 0; i < count; i++)
        event_store_append(f->store, kind, SLICE_LIT("{\"event\":\"e\"}\n"));
    assert_true(event_store_commit(f->store));
}

/* As the events thread does it at `now`; true where a request is under way behind it. */
static bool act(struct fixture *f)
{
    webhook_note_pending(&f->hook, event_store_pending(f->store, 0), f->now);
    webhook_start(&f->hook, f->store, "relay.example.net", f->now);
    return f->hook.sending;
}

/* The request under way ends, answered by `answer`. */
static void end(struct fixture *f, const char *answer)
{
    int running = 1, left;
    CURLMsg *m;
    atomic_store(&f->server.answer, answer);
    do {
        assert_int_equal(curl_multi_perform(f->multi, &running), CURLM_OK);
        if (running > 0)
            (void)curl_multi_poll(f->multi, NULL, 0, 100, NULL);
    } while (running > 0);
    while ((m = curl_multi_info_read(f->multi, &left)) != NULL) {
        CURLcode result = m->data.result;
        webhook_ended(&f->hook, result, &f->random, f->now);
    }
    assert_false(f->hook.sending);
}

/* What it took is written down, as the events thread does with its next commit. */
static void note_done(struct fixture *f)
{
    assert_true(f->hook.done_upto > 0);
    assert_true(event_store_begin(f->store));
    event_store_advance(f->store, 0, f->hook.done_upto);
    assert_true(event_store_commit(f->store));
    f->hook.done_upto = 0;
}

static const char WELL[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
static const char REFUSED[] = "HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nno!";
static const char LATER[] = "HTTP/1.1 503 Later\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n";
static const char TOO_LARGE[] = "HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n";
static const char MOVED[] =
    "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n";

static void a_full_batch_goes_at_once_and_a_first_event_waits_for_others(void **state)
{
    struct fixture *f = *state;
    assert_false(act(f)); /* nothing waits */
    put(f, EVENT_DELIVERED, 1);
    assert_false(act(f));
    f->now += 999;
    assert_false(act(f));
    f->now += 1;
    assert_true(act(f));
    end(f, WELL);
    note_done(f);
    put(f, EVENT_DELIVERED, EVENTS);
    assert_true(act(f));
    end(f, WELL);
    note_done(f);
    assert_int_equal(f->hook.delivered, EVENTS + 1);
    assert_int_equal(event_store_pending(f->store, 0), 0);
    assert_false(act(f));
}

static void a_request_names_the_relay_and_holds_what_is_wanted(void **state)
{
    struct fixture *f = *state;
    put(f, EVENT_BOUNCED, 3);
    put(f, EVENT_DELIVERED, EVENTS);
    assert_true(act(f));
    end(f, WELL);
    const char *request = f->server.request;
    unsigned events = 0;
    for (const char *p = request; (p = strstr(p, "\"event_id\"")) != NULL; p++)
        events++;
    assert_int_equal(events, EVENTS);
    assert_non_null(strstr(request, "POST /hook?key=secret HTTP/1.1\r\n"));
    assert_non_null(strstr(request, "Content-Type: application/json\r\n"));
    assert_non_null(strstr(request, "{\"relay\":\"relay.example.net\",\"dropped\":0,\"events\":["));
}

static void logs_and_people_see_where_events_go_and_nothing_that_may_be_secret(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *url, *shown;
    } cases[] = {
        {"https://hooks.example.org/services/T0/secret", "https://hooks.example.org"},
        {"https://hooks.example.org:8443/secret?key=secret#secret",
         "https://hooks.example.org:8443"},
        {"http://me:sec@ret@[::1]:80/secret@x", "http://[::1]:80"},
        {"http://hooks.example.org?key=a@secret", "http://hooks.example.org"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct webhook hook;
        struct config_webhook config = f->config;
        config.url = cases[i].url;
        assert_true(webhook_init(&hook, &config, 0, f->multi, NULL));
        assert_string_equal(hook.shown_url, cases[i].shown);
        webhook_fini(&hook);
    }
}

static void a_refused_batch_comes_again_ever_later_and_at_once_when_it_was_taken(void **state)
{
    struct fixture *f = *state;
    uint64_t expected = 1000;
    put(f, EVENT_DELIVERED, EVENTS);
    for (unsigned i = 1; i <= 12; i++) {
        assert_true(act(f));
        end(f, REFUSED);
        assert_int_equal(f->hook.failures, i);
        assert_string_equal(f->hook.last_error, "HTTP status 500: no!");
        assert_int_equal(f->hook.done_upto, 0);
        uint64_t wait = f->hook.due_mono_ms - f->now;
        assert_in_range(wait, expected * 9 / 10, expected * 11 / 10);
        f->now += wait - 1;
        put(f, EVENT_DELIVERED, EVENTS); /* more of them hurry nobody */
        assert_false(act(f));
        f->now += 1;
        expected = expected * 2 < 300000 ? expected * 2 : 300000;
    }
    assert_true(act(f));
    end(f, WELL);
    assert_int_equal(f->hook.failures, 0);
    assert_int_equal(f->hook.delivered, EVENTS);
    assert_int_equal(f->hook.failed, 12);
    assert_false(act(f)); /* not before what was taken is written down */
    note_done(f);
    assert_true(act(f));
    end(f, WELL);
}

static void a_receiver_that_asks_for_time_gets_it(void **state)
{
    struct fixture *f = *state;
    put(f, EVENT_DELIVERED, EVENTS);
    assert_true(act(f));
    end(f, LATER);
    assert_int_equal(f->hook.due_mono_ms - f->now, 120000);
}

static void a_batch_that_is_too_large_is_halved_at_once_down_to_one_event(void **state)
{
    struct fixture *f = *state;
    put(f, EVENT_DELIVERED, EVENTS);
    for (unsigned size = EVENTS; size > 1; size /= 2) {
        assert_true(act(f));
        assert_int_equal(f->hook.sent.count, size);
        end(f, TOO_LARGE);
        assert_int_equal(f->hook.due_mono_ms, f->now);
    }
    assert_true(act(f));
    assert_int_equal(f->hook.sent.count, 1);
    end(f, TOO_LARGE); /* nothing is left to halve: later */
    assert_true(f->hook.due_mono_ms > f->now);
}

static void where_an_answer_points_to_is_not_followed(void **state)
{
    struct fixture *f = *state;
    put(f, EVENT_DELIVERED, EVENTS);
    assert_true(act(f));
    end(f, MOVED);
    assert_int_equal(f->hook.failures, 1);
    assert_non_null(strstr(f->hook.last_error, "HTTP status 302"));
}

static void an_answer_that_never_ends_is_cut_off_and_its_status_holds(void **state)
{
    struct fixture *f = *state;
    static const char *const heads[] = {"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 500 No\r\n\r\n"};
    enum { LENGTH = 1 << 20 };
    static char
        answers[2][LENGTH + 1]; /* the receiver may still be writing it when it has been cut off */
    for (unsigned i = 0; i < 2; i++) {
        char *answer = answers[i];
        memset(answer, 'x', LENGTH);
        memcpy(answer, heads[i], strlen(heads[i]));
        answer[LENGTH] = '\0';
        put(f, EVENT_DELIVERED, EVENTS);
        assert_true(act(f));
        end(f, answer);
        assert_int_equal(f->hook.failures, i);
        if (i == 0)
            note_done(f);
    }
}

static void without_its_token_nothing_is_sent(void **state)
{
    struct fixture *f = *state;
    f->config.token_file = "/nowhere/token";
    put(f, EVENT_DELIVERED, EVENTS);
    assert_false(act(f));
    assert_int_equal(f->hook.failures, 1);
    assert_string_equal(f->hook.last_error,
                        "events.webhooks.token_file /nowhere/token: No such file or directory");
    assert_true(f->hook.due_mono_ms > f->now);
}

static void a_token_that_would_smuggle_a_field_is_none(void **state)
{
    struct fixture *f = *state;
    char path[96];
    (void)snprintf(path, sizeof path, "%s/token", f->path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    (void)fputs("good\r\nX-Evil: 1\n", file);
    (void)fclose(file);
    f->config.token_file = path;
    put(f, EVENT_DELIVERED, EVENTS);
    assert_false(act(f));
    assert_int_equal(f->hook.failures, 1);
    assert_non_null(strstr(f->hook.last_error, "/token holds no token: one word"));
    f->config.token_file = NULL;
    (void)unlink(path);
}

static void what_nobody_wants_is_passed_by_without_a_request(void **state)
{
    struct fixture *f = *state;
    put(f, EVENT_BOUNCED, EVENTS);
    f->hook.due_mono_ms = f->now;
    assert_false(act(f));
    assert_int_equal(f->hook.failures, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_full_batch_goes_at_once_and_a_first_event_waits_for_others),
        TEST(logs_and_people_see_where_events_go_and_nothing_that_may_be_secret),
        TEST(a_request_names_the_relay_and_holds_what_is_wanted),
        TEST(a_refused_batch_comes_again_ever_later_and_at_once_when_it_was_taken),
        TEST(a_receiver_that_asks_for_time_gets_it),
        TEST(a_batch_that_is_too_large_is_halved_at_once_down_to_one_event),
        TEST(where_an_answer_points_to_is_not_followed),
        TEST(an_answer_that_never_ends_is_cut_off_and_its_status_holds),
        TEST(without_its_token_nothing_is_sent),
        TEST(a_token_that_would_smuggle_a_field_is_none),
        TEST(what_nobody_wants_is_passed_by_without_a_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
