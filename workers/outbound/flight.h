/* A flight: one message bound for carriage, with all its recipients that a lane took at once. Late
 * binding ends here: the deliveries have left the destination's queue and come back only through an
 * outcome.
 *
 * Several sessions may carry the same flight (a race), each with its own transaction over the same
 * batch of recipients; but only the one that holds the *commit token* may send the last byte of the
 * content. So no race ever delivers twice.
 *
 *   UNTRIED --batch--> one transaction --reply--+--> FINAL      2xx, 5xx, 4xx on mailbox or policy
 *                                               +--> UNTRIED    too many for one (5321 4.5.3.1.10), or
 *                                               |               of another domain than those taken
 *                                               '--> ELSEWHERE  other 4xx: one more exchange (5.1)
 *
 * Every recipient ends FINAL exactly once: asserted when outcomes are made. Owner: the lane; worker
 * thread only. */
#ifndef ONWARD_WORKERS_OUTBOUND_FLIGHT_H
#define ONWARD_WORKERS_OUTBOUND_FLIGHT_H

#include "core/queue/delivery.h"
#include "core/reply.h"
#include "core/spool/envelope.h"
#include "core/spool/store.h"

struct session;

/* Verdicts of exchanges that are remembered, so that each is asked once while a slow
 * one is awaited. */
enum { FLIGHT_ASKED_MAX = 8 };

enum flight_progress { FLIGHT_UNTRIED, FLIGHT_ELSEWHERE, FLIGHT_FINAL };

/* One recipient on its way. */
struct flight_recipient {
    struct delivery *delivery;
    uint32_t index; /* in the message's envelope */
    enum flight_progress progress;
    struct envelope_recipient recipient; /* borrows from the record */
    struct reply reply;                  /* the last one that concerned it */
};

struct flight {
    struct link link;       /* on lane->returned */
    struct link deliveries; /* struct delivery, by shared.queue_link */
    char *record;           /* the encoded envelope; owned */
    struct envelope envelope;
    const struct address *try_first; /* of a delivery: after an unknown outcome */
    struct flight_recipient *recipients;
    uint32_t count;
    uint32_t *batch; /* positions in `recipients` of the current transaction */
    struct envelope_recipient *batch_recipients; /* the same, as the client wants them */
    uint32_t batch_count;
    bool one_domain;             /* a batch is of one domain: of several, only one was taken */
    unsigned carriers;           /* sessions with a transaction for it */
    unsigned exchanges;          /* that gave a verdict so far */
    const struct session *token; /* who may send the last byte; NULL = nobody yet */
    bool unknown;                /* the token holder was lost behind the last byte (RFC 1047) */
    struct address unknown_at;
    struct address asked[FLIGHT_ASKED_MAX]; /* gave a verdict that another exchange may better */
    unsigned asked_count;
    uint64_t started_ms; /* monotonic */
};

/* Binds the deliveries of `list` (emptied; all of one message). NULL with `list` untouched: the
 * record cannot be read (`*damaged_out`) or memory ran out. */
struct flight *flight_create(struct link *list, struct store_reader *reader, uint64_t now_ms,
                             bool *damaged_out);
void flight_destroy(struct flight **f); /* its deliveries have gone to their outcomes */

/* Gives its deliveries back, and is gone: only while it is untouched. */
void flight_undo(struct flight **f, struct link *deliveries_out);

/* Chooses the recipients of the next transaction: the first `max` untried (of one domain, where
 * only such a batch is taken). Returns how many. */
uint32_t flight_next_batch(struct flight *f, uint32_t max);

/* One recipient's progress and reply; not for one that is final already (asserted). */
void flight_settle(struct flight_recipient *r, enum flight_progress progress,
                   const struct reply *reply);

/* The token, for the session that is about to send the last byte. False: another one has it. */
bool flight_take_token(struct flight *f, const struct session *s);

/* The connection did not take the last byte after all: nothing is committed, and whoever gets there
 * first may have the token. Harmless where `s` has not got it. */
void flight_return_token(struct flight *f, const struct session *s);

/* A transaction of the current batch ended with `replies`. Sorts each recipient to where it
 * belongs. With `others_awaited` (a slow exchange may still answer) every 4xx is worth another
 * exchange: some domains' last one is a decoy that always gives one. */
void flight_apply(struct flight *f, const struct reply *replies, bool others_awaited);

/* Connection lost behind the last byte: recipients that were accepted (`replies` class 2 or none
 * yet) are unknown. */
void flight_apply_unknown(struct flight *f, const struct reply *replies, const struct address *at);

/* The exchange at `a` has given a verdict that another one may better: it is not asked again. */
void flight_note_asked(struct flight *f, const struct address *a);

/* Has it? True for all where as many have as are remembered. */
bool flight_has_asked(const struct flight *f, const struct address *a);

/* Recipients that one more exchange should be asked for become untried again, once. False: there
 * are none, or two exchanges have given their verdict. */
bool flight_try_elsewhere(struct flight *f);

/* The current batch was not taken, and nothing is known of it: as if it had not been begun. */
void flight_forget_batch(struct flight *f);

/* Nobody has said anything about any of its recipients yet. */
bool flight_is_untouched(const struct flight *f);

/* Is there anybody left for a next transaction? */
bool flight_has_untried(const struct flight *f);

/* What is not final yet becomes final with `reply` (or with its own last reply where
 * it has one). */
void flight_give_up(struct flight *f, const struct reply *reply);

#endif
