/* One submitter: a connection that submits message after message, each with MAIL, RCPT and DATA in
 * one write. Owned by one thread, which watches its descriptor. A refused message is tried again, a
 * lost connection made anew. */
#pragma once
#include "bench/tools/histogram.h"
#include "bench/tools/load_message.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>

struct submitter;

/* What all submitters share. */
struct submission {
    const struct messages *messages;
    struct sockaddr_in to;
    uint64_t count;               /* messages to submit in all */
    uint64_t per_connection;      /* then it makes another one; 0 = never */
    double rate_per_s;            /* begin no more than so many; 0 = as many as are taken */
    uint64_t began_ns, until_ns;  /* no message is begun behind the second; 0 = no limit */
    _Atomic uint64_t next;        /* the next message's number */
    _Atomic uint64_t refused_max; /* refusals still borne before the program gives up */
};

/* What the submitters of one thread have seen. */
struct submitted {
    uint64_t accepted, refused, lost; /* lost: connections that ended early */
    uint64_t last_ns;                 /* when the last was accepted */
    struct histogram latency;         /* from MAIL being written to the 250 behind the content */
};

/* Begins to connect. `epoll_fd` and `seen` are its thread's. Aborts where there is no memory. */
struct submitter *submitter_create(struct submission *all, struct submitted *seen, int epoll_fd);

/* Something happened on its descriptor. False: it has nothing left to do, and is destroyed. */
bool submitter_on_event(struct submitter *s, uint32_t events);

/* With a rate: begins a message if it is idle, and one is due. False: as above. */
bool submitter_on_tick(struct submitter *s, uint64_t now_ns);
