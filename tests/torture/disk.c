/* Stands between the relay and its spool's files (LD_PRELOAD): it records what is done to them,
 * lets some of it fail, or leaves something out that should be done. Told by the environment:
 *
 *   TORTURE_SPOOL=DIR       the spool; nothing else is touched
 *   TORTURE_TRACE=FILE      append what happens there, and each 250 that is sent (trace.h)
 *   TORTURE_FAIL=N,M,KIND   of all writes, syncs and changes of size, numbered from 1, M fail from the N-th on;
 *                           KIND is ENOSPC, EIO, SHORT (half of a write is done; anything else is EIO) or
 *                           KILL (the process ends there as by SIGKILL)
 *   TORTURE_COUNT=FILE      at a clean end, write how many of those calls there were
 *   TORTURE_BREAK=WHAT      what a wrong build would do: FDATASYNC (no file is synced), DSYNC (LMDB's root is
 *                           written without waiting), DIRSYNC (no directory is synced), NOSYNC, NOMETASYNC
 *                           (the flags of LMDB)
 *
 * A record is written when the call is over, that of a 250 before it begins: so what stands in
 * front of a 250 had happened when it went out. Writes through a mapping are not seen; states.c
 * would notice, for it compares what the trace adds up to with the file. */
#include "tests/torture/trace.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 1 << 20, PATH_BYTES = 4096, ID_DIGITS = 16 };

/* What a descriptor is to us. */
enum role { OTHER, FILE_OF_SPOOL, SPOOL, PARENT };

enum fault { NO_FAULT, FAULT_ENOSPC, FAULT_EIO, FAULT_SHORT, FAULT_KILL };

static struct {
    pthread_once_t once;
    pthread_mutex_t lock;                      /* the trace, the count of calls */
    char parent[PATH_BYTES], name[PATH_BYTES]; /* of the spool */
    int trace_fd;
    unsigned long calls, fail_from, fail_count;
    enum fault fault;
    const char *broken;
    unsigned char roles[DESCRIPTORS_MAX];
} disk = {.once = PTHREAD_ONCE_INIT, .lock = PTHREAD_MUTEX_INITIALIZER, .trace_fd = -1};

/* "N,M,KIND" */
static void read_fault(const char *text)
{
    static const char *const kinds[] = {[FAULT_ENOSPC] = ",ENOSPC",
                                        [FAULT_EIO] = ",EIO",
                                        [FAULT_SHORT] = ",SHORT",
                                        [FAULT_KILL] = ",KILL"};
    char *end = NULL;
    disk.fail_from = strtoul(text, &end, 10);
    disk.fail_count = *end == ',' ? strtoul(end + 1, &end, 10) : 0;
    for (unsigned i = FAULT_ENOSPC; i <= FAULT_KILL; i++)
        if (strcmp(end, kinds[i]) == 0)
            disk.fault = (enum fault)i;
    if (disk.fault == NO_FAULT || disk.fail_from == 0 || disk.fail_count == 0)
        abort(); /* a test without its fault is none */
}

static void read_environment(void)
{
    const char *spool = getenv("TORTURE_SPOOL"), *trace = getenv("TORTURE_TRACE");
    const char *fail = getenv("TORTURE_FAIL"), *broken = getenv("TORTURE_BREAK");
    disk.broken = broken != NULL ? broken : "";
    if (spool == NULL || strrchr(spool, '/') == NULL || strlen(spool) >= PATH_BYTES)
        return;
    size_t parent = (size_t)(strrchr(spool, '/') - spool);
    memcpy(disk.parent, spool, parent);
    (void)snprintf(disk.name, sizeof disk.name, "%s", spool + parent + 1);
    if (trace != NULL)
        disk.trace_fd = (int)syscall(SYS_openat, AT_FDCWD, trace,
                                     O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fail != NULL)
        read_fault(fail);
}

static bool is_broken(const char *what)
{
    return strcmp(disk.broken, what) == 0;
}

/* The C library's own function of this name. */
static void *next(const char *name)
{
    (void)pthread_once(&disk.once, read_environment);
    return dlsym(RTLD_NEXT, name);
}

