#include "workers/inbound/client_counts.h"

#include "core/base/assert.h"
#include "core/base/list.h"
#include "core/base/random.h"

#include <pthread.h>
#include <stdlib.h>

enum { BUCKETS = 4096, LOCKS = 64 };

struct entry {
    struct link link;
    struct address client;
    unsigned count;
};

struct client_counts {
    uint64_t seed; /* so that clients cannot choose addresses that share a bucket */
    struct {
        pthread_mutex_t locks[LOCKS]; /* bucket b is guarded by lock b % LOCKS, for a short walk */
        struct link buckets[BUCKETS];
    } shared;
};

struct client_counts *client_counts_create(void)
{
    struct client_counts *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    struct random random;
    random_init(&random);
    c->seed = random_u64(&random);
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_init(&c->shared.locks[i], NULL);
    for (int i = 0; i < BUCKETS; i++)
        list_init(&c->shared.buckets[i]);
    return c;
}

void client_counts_destroy(struct client_counts **c)
{
    if (*c == NULL)
        return;
    for (int i = 0; i < BUCKETS; i++)
        ASSERT(list_empty(&(*c)->shared.buckets[i]));
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&(*c)->shared.locks[i]);
    free(*c);
    *c = NULL;
}

static unsigned bucket_of(const struct client_counts *c, const struct address *client)
{
    uint64_t hash = c->seed;
    for (size_t i = 0; i < sizeof client->ip; i++)
        hash = (hash ^ client->ip[i]) * UINT64_C(0x9e3779b97f4a7c15);
    return (unsigned)(hash >> 32) % BUCKETS;
}

static struct entry *find(struct client_counts *c, unsigned bucket, const struct address *client)
{
    struct link *head = &c->shared.buckets[bucket];
    for (struct link *l = head->next; l != head; l = l->next) {
        struct entry *e = CONTAINER_OF(l, struct entry, link);
        if (address_same_ip(&e->client, client))
            return e;
    }
    return NULL;
}

bool client_counts_enter(struct client_counts *c, const struct address *client, unsigned max)
{
    unsigned bucket = bucket_of(c, client);
    pthread_mutex_lock(&c->shared.locks[bucket % LOCKS]);
    struct entry *e = find(c, bucket, client);
    if (e == NULL && max > 0 && (e = calloc(1, sizeof *e)) != NULL) {
        e->client = *client;
        list_push_back(&c->shared.buckets[bucket], &e->link);
    }
    bool entered = e != NULL && e->count < max;
    if (entered)
        e->count++;
    pthread_mutex_unlock(&c->shared.locks[bucket % LOCKS]);
    return entered;
}

void client_counts_leave(struct client_counts *c, const struct address *client)
{
    unsigned bucket = bucket_of(c, client);
    pthread_mutex_lock(&c->shared.locks[bucket % LOCKS]);
    struct entry *e = find(c, bucket, client);
    ASSERT(e != NULL && e->count > 0);
    if (--e->count == 0) {
        list_remove(&e->link);
        free(e);
    }
    pthread_mutex_unlock(&c->shared.locks[bucket % LOCKS]);
}
