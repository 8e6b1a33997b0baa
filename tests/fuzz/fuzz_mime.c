/* Any bytes as content and as a recipient's values, between NULs, as parts (first byte even) or as
 * a raw message (odd), with templates or without: what is rendered is a message that submission's
 * own checks let through; a value adds no field and ends no header section; parts come out in 7
 * bits and short lines. */
#include "smtp/mime/message.h"

#include "core/base/utf8.h"
#include "smtp/content.h"
#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGE_MAX = 1 << 20, NAMES_MAX = 1 << 16, LINE_BYTES_MAX = 1000 };

/* What the first byte chooses. */
enum choice { CHOICE_RAW = 1, CHOICE_STATIC = 2, CHOICE_BASE64 = 4, CHOICE_ATTACHMENT = 8 };

struct input {
    unsigned choice;
    struct slice value; /* of every name but those that begin with x */
    struct slice name;  /* the recipient's */
    struct slice rest;
};

static struct slice next_string(struct slice *rest)
{
    size_t len = slice_find(*rest, '\0');
    struct slice s = slice_take(*rest, len);
    *rest = slice_skip(*rest, len + 1);
    return s;
}

static bool find_value(void *context, struct slice name, struct slice *out)
{
    *out = *(const struct slice *)context;
    return name.ptr[0] != 'x';
}

static const struct mime_message *compile(struct arena *a, struct input *in, struct error *error)
{
    bool is_static = (in->choice & CHOICE_STATIC) != 0;
    if ((in->choice & CHOICE_RAW) != 0)
        return mime_from_raw(a, next_string(&in->rest), is_static, error);
    struct mime_source source = {.envelope_sender = SLICE_LIT("s@x.example")};
    struct mime_named_value *field = arena_alloc(a, sizeof *field);
    struct mime_attachment *file = arena_alloc(a, sizeof *file);
    ASSERT(field != NULL && file != NULL);
    source.subject = next_string(&in->rest);
    source.from = (struct mime_person){next_string(&in->rest), next_string(&in->rest)};
    *field = (struct mime_named_value){next_string(&in->rest), next_string(&in->rest)};
    source.text = next_string(&in->rest);
    source.html = next_string(&in->rest);
    source.amp = next_string(&in->rest);
    *file = (struct mime_attachment){next_string(&in->rest), next_string(&in->rest),
                                     next_string(&in->rest), next_string(&in->rest),
                                     (in->choice & CHOICE_BASE64) != 0};
    source.fields = field;
    source.field_count = field->name.len > 0;
    source.attachments = file;
    source.attachment_count = (in->choice & CHOICE_ATTACHMENT) != 0;
    return mime_from_parts(a, &source, "fuzz", is_static, error);
}

static bool render(const struct mime_message *m, struct slice name, struct slice value,
                   struct buf *out)
{
    static struct mime_scratch scratch = {.text.bound = MESSAGE_MAX, .lines.bound = MESSAGE_MAX};
    struct error error = {{0}};
    struct mime_recipient r = {.email = SLICE_LIT("r@x.example"),
                               .name = name,
                               .values = {.find = find_value, .context = &value}};
    buf_clear(out);
    bool ok = mime_render(m, &r, &scratch, out, &error);
    ASSERT(ok || error.text[0] != '\0');
    return ok;
}

/* The length of the header section, as submission finds it. Lines end with CRLF and
 * nothing else. */
static size_t check_content(struct slice message, struct buf *out)
{
    struct smtp_content c;
    struct smtp_content_limits limits = {
        .bytes_max = MESSAGE_MAX, .line_bytes_max = 1 << 20, .received_max = 1 << 20};
    size_t used = 0;
    buf_clear(out);
    smtp_content_begin(&c, SMTP_CONTENT_BDAT, &limits, out);
    enum smtp_content_status status = smtp_content_feed(&c, message, &used);
    ASSERT(status == SMTP_CONTENT_MORE && used == message.len);
    (void)smtp_content_finish(&c);
    ASSERT(c.error == SMTP_CONTENT_OK);
    return c.header_bytes;
}

/* The names of the fields, one a line. */
static void list_names(struct slice header, struct buf *out)
{
    buf_clear(out);
    while (header.len > 0) {
        struct slice line = slice_take(header, slice_find(header, '\n') + 1);
        header = slice_skip(header, line.len);
        if (line.ptr[0] != ' ' && line.ptr[0] != '\t') {
            buf_append(out, slice_take(line, slice_find(line, ':')));
            buf_append_str(out, "\n");
        }
    }
}

static bool has_letter(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] >= 'a' && s.ptr[i] <= 'z')
            return true;
    return false;
}

/* A field without a value is left out, so what is compared has one. */
static void check_fields(const struct mime_message *m, struct slice value, struct slice header)
{
    static struct buf names = {.bound = NAMES_MAX}, plain_names = {.bound = NAMES_MAX},
                      plain = {.bound = MESSAGE_MAX}, checked = {.bound = MESSAGE_MAX + 1024};
    list_names(header, &names);
    if (!has_letter(value) || !render(m, SLICE_LIT("r"), SLICE_LIT("v@x.example"), &plain))
        return;
    size_t len = check_content(buf_slice(&plain), &checked);
    list_names(slice_take(buf_slice(&checked), len), &plain_names);
    ASSERT(slice_equal(buf_slice(&names), buf_slice(&plain_names)));
}

static void check_parts(struct slice message, size_t header_bytes)
{
    ASSERT(!utf8_has_high(slice_skip(message, header_bytes)));
    for (size_t len; message.len > 0; message = slice_skip(message, len)) {
        len = slice_find(message, '\n') + 1;
        ASSERT(len <= LINE_BYTES_MAX);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct buf out = {.bound = MESSAGE_MAX}, checked = {.bound = MESSAGE_MAX + 1024};
    if (size == 0)
        return 0;
    struct input in = {.choice = data[0], .rest = slice_of(data + 1, size - 1)};
    in.value = next_string(&in.rest);
    in.name = next_string(&in.rest);
    struct arena arena;
    struct error error = {{0}};
    arena_init(&arena);
    const struct mime_message *m = compile(&arena, &in, &error);
    ASSERT(m != NULL || error.text[0] != '\0');
    if (m != NULL && render(m, in.name, in.value, &out)) {
        size_t header = check_content(buf_slice(&out), &checked);
        check_fields(m, in.value, slice_take(buf_slice(&checked), header));
        if ((in.choice & CHOICE_RAW) == 0)
            check_parts(buf_slice(&checked), header);
    }
    arena_fini(&arena);
    return 0;
}
