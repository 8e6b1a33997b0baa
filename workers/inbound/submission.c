#include "workers/inbound/submission.h"

#include "core/base/assert.h"
#include "core/spool/envelope.h"
#include "smtp/proxy.h"
#include "smtp/trace.h"
#include "workers/events/events.h"
#include "workers/intake.h"

#include <stdlib.h>

enum {
    ROUNDS_MAX = 16,    /* reads a turn: then others are served */
    CHUNKS_OUT_MAX = 2, /* chunks at the committer before the connection is made to wait */
    OUT_BYTES_MAX = 64 * 1024,
    PENDING_BYTES_MAX = 2 * WORKER_SCRATCH_BYTES,
    CLOSING_MS = 5000, /* for the last reply to go out */
    LINGER_MS = 2000,  /* for the client to notice it */
};

static void on_ready(struct watch *watch, unsigned events);
static void on_timer(struct timer *timer, void *owner);
static void on_stored(struct upload *u, bool ended);
static void discard(struct submission *s);
static uint64_t next_deadline(const struct submission *s);

/* ---- opening and closing ---- */

static bool in_nets(const struct address_net *nets, unsigned count, const struct address *a)
{
    for (unsigned i = 0; i < count; i++)
        if (address_net_contains(&nets[i], a))
            return true;
    return false;
}

void submission_close(struct submission *s)
{
    if (s->stage == SUBMISSION_CLOSED)
        return;
    s->stage = SUBMISSION_CLOSED;
    struct worker *w = s->worker;
    timer_disarm(&w->timers, &s->timer);
    conn_close(&s->conn);
    list_remove(&s->again_link);
    if (s->counted)
        client_counts_leave(w->parts->shared->clients, &s->client);
    atomic_fetch_sub(&w->parts->shared->submitters, 1);
    atomic_fetch_sub(&w->shared.clients, 1);
    figure_drop(&w->shared.figures.submissions_open, 1);
    if (s->upload.ops_out == 0) {
        list_remove(&s->link);
        list_push_back(&w->inbound->graveyard, &s->link);
    }
}

void submission_destroy(struct submission *s)
{
    ASSERT(s->stage == SUBMISSION_CLOSED && s->upload.ops_out == 0);
    smtp_server_destroy(&s->smtp);
    buf_fini(&s->out);
    upload_fini(&s->upload);
    buf_fini(&s->pending);
    free(s);
}

static void hang_up(struct submission *s, unsigned code, const char *enhanced, const char *text)
{
    if (s->stage != SUBMISSION_PROXY && s->stage != SUBMISSION_TALKING)
        return;
    smtp_server_hang_up(s->smtp, code, enhanced, text);
    s->stage = SUBMISSION_CLOSING;
    timer_arm(&s->worker->timers, &s->timer, s->worker->now_ms + CLOSING_MS);
}

/* Is a new connection of no use to its client, or too dear for us? For want of room it is told at
 * MAIL, so that connections stay where room comes back soon. */
static bool turns_away(enum intake_state state)
{
    return state == INTAKE_STARTING || state == INTAKE_FAILED || state == INTAKE_DRAINING ||
           state == INTAKE_MEMORY;
}

/* The client's address is known: may it submit, and is there room for it? */
static void admit(struct submission *s)
{
    const struct worker_parts *parts = s->worker->parts;
    const struct config *c = s->worker->config;
    s->stage = SUBMISSION_TALKING;
    if (!in_nets(c->submission.allow, c->submission.allow_count, &s->client)) {
        figure_add(&s->worker->shared.figures.submissions_refused, 1);
        hang_up(s, 554, "5.7.1", "This relay takes mail only from networks in submission.allow");
        return;
    }
    if (atomic_load(&parts->shared->submitters) > c->submission.connections_max) {
        figure_add(&s->worker->shared.figures.submissions_refused, 1);
        hang_up(s, 421, "4.3.2", "Too many connections, try again later");
        return;
    }
    s->counted = client_counts_enter(parts->shared->clients, &s->client,
                                     c->submission.connections_per_client_max);
    if (!s->counted) {
        figure_add(&s->worker->shared.figures.submissions_refused, 1);
        hang_up(s, 421, "4.7.0", "Too many connections from your address, try again later");
        return;
    }
    enum intake_state state = intake_state(parts->intake);
    if (state != INTAKE_OPEN && turns_away(state)) {
        const struct smtp_refusal *why = intake_reply(state);
        intake_count_refusals(parts->intake, 1);
        hang_up(s, 421, why->enhanced, why->text);
        return;
    }
    smtp_server_greet(s->smtp);
}

