#include "tests/torture/image.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 512, FILES_MAX = 16, NAMES_MAX = 16, NAME_BYTES = 128, GROWTH = 1 << 20 };

/* An operation on a file that has not been synced. */
struct pending {
    uint32_t kind; /* TRACE_WRITE, TRACE_TRUNCATE or TRACE_ALLOCATE */
    uint64_t sequence, offset, length;
    const char *bytes;
    bool given_up; /* its sync failed: no later one makes it durable */
};

/* What a file would hold: `written` is where its last written byte ends, `size` may lie
 * behind that. */
struct content {
    char *bytes;
    uint64_t written, size, capacity;
};

struct file {
    uint64_t inode;
    struct content durable, whole;
    uint64_t *sector_sequence; /* of the durable content's sectors: the write each is of */
    uint64_t size_sequence;
    struct pending *pending;
    size_t pending_count, pending_capacity;
};

struct entry {
    char name[NAME_BYTES]; /* below the spool */
    uint64_t inode;        /* 0: none of this name */
};

/* The spool's folder, as far as it is durable or with all that was done. */
struct names {
    struct entry entries[NAMES_MAX];
    unsigned count;
};

struct name_op {
    uint32_t kind;
    char name[NAME_BYTES], to[NAME_BYTES];
    uint64_t inode;
};

struct image {
    struct file files[FILES_MAX];
    unsigned file_count;
    struct names durable_names, whole_names;
    struct name_op name_ops[NAMES_MAX];
    unsigned name_op_count;
    char spool[NAME_BYTES];
    bool spool_is_durable;
    uint64_t sequence;
};

static _Noreturn void fail(const char *what)
{
    (void)fprintf(stderr, "states: %s\n", what);
    abort();
}

static void *resize(void *old, size_t bytes)
{
    void *p = realloc(old, bytes);
    if (p == NULL)
        fail("out of memory");
    return p;
}

struct image *image_create(void)
{
    struct image *image = calloc(1, sizeof *image);
    if (image == NULL)
        fail("out of memory");
    image->spool_is_durable = true;
    return image;
}

void image_destroy(struct image **image)
{
    for (unsigned i = 0; i < (*image)->file_count; i++) {
        struct file *f = &(*image)->files[i];
        free(f->durable.bytes);
        free(f->whole.bytes);
        free(f->sector_sequence);
        free(f->pending);
    }
    free(*image);
    *image = NULL;
}

/* ---- content ---- */

static void reserve(struct content *c, uint64_t end)
{
    if (end <= c->capacity && c->bytes != NULL)
        return;
    uint64_t capacity = (end + GROWTH) / GROWTH * GROWTH;
    c->bytes = resize(c->bytes, capacity);
    memset(c->bytes + c->capacity, 0, capacity - c->capacity);
    c->capacity = capacity;
}

static void put_bytes(struct content *c, uint64_t offset, const char *bytes, uint64_t length)
{
    uint64_t end = offset + length;
    reserve(c, end);
    memcpy(c->bytes + offset, bytes, length);
    c->written = end > c->written ? end : c->written;
    c->size = end > c->size ? end : c->size;
}

static void set_size(struct content *c, uint64_t size)
{
    if (size < c->written) {
        memset(c->bytes + size, 0, c->written - size);
        c->written = size;
    }
    c->size = size;
}

/* All of it, whatever stands in its way. */
static void apply(struct content *c, const struct pending *p)
{
    if (p->kind == TRACE_WRITE)
        put_bytes(c, p->offset, p->bytes, p->length);
    else if (p->kind == TRACE_TRUNCATE || p->offset > c->size)
        set_size(c, p->offset);
}

/* The part of (offset, length) that lies in the sector at `at`. */
static uint64_t sector_part(const struct pending *p, uint64_t at)
{
    uint64_t next = (at / SECTOR + 1) * SECTOR, end = p->offset + p->length;
    return (next < end ? next : end) - at;
}

static struct file *file_of(struct image *image, uint64_t inode)
{
    for (unsigned i = 0; i < image->file_count; i++)
        if (image->files[i].inode == inode)
            return &image->files[i];
    if (image->file_count == FILES_MAX)
        fail("too many files in the spool");
    struct file *f = &image->files[image->file_count++];
    f->inode = inode;
    return f;
}

