/* Our trace field (RFC 5321 4.4) and the fields we put in where a submitter left them out (RFC 6409
 * 8). */
#ifndef ONWARD_SMTP_TRACE_H
#define ONWARD_SMTP_TRACE_H

#include "core/base/address.h"
#include "core/base/buf.h"
#include "core/spool/envelope.h"

enum { SMTP_TRACE_LINE_SIZE = 320 };

struct smtp_trace {
    struct address client;
    struct slice helo;
    bool esmtp;
    const char *protocol; /* "HTTP" where it was not SMTP, else NULL */
    const char *hostname;
    uint64_t id;
    uint64_t wall_ms;
    const struct envelope *envelope; /* its recipients and flags */
};

/* Appends the Received field, folded, with its CRLF. */
void smtp_trace_received(const struct smtp_trace *t, struct buf *out);

/* "Date: ...\r\n" and "Message-ID: <id@hostname>\r\n" */
void smtp_trace_date_line(const struct smtp_trace *t, char out[SMTP_TRACE_LINE_SIZE]);
void smtp_trace_message_id_line(const struct smtp_trace *t, char out[SMTP_TRACE_LINE_SIZE]);

#endif
