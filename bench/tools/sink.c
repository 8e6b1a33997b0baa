/* An SMTP sink on many loopback addresses: it takes mail as cheaply as it can, checks it, and
 * counts.
 *
 *     sink [--port N] [--threads N] [--chunking] [--cert FILE --key FILE] [--hung PREFIX/LEN] [--well PREFIX/LEN] ...
 *
 * All of 127.0.0.0/8 is local, so listeners on 0.0.0.0:N (0, the default: a free port) stand for as
 * many exchanges as a measurement wants; each accepted connection knows by which address it was
 * called. A prefix is *well*: it takes everything. Or it is *hung*: it accepts, and never says
 * anything. What no prefix names is well; of two that hold an address the longer one counts. It
 * prints {"port": N} when it listens, then takes commands on standard input:
 *
 *     hang PREFIX/LEN    connections made from now on are never answered
 *     heal PREFIX/LEN    they are served from now on; those made while it hung stay silent, as in the backlog of a
 *                        process that is gone
 *     goal GROUP COUNT   note when so many distinct deliveries (pairs of message and recipient) of that group came
 *     figures            one line of JSON with all counts; the others answer with the time, as {"t": SECONDS}
 *
 * The end of standard input ends it. Messages are known by what mark.h says: a second copy is seen,
 * a body that is not the one submitted counts as damaged, and the time from submission to arrival
 * goes into a histogram. Who submits knows how many there must be, and so what was lost. Times are
 * seconds of CLOCK_MONOTONIC.
 *
 * Each thread has an epoll and a listener of its own (SO_REUSEPORT); they share the ledger. */
#include "bench/tools/sink_session.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,
    EVENTS = 256,
    ACCEPTS_PER_TURN = 256,
    RETRY_ACCEPT_MS = 20,
    COMMAND_BYTES = 4096,
    DESCRIPTORS_MAX = 1 << 20,
    THREADS_MAX = 64,
};

/* One thread. */
struct server {
    pthread_t thread;
    const struct sink_options *options;
    struct session *
        *sessions; /* by descriptor, shared: each place is used by the thread that accepted it */
    int epoll_fd, listener;
    bool accepting;
};

_Noreturn static void die(const char *what)
{
    (void)fprintf(stderr, "sink: %s\n", what);
    _exit(1);
}

/* ---- serving ---- */

static void watch(const struct server *v, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(v->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll has no room");
}

static void accept_more(struct server *v, bool on)
{
    if (on == v->accepting)
        return;
    if (on)
        watch(v, v->listener);
    else
        (void)epoll_ctl(v->epoll_fd, EPOLL_CTL_DEL, v->listener, NULL);
    v->accepting = on;
}

static void on_listener(struct server *v)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(v->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            v->sessions[fd] = session_create(v->options, fd);
            if (v->sessions[fd] != NULL)
                watch(v, fd);
        } else if (errno == EMFILE || errno == ENFILE) {
            ledger_without_room(v->options->ledger);
            accept_more(v, false); /* for a moment */
            return;
        } else if (errno == EAGAIN) {
            return;
        }
    }
}

static void *serve(void *context)
{
    struct server *v = context;
    struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(v->epoll_fd, events, EVENTS, v->accepting ? -1 : RETRY_ACCEPT_MS);
        accept_more(v, true);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == v->listener)
                on_listener(v);
            else
                (void)session_on_readable(v->sessions[fd]);
        }
    }
    return NULL;
}

/* ---- commands ---- */

static bool set_goal(struct ledger *ledger, const char *text)
{
    char *end = NULL;
    if (!islower((unsigned char)text[0]) || text[1] != ' ')
        return false;
    uint64_t goal = strtoull(text + 2, &end, 10);
    if (goal == 0 || *end != '\0')
        return false;
    ledger_set_goal(ledger, (unsigned)(text[0] - 'a'), goal);
    return true;
}

static void obey(struct ledger *ledger, const char *line)
{
    bool well = false;
    if (strcmp(line, "figures") == 0) {
        ledger_print(ledger, stdout);
        return;
    }
    if (strncmp(line, "hang ", 5) == 0)
        well = ledger_set_prefix(ledger, line + 5, true);
    else if (strncmp(line, "heal ", 5) == 0)
        well = ledger_set_prefix(ledger, line + 5, false);
    else if (strncmp(line, "goal ", 5) == 0)
        well = set_goal(ledger, line + 5);
    if (well)
        (void)printf("{\"t\": %.6f}\n", (double)mark_now_ns() / 1e9);
    else
        (void)printf(
            "{\"error\": \"hang PREFIX/LEN, heal PREFIX/LEN, goal GROUP COUNT or figures\"}\n");
}

