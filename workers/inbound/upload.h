/* One message's way into the spool, whoever brings it (submission.h, http/injector.h): its content
 * is gathered in chunks, each of which goes to the committer ahead of the envelope, so that a large
 * message streams to disk; with the envelope goes the last one, and when that is durable the
 * message is accepted.
 *
 *   upload_begin -> fill `content`; full: upload_chunk -> ... -> no op out: upload_message
 *                                                             -> or given up: upload_discard
 *
 * Embedded in what brings the message, and of its thread. */
#ifndef ONWARD_WORKERS_INBOUND_UPLOAD_H
#define ONWARD_WORKERS_INBOUND_UPLOAD_H

#include "core/base/buf.h"
#include "core/spool/committer.h"

struct upload {
    struct committer *committer;
    struct mailbox *reply_to;
    /* An op has come back; `ended`: it was the message. On the mailbox's thread. */
    void (*on_stored)(struct upload *u, bool ended);
    struct buf content;       /* up to STORE_CHUNK_BYTES */
    uint64_t id;              /* of the message */
    uint32_t chunks;          /* at the committer or stored, ahead of the envelope */
    unsigned ops_out;         /* at the committer */
    enum store_status status; /* what went wrong with one of them; STORE_OK = nothing yet */
};

/* Ready for a first message. `on_stored` runs in `reply_to`'s thread. */
void upload_init(struct upload *u, struct committer *committer, struct mailbox *reply_to,
                 void (*on_stored)(struct upload *u, bool ended));

/* No op may be out. */
void upload_fini(struct upload *u);

/* A new message with this id; `content` is empty. */
void upload_begin(struct upload *u, uint64_t id);

/* Posts `content` as a chunk and empties it. Where one has failed, what comes is dropped. */
void upload_chunk(struct upload *u);

/* Posts the envelope and the last of the content, with the mark of a receipt (or NULL), which is
 * copied. Only while no op is out. False: it cannot be kept, `status` tells why. Here, and where it
 * comes back refused, what was stored of it is given up. */
bool upload_message(struct upload *u, const struct envelope *e, const struct receipt_mark *mark);

/* Chunks that are in the spool already are forgotten. Without memory for that they are found at the
 * next start. */
void upload_discard(struct upload *u);

#endif
