/* Domain names on their way from an address to DNS: the one normal form that routing, queueing and
 * the cache share. */
#ifndef ONWARD_CORE_DOMAIN_H
#define ONWARD_CORE_DOMAIN_H

#include "core/base/slice.h"

enum { DOMAIN_SIZE = 256 }; /* 253 characters at most (RFC 1035 3.1), and a NUL */

/* Lower-case A-labels (libidn2, UTS 46 non-transitional) without a final dot, or an address literal
 * in its one spelling ("[192.0.2.1]", "[IPv6:2001:db8::1]"). False where it is no valid domain:
 * empty, labels over 63, a name over 253, a bad literal, IDNA errors. */
bool domain_normalize(struct slice domain, char out[DOMAIN_SIZE]);

#endif
