#include "bench/tools/load_session.h"
#include "bench/tools/mark.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { REPLY_BYTES = 4096, NO_MESSAGE = -1 };

enum stage {
    CONNECTING,
    GREETING,
    HELLO,
    IDLE,     /* waits until a message is due */
    COMMANDS, /* replies to MAIL, RCPT... and DATA are under way */
    CONTENT,  /* the reply behind the content is */
    GOODBYE,
};

struct submitter {
    struct submission *all;
    struct submitted *seen;
    int epoll_fd, fd;
    enum stage stage;
    bool wants_write;
    int64_t number; /* of the message under way */
    uint64_t begun_ns, carried;
    unsigned replies_due; /* COMMANDS */
    bool refused;         /* one of them was not what it should be */
    char *commands, head[MESSAGE_HEAD_MAX];
    struct iovec out[2]; /* to be written */
    unsigned out_count;
    char reply[REPLY_BYTES];
    size_t reply_len;
};

_Noreturn static void give_up(const char *what, const char *detail)
{
    (void)fprintf(stderr, "load: %s%s\n", what, detail);
    _exit(1);
}

/* ---- writing ---- */

static void watch(struct submitter *s, bool wants_write)
{
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = s};
    if (wants_write != s->wants_write && epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, s->fd, &event) != 0)
        give_up("epoll: ", strerrordesc_np(errno));
    s->wants_write = wants_write;
}

static void advance(struct submitter *s, size_t written)
{
    struct iovec *first = &s->out[0];
    if (written < first->iov_len) {
        first->iov_base = (char *)first->iov_base + written;
        first->iov_len -= written;
        return;
    }
    written -= first->iov_len;
    s->out[0] = s->out[1];
    if (--s->out_count > 0)
        advance(s, written);
}

/* Writes as much as goes; false: the connection is gone. */
static bool write_on(struct submitter *s)
{
    while (s->out_count > 0) {
        struct msghdr message = {.msg_iov = s->out, .msg_iovlen = s->out_count};
        ssize_t written = sendmsg(s->fd, &message, MSG_NOSIGNAL);
        if (written < 0 && errno == EAGAIN)
            break;
        if (written < 0)
            return false;
        advance(s, (size_t)written);
    }
    watch(s, s->out_count > 0);
    return true;
}

static bool put(struct submitter *s, const char *text, size_t len)
{
    s->out[s->out_count++] = (struct iovec){.iov_base = (void *)(uintptr_t)text, .iov_len = len};
    return write_on(s);
}

/* ---- messages ---- */

static bool is_due(const struct submission *all, uint64_t now_ns)
{
    double seconds = (double)(now_ns - all->began_ns) / 1e9;
    return all->rate_per_s <= 0 || (double)atomic_load(&all->next) <= seconds * all->rate_per_s;
}

/* Is there a message left to begin? Takes its number. */
static bool take_number(struct submitter *s, uint64_t now_ns)
{
    if (s->number != NO_MESSAGE)
        return true; /* one that was refused, or whose connection was lost */
    if (s->all->until_ns != 0 && now_ns >= s->all->until_ns)
        return false;
    uint64_t number = atomic_fetch_add(&s->all->next, 1);
    if (number >= s->all->count)
        return false;
    s->number = (int64_t)number;
    return true;
}

static bool say_goodbye(struct submitter *s)
{
    s->stage = GOODBYE;
    return put(s, "QUIT\r\n", 6);
}

static bool begin_message(struct submitter *s)
{
    uint64_t now_ns = mark_now_ns();
    if (s->number == NO_MESSAGE && !is_due(s->all, now_ns)) {
        s->stage = IDLE;
        return true;
    }
    bool is_worn = s->all->per_connection > 0 && s->carried >= s->all->per_connection;
    if (is_worn || !take_number(s, now_ns))
        return say_goodbye(s);
    size_t len = messages_commands(s->all->messages, (uint64_t)s->number, s->commands);
    s->stage = COMMANDS;
    s->refused = false;
    s->begun_ns = now_ns;
    s->replies_due = 0;
    for (size_t i = 0; i < len; i++)
        s->replies_due += s->commands[i] == '\n';
    return put(s, s->commands, len);
}

static bool send_content(struct submitter *s)
{
    size_t head = messages_head(s->all->messages, (uint64_t)s->number, s->begun_ns, s->head), tail;
    const char *rest = messages_tail(s->all->messages, &tail);
    s->stage = CONTENT;
    s->out[0] = (struct iovec){.iov_base = s->head, .iov_len = head};
    s->out_count = 1;
    return put(s, rest, tail);
}

