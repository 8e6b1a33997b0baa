#include "smtp/client.h"

#include "core/base/assert.h"
#include "core/base/utf8.h"
#include "smtp/put.h"
#include "smtp/reply.h"

#include <stdlib.h>

enum {
    /* Of many recipients, RCPTs are queued up to here; the next follow as replies come. So `out`
     * stays bounded however many there are, and no peer can be made to wait for us to read while we
     * wait for it (RFC 2920 3.1). */
    GROUP_BYTES = 32 * 1024,
};

struct smtp_client {
    struct smtp_client_options options;
    struct buf *out;
    enum smtp_phase phase;    /* what the next reply answers */
    enum smtp_phase ended_in; /* once CLOSED: the phase that failed */
    enum smtp_phase awaited;  /* outside of transactions: what is; READY: nothing */
    struct link transactions; /* struct smtp_transaction, by own.link; oldest first */
    uint64_t replies;
    struct smtp_reply_parser parser;
    bool unasked; /* the reply being read began while nothing was awaited */
    struct smtp_capabilities caps;
    bool in_tls;
    bool ready_pending; /* CLIENT_READY is to be told */
    bool closing;       /* it has said 421, and answers to what was sent may still come */
    bool said_goodbye;  /* 421 was its last reply */
    enum smtp_client_trouble trouble;
    struct reply last;
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

/* ---- the queue of transactions ---- */

static struct smtp_transaction *transaction_of(struct link *l)
{
    return CONTAINER_OF(l, struct smtp_transaction, own.link);
}

static struct smtp_transaction *oldest(const struct smtp_client *c)
{
    return list_empty(&c->transactions) ? NULL : transaction_of(c->transactions.next);
}

static struct smtp_transaction *newest(const struct smtp_client *c)
{
    return list_empty(&c->transactions) ? NULL : transaction_of(c->transactions.prev);
}

/* What the next reply to this transaction answers; READY: nothing is awaited. */
static enum smtp_phase awaited_in(const struct smtp_transaction *t)
{
    if (t->own.rset_awaited)
        return SMTP_RSET;
    if (t->own.mail_awaited)
        return SMTP_MAIL;
    return t->own.rcpt_replied < t->own.rcpt_sent ? SMTP_RCPT : t->own.end_awaited;
}

static enum smtp_phase awaited(const struct smtp_client *c)
{
    const struct smtp_transaction *t = oldest(c);
    return t != NULL ? awaited_in(t) : c->awaited;
}

static void check(const struct smtp_client *c)
{
    if (c->phase == SMTP_CLOSED)
        return;
    ASSERT(c->phase == awaited(c));
    ASSERT(c->awaited == SMTP_READY || list_empty(&c->transactions));
    const struct smtp_transaction *last = newest(c);
    for (struct link *l = c->transactions.next; l != &c->transactions; l = l->next) {
        const struct smtp_transaction *t = transaction_of(l);
        ASSERT(t->own.rcpt_replied <= t->own.rcpt_sent && t->own.rcpt_sent <= t->recipient_count);
        ASSERT(awaited_in(t) != SMTP_READY);
        ASSERT(t == last || t->own.end_sent || t->own.end_awaited == SMTP_BODY);
    }
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

static void put(struct smtp_client *c, const char *text)
{
    buf_append_str(c->out, text);
}

static void send_ehlo(struct smtp_client *c, enum smtp_phase phase)
{
    c->caps = (struct smtp_capabilities){0};
    put(c, phase == SMTP_EHLO ? "EHLO " : "HELO ");
    smtp_put_field(c->out, slice_str(c->options.ehlo_name));
    put(c, "\r\n");
    c->awaited = phase;
}

static bool has(const struct smtp_client *c, enum smtp_capability bit)
{
    return (c->caps.bits & (unsigned)bit) != 0;
}

/* Clears the server's buffers behind a transaction that was not taken. */
static void send_rset(struct smtp_client *c)
{
    put(c, "RSET\r\n");
    c->awaited = SMTP_RSET;
}

static bool any_recipient_taken(const struct smtp_transaction *t)
{
    for (uint32_t i = 0; i < t->recipient_count; i++)
        if (t->replies[i].class == 2)
            return true;
    return false;
}

/* Without PIPELINING a group is one command. */
static bool may_send(const struct smtp_client *c, const struct smtp_transaction *t)
{
    return awaited_in(t) == SMTP_READY ||
           (has(c, SMTP_CAP_PIPELINING) && buf_len(c->out) < GROUP_BYTES);
}

static void send_end(struct smtp_client *c, struct smtp_transaction *t)
{
    t->own.end_begun = true;
    if (t->by == SMTP_BY_BDAT)
        smtp_put_bdat_last(c->out, t->envelope->size_bytes);
    else
        put(c, "DATA\r\n");
    t->own.end_awaited = t->by == SMTP_BY_BDAT ? SMTP_BDAT : SMTP_DATA;
}

/* Queues what may go now of the RCPTs, and DATA or BDAT. Behind a refused MAIL nothing more goes;
 * DATA goes along with RCPTs still unanswered, but not where it is known that nobody was taken. */
static void send_more(struct smtp_client *c, struct smtp_transaction *t)
{
    if (t->own.mail_refused || t->own.end_begun)
        return;
    while (t->own.rcpt_sent < t->recipient_count && may_send(c, t)) {
        smtp_put_rcpt(c->out, &c->caps, &t->recipients[t->own.rcpt_sent]);
        t->own.rcpt_sent++;
    }
    if (t->own.rcpt_sent == t->recipient_count && may_send(c, t) &&
        (awaited_in(t) != SMTP_READY || any_recipient_taken(t)))
        send_end(c, t);
}

/* ---- the ends of things ---- */

static enum smtp_client_event fail(struct smtp_client *c, enum smtp_client_trouble trouble,
                                   const struct reply *reply)
{
    c->trouble = trouble;
    c->last = *reply;
    move(c, SMTP_CLOSED);
    return CLIENT_FAILED;
}

static enum smtp_client_event fail_local(struct smtp_client *c, enum smtp_client_trouble trouble,
                                         enum reply_local code)
{
    struct reply reply = reply_local(code);
    return fail(c, trouble, &reply);
}

/* Recipients that are not decided yet get the reply that ended the transaction. */
static void settle_rest(struct smtp_transaction *t, const struct reply *reply)
{
    for (uint32_t i = 0; i < t->recipient_count; i++)
        if (t->replies[i].code == 0 || t->replies[i].class == 2)
            t->replies[i] = *reply;
}

/* Every recipient has its reply. `is_clean`: the server holds nothing of it any more. */
static enum smtp_client_event transaction_over(struct smtp_client *c, struct smtp_transaction *t,
                                               bool is_clean)
{
    list_remove(&t->own.link);
    if (!list_empty(&c->transactions))
        return CLIENT_DONE; /* behind a BDAT: it opens with RSET */
    if (c->closing) {
        struct reply farewell = c->last;
        (void)fail(c, TROUBLE_BUSY, &farewell);
    } else if (is_clean) {
        c->ready_pending = true;
    } else {
        send_rset(c);
    }
    return CLIENT_DONE;
}

/* It is decided, and so is the session. */
static enum smtp_client_event transaction_and_session_over(struct smtp_client *c,
                                                           struct smtp_transaction *t,
                                                           enum smtp_client_trouble trouble,
                                                           const struct reply *r)
{
    settle_rest(t, r);
    list_remove(&t->own.link);
    (void)fail(c, trouble, r);
    return CLIENT_DONE;
}

/* Where nothing is awaited and nothing more may go, the transaction ended before its content. */
static enum smtp_client_event go_on(struct smtp_client *c, struct smtp_transaction *t)
{
    send_more(c, t);
    return awaited_in(t) != SMTP_READY ? CLIENT_MORE : transaction_over(c, t, false);
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
        c->awaited = SMTP_STARTTLS;
        return CLIENT_MORE;
    }
    if (wanted && c->options.tls == SMTP_TLS_REQUIRED)
        return fail_local(c, TROUBLE_TLS_REQUIRED, LOCAL_TLS_REQUIRED);
    c->ready_pending = true;
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
        c->awaited = SMTP_TLS;
        return CLIENT_START_TLS;
    }
    if (c->options.tls == SMTP_TLS_REQUIRED)
        return fail(c, TROUBLE_TLS_REQUIRED, r);
    c->ready_pending = true;
    return CLIENT_MORE;
}