void submission_open(struct inbound *i, int fd, const struct address *peer, unsigned listener)
{
    struct worker *w = i->worker;
    struct submission *s = calloc(1, sizeof *s);
    if (s == NULL) {
        inbound_refuse(i, fd);
        return;
    }
    s->worker = w;
    s->client = *peer;
    s->client.port = peer->port;
    buf_init(&s->out, OUT_BYTES_MAX);
    upload_init(&s->upload, w->parts->committer, &w->shared.mailbox, on_stored);
    buf_init(&s->pending, PENDING_BYTES_MAX);
    list_init(&s->link);
    list_init(&s->again_link);
    timer_init(&s->timer, on_timer);
    s->smtp = smtp_server_create(&i->smtp, &s->out, &s->upload.content);
    if (s->smtp == NULL || !conn_open(&s->conn, w->poller, fd, on_ready)) {
        inbound_refuse(i, s->smtp == NULL ? fd : -1);
        smtp_server_destroy(&s->smtp);
        free(s);
        return;
    }
    smtp_server_set_priority(s->smtp, w->config->submission.listeners[listener].priority);
    s->opened_ms = s->last_byte_ms = s->unit_began_ms = w->now_ms;
    list_push_back(&i->submissions, &s->link);
    atomic_fetch_add(&w->parts->shared->submitters, 1);
    figure_add(&w->shared.figures.submissions_open, 1);
    figure_add(&w->shared.figures.submissions_total, 1);
    timer_arm(&w->timers, &s->timer, next_deadline(s));
    const struct config *c = w->config;
    bool balancer = in_nets(c->submission.proxy_from, c->submission.proxy_from_count, peer);
    if (balancer && c->submission.listeners[listener].proxy_protocol)
        s->stage = SUBMISSION_PROXY;
    else
        admit(s);
    submission_pump(s);
}

/* ---- deadlines ---- */

/* The nearest of the deadlines. Bytes that arrive only push it away, so it is not armed anew for
 * each. The session's own waits for the end of a content, which has a limit: who keeps a connection
 * for all its mail loses no message to it. */
static uint64_t next_deadline(const struct submission *s)
{
    const struct config *c = s->worker->config;
    uint64_t unit_limit =
        s->in_content ? c->submission.message_timeout_ms : c->submission.command_timeout_ms;
    uint64_t idle_at = s->last_byte_ms + c->submission.idle_timeout_ms;
    uint64_t unit_at = s->unit_began_ms + unit_limit;
    uint64_t session_at = s->opened_ms + c->submission.session_timeout_ms;
    uint64_t due = idle_at < unit_at ? idle_at : unit_at;
    return !s->in_content && session_at < due ? session_at : due;
}

static void begin_unit(struct submission *s, bool content)
{
    s->in_content = content;
    s->unit_began_ms = s->last_byte_ms = s->worker->now_ms;
    timer_arm(&s->worker->timers, &s->timer, next_deadline(s));
}

static void on_timer(struct timer *timer, void *owner)
{
    struct submission *s = CONTAINER_OF(timer, struct submission, timer);
    struct worker *w = owner;
    if (s->stage != SUBMISSION_TALKING) {
        submission_close(s);
        return;
    }
    uint64_t due = next_deadline(s);
    if (s->concluding) /* the wait is ours, not the client's */
        due = w->now_ms + w->config->submission.idle_timeout_ms;
    if (due > w->now_ms) {
        timer_arm(&w->timers, timer, due);
        return;
    }
    if (s->in_content)
        discard(s);
    hang_up(s, 421, "4.4.2", "Time limit exceeded, closing");
    submission_pump(s);
}

/* ---- the committer ---- */

