/* What a session's two halves, its connection (session.c) and its carriages (carriage.c), share. */
#ifndef ONWARD_WORKERS_OUTBOUND_SESSION_PRIV_H
#define ONWARD_WORKERS_OUTBOUND_SESSION_PRIV_H

#include "workers/outbound/observer.h"
#include "workers/outbound/session.h"

/* Tells the observer, if there is one; of what the machine wants said, what it has not seen yet. */
void session_tell(const struct session *s, struct observed what);
void session_tell_unseen(struct session *s);

/* Writes what the machine wants said; NET_OK when all of it is with the kernel. */
enum net_status session_write_out(struct session *s);

void session_end_by_net(struct session *s, enum net_status status);

/* A write has failed. Who closes on us may have said why, and that is there to be read: it is,
 * in a turn of its own, for the caller may be in the midst of this session's input. Then the
 * session ends. */
void session_lose(struct session *s, enum net_status status);

/* Arms the deadline and the patience of what is awaited now. */
void session_arm(struct session *s, uint64_t limit_ms, enum health_phase phase);

/* The peer has yet to take of the content what the kernel has, before more can be written. */
void session_await_taking(struct session *s);

/* One deadline per awaited reply: armed when the machine waits for another one than before. `done`:
 * the carriage whose last reply has just come, or NULL. */
void session_watch_time(struct session *s, const struct carriage *done);

/* What its end tells of how far the host may be trusted. */
void session_show_end(struct session *s, enum session_end why);

#endif
