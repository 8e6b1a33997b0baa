/* What was said about a recipient, a transaction or a host: an SMTP reply (RFC 5321 4.2) with its
 * enhanced status (RFC 3463), whether a peer sent it or we concluded it ourselves. A failure of
 * ours (no route, silence, refused) becomes the same struct with a code of the private range, so
 * that one function decides between delivered, next exchange, deferred and bounced. Plain value:
 * copy freely. */
#ifndef ONWARD_CORE_REPLY_H
#define ONWARD_CORE_REPLY_H

#include "core/base/slice.h"

#include <stdint.h>

enum { REPLY_TEXT_SIZE = 256 }; /* longer texts are cut: they go to logs and bounces only */

struct reply {
    uint16_t code;    /* 200-559 from a peer; LOCAL_* (9000 and up) from us; 0 = none yet */
    uint8_t class;    /* enhanced status class 2, 4 or 5; always the class that holds */
    uint16_t subject; /* enhanced status subject and detail, 0 where the peer sent none */
    uint16_t detail;
    uint16_t text_len; /* bytes of `text`, printable, without code and enhanced status */
    char text[REPLY_TEXT_SIZE];
};

/* Conclusions of our own: name, enhanced status, text. The class says what it means for the
 * recipient if nothing better turns up: 4 defers, 5 bounces. */
#define REPLY_LOCALS(X)                                                                            \
    X(LOCAL_DNS_TEMPFAIL, 4, 4, 3, "name server failure; the lookup is tried again")               \
    X(LOCAL_DNS_BOGUS, 4, 4, 3, "DNS answer failed DNSSEC validation")                             \
    X(LOCAL_NXDOMAIN, 5, 1, 2, "recipient's domain does not exist")                                \
    X(LOCAL_NO_ADDRESS, 5, 4, 4, "recipient's domain has no mail exchange with an address")        \
    X(LOCAL_EXCHANGES_NO_ADDRESS, 4, 4, 4, "none of the domain's mail exchanges has an address")   \
    X(LOCAL_NULL_MX, 5, 1, 10, "recipient's domain accepts no mail (null MX)")                     \
    X(LOCAL_MAIL_LOOP, 5, 4, 6, "this relay is itself the domain's best mail exchange")            \
    X(LOCAL_BAD_DOMAIN, 5, 1, 2, "recipient's domain is not a valid name")                         \
    X(LOCAL_CONNECT_REFUSED, 4, 4, 1, "connection refused")                                        \
    X(LOCAL_UNREACHABLE, 4, 4, 1, "no route to the exchange")                                      \
    X(LOCAL_CONNECT_TIMEOUT, 4, 4, 1, "connection attempt was not answered in time")               \
    X(LOCAL_TIMEOUT, 4, 4, 2, "the exchange did not answer in time")                               \
    X(LOCAL_CLOSED, 4, 4, 2, "the exchange closed the connection")                                 \
    X(LOCAL_RESET, 4, 4, 2, "the exchange reset the connection")                                   \
    X(LOCAL_NOT_SMTP, 4, 5, 0, "the exchange does not speak SMTP")                                 \
    X(LOCAL_REPLY_TOO_LONG, 4, 5, 0, "the exchange's reply is longer than any allowed")            \
    X(LOCAL_TLS_REQUIRED, 4, 7, 10, "TLS is required and the exchange does not offer it")          \
    X(LOCAL_TLS_FAILED, 4, 7, 5, "the TLS handshake with the exchange failed")                     \
    X(LOCAL_UNKNOWN_OUTCOME, 4, 4, 2, "connection lost after the final dot; outcome unknown")      \
    X(LOCAL_ALL_HOSTS_REFUSE, 4, 3, 2, "every exchange of the domain refuses us at its greeting")  \
    X(LOCAL_NEEDS_8BITMIME, 5, 6, 3, "the exchange does not take 8-bit content")                   \
    X(LOCAL_NEEDS_SMTPUTF8, 5, 6, 7, "the exchange does not take internationalized addresses")     \
    X(LOCAL_TOO_LARGE, 5, 3, 4, "the message is larger than the exchange accepts")                 \
    X(LOCAL_EXPIRED, 5, 4, 7, "the message could not be delivered before its time limit")          \
    X(LOCAL_OPERATOR_BOUNCE, 5, 7, 0, "returned to its sender by the operator")                    \
    X(LOCAL_SHUTDOWN, 4, 3, 2, "the relay is shutting down")                                       \
    X(LOCAL_NO_RESOURCES, 4, 3, 1, "the relay is out of memory or descriptors")                    \
    X(LOCAL_SPOOL_DAMAGED, 5, 3, 0, "the message's stored content cannot be read")                 \
    X(LOCAL_SUSPENDED, 4, 3, 2, "the operator has suspended deliveries to the recipient's domain")

enum reply_local {
    REPLY_LOCAL_BASE = 9000, /* not itself a code */
#define X(name, class_, subject_, detail_, text_) name,
    REPLY_LOCALS(X)
#undef X
        REPLY_LOCAL_END
};

/* A conclusion of ours as a reply. */
struct reply reply_local(enum reply_local code);

/* The same with `detail` (an exchange, a limit) appended to its text in brackets. */
struct reply reply_local_about(enum reply_local code, struct slice about);

/* "LOCAL_TIMEOUT" and the like for logs; "remote" for a peer's code. Static storage. */
const char *reply_source_name(const struct reply *r);

static inline bool reply_is_local(const struct reply *r)
{
    return r->code > REPLY_LOCAL_BASE;
}

/* Sets the text, cut to size, every byte that is not printable ASCII or valid UTF-8 replaced by
 * '?'; never fails. */
void reply_set_text(struct reply *r, struct slice text);

/* "550 5.1.1 text", or "5.1.2 text" for a local one; returns the length written, cut to size. */
size_t reply_format(const struct reply *r, char *dst, size_t size);

#endif
