#include "tests/sim/sim_host.h"

#include "core/base/assert.h"
#include "tests/sim/sim_tls.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    RECIPIENTS_MAX = 200,
    CONTENT_KEPT = 4096, /* the Message-ID is in there */
    FLOOD_BYTES = 256 * 1024,
    SECOND_US = 1000000,
    RECORD_EXTRA_BYTES = 22, /* of TLS 1.3: header, content type, tag */
};

struct sim_dialogue {
    struct sim_host *host;
    struct sim_conn *conn;
    SSL *ssl;    /* from STARTTLS on */
    bool faulty; /* this connection has the host's fault */
    bool over;   /* says nothing and hears nothing any more */
    bool halted; /* reads nothing any more */
    bool in_content;
    unsigned matched; /* bytes of CRLF "." CRLF at the end of what was heard */
    bool in_bdat;
    uint64_t bdat_left;       /* bytes of its content to come */
    unsigned dots_held;       /* of an end-of-data line that may yet be content: "." and "\r" */
    struct sim_digest digest; /* of the content so far */
    unsigned messages;        /* MAILs taken */
    bool forgets;             /* until the end of this piece */
    struct sim_passed passed;
    uint64_t cut_said; /* bytes said when the fault behind so many struck; 0 = not so far */
    struct buf line;
    struct buf content;
    bool has_sender;
    unsigned recipient_count;
    char recipients[RECIPIENTS_MAX][128];
};

/* FNV-1a. */
static void digest_byte(struct sim_digest *g, char c)
{
    if (g->bytes == 0)
        g->hash = 14695981039346656037u;
    g->hash = (g->hash ^ (unsigned char)c) * 1099511628211u;
    g->bytes++;
}

struct sim_digest sim_digest_of(struct slice content)
{
    struct sim_digest g = {0};
    for (size_t i = 0; i < content.len; i++)
        digest_byte(&g, content.ptr[i]);
    return g;
}

static const char busy[] = "421 4.3.2 Shutting down\r\n";

static struct sim_copy *copies;

struct sim_copy *sim_copies(void)
{
    return copies;
}

void sim_copies_reset(void)
{
    while (copies != NULL) {
        struct sim_copy *next = copies->next;
        free(copies);
        copies = next;
    }
}

bool sim_copy_was_told(const struct sim_copy *c)
{
    return c->reply_end <= c->conn->read;
}

struct sim_passed sim_first_dialogue(const struct sim_host *h)
{
    return h->first != NULL ? h->first->passed : (struct sim_passed){0};
}

void sim_dialogue_destroy(struct sim_dialogue **d)
{
    if (*d == NULL)
        return;
    SSL_free((*d)->ssl);
    buf_fini(&(*d)->line);
    buf_fini(&(*d)->content);
    free(*d);
    *d = NULL;
}

/* ---- saying ---- */

static void break_off(struct sim_dialogue *d);

static void end(struct sim_dialogue *d, bool reset)
{
    d->over = true;
    sim_conn_end(d->conn, 0, reset);
}

/* As it travels. */
static void transmit(struct sim_dialogue *d, struct slice bytes, uint64_t delay_us)
{
    const struct sim_fault *f = &d->host->fault;
    if (d->over)
        return;
    uint64_t said = d->passed.said;
    bool cut = d->faulty && f->after_said >= 0 && said + bytes.len >= (uint64_t)f->after_said;
    if (cut)
        bytes = slice_take(bytes, (size_t)((uint64_t)f->after_said - said));
    d->passed.said += bytes.len;
    sim_conn_say(d->conn, bytes, delay_us);
    if (cut) {
        d->cut_said = d->passed.said;
        break_off(d);
    }
}

/* What OpenSSL wants sent. */
static void transmit_records(struct sim_dialogue *d, uint64_t delay_us)
{
    char records[16384];
    for (int len; (len = BIO_read(SSL_get_wbio(d->ssl), records, sizeof records)) > 0;)
        transmit(d, slice_of(records, (size_t)len), delay_us);
}

static void say(struct sim_dialogue *d, struct slice text, uint64_t delay_us)
{
    if (d->ssl == NULL || !SSL_is_init_finished(d->ssl)) {
        transmit(d, text, delay_us);
        return;
    }
    int len = SSL_write(d->ssl, text.ptr, (int)text.len);
    ASSERT(len == (int)text.len);
    transmit_records(d, delay_us);
}

