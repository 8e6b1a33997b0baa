/* Is there room for new mail? The file never shrinks: what left the queue leaves free pages inside it, and a
 * disk that our own backlog once filled to the floor would never be above it again. So both count, the disk's
 * free space and the file's own. */
#include "core/base/clock.h"
#include "core/spool/store_priv.h"

#include <sys/statvfs.h>

enum {
    CHECK_MS = 100,
    /* Free pages in the file that stand for free disk: two batches of content. Some of them may be held by
     * readers for a moment; the file then grows by so much. */
    INSIDE_BYTES_MIN = 64 << 20,
    OUTCOME_BYTES_MIN = 4 << 20, /* some batches of outcomes */
    FREE_TABLE = 0,              /* LMDB's own: what is free, and the names of the others */
    NAMES_TABLE = 1,
    META_PAGES = 2,
};

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

void store_room_note(struct store *s, uint64_t pages)
{
    MDB_envinfo info;
    MDB_stat stat;
    if (mdb_env_info(s->env, &info) != 0 || mdb_env_stat(s->env, &stat) != 0)
        return;
    uint64_t all = (uint64_t)info.me_last_pgno + 1;
    uint64_t inside = all > pages ? (all - pages) * stat.ms_psize : 0;
    atomic_store_explicit(&s->shared.inside_bytes, inside, memory_order_relaxed);
}

bool store_room_for_outcomes(struct store *s, struct error *error)
{
    (void)store_has_room(s); /* looks at the disk */
    uint64_t room = atomic_load(&s->shared.free_bytes) + atomic_load(&s->shared.inside_bytes);
    if (room < OUTCOME_BYTES_MIN)
        error_set(error,
                  "no room for the spool %s: %u KB are free on its disk and inside it, and %u are "
                  "needed to note what is delivered, lest it be sent again; make room",
                  s->path, (unsigned)(room >> 10), OUTCOME_BYTES_MIN >> 10);
    return room >= OUTCOME_BYTES_MIN;
}

bool store_has_room(struct store *s)
{
    uint64_t now = clock_mono_ms();
    uint64_t checked = atomic_load_explicit(&s->shared.room_checked_ms, memory_order_relaxed);
    if (checked != 0 && now - checked < CHECK_MS)
        return atomic_load_explicit(&s->shared.has_room, memory_order_relaxed);
    struct statvfs v;
    uint64_t free_bytes = statvfs(s->path, &v) == 0 ? (uint64_t)v.f_bavail * v.f_frsize : 0;
    uint64_t inside = atomic_load_explicit(&s->shared.inside_bytes, memory_order_relaxed);
    bool room = free_bytes > s->free_floor_bytes || inside > INSIDE_BYTES_MIN;
    atomic_store_explicit(&s->shared.free_bytes, free_bytes, memory_order_relaxed);
    atomic_store_explicit(&s->shared.has_room, room, memory_order_relaxed);
    atomic_store_explicit(&s->shared.room_checked_ms, now, memory_order_relaxed);
    return room;
}

void store_disk(const struct store *s, uint64_t *free_bytes_out, uint64_t *floor_bytes_out)
{
    *free_bytes_out = atomic_load_explicit(&s->shared.free_bytes, memory_order_relaxed);
    *floor_bytes_out = s->free_floor_bytes;
}
