/* The filter of system calls (seccomp): what a relay and its libraries (libunbound, OpenSSL,
 * jemalloc, LMDB, libmicrohttpd, libcurl, systemd's notification) call is allowed; what only an
 * intruder would call (starting programs, tracing processes, changing users, mounting, loading
 * code into the kernel) kills the process; all else fails with ENOSYS, which libraries take as an
 * older kernel's answer and go another way.
 *
 * What is allowed whatever its arguments the kernel looks up in a bitmap (since 5.11), so that the
 * length of the list costs nothing.
 *
 * Why not kill for all: a library that tries something new after an update must not take the relay
 * down with it. Both are in the kernel's audit log, with the number of the call. */
#ifndef ONWARD_WORKERS_SYSCALLS_H
#define ONWARD_WORKERS_SYSCALLS_H

#include "core/base/error.h"

#include <stdbool.h>

/* Restricts the calling thread and all that it will make, for good. no_new_privs is set. False with
 * `error`: the kernel has no seccomp. Nothing is done under a sanitizer, which has calls of its
 * own. */
bool syscalls_restrict(struct error *error);

#endif
