/* A content on its way to a connection: every byte once, stuffed where it must be, and the last one
 * only with the commit token, which is held no longer than that byte is with the kernel. */
#include "workers/outbound/body.h"

#include "tests/unit/spool_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

enum { ID = 7, RECEIVED_MAX = 1 << 20 };

/* A spool with one content, a connection with a small send buffer, and the peer's end of it. */
struct world {
    char path[64];
    struct store *store;
    struct store_reader *reader;
    struct poller *poller;
    struct conn conn;
    struct body body;
    int peer;
    bool token_free;
    unsigned asked;
    struct buf content, received, out;
};

static void on_ready(struct watch *watch, unsigned events)
{
    (void)watch, (void)events;
}

static struct world *create(void)
{
    struct world *w = calloc(1, sizeof *w);
    int fds[2];
    assert_non_null(w);
    make_spool_path(w->path);
    w->store = open_spool(w->path, 16 << 20, 0);
    w->reader = store_reader_create(w->store);
    w->poller = poller_create();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    int bytes = 4096;
    assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), 0);
    assert_true(conn_open(&w->conn, w->poller, fds[0], on_ready));
    w->peer = fds[1];
    w->token_free = true;
    buf_init(&w->content, RECEIVED_MAX);
    buf_init(&w->received, RECEIVED_MAX);
    buf_init(&w->out, RECEIVED_MAX);
    return w;
}

static void destroy(struct world *w)
{
    buf_fini(&w->content);
    buf_fini(&w->received);
    buf_fini(&w->out);
    conn_close(&w->conn);
    if (w->peer >= 0)
        (void)close(w->peer);
    poller_destroy(&w->poller);
    store_reader_destroy(&w->reader);
    store_close(&w->store);
    remove_spool(w->path);
    free(w);
}

/* Stores `lines` lines of `line`, all but `missing` last chunks of them, and begins to send. */
static void begin_by(struct world *w, const char *line, unsigned lines, uint32_t missing,
                     bool by_bdat)
{
    for (unsigned i = 0; i < lines; i++)
        buf_append_str(&w->content, line);
    struct slice rest = buf_slice(&w->content);
    uint32_t chunks = (uint32_t)((rest.len + STORE_CHUNK_BYTES - 1) / STORE_CHUNK_BYTES);
    assert_int_equal(store_begin(w->store), STORE_OK);
    for (uint32_t i = 0; i + missing < chunks; i++) {
        struct slice chunk = slice_take(rest, STORE_CHUNK_BYTES);
        assert_int_equal(store_put_chunk(w->store, ID, i, chunk), STORE_OK);
        rest = slice_skip(rest, chunk.len);
    }
    assert_int_equal(store_commit(w->store), STORE_OK);
    body_begin(&w->body, ID, buf_len(&w->content), line[0] == '.', by_bdat);
}

static void begin(struct world *w, const char *line, unsigned lines, uint32_t missing)
{
    begin_by(w, line, lines, missing, false);
}

static bool take_token(void *context)
{
    struct world *w = context;
    w->asked++;
    return w->token_free;
}

static enum body_status go_on(struct world *w)
{
    return body_send(&w->body, &w->conn, &w->out, w->reader, take_token, w);
}

/* The peer reads at most `max` bytes of what has come. */
static void drain(struct world *w, size_t max)
{
    char bytes[4096];
    while (max > 0) {
        ssize_t n = recv(w->peer, bytes, max < sizeof bytes ? max : sizeof bytes, 0);
        if (n <= 0)
            return;
        buf_append(&w->received, slice_of(bytes, (size_t)n));
        max -= (size_t)n;
    }
}

static enum body_status send_all(struct world *w)
{
    enum body_status status;
    while ((status = go_on(w)) == BODY_AGAIN)
        drain(w, 5000);
    drain(w, SIZE_MAX);
    return status;
}

/* What came is the content, with a dot in front of each line where `stuffed`, and `end` behind. */
static void assert_received(const struct world *w, bool stuffed, const char *end)
{
    struct buf expected;
    struct slice rest = buf_slice(&w->content);
    buf_init(&expected, RECEIVED_MAX);
    while (rest.len > 0) {
        struct slice line = slice_take(rest, slice_find(rest, '\n') + 1);
        buf_append_str(&expected, stuffed ? "." : "");
        buf_append(&expected, line);
        rest = slice_skip(rest, line.len);
    }
    buf_append_str(&expected, end);
    assert_true(slice_equal(buf_slice(&expected), buf_slice(&w->received)));
    buf_fini(&expected);
}

static void every_content_arrives_whole_whatever_the_connection_takes_at_once(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        unsigned lines;
    } table[] = {
        {"x\r\n", 0},      {"x\r\n", 1},        {".\r\n", 1},     {"hello\r\n", 9362},
        {"hi\r\n", 16384}, {".dots\r\n", 9362}, {".\r\n", 50000}, {"twelve..\r\n", 20000},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct world *w = create();
        begin(w, table[i].line, table[i].lines, 0);
        assert_int_equal(send_all(w), BODY_SENT);
        assert_true(w->body.committed);
        assert_received(w, table[i].line[0] == '.', ".\r\n");
        destroy(w);
    }
}

