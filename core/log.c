#include "core/log.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/mailbox.h"
#include "core/base/thread.h"
#include "core/base/list.h"
#include "core/base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    RECORDS_MAX = 16384, /* lines waiting at most: bounds the memory behind a stuck disk or pipe */
    WRITE_PARTS = 256,
    GATHER_US = 10000,    /* at 10,000 lines a second a hundred wait meanwhile */
    TAIL_ROOM = 8,        /* of a line, kept for its end: a quote, a brace, the line end */
    STUCK_WAIT_MS = 1000, /* a pipe nobody reads: lines are dropped after that */
    /* So much goes into a pipe or socket that has room for any, whole and without a wait (pipe(7));
     * a line fits. */
    PIECE_BYTES = 4096,
};

static_assert((int)LOG_LINE_MAX <= (int)PIECE_BYTES, "a line is one piece");

struct log_record {
    struct mail mail;
    uint32_t len;
    bool truncated;
    char text[LOG_LINE_MAX];
};

struct log {
    char *path;
    int fd;
    bool is_file;           /* `fd` never makes us wait; pipes, sockets and terminals do */
    bool torn;              /* the last line in the file lacks its end: the disk was full */
    struct mailbox mailbox; /* its owner is the log */
    pthread_t thread;
    bool stopping;
    bool reopen;
    struct log_record *waiting[WRITE_PARTS]; /* the log thread's current batch */
    unsigned waiting_count;
    uint64_t reported; /* drops told of in the log itself */
    bool failing;      /* the last write failed: drops are told of behind the next that works */
    struct {
        _Alignas(64) atomic_uint records; /* lines that exist now */
        _Atomic uint64_t dropped;
        atomic_bool closing; /* the thread that stops it waits; `stopping` comes behind all lines */
    } shared;
};

/* ---- composing a line: the caller's thread ---- */

/* Records are as long as a line may get, though most lines are short: the allocator gives the rest
 * of the pages no memory until it is written. */
static struct log_record *create_record(void)
{
    struct log_record *r = malloc(sizeof *r);
    if (r == NULL)
        return NULL;
    r->len = 0;
    r->truncated = false;
    return r;
}

/* None behind a string that filled the line to the last byte: its closing quote is in the tail. */
static size_t room_of(const struct log_record *r)
{
    size_t limit = LOG_LINE_MAX - TAIL_ROOM;
    return r->len < limit ? limit - r->len : 0;
}

static void put(struct log_record *r, const char *bytes, size_t len)
{
    if (r->truncated || len > room_of(r)) {
        r->truncated = true;
        return;
    }
    memcpy(r->text + r->len, bytes, len);
    r->len += (uint32_t)len;
}

static void put_str(struct log_record *r, const char *text)
{
    put(r, text, strlen(text));
}

/* A JSON string with its quotes (RFC 8259 7). Cut where the line is full, never inside
 * an escape. */
static void put_string(struct log_record *r, struct slice s)
{
    static const char hex[] = "0123456789abcdef";
    put(r, "\"", 1);
    while (s.len > 0 && !r->truncated) {
        size_t plain = 0;
        while (plain < s.len && (unsigned char)s.ptr[plain] >= ' ' &&
               (unsigned char)s.ptr[plain] < 0x7f && s.ptr[plain] != '"' && s.ptr[plain] != '\\')
            plain++;
        size_t room = room_of(r);
        put(r, s.ptr, plain < room ? plain : room);
        r->truncated |= plain > room;
        s = slice_skip(s, plain);
        if (s.len == 0 || r->truncated)
            break;
        unsigned char c = (unsigned char)s.ptr[0];
        size_t utf8 = c >= 0x80 ? utf8_length(s) : 0;
        unsigned code = c;
        bool hidden = utf8 > 0 && utf8_is_hidden(s, utf8, &code);
        char control[6] = {
            '\\',          'u', hex[code >> 12 & 15], hex[code >> 8 & 15], hex[code >> 4 & 15],
            hex[code & 15]};
        if (c == '"' || c == '\\')
            put(r, (char[]){'\\', (char)c}, 2);
        else if (utf8 > 0 && !hidden)
            put(r, s.ptr, utf8);
        else if (c >= 0x80 && utf8 == 0)
            put(r, "\xef\xbf\xbd", 3); /* U+FFFD */
        else
            put(r, control, sizeof control);
        s = slice_skip(s, utf8 > 0 ? utf8 : 1);
    }
    r->text[r->len++] = '"'; /* TAIL_ROOM */
}

