/* The commands that open a transaction, as text: MAIL, RCPT and BDAT with what the server's
 * capabilities allow them to say (SIZE, 8BITMIME, SMTPUTF8, DSN). No state. */
#ifndef ONWARD_SMTP_PUT_H
#define ONWARD_SMTP_PUT_H

#include "core/base/buf.h"
#include "core/spool/envelope.h"
#include "smtp/capability.h"

/* Appends text from an envelope or the configuration: it was checked when it was taken in, and must
 * never be able to end a command line (asserted). */
void smtp_put_field(struct buf *out, struct slice field);

/* MAIL FROM for these recipients, with CRLF. */
void smtp_put_mail(struct buf *out, const struct smtp_capabilities *caps, const struct envelope *e,
                   const struct envelope_recipient *recipients, uint32_t recipient_count);

/* RCPT TO for one of them, with CRLF. */
void smtp_put_rcpt(struct buf *out, const struct smtp_capabilities *caps,
                   const struct envelope_recipient *r);

/* BDAT n LAST, with CRLF (RFC 3030). */
void smtp_put_bdat_last(struct buf *out, uint64_t bytes);

/* RFC 6531: does the sender or the header section hold UTF-8? */
bool smtp_header_needs_utf8(const struct envelope *e);

#endif
