/* The recipient domains in the queue, each stored once. Committer thread only. */
#ifndef ONWARD_CORE_QUEUE_DOMAIN_TABLE_H
#define ONWARD_CORE_QUEUE_DOMAIN_TABLE_H

#include "core/queue/delivery.h"

struct domain_table;

struct domain_table *domain_table_create(uint64_t seed); /* NULL: out of memory */
void domain_table_destroy(struct domain_table **t);      /* all names must be released */

/* The domain of this name, referenced. NULL: out of memory. */
struct domain *domain_table_acquire(struct domain_table *t, struct slice name);
void domain_table_release(struct domain_table *t, struct domain *d);

#endif