static void put_key(struct log_record *r, const char *key)
{
    put_str(r, ",\"");
    put_str(r, key);
    put_str(r, "\":");
}

static void count_drops(struct log *log, unsigned count)
{
    atomic_fetch_add_explicit(&log->shared.dropped, count, memory_order_relaxed);
}

void log_begin(struct log_line *l, struct log *log, const char *event)
{
    log_begin_tapped(l, log, NULL, event);
}

void log_begin_tapped(struct log_line *l, struct log *log, struct log_tap *tap, const char *event)
{
    *l = (struct log_line){.log = log, .tap = tap};
    if (log == NULL && tap == NULL)
        return;
    l->record = create_record();
    if (l->record == NULL) {
        if (log != NULL)
            count_drops(log, 1);
        return;
    }
    char time[CLOCK_ISO_SIZE];
    clock_format_iso(clock_wall_ms(), time);
    put_str(l->record, "{\"time\":\"");
    put_str(l->record, time);
    put_str(l->record, "\",\"event\":");
    put_string(l->record, slice_str(event));
}

/* Is there room for a key and the shortest value? Once a line is cut, no further
 * member is begun. */
static bool can_add(struct log_line *l, const char *key)
{
    if (l->record == NULL || l->record->truncated)
        return false;
    if (room_of(l->record) < strlen(key) + 32) {
        l->record->truncated = true;
        return false;
    }
    return true;
}

void log_str(struct log_line *l, const char *key, struct slice value)
{
    if (!can_add(l, key))
        return;
    put_key(l->record, key);
    put_string(l->record, value);
}

void log_cstr(struct log_line *l, const char *key, const char *value)
{
    log_str(l, key, slice_str(value));
}

void log_u64(struct log_line *l, const char *key, uint64_t value)
{
    if (!can_add(l, key))
        return;
    char digits[SLICE_DIGITS_MAX];
    struct slice number = slice_from_u64(value, digits);
    put_key(l->record, key);
    put(l->record, number.ptr, number.len);
}

static char *put_number(char *at, unsigned value)
{
    char digits[8];
    int n = 0;
    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (n > 0)
        *at++ = digits[--n];
    return at;
}

void log_reply(struct log_line *l, const struct reply *r)
{
    if (r->code == 0)
        return;
    if (reply_is_local(r))
        log_cstr(l, "local", reply_source_name(r));
    else
        log_u64(l, "code", r->code);
    if (r->subject != 0 || r->detail != 0) {
        char status[24];
        char *at = put_number(status, r->class);
        *at++ = '.';
        at = put_number(at, r->subject);
        *at++ = '.';
        at = put_number(at, r->detail);
        log_str(l, "status", slice_of(status, (size_t)(at - status)));
    }
    log_str(l, "text", slice_of(r->text, r->text_len));
}

static void on_record(struct mail *mail, void *owner);

/* False where as many lines wait as may. */
static bool count_in(struct log *log)
{
    if (atomic_fetch_add_explicit(&log->shared.records, 1, memory_order_relaxed) < RECORDS_MAX)
        return true;
    atomic_fetch_sub_explicit(&log->shared.records, 1, memory_order_relaxed);
    count_drops(log, 1);
    return false;
}

void log_end(struct log_line *l)
{
    struct log_record *r = l->record;
    if (r == NULL)
        return;
    l->record = NULL;
    r->text[r->len++] = '}'; /* TAIL_ROOM */
    r->text[r->len++] = '\n';
    if (l->tap != NULL)
        l->tap->on_line(l->tap, slice_of(r->text, r->len));
    if (l->log == NULL || !count_in(l->log)) {
        free(r);
        return;
    }
    r->mail.on_arrival = on_record;
    struct mail *mail = &r->mail;
    mailbox_post(&l->log->mailbox, &mail);
}

