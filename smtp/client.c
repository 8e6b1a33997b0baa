#include "smtp/client.h"

#include "core/base/assert.h"
#include "smtp/reply.h"

#include <stdlib.h>

/* Commands whose replies are awaited, oldest first. A transaction awaits at most MAIL, its recipients' RCPTs (as one
 * entry with a count), DATA and the dot. */
enum { EXPECT_MAX = 8 };

struct expected {
    enum smtp_phase phase;
    uint32_t count; /* replies: 1, or the number of RCPTs */
};

struct smtp_client {
    struct smtp_client_options options;
    struct buf *out;
    enum smtp_phase phase; /* what the next reply answers */
    enum smtp_phase ended_in; /* once CLOSED: the phase that failed */
    struct expected expect[EXPECT_MAX];
    unsigned expect_count;
    uint64_t replies;
    struct smtp_reply_parser parser;
    struct smtp_capabilities caps;
    bool in_tls;
    enum smtp_client_trouble trouble;
    struct reply last;

    const struct smtp_transaction *txn; /* NULL between transactions */
    uint32_t rcpt_sent;    /* two cursors: replied <= sent <= total */
    uint32_t rcpt_replied;
    bool mail_refused;
    bool need_rset;
    struct reply verdict;  /* to MAIL or DATA, where it refused */
    bool ready_pending;    /* CLIENT_READY is to be told */
};

/* ---- the phase table ---- */

struct phase_info {
    const char *name;
    uint32_t limit_s;
};

static const struct phase_info *info_of(enum smtp_phase phase)
{
    static const struct phase_info table[] = {
#define X(name, phrase, limit_s) [name] = {phrase, limit_s},
        SMTP_PHASES(X)
#undef X
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

/* Legal next phases, as bits. CLOSED can follow any. */
static unsigned next_of(enum smtp_phase phase)
{
#define TO(p) (1u << (p))
    static const unsigned table[] = {
        [SMTP_GREETING] = TO(SMTP_EHLO) | TO(SMTP_QUIT),
        [SMTP_EHLO] = TO(SMTP_HELO) | TO(SMTP_STARTTLS) | TO(SMTP_READY) | TO(SMTP_QUIT),
        [SMTP_HELO] = TO(SMTP_READY) | TO(SMTP_QUIT),
        [SMTP_STARTTLS] = TO(SMTP_TLS) | TO(SMTP_READY),
        [SMTP_TLS] = TO(SMTP_EHLO),
        [SMTP_READY] = TO(SMTP_MAIL) | TO(SMTP_QUIT),
        [SMTP_MAIL] = TO(SMTP_RCPT) | TO(SMTP_RSET),
        [SMTP_RCPT] = TO(SMTP_DATA) | TO(SMTP_RSET),
        [SMTP_DATA] = TO(SMTP_BODY) | TO(SMTP_DOT) | TO(SMTP_RSET),
        [SMTP_BODY] = TO(SMTP_DOT),
        [SMTP_DOT] = TO(SMTP_READY),
        [SMTP_RSET] = TO(SMTP_READY),
        [SMTP_QUIT] = 0,
        [SMTP_CLOSED] = 0,
    };
#undef TO
    return table[phase];
}

static void check(const struct smtp_client *c)
{
    ASSERT_HOT(c->txn == NULL || (c->rcpt_replied <= c->rcpt_sent && c->rcpt_sent <= c->txn->recipient_count));
    ASSERT_HOT(c->expect_count <= EXPECT_MAX);
    ASSERT_HOT(c->phase != SMTP_READY || (c->txn == NULL && c->expect_count == 0));
    (void)c;
}

static void move(struct smtp_client *c, enum smtp_phase to)
{
    ASSERT(to == SMTP_CLOSED || to == c->phase || (next_of(c->phase) & (1u << to)) != 0);
    if (to == SMTP_CLOSED && c->phase != SMTP_CLOSED)
        c->ended_in = c->phase;
    c->phase = to;
    check(c);
}

/* ---- queueing commands ---- */

static void expect(struct smtp_client *c, enum smtp_phase phase, uint32_t count)
{
    ASSERT(c->expect_count < EXPECT_MAX);
    c->expect[c->expect_count++] = (struct expected){phase, count};
    if (c->expect_count == 1)
        move(c, phase);
}

/* Text from an envelope: it was checked at submission, and must never be able to end a command line. */
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
    expect(c, phase, 1);
}

static bool has(const struct smtp_client *c, enum smtp_capability bit)
{
    return (c->caps.bits & (unsigned)bit) != 0;
}

static bool has_8bit(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] >= 0x80)
            return true;
    return false;
}

/* RFC 6531: asked for only where an address or the header section holds UTF-8. */
static bool header_needs_utf8(const struct envelope *e)
{
    return (e->flags & ENVELOPE_HAS_UTF8_HEADER) != 0 || has_8bit(e->sender);
}