#define NEXT(result, name, ...)                                                                    \
    static result (*call)(__VA_ARGS__);                                                            \
    if (call == NULL)                                                                              \
    *(void **)&call = next(name)

/* ---- the trace ---- */

static void put(const void *bytes, size_t len)
{
    const char *at = bytes;
    while (len > 0) {
        long n = syscall(SYS_write, disk.trace_fd, at, len);
        if (n <= 0)
            abort(); /* a test without its trace is none */
        at += n;
        len -= (size_t)n;
    }
}

static void record(const struct trace_record *r, const struct iovec *parts, int count)
{
    uint64_t left = r->length;
    if (disk.trace_fd < 0)
        return;
    int saved = errno;
    (void)pthread_mutex_lock(&disk.lock);
    put(r, sizeof *r);
    for (int i = 0; i < count && left > 0; i++) {
        size_t len = parts[i].iov_len < left ? parts[i].iov_len : (size_t)left;
        put(parts[i].iov_base, len);
        left -= len;
    }
    (void)pthread_mutex_unlock(&disk.lock);
    errno = saved;
}

static void record_text(uint32_t kind, uint64_t file, const char *text, size_t len)
{
    struct trace_record r = {.kind = kind, .file = file, .length = len};
    struct iovec part = {(void *)(uintptr_t)text, len};
    record(&r, &part, 1);
}

/* ---- names and descriptors ---- */

/* The name below the spool's parent; NULL where it is not of the spool. */
static const char *name_of(const char *path)
{
    size_t parent = strlen(disk.parent), name = strlen(disk.name);
    if (parent == 0 || strncmp(path, disk.parent, parent) != 0 || path[parent] != '/')
        return NULL;
    path += parent + 1;
    bool of_spool =
        strncmp(path, disk.name, name) == 0 && (path[name] == '\0' || path[name] == '/');
    return of_spool ? path : NULL;
}

static enum role role_of(int fd)
{
    return fd >= 0 && fd < DESCRIPTORS_MAX ? (enum role)disk.roles[fd] : OTHER;
}

static uint64_t inode_of(int fd)
{
    struct stat s;
    return fstat(fd, &s) == 0 ? s.st_ino : 0;
}

/* Notes what was opened; `is_new` where the call has made it. */
static void note_opened(int fd, const char *path, bool is_new)
{
    struct stat s;
    const char *name = name_of(path);
    bool is_parent = disk.parent[0] != '\0' && strcmp(path, disk.parent) == 0;
    if (fd < 0 || fd >= DESCRIPTORS_MAX)
        return;
    disk.roles[fd] = OTHER;
    if ((name == NULL && !is_parent) || fstat(fd, &s) != 0)
        return;
    disk.roles[fd] = is_parent ? PARENT : S_ISDIR(s.st_mode) ? SPOOL : FILE_OF_SPOOL;
    if (is_new && disk.roles[fd] == FILE_OF_SPOOL)
        record_text(TRACE_CREATE, s.st_ino, name, strlen(name));
}

static int open_any(int at, const char *path, int flags, mode_t mode)
{
    struct stat s;
    bool is_new = (flags & O_CREAT) != 0 && name_of(path) != NULL && stat(path, &s) != 0;
    if (is_broken("DSYNC") && name_of(path) != NULL)
        flags &= ~(O_DSYNC | O_SYNC);
    int fd = (int)syscall(SYS_openat, at, path, flags, mode);
    note_opened(fd, path, is_new);
    return fd;
}

/* ---- faults ---- */

/* Counts a call on the spool; what is to happen to it. */
static enum fault count_call(void)
{
    (void)pthread_mutex_lock(&disk.lock);
    unsigned long n = ++disk.calls;
    (void)pthread_mutex_unlock(&disk.lock);
    bool hit =
        disk.fault != NO_FAULT && n >= disk.fail_from && n - disk.fail_from < disk.fail_count;
    if (hit && disk.fault == FAULT_KILL) {
        (void)syscall(SYS_tgkill, getpid(), gettid(), SIGKILL); /* kill() itself is not a relay's */
        for (;;)
            continue;
    }
    return hit ? disk.fault : NO_FAULT;
}

