#include "core/spool/store.h"

#include "core/base/assert.h"
#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/map_guard.h"
#include "core/spool/store_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum { TABLES = 6, LEFT_OVERS_PER_TXN = 1000, HOLDER_SIZE = 32, LOCK_NAP_MS = 50 };

void store_key_id(struct store_key *k, uint64_t id)
{
    bytes_put_u64(k->bytes, id);
    k->val = (MDB_val){ID_KEY, k->bytes};
}

void store_key_part(struct store_key *k, uint64_t id, uint32_t part)
{
    bytes_put_u64(k->bytes, id);
    bytes_put_u32(k->bytes + ID_KEY, part);
    k->val = (MDB_val){PART_KEY, k->bytes};
}

/* ---- opening ---- */

static const char LEAVING[] = " leaving";

/* Who holds the lock, as its file says: "1234", or "1234 leaving". */
static bool write_holder(const struct store *s, const char *state)
{
    char text[HOLDER_SIZE];
    int len = snprintf(text, sizeof text, "%ld%s", (long)getpid(), state);
    errno = ENOSPC; /* where a write is cut short, which says nothing itself */
    return ftruncate(s->lock_fd, 0) == 0 && pwrite(s->lock_fd, text, (size_t)len, 0) == len;
}

static void read_holder(const struct store *s, char out[HOLDER_SIZE])
{
    ssize_t n = pread(s->lock_fd, out, HOLDER_SIZE - 1, 0);
    out[n > 0 ? n : 0] = '\0';
}

/* False, with the holder, where another process has it and does not leave in time. */
static bool wait_for_lock(const struct store *s, uint64_t wait_ms, char holder[HOLDER_SIZE])
{
    const struct timespec nap = {.tv_nsec = LOCK_NAP_MS * 1000000L};
    uint64_t until = clock_mono_ms() + wait_ms;
    while (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        read_holder(s, holder);
        if (strstr(holder, LEAVING) == NULL || clock_mono_ms() >= until)
            return false;
        (void)nanosleep(&nap, NULL);
    }
    return true;
}

/* The lock that keeps a second process out. One that leaves is waited for: so the next one can be
 * started before it is gone. */
static bool take_lock(struct store *s, uint64_t wait_ms, struct error *error)
{
    char path[STORE_PATH_MAX + 8], holder[HOLDER_SIZE] = "";
    (void)snprintf(path, sizeof path, "%s/lock", s->path);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0) {
        error_set(error, "cannot open %s: %m; spool.path must be a directory this user may write",
                  path);
        return false;
    }
    if (!wait_for_lock(s, wait_ms, holder)) {
        error_set(error,
                  "the spool %s is in use by process %s; stop that one first, or give this one a "
                  "spool.path of its own",
                  s->path, holder[0] != '\0' ? holder : "(unknown)");
        return false;
    }
    if (!write_holder(s, "")) {
        error_set(error, "cannot write %s: %m", path);
        return false;
    }
    return true;
}

void store_leave(struct store *s)
{
    (void)write_holder(s, LEAVING); /* else nobody waits for us, and is told so */
}

/* Other people's mail is nobody else's business: the folder belongs to us alone. */
static bool is_private(const char *path, struct error *error)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        error_set(error, "cannot look at the spool %s: %m", path);
        return false;
    }
    if (st.st_uid != geteuid()) {
        error_set(
            error,
            "the spool %s belongs to user %u, and this relay runs as user %u; give it to that "
            "one (chown -R) or run as its owner (`user`)",
            path, (unsigned)st.st_uid, (unsigned)geteuid());
        return false;
    }
    if ((st.st_mode & 077) != 0 && chmod(path, 0700) != 0) {
        error_set(error, "cannot close the spool %s to others: %m", path);
        return false;
    }
    return true;
}

static int open_env(struct store *s, const struct store_options *options, const char *path,
                    unsigned flags)
{
    int rc = mdb_env_create(&s->env);
    if (rc == 0)
        rc = mdb_env_set_mapsize(s->env, (size_t)options->map_bytes);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(s->env, TABLES);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(s->env, options->readers_max);
    /* NOTLS: readers belong to objects, not threads. NORDAHEAD: a backlog larger than memory is
     * read in no order. NOMEMINIT: pages are overwritten whole. Syncing stays on: a commit is
     * durable. */
    if (rc == 0)
        rc = mdb_env_open(s->env, path, flags | MDB_NOTLS | MDB_NORDAHEAD | MDB_NOMEMINIT, 0600);
    return rc;
}

