/* A load generator for SMTP relays: many submitters on few threads, each message marked so that the
 * sink can verify, count and time it.
 *
 *     load --to ADDRESS:PORT --messages N [--seconds S] [--submitters N] [--threads N] [--domains N] [--recipients N]
 *          [--size BYTES] [--group LETTER] [--first N] [--label TEXT] [--origin DOMAIN] [--per-connection N] [--rate N]
 *
 * Message n is for r0, r1, ... at LABEL<n % domains>.ORIGIN. It ends when N messages were
 * accepted, or begins no more behind S seconds. Prints one line of JSON: how many were accepted
 * and refused, the times (CLOCK_MONOTONIC) of the start and of the last acceptance, its own CPU
 * time a message, and a histogram of the time from MAIL to the 250. A relay that refuses a
 * thousand times is given up. */
#include "bench/tools/load_session.h"
#include "bench/tools/mark.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { EVENTS = 256, THREADS_MAX = 64, TICK_MS = 1, REFUSED_MAX = 1000, NEVER = -1 };

struct options {
    const char *to;
    unsigned long messages, seconds, submitters, threads, per_connection, rate;
    unsigned long domains, recipients, size, first;
    const char *group, *label, *origin;
};

/* One thread and its submitters. */
struct crew {
    pthread_t thread;
    struct submission *all;
    unsigned count;
    int epoll_fd;
    struct submitted seen;
};

_Noreturn static void die(const char *what)
{
    (void)fprintf(stderr, "load: %s\n", what);
    _exit(1);
}

/* ---- working ---- */

/* Each submitter looks whether a message is due. Returns how many are left; those that are not
 * become NULL. */
static unsigned tick(struct submitter **all, unsigned count, unsigned left)
{
    uint64_t now_ns = mark_now_ns();
    for (unsigned i = 0; i < count; i++)
        if (all[i] != NULL && !submitter_on_tick(all[i], now_ns)) {
            all[i] = NULL;
            left--;
        }
    return left;
}

static void forget(struct submitter **all, unsigned count, const struct submitter *gone)
{
    for (unsigned i = 0; i < count; i++)
        if (all[i] == gone)
            all[i] = NULL;
}

