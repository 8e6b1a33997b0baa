/* xtext (RFC 3461 4): printable ASCII with "+HH" for the rest; ENVID and ORCPT travel in it. */
#ifndef ONWARD_SMTP_XTEXT_H
#define ONWARD_SMTP_XTEXT_H

#include "core/base/buf.h"

/* Only xchar and "+" with two upper-case hexadecimal digits? */
bool xtext_is_valid(struct slice s);

/* Appends the decoded bytes of valid xtext; bytes that are not printable ASCII come out as '?'. */
void xtext_decode(struct slice s, struct buf *out);

#endif
