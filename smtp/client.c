#include "smtp/client.h"

#include "core/base/assert.h"
#include "core/base/utf8.h"
#include "smtp/reply.h"

#include <stdlib.h>

enum {
    /* Commands whose replies are awaited, oldest first. A transaction awaits at most MAIL, its
     * recipients' RCPTs (as one entry with a count), DATA and the dot. */
    EXPECT_MAX = 8,
    /* Of many recipients, RCPTs are queued up to here; the next follow as replies come. So `out`
     * stays bounded however many there are, and no peer can be made to wait for us to read while we
     * wait for it (RFC 2920 3.1). */
    GROUP_BYTES = 32 * 1024,
};

struct expected {
    enum smtp_phase phase;
    uint32_t count; /* replies: 1, or a number of RCPTs */
};

struct smtp_client {
    struct smtp_client_options options;
    struct buf *out;
    enum smtp_phase phase;    /* what the next reply answers */
    enum smtp_phase ended_in; /* once CLOSED: the phase that failed */
    struct expected expect[EXPECT_MAX];
    unsigned expect_count;
    uint64_t replies;
    struct smtp_reply_parser parser;
    bool unasked; /* the reply being read began while nothing was awaited */
    struct smtp_capabilities caps;
    bool in_tls;
    enum smtp_client_trouble trouble;
    struct reply last;

    const struct smtp_transaction *txn; /* NULL between transactions */
    uint32_t rcpt_sent;                 /* two cursors: replied <= sent <= total */
    uint32_t rcpt_replied;
    bool mail_refused;
    bool data_sent;
    struct reply verdict; /* to MAIL, where it refused */
    bool ready_pending;   /* CLIENT_READY is to be told */
};

/* ---- the phase table ---- */

struct phase_info {
    const char *name;
    uint32_t limit_s;
    unsigned next; /* legal next phases, as bits; CLOSED can follow any */
};

static const struct phase_info *info_of(enum smtp_phase phase)
{
    static const struct phase_info table[] = {
#define TO(p)                          (1u << (p))
#define X(name, phrase, limit_s, next) [name] = {phrase, limit_s, next},
        SMTP_PHASES(X)
#undef X
#undef TO
    };
    return &table[phase];
}

const char *smtp_phase_name(enum smtp_phase phase)
{
    return info_of(phase)->name;
}

uint64_t smtp_phase_limit_ms(enum smtp_phase phase)
{
    return (uint64_t)info_of(phase)->limit_s * 1000;
}

static bool is_in_transaction(enum smtp_phase phase)
{
    return phase >= SMTP_MAIL && phase <= SMTP_DOT;
}

static void check(const struct smtp_client *c)
{
    bool closed = c->phase == SMTP_CLOSED;
    ASSERT(c->expect_count <= EXPECT_MAX);
    ASSERT(c->expect_count == 0 || c->expect[0].phase == c->phase);
    ASSERT((c->expect_count == 0) == (c->phase == SMTP_READY || closed));
    ASSERT(closed || (c->txn != NULL) == is_in_transaction(c->phase));
    if (c->txn != NULL)
        ASSERT(c->rcpt_replied <= c->rcpt_sent && c->rcpt_sent <= c->txn->recipient_count);
}

static void move(struct smtp_client *c, enum smtp_phase to)
{
    ASSERT(to == SMTP_CLOSED || to == c->phase || (info_of(c->phase)->next & (1u << to)) != 0);
    if (to == SMTP_CLOSED && c->phase != SMTP_CLOSED)
        c->ended_in = c->phase;
    c->phase = to;
    check(c);
}

/* ---- queueing commands ---- */

/* A command was queued: its reply is the last one awaited. */
static void expect(struct smtp_client *c, enum smtp_phase phase)
{
    struct expected *last = c->expect_count > 0 ? &c->expect[c->expect_count - 1] : NULL;
    if (phase == SMTP_RCPT && last != NULL && last->phase == SMTP_RCPT) {
        last->count++;
        return;
    }
    ASSERT(c->expect_count < EXPECT_MAX);
    c->expect[c->expect_count++] = (struct expected){phase, 1};
    if (c->expect_count == 1)
        move(c, phase);
}

