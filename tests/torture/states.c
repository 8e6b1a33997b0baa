/* Replays a trace of disk.c, and after each operation draws states that a power cut there may
 * leave; each is opened with the relay's own store.
 *
 *   states TRACE WORKDIR SEED STATES [SPOOL]
 *
 * About STATES states are drawn, evenly over the records of the trace (an operation that was under
 * way, or a 250 that went out) and the kinds of loss (image.h); at the first records, where the
 * spool is made, all kinds are. In each of them
 *
 *   - the spool opens, and what it holds is, record for record, what it held after one of its commits;
 *   - that commit is not older than the last one that was synced: no outcome comes undone;
 *   - every message with a 250 by then that had not been removed by that commit is there, whole.
 *
 * SPOOL is the folder that the trace was taken of, closed since: its data.mdb must be what the
 * trace adds up to, else something was written that the trace has not seen. Each state is looked at
 * in a process of its own, for a broken one may well crash the reader. Prints the counts; the exit
 * status is 1 where anything was wrong. */
#include "tests/torture/image.h"
#include "tests/torture/reference.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096,
    TEXT_BYTES = 512,
    TOLD_MAX = 5,
    REPLIES_MAX = 1 << 16,
    CREATION_RECORDS = 24,
    META_BYTES = 8192,
    JUDGE_CPU_S = 30, /* for one state, which takes milliseconds: pages may lead round in circles */
};

static const char DATA_FILE[] = "data.mdb";

struct trace {
    const char *bytes;
    size_t len;
};

struct run {
    struct trace trace;
    const char *workdir;
    struct random random;
    uint64_t wanted, records; /* states; records of the trace */
    struct reference *reference;
    uint64_t replies[REPLIES_MAX]; /* ids whose 250 went out so far */
    size_t reply_count;
    uint64_t synced_txn; /* the last commit that is durable */
    uint64_t states, wrong, empty;
    char *verdict; /* shared with the children: what was wrong with a state */
};

static _Noreturn void fail(const char *what)
{
    (void)fprintf(stderr, "states: %s\n", what);
    exit(2);
}

/* Takes the record at `*at` with its payload, and moves on; false at the end. */
static bool next_record(const struct trace *t, size_t *at, struct trace_record *out,
                        const char **payload_out)
{
    if (t->len - *at < sizeof *out)
        return false;
    memcpy(out, t->bytes + *at, sizeof *out);
    *at += sizeof *out;
    *payload_out = t->bytes + *at;
    if (out->kind >= TRACE_KINDS || out->length > t->len - *at)
        fail("the trace is cut off or damaged");
    *at += out->length;
    return true;
}

static void remove_folder(const char *parent, const char *name)
{
    static const char *const files[] = {"data.mdb", "data.mdb.new", "lock.mdb", "data.mdb.new-lock",
                                        "lock"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        (void)snprintf(path, sizeof path, "%s/%s/%s", parent, name, files[i]);
        (void)unlink(path);
    }
    (void)snprintf(path, sizeof path, "%s/%s", parent, name);
    if (rmdir(path) != 0 && errno != ENOENT)
        fail("a state's folder cannot be removed: it holds a file of unknown name");
}

/* A write of LMDB's root, which is a commit; or the file with the first one gets its name. */
static bool is_commit(struct image *image, const struct trace_record *r)
{
    uint64_t inode, written, size;
    if (r->kind != TRACE_WRITE && r->kind != TRACE_RENAME)
        return false;
    bool is_there = image_whole(image, DATA_FILE, &inode, &written, &size) != NULL;
    return is_there && (r->kind == TRACE_RENAME ||
                        (r->file == inode && r->offset < META_BYTES && r->length < META_BYTES / 2));
}

static uint64_t txn_now(const struct run *run, struct image *image)
{
    char path[PATH_BYTES];
    uint64_t txn = 0, digest;
    const char *name = image_draw(image, IMAGE_ALL, &(struct random){{1}}, run->workdir);
    if (name == NULL)
        fail("the spool is nowhere");
    (void)snprintf(path, sizeof path, "%s/%s", run->workdir, name);
    (void)reference_read(path, &txn, &digest);
    remove_folder(run->workdir, name);
    return txn;
}