static void *work(void *context)
{
    struct crew *c = context;
    struct epoll_event events[EVENTS];
    struct submitter **all = calloc(c->count, sizeof(void *));
    bool paced = c->all->rate_per_s > 0;
    if (all == NULL || (c->epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("out of memory");
    for (unsigned i = 0; i < c->count; i++)
        all[i] = submitter_create(c->all, &c->seen, c->epoll_fd);
    for (unsigned left = c->count; left > 0;) {
        int ready = epoll_wait(c->epoll_fd, events, EVENTS, paced ? TICK_MS : NEVER);
        for (int i = 0; i < ready; i++) {
            struct submitter *s = events[i].data.ptr;
            if (!submitter_on_event(s, events[i].events)) {
                forget(all, c->count, s);
                left--;
            }
        }
        if (paced)
            left = tick(all, c->count, left);
    }
    free(all);
    return NULL;
}

/* ---- arguments ---- */

struct option {
    const char *name;
    unsigned long *number; /* one of the two */
    const char **text;
};

static void read_option(const struct option *o, const char *value)
{
    char *end = NULL;
    if (o->text != NULL) {
        *o->text = value;
        return;
    }
    *o->number = strtoul(value, &end, 10);
    if (*value == '\0' || *end != '\0') {
        (void)fprintf(stderr, "load: %s takes a number, not '%s'\n", o->name, value);
        _exit(2);
    }
}

static void read_arguments(int count, char **words, struct options *o)
{
    const struct option known[] = {
        {"--to", NULL, &o->to},
        {"--messages", &o->messages, NULL},
        {"--seconds", &o->seconds, NULL},
        {"--submitters", &o->submitters, NULL},
        {"--threads", &o->threads, NULL},
        {"--domains", &o->domains, NULL},
        {"--recipients", &o->recipients, NULL},
        {"--size", &o->size, NULL},
        {"--group", NULL, &o->group},
        {"--first", &o->first, NULL},
        {"--label", NULL, &o->label},
        {"--origin", NULL, &o->origin},
        {"--per-connection", &o->per_connection, NULL},
        {"--rate", &o->rate, NULL},
    };
    enum { KNOWN = sizeof known / sizeof *known };
    for (int i = 1; i < count; i += 2) {
        unsigned k = 0;
        while (k < KNOWN && strcmp(words[i], known[k].name) != 0)
            k++;
        if (k == KNOWN || i + 1 == count)
            die("the options stand at the top of bench/tools/load.c; each takes a value");
        read_option(&known[k], words[i + 1]);
    }
    if (o->threads == 0 || o->threads > THREADS_MAX || o->submitters < o->threads ||
        o->domains == 0 || o->recipients == 0)
        die("1 to 64 threads, at least a submitter for each, a domain and a recipient");
}

static struct sockaddr_in address_of(const char *text)
{
    char host[INET_ADDRSTRLEN] = "";
    struct sockaddr_in to = {.sin_family = AF_INET};
    const char *colon = text != NULL ? strrchr(text, ':') : NULL;
    if (colon == NULL || colon - text >= (ptrdiff_t)sizeof host)
        die("--to takes ADDRESS:PORT");
    memcpy(host, text, (size_t)(colon - text));
    to.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1 || to.sin_port == 0)
        die("--to takes ADDRESS:PORT");
    return to;
}

/* ---- the whole ---- */

static double cpu_us(void)
{
    struct rusage used;
    (void)getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static void print(const struct submission *all, const struct submitted *seen)
{
    double messages = seen->accepted > 0 ? (double)seen->accepted : 1;
    (void)printf("{\"accepted\": %" PRIu64 ", \"refused\": %" PRIu64
                 ", \"lost_connections\": %" PRIu64
                 ", \"began_s\": %.6f, \"last_s\": %.6f, \"cpu_us\": %.2f, \"latency\": ",
                 seen->accepted, seen->refused, seen->lost, (double)all->began_ns / 1e9,
                 (double)seen->last_ns / 1e9, cpu_us() / messages);
    histogram_print(&seen->latency, stdout);
    (void)printf("}\n");
}

static void add(struct submitted *sum, const struct submitted *one)
{
    sum->accepted += one->accepted;
    sum->refused += one->refused;
    sum->lost += one->lost;
    sum->last_ns = one->last_ns > sum->last_ns ? one->last_ns : sum->last_ns;
    histogram_add(&sum->latency, &one->latency);
}

static void run(struct submission *all, const struct options *o)
{
    static struct crew crews[THREADS_MAX];
    static struct submitted sum;
    for (unsigned i = 0; i < o->threads; i++) {
        struct crew *c = &crews[i];
        c->all = all;
        c->count = (unsigned)(o->submitters / o->threads + (i < o->submitters % o->threads));
        if (pthread_create(&c->thread, NULL, work, c) != 0)
            die("no thread");
    }
    for (unsigned i = 0; i < o->threads; i++) {
        (void)pthread_join(crews[i].thread, NULL);
        add(&sum, &crews[i].seen);
    }
    print(all, &sum);
}

int main(int count, char **words)
{
    struct options o = {.submitters = 20,
                        .threads = 1,
                        .domains = 1,
                        .recipients = 1,
                        .size = 10240,
                        .group = "a",
                        .label = "d",
                        .origin = "example.net"};
    read_arguments(count, words, &o);
    struct message_options like = {.group = o.group[0],
                                   .first = o.first,
                                   .size_bytes = o.size,
                                   .recipients = (unsigned)o.recipients,
                                   .domains = (unsigned)o.domains,
                                   .label = o.label,
                                   .origin = o.origin};
    struct submission all = {.messages = messages_create(&like),
                             .to = address_of(o.to),
                             .count = o.messages > 0 ? o.messages : UINT64_MAX,
                             .per_connection = o.per_connection,
                             .rate_per_s = (double)o.rate,
                             .began_ns = mark_now_ns()};
    atomic_init(&all.refused_max, REFUSED_MAX);
    all.until_ns = o.seconds > 0 ? all.began_ns + o.seconds * UINT64_C(1000000000) : 0;
    if (o.messages == 0 && o.seconds == 0)
        die("--messages or --seconds says when it ends");
    run(&all, &o);
    return 0;
}
