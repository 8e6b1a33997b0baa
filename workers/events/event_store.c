#include "workers/events/event_store.h"

#include "core/base/assert.h"
#include "core/base/bytes.h"
#include "core/base/map_guard.h"
#include "core/base/random.h"

#include <errno.h>
#include <inttypes.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>

enum {
    TABLES = 3,
    FORMAT = 1,
    KEY = 8,
    META_BYTES = 32, /* format, name, last number, bytes */
    OVERHEAD = 24,   /* of a stored event besides its text: key, node header, kind */
    MAP_EXTRA = 64 << 20,
};

/* What one webhook has left to take. */
struct taker {
    const char *url;
    unsigned wants; /* 1 << enum event_kind */
    uint64_t cursor;
    uint64_t pending;
    uint64_t dropped;
};

/* What a transaction changes besides the tables: put back where it fails. */
struct standing {
    uint64_t last_number;
    uint64_t bytes;
    struct taker *takers;
};

struct event_store {
    MDB_env *env;
    int guard; /* map_guard_watch's number */
    MDB_dbi meta, events, cursors;
    uint64_t name; /* random: tells this store's event ids from all others' */
    uint64_t bytes_max;
    unsigned taker_count;
    struct standing now;
    struct standing before; /* as of event_store_begin */
    MDB_txn *txn;
    int rc; /* the first error of the transaction */
};

static MDB_val number_key(uint64_t number, unsigned char out[KEY])
{
    bytes_put_u64(out, number);
    return (MDB_val){KEY, out};
}

static MDB_val meta_key(void)
{
    static char name[] = "store";
    return (MDB_val){sizeof name - 1, name};
}

static MDB_val url_key(const char *url)
{
    return (MDB_val){strlen(url), (void *)(uintptr_t)url};
}

static uint64_t cost_of(size_t value_len)
{
    return value_len + OVERHEAD;
}

static bool wants(const struct taker *t, unsigned char kind)
{
    return kind < EVENT_KINDS && (t->wants & 1u << kind) != 0;
}

static void note(struct event_store *s, int rc)
{
    if (s->rc == 0)
        s->rc = rc;
}

/* ---- opening ---- */

static int put_meta(struct event_store *s, MDB_txn *txn)
{
    unsigned char record[META_BYTES] = {0};
    bytes_put_u64(record, FORMAT);
    bytes_put_u64(record + 8, s->name);
    bytes_put_u64(record + 16, s->now.last_number);
    bytes_put_u64(record + 24, s->now.bytes);
    MDB_val key = meta_key(), value = {sizeof record, record};
    return mdb_put(txn, s->meta, &key, &value, 0);
}

/* Reads the meta record, or writes a new store's. */
static int load_meta(struct event_store *s, MDB_txn *txn)
{
    MDB_val key = meta_key(), value;
    int rc = mdb_get(txn, s->meta, &key, &value);
    if (rc == MDB_NOTFOUND) {
        struct random random;
        random_init(&random);
        s->name = random_u64(&random);
        return put_meta(s, txn);
    }
    if (rc != 0)
        return rc;
    const char *record = value.mv_data;
    if (value.mv_size != META_BYTES || bytes_get(record, 8) != FORMAT)
        return MDB_VERSION_MISMATCH;
    s->name = bytes_get(record + 8, 8);
    s->now.last_number = bytes_get(record + 16, 8);
    s->now.bytes = bytes_get(record + 24, 8);
    return 0;
}

static bool is_configured(const struct event_store *s, MDB_val url)
{
    for (unsigned i = 0; i < s->taker_count; i++)
        if (slice_equal(slice_of(url.mv_data, url.mv_size), slice_str(s->now.takers[i].url)))
            return true;
    return false;
}

