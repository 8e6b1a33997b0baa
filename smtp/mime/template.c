#include "smtp/mime/template.h"

#include "smtp/address.h"

/* ---- compiling ---- */

struct parser {
    struct arena *arena;
    struct slice rest;
    struct template *out;
    unsigned capacity;
    struct error *error;
};

static bool fail(const struct parser *p, struct slice at, const char *why)
{
    struct slice shown = slice_take(at, 40);
    char text[41];
    for (size_t i = 0; i < shown.len; i++)
        text[i] = shown.ptr[i] >= ' ' && shown.ptr[i] <= '~' ? shown.ptr[i] : '?';
    text[shown.len] = '\0';
    error_set(p->error, "template: `%s`: %s", text, why);
    return false;
}

static struct template_piece *add_piece(struct parser *p)
{
    struct template *t = p->out;
    if (t->count == p->capacity) {
        unsigned capacity = p->capacity > 0 ? p->capacity * 2 : 8;
        struct template_piece *pieces = capacity <= TEMPLATE_PIECES_MAX
                                            ? arena_alloc(p->arena, capacity * sizeof *pieces)
                                            : NULL;
        if (pieces == NULL) {
            error_set(p->error,
                      "template: more than %d substitutions in one text, or out of memory",
                      TEMPLATE_PIECES_MAX / 4);
            return NULL;
        }
        if (t->count > 0)
            memcpy(pieces, t->pieces, t->count * sizeof *pieces);
        t->pieces = pieces;
        p->capacity = capacity;
    }
    struct template_piece *piece = &t->pieces[t->count++];
    *piece = (struct template_piece){.text = SLICE_LIT(""), .fallback = SLICE_LIT("")};
    return piece;
}

static void skip_blank(struct slice *s)
{
    while (s->len > 0 && strchr(" \t\r\n", s->ptr[0]) != NULL && s->ptr[0] != '\0')
        *s = slice_skip(*s, 1);
}

static size_t name_length(struct slice s)
{
    size_t n = 0;
    while (n < s.len && ((s.ptr[n] >= 'a' && s.ptr[n] <= 'z') ||
                         (s.ptr[n] >= 'A' && s.ptr[n] <= 'Z') || s.ptr[n] == '_' ||
                         (n > 0 && ((s.ptr[n] >= '0' && s.ptr[n] <= '9') || s.ptr[n] == '.'))))
        n++;
    return n;
}

/* A string in single or double quotes, without escapes, stepped over. */
static bool read_string(struct slice *s, struct slice *out)
{
    if (s->len == 0 || (s->ptr[0] != '"' && s->ptr[0] != '\''))
        return false;
    char quote = s->ptr[0];
    struct slice rest = slice_skip(*s, 1);
    size_t end = slice_find(rest, quote);
    if (end == rest.len)
        return false;
    *out = slice_take(rest, end);
    *s = slice_skip(rest, end + 1);
    return true;
}

static bool read_filter(struct slice *s, struct template_piece *piece)
{
    size_t len = name_length(*s);
    struct slice name = slice_take(*s, len);
    *s = slice_skip(*s, len);
    if (slice_equal(name, SLICE_LIT("safe"))) {
        piece->safe = true;
    } else if (slice_equal(name, SLICE_LIT("urlencode"))) {
        piece->urlencode = true;
    } else if (slice_equal(name, SLICE_LIT("default")) && s->len > 0 && s->ptr[0] == '(') {
        *s = slice_skip(*s, 1);
        skip_blank(s);
        if (!read_string(s, &piece->fallback))
            return false;
        skip_blank(s);
        if (s->len == 0 || s->ptr[0] != ')')
            return false;
        *s = slice_skip(*s, 1);
    } else {
        return false;
    }
    return true;
}

/* Behind "{{", up to and with "}}". */
static bool read_hole(struct parser *p, struct slice at, enum template_place place)
{
    static const char expected[] =
        "not known here; use {{name}}, {{ name | safe }}, {{ name | urlencode }}, "
        "{{ name | default(\"text\") }} or {{ \"text\" }}, or set \"template_dialect\" to "
        "\"Static\"";
    struct template_piece *piece = add_piece(p);
    struct slice s = slice_skip(p->rest, 2);
    if (piece == NULL)
        return false;
    skip_blank(&s);
    size_t len = name_length(s);
    piece->place = place;
    if (read_string(&s, &piece->text)) {
        piece->is_hole = false;
    } else if (len > 0 && len <= TEMPLATE_NAME_MAX) {
        piece->is_hole = true;
        piece->text = slice_take(s, len);
        s = slice_skip(s, len);
        p->out->has_holes = true;
    } else {
        return fail(p, at, expected);
    }
    skip_blank(&s);
    while (s.len > 0 && s.ptr[0] == '|') {
        s = slice_skip(s, 1);
        skip_blank(&s);
        if (!read_filter(&s, piece))
            return fail(p, at, expected);
        skip_blank(&s);
    }
    if (s.len < 2 || s.ptr[0] != '}' || s.ptr[1] != '}')
        return fail(p, at, expected);
    p->rest = slice_skip(s, 2);
    return true;
}

/* Behind a "{": does it begin something of Jinja's? */
static bool is_opening(char c)
{
    return c == '{' || c == '%' || c == '#';
}

static bool add_text(struct parser *p, struct slice text)
{
    struct template_piece *piece = text.len > 0 ? add_piece(p) : NULL;
    if (piece != NULL)
        piece->text = text;
    return text.len == 0 || piece != NULL;
}

