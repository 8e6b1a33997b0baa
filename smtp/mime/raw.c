#include "smtp/mime/encode.h"
#include "smtp/mime/message_priv.h"

#include "core/base/utf8.h"

/* Reading a message far enough to find its text parts (RFC 2045, 2046): what is not a field or text
 * part with a template or 8-bit bytes passes as it is, byte by byte. */

enum { TYPE_BYTES_MAX = 2000, BOUNDARY_BYTES_MAX = 200, BODY_BYTES_MAX = 1 << 30 };

struct reading {
    struct arena *arena;
    struct mime_message *message;
    bool is_static;
    struct error *error;
    unsigned parts;
};

/* The fields of one entity, and what follows from them. */
struct entity {
    struct slice header; /* with the blank line, if there is one */
    struct slice body;
    struct slice content_type; /* values as they stand, perhaps folded; "" = absent */
    struct slice encoding;
    bool is_signed;
    bool has_version;
};

/* ---- small readers ---- */

/* The line at the front with its CRLF. */
static struct slice first_line(struct slice s)
{
    return slice_take(s, slice_find(s, '\n') + 1);
}

/* The field at the front, its folded lines included. */
static struct slice first_field(struct slice s)
{
    size_t len = first_line(s).len;
    while (len < s.len && (s.ptr[len] == ' ' || s.ptr[len] == '\t'))
        len += first_line(slice_skip(s, len)).len;
    return slice_take(s, len);
}

static bool is_blank_line(struct slice line)
{
    return line.len == 2 && line.ptr[0] == '\r';
}

/* "Name: value" taken apart; false where it is none. */
static bool split_field(struct slice field, struct slice *name, struct slice *value)
{
    size_t colon = slice_find(first_line(field), ':');
    *name = slice_trim(slice_take(field, colon));
    *value = slice_trim(slice_skip(field, colon + 1));
    while (value->len > 0 &&
           (value->ptr[value->len - 1] == '\n' || value->ptr[value->len - 1] == '\r'))
        value->len--;
    return colon < first_line(field).len && header_name_is_valid(*name);
}

static bool contains(struct slice s, const char *text)
{
    return s.len > 0 && memmem(s.ptr, s.len, text, strlen(text)) != NULL;
}

static bool holds_template(const struct reading *r, struct slice s)
{
    return !r->is_static && (contains(s, "{{") || contains(s, "{%") || contains(s, "{#"));
}

/* ---- Content-Type ---- */

struct content_type {
    char type[64]; /* lower case; "text/plain" where the field is absent or cannot be read */
    char boundary[BOUNDARY_BYTES_MAX];
    char charset[40];
    struct slice rest; /* "; name=value" of all others, in the arena */
};

static void skip_blank(struct slice *s)
{
    while (s->len > 0 &&
           (s->ptr[0] == ' ' || s->ptr[0] == '\t' || s->ptr[0] == '\r' || s->ptr[0] == '\n'))
        *s = slice_skip(*s, 1);
}

/* A parameter's value, quoted or not, stepped over: as it stood, and unquoted into `out`. */
static struct slice read_value(struct slice *s, struct buf *out)
{
    struct slice start = *s;
    if (s->len > 0 && s->ptr[0] == '"') {
        size_t i = 1;
        for (; i < s->len && s->ptr[i] != '"'; i++) {
            if (s->ptr[i] == '\\' && i + 1 < s->len)
                i++;
            buf_append(out, slice_of(s->ptr + i, 1));
        }
        *s = slice_skip(*s, i + 1);
    } else {
        size_t i = 0;
        while (i < s->len && strchr("; \t\r\n", s->ptr[i]) == NULL)
            i++;
        buf_append(out, slice_take(*s, i));
        *s = slice_skip(*s, i);
    }
    return slice_take(start, start.len - s->len);
}

