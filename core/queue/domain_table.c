#include "core/queue/domain_table.h"

#include "core/base/assert.h"

#include <stdlib.h>

enum { BUCKETS_FIRST = 1024 };

struct domain_table {
    struct domain **buckets; /* each the first of a chain */
    size_t bucket_count;     /* a power of two */
    size_t count;
    uint64_t seed; /* so that nobody can choose names that share a bucket */
};

static uint64_t hash_of(const struct domain_table *t, const char *name, size_t len)
{
    uint64_t hash = t->seed;
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ (unsigned char)name[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 29;
    }
    return hash;
}

struct domain_table *domain_table_create(uint64_t seed)
{
    struct domain_table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    t->seed = seed;
    t->bucket_count = BUCKETS_FIRST;
    t->buckets = calloc(t->bucket_count, sizeof(struct domain *));
    if (t->buckets == NULL) {
        free(t);
        return NULL;
    }
    return t;
}

void domain_table_destroy(struct domain_table **t)
{
    if (*t == NULL)
        return;
    ASSERT((*t)->count == 0);
    free((*t)->buckets);
    free(*t);
    *t = NULL;
}

static struct domain **bucket_of(const struct domain_table *t, const char *name, size_t len)
{
    return &t->buckets[hash_of(t, name, len) & (t->bucket_count - 1)];
}

static void put(struct domain_table *t, struct domain *d)
{
    struct domain **bucket = bucket_of(t, d->name, d->name_len);
    d->hash_next = *bucket;
    *bucket = d;
}

/* Without memory for more buckets the chains grow: slower, still right. */
static void grow(struct domain_table *t)
{
    size_t old_count = t->bucket_count;
    struct domain **old = t->buckets, **fresh = calloc(old_count * 4, sizeof(struct domain *));
    if (fresh == NULL)
        return;
    t->buckets = fresh;
    t->bucket_count = old_count * 4;
    for (size_t i = 0; i < old_count; i++)
        for (struct domain *d = old[i], *next; d != NULL; d = next) {
            next = d->hash_next;
            put(t, d);
        }
    free(old);
}

struct domain *domain_table_acquire(struct domain_table *t, struct slice name)
{
    for (struct domain *d = *bucket_of(t, name.ptr, name.len); d != NULL; d = d->hash_next)
        if (slice_equal(slice_of(d->name, d->name_len), name)) {
            d->references++;
            return d;
        }
    struct domain *d = malloc(sizeof *d + name.len + 1);
    if (d == NULL)
        return NULL;
    list_init(&d->stranded);
    list_init(&d->stranded_link);
    d->stranded_at = 0;
    d->references = 1;
    d->name_len = (uint32_t)name.len;
    memcpy(d->name, name.ptr, name.len);
    d->name[name.len] = '\0';
    if (++t->count > t->bucket_count)
        grow(t);
    put(t, d);
    return d;
}

void domain_table_release(struct domain_table *t, struct domain *d)
{
    ASSERT(d->references > 0);
    if (--d->references > 0)
        return;
    ASSERT(list_empty(&d->stranded));
    list_remove(&d->stranded_link);
    struct domain **at = bucket_of(t, d->name, d->name_len);
    while (*at != d)
        at = &(*at)->hash_next;
    *at = d->hash_next;
    t->count--;
    free(d);
}