/* ---- the course of the commits ---- */

static void compare_with_disk(struct image *image, const char *spool)
{
    char path[PATH_BYTES];
    uint64_t inode, written, size;
    const char *whole = image_whole(image, DATA_FILE, &inode, &written, &size);
    (void)snprintf(path, sizeof path, "%s/%s", spool, DATA_FILE);
    int fd = open(path, O_RDONLY);
    struct stat s;
    if (whole == NULL || fd < 0 || fstat(fd, &s) != 0 || s.st_ino != inode ||
        (uint64_t)s.st_size != size)
        fail("the spool's file is not the trace's: something was not recorded");
    const char *disk = mmap(NULL, written, PROT_READ, MAP_SHARED, fd, 0);
    if (disk == MAP_FAILED || memcmp(disk, whole, written) != 0)
        fail("the trace does not add up to the spool's file: a write was not recorded");
    (void)munmap((void *)(uintptr_t)disk, written);
    (void)close(fd);
}

/* Replays all of it without a loss, and notes what the spool held after each commit. */
static void note_commits(struct run *run, const char *spool)
{
    struct image *image = image_create();
    struct trace_record r;
    const char *payload, *what;
    char path[PATH_BYTES];
    for (size_t at = 0; next_record(&run->trace, &at, &r, &payload); run->records++) {
        image_begin(image, &r, payload);
        image_end(image, &r);
        if (!is_commit(image, &r))
            continue;
        const char *name = image_draw(image, IMAGE_ALL, &run->random, run->workdir);
        (void)snprintf(path, sizeof path, "%s/%s", run->workdir, name != NULL ? name : "");
        if ((r.flags & TRACE_FAILED) == 0 && !reference_note(run->reference, path, &what))
            fail(what);
        remove_folder(run->workdir, name);
    }
    if (spool != NULL)
        compare_with_disk(image, spool);
    image_destroy(&image);
}

/* ---- one state ---- */

static void say(const struct run *run, const char *what, const char *why, uint64_t number)
{
    (void)snprintf(run->verdict, TEXT_BYTES, "%s%s (%016" PRIx64 ")", what, why, number);
}

/* Those of the messages with a 250 that must be there when the last commit is `txn`. */
static size_t due_messages(const struct run *run, uint64_t txn, uint64_t *ids)
{
    size_t count = 0;
    for (size_t i = 0; i < run->reply_count; i++) {
        struct reference_message m = reference_message(run->reference, run->replies[i]);
        if (txn < m.went || m.came == 0)
            ids[count++] = run->replies[i];
    }
    return count;
}

/* Judges the spool in `path`, where there may be none; speaks where it is wrong. In a child. */
static void judge(const struct run *run, const char *path)
{
    static uint64_t ids[REPLIES_MAX];
    char data[PATH_BYTES + 16];
    uint64_t txn = 0, digest = 0, known = 0, id;
    (void)snprintf(data, sizeof data, "%s/%s", path, DATA_FILE);
    if (access(data, F_OK) != 0) { /* what is accepted and not done with is lost */
        size_t lost = due_messages(run, run->synced_txn, ids);
        if (lost > 0)
            say(run, "a message with a 250 is gone with the spool's file", "", ids[0]);
        return;
    }
    struct stat s;
    bool is_empty = stat(data, &s) == 0 && s.st_size == 0;
    if (!is_empty && !reference_read(path, &txn, &digest)) {
        const char *why = reference_check_store(path, NULL, 0, &id);
        say(run, "it cannot be read: ", why != NULL ? why : "damaged inside", txn);
        return;
    }
    if (txn > 0 && (!reference_digest(run->reference, txn, &known) || known != digest)) {
        say(run, "what it holds is not what any commit left", "", txn);
        return;
    }
    if (txn < run->synced_txn) {
        say(run, "a commit that was synced is undone", "", txn);
        return;
    }
    size_t count = due_messages(run, txn, ids);
    const char *wrong = reference_check_store(path, ids, count, &id);
    if (wrong != NULL)
        say(run, "a message with a 250: ", wrong, id);
}

