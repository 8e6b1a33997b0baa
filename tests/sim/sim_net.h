/* The simulated world's time and network. They stand in for core/base/clock.c, net.c and poller.c
 * at link time, so the relay's own code runs unchanged on them, in one thread.
 *
 * Time stands still until sim_advance moves it to the next event and runs that one. Everything that
 * takes time is an event: a handshake, bytes on their way, a commit, a DNS answer. Events of the
 * same instant run in the order they were made. A connection delivers in order, cut at random. */
#ifndef ONWARD_TESTS_SIM_NET_H
#define ONWARD_TESTS_SIM_NET_H

#include "core/base/address.h"
#include "core/base/buf.h"
#include "core/base/net.h"
#include "core/base/random.h"

enum { SIM_WINDOW_BYTES = 128 * 1024 }; /* in flight towards a host that does not read */

struct sim_host;
struct sim_dialogue;
struct watch;

struct parcel;

struct sim_conn {
    int fd;
    struct sim_host *host;
    enum net_status connecting; /* NET_AGAIN on its way, NET_OK, or why not */
    struct watch *watch;
    unsigned pending;      /* events the poller has not told yet */
    bool queued;           /* on the poller's list */
    bool closed;           /* by the relay */
    bool ended, was_reset; /* by the host; holds behind `inbox` */
    struct buf inbox;      /* arrived and unread */
    uint64_t said, read;   /* bytes the host has sent, the relay has read */
    uint64_t last_arrival_us;
    struct parcel *last_parcel;    /* on its way to the relay, or NULL; owns itself */
    uint64_t taken;                /* bytes that the host has */
    size_t in_flight;              /* bytes written by the relay that the host has not taken */
    bool blocked;                  /* the relay was told NET_AGAIN for a write */
    struct sim_dialogue *dialogue; /* the host's */
};

/* Starts a world: time, randomness, no hosts, no connections. Frees the last one. */
void sim_net_reset(uint64_t seed);

uint64_t sim_now_us(void);
struct random *sim_random(void);

/* True in `percent` of the cases. */
bool sim_chance(unsigned percent);

/* Runs `run(context, number)` so much later. */
void sim_after(uint64_t delay_us, void (*run)(void *context, uint64_t number), void *context,
               uint64_t number);

/* When the next event is due; UINT64_MAX: there is none. */
uint64_t sim_next_us(void);

/* Moves time to `us` (not backwards), and runs the next event where it is due by then. */
void sim_advance(uint64_t us);

/* Does the poller have something to tell? */
bool sim_poller_ready(void);

/* Connections that the relay has open. */
unsigned sim_open_conns(void);

/* ---- for hosts ---- */

/* Which host answers at this address; asked at each connect. NULL: unreachable. Set by
 * the world. */
extern struct sim_host *(*sim_find_host)(const struct address *a);

/* `delay_us` from now the host says this; it arrives a latency later. */
void sim_conn_say(struct sim_conn *c, struct slice bytes, uint64_t delay_us);

/* The host has taken `len` of the bytes it heard: there is room for more. */
void sim_conn_take(struct sim_conn *c, size_t len);

/* The host closes, or resets, behind what it has said. */
void sim_conn_end(struct sim_conn *c, uint64_t delay_us, bool reset);

#endif
