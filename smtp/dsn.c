#include "smtp/dsn.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/utf8.h"
#include "core/domain.h"
#include "smtp/address.h"
#include "smtp/xtext.h"

#include <stdio.h>

enum {
    LINE_MAX_BYTES = 900
}; /* well below RFC 5321's 998: quoted peers' words are cut into lines */

bool dsn_wanted(enum dsn_kind kind, const struct envelope *original,
                const struct envelope_recipient *recipient)
{
    if (original->sender.len == 0) /* never a bounce of a bounce (RFC 5321 6.1) */
        return false;
    unsigned notify = recipient->notify;
    switch (kind) {
    case DSN_FAILED:
        return notify == 0 || (notify & NOTIFY_FAILURE) != 0;
    case DSN_DELAYED:
        return notify == 0 || (notify & NOTIFY_DELAY) != 0;
    case DSN_RELAYED:
        return (notify & NOTIFY_SUCCESS) != 0;
    }
    ASSERT(false);
}

/* ---- small pieces ---- */

static void put(struct buf *out, const char *text)
{
    buf_append_str(out, text);
}

/* Words from outside on one line: whatever could end it or the message becomes '?',
 * and it is cut. */
static void put_clean(struct buf *out, struct slice s)
{
    s = slice_take(s, LINE_MAX_BYTES);
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if ((unsigned char)c < ' ' || c == 0x7f)
            c = '?';
        buf_append(out, slice_of(&c, 1));
    }
}

static void put_xtext(struct buf *out, struct slice s)
{
    xtext_decode(slice_take(s, LINE_MAX_BYTES), out);
}

static void put_field(struct buf *out, const char *name, struct slice value)
{
    put(out, name);
    put(out, ": ");
    put_clean(out, value);
    put(out, "\r\n");
}

static void put_date(struct buf *out, const char *name, uint64_t wall_ms)
{
    char date[CLOCK_RFC5322_SIZE];
    clock_format_rfc5322(wall_ms, date);
    put_field(out, name, slice_str(date));
}

struct kind_words {
    const char *action; /* RFC 3464 2.3.3 */
    const char *subject;
    const char *opening;
    uint8_t class; /* of the status, where a reply does not give one that agrees */
};

static const struct kind_words *words_of(enum dsn_kind kind)
{
    static const struct kind_words words[] = {
        [DSN_FAILED] = {"failed", "Undelivered mail returned to sender",
                        "Your message could not be delivered to the recipients below, and will not "
                        "be tried\r\n"
                        "again. Under each one stands what the receiving side, or this relay, gave "
                        "as reason.\r\n",
                        5},
        [DSN_DELAYED] = {"delayed", "Delayed mail (still being tried)",
                         "Your message has not been delivered to the recipients below yet. This "
                         "relay goes on\r\n"
                         "trying: you need not send it again.\r\n",
                         4},
        [DSN_RELAYED] = {"relayed", "Mail relayed",
                         "Your message has been handed to the recipients' mail exchange, which "
                         "does not send\r\n"
                         "delivery notifications: this is the last you will hear of it.\r\n",
                         2},
    };
    return &words[kind];
}

/* The status of a recipient: its class must agree with the action (RFC 3464 2.3.4). */
static void put_status(struct buf *out, const struct dsn *d, const struct reply *r)
{
    unsigned class = words_of(d->kind)->class;
    bool fits = r->class == class || (d->kind == DSN_FAILED && r->class == 5);
    buf_printf(out, "Status: %u.%u.%u\r\n", class, fits ? r->subject : 0u, fits ? r->detail : 0u);
}

/* ---- the parts ---- */

