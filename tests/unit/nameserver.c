#include "tests/unit/nameserver.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NSD_FILE "/usr/sbin/nsd"

enum { PATH_SIZE = 256, PROBES_MAX = 2400, PROBE_MS = 25 };

uint16_t nameserver_silent_port(int *fd_out)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    *fd_out = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (*fd_out < 0 || bind(*fd_out, (struct sockaddr *)&a, len) != 0 ||
        getsockname(*fd_out, (struct sockaddr *)&a, &len) != 0)
        return 0;
    return ntohs(a.sin_port);
}

static FILE *create_file(const struct nameserver *n, const char *name)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof path, "%s/%s", n->directory, name);
    return fopen(path, "w");
}

static void remove_file(const struct nameserver *n, const char *name)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof path, "%s/%s", n->directory, name);
    (void)unlink(path);
}

static bool write_zone(const struct nameserver *n, FILE *conf, const struct nameserver_zone *zone)
{
    FILE *f = create_file(n, zone->name);
    if (f == NULL)
        return false;
    (void)fprintf(conf, "zone:\n  name: \"%s\"\n  zonefile: \"%s\"\n", zone->name, zone->name);
    return fputs(zone->text, f) >= 0 && fclose(f) == 0;
}

static bool write_files(const struct nameserver *n, const struct nameserver_zone *zones)
{
    FILE *f = create_file(n, "nsd.conf");
    if (f == NULL)
        return false;
    (void)fprintf(f,
                  "server:\n"
                  "  ip-address: 127.0.0.1@%u\n"
                  "  username: \"\"\n"
                  "  database: \"\"\n"
                  "  zonesdir: \"%s\"\n"
                  "  pidfile: \"%s/pid\"\n"
                  "  logfile: \"%s/log\"\n"
                  "  xfrdfile: \"%s/xfrd\"\n"
                  "  zonelistfile: \"%s/zones\"\n"
                  "  xfrdir: \"%s\"\n"
                  "  server-count: 1\n"
                  "  rrl-ratelimit: 0\n"
                  "remote-control:\n"
                  "  control-enable: no\n",
                  (unsigned)n->port, n->directory, n->directory, n->directory, n->directory,
                  n->directory, n->directory);
    bool ok = true;
    for (; ok && zones->name != NULL; zones++)
        ok = write_zone(n, f, zones);
    return fclose(f) == 0 && ok;
}

/* Asks for anything at all until an answer comes. */
static bool wait_for_answer(const struct nameserver *n)
{
    static const unsigned char question[] = {0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1};
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(n->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool answered = false;
    for (int i = 0; i < PROBES_MAX && !answered; i++) {
        (void)sendto(fd, question, sizeof question, 0, (struct sockaddr *)&to, sizeof to);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        answered = poll(&p, 1, PROBE_MS) == 1;
    }
    (void)close(fd);
    return answered;
}

bool nameserver_start(struct nameserver *n, const struct nameserver_zone *zones)
{
    *n = (struct nameserver){.directory = "/tmp/onward-nsd-XXXXXX"};
    if (access(NSD_FILE, X_OK) != 0) {
        (void)fprintf(stderr, "FAILED: this test needs the name server NSD at " NSD_FILE
                              " (apt-get install nsd)\n");
        return false;
    }
    int fd = -1;
    n->port = nameserver_silent_port(&fd);
    (void)close(fd);
    if (n->port == 0 || mkdtemp(n->directory) == NULL || !write_files(n, zones)) {
        (void)fprintf(stderr, "FAILED: no port or no files for NSD\n");
        return false;
    }
    char conf[PATH_SIZE];
    (void)snprintf(conf, sizeof conf, "%s/nsd.conf", n->directory);
    n->pid = fork();
    if (n->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM); /* a test that crashes leaves no server behind */
        (void)execl(NSD_FILE, "nsd", "-d", "-c", conf, (char *)NULL);
        _exit(127);
    }
    if (n->pid < 0 || !wait_for_answer(n)) {
        (void)fprintf(stderr, "FAILED: NSD does not answer on port %u; see %s/log\n",
                      (unsigned)n->port, n->directory);
        return false;
    }
    for (; zones->name != NULL; zones++)
        remove_file(n, zones->name); /* it has read them */
    return true;
}

void nameserver_stop(struct nameserver *n)
{
    static const char *const files[] = {"nsd.conf", "pid", "log", "xfrd", "zones"};
    (void)kill(n->pid, SIGTERM);
    (void)waitpid(n->pid, NULL, 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        remove_file(n, files[i]);
    (void)rmdir(n->directory);
}