void log_note(struct log *log, const char *event, const char *text)
{
    struct log_line l;
    log_begin(&l, log, event);
    log_cstr(&l, "text", text);
    log_end(&l);
}

/* ---- writing: the log's thread ---- */

static void open_file(struct log *log, struct error *error)
{
    struct stat st;
    if (strcmp(log->path, "-") == 0) { /* others use it too, so it may block: see wait_for_room */
        log->fd = STDERR_FILENO;
        log->is_file = fstat(log->fd, &st) == 0 && S_ISREG(st.st_mode);
        return;
    }
    int fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0640);
    if (fd < 0) {
        error_set(
            error,
            "cannot open log.path %s: %m; the folder must be there, and the user of the relay "
            "must be able to write in it",
            log->path);
        return; /* a reopen that fails goes on with the old file */
    }
    if (log->fd >= 0)
        (void)close(log->fd);
    log->fd = fd;
    log->is_file = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    log->torn = false;
}

static void free_batch(struct log *log)
{
    for (unsigned i = 0; i < log->waiting_count; i++)
        free(log->waiting[i]);
    atomic_fetch_sub_explicit(&log->shared.records, log->waiting_count, memory_order_relaxed);
    log->waiting_count = 0;
}

/* False where nobody reads. Once that is known, a relay that stops waits for nobody. */
static bool wait_for_room(const struct log *log)
{
    struct pollfd fd = {.fd = log->fd, .events = POLLOUT};
    bool hopeless = log->failing && atomic_load(&log->shared.closing);
    return log->is_file || poll(&fd, 1, hopeless ? 0 : STUCK_WAIT_MS) > 0;
}

/* How many of the parts make one write. */
static int piece_of(const struct log *log, const struct iovec *parts, int count)
{
    size_t bytes = parts->iov_len;
    int n = 1;
    while (n < count && (log->is_file || bytes + parts[n].iov_len <= PIECE_BYTES))
        bytes += parts[n++].iov_len;
    return n;
}

/* Writes one line a part. Returns how many it could not: the file takes no more (full disk, closed
 * pipe, nobody reads). */
static unsigned write_parts(struct log *log, struct iovec *parts, int count)
{
    while (count > 0) {
        if (!wait_for_room(log))
            break;
        ssize_t n = writev(log->fd, parts, piece_of(log, parts, count));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            break;
        size_t left = (size_t)n;
        while (count > 0 && left >= parts->iov_len) {
            left -= parts->iov_len;
            parts++;
            count--;
            log->torn = false;
        }
        if (count > 0 && left > 0) {
            parts->iov_base = (char *)parts->iov_base + left;
            parts->iov_len -= left;
            log->torn = true;
        }
    }
    return (unsigned)count;
}

/* What was cut ends here, lest it spoil the line behind it. */
static bool end_torn_line(struct log *log)
{
    struct iovec end = {.iov_base = (char[]){'\n'}, .iov_len = 1};
    return !log->torn || write_parts(log, &end, 1) == 0;
}

static void write_batch(struct log *log)
{
    struct iovec parts[WRITE_PARTS];
    unsigned unwritten = log->waiting_count;
    for (unsigned i = 0; i < log->waiting_count; i++)
        parts[i] = (struct iovec){log->waiting[i]->text, log->waiting[i]->len};
    if (log->waiting_count == 0)
        return;
    if (end_torn_line(log))
        unwritten = write_parts(log, parts, (int)log->waiting_count);
    log->failing = unwritten > 0;
    if (log->failing)
        count_drops(log, unwritten);
    free_batch(log);
}

static void on_record(struct mail *mail, void *owner)
{
    struct log *log = owner;
    log->waiting[log->waiting_count++] = CONTAINER_OF(mail, struct log_record, mail);
    if (log->waiting_count == WRITE_PARTS)
        write_batch(log);
}

