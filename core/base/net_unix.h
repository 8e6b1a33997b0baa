/* Listening on a unix socket, for what only this machine's users may ask: whoever may open the path
 * may connect, so its mode and its directory's owner decide. */
#ifndef ONWARD_CORE_BASE_NET_UNIX_H
#define ONWARD_CORE_BASE_NET_UNIX_H

#include "core/base/error.h"

enum { NET_UNIX_PATH_MAX = 107 }; /* sun_path's bytes but for the NUL */

/* Listens at `path`, made with `mode`; a socket that a dead process left is replaced, a live one is
 * refused, a missing directory made (0750). Returns the descriptor, non-blocking, or -1 with
 * `error`, which names `key`, the setting that chose the path. */
int net_listen_unix(const char *path, unsigned mode, const char *key, struct error *error);

#endif