static void put_header(struct buf *out, const struct dsn *d, const char *boundary, bool utf8)
{
    char id[ENVELOPE_ID_SIZE];
    envelope_id_format(d->id, id);
    put_date(out, "Date", d->wall_ms);
    buf_printf(out, "From: Mail Delivery System <%s>\r\n", d->postmaster);
    put(out, "To: <");
    put_clean(out, d->original->sender);
    put(out, ">\r\n");
    buf_printf(out, "Subject: %s\r\n", words_of(d->kind)->subject);
    buf_printf(out, "Message-ID: <%s@%s>\r\n", id, d->hostname);
    put(out, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n");
    buf_printf(out, "Content-Type: multipart/report; report-type=%s;\r\n\tboundary=\"%s\"\r\n",
               utf8 ? "global-delivery-status" : "delivery-status", boundary);
    put(out, "Content-Transfer-Encoding: 8bit\r\n\r\n");
}

static void put_reply(struct buf *out, const struct reply *r, bool utf8)
{
    char text[REPLY_TEXT_SIZE + 32];
    size_t len = reply_format(r, text, sizeof text);
    for (size_t i = 0; i < len; i++)
        if (!utf8 && (unsigned char)text[i] >= 0x80)
            text[i] = '?';
    put_clean(out, slice_of(text, len));
}

static void put_human_part(struct buf *out, const struct dsn *d, const char *boundary)
{
    buf_printf(out,
               "--%s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: "
               "8bit\r\n\r\n",
               boundary);
    buf_printf(out, "This is the mail relay at %s.\r\n\r\n%s\r\n", d->hostname,
               words_of(d->kind)->opening);
    for (uint32_t i = 0; i < d->recipient_count; i++) {
        const struct dsn_recipient *r = &d->recipients[i];
        put(out, "  <");
        put_clean(out, r->recipient->address);
        put(out, ">\r\n      ");
        if (r->exchange.len > 0) {
            put_clean(out, r->exchange);
            put(out, ": ");
        }
        put_reply(out, r->reply, true);
        put(out, "\r\n");
    }
    put(out, "\r\n");
}

static void put_recipient_status(struct buf *out, const struct dsn *d,
                                 const struct dsn_recipient *r, bool utf8)
{
    const char *type = utf8_has_high(r->recipient->address) ? "utf-8; " : "rfc822; ";
    put(out, "\r\n");
    if (r->recipient->orcpt.len > 0) {
        size_t semicolon = slice_find(r->recipient->orcpt, ';');
        put(out, "Original-Recipient: ");
        put_clean(out, slice_take(r->recipient->orcpt, semicolon));
        put(out, "; ");
        put_xtext(out, slice_skip(r->recipient->orcpt, semicolon + 1));
        put(out, "\r\n");
    }
    put(out, "Final-Recipient: ");
    put(out, type);
    put_clean(out, r->recipient->address);
    put(out, "\r\n");
    buf_printf(out, "Action: %s\r\n", words_of(d->kind)->action);
    put_status(out, d, r->reply);
    if (r->exchange.len > 0 && !reply_is_local(r->reply)) {
        put(out, "Remote-MTA: dns; ");
        put_clean(out, r->exchange);
        put(out, "\r\n");
    }
    put(out, reply_is_local(r->reply) ? "Diagnostic-Code: X-Onward; " : "Diagnostic-Code: smtp; ");
    put_reply(out, r->reply, utf8);
    put(out, "\r\n");
    put_date(out, "Last-Attempt-Date", d->wall_ms);
    if (d->kind == DSN_DELAYED)
        put_date(out, "Will-Retry-Until", d->give_up_wall_ms);
}

/* Without UTF-8 all of it is ASCII (RFC 3464 2.1). */
static void put_status_part(struct buf *out, const struct dsn *d, const char *boundary, bool utf8)
{
    buf_printf(out, "--%s\r\nContent-Type: message/%s\r\n\r\n", boundary,
               utf8 ? "global-delivery-status\r\nContent-Transfer-Encoding: 8bit"
                    : "delivery-status");
    buf_printf(out, "Reporting-MTA: dns; %s\r\n", d->hostname);
    if (d->original->envid.len > 0) {
        put(out, "Original-Envelope-Id: ");
        put_xtext(out, d->original->envid);
        put(out, "\r\n");
    }
    put_date(out, "Arrival-Date", d->original->arrived_wall_ms);
    for (uint32_t i = 0; i < d->recipient_count; i++)
        put_recipient_status(out, d, &d->recipients[i], utf8);
    put(out, "\r\n");
}

static void put_original_part(struct buf *out, const struct dsn *d, const char *boundary)
{
    bool utf8 = (d->original->flags & (ENVELOPE_SMTPUTF8 | ENVELOPE_HAS_UTF8_HEADER)) ==
                (ENVELOPE_SMTPUTF8 | ENVELOPE_HAS_UTF8_HEADER);
    const char *type = d->content_is_full
                           ? (utf8 ? "message/global" : "message/rfc822")
                           : (utf8 ? "message/global-headers" : "text/rfc822-headers");
    bool high = utf8_has_high(d->content);
    buf_printf(out, "--%s\r\nContent-Type: %s\r\n%s\r\n", boundary, type,
               high ? "Content-Transfer-Encoding: 8bit\r\n" : "");
    buf_append(out, d->content);
    if (d->content.len < 2 || d->content.ptr[d->content.len - 1] != '\n')
        put(out, "\r\n");
    buf_printf(out, "\r\n--%s--\r\n", boundary);
}

/* ---- the whole ---- */

static bool occurs(struct slice in, const char *text)
{
    return in.len > 0 && memmem(in.ptr, in.len, text, strlen(text)) != NULL;
}

/* Numbered until it does not occur in what is returned. */
static void choose_boundary(const struct dsn *d, char *out, size_t size)
{
    char id[ENVELOPE_ID_SIZE];
    envelope_id_format(d->id, id);
    for (unsigned n = 0;; n++) {
        (void)snprintf(out, size, "=_onward_%s_%u", id, n);
        if (!occurs(d->content, out))
            return;
    }
}

/* Does any line of `s` begin with a dot? */
static bool has_dot_lines(struct slice s)
{
    return s.len > 0 && (s.ptr[0] == '.' || memmem(s.ptr, s.len, "\n.", 2) != NULL);
}

static uint32_t header_length(struct slice s)
{
    const char *end = memmem(s.ptr, s.len, "\r\n\r\n", 4);
    ASSERT(end != NULL);
    return (uint32_t)(end - s.ptr) + 4;
}

static bool needs_utf8(const struct dsn *d)
{
    bool any = utf8_has_high(d->original->sender);
    for (uint32_t i = 0; i < d->recipient_count; i++)
        any |= utf8_has_high(d->recipients[i].recipient->address);
    return any;
}

bool dsn_compose(const struct dsn *d, struct buf *out, struct envelope *e_out,
                 struct envelope_recipient *rcpt_out, char domain_out[256])
{
    struct smtp_address sender;
    if (smtp_address_read_mailbox(d->original->sender, true, &sender) != SMTP_ADDRESS_OK ||
        sender.domain.len == 0 || !domain_normalize(sender.domain, domain_out))
        return false;
    char boundary[64];
    bool utf8 = needs_utf8(d);
    choose_boundary(d, boundary, sizeof boundary);
    ASSERT(buf_len(out) == 0);
    put_header(out, d, boundary, utf8);
    put_human_part(out, d, boundary);
    put_status_part(out, d, boundary, utf8);
    put_original_part(out, d, boundary);
    if (!buf_ok(out))
        return false;
    struct slice content = buf_slice(out);
    bool high = utf8_has_high(content);
    uint32_t header = header_length(content);
    bool high_header = utf8_has_high(slice_take(content, header));
    *rcpt_out = (struct envelope_recipient){
        .address = d->original->sender, .domain = slice_str(domain_out), .orcpt = SLICE_LIT("")};
    *e_out =
        (struct envelope){.sender = SLICE_LIT(""),
                          .envid = SLICE_LIT(""),
                          .origin = SLICE_LIT(""),
                          .size_bytes = content.len,
                          .header_bytes = header,
                          .flags = (uint8_t)((utf8 ? ENVELOPE_SMTPUTF8 : 0) |
                                             (high ? ENVELOPE_BODY_8BIT | ENVELOPE_HAS_8BIT : 0) |
                                             (has_dot_lines(content) ? ENVELOPE_HAS_DOTS : 0) |
                                             (high_header ? ENVELOPE_HAS_UTF8_HEADER : 0)),
                          .recipients = rcpt_out,
                          .recipient_count = 1};
    return true;
}
