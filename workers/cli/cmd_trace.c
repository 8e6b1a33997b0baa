/* `onward trace`: one delivery with every step shown, in an engine of its own: its own worker, its
 * own spool in a temporary folder, the configuration's DNS and delivery settings. The running relay
 * is not disturbed; what it knows of the exchanges is asked for first, so that they are tried in
 * the order it would try them. */
#include "workers/cli/cli.h"
#include "workers/cli/mail_text.h"
#include "workers/cli/trace_print.h"

#include "core/base/clock.h"
#include "core/base/utf8.h"
#include "core/config/units.h"
#include "core/domain.h"
#include "smtp/address.h"
#include "workers/engine.h"
#include "workers/outbound/outbound.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    LEAVE_LIMIT_MS = 5000,
    LEAVE_POLL_MS = 10,
    STORE_MAP_BYTES = 64 << 20,
    WAIT_MS = 5 * 60000, /* a greeting may take as long (RFC 5321 4.5.3.2.1) */
};

struct trace {
    struct cli_options options;
    const char *target; /* an address, or with --probe a domain */
    const char *sender;
    const char *message_path; /* NULL: a short message of ours */
    bool probe;
    uint64_t wait_ms; /* for a verdict */

    struct config *config;
    char spool[64];
    struct engine engine;
    struct observer observer;
    struct trace_print print;
    struct mailbox mailbox; /* the main thread's, for the resolver's and the committer's answers */
    int signal_fd;
    char domain[DOMAIN_SIZE];
    struct resolver_query query;
    bool answered;
    struct {
        int done_fd;       /* written when there is a verdict */
        atomic_int status; /* then: the exit status */
    } shared;
};

/* ---- the command line ---- */

static int parse(struct trace *t, int argc, char **argv)
{
    static const char usage[] = "usage: onward trace [--probe] [--wait 5m] [--from SENDER] "
                                "[--message FILE] [--json] ADDRESS";
    t->wait_ms = WAIT_MS;
    if (!cli_take_options(&argc, argv, &t->options))
        return EX_USAGE;
    for (int i = 1; i < argc; i++) {
        bool value = i + 1 < argc;
        if (strcmp(argv[i], "--probe") == 0)
            t->probe = true;
        else if (strcmp(argv[i], "--wait") == 0 && value &&
                 units_parse_duration(slice_str(argv[i + 1]), &t->wait_ms) && t->wait_ms > 0)
            i++;
        else if (strcmp(argv[i], "--from") == 0 && value)
            t->sender = argv[++i];
        else if (strcmp(argv[i], "--message") == 0 && value)
            t->message_path = argv[++i];
        else if (argv[i][0] == '-' || t->target != NULL)
            return cli_fail(EX_USAGE, "%s", usage);
        else
            t->target = argv[i];
    }
    return t->target != NULL ? 0 : cli_fail(EX_USAGE, "%s", usage);
}

static int read_target(struct trace *t)
{
    struct smtp_address a;
    struct slice text = slice_str(t->target);
    bool address = smtp_address_read_mailbox(text, true, &a) == SMTP_ADDRESS_OK && a.domain.len > 0;
    if (!address && !t->probe)
        return cli_fail(EX_USAGE,
                        "`%s` is not an address; to go no further than the greeting of a "
                        "domain's exchanges, use --probe",
                        t->target);
    if (!domain_normalize(address ? a.domain : text, t->domain))
        return cli_fail(EX_USAGE, "`%s` is not a valid domain or address", t->target);
    if (t->sender != NULL && t->sender[0] != '\0' &&
        smtp_address_read_mailbox(slice_str(t->sender), true, &a) != SMTP_ADDRESS_OK)
        return cli_fail(EX_USAGE, "`%s` is not a sender's address", t->sender);
    return 0;
}

/* ---- the engine ---- */

