#include "core/spool/store_priv.h"

#include "core/base/assert.h"
#include "core/base/bytes.h"

/* The record: version 1, numbers, the exchange to try first (if any), the last reply, the last
 * exchange. */
enum { VERSION = 1, HAS_TRY_FIRST = 1, DELAY_NOTICED = 2 };

static_assert((int)STORE_EXCHANGE_SIZE + (int)REPLY_TEXT_SIZE + 64 < (int)STORE_STATE_MAX,
              "a state and its texts fit");

size_t store_state_encode(const struct store_state *s, char out[STORE_STATE_MAX])
{
    struct buf b;
    buf_init(&b, STORE_STATE_MAX);
    bytes_append(&b, VERSION, 1);
    bytes_append(&b, s->progress, 1);
    bytes_append(
        &b, (s->has_try_first ? HAS_TRY_FIRST : 0u) | (s->delay_noticed ? DELAY_NOTICED : 0u), 1);
    bytes_append(&b, s->attempts, 2);
    bytes_append(&b, s->due_wall_ms, 8);
    if (s->has_try_first) {
        buf_append(&b, slice_of(s->try_first.ip, sizeof s->try_first.ip));
        bytes_append(&b, s->try_first.port, 2);
    }
    bytes_append(&b, s->last.code, 2);
    bytes_append(&b, s->last.class, 1);
    bytes_append(&b, s->last.subject, 2);
    bytes_append(&b, s->last.detail, 2);
    bytes_append_string(&b, slice_of(s->last.text, s->last.text_len));
    bytes_append_string(&b, slice_str(s->last_exchange));
    size_t len = buf_ok(&b) ? buf_len(&b) : 0;
    if (len > 0)
        memcpy(out, buf_slice(&b).ptr, len);
    buf_fini(&b);
    return len;
}

bool store_state_decode(struct slice record, struct store_state *out)
{
    struct bytes_cursor c = {.rest = record};
    *out = (struct store_state){0};
    uint64_t version = bytes_read(&c, 1);
    out->progress = (uint8_t)bytes_read(&c, 1);
    uint64_t flags = bytes_read(&c, 1);
    out->has_try_first = (flags & HAS_TRY_FIRST) != 0;
    out->delay_noticed = (flags & DELAY_NOTICED) != 0;
    out->attempts = (uint16_t)bytes_read(&c, 2);
    out->due_wall_ms = bytes_read(&c, 8);
    if (out->has_try_first) {
        struct slice ip = bytes_read_slice(&c, sizeof out->try_first.ip);
        if (ip.len == sizeof out->try_first.ip)
            memcpy(out->try_first.ip, ip.ptr, ip.len);
        out->try_first.port = (uint16_t)bytes_read(&c, 2);
    }
    out->last.code = (uint16_t)bytes_read(&c, 2);
    out->last.class = (uint8_t)bytes_read(&c, 1);
    out->last.subject = (uint16_t)bytes_read(&c, 2);
    out->last.detail = (uint16_t)bytes_read(&c, 2);
    reply_set_text(&out->last, bytes_read_string(&c));
    struct slice exchange = bytes_read_string(&c);
    bool code_ok = out->last.code == 0 || (out->last.code >= 200 && out->last.code < 600) ||
                   (out->last.code > REPLY_LOCAL_BASE && out->last.code < REPLY_LOCAL_END);
    return !c.bad && version == VERSION && out->progress <= PROGRESS_DONE && code_ok &&
           out->last.class <= 5 &&
           slice_to_cstr(exchange, out->last_exchange, sizeof out->last_exchange);
}
