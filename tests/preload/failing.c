/* A library to preload before the relay: the n-th allocation, or the n-th call that takes a
 * descriptor or a connection, fails as the kernel would have it fail. Every call of the process
 * counts, those of the libraries too.
 *
 * ONWARD_FAULTS names a file of `struct faults` that the test maps as well: it says when calls
 * fail, at any time, and reads how many there were. Without the variable nothing fails. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum fault_kind { FAULT_ALLOCATION, FAULT_DESCRIPTOR, FAULT_KINDS };

/* The file, one part per kind; in the order that tests/e2e/test_exhaustion.py packs. */
struct faults {
    struct {
        _Atomic uint64_t calls;  /* so far */
        _Atomic uint64_t at;     /* the number of the first call that fails; 0: none */
        _Atomic uint64_t count;  /* how many fail from there on */
        _Atomic uint64_t failed; /* so far */
        _Atomic uint64_t frail;  /* of those: asked for by a library that does not survive all */
    } kinds[FAULT_KINDS];
};

/* Before the real functions are known, dlsym itself may allocate: from here, never freed. */
enum { EARLY_BYTES = 64 * 1024 };

/* All of the library's state; written before the process has a second thread. */
static struct {
    struct faults *faults;
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    void (*free)(void *);
    int (*socket)(int, int, int);
    int (*connect)(int, const struct sockaddr *, socklen_t);
    int (*accept4)(int, struct sockaddr *, socklen_t *, int);
    int (*epoll_create1)(int);
    int (*epoll_ctl)(int, int, int, struct epoll_event *);
    int (*eventfd)(unsigned, int);
    struct passwd *(*getpwnam)(const char *);
    _Atomic bool looking_up_user;
    _Alignas(16) char early[EARLY_BYTES];
    size_t early_used;
    bool resolving;
} real;

static void *find(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);
    if (function == NULL)
        abort();
    return function;
}

/* Other libraries' constructors allocate before ours runs, and dlsym may while it looks. */
static void resolve(void)
{
    if (real.resolving)
        return;
    real.resolving = true;
    *(void **)&real.free = find("free");
    *(void **)&real.calloc = find("calloc");
    *(void **)&real.realloc = find("realloc");
    *(void **)&real.aligned_alloc = find("aligned_alloc");
    *(void **)&real.posix_memalign = find("posix_memalign");
    *(void **)&real.socket = find("socket");
    *(void **)&real.connect = find("connect");
    *(void **)&real.accept4 = find("accept4");
    *(void **)&real.epoll_create1 = find("epoll_create1");
    *(void **)&real.epoll_ctl = find("epoll_ctl");
    *(void **)&real.eventfd = find("eventfd");
    *(void **)&real.getpwnam = find("getpwnam");
    *(void **)&real.malloc = find("malloc"); /* last: from now on the real ones are used */
}

__attribute__((constructor)) static void prepare(void)
{
    resolve();
    const char *path = getenv("ONWARD_FAULTS");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *map = fd >= 0
                    ? mmap(NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                    : MAP_FAILED;
    if (fd >= 0)
        (void)close(fd);
    if (map != MAP_FAILED)
        real.faults = map;
    else if (path != NULL)
        abort();
}

static bool is_frail(void *caller)
{
    Dl_info info;
    if (atomic_load(&real.looking_up_user))
        return true;
    return dladdr(caller, &info) != 0 && info.dli_fname != NULL &&
           (strstr(info.dli_fname, "libunbound") != NULL ||
            strstr(info.dli_fname, "libseccomp") != NULL);
}

static bool fails_for(enum fault_kind kind, void *caller)
{
    if (real.faults == NULL)
        return false;
    uint64_t call = atomic_fetch_add(&real.faults->kinds[kind].calls, 1) + 1;
    uint64_t at = atomic_load(&real.faults->kinds[kind].at);
    if (at == 0 || call < at || call - at >= atomic_load(&real.faults->kinds[kind].count))
        return false;
    if (is_frail(caller))
        atomic_fetch_add(&real.faults->kinds[kind].frail, 1);
    atomic_fetch_add(&real.faults->kinds[kind].failed, 1);
    return true;
}

#define fails(kind) fails_for(kind, __builtin_return_address(0))

/* ---- allocations: a sanitizer keeps the allocator to itself ---- */

#ifndef ONWARD_NO_JEMALLOC

static void *early(size_t size)
{
    size_t at = (real.early_used + 15) / 16 * 16;
    if (size > sizeof real.early - at)
        abort();
    real.early_used = at + size;
    return real.early + at;
}

static bool is_early(const void *p)
{
    return (const char *)p >= real.early && (const char *)p < real.early + sizeof real.early;
}

static void *refuse(void)
{
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t size)
{
    if (real.malloc == NULL)
        resolve();
    if (real.malloc == NULL)
        return early(size);
    return fails(FAULT_ALLOCATION) ? refuse() : real.malloc(size);
}

void *calloc(size_t count, size_t size)
{
    if (real.malloc == NULL)
        resolve();
    if (real.malloc == NULL)
        return early(count * size); /* never used before: zero */
    return fails(FAULT_ALLOCATION) ? refuse() : real.calloc(count, size);
}

void *realloc(void *p, size_t size)
{
    if (real.malloc == NULL || is_early(p)) {
        void *fresh = malloc(size);
        if (fresh != NULL && p != NULL)
            memcpy(fresh, p,
                   size); /* early blocks lie in one array: what is read too much is ours */
        return fresh;
    }
    return fails(FAULT_ALLOCATION) ? refuse() : real.realloc(p, size);
}

void *reallocarray(void *p, size_t count, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? refuse() : realloc(p, bytes);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails(FAULT_ALLOCATION) ? refuse() : real.aligned_alloc(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    return fails(FAULT_ALLOCATION) ? ENOMEM : real.posix_memalign(out, alignment, size);
}

void free(void *p)
{
    if (p != NULL && !is_early(p))
        real.free(p);
}

#endif

/* ---- descriptors and connections ---- */

static int refuse_with(int error)
{
    errno = error;
    return -1;
}

int socket(int domain, int type, int protocol)
{
    return fails(FAULT_DESCRIPTOR) ? refuse_with(EMFILE) : real.socket(domain, type, protocol);
}

int connect(int fd, const struct sockaddr *address, socklen_t len)
{
    return fails(FAULT_DESCRIPTOR) ? refuse_with(EADDRNOTAVAIL) : real.connect(fd, address, len);
}

int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
    return fails(FAULT_DESCRIPTOR) ? refuse_with(EMFILE) : real.accept4(fd, address, len, flags);
}

int epoll_create1(int flags)
{
    return fails(FAULT_DESCRIPTOR) ? refuse_with(EMFILE) : real.epoll_create1(flags);
}

int epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
    /* Taking a watch away needs no room. */
    if (op != EPOLL_CTL_DEL && fails(FAULT_DESCRIPTOR))
        return refuse_with(ENOSPC);
    return real.epoll_ctl(epoll_fd, op, fd, event);
}

int eventfd(unsigned value, int flags)
{
    return fails(FAULT_DESCRIPTOR) ? refuse_with(EMFILE) : real.eventfd(value, flags);
}

/* ---- glibc 2.36's name service switch dereferences NULL, or asserts, where memory fails ---- */

struct passwd *getpwnam(const char *name)
{
    atomic_store(&real.looking_up_user, true);
    struct passwd *user = real.getpwnam(name);
    atomic_store(&real.looking_up_user, false);
    return user;
}
