/* The exchanges of the tortures: an SMTP sink on many loopback addresses that leaves a journal.
 *
 *     sink PORT JOURNAL [HUNG-ADDRESS]
 *
 * All of 127.0.0.0/8 is local, so one listener on 0.0.0.0 stands for as many exchanges as a test
 * wants. It takes everything; but connections to HUNG-ADDRESS are never answered. It prints a line
 * when it listens, and ends with its standard input; a line there is answered once the journal is
 * written out.
 *
 * Each message taken leaves a line for each of its recipients, before its 250 is sent: "SECONDS
 * RECIPIENT BYTES CRC32", the latter two of the body behind its blank line, as it came on the wire;
 * the seconds are those of CLOCK_MONOTONIC, which other processes read too. Some recipients are
 * hard to please: one whose address begins with "later." gets 451 the first time it is asked for,
 * one with "never." gets 550. One thread, one epoll. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 4096, /* descriptors; a relay of the tortures makes a few dozen connections */
    BACKLOG = 1024,
    EVENTS = 64,
    READ_BYTES = 256 * 1024,
    CARRY_BYTES = 8 * 1024,  /* a longer command line or header section ends the connection */
    NAMES_BYTES = 16 * 1024, /* recipients of one message; more end the connection */
    REPLY_BYTES = 64 * 1024,
};

enum stage { COMMANDS, HEADER, BODY };

/* One connection, at the place of its descriptor in the table. */
struct connection {
    enum stage stage;
    bool hung;
    unsigned recipients;
    uint64_t body_bytes; /* of the message under way */
    uint32_t body_crc;
    char *names; /* its recipients, each with a line feed behind it */
    size_t names_len;
    char *carry; /* what was read and makes no whole line yet */
    size_t carry_len;
};

/* The recipients refused once, as 64-bit hashes: open addressing, 0 = free. */
struct seen {
    uint64_t *slots;
    size_t capacity, count; /* capacity: a power of two */
};

static struct connection connections[CONNECTIONS_MAX];
static struct seen seen;
static int epoll_fd, listener = -1;
static uint32_t hung_address; /* in network order; 0: none */
static FILE *journal;
static uint32_t crc_table[256];
static char input[CARRY_BYTES + READ_BYTES];
static char reply[REPLY_BYTES];
static size_t reply_len;

/* ---- small tools ---- */

_Noreturn static void die(const char *what)
{
    (void)fprintf(stderr, "sink: %s\n", what);
    _exit(1);
}

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t hash_of(const char *text, size_t len)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a, 64 bits */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
    return hash != 0 ? hash : 1;
}

/* Puts a hash in its place; false where it is there already. */
static bool put(uint64_t *slots, size_t capacity, uint64_t hash)
{
    size_t at = hash & (capacity - 1);
    while (slots[at] != 0 && slots[at] != hash)
        at = (at + 1) & (capacity - 1);
    bool is_new = slots[at] == 0;
    slots[at] = hash;
    return is_new;
}

static void grow(void)
{
    size_t capacity = seen.capacity > 0 ? seen.capacity * 2 : 1 << 16;
    uint64_t *slots = calloc(capacity, sizeof *slots);
    if (slots == NULL)
        die("out of memory");
    for (size_t i = 0; i < seen.capacity; i++)
        if (seen.slots[i] != 0)
            (void)put(slots, capacity, seen.slots[i]);
    free(seen.slots);
    seen.slots = slots;
    seen.capacity = capacity;
}

/* True the first time. */
static bool note_seen(uint64_t hash)
{
    if (seen.count * 2 >= seen.capacity)
        grow();
    bool is_new = put(seen.slots, seen.capacity, hash);
    seen.count += is_new;
    return is_new;
}

/* ---- connections ---- */

static int descriptor_of(const struct connection *c)
{
    return (int)(c - connections);
}

static void watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll has no room");
}

static void close_connection(struct connection *c)
{
    free(c->carry);
    free(c->names);
    (void)close(descriptor_of(c));
}

static void say(const char *text)
{
    size_t len = strlen(text);
    if (reply_len + len <= sizeof reply) {
        memcpy(reply + reply_len, text, len);
        reply_len += len;
    }
}

/* Sends what was said. Replies are a few bytes: a client that does not take them is given up. */
static bool flush(struct connection *c)
{
    bool well = reply_len == 0 ||
                send(descriptor_of(c), reply, reply_len, MSG_NOSIGNAL) == (ssize_t)reply_len;
    reply_len = 0;
    return well;
}