static void note_refusal(struct submitter *s, const char *reply)
{
    s->seen->refused++;
    if (atomic_fetch_sub(&s->all->refused_max, 1) == 0)
        give_up("the relay refuses mail: ", reply);
}

/* ---- replies ---- */

static bool on_command_reply(struct submitter *s, const char *reply)
{
    bool is_last = --s->replies_due == 0;
    if (reply[0] != (is_last ? '3' : '2')) {
        s->refused = true;
        note_refusal(s, reply);
    }
    if (!is_last)
        return true;
    if (s->refused && reply[0] == '3')
        return false; /* content was asked for that shall not be sent: a new connection */
    return s->refused ? begin_message(s) : send_content(s);
}

static bool on_final_reply(struct submitter *s, const char *reply)
{
    if (reply[0] != '2') {
        note_refusal(s, reply);
        return begin_message(s);
    }
    s->seen->last_ns = mark_now_ns();
    histogram_note(&s->seen->latency, s->seen->last_ns - s->begun_ns);
    s->seen->accepted++;
    s->carried++;
    s->number = NO_MESSAGE;
    return begin_message(s);
}

/* One reply's last line; false: the connection is of no more use. */
static bool on_reply(struct submitter *s, const char *reply)
{
    switch (s->stage) {
    case GREETING:
        s->stage = HELLO;
        return reply[0] == '2' && put(s, "EHLO load.example.org\r\n", 23);
    case HELLO:
        return reply[0] == '2' && begin_message(s);
    case COMMANDS:
        return on_command_reply(s, reply);
    case CONTENT:
        return on_final_reply(s, reply);
    case CONNECTING:
    case IDLE:
    case GOODBYE:
        break;
    }
    return false;
}

static bool read_on(struct submitter *s)
{
    ssize_t got = read(s->fd, s->reply + s->reply_len, sizeof s->reply - 1 - s->reply_len);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    s->reply_len += (size_t)got;
    s->reply[s->reply_len] = '\0';
    char *line = s->reply;
    for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = '\0';
        if (end - line >= 4 && line[3] != '-' && !on_reply(s, line))
            return false;
    }
    s->reply_len -= (size_t)(line - s->reply);
    memmove(s->reply, line, s->reply_len);
    return s->reply_len < sizeof s->reply - 1;
}

/* ---- the connection ---- */

static void connect_anew(struct submitter *s)
{
    int on = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        give_up("no socket: ", strerrordesc_np(errno));
    (void)setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    s->stage = CONNECTING;
    s->carried = s->reply_len = s->out_count = 0;
    s->wants_write = true;
    if (connect(s->fd, (struct sockaddr *)&s->all->to, sizeof s->all->to) != 0 &&
        errno != EINPROGRESS)
        give_up("cannot connect: ", strerrordesc_np(errno));
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s};
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->fd, &event) != 0)
        give_up("epoll: ", strerrordesc_np(errno));
}

struct submitter *submitter_create(struct submission *all, struct submitted *seen, int epoll_fd)
{
    struct submitter *s = calloc(1, sizeof *s);
    if (s == NULL || (s->commands = malloc(messages_commands_max(all->messages))) == NULL)
        abort();
    s->all = all;
    s->seen = seen;
    s->epoll_fd = epoll_fd;
    s->number = NO_MESSAGE;
    connect_anew(s);
    return s;
}

/* The connection is over: another one, where there is still something to do. */
static bool after_end(struct submitter *s)
{
    bool is_lost = s->stage != GOODBYE;
    bool is_over =
        s->number == NO_MESSAGE && (atomic_load(&s->all->next) >= s->all->count ||
                                    (s->all->until_ns != 0 && mark_now_ns() >= s->all->until_ns));
    s->seen->lost += is_lost;
    (void)close(s->fd);
    if (is_lost)
        note_refusal(s, "a connection was lost");
    if (!is_over) {
        connect_anew(s);
        return true;
    }
    free(s->commands);
    free(s);
    return false;
}

bool submitter_on_event(struct submitter *s, uint32_t events)
{
    bool well = (events & (EPOLLERR | EPOLLHUP)) == 0 || (events & EPOLLIN) != 0;
    if (well && s->stage == CONNECTING) {
        s->stage = GREETING;
        watch(s, false);
    }
    if (well && (events & EPOLLOUT) != 0 && s->out_count > 0)
        well = write_on(s);
    if (well && (events & EPOLLIN) != 0)
        well = read_on(s);
    return well || after_end(s);
}

bool submitter_on_tick(struct submitter *s, uint64_t now_ns)
{
    bool is_over = s->all->until_ns != 0 && now_ns >= s->all->until_ns;
    if (s->stage != IDLE || !(is_over || is_due(s->all, now_ns)))
        return true;
    return begin_message(s) || after_end(s);
}
