/* The health table: what this relay knows of each exchange address, shared by all workers.
 *
 * It orders a route for each attempt and never removes from it: with all demoted, all are still
 * tried, least bad first. It is learned from by every session and read on every attempt, so reading
 * takes no lock: an entry is a handful of atomics in a fixed, open-addressed table keyed by IP
 * address; the least useful entry of a full neighbourhood is forgotten. One that warns of a host
 * outlives those of hosts that are well, but not for ever (health_options.demote_max_ms behind its
 * time, or a day where it says what the host is not trusted with): else dead addresses would fill
 * the table.
 *
 *            silence (patience ran out)      silence again, no success between
 *   HEALTHY ----------------------------> SUSPECT ----------------------------> DEMOTED
 *      ^  ^------------ success ------------'                                      |
 *      |                                                        its time is up     v
 *      '----------------- success --------------------------------------------- PROBING
 *                                                (one real message in the whole process;
 *                                                 silence: DEMOTED again, twice as long)
 *   DOWN (refused, reset), BUSY (421, 4xx greeting), REFUSING (5xx greeting): demoted in the order
 *   for a short time that doubles; BROKEN (flood, not SMTP): DEMOTED at once.
 *
 * Success is a greeting and an accepted EHLO, nothing less (RFC 5321 4.5.4.1 asks for such a list;
 * a connect() that works proves nothing: that was the bug of the server this relay grew out of).
 * For a host that failed behind its EHLO it is more: it greets every time, and hangs or closes
 * every time, so only an answered transaction clears it. */
#ifndef ONWARD_CORE_HEALTH_H
#define ONWARD_CORE_HEALTH_H

#include "core/base/address.h"

/* State, name for logs and people. PROBING of the drawing is DEMOTED with a probe claimed.
 *
 *   SUSPECT   one silence since its last success: short patience
 *   DEMOTED   silent or broken: tried last until its time is up, then by one probe
 *   DOWN      refused, unreachable, reset, closed early
 *   BUSY      421 or 4xx greeting
 *   REFUSING  5xx greeting */
#define HEALTH_STATES(X)                                                                           \
    X(HEALTH_HEALTHY, "healthy")                                                                   \
    X(HEALTH_SUSPECT, "suspect")                                                                   \
    X(HEALTH_DEMOTED, "demoted")                                                                   \
    X(HEALTH_DOWN, "down")                                                                         \
    X(HEALTH_BUSY, "busy")                                                                         \
    X(HEALTH_REFUSING, "refusing")

enum health_state {
#define X(state_, name_) state_,
    HEALTH_STATES(X)
#undef X
};

/* What a session tells the table. */
enum health_event {
    HEALTH_EVENT_SUCCESS,     /* greeting and EHLO accepted */
    HEALTH_EVENT_CARRIED,     /* a whole transaction was answered, whatever the answers were */
    HEALTH_EVENT_SILENT,      /* patience ran out before EHLO was accepted */
    HEALTH_EVENT_SILENT_LATE, /* behind it: at MAIL, RCPT, DATA, in the body or at its end */
    HEALTH_EVENT_BROKEN,      /* flood, over a limit, not SMTP */
    HEALTH_EVENT_BROKEN_LATE, /* behind EHLO, before commit */
    HEALTH_EVENT_DOWN,
    HEALTH_EVENT_DOWN_LATE, /* reset or closed behind EHLO, before commit */
    HEALTH_EVENT_BUSY,
    HEALTH_EVENT_REFUSING,
    HEALTH_EVENT_TLS_BROKEN, /* handshake failed or stalled: clear text for hours */
};

/* Phases whose latency is learned, each with its patience. */
enum health_phase {
    HEALTH_CONNECT,
    HEALTH_GREETING,
    HEALTH_EHLO,
    HEALTH_TLS,
    HEALTH_COMMAND,
    HEALTH_COMMIT, /* from a content's last byte to its reply */
    HEALTH_PHASES
};

struct health;

/* Sizes and times; copied by health_create. */
struct health_options {
    unsigned entries;         /* a power of two */
    uint64_t demote_first_ms; /* 60 s */
    uint64_t demote_max_ms;   /* 30 min */
    uint64_t down_first_ms;   /* DOWN, BUSY, REFUSING: first back-off, doubling to demote_max_ms */
    uint64_t tls_broken_ms;   /* hours */
    uint64_t patience_min_ms, patience_max_ms; /* 1 s, 5 s */
};

/* A reading of one entry; for an unknown address HEALTHY with `known` false. */
struct health_view {
    struct address address;
    bool known;
    enum health_state state;
    unsigned strikes;       /* silences since the last success */
    uint64_t since_wall_ms; /* of the state */
    uint64_t again_mono_ms; /* not healthy: when it may be tried again in its turn */
    uint64_t tls_broken_until_mono_ms;
    bool probing;                       /* a probe was claimed and has no verdict yet */
    uint64_t probe_until_mono_ms;       /* until then nobody else may claim it; 0 = none claimed */
    uint32_t latency_ms[HEALTH_PHASES]; /* usual; 0 = not learned */
    uint64_t successes, failures;       /* sessions accepted, failures told, since it was made */
    unsigned parked;                    /* sessions now open to it */
    unsigned runs;                      /* see health_trust */
    bool one_by_one, nothing_behind;    /* what it is not trusted with, for good */
};

