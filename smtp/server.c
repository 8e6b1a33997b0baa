#include "smtp/server.h"

#include "core/base/arena.h"
#include "core/base/assert.h"
#include "core/domain.h"
#include "smtp/command.h"
#include "smtp/content.h"

#include <stdlib.h>

enum { HELO_MAX = 255, RECIPIENTS_FIRST = 4, DROPPED_MAX = 64 * 1024, REPLY_ROOM = 1024 };

/* Where the dialogue stands: X(name, phrase).
 *
 *   START --EHLO--> READY --MAIL--> MAIL --RCPT--> RCPT --DATA--> DATA --end--> CONCLUDING -> READY
 *                                                    |                            ^
 *                                                    '--BDAT--> CHUNK <-> BDAT ---' (LAST)
 *   CHUNK reads a chunk's bytes, BDAT waits for the next BDAT command; a chunk that is refused ends
 *   the transaction.
 *   Any state --hang up, QUIT, too many errors--> CLOSING */
#define SERVER_STATES(X)                                                                           \
    X(SERVER_START, "before EHLO")                                                                 \
    X(SERVER_READY, "between transactions")                                                        \
    X(SERVER_MAIL, "after MAIL")                                                                   \
    X(SERVER_RCPT, "after RCPT")                                                                   \
    X(SERVER_DATA, "in DATA")                                                                      \
    X(SERVER_CHUNK, "in a BDAT chunk")                                                             \
    X(SERVER_BDAT, "between BDAT chunks")                                                          \
    X(SERVER_CONCLUDING, "message complete")                                                       \
    X(SERVER_CLOSING, "closing")

enum server_state {
#define X(name, phrase) name,
    SERVER_STATES(X)
#undef X
};

struct smtp_server {
    const struct smtp_server_options *options;
    enum server_state state;
    struct buf *out;
    struct buf *content;
    struct buf line;       /* a command line that arrived in parts */
    uint64_t line_dropped; /* bytes of a line that is too long; 0 = it is not */
    bool esmtp;
    bool has_quit;
    const struct smtp_refusal *closed; /* no new mail, and why; NULL: it is taken */
    unsigned closed_count;             /* refusals for it, not told yet */
    bool
        turned_away; /* MAIL, RCPT or a chunk was refused: what is pipelined behind is no mistake */
    unsigned bad_commands; /* since the last message that was taken */
    char helo[HELO_MAX + 1];

    /* The transaction; its strings live in the arena until it is over. */
    struct arena arena;
    struct envelope envelope;
    uint32_t recipients_room;
    bool begun; /* SERVER_BEGIN was told */
    struct smtp_content decoder;
    uint8_t priority;    /* enum envelope_priority: where the header does not say it */
    uint64_t chunk_left; /* SERVER_CHUNK: bytes of the chunk still to come */
    bool chunk_last;
    bool chunk_refused; /* bytes are read and dropped: the BDAT was out of place */
};

/* ---- the state table ---- */

static const char *phrase_of(enum server_state state)
{
    static const char *const phrases[] = {
#define X(name, phrase) phrase,
        SERVER_STATES(X)
#undef X
    };
    return phrases[state];
}

/* Legal next states, as bits. CLOSING can follow any. */
static unsigned next_of(enum server_state state)
{
#define TO(s) (1u << (s))
    static const unsigned table[] = {
        [SERVER_START] = TO(SERVER_READY),
        [SERVER_READY] = TO(SERVER_MAIL),
        [SERVER_MAIL] = TO(SERVER_RCPT) | TO(SERVER_READY),
        [SERVER_RCPT] = TO(SERVER_DATA) | TO(SERVER_CHUNK) | TO(SERVER_READY),
        [SERVER_DATA] = TO(SERVER_CONCLUDING) | TO(SERVER_READY),
        [SERVER_CHUNK] = TO(SERVER_BDAT) | TO(SERVER_CONCLUDING) | TO(SERVER_READY),
        [SERVER_BDAT] = TO(SERVER_CHUNK) | TO(SERVER_READY),
        [SERVER_CONCLUDING] = TO(SERVER_READY),
        [SERVER_CLOSING] = 0,
    };
#undef TO
    return table[state];
}

