/* Decoding a message's content as it arrives (RFC 5321 4.1.1.4, 4.5.2; RFC 3030 for BDAT).
 *
 * Bytes are copied in runs into the driver's `content` buffer, dots unstuffed (DATA only), and
 * watched on the way: line ends must be CRLF (a bare CR or LF is how one server's end of data
 * becomes another's second message, "smuggling"), lines and the whole are bounded, Received fields
 * are counted, the field that says the priority is read (it stays: what was signed is not touched),
 * and Date and Message-ID are put in at the end of a header section that lacks them. What is
 * refused is read on to its true end, so that the dialogue stays in step. */
#ifndef ONWARD_SMTP_CONTENT_H
#define ONWARD_SMTP_CONTENT_H

#include "core/base/buf.h"

enum {
    SMTP_CONTENT_NAME_MAX = 76, /* a field's name on the first line: longer ones do not occur */
    SMTP_CONTENT_OUT_MIN = 84,  /* what `out` must hold at least, besides the lines put in */
};

enum smtp_content_mode { SMTP_CONTENT_DATA, SMTP_CONTENT_BDAT };

enum smtp_content_error {
    SMTP_CONTENT_OK,
    SMTP_CONTENT_BARE_CR,
    SMTP_CONTENT_BARE_LF,
    SMTP_CONTENT_NUL,
    SMTP_CONTENT_LINE_TOO_LONG,
    SMTP_CONTENT_TOO_LARGE,
    SMTP_CONTENT_LOOP,
};

enum smtp_content_status {
    SMTP_CONTENT_MORE, /* all input used */
    SMTP_CONTENT_FULL, /* `out` is full: empty it and go on */
    SMTP_CONTENT_END,  /* DATA: the end-of-data line was read */
};

/* Bounds; what passes one is refused, and read on to its end. */
struct smtp_content_limits {
    uint64_t bytes_max;
    unsigned line_bytes_max; /* with CRLF */
    unsigned received_max;
};

struct smtp_content {
    struct smtp_content_limits limits;
    enum smtp_content_mode mode;
    enum smtp_content_error error;
    struct buf *out;
    struct slice date_line; /* "Date: ...\r\n", put in where missing; or "" */
    struct slice message_id_line;
    struct slice
        priority_field;    /* "name:" of the field that says the priority, lower case; or "" */
    bool has_priority;     /* it was there */
    uint8_t priority;      /* then: enum envelope_priority */
    uint64_t bytes;        /* put into `out` since begin */
    uint32_t header_bytes; /* of them, up to and with the blank line; set when it was seen */
    unsigned received;
    size_t line_bytes; /* of the line under way, without its end */
    char head[64];     /* its first bytes, lower case: names the field */
    uint8_t head_len;
    bool after_cr; /* the last byte read was a CR */
    bool only_dot; /* DATA: the line so far is a single dot, which is held back */
    bool in_header;
    bool has_date, has_message_id;
    bool judged;                       /* it is known whether the first line is a header field */
    char first[SMTP_CONTENT_NAME_MAX]; /* until then, what it is judged by */
    uint8_t first_len;
    bool has_8bit, has_dot_lines, has_utf8_header;
};

/* For a new message. `out` is the driver's; its bound is at least SMTP_CONTENT_OUT_MIN and
 * the lines that are put in. */
void smtp_content_begin(struct smtp_content *c, enum smtp_content_mode mode,
                        const struct smtp_content_limits *limits, struct buf *out);

/* Uses input up to the end, to a full `out`, or (DATA) through the end-of-data line. */
enum smtp_content_status smtp_content_feed(struct smtp_content *c, struct slice input,
                                           size_t *used_out);

/* BDAT: so many bytes are announced; more than is allowed is known before they come. */
void smtp_content_expect(struct smtp_content *c, uint64_t bytes);

/* BDAT LAST was read whole: ends an open line and an open header section. FULL: empty `out` and
 * call again. */
enum smtp_content_status smtp_content_finish(struct smtp_content *c);

#endif
