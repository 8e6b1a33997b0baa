/* Transfer encodings (RFC 2045 6) and encoded words (RFC 2047): what lets any text travel through
 * 7-bit lines of bounded length. Pure functions over slices and buffers; check buf_ok behind them. */
#ifndef ONWARD_SMTP_MIME_ENCODE_H
#define ONWARD_SMTP_MIME_ENCODE_H

#include "core/base/buf.h"

enum mime_encoding { MIME_7BIT, MIME_8BIT, MIME_QUOTED_PRINTABLE, MIME_BASE64 };

enum {
    MIME_LINE_MAX = 998,    /* RFC 5322 2.1.1, without CRLF */
    MIME_LINE_COLUMNS = 76, /* RFC 2045 6.7, 6.8; RFC 2047 2 */
    MIME_FOLD_COLUMNS = 76, /* RFC 2047 2: a line that holds an encoded word; else 78 would do */
};

/* Appends `text` in lines that end with CRLF, whichever of CRLF, LF and CR ended them before; the
 * last one gets an end where it has none. Empty text stays empty. */
void mime_append_lines(struct buf *out, struct slice text);

/* The encoding for text in such lines: none where nothing needs one, else the shorter one. */
enum mime_encoding mime_choose(struct slice lines);

/* "quoted-printable" and so on. Static storage. */
const char *mime_encoding_name(enum mime_encoding encoding);

/* Appends `lines` in that encoding, in whole lines. */
void mime_append_encoded(struct buf *out, enum mime_encoding encoding, struct slice lines);

/* Appends any bytes as lines of base64. */
void mime_append_base64(struct buf *out, struct slice bytes);

/* Appends what it says. White space and line ends are passed over; false: anything
 * else is wrong. */
bool mime_decode_base64(struct buf *out, struct slice text);

/* Appends what it says, with CRLF line ends as they are. What is no quoted-printable stands for
 * itself (RFC 2045 6.7). */
void mime_decode_quoted_printable(struct buf *out, struct slice text);

/* Appends `blank`, white space or nothing, and UTF-8 text as encoded words, folded before `blank`
 * and between words; `*column` is where the line stands, and where it then does. They may stand
 * wherever RFC 2047 5 lets any stand. */
void mime_append_words(struct buf *out, struct slice blank, struct slice text, size_t *column);

/* Appends `value` with its encoded words decoded where their charset is UTF-8, ASCII or Latin-1;
 * others stay. White space between two that are decoded goes (RFC 2047 6.2). */
void mime_decode_words(struct buf *out, struct slice value);

/* Appends `text` as UTF-8. False: this charset is none of those above. */
bool mime_append_utf8(struct buf *out, struct slice charset, struct slice text);

/* Appends `; name="value"` as a parameter of a field, folded onto a line of its own; RFC 2231 where
 * it is not ASCII or is long. */
void mime_append_parameter(struct buf *out, const char *name, struct slice value);

#endif