/* RSET in front of a transaction, or behind the last one. */
static enum smtp_client_event on_rset(struct smtp_client *c, const struct smtp_transaction *t,
                                      const struct reply *r)
{
    if (c->said_goodbye)
        return CLIENT_MORE;
    if (r->class != 2)
        return fail(c, TROUBLE_BUSY, r);
    c->ready_pending = t == NULL;
    return CLIENT_MORE;
}

static enum smtp_client_event on_mail(struct smtp_client *c, struct smtp_transaction *t,
                                      const struct reply *r)
{
    if (r->class != 2) { /* what was sent along is still answered, before the transaction is over */
        t->own.mail_refused = true;
        settle_rest(t, r);
    }
    return go_on(c, t);
}

static enum smtp_client_event on_rcpt(struct smtp_client *c, struct smtp_transaction *t,
                                      const struct reply *r)
{
    if (!t->own.mail_refused)
        t->replies[t->own.rcpt_replied - 1] = *r;
    return go_on(c, t);
}

static enum smtp_client_event on_data(struct smtp_client *c, struct smtp_transaction *t,
                                      const struct reply *r)
{
    bool taken = any_recipient_taken(t);
    if (r->class == 3 && taken) {
        t->own.end_awaited = SMTP_BODY;
        return CLIENT_BODY;
    }
    if (r->class == 3) {
        /* RFC 2920 3.1: nobody was accepted, yet the server wants content: an empty one. */
        put(c, ".\r\n");
        t->own.end_awaited = SMTP_DOT;
        return CLIENT_MORE;
    }
    if (r->class == 2 && taken)
        return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
    settle_rest(t, r);
    return transaction_over(c, t, false);
}

