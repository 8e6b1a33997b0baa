/* The client side of one SMTP connection: what we say to a mail exchange (RFC 5321), with
 * PIPELINING (2920), CHUNKING (3030), SIZE, 8BITMIME, SMTPUTF8, DSN, STARTTLS (3207), LIMITS
 * (9422). A pure state machine: bytes in, commands and events out; no I/O, no clock. One thread at
 * a time; owned by the session that drives it.
 *
 *   GREETING -> EHLO (-> HELO) -> [STARTTLS -> TLS -> EHLO] -> READY
 *   READY -> MAIL -> RCPT... -> DATA -> BODY -> DOT -> READY      with PIPELINING one write to DATA
 *   READY -> MAIL -> RCPT... -> BDAT -> READY                     one write with the content behind it
 *   MAIL, RCPT, DATA, BDAT -> RSET -> READY                       a transaction that was not taken
 *   DOT -> MAIL, BDAT -> RSET -> MAIL                             the next one has been begun already
 *   READY -> QUIT
 *
 * Transactions form a queue: with PIPELINING the next one may begin as soon as the last byte of the
 * one before is on its way, and its commands share that byte's write (RFC 2920 3.1: the content's
 * end may open a group). Behind the end of DATA's content no RSET is needed: that end clears the
 * server's buffers whatever its reply (RFC 5321 4.1.1.4). A BDAT that fails does not, so what is
 * sent behind one that is not answered opens with RSET (RFC 3030 2).
 *
 * In each transaction commands sent and replies awaited are two cursors, replied <= sent <= total;
 * replies come in order, so every one is matched with the oldest command without one. The driver
 * writes out what gathers in `out`, in order and before it feeds what it reads next; arms one
 * deadline of smtp_phase_limit_ms() whenever smtp_client_phase() or smtp_client_replies() has
 * changed (per reply, absolute, never moved by a trickle); and streams the content itself.
 *
 * One message over a new connection, as the driver sees it (PIPELINING):
 *
 *   feed("220 mx\r\n")                 MORE; `out` has EHLO
 *   feed("250-mx ... 250 DSN\r\n")     READY; smtp_client_begin() puts MAIL, RCPTs, DATA into `out`
 *   feed("250 ...\r\n" twice)          MORE, twice or once
 *   feed("354 go\r\n")                 BODY; content and dot written, smtp_client_body_sent(), and
 *                                      in the same write what smtp_client_begin() made of the next
 *   feed("250 queued\r\n")             DONE: the outcome of each recipient is in its reply
 *   feed("250 ...354 go\r\n")          BODY: the next one's content
 *   ...
 *   feed("")                           READY: nothing is under way; or smtp_client_quit() */
#ifndef ONWARD_SMTP_CLIENT_H
#define ONWARD_SMTP_CLIENT_H

#include "core/base/buf.h"
#include "core/base/list.h"
#include "core/reply.h"
#include "core/spool/envelope.h"
#include "smtp/capability.h"

enum smtp_tls_policy { SMTP_TLS_OPPORTUNISTIC, SMTP_TLS_REQUIRED, SMTP_TLS_OFF };

/* What the machine waits for, and all there is to know of it: X(name, log phrase, limit in seconds
 * by RFC 5321 4.5.3.2, legal next phases). CLOSED can follow any of them. */
#define SMTP_PHASES(X)                                                                             \
    X(SMTP_GREETING, "greeting", 300, TO(SMTP_EHLO))                                               \
    X(SMTP_EHLO, "EHLO", 300, TO(SMTP_HELO) | TO(SMTP_STARTTLS) | TO(SMTP_READY))                  \
    X(SMTP_HELO, "HELO", 300, TO(SMTP_READY))                                                      \
    X(SMTP_STARTTLS, "STARTTLS", 120, TO(SMTP_TLS) | TO(SMTP_READY))                               \
    X(SMTP_TLS, "TLS handshake", 120, TO(SMTP_EHLO))                                               \
    X(SMTP_READY, "ready", 0, TO(SMTP_MAIL) | TO(SMTP_QUIT))                                       \
    X(SMTP_MAIL, "MAIL", 300, TO(SMTP_RCPT) | TO(SMTP_RSET))                                       \
    X(SMTP_RCPT, "RCPT", 300, TO(SMTP_DATA) | TO(SMTP_BDAT) | TO(SMTP_RSET))                       \
    X(SMTP_DATA, "DATA", 120, TO(SMTP_BODY) | TO(SMTP_DOT) | TO(SMTP_RSET))                        \
    X(SMTP_BODY, "message body", 180, TO(SMTP_DOT))                                                \
    X(SMTP_DOT, "end of message", 600, TO(SMTP_READY) | TO(SMTP_MAIL))                             \
    X(SMTP_BDAT, "BDAT", 600, TO(SMTP_READY) | TO(SMTP_RSET))                                      \
    X(SMTP_RSET, "RSET", 20, TO(SMTP_READY) | TO(SMTP_MAIL))                                       \
    X(SMTP_QUIT, "QUIT", 5, 0)                                                                     \
    X(SMTP_CLOSED, "closed", 0, 0)

enum smtp_phase {
#define X(name, phrase, limit_s, next) name,
    SMTP_PHASES(X)
#undef X
};

/* The phrase and the limit of the table. Static storage. */
const char *smtp_phase_name(enum smtp_phase phase);
uint64_t smtp_phase_limit_ms(enum smtp_phase phase); /* 0 = none */

