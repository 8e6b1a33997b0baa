#include "bench/tools/sink_session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    READ_BYTES = 256 * 1024,
    CARRY_BYTES = 8 * 1024, /* a command line that is longer ends the connection */
    HEADER_BYTES = 64 * 1024,
    REPLY_BYTES = 64 * 1024,
    RECIPIENTS_MAX = 50000,
};

enum stage {
    COMMANDS,
    DATA,  /* content up to a line with a dot */
    CHUNK, /* so many bytes of content */
    HANDSHAKE,
};

/* The message under way. */
struct mail {
    uint64_t *recipients; /* a hash of each; kept from message to message */
    size_t count, capacity;
    bool has_header;  /* the whole section has come, and was read */
    struct mark mark; /* what stood there */
    char *header;     /* as far as it has come, where it came in pieces */
    size_t header_len;
    uint64_t body_bytes;
    XXH3_state_t *hash; /* over the body; kept */
};

struct session {
    const struct sink_options *options;
    SSL *tls; /* NULL = in clear text */
    int fd;
    unsigned prefix;
    bool hung, over;
    enum stage stage;
    bool at_front;       /* DATA: nothing of the content has come yet, which begins a line */
    uint64_t chunk_left; /* CHUNK: bytes to come */
    bool chunk_last;
    struct mail mail;
    char *carry; /* what was read and could not be taken yet */
    size_t carry_len;
};

/* One thread's place for what it reads and says just now. */
struct scratch {
    char input[CARRY_BYTES + READ_BYTES], reply[REPLY_BYTES];
    size_t reply_len;
};

static _Thread_local struct scratch scratch;

/* ---- bytes out and in ---- */

static void say(const char *text)
{
    size_t len = strlen(text);
    if (scratch.reply_len + len <= sizeof scratch.reply) {
        memcpy(scratch.reply + scratch.reply_len, text, len);
        scratch.reply_len += len;
    }
}

/* Sends what was said. Replies are a few bytes: a client that does not take them is given up. */
static void flush(struct session *s)
{
    size_t len = scratch.reply_len;
    scratch.reply_len = 0;
    if (len == 0)
        return;
    ssize_t sent = s->tls != NULL ? SSL_write(s->tls, scratch.reply, (int)len)
                                  : send(s->fd, scratch.reply, len, MSG_NOSIGNAL);
    s->over = s->over || sent != (ssize_t)len;
}

/* Reads behind what was carried over. Returns how much, 0 for nothing now; the end ends
 * the session. */
static size_t receive(struct session *s)
{
    char *at = scratch.input + s->carry_len;
    if (s->tls == NULL) {
        ssize_t got = read(s->fd, at, READ_BYTES);
        s->over = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
        return got > 0 ? (size_t)got : 0;
    }
    size_t filled = 0; /* records are 16 KB: as many as are there */
    while (filled + SSL3_RT_MAX_PLAIN_LENGTH <= READ_BYTES) {
        int got = SSL_read(s->tls, at + filled, (int)(READ_BYTES - filled));
        if (got > 0) {
            filled += (size_t)got;
            continue;
        }
        s->over = filled == 0 && SSL_get_error(s->tls, got) != SSL_ERROR_WANT_READ;
        break;
    }
    return filled;
}

/* Keeps the `len` last bytes of what was read for the next time. */
static void carry_over(struct session *s, const char *from, size_t len)
{
    s->carry_len = len;
    if (len == 0)
        return;
    if (s->carry == NULL)
        s->carry = malloc(CARRY_BYTES);
    if (len > CARRY_BYTES || s->carry == NULL)
        s->over = true;
    else
        memcpy(s->carry, from, len);
}

/* ---- content ---- */

static void begin_mail(struct session *s)
{
    struct mail *m = &s->mail;
    free(m->header);
    m->header = NULL;
    m->header_len = 0;
    m->has_header = false;
    m->body_bytes = 0;
    if (m->hash == NULL)
        m->hash = XXH3_createState();
    if (m->hash == NULL)
        abort();
    (void)XXH3_64bits_reset(m->hash);
}

static void take_body(struct session *s, const char *at, size_t len)
{
    s->mail.body_bytes += len;
    (void)XXH3_64bits_update(s->mail.hash, at, len);
}

/* Puts the next piece to what has come of the header section. */
static void gather_header(struct session *s, const char *at, size_t len)
{
    struct mail *m = &s->mail;
    char *more =
        m->header_len + len <= HEADER_BYTES ? realloc(m->header, m->header_len + len) : NULL;
    if (more == NULL) {
        s->over = true;
        return;
    }
    memcpy(more + m->header_len, at, len);
    m->header = more;
    m->header_len += len;
}

