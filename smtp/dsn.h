/* Delivery status notifications: the bounce, the delay notice, and the "relayed" success notice, as
 * multipart/report (RFC 3461, 3462, 3464; RFC 6533 for internationalized addresses). Composes
 * bytes; decides nothing. */
#ifndef ONWARD_SMTP_DSN_H
#define ONWARD_SMTP_DSN_H

#include "core/base/buf.h"
#include "core/reply.h"
#include "core/spool/envelope.h"

enum dsn_kind { DSN_FAILED, DSN_DELAYED, DSN_RELAYED };

/* One recipient that the notice is about. */
struct dsn_recipient {
    const struct envelope_recipient *recipient;
    const struct reply *reply; /* why; for DSN_RELAYED the exchange's 250 */
    struct slice exchange;     /* "mx.example.org", "" where none was reached */
};

struct dsn {
    enum dsn_kind kind;
    const char *hostname;     /* Reporting-MTA */
    const char *postmaster;   /* From */
    uint64_t id;              /* of the notice itself: in Message-ID and boundary */
    uint64_t wall_ms;         /* now: Date */
    uint64_t give_up_wall_ms; /* DSN_DELAYED: Will-Retry-Until */
    const struct envelope *original;
    const struct dsn_recipient *recipients;
    uint32_t recipient_count;
    struct slice content; /* the original's content as far as it is to be returned: header section,
                             or whole (RET=FULL and failed); the composer cuts it nowhere */
    bool content_is_full; /* message/rfc822, else text/rfc822-headers */
};

/* May a notice of this kind be sent at all for this recipient (RFC 3461 4.1, 6.1: NOTIFY; never for
 * a message from <>)? */
bool dsn_wanted(enum dsn_kind kind, const struct envelope *original,
                const struct envelope_recipient *recipient);

/* Appends the notice's content (header section and body, CRLF line ends) to `out` (check buf_ok),
 * and sets `e_out` to its envelope: from <>, to the original's sender, with size, header bytes and
 * flags of what was appended. `rcpt_out` is the storage of its one recipient; its domain is the
 * sender's domain in normal form, kept in `domain_out`. False where the sender's address has no
 * valid domain (nobody to tell). */
bool dsn_compose(const struct dsn *d, struct buf *out, struct envelope *e_out,
                 struct envelope_recipient *rcpt_out, char domain_out[256]);

#endif
