#include "tests/sim/sim_net.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/poller.h"
#include "tests/sim/sim_host.h"
#include "tests/sim/sim_trail.h"

#include <stdlib.h>

enum {
    FIRST_FD = 100000, /* beyond real descriptors: the mailbox's eventfd is one */
    INBOX_MAX = 64 << 20,
    START_US = 1000000000, /* of the monotonic clock */
};

#define WALL_START_MS UINT64_C(1790000000000)

struct event {
    uint64_t at_us;
    uint64_t number; /* breaks ties */
    void (*run)(void *context, uint64_t argument);
    void *context;
    uint64_t argument;
};

/* Bytes, or the end, on their way to the relay. */
struct parcel {
    struct sim_conn *conn;
    bool end, reset;
    bool is_followed; /* by another at the same instant: nobody is told in between */
    size_t len;
    char bytes[];
};

static void on_parcel(void *context, uint64_t unused);

static struct {
    uint64_t now_us;
    uint64_t events_made;
    struct random random;
    struct random seeds; /* for what the relay would ask the kernel for */
    struct event *heap;
    size_t count, room;
    struct sim_conn **conns;
    size_t conn_count, conn_room;
    struct sim_conn **ready; /* connections with something to tell */
    size_t ready_count, ready_room;
    unsigned open;
} net;

struct sim_host *(*sim_find_host)(const struct address *a);

/* ---- time ---- */

uint64_t sim_now_us(void)
{
    return net.now_us;
}

uint64_t clock_mono_us(void)
{
    return net.now_us;
}

uint64_t clock_mono_ms(void)
{
    return net.now_us / 1000;
}

uint64_t clock_wall_ms(void)
{
    return WALL_START_MS + (net.now_us - START_US) / 1000;
}

/* In the place of core/base/random_kernel.c: even what the relay only hashes with decides
 * something. Apart from the world's own draws, so that one more generator does not make all
 * worlds anew. */
void random_init(struct random *r)
{
    random_init_seed(r, random_u64(&net.seeds));
}

struct random *sim_random(void)
{
    return &net.random;
}

bool sim_chance(unsigned percent)
{
    return random_below(&net.random, 100) < percent;
}

/* ---- events: a binary heap ---- */

static bool before(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->number < b->number;
}

static void *grown(void *array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return array;
    *room = *room > 0 ? *room * 2 : 64;
    array = reallocarray(array, *room, size);
    ASSERT(array != NULL);
    return array;
}

void sim_after(uint64_t delay_us, void (*run)(void *context, uint64_t number), void *context,
               uint64_t number)
{
    net.heap = grown(net.heap, net.count, &net.room, sizeof *net.heap);
    struct event e = {net.now_us + delay_us, net.events_made++, run, context, number};
    size_t at = net.count++;
    for (; at > 0 && before(&e, &net.heap[(at - 1) / 2]); at = (at - 1) / 2)
        net.heap[at] = net.heap[(at - 1) / 2];
    net.heap[at] = e;
}

static struct event pop(void)
{
    struct event first = net.heap[0], last = net.heap[--net.count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= net.count)
            break;
        if (child + 1 < net.count && before(&net.heap[child + 1], &net.heap[child]))
            child++;
        if (!before(&net.heap[child], &last))
            break;
        net.heap[at] = net.heap[child];
        at = child;
    }
    net.heap[at] = last;
    return first;
}

/* What comes for a connection that the relay has closed is nobody's business: the rest of a flood
 * would make most of a world's steps. */
static bool is_lost(const struct event *e)
{
    if (e->run != on_parcel)
        return false;
    const struct parcel *p = e->context;
    return p->conn->closed;
}

uint64_t sim_next_us(void)
{
    while (net.count > 0 && is_lost(&net.heap[0])) {
        struct event lost = pop();
        lost.run(lost.context, lost.argument);
    }
    return net.count > 0 ? net.heap[0].at_us : UINT64_MAX;
}

void sim_advance(uint64_t us)
{
    if (us > net.now_us)
        net.now_us = us;
    if (net.count == 0 || net.heap[0].at_us > net.now_us)
        return;
    struct event e = pop();
    sim_trail_note("event", e.number, SLICE_LIT(""));
    e.run(e.context, e.argument);
}

/* ---- readiness ---- */

struct poller {
    char nothing;
};

static struct sim_conn *conn_of(int fd)
{
    size_t index = (size_t)fd - FIRST_FD;
    return fd >= FIRST_FD && index < net.conn_count ? net.conns[index] : NULL;
}

static void tell(struct sim_conn *c, unsigned events)
{
    c->pending |= events;
    if (c->queued || c->watch == NULL)
        return;
    net.ready = grown(net.ready, net.ready_count, &net.ready_room, sizeof(struct sim_conn *));
    net.ready[net.ready_count++] = c;
    c->queued = true;
}

struct poller *poller_create(void)
{
    return calloc(1, sizeof(struct poller));
}

void poller_destroy(struct poller **p)
{
    free(*p);
    *p = NULL;
}