/* Until the end of standard input. */
static void obey_all(struct ledger *ledger)
{
    char line[COMMAND_BYTES];
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        obey(ledger, line);
        (void)fflush(stdout);
    }
}

/* ---- beginning ---- */

/* As many as the limit on descriptors allows, which is raised as far as it goes. */
static struct session **make_table(void)
{
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = 1024};
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    struct session **table = calloc(limit.rlim_max, sizeof(void *));
    if (table == NULL)
        die("out of memory");
    return table;
}

/* Returns the port; `port` 0 chooses one. */
static uint16_t start_listening(struct server *v, uint16_t port, bool shared)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof at;
    int on = 1;
    v->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    v->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (v->listener < 0 || v->epoll_fd < 0)
        die("no socket");
    (void)setsockopt(v->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (shared)
        (void)setsockopt(v->listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    (void)setsockopt(v->listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited */
    if (bind(v->listener, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(v->listener, BACKLOG) != 0)
        die("cannot listen: the port is taken");
    (void)getsockname(v->listener, (struct sockaddr *)&at, &len);
    accept_more(v, true);
    return ntohs(at.sin_port);
}

static SSL_CTX *load_certificate(const char *cert, const char *key)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
    if (tls == NULL || SSL_CTX_use_certificate_chain_file(tls, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
        die("--cert and --key take PEM files of a certificate and its key");
    return tls;
}

static unsigned long number_of(const char *text, unsigned long max, const char *complaint)
{
    char *end = NULL;
    unsigned long number = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || number > max)
        die(complaint);
    return number;
}

struct arguments {
    uint16_t port;
    unsigned threads;
    const char *cert, *key;
};

/* Reads one option; returns how many words it had. */
static int read_option(const char *name, const char *value, struct arguments *a,
                       struct sink_options *options)
{
    if (strcmp(name, "--chunking") == 0) {
        options->chunking = true;
        return 1;
    }
    if (strcmp(name, "--port") == 0)
        a->port = (uint16_t)number_of(value, UINT16_MAX, "--port takes a number up to 65535");
    else if (strcmp(name, "--threads") == 0)
        a->threads = (unsigned)number_of(value, THREADS_MAX, "--threads takes a number up to 64");
    else if (strcmp(name, "--cert") == 0)
        a->cert = value;
    else if (strcmp(name, "--key") == 0)
        a->key = value;
    else if (strcmp(name, "--hung") != 0 && strcmp(name, "--well") != 0)
        die("usage: sink [--port N] [--threads N] [--chunking] [--cert FILE --key FILE] "
            "[--hung PREFIX/LEN] [--well PREFIX/LEN] ...");
    else if (!ledger_set_prefix(options->ledger, value, name[2] == 'h'))
        die("--hung and --well take a prefix such as 127.2.0.0/16, 63 of them at most");
    return 2;
}

int main(int count, char **words)
{
    struct arguments a = {.threads = 1};
    struct sink_options options = {.ledger = ledger_create()};
    for (int i = 1; i < count;)
        i += read_option(words[i], i + 1 < count ? words[i + 1] : "", &a, &options);
    if (a.cert != NULL && a.key != NULL)
        options.tls = load_certificate(a.cert, a.key);
    (void)signal(SIGPIPE, SIG_IGN); /* TLS writes to connections that may be gone */
    static struct server servers[THREADS_MAX];
    struct session **table = make_table();
    for (unsigned i = 0; i < a.threads; i++) {
        servers[i] = (struct server){.options = &options, .sessions = table};
        a.port = start_listening(&servers[i], a.port, a.threads > 1);
        if (pthread_create(&servers[i].thread, NULL, serve, &servers[i]) != 0)
            die("no thread");
    }
    (void)printf("{\"port\": %u}\n", a.port);
    (void)fflush(stdout);
    obey_all(options.ledger);
    _exit(0); /* the threads serve to the end */
}
