#include "workers/cli/cli.h"
#include "workers/cli/mail_text.h"

#include "core/base/utf8.h"
#include "smtp/reply.h"
#include "smtp/stuff.h"

#include <errno.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sysexits.h>
#include <unistd.h>

enum { WAIT_S = 300, MESSAGE_BYTES_MAX = 1 << 30 };

/* What the command line asked for. */
struct request {
    struct cli_options options;
    const char *server; /* "host:port", or NULL: the configuration's first listener */
    const char *sender; /* NULL: user@hostname */
    const char *full_name;
    const char *notify, *ret, *envid;
    bool from_header; /* -t */
    bool dots_end;    /* a line with a single dot ends the message (without -i) */
    bool body_8bit;
    struct mail_addresses recipients;
};

/* ---- the command line, as sendmail's users know it ---- */

/* Options with a value, which may stand in the same word ("-fme@example.org") or the next. */
static bool take_value(struct request *r, char letter, const char *value)
{
    switch (letter) {
    case 'f':
    case 'r':
        r->sender = value;
        return true;
    case 'F':
        r->full_name = value;
        return true;
    case 'N':
        r->notify = value;
        return true;
    case 'R':
        r->ret = value;
        return true;
    case 'V':
        r->envid = value;
        return true;
    case 'B':
        r->body_8bit = strcasecmp(value, "8BITMIME") == 0;
        return true;
    case 'C':
    case 'c':
        r->options.config_path = value;
        return true;
    default:
        return false;
    }
}

static int parse_arguments(struct request *r, int argc, char **argv)
{
    r->dots_end = true;
    r->options.config_path = CLI_CONFIG_DEFAULT;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--server") == 0 || strcmp(a, "--config") == 0) {
            if (i + 1 == argc)
                return cli_fail(EX_USAGE, "%s needs a value", a);
            *(a[2] == 's' ? &r->server : &r->options.config_path) = argv[i + 1];
            i++;
        } else if (a[0] != '-' || a[1] == '\0') {
            if (!mail_addresses_add(&r->recipients, slice_str(a)))
                return cli_fail(EX_USAGE, "`%s` is not an address", a);
        } else if (strcmp(a, "--") == 0) {
            while (++i < argc)
                if (!mail_addresses_add(&r->recipients, slice_str(argv[i])))
                    return cli_fail(EX_USAGE, "`%s` is not an address", argv[i]);
        } else if (strchr("frFNRVBCc", a[1]) != NULL) {
            const char *value = a[2] != '\0' ? a + 2 : i + 1 < argc ? argv[++i] : NULL;
            if (value == NULL || !take_value(r, a[1], value))
                return cli_fail(EX_USAGE, "%s needs a value", a);
        } else if (a[1] == 't') {
            r->from_header = true;
        } else if (strcmp(a, "-i") == 0 || strcmp(a, "-oi") == 0) {
            r->dots_end = false;
        } else if (strchr("bomnvGhUqdLpX", a[1]) == NULL) {
            return cli_fail(EX_USAGE, "unknown option %s", a);
        } else if (a[1] == 'b' && a[2] != 'm') {
            return cli_fail(EX_USAGE,
                            "%s is not offered, only -bm, submitting a message; `onward queue` "
                            "shows what waits",
                            a);
        } /* what remains are sendmail's switches that change nothing here */
    }
    return 0;
}

/* ---- the dialogue ---- */

struct dialogue {
    FILE *stream;
    char last[1024]; /* the server's last reply */
};

/* Reads one reply; its code, or 0 where the connection broke or it is not SMTP. */
static unsigned read_reply(struct dialogue *d)
{
    struct smtp_reply_parser *parser = calloc(1, sizeof *parser);
    unsigned code = 0;
    d->last[0] = '\0';
    if (parser == NULL)
        return 0;
    smtp_reply_reset(parser);
    for (int c; (c = fgetc(d->stream)) != EOF;) {
        char byte = (char)c;
        size_t used;
        enum smtp_reply_status status =
            smtp_reply_feed(parser, slice_of(&byte, 1), &used, NULL, NULL);
        if (status == SMTP_REPLY_MORE)
            continue;
        if (status == SMTP_REPLY_COMPLETE) {
            code = parser->reply.code;
            (void)reply_format(&parser->reply, d->last, sizeof d->last);
        }
        break;
    }
    free(parser);
    return code;
}

/* Sends a line and reads its reply; true where it is of the class expected. */
static bool __attribute__((format(printf, 3, 4)))
say(struct dialogue *d, unsigned class, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    bool ok = vfprintf(d->stream, format, args) >= 0 && fputs("\r\n", d->stream) != EOF &&
              fflush(d->stream) == 0;
    va_end(args);
    unsigned code = read_reply(d); /* where it has gone it may have said why */
    return ok && code / 100 == class;
}

static int status_of(const struct dialogue *d)
{
    if (d->last[0] == '\0')
        return cli_fail(EX_TEMPFAIL, "the relay broke off; nothing was accepted, try again");
    return cli_fail(d->last[0] == '4' ? EX_TEMPFAIL : EX_UNAVAILABLE, "the relay refused: %s",
                    d->last);
}

static bool send_content(struct dialogue *d, struct slice content)
{
    struct stuff_state state = {0};
    while (content.len > 0) {
        bool extra = false;
        struct slice run = stuff_next(&state, content, &extra);
        if (fwrite(run.ptr, 1, run.len, d->stream) != run.len)
            return false;
        stuff_sent(&state, run, run.len, extra);
        if (!extra)
            content = slice_skip(content, run.len);
    }
    return true;
}

