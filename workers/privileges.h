/* Whom the relay runs as, and what it can no longer do from then on.
 *
 * Started as root it binds its submission listeners, reads the HTTP interface's certificate, key
 * and tokens, makes the folders of its spool and its control socket where they are missing, and
 * becomes the configured user for good: before the first thread, before the log is opened and
 * before a byte of mail is seen. What it opens later (the log at SIGHUP, the configuration and
 * token files at a reload, a webhook's token) that user must be able to open. Without a `user` it
 * refuses to run as root; `user: root` says that it is meant.
 *
 * Whoever started it, it gains no privileges any more (no_new_privs), leaves no core dump, for its
 * memory holds other people's mail and the tokens of its HTTP interface, and makes only the system
 * calls that a relay needs (syscalls.h). Main thread, before any other is made. */
#ifndef ONWARD_WORKERS_PRIVILEGES_H
#define ONWARD_WORKERS_PRIVILEGES_H

#include "core/config/config.h"

/* False with `error`: root without being told so, an unknown user, another user than the one that
 * started it. To be asked first: it does nothing yet. */
bool privileges_check(const struct config *config, struct error *error);

/* Becomes the user, where started as root. The listeners are bound. False with `error`. */
bool privileges_drop(const struct config *config, struct error *error);

/* No new privileges, no core dumps, the filter of system calls (unless `seccomp` is false). False
 * with `error`. */
bool privileges_confine(const struct config *config, struct error *error);

#endif
