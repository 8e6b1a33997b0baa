#include "tests/torture/reference.h"

#include "core/spool/envelope.h"
#include "core/spool/store.h"

#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TABLES = 6, CONTENT_MAX = 8 << 20 };

static const uint64_t MAP_BYTES = UINT64_C(1) << 30;
static const char *const table_names[TABLES] = {"meta",   "envelopes", "contents",
                                                "states", "receipts",  "unfinished"};

struct snapshot {
    uint64_t txn, digest;
};

struct reference {
    struct snapshot *snapshots;
    size_t snapshot_count, snapshot_capacity;
    struct reference_message *messages; /* in order of id */
    size_t message_count, message_capacity;
};

struct reference *reference_create(void)
{
    struct reference *r = calloc(1, sizeof *r);
    if (r == NULL)
        abort();
    return r;
}

void reference_destroy(struct reference **r)
{
    free((*r)->snapshots);
    free((*r)->messages);
    free(*r);
    *r = NULL;
}

/* Room for one more. */
static void *grown(void *items, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return items;
    *capacity = *capacity * 2 + 64;
    items = realloc(items, *capacity * size);
    if (items == NULL)
        abort();
    return items;
}

/* ---- reading without changing ---- */

static uint64_t mix(uint64_t digest, const MDB_val *v)
{
    const unsigned char *bytes = v->mv_data;
    digest = (digest ^ v->mv_size) * UINT64_C(0x100000001b3);
    for (size_t i = 0; i < v->mv_size; i++)
        digest = (digest ^ bytes[i]) * UINT64_C(0x100000001b3);
    return digest;
}

static bool digest_table(MDB_txn *txn, const char *name, uint64_t *digest)
{
    MDB_dbi table;
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_dbi_open(txn, name, 0, &table);
    if (rc == MDB_NOTFOUND)
        return true; /* before the first commit */
    if (rc != 0 || mdb_cursor_open(txn, table, &cursor) != 0)
        return false;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
        *digest = mix(mix(*digest, &key), &value);
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND;
}

/* NULL where it cannot be opened. */
static MDB_env *open_as_it_is(const char *path, MDB_txn **txn_out)
{
    MDB_env *env = NULL;
    if (mdb_env_create(&env) != 0)
        return NULL;
    bool well = mdb_env_set_mapsize(env, MAP_BYTES) == 0 && mdb_env_set_maxdbs(env, TABLES) == 0 &&
                mdb_env_open(env, path, MDB_RDONLY | MDB_NOLOCK | MDB_NOTLS, 0) == 0 &&
                mdb_txn_begin(env, NULL, MDB_RDONLY, txn_out) == 0;
    if (!well)
        mdb_env_close(env);
    return well ? env : NULL;
}

bool reference_read(const char *path, uint64_t *txn_out, uint64_t *digest_out)
{
    MDB_txn *txn;
    MDB_env *env = open_as_it_is(path, &txn);
    bool well = env != NULL;
    *digest_out = 1;
    if (env == NULL)
        return false;
    *txn_out = mdb_txn_id(txn);
    for (size_t i = 0; i < TABLES && well; i++)
        well = digest_table(txn, table_names[i], digest_out);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return well;
}

/* ---- one message ---- */

static uint32_t crc32_of(struct slice s)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < s.len; i++) {
        crc ^= (unsigned char)s.ptr[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ ((crc & 1) != 0 ? UINT32_C(0xedb88320) : 0);
    }
    return crc ^ UINT32_MAX;
}

/* Whether the content is what its own header section says. Bounces, which we did not write, have no
 * such field: their size alone is looked at. */
static bool is_whole(struct slice content)
{
    static const char field[] = "\nX-Sum: ", blank[] = "\r\n\r\n";
    const char *end = memmem(content.ptr, content.len, blank, sizeof blank - 1);
    if (end == NULL)
        return false;
    size_t header = (size_t)(end - content.ptr);
    const char *at = memmem(content.ptr, header, field, sizeof field - 1);
    if (at == NULL)
        return true;
    char *after = NULL;
    unsigned long size = strtoul(at + sizeof field - 1, &after, 10);
    unsigned long sum = strtoul(after, NULL, 16);
    struct slice body = slice_skip(content, header + sizeof blank - 1);
    return body.len == size && crc32_of(body) == (uint32_t)sum;
}

/* NULL, or what is wrong with the message of this record. */
static const char *check_message(struct store_reader *reader, uint64_t id, struct slice record)
{
    struct envelope e;
    struct envelope_recipient to;
    struct buf content;
    struct slice chunk;
    if (!envelope_decode(record, &e) || e.id != id)
        return "its envelope is damaged";
    for (uint32_t i = 0; i < e.recipient_count; i++)
        if (!envelope_decode_recipient(record, i, &to))
            return "a recipient is damaged";
    buf_init(&content, CONTENT_MAX);
    for (uint32_t i = 0; store_get_chunk(reader, id, i, &chunk); i++)
        buf_append(&content, chunk);
    bool well =
        buf_ok(&content) && buf_len(&content) == e.size_bytes && is_whole(buf_slice(&content));
    buf_fini(&content);
    return well ? NULL : "its content is not whole";
}

