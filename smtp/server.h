/* The server side of one SMTP connection: what a submitter says to us (RFC 5321), with PIPELINING
 * (2920), SIZE (1870), 8BITMIME (6152), SMTPUTF8 (6531), CHUNKING (3030), DSN (3461) and
 * ENHANCEDSTATUSCODES (2034). A pure state machine: bytes in, replies and events out, no I/O, no
 * clock. One thread at a time; owned by the connection's driver.
 *
 * The driver feeds received bytes and writes out what gathers in `out`. A message's way:
 *
 *   feed -> SERVER_BEGIN      MAIL and RCPTs were accepted, DATA or the first BDAT came. The driver
 *                             prepares `content`: it writes Received first
 *   feed -> SERVER_CONTENT    `content` is full: the driver takes its bytes and empties it
 *   feed -> SERVER_MESSAGE    the content is complete. The machine takes no more input until the
 *                             driver has made it durable (or not) and calls smtp_server_conclude
 *                             with the reply
 *   feed -> SERVER_ABANDON    the transaction behind SERVER_BEGIN is void (RSET, bad content, too
 *                             large, QUIT)
 *
 * Replies of one pipelined group gather in `out` and are flushed together when input runs out. */
#ifndef ONWARD_SMTP_SERVER_H
#define ONWARD_SMTP_SERVER_H

#include "core/base/buf.h"
#include "core/reply.h"
#include "core/spool/envelope.h"

struct smtp_server;
struct smtp_refusal;

/* Shared by all connections; must outlive them. */
struct smtp_server_options {
    const char *hostname; /* our name in the greeting and in EHLO */
    uint64_t message_bytes_max;
    unsigned recipients_max;      /* per message: 452 4.5.3 beyond it */
    unsigned command_bytes_max;   /* a command line with CRLF; RFC 5321 4.5.3.1.4 plus extensions */
    unsigned text_line_bytes_max; /* a content line with CRLF (RFC 5321 4.5.3.1.6: 1000) */
    unsigned bad_commands_max;    /* with no message taken between them; then 421 and close */
    struct slice priority_field;  /* "x-priority-class:", lower case; "" = no field says it */
    unsigned received_max;        /* Received fields: beyond is a loop, 554 5.4.6 */
    /* Normalizes a recipient's or sender's domain to its routing key; false: not a valid domain. */
    bool (*normalize_domain)(struct slice domain, char out[256]);
    /* A recipient's domain (normalized): NULL where it is taken, or a 4yz (borrowed) for this
     * recipient only. NULL for a server that takes all. */
    const struct smtp_refusal *(*refuse_domain)(void *context, const char *domain);
    void *context; /* borrowed; of refuse_domain */
};

enum smtp_server_event {
    SERVER_MORE,    /* all input used */
    SERVER_REPLIES, /* `out` is nearly full: write it out, then feed the rest */
    SERVER_BEGIN,
    SERVER_CONTENT,
    SERVER_MESSAGE,
    SERVER_ABANDON,
    SERVER_CLOSE, /* flush `out`, then close */
};

/* `out` (replies) and `content` belong to the driver and outlive the machine. NULL when out of
 * memory. */
struct smtp_server *smtp_server_create(const struct smtp_server_options *options, struct buf *out,
                                       struct buf *content);
void smtp_server_destroy(struct smtp_server **s);

/* What messages have whose header does not say it; bulk where it was never told. */
void smtp_server_set_priority(struct smtp_server *s, enum envelope_priority priority);

/* Queues the 220 greeting. */
void smtp_server_greet(struct smtp_server *s);

/* Queues "code enhanced text" and makes the next feed return SERVER_CLOSE: 421 at shutdown,
 * overload, time-out; 554 for a client that is not allowed. */
void smtp_server_hang_up(struct smtp_server *s, unsigned code, const char *enhanced,
                         const char *text);

/* Uses up bytes of `input`, at most until the next event. `*used_out` says how many; feed the rest
 * again. */
enum smtp_server_event smtp_server_feed(struct smtp_server *s, struct slice input,
                                        size_t *used_out);

/* While no new mail is taken, MAIL, DATA and such are refused with `why` (borrowed; a 4yz, with 421
 * the connection ends); NULL while it is. The driver sets it before a feed. */
void smtp_server_set_closed(struct smtp_server *s, const struct smtp_refusal *why);

/* How often it was refused for that since this was asked last. */
unsigned smtp_server_take_closed_count(struct smtp_server *s);

/* After SERVER_BEGIN: the lines to put in where the header section lacks Date or Message-ID, with
 * their CRLF. They must live until conclude or ABANDON. */
void smtp_server_set_trace(struct smtp_server *s, struct slice date_line,
                           struct slice message_id_line);

/* After SERVER_MESSAGE: the final reply; input is taken again. */
void smtp_server_conclude(struct smtp_server *s, unsigned code, const char *enhanced,
                          const char *text);

/* The envelope: complete from SERVER_BEGIN on but for size, header bytes and content flags, which
 * are set at SERVER_MESSAGE (size counts only what the machine put into `content`, so not the
 * driver's Received). id, arrived_wall_ms and origin are the driver's. Valid until conclude or
 * ABANDON. */
const struct envelope *smtp_server_envelope(const struct smtp_server *s);

/* What the client called itself at EHLO or HELO; "" before. And whether it was EHLO. */
struct slice smtp_server_helo(const struct smtp_server *s);
bool smtp_server_is_esmtp(const struct smtp_server *s);

/* The client has said QUIT: nothing follows. */
bool smtp_server_has_quit(const struct smtp_server *s);

/* The state, for logs and time limits: greeting, command, content, waiting for durability. */
const char *smtp_server_state_name(const struct smtp_server *s);

/* True between transactions and before the first: a 421 here loses nothing the client must retry
 * twice. */
bool smtp_server_is_idle(const struct smtp_server *s);

#endif