/* One reply to the oldest command has come. The phase stays where nothing else is awaited: whoever
 * acts on the reply moves it. */
static void unexpect(struct smtp_client *c)
{
    if (--c->expect[0].count > 0)
        return;
    c->expect_count--;
    memmove(&c->expect[0], &c->expect[1], c->expect_count * sizeof c->expect[0]);
    if (c->expect_count > 0)
        move(c, c->expect[0].phase);
}

/* Text from an envelope: it was checked at submission, and must never be able to end a command
 * line. */
static void put_field(struct smtp_client *c, struct slice field)
{
    for (size_t i = 0; i < field.len; i++)
        ASSERT(field.ptr[i] != '\r' && field.ptr[i] != '\n' && field.ptr[i] != '\0');
    buf_append(c->out, field);
}

static void put(struct smtp_client *c, const char *text)
{
    buf_append_str(c->out, text);
}

static void send_ehlo(struct smtp_client *c, enum smtp_phase phase)
{
    c->caps = (struct smtp_capabilities){0};
    put(c, phase == SMTP_EHLO ? "EHLO " : "HELO ");
    put_field(c, slice_str(c->options.ehlo_name));
    put(c, "\r\n");
    expect(c, phase);
}

static bool has(const struct smtp_client *c, enum smtp_capability bit)
{
    return (c->caps.bits & (unsigned)bit) != 0;
}

/* RFC 6531: asked for only where an address or the header section holds UTF-8. */
static bool header_needs_utf8(const struct envelope *e)
{
    return (e->flags & ENVELOPE_HAS_UTF8_HEADER) != 0 || utf8_has_high(e->sender);
}

static bool needs_utf8(const struct smtp_transaction *t)
{
    if ((t->envelope->flags & ENVELOPE_SMTPUTF8) == 0)
        return false;
    if (header_needs_utf8(t->envelope))
        return true;
    for (uint32_t i = 0; i < t->recipient_count; i++)
        if (utf8_has_high(t->recipients[i].address))
            return true;
    return false;
}

static void send_mail(struct smtp_client *c)
{
    const struct envelope *e = c->txn->envelope;
    put(c, "MAIL FROM:<");
    put_field(c, e->sender);
    put(c, ">");
    if (has(c, SMTP_CAP_SIZE)) {
        put(c, " SIZE=");
        buf_append_u64(c->out, e->size_bytes);
    }
    if (has(c, SMTP_CAP_8BITMIME) && (e->flags & (ENVELOPE_BODY_8BIT | ENVELOPE_HAS_8BIT)) != 0)
        put(c, " BODY=8BITMIME");
    if (has(c, SMTP_CAP_SMTPUTF8) && needs_utf8(c->txn))
        put(c, " SMTPUTF8");
    if (has(c, SMTP_CAP_DSN) && e->ret != RET_NONE)
        put(c, e->ret == RET_FULL ? " RET=FULL" : " RET=HDRS");
    if (has(c, SMTP_CAP_DSN) && e->envid.len > 0) {
        put(c, " ENVID=");
        put_field(c, e->envid);
    }
    put(c, "\r\n");
    expect(c, SMTP_MAIL);
}

static void put_notify(struct smtp_client *c, unsigned notify)
{
    static const struct {
        enum envelope_notify bit;
        const char *name;
    } names[] = {{NOTIFY_NEVER, "NEVER"},
                 {NOTIFY_SUCCESS, "SUCCESS"},
                 {NOTIFY_FAILURE, "FAILURE"},
                 {NOTIFY_DELAY, "DELAY"}};
    const char *before = " NOTIFY=";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if ((notify & (unsigned)names[i].bit) == 0)
            continue;
        put(c, before);
        put(c, names[i].name);
        before = ",";
    }
}

