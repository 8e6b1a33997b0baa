#include "core/base/poller.h"

#include "core/base/assert.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS_PER_WAKE = 256, NO_SLOT = UINT32_MAX };

struct slot {
    struct watch *watch; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
};

struct poller {
    int epoll_fd;
    uint32_t capacity;
    uint32_t free_head;
    struct slot *slots;
    struct epoll_event events[EVENTS_PER_WAKE];
};

struct poller *poller_create(void)
{
    struct poller *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->free_head = NO_SLOT;
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (p->epoll_fd < 0) {
        free(p);
        return NULL;
    }
    return p;
}

void poller_destroy(struct poller **p)
{
    if (*p == NULL)
        return;
    (void)close((*p)->epoll_fd);
    free((*p)->slots);
    free(*p);
    *p = NULL;
}

static bool grow(struct poller *p)
{
    uint32_t capacity = p->capacity > 0 ? p->capacity * 2 : 64;
    struct slot *slots = realloc(p->slots, capacity * sizeof *slots);
    if (slots == NULL)
        return false;
    for (uint32_t i = p->capacity; i < capacity; i++)
        slots[i] = (struct slot){.next_free = i + 1 < capacity ? i + 1 : NO_SLOT};
    p->free_head = p->capacity;
    p->slots = slots;
    p->capacity = capacity;
    return true;
}

static uint32_t epoll_bits(enum poller_mode mode)
{
    switch (mode) {
    case POLLER_EDGE:
        return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    case POLLER_LEVEL_READ:
        return EPOLLIN;
    case POLLER_LEVEL_READ_SHARED:
        return EPOLLIN | EPOLLEXCLUSIVE;
    }
    ASSERT(false);
}

bool poller_add(struct poller *p, struct watch *w, int fd, enum poller_mode mode,
                void (*on_ready)(struct watch *watch, unsigned events))
{
    if (p->free_head == NO_SLOT && !grow(p))
        return false;
    uint32_t index = p->free_head;
    struct slot *s = &p->slots[index];
    struct epoll_event e = {.events = epoll_bits(mode),
                            .data.u64 = (uint64_t)s->generation << 32 | index};
    if (epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0)
        return false;
    p->free_head = s->next_free;
    s->watch = w;
    *w = (struct watch){.on_ready = on_ready, .slot = index, .fd = fd};
    return true;
}

void poller_remove(struct poller *p, struct watch *w)
{
    if (w->fd >= 0)
        (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    poller_forget(p, w);
}

void poller_forget(struct poller *p, struct watch *w)
{
    if (w->fd < 0)
        return;
    struct slot *s = &p->slots[w->slot];
    ASSERT(s->watch == w);
    *s = (struct slot){.generation = s->generation + 1, .next_free = p->free_head};
    p->free_head = w->slot;
    w->fd = -1;
}

int poller_fetch(struct poller *p, int timeout_ms)
{
    int n = epoll_wait(p->epoll_fd, p->events, EVENTS_PER_WAKE, timeout_ms);
    return n > 0 ? n : 0;
}

void poller_dispatch(struct poller *p, int count)
{
    for (int i = 0; i < count; i++) {
        uint64_t data = p->events[i].data.u64;
        struct slot *s = &p->slots[(uint32_t)data];
        if (s->watch == NULL || s->generation != (uint32_t)(data >> 32))
            continue;
        uint32_t bits = p->events[i].events;
        unsigned events = 0;
        if (bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            events |= POLLER_READABLE;
        if (bits & (EPOLLOUT | EPOLLHUP | EPOLLERR))
            events |= POLLER_WRITABLE;
        if (bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            events |= POLLER_ENDED;
        s->watch->on_ready(s->watch, events);
    }
}
