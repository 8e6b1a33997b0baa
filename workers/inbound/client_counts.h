/* How many submission connections each client address has open, over all workers: the limit per
 * client. */
#ifndef ONWARD_WORKERS_INBOUND_CLIENT_COUNTS_H
#define ONWARD_WORKERS_INBOUND_CLIENT_COUNTS_H

#include "core/base/address.h"

struct client_counts;

struct client_counts *client_counts_create(void); /* NULL: out of memory */
void client_counts_destroy(struct client_counts **c);

/* Counts one more; false (nothing counted) where the client has `max` already, or memory ran out.
 * Any thread. */
bool client_counts_enter(struct client_counts *c, const struct address *client, unsigned max);
void client_counts_leave(struct client_counts *c, const struct address *client);

#endif
