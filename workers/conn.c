#include "workers/conn.h"

#include "core/base/assert.h"

#include <openssl/err.h>

enum { TLS_RECORD_BYTES = 16384 };

bool conn_open(struct conn *c, struct poller *poller, int fd,
               void (*on_ready)(struct watch *watch, unsigned events))
{
    *c = (struct conn){.poller = poller, .fd = fd, .watch.fd = -1};
    if (poller_add(poller, &c->watch, fd, POLLER_EDGE, on_ready))
        return true;
    net_close(fd);
    c->fd = -1;
    return false;
}

void conn_note(struct conn *c, unsigned events)
{
    c->readable |= (events & POLLER_READABLE) != 0;
    c->writable |= (events & POLLER_WRITABLE) != 0;
    c->ended |= (events & POLLER_ENDED) != 0;
}

void conn_shutdown_write(struct conn *c)
{
    ASSERT(c->ssl == NULL);
    net_shutdown_write(c->fd);
}

void conn_close(struct conn *c)
{
    if (c->fd < 0)
        return;
    poller_forget(c->poller, &c->watch);
    SSL_free(c->ssl);
    c->ssl = NULL;
    net_close(c->fd);
    c->fd = -1;
}

/* What an OpenSSL call that returned `rc` means. */
static enum net_status tls_status(struct conn *c, int rc)
{
    switch (SSL_get_error(c->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        c->readable = false;
        return NET_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        c->writable = false;
        return NET_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return NET_CLOSED;
    default:
        return NET_RESET;
    }
}

enum net_status conn_read(struct conn *c, char *buffer, size_t size, size_t *len_out)
{
    *len_out = 0;
    if (c->ssl == NULL) {
        enum net_status status = net_read(c->fd, buffer, size, len_out);
        /* A short read has emptied the socket: the next byte makes a new edge (epoll(7)). An end
         * that came with the data makes none: it is read at once. */
        if (status == NET_AGAIN || (status == NET_OK && *len_out < size && !c->ended))
            c->readable = false;
        return status;
    }
    ERR_clear_error();
    int rc = SSL_read_ex(c->ssl, buffer, size, len_out);
    return rc == 1 ? NET_OK : tls_status(c, rc);
}

/* TLS writes one record from one run of bytes, so that a body's end and its dot share it. */
static enum net_status write_record(struct conn *c, const struct iovec *parts, int count,
                                    size_t *len_out)
{
    char record[TLS_RECORD_BYTES];
    size_t len = 0;
    for (int i = 0; i < count && len < sizeof record; i++) {
        size_t room = sizeof record - len;
        size_t take = parts[i].iov_len < room ? parts[i].iov_len : room;
        memcpy(record + len, parts[i].iov_base, take);
        len += take;
    }
    ERR_clear_error();
    int rc = SSL_write_ex(c->ssl, record, len, len_out);
    return rc == 1 ? NET_OK : tls_status(c, rc);
}

enum net_status conn_writev(struct conn *c, const struct iovec *parts, int count, size_t *len_out)
{
    *len_out = 0;
    if (c->ssl != NULL)
        return write_record(c, parts, count, len_out);
    enum net_status status = net_writev(c->fd, parts, count, len_out);
    if (status == NET_AGAIN)
        c->writable = false;
    return status;
}

size_t conn_write_max(const struct conn *c)
{
    return c->ssl != NULL ? TLS_RECORD_BYTES : SIZE_MAX;
}

enum net_status conn_flush(struct conn *c, struct buf *out)
{
    if (!buf_ok(out)) /* what comes next would stand in the place of what there was no memory for */
        return NET_NO_RESOURCES;
    while (buf_len(out) > 0) {
        struct slice s = buf_slice(out);
        struct iovec part = {.iov_base = (void *)(uintptr_t)s.ptr, .iov_len = s.len};
        size_t len = 0;
        enum net_status status = conn_writev(c, &part, 1, &len);
        if (status != NET_OK)
            return status;
        buf_consume(out, len);
    }
    return NET_OK;
}

bool conn_tls_start(struct conn *c, struct tls *tls, const char *name,
                    const struct address *address)
{
    ASSERT(c->ssl == NULL);
    c->ssl = tls_connection(tls, c->fd, name, address);
    return c->ssl != NULL;
}

enum net_status conn_tls_step(struct conn *c)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(c->ssl);
    return rc == 1 ? NET_OK : tls_status(c, rc);
}
