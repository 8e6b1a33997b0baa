/* A mail exchange of the simulated world: a dialogue per connection, a fault somewhere in it, and a
 * record of every message it took. */
#ifndef ONWARD_TESTS_SIM_HOST_H
#define ONWARD_TESTS_SIM_HOST_H

#include "tests/sim/sim_net.h"

enum sim_phase {
    SIM_GREETING,
    SIM_EHLO,
    SIM_STARTTLS,
    SIM_HANDSHAKE, /* what follows the client's hello */
    SIM_MAIL,
    SIM_RCPT,
    SIM_DATA,
    SIM_DOT,
    SIM_OTHER, /* RSET, QUIT, NOOP */
};

/* What goes wrong; at a reply, unless it says otherwise. */
enum sim_fault_kind {
    FAULT_NONE,
    FAULT_NO_SYN,      /* the handshake is never answered */
    FAULT_REFUSED,     /* the connection is */
    FAULT_UNREACHABLE, /* told at once */
    FAULT_SILENT,      /* no reply, for ever */
    FAULT_CLOSE,       /* instead of the reply */
    FAULT_RESET,
    FAULT_REPLY,   /* `reply` instead of the right one; 421 closes */
    FAULT_GARBAGE, /* bytes that are not SMTP */
    FAULT_FLOOD,   /* a reply without end */
    FAULT_TRICKLE, /* a reply without end, a byte a second */
    FAULT_DELAY,   /* the right reply, late */
    FAULT_HALT,    /* stops reading in the content */
    FAULT_LOSE,    /* at the dot: takes the message, then closes without a word */
    FAULT_KINDS
};

struct sim_fault {
    enum sim_fault_kind kind;
    enum sim_phase phase;
    const char *reply; /* FAULT_REPLY */
    uint64_t delay_us; /* FAULT_DELAY */
    /* At a byte instead of a phase: once the host has said, or heard, so many on a connection, TLS
     * records counted as they travel; < 0 for none. SILENT, CLOSE, RESET and REPLY (421) only. */
    int64_t after_said, after_heard;
    uint64_t until_us; /* it is well from then on; 0 = never */
    unsigned percent;  /* of the connections; 100 = all */
    unsigned first;    /* only the first so many connections; 0 = all */
};

struct sim_host {
    char name[32];
    struct address address;
    uint64_t latency_us; /* one way */
    bool pipelining, eightbit, enhanced, dsn, size, starttls, chunking;
    bool one_domain;       /* takes recipients of one domain in a transaction: 451 to others */
    bool forgetful;        /* drops what it hears in one piece with a content's end */
    unsigned rcpt_max;     /* 452 behind so many; 0 = none */
    unsigned messages_max; /* 421 to the MAIL behind so many on a connection; 0 = none */
    struct sim_fault fault;
    unsigned connections;   /* made to it so far */
    unsigned mails;         /* MAILs it heard */
    unsigned taken_by_bdat; /* messages */
    const struct sim_dialogue *first;
};

/* A content, by its length and a hash. */
struct sim_digest {
    uint64_t bytes, hash;
};
struct sim_digest sim_digest_of(struct slice content);

/* One recipient of one message that a host has taken with a 2xx behind the dot. */
struct sim_copy {
    uint64_t message; /* id in its Message-ID */
    char recipient[128];
    struct sim_digest content; /* as it was meant */
    const struct sim_host *host;
    uint64_t at_us;
    const struct sim_conn *conn;
    uint64_t reply_end; /* position in conn->said behind its reply; UINT64_MAX: none was sent */
    struct sim_copy *next;
};

/* What passed on the first connection made to a host: bytes it said and heard, in all and up to its
 * 354. A short content and its dot are on their way as soon as that arrives. All as it travels. */
struct sim_passed {
    uint64_t said, heard;
    uint64_t invited_said, invited_heard;
};
struct sim_passed sim_first_dialogue(const struct sim_host *h);

/* A connection begins: greets. */
void sim_host_accept(struct sim_host *h, struct sim_conn *c);
void sim_host_hear(struct sim_conn *c, struct slice bytes);
void sim_dialogue_destroy(struct sim_dialogue **d);

/* Everything taken since the last reset, newest first. */
struct sim_copy *sim_copies(void);
void sim_copies_reset(void);

/* Has the relay read the reply that told of this copy? */
bool sim_copy_was_told(const struct sim_copy *c);

#endif
