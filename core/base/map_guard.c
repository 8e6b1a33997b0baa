#include "core/base/map_guard.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAPS_MAX = 4, PAGE_BYTES = 4096 };

static struct {
    atomic_bool
        telling; /* one thread does; others that read there too must not end the process first */
    struct {
        _Atomic uintptr_t first, end; /* end == 0: unused */
        int status;
        size_t text_len;
        char text[MAP_GUARD_TEXT_SIZE];
    } maps[MAPS_MAX];
} guard;

/* Async-signal-safe: loads, write, poll and _exit. */
static void tell(int map)
{
    if (atomic_exchange(&guard.telling, true))
        for (;;)
            (void)poll(NULL, 0, -1);
    (void)!write(STDERR_FILENO, guard.maps[map].text, guard.maps[map].text_len);
    _exit(guard.maps[map].status);
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    bool by_reading = info->si_code > 0; /* else somebody sent it */
    for (int i = 0; i < MAPS_MAX && by_reading; i++)
        if (at >= atomic_load(&guard.maps[i].first) && at < atomic_load(&guard.maps[i].end))
            tell(i);
    (void)signal(number, SIG_DFL); /* returning, the same instruction raises it again */
    if (!by_reading)
        (void)raise(number);
}

static bool install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, NULL) == 0;
}

/* The addresses of the mapping of a file, found by the name that the system has for it: "first-end
 * rights offset device inode name". */
static bool find_mapping(int fd, uintptr_t *first_out, uintptr_t *end_out)
{
    char link[32], name[PATH_MAX], line[PATH_MAX + 128];
    bool found = false;
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, name, sizeof name - 1);
    FILE *file = len > 0 ? fopen("/proc/self/maps", "re") : NULL;
    name[len > 0 ? len : 0] = '\0';
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        const char *path = strchr(line, '/');
        line[strcspn(line, "\n")] = '\0';
        char *end = line;
        *first_out = strtoul(line, &end, 16);
        *end_out = *end == '-' ? strtoul(end + 1, &end, 16) : 0;
        found = path != NULL && strcmp(path, name) == 0;
    }
    if (file != NULL)
        (void)fclose(file);
    return found;
}

int map_guard_watch(int fd, const char *text, int status)
{
    uintptr_t first, end;
    int i = 0;
    while (i < MAPS_MAX && atomic_load(&guard.maps[i].end) != 0)
        i++;
    if (i == MAPS_MAX || !find_mapping(fd, &first, &end) || !install())
        return -1;
    int len = snprintf(guard.maps[i].text, MAP_GUARD_TEXT_SIZE, "onward: %s\n", text);
    guard.maps[i].text_len = len < MAP_GUARD_TEXT_SIZE ? (size_t)len : MAP_GUARD_TEXT_SIZE - 1;
    guard.maps[i].status = status;
    atomic_store(&guard.maps[i].first, first);
    atomic_store(&guard.maps[i].end, end);
    return i;
}

void map_guard_forget(int number)
{
    if (number >= 0)
        atomic_store(&guard.maps[number].end, 0);
}

void map_guard_touch(const void *bytes, size_t len)
{
    const volatile char *at = bytes;
    for (size_t i = 0; i < len; i += PAGE_BYTES)
        (void)at[i];
    if (len > 0)
        (void)at[len - 1];
}
