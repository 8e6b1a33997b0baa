#include "core/queue/destination.h"

#include "core/base/assert.h"
#include "core/base/random.h"
#include "core/queue/priority.h"

#include <pthread.h>
#include <stdlib.h>

enum {
    SHARDS = 64,
    BUCKETS_PER_SHARD = 256,
    LOOK_BACK = 8,
    LANES_UNPROVEN_MAX = 3, /* of a destination where nobody has got through yet */
};

struct destination_table {
    uint64_t seed;
    pthread_mutex_t forget_lock; /* held while a destination is freed, and by destination_withdraw
                                    while it looks */
    struct shard {
        _Alignas(64)
            pthread_mutex_t lock; /* guards its buckets and the references of what is in them */
        struct link buckets[BUCKETS_PER_SHARD];
    } shards[SHARDS];
};

struct destination {
    struct link bucket_link; /* guard: the shard's lock */
    struct destination_table *table;
    struct shard *shard;
    uint64_t references; /* guard: the shard's lock */
    size_t key_len;
    struct {
        _Alignas(64) pthread_mutex_t lock; /* guards all below, for a few pointer moves */
        struct queue {
            struct link list; /* struct delivery, by shared.queue_link; oldest first */
            uint64_t length;
        } queues[PRIORITIES];
        struct priority_turn turn;
        unsigned lanes; /* open or on their way */
        unsigned ready; /* sessions that got through */
        unsigned aside; /* lanes that have given their right back, and still wait for a reply */
        unsigned idle_count;
        struct link idle; /* struct idle_lane, most recently used first */
    } shared;
    char key[];
};

static uint64_t queued(const struct destination *d)
{
    return d->shared.queues[PRIORITY_BULK].length + d->shared.queues[PRIORITY_TRANSACTIONAL].length;
}

struct destination_table *destination_table_create(void)
{
    struct destination_table *t = aligned_alloc(64, (sizeof *t + 63) / 64 * 64);
    if (t == NULL)
        return NULL;
    struct random random;
    random_init(&random);
    t->seed = random_u64(&random);
    pthread_mutex_init(&t->forget_lock, NULL);
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_init(&t->shards[i].lock, NULL);
        for (int k = 0; k < BUCKETS_PER_SHARD; k++)
            list_init(&t->shards[i].buckets[k]);
    }
    return t;
}

void destination_table_destroy(struct destination_table **t)
{
    if (*t == NULL)
        return;
    for (int i = 0; i < SHARDS; i++) {
        for (int k = 0; k < BUCKETS_PER_SHARD; k++)
            ASSERT(list_empty(&(*t)->shards[i].buckets[k]));
        pthread_mutex_destroy(&(*t)->shards[i].lock);
    }
    pthread_mutex_destroy(&(*t)->forget_lock);
    free(*t);
    *t = NULL;
}

