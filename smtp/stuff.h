/* Dot stuffing (RFC 5321 4.5.2): a content line that begins with a dot gets another one in front,
 * so that no content can end itself. Works on borrowed runs: the content is never copied, and a run
 * may end anywhere, also between CR and LF. */
#ifndef ONWARD_SMTP_STUFF_H
#define ONWARD_SMTP_STUFF_H

#include "core/base/slice.h"

/* Where in a line the sending stands; all zero at the start of a content. */
struct stuff_state {
    bool mid_line;    /* the last byte sent was not a LF */
    bool dot_pending; /* the extra dot went out, its line has not begun */
};

/* What to send next of `content`: the extra dot alone (`*is_extra_out`), or the longest run that
 * needs none. Empty content gives an empty run. */
struct slice stuff_next(const struct stuff_state *s, struct slice content, bool *is_extra_out);

/* `len` bytes of what stuff_next gave have been sent. */
void stuff_sent(struct stuff_state *s, struct slice run, size_t len, bool is_extra);

#endif
