#include "core/reply.h"

#include "core/base/assert.h"
#include "core/base/utf8.h"

#include <stdio.h>

struct local {
    const char *name;
    uint8_t class;
    uint8_t subject;
    uint8_t detail;
    const char *text;
};

static const struct local *local_of(unsigned code)
{
    static const struct local locals[] = {
#define X(name_, class_, subject_, detail_, text_) {#name_, class_, subject_, detail_, text_},
        REPLY_LOCALS(X)
#undef X
    };
    ASSERT(code > REPLY_LOCAL_BASE && code < REPLY_LOCAL_END);
    return &locals[code - REPLY_LOCAL_BASE - 1];
}

struct reply reply_local(enum reply_local code)
{
    const struct local *l = local_of((unsigned)code);
    struct reply r = {
        .code = (uint16_t)code, .class = l->class, .subject = l->subject, .detail = l->detail};
    reply_set_text(&r, slice_str(l->text));
    return r;
}

struct reply reply_local_about(enum reply_local code, struct slice about)
{
    struct reply r = reply_local(code);
    char text[REPLY_TEXT_SIZE];
    int len =
        snprintf(text, sizeof text, "%s [%.*s]", local_of((unsigned)code)->text, SLICE_ARG(about));
    ASSERT(len > 0);
    reply_set_text(&r, slice_str(text));
    return r;
}

const char *reply_source_name(const struct reply *r)
{
    return reply_is_local(r) ? local_of(r->code)->name : "remote";
}

void reply_set_text(struct reply *r, struct slice text)
{
    size_t at = 0;
    while (text.len > 0) {
        unsigned char c = (unsigned char)text.ptr[0];
        size_t len = utf8_length(text);
        if (c == 0xc2 && len == 2 && (unsigned char)text.ptr[1] < 0xa0)
            len = 0; /* a C1 control character */
        if (at + (len > 0 ? len : 1) > sizeof r->text)
            break;
        if (len > 1) {
            memcpy(r->text + at, text.ptr, len);
            at += len;
        } else {
            r->text[at++] = len == 1 && c >= 0x20 && c < 0x7f ? (char)c : c == '\t' ? ' ' : '?';
        }
        text = slice_skip(text, len > 0 ? len : 1);
    }
    r->text_len = (uint16_t)at;
}

size_t reply_format(const struct reply *r, char *dst, size_t size)
{
    ASSERT(size > 0);
    char code[8] = "";
    if (!reply_is_local(r))
        (void)snprintf(code, sizeof code, "%u ", (unsigned)r->code % 1000);
    char status[32] = "";
    if (r->subject != 0 || r->detail != 0 || reply_is_local(r))
        (void)snprintf(status, sizeof status, "%u.%u.%u ", (unsigned)r->class, (unsigned)r->subject,
                       (unsigned)r->detail);
    int len = snprintf(dst, size, "%s%s%.*s", code, status, (int)r->text_len, r->text);
    ASSERT(len >= 0);
    return (size_t)len < size ? (size_t)len : size - 1;
}