/* What happens at a byte rather than at a reply. */
static void break_off(struct sim_dialogue *d)
{
    enum sim_fault_kind kind = d->host->fault.kind;
    d->faulty = false; /* it happens once a connection */
    bool amid_record = d->ssl != NULL && d->host->fault.after_said >= 0;
    if (kind == FAULT_REPLY && !amid_record)
        say(d, slice_of(busy, sizeof busy - 1), 0);
    if (kind == FAULT_SILENT)
        d->over = true;
    else
        end(d, kind == FAULT_RESET);
}

static void flood(struct sim_dialogue *d)
{
    static const char line[] = "250-and so on, and so forth, without any end whatever\r\n";
    for (size_t at = 0; at < FLOOD_BYTES; at += sizeof line - 1)
        say(d, slice_of(line, sizeof line - 1), 0);
    d->over = true;
}

static void on_trickle(void *context, uint64_t count)
{
    static const char text[] = "220-a byte a second, for ever and ever\r\n";
    struct sim_conn *c = context;
    if (c->closed)
        return;
    sim_conn_say(c, slice_of(&text[count % (sizeof text - 1)], 1), 0);
    sim_after(SECOND_US, on_trickle, c, count + 1);
}

/* The fault where it strikes at this reply; false: the right reply is due, `*delay_out` late. */
static bool strikes(struct sim_dialogue *d, enum sim_phase phase, uint64_t *delay_out)
{
    const struct sim_fault *f = &d->host->fault;
    *delay_out = 0;
    if (!d->faulty || f->phase != phase || f->after_said >= 0 || f->after_heard >= 0)
        return false;
    switch (f->kind) {
    case FAULT_SILENT:
        d->over = true;
        return true;
    case FAULT_CLOSE:
    case FAULT_LOSE:
        end(d, false);
        return true;
    case FAULT_RESET:
        end(d, true);
        return true;
    case FAULT_REPLY:
        say(d, slice_str(f->reply), f->delay_us);
        if (strncmp(f->reply, "421", 3) == 0 && !d->over)
            end(d, false);
        return true;
    case FAULT_GARBAGE:
        say(d, SLICE_LIT("\001\377 SSH-2.0 is what you may have wanted\r\n"), 0);
        return true;
    case FAULT_FLOOD:
        flood(d);
        return true;
    case FAULT_TRICKLE:
        d->over = true;
        on_trickle(d->conn, 0);
        return true;
    case FAULT_DELAY:
        *delay_out = f->delay_us;
        return false;
    case FAULT_NONE:
    case FAULT_NO_SYN:
    case FAULT_REFUSED:
    case FAULT_UNREACHABLE:
    case FAULT_HALT:
    case FAULT_KINDS:
        return false;
    }
    return false;
}

static void answer(struct sim_dialogue *d, enum sim_phase phase, const char *text)
{
    uint64_t delay_us;
    if (!strikes(d, phase, &delay_us))
        say(d, slice_str(text), delay_us);
}

/* ---- taking messages ---- */

static uint64_t message_of(struct slice content)
{
    static const char field[] = "Message-ID: <";
    const char *at = memmem(content.ptr, content.len, field, sizeof field - 1);
    ASSERT(at != NULL);
    return strtoull(at + sizeof field - 1, NULL, 16);
}

static void note_copies(struct sim_dialogue *d, uint64_t reply_end)
{
    uint64_t message = message_of(buf_slice(&d->content));
    for (unsigned i = 0; i < d->recipient_count; i++) {
        struct sim_copy *c = calloc(1, sizeof *c);
        ASSERT(c != NULL);
        *c = (struct sim_copy){.message = message,
                               .content = d->digest,
                               .host = d->host,
                               .at_us = sim_now_us(),
                               .conn = d->conn,
                               .reply_end = reply_end,
                               .next = copies};
        memcpy(c->recipient, d->recipients[i], sizeof c->recipient);
        copies = c;
    }
}

/* The dot has come. A host that then says nothing may have taken the message: the worst case for a
 * relay, so it is taken to have. Only a refusal means that it has not. */