/* MORE: all input is used; flush, wait.
 * START_TLS: 220 to STARTTLS: do the handshake, then smtp_client_tls_up; no feed in between.
 * READY: nothing is under way, a transaction may begin: after EHLO, or after the last DONE and its
 *   clean-up. It is told only when all input is used, so that a server that speaks unasked is found
 *   out first.
 * BODY: 354 for the oldest transaction: send the content; the final dot only with the commit token.
 * DONE: the oldest transaction is over, every recipient has its reply. Where none is left, READY
 *   follows by itself: from the next call of feed, an empty one will do, or once RSET has been
 *   answered. Where the reply that ended it was 421, FAILED follows instead.
 * FAILED: the session is over, smtp_client_trouble says why: close. Recipients of transactions not
 *   DONE that had a reply by then keep it; the others have code 0. */
enum smtp_client_event {
    CLIENT_MORE,
    CLIENT_START_TLS,
    CLIENT_READY,
    CLIENT_BODY,
    CLIENT_DONE,
    CLIENT_FAILED,
};

/* Why a session failed: decides what it means for the host (workers/README.md). */
enum smtp_client_trouble {
    TROUBLE_NONE,         /* none of the server's: out of memory for a command */
    TROUBLE_CLOSED,       /* it gave up the content before its end, or answered QUIT */
    TROUBLE_NOT_SMTP,     /* no reply code, bad line ends, binary */
    TROUBLE_FLOOD,        /* a line or a reply over its limit, replies nobody asked for */
    TROUBLE_BUSY,         /* greeting 4xx, 421 at any command, a goodbye while idle */
    TROUBLE_REFUSING,     /* greeting 5xx; EHLO and HELO both 5xx */
    TROUBLE_TLS_REQUIRED, /* policy wants TLS and it is not to be had */
};

/* Borrowed for the machine's life. */
struct smtp_client_options {
    const char *ehlo_name;
    enum smtp_tls_policy tls;
};

/* How a content travels: by DATA, behind the 354; or by BDAT LAST, in one go with its envelope,
 * before anything of that is answered. */
enum smtp_content { SMTP_BY_DATA, SMTP_BY_BDAT };

/* One transaction: a message for some recipients. Borrowed from BEGIN to DONE, or until the machine
 * is destroyed. */
struct smtp_transaction {
    const struct envelope *envelope;             /* without recipients */
    const struct envelope_recipient *recipients; /* in sending order */
    struct reply *replies; /* one per recipient: cleared at the start, filled by DONE */
    uint32_t recipient_count;
    enum smtp_content by; /* wished for; what it is, once begun */

    struct { /* the machine's */
        struct link link;
        uint32_t rcpt_sent, rcpt_replied; /* two cursors: replied <= sent <= total */
        bool rset_awaited, mail_awaited;  /* sent and not answered */
        enum smtp_phase end_awaited;      /* DATA, BODY, DOT or BDAT; READY: none of them */
        bool mail_refused;
        bool end_begun; /* DATA or BDAT was sent */
        bool end_sent;  /* and so was the content's last byte */
    } own;
};

struct smtp_client;

/* `out` belongs to the driver and outlives the machine. NULL when out of memory. */
struct smtp_client *smtp_client_create(const struct smtp_client_options *options, struct buf *out);
void smtp_client_destroy(struct smtp_client **c);

/* Uses up bytes of `input`, at most until the next event; feed the rest again until MORE, START_TLS
 * or FAILED. May be empty. Neither blocks nor calls back. Input behind a 220 to STARTTLS is
 * dropped, never read as replies (RFC 3207 4.2, command injection). Replies nobody asked for are
 * FLOOD; only 4yz says goodbye (BUSY), as servers do to a connection that idles. */
enum smtp_client_event smtp_client_feed(struct smtp_client *c, struct slice input,
                                        size_t *used_out);

/* The handshake is done: queues EHLO again; all earlier capabilities are forgotten. */
void smtp_client_tls_up(struct smtp_client *c);

/* May this message for this recipient go over this connection at all (SIZE, 8BITMIME, SMTPUTF8)?
 * True, or false with the bounce in `*why_out`. From the first READY on. */
bool smtp_client_can_carry(const struct smtp_client *c, const struct envelope *e,
                           const struct envelope_recipient *r, struct reply *why_out);

/* May a transaction begin: in READY; or, with PIPELINING, where the last byte of the newest one has
 * been sent, or will be in front of `out` in the driver's next write. */
bool smtp_client_may_begin(const struct smtp_client *c);

/* Only where it may begin: queues MAIL, RCPTs and DATA as pipelining allows (of very many RCPTs the
 * first ones; the others follow as replies come). By BDAT, where the server offers CHUNKING and
 * PIPELINING and all RCPTs fit: the content follows `out` at once, without a BODY event; else
 * `t->by` has become SMTP_BY_DATA. */
void smtp_client_begin(struct smtp_client *c, struct smtp_transaction *t);

/* Takes back the newest transaction: nothing of it has been written, and `out` has been emptied. */
void smtp_client_retract(struct smtp_client *c);

/* The last byte of a content (by DATA: the final dot) is written: of the oldest transaction that
 * lacked it. */
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

/* Was 421 the last thing it said? Then what was sent behind that has not been taken (RFC 5321 3.8:
 * it was closing the channel). */
bool smtp_client_said_goodbye(const struct smtp_client *c);

unsigned smtp_client_capabilities(const struct smtp_client *c); /* enum smtp_capability bits */

/* RFC 9422 MAILMAX and RCPTMAX; 0 = none announced. */
uint32_t smtp_client_mail_max(const struct smtp_client *c);
uint32_t smtp_client_rcpt_max(const struct smtp_client *c);

#endif