static void try_state(struct run *run, struct image *image, enum image_mode mode)
{
    char path[PATH_BYTES];
    const char *name = image_draw(image, mode, &run->random, run->workdir);
    int status = 0;
    run->states++;
    run->empty += name == NULL;
    (void)snprintf(path, sizeof path, "%s/%s", run->workdir, name != NULL ? name : "none");
    run->verdict[0] = '\0';
    pid_t child = fork();
    if (child == 0) {
        (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        (void)setrlimit(RLIMIT_CPU, &(struct rlimit){JUDGE_CPU_S, JUDGE_CPU_S});
        (void)close(STDERR_FILENO);
        judge(run, path);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        fail("no process to look at a state with");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        say(run, "the reader crashes on it, or does not end", "", (uint64_t)status);
    if (run->verdict[0] != '\0' && run->wrong++ < TOLD_MAX)
        printf("   state %" PRIu64 ", loss of kind %d: %s\n", run->states, (int)mode, run->verdict);
    if (name != NULL)
        remove_folder(run->workdir, name);
}

/* How many states of one kind to draw at the record of this number. */
static uint64_t draws_at(struct run *run, uint64_t number)
{
    uint64_t per_draw = run->records * IMAGE_MODES;
    uint64_t draws = run->wanted / per_draw +
                     (random_below(&run->random, per_draw) < run->wanted % per_draw ? 1 : 0);
    return number < CREATION_RECORDS && draws == 0 ? 1 : draws;
}

static void draw_states(struct run *run)
{
    struct image *image = image_create();
    struct trace_record r;
    const char *payload;
    uint64_t number = 0;
    for (size_t at = 0; next_record(&run->trace, &at, &r, &payload); number++) {
        image_begin(image, &r, payload);
        if (r.kind == TRACE_REPLY && run->reply_count < REPLIES_MAX)
            run->replies[run->reply_count++] = r.offset;
        for (unsigned mode = 0; mode < IMAGE_MODES; mode++)
            for (uint64_t left = draws_at(run, number); left > 0; left--)
                try_state(run, image, (enum image_mode)mode);
        image_end(image, &r);
        if (is_commit(image, &r) && (r.flags & (TRACE_SYNCED | TRACE_FAILED)) == TRACE_SYNCED)
            run->synced_txn = txn_now(run, image);
    }
    image_destroy(&image);
}

static void map_trace(struct run *run, const char *path)
{
    struct stat s;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &s) != 0 || s.st_size == 0)
        fail("there is no trace");
    run->trace.len = (size_t)s.st_size;
    run->trace.bytes = mmap(NULL, run->trace.len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (run->trace.bytes == MAP_FAILED)
        fail("the trace cannot be mapped");
    (void)close(fd);
}

int main(int argc, char **argv)
{
    static struct run run;
    size_t transactions, messages;
    if (argc < 5 || argc > 6)
        fail("usage: states TRACE WORKDIR SEED STATES [SPOOL]");
    map_trace(&run, argv[1]);
    run.workdir = argv[2];
    random_init_seed(&run.random, strtoull(argv[3], NULL, 10));
    run.wanted = strtoull(argv[4], NULL, 10);
    run.reference = reference_create();
    run.verdict = mmap(NULL, TEXT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (run.verdict == MAP_FAILED)
        fail("out of memory");
    note_commits(&run, argc > 5 ? argv[5] : NULL);
    draw_states(&run);
    reference_counts(run.reference, &transactions, &messages);
    printf("   %" PRIu64 " states after %zu commits of %zu messages, %zu with a 250; %" PRIu64
           " without a spool yet; wrong: %" PRIu64 "\n",
           run.states, transactions, messages, run.reply_count, run.empty, run.wrong);
    reference_destroy(&run.reference);
    return run.wrong > 0;
}
