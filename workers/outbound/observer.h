/* An observer is told what happens to sessions as it happens: `onward trace` shows it, the
 * simulation checks it. A relay that serves has none. Called on the worker's own thread, in the
 * middle of what it tells about: it may look, and change nothing. */
#ifndef ONWARD_WORKERS_OUTBOUND_OBSERVER_H
#define ONWARD_WORKERS_OUTBOUND_OBSERVER_H

#include "core/reply.h"
#include "core/spool/committer.h"
#include "workers/outbound/order.h"

struct session;
struct worker;

/* What happened, its name for people and programs, and which fields of `observed` say more:
 *
 *   CONNECTED  amount: ms it took        TLS        note: the version
 *   SENT       bytes: commands           RECEIVED   bytes: replies, cut as they came
 *   CONTENT    amount: bytes of content sent, the end-of-data line behind them; note: "BDAT" where it
 *              went by that, without such a line
 *   SLOW       bytes: the phase whose patience ended; amount: ms waited in it
 *   READY      may begin a transaction
 *   FAILED     bytes: the phase; reply: why; note: what follows; session: NULL without a socket
 *   SPENT      reply: the last failure; every address has failed
 *   VERDICT    bytes: the recipient; amount: the message's id; reply; note: delivered, bounced... */
#define OBSERVED_KINDS(X)                                                                          \
    X(OBSERVED_CONNECTING, "connecting")                                                           \
    X(OBSERVED_CONNECTED, "connected")                                                             \
    X(OBSERVED_TLS, "tls")                                                                         \
    X(OBSERVED_SENT, "sent")                                                                       \
    X(OBSERVED_RECEIVED, "received")                                                               \
    X(OBSERVED_CONTENT, "content")                                                                 \
    X(OBSERVED_SLOW, "slow")                                                                       \
    X(OBSERVED_READY, "ready")                                                                     \
    X(OBSERVED_FAILED, "failed")                                                                   \
    X(OBSERVED_CLOSED, "closed")                                                                   \
    X(OBSERVED_SPENT, "spent")                                                                     \
    X(OBSERVED_VERDICT, "verdict")

enum observed_kind {
#define X(kind_, name_) kind_,
    OBSERVED_KINDS(X)
#undef X
};

/* All borrowed for the call. */
struct observed {
    enum observed_kind kind;
    const struct session *session;
    const struct target *target;
    struct slice bytes;
    uint64_t amount;
    const struct reply *reply;
    const char *note;
};

struct observer {
    void (*on_event)(struct observer *o, const struct observed *what);
};

#endif
