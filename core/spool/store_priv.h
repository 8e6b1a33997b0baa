/* The store's body, for this folder only. */
#ifndef ONWARD_CORE_SPOOL_STORE_PRIV_H
#define ONWARD_CORE_SPOOL_STORE_PRIV_H

#include "core/spool/store.h"

#include <lmdb.h>
#include <stdatomic.h>

enum { STORE_PATH_MAX = 4096, ID_KEY = 8, PART_KEY = 12 };

struct store {
    MDB_env *env;
    MDB_dbi meta, envelopes, contents, states, unfinished, receipts;
    MDB_txn *txn; /* the committer's, between begin and commit */
    int lock_fd;
    int guard;     /* of the map: a disk that cannot be read is told of */
    int failed_rc; /* (committer) what LMDB or the system said last that was no success */
    uint64_t free_floor_bytes;
    uint64_t map_bytes;
    uint64_t reserve_bytes;    /* kept behind the pages in use for what cannot be refused */
    uint64_t inside_min_bytes; /* so many free pages inside are room for mail */
    uint64_t ahead_end;        /* (committer) up to here the file has blocks on the disk */
    bool cannot_allocate;      /* (committer) the file system does not know fallocate */
    char path[STORE_PATH_MAX];
    struct {
        _Atomic uint64_t room_checked_ms, free_bytes;
        _Atomic uint64_t left_bytes;   /* for new mail */
        _Atomic uint64_t inside_bytes; /* free pages of the file, after the last commit */
        _Atomic uint64_t end_bytes;    /* behind its last page in use */
        _Atomic uint64_t ahead_bytes;  /* blocks on the disk behind that */
    } shared;
};

/* A key on the stack and its LMDB form. */
struct store_key {
    unsigned char bytes[PART_KEY];
    MDB_val val;
};

/* `id` alone, or with a chunk or recipient number. */
void store_key_id(struct store_key *k, uint64_t id);
void store_key_part(struct store_key *k, uint64_t id, uint32_t part);

/* store_error.c: what LMDB or the system said, kept for store_explain where it is no success. */
enum store_status store_judge(struct store *s, int rc);

/* store_room.c: what the disk has free for this user now, in bytes; 0 where it cannot be asked. Is
 * there no block left? */
uint64_t store_disk_free(const struct store *s);
bool store_disk_is_full(const struct store *s);

/* How many pages of the file are in use, as the open transaction sees it; and so many are,
 * behind a commit. */
uint64_t store_room_pages(const struct store *s, MDB_txn *txn);
void store_room_note(struct store *s, uint64_t pages);

/* Could outcomes be committed now? Takes the reserve where there is room for it. A relay that
 * starts without room for them would deliver, fail to note it, and do it again when it is started
 * again. False with `error`. */
bool store_room_for_outcomes(struct store *s, struct error *error);

/* store_read.c: the open snapshot of a reader, and what it is of. */
MDB_txn *store_reader_txn(struct store_reader *r);
struct store *store_reader_store(struct store_reader *r);

/* store_state.c: a recipient's state as a record; 0: no memory for it. Decoding treats it as
 * hostile. */
enum { STORE_STATE_MAX = 1024 };
size_t store_state_encode(const struct store_state *s, char out[STORE_STATE_MAX]);
bool store_state_decode(struct slice record, struct store_state *out);

#endif
