#include "core/base/assert.h"
#include "smtp/mime/encode.h"
#include "smtp/mime/message_priv.h"

#include <stdio.h>

/* What a build needs at every step. */
struct build {
    struct arena *arena;
    const struct mime_source *source;
    const char *boundary;
    bool is_static;
    struct mime_message *message;
    struct error *error;
    unsigned containers; /* opened so far: they number the boundaries */
};

static bool fail(struct build *b, const char *text)
{
    error_set(b->error, "content: %s", text);
    return false;
}

/* ---- fields ---- */

static bool add_field(struct build *b, struct slice name, struct slice value)
{
    struct piece *p = message_add(b->arena, b->message, PIECE_FIELD, b->error);
    return p != NULL && header_compile(b->arena, name, value, b->is_static, &p->field, b->error);
}

static const struct mime_named_value *find_field(const struct mime_source *s, struct slice name)
{
    for (unsigned i = 0; i < s->field_count; i++)
        if (slice_equal_nocase(s->fields[i].name, name))
            return &s->fields[i];
    return NULL;
}

/* A person as a field: `"name" <email>`, whose name may hold a template. */
static bool add_person(struct build *b, struct slice field, const struct mime_person *person)
{
    struct buf value;
    struct slice text;
    buf_init(&value, 64 * 1024);
    if (person->name.len > 0) {
        buf_append(&value, SLICE_LIT("\""));
        for (size_t i = 0; i < person->name.len; i++) {
            if (person->name.ptr[i] == '"' || person->name.ptr[i] == '\\')
                buf_append(&value, SLICE_LIT("\\"));
            buf_append(&value, slice_of(person->name.ptr + i, 1));
        }
        buf_append(&value, SLICE_LIT("\" "));
    }
    buf_append(&value, SLICE_LIT("<"));
    buf_append(&value, person->email);
    buf_append(&value, SLICE_LIT(">"));
    bool ok = buf_ok(&value) && arena_copy(b->arena, buf_slice(&value), &text);
    buf_fini(&value);
    if (!ok)
        return fail(b, "a name is too long");
    return add_field(b, field, text);
}

/* Written here and nowhere else. */
static bool is_ours(struct slice name)
{
    return slice_equal_nocase(name, SLICE_LIT("MIME-Version")) ||
           slice_starts_nocase(name, SLICE_LIT("Content-"));
}

static bool is_shadowed(const struct mime_source *s, struct slice name)
{
    return (s->from.email.len > 0 && slice_equal_nocase(name, SLICE_LIT("From"))) ||
           (s->reply_to.email.len > 0 && slice_equal_nocase(name, SLICE_LIT("Reply-To"))) ||
           (s->subject.len > 0 && slice_equal_nocase(name, SLICE_LIT("Subject"))) ||
           slice_equal_nocase(name, SLICE_LIT("Bcc"));
}

static bool add_given_fields(struct build *b)
{
    const struct mime_source *s = b->source;
    if (s->field_count > MIME_FIELDS_MAX)
        return fail(b, "more than 1000 headers");
    for (unsigned i = 0; i < s->field_count; i++) {
        struct slice name = s->fields[i].name;
        if (!header_name_is_valid(name) || is_ours(name)) {
            error_set(
                b->error,
                "headers: `%.*s` is no field to give; expected a name such as X-Campaign, and "
                "none of MIME-Version and Content-...",
                SLICE_ARG(slice_take(name, 60)));
            return false;
        }
        if (!is_shadowed(s, name) && !add_field(b, name, s->fields[i].value))
            return false;
    }
    return true;
}

static bool add_header(struct build *b)
{
    const struct mime_source *s = b->source;
    const struct mime_person sender = {.name = SLICE_LIT(""), .email = s->envelope_sender};
    const struct mime_person *from = s->from.email.len > 0 ? &s->from : NULL;
    if (from == NULL && find_field(s, SLICE_LIT("From")) == NULL)
        from = &sender;
    if (from != NULL && from->email.len == 0)
        return fail(b, "\"from\" is missing, and envelope_sender is empty; give {\"email\": ...}");
    if (from != NULL && !add_person(b, SLICE_LIT("From"), from))
        return false;
    if (find_field(s, SLICE_LIT("To")) == NULL &&
        message_add(b->arena, b->message, PIECE_TO, b->error) == NULL)
        return false;
    if (s->reply_to.email.len > 0 && !add_person(b, SLICE_LIT("Reply-To"), &s->reply_to))
        return false;
    if (s->subject.len > 0 && !add_field(b, SLICE_LIT("Subject"), s->subject))
        return false;
    return add_given_fields(b) &&
           message_add_bytes(b->arena, b->message, SLICE_LIT("MIME-Version: 1.0\r\n"), false,
                             b->error);
}