static void move(struct smtp_server *s, enum server_state to)
{
    ASSERT(to == SERVER_CLOSING || to == s->state || (next_of(s->state) & (1u << to)) != 0);
    s->state = to;
    ASSERT(!s->begun || s->envelope.recipient_count > 0);
}

/* ---- replies ---- */

static void reply(struct smtp_server *s, unsigned code, const char *enhanced, const char *text)
{
    buf_append_u64(s->out, code);
    buf_append_str(s->out, " ");
    if (enhanced[0] != '\0') {
        buf_append_str(s->out, enhanced);
        buf_append_str(s->out, " ");
    }
    buf_append_str(s->out, text);
    buf_append_str(s->out, "\r\n");
}

/* A refusal of what the client did wrong; too many of them, no message between, end
 * the connection. */
static void reply_bad(struct smtp_server *s, unsigned code, const char *enhanced, const char *text)
{
    if (++s->bad_commands > s->options->bad_commands_max) {
        smtp_server_hang_up(s, 421, "4.7.0", "Too many errors, closing");
        return;
    }
    reply(s, code, enhanced, text);
}

/* 421 means that the connection ends (RFC 5321 3.8): going on would answer what is pipelined behind
 * it with a 503, which some clients take for the recipient's. */
static void reply_closed(struct smtp_server *s)
{
    const struct smtp_refusal *why = s->closed;
    s->closed_count++;
    if (why->code == 421)
        smtp_server_hang_up(s, why->code, why->enhanced, why->text);
    else
        reply(s, why->code, why->enhanced, why->text);
}

/* A recipient that is refused is no mistake of the client's: it sends what its user's
 * list holds. */
static void reply_recipient(struct smtp_server *s, unsigned code, const char *enhanced,
                            const char *text)
{
    s->turned_away = true;
    reply(s, code, enhanced, text);
}

/* MAIL, or MAIL and RCPT, must come first. */
static void reply_sequence(struct smtp_server *s, const char *text)
{
    if (s->turned_away)
        reply(s, 503, "5.5.1", text);
    else
        reply_bad(s, 503, "5.5.1", text);
}

void smtp_server_hang_up(struct smtp_server *s, unsigned code, const char *enhanced,
                         const char *text)
{
    if (s->state == SERVER_CLOSING)
        return;
    reply(s, code, enhanced, text);
    move(s, SERVER_CLOSING);
}

/* ---- the transaction ---- */

static void clear_transaction(struct smtp_server *s)
{
    arena_clear(&s->arena);
    s->envelope = (struct envelope){.sender = SLICE_LIT(""), .envid = SLICE_LIT("")};
    s->recipients_room = 0;
    s->begun = false;
    s->chunk_refused = false;
}

/* The transaction is void. SERVER_ABANDON where the driver knows of it. */
static enum smtp_server_event abandon(struct smtp_server *s)
{
    bool begun = s->begun;
    clear_transaction(s);
    return begun ? SERVER_ABANDON : SERVER_MORE;
}

static bool keep(struct smtp_server *s, struct slice from, struct slice *out)
{
    return arena_copy(&s->arena, from, out);
}

/* `domain`: the address's, in normal form. */
static bool keep_address(struct smtp_server *s, const struct smtp_address *a, const char *domain,
                         struct slice *out)
{
    char room[SMTP_ADDRESS_MAX + 1];
    return keep(s, smtp_address_on_wire(a, domain, room), out);
}

static bool grow_recipients(struct smtp_server *s)
{
    uint32_t room = s->recipients_room > 0 ? s->recipients_room * 2 : RECIPIENTS_FIRST;
    struct envelope_recipient *grown = arena_alloc(&s->arena, room * sizeof *grown);
    if (grown == NULL)
        return false;
    if (s->envelope.recipient_count > 0)
        memcpy(grown, s->envelope.recipients, s->envelope.recipient_count * sizeof *grown);
    s->envelope.recipients = grown;
    s->recipients_room = room;
    return true;
}

