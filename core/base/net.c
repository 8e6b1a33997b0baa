#include "core/base/net.h"

#include "core/base/map_guard.h"

#include <errno.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/tcp.h> /* netinet/tcp.h lacks the newer half of tcp_info */
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { BIND_NAP_MS = 20, BIND_WAIT_MS = 2000 };

static enum net_status status_of(int error)
{
    switch (error) {
    case 0:
        return NET_OK;
    case EAGAIN:
    case EINPROGRESS:
    case EINTR:
        return NET_AGAIN;
    case ECONNREFUSED:
        return NET_REFUSED;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case EACCES: /* a local firewall rule, or a broadcast address */
    case EPERM:
    case EINVAL: /* e.g. an address no connection can go to */
    case EAFNOSUPPORT:
        return NET_UNREACHABLE;
    case ETIMEDOUT:
        return NET_TIMEOUT;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case EADDRNOTAVAIL: /* no free port, or the source address is gone */
    case EADDRINUSE:
        return NET_NO_RESOURCES;
    default: /* ECONNRESET, EPIPE, ECONNABORTED and what else breaks a connection */
        return NET_RESET;
    }
}

static void set_option(int fd, int level, int option, int value)
{
    /* Options here only tune; a kernel that lacks one still carries mail. */
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

static bool is_wildcard(const struct address *a)
{
    static const uint8_t zero[16] = {0};
    return memcmp(a->ip, zero, sizeof zero) == 0;
}

/* Whoever leaves has it for a moment still. */
static bool bind_in_time(int fd, const struct sockaddr_storage *ss, socklen_t len)
{
    for (int waited = 0; bind(fd, (const struct sockaddr *)ss, len) != 0; waited += BIND_NAP_MS) {
        if (errno != EADDRINUSE || waited >= BIND_WAIT_MS)
            return false;
        (void)poll(NULL, 0, BIND_NAP_MS);
    }
    return true;
}

int net_bind(const struct address *a, struct error *error)
{
    char text[ADDRESS_TEXT_SIZE];
    address_format(a, text);
    struct sockaddr_storage ss;
    socklen_t len = address_to_sockaddr(a, &ss);
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        error_set(error, "cannot listen on %s: %m", text);
        return -1;
    }
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); /* its connections have it from here (tcp(7)) */
    if (ss.ss_family == AF_INET6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, is_wildcard(a) ? 0 : 1);
    if (!bind_in_time(fd, &ss, len)) {
        error_set(error,
                  "cannot listen on %s: %m; choose another submission.listen address or stop what "
                  "uses it",
                  text);
        (void)close(fd);
        return -1;
    }
    return fd;
}

bool net_listen_bound(int fd, const struct address *a, struct error *error)
{
    if (listen(fd, SOMAXCONN) == 0)
        return true;
    char text[ADDRESS_TEXT_SIZE];
    address_format(a, text);
    error_set(error, "cannot listen on %s: %m; stop what uses it", text);
    return false;
}

int net_listen(const struct address *a, struct error *error)
{
    int fd = net_bind(a, error);
    if (fd >= 0 && !net_listen_bound(fd, a, error)) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

void net_listener_deafen(int fd)
{
    enum { FLAGS_AT = 13, SYN = 0x02, ACK = 0x10 }; /* of the TCP header (RFC 9293 3.1) */
    struct sock_filter lines[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS_AT),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    struct sock_fprog filter = {.len = sizeof lines / sizeof *lines, .filter = lines};
    /* Without it some callers see a reset: no worse than closing at once. */
    (void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter);
}

enum net_status net_accept(int listener, int *fd_out, struct address *peer_out)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    int fd = accept4(listener, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        enum net_status status = status_of(errno);
        /* What went wrong with one connection (ECONNABORTED) says nothing of the next. */
        return status == NET_NO_RESOURCES ? status : NET_AGAIN;
    }
    if (!address_from_sockaddr((struct sockaddr *)&ss, peer_out)) {
        (void)close(fd);
        return NET_AGAIN;
    }
    *fd_out = fd;
    return NET_OK;
}

enum net_status net_connect(const struct address *to, const struct address *source, int *fd_out)
{
    struct sockaddr_storage ss;
    socklen_t len = address_to_sockaddr(to, &ss);
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return status_of(errno);
    /* Whole writes go out as they are made: the session itself gathers what belongs together. */
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (source != NULL) {
        struct sockaddr_storage from;
        socklen_t from_len = address_to_sockaddr(source, &from);
        /* The port is chosen at connect(), so that one source address serves many destinations. */
        set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
        if (bind(fd, (struct sockaddr *)&from, from_len) != 0) {
            enum net_status status = status_of(errno);
            (void)close(fd);
            return status;
        }
    }
    if (connect(fd, (struct sockaddr *)&ss, len) != 0) {
        enum net_status status = status_of(errno);
        if (status != NET_AGAIN) {
            (void)close(fd);
            return status;
        }
        *fd_out = fd;
        return NET_AGAIN;
    }
    *fd_out = fd;
    return NET_OK;
}

enum net_status net_connect_result(int fd)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        return NET_RESET;
    return status_of(error);
}

enum net_status net_read(int fd, void *buffer, size_t size, size_t *len_out)
{
    *len_out = 0;
    for (;;) {
        ssize_t n = read(fd, buffer, size);
        if (n > 0) {
            *len_out = (size_t)n;
            return NET_OK;
        }
        if (n == 0)
            return NET_CLOSED;
        if (errno != EINTR)
            return status_of(errno);
    }
}

enum net_status net_writev(int fd, const struct iovec *parts, int count, size_t *len_out)
{
    *len_out = 0;
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts,
                             .msg_iovlen = (size_t)count};
    for (;;) {
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n >= 0) {
            *len_out = (size_t)n;
            return NET_OK;
        }
        if (errno == EFAULT)
            for (int i = 0; i < count; i++)
                map_guard_touch(parts[i].iov_base, parts[i].iov_len);
        if (errno != EINTR)
            return status_of(errno);
    }
}

void net_shutdown_write(int fd)
{
    (void)shutdown(fd, SHUT_WR); /* what it fails for is noticed by the next read */
}

bool net_has_room(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT}; /* asking is also what orders the next edge */
    return poll(&p, 1, 0) != 0;
}

uint64_t net_acknowledged(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 ? info.tcpi_bytes_acked : 0;
}

void net_close(int fd)
{
    (void)close(fd);
}

unsigned net_interface_addresses(struct address *out, unsigned max)
{
    struct ifaddrs *all;
    unsigned count = 0;
    if (getifaddrs(&all) != 0)
        return 0;
    for (const struct ifaddrs *i = all; i != NULL && count < max; i = i->ifa_next)
        if (i->ifa_addr != NULL && address_from_sockaddr(i->ifa_addr, &out[count]))
            out[count++].port = 0;
    freeifaddrs(all);
    return count;
}