/* ---- what is durable ---- */

static void make_durable(struct file *f, const struct pending *p)
{
    if (p->kind != TRACE_WRITE) {
        apply(&f->durable, p);
        f->size_sequence = p->sequence;
        return;
    }
    uint64_t before = f->durable.capacity / SECTOR;
    reserve(&f->durable, p->offset + p->length);
    uint64_t sectors = f->durable.capacity / SECTOR;
    if (sectors > before) {
        f->sector_sequence = resize(f->sector_sequence, sectors * sizeof *f->sector_sequence);
        memset(f->sector_sequence + before, 0, (sectors - before) * sizeof *f->sector_sequence);
    }
    /* A sector goes to the disk whole, with what older writes had put into it. */
    uint64_t end = p->offset + p->length;
    for (uint64_t at = p->offset / SECTOR * SECTOR; at < end && at < f->whole.written;
         at += SECTOR) {
        uint64_t left = f->whole.written - at;
        put_bytes(&f->durable, at, f->whole.bytes + at, left < SECTOR ? left : SECTOR);
        f->sector_sequence[at / SECTOR] = p->sequence;
    }
}

static void on_sync(struct file *f, bool failed)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->pending_count; i++) {
        struct pending *p = &f->pending[i];
        p->given_up |= failed;
        if (p->given_up)
            f->pending[kept++] = *p;
        else
            make_durable(f, p);
    }
    f->pending_count = kept;
}

/* ---- names ---- */

static struct entry *entry_of(struct names *names, const char *name)
{
    for (unsigned i = 0; i < names->count; i++)
        if (strcmp(names->entries[i].name, name) == 0)
            return &names->entries[i];
    if (names->count == NAMES_MAX)
        fail("too many names in the spool");
    struct entry *e = &names->entries[names->count++];
    (void)snprintf(e->name, sizeof e->name, "%s", name);
    return e;
}

static void apply_name(struct names *names, const struct name_op *op)
{
    struct entry *e = entry_of(names, op->name);
    if (op->kind == TRACE_CREATE)
        e->inode = op->inode;
    if (op->kind == TRACE_RENAME)
        entry_of(names, op->to)->inode = e->inode;
    if (op->kind == TRACE_RENAME || op->kind == TRACE_UNLINK)
        e->inode = 0;
}

static void on_name(struct image *image, const struct trace_record *r, const char *payload)
{
    struct name_op op = {.kind = r->kind, .inode = r->file};
    char text[2 * NAME_BYTES] = "";
    if (r->length >= sizeof text)
        fail("a name is too long");
    memcpy(text, payload, r->length);
    const char *slash = strchr(text, '/'), *to = strchr(text + strlen(text) + 1, '/');
    if (slash == NULL || image->name_op_count == NAMES_MAX)
        fail("a strange name in the trace");
    (void)snprintf(image->spool, sizeof image->spool, "%.*s", (int)(slash - text), text);
    (void)snprintf(op.name, sizeof op.name, "%s", slash + 1);
    if (r->kind == TRACE_RENAME)
        (void)snprintf(op.to, sizeof op.to, "%s", to != NULL ? to + 1 : "");
    apply_name(&image->whole_names, &op);
    image->name_ops[image->name_op_count++] = op;
}

static void on_dirsync(struct image *image, const struct trace_record *r)
{
    if ((r->flags & TRACE_FAILED) != 0)
        return;
    if (r->offset == 0) {
        image->spool_is_durable = true;
        return;
    }
    for (unsigned i = 0; i < image->name_op_count; i++)
        apply_name(&image->durable_names, &image->name_ops[i]);
    image->name_op_count = 0;
}

/* ---- the trace's operations ---- */

static void add_pending(struct file *f, const struct pending *p)
{
    if (f->pending_count == f->pending_capacity) {
        f->pending_capacity = f->pending_capacity * 2 + 64;
        f->pending = resize(f->pending, f->pending_capacity * sizeof *f->pending);
    }
    f->pending[f->pending_count++] = *p;
    apply(&f->whole, p);
}