static void on_mail(struct smtp_server *s, const struct smtp_command *c)
{
    char domain[DOMAIN_SIZE] = "";
    if (s->state != SERVER_READY) {
        reply_bad(s, 503, "5.5.1",
                  s->state == SERVER_START ? "Say EHLO first"
                                           : "A transaction is under way already");
        return;
    }
    s->turned_away = true;
    if (s->closed != NULL) {
        reply_closed(s);
        return;
    }
    if (c->size > s->options->message_bytes_max) {
        reply(s, 552, "5.3.4", "Message larger than this relay takes");
        return;
    }
    if (c->address.mailbox.len > 0 && !s->options->normalize_domain(c->address.domain, domain)) {
        reply_bad(s, 501, "5.1.7", "The sender's address needs a valid domain");
        return;
    }
    clear_transaction(s);
    if (!keep_address(s, &c->address, domain, &s->envelope.sender) ||
        !keep(s, c->envid, &s->envelope.envid)) {
        reply(s, 452, "4.3.1", "Out of memory, try again later");
        return;
    }
    s->envelope.ret = c->ret;
    s->envelope.flags =
        (uint8_t)((c->smtputf8 ? ENVELOPE_SMTPUTF8 : 0) | (c->body_8bit ? ENVELOPE_BODY_8BIT : 0));
    s->turned_away = false;
    move(s, SERVER_MAIL);
    reply(s, 250, "2.1.0", "Sender ok");
}

static void on_rcpt(struct smtp_server *s, const struct smtp_command *c)
{
    char domain[DOMAIN_SIZE];
    if (s->state != SERVER_MAIL && s->state != SERVER_RCPT) {
        reply_sequence(s, "Say MAIL first");
        return;
    }
    if (s->envelope.recipient_count >= s->options->recipients_max) {
        reply(s, 452, "4.5.3", "Too many recipients, send the rest in another transaction");
        return;
    }
    if (c->address.domain.len == 0) {
        reply_recipient(s, 550, "5.1.1", "This relay has no mailboxes: a recipient needs a domain");
        return;
    }
    if (!s->options->normalize_domain(c->address.domain, domain)) {
        reply_recipient(s, 501, "5.1.3", "The recipient's domain is not valid");
        return;
    }
    const struct smtp_refusal *why = s->options->refuse_domain != NULL
                                         ? s->options->refuse_domain(s->options->context, domain)
                                         : NULL;
    if (why != NULL) {
        reply_recipient(s, why->code, why->enhanced, why->text);
        return;
    }
    struct envelope_recipient r = {.notify = c->notify};
    bool kept = s->envelope.recipient_count < s->recipients_room || grow_recipients(s);
    kept = kept && keep_address(s, &c->address, domain, &r.address) &&
           keep(s, slice_str(domain), &r.domain) && keep(s, c->orcpt, &r.orcpt);
    if (!kept) {
        reply(s, 452, "4.3.1", "Out of memory, try again later");
        return;
    }
    s->envelope.recipients[s->envelope.recipient_count++] = r;
    move(s, SERVER_RCPT);
    reply(s, 250, "2.1.5", "Recipient ok");
}

/* ---- content ---- */

static void begin_content(struct smtp_server *s, enum smtp_content_mode mode)
{
    struct smtp_content_limits limits = {.bytes_max = s->options->message_bytes_max,
                                         .line_bytes_max = s->options->text_line_bytes_max,
                                         .received_max = s->options->received_max};
    smtp_content_begin(&s->decoder, mode, &limits, s->content);
    s->decoder.priority_field = s->options->priority_field;
    s->begun = true;
}

