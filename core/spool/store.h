/* The spool's store: one LMDB environment with six tables.
 *
 *   meta        "format" -> version
 *   envelopes   id -> encoded envelope (envelope.h); its presence is what makes a message accepted
 *   contents    (id, chunk number) -> up to STORE_CHUNK_BYTES of content
 *   unfinished  id -> nothing: chunks went ahead of an envelope that has not come. What stands here
 *               at open are left-overs of submissions that never got their 250, and is removed. A
 *               search of all contents would take the better part of a minute from a cold disk
 *   states      (id, recipient index) -> how far that recipient has got; absent = never tried
 *   receipts    what was asked for under a sender's key, and stored (receipts.h)
 *
 * Writing belongs to one thread (the committer) and happens between store_begin and store_commit;
 * what was committed is durable. Reading takes a store_reader per thread; a read transaction is
 * short, for it keeps replaced pages from being used again. Keys are big-endian, so order is order
 * of id. A damaged record is reported, never trusted and never fatal to the process. */
#ifndef ONWARD_CORE_SPOOL_STORE_H
#define ONWARD_CORE_SPOOL_STORE_H

#include "core/base/address.h"
#include "core/base/error.h"
#include "core/base/slice.h"
#include "core/domain.h"
#include "core/reply.h"

enum { STORE_CHUNK_BYTES = 64 * 1024, STORE_FORMAT = 3 };

struct store;
struct store_reader;

enum store_status {
    STORE_OK,
    STORE_NO_ROOM, /* the disk, the floor of free space, the map or memory: nothing of the batch is
                      stored */
    STORE_FAILED,  /* an I/O error: final, for what it kept back may be gone. Stop, say so, exit */
};

enum store_progress {
    PROGRESS_WAITING = 0, /* to be tried (again) at due_wall_ms */
    PROGRESS_HELD = 1,    /* by an operator */
    PROGRESS_DONE = 2,    /* delivered or bounced; kept only while the message has others left */
};

enum {
    STORE_EXCHANGE_SIZE = DOMAIN_SIZE + ADDRESS_TEXT_SIZE + 3
}; /* a name, an address in brackets */

/* How far one recipient has got. */
struct store_state {
    uint8_t progress; /* enum store_progress */
    uint8_t delay_noticed;
    uint16_t attempts;
    uint64_t due_wall_ms;
    bool has_try_first;
    struct address try_first;                /* after an unknown outcome (RFC 1047) */
    struct reply last;                       /* of the last attempt; code 0 = none yet */
    char last_exchange[STORE_EXCHANGE_SIZE]; /* "mx.example.org [192.0.2.1]", or empty */
};

/* Copied by store_open. */
struct store_options {
    const char *path;          /* directory; created 0700 where missing */
    uint64_t map_bytes;        /* address space to reserve */
    uint64_t free_floor_bytes; /* refuse new messages below this much free disk */
    unsigned readers_max;
    uint64_t
        wait_ms; /* for a process that has said it leaves (store_leave); another is not waited for */
};

/* Opens or creates; takes the lock that keeps a second process out, for which it may wait.
 * NULL with `error` filled: in use by another process (with its pid), wrong format, no
 * rights, no room. */
struct store *store_open(const struct store_options *options, struct error *error);

/* Tells a process that opens the same spool that this one is about to close it. Any thread. */
void store_leave(struct store *s);

/* No reader and no transaction may be left. Nulls the caller's pointer. */
void store_close(struct store **s);

/* The highest id in the store; 0: it holds no message. False: that cannot be read,
 * store_explain_damage says more. Any time before the committer starts. */
bool store_last_id(struct store *s, uint64_t *id_out);

/* Is there room for new mail: is the disk above the floor and the reserve whole, or has the file
 * free pages of its own? It never shrinks; what left the queue leaves room inside it. Looks at the
 * disk at most every 100 ms. Any thread. */
bool store_has_room(struct store *s);

/* How many bytes of it there is room for, and what is stored takes. Likewise. */
uint64_t store_left(struct store *s);
uint64_t store_used(const struct store *s);

/* Makes sure that so much content, and behind it the reserve for outcomes, finds blocks on the
 * disk: what is short of that is allocated to the file now, where nobody else can take it. False:
 * there is no room for it, so content must be refused; what is committed without it has the
 * reserve. Committer thread, ahead of store_begin. */
bool store_reserve(struct store *s, uint64_t content_bytes);

/* Why the reserve may not be there when it is needed, for people: the file system knows no blocks
 * allocated ahead, or writes each page to another place than before. NULL: it is kept. Static
 * text; any thread. */
const char *store_reserve_doubt(const struct store *s);

/* What went wrong last, where it was and what to do about it, for people. Committer thread, or
 * whoever opens. */
void store_explain(const struct store *s, struct error *error);

/* What to do where the queue cannot be read behind the message `id` (0: at all). Any thread. */
void store_explain_damage(const struct store *s, uint64_t id, struct error *error);

/* What store_left saw last, and the floor. Any thread. */
void store_disk(const struct store *s, uint64_t *free_bytes_out, uint64_t *floor_bytes_out);

/* ---- writing: committer thread ---- */

/* Opens the transaction, writes into it. After anything but STORE_OK only store_abort
 * is allowed. */
enum store_status store_begin(struct store *s);

/* With it the message is whole: the mark of store_put_unfinished is taken off. */
enum store_status store_put_envelope(struct store *s, uint64_t id, struct slice record);

/* Due where a chunk is committed ahead of its envelope; next to nothing where it was
 * done before. */
enum store_status store_put_unfinished(struct store *s, uint64_t id);
enum store_status store_put_chunk(struct store *s, uint64_t id, uint32_t chunk, struct slice bytes);
enum store_status store_put_state(struct store *s, uint64_t id, uint32_t recipient,
                                  const struct store_state *state);

/* Envelope, chunks and states of `id`; harmless where there are none. */
enum store_status store_remove(struct store *s, uint64_t id);

/* Durable when it returns STORE_OK. Afterwards, whatever it returned, no transaction is open. */
enum store_status store_commit(struct store *s);
void store_abort(struct store *s);

/* ---- reading: one reader per thread ---- */

struct store_reader *store_reader_create(struct store *s); /* NULL: no slot or no memory */
void store_reader_destroy(struct store_reader **r);

/* A snapshot; slices read live until store_read_end. Nesting is a bug. */
bool store_read_begin(struct store_reader *r);
void store_read_end(struct store_reader *r);

/* Reads under the open snapshot. False: there is none, or it is damaged. Envelopes and states that
 * are asked for in order of id cost no search each. */
bool store_get_envelope(struct store_reader *r, uint64_t id, struct slice *record_out);
bool store_get_chunk(struct store_reader *r, uint64_t id, uint32_t chunk, struct slice *bytes_out);
bool store_get_state(struct store_reader *r, uint64_t id, uint32_t recipient,
                     struct store_state *state_out);

/* The first message with an id over `after`; false at the end, and where the table is damaged. */
bool store_next_envelope(struct store_reader *r, uint64_t after, uint64_t *id_out,
                         struct slice *record_out);

/* Was that no end: are there messages behind it, perhaps, that cannot be read? */
bool store_ended_early(const struct store_reader *r);

#endif