void image_begin(struct image *image, const struct trace_record *r, const char *payload)
{
    if (r->kind == TRACE_WRITE || r->kind == TRACE_TRUNCATE || r->kind == TRACE_ALLOCATE) {
        struct pending p = {.kind = r->kind,
                            .sequence = ++image->sequence,
                            .offset = r->offset,
                            .length = r->length,
                            .bytes = payload};
        add_pending(file_of(image, r->file), &p);
    } else if (r->kind == TRACE_MKDIR) {
        (void)snprintf(image->spool, sizeof image->spool, "%.*s", (int)r->length, payload);
        image->spool_is_durable = false;
    } else if (r->kind == TRACE_CREATE || r->kind == TRACE_RENAME || r->kind == TRACE_UNLINK) {
        on_name(image, r, payload);
    }
}

void image_end(struct image *image, const struct trace_record *r)
{
    struct file *f = r->file != 0 && r->kind != TRACE_MKDIR && r->kind != TRACE_DIRSYNC
                         ? file_of(image, r->file)
                         : NULL;
    if (f != NULL && r->kind == TRACE_WRITE && (r->flags & TRACE_SYNCED) != 0)
        make_durable(f, &f->pending[--f->pending_count]);
    else if (f != NULL && r->kind == TRACE_SYNC)
        on_sync(f, (r->flags & TRACE_FAILED) != 0);
    else if (r->kind == TRACE_DIRSYNC)
        on_dirsync(image, r);
}

/* ---- drawing a state ---- */

/* Which operations, and of each which sectors. */
struct choice {
    enum image_mode mode;
    struct random *random;
    uint64_t bound;    /* of PREFIX and SUFFIX: an operation's number */
    uint64_t torn;     /* of PREFIX: so many sectors of the operation at the bound */
    uint64_t percent;  /* of SUBSET and SECTORS */
    uint64_t left_out; /* of BUT_ONE: a sector's number, counted through all operations */
};

static uint64_t sectors_of(const struct pending *p)
{
    return p->kind == TRACE_WRITE
               ? (p->offset + p->length + SECTOR - 1) / SECTOR - p->offset / SECTOR
               : 1;
}

static struct choice choose(const struct file *f, enum image_mode mode, struct random *random)
{
    static const uint64_t percents[] = {10, 50, 90};
    uint64_t sectors = 0;
    for (size_t i = 0; i < f->pending_count; i++)
        sectors += sectors_of(&f->pending[i]);
    struct choice c = {
        .mode = mode, .random = random, .percent = percents[random_below(random, 3)]};
    c.bound = random_below(random, f->pending_count + 1);
    c.torn =
        c.bound < f->pending_count ? random_below(random, sectors_of(&f->pending[c.bound]) + 1) : 0;
    c.left_out = sectors > 0 ? random_below(random, sectors) : 0;
    return c;
}

/* Whether sector `in_op` of operation `op` is on the disk; `counted` sectors of others
 * come before it. */
static bool is_there(const struct choice *c, bool op_drawn, uint64_t op, uint64_t in_op,
                     uint64_t counted)
{
    switch (c->mode) {
    case IMAGE_NONE:
    case IMAGE_MODES:
        return false;
    case IMAGE_ALL:
        return true;
    case IMAGE_PREFIX:
        return op < c->bound || (op == c->bound && in_op < c->torn);
    case IMAGE_SUFFIX:
        return op >= c->bound;
    case IMAGE_SUBSET:
        return op_drawn;
    case IMAGE_SECTORS:
        return random_below(c->random, 100) < c->percent;
    case IMAGE_BUT_ONE:
        return counted + in_op != c->left_out;
    }
    return false;
}

/* A sector that is not on the disk, in a part of the file that was never synced: anything
 * may be there. */
static void fill(struct random *random, char *bytes, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        bytes[i] = (char)random_u64(random);
}

static void draw_write(const struct file *f, const struct pending *p, const struct choice *c,
                       uint64_t op, uint64_t counted, struct content *out)
{
    bool drawn = random_below(c->random, 100) < c->percent;
    uint64_t number = 0;
    for (uint64_t at = p->offset, part; at < p->offset + p->length; at += part, number++) {
        part = sector_part(p, at);
        bool newer = at < f->durable.written && f->sector_sequence[at / SECTOR] > p->sequence;
        if (!newer && is_there(c, drawn, op, number, counted))
            put_bytes(out, at, p->bytes + (at - p->offset), part);
    }
}