static void read_parameters(struct slice s, struct content_type *out, struct buf *rest)
{
    while (s.len > 0) {
        struct buf value;
        s = slice_skip(s, slice_find(s, ';') + 1);
        skip_blank(&s);
        size_t end = 0;
        while (end < s.len && s.ptr[end] != '=' && s.ptr[end] != ';')
            end++;
        if (end == s.len || s.ptr[end] == ';') /* no value: it is none */
            continue;
        struct slice name = slice_trim(slice_take(s, end));
        s = slice_skip(s, end + 1);
        skip_blank(&s);
        buf_init(&value, TYPE_BYTES_MAX);
        struct slice raw = read_value(&s, &value);
        if (slice_equal_nocase(name, SLICE_LIT("boundary")))
            (void)slice_to_cstr(buf_slice(&value), out->boundary, sizeof out->boundary);
        else if (slice_equal_nocase(name, SLICE_LIT("charset")))
            (void)slice_to_cstr(buf_slice(&value), out->charset, sizeof out->charset);
        else
            buf_printf(rest, ";\r\n %.*s=%.*s", SLICE_ARG(name), SLICE_ARG(raw));
        buf_fini(&value);
    }
}

static void read_content_type(const struct reading *r, struct slice value, struct content_type *out)
{
    struct buf rest;
    *out = (struct content_type){.type = "text/plain", .rest = SLICE_LIT("")};
    struct slice type = slice_trim(slice_take(value, slice_find(value, ';')));
    if (slice_find(type, '/') == type.len || !slice_to_cstr(type, out->type, sizeof out->type)) {
        (void)memcpy(out->type, "text/plain", sizeof "text/plain");
        return;
    }
    for (char *c = out->type; *c != '\0'; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c | 0x20);
    buf_init(&rest, TYPE_BYTES_MAX);
    read_parameters(slice_skip(value, slice_find(value, ';')), out, &rest);
    if (!buf_ok(&rest) || utf8_has_high(buf_slice(&rest)) ||
        !arena_copy(r->arena, buf_slice(&rest), &out->rest))
        out->rest = SLICE_LIT("");
    buf_fini(&rest);
}

/* ---- the header section ---- */

static struct entity read_entity(struct slice s)
{
    struct entity e = {.content_type = SLICE_LIT(""), .encoding = SLICE_LIT("")};
    struct slice rest = s, name, value;
    while (rest.len > 0) {
        struct slice field = first_field(rest);
        if (is_blank_line(first_line(rest))) {
            rest = slice_skip(rest, 2);
            break;
        }
        if (!split_field(field, &name, &value))
            break; /* no header section, or it ends here without its blank line */
        if (slice_equal_nocase(name, SLICE_LIT("Content-Type")))
            e.content_type = value;
        else if (slice_equal_nocase(name, SLICE_LIT("Content-Transfer-Encoding")))
            e.encoding = value;
        e.is_signed |= slice_equal_nocase(name, SLICE_LIT("DKIM-Signature"));
        e.has_version |= slice_equal_nocase(name, SLICE_LIT("MIME-Version"));
        rest = slice_skip(rest, field.len);
    }
    e.header = slice_take(s, s.len - rest.len);
    e.body = rest;
    return e;
}

static bool add_bytes(struct reading *r, struct slice bytes)
{
    return bytes.len == 0 || message_add_bytes(r->arena, r->message, bytes, false, r->error);
}

/* A field as it stands, or compiled where it holds a template or, in a field that allows encoded
 * words, 8-bit bytes. */
static bool add_field(struct reading *r, struct slice field, struct slice name, struct slice value)
{
    bool may_encode = header_kind_of(name) != HEADER_STRUCTURED;
    bool high = may_encode && utf8_has_high(value);
    bool hides = !r->is_static && may_encode && contains(value, "=?");
    struct header_field compiled;
    if (!high && !hides && !holds_template(r, value))
        return add_bytes(r, field);
    if (!header_compile(r->arena, name, value, r->is_static, &compiled, r->error))
        return false;
    if (!high && !compiled.value.has_holes && !holds_template(r, value))
        return add_bytes(r, field);
    struct piece *p = message_add(r->arena, r->message, PIECE_FIELD, r->error);
    if (p != NULL)
        p->field = compiled;
    return p != NULL;
}

/* The fields of an entity but for its blank line. `without_type`: Content-Type and its encoding are
 * written anew behind them. */
