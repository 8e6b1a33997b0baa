#include "smtp/mime/message.h"

#include "smtp/mime/encode.h"
#include "smtp/mime/message_priv.h"

enum { STATIC_BYTES_MAX = 1 << 30, PIECES_MAX = 4 * MIME_PARTS_MAX + 2 * MIME_FIELDS_MAX };

/* ---- pieces ---- */

struct piece *message_add(struct arena *a, struct mime_message *m, enum piece_kind kind,
                          struct error *error)
{
    if (m->count == m->capacity) {
        unsigned capacity = m->capacity > 0 ? m->capacity * 2 : 16;
        struct piece *pieces =
            m->count < PIECES_MAX ? arena_alloc(a, capacity * sizeof *pieces) : NULL;
        if (pieces == NULL) {
            error_set(error, "content: too many parts and fields, or out of memory");
            return NULL;
        }
        if (m->count > 0)
            memcpy(pieces, m->pieces, m->count * sizeof *pieces);
        m->pieces = pieces;
        m->capacity = capacity;
    }
    struct piece *p = &m->pieces[m->count++];
    *p = (struct piece){.kind = kind, .bytes = SLICE_LIT("")};
    return p;
}

bool message_add_bytes(struct arena *a, struct mime_message *m, struct slice bytes, bool copy,
                       struct error *error)
{
    struct piece *p = message_add(a, m, PIECE_BYTES, error);
    if (p == NULL)
        return false;
    p->bytes = bytes;
    if (copy && !arena_copy(a, bytes, &p->bytes)) {
        error_set(error, "out of memory");
        return false;
    }
    return true;
}

/* A text part with its fields, encoded. */
static void put_text(struct buf *out, struct slice type, struct slice text, struct buf *lines)
{
    buf_clear(lines);
    mime_append_lines(lines, text);
    if (!buf_ok(lines))
        out->overflow = true;
    enum mime_encoding encoding = mime_choose(buf_slice(lines));
    size_t end = slice_find(type, ';');
    buf_append(out, SLICE_LIT("Content-Type: "));
    buf_append(out, slice_take(type, end));
    buf_append(out, SLICE_LIT("; charset=utf-8"));
    buf_append(out, slice_skip(type, end));
    buf_append(out, SLICE_LIT("\r\nContent-Transfer-Encoding: "));
    buf_append_str(out, mime_encoding_name(encoding));
    buf_append(out, SLICE_LIT("\r\n\r\n"));
    mime_append_encoded(out, encoding, buf_slice(lines));
}

bool message_add_text(struct arena *a, struct mime_message *m, struct slice type, struct slice text,
                      bool is_html, bool is_static, struct error *error)
{
    static const struct template_values none = {NULL, NULL};
    struct template t;
    if (!template_compile(a, text, is_static, is_html ? PLACE_HTML : PLACE_PLAIN, &t, error))
        return false;
    if (t.has_holes) {
        struct piece *p = message_add(a, m, PIECE_TEXT, error);
        if (p == NULL)
            return false;
        p->bytes = type;
        p->text = t;
        return true;
    }
    struct buf out, lines, plain;
    buf_init(&out, STATIC_BYTES_MAX);
    buf_init(&lines, STATIC_BYTES_MAX);
    buf_init(&plain, STATIC_BYTES_MAX);
    bool ok = template_render(&t, &none, &plain, error);
    put_text(&out, type, buf_slice(&plain), &lines);
    ok = ok && buf_ok(&plain) && buf_ok(&out) &&
         message_add_bytes(a, m, buf_slice(&out), true, error);
    buf_fini(&out);
    buf_fini(&lines);
    buf_fini(&plain);
    return ok;
}

/* ---- rendering ---- */

void mime_scratch_init(struct mime_scratch *s, size_t bytes_max)
{
    buf_init(&s->text, bytes_max);
    buf_init(&s->lines, bytes_max);
}

void mime_scratch_fini(struct mime_scratch *s)
{
    buf_fini(&s->text);
    buf_fini(&s->lines);
}

static bool render_piece(const struct piece *p, const struct mime_recipient *r,
                         struct mime_scratch *scratch, struct buf *out, struct error *error)
{
    switch (p->kind) {
    case PIECE_BYTES:
        buf_append(out, p->bytes);
        return true;
    case PIECE_FIELD:
        return header_render(&p->field, &r->values, &scratch->text, out, error);
    case PIECE_TO:
        return header_append_mailbox(out, "To", r->name, r->email, error);
    case PIECE_TEXT:
        buf_clear(&scratch->text);
        if (!template_render(&p->text, &r->values, &scratch->text, error))
            return false;
        if (!buf_ok(&scratch->text))
            out->overflow = true;
        put_text(out, p->bytes, buf_slice(&scratch->text), &scratch->lines);
        return true;
    }
    return false;
}

bool mime_render(const struct mime_message *m, const struct mime_recipient *r,
                 struct mime_scratch *scratch, struct buf *out, struct error *error)
{
    error_set(error, "the message is larger than submission.message_size_max");
    for (unsigned i = 0; i < m->count && buf_ok(out); i++)
        if (!render_piece(&m->pieces[i], r, scratch, out, error))
            return false;
    return buf_ok(out);
}
