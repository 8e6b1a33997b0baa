/* The libunbound context, set up from the resolver's options: cache sizes, trust anchor,
 * forwarders, stub zones, then whatever else the operator passes through. */
#ifndef ONWARD_DNS_CONTEXT_H
#define ONWARD_DNS_CONTEXT_H

#include "dns/resolver.h"

struct ub_ctx;
struct ub_event_base;

/* Made, used and deleted (ub_ctx_delete) in one thread, which has blocked all signals. NULL with
 * `error`, which names the option that libunbound refuses. */
struct ub_ctx *context_create(struct ub_event_base *base, const struct resolver_options *options,
                              struct error *error);

#endif