static void without_the_token_all_but_the_end_goes_out(void **state)
{
    (void)state;
    struct world *w = create();
    w->token_free = false;
    begin(w, "hello\r\n", 20000, 0);
    assert_int_equal(send_all(w), BODY_NO_TOKEN);
    assert_false(w->body.committed);
    assert_received(w, false, "");
    destroy(w);
}

static void the_token_is_not_asked_for_before_the_end_is_in_reach(void **state)
{
    (void)state;
    struct world *w = create();
    begin(w, "0123456789abcde\n", 3 * STORE_CHUNK_BYTES / 16, 0);
    while (w->body.sent < 2 * STORE_CHUNK_BYTES) {
        assert_int_equal(w->asked, 0);
        assert_int_equal(go_on(w), BODY_AGAIN);
        drain(w, 1000);
    }
    assert_int_equal(send_all(w), BODY_SENT);
    assert_true(w->asked > 0);
    destroy(w);
}

static void a_peer_that_stops_reading_near_the_end_does_not_hold_the_token(void **state)
{
    (void)state;
    struct world *w = create();
    begin(w, "hello\r\n", 8000, 0); /* one chunk: the end is in reach of the first write */
    assert_int_equal(go_on(w), BODY_AGAIN);
    assert_true(w->asked > 0 && w->body.sent > 0 && w->body.sent < w->body.size);
    assert_false(w->body.committed);
    w->token_free = false; /* another session is faster */
    assert_int_equal(send_all(w), BODY_NO_TOKEN);
    assert_received(w, false, "");
    destroy(w);
}

static void a_connection_that_breaks_before_the_last_byte_has_committed_nothing(void **state)
{
    (void)state;
    struct world *w = create();
    begin(w, "hello\r\n", 3, 0);
    (void)close(w->peer);
    w->peer = -1;
    assert_int_equal(go_on(w), BODY_LOST);
    assert_true(w->asked > 0);
    assert_false(w->body.committed);
    destroy(w);
}

static void a_content_with_a_part_missing_is_never_ended(void **state)
{
    (void)state;
    struct world *w = create();
    begin(w, "hello\r\n", 20000, 1);
    assert_int_equal(send_all(w), BODY_DAMAGED);
    assert_int_equal(w->asked, 0);
    assert_true(buf_len(&w->received) < buf_len(&w->content));
    destroy(w);
}

static void by_bdat_the_commands_go_in_front_and_the_content_as_it_is(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        unsigned lines;
    } table[] = {{"x\r\n", 1}, {".\r\n", 1}, {".dots\r\n", 9362}, {"hi\r\n", 40000}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct world *w = create();
        begin_by(w, table[i].line, table[i].lines, 0, true);
        buf_append_str(&w->out, "BDAT LAST\r\n");
        assert_int_equal(send_all(w), BODY_SENT);
        assert_true(w->body.committed);
        assert_int_equal(buf_len(&w->out), 0);
        assert_memory_equal(buf_slice(&w->received).ptr, "BDAT LAST\r\n", 11);
        buf_consume(&w->received, 11);
        assert_received(w, false, "");
        destroy(w);
    }
}

/* Not even the command that announces it: its size would be owed. */
static void by_bdat_nothing_goes_out_without_the_token(void **state)
{
    (void)state;
    struct world *w = create();
    w->token_free = false;
    begin_by(w, "hello\r\n", 3, 0, true);
    buf_append_str(&w->out, "BDAT LAST\r\n");
    assert_int_equal(send_all(w), BODY_NO_TOKEN);
    assert_int_equal(buf_len(&w->received), 0);
    destroy(w);
}

static void what_follows_the_end_shares_its_write(void **state)
{
    (void)state;
    struct world *w = create();
    begin(w, "hello\r\n", 3, 0);
    assert_true(body_end_is_near(&w->body));
    buf_append_str(&w->out, "MAIL\r\n");
    assert_int_equal(go_on(w), BODY_SENT);
    char bytes[64];
    ssize_t n = recv(w->peer, bytes, sizeof bytes, 0); /* one write, one datagram's worth */
    assert_int_equal(n, 3 * 7 + 3 + 6);
    assert_memory_equal(bytes + 21, ".\r\nMAIL\r\n", 9);
    destroy(w);
}

static void what_follows_an_end_that_did_not_go_stays(void **state)
{
    (void)state;
    struct world *w = create();
    begin(w, "hello\r\n", 2000, 0);
    assert_true(body_end_is_near(&w->body));
    buf_append_str(&w->out, "MAIL\r\n");
    assert_int_equal(go_on(w), BODY_AGAIN);
    assert_false(w->body.committed);
    assert_int_equal(buf_len(&w->out), 6);
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_content_arrives_whole_whatever_the_connection_takes_at_once),
        cmocka_unit_test(without_the_token_all_but_the_end_goes_out),
        cmocka_unit_test(the_token_is_not_asked_for_before_the_end_is_in_reach),
        cmocka_unit_test(a_peer_that_stops_reading_near_the_end_does_not_hold_the_token),
        cmocka_unit_test(a_connection_that_breaks_before_the_last_byte_has_committed_nothing),
        cmocka_unit_test(a_content_with_a_part_missing_is_never_ended),
        cmocka_unit_test(by_bdat_the_commands_go_in_front_and_the_content_as_it_is),
        cmocka_unit_test(by_bdat_nothing_goes_out_without_the_token),
        cmocka_unit_test(what_follows_the_end_shares_its_write),
        cmocka_unit_test(what_follows_an_end_that_did_not_go_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
