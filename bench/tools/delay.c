/* A TCP proxy that adds a round trip, for there may be no netem where the bench runs.
 *
 *     delay --listen ADDRESS:PORT --to ADDRESS:PORT --one-way-ms N
 *
 * What is read from one side is written to the other N milliseconds later, so every exchange of
 * command and reply takes 2 N. The kernel's handshake with the proxy takes no time: the connection
 * to the other side is begun 3 N later instead, when the last packet of the handshake would have
 * arrived there. Bandwidth is not limited, packets are not lost, and slow start happens only on
 * loopback: a real path of that length is slower. One thread, one epoll. Prints "ready" when it
 * listens; ends with its standard input. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, READ_BYTES = 64 * 1024, HANDSHAKE_WAYS = 3 };

/* Bytes on their way to one side, or (len 0) the news that no more come. */
struct segment {
    struct segment *next;
    size_t len, sent;
    char bytes[];
};

/* One of the two sockets of a pair, and what waits to be written to it. */
struct side {
    struct pair *pair;
    int fd; /* -1 = not open yet, or closed */
    bool wants_write, is_read_out;
    struct segment *first, **last;
};

struct pair {
    struct side client, server;
};

/* What is to happen later. All delays are multiples of one, so few queues in order of
 * time are enough. */
struct event {
    struct event *next;
    uint64_t due_ms;
    struct pair *pair;
    struct side *to; /* NULL = connect to the server */
    struct segment *segment;
};

struct queue {
    struct event *first, **last;
};

static struct {
    struct sockaddr_in to;
    uint64_t one_way_ms;
    int epoll_fd, listener;
    struct queue segments, connects;
} proxy;

_Noreturn static void die(const char *what)
{
    (void)fprintf(stderr, "delay: %s\n", what);
    _exit(1);
}

static void *zeroed(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL)
        die("out of memory");
    return memory;
}

static uint64_t now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void add(struct queue *q, const struct event *e)
{
    struct event *copy = zeroed(sizeof *copy);
    *copy = *e;
    *q->last = copy;
    q->last = &copy->next;
}

/* ---- sockets ---- */

static void watch(struct side *s, int operation)
{
    struct epoll_event event = {
        .events = (s->is_read_out ? 0 : EPOLLIN) | (s->wants_write ? EPOLLOUT : 0), .data.ptr = s};
    if (epoll_ctl(proxy.epoll_fd, operation, s->fd, &event) != 0)
        die("epoll has no room");
}

static void open_side(struct side *s, int fd)
{
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    s->fd = fd;
    watch(s, EPOLL_CTL_ADD);
}

static void close_side(struct side *s)
{
    if (s->fd >= 0)
        (void)close(s->fd);
    s->fd = -1;
    s->is_read_out = true;
}

/* Writes what has arrived at this side; a pair is left in memory, for events may still name it. */
static void write_on(struct side *s)
{
    while (s->fd >= 0 && s->first != NULL) {
        struct segment *g = s->first;
        if (g->len == 0) {
            close_side(s); /* the other end is gone: so is this one */
            return;
        }
        ssize_t sent = send(s->fd, g->bytes + g->sent, g->len - g->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            close_side(s);
            return;
        }
        if (sent < 0)
            break;
        g->sent += (size_t)sent;
        if (g->sent < g->len)
            continue;
        s->first = g->next;
        if (s->first == NULL)
            s->last = &s->first;
        free(g);
    }
    bool wants = s->first != NULL;
    if (s->fd >= 0 && wants != s->wants_write) {
        s->wants_write = wants;
        watch(s, EPOLL_CTL_MOD);
    }
}

static void send_later(struct side *to, const char *bytes, size_t len)
{
    struct segment *g = zeroed(sizeof *g + len);
    g->len = len;
    if (len > 0)
        memcpy(g->bytes, bytes, len);
    add(&proxy.segments,
        &(struct event){
            .due_ms = now_ms() + proxy.one_way_ms, .pair = to->pair, .to = to, .segment = g});
}