static void report_drops(struct log *log)
{
    uint64_t dropped = log_dropped(log);
    bool full = atomic_load_explicit(&log->shared.records, memory_order_relaxed) >= RECORDS_MAX;
    if (dropped == log->reported || log->failing || full)
        return; /* told as soon as there is room */
    struct log_line l;
    log_begin(&l, log, "log_dropped");
    if (l.record == NULL)
        return;
    log_u64(&l, "lines", dropped - log->reported);
    log->reported = dropped;
    log_end(&l);
}

static void reopen(struct log *log)
{
    struct error error = {{0}};
    open_file(log, &error);
    if (error.text[0] != '\0')
        log_note(log, "log_not_reopened", error.text);
}

static void *run(void *context)
{
    struct log *log = context;
    while (!log->stopping || atomic_load(&log->shared.records) > 0) {
        if (!log->stopping && mailbox_prepare_sleep(&log->mailbox)) {
            struct pollfd fd = {.fd = log->mailbox.event_fd, .events = POLLIN};
            (void)poll(&fd, 1, -1);
            mailbox_awake(&log->mailbox);
            /* A moment for more lines to come: no sender wakes this thread meanwhile, and one write
             * takes them all. */
            const struct timespec gather = {.tv_nsec = GATHER_US * 1000};
            (void)nanosleep(&gather, NULL);
        }
        (void)mailbox_deliver(&log->mailbox);
        write_batch(log);
        if (log->reopen) {
            log->reopen = false;
            reopen(log);
        }
        report_drops(log);
    }
    return NULL;
}

/* ---- opening and closing ---- */

struct log *log_open(const char *path, struct error *error)
{
    struct log *log = aligned_alloc(64, (sizeof *log + 63) / 64 * 64);
    if (log == NULL) {
        error_set(error, "out of memory for the log");
        return NULL;
    }
    memset(log, 0, sizeof *log);
    log->fd = -1;
    log->path = strdup(path);
    error_set(error, "no memory or descriptor for the log");
    if (log->path != NULL)
        open_file(log, error);
    if (log->path == NULL || log->fd < 0 || mailbox_init(&log->mailbox, log) != 0) {
        free(log->path);
        free(log);
        return NULL;
    }
    int rc = thread_start(&log->thread, "log", run, log);
    if (rc != 0) {
        error_set(error, "the log cannot start its thread: %s", strerrordesc_np(rc));
        mailbox_fini(&log->mailbox);
        free(log->path);
        free(log);
        return NULL;
    }
    return log;
}

/* An order to the log's thread. */
struct log_order {
    struct mail mail;
};

static void on_stop(struct mail *mail, void *owner)
{
    (void)mail;
    struct log *log = owner;
    log->stopping = true;
}

void log_close(struct log **l)
{
    if (*l == NULL)
        return;
    struct mail stop = {.on_arrival = on_stop};
    struct mail *mail = &stop;
    atomic_store(&(*l)->shared.closing, true);
    mailbox_post(&(*l)->mailbox, &mail);
    int rc = pthread_join((*l)->thread, NULL);
    ASSERT(rc == 0);
    mailbox_fini(&(*l)->mailbox);
    if ((*l)->fd > STDERR_FILENO)
        (void)close((*l)->fd);
    free((*l)->path);
    free(*l);
    *l = NULL;
}

static void on_reopen(struct mail *mail, void *owner)
{
    struct log *log = owner;
    log->reopen = true;
    free(CONTAINER_OF(mail, struct log_order, mail));
}

void log_reopen(struct log *l)
{
    struct log_order *o = malloc(sizeof *o);
    if (o == NULL)
        return;
    o->mail.on_arrival = on_reopen;
    struct mail *mail = &o->mail;
    mailbox_post(&l->mailbox, &mail);
}

uint64_t log_dropped(const struct log *l)
{
    return atomic_load_explicit(&l->shared.dropped, memory_order_relaxed);
}