/* Opens the tables, which are made with `flags` MDB_CREATE. */
static int open_tables(struct store *s, MDB_txn *txn, unsigned flags)
{
    const struct {
        const char *name;
        MDB_dbi *table;
    } tables[TABLES] = {{"meta", &s->meta},         {"envelopes", &s->envelopes},
                        {"contents", &s->contents}, {"states", &s->states},
                        {"receipts", &s->receipts}, {"unfinished", &s->unfinished}};
    int rc = 0;
    for (size_t i = 0; i < TABLES && rc == 0; i++)
        rc = mdb_dbi_open(txn, tables[i].name, flags, tables[i].table);
    return rc;
}

static MDB_val format_key(void)
{
    static char name[] = "format";
    return (MDB_val){sizeof name - 1, name};
}

/* ---- making a spool ---- */

/* What was created in the folder keeps its name over a power cut only after this (fsync(2)). */
static bool sync_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool well = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        (void)close(fd);
    return well;
}

/* Makes the folder where it is missing. Its name may be as new as that of a process which died
 * right behind mkdir: it is synced each time. */
static bool make_folder(struct store *s, struct error *error)
{
    char parent[STORE_PATH_MAX];
    if (mkdir(s->path, 0700) != 0 && errno != EEXIST) {
        error_set(error, "cannot create the spool %s: %m", s->path);
        return false;
    }
    (void)snprintf(parent, sizeof parent, "%s", s->path);
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        return true;
    slash[slash == parent] = '\0'; /* the root's name is its slash */
    if (!sync_folder(parent) &&
        errno != EACCES) { /* made by an administrator, and not ours to read */
        error_set(error, "cannot sync %s, the folder of the spool %s: %m", parent, s->path);
        return false;
    }
    return true;
}

/* An empty spool under a name of its own: format and tables, durable. */
static int write_new(struct store *s, const struct store_options *options, const char *path)
{
    MDB_txn *txn = NULL;
    unsigned char format[4];
    MDB_val key = format_key(), value = {sizeof format, format};
    bytes_put_u32(format, STORE_FORMAT);
    int rc = open_env(s, options, path, MDB_NOSUBDIR | MDB_NOLOCK);
    if (rc == 0)
        rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc == 0)
        rc = open_tables(s, txn, MDB_CREATE);
    if (rc == 0)
        rc = mdb_put(txn, s->meta, &key, &value, 0);
    if (rc == 0) {
        rc = mdb_txn_commit(txn);
        txn = NULL;
    }
    if (txn != NULL)
        mdb_txn_abort(txn);
    mdb_env_close(s->env);
    s->env = NULL;
    return rc;
}

/* Where there is no spool yet, one is written and synced under another name, and gets its own last:
 * there is none, or a whole one, whenever the power goes. */
static bool make_new(struct store *s, const struct store_options *options, struct error *error)
{
    char path[STORE_PATH_MAX + 16], part[STORE_PATH_MAX + 16];
    (void)snprintf(path, sizeof path, "%s/data.mdb", s->path);
    (void)snprintf(part, sizeof part, "%s/data.mdb.new", s->path);
    int rc = 0;
    if (access(path, F_OK) != 0) {
        (void)unlink(part); /* of a start that was cut short */
        rc = write_new(s, options, part);
        if (rc == 0 && rename(part, path) != 0)
            rc = errno;
    }
    if (rc == 0 && !sync_folder(s->path)) /* also for one that was cut short behind its rename */
        rc = errno;
    if (rc != 0)
        error_set(error, "cannot set up the spool %s: %s", s->path, mdb_strerror(rc));
    return rc == 0;
}

/* ---- opening one ---- */

/* Whoever reads the map where the disk gives nothing back, or the file has ended, is
 * stopped by SIGBUS. */
static void watch_map(struct store *s)
{
    mdb_filehandle_t fd;
    struct error text;
    error_set(
        &text,
        "the spool %s cannot be read (SIGBUS): its disk fails, or its data.mdb was cut short. The "
        "relay stops; what got its 250 is in the spool as far as that can still be read. See the "
        "kernel's log (dmesg); where the disk is bad copy the folder to another, and set "
        "spool.path; then start the relay again",
        s->path);
    if (mdb_env_get_fd(s->env, &fd) == 0)
        s->guard = map_guard_watch(fd, text.text, EX_IOERR);
}