/* Where nobody was taken the content was empty, and its reply says nothing about anybody. */
static enum smtp_client_event on_dot(struct smtp_client *c, struct smtp_transaction *t,
                                     const struct reply *r)
{
    if (r->class == 3 && any_recipient_taken(t))
        return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
    settle_rest(t, r);
    return transaction_over(c, t, true);
}

/* A server that speaks before the content's end has given it up, unless it says that it took it. */
static enum smtp_client_event on_early_word(struct smtp_client *c, const struct reply *r)
{
    return r->class == 2 ? fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP)
                         : fail(c, TROUBLE_CLOSED, r);
}

/* Offered, and then not understood: the content was read as commands, or will be. */
static bool denies_bdat(const struct reply *r)
{
    return r->code >= 500 && r->code <= 504;
}

/* It speaks of those recipients that were taken; where none was, the content is discarded. */
static enum smtp_client_event on_bdat(struct smtp_client *c, struct smtp_transaction *t,
                                      const struct reply *r)
{
    bool taken = any_recipient_taken(t);
    if (!t->own.end_sent && !taken)
        return transaction_and_session_over(c, t, TROUBLE_CLOSED, r);
    if (!t->own.end_sent)
        return on_early_word(c, r);
    if (taken && denies_bdat(r)) {
        struct reply softened = *r; /* it speaks of BDAT, and DATA may do */
        softened.class = 4;
        return transaction_and_session_over(c, t, TROUBLE_NOT_SMTP, &softened);
    }
    settle_rest(t, r);
    return transaction_over(c, t, r->class == 2);
}

/* Is there a content that has been sent, other than the one that the reply now read ends? */
static bool more_is_sent(const struct smtp_client *c, const struct smtp_transaction *t)
{
    if (t == NULL)
        return false;
    if (c->phase != SMTP_DOT && c->phase != SMTP_BDAT && t->own.end_sent)
        return true;
    const struct link *next = t->own.link.next;
    return next != &c->transactions &&
           CONTAINER_OF(next, const struct smtp_transaction, own.link)->own.end_sent;
}