static void send_rcpt(struct smtp_client *c)
{
    const struct envelope_recipient *r = &c->txn->recipients[c->rcpt_sent++];
    put(c, "RCPT TO:<");
    put_field(c, r->address);
    put(c, ">");
    if (has(c, SMTP_CAP_DSN)) {
        put_notify(c, r->notify);
        if (r->orcpt.len > 0) {
            put(c, " ORCPT=");
            put_field(c, r->orcpt);
        }
    }
    put(c, "\r\n");
    expect(c, SMTP_RCPT);
}

static void send_data(struct smtp_client *c)
{
    put(c, "DATA\r\n");
    c->data_sent = true;
    expect(c, SMTP_DATA);
}

static bool any_recipient_taken(const struct smtp_client *c)
{
    for (uint32_t i = 0; i < c->txn->recipient_count; i++)
        if (c->txn->replies[i].class == 2)
            return true;
    return false;
}

/* Without PIPELINING a group is one command. */
static bool may_send(const struct smtp_client *c)
{
    return c->expect_count == 0 || (has(c, SMTP_CAP_PIPELINING) && buf_len(c->out) < GROUP_BYTES);
}

/* Queues what may go now of the RCPTs and DATA. Behind a refused MAIL nothing more goes; DATA goes
 * along with RCPTs still unanswered, but not where it is known that nobody was taken. */
static void send_more(struct smtp_client *c)
{
    if (c->mail_refused || c->data_sent)
        return;
    while (c->rcpt_sent < c->txn->recipient_count && may_send(c))
        send_rcpt(c);
    if (c->rcpt_sent == c->txn->recipient_count && may_send(c) &&
        (c->expect_count > 0 || any_recipient_taken(c)))
        send_data(c);
}

/* ---- the ends of things ---- */

static enum smtp_client_event fail(struct smtp_client *c, enum smtp_client_trouble trouble,
                                   const struct reply *reply)
{
    c->trouble = trouble;
    c->last = *reply;
    c->expect_count = 0;
    move(c, SMTP_CLOSED);
    return CLIENT_FAILED;
}

static enum smtp_client_event fail_local(struct smtp_client *c, enum smtp_client_trouble trouble,
                                         enum reply_local code)
{
    struct reply reply = reply_local(code);
    return fail(c, trouble, &reply);
}

static void become_ready(struct smtp_client *c)
{
    move(c, SMTP_READY);
    c->ready_pending = true;
}

/* Recipients that are not decided yet get the reply that ended the transaction. */
static void settle_rest(struct smtp_client *c, const struct reply *reply)
{
    for (uint32_t i = 0; i < c->txn->recipient_count; i++)
        if (c->txn->replies[i].code == 0 || c->txn->replies[i].class == 2)
            c->txn->replies[i] = *reply;
}

/* Every recipient has its reply. */
static enum smtp_client_event transaction_over(struct smtp_client *c)
{
    c->txn = NULL;
    become_ready(c);
    return CLIENT_DONE;
}

/* The same where no content was sent: the server still holds the transaction. */
static enum smtp_client_event transaction_over_early(struct smtp_client *c)
{
    c->txn = NULL;
    put(c, "RSET\r\n");
    expect(c, SMTP_RSET);
    return CLIENT_DONE;
}

/* Where nothing is awaited and nothing more may go, the transaction ended before its content. */
static enum smtp_client_event go_on(struct smtp_client *c)
{
    send_more(c);
    if (c->expect_count > 0)
        return CLIENT_MORE;
    if (c->mail_refused)
        settle_rest(c, &c->verdict);
    return transaction_over_early(c);
}

/* ---- replies, by the command they answer ---- */

static enum smtp_client_event on_greeting(struct smtp_client *c, const struct reply *r)
{
    if (r->class == 4)
        return fail(c, TROUBLE_BUSY, r);
    if (r->class == 5)
        return fail(c, TROUBLE_REFUSING, r);
    send_ehlo(c, SMTP_EHLO);
    return CLIENT_MORE;
}

