#include "workers/cli/trace_print.h"

#include "core/base/clock.h"
#include "workers/cli/cli.h"
#include "workers/outbound/session.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { LINES_PER_SESSION_MAX = 60, TEXT_SIZE = 2 * TRACE_LINE_MAX };

void trace_print_init(struct trace_print *p, bool json)
{
    *p = (struct trace_print){.json = json, .began_us = clock_mono_us()};
}

/* ---- one line ---- */

static double seconds(const struct trace_print *p)
{
    return (double)(clock_mono_us() - p->began_us) / 1e6;
}

/* For people: "   5.003  #1  text". */
static void say(const struct trace_print *p, uint64_t session, const char *text)
{
    char name[24] = "", shown[3 * TEXT_SIZE];
    if (session > 0)
        (void)snprintf(name, sizeof name, "#%llu", (unsigned long long)session);
    (void)printf("%8.3f  %-4s %s\n", seconds(p), name,
                 cli_printable(slice_str(text), shown, sizeof shown));
    (void)fflush(stdout);
}

static json_t *begin_json(const struct trace_print *p, const char *event)
{
    return json_pack("{s:f,s:s}", "seconds", seconds(p), "event", event);
}

static void end_json(json_t *line)
{
    (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    (void)fputc('\n', stdout);
    (void)fflush(stdout);
    json_decref(line);
}

void trace_print_note(struct trace_print *p, const char *about, const char *format, ...)
{
    char text[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!p->json) {
        say(p, 0, text);
        return;
    }
    json_t *line = begin_json(p, about);
    (void)json_object_set_new(line, "text", json_string(text));
    end_json(line);
}

/* ---- the route ---- */

static void print_addresses(struct trace_print *p, const struct route_exchange *x,
                            const struct address *addresses, unsigned count, const char *type)
{
    for (unsigned i = 0; i < count; i++) {
        char ip[ADDRESS_TEXT_SIZE];
        address_format_ip(&addresses[i], ip);
        trace_print_note(p, "dns", "      %s %s: %s (TTL %u s)", x->name, type, ip,
                         (unsigned)x->address_ttl_s);
    }
}

static void print_exchange(struct trace_print *p, const struct route *r,
                           const struct route_exchange *x)
{
    if (r->kind == ROUTE_MX)
        trace_print_note(p, "dns", "   MX %u %s (TTL %u s)%s", (unsigned)x->preference, x->name,
                         (unsigned)x->ttl_s, x->v4_count + x->v6_count == 0 ? ": no address" : "");
    print_addresses(p, x, x->v4, x->v4_count, "A");
    print_addresses(p, x, x->v6, x->v6_count, "AAAA");
    if (x->lookup_failed)
        trace_print_note(p, "dns", "      %s: an address query was not answered", x->name);
}

void trace_print_route(struct trace_print *p, const struct route *r)
{
    static const char *const kinds[] = {[ROUTE_MX] = "MX",
                                        [ROUTE_IMPLICIT_MX] =
                                            "no MX: the domain's own addresses (RFC 5321 5.1)",
                                        [ROUTE_LITERAL] = "an address literal",
                                        [ROUTE_FAILED] = "no route"};
    if (r->kind == ROUTE_FAILED) {
        char text[TEXT_SIZE];
        (void)reply_format(&r->failure, text, sizeof text);
        trace_print_note(p, "dns", "no route to %s: %s", r->domain, text);
        return;
    }
    trace_print_note(p, "dns", "answer for %s: %s%s%s", r->domain, kinds[r->kind],
                     r->secure ? ", DNSSEC-validated" : "",
                     r->own_host_cut ? "; this relay itself was cut from it" : "");
    for (unsigned i = 0; i < r->exchange_count; i++)
        print_exchange(p, r, &r->exchanges[i]);
}

/* ---- sessions ---- */

static struct trace_session *session_of(struct trace_print *p, uint64_t number)
{
    for (unsigned i = 0; i < p->session_count; i++)
        if (p->sessions[i].number == number)
            return &p->sessions[i];
    if (p->session_count == TRACE_SESSIONS_MAX)
        return NULL;
    struct trace_session *t = &p->sessions[p->session_count++];
    *t = (struct trace_session){.number = number, .open = true};
    return t;
}

static void print_line(struct trace_print *p, struct trace_session *t, char arrow,
                       struct slice line, const char *end)
{
    char shown[TEXT_SIZE], text[TEXT_SIZE + 64];
    if (++t->lines_shown > LINES_PER_SESSION_MAX + 1)
        return;
    if (t->lines_shown > LINES_PER_SESSION_MAX)
        (void)snprintf(text, sizeof text, "%c (more, not shown)", arrow);
    else
        (void)snprintf(text, sizeof text, "%c %s%s", arrow,
                       cli_printable(line, shown, sizeof shown), end);
    say(p, t->number, text);
}

/* Bytes of one direction, shown by whole lines; what is left waits for the rest. */
static void print_bytes(struct trace_print *p, struct trace_session *t, char arrow,
                        struct slice bytes)
{
    while (bytes.len > 0) {
        size_t len = slice_find(bytes, '\n');
        bool whole = len < bytes.len;
        struct slice part = slice_take(bytes, sizeof t->pending - t->pending_len);
        part = slice_take(part, whole ? len + 1 : len);
        memcpy(t->pending + t->pending_len, part.ptr, part.len);
        t->pending_len += part.len;
        bytes = slice_skip(bytes, part.len);
        bool ended = t->pending[t->pending_len - 1] == '\n';
        if (!ended && t->pending_len < sizeof t->pending)
            continue;
        while (t->pending_len > 0 && strchr("\r\n", t->pending[t->pending_len - 1]) != NULL)
            t->pending_len--;
        print_line(p, t, arrow, slice_of(t->pending, t->pending_len), ended ? "" : "...");
        t->pending_len = 0;
    }
}

/* A line that never ended, where the session does. */
static void print_unfinished(struct trace_print *p, struct trace_session *t)
{
    if (t->pending_len > 0)
        print_line(p, t, '<', slice_of(t->pending, t->pending_len), "   (the line never ended)");
    t->pending_len = 0;
}

static unsigned open_sessions(const struct trace_print *p)
{
    unsigned count = 0;
    for (unsigned i = 0; i < p->session_count; i++)
        count += p->sessions[i].open;
    return count;
}

/* ---- events, for people ---- */

static void describe_target(const struct target *t, char *out, size_t size)
{
    char address[ADDRESS_TEXT_SIZE];
    address_format(&t->address, address);
    (void)snprintf(out, size, "%s (%s, preference %u)", t->exchange->name, address,
                   (unsigned)t->exchange->preference);
}

static void describe(const struct trace_print *p, const struct observed *e, char *out, size_t size)
{
    char target[400] = "no exchange", reply[TEXT_SIZE] = "";
    int len = (int)e->bytes.len;
    const char *bytes = len > 0 ? e->bytes.ptr : "";
    if (e->target != NULL)
        describe_target(e->target, target, sizeof target);
    if (e->reply != NULL)
        (void)reply_format(e->reply, reply, sizeof reply);
    switch (e->kind) {
    case OBSERVED_CONNECTING:
        (void)snprintf(out, size, "connecting to %s%s", target,
                       open_sessions(p) > 1 ? ", beside what is still open" : "");
        return;
    case OBSERVED_CONNECTED:
        (void)snprintf(out, size, "connected: the TCP handshake is done");
        return;
    case OBSERVED_TLS:
        (void)snprintf(out, size, "%s%s", e->note,
                       e->session != NULL && tls_resumed(e->session->conn.ssl) ? ", session resumed"
                                                                               : "");
        return;
    case OBSERVED_CONTENT:
        (void)snprintf(out, size, "> (content, %llu bytes%s)", (unsigned long long)e->amount,
                       e->note != NULL ? ", by BDAT" : ", and the end of data");
        return;
    case OBSERVED_SLOW:
        (void)snprintf(
            out, size,
            "no answer for %.1f s (%.*s): patience is over; kept, and the next exchange, "
            "if there is one, starts beside it",
            (double)e->amount / 1000, len, bytes);
        return;
    case OBSERVED_READY:
        (void)snprintf(out, size, "ready for mail");
        return;
    case OBSERVED_FAILED:
        (void)snprintf(out, size, "failed (%.*s)%s%s: %s; %s", len, bytes,
                       e->session == NULL ? " at " : "", e->session == NULL ? target : "", reply,
                       e->note);
        return;
    case OBSERVED_CLOSED:
        (void)snprintf(out, size, "closed");
        return;
    case OBSERVED_SPENT:
        (void)snprintf(out, size, "every address has failed; the last said: %s", reply);
        return;
    case OBSERVED_VERDICT:
        (void)snprintf(out, size, "%s: %.*s by %s: %s", e->note, len, bytes, target, reply);
        return;
    case OBSERVED_SENT:
    case OBSERVED_RECEIVED:
        break; /* shown by line */
    }
    out[0] = '\0';
}

static void print_for_people(struct trace_print *p, const struct observed *e)
{
    char text[3 * TEXT_SIZE];
    struct trace_session *t = e->session != NULL ? session_of(p, e->session->number) : NULL;
    if (e->kind == OBSERVED_SENT || e->kind == OBSERVED_RECEIVED) {
        if (t != NULL)
            print_bytes(p, t, e->kind == OBSERVED_SENT ? '>' : '<', e->bytes);
        return;
    }
    if (t != NULL && (e->kind == OBSERVED_FAILED || e->kind == OBSERVED_CLOSED)) {
        print_unfinished(p, t);
        t->open = false;
    }
    describe(p, e, text, sizeof text);
    say(p, e->session != NULL && e->kind != OBSERVED_VERDICT ? e->session->number : 0, text);
}

/* ---- events, for programs ---- */

static void set_text(json_t *line, const char *key, struct slice text)
{
    char shown[TEXT_SIZE];
    (void)json_object_set_new(line, key, json_string(cli_printable(text, shown, sizeof shown)));
}

static const char *kind_name(enum observed_kind kind)
{
    static const char *const names[] = {
#define X(kind_, name_) [(kind_)] = (name_),
        OBSERVED_KINDS(X)
#undef X
    };
    return names[kind];
}

static void print_for_programs(struct trace_print *p, const struct observed *e)
{
    json_t *line = begin_json(p, kind_name(e->kind));
    if (e->session != NULL)
        (void)json_object_set_new(line, "session", json_integer((json_int_t)e->session->number));
    if (e->target != NULL) {
        char address[ADDRESS_TEXT_SIZE];
        address_format(&e->target->address, address);
        (void)json_object_set_new(line, "exchange", json_string(e->target->exchange->name));
        (void)json_object_set_new(line, "address", json_string(address));
        (void)json_object_set_new(line, "preference",
                                  json_integer(e->target->exchange->preference));
    }
    if (e->bytes.len > 0)
        set_text(line, "text", e->bytes);
    if (e->kind == OBSERVED_SLOW || e->kind == OBSERVED_CONNECTED)
        (void)json_object_set_new(line, "waited_ms", json_integer((json_int_t)e->amount));
    if (e->kind == OBSERVED_CONTENT)
        (void)json_object_set_new(line, "bytes", json_integer((json_int_t)e->amount));
    if (e->reply != NULL) {
        char text[TEXT_SIZE];
        (void)reply_format(e->reply, text, sizeof text);
        set_text(line, "reply", slice_str(text));
    }
    if (e->note != NULL)
        (void)json_object_set_new(line, "note", json_string(e->note));
    end_json(line);
}

void trace_print_event(struct trace_print *p, const struct observed *what)
{
    if (p->json)
        print_for_programs(p, what);
    else
        print_for_people(p, what);
}
