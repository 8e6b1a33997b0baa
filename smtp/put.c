#include "smtp/put.h"

#include "core/base/assert.h"
#include "core/base/utf8.h"

void smtp_put_field(struct buf *out, struct slice field)
{
    for (size_t i = 0; i < field.len; i++)
        ASSERT(field.ptr[i] != '\r' && field.ptr[i] != '\n' && field.ptr[i] != '\0');
    buf_append(out, field);
}

static bool has(const struct smtp_capabilities *caps, enum smtp_capability bit)
{
    return (caps->bits & (unsigned)bit) != 0;
}

bool smtp_header_needs_utf8(const struct envelope *e)
{
    return (e->flags & ENVELOPE_HAS_UTF8_HEADER) != 0 || utf8_has_high(e->sender);
}

/* SMTPUTF8 is asked for only where an address or the header section holds UTF-8. */
static bool needs_utf8(const struct envelope *e, const struct envelope_recipient *recipients,
                       uint32_t recipient_count)
{
    if ((e->flags & ENVELOPE_SMTPUTF8) == 0)
        return false;
    if (smtp_header_needs_utf8(e))
        return true;
    for (uint32_t i = 0; i < recipient_count; i++)
        if (utf8_has_high(recipients[i].address))
            return true;
    return false;
}

void smtp_put_mail(struct buf *out, const struct smtp_capabilities *caps, const struct envelope *e,
                   const struct envelope_recipient *recipients, uint32_t recipient_count)
{
    buf_append_str(out, "MAIL FROM:<");
    smtp_put_field(out, e->sender);
    buf_append_str(out, ">");
    if (has(caps, SMTP_CAP_SIZE)) {
        buf_append_str(out, " SIZE=");
        buf_append_u64(out, e->size_bytes);
    }
    bool utf8 = has(caps, SMTP_CAP_SMTPUTF8) && needs_utf8(e, recipients, recipient_count);
    /* Our own Received names a recipient: with UTF-8, where the rest of the content has none. */
    if (has(caps, SMTP_CAP_8BITMIME) &&
        (utf8 || (e->flags & (ENVELOPE_BODY_8BIT | ENVELOPE_HAS_8BIT)) != 0))
        buf_append_str(out, " BODY=8BITMIME");
    if (utf8)
        buf_append_str(out, " SMTPUTF8");
    if (has(caps, SMTP_CAP_DSN) && e->ret != RET_NONE)
        buf_append_str(out, e->ret == RET_FULL ? " RET=FULL" : " RET=HDRS");
    if (has(caps, SMTP_CAP_DSN) && e->envid.len > 0) {
        buf_append_str(out, " ENVID=");
        smtp_put_field(out, e->envid);
    }
    buf_append_str(out, "\r\n");
}

static void put_notify(struct buf *out, unsigned notify)
{
    static const struct {
        enum envelope_notify bit;
        const char *name;
    } names[] = {{NOTIFY_NEVER, "NEVER"},
                 {NOTIFY_SUCCESS, "SUCCESS"},
                 {NOTIFY_FAILURE, "FAILURE"},
                 {NOTIFY_DELAY, "DELAY"}};
    const char *before = " NOTIFY=";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if ((notify & (unsigned)names[i].bit) == 0)
            continue;
        buf_append_str(out, before);
        buf_append_str(out, names[i].name);
        before = ",";
    }
}

void smtp_put_rcpt(struct buf *out, const struct smtp_capabilities *caps,
                   const struct envelope_recipient *r)
{
    buf_append_str(out, "RCPT TO:<");
    smtp_put_field(out, r->address);
    buf_append_str(out, ">");
    if (has(caps, SMTP_CAP_DSN)) {
        put_notify(out, r->notify);
        if (r->orcpt.len > 0) {
            buf_append_str(out, " ORCPT=");
            smtp_put_field(out, r->orcpt);
        }
    }
    buf_append_str(out, "\r\n");
}

void smtp_put_bdat_last(struct buf *out, uint64_t bytes)
{
    buf_append_str(out, "BDAT ");
    buf_append_u64(out, bytes);
    buf_append_str(out, " LAST\r\n");
}