static void read_on(struct side *s)
{
    static char bytes[READ_BYTES];
    struct side *other = s == &s->pair->client ? &s->pair->server : &s->pair->client;
    ssize_t got = read(s->fd, bytes, sizeof bytes);
    if (got < 0 && errno == EAGAIN)
        return;
    send_later(other, bytes, got > 0 ? (size_t)got : 0);
    if (got > 0)
        return;
    s->is_read_out = true;
    watch(s, EPOLL_CTL_MOD);
}

/* ---- what is due ---- */

static void on_accept(void)
{
    int fd = accept4(proxy.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct pair *p = zeroed(sizeof *p);
    p->client = (struct side){.pair = p, .fd = -1, .last = &p->client.first};
    p->server = (struct side){.pair = p, .fd = -1, .last = &p->server.first};
    open_side(&p->client, fd);
    add(&proxy.connects,
        &(struct event){.due_ms = now_ms() + HANDSHAKE_WAYS * proxy.one_way_ms, .pair = p});
}

static void connect_server(struct pair *p)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("no socket");
    if (connect(fd, (struct sockaddr *)&proxy.to, sizeof proxy.to) != 0 && errno != EINPROGRESS)
        die("cannot connect");
    open_side(&p->server, fd);
    write_on(&p->server);
}

static void happen(const struct event *e)
{
    if (e->to == NULL) {
        connect_server(e->pair);
        return;
    }
    *e->to->last = e->segment;
    e->to->last = &e->segment->next;
    write_on(e->to);
}

/* Lets happen what is due; returns milliseconds until the next event, or `most`. */
static int run_due(struct queue *q, int most)
{
    while (q->first != NULL) {
        struct event *e = q->first;
        uint64_t now = now_ms();
        if (e->due_ms > now)
            return e->due_ms - now < (uint64_t)most ? (int)(e->due_ms - now) : most;
        q->first = e->next;
        if (q->first == NULL)
            q->last = &q->first;
        happen(e);
        free(e);
    }
    return most;
}

/* ---- beginning ---- */

static struct sockaddr_in address_of(const char *text)
{
    char host[INET_ADDRSTRLEN] = "";
    struct sockaddr_in at = {.sin_family = AF_INET};
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon - text >= (ptrdiff_t)sizeof host)
        die("addresses are ADDRESS:PORT");
    memcpy(host, text, (size_t)(colon - text));
    at.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, host, &at.sin_addr) != 1)
        die("addresses are ADDRESS:PORT");
    return at;
}

static void start_listening(const struct sockaddr_in *at)
{
    int on = 1;
    proxy.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)setsockopt(proxy.listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(proxy.listener, (const struct sockaddr *)at, sizeof *at) != 0 ||
        listen(proxy.listener, SOMAXCONN) != 0)
        die("cannot listen: the port is taken");
    struct epoll_event accepting = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(proxy.epoll_fd, EPOLL_CTL_ADD, proxy.listener, &accepting) != 0)
        die("no epoll");
}

int main(int count, char **words)
{
    if (count != 7 || strcmp(words[1], "--listen") != 0 || strcmp(words[3], "--to") != 0 ||
        strcmp(words[5], "--one-way-ms") != 0)
        die("usage: delay --listen ADDRESS:PORT --to ADDRESS:PORT --one-way-ms N");
    struct sockaddr_in at = address_of(words[2]);
    proxy.to = address_of(words[4]);
    proxy.one_way_ms = strtoul(words[6], NULL, 10);
    proxy.segments.last = &proxy.segments.first;
    proxy.connects.last = &proxy.connects.first;
    proxy.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    start_listening(&at);
    static struct side standard_input = {.fd = STDIN_FILENO};
    watch(&standard_input, EPOLL_CTL_ADD);
    (void)puts("ready");
    (void)fflush(stdout);
    for (;;) {
        int wait = run_due(&proxy.connects, run_due(&proxy.segments, 1000));
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(proxy.epoll_fd, events, EVENTS, wait);
        for (int i = 0; i < ready; i++) {
            struct side *s = events[i].data.ptr;
            if (s == &standard_input)
                return 0;
            if (s == NULL)
                on_accept();
            else if ((events[i].events & EPOLLOUT) != 0 && s->fd >= 0)
                write_on(s);
            if (s != NULL && (events[i].events & ~(uint32_t)EPOLLOUT) != 0 && s->fd >= 0)
                read_on(s);
        }
    }
}
