/* A worker's accepting half: the submission listeners and their connections. Owner: its worker.
 *
 *   accept -> whose? -> allowed? room? -> [PROXY header] -> greeting -> commands -> content -> commit -> 250
 *
 * A submitter's message becomes durable before its 250 (core/spool/committer.h); meanwhile that
 * connection's input waits in the kernel. Large contents stream to the spool in chunks, so that a
 * connection holds two of them at most. */
#ifndef ONWARD_WORKERS_INBOUND_INBOUND_H
#define ONWARD_WORKERS_INBOUND_INBOUND_H

#include "workers/inbound/client_counts.h"
#include "workers/worker.h"

#include "smtp/server.h"

/* This worker's watch on a listening socket that all workers share. */
struct listener {
    struct watch watch;
    struct inbound *inbound;
    unsigned index; /* in submission.listeners */
};

struct inbound {
    struct worker *worker;
    struct listener *listeners;      /* one per descriptor of worker_parts; owned */
    char priority_field[64];         /* submission.priority_header in lower case, with its colon */
    struct smtp_server_options smtp; /* shared by this worker's connections */
    struct link submissions;         /* struct submission */
    struct link graveyard;           /* closed ones without anything outstanding */
    struct link again;               /* have input left to read after a bounded turn */
    bool listening;
    struct timer deaf_timer; /* armed: out of descriptors, no caller is looked for meanwhile */
    bool draining;
};

/* Watches the listeners. NULL with `error`. */
struct inbound *inbound_create(struct worker *w, struct error *error);
void inbound_destroy(struct inbound **i); /* after inbound_abandon */

/* The worker's configuration pointer has changed. Holds for commands from now on. */
void inbound_reload(struct inbound *i);

/* Stops listening; tells idle clients 421 and the others as soon as their transaction is over. */
void inbound_drain(struct inbound *i);

/* The drain has lasted long enough: 421 to all but those whose message is at the committer. */
void inbound_hang_up(struct inbound *i);
void inbound_abandon(struct inbound *i);

/* A connection that was counted for this worker is not to be: closes it, where fd is not -1. */
void inbound_refuse(struct inbound *i, int fd);

/* Reads on where a turn was cut short; frees what was closed. True: more to read, so
 * do not sleep. */
bool inbound_end_turn(struct inbound *i);

#endif
