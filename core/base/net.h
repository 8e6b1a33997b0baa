/* Non-blocking TCP sockets. The one place that calls the kernel's socket functions, so that a
 * simulation can link its own in their stead. Every failure comes back as a status that says what
 * it means for a mail exchange, never as errno. */
#ifndef ONWARD_CORE_BASE_NET_H
#define ONWARD_CORE_BASE_NET_H

#include "core/base/address.h"
#include "core/base/error.h"

#include <sys/uio.h>

enum net_status {
    NET_OK,
    NET_AGAIN,  /* would block: wait for the poller */
    NET_CLOSED, /* the peer closed in order */
    NET_RESET,  /* the peer or the network broke the connection */
    NET_REFUSED,
    NET_UNREACHABLE,
    NET_TIMEOUT,      /* the kernel gave up */
    NET_NO_RESOURCES, /* descriptors, ports or memory ran out on our side */
};

/* Binds a listener that takes nobody yet; returns the descriptor, or -1 with `error`.
 * Waits two seconds for whoever has the address to leave. IPv6 sockets take IPv6 only,
 * except the wildcard. */
int net_bind(const struct address *a, struct error *error);

/* From now on it takes callers. False with `error`. */
bool net_listen_bound(int fd, const struct address *a, struct error *error);

/* Both. */
int net_listen(const struct address *a, struct error *error);

/* The kernel takes no further caller for this listener, and says nothing to it: it calls again a
 * second later, and by then is refused, or has the next process. Closing at once would reset
 * whoever calls between the last accept and the close. */
void net_listener_deafen(int fd);

/* NET_OK, NET_AGAIN or NET_NO_RESOURCES. */
enum net_status net_accept(int listener, int *fd_out, struct address *peer_out);

/* Starts connecting from `source` (or NULL). NET_AGAIN means on its way; NET_OK connected already.
 * Only then is `*fd_out` set. */
enum net_status net_connect(const struct address *to, const struct address *source, int *fd_out);

/* After the poller said writable: how the connect ended. */
enum net_status net_connect_result(int fd);

/* NET_OK with `*len_out` over 0, or why not. */
enum net_status net_read(int fd, void *buffer, size_t size, size_t *len_out);
enum net_status net_writev(int fd, const struct iovec *parts, int count, size_t *len_out);

/* Has the kernel room for a good deal more (a third of its buffer)? Where not, the poller says
 * writable as soon as it has. */
bool net_has_room(int fd);

/* Bytes that the peer has acknowledged so far; 0 where the kernel does not tell. */
uint64_t net_acknowledged(int fd);

/* Nothing more is sent: the peer reads what was, then an end. */
void net_shutdown_write(int fd);

/* Closes a descriptor; an error cannot be helped. */
void net_close(int fd);

/* The addresses of this machine's interfaces as they are now, at most `max`, port 0.
 * Returns how many. */
unsigned net_interface_addresses(struct address *out, unsigned max);

#endif
