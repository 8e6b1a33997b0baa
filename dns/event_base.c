#include "dns/event_base.h"

#include "core/base/assert.h"
#include "core/base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unbound.h>
#include <unbound-event.h>
#include <unistd.h>

enum { EVENTS_PER_WAKE = 256, NO_SLOT = UINT32_MAX };

/* epoll's data for the mailbox: no registration has this generation and slot. */
#define WAKE_DATA UINT64_MAX

/* What libunbound waits for: a descriptor, a time, or both. */
struct event {
    struct ub_event unbound; /* first: libunbound holds this address */
    struct event_base *base;
    int fd;        /* -1: time only */
    short bits;    /* UB_EV_* asked for */
    uint32_t slot; /* of its registration with epoll, or NO_SLOT */
    struct timer timer;
    struct link soon; /* on base->soon while a timeout of zero is pending */
    void (*callback)(int fd, short bits, void *arg);
    void *arg;
};

/* A registration. Its generation tells an event that epoll had already reported when it was taken
 * off. */
struct slot {
    struct event *event; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
};

struct event_base {
    struct ub_event_base unbound; /* first, as above */
    int epoll_fd;
    struct timer_wheel timers;
    struct link soon; /* struct event, in the order they were added */
    uint32_t events;  /* that exist */
    uint32_t capacity;
    uint32_t free_head;
    struct slot *slots;
    int ready_count;
    struct epoll_event ready[EVENTS_PER_WAKE];
};

/* ---- registration with epoll ---- */

static struct event *event_of(struct ub_event *e)
{
    ASSERT(e->magic == UB_EVENT_MAGIC);
    return CONTAINER_OF(e, struct event, unbound);
}

static bool grow(struct event_base *b)
{
    uint32_t capacity = b->capacity > 0 ? b->capacity * 2 : 64;
    struct slot *slots = realloc(b->slots, capacity * sizeof *slots);
    if (slots == NULL)
        return false;
    for (uint32_t i = b->capacity; i < capacity; i++)
        slots[i] = (struct slot){.next_free = i + 1 < capacity ? i + 1 : NO_SLOT};
    b->free_head = b->capacity;
    b->slots = slots;
    b->capacity = capacity;
    return true;
}

static bool listen_on(struct event *e)
{
    struct event_base *b = e->base;
    if (b->free_head == NO_SLOT && !grow(b))
        return false;
    uint32_t index = b->free_head;
    struct slot *s = &b->slots[index];
    struct epoll_event ep = {.data.u64 = (uint64_t)s->generation << 32 | index};
    if (e->bits & UB_EV_READ)
        ep.events |= EPOLLIN;
    if (e->bits & UB_EV_WRITE)
        ep.events |= EPOLLOUT;
    if (epoll_ctl(b->epoll_fd, EPOLL_CTL_ADD, e->fd, &ep) != 0)
        return false;
    b->free_head = s->next_free;
    s->event = e;
    e->slot = index;
    return true;
}

static void stop_listening(struct event *e)
{
    if (e->slot == NO_SLOT)
        return;
    struct event_base *b = e->base;
    struct slot *s = &b->slots[e->slot];
    ASSERT(s->event == e);
    (void)epoll_ctl(b->epoll_fd, EPOLL_CTL_DEL, e->fd, NULL);
    *s = (struct slot){.generation = s->generation + 1, .next_free = b->free_head};
    b->free_head = e->slot;
    e->slot = NO_SLOT;
}

/* ---- timeouts ---- */

static void on_timeout(struct timer *timer, void *owner)
{
    (void)owner;
    struct event *e = CONTAINER_OF(timer, struct event, timer);
    e->callback(e->fd, UB_EV_TIMEOUT, e->arg);
}

static void arm(struct event *e, const struct timeval *after)
{
    uint64_t ms = (uint64_t)after->tv_sec * 1000 + ((uint64_t)after->tv_usec + 999) / 1000;
    if (ms > 0) {
        timer_arm(&e->base->timers, &e->timer, clock_mono_ms() + ms);
    } else if (list_empty(&e->soon)) {
        /* Every cold query is sent from one of these: not even the wheel's millisecond
         * is waited. */
        list_push_back(&e->base->soon, &e->soon);
    }
}