static void conclude(struct sim_dialogue *d)
{
    static const char taken[] = "250 2.0.0 Taken\r\n";
    uint64_t delay_us;
    bool refuses = d->faulty && d->host->fault.kind == FAULT_REPLY &&
                   d->host->fault.phase == SIM_DOT && d->host->fault.after_said < 0 &&
                   d->host->fault.after_heard < 0;
    uint64_t before = d->passed.said, told_at = UINT64_MAX;
    uint64_t whole = sizeof taken - 1 + (d->ssl != NULL ? RECORD_EXTRA_BYTES : 0);
    bool struck = strikes(d, SIM_DOT, &delay_us);
    if (!struck)
        say(d, slice_str(taken), delay_us);
    /* Cut short and followed by a 421, "250 2.0" is still a 250, with an odd text. */
    uint64_t said = (d->cut_said > 0 ? d->cut_said : d->passed.said) - before;
    bool odd = d->ssl == NULL && said >= 4 && d->host->fault.kind == FAULT_REPLY;
    if (!struck && (said >= whole || odd))
        told_at = d->conn->said;
    if (!refuses)
        note_copies(d, told_at);
    d->host->taken_by_bdat += d->in_bdat;
    /* Behind a refused BDAT the transaction is there until RSET (RFC 3030 2). */
    if (!(d->in_bdat && refuses)) {
        d->recipient_count = 0;
        d->has_sender = false;
    }
    d->in_bdat = false;
    buf_clear(&d->content);
}

static bool content_ended(struct sim_dialogue *d, char c)
{
    static const char wanted[] = "\r\n.\r\n";
    if (c == wanted[d->matched])
        d->matched++;
    else
        d->matched = c == '\r' ? 1 : 0;
    return d->matched == 5;
}

/* A dot that opens a line is not content; nor is the CRLF behind one that is alone. */
static void hold_or_digest(struct sim_dialogue *d, char c, bool is_first_dot, bool ended)
{
    if (is_first_dot || ended) {
        d->dots_held = ended ? 0 : 1;
        return;
    }
    if (d->dots_held == 1 && c == '\r') {
        d->dots_held = 2;
        return;
    }
    if (d->dots_held == 2) /* ".\r" and no "\n" */
        digest_byte(&d->digest, '\r');
    d->dots_held = 0;
    digest_byte(&d->digest, c);
}

static void hear_content(struct sim_dialogue *d, char c)
{
    if (d->faulty && d->host->fault.kind == FAULT_HALT) {
        d->over = d->halted = true;
        return;
    }
    if (buf_len(&d->content) < CONTENT_KEPT)
        buf_append(&d->content, slice_of(&c, 1));
    bool stuffed = d->matched == 2 && c == '.';
    bool ended = content_ended(d, c);
    hold_or_digest(d, c, stuffed, ended);
    if (!ended)
        return;
    d->in_content = false;
    d->forgets = d->host->forgetful;
    conclude(d);
}

static void hear_bdat_content(struct sim_dialogue *d, char c)
{
    if (d->faulty && d->host->fault.kind == FAULT_HALT) {
        d->over = d->halted = true;
        return;
    }
    if (buf_len(&d->content) < CONTENT_KEPT)
        buf_append(&d->content, slice_of(&c, 1));
    digest_byte(&d->digest, c);
    if (--d->bdat_left > 0)
        return;
    if (d->has_sender && d->recipient_count > 0) {
        conclude(d);
        return;
    }
    d->in_bdat = false;
    buf_clear(&d->content);
    say(d, SLICE_LIT("503 5.5.1 No valid recipients\r\n"), 0);
}

/* ---- commands ---- */

static void say_capabilities(struct sim_dialogue *d)
{
    const struct sim_host *h = d->host;
    char text[512];
    (void)snprintf(text, sizeof text, "250-%s\r\n%s%s%s%s%s%s%s250 HELP\r\n", h->name,
                   h->pipelining ? "250-PIPELINING\r\n" : "", h->eightbit ? "250-8BITMIME\r\n" : "",
                   h->enhanced ? "250-ENHANCEDSTATUSCODES\r\n" : "", h->dsn ? "250-DSN\r\n" : "",
                   h->size ? "250-SIZE 50000000\r\n" : "", h->chunking ? "250-CHUNKING\r\n" : "",
                   h->starttls && d->ssl == NULL ? "250-STARTTLS\r\n" : "");
    answer(d, SIM_EHLO, text);
}

