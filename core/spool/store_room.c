/* Is there room for new mail? The file never shrinks: what left the queue leaves free pages inside
 * it, and a disk that our own backlog once filled to the floor would never be above it again. So
 * both count, the disk's free space and the file's own.
 *
 * And there must always be room for outcomes, which cannot be refused, though others fill the disk
 * to its last block. So the file has blocks on the disk ahead of what is written:
 *
 *   | pages in use, and free ones inside | content about to be written | reserve |  the rest of the disk
 *   0                                    end                                     ahead_end
 *
 * They are allocated behind the file's size (FALLOC_FL_KEEP_SIZE), so LMDB knows nothing of them,
 * and nobody else gets them. Content is let in only where the reserve is whole behind it. Where the
 * file system knows no such call, as much must be free on the disk, which others may take. Where it
 * writes each page anew elsewhere, the blocks are taken, but not for our pages: that is told at the
 * start (store_reserve_doubt). */
#include "core/base/clock.h"
#include "core/spool/store_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

enum {
    CHECK_MS = 100,
    /* Free pages in the file that stand for free disk: two batches of content. Some of them may be
     * held by readers for a moment; the file then grows by so much. */
    INSIDE_BYTES_MIN = 64 << 20,
    OUTCOME_BYTES_MIN = 4 << 20, /* some batches of outcomes */
    RESERVE_BYTES = 16 << 20,
    MAP_PART = 4,             /* neither is more than this part of the map */
    ALLOCATE_BYTES = 8 << 20, /* at a time, so that few commits of a growing queue ask */
    PAGES_PART = 2,           /* a page may be half empty */
    BLOCKS_LEFT = 64 << 10,   /* a disk with less is full: a write may be cut short */
    BLOCK_BYTES = 512,        /* of st_blocks */
    FREE_TABLE = 0,           /* LMDB's own: what is free, and the names of the others */
    NAMES_TABLE = 1,
    META_PAGES = 2,
};

/* File systems that copy on write; not all stand in linux/magic.h. */
static const unsigned COW_BTRFS = BTRFS_SUPER_MAGIC, COW_ZFS = 0x2fc12fc1,
                      COW_BCACHEFS = 0xca451a4e;

uint64_t store_disk_free(const struct store *s)
{
    struct statvfs v;
    return statvfs(s->path, &v) == 0 ? (uint64_t)v.f_bavail * v.f_frsize : 0;
}

bool store_disk_is_full(const struct store *s)
{
    return store_disk_free(s) < BLOCKS_LEFT;
}

/* ---- the file's own room ---- */

uint64_t store_room_pages(const struct store *s, MDB_txn *txn)
{
    const MDB_dbi tables[] = {FREE_TABLE,  NAMES_TABLE, s->meta,       s->envelopes,
                              s->contents, s->states,   s->unfinished, s->receipts};
    uint64_t pages = META_PAGES;
    MDB_stat stat;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (mdb_stat(txn, tables[i], &stat) == 0)
            pages += stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
    return pages;
}

static void note_ahead(struct store *s, uint64_t end)
{
    atomic_store_explicit(&s->shared.ahead_bytes, s->ahead_end > end ? s->ahead_end - end : 0,
                          memory_order_relaxed);
}

void store_room_note(struct store *s, uint64_t pages)
{
    MDB_envinfo info;
    MDB_stat stat;
    if (mdb_env_info(s->env, &info) != 0 || mdb_env_stat(s->env, &stat) != 0)
        return;
    uint64_t all = (uint64_t)info.me_last_pgno + 1;
    uint64_t inside = all > pages ? (all - pages) * stat.ms_psize : 0;
    uint64_t end = all * stat.ms_psize;
    atomic_store_explicit(&s->shared.inside_bytes, inside, memory_order_relaxed);
    atomic_store_explicit(&s->shared.end_bytes, end, memory_order_relaxed);
    note_ahead(s, end);
}

/* ---- the reserve ---- */

/* All up to `to`, or nothing where that would leave the disk without a block. What the file has
 * already, maybe since an earlier start, needs none. */
static void allocate(struct store *s, uint64_t from, uint64_t to)
{
    mdb_filehandle_t fd;
    struct stat st;
    if (mdb_env_get_fd(s->env, &fd) != 0 || fstat(fd, &st) != 0)
        return;
    uint64_t has = (uint64_t)st.st_blocks * BLOCK_BYTES;
    if (has < to && store_disk_free(s) < to - has + BLOCKS_LEFT)
        return;
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from)) == 0)
        s->ahead_end = to;
    else if (errno == EOPNOTSUPP || errno == ENOSYS)
        s->cannot_allocate = true;
}

bool store_reserve(struct store *s, uint64_t content_bytes)
{
    uint64_t end = atomic_load_explicit(&s->shared.end_bytes, memory_order_relaxed);
    uint64_t inside = atomic_load_explicit(&s->shared.inside_bytes, memory_order_relaxed);
    uint64_t needed = end + PAGES_PART * content_bytes + s->reserve_bytes;
    uint64_t from = s->ahead_end > end ? s->ahead_end : end;
    if (needed > s->map_bytes)
        return inside > s->inside_min_bytes;
    if (needed > from && !s->cannot_allocate) {
        allocate(s, from, needed + ALLOCATE_BYTES);
        if (s->ahead_end < needed)
            allocate(s, from, needed);
        note_ahead(s, end);
    }
    return s->ahead_end >= needed || s->cannot_allocate || inside > s->inside_min_bytes;
}

