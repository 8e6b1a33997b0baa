#include "smtp/mime/header.h"

#include "core/base/utf8.h"
#include "core/domain.h"
#include "smtp/address.h"
#include "smtp/mime/encode.h"

#include <stdio.h>

enum {
    NAME_MAX_BYTES = 76,
    WORD_BYTES_MAX = 900, /* a longer word is encoded, or refused: lines end at 998 */
    VALUE_BYTES_MAX = 64 * 1024,
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

bool header_name_is_valid(struct slice name)
{
    for (size_t i = 0; i < name.len; i++)
        if (name.ptr[i] <= ' ' || name.ptr[i] > '~' || name.ptr[i] == ':')
            return false;
    return name.len > 0 && name.len <= NAME_MAX_BYTES;
}

static bool is_one_of(struct slice name, const char *const *names)
{
    for (; *names != NULL; names++)
        if (slice_equal_nocase(name, slice_str(*names)))
            return true;
    return false;
}

enum header_kind header_kind_of(struct slice name)
{
    static const char *const addresses[] = {"From",
                                            "Sender",
                                            "Reply-To",
                                            "To",
                                            "Cc",
                                            "Bcc",
                                            "Resent-From",
                                            "Resent-Sender",
                                            "Resent-Reply-To",
                                            "Resent-To",
                                            "Resent-Cc",
                                            "Resent-Bcc",
                                            "Errors-To",
                                            "Delivered-To",
                                            "Return-Receipt-To",
                                            "Disposition-Notification-To",
                                            NULL};
    static const char *const structured[] = {"Message-ID",
                                             "In-Reply-To",
                                             "References",
                                             "Resent-Message-ID",
                                             "Date",
                                             "Resent-Date",
                                             "MIME-Version",
                                             "Received",
                                             "DKIM-Signature",
                                             "Return-Path",
                                             "Auto-Submitted",
                                             "Precedence",
                                             "Authentication-Results",
                                             NULL};
    if (is_one_of(name, addresses))
        return HEADER_ADDRESSES;
    bool by_prefix = slice_starts_nocase(name, SLICE_LIT("List-")) ||
                     slice_starts_nocase(name, SLICE_LIT("Content-")) ||
                     slice_starts_nocase(name, SLICE_LIT("ARC-"));
    return by_prefix || is_one_of(name, structured) ? HEADER_STRUCTURED : HEADER_UNSTRUCTURED;
}

/* ---- where holes stand in a field ---- */

/* The lexical state along a field's text (RFC 5322 3.2). */
struct lexer {
    bool quoted;
    bool escaped;
    unsigned comments;
    bool angle;
};

static void lex(struct lexer *l, char c)
{
    if (l->escaped) {
        l->escaped = false;
    } else if (c == '\\' && (l->quoted || l->comments > 0)) {
        l->escaped = true;
    } else if (l->quoted) {
        l->quoted = c != '"';
    } else if (c == '(') {
        l->comments++;
    } else if (c == ')') {
        l->comments -= l->comments > 0;
    } else if (l->comments == 0) {
        l->quoted = c == '"';
        l->angle = c == '<' || (l->angle && c != '>');
    }
}

/* In the text behind piece `i` of an address field: does "<" come before the mailbox's end? */
static bool angle_follows(const struct template *t, unsigned i, struct lexer l)
{
    for (i++; i < t->count; i++) {
        if (t->pieces[i].is_hole)
            continue;
        for (size_t k = 0; k < t->pieces[i].text.len; k++) {
            char c = t->pieces[i].text.ptr[k];
            lex(&l, c);
            if (l.angle)
                return true;
            if (!l.quoted && l.comments == 0 && (c == ',' || c == ';'))
                return false;
        }
    }
    return false;
}

static enum template_place place_in_addresses(const struct template *t, unsigned i, struct lexer l)
{
    if (l.quoted)
        return PLACE_QUOTED;
    if (l.comments > 0)
        return PLACE_COMMENT;
    if (l.angle || !angle_follows(t, i, l))
        return PLACE_ADDRESS;
    return PLACE_PHRASE;
}

static void find_places(struct header_field *f)
{
    struct lexer l = {0};
    struct template *t = &f->value;
    for (unsigned i = 0; i < t->count; i++) {
        struct template_piece *piece = &t->pieces[i];
        for (size_t k = 0; !piece->is_hole && k < piece->text.len; k++)
            lex(&l, piece->text.ptr[k]);
        if (!piece->is_hole)
            continue;
        if (f->kind == HEADER_ADDRESSES)
            piece->place = place_in_addresses(t, i, l);
        else if (f->kind == HEADER_STRUCTURED)
            piece->place = l.quoted ? PLACE_QUOTED : l.angle ? PLACE_URI : PLACE_WORD;
    }
}

/* ---- compiling ---- */

/* The value on one line: each line end and the white space behind it is a single space. False: a
 * control character stands in it. */
static bool unfold(struct slice value, struct buf *out)
{
    value = slice_trim(value);
    for (size_t i = 0; i < value.len; i++) {
        char c = value.ptr[i];
        if (c == '\r' || c == '\n') {
            while (i + 1 < value.len && strchr("\r\n \t", value.ptr[i + 1]) != NULL &&
                   value.ptr[i + 1] != '\0')
                i++;
            c = ' ';
        }
        if (c == '\t')
            c = ' ';
        if ((unsigned char)c < ' ' || c == 0x7f)
            return false;
        buf_append(out, slice_of(&c, 1));
    }
    return true;
}

/* Encoded words that hide a hole are taken for what they say; others stay. */
static void reveal(struct buf *line)
{
    struct slice value = buf_slice(line);
    if (value.len == 0 || memmem(value.ptr, value.len, "=?", 2) == NULL)
        return;
    struct buf decoded;
    buf_init(&decoded, VALUE_BYTES_MAX);
    mime_decode_words(&decoded, value);
    struct slice text = buf_slice(&decoded);
    bool hidden = buf_ok(&decoded) && memmem(text.ptr, text.len, "{{", 2) != NULL &&
                  memmem(value.ptr, value.len, "{{", 2) == NULL;
    for (size_t i = 0; hidden && i < text.len; i++)
        hidden = (unsigned char)text.ptr[i] >= ' ' && text.ptr[i] != 0x7f;
    if (hidden) {
        buf_clear(line);
        buf_append(line, text);
    }
    buf_fini(&decoded);
}

bool header_compile(struct arena *a, struct slice name, struct slice value, bool is_static,
                    struct header_field *out, struct error *error)
{
    struct buf line;
    struct slice text;
    buf_init(&line, VALUE_BYTES_MAX);
    *out = (struct header_field){.name = name, .kind = header_kind_of(name)};
    bool ok = unfold(value, &line) && buf_ok(&line);
    if (ok && !is_static)
        reveal(&line);
    ok = ok && buf_ok(&line) && arena_copy(a, buf_slice(&line), &text);
    buf_fini(&line);
    if (!ok) {
        error_set(error, "field %.*s: a control character stands in it, or it is longer than 64 KB",
                  SLICE_ARG(name));
        return false;
    }
    if (!template_compile(a, text, is_static, PLACE_TEXT, &out->value, error))
        return false;
    find_places(out);
    return true;
}

/* ---- unstructured and structured values ---- */

struct line {
    struct buf *out;
    size_t column;
    bool at_start; /* nothing of the value is out yet */
};

/* Puts white space and a word, on a new line where this one would get too long. */
static void put_word(struct line *l, struct slice blank, struct slice word)
{
    if (!l->at_start && l->column + blank.len + word.len > MIME_FOLD_COLUMNS) {
        buf_append(l->out, SLICE_LIT("\r\n"));
        l->column = 0;
        if (blank.len == 0)
            blank = SLICE_LIT(" ");
    }
    buf_append(l->out, blank);
    buf_append(l->out, word);
    l->column += blank.len + word.len;
    l->at_start = false;
}

static void put_words(struct line *l, struct slice blank, struct slice text)
{
    mime_append_words(l->out, l->at_start ? SLICE_LIT("") : blank, text, &l->column);
    l->at_start = false;
}

/* One word with the white space before it, its marks still in it. */
struct token {
    struct slice blank, word;
    bool encode;
    bool is_encoded_word;
};

static bool next_token(struct slice *rest, struct token *t)
{
    size_t blank = 0, end;
    while (blank < rest->len && is_blank(rest->ptr[blank]))
        blank++;
    end = blank;
    while (end < rest->len && !is_blank(rest->ptr[end]))
        end++;
    *t = (struct token){.blank = slice_take(*rest, blank),
                        .word = slice_of(rest->ptr + blank, end - blank)};
    *rest = slice_skip(*rest, end);
    if (t->word.len == 0)
        return false;
    bool marked = slice_find(t->word, TEMPLATE_MARK) < t->word.len;
    bool looks_encoded = false;
    for (size_t i = 0; i + 1 < t->word.len; i++) {
        size_t next = t->word.ptr[i + 1] == TEMPLATE_MARK ? i + 2 : i + 1;
        looks_encoded |= t->word.ptr[i] == '=' && next < t->word.len && t->word.ptr[next] == '?';
    }
    t->encode = utf8_has_high(t->word) || t->word.len > WORD_BYTES_MAX || (marked && looks_encoded);
    t->is_encoded_word = !t->encode && looks_encoded;
    return true;
}

static void append_unmarked(struct buf *out, struct slice s)
{
    while (s.len > 0) {
        size_t end = slice_find(s, TEMPLATE_MARK);
        buf_append(out, slice_take(s, end));
        s = slice_skip(s, end + 1);
    }
}

/* What must be encoded goes with the white space inside it, which a reader drops between two
 * encoded words (RFC 2047 6.2). */
static void put_unstructured(struct line *l, struct slice value)
{
    struct buf run; /* what is to be encoded together, or one plain word */
    struct token t;
    bool after_encoded = false;
    buf_init(&run, VALUE_BYTES_MAX);
    bool more = next_token(&value, &t);
    while (more) {
        struct slice blank = t.blank;
        bool encode = t.encode;
        buf_clear(&run);
        if (encode && after_encoded) {
            append_unmarked(&run, blank);
            blank = SLICE_LIT(" ");
        }
        append_unmarked(&run, t.word);
        after_encoded = encode || t.is_encoded_word;
        more = next_token(&value, &t);
        while (encode && more && t.encode) {
            append_unmarked(&run, t.blank);
            append_unmarked(&run, t.word);
            more = next_token(&value, &t);
        }
        if (!encode) {
            put_word(l, blank, buf_slice(&run));
            continue;
        }
        put_words(l, blank, buf_slice(&run));
    }
    if (!buf_ok(&run))
        l->out->overflow = true;
    buf_fini(&run);
}

static bool put_structured(struct line *l, struct slice name, struct slice value,
                           struct error *error)
{
    struct token t;
    while (next_token(&value, &t)) {
        if (utf8_has_high(t.word) || t.word.len > WORD_BYTES_MAX) {
            error_set(error, "field %.*s: `%.*s` is not ASCII, or too long for its line",
                      SLICE_ARG(name), SLICE_ARG(slice_take(t.word, 40)));
            return false;
        }
        put_word(l, t.blank, t.word);
    }
    return true;
}

/* ---- addresses ---- */

bool header_wire_address(struct slice address, char out[512])
{
    struct smtp_address a;
    char domain[DOMAIN_SIZE] = "", room[SMTP_ADDRESS_MAX + 1];
    if (smtp_address_read_mailbox(address, true, &a) != SMTP_ADDRESS_OK || a.domain.len == 0)
        return false;
    if (utf8_has_high(a.domain) && !utf8_has_high(a.local) && !domain_normalize(a.domain, domain))
        return false;
    return slice_to_cstr(smtp_address_on_wire(&a, domain, room), out, 512);
}

/* The parts of one mailbox as they are read: "phrase <address>", "address (comment)". */
struct mailbox {
    struct buf name;    /* decoded; of a quoted string, its content */
    struct buf address; /* without white space around it */
    struct buf bare;    /* the phrase as it stood, which is the address where there is no "<" */
    bool has_angle;
    bool has_words; /* the name holds encoded words that stay as they are */
    bool blank;     /* white space is due before the next word of the name */
};

static void clear_mailbox(struct mailbox *m)
{
    buf_clear(&m->name);
    buf_clear(&m->address);
    buf_clear(&m->bare);
    m->has_angle = m->has_words = m->blank = false;
}

static bool is_plain_phrase(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (strchr("()<>[]:;@\\,.\"", s.ptr[i]) != NULL ||
            (i > 0 && s.ptr[i] == ' ' && s.ptr[i - 1] == ' '))
            return false;
    return true;
}

static void put_display_name(struct line *l, const struct mailbox *m)
{
    struct slice name = slice_trim(buf_slice(&m->name));
    struct slice lead = l->at_start ? SLICE_LIT("") : SLICE_LIT(" ");
    if (m->has_words && !utf8_has_high(name)) {
        struct token t;
        while (next_token(&name, &t))
            put_word(l, t.blank.len > 0 ? t.blank : lead, t.word);
        return;
    }
    bool odd = utf8_has_high(name) || name.len > WORD_BYTES_MAX ||
               memmem(name.ptr, name.len, "=?", 2) != NULL;
    if (odd) {
        struct buf decoded; /* words beside what must become some */
        buf_init(&decoded, VALUE_BYTES_MAX);
        if (m->has_words)
            mime_decode_words(&decoded, name);
        put_words(l, lead, m->has_words ? buf_slice(&decoded) : name);
        buf_fini(&decoded);
        return;
    }
    struct buf quoted;
    buf_init(&quoted, VALUE_BYTES_MAX);
    bool plain = is_plain_phrase(name);
    if (!plain)
        buf_append(&quoted, SLICE_LIT("\""));
    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] == '"' || name.ptr[i] == '\\')
            buf_append(&quoted, SLICE_LIT("\\"));
        buf_append(&quoted, slice_of(name.ptr + i, 1));
    }
    if (!plain)
        buf_append(&quoted, SLICE_LIT("\""));
    put_word(l, lead, buf_slice(&quoted));
    buf_fini(&quoted);
}

