/* An envelope: who a message is from and for (RFC 5321 2.3.1), with what the delivery needs to know
 * about its content. It is written once, when the message is submitted, and never changes; how far
 * each recipient has got is kept elsewhere (store.h). Its encoded form is a spool record: decoding
 * treats it as hostile. */
#ifndef ONWARD_CORE_SPOOL_ENVELOPE_H
#define ONWARD_CORE_SPOOL_ENVELOPE_H

#include "core/base/buf.h"
#include "core/base/slice.h"

/* RFC 3461 4.1, as bits. 0 = the parameter was not given (meaning FAILURE, perhaps DELAY). */
enum envelope_notify {
    NOTIFY_NEVER = 1,
    NOTIFY_SUCCESS = 2,
    NOTIFY_FAILURE = 4,
    NOTIFY_DELAY = 8,
};

/* RFC 3461 4.3 */
enum envelope_ret { RET_NONE, RET_FULL, RET_HDRS };

/* What goes first where mail waits (queue/priority.h). */
enum envelope_priority {
    PRIORITY_BULK,          /* what is not marked, and bounces */
    PRIORITY_TRANSACTIONAL, /* one-time codes and the like */
    PRIORITIES
};

/* "bulk" or "transactional". Static storage. */
const char *envelope_priority_name(uint8_t priority);

/* By its name, in any case. False: there is none of it. */
bool envelope_priority_parse(struct slice name, uint8_t *priority_out);

enum envelope_flags {
    ENVELOPE_SMTPUTF8 = 1,         /* asked for at MAIL (RFC 6531) */
    ENVELOPE_BODY_8BIT = 2,        /* BODY=8BITMIME was given (RFC 6152) */
    ENVELOPE_HAS_8BIT = 4,         /* the content does hold bytes over 127 */
    ENVELOPE_HAS_DOTS = 8,         /* some content line begins with a dot: DATA needs stuffing */
    ENVELOPE_HAS_UTF8_HEADER = 16, /* the header section does hold bytes over 127 */
};

/* One RCPT (RFC 5321 4.1.1.3). */
struct envelope_recipient {
    struct slice address; /* local-part@domain as given, no brackets, no source route */
    struct slice domain;  /* routing key: lower-case A-labels, or an address literal "[...]" */
    struct slice orcpt;   /* "rfc822;a+2Bb@c" as given, still xtext (RFC 3461 4.2); or empty */
    uint8_t notify;       /* enum envelope_notify bits */
};

struct envelope {
    uint64_t id;              /* never reused, grows with time; names the message everywhere */
    uint64_t arrived_wall_ms; /* when its 250 was earned: the age limit counts from here */
    uint64_t size_bytes;      /* of the stored content, CRLF counted, not dot-stuffed (RFC 1870) */
    uint32_t header_bytes;    /* of it, the header section with its blank line */
    uint8_t flags;            /* enum envelope_flags bits */
    uint8_t ret;              /* enum envelope_ret */
    uint8_t priority;         /* enum envelope_priority */
    struct slice sender;      /* reverse-path without brackets; empty is <> */
    struct slice envid;       /* as given, xtext (RFC 3461 4.4); or empty */
    struct slice origin;      /* "[192.0.2.7] helo.example", for logs and bounces */
    uint32_t recipient_count; /* at least 1 */
    struct envelope_recipient *recipients; /* borrowed */
};

enum {
    ENVELOPE_RECIPIENTS_MAX = 50000, /* hard ceiling; the configured limit is lower */
    ENVELOPE_ENCODED_MAX = 32 << 20,
    ENVELOPE_ID_SIZE = 17, /* sixteen hexadecimal digits and a NUL */
};

/* Appends the encoded form to `out` (check buf_ok). Recipients keep their order and so
 * their index. */
void envelope_encode(const struct envelope *e, struct buf *out);

/* Decodes the fixed part, leaving `recipients` NULL. Slices borrow from `record`. False where the
 * record is damaged. */
bool envelope_decode(struct slice record, struct envelope *e_out);

/* Decodes recipient `index` in constant time. False where it is damaged or there is none. */
bool envelope_decode_recipient(struct slice record, uint32_t index,
                               struct envelope_recipient *recipient_out);

/* The id as users see it, in logs, Received and commands. */
void envelope_id_format(uint64_t id, char out[ENVELOPE_ID_SIZE]);
bool envelope_id_parse(struct slice text, uint64_t *id_out);

#endif