static void draw_content(const struct file *f, enum image_mode mode, struct random *random,
                         struct content *out)
{
    struct choice c = choose(f, mode, random);
    uint64_t counted = 0;
    reserve(out, f->whole.written);
    out->written = out->size = 0;
    put_bytes(out, 0, f->durable.bytes != NULL ? f->durable.bytes : "", f->durable.written);
    out->size = f->durable.size;
    bool dirty = mode != IMAGE_NONE && random_below(random, 2) == 0;
    if (dirty && f->whole.written > f->durable.written) /* allocated, and not overwritten */
        fill(random, out->bytes + out->written, f->whole.written - out->written);
    else
        memset(out->bytes + out->written, 0, out->capacity - out->written);
    for (size_t i = 0; i < f->pending_count; i++) {
        const struct pending *p = &f->pending[i];
        if (p->kind == TRACE_WRITE)
            draw_write(f, p, &c, i, counted, out);
        else if (p->sequence > f->size_sequence &&
                 is_there(&c, random_below(random, 2) == 0, i, 0, counted))
            apply(out, p);
        counted += sectors_of(p);
    }
    if (dirty && f->whole.size > out->size) { /* the size came through, the content did not */
        out->size = f->whole.size;
        out->written = f->whole.written > out->written ? f->whole.written : out->written;
    }
}

static void write_file(const char *path, const struct content *c)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    uint64_t len = c->written < c->size ? c->written : c->size;
    if (fd < 0 || pwrite(fd, c->bytes, len, 0) != (ssize_t)len ||
        ftruncate(fd, (off_t)c->size) != 0)
        fail("cannot write a state");
    (void)close(fd);
}

/* LMDB's table of readers: written through a mapping, and meant to be worthless after a start of
 * the machine. */
static void draw_readers(struct random *random, struct content *out)
{
    reserve(out, GROWTH);
    out->written = out->size = random_below(random, 3) == 0 ? 0 : 1280 + random_below(random, 4096);
    if (random_below(random, 2) == 0)
        fill(random, out->bytes, out->size);
    else
        memset(out->bytes, 0, out->size);
}

static struct names draw_names(const struct image *image, enum image_mode mode,
                               struct random *random)
{
    struct names names = image->durable_names;
    uint64_t bound = random_below(random, image->name_op_count + 1);
    bool in_order = random_below(random, 2) == 0;
    for (unsigned i = 0; i < image->name_op_count; i++) {
        bool there = in_order ? i < bound : random_below(random, 2) == 0;
        if (mode == IMAGE_ALL || (mode != IMAGE_NONE && there))
            apply_name(&names, &image->name_ops[i]);
    }
    return names;
}

const char *image_draw(struct image *image, enum image_mode mode, struct random *random,
                       const char *parent)
{
    char path[2 * NAME_BYTES + 16];
    struct content content = {0};
    if (!image->spool_is_durable &&
        (mode == IMAGE_NONE || (mode != IMAGE_ALL && random_below(random, 2) == 0)))
        return NULL;
    (void)snprintf(path, sizeof path, "%s/%s", parent, image->spool);
    if (mkdir(path, 0700) != 0)
        fail("cannot make a state's folder");
    struct names names = draw_names(image, mode, random);
    for (unsigned i = 0; i < names.count; i++) {
        if (names.entries[i].inode == 0)
            continue;
        if (strcmp(names.entries[i].name, "lock.mdb") == 0)
            draw_readers(random, &content);
        else
            draw_content(file_of(image, names.entries[i].inode), mode, random, &content);
        int len =
            snprintf(path, sizeof path, "%s/%s/%s", parent, image->spool, names.entries[i].name);
        if (len < 0 || (size_t)len >= sizeof path)
            fail("a name is too long");
        write_file(path, &content);
    }
    free(content.bytes);
    return image->spool;
}

const char *image_whole(struct image *image, const char *name, uint64_t *inode_out,
                        uint64_t *written_out, uint64_t *size_out)
{
    const struct entry *e = entry_of(&image->whole_names, name);
    if (e->inode == 0)
        return NULL;
    const struct file *f = file_of(image, e->inode);
    *inode_out = e->inode;
    *written_out = f->whole.written;
    *size_out = f->whole.size;
    return f->whole.bytes;
}