static enum smtp_server_event on_data(struct smtp_server *s)
{
    if (s->state == SERVER_BDAT) {
        reply_bad(s, 503, "5.5.1", "BDAT and DATA cannot be mixed");
        return SERVER_MORE;
    }
    if (s->state != SERVER_RCPT) {
        reply_sequence(s,
                       s->state == SERVER_MAIL ? "No valid recipients" : "Say MAIL and RCPT first");
        s->turned_away = false; /* what was pipelined ends here */
        return SERVER_MORE;
    }
    if (s->closed != NULL) {
        reply_closed(s);
        return SERVER_MORE;
    }
    begin_content(s, SMTP_CONTENT_DATA);
    move(s, SERVER_DATA);
    reply(s, 354, "", "Send the message, end it with a line that holds only a dot");
    return SERVER_BEGIN;
}

/* The chunk's bytes follow the command whatever we think of it: they are always read
 * (RFC 3030 2). */
static enum smtp_server_event on_bdat(struct smtp_server *s, const struct smtp_command *c)
{
    bool first = s->state == SERVER_RCPT;
    s->chunk_left = c->size;
    s->chunk_last = c->last;
    s->chunk_refused = !first && s->state != SERVER_BDAT;
    if (first && s->closed != NULL) {
        s->chunk_refused = true;
        first = false;
    }
    if (!s->chunk_refused && first)
        begin_content(s, SMTP_CONTENT_BDAT);
    if (!s->chunk_refused) {
        move(s, SERVER_CHUNK);
        smtp_content_expect(&s->decoder, c->size);
    }
    return first && !s->chunk_refused ? SERVER_BEGIN : SERVER_MORE;
}

static struct smtp_refusal refusal_of(const struct smtp_server *s)
{
    switch (s->decoder.error) {
    case SMTP_CONTENT_BARE_CR:
        return (struct smtp_refusal){554, "5.6.0", "A bare CR in the content: lines end with CRLF"};
    case SMTP_CONTENT_BARE_LF:
        return (struct smtp_refusal){554, "5.6.0", "A bare LF in the content: lines end with CRLF"};
    case SMTP_CONTENT_NUL:
        return (struct smtp_refusal){554, "5.6.0", "A NUL in the content: encode binary parts"};
    case SMTP_CONTENT_LINE_TOO_LONG:
        return (struct smtp_refusal){
            554, "5.6.0", "A line of the content is too long: use quoted-printable or base64"};
    case SMTP_CONTENT_TOO_LARGE:
        return (struct smtp_refusal){552, "5.3.4", "Message larger than this relay takes"};
    case SMTP_CONTENT_LOOP:
        return (struct smtp_refusal){554, "5.4.6", "Too many Received fields: a mail loop"};
    case SMTP_CONTENT_OK:
        break;
    }
    return (struct smtp_refusal){0, "", ""};
}

/* The content is complete: hand it over, or say why it is refused. */
static enum smtp_server_event content_over(struct smtp_server *s)
{
    struct smtp_refusal r = refusal_of(s);
    if (r.code != 0) {
        reply(s, r.code, r.enhanced, r.text);
        move(s, SERVER_READY);
        return abandon(s);
    }
    const struct smtp_content *d = &s->decoder;
    s->envelope.size_bytes = d->bytes;
    s->envelope.header_bytes = d->header_bytes;
    s->envelope.priority = d->has_priority ? d->priority : s->priority;
    s->envelope.flags |= (uint8_t)((d->has_8bit ? ENVELOPE_HAS_8BIT : 0) |
                                   (d->has_dot_lines ? ENVELOPE_HAS_DOTS : 0) |
                                   (d->has_utf8_header ? ENVELOPE_HAS_UTF8_HEADER : 0));
    move(s, SERVER_CONCLUDING);
    return SERVER_MESSAGE;
}

/* A chunk was read whole (RFC 3030 4.2). */
static enum smtp_server_event chunk_over(struct smtp_server *s)
{
    if (refusal_of(s).code != 0) {
        s->turned_away = !s->chunk_last; /* the others are on their way */
        return content_over(s);
    }
    if (s->chunk_last) {
        if (smtp_content_finish(&s->decoder) == SMTP_CONTENT_FULL)
            return SERVER_CONTENT;
        return content_over(s);
    }
    reply(s, 250, "2.0.0", "Chunk ok");
    move(s, SERVER_BDAT);
    return SERVER_MORE;
}

