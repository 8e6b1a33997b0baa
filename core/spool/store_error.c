/* What went wrong with the store: what it means for a batch, and what to tell whoever
 * is to mend it. */
#include "core/config/units.h"
#include "core/spool/envelope.h"
#include "core/spool/store_priv.h"

#include <errno.h>

enum store_status store_judge(struct store *s, int rc)
{
    if (rc == MDB_SUCCESS)
        return STORE_OK;
    if (rc != MDB_PANIC || s->failed_rc == 0) /* that only says that something failed before */
        s->failed_rc = rc;
    bool no_room =
        rc == MDB_MAP_FULL || rc == MDB_TXN_FULL || rc == ENOSPC || rc == EDQUOT || rc == ENOMEM;
    return no_room ? STORE_NO_ROOM : STORE_FAILED;
}

void store_explain_damage(const struct store *s, uint64_t id, struct error *error)
{
    char behind[ENVELOPE_ID_SIZE];
    envelope_id_format(id, behind);
    error_set(
        error,
        "the queue in the spool %s cannot be read%s%s: its data.mdb is damaged. See the kernel's "
        "log "
        "(dmesg) for what the disk did; put a sound copy of the folder in its place, or another "
        "spool.path; `mdb_dump -s envelopes` (lmdb-utils) shows what can be read; then start the "
        "relay "
        "again",
        s->path, id != 0 ? " behind message " : "", id != 0 ? behind : "");
}

/* MDB_TXN_FULL cannot come of batches as bounded as ours; it would be a want of room in them. */
void store_explain(const struct store *s, struct error *error)
{
    char size[UNITS_TEXT_SIZE];
    switch (s->failed_rc) {
    case ENOSPC:
    case EDQUOT:
    case MDB_TXN_FULL:
        units_format_size(store_disk_free(s), size);
        error_set(error,
                  "the disk of the spool %s is full (%s; %s are free for this user): make room "
                  "there, then start the relay again",
                  s->path, mdb_strerror(s->failed_rc), size);
        return;
    case MDB_MAP_FULL:
        units_format_size(s->map_bytes, size);
        error_set(error,
                  "the spool %s has used up its spool.map_size of %s: set it higher than what the "
                  "disk holds, then start the relay again",
                  s->path, size);
        return;
    case ENOMEM:
        error_set(error,
                  "no memory to write the spool %s: leave the relay more (its control group, or "
                  "memory.max below that), then start it again",
                  s->path);
        return;
    default:
        error_set(
            error,
            "the spool %s cannot be written: %s. Its disk fails, or its data are damaged: see "
            "the kernel's log (dmesg); where the disk is bad copy the folder to another while "
            "it can be read, and set spool.path; then start the relay again",
            s->path, mdb_strerror(s->failed_rc));
    }
}