/* Content without its dots, in any pieces. */
static void take_content(struct session *s, const char *at, size_t len)
{
    struct mail *m = &s->mail;
    if (m->has_header) {
        take_body(s, at, len);
        return;
    }
    if (m->header != NULL) {
        gather_header(s, at, len);
        at = m->header;
        len = m->header_len;
    }
    if (s->over)
        return;
    const char *end = memmem(at, len, "\r\n\r\n", 4);
    if (end == NULL) {
        if (m->header == NULL)
            gather_header(s, at, len);
        return;
    }
    (void)mark_read(at, (size_t)(end - at) + 2, &m->mark);
    m->has_header = true;
    take_body(s, end + 4, len - (size_t)(end + 4 - at));
}

static void end_mail(struct session *s)
{
    struct mail *m = &s->mail;
    struct arrival a = {
        .prefix = s->prefix, .recipients = m->recipients, .recipient_count = m->count};
    if (m->has_header)
        a.mark = m->mark;
    if (a.mark.verifiable)
        a.damaged =
            m->body_bytes != a.mark.body_bytes || XXH3_64bits_digest(m->hash) != a.mark.checksum;
    ledger_arrive(s->options->ledger, &a);
    m->count = 0;
    s->stage = COMMANDS;
    say("250 2.0.0 Ok\r\n");
}

/* ---- commands ---- */

static bool is_verb(const char *line, size_t len, const char *verb)
{
    return len >= 4 && strncasecmp(line, verb, 4) == 0;
}

static void on_recipient(struct session *s, const char *line, size_t len)
{
    struct mail *m = &s->mail;
    if (m->count == m->capacity) {
        size_t capacity = m->capacity > 0 ? m->capacity * 2 : 1;
        uint64_t *more = realloc(m->recipients, capacity * sizeof *more);
        if (more == NULL)
            abort();
        m->recipients = more;
        m->capacity = capacity;
    }
    const char *open = memchr(line, '<', len);
    const char *close = open != NULL ? memchr(open, '>', len - (size_t)(open - line)) : NULL;
    if (close == NULL || m->count == RECIPIENTS_MAX) {
        say(close == NULL ? "501 5.5.4 No address\r\n" : "452 4.5.3 Too many\r\n");
        return;
    }
    m->recipients[m->count++] = mark_hash(0, open, (size_t)(close - open));
    say("250 2.1.5 Ok\r\n");
}

static void on_chunk(struct session *s, const char *line)
{
    char *end = NULL;
    uint64_t size = strtoull(line + 4, &end, 10);
    if (!s->options->chunking || end == line + 4) {
        s->over = true; /* what follows cannot be told from commands */
        return;
    }
    s->chunk_left = size;
    s->chunk_last = strncasecmp(end, " LAST", 5) == 0;
    s->stage = CHUNK;
}

static void on_greeting(const struct session *s)
{
    say("250-sink\r\n250-PIPELINING\r\n250-SIZE 0\r\n");
    if (s->options->chunking)
        say("250-CHUNKING\r\n");
    if (s->options->tls != NULL && s->tls == NULL)
        say("250-STARTTLS\r\n");
    say("250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n");
}

static void start_tls(struct session *s)
{
    say("220 2.0.0 Go on\r\n");
    flush(s);
    s->tls = SSL_new(s->options->tls);
    if (s->tls == NULL)
        abort();
    (void)SSL_set_fd(s->tls, s->fd);
    SSL_set_accept_state(s->tls);
    s->stage = HANDSHAKE;
}

/* Answers one command line, which ends with a LF. */
static void on_command(struct session *s, const char *line, size_t len)
{
    if (is_verb(line, len, "MAIL")) {
        s->mail.count = 0;
        begin_mail(s);
        say("250 2.1.0 Ok\r\n");
    } else if (is_verb(line, len, "RCPT")) {
        on_recipient(s, line, len);
    } else if (is_verb(line, len, "DATA")) {
        s->stage = DATA;
        s->at_front = true;
        say("354 Go on\r\n");
    } else if (is_verb(line, len, "BDAT")) {
        on_chunk(s, line);
    } else if (is_verb(line, len, "EHLO")) {
        on_greeting(s);
    } else if (is_verb(line, len, "STARTTLS") && s->options->tls != NULL && s->tls == NULL) {
        start_tls(s);
    } else if (is_verb(line, len, "QUIT")) {
        say("221 2.0.0 Bye\r\n");
        flush(s);
        s->over = true;
    } else if (is_verb(line, len, "RSET")) {
        s->mail.count = 0;
        begin_mail(s);
        say("250 2.0.0 Ok\r\n");
    } else if (is_verb(line, len, "HELO") || is_verb(line, len, "NOOP")) {
        say("250 2.0.0 Ok\r\n");
    } else {
        say("502 5.5.1 Unknown\r\n");
    }
}

/* ---- taking what came; each returns how many bytes it took from the front, 0 where it needs more ---- */

