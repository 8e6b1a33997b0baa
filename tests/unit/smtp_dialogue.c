#include "tests/unit/smtp_dialogue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { TRANSACTIONS_MAX = 8, EVENTS_MAX = 64, LINE_SIZE = 1024, OUT_MAX = 65536 };

struct play {
    const struct dialogue *dialogue;
    size_t piece; /* bytes fed at once */
    struct smtp_client *client;
    struct buf out;
    struct buf wire;   /* what the client wrote */
    struct buf speech; /* what the server is about to say */
    struct smtp_transaction transactions[TRANSACTIONS_MAX];
    struct reply replies[TRANSACTIONS_MAX][DIALOGUE_RECIPIENTS_MAX];
    unsigned begun, done; /* transactions */
    unsigned reading;     /* the one whose replies are asked for */
    uint32_t replies_seen;
    enum smtp_client_event events[EVENTS_MAX];
    unsigned event_count, events_seen;
    bool failed;
    unsigned line; /* of the script, for messages */
};

static const char *event_name(enum smtp_client_event event)
{
    static const char *const names[] = {
        [CLIENT_MORE] = "MORE", [CLIENT_START_TLS] = "START_TLS", [CLIENT_READY] = "READY",
        [CLIENT_BODY] = "BODY", [CLIENT_DONE] = "DONE",           [CLIENT_FAILED] = "FAILED"};
    return names[event];
}

static const char *trouble_name(enum smtp_client_trouble trouble)
{
    static const char *const names[] = {[TROUBLE_NONE] = "NONE",
                                        [TROUBLE_CLOSED] = "CLOSED",
                                        [TROUBLE_NOT_SMTP] = "NOT_SMTP",
                                        [TROUBLE_FLOOD] = "FLOOD",
                                        [TROUBLE_BUSY] = "BUSY",
                                        [TROUBLE_REFUSING] = "REFUSING",
                                        [TROUBLE_TLS_REQUIRED] = "TLS_REQUIRED"};
    return names[trouble];
}

static void fail_at(const struct play *p, const char *what, const char *expected, const char *got)
{
    char piece[32] = "whole";
    if (p->piece != SIZE_MAX)
        (void)snprintf(piece, sizeof piece, "%zu at a time", p->piece);
    fail_msg("script line %u (%s): %s: expected \"%s\", got \"%s\"", p->line, piece, what, expected,
             got);
}

static void expect_text(const struct play *p, const char *what, const char *expected,
                        const char *got)
{
    if (strcmp(expected, got) != 0)
        fail_at(p, what, expected, got);
}

/* What the client queued goes out: the driver flushes before it reads. */
static void flush(struct play *p)
{
    assert_true(buf_ok(&p->out));
    if (buf_len(&p->out) == 0)
        return;
    buf_append(&p->wire, buf_slice(&p->out));
    buf_consume(&p->out, buf_len(&p->out));
}

/* One read of the driver, up to the last event that it brings. */
static void feed(struct play *p, struct slice input)
{
    for (;;) {
        size_t used = SIZE_MAX;
        enum smtp_client_event event = smtp_client_feed(p->client, input, &used);
        assert_true(used <= input.len);
        input = slice_skip(input, used);
        if (event == CLIENT_MORE) {
            assert_int_equal(input.len, 0);
            return;
        }
        assert_true(p->event_count < EVENTS_MAX);
        if (!p->failed)
            p->events[p->event_count++] = event;
        p->failed = event == CLIENT_FAILED;
        if (p->failed || event == CLIENT_START_TLS)
            return;
    }
}

/* All that the server said in a row so far. */
static void speak(struct play *p)
{
    struct slice rest = buf_len(&p->speech) > 0 ? buf_slice(&p->speech) : SLICE_LIT("");
    while (rest.len > 0) {
        flush(p);
        struct slice part = slice_take(rest, p->piece);
        rest = slice_skip(rest, part.len);
        char *exact = malloc(part.len);
        assert_non_null(exact);
        memcpy(exact, part.ptr, part.len);
        feed(p, slice_of(exact, part.len));
        free(exact);
    }
    buf_clear(&p->speech);
}

static void begin(struct play *p, enum smtp_content by)
{
    assert_true(p->begun < TRANSACTIONS_MAX);
    assert_true(smtp_client_may_begin(p->client));
    if (p->begun == p->done) {
        p->replies_seen = 0;
        p->reading = p->begun;
    }
    struct smtp_transaction *t = &p->transactions[p->begun];
    memset(p->replies[p->begun], 0x5a, sizeof p->replies[0]);
    *t = (struct smtp_transaction){.envelope = &p->dialogue->envelope,
                                   .recipients = p->dialogue->recipients,
                                   .replies = p->replies[p->begun],
                                   .recipient_count = p->dialogue->recipient_count,
                                   .by = by};
    p->begun++;
    smtp_client_begin(p->client, t);
}

static void act(struct play *p, const char *what)
{
    if (strcmp(what, "begin") == 0) {
        begin(p, SMTP_BY_DATA);
    } else if (strcmp(what, "begin by bdat") == 0) {
        begin(p, SMTP_BY_BDAT);
    } else if (strcmp(what, "retract") == 0) {
        buf_clear(&p->out);
        smtp_client_retract(p->client);
        p->begun--;
    } else if (strcmp(what, "goodbye") == 0) {
        assert_true(smtp_client_said_goodbye(p->client));
    } else if (strcmp(what, "sent") == 0) {
        smtp_client_body_sent(p->client);
    } else if (strcmp(what, "tls") == 0) {
        smtp_client_tls_up(p->client);
    } else if (strcmp(what, "quit") == 0) {
        smtp_client_quit(p->client);
    } else {
        fail_at(p, "action", "begin, retract, sent, tls, quit or goodbye", what);
    }
}

