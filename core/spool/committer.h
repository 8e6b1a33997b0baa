/* The committer: the one thread that writes the spool. All workers post it what must become
 * durable; it gathers what has arrived while the last commit was on its way to the disk, writes it
 * in one transaction, and only then answers. One fdatasync so serves many messages (group commit).
 *
 * The schedule (queue/schedule.h) lives on the same thread: what is queued in memory is always
 * what has been committed, without a lock between them.
 *
 *   worker --commit_op--> mailbox -> [gather -> apply -> commit] -> schedule -> job ring
 *          <----same op, status set---------------------+
 *
 * Nothing of it waits for what is long. The queue that a process finds in its spool is taken in a
 * few ms at a time, oldest first, while mail comes and goes. An operator's edit goes through the
 * queue likewise, a part in each transaction, once all of the queue is there. */
#ifndef ONWARD_CORE_SPOOL_COMMITTER_H
#define ONWARD_CORE_SPOOL_COMMITTER_H

#include "core/base/histogram.h"
#include "core/base/mailbox.h"
#include "core/queue/delivery.h"
#include "core/spool/envelope.h"
#include "core/spool/receipts.h"
#include "core/spool/store.h"

struct committer;
struct schedule;
struct schedule_policy;

enum commit_kind {
    COMMIT_CHUNK,   /* part of a content, ahead of its envelope: large messages stream to disk */
    COMMIT_MESSAGE, /* envelope and last chunk: the submission that earns the 250 */
    COMMIT_RECEIPT, /* what a sender asks for under a key of its own, ahead of its messages */
    COMMIT_FORGET,  /* the same in time: some of its marks, or the rest and itself */
    COMMIT_DISCARD, /* forget chunks of a submission that was given up */
    COMMIT_OUTCOME, /* how an attempt at a delivery ended, with the bounces it caused */
    COMMIT_EDIT,    /* an operator's hold, release, retry, bounce */
    COMMIT_RELEASE, /* an exchange is back: what is stranded there goes. Nothing is written; it is in
                       line behind the outcomes that were told before it */
};

/* A message to store: borrowed by the committer until the op comes back. */
struct commit_message {
    uint64_t id;
    struct slice envelope;              /* encoded */
    struct slice chunk;                 /* the content, or its last part */
    uint32_t chunk_number;              /* of `chunk` */
    const struct receipt_mark *receipt; /* with the envelope: it is of this request; or NULL */
    struct commit_message *next;
};

/* What became of one recipient in an attempt. */
enum outcome_verdict { OUTCOME_DELIVERED, OUTCOME_BOUNCED, OUTCOME_DEFERRED };

/* One recipient's part of an outcome. */
struct outcome_recipient {
    uint32_t recipient; /* index into the envelope */
    uint8_t verdict;    /* enum outcome_verdict */
    const struct reply *reply;
};

enum commit_edit {
    EDIT_HOLD,
    EDIT_RELEASE,
    EDIT_RETRY,
    EDIT_BOUNCE,
    EDIT_SUSPENSION, /* the suspensions of what matches have changed (queue/suspensions.h) */
};

/* Something to make durable. Owned by the committer from committer_submit until on_done, with all
 * it borrows. */
struct commit_op {
    struct mail mail;
    enum commit_kind kind;
    enum store_status status; /* set when the op comes back */
    struct mailbox *reply_to; /* NULL for none: on_done then runs on the committer thread */
    void (*on_done)(struct mail *mail,
                    void *owner); /* frees or goes on; runs in reply_to's thread */

    union {
        struct commit_message message; /* COMMIT_MESSAGE; COMMIT_CHUNK: id, chunk, chunk_number */
        struct {
            struct receipt receipt; /* COMMIT_RECEIPT, COMMIT_FORGET */
            bool more;              /* COMMIT_FORGET: set when it comes back; ask again */
        } receipt;
        uint64_t discard_id;
        struct {
            struct delivery *delivery;            /* given back to the schedule */
            struct outcome_recipient *recipients; /* each of the delivery's, in its order */
            uint32_t recipient_count;
            bool delay_noticed; /* one of `generated` is the delay notice */
            bool has_try_first; /* outcome unknown: ask this exchange again first */
            struct address try_first;
            uint64_t stranded_at; /* no exchange could be reached: health_mark of all that failed;
                                     0: deferred for another reason */
            uint64_t
                probe_in_ms; /* it is to find out so soon whether they are back; 0: in its turn */
            const char *exchange;             /* for the queue listing, or NULL */
            struct commit_message *generated; /* bounces and notices, stored in the same commit */
            uint64_t next_due_wall_ms;        /* (committer) of what is deferred */
            uint32_t left_in_message; /* (committer) recipients unfinished behind this outcome */
        } outcome;
        struct {
            enum commit_edit edit;
            uint64_t id;      /* of the message, or 0: all that match `domain` */
            char domain[256]; /* "" = any */
            uint64_t matched; /* set when it comes back: recipients touched */
            bool begun;       /* (committer) part of the queue has been looked at */
        } edit;
        uint64_t release_mark; /* health_mark of the exchange */
    } u;
};

/* What the committer works with; copied, its pointers borrowed for its whole life. */
struct committer_options {
    struct store *store;
    struct schedule *schedule;
    /* How many may be about to send a message: a commit waits a moment for some of them. NULL: for
     * nobody. */
    const atomic_uint *submitters;
    /* Called on the committer thread when writing failed for good; `what` says what, where, and
     * what to do. Must not block. */
    void (*on_fatal)(void *context, const char *what);
    /* A stored message that cannot be read: left in place, never tried. Called by committer_start,
     * and on the committer thread. */
    void (*on_damaged)(void *context, uint64_t id);
    void *context;
};

/* Starts the thread, which takes the store's queue into the schedule, beginning with a first part
 * before this returns. NULL with `error`. */
struct committer *committer_start(const struct committer_options *options, struct error *error);

/* Hands an op over and nulls the pointer. Any thread, never blocks. Ops of one thread are applied
 * in order. After the store has failed, ops come back at once with STORE_FAILED. */
void committer_submit(struct committer *c, struct commit_op **op);

/* Commits all that was submitted before, stops and joins the thread, frees. Workers
 * have stopped. */
void committer_stop(struct committer **c);

/* A reload changed the schedule's policy: carried to the thread by mail. Any thread. False: out of
 * memory. */
bool committer_set_policy(struct committer *c, const struct schedule_policy *policy);

/* What it has done and what is queued. */
struct committer_figures {
    uint64_t commits;  /* transactions made durable */
    uint64_t messages; /* stored, bounces included */
    uint64_t outcomes;
    uint64_t messages_queued, recipients_queued; /* now, of what was taken in */
    uint64_t transactional_queued;               /* recipients of transactional mail, of those */
};

/* A relaxed snapshot; any thread. */
struct committer_figures committer_figures(const struct committer *c);

/* How many recipients of this domain (in normal form) are queued, at most
 * (queue/shares.h). Any thread. */
uint64_t committer_recipients_at(const struct committer *c, const char *domain);

/* How long each commit took, written and synced: added to `sum`. Any thread. */
void committer_commit_times(const struct committer *c, struct histogram_reading *sum);

#endif