static enum smtp_server_event feed_chunk(struct smtp_server *s, struct slice input,
                                         size_t *used_out)
{
    struct slice bytes =
        slice_take(input, s->chunk_left < input.len ? (size_t)s->chunk_left : input.len);
    size_t used = 0;
    enum smtp_content_status status = smtp_content_feed(&s->decoder, bytes, &used);
    s->chunk_left -= used;
    *used_out += used;
    if (status == SMTP_CONTENT_FULL)
        return SERVER_CONTENT;
    return s->chunk_left == 0 ? chunk_over(s) : SERVER_MORE;
}

/* Bytes of a BDAT that was out of place: dropped, then refused. */
static enum smtp_server_event drop_chunk(struct smtp_server *s, struct slice input,
                                         size_t *used_out)
{
    size_t take = s->chunk_left < input.len ? (size_t)s->chunk_left : input.len;
    s->chunk_left -= take;
    *used_out += take;
    if (s->chunk_left > 0)
        return SERVER_MORE;
    s->chunk_refused = false;
    if (s->state == SERVER_RCPT && s->closed != NULL)
        reply_closed(s);
    else
        reply_sequence(s, "Say MAIL and RCPT first");
    s->turned_away = s->turned_away && !s->chunk_last;
    return SERVER_MORE;
}

static enum smtp_server_event feed_data(struct smtp_server *s, struct slice input, size_t *used_out)
{
    size_t used = 0;
    enum smtp_content_status status = smtp_content_feed(&s->decoder, input, &used);
    *used_out += used;
    switch (status) {
    case SMTP_CONTENT_FULL:
        return SERVER_CONTENT;
    case SMTP_CONTENT_END:
        return content_over(s);
    case SMTP_CONTENT_MORE:
        break;
    }
    return SERVER_MORE;
}

/* ---- commands ---- */

static void on_helo(struct smtp_server *s, const struct smtp_command *c)
{
    struct slice name = slice_take(c->argument, HELO_MAX);
    for (size_t i = 0; i < name.len; i++) /* goes into Received and logs */
        s->helo[i] =
            name.ptr[i] > ' ' && name.ptr[i] < 0x7f && strchr("()<>[]\\\"", name.ptr[i]) == NULL
                ? name.ptr[i]
                : '?';
    if (name.len > 2 && name.ptr[0] == '[' && name.ptr[name.len - 1] == ']') {
        s->helo[0] = '[';
        s->helo[name.len - 1] = ']';
    }
    s->helo[name.len] = '\0';
    s->esmtp = c->verb == VERB_EHLO;
    if (s->state != SERVER_READY)
        move(s, SERVER_READY);
    if (!s->esmtp) {
        reply(s, 250, "", s->options->hostname);
        return;
    }
    buf_printf(
        s->out,
        "250-%s\r\n250-PIPELINING\r\n250-SIZE %llu\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n"
        "250-ENHANCEDSTATUSCODES\r\n250 CHUNKING\r\n",
        s->options->hostname, (unsigned long long)s->options->message_bytes_max);
}

static enum smtp_server_event on_reset(struct smtp_server *s)
{
    if (s->state != SERVER_START && s->state != SERVER_READY)
        move(s, SERVER_READY);
    return abandon(s);
}

