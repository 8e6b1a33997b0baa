/* An SMTP sink on many loopback addresses, for bench/scale: it takes mail as cheaply as it can, and
 * counts.
 *
 *     sink [--port N] [--hung PREFIX/LEN] [--well PREFIX/LEN] ...
 *
 * All of 127.0.0.0/8 is local, so one listener on 0.0.0.0:N (0, the default: a free port) stands for
 * as many exchanges as a test wants; each accepted connection knows by which address it was called.
 * A prefix is *well*: it offers PIPELINING, 8BITMIME and SIZE and takes everything. Or it is *hung*:
 * it accepts, and never says anything. What no prefix names is well; of two that hold an address the
 * longer one counts. It prints {"port": N} when it listens, then takes commands on standard input:
 *
 *     hang PREFIX/LEN    connections made from now on are never answered
 *     heal PREFIX/LEN    they are served from now on; those made while it hung stay silent, as in the
 *                        backlog of a process that is gone
 *     goal GROUP COUNT   note when so many distinct messages of that group have come
 *     figures            one line of JSON with all counts; `hang`, `heal` and `goal` answer with the
 *                        time, as {"t": SECONDS}
 *
 * The end of standard input ends it. Each message is known by its field "X-Id: GROUP...", GROUP being
 * one lower-case letter, so that a second copy is seen; who submits knows how many there must be, and
 * so what was lost. Times are seconds of CLOCK_MONOTONIC, which other processes read too. One thread,
 * one epoll. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PREFIXES_MAX = 64,
    GROUPS = 26,
    BACKLOG = 4096,
    EVENTS = 256,
    ACCEPTS_PER_TURN = 256,
    READ_BYTES = 256 * 1024,
    CARRY_BYTES = 8 * 1024, /* a longer command line or header section ends the connection */
    REPLY_BYTES = 64 * 1024,
    COMMAND_BYTES = 4096,
    DESCRIPTORS_MAX = 1 << 20,
};

/* Addresses that behave alike, and what they saw. */
struct prefix {
    uint32_t network, mask; /* host order */
    unsigned bits;
    bool hung;
    double changed_s;       /* when it last began to hang, or was healed */
    double first_message_s; /* since then; 0 = none */
    uint64_t connections, open, open_max;
    uint64_t hung_connections, hung_open, hung_open_max; /* of them, never answered */
    uint64_t messages;
};

/* Messages whose id begins with one letter. */
struct group {
    uint64_t messages, distinct, recipients, goal;
    double first_s, last_s, goal_s; /* 0 = not yet */
};

enum stage { COMMANDS, HEADER, BODY };

/* One connection, at the place of its descriptor in the table. */
struct connection {
    unsigned prefix; /* its index */
    bool hung;
    enum stage stage;
    uint64_t id; /* of the message under way, hashed */
    unsigned group, recipients;
    char *carry; /* what was read and makes no whole line yet */
    size_t carry_len;
};

/* The ids seen, as 64-bit hashes: open addressing, 0 = free. */
struct seen {
    uint64_t *slots;
    size_t capacity, count; /* capacity: a power of two */
};

static struct connection *connections; /* by descriptor */
static struct prefix prefixes[PREFIXES_MAX];
static unsigned prefix_count;
static struct group groups[GROUPS];
static struct seen seen;
static int epoll_fd, listener = -1;
static bool accepting, over;
static uint64_t without_room; /* how often no descriptor was left */
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

/* ---- prefixes ---- */