static int forget_others(struct event_store *s, MDB_txn *txn)
{
    MDB_cursor *c;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, s->cursors, &c);
    if (rc != 0)
        return rc;
    rc = mdb_cursor_get(c, &key, &value, MDB_FIRST);
    while (rc == 0) {
        if (!is_configured(s, key))
            rc = mdb_cursor_del(c, 0);
        if (rc == 0)
            rc = mdb_cursor_get(c, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(c);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int put_cursor(struct event_store *s, MDB_txn *txn, unsigned webhook)
{
    unsigned char number[KEY];
    MDB_val key = url_key(s->now.takers[webhook].url);
    MDB_val value = number_key(s->now.takers[webhook].cursor, number);
    return mdb_put(txn, s->cursors, &key, &value, 0);
}

static int load_cursors(struct event_store *s, MDB_txn *txn)
{
    int rc = forget_others(s, txn);
    for (unsigned i = 0; i < s->taker_count && rc == 0; i++) {
        struct taker *t = &s->now.takers[i];
        MDB_val key = url_key(t->url), value;
        rc = mdb_get(txn, s->cursors, &key, &value);
        if (rc == 0 && value.mv_size == KEY)
            t->cursor = bytes_get(value.mv_data, KEY);
        else if (rc == 0 || rc == MDB_NOTFOUND) {
            t->cursor = s->now.last_number;
            rc = put_cursor(s, txn, i);
        }
    }
    return rc;
}

static int count_pending(struct event_store *s, MDB_txn *txn)
{
    MDB_cursor *c;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, s->events, &c);
    if (rc != 0)
        return rc;
    for (rc = mdb_cursor_get(c, &key, &value, MDB_FIRST); rc == 0;
         rc = mdb_cursor_get(c, &key, &value, MDB_NEXT)) {
        uint64_t number = key.mv_size == KEY ? bytes_get(key.mv_data, KEY) : 0;
        for (unsigned i = 0; i < s->taker_count && value.mv_size > 0; i++) {
            struct taker *t = &s->now.takers[i];
            t->pending += number > t->cursor && wants(t, *(const unsigned char *)value.mv_data);
        }
    }
    mdb_cursor_close(c);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Whoever reads the map where the disk gives nothing back, or the file has ended, is
 * stopped by SIGBUS. */
static void watch_map(struct event_store *s, const char *path)
{
    mdb_filehandle_t fd;
    struct error text;
    error_set(
        &text,
        "the events in %s cannot be read (SIGBUS): their disk fails, or their data.mdb was cut "
        "short. The relay stops; its mail is in the spool. See the kernel's log (dmesg), move "
        "the folder away (what is in it goes to no webhook then), and start the relay again",
        path);
    if (mdb_env_get_fd(s->env, &fd) == 0)
        s->guard = map_guard_watch(fd, text.text, EX_IOERR);
}

static int open_env(struct event_store *s, const char *path)
{
    int rc = mdb_env_create(&s->env);
    if (rc ==
        0) /* twice the bound: replaced pages are in use for a while, and pages are not full */
        rc = mdb_env_set_mapsize(s->env, (size_t)(s->bytes_max * 2 + MAP_EXTRA));
    if (rc == 0)
        rc = mdb_env_set_maxdbs(s->env, TABLES);
    if (rc == 0)
        rc = mdb_env_open(s->env, path, MDB_NOTLS | MDB_NORDAHEAD, 0600);
    MDB_txn *txn = NULL;
    if (rc == 0)
        watch_map(s, path);
    if (rc == 0)
        rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &s->meta);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "events", MDB_CREATE, &s->events);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "cursors", MDB_CREATE, &s->cursors);
    if (rc == 0)
        rc = load_meta(s, txn);
    if (rc == 0)
        rc = load_cursors(s, txn);
    if (rc == 0)
        rc = count_pending(s, txn);
    if (rc == 0) {
        rc = mdb_txn_commit(txn);
        txn = NULL;
    }
    if (txn != NULL)
        mdb_txn_abort(txn);
    return rc;
}

struct event_store *event_store_open(const struct event_store_options *options, struct error *error)
{
    struct event_store *s = calloc(1, sizeof *s);
    if (s != NULL) {
        s->guard = -1;
        s->bytes_max = options->bytes_max;
        s->taker_count = options->webhook_count;
        s->now.takers = calloc(options->webhook_count, sizeof *s->now.takers);
        s->before.takers = calloc(options->webhook_count, sizeof *s->before.takers);
    }
    if (s == NULL || s->now.takers == NULL || s->before.takers == NULL) {
        error_set(error, "out of memory for events");
        event_store_close(&s);
        return NULL;
    }
    for (unsigned i = 0; i < s->taker_count; i++) {
        s->now.takers[i].url = options->webhooks[i].url;
        s->now.takers[i].wants = options->webhooks[i].events;
    }
    int rc = mkdir(options->path, 0700) == 0 || errno == EEXIST ? 0 : errno;
    if (rc == 0)
        rc = open_env(s, options->path);
    if (rc != 0) {
        error_set(
            error,
            "cannot open the events in %s: %s; mend that, or move the folder away: what is in "
            "it goes to no webhook then",
            options->path, mdb_strerror(rc));
        event_store_close(&s);
    }
    return s;
}