/* The mailbox that has been read. `comma`: another one follows. */
static bool put_mailbox(struct line *l, struct mailbox *m, bool comma, struct slice field,
                        struct error *error)
{
    struct slice address = slice_trim(buf_slice(m->has_angle ? &m->address : &m->bare));
    if (address.len == 0 && !m->has_angle) /* an empty element of the list (RFC 5322 4.4) */
        return true;
    char wire[512], text[520];
    if (!header_wire_address(address, wire)) {
        error_set(error,
                  "field %.*s: `%.*s` is no mail address; expected one such as a@example.org",
                  SLICE_ARG(field), SLICE_ARG(slice_take(address, 100)));
        return false;
    }
    bool named = buf_len(&m->name) > 0 && m->has_angle;
    if (named)
        put_display_name(l, m);
    int len = snprintf(text, sizeof text, named ? "<%s>%s" : "%s%s", wire, comma ? "," : "");
    put_word(l, l->at_start ? SLICE_LIT("") : SLICE_LIT(" "), slice_of(text, (size_t)len));
    return true;
}

/* A quoted string at the front, stepped over; its content is added to the name. */
static struct slice take_quoted(struct slice s, struct mailbox *m)
{
    size_t i = 1;
    if (m->blank && buf_len(&m->name) > 0)
        buf_append(&m->name, SLICE_LIT(" "));
    m->blank = false;
    for (; i < s.len && s.ptr[i] != '"'; i++) {
        if (s.ptr[i] == '\\' && i + 1 < s.len)
            i++;
        buf_append(&m->name, slice_of(s.ptr + i, 1));
    }
    buf_append(&m->bare, slice_take(s, i + 1));
    return slice_skip(s, i + 1);
}

