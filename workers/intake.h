/* May new mail be taken, and if not, why? One answer for submission, for `onward status`, and for
 * whoever asks on a load balancer's behalf.
 *
 * Mail is refused at intake before anything runs out, because what got its 250 must be carried: the
 * disk keeps a floor of free room, the queue a bound where one is configured, and memory a limit
 * below the one at which the kernel kills. What is queued goes on and makes room, and as it does,
 * mail is taken again. A limit that was reached holds until 5 % below it is free, so that "since
 * when" means something and a submitter is not let in and out by turns.
 *
 * Before that, no destination uses up the room of the others: a domain may have at most
 * INTAKE_SHARE times as many recipients queued as there is room left for, counted in recipients,
 * messages, memory and disk, by whichever is scarcest. So an exchange that takes nothing fills four
 * fifths of a queue at most, and two of them four ninths each; for mail to others there is always
 * room left, and a domain that has little queued is refused by nothing but a queue that is full.
 * (It is the rule by which switches share their buffers: Choudhury and Hahne, 1998.)
 *
 * One is made with the engine and outlives its workers. The main thread opens, drains and refreshes
 * it; any thread may ask. */
#ifndef ONWARD_WORKERS_INTAKE_H
#define ONWARD_WORKERS_INTAKE_H

#include "core/log.h"
#include "core/spool/committer.h"
#include "core/spool/store.h"
#include "smtp/command.h"

/* X(name, word in logs and status, code, enhanced, text): the reply is what a submitter gets. They
 * stand in the order in which they are looked at. */
#define INTAKE_STATES(X)                                                                           \
    X(INTAKE_OPEN, "open", 250, "2.0.0", "Mail is taken")                                          \
    X(INTAKE_STARTING, "starting", 421, "4.3.2", "This relay is starting, try again in a moment")  \
    X(INTAKE_FAILED, "store_failed", 451, "4.3.0",                                                 \
      "The spool cannot be written, try another relay")                                            \
    X(INTAKE_DRAINING, "draining", 421, "4.3.2", "This relay is shutting down, try another")       \
    X(INTAKE_NO_ROOM, "no_room", 452, "4.3.1", "No room in the spool now, try again later")        \
    X(INTAKE_MEMORY, "memory", 452, "4.3.1", "No memory for more mail now, try again later")       \
    X(INTAKE_QUEUE_FULL, "queue_full", 452, "4.3.1", "The queue is full, try again later")

enum intake_state {
#define X(name, word, code, enhanced, text) name,
    INTAKE_STATES(X)
#undef X
};

enum { INTAKE_SHARE = 4 };

/* Where it is refused; 0 = no limit. */
struct intake_limits {
    uint64_t memory_bytes;
    uint64_t messages, recipients; /* queued, about: what is being committed comes on top */
};

struct intake;

/* It is STARTING. NULL: out of memory. */
struct intake *intake_create(const struct intake_limits *limits);
void intake_destroy(struct intake **i);

/* The queue is loaded: mail is taken from now on. Both are borrowed until intake_close. */
void intake_open(struct intake *i, struct store *store, struct committer *committer);

/* Before what was given to intake_open goes: STARTING again, for ever. */
void intake_close(struct intake *i);

/* Final for this process. intake_fail may be called by any thread. */
void intake_drain(struct intake *i);
void intake_fail(struct intake *i);

/* A reload has brought other limits. */
void intake_set_limits(struct intake *i, const struct intake_limits *limits);

enum { INTAKE_REFRESH_MS = 250 };

/* Measures memory and judges anew; due every INTAKE_REFRESH_MS. Logs each change of state. Main
 * thread. */
void intake_refresh(struct intake *i, struct log *log);

/* The state now: a few loads, for every command. Any thread. */
enum intake_state intake_state(const struct intake *i);

/* May a recipient of this domain (in normal form) come in? NULL, or the reply that refuses it
 * because the domain has more than its share of a queue that is nearly full; that is counted. A few
 * loads, and a hash of the name where the queue is so full that it could be. Any thread. */
const struct smtp_refusal *intake_refuse_domain(struct intake *i, const char *domain);

/* Its word ("queue_full") and its reply; static storage. */
const char *intake_word(enum intake_state state);
const struct smtp_refusal *intake_reply(enum intake_state state);

/* All that led to the state, for people and their monitoring. */
struct intake_view {
    enum intake_state state;
    uint64_t since_ms;           /* it is so since; as of the last refresh */
    uint64_t refused;            /* messages and connections, since the start */
    uint64_t refused_recipients; /* for their domain's share, since the start */
    uint64_t share; /* so many recipients may a domain have queued now; UINT64_MAX: any number */
    struct intake_limits limits;
    uint64_t memory_bytes;         /* held now, as the kernel counts it (core/base/memory.h) */
    uint64_t allocated_bytes;      /* of it live */
    uint64_t messages, recipients; /* queued */
    uint64_t disk_free_bytes;
    uint64_t disk_floor_bytes;
};

/* Any thread; a relaxed snapshot. */
struct intake_view intake_view(const struct intake *i);

/* Submitters were refused because of it. Any thread. */
void intake_count_refusals(struct intake *i, unsigned count);

#endif