static void deactivate(struct event *e)
{
    stop_listening(e);
    timer_disarm(&e->base->timers, &e->timer);
    list_remove(&e->soon);
}

/* ---- what libunbound calls on an event ---- */

static void event_add_bits(struct ub_event *event, short bits)
{
    struct event *e = event_of(event);
    ASSERT(e->slot == NO_SLOT);
    e->bits = (short)(e->bits | bits);
}

static void event_del_bits(struct ub_event *event, short bits)
{
    struct event *e = event_of(event);
    ASSERT(e->slot == NO_SLOT);
    e->bits = (short)(e->bits & ~bits);
}

static void event_set_fd(struct ub_event *event, int fd)
{
    struct event *e = event_of(event);
    ASSERT(e->slot == NO_SLOT);
    e->fd = fd;
}

static void event_free(struct ub_event *event)
{
    struct event *e = event_of(event);
    deactivate(e);
    e->base->events--;
    e->unbound.magic = 0;
    free(e);
}

static int event_add(struct ub_event *event, struct timeval *timeout)
{
    struct event *e = event_of(event);
    deactivate(e);
    if (e->fd >= 0 && (e->bits & (UB_EV_READ | UB_EV_WRITE)) != 0 && !listen_on(e))
        return -1;
    if (timeout != NULL && (e->bits & UB_EV_TIMEOUT) != 0)
        arm(e, timeout);
    return 0;
}

static int event_del(struct ub_event *event)
{
    deactivate(event_of(event));
    return 0;
}

static int event_add_timer(struct ub_event *event, struct ub_event_base *base,
                           void (*callback)(int, short, void *), void *arg, struct timeval *timeout)
{
    struct event *e = event_of(event);
    ASSERT(&e->base->unbound == base);
    deactivate(e);
    e->fd = -1;
    e->bits = UB_EV_TIMEOUT;
    e->callback = callback;
    e->arg = arg;
    arm(e, timeout);
    return 0;
}

/* Signals belong to the main thread and libunbound never asks for them here. */
static int event_refuse_signal(struct ub_event *event, struct timeval *timeout)
{
    (void)event, (void)timeout;
    return -1;
}

static int event_refuse_del_signal(struct ub_event *event)
{
    (void)event;
    return -1;
}

static void event_ignore_wsaevent(struct ub_event *event)
{
    (void)event;
}

static void event_ignore_wouldblock(struct ub_event *event, int bits)
{
    (void)event, (void)bits;
}

/* ---- what libunbound calls on the base ---- */

static struct ub_event *base_new_event(struct ub_event_base *base, int fd, short bits,
                                       void (*callback)(int, short, void *), void *arg)
{
    static struct ub_event_vmt methods = {
        .add_bits = event_add_bits,
        .del_bits = event_del_bits,
        .set_fd = event_set_fd,
        .free = event_free,
        .add = event_add,
        .del = event_del,
        .add_timer = event_add_timer,
        .del_timer = event_del,
        .add_signal = event_refuse_signal,
        .del_signal = event_refuse_del_signal,
        .winsock_unregister_wsaevent = event_ignore_wsaevent,
        .winsock_tcp_wouldblock = event_ignore_wouldblock,
    };
    struct event *e = calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    e->unbound = (struct ub_event){UB_EVENT_MAGIC, &methods};
    e->base = CONTAINER_OF(base, struct event_base, unbound);
    e->base->events++;
    e->fd = fd;
    e->bits = bits;
    e->slot = NO_SLOT;
    timer_init(&e->timer, on_timeout);
    list_init(&e->soon);
    e->callback = callback;
    e->arg = arg;
    return &e->unbound;
}

static struct ub_event *base_refuse_signal(struct ub_event_base *base, int fd,
                                           void (*callback)(int, short, void *), void *arg)
{
    (void)base, (void)fd, (void)callback, (void)arg;
    return NULL;
}

static struct ub_event *base_refuse_wsaevent(struct ub_event_base *base, void *wsaevent,
                                             void (*callback)(int, short, void *), void *arg)
{
    (void)base, (void)wsaevent, (void)callback, (void)arg;
    return NULL;
}