bool poller_add(struct poller *p, struct watch *w, int fd, enum poller_mode mode,
                void (*on_ready)(struct watch *watch, unsigned events))
{
    (void)p, (void)mode;
    struct sim_conn *c = conn_of(fd);
    *w = (struct watch){.on_ready = on_ready, .fd = fd};
    if (c != NULL) /* else the mailbox: mail is delivered in every turn */
        c->watch = w;
    return true;
}

void poller_remove(struct poller *p, struct watch *w)
{
    (void)p;
    struct sim_conn *c = w->fd >= 0 ? conn_of(w->fd) : NULL;
    if (c != NULL)
        c->watch = NULL;
    w->fd = -1;
}

void poller_forget(struct poller *p, struct watch *w)
{
    poller_remove(p, w);
}

bool sim_poller_ready(void)
{
    return net.ready_count > 0;
}

int poller_fetch(struct poller *p, int timeout_ms)
{
    (void)p, (void)timeout_ms;
    return net.ready_count > 0;
}

/* One connection a turn, any of those that are ready: the kernel promises no order. */
void poller_dispatch(struct poller *p, int count)
{
    (void)p;
    if (count == 0 || net.ready_count == 0)
        return;
    size_t at = (size_t)random_below(&net.random, net.ready_count);
    struct sim_conn *c = net.ready[at];
    net.ready[at] = net.ready[--net.ready_count];
    unsigned events = c->pending;
    c->queued = false;
    c->pending = 0;
    sim_trail_note("readiness", (uint64_t)c->fd << 32 | events, SLICE_LIT(""));
    if (c->watch != NULL && events != 0)
        c->watch->on_ready(c->watch, events);
}

/* ---- connecting ---- */

static void on_connected(void *context, uint64_t status)
{
    struct sim_conn *c = context;
    c->connecting = (enum net_status)status;
    if (c->closed)
        return;
    tell(c, POLLER_WRITABLE | (status == NET_OK ? 0 : POLLER_READABLE));
    if (status == NET_OK)
        sim_host_accept(c->host, c);
}

static bool fault_holds(struct sim_host *h, enum sim_fault_kind kind)
{
    return h->fault.kind == kind && (h->fault.until_us == 0 || net.now_us < h->fault.until_us);
}

enum net_status net_connect(const struct address *to, const struct address *source, int *fd_out)
{
    (void)source;
    struct sim_host *h = sim_find_host(to);
    if (h == NULL || fault_holds(h, FAULT_UNREACHABLE))
        return NET_UNREACHABLE;
    struct sim_conn *c = calloc(1, sizeof *c);
    ASSERT(c != NULL);
    h->connections++;
    *c =
        (struct sim_conn){.fd = FIRST_FD + (int)net.conn_count, .host = h, .connecting = NET_AGAIN};
    buf_init(&c->inbox, INBOX_MAX);
    net.conns = grown(net.conns, net.conn_count, &net.conn_room, sizeof(struct sim_conn *));
    net.conns[net.conn_count++] = c;
    net.open++;
    *fd_out = c->fd;
    sim_trail_note("connect", (uint64_t)c->fd, slice_of(to->ip, sizeof to->ip));
    if (fault_holds(h, FAULT_REFUSED))
        sim_after(2 * h->latency_us, on_connected, c, NET_REFUSED);
    else if (!fault_holds(h, FAULT_NO_SYN))
        sim_after(2 * h->latency_us, on_connected, c, NET_OK);
    return NET_AGAIN;
}

enum net_status net_connect_result(int fd)
{
    return conn_of(fd)->connecting;
}

/* ---- bytes to the relay ---- */

static void on_parcel(void *context, uint64_t unused)
{
    (void)unused;
    struct parcel *p = context;
    struct sim_conn *c = p->conn;
    if (!c->closed && p->end) {
        c->ended = !p->reset;
        c->was_reset = p->reset;
    } else if (!c->closed) {
        buf_append(&c->inbox, slice_of(p->bytes, p->len));
    }
    if (c->last_parcel == p)
        c->last_parcel = NULL;
    if (!c->closed && !p->is_followed)
        tell(c, POLLER_READABLE | (p->end ? POLLER_ENDED : 0));
    free(p);
}

static void post(struct sim_conn *c, struct slice bytes, uint64_t delay_us, bool end, bool reset)
{
    struct parcel *p = malloc(sizeof *p + bytes.len);
    ASSERT(p != NULL);
    *p = (struct parcel){.conn = c, .end = end, .reset = reset, .len = bytes.len};
    if (bytes.len > 0)
        memcpy(p->bytes, bytes.ptr, bytes.len);
    uint64_t at = net.now_us + delay_us + c->host->latency_us;
    if (at < c->last_arrival_us)
        at = c->last_arrival_us;
    if (at == c->last_arrival_us && c->last_parcel != NULL && sim_chance(50))
        c->last_parcel->is_followed = true; /* both are there before anybody looks */
    c->last_arrival_us = at;
    c->last_parcel = p;
    sim_after(at - net.now_us, on_parcel, p, 0);
}