struct health *health_create(const struct health_options *options); /* NULL: out of memory */
void health_destroy(struct health **h);

/* Lock-free; any thread. Allocates nothing and never waits for a writer. */
struct health_view health_view(const struct health *h, const struct address *a);

/* What an event made of a state. */
struct health_change {
    enum health_state before, now;
};

/* Was it unwell, and is it well again? Then what waits for it may go (schedule_release). */
static inline bool health_has_recovered(struct health_change c)
{
    return c.before != HEALTH_HEALTHY && c.now == HEALTH_HEALTHY;
}

/* Any thread. `jitter` is a random number of the caller's: it moves a back-off by up to a tenth.
 * HEALTHY before and after where all entries of the neighbourhood have open sessions and nothing
 * could be kept. */
struct health_change health_tell(struct health *h, const struct address *a, enum health_event event,
                                 uint64_t mono_ms, uint64_t wall_ms, uint64_t jitter);

/* A phase took this long (success only). Lock-free; of two threads that learn at the same instant
 * one may lose its sample. */
void health_learn(struct health *h, const struct address *a, enum health_phase phase, uint32_t ms);

/* How long to wait in this phase before the next exchange is tried: a multiple of the usual
 * latency, between the two bounds; the longest for a stranger, the shortest for a suspect. In
 * COMMIT, where nothing is raced, it says when to look elsewhere for what waits behind: the longest
 * for a stranger, else that multiple without an upper bound. Lock-free. */
uint32_t health_patience_ms(const struct health *h, const struct address *a,
                            enum health_phase phase);

/* How far a host is trusted with more than one thing at a time. It grows with *runs*, transactions
 * answered as they should be, one after the other:
 *
 *   a stranger       the next transaction's commands behind a content's end (`behind`)
 *   4 runs           and contents along with their envelopes, one at a time (`bdat`)
 *   8 more by BDAT   and two of those in flight (`window`); one more for each 8 further ones
 *
 * Any failure of the table above starts the runs anew. A host that lost its connection with
 * contents unanswered, or answered them out of place, has its window and BDAT taken away for good;
 * one that answers nothing sent behind a content's end, twice running, gets nothing behind it any
 * more. For good is until it is cleared by hand, or forgotten. A host that takes long over a
 * content's end gets nothing behind it now: there is nothing to gain by it. */
struct health_trust {
    bool behind, bdat;
    unsigned window; /* transactions in flight: 1 to `window_max` */
};
/* Lock-free. */
struct health_trust health_trust(const struct health *h, const struct address *a,
                                 unsigned window_max);

/* What a connection has shown of that. */
enum health_showing {
    HEALTH_RUN, /* a transaction was answered as it should be, what was sent behind it as well */
    HEALTH_RUN_BDAT, /* so was one that went by BDAT */
    HEALTH_RESTART,  /* answered, but not well: the runs start anew */
    HEALTH_MISFIRE,  /* nothing sent behind a content's end was answered: silence, or the end */
    HEALTH_BATCH_LOST, /* the end, with contents unanswered that had gone along with their envelopes */
    HEALTH_MISMATCH, /* replies out of place */
};
/* Lock-free, as health_learn is. */
void health_show(struct health *h, const struct address *a, enum health_showing what);

/* A demoted host whose time is up: a number for exactly one caller, 0 for all others. That one
 * probes it and must end with health_tell, or health_probe_drop where no verdict was reached. A
 * claim that is never answered lapses after 60 s; to drop one that has its verdict, or has lapsed,
 * is harmless. */
uint64_t health_claim_probe(struct health *h, const struct address *a, uint64_t mono_ms);
void health_probe_drop(struct health *h, const struct address *a, uint64_t claim);

/* Two bits that stand for this address in a set of addresses kept as a 64-bit mask. Others may
 * share them: who finds them in a set knows only that the address may be in it. Nobody outside can
 * choose addresses that do. */
uint64_t health_mark(const struct health *h, const struct address *a);

/* A session to this address was opened (+1) or closed (-1) at this moment. */
void health_count_session(struct health *h, const struct address *a, int change, uint64_t mono_ms);

/* By hand: `onward health demote|clear`. A demotion by hand holds for its whole time: no success
 * shortens it. Clearing forgets all but the sessions now open; false where the address is not
 * known. */
void health_demote(struct health *h, const struct address *a, uint64_t duration_ms,
                   uint64_t mono_ms, uint64_t wall_ms);
bool health_clear(struct health *h, const struct address *a);

/* Reads every entry in use, in table order, into `visit`. */
void health_visit(const struct health *h, void (*visit)(void *context, const struct health_view *v),
                  void *context);

/* "healthy" and so on. Static storage. */
const char *health_state_name(enum health_state state);

#endif
