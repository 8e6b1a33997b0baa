/* xtext (RFC 3461 4): printable ASCII with "+HH" for the rest; ENVID and ORCPT travel in it. */
#ifndef ONWARD_SMTP_XTEXT_H
#define ONWARD_SMTP_XTEXT_H

#include "core/base/buf.h"

/* Only xchar and "+" with two upper-case hexadecimal digits? */
bool xtext_is_valid(struct slice s);

/* Writes UTF-8 in the 7-bit form that is safe in an ORCPT (RFC 6533 3, utf-8-addr-xtext): ASCII as
 * it is, every other character as "\x{4F60}". Returns the length; 0 where `s` is no UTF-8 or that
 * does not fit. */
size_t xtext_from_utf8(struct slice s, char *out, size_t size);

/* Appends the decoded bytes of valid xtext; bytes that are not printable ASCII come out as '?'. */
void xtext_decode(struct slice s, struct buf *out);

#endif