/* On btrfs a file may be exempt: `chattr +C` on the spool's folder while it is empty. */
static bool copies_on_write(mdb_filehandle_t fd)
{
    struct statfs fs;
    int flags = 0;
    if (fstatfs(fd, &fs) != 0)
        return false;
    unsigned kind = (unsigned)fs.f_type;
    if (kind == COW_BTRFS)
        return ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0 || (flags & FS_NOCOW_FL) == 0;
    return kind == COW_ZFS || kind == COW_BCACHEFS;
}

const char *store_reserve_doubt(const struct store *s)
{
    mdb_filehandle_t fd;
    if (s->cannot_allocate)
        return "the spool's file system cannot allocate blocks ahead (fallocate): once others fill "
               "its disk to the last block, what became of the mail cannot be noted, and the relay "
               "ends. Keep the disk to the spool, or set a quota for the others";
    if (mdb_env_get_fd(s->env, &fd) == 0 && copies_on_write(fd))
        return "the spool's file system copies on write, so blocks allocated ahead are not kept "
               "for the spool: once others fill its disk to the last block, what became of the "
               "mail cannot be noted, and the relay ends. Keep the disk to the spool, set a "
               "reservation for it (ZFS), or make its folder anew with `chattr +C` (btrfs)";
    return NULL;
}

/* ---- judging ---- */

bool store_room_for_outcomes(struct store *s, struct error *error)
{
    uint64_t part = s->map_bytes / MAP_PART;
    s->reserve_bytes = part < RESERVE_BYTES ? part : RESERVE_BYTES;
    s->inside_min_bytes = part < INSIDE_BYTES_MIN ? part : INSIDE_BYTES_MIN;
    uint64_t end = atomic_load(&s->shared.end_bytes);
    if (!store_reserve(s, 0)) /* on a full disk, what is left of the one before */
        for (part = s->reserve_bytes; s->ahead_end <= end && part >= OUTCOME_BYTES_MIN; part /= 2)
            allocate(s, end, end + part);
    note_ahead(s, end);
    uint64_t room = store_disk_free(s) + atomic_load(&s->shared.ahead_bytes) +
                    atomic_load(&s->shared.inside_bytes);
    if (room < OUTCOME_BYTES_MIN)
        error_set(error,
                  "no room for the spool %s: %u KB are free on its disk and inside it, and %u are "
                  "needed to note what is delivered, lest it be sent again; make room",
                  s->path, (unsigned)(room >> 10), OUTCOME_BYTES_MIN >> 10);
    return room >= OUTCOME_BYTES_MIN;
}

static uint64_t above(uint64_t bytes, uint64_t floor)
{
    return bytes > floor ? bytes - floor : 0;
}

static uint64_t lesser(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t store_left(struct store *s)
{
    uint64_t now = clock_mono_ms();
    uint64_t checked = atomic_load_explicit(&s->shared.room_checked_ms, memory_order_relaxed);
    if (checked != 0 && now - checked < CHECK_MS)
        return atomic_load_explicit(&s->shared.left_bytes, memory_order_relaxed);
    uint64_t free_bytes = store_disk_free(s);
    uint64_t inside = atomic_load_explicit(&s->shared.inside_bytes, memory_order_relaxed);
    uint64_t ahead = atomic_load_explicit(&s->shared.ahead_bytes, memory_order_relaxed);
    uint64_t end = atomic_load_explicit(&s->shared.end_bytes, memory_order_relaxed);
    uint64_t whole = lesser(above(free_bytes + ahead, s->reserve_bytes + BLOCKS_LEFT),
                            above(s->map_bytes, end + s->reserve_bytes));
    uint64_t left =
        lesser(above(free_bytes, s->free_floor_bytes), whole) + above(inside, s->inside_min_bytes);
    atomic_store_explicit(&s->shared.free_bytes, free_bytes, memory_order_relaxed);
    atomic_store_explicit(&s->shared.left_bytes, left, memory_order_relaxed);
    atomic_store_explicit(&s->shared.room_checked_ms, now, memory_order_relaxed);
    return left;
}

bool store_has_room(struct store *s)
{
    return store_left(s) > 0;
}

uint64_t store_used(const struct store *s)
{
    uint64_t end = atomic_load_explicit(&s->shared.end_bytes, memory_order_relaxed);
    return above(end, atomic_load_explicit(&s->shared.inside_bytes, memory_order_relaxed));
}

void store_disk(const struct store *s, uint64_t *free_bytes_out, uint64_t *floor_bytes_out)
{
    *free_bytes_out = atomic_load_explicit(&s->shared.free_bytes, memory_order_relaxed);
    *floor_bytes_out = s->free_floor_bytes;
}