static enum smtp_client_event after_ehlo(struct smtp_client *c)
{
    bool wanted = !c->in_tls && c->options.tls != SMTP_TLS_OFF;
    if (wanted && has(c, SMTP_CAP_STARTTLS)) {
        put(c, "STARTTLS\r\n");
        expect(c, SMTP_STARTTLS);
        return CLIENT_MORE;
    }
    if (wanted && c->options.tls == SMTP_TLS_REQUIRED)
        return fail_local(c, TROUBLE_TLS_REQUIRED, LOCAL_TLS_REQUIRED);
    become_ready(c);
    return CLIENT_MORE;
}

static enum smtp_client_event on_ehlo(struct smtp_client *c, const struct reply *r)
{
    if (r->class == 2)
        return after_ehlo(c);
    if (r->class == 5) { /* RFC 5321 3.2: an old server; HELO on the same session */
        send_ehlo(c, SMTP_HELO);
        return CLIENT_MORE;
    }
    return fail(c, r->class == 4 ? TROUBLE_BUSY : TROUBLE_REFUSING, r);
}

static enum smtp_client_event on_helo(struct smtp_client *c, const struct reply *r)
{
    c->caps = (struct smtp_capabilities){0};
    if (r->class == 2)
        return after_ehlo(c);
    return fail(c, r->class == 4 ? TROUBLE_BUSY : TROUBLE_REFUSING, r);
}

static enum smtp_client_event on_starttls(struct smtp_client *c, const struct reply *r)
{
    if (r->class == 2) {
        expect(c, SMTP_TLS);
        return CLIENT_START_TLS;
    }
    if (c->options.tls == SMTP_TLS_REQUIRED)
        return fail(c, TROUBLE_TLS_REQUIRED, r);
    become_ready(c);
    return CLIENT_MORE;
}

static enum smtp_client_event on_mail(struct smtp_client *c, const struct reply *r)
{
    if (r->class != 2) { /* what was sent along is still answered, before the transaction is over */
        c->mail_refused = true;
        c->verdict = *r;
    }
    return go_on(c);
}

static enum smtp_client_event on_rcpt(struct smtp_client *c, const struct reply *r)
{
    c->txn->replies[c->rcpt_replied++] = c->mail_refused ? c->verdict : *r;
    return go_on(c);
}

static enum smtp_client_event on_data(struct smtp_client *c, const struct reply *r)
{
    bool taken = any_recipient_taken(c);
    if (r->class == 3 && taken) {
        expect(c, SMTP_BODY);
        return CLIENT_BODY;
    }
    if (r->class == 3) {
        /* RFC 2920 3.1: nobody was accepted, yet the server wants content: an empty one. */
        put(c, ".\r\n");
        expect(c, SMTP_DOT);
        return CLIENT_MORE;
    }
    if (r->class == 2 && taken)
        return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
    settle_rest(c, r);
    return transaction_over_early(c);
}

/* Where nobody was taken the content was empty, and its reply says nothing about anybody. */
static enum smtp_client_event on_dot(struct smtp_client *c, const struct reply *r)
{
    if (r->class == 3 && any_recipient_taken(c))
        return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
    settle_rest(c, r);
    return transaction_over(c);
}

/* 421 may answer any command (RFC 5321 3.8): the server is closing. In answer to the dot the
 * outcome is known all the same (not taken), and so it is where everybody has been refused before:
 * the transaction is over first, then the session fails. */
static enum smtp_client_event on_shutdown(struct smtp_client *c, const struct reply *r)
{
    bool decided =
        c->txn != NULL && (c->phase == SMTP_DOT ||
                           (c->rcpt_replied == c->txn->recipient_count && !any_recipient_taken(c)));
    if (decided)
        settle_rest(c, r);
    enum smtp_client_event event = fail(c, TROUBLE_BUSY, r);
    return decided ? CLIENT_DONE : event;
}

