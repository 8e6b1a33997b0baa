/* The whole relay, put together: spool, schedule, job ring, workers, resolver, health table,
 * control socket. Started by `onward serve`. */
#ifndef ONWARD_WORKERS_RELAY_H
#define ONWARD_WORKERS_RELAY_H

#include "core/config/config.h"

/* Runs until SIGTERM or SIGINT, then drains. SIGHUP reopens the log and reloads what can change.
 * Returns the exit status (sysexits: 0, EX_CONFIG 78, EX_TEMPFAIL 75, EX_IOERR 74...), having said
 * why on standard error. */
int relay_serve(const char *config_path);

#endif