/* "127.2.0.0/16", or an address alone; false where it is neither. */
static bool parse_prefix(const char *text, uint32_t *network_out, unsigned *bits_out)
{
    char address[INET_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
    char *end = NULL;
    unsigned long bits = slash != NULL ? strtoul(slash + 1, &end, 10) : 32;
    struct in_addr in;
    if (len >= sizeof address || bits > 32 || (end != NULL && *end != '\0'))
        return false;
    memcpy(address, text, len);
    address[len] = '\0';
    if (inet_pton(AF_INET, address, &in) != 1)
        return false;
    *bits_out = (unsigned)bits;
    *network_out = ntohl(in.s_addr);
    return true;
}

static uint32_t mask_of(unsigned bits)
{
    return bits > 0 ? UINT32_MAX << (32 - bits) : 0;
}

/* The prefix of this name, made where missing, hangs or is well from now on. */
static bool set_prefix(const char *text, bool hung)
{
    uint32_t network;
    unsigned bits;
    if (!parse_prefix(text, &network, &bits))
        return false;
    network &= mask_of(bits);
    struct prefix *p = prefixes;
    while (p < prefixes + prefix_count && (p->network != network || p->bits != bits))
        p++;
    if (p == prefixes + PREFIXES_MAX)
        return false;
    if (p == prefixes + prefix_count) {
        prefix_count++;
        *p = (struct prefix){.network = network, .mask = mask_of(bits), .bits = bits};
    }
    p->hung = hung;
    p->changed_s = now_s();
    p->first_message_s = 0;
    return true;
}

static struct prefix *prefix_of(uint32_t address)
{
    struct prefix *best = &prefixes[0]; /* 0.0.0.0/0 */
    for (unsigned i = 1; i < prefix_count; i++)
        if ((address & prefixes[i].mask) == prefixes[i].network && prefixes[i].bits >= best->bits)
            best = &prefixes[i];
    return best;
}

static void count_open(struct connection *c)
{
    struct prefix *p = &prefixes[c->prefix];
    p->connections++;
    if (++p->open > p->open_max)
        p->open_max = p->open;
    if (!c->hung)
        return;
    p->hung_connections++;
    if (++p->hung_open > p->hung_open_max)
        p->hung_open_max = p->hung_open;
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

static void accept_more(bool on)
{
    if (on == accepting)
        return;
    if (on)
        watch(listener);
    else
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, listener, NULL);
    accepting = on;
}

static void close_connection(struct connection *c)
{
    prefixes[c->prefix].open--;
    prefixes[c->prefix].hung_open -= c->hung;
    free(c->carry);
    (void)close(descriptor_of(c));
    accept_more(true);
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
    if (getsockname(fd, (struct sockaddr *)&to, &len) != 0)
        die("a connection without an address");
    struct prefix *p = prefix_of(ntohl(to.sin_addr.s_addr));
    struct connection *c = &connections[fd];
    *c = (struct connection){.prefix = (unsigned)(p - prefixes), .hung = p->hung};
    count_open(c);
    watch(fd);
    if (c->hung)
        return;
    say("220 sink ESMTP\r\n");
    if (!flush(c))
        close_connection(c);
}

static void on_listener(void)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            open_connection(fd);
        } else if (errno == EMFILE || errno == ENFILE) {
            without_room++;
            accept_more(false); /* until one is closed */
            return;
        } else if (errno == EAGAIN) {
            return;
        }
    }
}

/* ---- SMTP ---- */

static bool is_verb(const char *line, size_t len, const char *verb)
{
    return len >= 4 && strncasecmp(line, verb, 4) == 0;
}