/* 421 may answer any command (RFC 5321 3.8): the server is closing. In answer to the end of the
 * content the outcome is known all the same (not taken), and so it is where everybody has been
 * refused before: the transaction is over first, then the session fails. */
static enum smtp_client_event on_shutdown(struct smtp_client *c, struct smtp_transaction *t,
                                          const struct reply *r)
{
    bool at_end = c->phase == SMTP_DOT || (c->phase == SMTP_BDAT && t->own.end_sent);
    bool decided =
        t != NULL &&
        (at_end || (t->own.rcpt_replied == t->recipient_count && !any_recipient_taken(t)));
    return decided ? transaction_and_session_over(c, t, TROUBLE_BUSY, r) : fail(c, TROUBLE_BUSY, r);
}

static enum smtp_client_event answer(struct smtp_client *c, enum smtp_phase answered,
                                     const struct reply *r)
{
    struct smtp_transaction *t = oldest(c);
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
        return on_mail(c, t, r);
    case SMTP_RCPT:
        return on_rcpt(c, t, r);
    case SMTP_DATA:
        return on_data(c, t, r);
    case SMTP_DOT:
        return on_dot(c, t, r);
    case SMTP_BDAT:
        return on_bdat(c, t, r);
    case SMTP_RSET:
        return on_rset(c, t, r);
    case SMTP_BODY:
        return on_early_word(c, r);
    case SMTP_QUIT:
        return fail(c, TROUBLE_CLOSED, r);
    case SMTP_TLS:
    case SMTP_READY:
    case SMTP_CLOSED:
        break;
    }
    return fail_local(c, TROUBLE_NOT_SMTP, LOCAL_NOT_SMTP);
}

/* The oldest command awaited is answered. True: nothing is awaited any more. */
static bool take_off(struct smtp_client *c)
{
    struct smtp_transaction *t = oldest(c);
    if (t == NULL) {
        c->awaited = SMTP_READY;
        return true;
    }
    if (c->phase == SMTP_RSET)
        t->own.rset_awaited = false;
    else if (c->phase == SMTP_MAIL)
        t->own.mail_awaited = false;
    else if (c->phase == SMTP_RCPT)
        t->own.rcpt_replied++;
    else
        t->own.end_awaited = SMTP_READY;
    return t == newest(c) && awaited_in(t) == SMTP_READY;
}

/* A complete reply: its command is answered, and it is acted on, which may queue more; then the
 * phase moves on to the next command awaited, if any. */
static enum smtp_client_event on_reply(struct smtp_client *c)
{
    struct reply r = c->parser.reply;
    struct smtp_transaction *t = oldest(c);
    smtp_reply_reset(&c->parser);
    c->replies++;
    c->said_goodbye = r.code == 421;
    if (c->said_goodbye && more_is_sent(c, t)) {
        /* Others wait for their fate: should it go on all the same, its word on them counts. */
        c->closing = true;
        c->last = r;
    } else if (c->said_goodbye || (c->unasked && r.class == 4)) {
        /* 421 may answer any command, or none. Exchange says 451 to a connection that idled too
         * long. */
        return on_shutdown(c, t, &r);
    }
    if (c->unasked)
        return fail_local(c, TROUBLE_FLOOD, LOCAL_NOT_SMTP);
    enum smtp_phase answered = c->phase;
    /* An answer to a command that has not been written yet is none. */
    if (take_off(c) && buf_len(c->out) > 0)
        return fail_local(c, TROUBLE_FLOOD, LOCAL_NOT_SMTP);
    enum smtp_client_event event = answer(c, answered, &r);
    if (c->phase != SMTP_CLOSED)
        move(c, awaited(c));
    return event;
}

/* ---- public ---- */

struct smtp_client *smtp_client_create(const struct smtp_client_options *options, struct buf *out)
{
    struct smtp_client *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->options = *options;
    c->out = out;
    c->phase = c->awaited = SMTP_GREETING;
    list_init(&c->transactions);
    smtp_reply_reset(&c->parser);
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
        c->unasked = c->phase == SMTP_READY;
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
    ASSERT(c->phase == SMTP_TLS);
    c->in_tls = true;
    smtp_reply_reset(&c->parser);
    send_ehlo(c, SMTP_EHLO);
    move(c, SMTP_EHLO);
}