static void conclude(struct submission *s, enum store_status status)
{
    s->concluding = false;
    begin_unit(s, false);
    char id[ENVELOPE_ID_SIZE];
    char text[64];
    switch (status) {
    case STORE_OK:
        envelope_id_format(s->upload.id, id);
        (void)snprintf(text, sizeof text, "Queued as %s", id);
        smtp_server_conclude(s->smtp, 250, "2.0.0", text);
        return;
    case STORE_NO_ROOM:
        smtp_server_conclude(s->smtp, 452, "4.3.1",
                             "No room for this message now, try again later");
        return;
    case STORE_FAILED:
        smtp_server_conclude(s->smtp, 451, "4.3.0",
                             "The spool cannot be written, try another relay");
        return;
    }
}

static void log_accepted(struct submission *s, const struct envelope *e)
{
    struct worker *w = s->worker;
    char id[ENVELOPE_ID_SIZE], client[ADDRESS_TEXT_SIZE];
    struct log_line line;
    figure_add(&w->shared.figures.messages_accepted, 1);
    figure_add(&w->shared.figures.bytes_accepted, e->size_bytes);
    struct log *log = w->config->log.deliveries ? w->parts->log : NULL;
    struct log_tap *tap = events_tap(w->parts->events, EVENT_ACCEPTED);
    if (log == NULL && tap == NULL)
        return;
    envelope_id_format(s->upload.id, id);
    address_format_ip(&s->client, client);
    log_begin_tapped(&line, log, tap, "accepted");
    log_cstr(&line, "id", id);
    log_cstr(&line, "client", client);
    log_str(&line, "helo", smtp_server_helo(s->smtp));
    log_str(&line, "sender", e->sender);
    log_cstr(&line, "priority", envelope_priority_name(e->priority));
    log_u64(&line, "recipients", e->recipient_count);
    log_u64(&line, "bytes", e->size_bytes);
    log_end(&line);
}

/* Nothing of the submission is left anywhere else: it may be freed. A message whose client left
 * before its envelope was on the way is not accepted. */
static bool gone(struct submission *s)
{
    if (s->stage != SUBMISSION_CLOSED)
        return false;
    if (s->upload.ops_out == 0) {
        upload_discard(&s->upload);
        list_remove(&s->link);
        list_push_back(&s->worker->inbound->graveyard, &s->link);
    }
    return true;
}

static void submit_message(struct submission *s);

static void on_stored(struct upload *u, bool ended)
{
    struct submission *s = CONTAINER_OF(u, struct submission, upload);
    if (ended && u->status == STORE_OK && s->stage != SUBMISSION_CLOSED)
        log_accepted(s, smtp_server_envelope(s->smtp));
    if (gone(s))
        return;
    if (ended)
        conclude(s, u->status);
    else if (s->concluding && u->ops_out == 0)
        submit_message(s);
    submission_pump(s);
}

static void discard(struct submission *s)
{
    s->in_content = false;
    upload_discard(&s->upload);
}

static void origin_of(const struct submission *s, char *out, size_t size)
{
    char ip[ADDRESS_TEXT_SIZE];
    address_format_ip(&s->client, ip);
    struct slice helo = slice_take(smtp_server_helo(s->smtp), 255);
    (void)snprintf(out, size, "[%s] %.*s", ip, SLICE_ARG(helo));
}

static void submit_message(struct submission *s)
{
    struct envelope e = *smtp_server_envelope(s->smtp);
    char origin[ADDRESS_TEXT_SIZE + 260];
    origin_of(s, origin, sizeof origin);
    e.id = s->upload.id;
    e.arrived_wall_ms = s->worker->wall_ms;
    e.origin = slice_str(origin);
    e.size_bytes += s->trace_bytes;
    e.header_bytes += s->trace_bytes;
    if (!upload_message(&s->upload, &e, NULL))
        conclude(s, s->upload.status);
}

/* ---- the machine's events ---- */

/* MAIL and RCPT were accepted and content comes: the message gets its id and our trace field (RFC
 * 5321 4.4). */
