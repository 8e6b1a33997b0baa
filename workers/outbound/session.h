/* One connection to one mail exchange: connect, greeting, EHLO, TLS, transactions (carriage.h). It
 * drives the pure protocol machine (smtp/client.h) over a connection, with two deadlines that no
 * trickle moves:
 *
 *   limit     the absolute time limit of the reply awaited (RFC 5321 4.5.3.2): the session is over
 *   patience  how long this host usually takes, learned per host (health.h): the lane looks
 *             elsewhere, and this session goes on beside
 *
 * Both run for the oldest command without a reply, from when it was sent or from the reply before
 * it. What is bound behind a content's end was sent in the same write as that end, so the patience
 * with the end's reply is its patience, too: it waits no longer for somebody else's outcome than it
 * would for its own.
 *
 *   CONNECTING -> TALKING <-> TLS -> TALKING ... -> CLOSED
 *
 * A large content is not silence as long as the peer takes it at a fair pace (PACE_BYTES_A_MS),
 * which its acknowledgements tell: both deadlines are armed anew then.
 *
 * What happens is told to the lane, which decides; a session decides nothing. It may be closed at
 * any of those calls; its memory stays until the end of the worker's turn (outbound.h buries it).
 * Worker thread only. */
#ifndef ONWARD_WORKERS_OUTBOUND_SESSION_H
#define ONWARD_WORKERS_OUTBOUND_SESSION_H

#include "smtp/client.h"
#include "workers/outbound/body.h"
#include "workers/outbound/carriage.h"
#include "workers/outbound/order.h"
#include "workers/worker.h"

struct lane;

/* Why a session is over, as the lane judges it. */
enum session_end {
    END_DOWN,       /* refused, unreachable, reset, closed before commit */
    END_SILENT,     /* an absolute limit ran out */
    END_BROKEN,     /* flood, not SMTP */
    END_BUSY,       /* 421, 4xx greeting */
    END_REFUSING,   /* 5xx greeting */
    END_TLS_FAILED, /* handshake failed: opportunistic goes on in clear */
    END_TLS_POLICY, /* TLS required and not to be had */
    END_LOCAL,      /* our own fault: descriptors, damaged spool */
};

/* Milliseconds each phase took, for the log; UINT32_MAX = not reached. */
struct session_times {
    uint32_t connect_ms, greeting_ms, ehlo_ms, tls_ms;
};

enum session_stage { SESSION_CONNECTING, SESSION_TALKING, SESSION_TLS, SESSION_CLOSED };

struct session {
    struct link lane_link;  /* on the lane's sessions */
    struct link again_link; /* on outbound->again */
    struct lane *lane;
    struct worker *worker;
    uint64_t number; /* of this worker's sessions, from 1 */
    uint64_t probe;  /* the host's one probe, as claimed; 0: it is none */
    enum session_stage stage;
    struct target target;
    bool in_clear;      /* TLS not tried: policy, or broken there before */
    bool greeted_well;  /* EHLO was accepted: the host counts as a success */
    bool ready;         /* may begin a transaction now */
    bool slow;          /* patience ran out in this phase */
    bool closing;       /* QUIT is on its way */
    bool counted_ready; /* its destination has been told that it got through (lane.c) */
    bool started_later; /* another address of the lane was tried before it */
    struct conn conn;
    struct buf out;
    size_t out_told; /* bytes of `out` the observer has seen */
    enum net_status
        lost; /* a write failed with this: what the peer has said is heard, then it ends */
    struct smtp_client *smtp;
    uint64_t replies_seen; /* smtp_client_replies when the deadline was armed */
    enum smtp_phase phase_seen;
    struct timer limit;
    struct timer patience;
    uint64_t phase_began_ms;
    uint64_t opened_ms;
    struct session_times times;
    uint32_t messages;    /* transactions begun */
    const char *ended_in; /* phase it failed in, for the log */

    struct flight *flight;    /* the lane's current one, if this carries it, or NULL */
    struct link carriages;    /* all that it carries, oldest first (carriage.h) */
    unsigned in_flight;       /* of them, and of those: */
    unsigned handed_over;     /* not the lane's any more */
    unsigned answered;        /* transactions over, so far */
    bool retiring;            /* the lane is done with it, but not it with what was handed over */
    bool broken_off;          /* the newest carriage has lost its flight: nothing can follow it */
    bool sent_ahead;          /* has sent something before what went before it was answered */
    bool binding_ahead;       /* is about to write a content's end, and asks for what follows */
    struct carriage *sending; /* whose content is being sent, or NULL */
    struct body body;         /* of that one */
    bool large;               /* the kernel did not take all of it at once */
    uint64_t taken;     /* of what was written, by the peer, when it was looked at; 0: not yet */
    uint64_t looked_ms; /* when that was */
    uint64_t transaction_began_ms; /* of the last one that was over or lost; 0: none */
};

/* Connects. NULL where nothing could be opened: `*failure_out` says why, and `*host_fault_out`
 * whether the host is to blame (rather than our own want of descriptors). */
struct session *session_open(struct lane *lane, const struct target *target, bool in_clear,
                             struct reply *failure_out, bool *host_fault_out);

/* Reads on where a turn's bound cut it short. */
void session_read_on(struct session *s);

/* Says QUIT where the protocol allows it and closes soon; no more calls to the lane. */
void session_quit(struct session *s);

/* Ends it as if it had failed by itself: the lane is told. */
void session_fail(struct session *s, enum session_end end, const struct reply *reply);

/* Closes at once: a race was lost with a transaction under way, or one was broken off. No more
 * calls to the lane. */
void session_drop(struct session *s);

/* Has it sent the last byte of its current flight's content? */
static inline bool session_has_committed(const struct session *s)
{
    return s->flight != NULL && s->flight->token == s;
}

/* What it is doing, for logs. Static storage. */
const char *session_phase_name(const struct session *s);

void session_destroy(struct session *s); /* closed ones only; called by outbound's burial */

#endif