static int fail_with(enum fault fault)
{
    errno = fault == FAULT_ENOSPC ? ENOSPC : EIO;
    return -1;
}

/* ---- what is called instead of the C library's ---- */

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    (void)pthread_once(&disk.once, read_environment);
    return open_any(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int close(int fd)
{
    if (fd >= 0 && fd < DESCRIPTORS_MAX)
        disk.roles[fd] = OTHER;
    return (int)syscall(SYS_close, fd);
}

/* All writes on a file of the spool; at the file's own position where `offset` is negative. */
static ssize_t write_any(int fd, const struct iovec *parts, int count, off_t offset)
{
    off_t at = offset >= 0 ? offset : (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    enum fault fault = count_call();
    if (fault == FAULT_ENOSPC || fault == FAULT_EIO)
        return fail_with(fault);
    struct iovec half = parts[0];
    half.iov_len = half.iov_len > 1 ? half.iov_len / 2 : 1;
    if (fault == FAULT_SHORT) {
        parts = &half;
        count = 1;
    }
    ssize_t n = offset >= 0 ? syscall(SYS_pwritev, fd, parts, count, (unsigned long)offset, 0UL)
                            : syscall(SYS_writev, fd, parts, count);
    if (n > 0) {
        bool synced = (syscall(SYS_fcntl, fd, F_GETFL) & O_DSYNC) != 0;
        struct trace_record r = {.kind = TRACE_WRITE,
                                 .flags = (synced ? (uint32_t)TRACE_SYNCED : 0) |
                                          (fault != NO_FAULT ? (uint32_t)TRACE_FAILED : 0),
                                 .file = inode_of(fd),
                                 .offset = (uint64_t)at,
                                 .length = (uint64_t)n};
        record(&r, parts, count);
    }
    return n;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    return role_of(fd) == FILE_OF_SPOOL ? write_any(fd, &part, 1, -1)
                                        : syscall(SYS_write, fd, bytes, len);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return role_of(fd) == FILE_OF_SPOOL ? write_any(fd, parts, count, -1)
                                        : syscall(SYS_writev, fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    return role_of(fd) == FILE_OF_SPOOL ? write_any(fd, &part, 1, offset)
                                        : syscall(SYS_pwrite64, fd, bytes, len, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t offset)
    __attribute__((alias("pwrite")));

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return role_of(fd) == FILE_OF_SPOOL
               ? write_any(fd, parts, count, offset)
               : syscall(SYS_pwritev, fd, parts, count, (unsigned long)offset, 0UL);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset)
    __attribute__((alias("pwritev")));

int ftruncate(int fd, off_t size)
{
    if (role_of(fd) != FILE_OF_SPOOL)
        return (int)syscall(SYS_ftruncate, fd, size);
    enum fault fault = count_call();
    if (fault != NO_FAULT)
        return fail_with(fault);
    int rc = (int)syscall(SYS_ftruncate, fd, size);
    struct trace_record r = {
        .kind = TRACE_TRUNCATE, .file = inode_of(fd), .offset = (uint64_t)size};
    if (rc == 0)
        record(&r, NULL, 0);
    return rc;
}

int ftruncate64(int fd, off_t size) __attribute__((alias("ftruncate")));

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (role_of(fd) != FILE_OF_SPOOL)
        return (int)syscall(SYS_fallocate, fd, mode, offset, len);
    enum fault fault = count_call();
    if (fault != NO_FAULT)
        return fail_with(fault);
    int rc = (int)syscall(SYS_fallocate, fd, mode, offset, len);
    struct trace_record r = {
        .kind = TRACE_ALLOCATE, .file = inode_of(fd), .offset = (uint64_t)(offset + len)};
    if (rc == 0 && (mode & FALLOC_FL_KEEP_SIZE) == 0) /* else the file reads as before */
        record(&r, NULL, 0);
    return rc;
}

int fallocate64(int fd, int mode, off_t offset, off_t len) __attribute__((alias("fallocate")));

/* A sync of a file or directory of the spool. A failed one is recorded: what it should have written
 * may never be. */
static int sync_any(int fd, long number)
{
    enum role role = role_of(fd);
    if (role == OTHER)
        return (int)syscall(number, fd);
    if (is_broken(role == FILE_OF_SPOOL ? "FDATASYNC" : "DIRSYNC"))
        return 0;
    enum fault fault = count_call();
    int rc = fault != NO_FAULT ? fail_with(fault) : (int)syscall(number, fd);
    struct trace_record r = {.kind = role == FILE_OF_SPOOL ? TRACE_SYNC : TRACE_DIRSYNC,
                             .flags = rc != 0 ? TRACE_FAILED : 0,
                             .file = inode_of(fd),
                             .offset = role == SPOOL};
    record(&r, NULL, 0);
    return rc;
}

int fsync(int fd)
{
    return sync_any(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return sync_any(fd, SYS_fdatasync);
}

int mkdir(const char *path, mode_t mode)
{
    NEXT(int, "mkdir", const char *, mode_t);
    int rc = call(path, mode);
    const char *name = rc == 0 ? name_of(path) : NULL;
    struct stat s;
    if (name != NULL && stat(path, &s) == 0)
        record_text(TRACE_MKDIR, s.st_ino, name, strlen(name));
    return rc;
}

int rename(const char *from, const char *to)
{
    NEXT(int, "rename", const char *, const char *);
    const char *old = name_of(from), *new = name_of(to);
    int rc = call(from, to);
    if (rc == 0 && old != NULL && new != NULL) {
        struct iovec parts[] = {{(void *)(uintptr_t)old, strlen(old) + 1},
                                {(void *)(uintptr_t) new, strlen(new)}};
        struct trace_record r = {.kind = TRACE_RENAME,
                                 .length = parts[0].iov_len + parts[1].iov_len};
        record(&r, parts, 2);
    }
    return rc;
}

int unlink(const char *path)
{
    NEXT(int, "unlink", const char *);
    const char *name = name_of(path);
    int rc = call(path);
    if (rc == 0 && name != NULL)
        record_text(TRACE_UNLINK, 0, name, strlen(name));
    return rc;
}

/* ---- the 250 ---- */

static void record_replies(const char *text, size_t len)
{
    static const char mark[] = "Queued as ";
    const char *end = text + len, *at;
    while ((at = memmem(text, (size_t)(end - text), mark, sizeof mark - 1)) != NULL) {
        char digits[ID_DIGITS + 1] = "";
        text = at + sizeof mark - 1;
        if ((size_t)(end - text) < ID_DIGITS)
            return;
        memcpy(digits, text, ID_DIGITS);
        struct trace_record r = {.kind = TRACE_REPLY, .offset = strtoull(digits, NULL, 16)};
        record(&r, NULL, 0);
    }
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    (void)pthread_once(&disk.once, read_environment);
    for (size_t i = 0; disk.trace_fd >= 0 && i < message->msg_iovlen; i++)
        record_replies(message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
    return syscall(SYS_sendmsg, fd, message, flags);
}

/* ---- the end ---- */

static __attribute__((destructor)) void write_count(void)
{
    const char *path = getenv("TORTURE_COUNT");
    FILE *file = path != NULL ? fopen(path, "we") : NULL;
    if (file != NULL)
        (void)fprintf(file, "%lu\n", disk.calls);
    if (file != NULL)
        (void)fclose(file);
}

/* ---- builds that are wrong ---- */

int mdb_env_open(MDB_env *env, const char *path, unsigned int flags, mdb_mode_t mode)
{
    NEXT(int, "mdb_env_open", MDB_env *, const char *, unsigned int, mdb_mode_t);
    if (is_broken("NOSYNC"))
        flags |= MDB_NOSYNC;
    if (is_broken("NOMETASYNC"))
        flags |= MDB_NOMETASYNC;
    return call(env, path, flags, mode);
}
