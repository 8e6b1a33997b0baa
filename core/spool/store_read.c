#include "core/base/assert.h"
#include "core/base/bytes.h"
#include "core/spool/store_priv.h"

#include <stdlib.h>

struct store_reader {
    struct store *store;
    MDB_txn *txn;
    MDB_cursor *envelopes, *states; /* of the open snapshot, where they were needed */
    bool open;                      /* a snapshot is held */
    bool ended_early;               /* the last look for a next envelope */
};

struct store_reader *store_reader_create(struct store *s)
{
    struct store_reader *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->store = s;
    if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &r->txn) != 0) {
        free(r);
        return NULL;
    }
    mdb_txn_reset(r->txn); /* keeps the slot, gives up the snapshot */
    return r;
}

void store_reader_destroy(struct store_reader **r)
{
    if (*r == NULL)
        return;
    ASSERT(!(*r)->open);
    mdb_txn_abort((*r)->txn);
    free(*r);
    *r = NULL;
}

bool store_read_begin(struct store_reader *r)
{
    ASSERT(!r->open);
    r->open = mdb_txn_renew(r->txn) == 0;
    return r->open;
}

void store_read_end(struct store_reader *r)
{
    ASSERT(r->open);
    if (r->envelopes != NULL)
        mdb_cursor_close(r->envelopes);
    if (r->states != NULL)
        mdb_cursor_close(r->states);
    r->envelopes = r->states = NULL;
    mdb_txn_reset(r->txn);
    r->open = false;
}

/* Finds the key, or the first behind it where `op` is MDB_SET_RANGE. A cursor that is kept finds
 * what lies near its last find without a search from the root. */
static int seek(struct store_reader *r, MDB_cursor **cursor, MDB_dbi table, MDB_val *key,
                MDB_val *value_out, MDB_cursor_op op)
{
    ASSERT(r->open);
    int rc = *cursor == NULL ? mdb_cursor_open(r->txn, table, cursor) : 0;
    return rc == 0 ? mdb_cursor_get(*cursor, key, value_out, op) : rc;
}

MDB_txn *store_reader_txn(struct store_reader *r)
{
    ASSERT(r->open);
    return r->txn;
}

struct store *store_reader_store(struct store_reader *r)
{
    return r->store;
}

static bool get(struct store_reader *r, MDB_dbi table, struct store_key *key, struct slice *out)
{
    ASSERT(r->open);
    MDB_val value;
    if (mdb_get(r->txn, table, &key->val, &value) != 0)
        return false;
    *out = slice_of(value.mv_data, value.mv_size);
    return true;
}

bool store_get_envelope(struct store_reader *r, uint64_t id, struct slice *record_out)
{
    struct store_key key;
    store_key_id(&key, id);
    return get(r, r->store->envelopes, &key, record_out);
}

bool store_get_chunk(struct store_reader *r, uint64_t id, uint32_t chunk, struct slice *bytes_out)
{
    struct store_key key;
    store_key_part(&key, id, chunk);
    return get(r, r->store->contents, &key, bytes_out);
}

bool store_get_state(struct store_reader *r, uint64_t id, uint32_t recipient,
                     struct store_state *state_out)
{
    struct store_key key;
    MDB_val value;
    store_key_part(&key, id, recipient);
    return seek(r, &r->states, r->store->states, &key.val, &value, MDB_SET) == 0 &&
           store_state_decode(slice_of(value.mv_data, value.mv_size), state_out);
}

bool store_next_envelope(struct store_reader *r, uint64_t after, uint64_t *id_out,
                         struct slice *record_out)
{
    struct store_key from;
    r->ended_early = false;
    if (after == UINT64_MAX)
        return false;
    store_key_id(&from, after + 1);
    MDB_val key = from.val, value;
    int rc = seek(r, &r->envelopes, r->store->envelopes, &key, &value, MDB_SET_RANGE);
    /* Pages that a disk has mixed up do not lead round in circles. */
    if (rc != 0 || key.mv_size != ID_KEY || bytes_get(key.mv_data, ID_KEY) <= after) {
        r->ended_early = rc != MDB_NOTFOUND;
        return false;
    }
    *id_out = bytes_get(key.mv_data, ID_KEY);
    *record_out = slice_of(value.mv_data, value.mv_size);
    return true;
}

bool store_ended_early(const struct store_reader *r)
{
    return r->ended_early;
}