const char *reference_check_store(const char *path, const uint64_t *ids, size_t count,
                                  uint64_t *id_out)
{
    static struct error error;
    struct store_options options = {.path = path, .map_bytes = MAP_BYTES, .readers_max = 4};
    const char *wrong = NULL;
    *id_out = 0;
    struct store *s = store_open(&options, &error);
    if (s == NULL)
        return error.text;
    struct store_reader *reader = store_reader_create(s);
    if (reader == NULL || !store_read_begin(reader))
        return "it cannot be read";
    for (size_t i = 0; i < count && wrong == NULL; i++) {
        struct slice record;
        *id_out = ids[i];
        wrong = store_get_envelope(reader, ids[i], &record) ? check_message(reader, ids[i], record)
                                                            : "it is not there";
    }
    store_read_end(reader);
    store_reader_destroy(&reader);
    store_close(&s);
    return wrong;
}

/* ---- the course of the commits ---- */

static struct reference_message *find(const struct reference *r, uint64_t id, size_t *place_out)
{
    size_t low = 0, high = r->message_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (r->messages[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    *place_out = low;
    return low < r->message_count && r->messages[low].id == id ? &r->messages[low] : NULL;
}

static void note_message(struct reference *r, uint64_t id, uint64_t txn)
{
    size_t place;
    if (find(r, id, &place) != NULL)
        return;
    r->messages = grown(r->messages, r->message_count, &r->message_capacity, sizeof *r->messages);
    memmove(r->messages + place + 1, r->messages + place,
            (r->message_count - place) * sizeof *r->messages);
    r->messages[place] = (struct reference_message){.id = id, .came = txn, .went = UINT64_MAX};
    r->message_count++;
}

static uint64_t id_of(const MDB_val *key)
{
    uint64_t id = 0;
    for (size_t i = 0; i < 8 && i < key->mv_size; i++)
        id = id << 8 | ((const unsigned char *)key->mv_data)[i];
    return id;
}

/* Notes all envelopes of the snapshot, and which of those known are gone. */
static bool note_messages(struct reference *r, MDB_txn *txn)
{
    MDB_dbi table;
    MDB_cursor *cursor;
    MDB_val key, value;
    uint64_t number = mdb_txn_id(txn);
    int rc = mdb_dbi_open(txn, "envelopes", 0, &table);
    if (rc == MDB_NOTFOUND)
        return true;
    if (rc != 0 || mdb_cursor_open(txn, table, &cursor) != 0)
        return false;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
        note_message(r, id_of(&key), number);
    mdb_cursor_close(cursor);
    for (size_t i = 0; i < r->message_count; i++) {
        unsigned char bytes[8];
        for (size_t b = 0; b < sizeof bytes; b++)
            bytes[b] = (unsigned char)(r->messages[i].id >> (56 - 8 * b));
        key = (MDB_val){sizeof bytes, bytes};
        if (r->messages[i].went == UINT64_MAX && mdb_get(txn, table, &key, &value) == MDB_NOTFOUND)
            r->messages[i].went = number;
    }
    return rc == MDB_NOTFOUND;
}

bool reference_note(struct reference *r, const char *path, const char **what_out)
{
    struct snapshot snapshot;
    uint64_t known;
    MDB_txn *txn;
    *what_out = "the trace adds up to a spool that cannot be read";
    if (!reference_read(path, &snapshot.txn, &snapshot.digest))
        return false;
    if (reference_digest(r, snapshot.txn, &known))
        return known == snapshot.digest;
    MDB_env *env = open_as_it_is(path, &txn);
    if (env == NULL)
        return false;
    bool well = note_messages(r, txn);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    r->snapshots =
        grown(r->snapshots, r->snapshot_count, &r->snapshot_capacity, sizeof *r->snapshots);
    r->snapshots[r->snapshot_count++] = snapshot;
    return well;
}

bool reference_digest(const struct reference *r, uint64_t txn, uint64_t *digest_out)
{
    for (size_t i = r->snapshot_count; i > 0; i--)
        if (r->snapshots[i - 1].txn == txn) {
            *digest_out = r->snapshots[i - 1].digest;
            return true;
        }
    return false;
}

struct reference_message reference_message(const struct reference *r, uint64_t id)
{
    size_t place;
    const struct reference_message *m = find(r, id, &place);
    return m != NULL ? *m : (struct reference_message){.id = id};
}

void reference_counts(const struct reference *r, size_t *transactions_out, size_t *messages_out)
{
    *transactions_out = r->snapshot_count;
    *messages_out = r->message_count;
}
