/* A connection: a socket, TLS over it where agreed, and the poller's watch. It moves bytes; what
 * they mean is its session's business. Edge-triggered: readable and writable are remembered here
 * until an operation says NET_AGAIN. Embedded in its session; owner thread only. */
#ifndef ONWARD_WORKERS_CONN_H
#define ONWARD_WORKERS_CONN_H

#include "core/base/buf.h"
#include "core/base/net.h"
#include "core/base/poller.h"
#include "workers/tls.h"

struct conn {
    struct watch watch;
    struct poller *poller;
    SSL *ssl; /* NULL in clear; owned */
    int fd;   /* -1 when closed; owned */
    bool readable;
    bool writable;
    bool ended; /* the end of the stream is there, perhaps behind data */
};

/* Takes over `fd`. `on_ready` gets &conn->watch. False (fd closed) where the poller has no room. */
bool conn_open(struct conn *c, struct poller *poller, int fd,
               void (*on_ready)(struct watch *watch, unsigned events));

/* Notes what the poller told; call first in on_ready. */
void conn_note(struct conn *c, unsigned events);

/* The peer reads an end behind what was written; we go on reading. In clear only. */
void conn_shutdown_write(struct conn *c);

/* Harmless where it is closed. */
void conn_close(struct conn *c);

static inline bool conn_is_open(const struct conn *c)
{
    return c->fd >= 0;
}

/* Reads what is there, at most `size`. NET_AGAIN: nothing now. */
enum net_status conn_read(struct conn *c, char *buffer, size_t size, size_t *len_out);

/* Writes as much of `parts` as goes. NET_OK with `*len_out` > 0 or NET_AGAIN. After NET_AGAIN over
 * TLS the next call must begin with the same bytes. */
enum net_status conn_writev(struct conn *c, const struct iovec *parts, int count, size_t *len_out);

/* The most that one conn_writev takes: what passes it never shares a write. */
size_t conn_write_max(const struct conn *c);

/* Writes out `out`; NET_OK when it is empty. Nothing, and NET_NO_RESOURCES, where memory was
 * wanting for some of it. */
enum net_status conn_flush(struct conn *c, struct buf *out);

/* Begins the TLS handshake as a client. False: out of memory. */
bool conn_tls_start(struct conn *c, struct tls *tls, const char *name,
                    const struct address *address);

/* Carries it on: NET_OK done, NET_AGAIN, else failed (tls_failure tells why). */
enum net_status conn_tls_step(struct conn *c);

#endif
