/* The body of a request, gathered in memory within bounds and inflated on the way (RFC 9110 8.4.1:
 * gzip, deflate). What all requests hold together is bounded too. Listener's thread. */
#ifndef ONWARD_WORKERS_HTTP_BODY_H
#define ONWARD_WORKERS_HTTP_BODY_H

#include "workers/http/http_priv.h"

/* The head of the request was read: is what it announces to be had? False, having answered, where
 * not. */
bool http_body_begin(struct http_request *r);

/* The request was refused by its head: is its body short enough to be read and dropped, so that the
 * client gets to see the answer? One that asks first (Expect: 100-continue) sends none. */
bool http_body_may_drop(const struct http_request *r);

/* Some of it. What passes a bound is answered for and the rest dropped. False: there is no end to
 * it, so close. */
bool http_body_feed(struct http_request *r, struct slice bytes);

/* It is complete. False, having answered, where it cannot be used. */
bool http_body_end(struct http_request *r);

/* Frees it. Also before: whoever has read it need not keep it while it waits. */
void http_body_fini(struct http_request *r);

#endif