static size_t take_command(struct session *s, const char *at, size_t len)
{
    const char *end = memchr(at, '\n', len);
    if (end == NULL)
        return 0;
    on_command(s, at, (size_t)(end - at));
    return (size_t)(end - at) + 1;
}

/* The first line of a content may be a dot's already. */
static size_t take_front(struct session *s, const char *at, size_t len)
{
    if (at[0] == '.' && len < 3)
        return 0;
    s->at_front = false;
    bool is_end = at[0] == '.' && at[1] == '\r' && at[2] == '\n';
    if (is_end)
        end_mail(s);
    else if (at[0] != '.')
        take_content(s, at, 1);
    return is_end ? 3 : 1;
}

/* How many of the last bytes could begin a CRLF and a dot. */
static size_t held_back(const char *at, size_t len)
{
    if (len > 0 && at[len - 1] == '\r')
        return 1;
    return len > 1 && at[len - 2] == '\r' && at[len - 1] == '\n' ? 2 : 0;
}

static size_t take_data(struct session *s, const char *at, size_t len)
{
    if (s->at_front)
        return take_front(s, at, len);
    const char *dot = memmem(at, len, "\r\n.", 3);
    if (dot == NULL) {
        size_t taken = len - held_back(at, len);
        take_content(s, at, taken);
        return taken;
    }
    size_t before = (size_t)(dot - at);
    if (before + 5 > len) { /* the end, or a stuffed line? */
        take_content(s, at, before);
        return before;
    }
    take_content(s, at, before + 2);
    if (dot[3] != '\r' || dot[4] != '\n')
        return before + 3;
    end_mail(s);
    return before + 5;
}

static size_t take_chunk(struct session *s, const char *at, size_t len)
{
    size_t taken = len < s->chunk_left ? len : (size_t)s->chunk_left;
    take_content(s, at, taken);
    s->chunk_left -= taken;
    return taken;
}

static void end_chunk(struct session *s)
{
    if (s->stage != CHUNK || s->chunk_left > 0)
        return;
    s->stage = COMMANDS;
    if (s->chunk_last)
        end_mail(s);
    else
        say("250 2.0.0 Ok\r\n");
}

/* Takes all that is whole; returns how many bytes remain. */
static size_t take_all(struct session *s, const char *at, size_t len)
{
    size_t taken = 1;
    while (taken > 0 && len > 0 && !s->over) {
        switch (s->stage) {
        case COMMANDS:
            taken = take_command(s, at, len);
            break;
        case DATA:
            taken = take_data(s, at, len);
            break;
        case CHUNK:
            taken = take_chunk(s, at, len);
            break;
        case HANDSHAKE:
            return 0; /* what was sent in clear text behind STARTTLS is nobody's (RFC 3207) */
        }
        at += taken;
        len -= taken;
        end_chunk(s);
    }
    return len;
}

/* ---- the connection ---- */

static void shake_hands(struct session *s)
{
    int rc = SSL_accept(s->tls);
    if (rc == 1)
        s->stage = COMMANDS;
    else
        s->over = SSL_get_error(s->tls, rc) != SSL_ERROR_WANT_READ;
}

static void read_on(struct session *s)
{
    if (s->carry_len > 0)
        memcpy(scratch.input, s->carry, s->carry_len);
    size_t got = receive(s);
    if (got == 0 || s->hung)
        return;
    size_t total = s->carry_len + got;
    size_t rest = take_all(s, scratch.input, total);
    if (!s->over)
        carry_over(s, scratch.input + total - rest, rest);
    flush(s);
}

bool session_on_readable(struct session *s)
{
    if (s->stage == HANDSHAKE)
        shake_hands(s);
    if (s->stage != HANDSHAKE && !s->over)
        read_on(s);
    if (s->over)
        session_destroy(&s);
    return s != NULL;
}

struct session *session_create(const struct sink_options *options, int fd)
{
    struct sockaddr_in to = {0};
    socklen_t len = sizeof to;
    struct session *s = calloc(1, sizeof *s);
    if (s == NULL || getsockname(fd, (struct sockaddr *)&to, &len) != 0)
        abort();
    s->options = options;
    s->fd = fd;
    s->prefix = ledger_open(options->ledger, ntohl(to.sin_addr.s_addr), &s->hung);
    if (s->hung)
        return s;
    say("220 sink ESMTP\r\n");
    flush(s);
    if (s->over)
        session_destroy(&s);
    return s;
}

void session_destroy(struct session **p)
{
    struct session *s = *p;
    *p = NULL;
    ledger_close(s->options->ledger, s->prefix, s->hung);
    SSL_free(s->tls);
    (void)close(s->fd);
    XXH3_freeState(s->mail.hash);
    free(s->mail.recipients);
    free(s->mail.header);
    free(s->carry);
    free(s);
}