static enum smtp_server_event run(struct smtp_server *s, const struct smtp_command *c)
{
    enum smtp_server_event event = SERVER_MORE;
    switch (c->verb) {
    case VERB_EHLO:
    case VERB_HELO:
        event = on_reset(s);
        on_helo(s, c);
        return event;
    case VERB_MAIL:
        on_mail(s, c);
        return event;
    case VERB_RCPT:
        on_rcpt(s, c);
        return event;
    case VERB_DATA:
        return on_data(s);
    case VERB_BDAT:
        return on_bdat(s, c);
    case VERB_RSET:
        event = on_reset(s);
        reply(s, 250, "2.0.0", "Reset");
        return event;
    case VERB_NOOP:
        reply(s, 250, "2.0.0", "Ok");
        return event;
    case VERB_QUIT:
        event = abandon(s);
        reply(s, 221, "2.0.0", "Bye");
        s->has_quit = true;
        move(s, SERVER_CLOSING);
        return event;
    case VERB_VRFY:
        reply(s, 252, "2.5.2", "Cannot verify, but will take mail and try to deliver it");
        return event;
    case VERB_HELP:
        reply(s, 214, "2.0.0", "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY");
        return event;
    case VERB_EXPN:
        reply_bad(s, 502, "5.5.1", "EXPN is not offered");
        return event;
    case VERB_UNKNOWN:
        break;
    }
    reply_bad(s, 500, "5.5.1", "Command not recognized");
    return event;
}

static enum smtp_server_event on_line(struct smtp_server *s, struct slice line)
{
    struct smtp_command c;
    if (memchr(line.ptr, '\0', line.len) != NULL || slice_find(line, '\r') < line.len) {
        reply_bad(s, 500, "5.5.2", "A command line holds no NUL and no bare CR");
        return SERVER_MORE;
    }
    bool utf8 = (s->envelope.flags & ENVELOPE_SMTPUTF8) != 0;
    struct smtp_refusal r = smtp_command_parse(line, utf8, &c);
    if (r.code == 0)
        return run(s, &c);
    bool in_transaction = s->state == SERVER_MAIL || s->state == SERVER_RCPT;
    if (c.verb == VERB_RCPT && in_transaction) {
        reply_recipient(s, r.code, r.enhanced, r.text);
    } else {
        s->turned_away = s->turned_away || (c.verb == VERB_MAIL && s->state == SERVER_READY);
        reply_bad(s, r.code, r.enhanced, r.text);
    }
    return SERVER_MORE;
}

/* A command line that is too long is read to its end, and refused there; one that has none ends the
 * connection. */
static void drop_line(struct smtp_server *s, size_t len, bool whole)
{
    s->line_dropped += len;
    buf_clear(&s->line);
    if (whole) {
        s->line_dropped = 0;
        reply_bad(s, 500, "5.5.2", "Command line too long");
    } else if (s->line_dropped > DROPPED_MAX) {
        smtp_server_hang_up(s, 421, "4.7.0", "Command line without end, closing");
    }
}

/* Gathers a command line; a whole one in `input` is used in place. */
static enum smtp_server_event feed_command(struct smtp_server *s, struct slice input,
                                           size_t *used_out)
{
    size_t lf = slice_find(input, '\n');
    bool whole = lf < input.len;
    struct slice part = slice_take(input, whole ? lf + 1 : lf);
    *used_out += part.len;
    if (s->line_dropped > 0 || buf_len(&s->line) + part.len > s->options->command_bytes_max) {
        drop_line(s, part.len, whole);
        return SERVER_MORE;
    }
    if (!whole || buf_len(&s->line) > 0) {
        buf_append(&s->line, part);
        part = buf_slice(&s->line);
    }
    if (!buf_ok(&s->line)) {
        smtp_server_hang_up(s, 421, "4.3.1", "Out of memory, try again later");
        return SERVER_MORE;
    }
    if (!whole)
        return SERVER_MORE;
    part.len -= part.len > 1 && part.ptr[part.len - 2] == '\r' ? 2 : 1;
    enum smtp_server_event event = on_line(s, part);
    buf_clear(&s->line);
    buf_shrink(&s->line);
    return event;
}

/* ---- public ---- */

struct smtp_server *smtp_server_create(const struct smtp_server_options *options, struct buf *out,
                                       struct buf *content)
{
    struct smtp_server *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->options = options;
    s->out = out;
    s->content = content;
    buf_init(&s->line, options->command_bytes_max);
    arena_init(&s->arena);
    clear_transaction(s);
    return s;
}

