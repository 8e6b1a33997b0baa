#include "core/base/net_unix.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 64 };

static bool is_alive(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool alive = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) == 0;
    if (fd >= 0)
        (void)close(fd);
    return alive;
}

static void make_directory(const char *path)
{
    char directory[sizeof((struct sockaddr_un *)0)->sun_path];
    (void)snprintf(directory, sizeof directory, "%s", path);
    char *slash = strrchr(directory, '/');
    if (slash == NULL || slash == directory)
        return;
    *slash = '\0';
    (void)mkdir(directory, 0750); /* exists, or the bind will say what is wrong */
}

int net_listen_unix(const char *path, unsigned mode, const char *key, struct error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    make_directory(path);
    if (is_alive(&address)) {
        error_set(error,
                  "another relay answers on %s %s; stop it, or give this one a socket of its own",
                  key, path);
        return -1;
    }
    (void)unlink(path); /* of a process that is gone */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t mask = umask(0777 & ~mode);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
              listen(fd, BACKLOG) == 0;
    (void)umask(mask);
    if (!ok) {
        error_set(error, "cannot listen on %s %s: %m", key, path);
        if (fd >= 0)
            (void)close(fd);
        return -1;
    }
    return fd;
}
