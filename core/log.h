/* The log: one JSON object per line (RFC 8259), written by a thread of its own so that no worker
 * ever waits for a disk or a pipe. Lines wait in a bounded lock-free queue; when it is full they
 * are dropped and counted, and the count is logged as soon as there is room again.
 *
 *   struct log_line l;
 *   log_begin(&l, log, "delivery");        {"time":"...","event":"delivery"
 *   log_str(&l, "exchange", slice);        ,"exchange":"mx.example.org"
 *   log_u64(&l, "connect_ms", 12);         ,"connect_ms":12
 *   log_end(&l);                           }\n
 *
 * Every string is escaped: control characters, and what a terminal obeys or a reader does not see
 * (utf8_is_hidden), as \uXXXX, bytes that are not valid UTF-8 as U+FFFD; so nothing a peer says can
 * forge a line. A line is at most LOG_LINE_MAX bytes; longer strings are cut. */
#ifndef ONWARD_CORE_LOG_H
#define ONWARD_CORE_LOG_H

#include "core/base/error.h"
#include "core/base/slice.h"
#include "core/reply.h"

enum { LOG_LINE_MAX = 4096 };

struct log;

/* `path` "-" is standard error. Starts the thread. NULL with `error`. */
struct log *log_open(const char *path, struct error *error);

/* Writes out what was logged, stops the thread. A pipe that nobody reads holds this up for a
 * second or two. */
void log_close(struct log **l);

/* Reopens the file by its name (after rotation): carried out by the log thread soon. Where that
 * fails the former file is gone on with, and says so. Any thread. */
void log_reopen(struct log *l);

/* Lines dropped since the log was opened. Any thread. */
uint64_t log_dropped(const struct log *l);

/* Who gets some lines besides the log (workers/events). `on_line` runs on the thread that wrote the
 * line, before the log has it: "{...}\n", borrowed, at most LOG_LINE_MAX bytes. */
struct log_tap {
    void (*on_line)(struct log_tap *tap, struct slice line);
};

/* A line being written: on the stack of whoever writes it, between log_begin and log_end. */
struct log_line {
    struct log *log;
    struct log_tap *tap;
    struct log_record *record; /* NULL: nobody wants it, or no memory; the rest is then no-op */
};

/* Starts a line with the time and the event's name. Any thread. `log` may be NULL
 * (tests): no-op. */
void log_begin(struct log_line *l, struct log *log, const char *event);

/* The same for the log, a tap, or both; each may be NULL. */
void log_begin_tapped(struct log_line *l, struct log *log, struct log_tap *tap, const char *event);

/* Members of the object, in the order they are added. */
void log_str(struct log_line *l, const char *key, struct slice value);
void log_cstr(struct log_line *l, const char *key, const char *value);
void log_u64(struct log_line *l, const char *key, uint64_t value);

/* "code":550,"status":"5.1.1","text":"..."; for a local one "code" is absent and
 * "local":"LOCAL_TIMEOUT" given. */
void log_reply(struct log_line *l, const struct reply *r);
void log_end(struct log_line *l);

/* For the rare: one event with one text, e.g. log_note(log, "warning", "..."). */
void log_note(struct log *log, const char *event, const char *text);

#endif
