#include "core/spool/receipts.h"

#include "core/base/bytes.h"
#include "core/spool/store_priv.h"

enum {
    HEAD_KEY = 1 + RECEIPT_KEY_BYTES,
    MARK_KEY = 1 + RECEIPT_KEY_BYTES + 4,
    TIME_KEY = 1 + 8 + RECEIPT_KEY_BYTES,
    HEAD_BYTES = RECEIPT_DIGEST_BYTES + 8,
};

struct key {
    unsigned char bytes[TIME_KEY];
    MDB_val val;
};

static void head_key(struct key *k, const unsigned char *key)
{
    k->bytes[0] = 'r';
    memcpy(k->bytes + 1, key, RECEIPT_KEY_BYTES);
    k->val = (MDB_val){HEAD_KEY, k->bytes};
}

static void mark_key(struct key *k, const unsigned char *key, uint32_t recipient)
{
    k->bytes[0] = 'm';
    memcpy(k->bytes + 1, key, RECEIPT_KEY_BYTES);
    bytes_put_u32(k->bytes + 1 + RECEIPT_KEY_BYTES, recipient);
    k->val = (MDB_val){MARK_KEY, k->bytes};
}

static void time_key(struct key *k, uint64_t wall_ms, const unsigned char *key)
{
    k->bytes[0] = 't';
    bytes_put_u64(k->bytes + 1, wall_ms);
    memcpy(k->bytes + 9, key, RECEIPT_KEY_BYTES);
    k->val = (MDB_val){TIME_KEY, k->bytes};
}

/* ---- writing ---- */

enum store_status store_put_receipt(struct store *s, const struct receipt *r)
{
    struct key k;
    unsigned char head[HEAD_BYTES];
    memcpy(head, r->digest, RECEIPT_DIGEST_BYTES);
    bytes_put_u64(head + RECEIPT_DIGEST_BYTES, r->made_wall_ms);
    MDB_val value = {sizeof head, head}, nothing = {0, head};
    head_key(&k, r->key);
    int rc = mdb_put(s->txn, s->receipts, &k.val, &value, 0);
    time_key(&k, r->made_wall_ms, r->key);
    if (rc == 0)
        rc = mdb_put(s->txn, s->receipts, &k.val, &nothing, 0);
    return store_judge(s, rc);
}

enum store_status store_put_mark(struct store *s, const struct receipt_mark *m, uint64_t id)
{
    struct key k;
    unsigned char bytes[8];
    bytes_put_u64(bytes, id);
    MDB_val value = {sizeof bytes, bytes};
    mark_key(&k, m->key, m->recipient);
    return store_judge(s, mdb_put(s->txn, s->receipts, &k.val, &value, 0));
}

static bool is_mark_of(const MDB_val *found, const unsigned char *key)
{
    const unsigned char *bytes = found->mv_data;
    return found->mv_size == MARK_KEY && bytes[0] == 'm' &&
           memcmp(bytes + 1, key, RECEIPT_KEY_BYTES) == 0;
}

static int forget_marks(struct store *s, const unsigned char *key, unsigned max, bool *more_out)
{
    struct key k;
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(s->txn, s->receipts, &cursor);
    if (rc != 0)
        return rc;
    mark_key(&k, key, 0);
    MDB_val found = k.val, value;
    unsigned count = 0;
    rc = mdb_cursor_get(cursor, &found, &value, MDB_SET_RANGE);
    while (rc == 0 && is_mark_of(&found, key) && count++ < max) {
        rc = mdb_cursor_del(cursor, 0);
        if (rc == 0) /* after a deletion this is the entry that took its place */
            rc = mdb_cursor_get(cursor, &found, &value, MDB_NEXT);
    }
    *more_out = rc == 0 && is_mark_of(&found, key);
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum store_status store_forget_receipt(struct store *s, const struct receipt *r, unsigned marks_max,
                                       bool *more_out)
{
    struct key k;
    int rc = forget_marks(s, r->key, marks_max, more_out);
    if (rc != 0 || *more_out)
        return store_judge(s, rc);
    head_key(&k, r->key);
    rc = mdb_del(s->txn, s->receipts, &k.val, NULL);
    time_key(&k, r->made_wall_ms, r->key);
    if (rc == 0 || rc == MDB_NOTFOUND)
        rc = mdb_del(s->txn, s->receipts, &k.val, NULL);
    return store_judge(s, rc == MDB_NOTFOUND ? 0 : rc);
}

/* ---- reading ---- */

bool store_get_receipt(struct store_reader *r, const unsigned char key[RECEIPT_KEY_BYTES],
                       struct receipt *out)
{
    struct key k;
    MDB_val value;
    head_key(&k, key);
    MDB_txn *txn = store_reader_txn(r);
    struct store *s = store_reader_store(r);
    if (mdb_get(txn, s->receipts, &k.val, &value) != 0 || value.mv_size != HEAD_BYTES)
        return false;
    memcpy(out->key, key, RECEIPT_KEY_BYTES);
    memcpy(out->digest, value.mv_data, RECEIPT_DIGEST_BYTES);
    out->made_wall_ms = bytes_get((const char *)value.mv_data + RECEIPT_DIGEST_BYTES, 8);
    return true;
}

void store_get_marks(struct store_reader *r, const unsigned char key[RECEIPT_KEY_BYTES],
                     uint64_t *ids, uint32_t count)
{
    struct key k;
    MDB_cursor *cursor;
    if (mdb_cursor_open(store_reader_txn(r), store_reader_store(r)->receipts, &cursor) != 0)
        return;
    mark_key(&k, key, 0);
    MDB_val found = k.val, value;
    int rc = mdb_cursor_get(cursor, &found, &value, MDB_SET_RANGE);
    while (rc == 0 && is_mark_of(&found, key)) {
        uint32_t recipient =
            (uint32_t)bytes_get((const char *)found.mv_data + 1 + RECEIPT_KEY_BYTES, 4);
        if (recipient < count && value.mv_size == 8)
            ids[recipient] = bytes_get(value.mv_data, 8);
        rc = mdb_cursor_get(cursor, &found, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
}

bool store_oldest_receipt(struct store_reader *r, struct receipt *out)
{
    static const unsigned char none[RECEIPT_KEY_BYTES] = {0};
    struct key k;
    MDB_cursor *cursor;
    if (mdb_cursor_open(store_reader_txn(r), store_reader_store(r)->receipts, &cursor) != 0)
        return false;
    time_key(&k, 0, none);
    MDB_val found = k.val, value;
    bool any = mdb_cursor_get(cursor, &found, &value, MDB_SET_RANGE) == 0 &&
               found.mv_size == TIME_KEY && *(const char *)found.mv_data == 't';
    if (any) {
        *out = (struct receipt){.made_wall_ms = bytes_get((const char *)found.mv_data + 1, 8)};
        memcpy(out->key, (const char *)found.mv_data + 9, RECEIPT_KEY_BYTES);
    }
    mdb_cursor_close(cursor);
    return any;
}