/* The owner frees the base and turns the loop; libunbound has no say in either. */
static void base_ignore_free(struct ub_event_base *base)
{
    (void)base;
}

static int base_refuse_dispatch(struct ub_event_base *base)
{
    (void)base;
    return -1;
}

static int base_refuse_loopexit(struct ub_event_base *base, struct timeval *after)
{
    (void)base, (void)after;
    return -1;
}

/* ---- public ---- */

struct event_base *event_base_create(void)
{
    static struct ub_event_base_vmt methods = {
        .free = base_ignore_free,
        .dispatch = base_refuse_dispatch,
        .loopexit = base_refuse_loopexit,
        .new_event = base_new_event,
        .new_signal = base_refuse_signal,
        .winsock_register_wsaevent = base_refuse_wsaevent,
    };
    struct event_base *b = calloc(1, sizeof *b);
    if (b == NULL)
        return NULL;
    b->unbound = (struct ub_event_base){UB_EVENT_MAGIC, &methods};
    b->free_head = NO_SLOT;
    timer_wheel_init(&b->timers, clock_mono_ms(), b);
    list_init(&b->soon);
    b->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (b->epoll_fd < 0) {
        free(b);
        return NULL;
    }
    return b;
}

void event_base_destroy(struct event_base **b)
{
    if (*b == NULL)
        return;
    ASSERT((*b)->events == 0);
    (void)close((*b)->epoll_fd);
    free((*b)->slots);
    free(*b);
    *b = NULL;
}

struct ub_event_base *event_base_for_unbound(struct event_base *b)
{
    return &b->unbound;
}

bool event_base_wake_on(struct event_base *b, int fd)
{
    struct epoll_event ep = {.events = EPOLLIN, .data.u64 = WAKE_DATA};
    return epoll_ctl(b->epoll_fd, EPOLL_CTL_ADD, fd, &ep) == 0;
}

struct timer_wheel *event_base_timers(struct event_base *b)
{
    return &b->timers;
}

void event_base_wait(struct event_base *b, bool may_sleep)
{
    bool busy = !may_sleep || !list_empty(&b->soon);
    int timeout_ms = busy ? 0 : timer_wheel_wait_ms(&b->timers, clock_mono_ms());
    int n = epoll_wait(b->epoll_fd, b->ready, EVENTS_PER_WAKE, timeout_ms);
    b->ready_count = n > 0 ? n : 0;
}

static void dispatch_ready(struct event_base *b)
{
    for (int i = 0; i < b->ready_count; i++) {
        uint64_t data = b->ready[i].data.u64;
        if (data == WAKE_DATA)
            continue;
        const struct slot *s = &b->slots[(uint32_t)data];
        if (s->event == NULL || s->generation != (uint32_t)(data >> 32))
            continue;
        struct event *e = s->event;
        uint32_t seen = b->ready[i].events;
        bool broken = (seen & (EPOLLERR | EPOLLHUP)) != 0;
        short bits = 0;
        if (broken || (seen & EPOLLIN) != 0)
            bits |= UB_EV_READ;
        if (broken || (seen & EPOLLOUT) != 0)
            bits |= UB_EV_WRITE;
        bits = (short)(bits & e->bits);
        if ((e->bits & UB_EV_PERSIST) == 0)
            deactivate(e);
        if (bits != 0)
            e->callback(e->fd, bits, e->arg);
    }
    b->ready_count = 0;
}

/* What is added meanwhile waits for the next turn, so that a loop of zero timeouts cannot starve
 * the rest. */
static void dispatch_soon(struct event_base *b)
{
    struct link due;
    list_init(&due);
    list_splice_back(&due, &b->soon);
    for (struct link *l; (l = list_pop_front(&due)) != NULL;)
        on_timeout(&CONTAINER_OF(l, struct event, soon)->timer, b);
}

void event_base_dispatch(struct event_base *b)
{
    dispatch_ready(b);
    (void)timer_wheel_advance(&b->timers, clock_mono_ms());
    dispatch_soon(b);
}