/* A comment at the front, stepped over: what it says is dropped. */
static struct slice skip_comment(struct slice s)
{
    struct lexer l = {0};
    size_t i = 0;
    do {
        lex(&l, s.ptr[i++]);
    } while (i < s.len && l.comments > 0);
    return slice_skip(s, i);
}

static struct slice take_angle(struct slice s, struct mailbox *m)
{
    size_t end = 1;
    bool quoted = false;
    for (; end < s.len && (quoted || s.ptr[end] != '>'); end++)
        quoted ^= s.ptr[end] == '"' && s.ptr[end - 1] != '\\';
    m->has_angle = true;
    buf_append(&m->address, slice_trim(slice_of(s.ptr + 1, end - 1)));
    return slice_skip(s, end + 1);
}

static void take_char(struct mailbox *m, struct slice s)
{
    if (is_blank(s.ptr[0])) {
        m->blank = true;
        return;
    }
    if (m->blank && buf_len(&m->name) > 0) {
        buf_append(&m->name, SLICE_LIT(" "));
        buf_append(&m->bare, SLICE_LIT(" "));
    }
    m->blank = false;
    m->has_words |= s.len > 1 && s.ptr[0] == '=' && s.ptr[1] == '?';
    buf_append(&m->name, slice_take(s, 1));
    buf_append(&m->bare, slice_take(s, 1));
}

