/* A flight: one look-up of one domain, from its MX to a finished route.
 *
 *   ASKS_MX ---MX, or none and so the domain itself---> ASKS_ADDRESSES ---all in or time is up--+
 *      |                                                                                        v
 *      +------- NXDOMAIN, null MX, failure, time is up ----------------------------------> LANDED
 *
 * libunbound calls back from within ub_resolve_event where it has the answer already, and its
 * packet lies in a buffer that the next call overwrites. So an answer is only read there, into the
 * draft; the flight moves on later, from flight_deck_run at the top of the loop. Flights never
 * nest.
 *
 * A or AAAA that never come (there are name servers that drop AAAA) must not hold mail back: once
 * some exchange has an address, the rest has FLIGHT_GRACE_MS more. What is not in by then counts as
 * failed, which keeps the route short-lived.
 *
 * The dns thread only. */
#ifndef ONWARD_DNS_FLIGHT_H
#define ONWARD_DNS_FLIGHT_H

#include "core/base/timer.h"
#include "dns/draft.h"

enum { FLIGHT_GRACE_MS = 2000 };

struct flight;
struct ub_ctx;

/* What all flights share. Owned by the resolver. */
struct flight_deck {
    struct ub_ctx *context;
    struct timer_wheel *timers;
    const struct draft_rules *rules;
    uint32_t limit_ms;
    void (*on_landed)(struct flight *f, void *owner); /* f->route is set; may free the flight */
    void *owner;
    struct link stirred; /* flights with an answer not yet acted upon */
};

enum flight_state { FLIGHT_ASKS_MX, FLIGHT_ASKS_ADDRESSES, FLIGHT_LANDED };

/* One question to libunbound, owned by its flight: the callback's context. */
struct lookup {
    uint32_t magic;
    int id; /* libunbound's, to cancel it */
    bool pending;
    uint8_t exchange; /* of the draft */
    enum packet_type type;
    struct flight *flight;
};

struct flight {
    struct flight_deck *deck;
    enum flight_state state;
    struct draft draft;
    struct lookup mx;
    struct lookup *lookups; /* of addresses; owned */
    unsigned lookup_count;
    unsigned pending; /* look-ups not answered yet */
    bool time_is_up;
    struct timer timer;
    struct link stirred_link;
    const struct route *route; /* once landed, owned; NULL: out of memory */
};

/* `d` must outlive its flights. */
void flight_deck_init(struct flight_deck *d);

/* Moves every stirred flight as far as it can go now, calling on_landed for those that end. */
void flight_deck_run(struct flight_deck *d);

/* Takes off. `domain` is a valid name in normal form. on_landed comes from a later flight_deck_run,
 * never from here. */
void flight_start(struct flight *f, struct flight_deck *deck, struct slice domain);

/* Cancels what is still asked and frees what the flight owns, save itself; its route as well. At
 * any time. */
void flight_fini(struct flight *f);

#endif
