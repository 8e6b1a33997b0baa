/* The compiled message's body, for this folder: parts.c and raw.c make pieces, message.c renders
 * them. */
#ifndef ONWARD_SMTP_MIME_MESSAGE_PRIV_H
#define ONWARD_SMTP_MIME_MESSAGE_PRIV_H

#include "smtp/mime/message.h"

enum piece_kind {
    PIECE_BYTES, /* `bytes` */
    PIECE_FIELD, /* `field`, rendered */
    PIECE_TO,    /* To: the recipient */
    PIECE_TEXT,  /* `text` of a text part, with its Content-Type, its encoding and the blank line */
};

struct piece {
    enum piece_kind kind;
    struct slice bytes; /* PIECE_TEXT: "text/html" and what parameters but charset follow */
    struct header_field field;
    struct template text;
};

struct mime_message {
    struct piece *pieces;
    unsigned count, capacity;
    struct slice lines; /* PIECE_BYTES of raw content point into it */
};

/* The next piece, of that kind. NULL with `error`. */
struct piece *message_add(struct arena *a, struct mime_message *m, enum piece_kind kind,
                          struct error *error);

/* The same bytes for all. Copied where `copy`. False with `error`. */
bool message_add_bytes(struct arena *a, struct mime_message *m, struct slice bytes, bool copy,
                       struct error *error);

/* A text part; `type` and `text` are borrowed. One without holes is encoded here and now. */
bool message_add_text(struct arena *a, struct mime_message *m, struct slice type, struct slice text,
                      bool is_html, bool is_static, struct error *error);

#endif