static void begin_message(struct submission *s)
{
    struct worker *w = s->worker;
    upload_begin(&s->upload, atomic_fetch_add(&w->parts->shared->next_id, 1));
    begin_unit(s, true);
    struct smtp_trace trace = {.client = s->client,
                               .helo = smtp_server_helo(s->smtp),
                               .esmtp = smtp_server_is_esmtp(s->smtp),
                               .hostname = w->config->hostname,
                               .id = s->upload.id,
                               .wall_ms = w->wall_ms,
                               .envelope = smtp_server_envelope(s->smtp)};
    smtp_trace_received(&trace, &s->upload.content);
    s->trace_bytes = (uint32_t)buf_len(&s->upload.content);
    smtp_trace_date_line(&trace, s->date_line);
    smtp_trace_message_id_line(&trace, s->message_id_line);
    smtp_server_set_trace(s->smtp, slice_str(s->date_line), slice_str(s->message_id_line));
}

static bool must_wait(const struct submission *s)
{
    return s->concluding || s->upload.ops_out >= CHUNKS_OUT_MAX;
}

/* The connection is of no more use; what came of a message is forgotten. */
static void give_up(struct submission *s)
{
    if (s->in_content && !s->concluding)
        discard(s);
    submission_close(s);
}

/* What cannot be fed now; at most one read is fed at a time. */
static void keep_pending(struct submission *s, struct slice input)
{
    buf_append(&s->pending, input);
    if (!buf_ok(&s->pending)) /* out of memory: the bound is far above one read */
        give_up(s);
}

/* Feeds input until it is used up or the submission has to wait; what is left is kept. */
static void feed(struct submission *s, struct slice input)
{
    while (s->stage == SUBMISSION_TALKING || s->stage == SUBMISSION_CLOSING) {
        size_t used = 0, answered = buf_len(&s->out);
        enum intake_state state = intake_state(s->worker->parts->intake);
        smtp_server_set_closed(s->smtp, state != INTAKE_OPEN ? intake_reply(state) : NULL);
        enum smtp_server_event event = smtp_server_feed(s->smtp, input, &used);
        if (state != INTAKE_OPEN)
            intake_count_refusals(s->worker->parts->intake, smtp_server_take_closed_count(s->smtp));
        input = slice_skip(input, used);
        if (buf_len(&s->out) != answered && !s->in_content)
            s->unit_began_ms = s->worker->now_ms; /* a command was complete */
        switch (event) {
        case SERVER_MORE:
            return;
        case SERVER_REPLIES:
            keep_pending(s, input);
            return;
        case SERVER_BEGIN:
            begin_message(s);
            break;
        case SERVER_CONTENT:
            upload_chunk(&s->upload);
            break;
        case SERVER_MESSAGE:
            s->concluding = true;
            if (s->upload.ops_out == 0)
                submit_message(s);
            break;
        case SERVER_ABANDON:
            discard(s);
            break;
        case SERVER_CLOSE:
            s->stage = SUBMISSION_CLOSING;
            timer_arm(&s->worker->timers, &s->timer, s->worker->now_ms + CLOSING_MS);
            return;
        }
        if (must_wait(s)) {
            keep_pending(s, input);
            return;
        }
    }
}

static void feed_pending(struct submission *s)
{
    struct buf taken = s->pending;
    buf_init(&s->pending, PENDING_BYTES_MAX);
    feed(s, buf_slice(&taken));
    buf_fini(&taken);
}

/* The load balancer's header names the true client; without a valid one nobody is served. */
static void read_proxy(struct submission *s)
{
    struct proxy_header header;
    switch (proxy_parse(buf_slice(&s->pending), &header)) {
    case PROXY_NEED_MORE:
        return;
    case PROXY_INVALID:
        submission_close(s);
        return;
    case PROXY_LOCAL: /* the balancer's own health check */
        break;
    case PROXY_OK:
        s->client = header.source;
        break;
    }
    buf_consume(&s->pending, header.length);
    admit(s);
}

/* ---- moving bytes ---- */