/* Opens the tables and checks the format. Nothing is written: a full disk does not keep the relay
 * from starting. */
static bool open_spool(struct store *s, const struct store_options *options, struct error *error)
{
    MDB_txn *txn = NULL;
    MDB_val key = format_key(), value = {0};
    int rc = open_env(s, options, s->path, 0);
    if (rc == 0)
        watch_map(s);
    if (rc == 0)
        rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc == 0)
        rc = open_tables(s, txn, 0);
    if (rc == 0)
        rc = mdb_get(txn, s->meta, &key, &value);
    bool known = rc == 0 && value.mv_size == 4 && bytes_get(value.mv_data, 4) == STORE_FORMAT;
    if (rc == 0 && known) {
        store_room_note(s, store_room_pages(s, txn));
        rc = mdb_txn_commit(txn);
        txn = NULL;
    }
    if (txn != NULL)
        mdb_txn_abort(txn);
    if (rc == MDB_NOTFOUND || (rc == 0 && !known))
        error_set(error,
                  "the spool %s has a format this version does not know (it knows %d); run the "
                  "version that wrote it, or give this one a spool.path of its own",
                  s->path, STORE_FORMAT);
    else if (rc != 0)
        error_set(error, "cannot open the spool %s: %s", s->path, mdb_strerror(rc));
    return rc == 0 && known;
}

/* Up to LEFT_OVERS_PER_TXN of what was streamed ahead of a message that never got its 250.
 * `*done_out` where there are no more. */
static enum store_status remove_some_left_overs(struct store *s, bool *done_out)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    enum store_status status = store_begin(s);
    for (int i = 0; i < LEFT_OVERS_PER_TXN && status == STORE_OK && !*done_out; i++) {
        int rc = mdb_cursor_open(s->txn, s->unfinished, &cursor);
        if (rc == 0) {
            rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
            mdb_cursor_close(cursor);
        }
        *done_out = rc == MDB_NOTFOUND;
        if (rc == 0)
            status = key.mv_size == ID_KEY ? store_remove(s, bytes_get(key.mv_data, ID_KEY))
                                           : store_judge(s, MDB_CORRUPTED);
        else if (!*done_out)
            status = store_judge(s, rc);
    }
    if (status == STORE_OK)
        return store_commit(s);
    store_abort(s);
    return status;
}

static bool remove_left_overs(struct store *s, struct error *error)
{
    for (bool done = false; !done;)
        if (remove_some_left_overs(s, &done) != STORE_OK) {
            store_explain(s, error);
            return false;
        }
    return true;
}

struct store *store_open(const struct store_options *options, struct error *error)
{
    struct store *s = calloc(1, sizeof *s);
    if (s == NULL || strlen(options->path) >= sizeof s->path) {
        error_set(error, "spool.path is too long");
        free(s);
        return NULL;
    }
    (void)snprintf(s->path, sizeof s->path, "%s", options->path);
    for (size_t len = strlen(s->path); len > 1 && s->path[len - 1] == '/'; len--)
        s->path[len - 1] = '\0';
    s->lock_fd = s->guard = -1;
    s->free_floor_bytes = options->free_floor_bytes;
    s->map_bytes = options->map_bytes;
    if (!make_folder(s, error) || !is_private(s->path, error) ||
        !take_lock(s, options->wait_ms, error) || !make_new(s, options, error) ||
        !open_spool(s, options, error) || !store_room_for_outcomes(s, error) ||
        !remove_left_overs(s, error)) {
        store_close(&s);
        return NULL;
    }
    return s;
}

void store_close(struct store **s)
{
    if (*s == NULL)
        return;
    ASSERT((*s)->txn == NULL);
    map_guard_forget((*s)->guard);
    if ((*s)->env != NULL)
        mdb_env_close((*s)->env);
    if ((*s)->lock_fd >= 0)
        (void)close((*s)->lock_fd); /* gives the lock up */
    free(*s);
    *s = NULL;
}

