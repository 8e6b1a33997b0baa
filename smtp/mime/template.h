/* Templates: text with `{{name}}` in it, one value per recipient put in its place.
 *
 *   hole  = "{{" expr *( "|" filter ) "}}"
 *   expr  = name *( "." name ) / string        a value, or text that would read as a template
 *   filter = "safe" / "urlencode" / "default(" string ")"
 *
 * It is the part of Jinja that KumoMTA's users write. Blocks ({%) and comments ({#) are refused,
 * never sent. A name without a value is empty text. How a value is written depends on where its
 * hole stands: see enum template_place. */
#ifndef ONWARD_SMTP_MIME_TEMPLATE_H
#define ONWARD_SMTP_MIME_TEMPLATE_H

#include "core/base/arena.h"
#include "core/base/buf.h"
#include "core/base/error.h"

/* Where a hole stands. */
enum template_place {
    PLACE_PLAIN,   /* a text part: as it is */
    PLACE_HTML,    /* & < > " ' become references */
    PLACE_TEXT,    /* an unstructured field (RFC 5322 3.6.5): no line break or control */
    PLACE_QUOTED,  /* inside "..." of a field */
    PLACE_COMMENT, /* inside (...) of a field */
    PLACE_PHRASE,  /* a display name, or part of one */
    PLACE_ADDRESS, /* a mailbox or part of one */
    PLACE_URI,     /* inside <...> of a structured field: what is no URI is percent-encoded */
    PLACE_WORD,    /* elsewhere in a structured field: visible ASCII */
};

/* A run of text, or a hole. */
struct template_piece {
    struct slice text; /* the text, or the name in a hole; for a literal hole its text */
    bool is_hole;
    bool safe; /* put in without references in HTML */
    bool urlencode;
    struct slice fallback; /* default(...); or "" */
    enum template_place place;
};

/* Compiled; its pieces lie in the arena, its text where it lay. */
struct template
{
    struct template_piece *pieces;
    unsigned count;
    bool has_holes;
};

enum { TEMPLATE_PIECES_MAX = 10000, TEMPLATE_NAME_MAX = 200 };

/* One recipient's values. False: there is none of that name. The value lives until the
 * next call. */
struct template_values {
    bool (*find)(void *context, struct slice name, struct slice *value_out);
    void *context;
};

/* `is_static`: no template at all, whatever it holds. All holes get `place`. False with `error`. */
bool template_compile(struct arena *a, struct slice text, bool is_static, enum template_place place,
                      struct template *out, struct error *error);

/* Appends the text with each hole's value as its place wants it. False with `error`: a value cannot
 * stand there. Where a header value holds "=?" it is marked with TEMPLATE_MARK, for it is no
 * encoded word. */
bool template_render(const struct template *t, const struct template_values *values,
                     struct buf *out, struct error *error);

enum { TEMPLATE_MARK = 1 };

#endif