/* "name:" of a group, e.g. of "undisclosed-recipients:;". */
static void put_group(struct line *l, struct mailbox *m)
{
    put_display_name(l, m);
    put_word(l, SLICE_LIT(""), SLICE_LIT(":"));
    clear_mailbox(m);
}

static bool put_addresses(struct line *l, struct slice field, struct slice value,
                          struct error *error)
{
    struct mailbox m = {.has_angle = false};
    buf_init(&m.name, VALUE_BYTES_MAX);
    buf_init(&m.address, VALUE_BYTES_MAX);
    buf_init(&m.bare, VALUE_BYTES_MAX);
    bool ok = true, literal = false;
    while (ok && value.len > 0) {
        char c = value.ptr[0];
        literal = c == '[' || (literal && c != ']');
        if (c == '"') {
            value = take_quoted(value, &m);
        } else if (c == '(') {
            value = skip_comment(value);
        } else if (c == '<') {
            value = take_angle(value, &m);
        } else if (c == ',' || c == ';') {
            ok = put_mailbox(l, &m, c == ',', field, error);
            if (c == ';')
                put_word(l, SLICE_LIT(""), SLICE_LIT(";"));
            clear_mailbox(&m);
            value = slice_skip(value, 1);
        } else if (c == ':' && !literal) {
            put_group(l, &m);
            value = slice_skip(value, 1);
        } else {
            take_char(&m, value);
            value = slice_skip(value, 1);
        }
    }
    ok = ok && put_mailbox(l, &m, false, field, error);
    if (!buf_ok(&m.name) || !buf_ok(&m.address) || !buf_ok(&m.bare))
        l->out->overflow = true;
    buf_fini(&m.name);
    buf_fini(&m.address);
    buf_fini(&m.bare);
    return ok;
}

