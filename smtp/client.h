/* The client side of one SMTP connection: what we say to a mail exchange (RFC 5321), with PIPELINING, SIZE, 8BITMIME,
 * SMTPUTF8, DSN, STARTTLS (3207), LIMITS (9422). A pure state machine: bytes in, commands and events out; no I/O, no clock.
 * One thread at a time; owned by the session that drives it.
 *
 *   GREETING -> EHLO (-> HELO) -> [STARTTLS -> TLS -> EHLO] -> READY
 *   READY -> MAIL -> RCPT... -> DATA -> BODY -> DOT -> READY      (with PIPELINING MAIL..DATA are one write)
 *   a transaction that ends before BODY is followed by RSET; READY -> QUIT
 *
 * Commands sent and replies awaited are two cursors on one queue, replied <= sent; every reply is matched
 * with the command it answers. The driver writes out what gathers in `out`, arms one deadline for
 * smtp_client_limit_ms() whenever smtp_client_awaiting() changes (per reply, absolute, never moved by a trickle),
 * and streams the body itself. */
#ifndef ONWARD_SMTP_CLIENT_H
#define ONWARD_SMTP_CLIENT_H

#include "core/base/buf.h"
#include "core/reply.h"
#include "core/spool/envelope.h"
#include "smtp/capability.h"

enum smtp_tls_policy { SMTP_TLS_OPPORTUNISTIC, SMTP_TLS_REQUIRED, SMTP_TLS_OFF };

/* What the machine waits for: X(name, log phrase, RFC 5321 4.5.3.2 limit in seconds). */
#define SMTP_PHASES(X)                                                                             \
    X(SMTP_GREETING, "greeting", 300)                                                              \
    X(SMTP_EHLO, "EHLO", 300)                                                                      \
    X(SMTP_HELO, "HELO", 300)                                                                      \
    X(SMTP_STARTTLS, "STARTTLS", 120)                                                              \
    X(SMTP_TLS, "TLS handshake", 120)                                                              \
    X(SMTP_READY, "ready", 0)                                                                      \
    X(SMTP_MAIL, "MAIL", 300)                                                                      \
    X(SMTP_RCPT, "RCPT", 300)                                                                      \
    X(SMTP_DATA, "DATA", 120)                                                                      \
    X(SMTP_BODY, "message body", 180)                                                              \
    X(SMTP_DOT, "end of message", 600)                                                             \
    X(SMTP_RSET, "RSET", 20)                                                                       \
    X(SMTP_QUIT, "QUIT", 5)                                                                        \
    X(SMTP_CLOSED, "closed", 0)

enum smtp_phase {
#define X(name, phrase, limit_s) name,
    SMTP_PHASES(X)
#undef X
};

const char *smtp_phase_name(enum smtp_phase phase);
uint64_t smtp_phase_limit_ms(enum smtp_phase phase); /* 0 = none */

enum smtp_client_event {
    CLIENT_MORE,     /* all input used; flush, wait */
    CLIENT_START_TLS, /* 220 to STARTTLS: do the handshake, then smtp_client_tls_up */
    CLIENT_READY,    /* a transaction may begin: after EHLO (the first time), after DONE's clean-up */
    CLIENT_BODY,     /* 354: send the content; the final dot only with the commit token */
    CLIENT_DONE,     /* the transaction is over: every recipient has its reply. READY follows by itself: at the next
                        call of feed, an empty one will do, or once a RSET has been answered */
    CLIENT_FAILED,   /* the session is over: smtp_client_failure says why. Close */
};

/* Why a session failed: decides what it means for the host (DESIGN.md 2). */
enum smtp_client_trouble {
    TROUBLE_NONE,
    TROUBLE_CLOSED,         /* it gave up the content before its end, or answered QUIT */
    TROUBLE_NOT_SMTP,       /* no reply code, bad line ends, binary */
    TROUBLE_FLOOD,          /* a line or a reply over its limit, replies nobody asked for */
    TROUBLE_BUSY,           /* greeting 4xx, or 421 at any command */
    TROUBLE_REFUSING,       /* greeting 5xx; EHLO and HELO both 5xx */
    TROUBLE_TLS_REQUIRED,   /* policy wants TLS and it is not to be had */
};

struct smtp_client_options {
    const char *ehlo_name;
    enum smtp_tls_policy tls;
};

/* One transaction: a message for some recipients. Borrowed from BEGIN to DONE. */
struct smtp_transaction {
    const struct envelope *envelope;               /* without recipients */
    const struct envelope_recipient *recipients;   /* in sending order */
    struct reply *replies;                         /* one per recipient: filled by DONE */
    uint32_t recipient_count;
};

struct smtp_client;

/* `out` belongs to the driver and outlives the machine. NULL when out of memory. */
struct smtp_client *smtp_client_create(const struct smtp_client_options *options, struct buf *out);
void smtp_client_destroy(struct smtp_client **c);

/* Uses up bytes of `input`, at most until the next event; feed the rest again. Input behind a 220 to STARTTLS is
 * dropped, never read as replies (RFC 3207 4.2, command injection). Unasked-for bytes are FLOOD. */
enum smtp_client_event smtp_client_feed(struct smtp_client *c, struct slice input,
                                        size_t *used_out);

/* The handshake is done: queues EHLO again; all earlier capabilities are forgotten. */
void smtp_client_tls_up(struct smtp_client *c);

/* In READY only: may this message for this recipient go over this connection at all (SIZE, 8BITMIME, SMTPUTF8)? True, or
 * false with the bounce in `*why_out`. */
bool smtp_client_can_carry(const struct smtp_client *c, const struct envelope *e, const struct envelope_recipient *r,
                           struct reply *why_out);

/* In READY only: begins the transaction: queues MAIL, RCPTs and DATA as pipelining allows. */
void smtp_client_begin(struct smtp_client *c, const struct smtp_transaction *t);

/* After CLIENT_BODY: the last byte (final dot) is in the output. The phase becomes SMTP_DOT. */
void smtp_client_body_sent(struct smtp_client *c);

/* In READY only: queues QUIT. */
void smtp_client_quit(struct smtp_client *c);

/* What the next reply answers, and the driver's deadline for it. */
enum smtp_phase smtp_client_phase(const struct smtp_client *c);

/* The same, but after the end the phase that it ended in. */
enum smtp_phase smtp_client_last_phase(const struct smtp_client *c);

/* Rises with each complete reply: the driver re-arms its deadline when it has changed. */
uint64_t smtp_client_replies(const struct smtp_client *c);

/* After CLIENT_FAILED: why, and the reply that told it (a LOCAL_* one where the peer sent none). */
enum smtp_client_trouble smtp_client_trouble(const struct smtp_client *c);
const struct reply *smtp_client_last_reply(const struct smtp_client *c);

unsigned smtp_client_capabilities(const struct smtp_client *c); /* enum smtp_capability bits */

/* RFC 9422 MAILMAX and RCPTMAX; 0 = none announced. */
uint32_t smtp_client_mail_max(const struct smtp_client *c);
uint32_t smtp_client_rcpt_max(const struct smtp_client *c);

#endif
