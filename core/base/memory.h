/* How much memory this process holds and may hold, as the kernel sees it.
 *
 * What counts is anonymous memory: the heap, stacks, and whatever libraries map for themselves. The
 * spool's map does not: its pages belong to a file, and the kernel takes clean ones back when it
 * needs them. Where a control group limits memory (cgroup v2), the kernel kills for what is left
 * when nothing can be taken back, which is anonymous memory, sockets' buffers and page tables. */
#ifndef ONWARD_CORE_BASE_MEMORY_H
#define ONWARD_CORE_BASE_MEMORY_H

#include "core/base/slice.h"

/* What this process holds, in bytes. */
struct memory_figures {
    uint64_t anonymous_bytes; /* resident: what the kernel counts */
    uint64_t allocated_bytes; /* live in the allocator's eyes; 0: it does not tell (sanitizers) */
};

/* Opens what memory_read reads, so that it works whatever is taken away later. Returns a
 * descriptor, -1 where there is no /proc. */
int memory_open(void);

/* The figures now; zeros where `fd` is -1. Takes some 20 us: for a timer, not for every message. */
struct memory_figures memory_read(int fd);

/* Zeroed memory for what can neither be refused nor deferred: without it mail would be lost until
 * the next start. Where there is none it waits, up to 5 s, for others to give some back (a worker
 * stands still meanwhile: it has run out of what it works with), then ends the process with status
 * 71 (EX_OSERR), having said so. For free(). */
void *memory_must(size_t count, size_t size);

/* Gives what the allocator keeps for later back to the kernel. */
void memory_give_back(void);

/* The least of memory.max and memory.high of this process's control group and of all above it; 0:
 * unlimited, or cannot be told. */
uint64_t memory_group_limit(void);

/* The same below `root` (where control groups are mounted), for a process in the group `path`
 * ("/system.slice/onward.service"). */
uint64_t memory_group_limit_at(const char *root, struct slice path);

#endif
