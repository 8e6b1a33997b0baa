#include "core/base/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#ifndef ONWARD_NO_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

enum { TEXT_MAX = 4096, MUST_WAIT_MS = 10, MUST_TRIES = 500 };

static struct slice read_text(int fd, char text[TEXT_MAX])
{
    ssize_t n = fd >= 0 ? pread(fd, text, TEXT_MAX, 0) : -1;
    return slice_of(text, n > 0 ? (size_t)n : 0);
}

static struct slice read_file(const char *path, char text[TEXT_MAX])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct slice s = read_text(fd, text);
    if (fd >= 0)
        (void)close(fd);
    return s;
}

/* ---- what is held ---- */

int memory_open(void)
{
    return open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
}

/* The next of the numbers that stand apart by single spaces. */
static uint64_t next_number(struct slice *s)
{
    uint64_t n = 0;
    size_t len = slice_find(*s, ' ');
    if (!slice_to_u64(slice_take(*s, len), &n))
        n = 0;
    *s = slice_skip(*s, len + 1);
    return n;
}

static uint64_t allocated(void)
{
#ifndef ONWARD_NO_JEMALLOC
    uint64_t epoch = 1;
    size_t bytes = 0, size = sizeof bytes;
    (void)mallctl("epoch", NULL, NULL, &epoch, sizeof epoch);
    if (mallctl("stats.allocated", &bytes, &size, NULL, 0) == 0)
        return bytes;
#endif
    return 0;
}

struct memory_figures memory_read(int fd)
{
    /* size resident shared ..., in pages; "shared" is what belongs to files (proc(5)). */
    char text[TEXT_MAX];
    struct slice s = read_text(fd, text);
    (void)next_number(&s);
    uint64_t resident = next_number(&s), of_files = next_number(&s);
    uint64_t pages = resident > of_files ? resident - of_files : 0;
    return (struct memory_figures){.anonymous_bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE),
                                   .allocated_bytes = allocated()};
}

void memory_give_back(void)
{
#ifndef ONWARD_NO_JEMALLOC
    char name[32];
    (void)snprintf(name, sizeof name, "arena.%u.purge", (unsigned)MALLCTL_ARENAS_ALL);
    (void)mallctl(name, NULL, NULL, NULL, 0);
#endif
}

void *memory_must(size_t count, size_t size)
{
    const struct timespec pause = {.tv_nsec = MUST_WAIT_MS * 1000000L};
    for (int tries = 0; tries < MUST_TRIES; tries++) {
        void *p = calloc(count, size);
        if (p != NULL)
            return p;
        memory_give_back();
        (void)nanosleep(&pause, NULL);
    }
    static const char text[] =
        "onward: out of memory for the outcome of a delivery; stopping. What "
        "got its 250 is in the spool: give the relay more memory (see "
        "memory.max) and start again\n";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(EX_OSERR);
}

/* ---- what may be held ---- */

/* "max" and whatever is no number mean that there is no limit. */
static uint64_t limit_in(const char *path)
{
    char text[TEXT_MAX];
    uint64_t limit = 0;
    struct slice s = read_file(path, text);
    return slice_to_u64(slice_take(s, slice_find(s, '\n')), &limit) ? limit : 0;
}

static uint64_t lesser(uint64_t a, uint64_t b)
{
    if (a == 0 || b == 0)
        return a + b;
    return a < b ? a : b;
}

uint64_t memory_group_limit_at(const char *root, struct slice path)
{
    char file[TEXT_MAX];
    uint64_t limit = 0;
    for (;;) {
        static const char *const names[] = {"memory.max", "memory.high"};
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            int len = snprintf(file, sizeof file, "%s%.*s/%s", root, SLICE_ARG(path), names[i]);
            if (len > 0 && (size_t)len < sizeof file)
                limit = lesser(limit, limit_in(file));
        }
        if (path.len == 0)
            return limit;
        do { /* the group above it */
            path.len--;
        } while (path.len > 0 && path.ptr[path.len] != '/');
    }
}

uint64_t memory_group_limit(void)
{
    /* "0::/the/group": the one of the unified hierarchy, among others (cgroups(7)). */
    char text[TEXT_MAX];
    struct slice rest = read_file("/proc/self/cgroup", text);
    while (rest.len > 0) {
        struct slice line = slice_take(rest, slice_find(rest, '\n'));
        rest = slice_skip(rest, line.len + 1);
        if (line.len > 3 && memcmp(line.ptr, "0::", 3) == 0)
            return memory_group_limit_at("/sys/fs/cgroup", slice_skip(line, 3));
    }
    return 0;
}
