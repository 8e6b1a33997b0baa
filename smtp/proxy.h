/* The PROXY protocol header, versions 1 (text) and 2 (binary), that a load balancer puts in front
 * of a connection. */
#ifndef ONWARD_SMTP_PROXY_H
#define ONWARD_SMTP_PROXY_H

#include "core/base/address.h"

enum {
    PROXY_HEADER_MAX = 16 + 2048
}; /* version 2 with its options; version 1 has at most 107 bytes */

enum proxy_status { PROXY_NEED_MORE, PROXY_OK, PROXY_LOCAL, PROXY_INVALID };

/* What the header says. */
struct proxy_header {
    size_t length;         /* bytes of the header: what follows is the connection's own */
    struct address source; /* PROXY_OK: who connected to the balancer */
    struct address destination;
};

/* Looks at all bytes received so far. PROXY_LOCAL: the balancer's own connection (a health check),
 * or one whose origin it does not know: the peer's address stands. */
enum proxy_status proxy_parse(struct slice received, struct proxy_header *out);

#endif