void event_store_close(struct event_store **s)
{
    if (*s == NULL)
        return;
    ASSERT((*s)->txn == NULL);
    map_guard_forget((*s)->guard);
    if ((*s)->env != NULL)
        mdb_env_close((*s)->env);
    free((*s)->now.takers);
    free((*s)->before.takers);
    free(*s);
    *s = NULL;
}

/* ---- writing ---- */

static void copy_standing(const struct event_store *s, struct standing *to,
                          const struct standing *from)
{
    to->last_number = from->last_number;
    to->bytes = from->bytes;
    memcpy(to->takers, from->takers, s->taker_count * sizeof *to->takers);
}

bool event_store_begin(struct event_store *s)
{
    ASSERT(s->txn == NULL);
    s->rc = mdb_txn_begin(s->env, NULL, 0, &s->txn);
    copy_standing(s, &s->before, &s->now);
    return s->rc == 0;
}

void event_store_append(struct event_store *s, enum event_kind kind, struct slice line)
{
    unsigned char number[KEY];
    MDB_val key = number_key(s->now.last_number + 1, number);
    MDB_val value = {line.len + 1, NULL};
    int rc =
        s->rc == 0 ? mdb_put(s->txn, s->events, &key, &value, MDB_RESERVE | MDB_APPEND) : s->rc;
    note(s, rc);
    if (rc != 0)
        return;
    *(unsigned char *)value.mv_data = (unsigned char)kind;
    memcpy((char *)value.mv_data + 1, line.ptr, line.len);
    s->now.last_number++;
    s->now.bytes += cost_of(value.mv_size);
    for (unsigned i = 0; i < s->taker_count; i++)
        s->now.takers[i].pending += wants(&s->now.takers[i], (unsigned char)kind);
}

/* The event at the cursor leaves the store. */
static int take_out(struct event_store *s, MDB_cursor *c, size_t len)
{
    uint64_t cost = cost_of(len);
    s->now.bytes -= cost < s->now.bytes ? cost : s->now.bytes;
    return mdb_cursor_del(c, 0);
}

/* Everything up to the slowest webhook's cursor; one that wants nothing of what is stored holds
 * nothing back. */
static void remove_done(struct event_store *s)
{
    uint64_t done = UINT64_MAX;
    MDB_cursor *c;
    MDB_val key, value;
    for (unsigned i = 0; i < s->taker_count; i++)
        if (s->now.takers[i].pending > 0 && s->now.takers[i].cursor < done)
            done = s->now.takers[i].cursor;
    int rc = mdb_cursor_open(s->txn, s->events, &c);
    if (rc != 0) {
        note(s, rc);
        return;
    }
    while ((rc = mdb_cursor_get(c, &key, &value, MDB_FIRST)) == 0 &&
           bytes_get(key.mv_data, KEY) <= done && (rc = take_out(s, c, value.mv_size)) == 0)
        continue;
    mdb_cursor_close(c);
    note(s, rc == MDB_NOTFOUND ? 0 : rc);
}

/* How many the webhook wants of the events behind its cursor up to this one. */
static uint64_t count_wanted(struct event_store *s, const struct taker *t, uint64_t upto)
{
    unsigned char number[KEY];
    uint64_t count = 0;
    MDB_cursor *c;
    MDB_val key = number_key(t->cursor + 1, number), value;
    int rc = mdb_cursor_open(s->txn, s->events, &c);
    if (rc != 0) {
        note(s, rc);
        return 0;
    }
    for (rc = mdb_cursor_get(c, &key, &value, MDB_SET_RANGE);
         rc == 0 && bytes_get(key.mv_data, KEY) <= upto;
         rc = mdb_cursor_get(c, &key, &value, MDB_NEXT))
        count += value.mv_size > 0 && wants(t, *(const unsigned char *)value.mv_data);
    mdb_cursor_close(c);
    note(s, rc == MDB_NOTFOUND ? 0 : rc);
    return count;
}