/* Is the address between "<" and ">" one of the same domain? */
static bool has_domain_of(const char *recipient, const char *from, const char *to)
{
    const char *at = memchr(from, '@', (size_t)(to - from)), *taken = strchr(recipient, '@');
    ASSERT(at != NULL && taken != NULL);
    return slice_equal(slice_of(at, (size_t)(to - at)), slice_str(taken));
}

static void hear_rcpt(struct sim_dialogue *d, const char *line)
{
    const char *from = strchr(line, '<'), *to = from != NULL ? strchr(from, '>') : NULL;
    ASSERT(d->has_sender && to != NULL && to - from < 128);
    if (d->host->rcpt_max > 0 && d->recipient_count >= d->host->rcpt_max) {
        say(d, SLICE_LIT("452 4.5.3 Too many recipients\r\n"), 0);
        return;
    }
    if (d->host->one_domain && d->recipient_count > 0 &&
        !has_domain_of(d->recipients[0], from, to)) {
        say(d, SLICE_LIT("451 4.3.0 Multiple destination domains per transaction\r\n"), 0);
        return;
    }
    uint64_t delay_us;
    if (strikes(d, SIM_RCPT, &delay_us))
        return;
    ASSERT(d->recipient_count < RECIPIENTS_MAX);
    char *out = d->recipients[d->recipient_count++];
    memcpy(out, from + 1, (size_t)(to - from - 1));
    out[to - from - 1] = '\0';
    say(d, SLICE_LIT("250 2.1.5 Ok\r\n"), delay_us);
}

static void hear_data(struct sim_dialogue *d)
{
    const struct sim_fault *f = &d->host->fault;
    uint64_t delay_us;
    bool struck = strikes(d, SIM_DATA, &delay_us);
    if (struck && (f->kind != FAULT_REPLY || strncmp(f->reply, "354", 3) != 0))
        return;
    if (!struck && d->recipient_count == 0) {
        say(d, SLICE_LIT("554 5.5.1 No valid recipients\r\n"), 0);
        return;
    }
    if (!struck)
        say(d, SLICE_LIT("354 Go on\r\n"), delay_us);
    d->passed.invited_said = d->passed.said;
    d->passed.invited_heard = d->passed.heard;
    d->in_content = true;
    d->digest = (struct sim_digest){0};
    d->matched = 2; /* a dot alone on the first line ends an empty content */
}

static void hear_mail(struct sim_dialogue *d)
{
    ASSERT(!d->has_sender);
    uint64_t delay_us;
    d->host->mails++;
    if (strikes(d, SIM_MAIL, &delay_us))
        return;
    if (d->host->messages_max > 0 && d->messages == d->host->messages_max) {
        say(d, slice_of(busy, sizeof busy - 1), 0);
        end(d, false);
        return;
    }
    d->messages++;
    d->has_sender = true;
    d->recipient_count = 0;
    say(d, SLICE_LIT("250 2.1.0 Ok\r\n"), delay_us);
}

static void hear_bdat(struct sim_dialogue *d, const char *line)
{
    char *end_of_size = NULL;
    ASSERT(d->host->chunking);
    d->bdat_left = strtoull(line + sizeof "BDAT " - 1, &end_of_size, 10);
    ASSERT(strcmp(end_of_size, " LAST\r\n") == 0 && d->bdat_left > 0);
    d->in_bdat = true;
    d->digest = (struct sim_digest){0};
}

static void hear_starttls(struct sim_dialogue *d)
{
    uint64_t delay_us;
    ASSERT(d->ssl == NULL);
    if (strikes(d, SIM_STARTTLS, &delay_us))
        return;
    say(d, SLICE_LIT("220 2.0.0 Go on\r\n"), delay_us);
    d->ssl = sim_tls_server();
}

static bool is(const char *line, const char *verb)
{
    return strncmp(line, verb, strlen(verb)) == 0;
}

