/* Carriages: the messages on their way over one session, in the order in which they were begun.
 * Each is a transaction of the protocol machine (smtp/client.h) and the flight it carries.
 *
 *   the newest one may be the lane's current flight, `session->flight`: raced until it is committed
 *   *handed over*: the last byte is with the kernel, and the lane has gone on to its next flight. It is the
 *     session's now, which gives it back to the lane with its replies, or when the connection is lost
 *   *broken off*: its flight went elsewhere after a part of it had been sent. Nothing can follow it, so the
 *     session ends once what was handed over to it is answered
 *
 * How much goes at once is what the host is trusted with (health.h, health_trust):
 *
 *   by DATA   the next one's commands share the write of a content's end (RFC 2920 3.1), uncommitted
 *             (not where that content is larger than the kernel takes at once: its reply is far away)
 *   by BDAT   envelope and content in one write, committed with it: only over a connection that has
 *             answered before, so that one that hangs is found out while another can still be tried
 *
 * Worker thread only. */
#ifndef ONWARD_WORKERS_OUTBOUND_CARRIAGE_H
#define ONWARD_WORKERS_OUTBOUND_CARRIAGE_H

#include "smtp/client.h"
#include "workers/outbound/flight.h"

/* One of them. Owned by the session. */
struct carriage {
    struct link link;      /* on session->carriages, oldest first */
    struct flight *flight; /* NULL: broken off */
    struct smtp_transaction transaction;
    uint64_t began_ms;
    bool was_behind; /* begun while the one before was unanswered */
    bool sent;       /* its last byte is with the kernel */
    struct reply replies[];
};

struct session;

/* Carries the flight's current batch, behind what is on its way: only where the machine may begin.
 * Where memory is wanting, the lane has been told. */
void session_carry(struct session *s, struct flight *f);

/* May one more message be bound behind what it is carrying? */
bool session_wants_more(const struct session *s);

/* Binds more as long as the lane has some and the host is trusted with it. */
void session_refill(struct session *s);

/* The lane goes on to its next flight; this one is the session's. */
void session_hand_over(struct session *s);

/* Its flight (not committed here, or not to be waited for in the lane) leaves it; what was sent of
 * it is broken off. */
void session_break_off(struct session *s);

/* Sends what goes of the content. False: the session is over, or about to be. */
bool session_send_content(struct session *s);

/* 354 to the oldest. */
void session_begin_content(struct session *s);

/* The oldest, whose transaction is over, off the list: the caller frees it. */
struct carriage *session_take_done(struct session *s);

/* Is the oldest one, whose replies are awaited, committed? */
bool session_is_committed(const struct session *s);

/* The oldest one's commands went behind another's end, and not one of them has been answered. */
bool session_is_unheard(const struct session *s);

/* Frees them all: their flights have been taken care of. */
void session_free_carriages(struct session *s);

#endif