static void on_event(struct observer *o, const struct observed *what)
{
    struct trace *t = CONTAINER_OF(o, struct trace, observer);
    trace_print_event(&t->print, what);
    int status = -1;
    if (what->kind == OBSERVED_VERDICT)
        status = strcmp(what->note, "delivered") == 0 ? 0
                 : strcmp(what->note, "bounced") == 0 ? EX_UNAVAILABLE
                                                      : EX_TEMPFAIL;
    else if (t->probe && what->kind == OBSERVED_READY)
        status = 0;
    else if (t->probe && what->kind == OBSERVED_SPENT)
        status = EX_TEMPFAIL;
    int none = -1;
    if (status < 0 || !atomic_compare_exchange_strong(&t->shared.status, &none, status))
        return;
    uint64_t one = 1;
    (void)!write(t->shared.done_fd, &one, sizeof one);
}

static int start(struct trace *t)
{
    struct error error = {{0}};
    t->config = config_load(t->options.config_path, &error);
    if (t->config == NULL)
        return cli_fail(EX_CONFIG, "%s", error.text);
    if (t->sender == NULL)
        t->sender = t->config->postmaster;
    (void)snprintf(t->spool, sizeof t->spool, "/tmp/onward-trace-XXXXXX");
    if (mkdtemp(t->spool) == NULL) {
        t->spool[0] = '\0';
        return cli_fail(EX_CANTCREAT, "cannot make a folder under /tmp: %s",
                        strerrordesc_np(errno));
    }
    t->config->spool.path = t->spool;
    t->config->spool.map_size = STORE_MAP_BYTES;
    t->config->spool.free_floor = 0;
    t->config->workers.threads = 1;
    t->config->log.deliveries = false;
    t->observer.on_event = on_event;
    t->engine.parts.observer = &t->observer;
    int status = engine_open(&t->engine, t->config, NULL, &error);
    if (status == 0)
        status = engine_start(&t->engine, false, &error);
    return status == 0 ? 0 : cli_fail(status, "%s", error.text);
}

static void remove_spool(const char *path)
{
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
        (void)unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder != NULL)
        (void)closedir(folder);
    (void)rmdir(path);
}

/* ---- what the running relay knows ---- */

static void on_host(void *context, const json_t *line)
{
    struct trace *t = context;
    struct address a;
    const char *state = cli_text(line, "state");
    json_int_t again_ms = json_integer_value(json_object_get(line, "again_ms"));
    if (strcmp(state, "healthy") == 0 ||
        !address_parse_ip(slice_str(cli_text(line, "address")), &a))
        return;
    struct health *h = t->engine.parts.health;
    uint64_t mono = clock_mono_ms(), wall = clock_wall_ms();
    if (again_ms > 0)
        health_demote(h, &a, (uint64_t)again_ms, mono, wall);
    else if (strcmp(state, "suspect") == 0)
        (void)health_tell(h, &a, HEALTH_EVENT_SILENT, mono, wall, 0);
    trace_print_note(&t->print, "health", "the running relay has %s as %s",
                     cli_text(line, "address"), state);
}

static void ask_running_relay(struct trace *t)
{
    struct cli_options quiet = t->options;
    quiet.quiet = true;
    if (cli_ask(&quiet, json_pack("{s:s}", "op", "health.list"), on_host, t) != 0)
        trace_print_note(&t->print, "health",
                         "no running relay to ask: nothing is known of the exchanges");
}

/* ---- the route ---- */

static void on_route(struct mail *mail, void *owner)
{
    (void)mail;
    ((struct trace *)owner)->answered = true;
}

enum waited { WAITED_READY, WAITED_STOPPED, WAITED_TIMED_OUT };

/* Waits until `fd` is readable, the user wants to stop, or until then (UINT64_MAX: for ever). */
static enum waited wait_for(struct trace *t, int fd, uint64_t until_ms)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = t->signal_fd, .events = POLLIN}};
    for (;;) {
        uint64_t now = clock_mono_ms();
        uint64_t left = until_ms > now ? until_ms - now : 0;
        if (poll(fds, 2, until_ms == UINT64_MAX ? -1 : left < INT_MAX ? (int)left : INT_MAX) > 0)
            return fds[1].revents == 0 ? WAITED_READY : WAITED_STOPPED;
        if (left == 0)
            return WAITED_TIMED_OUT;
    }
}