void sim_conn_say(struct sim_conn *c, struct slice bytes, uint64_t delay_us)
{
    c->said += bytes.len;
    while (bytes.len > 0) {
        size_t len = sim_chance(70) ? bytes.len : 1 + (size_t)random_below(&net.random, bytes.len);
        post(c, slice_take(bytes, len), delay_us, false, false);
        bytes = slice_skip(bytes, len);
    }
}

void sim_conn_end(struct sim_conn *c, uint64_t delay_us, bool reset)
{
    post(c, SLICE_LIT(""), delay_us, true, reset);
}

enum net_status net_read(int fd, void *buffer, size_t size, size_t *len_out)
{
    struct sim_conn *c = conn_of(fd);
    ASSERT(c != NULL && !c->closed);
    *len_out = 0;
    if (buf_len(&c->inbox) > 0) {
        struct slice part = slice_take(buf_slice(&c->inbox), size);
        memcpy(buffer, part.ptr, part.len);
        sim_trail_note("read", (uint64_t)fd, slice_of(buffer, part.len));
        buf_consume(&c->inbox, part.len);
        c->read += part.len;
        *len_out = part.len;
        return NET_OK;
    }
    return c->was_reset ? NET_RESET : c->ended ? NET_CLOSED : NET_AGAIN;
}

/* ---- bytes to the host ---- */

static void on_heard(void *context, uint64_t unused)
{
    (void)unused;
    struct parcel *p = context;
    sim_host_hear(p->conn, slice_of(p->bytes, p->len));
    free(p);
}

uint64_t net_acknowledged(int fd)
{
    const struct sim_conn *c = conn_of(fd);
    ASSERT(c != NULL && !c->closed);
    return c->taken;
}

bool net_has_room(int fd)
{
    struct sim_conn *c = conn_of(fd);
    ASSERT(c != NULL && !c->closed);
    c->blocked = SIM_WINDOW_BYTES - c->in_flight < SIM_WINDOW_BYTES / 3;
    return !c->blocked;
}

enum net_status net_writev(int fd, const struct iovec *parts, int count, size_t *len_out)
{
    struct sim_conn *c = conn_of(fd);
    ASSERT(c != NULL && !c->closed);
    *len_out = 0;
    if (c->was_reset)
        return NET_RESET;
    size_t all = 0, room = SIM_WINDOW_BYTES - c->in_flight;
    for (int i = 0; i < count; i++)
        all += parts[i].iov_len;
    size_t len = all < room ? all : room;
    if (len == 0) {
        c->blocked = true;
        return NET_AGAIN;
    }
    struct parcel *p = malloc(sizeof *p + len);
    ASSERT(p != NULL);
    *p = (struct parcel){.conn = c, .len = len};
    for (size_t at = 0, i = 0; at < len; i++) {
        size_t part = parts[i].iov_len < len - at ? parts[i].iov_len : len - at;
        memcpy(p->bytes + at, parts[i].iov_base, part);
        at += part;
    }
    sim_trail_note("write", (uint64_t)fd, slice_of(p->bytes, len));
    c->in_flight += len;
    c->blocked = len < all;
    sim_after(c->host->latency_us, on_heard, p, 0);
    *len_out = len;
    return NET_OK;
}

void sim_conn_take(struct sim_conn *c, size_t len)
{
    c->in_flight -= len;
    c->taken += len;
    if (c->blocked && !c->closed)
        tell(c, POLLER_WRITABLE);
    c->blocked = false;
}

void net_shutdown_write(int fd)
{
    (void)fd;
    ASSERT(false); /* only submission does */
}

void net_close(int fd)
{
    struct sim_conn *c = conn_of(fd);
    ASSERT(c != NULL && !c->closed && c->watch == NULL);
    sim_trail_note("close", (uint64_t)fd, SLICE_LIT(""));
    c->closed = true;
    net.open--;
}

unsigned sim_open_conns(void)
{
    return net.open;
}

/* ---- what the relay listens with is not simulated ---- */

int net_listen(const struct address *a, struct error *error)
{
    (void)a;
    error_set(error, "no listeners here");
    return -1;
}

enum net_status net_accept(int listener, int *fd_out, struct address *peer_out)
{
    (void)listener, (void)fd_out, (void)peer_out;
    return NET_AGAIN;
}

/* ---- a new world ---- */

static void discard_event(const struct event *e)
{
    if (e->run == on_parcel || e->run == on_heard)
        free(e->context);
}

void sim_net_reset(uint64_t seed)
{
    for (size_t i = 0; i < net.count; i++)
        discard_event(&net.heap[i]);
    for (size_t i = 0; i < net.conn_count; i++) {
        sim_dialogue_destroy(&net.conns[i]->dialogue);
        buf_fini(&net.conns[i]->inbox);
        free(net.conns[i]);
    }
    net.count = net.conn_count = net.ready_count = 0;
    net.open = 0;
    net.events_made = 0;
    net.now_us = START_US;
    random_init_seed(&net.random, seed);
    random_init_seed(&net.seeds, ~seed);
}