/* ---- containers ---- */

/* Content-Type of a multipart with its number's boundary. Returns the number, or -1. */
static int open_container(struct build *b, const char *type)
{
    char text[160];
    int number = (int)b->containers++;
    int len =
        snprintf(text, sizeof text, "Content-Type: multipart/%s;\r\n boundary=\"=_%s_%d\"\r\n\r\n",
                 type, b->boundary, number);
    return message_add_bytes(b->arena, b->message, slice_of(text, (size_t)len), true, b->error)
               ? number
               : -1;
}

/* The delimiter before a part, or the last one. The line end in front belongs to it (RFC 2046
 * 5.1.1); the container's own header has brought one. */
static bool add_delimiter(struct build *b, int number, bool first, bool last)
{
    char text[80];
    int len = snprintf(text, sizeof text, "%s--=_%s_%d%s\r\n", first ? "" : "\r\n", b->boundary,
                       number, last ? "--" : "");
    return message_add_bytes(b->arena, b->message, slice_of(text, (size_t)len), true, b->error);
}

/* ---- attachments ---- */

static bool is_token_char(char c)
{
    return c > ' ' && c < 0x7f && strchr("()<>@,;:\\\"/[]?=", c) == NULL;
}

/* type "/" subtype, and then nothing or parameters in printable ASCII. */
static bool is_content_type(struct slice s)
{
    size_t slash = slice_find(s, '/'), end = slice_find(s, ';');
    size_t subtype_end = end;
    while (subtype_end > slash && s.ptr[subtype_end - 1] == ' ')
        subtype_end--;
    if (slash == 0 || slash + 1 >= subtype_end || s.len > 400)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        bool in_type = i < subtype_end && i != slash;
        if (in_type ? !is_token_char(s.ptr[i]) : s.ptr[i] < ' ' || s.ptr[i] > '~')
            return false;
    }
    return true;
}

static bool is_content_id(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] <= ' ' || s.ptr[i] > '~' || s.ptr[i] == '<' || s.ptr[i] == '>')
            return false;
    return s.len <= 200;
}

static bool has_control(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ' || s.ptr[i] == 0x7f)
            return true;
    return false;
}

static bool check_attachment(struct build *b, const struct mime_attachment *at)
{
    bool composite = slice_starts_nocase(at->content_type, SLICE_LIT("multipart/")) ||
                     slice_starts_nocase(at->content_type, SLICE_LIT("message/"));
    if (!is_content_type(at->content_type) || composite)
        return fail(b, "attachments: content_type is one such as image/png, and neither multipart "
                       "nor message");
    if (!is_content_id(at->content_id))
        return fail(b, "attachments: content_id is a word of printable ASCII without brackets");
    if (has_control(at->file_name) || at->file_name.len > 1000)
        return fail(b, "attachments: file_name holds a control character, or is too long");
    return true;
}

static void put_attachment_fields(struct buf *out, const struct mime_attachment *at)
{
    buf_append(out, SLICE_LIT("Content-Type: "));
    buf_append(out, at->content_type);
    if (!at->is_base64 && slice_starts_nocase(at->content_type, SLICE_LIT("text/")) &&
        slice_find(at->content_type, ';') == at->content_type.len)
        buf_append(out, SLICE_LIT("; charset=utf-8")); /* it came as JSON */
    buf_append(out, SLICE_LIT("\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: "));
    buf_append_str(out, at->content_id.len > 0 ? "inline" : "attachment");
    if (at->file_name.len > 0)
        mime_append_parameter(out, "filename", at->file_name);
    buf_append(out, SLICE_LIT("\r\n"));
    if (at->content_id.len > 0)
        buf_printf(out, "Content-ID: <%.*s>\r\n", SLICE_ARG(at->content_id));
    buf_append(out, SLICE_LIT("\r\n"));
}

static bool add_attachment(struct build *b, const struct mime_attachment *at)
{
    struct buf out, bytes;
    if (!check_attachment(b, at))
        return false;
    size_t max = at->data.len * 2 + 4096;
    buf_init(&out, max);
    buf_init(&bytes, at->data.len + 1);
    bool ok = !at->is_base64 || mime_decode_base64(&bytes, at->data);
    if (!ok) {
        (void)fail(b, "attachments: `data` is not base64; without \"base64\": true it is taken as "
                      "text");
    } else {
        put_attachment_fields(&out, at);
        mime_append_base64(&out, at->is_base64 ? buf_slice(&bytes) : at->data);
        ok = buf_ok(&out) && buf_ok(&bytes) &&
             message_add_bytes(b->arena, b->message, buf_slice(&out), true, b->error);
    }
    buf_fini(&out);
    buf_fini(&bytes);
    return ok;
}

