/* The parser of SMTP replies (RFC 5321 4.2), fed with whatever arrives, at any split.
 *
 *   reply     = *( code "-" [ text ] CRLF ) code [ SP [ text ] ] CRLF
 *   code      = ("2" / "3" / "4" / "5") digit digit
 *   text      = [ class "." subject "." detail SP ] words                  ; RFC 2034
 *
 * The class must be the code's first digit (RFC 2034 4); an enhanced status with another is
 * ignored. All lines should have one code (RFC 5321 4.2.1). Where they differ the last line's
 * holds, with the text of those at the end that have it: Postfix's postscreen greets with "220-"
 * and takes that back seconds later with "521 ". Bare LF as a line end is taken, since some servers
 * send it; everything else that is not of this form is not SMTP. Bounded: RFC 5321 4.5.3.1.5 allows
 * 512 bytes a line, real servers send more, none honest more than this. */
#ifndef ONWARD_SMTP_REPLY_H
#define ONWARD_SMTP_REPLY_H

#include "core/base/slice.h"
#include "core/reply.h"

enum { SMTP_REPLY_LINE_MAX = 2048, SMTP_REPLY_LINES_MAX = 128, SMTP_REPLY_BYTES_MAX = 65536 };

enum smtp_reply_status {
    SMTP_REPLY_MORE,     /* all input used, the reply is not complete */
    SMTP_REPLY_COMPLETE, /* `reply` is filled; input behind it is not used */
    SMTP_REPLY_GARBAGE,  /* not a reply */
    SMTP_REPLY_TOO_LONG, /* over a bound */
};

/* Parse state of one reply; embedded in its client. */
struct smtp_reply_parser {
    char line[SMTP_REPLY_LINE_MAX];
    uint16_t line_len;
    uint16_t lines;
    uint32_t bytes;
    char text[REPLY_TEXT_SIZE]; /* of the lines so far, joined by spaces */
    uint16_t text_len;
    struct reply reply;
};

/* Clears for the next reply: nothing of the last one is left (RFC 3207: least of all across
 * STARTTLS). */
void smtp_reply_reset(struct smtp_reply_parser *p);

/* Has nothing of the next reply arrived yet? */
static inline bool smtp_reply_is_empty(const struct smtp_reply_parser *p)
{
    return p->bytes == 0;
}

/* `on_line`, where given, hears each line's text without its code: EHLO's keywords. After anything
 * but SMTP_REPLY_MORE the parser must be reset. */
enum smtp_reply_status
smtp_reply_feed(struct smtp_reply_parser *p, struct slice input, size_t *used_out,
                void (*on_line)(void *context, unsigned line, struct slice text), void *context);

#endif
