#include "core/queue/suspensions.h"

#include "core/base/assert.h"
#include "core/base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096,
    LINE_BYTES = DOMAIN_SIZE + SUSPENSION_REASON_SIZE + 64,
    FILE_BYTES_MAX = SUSPENSIONS_MAX * LINE_BYTES,
    FILE_MODE = 0600,
};

static const uint64_t LONGEST_MS = SUSPENSION_DAYS_MAX * 24 * 3600000ull;

/* Ascending by domain, so "" is the first. */
struct set {
    unsigned count;
    struct suspension items[];
};

struct suspensions {
    char path[PATH_BYTES];
    bool unsaved; /* the disk does not know all of `set`; the control's thread */
    struct {
        pthread_mutex_t lock;
        struct set *set;   /* guard: lock, but for the control's thread, which alone changes it */
        atomic_uint count; /* of `set`: a look that costs nothing where there is none */
    } shared;
};

/* ---- looking ---- */

/* Where the domain stands, or would stand. */
static unsigned position(const struct set *set, const char *domain, bool *found_out)
{
    unsigned low = 0, high = set->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (strcmp(set->items[middle].domain, domain) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found_out = low < set->count && strcmp(set->items[low].domain, domain) == 0;
    return low;
}

unsigned suspensions_count(struct suspensions *s)
{
    return s != NULL ? atomic_load_explicit(&s->shared.count, memory_order_acquire) : 0;
}

bool suspensions_hold(struct suspensions *s, const char *domain)
{
    if (suspensions_count(s) == 0)
        return false;
    pthread_mutex_lock(&s->shared.lock);
    const struct set *set = s->shared.set;
    bool held = set->count > 0 && set->items[0].domain[0] == '\0';
    if (!held)
        (void)position(set, domain, &held);
    pthread_mutex_unlock(&s->shared.lock);
    return held;
}

bool suspensions_find(struct suspensions *s, const char *domain, struct suspension *out)
{
    bool found = false;
    if (suspensions_count(s) == 0)
        return false;
    pthread_mutex_lock(&s->shared.lock);
    unsigned at = position(s->shared.set, domain, &found);
    if (found)
        *out = s->shared.set->items[at];
    pthread_mutex_unlock(&s->shared.lock);
    return found;
}

unsigned suspensions_list(struct suspensions *s, struct suspension *out, unsigned max)
{
    if (suspensions_count(s) == 0)
        return 0;
    pthread_mutex_lock(&s->shared.lock);
    unsigned count = s->shared.set->count < max ? s->shared.set->count : max;
    memcpy(out, s->shared.set->items, count * sizeof *out);
    pthread_mutex_unlock(&s->shared.lock);
    return count;
}

uint64_t suspensions_next_end(struct suspensions *s)
{
    uint64_t next = 0;
    if (suspensions_count(s) == 0)
        return 0;
    pthread_mutex_lock(&s->shared.lock);
    for (unsigned i = 0; i < s->shared.set->count; i++) {
        uint64_t until = s->shared.set->items[i].until_mono_ms;
        if (until != 0 && (next == 0 || until < next))
            next = until;
    }
    pthread_mutex_unlock(&s->shared.lock);
    return next;
}

/* ---- the file ---- */

static void put_line(struct buf *out, const struct suspension *one, uint64_t mono_ms,
                     uint64_t wall_ms)
{
    uint64_t until = 0;
    if (one->until_mono_ms != 0)
        until = wall_ms + (one->until_mono_ms > mono_ms ? one->until_mono_ms - mono_ms : 0);
    buf_printf(out, "%llu %llu %s %s\n", (unsigned long long)one->since_wall_ms,
               (unsigned long long)until, one->domain[0] != '\0' ? one->domain : "*", one->reason);
}

static bool write_all(int fd, struct slice bytes)
{
    while (bytes.len > 0) {
        ssize_t n = write(fd, bytes.ptr, bytes.len);
        if (n <= 0)
            return false;
        bytes = slice_skip(bytes, (size_t)n);
    }
    return fsync(fd) == 0;
}

/* The name is on disk only when its folder is (fsync(2)). */
static bool sync_folder_of(const char *path)
{
    char folder[PATH_BYTES];
    (void)snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool well = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        (void)close(fd);
    return well;
}

/* How far writing the file has come; errno says why no further. */
enum written { WRITTEN_NOT, WRITTEN_UNSYNCED, WRITTEN };

static enum written replace_file(const char *path, struct slice bytes)
{
    char part[PATH_BYTES + 8];
    (void)snprintf(part, sizeof part, "%s.part", path);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, FILE_MODE);
    if (fd < 0)
        return WRITTEN_NOT;
    bool well = write_all(fd, bytes);
    int why = errno;
    if (close(fd) != 0 && well) {
        well = false;
        why = errno;
    }
    if (well && rename(part, path) == 0)
        return sync_folder_of(path) ? WRITTEN : WRITTEN_UNSYNCED;
    if (well)
        why = errno;
    (void)unlink(part);
    errno = why;
    return WRITTEN_NOT;
}

