/* One message for each of many recipients: content that is compiled once and rendered for each
 * (RFC 5322, RFC 2045 to 2047, 2231, 2387).
 *
 * Compiled, it is a row of pieces: bytes that are the same for all (attachments encoded once among
 * them), header fields and text parts with holes. A text part is encoded anew for each recipient,
 * for a value decides whether 7 bits and 998 columns are enough.
 *
 *   from parts:  mixed( alternative( text, amp, related( html, inline... ) ), attachment... )
 *                each container only where it has more than one part
 *   raw:         as it stands, but for fields and text parts that hold a template or 8-bit bytes:
 *                these are read, and written anew as UTF-8. Signed content is never touched.
 *
 * Bcc is dropped; Date and Message-ID are left to smtp/content.h, which puts in what is missing. */
#ifndef ONWARD_SMTP_MIME_MESSAGE_H
#define ONWARD_SMTP_MIME_MESSAGE_H

#include "smtp/mime/header.h"

enum {
    MIME_PARTS_MAX = 1000,
    MIME_DEPTH_MAX = 16,
    MIME_FIELDS_MAX = 1000,
    MIME_BOUNDARY_WORD_MAX = 32,
};

/* A file to go along. */
struct mime_attachment {
    struct slice content_type; /* "image/png", perhaps with parameters */
    struct slice content_id;   /* without brackets; "" = not inline */
    struct slice file_name;    /* or "" */
    struct slice data;         /* its bytes, or base64 */
    bool is_base64;
};

/* A header field as it was given. */
struct mime_named_value {
    struct slice name, value;
};

/* Who a message is from, or answered to. */
struct mime_person {
    struct slice name;  /* or "" */
    struct slice email; /* "" = nobody */
};

/* Content as parts. "" is an absent one. */
struct mime_source {
    struct slice text, html, amp;
    struct slice subject;
    struct mime_person from, reply_to;
    const struct mime_named_value *fields;
    unsigned field_count;
    const struct mime_attachment *attachments;
    unsigned attachment_count;
    struct slice envelope_sender; /* From where nobody is named */
};

struct mime_message;

/* Compiles. All lies in the arena and points into the source, which lives as long. `boundary` is a
 * word that no content can know (random; at most MIME_BOUNDARY_WORD_MAX characters of a to z and
 * digits). `is_static`: no templates. NULL with `error`: what is wrong and what to do. */
const struct mime_message *mime_from_parts(struct arena *a, const struct mime_source *source,
                                           const char *boundary, bool is_static,
                                           struct error *error);
const struct mime_message *mime_from_raw(struct arena *a, struct slice text, bool is_static,
                                         struct error *error);

/* Whom it is rendered for. */
struct mime_recipient {
    struct slice email, name;
    struct template_values values;
};

/* Room to work in, kept from one rendering to the next. */
struct mime_scratch {
    struct buf text, lines;
};

/* Empty; what it may hold, in bytes. And the way to give its memory back. */
void mime_scratch_init(struct mime_scratch *s, size_t bytes_max);
void mime_scratch_fini(struct mime_scratch *s);

/* Appends the whole message with CRLF line ends. False with `error`: a value cannot stand where its
 * hole does, or the message is larger than `out` may be. */
bool mime_render(const struct mime_message *m, const struct mime_recipient *r,
                 struct mime_scratch *scratch, struct buf *out, struct error *error);

#endif
