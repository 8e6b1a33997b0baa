/* Readiness: an epoll with stale events filtered out. A watch is embedded in what is watched; each
 * registration gets a slot and a generation, which travel in epoll's data (generation << 32 |
 * slot), so an event that was already fetched for a descriptor closed a moment ago is dropped,
 * never misread. Owner thread only. */
#ifndef ONWARD_CORE_BASE_POLLER_H
#define ONWARD_CORE_BASE_POLLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum poller_events {
    POLLER_READABLE = 1, /* data, end of stream or error: a read will not block */
    POLLER_WRITABLE = 2, /* room, or error: a write will not block */
    POLLER_ENDED = 4, /* end of stream or error, perhaps behind data: no further change will tell */
};

enum poller_mode {
    POLLER_EDGE,       /* both directions, told once per change: read and write until NET_AGAIN */
    POLLER_LEVEL_READ, /* readable, told as long as it holds (eventfds) */
    POLLER_LEVEL_READ_SHARED, /* the same for a listener that several pollers watch: wakes one */
};

/* One descriptor that is watched; embedded in what it belongs to. `on_ready` runs on the poller's
 * thread. */
struct watch {
    void (*on_ready)(struct watch *watch, unsigned events);
    uint32_t slot;
    int fd; /* -1 while not watched */
};

struct poller;

struct poller *poller_create(void); /* NULL: out of descriptors or memory */
void poller_destroy(struct poller **p);

/* False where the kernel has no room. */
bool poller_add(struct poller *p, struct watch *w, int fd, enum poller_mode mode,
                void (*on_ready)(struct watch *watch, unsigned events));

/* Before the descriptor is closed; harmless where it is not watched. */
void poller_remove(struct poller *p, struct watch *w);

/* The same for a descriptor that is closed right after it, and is nobody else's: the kernel forgets
 * it by itself then. */
void poller_forget(struct poller *p, struct watch *w);

/* Waits up to `timeout_ms` (-1: for ever) for events, at most 256 of them; returns how many.
 * Nothing is called yet: the loop has something to do between waking and serving. */
int poller_fetch(struct poller *p, int timeout_ms);

/* Calls on_ready for the `count` events just fetched. */
void poller_dispatch(struct poller *p, int count);

#endif
