#include "core/spool/envelope.h"

#include "core/base/assert.h"
#include "core/base/bytes.h"

/* The record: version 2, fixed numbers, three strings, then a table of 4-byte offsets (from the
 * record's start), one per recipient, then the recipients. The table makes any recipient reachable
 * in constant time. */
enum { VERSION = 2, OFFSET_BYTES = 4, FLAGS_KNOWN = 31, NOTIFY_KNOWN = 15 };

static const char *const priority_names[] = {
    [PRIORITY_BULK] = "bulk", [PRIORITY_TRANSACTIONAL] = "transactional"};

const char *envelope_priority_name(uint8_t priority)
{
    return priority_names[priority];
}

bool envelope_priority_parse(struct slice name, uint8_t *priority_out)
{
    for (int p = 0; p < PRIORITIES; p++)
        if (slice_equal_nocase(name, slice_str(priority_names[p]))) {
            *priority_out = (uint8_t)p;
            return true;
        }
    return false;
}

void envelope_encode(const struct envelope *e, struct buf *out)
{
    ASSERT(e->recipient_count > 0 && e->recipient_count <= ENVELOPE_RECIPIENTS_MAX);
    ASSERT(buf_len(out) == 0);
    bytes_append(out, VERSION, 1);
    bytes_append(out, e->flags, 1);
    bytes_append(out, e->ret, 1);
    bytes_append(out, e->priority, 1);
    bytes_append(out, e->id, 8);
    bytes_append(out, e->arrived_wall_ms, 8);
    bytes_append(out, e->size_bytes, 8);
    bytes_append(out, e->header_bytes, 4);
    bytes_append(out, e->recipient_count, 4);
    bytes_append_string(out, e->sender);
    bytes_append_string(out, e->envid);
    bytes_append_string(out, e->origin);
    uint64_t offset = buf_len(out) + (uint64_t)e->recipient_count * OFFSET_BYTES;
    for (uint32_t i = 0; i < e->recipient_count; i++) {
        const struct envelope_recipient *r = &e->recipients[i];
        bytes_append(out, offset, OFFSET_BYTES);
        offset += 1 + 3 * 2 + r->address.len + r->domain.len + r->orcpt.len;
    }
    for (uint32_t i = 0; i < e->recipient_count; i++) {
        const struct envelope_recipient *r = &e->recipients[i];
        bytes_append(out, r->notify, 1);
        bytes_append_string(out, r->address);
        bytes_append_string(out, r->domain);
        bytes_append_string(out, r->orcpt);
    }
}

/* No stored string may end a protocol line, however it got into the record. */
static bool is_clean(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ' || s.ptr[i] == 0x7f)
            return false;
    return true;
}

/* Reads up to the table of offsets, whose place is where the cursor stops. */
static bool decode_head(struct bytes_cursor *c, struct envelope *e)
{
    if (bytes_read(c, 1) != VERSION)
        return false;
    e->flags = (uint8_t)bytes_read(c, 1);
    e->ret = (uint8_t)bytes_read(c, 1);
    e->priority = (uint8_t)bytes_read(c, 1);
    e->id = bytes_read(c, 8);
    e->arrived_wall_ms = bytes_read(c, 8);
    e->size_bytes = bytes_read(c, 8);
    e->header_bytes = (uint32_t)bytes_read(c, 4);
    e->recipient_count = (uint32_t)bytes_read(c, 4);
    e->sender = bytes_read_string(c);
    e->envid = bytes_read_string(c);
    e->origin = bytes_read_string(c);
    e->recipients = NULL;
    return !c->bad && e->flags <= FLAGS_KNOWN && e->ret <= RET_HDRS && e->priority < PRIORITIES &&
           e->recipient_count > 0 && e->recipient_count <= ENVELOPE_RECIPIENTS_MAX &&
           e->header_bytes <= e->size_bytes && is_clean(e->sender) && is_clean(e->envid) &&
           c->rest.len >= (size_t)e->recipient_count * OFFSET_BYTES;
}

bool envelope_decode(struct slice record, struct envelope *e_out)
{
    struct bytes_cursor c = {.rest = record};
    *e_out = (struct envelope){0};
    return decode_head(&c, e_out);
}

bool envelope_decode_recipient(struct slice record, uint32_t index,
                               struct envelope_recipient *recipient_out)
{
    struct bytes_cursor c = {.rest = record};
    struct envelope e;
    if (!decode_head(&c, &e) || index >= e.recipient_count)
        return false;
    size_t offset = (size_t)bytes_get(c.rest.ptr + (size_t)index * OFFSET_BYTES, OFFSET_BYTES);
    if (offset > record.len)
        return false;
    struct bytes_cursor at = {.rest = slice_skip(record, offset)};
    recipient_out->notify = (uint8_t)bytes_read(&at, 1);
    recipient_out->address = bytes_read_string(&at);
    recipient_out->domain = bytes_read_string(&at);
    recipient_out->orcpt = bytes_read_string(&at);
    return !at.bad && recipient_out->notify <= NOTIFY_KNOWN && recipient_out->domain.len > 0 &&
           recipient_out->domain.len < 256 && recipient_out->address.len > 0 &&
           is_clean(recipient_out->address) && is_clean(recipient_out->domain) &&
           is_clean(recipient_out->orcpt);
}

void envelope_id_format(uint64_t id, char out[ENVELOPE_ID_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = ENVELOPE_ID_SIZE - 2; i >= 0; i--, id >>= 4)
        out[i] = digits[id & 15];
    out[ENVELOPE_ID_SIZE - 1] = '\0';
}

bool envelope_id_parse(struct slice text, uint64_t *id_out)
{
    if (text.len != ENVELOPE_ID_SIZE - 1)
        return false;
    uint64_t id = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                                                : 16;
        if (digit > 15)
            return false;
        id = id << 4 | digit;
    }
    *id_out = id;
    return true;
}
