/* A library to preload before the relay: the wall clock is set, forward or back, while it runs.
 *
 * ONWARD_CLOCK names a file of one int64_t that the test maps as well: the seconds by which this
 * process's wall clock is ahead. The monotonic clock is left alone, as the kernel leaves it. */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Written before the process has a second thread. */
static const _Atomic int64_t *ahead_s;

__attribute__((constructor)) static void prepare(void)
{
    const char *path = getenv("ONWARD_CLOCK");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map = fd >= 0 ? mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (path != NULL && map == MAP_FAILED)
        abort();
    if (fd >= 0)
        (void)close(fd);
    ahead_s = map != MAP_FAILED ? map : NULL;
}

int clock_gettime(clockid_t id, struct timespec *out)
{
    /* Not the C library's: other libraries' constructors ask before ours has run. */
    int rc = (int)syscall(SYS_clock_gettime, id, out);
    if (rc == 0 && ahead_s != NULL && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        out->tv_sec += atomic_load(ahead_s);
    return rc;
}

int gettimeofday(struct timeval *out, void *zone)
{
    (void)zone;
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    *out = (struct timeval){.tv_sec = t.tv_sec, .tv_usec = t.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *out)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    if (out != NULL)
        *out = t.tv_sec;
    return t.tv_sec;
}