static void open_connection(int fd)
{
    struct sockaddr_in to = {0};
    socklen_t len = sizeof to;
    if (fd >= CONNECTIONS_MAX || getsockname(fd, (struct sockaddr *)&to, &len) != 0)
        die("too many connections");
    struct connection *c = &connections[fd];
    *c = (struct connection){.hung = hung_address != 0 && to.sin_addr.s_addr == hung_address};
    watch(fd);
    if (c->hung)
        return;
    say("220 sink ESMTP\r\n");
    if (!flush(c))
        close_connection(c);
}

static void on_listener(void)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        open_connection(fd);
    if (errno == EMFILE || errno == ENFILE)
        die("out of descriptors");
}

/* ---- the journal ---- */

static void open_journal(const char *path)
{
    journal = fopen(path, "ae");
    if (journal == NULL)
        die("cannot open the journal");
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ ((crc & 1) != 0 ? UINT32_C(0xedb88320) : 0);
        crc_table[i] = crc;
    }
}

static void sum_body(struct connection *c, const char *at, size_t len)
{
    c->body_bytes += len;
    for (size_t i = 0; i < len; i++)
        c->body_crc = c->body_crc >> 8 ^ crc_table[(c->body_crc ^ (unsigned char)at[i]) & 0xff];
}

static void note_message(const struct connection *c)
{
    double now = now_s();
    const char *name = c->names, *end = c->names + c->names_len, *stop;
    for (; name < end && (stop = memchr(name, '\n', (size_t)(end - name))) != NULL; name = stop + 1)
        (void)fprintf(journal, "%.6f %.*s %" PRIu64 " %08" PRIx32 "\n", now, (int)(stop - name),
                      name, c->body_bytes, c->body_crc ^ UINT32_MAX);
}

/* ---- SMTP ---- */

static bool is_verb(const char *line, size_t len, const char *verb)
{
    return len >= 4 && strncasecmp(line, verb, 4) == 0;
}

/* Whether the recipient of this RCPT line is taken; otherwise it has been answered. False in
 * `alive` where there is no room for it. */
static bool take_recipient(struct connection *c, const char *line, size_t len, bool *alive)
{
    const char *begin = memchr(line, '<', len);
    const char *end = begin != NULL ? memchr(begin, '>', len - (size_t)(begin - line)) : NULL;
    if (end == NULL)
        return true;
    const char *address = begin + 1;
    size_t address_len = (size_t)(end - address);
    if (address_len > 6 && strncmp(address, "never.", 6) == 0) {
        say("550 5.1.1 Nobody of that name\r\n");
        return false;
    }
    if (address_len > 6 && strncmp(address, "later.", 6) == 0 &&
        note_seen(hash_of(address, address_len))) {
        say("451 4.2.1 Not now\r\n");
        return false;
    }
    if (c->names == NULL)
        c->names = malloc(NAMES_BYTES);
    if (c->names == NULL || c->names_len + address_len + 1 > NAMES_BYTES) {
        *alive = false;
        return false;
    }
    memcpy(c->names + c->names_len, address, address_len);
    c->names[c->names_len + address_len] = '\n';
    c->names_len += address_len + 1;
    return true;
}

/* Answers one command line, given without its CRLF. False: the connection is to be closed. */
static bool on_command(struct connection *c, const char *line, size_t len)
{
    bool alive = true;
    if (is_verb(line, len, "MAIL")) {
        c->recipients = 0;
        c->names_len = 0;
        say("250 2.1.0 Ok\r\n");
    } else if (is_verb(line, len, "RCPT")) {
        if (take_recipient(c, line, len, &alive)) {
            c->recipients++;
            say("250 2.1.5 Ok\r\n");
        }
    } else if (is_verb(line, len, "DATA") && c->recipients == 0) {
        say("554 5.5.1 No recipients\r\n");
    } else if (is_verb(line, len, "DATA")) {
        c->stage = HEADER;
        c->body_bytes = 0;
        c->body_crc = UINT32_MAX;
        say("354 Go on\r\n");
    } else if (is_verb(line, len, "EHLO")) {
        say("250-sink\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME\r\n");
    } else if (is_verb(line, len, "QUIT")) {
        say("221 2.0.0 Bye\r\n");
        return false;
    } else if (is_verb(line, len, "HELO") || is_verb(line, len, "RSET") ||
               is_verb(line, len, "NOOP")) {
        say("250 2.0.0 Ok\r\n");
    } else {
        say("502 5.5.1 Unknown\r\n");
    }
    return alive;
}