static enum smtp_client_event answer(struct smtp_client *c, enum smtp_phase answered,
                                     const struct reply *r)
{
    if (r->class == 3 && answered != SMTP_DATA && answered != SMTP_DOT)
        return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP); /* 3yz answers nothing else */
    switch (answered) {
    case SMTP_GREETING:
        return on_greeting(c, r);
    case SMTP_EHLO:
        return on_ehlo(c, r);
    case SMTP_HELO:
        return on_helo(c, r);
    case SMTP_STARTTLS:
        return on_starttls(c, r);
    case SMTP_MAIL:
        return on_mail(c, r);
    case SMTP_RCPT:
        return on_rcpt(c, r);
    case SMTP_DATA:
        return on_data(c, r);
    case SMTP_DOT:
        return on_dot(c, r);
    case SMTP_RSET:
        if (r->class != 2)
            return fail(c, TROUBLE_BUSY, r);
        become_ready(c);
        return CLIENT_MORE;
    case SMTP_BODY: /* a server that speaks before the content's end */
        return r->class == 2 ? fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP)
                             : fail(c, TROUBLE_CLOSED, r);
    case SMTP_QUIT:
        return fail(c, TROUBLE_CLOSED, r);
    case SMTP_TLS:
    case SMTP_READY:
    case SMTP_CLOSED:
        break;
    }
    return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
}

/* A complete reply: its command leaves the queue, the phase moves on to the next one awaited, if
 * any; then it is acted on, which may queue more. */
static enum smtp_client_event on_reply(struct smtp_client *c)
{
    struct reply r = c->parser.reply;
    smtp_reply_reset(&c->parser);
    c->replies++;
    /* 421 may answer any command, or none. Exchange says 451 to a connection that idled too long.
     */
    if (r.code == 421 || (c->unasked && r.class == 4))
        return on_shutdown(c, &r);
    if (c->unasked)
        return fail_local(c, TROUBLE_FLOOD, LOCAL_NOT_SMTP);
    enum smtp_phase answered = c->phase;
    unexpect(c);
    /* An answer to a command that has not been written yet is none. */
    if (c->expect_count == 0 && buf_len(c->out) > 0)
        return fail_local(c, TROUBLE_FLOOD, LOCAL_NOT_SMTP);
    return answer(c, answered, &r);
}

/* ---- public ---- */

struct smtp_client *smtp_client_create(const struct smtp_client_options *options, struct buf *out)
{
    struct smtp_client *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->options = *options;
    c->out = out;
    c->phase = SMTP_GREETING;
    smtp_reply_reset(&c->parser);
    expect(c, SMTP_GREETING);
    return c;
}

void smtp_client_destroy(struct smtp_client **c)
{
    free(*c);
    *c = NULL;
}

/* EHLO's lines behind the first are keywords (RFC 5321 4.1.1.1). */
static void on_ehlo_line(void *context, unsigned line, struct slice text)
{
    struct smtp_client *c = context;
    if (line > 0)
        smtp_capability_read(&c->caps, text);
}

/* Input is used up: what is there to tell? */
static enum smtp_client_event starved(struct smtp_client *c)
{
    bool ready = c->ready_pending;
    c->ready_pending = false;
    return ready ? CLIENT_READY : CLIENT_MORE;
}

