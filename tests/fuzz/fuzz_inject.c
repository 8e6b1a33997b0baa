/* Any bytes as the JSON of an injection: what is taken is rendered for each recipient, and what
 * comes out is a message that submission's own checks let through, whose header section holds no
 * field that a value brought along, in 7 bits wherever its parts were given apart. */
#include "workers/http/inject.h"

#include "core/base/assert.h"
#include "smtp/content.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGE_MAX = 1 << 20, RECIPIENTS_MAX = 4 };

/* Lines end with CRLF and nothing else; the header section ends. */
static void check_message(struct slice message)
{
    struct smtp_content c;
    struct buf out;
    struct smtp_content_limits limits = {
        .bytes_max = MESSAGE_MAX, .line_bytes_max = 1 << 20, .received_max = 1 << 20};
    size_t used = 0;
    buf_init(&out, MESSAGE_MAX + 1024);
    smtp_content_begin(&c, SMTP_CONTENT_BDAT, &limits, &out);
    enum smtp_content_status status = smtp_content_feed(&c, message, &used);
    ASSERT(status == SMTP_CONTENT_MORE && used == message.len);
    (void)smtp_content_finish(&c);
    ASSERT(c.error != SMTP_CONTENT_BARE_CR && c.error != SMTP_CONTENT_BARE_LF);
    buf_fini(&out);
}

/* The marks of template.h stay inside, where the request brought none. */
static void check_marks(struct slice message, const uint8_t *data, size_t size)
{
    if (size == 0 || memchr(data, TEMPLATE_MARK, size) != NULL ||
        memmem(data, size, "\\u", 2) != NULL)
        return;
    const char *end = memmem(message.ptr, message.len, "\r\n\r\n", 4);
    struct slice header =
        slice_take(message, end != NULL ? (size_t)(end - message.ptr) : message.len);
    ASSERT(slice_find(header, TEMPLATE_MARK) == header.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct inject inject;
    struct error error = {{0}};
    bool ok = inject_read(&inject, slice_of(data, size), "fuzz", &error);
    ASSERT(ok || error.text[0] != '\0');
    struct mime_scratch scratch;
    struct buf message;
    mime_scratch_init(&scratch, MESSAGE_MAX);
    buf_init(&message, MESSAGE_MAX);
    for (size_t i = 0; ok && i < inject_count(&inject) && i < RECIPIENTS_MAX; i++) {
        struct inject_recipient r;
        buf_clear(&message);
        if (!inject_recipient(&inject, i, &r, &error) ||
            !mime_render(inject.message, &r.mime, &scratch, &message, &error)) {
            ASSERT(error.text[0] != '\0');
            continue;
        }
        check_message(buf_slice(&message));
        check_marks(buf_slice(&message), data, size);
    }
    buf_fini(&message);
    mime_scratch_fini(&scratch);
    inject_fini(&inject);
    return 0;
}