/* ---- rendering ---- */

bool header_render(const struct header_field *f, const struct template_values *values,
                   struct buf *scratch, struct buf *out, struct error *error)
{
    buf_clear(scratch);
    if (!template_render(&f->value, values, scratch, error))
        return false;
    struct slice value = slice_trim(buf_slice(scratch));
    if (!buf_ok(scratch) || value.len == 0)
        return buf_ok(scratch);
    struct line l = {.out = out, .column = f->name.len + 2, .at_start = true};
    buf_append(out, f->name);
    buf_append(out, SLICE_LIT(": "));
    bool ok = true;
    if (f->kind == HEADER_ADDRESSES)
        ok = put_addresses(&l, f->name, value, error);
    else if (f->kind == HEADER_STRUCTURED)
        ok = put_structured(&l, f->name, value, error);
    else
        put_unstructured(&l, value);
    buf_append(out, SLICE_LIT("\r\n"));
    return ok;
}

bool header_append_mailbox(struct buf *out, const char *field, struct slice display_name,
                           struct slice address, struct error *error)
{
    for (size_t i = 0; i < display_name.len; i++)
        if ((unsigned char)display_name.ptr[i] < ' ' || display_name.ptr[i] == 0x7f) {
            error_set(error, "field %s: the name holds a line break or control character", field);
            return false;
        }
    struct mailbox m = {.has_angle = true};
    struct line l = {.out = out, .column = strlen(field) + 2, .at_start = true};
    buf_init(&m.name, VALUE_BYTES_MAX);
    buf_init(&m.address, VALUE_BYTES_MAX);
    buf_init(&m.bare, VALUE_BYTES_MAX);
    buf_append(&m.name, display_name);
    buf_append(&m.address, address);
    buf_append_str(out, field);
    buf_append(out, SLICE_LIT(": "));
    bool ok = put_mailbox(&l, &m, false, slice_str(field), error);
    buf_append(out, SLICE_LIT("\r\n"));
    if (!buf_ok(&m.name) || !buf_ok(&m.address))
        out->overflow = true;
    buf_fini(&m.name);
    buf_fini(&m.address);
    return ok;
}
