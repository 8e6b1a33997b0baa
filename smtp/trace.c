#include "smtp/trace.h"

#include "core/base/clock.h"

#include <stdio.h>

/* RFC 3848, RFC 6531 3.7.3 */
static const char *protocol(const struct smtp_trace *t)
{
    if (t->protocol != NULL)
        return t->protocol;
    if ((t->envelope->flags & ENVELOPE_SMTPUTF8) != 0)
        return "UTF8SMTP";
    return t->esmtp ? "ESMTP" : "SMTP";
}

void smtp_trace_received(const struct smtp_trace *t, struct buf *out)
{
    char ip[ADDRESS_TEXT_SIZE], id[ENVELOPE_ID_SIZE], date[CLOCK_RFC5322_SIZE];
    address_format_ip(&t->client, ip);
    envelope_id_format(t->id, id);
    clock_format_rfc5322(t->wall_ms, date);
    struct slice helo = t->helo.len > 0 ? t->helo : SLICE_LIT("unknown");
    const struct slice parts[] = {
        SLICE_LIT("Received: from "),
        helo,
        address_is_v4(&t->client) ? SLICE_LIT(" ([") : SLICE_LIT(" ([IPv6:"),
        slice_str(ip),
        SLICE_LIT("])\r\n\tby "),
        slice_str(t->hostname),
        SLICE_LIT(" with "),
        slice_str(protocol(t)),
        SLICE_LIT(" id "),
        slice_str(id),
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        buf_append(out, parts[i]);
    /* RFC 5321 7.6: with several recipients "for" would tell one of another. */
    if (t->envelope->recipient_count == 1) {
        buf_append_str(out, "\r\n\tfor <");
        buf_append(out, t->envelope->recipients[0].address);
        buf_append_str(out, ">");
    }
    buf_append_str(out, "; ");
    buf_append_str(out, date);
    buf_append_str(out, "\r\n");
}

void smtp_trace_date_line(const struct smtp_trace *t, char out[SMTP_TRACE_LINE_SIZE])
{
    char date[CLOCK_RFC5322_SIZE];
    clock_format_rfc5322(t->wall_ms, date);
    (void)snprintf(out, SMTP_TRACE_LINE_SIZE, "Date: %s\r\n", date);
}

void smtp_trace_message_id_line(const struct smtp_trace *t, char out[SMTP_TRACE_LINE_SIZE])
{
    char id[ENVELOPE_ID_SIZE];
    envelope_id_format(t->id, id);
    (void)snprintf(out, SMTP_TRACE_LINE_SIZE, "Message-ID: <%s@%.253s>\r\n", id, t->hostname);
}
