/* What `onward trace` shows: each step of a delivery with the time since the start, as lines for
 * people or as JSON lines for programs. Peers' words are shown with control characters replaced, a
 * limited number of lines for each session, so that no flood scrolls the rest away. */
#ifndef ONWARD_WORKERS_CLI_TRACE_PRINT_H
#define ONWARD_WORKERS_CLI_TRACE_PRINT_H

#include "dns/route.h"
#include "workers/outbound/observer.h"

enum { TRACE_LINE_MAX = 512, TRACE_SESSIONS_MAX = 64 };

/* A session as the trace knows it. Input is shown by line, however it was cut. */
struct trace_session {
    uint64_t number; /* 0 = free */
    bool open;
    unsigned lines_shown;
    size_t pending_len;
    char pending[TRACE_LINE_MAX];
};

/* Embedded in the command; one thread at a time prints. */
struct trace_print {
    bool json;
    uint64_t began_us; /* monotonic */
    unsigned session_count;
    struct trace_session sessions[TRACE_SESSIONS_MAX];
};

/* Time counts from here. */
void trace_print_init(struct trace_print *p, bool json);

/* A step outside of any session; `about` names it for programs ("dns", "health", "message"). */
void trace_print_note(struct trace_print *p, const char *about, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The answers to the MX and address queries, or why there is no route. */
void trace_print_route(struct trace_print *p, const struct route *route);

/* One event of a session or a lane (observer.h). */
void trace_print_event(struct trace_print *p, const struct observed *what);

#endif