static void expect_command(struct play *p, const char *text)
{
    flush(p);
    struct slice wire = buf_len(&p->wire) > 0 ? buf_slice(&p->wire) : SLICE_LIT("");
    size_t len = slice_find(wire, '\n');
    if (len == wire.len)
        fail_at(p, "command", text, "(nothing)");
    char line[LINE_SIZE];
    assert_true(len > 0 && wire.ptr[len - 1] == '\r');
    assert_true(slice_to_cstr(slice_take(wire, len - 1), line, sizeof line));
    expect_text(p, "command", text, line);
    buf_consume(&p->wire, len + 1);
}

static void expect_event(struct play *p, const char *text)
{
    if (p->events_seen == p->event_count)
        fail_at(p, "event", text, "(none)");
    enum smtp_client_event event = p->events[p->events_seen++];
    expect_text(p, "event", text, event_name(event));
    if (event == CLIENT_DONE) {
        p->reading = p->done++;
        p->replies_seen = 0;
    }
}

static void expect_reply(struct play *p, const char *text)
{
    char got[LINE_SIZE];
    assert_true(p->replies_seen < p->dialogue->recipient_count);
    (void)reply_format(&p->replies[p->reading][p->replies_seen++], got, sizeof got);
    expect_text(p, "reply", text, got);
}

static void expect_failure(struct play *p, const char *text)
{
    char got[LINE_SIZE], reply[LINE_SIZE / 2];
    (void)reply_format(smtp_client_last_reply(p->client), reply, sizeof reply);
    (void)snprintf(got, sizeof got, "%s %s", trouble_name(smtp_client_trouble(p->client)), reply);
    expect_text(p, "failure", text, got);
    assert_int_equal(smtp_client_phase(p->client), SMTP_CLOSED);
}

static void expect_carriage(struct play *p, const char *text)
{
    char got[LINE_SIZE] = "yes";
    struct reply why;
    if (!smtp_client_can_carry(p->client, &p->dialogue->envelope, &p->dialogue->recipients[0],
                               &why))
        (void)reply_format(&why, got, sizeof got);
    expect_text(p, "carriage", text, got);
}

static void step(struct play *p, const char *line)
{
    const char *text = line + (line[1] == ':' ? 3 : 2);
    if (line[0] == 'S' || line[0] == 's') {
        buf_append_str(&p->speech, text);
        buf_append_str(&p->speech, line[0] == 'S' ? "\r\n" : "");
        return;
    }
    speak(p);
    switch (line[0]) {
    case 'C':
        expect_command(p, text);
        break;
    case '=':
        expect_event(p, text);
        break;
    case '!':
        act(p, text);
        break;
    case '?':
        expect_carriage(p, text);
        break;
    case 'R':
        expect_reply(p, text);
        break;
    case 'F':
        expect_failure(p, text);
        break;
    case 'P':
        expect_text(p, "phase", text, smtp_phase_name(smtp_client_last_phase(p->client)));
        break;
    default:
        fail_at(p, "script", "a known letter", line);
    }
}

static void finish(struct play *p)
{
    speak(p);
    flush(p);
    p->line++;
    if (p->events_seen < p->event_count)
        fail_at(p, "event", "(end)", event_name(p->events[p->events_seen]));
    if (buf_len(&p->wire) > 0)
        expect_command(p, "(end)");
    smtp_client_destroy(&p->client);
    assert_null(p->client);
    buf_fini(&p->out);
    buf_fini(&p->wire);
    buf_fini(&p->speech);
}

static void play(const struct dialogue *d, const char *script, size_t piece)
{
    struct play p = {.dialogue = d, .piece = piece};
    struct smtp_client_options options = {.ehlo_name = "relay.example", .tls = d->tls};
    buf_init(&p.out, OUT_MAX);
    buf_init(&p.wire, OUT_MAX);
    buf_init(&p.speech, 4 * OUT_MAX);
    p.client = smtp_client_create(&options, &p.out);
    assert_non_null(p.client);
    for (struct slice rest = slice_str(script); rest.len > 0;) {
        struct slice line = slice_take(rest, slice_find(rest, '\n'));
        char text[LINE_SIZE] = "";
        assert_true(line.len >= 2 && slice_to_cstr(line, text, sizeof text));
        rest = slice_skip(rest, line.len + 1);
        p.line++;
        step(&p, text);
    }
    finish(&p);
}

struct dialogue dialogue_for(uint32_t recipient_count)
{
    static const char *const names[DIALOGUE_RECIPIENTS_MAX] = {
        "one@rcpt.example", "two@rcpt.example", "three@rcpt.example", "four@rcpt.example"};
    assert_true(recipient_count <= DIALOGUE_RECIPIENTS_MAX);
    struct dialogue d = {.tls = SMTP_TLS_OFF, .recipient_count = recipient_count};
    d.envelope.sender = SLICE_LIT("a@sender.example");
    d.envelope.size_bytes = 1000;
    for (uint32_t i = 0; i < recipient_count; i++)
        d.recipients[i].address = slice_str(names[i]);
    return d;
}

void dialogue_play(const struct dialogue *d, const char *script)
{
    static const size_t pieces[] = {SIZE_MAX, 1, 2, 3, 7, 19};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        play(d, script, pieces[i]);
}

void dialogue_play_at_once(const struct dialogue *d, const char *script)
{
    play(d, script, SIZE_MAX);
}