void smtp_server_destroy(struct smtp_server **s)
{
    if (*s == NULL)
        return;
    buf_fini(&(*s)->line);
    arena_fini(&(*s)->arena);
    free(*s);
    *s = NULL;
}

void smtp_server_set_priority(struct smtp_server *s, enum envelope_priority priority)
{
    s->priority = (uint8_t)priority;
}

void smtp_server_greet(struct smtp_server *s)
{
    buf_append_str(s->out, "220 ");
    buf_append_str(s->out, s->options->hostname);
    buf_append_str(s->out, " ESMTP Onward\r\n");
}

static enum smtp_server_event feed_once(struct smtp_server *s, struct slice input, size_t *used_out)
{
    if (s->chunk_refused)
        return drop_chunk(s, input, used_out);
    switch (s->state) {
    case SERVER_START:
    case SERVER_READY:
    case SERVER_MAIL:
    case SERVER_RCPT:
    case SERVER_BDAT:
        return feed_command(s, input, used_out);
    case SERVER_DATA:
        return feed_data(s, input, used_out);
    case SERVER_CHUNK:
        return feed_chunk(s, input, used_out);
    case SERVER_CONCLUDING:
        return SERVER_MORE;
    case SERVER_CLOSING:
        return SERVER_CLOSE;
    }
    ASSERT(false);
}

/* True where feed_once has something to do without further input: an empty chunk, or a chunk whose
 * end waits. */
static bool is_due(const struct smtp_server *s)
{
    return (s->state == SERVER_CHUNK || s->chunk_refused) && s->chunk_left == 0;
}

enum smtp_server_event smtp_server_feed(struct smtp_server *s, struct slice input, size_t *used_out)
{
    *used_out = 0;
    for (;;) {
        struct slice rest = slice_skip(input, *used_out);
        if (s->state == SERVER_CLOSING) {
            if (s->begun) {
                clear_transaction(s);
                return SERVER_ABANDON;
            }
            *used_out = input.len;
            return SERVER_CLOSE;
        }
        if (s->state == SERVER_CONCLUDING || (rest.len == 0 && !is_due(s)))
            return SERVER_MORE;
        if (s->out->bound - buf_len(s->out) < REPLY_ROOM)
            return SERVER_REPLIES;
        enum smtp_server_event event = feed_once(s, rest, used_out);
        if (event != SERVER_MORE)
            return event;
    }
}

void smtp_server_set_closed(struct smtp_server *s, const struct smtp_refusal *why)
{
    s->closed = why;
}

unsigned smtp_server_take_closed_count(struct smtp_server *s)
{
    unsigned count = s->closed_count;
    s->closed_count = 0;
    return count;
}

void smtp_server_set_trace(struct smtp_server *s, struct slice date_line,
                           struct slice message_id_line)
{
    ASSERT(s->begun);
    s->decoder.date_line = date_line;
    s->decoder.message_id_line = message_id_line;
}

void smtp_server_conclude(struct smtp_server *s, unsigned code, const char *enhanced,
                          const char *text)
{
    if (s->state != SERVER_CLOSING) {
        ASSERT(s->state == SERVER_CONCLUDING);
        reply(s, code, enhanced, text);
        move(s, SERVER_READY);
    }
    if (code < 300)
        s->bad_commands = 0;
    clear_transaction(s);
}

const struct envelope *smtp_server_envelope(const struct smtp_server *s)
{
    return &s->envelope;
}

struct slice smtp_server_helo(const struct smtp_server *s)
{
    return slice_str(s->helo);
}

bool smtp_server_is_esmtp(const struct smtp_server *s)
{
    return s->esmtp;
}

bool smtp_server_has_quit(const struct smtp_server *s)
{
    return s->has_quit;
}

const char *smtp_server_state_name(const struct smtp_server *s)
{
    return phrase_of(s->state);
}

bool smtp_server_is_idle(const struct smtp_server *s)
{
    return s->state == SERVER_START || s->state == SERVER_READY;
}