/* Each takes what it can from the front of (at, len) and returns how much that was; 0: more bytes
 * are needed. `alive` becomes false where the connection is over. */
static size_t take_command(struct connection *c, const char *at, size_t len, bool *alive)
{
    const char *end = memchr(at, '\n', len);
    if (end == NULL)
        return 0;
    *alive = on_command(c, at, (size_t)(end - at));
    return (size_t)(end - at) + 1;
}

static size_t take_header(struct connection *c, const char *at, size_t len)
{
    const char *end = memmem(at, len, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    c->stage = BODY;
    return (size_t)(end - at) + 2; /* the second CRLF may be that of the final dot */
}

static size_t take_body(struct connection *c, const char *at, size_t len)
{
    static const char dot[] = "\r\n.\r\n";
    const char *end = memmem(at, len, dot, sizeof dot - 1);
    size_t body = end != NULL             ? (size_t)(end - at)
                  : len >= sizeof dot - 1 ? len - (sizeof dot - 2)
                                          : 0;
    sum_body(c, at, body);
    if (end == NULL)
        return body;
    note_message(c);
    say("250 2.0.0 Ok\r\n");
    c->stage = COMMANDS;
    return body + sizeof dot - 1;
}

/* Takes all that is whole; returns how many bytes remain. */
static size_t take_all(struct connection *c, const char *at, size_t len, bool *alive)
{
    size_t taken = 1;
    while (taken > 0 && len > 0 && *alive) {
        switch (c->stage) {
        case COMMANDS:
            taken = take_command(c, at, len, alive);
            break;
        case HEADER:
            taken = take_header(c, at, len);
            break;
        case BODY:
            taken = take_body(c, at, len);
            break;
        }
        at += taken;
        len -= taken;
    }
    return len;
}

/* Keeps the `len` last bytes of `all` for the next read. */
static bool keep(struct connection *c, const char *all, size_t total, size_t len)
{
    free(c->carry);
    c->carry = NULL;
    c->carry_len = len;
    if (len == 0)
        return true;
    if (len > CARRY_BYTES || (c->carry = malloc(len)) == NULL)
        return false;
    memcpy(c->carry, all + total - len, len);
    return true;
}

static void on_readable(struct connection *c)
{
    if (c->carry_len > 0)
        memcpy(input, c->carry, c->carry_len);
    ssize_t got = read(descriptor_of(c), input + c->carry_len, READ_BYTES);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    bool alive = got > 0;
    if (alive && !c->hung) {
        size_t total = c->carry_len + (size_t)got;
        size_t rest = take_all(c, input, total, &alive);
        alive = keep(c, input, total, rest) && alive;
        alive = flush(c) && alive;
    }
    if (!alive)
        close_connection(c);
}

/* ---- beginning and end ---- */

static void start_listening(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0)
        die("no socket");
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    (void)setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited */
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, BACKLOG) != 0)
        die("cannot listen: the port is taken");
    watch(listener);
    (void)puts("listening");
    (void)fflush(stdout);
}

/* False at its end. */
static bool on_stdin(void)
{
    char text[256];
    if (read(STDIN_FILENO, text, sizeof text) <= 0)
        return false;
    (void)fflush(journal);
    (void)puts("written");
    (void)fflush(stdout);
    return true;
}

int main(int count, char **arguments)
{
    struct epoll_event events[EVENTS];
    unsigned long port = count >= 3 ? strtoul(arguments[1], NULL, 10) : 0;
    if (count > 4 || port == 0 || port > UINT16_MAX)
        die("usage: sink PORT JOURNAL [HUNG-ADDRESS]");
    if (count == 4 && inet_pton(AF_INET, arguments[3], &hung_address) != 1)
        die("HUNG-ADDRESS is an IPv4 address");
    open_journal(arguments[2]);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        die("no epoll");
    start_listening((uint16_t)port);
    watch(STDIN_FILENO);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == STDIN_FILENO && !on_stdin())
                return fflush(journal) != 0;
            if (fd == listener)
                on_listener();
            else if (fd != STDIN_FILENO)
                on_readable(&connections[fd]);
        }
    }
}