static enum written write_set(const struct suspensions *s, const struct set *set, uint64_t mono_ms,
                              uint64_t wall_ms)
{
    struct buf text;
    buf_init(&text, FILE_BYTES_MAX);
    for (unsigned i = 0; i < set->count; i++)
        put_line(&text, &set->items[i], mono_ms, wall_ms);
    errno = ENOMEM;
    enum written written = buf_ok(&text) ? replace_file(s->path, buf_slice(&text)) : WRITTEN_NOT;
    int why = errno;
    buf_fini(&text);
    errno = why;
    return written;
}

/* What was written is what holds now. */
static enum suspensions_change note_written(struct suspensions *s, enum written written,
                                            struct error *error)
{
    s->unsaved = written != WRITTEN;
    switch (written) {
    case WRITTEN_NOT:
        error_set(error,
                  "%s cannot be written (%m): this holds now, but a restart would bring back what "
                  "stands there, until it can be written; that is tried every few seconds",
                  s->path);
        break;
    case WRITTEN_UNSYNCED:
        error_set(error,
                  "the folder of %s cannot be synced (%m): this holds now and is written, but a "
                  "power cut may undo it; syncing is tried every few seconds",
                  s->path);
        break;
    case WRITTEN:
        return SUSPENSIONS_SAVED;
    }
    return SUSPENSIONS_UNSAVED;
}

/* ---- changing ---- */

static struct set *make_set(unsigned count)
{
    struct set *set = malloc(sizeof *set + count * sizeof *set->items);
    if (set != NULL)
        set->count = count;
    return set;
}

static void put_in_place(struct suspensions *s, struct set *set)
{
    pthread_mutex_lock(&s->shared.lock);
    struct set *former = s->shared.set;
    s->shared.set = set;
    atomic_store_explicit(&s->shared.count, set->count, memory_order_release);
    pthread_mutex_unlock(&s->shared.lock);
    free(former);
}

enum suspensions_change suspensions_set(struct suspensions *s, const struct suspension *one,
                                        uint64_t mono_ms, uint64_t wall_ms, struct error *error)
{
    const struct set *old = s->shared.set;
    bool found;
    unsigned at = position(old, one->domain, &found);
    if (!found && old->count == SUSPENSIONS_MAX) {
        error_set(error, "there are %d suspensions, as many as may be; resume some, or suspend all",
                  SUSPENSIONS_MAX);
        return SUSPENSIONS_REFUSED;
    }
    struct set *set = make_set(old->count + !found);
    if (set == NULL) {
        error_set(error, "out of memory; nothing was changed");
        return SUSPENSIONS_REFUSED;
    }
    memcpy(set->items, old->items, at * sizeof *set->items);
    set->items[at] = *one;
    unsigned behind = at + found;
    memcpy(&set->items[at + 1], &old->items[behind], (old->count - behind) * sizeof *set->items);
    enum written written = write_set(s, set, mono_ms, wall_ms);
    if (written == WRITTEN_NOT) {
        error_set(error, "%s cannot be written: %m; nothing was changed", s->path);
        free(set);
        return SUSPENSIONS_REFUSED;
    }
    enum suspensions_change change = note_written(s, written, error);
    put_in_place(s, set);
    return change;
}

enum suspensions_change suspensions_save(struct suspensions *s, uint64_t mono_ms, uint64_t wall_ms,
                                         struct error *error)
{
    return note_written(s, write_set(s, s->shared.set, mono_ms, wall_ms), error);
}

bool suspensions_are_saved(const struct suspensions *s)
{
    return !s->unsaved;
}