static int submit(struct dialogue *d, const struct request *r, const char *sender,
                  struct slice content)
{
    char host[256] = "localhost";
    (void)gethostname(host, sizeof host - 1);
    if (read_reply(d) != 220 || !say(d, 2, "EHLO %s", host))
        return status_of(d);
    bool utf8 = utf8_has_high(slice_str(sender));
    for (size_t i = 0; i < r->recipients.count; i++)
        utf8 |= utf8_has_high(slice_str(r->recipients.items[i]));
    if (!say(d, 2, "MAIL FROM:<%s>%s%s%s%s%s%s", sender, r->body_8bit ? " BODY=8BITMIME" : "",
             utf8 ? " SMTPUTF8" : "", r->ret != NULL ? " RET=" : "", r->ret != NULL ? r->ret : "",
             r->envid != NULL ? " ENVID=" : "", r->envid != NULL ? r->envid : ""))
        return status_of(d);
    for (size_t i = 0; i < r->recipients.count; i++)
        if (!say(d, 2, "RCPT TO:<%s>%s%s", r->recipients.items[i],
                 r->notify != NULL ? " NOTIFY=" : "", r->notify != NULL ? r->notify : ""))
            return status_of(d);
    if (!say(d, 3, "DATA"))
        return status_of(d);
    (void)send_content(d, content); /* where it breaks off, so does the end of it */
    if (!say(d, 2, "."))
        return status_of(d);
    (void)say(d, 2, "QUIT");
    return 0;
}

static FILE *connect_to(struct address a, char *where, size_t size)
{
    static const uint8_t any[16] = {0}, loopback[4] = {127, 0, 0, 1};
    if (memcmp(a.ip, any, sizeof any) == 0)
        a = address_from_v4(loopback, a.port);
    char text[ADDRESS_TEXT_SIZE];
    address_format(&a, text);
    (void)snprintf(where, size, "%s", text);
    struct sockaddr_storage ss;
    struct timeval wait = {.tv_sec = WAIT_S};
    socklen_t len = address_to_sockaddr(&a, &ss);
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return NULL;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    FILE *stream = connect(fd, (struct sockaddr *)&ss, len) == 0 ? fdopen(fd, "r+") : NULL;
    if (stream == NULL)
        (void)close(fd);
    return stream;
}

static const char *default_sender(char *out, size_t size)
{
    char host[256] = "localhost";
    const struct passwd *user = getpwuid(getuid());
    (void)gethostname(host, sizeof host - 1);
    (void)snprintf(out, size, "%s@%s", user != NULL ? user->pw_name : "nobody", host);
    return out;
}

static int send_message(struct request *r, struct buf *content)
{
    char sender_text[512], where[ADDRESS_TEXT_SIZE] = "the relay";
    const char *sender =
        r->sender != NULL ? r->sender : default_sender(sender_text, sizeof sender_text);
    if (strpbrk(sender, " \r\n<>") != NULL)
        return cli_fail(strcmp(sender, "<>") == 0 ? 0 : EX_USAGE,
                        "`%s` is not a sender's address; give it without brackets", sender);
    struct address server;
    if (r->server != NULL && !address_parse(slice_str(r->server), &server))
        return cli_fail(EX_USAGE,
                        "--server `%s` is not an address and port, such as 127.0.0.1:2525",
                        r->server);
    struct error error = {{0}};
    struct config *config = r->server == NULL ? config_load(r->options.config_path, &error) : NULL;
    if (config == NULL && r->server == NULL)
        return cli_fail(EX_CONFIG, "%s", error.text);
    if (config != NULL)
        server = config->submission.listeners[0].address;
    struct dialogue d = {.stream = connect_to(server, where, sizeof where)};
    int status;
    if (d.stream == NULL) {
        status = cli_fail(EX_TEMPFAIL, "no relay answers on %s (%s); start it with `onward serve`",
                          where, strerrordesc_np(errno));
    } else {
        status = submit(&d, r, sender, buf_slice(content));
        (void)fclose(d.stream);
    }
    config_free(&config);
    return status;
}

int cmd_send(int argc, char **argv)
{
    struct request r = {.server = NULL};
    struct buf raw, content;
    buf_init(&raw, MESSAGE_BYTES_MAX);
    buf_init(&content, MESSAGE_BYTES_MAX);
    (void)signal(SIGPIPE, SIG_IGN); /* a relay that goes is told of, like one that is not there */
    int status = parse_arguments(&r, argc, argv);
    if (status == 0 && r.sender != NULL && strcmp(r.sender, "<>") == 0)
        r.sender = "";
    if (status == 0 && !mail_text_read(stdin, r.dots_end, &raw))
        status = cli_fail(EX_IOERR, "the message cannot be read from standard input");
    if (status == 0) {
        char from[512];
        mail_text_prepare(
            buf_slice(&raw), r.from_header ? &r.recipients : NULL,
            r.sender != NULL && r.sender[0] != '\0' ? r.sender : default_sender(from, sizeof from),
            r.full_name, &content);
        if (!buf_ok(&content))
            status = cli_fail(EX_OSERR, "out of memory for the message");
        else if (r.recipients.count == 0)
            status =
                cli_fail(EX_USAGE, "no recipients; name them, or use -t and To, Cc or Bcc fields");
        else
            status = send_message(&r, &content);
    }
    mail_addresses_free(&r.recipients);
    buf_fini(&raw);
    buf_fini(&content);
    return status;
}