bool store_last_id(struct store *s, uint64_t *id_out)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    *id_out = 0;
    if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn) != 0)
        return false;
    int rc = mdb_cursor_open(txn, s->envelopes, &cursor);
    if (rc == 0) {
        rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
        mdb_cursor_close(cursor);
    }
    bool found = rc == 0 && key.mv_size == ID_KEY;
    if (found)
        *id_out = bytes_get(key.mv_data, ID_KEY);
    mdb_txn_abort(txn);
    return found || rc == MDB_NOTFOUND;
}

/* ---- writing ---- */

enum store_status store_begin(struct store *s)
{
    ASSERT(s->txn == NULL);
    return store_judge(s, mdb_txn_begin(s->env, NULL, 0, &s->txn));
}

static enum store_status put(struct store *s, MDB_dbi table, struct store_key *key,
                             struct slice bytes)
{
    MDB_val value = {bytes.len, (void *)(uintptr_t)bytes.ptr};
    return store_judge(s, mdb_put(s->txn, table, &key->val, &value, 0));
}

enum store_status store_put_envelope(struct store *s, uint64_t id, struct slice record)
{
    struct store_key key;
    store_key_id(&key, id);
    int rc = mdb_del(s->txn, s->unfinished, &key.val, NULL);
    return rc == 0 || rc == MDB_NOTFOUND ? put(s, s->envelopes, &key, record) : store_judge(s, rc);
}

enum store_status store_put_unfinished(struct store *s, uint64_t id)
{
    struct store_key key;
    MDB_val nothing = {0, ""};
    store_key_id(&key, id);
    int rc = mdb_put(s->txn, s->unfinished, &key.val, &nothing, MDB_NOOVERWRITE);
    return store_judge(s, rc == MDB_KEYEXIST ? 0 : rc); /* the page is not written anew for it */
}

enum store_status store_put_chunk(struct store *s, uint64_t id, uint32_t chunk, struct slice bytes)
{
    struct store_key key;
    store_key_part(&key, id, chunk);
    return put(s, s->contents, &key, bytes);
}

enum store_status store_put_state(struct store *s, uint64_t id, uint32_t recipient,
                                  const struct store_state *state)
{
    struct store_key key;
    char record[STORE_STATE_MAX];
    size_t len = store_state_encode(state, record);
    if (len == 0)
        return STORE_NO_ROOM;
    store_key_part(&key, id, recipient);
    return put(s, s->states, &key, slice_of(record, len));
}

/* Removes all parts of `id` from `table`. */
static int remove_parts(struct store *s, MDB_dbi table, uint64_t id)
{
    MDB_cursor *cursor;
    struct store_key from;
    store_key_part(&from, id, 0);
    int rc = mdb_cursor_open(s->txn, table, &cursor);
    if (rc != 0)
        return rc;
    MDB_val key = from.val, value;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (rc == 0 && key.mv_size == PART_KEY && bytes_get(key.mv_data, ID_KEY) == id) {
        rc = mdb_cursor_del(cursor, 0);
        if (rc == 0) /* after a deletion this is the entry that took its place */
            rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum store_status store_remove(struct store *s, uint64_t id)
{
    struct store_key key;
    store_key_id(&key, id);
    int rc = mdb_del(s->txn, s->envelopes, &key.val, NULL);
    if (rc == 0 || rc == MDB_NOTFOUND)
        rc = mdb_del(s->txn, s->unfinished, &key.val, NULL);
    if (rc == 0 || rc == MDB_NOTFOUND)
        rc = remove_parts(s, s->contents, id);
    if (rc == 0)
        rc = remove_parts(s, s->states, id);
    return store_judge(s, rc);
}

enum store_status store_commit(struct store *s)
{
    ASSERT(s->txn != NULL);
    uint64_t pages = store_room_pages(s, s->txn);
    errno = 0;
    int rc = mdb_txn_commit(s->txn);
    bool is_lmdbs = errno == 0; /* no call of the system has failed */
    s->txn = NULL;
    if (rc == 0)
        store_room_note(s, pages);
    /* LMDB says EIO too where a write was cut short, as by a disk's last block. The system's
     * own EIO is final, however full the disk: it may be a sync's, behind which nobody knows
     * what is stored. */
    if (rc == EIO && is_lmdbs && store_disk_is_full(s))
        rc = ENOSPC;
    return store_judge(s, rc);
}

void store_abort(struct store *s)
{
    if (s->txn != NULL)
        mdb_txn_abort(s->txn);
    s->txn = NULL;
}