/* In place, for want of memory is no reason either. */
enum suspensions_change suspensions_clear(struct suspensions *s, const char *domain,
                                          uint64_t mono_ms, uint64_t wall_ms, struct error *error)
{
    struct set *set = s->shared.set;
    bool found;
    unsigned at = position(set, domain, &found);
    ASSERT(found);
    pthread_mutex_lock(&s->shared.lock);
    set->count--;
    memmove(&set->items[at], &set->items[at + 1], (set->count - at) * sizeof *set->items);
    atomic_store_explicit(&s->shared.count, set->count, memory_order_release);
    pthread_mutex_unlock(&s->shared.lock);
    return suspensions_save(s, mono_ms, wall_ms, error);
}

/* ---- loading ---- */

static struct slice next_word(struct slice *line)
{
    struct slice word = slice_take(*line, slice_find(*line, ' '));
    *line = slice_skip(*line, word.len + 1 <= line->len ? word.len + 1 : line->len);
    return word;
}

static bool is_plain(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ' || s.ptr[i] == 0x7f)
            return false;
    return true;
}

static bool read_line(struct slice line, struct suspension *out, uint64_t *until_wall_ms_out)
{
    *out = (struct suspension){.since_wall_ms = 0};
    struct slice since = next_word(&line), until = next_word(&line), domain = next_word(&line);
    return slice_to_u64(since, &out->since_wall_ms) && slice_to_u64(until, until_wall_ms_out) &&
           (slice_equal(domain, SLICE_LIT("*")) || domain_normalize(domain, out->domain)) &&
           is_plain(line) && slice_to_cstr(line, out->reason, sizeof out->reason);
}

/* Takes the line's in, unless its time is up. */
static bool load_line(struct set *set, struct slice line, uint64_t mono_ms, uint64_t wall_ms)
{
    struct suspension one;
    uint64_t until;
    bool found;
    if (set->count == SUSPENSIONS_MAX || !read_line(line, &one, &until))
        return false;
    if (until != 0 && until <= wall_ms)
        return true;
    uint64_t left = until - wall_ms; /* by a clock that may have been wrong */
    if (until != 0)
        one.until_mono_ms = mono_ms + (left < LONGEST_MS ? left : LONGEST_MS);
    unsigned at = position(set, one.domain, &found);
    if (found)
        return false;
    memmove(&set->items[at + 1], &set->items[at], (set->count - at) * sizeof *set->items);
    set->items[at] = one;
    set->count++;
    return true;
}

static bool load_file(struct suspensions *s, struct set *set, uint64_t mono_ms, uint64_t wall_ms,
                      struct error *error)
{
    char line[LINE_BYTES];
    FILE *file = fopen(s->path, "re");
    if (file == NULL && errno == ENOENT)
        return true;
    if (file == NULL) {
        error_set(error, "cannot read %s, which says what is suspended: %m", s->path);
        return false;
    }
    bool ok = true;
    unsigned number = 0;
    while (ok && fgets(line, sizeof line, file) != NULL) {
        struct slice text = slice_str(line);
        number++;
        ok = text.len > 0 && text.ptr[text.len - 1] == '\n' &&
             load_line(set, slice_take(text, text.len - 1), mono_ms, wall_ms);
    }
    if (ferror(file)) {
        error_set(error, "cannot read %s, which says what is suspended: %m", s->path);
        (void)fclose(file);
        return false;
    }
    if (!ok)
        error_set(error,
                  "%s:%u: not a suspension as `onward suspend` writes them; mend or remove the "
                  "line: mail that was to wait would be sent",
                  s->path, number);
    (void)fclose(file);
    return ok;
}

struct suspensions *suspensions_load(const char *path, uint64_t mono_ms, uint64_t wall_ms,
                                     struct error *error)
{
    struct suspensions *s = calloc(1, sizeof *s);
    struct set *set = make_set(SUSPENSIONS_MAX);
    if (s == NULL || set == NULL || strlen(path) >= sizeof s->path) {
        error_set(error, "out of memory for the suspensions, or their path is too long");
        free(s);
        free(set);
        return NULL;
    }
    (void)snprintf(s->path, sizeof s->path, "%s", path);
    set->count = 0;
    if (!load_file(s, set, mono_ms, wall_ms, error)) {
        free(set);
        free(s);
        return NULL;
    }
    struct set *small = realloc(set, sizeof *set + set->count * sizeof *set->items);
    s->shared.set = small != NULL ? small : set;
    pthread_mutex_init(&s->shared.lock, NULL);
    atomic_init(&s->shared.count, s->shared.set->count);
    return s;
}

void suspensions_destroy(struct suspensions **s)
{
    if (*s == NULL)
        return;
    pthread_mutex_destroy(&(*s)->shared.lock);
    free((*s)->shared.set);
    free(*s);
    *s = NULL;
}