bool template_compile(struct arena *a, struct slice text, bool is_static, enum template_place place,
                      struct template *out, struct error *error)
{
    *out = (struct template){.pieces = NULL};
    struct parser p = {.arena = a, .rest = text, .out = out, .error = error};
    if (is_static)
        return add_text(&p, text);
    while (p.rest.len > 0) {
        size_t brace = 0;
        struct slice from = p.rest;
        for (;;) { /* the next "{{", "{%" or "{#" */
            brace += slice_find(slice_skip(from, brace), '{');
            if (brace + 1 >= from.len || is_opening(from.ptr[brace + 1]))
                break;
            brace++;
        }
        if (brace + 1 >= from.len)
            return add_text(&p, from);
        if (!add_text(&p, slice_take(from, brace)))
            return false;
        p.rest = slice_skip(from, brace);
        if (from.ptr[brace + 1] != '{')
            return fail(
                &p, p.rest,
                "blocks and comments are not known here, only {{name}}; write {{ \"{%\" }} for "
                "these characters, or set \"template_dialect\" to \"Static\"");
        if (!read_hole(&p, p.rest, place))
            return false;
    }
    return true;
}

/* ---- rendering ---- */

static void put_html(struct buf *out, struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        switch (s.ptr[i]) {
        case '&':
            buf_append(out, SLICE_LIT("&amp;"));
            break;
        case '<':
            buf_append(out, SLICE_LIT("&lt;"));
            break;
        case '>':
            buf_append(out, SLICE_LIT("&gt;"));
            break;
        case '"':
            buf_append(out, SLICE_LIT("&quot;"));
            break;
        case '\'':
            buf_append(out, SLICE_LIT("&#39;"));
            break;
        default:
            buf_append(out, slice_of(s.ptr + i, 1));
        }
    }
}

/* Percent-encodes all but unreserved characters and those of `kept` (RFC 3986 2). */
static void put_percent(struct buf *out, struct slice s, const char *kept)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool unreserved = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          (c >= '0' && c <= '9') || (c != '\0' && strchr("-._~", c) != NULL);
        if (unreserved || (c != '\0' && strchr(kept, c) != NULL))
            buf_append(out, slice_of(&c, 1));
        else
            buf_printf(out, "%%%02X", (unsigned)(unsigned char)c);
    }
}

static void put_escaped(struct buf *out, struct slice s, const char *special)
{
    for (size_t i = 0; i < s.len; i++) {
        if (strchr(special, s.ptr[i]) != NULL)
            buf_append(out, SLICE_LIT("\\"));
        buf_append(out, slice_of(s.ptr + i, 1));
    }
}

/* Encoded words are what we make of a value, never what it says. */
static void put_marked(struct buf *out, struct slice s)
{
    static const char mark[] = {TEMPLATE_MARK};
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '=' || s.ptr[i] == '?')
            buf_append(out, slice_of(mark, 1));
        buf_append(out, slice_of(s.ptr + i, 1));
    }
}

static bool has_control(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ' || s.ptr[i] == 0x7f)
            return true;
    return false;
}

static bool is_part_of_address(struct slice s)
{
    struct smtp_address a;
    if (smtp_address_read_mailbox(s, true, &a) == SMTP_ADDRESS_OK)
        return true;
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] <= ' ' ? (unsigned char)s.ptr[i] < 0x80
                            : strchr("()<>[]:;\\,\"", s.ptr[i]) != NULL)
            return false;
    return true;
}

static bool put_value(const struct template_piece *piece, struct slice v, struct buf *out,
                      struct error *error)
{
    bool in_field = piece->place != PLACE_PLAIN && piece->place != PLACE_HTML;
    if (in_field && has_control(v)) {
        error_set(error,
                  "the value of {{%.*s}} holds a line break or control character and stands in a "
                  "header field: take it out",
                  SLICE_ARG(slice_take(piece->text, 60)));
        return false;
    }
    if (piece->urlencode) {
        put_percent(out, v, "/");
        return true;
    }
    switch (piece->place) {
    case PLACE_PLAIN:
        buf_append(out, v);
        return true;
    case PLACE_HTML:
        if (piece->safe)
            buf_append(out, v);
        else
            put_html(out, v);
        return true;
    case PLACE_TEXT:
        put_marked(out, v);
        return true;
    case PLACE_QUOTED:
        put_escaped(out, v, "\"\\");
        return true;
    case PLACE_COMMENT:
        put_escaped(out, v, "()\\");
        return true;
    case PLACE_PHRASE:
        if (v.len == 0)
            return true;
        buf_append(out, SLICE_LIT("\""));
        put_escaped(out, v, "\"\\");
        buf_append(out, SLICE_LIT("\""));
        return true;
    case PLACE_URI:
        put_percent(out, v, ":/?#[]@!$&'()*+,;=%");
        return true;
    case PLACE_ADDRESS:
        if (is_part_of_address(v)) {
            buf_append(out, v);
            return true;
        }
        error_set(error, "the value of {{%.*s}} stands where a mail address does, and is none",
                  SLICE_ARG(slice_take(piece->text, 60)));
        return false;
    case PLACE_WORD:
        buf_append(out, v);
        return true;
    }
    return false;
}

bool template_render(const struct template *t, const struct template_values *values,
                     struct buf *out, struct error *error)
{
    for (unsigned i = 0; i < t->count; i++) {
        const struct template_piece *piece = &t->pieces[i];
        if (!piece->is_hole) {
            buf_append(out, piece->text);
            continue;
        }
        struct slice value = SLICE_LIT("");
        if (!values->find(values->context, piece->text, &value) || value.len == 0)
            value = piece->fallback;
        if (!put_value(piece, value, out, error))
            return false;
    }
    return true;
}
