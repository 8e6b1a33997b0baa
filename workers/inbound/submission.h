/* One submitter's connection: moves bytes between the socket, the SMTP server machine
 * (smtp/server.h) and the committer. Owner: its worker's inbound half; worker thread only. */
#ifndef ONWARD_WORKERS_INBOUND_SUBMISSION_H
#define ONWARD_WORKERS_INBOUND_SUBMISSION_H

#include "smtp/trace.h"
#include "workers/conn.h"
#include "workers/inbound/inbound.h"
#include "workers/inbound/upload.h"

enum submission_stage {
    SUBMISSION_PROXY, /* a PROXY header is due from the load balancer */
    SUBMISSION_TALKING,
    SUBMISSION_CLOSING,   /* the last reply is on its way out */
    SUBMISSION_LINGERING, /* it is out; what the client still sends is dropped for a moment */
    SUBMISSION_CLOSED,    /* no connection; perhaps ops at the committer */
};

struct submission {
    struct link link;       /* on inbound->submissions, then ->graveyard */
    struct link again_link; /* on inbound->again */
    struct worker *worker;
    enum submission_stage stage;
    struct conn conn;
    struct address client; /* the submitter's own address, told by PROXY where one was due */
    bool counted;          /* in the per-client counts */
    struct smtp_server *smtp;
    struct buf out;
    struct upload upload; /* of the message under way */
    struct buf pending;   /* received, not fed yet: the machine waits for the committer */
    struct timer timer;   /* wakes at the nearest of the deadlines below */
    uint64_t opened_ms;
    uint64_t last_byte_ms;
    uint64_t unit_began_ms; /* of the command line or the content under way */
    bool in_content;
    bool concluding;      /* the final reply waits for the committer */
    uint32_t trace_bytes; /* of our Received field, in the content but not in the machine's count */
    char date_line[SMTP_TRACE_LINE_SIZE]; /* put in where the header section has none */
    char message_id_line[SMTP_TRACE_LINE_SIZE];
};

/* Takes over `fd`, accepted by listener number `listener` and counted in the worker's
 * `shared.clients`. */
void submission_open(struct inbound *i, int fd, const struct address *peer, unsigned listener);

/* Reads and writes what goes, in bounded work. */
void submission_pump(struct submission *s);

/* 421 at the next chance: at once where no transaction is under way. */
void submission_drain(struct submission *s);

/* 421 now, and the transaction is void; but what the committer has of it gets its answer first. */
void submission_hang_up(struct submission *s);

/* Closes the connection now. What the committer still has comes back and is freed then. */
void submission_close(struct submission *s);

void submission_destroy(struct submission *s); /* closed, nothing outstanding */

#endif