void event_store_advance(struct event_store *s, unsigned webhook, uint64_t number)
{
    struct taker *t = &s->now.takers[webhook];
    if (s->rc != 0 || number <= t->cursor)
        return;
    uint64_t taken = count_wanted(s, t, number);
    t->pending -= taken < t->pending ? taken : t->pending;
    t->cursor = number;
    note(s, put_cursor(s, s->txn, webhook));
    remove_done(s);
}

/* The oldest goes until the bound holds. */
static void drop_oldest(struct event_store *s)
{
    MDB_cursor *c;
    MDB_val key, value;
    int rc = mdb_cursor_open(s->txn, s->events, &c);
    if (rc != 0) {
        note(s, rc);
        return;
    }
    while (rc == 0 && s->now.bytes > s->bytes_max &&
           (rc = mdb_cursor_get(c, &key, &value, MDB_FIRST)) == 0) {
        uint64_t number = bytes_get(key.mv_data, KEY);
        for (unsigned i = 0; i < s->taker_count && value.mv_size > 0; i++) {
            struct taker *t = &s->now.takers[i];
            if (number <= t->cursor || !wants(t, *(const unsigned char *)value.mv_data))
                continue;
            t->dropped++;
            t->pending--;
        }
        rc = take_out(s, c, value.mv_size);
    }
    mdb_cursor_close(c);
    note(s, rc == MDB_NOTFOUND ? 0 : rc);
}

bool event_store_commit(struct event_store *s)
{
    if (s->rc == 0 && s->now.bytes > s->bytes_max)
        drop_oldest(s);
    if (s->rc == 0)
        note(s, put_meta(s, s->txn));
    if (s->rc == 0)
        note(s, mdb_txn_commit(s->txn));
    else
        mdb_txn_abort(s->txn);
    s->txn = NULL;
    if (s->rc != 0)
        copy_standing(s, &s->now, &s->before);
    return s->rc == 0;
}

/* ---- reading ---- */

/* {"event_id":"...", and the line's own members. */
static void put_event(const struct event_store *s, uint64_t number, struct slice line, bool first,
                      struct buf *out)
{
    while (line.len > 0 && line.ptr[line.len - 1] == '\n')
        line.len--;
    buf_printf(out, "%s{\"event_id\":\"%016" PRIx64 "-%" PRIu64 "\",", first ? "" : ",", s->name,
               number);
    buf_append(out, slice_skip(line, 1));
}

struct event_batch event_store_read(struct event_store *s, unsigned webhook, unsigned count_max,
                                    size_t bytes_max, struct buf *out)
{
    const struct taker *t = &s->now.takers[webhook];
    struct event_batch batch = {0};
    unsigned char number[KEY];
    MDB_val key = number_key(t->cursor + 1, number), value;
    MDB_txn *txn;
    MDB_cursor *c;
    if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn) != 0)
        return batch;
    if (mdb_cursor_open(txn, s->events, &c) == 0) {
        for (int rc = mdb_cursor_get(c, &key, &value, MDB_SET_RANGE);
             rc == 0 && batch.count < count_max && buf_len(out) < bytes_max && buf_ok(out);
             rc = mdb_cursor_get(c, &key, &value, MDB_NEXT)) {
            batch.upto = bytes_get(key.mv_data, KEY);
            if (value.mv_size < 2 || !wants(t, *(const unsigned char *)value.mv_data))
                continue;
            put_event(s, batch.upto, slice_of((const char *)value.mv_data + 1, value.mv_size - 1),
                      batch.count == 0, out);
            batch.count++;
        }
        mdb_cursor_close(c);
    }
    mdb_txn_abort(txn);
    return batch;
}

uint64_t event_store_pending(const struct event_store *s, unsigned webhook)
{
    return s->now.takers[webhook].pending;
}

uint64_t event_store_dropped(const struct event_store *s, unsigned webhook)
{
    return s->now.takers[webhook].dropped;
}
