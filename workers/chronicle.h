/* What the views show besides figures and the health table: the last failures by reason, how each
 * exchange's health changed, who won and lost races, and figures over the last hour. `onward top`
 * and the web page read it through the control's "view" request (control_view.c).
 *
 * Everything in it is bounded and small, and written only where something fails, changes or
 * connects, never for a message that simply goes through. Any thread may call anything; one
 * lock, held for a few copies. Every function does nothing where the chronicle is NULL (`onward
 * trace`, tests). */
#ifndef ONWARD_WORKERS_CHRONICLE_H
#define ONWARD_WORKERS_CHRONICLE_H

#include "core/base/address.h"
#include "core/domain.h"
#include "core/health.h"
#include "core/reply.h"

enum {
    CHRONICLE_FAILURES = 64,    /* different reasons */
    CHRONICLE_CHANGES = 2048,   /* of health */
    CHRONICLE_SAMPLES = 720,    /* an hour of them: */
    CHRONICLE_SAMPLE_MS = 5000, /* apart */
    CHRONICLE_EXCHANGES = 4096, /* names and races of so many addresses */
    CHRONICLE_NAME_SIZE = DOMAIN_SIZE,
};

struct chronicle;

struct chronicle *chronicle_create(void); /* NULL: out of memory */
void chronicle_destroy(struct chronicle **c);

/* What failed: an exchange, although the message may have got through elsewhere; or a recipient. */
#define FAILURE_KINDS(X)                                                                           \
    X(FAILURE_EXCHANGE, "exchange")                                                                \
    X(FAILURE_SLOW, "slow")                                                                        \
    X(FAILURE_DEFERRED, "deferred")                                                                \
    X(FAILURE_BOUNCED, "bounced")                                                                  \
    X(FAILURE_UNKNOWN, "unknown")

enum failure_kind {
#define X(kind_, name_) kind_,
    FAILURE_KINDS(X)
#undef X
};

/* "exchange" and so on. Static storage. */
const char *failure_kind_name(enum failure_kind kind);

/* A failure, and how often the same one came: same kind, address, phase and code. The rest is of
 * the last one. */
struct failure {
    enum failure_kind kind;
    bool has_address;
    struct address address;             /* of the exchange */
    char exchange[CHRONICLE_NAME_SIZE]; /* "" = none was reached */
    char domain[CHRONICLE_NAME_SIZE];   /* the recipient's, or "" */
    const char *phase;                  /* static storage; "" = none */
    struct reply reply;                 /* code 0: none */
    uint64_t id;                        /* of the message; 0 = none */
    uint64_t wall_ms;                   /* of the last one */
    uint64_t first_wall_ms;             /* set by chronicle_failure, like: */
    uint64_t count;
};

/* Takes note of one. The reason that was longest not met makes place. */
void chronicle_failure(struct chronicle *c, const struct failure *f);

/* Newest first, up to CHRONICLE_FAILURES of them; returns how many. */
unsigned chronicle_failures(struct chronicle *c, struct failure out[CHRONICLE_FAILURES]);

/* A change of an exchange's health. */
struct chronicle_change {
    uint64_t wall_ms;
    struct address address;
    char name[CHRONICLE_NAME_SIZE];
    enum health_state before, now;
};

/* Takes note of it; the oldest makes place. */
void chronicle_change(struct chronicle *c, const struct chronicle_change *change);

/* Oldest first, up to CHRONICLE_CHANGES of them; returns how many. */
unsigned chronicle_changes(struct chronicle *c, struct chronicle_change out[CHRONICLE_CHANGES]);

/* What is known of an address besides its health. */
struct chronicle_exchange {
    char name[CHRONICLE_NAME_SIZE];
    uint32_t races_won;  /* it was tried beside a slow one and got through first */
    uint32_t races_lost; /* another was started beside it */
};

/* A connection to it is opened: this is its name. */
void chronicle_connect(struct chronicle *c, const struct address *a, const char *name);

/* A race that it won or lost. */
void chronicle_race(struct chronicle *c, const struct address *a, bool won);

/* Empty where nothing is known. */
struct chronicle_exchange chronicle_exchange(struct chronicle *c, const struct address *a);

/* Figures at one moment; the counters only grow. */
struct chronicle_sample {
    uint64_t wall_ms;
    uint64_t accepted, delivered, deferred, bounced, unknown; /* counters */
    uint64_t queued, sessions;                                /* now */
};

/* Takes note of it; the oldest makes place. */
void chronicle_sample(struct chronicle *c, const struct chronicle_sample *sample);

/* Oldest first, up to CHRONICLE_SAMPLES of them; returns how many. */
unsigned chronicle_samples(struct chronicle *c, struct chronicle_sample out[CHRONICLE_SAMPLES]);

#endif