static bool add_fields(struct reading *r, const struct entity *e, bool top, bool without_type)
{
    struct slice rest = e->header, name, value;
    while (rest.len > 0 && !is_blank_line(first_line(rest))) {
        struct slice field = first_field(rest);
        rest = slice_skip(rest, field.len);
        if (!split_field(field, &name, &value))
            continue;
        bool is_type = slice_equal_nocase(name, SLICE_LIT("Content-Type")) ||
                       slice_equal_nocase(name, SLICE_LIT("Content-Transfer-Encoding"));
        if ((is_type && without_type) || (top && slice_equal_nocase(name, SLICE_LIT("Bcc"))))
            continue;
        if (!add_field(r, field, name, value))
            return false;
    }
    return !(top && without_type && !e->has_version) ||
           add_bytes(r, SLICE_LIT("MIME-Version: 1.0\r\n"));
}

static bool add_as_it_is(struct reading *r, const struct entity *e, bool top)
{
    return add_fields(r, e, top, false) && add_bytes(r, SLICE_LIT("\r\n")) && add_bytes(r, e->body);
}

/* ---- text parts ---- */

/* The text of the part as bytes of its charset. False: it cannot be read. */
static bool decode_body(const struct entity *e, struct buf *out)
{
    if (slice_equal_nocase(e->encoding, SLICE_LIT("base64")))
        return mime_decode_base64(out, e->body) && buf_ok(out);
    if (slice_equal_nocase(e->encoding, SLICE_LIT("quoted-printable")))
        mime_decode_quoted_printable(out, e->body);
    else
        buf_append(out, e->body);
    return buf_ok(out);
}

static bool has_encoding(const struct entity *e)
{
    return slice_equal_nocase(e->encoding, SLICE_LIT("base64")) ||
           slice_equal_nocase(e->encoding, SLICE_LIT("quoted-printable"));
}

static bool add_text(struct reading *r, const struct entity *e, const struct content_type *type,
                     struct slice text, bool top)
{
    struct slice kept, full;
    struct buf all;
    buf_init(&all, TYPE_BYTES_MAX + sizeof type->type);
    buf_append_str(&all, type->type);
    buf_append(&all, type->rest);
    bool ok = buf_ok(&all) && arena_copy(r->arena, buf_slice(&all), &full) &&
              arena_copy(r->arena, text, &kept);
    buf_fini(&all);
    if (!ok) {
        error_set(r->error, "out of memory");
        return false;
    }
    bool is_html =
        strcmp(type->type, "text/html") == 0 || strcmp(type->type, "text/x-amp-html") == 0;
    return add_fields(r, e, top, true) &&
           message_add_text(r->arena, r->message, full, kept, is_html, r->is_static, r->error);
}

/* A part without parts. `*open_out`: it was written anew, and ended where its text did not end
 * with a line end. */
static bool add_leaf(struct reading *r, const struct entity *e, const struct content_type *type,
                     bool top, bool *open_out)
{
    bool is_text = strncmp(type->type, "text/", 5) == 0;
    bool high = !has_encoding(e) && utf8_has_high(e->body);
    struct buf bytes, text;
    if (!is_text)
        return add_as_it_is(r, e, top);
    buf_init(&bytes, BODY_BYTES_MAX);
    buf_init(&text, BODY_BYTES_MAX);
    bool readable = decode_body(e, &bytes);
    bool wanted = readable && (high || holds_template(r, buf_slice(&bytes)));
    /* What stands here as 8-bit bytes came as JSON, so it is UTF-8 whatever it is said to be. */
    struct slice charset = high ? SLICE_LIT("utf-8") : slice_str(type->charset);
    bool known = wanted && mime_append_utf8(&text, charset, buf_slice(&bytes)) && buf_ok(&text);
    bool ok;
    if (known) {
        struct slice t = buf_slice(&text);
        *open_out = t.len > 0 && t.ptr[t.len - 1] != '\n';
        ok = add_text(r, e, type, t, top);
    } else if (wanted && !high) {
        error_set(r->error,
                  "content: a text part of charset `%s` holds a template; write it in UTF-8",
                  type->charset);
        ok = false;
    } else {
        ok = add_as_it_is(r, e, top);
    }
    buf_fini(&bytes);
    buf_fini(&text);
    return ok;
}

/* ---- multiparts ---- */

static bool add_entity(struct reading *r, struct slice s, unsigned depth, bool *open_out);