static bool needs_utf8(const struct smtp_transaction *t)
{
    if ((t->envelope->flags & ENVELOPE_SMTPUTF8) == 0)
        return false;
    if (header_needs_utf8(t->envelope))
        return true;
    for (uint32_t i = 0; i < t->recipient_count; i++)
        if (has_8bit(t->recipients[i].address))
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
    expect(c, SMTP_MAIL, 1);
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
}

static void send_data(struct smtp_client *c)
{
    put(c, "DATA\r\n");
    expect(c, SMTP_DATA, 1);
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

/* Every recipient has its reply. Where no content was sent the server still holds the transaction: RSET. */
static enum smtp_client_event transaction_over(struct smtp_client *c)
{
    ASSERT(c->expect_count == 0);
    c->txn = NULL;
    if (c->need_rset) {
        put(c, "RSET\r\n");
        expect(c, SMTP_RSET, 1);
    } else {
        become_ready(c);
    }
    return CLIENT_DONE;
}

static bool any_recipient_taken(const struct smtp_client *c)
{
    for (uint32_t i = 0; i < c->txn->recipient_count; i++)
        if (c->txn->replies[i].class == 2)
            return true;
    return false;
}

/* ---- replies, by the command they answer ---- */

static enum smtp_client_event on_greeting(struct smtp_client *c, const struct reply *r)
{
    if (r->class == 4)
        return fail(c, TROUBLE_BUSY, r);
    if (r->class == 5)
        return fail(c, TROUBLE_REFUSING, r);
    if (r->class != 2)
        return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
    send_ehlo(c, SMTP_EHLO);
    return CLIENT_MORE;
}

static enum smtp_client_event after_ehlo(struct smtp_client *c)
{
    bool wanted = !c->in_tls && c->options.tls != SMTP_TLS_OFF;
    if (wanted && has(c, SMTP_CAP_STARTTLS)) {
        put(c, "STARTTLS\r\n");
        expect(c, SMTP_STARTTLS, 1);
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
    if (r->class == 5 && !c->in_tls) { /* RFC 5321 3.2: an old server; HELO on the same session */
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
        expect(c, SMTP_TLS, 1);
        return CLIENT_START_TLS;
    }
    if (c->options.tls == SMTP_TLS_REQUIRED)
        return fail(c, TROUBLE_TLS_REQUIRED, r);
    become_ready(c);
    return CLIENT_MORE;
}

static bool pipelines(const struct smtp_client *c)
{
    return has(c, SMTP_CAP_PIPELINING);
}

static enum smtp_client_event on_mail(struct smtp_client *c, const struct reply *r)
{
    if (r->class != 2) {
        c->mail_refused = true;
        c->verdict = *r;
        if (pipelines(c))
            return CLIENT_MORE; /* the replies to what was sent along are still to come */
        settle_rest(c, r);
        c->need_rset = true;
        return transaction_over(c);
    }
    if (!pipelines(c)) {
        send_rcpt(c);
        expect(c, SMTP_RCPT, 1);
    }
    return CLIENT_MORE;
}

static enum smtp_client_event on_rcpt(struct smtp_client *c, const struct reply *r)
{
    c->txn->replies[c->rcpt_replied++] = c->mail_refused ? c->verdict : *r;
    if (pipelines(c))
        return CLIENT_MORE;
    if (c->rcpt_sent < c->txn->recipient_count) {
        send_rcpt(c);
        expect(c, SMTP_RCPT, 1);
        return CLIENT_MORE;
    }
    if (any_recipient_taken(c)) {
        send_data(c);
        return CLIENT_MORE;
    }
    c->need_rset = true;
    return transaction_over(c);
}

static enum smtp_client_event on_data(struct smtp_client *c, const struct reply *r)
{
    bool taken = any_recipient_taken(c);
    if (r->class == 3 && taken) {
        expect(c, SMTP_BODY, 1);
        return CLIENT_BODY;
    }
    if (r->class == 3) { /* RFC 2920 3.1: nobody was accepted, yet the server wants content: an empty one */
        put(c, ".\r\n");
        expect(c, SMTP_DOT, 1);
        return CLIENT_MORE;
    }
    if (r->class == 2 && taken)
        return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
    if (taken)
        settle_rest(c, r);
    c->need_rset = true;
    return transaction_over(c);
}

static enum smtp_client_event on_dot(struct smtp_client *c, const struct reply *r)
{
    if (any_recipient_taken(c)) {
        if (r->class == 3)
            return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
        settle_rest(c, r);
    }
    return transaction_over(c);
}

/* 421 may answer any command (RFC 5321 3.8): the server is closing. What was not decided shares its verdict. */
static enum smtp_client_event on_shutdown(struct smtp_client *c, const struct reply *r)
{
    bool final = c->phase == SMTP_DOT;
    if (final && c->txn != NULL && any_recipient_taken(c)) {
        /* An answer to the dot, so the outcome is known: not taken. The driver closes at the next event. */
        settle_rest(c, r);
        c->txn = NULL;
        c->need_rset = false;
        c->trouble = TROUBLE_BUSY;
        c->last = *r;
        move(c, SMTP_CLOSED);
        return CLIENT_DONE;
    }
    return fail(c, TROUBLE_BUSY, r);
}

static enum smtp_client_event answer(struct smtp_client *c, enum smtp_phase answered,
                                     const struct reply *r)
{
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
        return r->class == 2 || r->class == 3 ? fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP)
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

/* A complete reply: its command leaves the queue, the phase moves on to the next one awaited, if any; then it is
 * answered, which may queue more. */
static enum smtp_client_event on_reply(struct smtp_client *c)
{
    struct reply r = c->parser.reply;
    smtp_reply_reset(&c->parser);
    c->replies++;
    if (c->expect_count == 0) /* nothing was asked: a server that goes, or one that floods */
        return r.code == 421 ? fail(c, TROUBLE_BUSY, &r)
                             : fail_local(c, TROUBLE_FLOOD, LOCAL_NOT_SMTP);
    if (r.code == 421) /* may answer any command */
        return on_shutdown(c, &r);
    enum smtp_phase answered = c->expect[0].phase;
    if (--c->expect[0].count == 0) {
        c->expect_count--;
        memmove(&c->expect[0], &c->expect[1], c->expect_count * sizeof c->expect[0]);
        if (c->expect_count > 0)
            move(c, c->expect[0].phase);
    }
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
    expect(c, SMTP_GREETING, 1);
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

enum smtp_client_event smtp_client_feed(struct smtp_client *c, struct slice input, size_t *used_out)
{
    *used_out = 0;
    for (;;) {
        if (c->phase == SMTP_CLOSED)
            return CLIENT_FAILED;
        if (c->ready_pending) {
            c->ready_pending = false;
            return CLIENT_READY;
        }
        struct slice rest = slice_skip(input, *used_out);
        size_t used = 0;
        enum smtp_reply_status status = smtp_reply_feed(
            &c->parser, rest, &used, c->phase == SMTP_EHLO ? on_ehlo_line : NULL, c);
        *used_out += used;
        switch (status) {
        case SMTP_REPLY_MORE:
            return CLIENT_MORE;
        case SMTP_REPLY_GARBAGE:
            return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
        case SMTP_REPLY_TOO_LONG:
            return fail_local(c, TROUBLE_FLOOD, LOCAL_REPLY_TOO_LONG);
        case SMTP_REPLY_COMPLETE:
            break;
        }
        enum smtp_client_event event = on_reply(c);
        if (event == CLIENT_START_TLS)
            *used_out = input.len; /* RFC 3207 4.2: what came in clear behind the 220 is not believed */
        if (event != CLIENT_MORE)
            return event;
    }
}

void smtp_client_tls_up(struct smtp_client *c)
{
    ASSERT(c->phase == SMTP_TLS && c->expect_count == 1);
    c->in_tls = true;
    c->expect_count = 0;
    smtp_reply_reset(&c->parser);
    send_ehlo(c, SMTP_EHLO);
}

bool smtp_client_can_carry(const struct smtp_client *c, const struct envelope *e, const struct envelope_recipient *r,
                           struct reply *why_out)
{
    ASSERT(c->phase == SMTP_READY);
    if (c->caps.size_max > 0 && e->size_bytes > c->caps.size_max)
        *why_out = reply_local(LOCAL_TOO_LARGE);
    else if ((e->flags & ENVELOPE_HAS_8BIT) != 0 && !has(c, SMTP_CAP_8BITMIME))
        *why_out = reply_local(LOCAL_NEEDS_8BITMIME);
    else if ((e->flags & ENVELOPE_SMTPUTF8) != 0 && (header_needs_utf8(e) || has_8bit(r->address)) &&
             !has(c, SMTP_CAP_SMTPUTF8))
        *why_out = reply_local(LOCAL_NEEDS_SMTPUTF8);
    else
        return true;
    return false;
}

void smtp_client_begin(struct smtp_client *c, const struct smtp_transaction *t)
{
    ASSERT(c->phase == SMTP_READY && t->recipient_count > 0);
    c->ready_pending = false;
    c->txn = t;
    c->rcpt_sent = c->rcpt_replied = 0;
    c->mail_refused = c->need_rset = false;
    send_mail(c);
    if (!pipelines(c))
        return;
    while (c->rcpt_sent < t->recipient_count)
        send_rcpt(c);
    expect(c, SMTP_RCPT, t->recipient_count);
    send_data(c);
}

void smtp_client_body_sent(struct smtp_client *c)
{
    ASSERT(c->phase == SMTP_BODY && c->expect_count == 1);
    c->expect_count = 0;
    expect(c, SMTP_DOT, 1);
}

void smtp_client_quit(struct smtp_client *c)
{
    ASSERT(c->phase == SMTP_READY);
    c->ready_pending = false;
    put(c, "QUIT\r\n");
    expect(c, SMTP_QUIT, 1);
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