/* Reads from `input` up to the end of one reply, which it acts on. */
static enum smtp_client_event feed_reply(struct smtp_client *c, struct slice input,
                                         size_t *used_out)
{
    if (input.len > 0 && smtp_reply_is_empty(&c->parser))
        c->unasked = c->expect_count == 0;
    switch (smtp_reply_feed(&c->parser, input, used_out,
                            c->phase == SMTP_EHLO ? on_ehlo_line : NULL, c)) {
    case SMTP_REPLY_MORE:
        return CLIENT_MORE;
    case SMTP_REPLY_GARBAGE:
        return fail_local(c, c->unasked ? TROUBLE_FLOOD : TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
    case SMTP_REPLY_TOO_LONG:
        return fail_local(c, TROUBLE_FLOOD, LOCAL_REPLY_TOO_LONG);
    case SMTP_REPLY_COMPLETE:
        break;
    }
    return on_reply(c);
}

enum smtp_client_event smtp_client_feed(struct smtp_client *c, struct slice input, size_t *used_out)
{
    ASSERT(c->phase != SMTP_TLS);
    *used_out = 0;
    if (c->phase == SMTP_CLOSED)
        return CLIENT_FAILED;
    while (*used_out < input.len) {
        size_t used = 0;
        enum smtp_client_event event = feed_reply(c, slice_skip(input, *used_out), &used);
        *used_out += used;
        /* RFC 3207 4.2: what came in clear behind the 220 is not believed. */
        if (event == CLIENT_START_TLS)
            *used_out = input.len;
        if (event != CLIENT_MORE)
            return event;
    }
    if (!buf_ok(c->out)) /* nothing may follow half a command */
        return fail_local(c, TROUBLE_NONE, LOCAL_NO_RESOURCES);
    return starved(c);
}

void smtp_client_tls_up(struct smtp_client *c)
{
    ASSERT(c->phase == SMTP_TLS && c->expect_count == 1);
    c->in_tls = true;
    c->expect_count = 0;
    smtp_reply_reset(&c->parser);
    send_ehlo(c, SMTP_EHLO);
}

bool smtp_client_can_carry(const struct smtp_client *c, const struct envelope *e,
                           const struct envelope_recipient *r, struct reply *why_out)
{
    ASSERT(c->phase == SMTP_READY);
    if (c->caps.size_max > 0 && e->size_bytes > c->caps.size_max)
        *why_out = reply_local(LOCAL_TOO_LARGE);
    else if ((e->flags & ENVELOPE_HAS_8BIT) != 0 && !has(c, SMTP_CAP_8BITMIME))
        *why_out = reply_local(LOCAL_NEEDS_8BITMIME);
    else if ((e->flags & ENVELOPE_SMTPUTF8) != 0 &&
             (header_needs_utf8(e) || utf8_has_high(r->address)) && !has(c, SMTP_CAP_SMTPUTF8))
        *why_out = reply_local(LOCAL_NEEDS_SMTPUTF8);
    else
        return true;
    return false;
}

void smtp_client_begin(struct smtp_client *c, const struct smtp_transaction *t)
{
    ASSERT(c->phase == SMTP_READY && t->recipient_count > 0);
    memset(t->replies, 0, t->recipient_count * sizeof *t->replies);
    c->ready_pending = false;
    c->txn = t;
    c->rcpt_sent = c->rcpt_replied = 0;
    c->mail_refused = c->data_sent = false;
    send_mail(c);
    send_more(c);
}

void smtp_client_body_sent(struct smtp_client *c)
{
    ASSERT(c->phase == SMTP_BODY && c->expect_count == 1);
    c->expect_count = 0;
    expect(c, SMTP_DOT);
}

void smtp_client_quit(struct smtp_client *c)
{
    ASSERT(c->phase == SMTP_READY);
    c->ready_pending = false;
    put(c, "QUIT\r\n");
    expect(c, SMTP_QUIT);
}

enum smtp_phase smtp_client_phase(const struct smtp_client *c)
{
    return c->phase;
}

enum smtp_phase smtp_client_last_phase(const struct smtp_client *c)
{
    return c->phase == SMTP_CLOSED ? c->ended_in : c->phase;
}

uint64_t smtp_client_replies(const struct smtp_client *c)
{
    return c->replies;
}

enum smtp_client_trouble smtp_client_trouble(const struct smtp_client *c)
{
    return c->trouble;
}

const struct reply *smtp_client_last_reply(const struct smtp_client *c)
{
    return &c->last;
}

unsigned smtp_client_capabilities(const struct smtp_client *c)
{
    return c->caps.bits;
}

uint32_t smtp_client_mail_max(const struct smtp_client *c)
{
    return c->caps.mail_max;
}

uint32_t smtp_client_rcpt_max(const struct smtp_client *c)
{
    return c->caps.rcpt_max;
}