static void hear_line(struct sim_dialogue *d, const char *line)
{
    if (is(line, "EHLO ") || is(line, "HELO ")) {
        say_capabilities(d);
    } else if (is(line, "MAIL FROM:")) {
        hear_mail(d);
    } else if (is(line, "RCPT TO:")) {
        if (d->has_sender)
            hear_rcpt(d, line);
        else
            say(d, SLICE_LIT("503 5.5.1 MAIL first\r\n"), 0);
    } else if (is(line, "DATA")) {
        hear_data(d);
    } else if (is(line, "BDAT ")) {
        hear_bdat(d, line);
    } else if (is(line, "STARTTLS")) {
        hear_starttls(d);
    } else if (is(line, "RSET")) {
        d->has_sender = false;
        d->recipient_count = 0;
        answer(d, SIM_OTHER, "250 2.0.0 Ok\r\n");
    } else if (is(line, "QUIT")) {
        answer(d, SIM_OTHER, "221 2.0.0 Bye\r\n");
        if (!d->over)
            end(d, false);
    } else {
        say(d, SLICE_LIT("500 5.5.1 What?\r\n"), 0);
    }
}

static void hear_byte(struct sim_dialogue *d, char c)
{
    if (d->in_content) {
        hear_content(d, c);
        return;
    }
    if (d->in_bdat) {
        hear_bdat_content(d, c);
        return;
    }
    buf_append(&d->line, slice_of(&c, 1));
    if (c != '\n')
        return;
    char line[2048];
    bool fits = slice_to_cstr(buf_slice(&d->line), line, sizeof line);
    buf_clear(&d->line);
    if (fits)
        hear_line(d, line);
    else
        say(d, SLICE_LIT("500 5.5.2 Line too long, or not text\r\n"), 0);
}

static void hear_records(struct sim_dialogue *d, struct slice bytes)
{
    uint64_t delay_us;
    int len = BIO_write(SSL_get_rbio(d->ssl), bytes.ptr, (int)bytes.len);
    ASSERT(len == (int)bytes.len);
    if (!SSL_is_init_finished(d->ssl)) {
        if (strikes(d, SIM_HANDSHAKE, &delay_us))
            return;
        (void)SSL_accept(d->ssl);
        transmit_records(d, delay_us);
    }
    char text[4096];
    for (int got; !d->over && SSL_is_init_finished(d->ssl) &&
                  (got = SSL_read(d->ssl, text, sizeof text)) > 0;)
        for (int i = 0; i < got && !d->over && !d->forgets; i++)
            hear_byte(d, text[i]);
}

/* Up to where the fault is, or all. In clear byte by byte: the last one before TLS is
 * a command's. */
static void hear(struct sim_dialogue *d, struct slice bytes)
{
    while (bytes.len > 0 && !d->over && !d->forgets) {
        size_t len = d->ssl != NULL ? bytes.len : 1;
        struct slice part = slice_take(bytes, len);
        bytes = slice_skip(bytes, len);
        d->passed.heard += len;
        if (d->ssl != NULL)
            hear_records(d, part);
        else
            hear_byte(d, part.ptr[0]);
    }
}

void sim_host_hear(struct sim_conn *c, struct slice bytes)
{
    struct sim_dialogue *d = c->dialogue;
    const struct sim_fault *f = &d->host->fault;
    uint64_t heard = d->passed.heard;
    if (d->faulty && f->after_heard >= 0 && heard + bytes.len >= (uint64_t)f->after_heard) {
        hear(d, slice_take(bytes, (size_t)((uint64_t)f->after_heard - heard)));
        if (!d->over)
            break_off(d);
    } else {
        hear(d, bytes);
    }
    d->forgets = false;
    if (!d->halted)
        sim_conn_take(c, bytes.len);
}

void sim_host_accept(struct sim_host *h, struct sim_conn *c)
{
    struct sim_dialogue *d = calloc(1, sizeof *d);
    ASSERT(d != NULL);
    d->host = h;
    d->conn = c;
    d->faulty = h->fault.kind != FAULT_NONE && sim_chance(h->fault.percent) &&
                (h->fault.until_us == 0 || sim_now_us() < h->fault.until_us) &&
                (h->fault.first == 0 || h->connections <= h->fault.first);
    buf_init(&d->line, 4096);
    buf_init(&d->content, CONTENT_KEPT + 1);
    c->dialogue = d;
    if (h->first == NULL)
        h->first = d;
    if (d->faulty && (h->fault.after_said == 0 || h->fault.after_heard == 0)) {
        break_off(d);
        return;
    }
    char text[128];
    (void)snprintf(text, sizeof text, "220 %s ESMTP\r\n", h->name);
    answer(d, SIM_GREETING, text);
}
