/* A route: where a domain's mail goes, as DNS says (RFC 5321 5.1). Immutable once published and
 * shared by reference over all threads; a new look-up makes a new one. It holds facts, in the order
 * of the preferences; what order an attempt tries them in (shuffling equals, health) is decided per
 * attempt. */
#ifndef ONWARD_DNS_ROUTE_H
#define ONWARD_DNS_ROUTE_H

#include "core/base/address.h"
#include "core/base/random.h"
#include "core/reply.h"

#include <stdatomic.h>

enum {
    ROUTE_EXCHANGES_MAX = 64, /* MX records taken from an answer; the best are kept */
    ROUTE_ADDRESSES_MAX = 16, /* per exchange and family */
    ROUTE_TARGETS_MAX = 64,   /* addresses an attempt goes through at most */
};

/* One mail exchange with its addresses. Lives in its route. */
struct route_exchange {
    const char *name; /* lower-case A-labels, no final dot; the literal's text for literals */
    uint16_t preference;
    uint32_t ttl_s; /* of the MX record; 0 for implicit MX */
    uint8_t v4_count, v6_count;
    const struct address *v4, *v6; /* ports are set (delivery port) */
    uint32_t address_ttl_s;
    bool lookup_failed; /* SERVFAIL or time-out for one of its families */
};

enum route_kind { ROUTE_MX, ROUTE_IMPLICIT_MX, ROUTE_LITERAL, ROUTE_FAILED };

struct route {
    struct {
        atomic_uint references;
    } shared;
    enum route_kind kind;
    struct reply failure;        /* ROUTE_FAILED: why; its class says defer or bounce */
    const char *domain;          /* what was asked for */
    const char *destination_key; /* names the set of exchanges: "10 a.example 20 b.example" */
    uint64_t resolved_wall_ms;
    uint64_t expires_mono_ms;
    bool secure;             /* DNSSEC-validated throughout */
    bool own_host_cut;       /* our own name or address was among the exchanges */
    uint16_t exchange_count; /* sorted by preference */
    const struct route_exchange *exchanges;
};

/* Any thread. The last release frees. */
const struct route *route_reference(const struct route *r);
void route_release(const struct route **r);

/* One address to try. Borrows from the route. */
struct route_target {
    const struct route_exchange *exchange;
    struct address address;
};

/* Lists the addresses in the order RFC 5321 5.1 gives, for one attempt: by preference, exchanges of
 * equal preference shuffled without bias, the addresses of an exchange shuffled within their family
 * and the families interleaved. Returns how many were written, at most ROUTE_TARGETS_MAX. */
unsigned route_targets(const struct route *r, struct random *random,
                       struct route_target out[ROUTE_TARGETS_MAX]);

#endif