static uint64_t hash_of(const struct destination_table *t, struct slice key)
{
    uint64_t hash = t->seed;
    for (size_t i = 0; i < key.len; i++) {
        hash = (hash ^ (unsigned char)key.ptr[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return hash;
}

static struct destination *create(struct destination_table *t, struct shard *shard,
                                  struct slice key)
{
    size_t size = (sizeof(struct destination) + key.len + 1 + 63) / 64 * 64;
    struct destination *d = aligned_alloc(64, size);
    if (d == NULL)
        return NULL;
    memset(d, 0, size);
    d->table = t;
    d->shard = shard;
    d->key_len = key.len;
    memcpy(d->key, key.ptr, key.len);
    pthread_mutex_init(&d->shared.lock, NULL);
    for (int p = 0; p < PRIORITIES; p++)
        list_init(&d->shared.queues[p].list);
    list_init(&d->shared.idle);
    return d;
}

struct destination *destination_acquire(struct destination_table *t, struct slice key)
{
    uint64_t hash = hash_of(t, key);
    struct shard *shard = &t->shards[hash % SHARDS];
    struct link *bucket = &shard->buckets[hash / SHARDS % BUCKETS_PER_SHARD];
    struct destination *found = NULL;
    pthread_mutex_lock(&shard->lock);
    for (struct link *l = bucket->next; l != bucket && found == NULL; l = l->next) {
        struct destination *d = CONTAINER_OF(l, struct destination, bucket_link);
        if (slice_equal(slice_of(d->key, d->key_len), key))
            found = d;
    }
    if (found == NULL && (found = create(t, shard, key)) != NULL)
        list_push_front(bucket, &found->bucket_link);
    if (found != NULL)
        found->references++;
    pthread_mutex_unlock(&shard->lock);
    return found;
}

void destination_reference(struct destination *d)
{
    pthread_mutex_lock(&d->shard->lock);
    ASSERT(d->references > 0);
    d->references++;
    pthread_mutex_unlock(&d->shard->lock);
}

static void forget(struct destination *d)
{
    struct destination_table *t = d->table;
    pthread_mutex_lock(&t->forget_lock);
    ASSERT(d->shared.lanes == 0 && queued(d) == 0);
    pthread_mutex_destroy(&d->shared.lock);
    free(d);
    pthread_mutex_unlock(&t->forget_lock);
}

static void release_many(struct destination *d, uint64_t count)
{
    struct shard *shard = d->shard;
    pthread_mutex_lock(&shard->lock);
    ASSERT(d->references >= count);
    d->references -= count;
    bool last = count > 0 && d->references == 0;
    if (last)
        list_remove(&d->bucket_link);
    pthread_mutex_unlock(&shard->lock);
    if (last)
        forget(d);
}

static void release(struct destination *d)
{
    release_many(d, 1);
}

void destination_release(struct destination **d)
{
    release(*d);
    *d = NULL;
}

struct slice destination_key(const struct destination *d)
{
    return slice_of(d->key, d->key_len);
}

/* ---- the queue ---- */

static struct queue *queue_of(struct destination *d, const struct delivery *delivery)
{
    return &d->shared.queues[delivery->message->priority];
}

static struct delivery *delivery_of(struct link *l)
{
    return CONTAINER_OF(l, struct delivery, shared.queue_link);
}

/* Behind the message's other delivery near the tail, where there is one, so that they are taken
 * together. */
static struct link *place_for(struct destination *d, const struct delivery *delivery)
{
    struct link *queue = &queue_of(d, delivery)->list, *l = queue->prev;
    for (int i = 0; i < LOOK_BACK && l != queue; i++, l = l->prev)
        if (delivery_of(l)->message == delivery->message)
            return l->next;
    return queue;
}

static struct idle_lane *pick_idle(struct destination *d, unsigned worker)
{
    if (list_empty(&d->shared.idle))
        return NULL;
    struct idle_lane *chosen = CONTAINER_OF(d->shared.idle.next, struct idle_lane, link);
    for (struct link *l = d->shared.idle.next; l != &d->shared.idle; l = l->next) {
        struct idle_lane *lane = CONTAINER_OF(l, struct idle_lane, link);
        if (lane->worker == worker) {
            chosen = lane;
            break;
        }
    }
    list_remove(&chosen->link);
    chosen->queued = false;
    d->shared.idle_count--;
    return chosen;
}

/* As many lanes may be on their way as have got through: an exchange that hangs parks a handful of
 * connections, not `lanes_max` of them, and one that is well has them all within a few round trips. */
static bool is_trusted_with_more(const struct destination *d)
{
    unsigned ready = d->shared.ready, lanes = d->shared.lanes;
    unsigned unproven = lanes > ready ? lanes - ready : 0;
    return unproven < (ready > LANES_UNPROVEN_MAX ? ready : LANES_UNPROVEN_MAX);
}

/* More mail than lanes that are still on their way to fetch some? Lanes at work come back for more
 * by themselves, but nobody knows when. */
static bool wants_lane(const struct destination *d, unsigned lanes_max)
{
    return d->shared.lanes < lanes_max && queued(d) > d->shared.lanes && is_trusted_with_more(d);
}

enum destination_call destination_enqueue(struct destination *d, struct delivery *delivery,
                                          unsigned worker, unsigned lanes_max,
                                          struct idle_lane **idle_out)
{
    enum destination_call call = DESTINATION_ENOUGH;
    destination_reference(d); /* the queued delivery's own */
    pthread_mutex_lock(&d->shared.lock);
    list_insert_before(place_for(d, delivery), &delivery->shared.queue_link);
    atomic_store(&delivery->shared.destination, d);
    queue_of(d, delivery)->length++;
    *idle_out = pick_idle(d, worker);
    if (*idle_out != NULL) {
        call = DESTINATION_CALL_IDLE;
    } else if (d->shared.lanes == 0 || wants_lane(d, lanes_max)) {
        d->shared.lanes++;
        call = DESTINATION_OPEN_LANE;
    }
    pthread_mutex_unlock(&d->shared.lock);
    return call;
}

/* Off the queue; the lock is held. The queued delivery's reference is the caller's to give back. */
static void unlink_locked(struct destination *d, struct delivery *delivery)
{
    list_remove(&delivery->shared.queue_link);
    atomic_store(&delivery->shared.destination, NULL);
    queue_of(d, delivery)->length--;
}

unsigned destination_take(struct destination *d, uint32_t recipients_max, struct link *out)
{
    unsigned taken = 0;
    uint32_t recipients = 0;
    const struct message *message = NULL;
    pthread_mutex_lock(&d->shared.lock);
    struct queue *queue =
        &d->shared.queues[priority_next(&d->shared.turn, d->shared.queues[PRIORITY_BULK].length > 0,
                                        d->shared.queues[PRIORITY_TRANSACTIONAL].length > 0)];
    while (!list_empty(&queue->list)) {
        struct delivery *delivery = delivery_of(queue->list.next);
        if (taken > 0 && (delivery->message != message ||
                          recipients + delivery->recipient_count > recipients_max))
            break;
        message = delivery->message;
        recipients += delivery->recipient_count;
        unlink_locked(d, delivery);
        list_push_back(out, &delivery->shared.queue_link);
        taken++;
    }
    pthread_mutex_unlock(&d->shared.lock);
    release_many(d, taken);
    return taken;
}

void destination_put_back(struct destination *d, struct link *list)
{
    pthread_mutex_lock(&d->shard->lock);
    for (const struct link *l = list->next; l != list; l = l->next)
        d->references++;
    pthread_mutex_unlock(&d->shard->lock);
    pthread_mutex_lock(&d->shared.lock);
    if (!list_empty(list))
        priority_return(&d->shared.turn, delivery_of(list->next)->message->priority);
    while (!list_empty(list)) {
        struct link *last = list->prev;
        list_remove(last);
        struct queue *queue = queue_of(d, delivery_of(last));
        list_push_front(&queue->list, last);
        atomic_store(&delivery_of(last)->shared.destination, d);
        queue->length++;
    }
    pthread_mutex_unlock(&d->shared.lock);
}

uint64_t destination_take_all(struct destination *d, struct link *out)
{
    uint64_t taken = 0;
    pthread_mutex_lock(&d->shared.lock);
    for (int p = PRIORITIES - 1; p >= 0; p--)
        while (!list_empty(&d->shared.queues[p].list)) {
            struct delivery *delivery = delivery_of(d->shared.queues[p].list.next);
            unlink_locked(d, delivery);
            list_push_back(out, &delivery->shared.queue_link);
            taken++;
        }
    pthread_mutex_unlock(&d->shared.lock);
    release_many(d, taken);
    return taken;
}

/* Only the committer calls this. The pointer it reads is cleared by whoever unlinks the delivery,
 * and the destination may be freed any time after that; but not while `forget_lock` is held, so the
 * lock it leads to can be taken. */
bool destination_withdraw(struct destination_table *t, struct delivery *delivery)
{
    bool found = false;
    pthread_mutex_lock(&t->forget_lock);
    struct destination *d = atomic_load(&delivery->shared.destination);
    if (d != NULL) {
        pthread_mutex_lock(&d->shared.lock);
        found = atomic_load(&delivery->shared.destination) == d;
        if (found)
            unlink_locked(d, delivery);
        pthread_mutex_unlock(&d->shared.lock);
    }
    pthread_mutex_unlock(&t->forget_lock);
    if (found)
        release(d);
    return found;
}

/* ---- lanes ---- */

bool destination_idle_enter(struct destination *d, struct idle_lane *lane)
{
    pthread_mutex_lock(&d->shared.lock);
    bool empty = queued(d) == 0;
    if (empty) {
        list_push_front(&d->shared.idle, &lane->link);
        lane->queued = true;
        d->shared.idle_count++;
    }
    pthread_mutex_unlock(&d->shared.lock);
    return empty;
}

bool destination_idle_leave(struct destination *d, struct idle_lane *lane)
{
    pthread_mutex_lock(&d->shared.lock);
    bool was_queued = lane->queued;
    if (was_queued) {
        list_remove(&lane->link);
        lane->queued = false;
        d->shared.idle_count--;
    }
    pthread_mutex_unlock(&d->shared.lock);
    return was_queued;
}

void destination_session_ready(struct destination *d)
{
    pthread_mutex_lock(&d->shared.lock);
    d->shared.ready++;
    pthread_mutex_unlock(&d->shared.lock);
}

void destination_session_gone(struct destination *d)
{
    pthread_mutex_lock(&d->shared.lock);
    ASSERT(d->shared.ready > 0);
    d->shared.ready--;
    pthread_mutex_unlock(&d->shared.lock);
}

bool destination_lane_add(struct destination *d, unsigned lanes_max)
{
    pthread_mutex_lock(&d->shared.lock);
    bool wanted = wants_lane(d, lanes_max);
    if (wanted)
        d->shared.lanes++;
    pthread_mutex_unlock(&d->shared.lock);
    return wanted;
}

bool destination_lane_add_beside(struct destination *d, unsigned lanes_max)
{
    pthread_mutex_lock(&d->shared.lock);
    bool wanted = d->shared.lanes < lanes_max && queued(d) > 0 && is_trusted_with_more(d);
    if (wanted)
        d->shared.lanes++;
    pthread_mutex_unlock(&d->shared.lock);
    return wanted;
}

void destination_lane_begin(struct destination *d)
{
    pthread_mutex_lock(&d->shared.lock);
    d->shared.lanes++;
    pthread_mutex_unlock(&d->shared.lock);
}

bool destination_lane_decline(struct destination *d)
{
    pthread_mutex_lock(&d->shared.lock);
    bool others = d->shared.lanes > 1;
    if (others)
        d->shared.lanes--;
    pthread_mutex_unlock(&d->shared.lock);
    return others;
}

bool destination_lane_end(struct destination *d, bool stopping)
{
    pthread_mutex_lock(&d->shared.lock);
    ASSERT(d->shared.lanes > 0);
    bool again = !stopping && d->shared.lanes == 1 && queued(d) > 0;
    if (!again)
        d->shared.lanes--;
    pthread_mutex_unlock(&d->shared.lock);
    return again;
}

bool destination_step_aside(struct destination *d, unsigned lanes_max)
{
    pthread_mutex_lock(&d->shared.lock);
    ASSERT(d->shared.lanes > 0);
    bool may = d->shared.aside < lanes_max;
    if (may) {
        d->shared.lanes--;
        d->shared.aside++;
    }
    pthread_mutex_unlock(&d->shared.lock);
    return may;
}

void destination_aside_over(struct destination *d)
{
    pthread_mutex_lock(&d->shared.lock);
    ASSERT(d->shared.aside > 0);
    d->shared.aside--;
    pthread_mutex_unlock(&d->shared.lock);
}

struct destination_figures destination_figures(struct destination *d)
{
    pthread_mutex_lock(&d->shared.lock);
    struct destination_figures f = {.queued = queued(d),
                                    .transactional =
                                        d->shared.queues[PRIORITY_TRANSACTIONAL].length,
                                    .lanes = d->shared.lanes,
                                    .sessions_ready = d->shared.ready,
                                    .idle = d->shared.idle_count,
                                    .aside = d->shared.aside};
    pthread_mutex_unlock(&d->shared.lock);
    return f;
}

/* References one shard's destinations, then visits them without its lock. */
static void visit_shard(struct shard *shard, void (*visit)(void *context, struct destination *d),
                        void *context)
{
    size_t count = 0, at = 0;
    pthread_mutex_lock(&shard->lock);
    for (int k = 0; k < BUCKETS_PER_SHARD; k++)
        for (struct link *l = shard->buckets[k].next; l != &shard->buckets[k]; l = l->next)
            count++;
    struct destination **found = calloc(count + 1, sizeof(struct destination *));
    for (int k = 0; found != NULL && k < BUCKETS_PER_SHARD; k++)
        for (struct link *l = shard->buckets[k].next; l != &shard->buckets[k]; l = l->next) {
            found[at] = CONTAINER_OF(l, struct destination, bucket_link);
            found[at++]->references++;
        }
    pthread_mutex_unlock(&shard->lock);
    for (size_t i = 0; i < at; i++) {
        visit(context, found[i]);
        release(found[i]);
    }
    free(found);
}

void destination_table_visit(struct destination_table *t,
                             void (*visit)(void *context, struct destination *d), void *context)
{
    for (int i = 0; i < SHARDS; i++)
        visit_shard(&t->shards[i], visit, context);
}