bool smtp_client_can_carry(const struct smtp_client *c, const struct envelope *e,
                           const struct envelope_recipient *r, struct reply *why_out)
{
    ASSERT(c->phase >= SMTP_READY && c->phase < SMTP_QUIT);
    if (c->caps.size_max > 0 && e->size_bytes > c->caps.size_max)
        *why_out = reply_local(LOCAL_TOO_LARGE);
    else if ((e->flags & ENVELOPE_HAS_8BIT) != 0 && !has(c, SMTP_CAP_8BITMIME))
        *why_out = reply_local(LOCAL_NEEDS_8BITMIME);
    else if ((e->flags & ENVELOPE_SMTPUTF8) != 0 &&
             (smtp_header_needs_utf8(e) || utf8_has_high(r->address)) && !has(c, SMTP_CAP_SMTPUTF8))
        *why_out = reply_local(LOCAL_NEEDS_SMTPUTF8);
    else
        return true;
    return false;
}

bool smtp_client_may_begin(const struct smtp_client *c)
{
    const struct smtp_transaction *t = newest(c);
    if (t == NULL || c->phase == SMTP_CLOSED)
        return c->phase == SMTP_READY;
    bool end_goes = t->own.end_sent || t->own.end_awaited == SMTP_BODY;
    return end_goes && !c->closing && has(c, SMTP_CAP_PIPELINING);
}

void smtp_client_begin(struct smtp_client *c, struct smtp_transaction *t)
{
    ASSERT(smtp_client_may_begin(c) && t->recipient_count > 0);
    const struct smtp_transaction *before = newest(c);
    list_push_back(&c->transactions, &t->own.link);
    memset(t->replies, 0, t->recipient_count * sizeof *t->replies);
    t->own.rcpt_sent = t->own.rcpt_replied = 0;
    t->own.rset_awaited = t->own.mail_refused = t->own.end_begun = t->own.end_sent = false;
    t->own.end_awaited = SMTP_READY;
    if (!has(c, SMTP_CAP_CHUNKING) || !has(c, SMTP_CAP_PIPELINING))
        t->by = SMTP_BY_DATA;
    if (before != NULL && before->by == SMTP_BY_BDAT) {
        put(c, "RSET\r\n");
        t->own.rset_awaited = true;
    }
    smtp_put_mail(c->out, &c->caps, t->envelope, t->recipients, t->recipient_count);
    t->own.mail_awaited = true;
    send_more(c, t);
    if (!t->own.end_begun)
        t->by = SMTP_BY_DATA;
    c->ready_pending = false;
    move(c, awaited(c));
}

void smtp_client_retract(struct smtp_client *c)
{
    struct smtp_transaction *t = newest(c);
    ASSERT(t != NULL && t != oldest(c) && buf_len(c->out) == 0);
    ASSERT(t->own.mail_awaited && t->own.rcpt_replied == 0 && !t->own.end_sent);
    list_remove(&t->own.link);
    check(c);
}

void smtp_client_body_sent(struct smtp_client *c)
{
    struct smtp_transaction *t = oldest(c);
    while (t != newest(c) && t->own.end_sent)
        t = transaction_of(t->own.link.next);
    ASSERT(!t->own.end_sent && (t->own.end_awaited == SMTP_BODY || t->by == SMTP_BY_BDAT));
    t->own.end_sent = true;
    if (t->by == SMTP_BY_DATA)
        t->own.end_awaited = SMTP_DOT;
    move(c, awaited(c));
}

void smtp_client_quit(struct smtp_client *c)
{
    ASSERT(c->phase == SMTP_READY);
    c->ready_pending = false;
    put(c, "QUIT\r\n");
    c->awaited = SMTP_QUIT;
    move(c, SMTP_QUIT);
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

bool smtp_client_said_goodbye(const struct smtp_client *c)
{
    return c->said_goodbye;
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