static int look_up(struct trace *t)
{
    trace_print_note(&t->print, "dns", "query: MX %s, then the addresses of its exchanges",
                     t->domain);
    t->query.fresh = true;
    t->query.reply_to = &t->mailbox;
    t->query.on_answer = on_route;
    memcpy(t->query.domain, t->domain, sizeof t->domain);
    struct resolver_query *query = &t->query;
    resolver_ask(t->engine.parts.resolver, &query);
    while (!t->answered) {
        if (mailbox_prepare_sleep(&t->mailbox) &&
            wait_for(t, t->mailbox.event_fd, UINT64_MAX) != WAITED_READY)
            return EX_TEMPFAIL;
        mailbox_awake(&t->mailbox);
        (void)mailbox_deliver(&t->mailbox);
    }
    const struct route *route = t->query.route;
    trace_print_route(&t->print, route);
    int status = route->kind != ROUTE_FAILED ? 0
                 : route->failure.class == 5 ? EX_NOHOST
                                             : EX_TEMPFAIL;
    route_release(&route);
    return status;
}

/* ---- the message ---- */

static bool compose(struct trace *t, struct buf *content)
{
    struct buf raw;
    buf_init(&raw, STORE_CHUNK_BYTES);
    FILE *in = t->message_path != NULL ? fopen(t->message_path, "r") : NULL;
    bool ok = t->message_path == NULL || (in != NULL && mail_text_read(in, false, &raw));
    if (in != NULL)
        (void)fclose(in);
    char date[CLOCK_RFC5322_SIZE];
    clock_format_rfc5322(clock_wall_ms(), date);
    if (t->message_path == NULL)
        buf_printf(
            &raw,
            "Date: %s\nFrom: %s\nTo: %s\nSubject: Onward trace\nMessage-ID: <trace.%llu@%s>\n"
            "\nThis message shows whether mail to this address arrives, and how.\n",
            date, t->sender[0] != '\0' ? t->sender : t->config->postmaster, t->target,
            (unsigned long long)clock_wall_ms(), t->config->hostname);
    if (ok && buf_ok(&raw))
        mail_text_prepare(buf_slice(&raw), NULL, t->config->postmaster, NULL, content);
    ok = ok && buf_ok(&raw) && buf_ok(content) && buf_len(content) > 0;
    buf_fini(&raw);
    return ok;
}

static uint32_t header_length(struct slice content)
{
    const char *end = memmem(content.ptr, content.len, "\r\n\r\n", 4);
    return (uint32_t)(end != NULL ? (size_t)(end - content.ptr) + 4 : content.len);
}

/* Puts the message into the queue; the committer's answer comes to our mailbox. */
static void submit(struct trace *t, struct slice content, struct buf *encoded, struct commit_op *op)
{
    struct envelope_recipient recipient = {.address = slice_str(t->target),
                                           .domain = slice_str(t->domain),
                                           .orcpt = SLICE_LIT(""),
                                           .notify = NOTIFY_NEVER};
    uint32_t header = header_length(content);
    bool high = utf8_has_high(content);
    bool high_header = utf8_has_high(slice_take(content, header));
    bool utf8 =
        high_header || utf8_has_high(recipient.address) || utf8_has_high(slice_str(t->sender));
    struct envelope e = {.id = atomic_fetch_add(&t->engine.parts.shared->next_id, 1),
                         .arrived_wall_ms = clock_wall_ms(),
                         .size_bytes = content.len,
                         .header_bytes = header,
                         .flags = (uint8_t)(ENVELOPE_HAS_DOTS |
                                            (high ? ENVELOPE_HAS_8BIT | ENVELOPE_BODY_8BIT : 0) |
                                            (high_header ? ENVELOPE_HAS_UTF8_HEADER : 0) |
                                            (utf8 ? ENVELOPE_SMTPUTF8 : 0)),
                         .sender = slice_str(t->sender),
                         .envid = SLICE_LIT(""),
                         .origin = SLICE_LIT("trace"),
                         .recipient_count = 1,
                         .recipients = &recipient};
    envelope_encode(&e, encoded);
    *op = (struct commit_op){.kind = COMMIT_MESSAGE, .reply_to = &t->mailbox, .on_done = on_route};
    op->u.message =
        (struct commit_message){.id = e.id, .envelope = buf_slice(encoded), .chunk = content};
    committer_submit(t->engine.parts.committer, &op);
}

