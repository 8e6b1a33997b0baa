/* UTF-8 (RFC 3629), judged strictly: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef ONWARD_CORE_BASE_UTF8_H
#define ONWARD_CORE_BASE_UTF8_H

#include "core/base/slice.h"

/* Length of the well-formed sequence at the start of `s`, which is not empty; 0 where there is
 * none. */
size_t utf8_length(struct slice s);

/* Is all of it well-formed? */
bool utf8_is_valid(struct slice s);

/* Is the well-formed sequence of `len` bytes at the start of `s` a character that a terminal obeys
 * or that a reader does not see: a C1 control (U+009B begins an escape sequence), a line or
 * paragraph separator, a mark or override of direction? Sets its code point then. */
bool utf8_is_hidden(struct slice s, size_t len, unsigned *code_out);

/* Does it hold a byte over 127? */
bool utf8_has_high(struct slice s);

#endif
