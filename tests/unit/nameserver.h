/* A real authoritative name server (NSD) for tests, on a free port of 127.0.0.1, with its files in
 * a directory of its own. */
#ifndef ONWARD_TESTS_NAMESERVER_H
#define ONWARD_TESTS_NAMESERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct nameserver {
    pid_t pid;
    uint16_t port;
    char directory[64];
};

struct nameserver_zone {
    const char *name; /* "sampleorg.test"; NULL ends a list */
    const char *text; /* in master-file form */
};

/* Starts it and waits until it answers. False, with the reason on standard error, where it does
 * not. */
bool nameserver_start(struct nameserver *n, const struct nameserver_zone *zones);
void nameserver_stop(struct nameserver *n);

/* A UDP port of 127.0.0.1 that is taken, and where nobody ever answers; `*fd_out` holds it. */
uint16_t nameserver_silent_port(int *fd_out);

#endif
