/* A message in the queue, and its deliveries: the unit of work of the whole relay.
 *
 * A `delivery` is one message for all its still unfinished recipients at one domain. It is what the
 * schedule wakes, the job ring carries, a destination queues, a session sends and an outcome ends.
 * It has exactly one owner at a time, and `place` says which:
 *
 *   PLACE_WAITING   the schedule (committer thread): until its timer or an operator wakes it
 *   PLACE_OUT       the workers: in the ring, waiting for a route, in a destination's queue
 *                   (guarded
 *                   by that destination's lock) or with the session that carries it
 *   PLACE_COMMITTING the committer: its outcome is being made durable
 *
 * Only the committer thread writes `place`, creates and frees. Bodies and envelopes are not here:
 * they are read from the spool when a session is ready for them, so that a queued recipient costs
 * under 300 bytes of memory. */
#ifndef ONWARD_CORE_QUEUE_DELIVERY_H
#define ONWARD_CORE_QUEUE_DELIVERY_H

#include "core/base/address.h"
#include "core/base/list.h"
#include "core/base/timer.h"

#include <stdatomic.h>

struct destination;

/* A recipient domain, shared by all deliveries to it. Its name is immutable, all else the committer
 * thread's. */
struct domain {
    struct domain *hash_next;  /* in its bucket of the domain table */
    struct link stranded;      /* struct delivery, by shared.queue_link: waiting, and released as
                                  soon as one of the exchanges is back (schedule_release) */
    struct link stranded_link; /* on the schedule's list of domains that have some */
    uint64_t stranded_at;      /* health_mark of the exchanges that could not be reached */
    uint32_t references;
    uint32_t name_len;
    char name[]; /* routing key of envelope.h; NUL-terminated */
};

/* Fields are immutable after creation except those marked (committer). */
struct message {
    uint64_t id;
    _Atomic int64_t
        arrived_mono_ms;      /* (committer) the age limit counts from here; before this machine's
                                        start: < 0. Workers read it */
    uint32_t recipients_left; /* (committer) unfinished, over all deliveries */
    uint8_t priority;         /* enum envelope_priority */
    struct link deliveries;   /* (committer) */
    struct link queue_link;   /* (committer) on the schedule's list of all messages */
};

enum delivery_place { PLACE_WAITING, PLACE_OUT, PLACE_COMMITTING };

enum delivery_flags {
    DELIVERY_HELD = 1,            /* an operator holds it: no timer wakes it */
    DELIVERY_EXPIRED = 2,         /* past the age limit: the worker bounces it without a session */
    DELIVERY_OPERATOR_BOUNCE = 4, /* the operator wants it returned: likewise */
    DELIVERY_DELAY_NOTICED = 8,   /* its delay notice has been sent (RFC 3461) */
};

struct delivery {
    struct message *message;
    struct domain *domain;
    struct link message_link; /* on message->deliveries (committer) */
    struct timer timer;       /* (committer) retry while waiting, age limit while out */
    uint64_t due_mono_ms;     /* (committer) next attempt */
    struct address
        *try_first;    /* after an unknown outcome: the exchange to ask again; or NULL. Owned */
    uint16_t attempts; /* ended without success */
    uint8_t place;     /* enum delivery_place (committer) */
    uint8_t flags;     /* enum delivery_flags; (committer) writes while PLACE_WAITING */
    uint8_t wanted;    /* (committer) flags an operator asked for while it was out */
    uint32_t recipient_count;
    union {
        uint32_t one;
        uint32_t *many; /* where recipient_count > 1; owned */
    } recipient;        /* indexes into the envelope, ascending */

    struct {
        _Atomic(struct destination *) destination; /* where it is queued, or NULL */
        struct link queue_link; /* PLACE_OUT: guard is the destination's lock. PLACE_WAITING
                                   (committer): due, or stranded */
    } shared;
};

/* The delivery's recipient indexes. */
static inline const uint32_t *delivery_recipients(const struct delivery *d)
{
    return d->recipient_count > 1 ? d->recipient.many : &d->recipient.one;
}

#endif