/* Those that are inline, or those that are not, each behind a delimiter of `number`. */
static bool add_attachments(struct build *b, bool are_inline, bool all, int number)
{
    for (unsigned i = 0; i < b->source->attachment_count; i++) {
        const struct mime_attachment *at = &b->source->attachments[i];
        if (!all && (at->content_id.len > 0) != are_inline)
            continue;
        if (!add_delimiter(b, number, false, false) || !add_attachment(b, at))
            return false;
    }
    return true;
}

static unsigned count_inline(const struct mime_source *s)
{
    unsigned count = 0;
    for (unsigned i = 0; i < s->attachment_count; i++)
        count += s->attachments[i].content_id.len > 0;
    return count;
}

/* ---- the tree ---- */

/* The HTML, with what is shown within it. */
static bool add_html(struct build *b)
{
    const struct mime_source *s = b->source;
    if (count_inline(s) == 0)
        return message_add_text(b->arena, b->message, SLICE_LIT("text/html"), s->html, true,
                                b->is_static, b->error);
    int n = open_container(b, "related");
    return n >= 0 && add_delimiter(b, n, true, false) &&
           message_add_text(b->arena, b->message, SLICE_LIT("text/html"), s->html, true,
                            b->is_static, b->error) &&
           add_attachments(b, true, false, n) && add_delimiter(b, n, false, true);
}

/* The body: one text, or the same in several forms, the plainest first (RFC 2046 5.1.4). */
static bool add_body(struct build *b)
{
    const struct mime_source *s = b->source;
    unsigned forms = 0;
    forms += s->text.len > 0;
    forms += s->html.len > 0;
    forms += s->amp.len > 0;
    int n = forms > 1 ? open_container(b, "alternative") : 0;
    bool first = true, ok = n >= 0;
    if (ok && (s->text.len > 0 || forms == 0)) {
        ok = forms < 2 || add_delimiter(b, n, true, false);
        ok = ok && message_add_text(b->arena, b->message, SLICE_LIT("text/plain"), s->text, false,
                                    b->is_static, b->error);
        first = false;
    }
    if (ok && s->amp.len > 0) {
        ok = forms < 2 || add_delimiter(b, n, first, false);
        ok = ok && message_add_text(b->arena, b->message, SLICE_LIT("text/x-amp-html"), s->amp,
                                    true, b->is_static, b->error);
        first = false;
    }
    if (ok && s->html.len > 0)
        ok = (forms < 2 || add_delimiter(b, n, first, false)) && add_html(b);
    return ok && (forms < 2 || add_delimiter(b, n, false, true));
}

static bool add_content(struct build *b)
{
    const struct mime_source *s = b->source;
    bool related = s->html.len > 0 && count_inline(s) > 0;
    unsigned apart = s->attachment_count - (related ? count_inline(s) : 0);
    if (s->attachment_count > MIME_PARTS_MAX)
        return fail(b, "more than 1000 attachments");
    if (apart == 0)
        return add_body(b);
    int n = open_container(b, "mixed");
    return n >= 0 && add_delimiter(b, n, true, false) && add_body(b) &&
           add_attachments(b, false, !related, n) && add_delimiter(b, n, false, true);
}

const struct mime_message *mime_from_parts(struct arena *a, const struct mime_source *source,
                                           const char *boundary, bool is_static,
                                           struct error *error)
{
    ASSERT(strlen(boundary) <= MIME_BOUNDARY_WORD_MAX);
    struct mime_message *m = arena_alloc(a, sizeof *m);
    if (m == NULL) {
        error_set(error, "out of memory");
        return NULL;
    }
    *m = (struct mime_message){.pieces = NULL, .lines = SLICE_LIT("")};
    struct build b = {.arena = a,
                      .source = source,
                      .boundary = boundary,
                      .is_static = is_static,
                      .message = m,
                      .error = error};
    if (source->text.len == 0 && source->html.len == 0 && source->amp.len == 0) {
        error_set(error, "content: at least one of text_body and html_body must be given");
        return NULL;
    }
    return add_header(&b) && add_content(&b) ? m : NULL;
}