static bool receive(struct submission *s)
{
    size_t len = 0;
    char *scratch = s->worker->scratch;
    enum net_status status = conn_read(&s->conn, scratch, WORKER_SCRATCH_BYTES, &len);
    if (status == NET_AGAIN)
        return false;
    if (status != NET_OK) {
        give_up(s);
        return false;
    }
    s->last_byte_ms = s->worker->now_ms;
    if (s->stage == SUBMISSION_PROXY) {
        buf_append(&s->pending, slice_of(scratch, len));
        read_proxy(s);
    } else if (s->stage == SUBMISSION_TALKING) {
        feed(s, slice_of(scratch, len));
    }
    return s->stage != SUBMISSION_CLOSED;
}

/* Writes what there is. False: wait, or closed. */
static bool flush(struct submission *s)
{
    enum net_status status = conn_flush(&s->conn, &s->out);
    if (status == NET_AGAIN)
        return false;
    if (status != NET_OK) {
        give_up(s);
        return false;
    }
    return true;
}

static void go_on_later(struct submission *s)
{
    if (list_empty(&s->again_link))
        list_push_back(&s->worker->inbound->again, &s->again_link);
}

/* Until the client closes, or its time is up. */
static void drop_input(struct submission *s)
{
    for (int round = 0; round < ROUNDS_MAX; round++) {
        size_t len = 0;
        enum net_status status = NET_AGAIN;
        if (s->conn.readable)
            status = conn_read(&s->conn, s->worker->scratch, WORKER_SCRATCH_BYTES, &len);
        if (status == NET_AGAIN)
            return;
        if (status != NET_OK) {
            submission_close(s);
            return;
        }
    }
    go_on_later(s);
}

/* The last reply is out. Closing over bytes that were not read resets the connection, and a client
 * that is still sending then sees an error in the place of the reply. So they are read for a
 * moment; but not where too many are connected anyway. */
static void end(struct submission *s)
{
    const struct worker *w = s->worker;
    bool crowded =
        atomic_load(&w->parts->shared->submitters) > w->config->submission.connections_max;
    if (smtp_server_has_quit(s->smtp) || crowded) {
        submission_close(s);
        return;
    }
    conn_shutdown_write(&s->conn);
    s->stage = SUBMISSION_LINGERING;
    timer_arm(&s->worker->timers, &s->timer, s->worker->now_ms + LINGER_MS);
    drop_input(s);
}

/* The stages in which nothing is fed any more. True: that was all. */
static bool is_over(struct submission *s)
{
    if (s->stage == SUBMISSION_CLOSING)
        end(s);
    else if (s->stage == SUBMISSION_LINGERING)
        drop_input(s);
    else
        return false;
    return true;
}

void submission_pump(struct submission *s)
{
    for (int round = 0; round < ROUNDS_MAX; round++) {
        if (s->stage == SUBMISSION_CLOSED || !flush(s) || is_over(s))
            return;
        if (must_wait(s))
            return;
        if (buf_len(&s->pending) > 0 && s->stage == SUBMISSION_TALKING)
            feed_pending(s);
        else if (!s->conn.readable || !receive(s))
            break;
    }
    if (s->stage == SUBMISSION_CLOSED || !flush(s) || is_over(s))
        return;
    if ((s->conn.readable || buf_len(&s->pending) > 0) && !must_wait(s) &&
        s->stage == SUBMISSION_TALKING) {
        go_on_later(s);
    } else if (!s->in_content) {
        buf_shrink(&s->out);
        buf_shrink(&s->upload.content);
    }
}

static void on_ready(struct watch *watch, unsigned events)
{
    struct submission *s = CONTAINER_OF(watch, struct submission, conn.watch);
    ASSERT(worker_is_current(s->worker));
    conn_note(&s->conn, events);
    submission_pump(s);
}

void submission_hang_up(struct submission *s)
{
    bool open = s->stage == SUBMISSION_PROXY || s->stage == SUBMISSION_TALKING;
    if (!open || s->concluding)
        return;
    if (s->in_content)
        discard(s);
    hang_up(s, 421, "4.3.2", "This relay is shutting down, try another");
    submission_pump(s);
}

void submission_drain(struct submission *s)
{
    if (smtp_server_is_idle(s->smtp))
        submission_hang_up(s);
}