/* ---- all of it ---- */

/* After the verdict: what is still open says QUIT or is let go, and is seen doing so. */
static void leave(struct trace *t)
{
    engine_drain(&t->engine);
    uint64_t until = clock_mono_ms() + LEAVE_LIMIT_MS;
    while (!engine_is_quiet(&t->engine) && clock_mono_ms() < until)
        (void)poll(NULL, 0, LEAVE_POLL_MS);
}

/* Its exit status; -1: none within the time it was given. */
static int wait_for_verdict(struct trace *t)
{
    char waited[UNITS_TEXT_SIZE];
    switch (wait_for(t, t->shared.done_fd, clock_mono_ms() + t->wait_ms)) {
    case WAITED_READY:
        break;
    case WAITED_STOPPED:
        trace_print_note(&t->print, "stopped", "stopped");
        break;
    case WAITED_TIMED_OUT:
        units_format_duration(t->wait_ms, waited);
        trace_print_note(&t->print, "stopped",
                         "no %s within %s, so it ends here; a relay keeps trying. --wait gives it "
                         "longer",
                         t->probe ? "exchange was ready for mail" : "verdict", waited);
        break;
    }
    return atomic_load(&t->shared.status);
}

static int deliver(struct trace *t)
{
    struct buf content, encoded;
    struct commit_op op;
    buf_init(&content, STORE_CHUNK_BYTES);
    buf_init(&encoded, ENVELOPE_ENCODED_MAX);
    int status = 0;
    if (t->probe) {
        if (!outbound_probe(&t->engine.workers[0], slice_str(t->domain)))
            status = cli_fail(EX_OSERR, "out of memory");
    } else if (compose(t, &content)) {
        submit(t, buf_slice(&content), &encoded, &op);
    } else {
        status = cli_fail(EX_NOINPUT, "%s cannot be read, or is larger than 64 KB",
                          t->message_path != NULL ? t->message_path : "the message");
    }
    if (status == 0)
        status = wait_for_verdict(t);
    leave(t);
    engine_stop(&t->engine);
    (void)mailbox_deliver(&t->mailbox);
    buf_fini(&content);
    buf_fini(&encoded);
    return status >= 0 ? status : EX_TEMPFAIL;
}

static bool prepare(struct trace *t)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    t->shared.done_fd = eventfd(0, EFD_CLOEXEC);
    atomic_init(&t->shared.status, -1);
    t->engine.failed_fd = -1;
    (void)signal(SIGPIPE, SIG_IGN);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return false;
    t->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    return t->signal_fd >= 0 && t->shared.done_fd >= 0 && mailbox_init(&t->mailbox, t) == 0;
}

int cmd_trace(int argc, char **argv)
{
    struct trace *t = calloc(1, sizeof *t);
    if (t == NULL || !prepare(t)) {
        free(t);
        return cli_fail(EX_OSERR, "out of memory or descriptors");
    }
    int status = parse(t, argc, argv);
    if (status == 0)
        status = read_target(t);
    if (status == 0)
        status = start(t);
    trace_print_init(&t->print, t->options.json);
    if (status == 0) {
        ask_running_relay(t);
        status = look_up(t);
    }
    if (status == 0)
        status = deliver(t);
    else
        engine_stop(&t->engine);
    (void)mailbox_deliver(&t->mailbox);
    mailbox_fini(&t->mailbox);
    if (t->spool[0] != '\0')
        remove_spool(t->spool);
    config_free(&t->config);
    (void)close(t->shared.done_fd);
    (void)close(t->signal_fd);
    free(t);
    return status;
}
