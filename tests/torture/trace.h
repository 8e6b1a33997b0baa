/* The trace of a spool's writes: what disk.c records and states.c replays. A file of records, each
 * with its payload behind it, in the order in which they happened. Both ends are builds of the same
 * tree on the same machine: the structs are written as they are in memory. */
#ifndef ONWARD_TESTS_TORTURE_TRACE_H
#define ONWARD_TESTS_TORTURE_TRACE_H

#include <stdint.h>

enum trace_kind {
    TRACE_CREATE,   /* payload: name below the spool's parent; `file` is new */
    TRACE_MKDIR,    /* the spool's own folder was made */
    TRACE_RENAME,   /* payload: old name, NUL, new name */
    TRACE_UNLINK,   /* payload: name */
    TRACE_WRITE,    /* payload: what was written, at `offset` */
    TRACE_TRUNCATE, /* to `offset` bytes */
    TRACE_ALLOCATE, /* the file is at least `offset` bytes long from now on */
    TRACE_SYNC,     /* fsync or fdatasync of `file` */
    TRACE_DIRSYNC,  /* fsync of a directory: of the spool where `offset` is 1, else of its parent */
    TRACE_REPLY,    /* the 250 for message `offset` is about to be sent */
    TRACE_KINDS,
};

enum trace_flags {
    TRACE_SYNCED = 1, /* a write through O_DSYNC or O_SYNC: durable when it returned */
    TRACE_FAILED = 2, /* it was made to fail; a payload is what had been written nevertheless */
};

/* One record; `length` bytes of payload follow. Names are relative to the folder the spool is in:
 * the spool's own is its last component. */
struct trace_record {
    uint32_t kind;  /* enum trace_kind */
    uint32_t flags; /* enum trace_flags */
    uint64_t file;  /* the inode's number */
    uint64_t offset;
    uint64_t length;
};

#endif