enum delimiter { DELIMITER_NONE, DELIMITER_NEXT, DELIMITER_LAST };

/* Is the line "--boundary", perhaps with "--" and white space behind it (RFC 2046 5.1.1)? */
static enum delimiter delimiter_of(struct slice line, const char *boundary)
{
    size_t len = strlen(boundary);
    if (line.len < len + 2 || line.ptr[0] != '-' || line.ptr[1] != '-' ||
        memcmp(line.ptr + 2, boundary, len) != 0)
        return DELIMITER_NONE;
    struct slice rest = slice_skip(line, len + 2);
    bool last = rest.len >= 2 && rest.ptr[0] == '-' && rest.ptr[1] == '-';
    rest = slice_skip(rest, last ? 2 : 0);
    skip_blank(&rest);
    return rest.len > 0 ? DELIMITER_NONE : last ? DELIMITER_LAST : DELIMITER_NEXT;
}

/* One part, the bytes between two delimiters: the line end in front of the second is the
 * delimiter's unless the part was written anew without one. */
static bool add_part(struct reading *r, struct slice part, unsigned depth)
{
    bool open = false;
    bool has_end = part.len >= 2 && part.ptr[part.len - 2] == '\r';
    struct slice content = slice_take(part, part.len - (has_end ? 2 : 0));
    if (++r->parts > MIME_PARTS_MAX) {
        error_set(r->error, "content: more than %d parts", MIME_PARTS_MAX);
        return false;
    }
    return add_entity(r, content, depth + 1, &open) &&
           (open || !has_end || add_bytes(r, SLICE_LIT("\r\n")));
}

static bool add_multipart(struct reading *r, const struct entity *e, const char *boundary,
                          unsigned depth)
{
    struct slice rest = e->body, part = slice_take(rest, 0);
    bool inside = false,
         ok = add_fields(r, e, depth == 0, false) && add_bytes(r, SLICE_LIT("\r\n"));
    while (ok && rest.len > 0) {
        struct slice line = first_line(rest);
        enum delimiter d = delimiter_of(line, boundary);
        if (d != DELIMITER_NONE) {
            ok = (inside ? add_part(r, part, depth) : add_bytes(r, part)) && add_bytes(r, line);
            part = slice_of(line.ptr + line.len, 0);
            inside = true;
            if (d == DELIMITER_LAST)
                return ok && add_bytes(r, slice_skip(rest, line.len));
        } else {
            part.len += line.len;
        }
        rest = slice_skip(rest, line.len);
    }
    return ok && (inside ? add_part(r, part, depth) : add_bytes(r, part));
}

static bool add_entity(struct reading *r, struct slice s, unsigned depth, bool *open_out)
{
    struct entity e = read_entity(s);
    struct content_type type;
    read_content_type(r, e.content_type, &type);
    if (e.is_signed || strcmp(type.type, "multipart/signed") == 0) {
        if (!holds_template(r, s))
            return add_bytes(r, s);
        error_set(r->error, "content: it is signed, so no {{...}} in it can be replaced; take the "
                            "signature out, or set \"template_dialect\" to \"Static\"");
        return false;
    }
    if (strncmp(type.type, "multipart/", 10) == 0 && type.boundary[0] != '\0' &&
        depth < MIME_DEPTH_MAX)
        return add_multipart(r, &e, type.boundary, depth);
    return add_leaf(r, &e, &type, depth == 0, open_out);
}

const struct mime_message *mime_from_raw(struct arena *a, struct slice text, bool is_static,
                                         struct error *error)
{
    struct mime_message *m = arena_alloc(a, sizeof *m);
    struct buf lines;
    bool open = false;
    error_set(error, "out of memory");
    if (m == NULL)
        return NULL;
    *m = (struct mime_message){.pieces = NULL, .lines = SLICE_LIT("")};
    buf_init(&lines, text.len * 2 + 2);
    mime_append_lines(&lines, text);
    bool ok = buf_ok(&lines) && arena_copy(a, buf_slice(&lines), &m->lines);
    buf_fini(&lines);
    struct reading r = {.arena = a, .message = m, .is_static = is_static, .error = error};
    return ok && add_entity(&r, m->lines, 0, &open) ? m : NULL;
}
