#include "core/base/assert.h"
#include "core/base/bytes.h"
#include "core/spool/store_priv.h"

#include <stdlib.h>

struct store_reader {
    struct store *store;
    MDB_txn *txn;
    bool open; /* a snapshot is held */
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
    mdb_txn_reset(r->txn);
    r->open = false;
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
    struct slice record;
    store_key_part(&key, id, recipient);
    return get(r, r->store->states, &key, &record) && store_state_decode(record, state_out);
}

bool store_next_envelope(struct store_reader *r, uint64_t after, uint64_t *id_out,
                         struct slice *record_out)
{
    ASSERT(r->open);
    struct store_key from;
    MDB_cursor *cursor;
    if (after == UINT64_MAX || mdb_cursor_open(r->txn, r->store->envelopes, &cursor) != 0)
        return false;
    store_key_id(&from, after + 1);
    MDB_val key = from.val, value;
    bool found = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE) == 0 && key.mv_size == ID_KEY;
    mdb_cursor_close(cursor);
    if (!found)
        return false;
    *id_out = bytes_get(key.mv_data, ID_KEY);
    *record_out = slice_of(value.mv_data, value.mv_size);
    return true;
}