/* Answers one command line, given without its CRLF. False: the connection is to be closed. */
static bool on_command(struct connection *c, const char *line, size_t len)
{
    if (is_verb(line, len, "MAIL")) {
        c->recipients = 0;
        say("250 2.1.0 Ok\r\n");
    } else if (is_verb(line, len, "RCPT")) {
        c->recipients++;
        say("250 2.1.5 Ok\r\n");
    } else if (is_verb(line, len, "DATA")) {
        c->stage = HEADER;
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
    return true;
}

/* Finds "X-Id: g..." in a header section that begins behind a CRLF or at the very front. */
static void read_id(struct connection *c, const char *header, size_t len)
{
    static const char field[] = "\r\nX-Id: ";
    const char *at = memmem(header, len, field, sizeof field - 1);
    c->id = 0;
    if (at == NULL)
        return;
    const char *id = at + sizeof field - 1;
    size_t left = len - (size_t)(id - header);
    const char *end = memchr(id, '\r', left);
    if (end == NULL || end == id || !islower((unsigned char)*id))
        return;
    c->group = (unsigned)(*id - 'a');
    c->id = hash_of(id, (size_t)(end - id));
}

static void on_message(struct connection *c)
{
    double now = now_s();
    struct prefix *p = &prefixes[c->prefix];
    p->messages++;
    if (p->first_message_s <= 0)
        p->first_message_s = now;
    say("250 2.0.0 Ok\r\n");
    if (c->id == 0)
        return; /* not one of ours: counted at its prefix only */
    struct group *g = &groups[c->group];
    g->messages++;
    g->recipients += c->recipients;
    g->last_s = now;
    if (g->messages == 1)
        g->first_s = now;
    g->distinct += note_seen(c->id);
    if (g->goal > 0 && g->distinct >= g->goal && g->goal_s <= 0)
        g->goal_s = now;
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
    read_id(c, at, (size_t)(end - at) + 2);
    c->stage = BODY;
    return (size_t)(end - at) + 2; /* the second CRLF may be that of the final dot */
}

static size_t take_body(struct connection *c, const char *at, size_t len)
{
    static const char dot[] = "\r\n.\r\n";
    const char *end = memmem(at, len, dot, sizeof dot - 1);
    if (end == NULL)
        return len >= sizeof dot - 1 ? len - (sizeof dot - 2) : 0;
    on_message(c);
    c->stage = COMMANDS;
    return (size_t)(end - at) + sizeof dot - 1;
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

/* ---- commands and figures ---- */

static void print_prefix(const struct prefix *p, bool first)
{
    struct in_addr in = {.s_addr = htonl(p->network)};
    char address[INET_ADDRSTRLEN];
    (void)inet_ntop(AF_INET, &in, address, sizeof address);
    printf("%s\"%s/%u\": {\"hung\": %s, \"changed_s\": %.6f, \"first_message_s\": %.6f, "
           "\"connections\": %" PRIu64 ", \"open\": %" PRIu64 ", \"open_max\": %" PRIu64
           ", \"hung_connections\": %" PRIu64 ", \"hung_open\": %" PRIu64
           ", \"hung_open_max\": %" PRIu64 ", \"messages\": %" PRIu64 "}",
           first ? "" : ", ", address, p->bits, p->hung ? "true" : "false", p->changed_s,
           p->first_message_s, p->connections, p->open, p->open_max, p->hung_connections,
           p->hung_open, p->hung_open_max, p->messages);
}

static void print_figures(void)
{
    bool first = true;
    printf("{\"t\": %.6f, \"without_room\": %" PRIu64 ", \"groups\": {", now_s(), without_room);
    for (unsigned i = 0; i < GROUPS; i++) {
        const struct group *g = &groups[i];
        if (g->messages == 0 && g->goal == 0)
            continue;
        printf("%s\"%c\": {\"messages\": %" PRIu64 ", \"distinct\": %" PRIu64
               ", \"duplicates\": %" PRIu64 ", \"recipients\": %" PRIu64
               ", \"first_s\": %.6f, \"last_s\": %.6f, \"goal_s\": %.6f}",
               first ? "" : ", ", 'a' + (int)i, g->messages, g->distinct, g->messages - g->distinct,
               g->recipients, g->first_s, g->last_s, g->goal_s);
        first = false;
    }
    printf("}, \"prefixes\": {");
    for (unsigned i = 0; i < prefix_count; i++)
        print_prefix(&prefixes[i], i == 0);
    printf("}}\n");
}

static bool set_goal(const char *text)
{
    char *end = NULL;
    if (!islower((unsigned char)text[0]) || text[1] != ' ')
        return false;
    uint64_t goal = strtoull(text + 2, &end, 10);
    if (goal == 0 || *end != '\0')
        return false;
    struct group *g = &groups[text[0] - 'a'];
    g->goal = goal;
    g->goal_s = g->distinct >= goal ? now_s() : 0;
    return true;
}

static void obey(const char *line)
{
    bool well = false;
    if (strcmp(line, "figures") == 0) {
        print_figures();
        return;
    }
    if (strncmp(line, "hang ", 5) == 0)
        well = set_prefix(line + 5, true);
    else if (strncmp(line, "heal ", 5) == 0)
        well = set_prefix(line + 5, false);
    else if (strncmp(line, "goal ", 5) == 0)
        well = set_goal(line + 5);
    if (well)
        printf("{\"t\": %.6f}\n", now_s());
    else
        printf("{\"error\": \"hang PREFIX/LEN, heal PREFIX/LEN, goal GROUP COUNT or figures\"}\n");
}

static void on_stdin(void)
{
    static char text[COMMAND_BYTES];
    static size_t len;
    ssize_t got = read(STDIN_FILENO, text + len, sizeof text - len);
    if (got <= 0) {
        over = true;
        return;
    }
    len += (size_t)got;
    char *line = text;
    for (char *end; (end = memchr(line, '\n', len)) != NULL;) {
        *end = '\0';
        obey(line);
        len -= (size_t)(end + 1 - line);
        line = end + 1;
    }
    memmove(text, line, len);
    if (len == sizeof text)
        die("a command is too long");
    (void)fflush(stdout);
}

/* ---- beginning ---- */

/* As many as the limit on descriptors allows, which is raised as far as it goes. */
static void make_table(void)
{
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = 1024};
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    connections = calloc(limit.rlim_max, sizeof *connections);
    if (connections == NULL)
        die("out of memory");
}

static void start_listening(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof at;
    int on = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0)
        die("no socket");
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    (void)setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited */
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, BACKLOG) != 0)
        die("cannot listen: the port is taken");
    (void)getsockname(listener, (struct sockaddr *)&at, &len);
    accept_more(true);
    printf("{\"port\": %u}\n", ntohs(at.sin_port));
    (void)fflush(stdout);
}

static uint16_t read_arguments(int count, char **arguments)
{
    unsigned long port = 0;
    (void)set_prefix("0.0.0.0/0", false);
    for (int i = 1; i < count; i += 2) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : "";
        char *end = NULL;
        if (strcmp(name, "--port") == 0) {
            port = strtoul(value, &end, 10);
            if (*value == '\0' || *end != '\0' || port > UINT16_MAX)
                die("--port takes a number up to 65535");
        } else if (strcmp(name, "--hung") == 0 || strcmp(name, "--well") == 0) {
            if (!set_prefix(value, name[2] == 'h'))
                die("--hung and --well take a prefix such as 127.2.0.0/16, 63 of them at most");
        } else {
            die("usage: sink [--port N] [--hung PREFIX/LEN] [--well PREFIX/LEN] ...");
        }
    }
    return (uint16_t)port;
}

int main(int count, char **arguments)
{
    uint16_t port = read_arguments(count, arguments);
    make_table();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        die("no epoll");
    start_listening(port);
    watch(STDIN_FILENO);
    while (!over) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == STDIN_FILENO)
                on_stdin();
            else if (fd == listener)
                on_listener();
            else
                on_readable(&connections[fd]);
        }
    }
    return 0;
}
