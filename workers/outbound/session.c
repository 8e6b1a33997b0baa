#include "workers/outbound/session.h"

#include "core/base/assert.h"
#include "workers/chronicle.h"
#include "workers/outbound/lane.h"
#include "workers/outbound/outbound.h"
#include "workers/outbound/recovery.h"
#include "workers/outbound/session_priv.h"

#include <stdlib.h>

enum {
    CONNECT_LIMIT_MS = 30000, /* RFC 5321 names none; a SYN that takes longer is not coming back */
    OUT_BYTES_MAX =
        256 * 1024,       /* commands of one pipelined group: 100 recipients with DSN options */
    PUMP_ROUNDS_MAX = 32, /* bounded work per wake-up */
    PACE_BYTES_A_MS = 32, /* 25 MB in 13 minutes: who takes less is slow */
    NOT_REACHED = UINT32_MAX,
};

static void pump(struct session *s);
static void on_limit(struct timer *timer, void *owner);
static void on_patience(struct timer *timer, void *owner);

const char *session_phase_name(const struct session *s)
{
    if (s->stage == SESSION_CONNECTING || s->smtp == NULL)
        return "connect";
    return smtp_phase_name(smtp_client_last_phase(s->smtp));
}

/* ---- telling an observer ---- */

void session_tell(const struct session *s, struct observed what)
{
    struct observer *o = s->worker->parts->observer;
    if (o == NULL)
        return;
    what.session = s;
    what.target = &s->target;
    o->on_event(o, &what);
}

void session_tell_unseen(struct session *s)
{
    struct slice unseen = slice_skip(buf_slice(&s->out), s->out_told);
    if (s->worker->parts->observer != NULL && unseen.len > 0)
        session_tell(s, (struct observed){.kind = OBSERVED_SENT, .bytes = unseen});
    s->out_told = buf_len(&s->out);
}

enum net_status session_write_out(struct session *s)
{
    session_tell_unseen(s);
    enum net_status status = conn_flush(&s->conn, &s->out);
    s->out_told = buf_len(&s->out);
    return status;
}

/* ---- opening and closing ---- */

static const struct address *source_for(const struct config *config, const struct address *to)
{
    for (unsigned i = 0; i < config->delivery.source_address_count; i++)
        if (address_is_v4(&config->delivery.source_addresses[i]) == address_is_v4(to))
            return &config->delivery.source_addresses[i];
    return NULL;
}

static struct reply reply_of(enum net_status status, const struct target *t)
{
    struct slice about = slice_str(t->exchange->name);
    switch (status) {
    case NET_REFUSED:
        return reply_local_about(LOCAL_CONNECT_REFUSED, about);
    case NET_UNREACHABLE:
        return reply_local_about(LOCAL_UNREACHABLE, about);
    case NET_TIMEOUT:
        return reply_local_about(LOCAL_CONNECT_TIMEOUT, about);
    case NET_RESET:
        return reply_local_about(LOCAL_RESET, about);
    case NET_NO_RESOURCES:
        return reply_local(LOCAL_NO_RESOURCES);
    case NET_OK:
    case NET_AGAIN:
    case NET_CLOSED:
        break;
    }
    return reply_local_about(LOCAL_CLOSED, about);
}

static enum smtp_tls_policy tls_policy(const struct session *s)
{
    switch (s->worker->config->delivery.tls) {
    case CONFIG_TLS_OFF:
        return SMTP_TLS_OFF;
    case CONFIG_TLS_REQUIRED:
        return SMTP_TLS_REQUIRED;
    case CONFIG_TLS_OPPORTUNISTIC:
        break;
    }
    return s->in_clear ? SMTP_TLS_OFF : SMTP_TLS_OPPORTUNISTIC;
}

static bool create_machine(struct session *s)
{
    struct smtp_client_options options = {.ehlo_name = s->worker->config->hostname,
                                          .tls = tls_policy(s)};
    buf_init(&s->out, OUT_BYTES_MAX);
    s->smtp = smtp_client_create(&options, &s->out);
    return s->smtp != NULL;
}

static void on_ready(struct watch *watch, unsigned events)
{
    struct session *s = CONTAINER_OF(watch, struct session, conn.watch);
    ASSERT(worker_is_current(s->worker));
    conn_note(&s->conn, events);
    pump(s);
}

static uint64_t patience_ms(const struct session *s, enum health_phase phase)
{
    uint64_t patience = health_patience_ms(s->worker->parts->health, &s->target.address, phase);
    uint64_t longest = s->worker->config->delivery.patience_max_ms;
    bool holds_up = s->flight != NULL && !session_has_committed(s);
    return holds_up && patience > longest
               ? longest /* it is not only the committed one that waits */
               : patience;
}

void session_arm(struct session *s, uint64_t limit_ms, enum health_phase phase)
{
    s->slow = false;
    s->phase_began_ms = s->worker->now_ms;
    timer_arm(&s->worker->timers, &s->limit, s->worker->now_ms + limit_ms);
    timer_arm(&s->worker->timers, &s->patience, s->worker->now_ms + patience_ms(s, phase));
}

struct session *session_open(struct lane *lane, const struct target *target, bool in_clear,
                             struct reply *failure_out, bool *host_fault_out)
{
    struct worker *w = lane_worker(lane);
    struct session *s = calloc(1, sizeof *s);
    *failure_out = reply_local(LOCAL_NO_RESOURCES);
    *host_fault_out = false;
    if (s == NULL)
        return NULL;
    s->lane = lane;
    s->worker = w;
    s->target = *target;
    s->in_clear = in_clear;
    s->opened_ms = w->now_ms;
    s->times = (struct session_times){NOT_REACHED, NOT_REACHED, NOT_REACHED, NOT_REACHED};
    list_init(&s->lane_link);
    list_init(&s->again_link);
    list_init(&s->carriages);
    timer_init(&s->limit, on_limit);
    timer_init(&s->patience, on_patience);
    int fd = -1;
    enum net_status status =
        net_connect(&target->address, source_for(w->config, &target->address), &fd);
    if (status != NET_OK && status != NET_AGAIN) {
        *failure_out = reply_of(status, target);
        *host_fault_out = status != NET_NO_RESOURCES;
        free(s);
        return NULL;
    }
    if (!conn_open(&s->conn, w->poller, fd, on_ready)) {
        free(s);
        return NULL;
    }
    if (!create_machine(s)) {
        conn_close(&s->conn);
        free(s);
        return NULL;
    }
    w->outbound->sessions++;
    figure_add(&w->shared.figures.sessions_open, 1);
    figure_add(&w->shared.figures.sessions_total, 1);
    s->number = atomic_load_explicit(&w->shared.figures.sessions_total, memory_order_relaxed);
    health_count_session(w->parts->health, &target->address, 1, w->now_ms);
    chronicle_connect(w->parts->chronicle, &target->address, target->exchange->name);
    session_arm(s, CONNECT_LIMIT_MS, HEALTH_CONNECT);
    session_tell(s, (struct observed){.kind = OBSERVED_CONNECTING});
    return s;
}

static void close_now(struct session *s)
{
    if (s->stage == SESSION_CLOSED)
        return;
    struct worker *w = s->worker;
    if (s->ended_in == NULL) /* a failure is told by the lane */
        session_tell(s, (struct observed){.kind = OBSERVED_CLOSED});
    s->stage = SESSION_CLOSED;
    s->ready = false;
    timer_disarm(&w->timers, &s->limit);
    timer_disarm(&w->timers, &s->patience);
    conn_close(&s->conn);
    w->outbound->sessions--;
    figure_drop(&w->shared.figures.sessions_open, 1);
    health_count_session(w->parts->health, &s->target.address, -1, w->now_ms);
    if (s->probe != 0) /* harmless where its verdict has been told */
        health_probe_drop(w->parts->health, &s->target.address, s->probe);
    list_remove(&s->again_link);
    list_remove(&s->lane_link);
    list_push_back(&w->outbound->graveyard, &s->lane_link);
}

void session_destroy(struct session *s)
{
    ASSERT(s->stage == SESSION_CLOSED && s->flight == NULL && s->handed_over == 0);
    smtp_client_destroy(&s->smtp);
    session_free_carriages(s);
    buf_fini(&s->out);
    free(s);
}

/* The lane hears of the end once; the session is closed by then, with its flight still noted. */
void session_fail(struct session *s, enum session_end why, const struct reply *reply)
{
    struct lane *lane = s->lane;
    s->ended_in = session_phase_name(s);
    session_show_end(s, why);
    close_now(s);
    if (lane != NULL)
        lane_on_end(lane, s, why, reply);
    else if (why != END_LOCAL && why != END_TLS_POLICY)
        recovery_tell(s->worker, &s->target, recovery_event_of(s, why));
}

void session_end_by_net(struct session *s, enum net_status status)
{
    struct reply reply = reply_of(status, &s->target);
    session_fail(s, status == NET_NO_RESOURCES ? END_LOCAL : END_DOWN, &reply);
}

void session_lose(struct session *s, enum net_status status)
{
    if (status == NET_NO_RESOURCES) {
        session_end_by_net(s, status);
        return;
    }
    s->lost = status;
    if (list_empty(&s->again_link))
        list_push_back(&s->worker->outbound->again, &s->again_link);
}

static void leave_lane(struct session *s)
{
    ASSERT(s->flight == NULL && s->handed_over == 0);
    list_remove(&s->lane_link);
    s->lane = NULL;
}

void session_drop(struct session *s)
{
    leave_lane(s);
    close_now(s);
}

/* A probe has begun to find out, and nobody else does meanwhile: it goes on by itself until it
 * knows. */
static bool has_yet_to_find_out(const struct session *s)
{
    return s->probe != 0 && !s->greeted_well && !s->slow && !s->worker->outbound->draining;
}

void session_quit(struct session *s)
{
    leave_lane(s);
    if (has_yet_to_find_out(s)) {
        list_push_back(&s->worker->outbound->leaving, &s->lane_link);
        return;
    }
    bool can_quit = s->stage == SESSION_TALKING && s->ready;
    s->ready = false;
    if (!can_quit) {
        close_now(s);
        return;
    }
    s->closing = true;
    list_push_back(&s->worker->outbound->leaving, &s->lane_link);
    smtp_client_quit(s->smtp);
    timer_disarm(&s->worker->timers, &s->patience);
    timer_arm(&s->worker->timers, &s->limit, s->worker->now_ms + smtp_phase_limit_ms(SMTP_QUIT));
    enum net_status status = session_write_out(s);
    if (status != NET_OK && status != NET_AGAIN)
        close_now(s);
}

/* ---- deadlines ---- */

static enum health_phase health_phase_of(enum smtp_phase phase)
{
    switch (phase) {
    case SMTP_GREETING:
        return HEALTH_GREETING;
    case SMTP_EHLO:
    case SMTP_HELO:
        return HEALTH_EHLO;
    case SMTP_STARTTLS:
    case SMTP_TLS:
        return HEALTH_TLS;
    case SMTP_READY:
    case SMTP_MAIL:
    case SMTP_RCPT:
    case SMTP_DATA:
    case SMTP_BODY:
    case SMTP_DOT:
    case SMTP_BDAT:
    case SMTP_RSET:
    case SMTP_QUIT:
    case SMTP_CLOSED:
        break;
    }
    return HEALTH_COMMAND;
}

/* A reply came: what it tells of the host's usual pace. What was sent behind something else has an
 * age of its own, and says nothing of it. */
static void learn(struct session *s, enum smtp_phase answered, const struct carriage *of)
{
    uint64_t took = s->worker->now_ms - s->phase_began_ms;
    uint32_t ms = took < NOT_REACHED ? (uint32_t)took : NOT_REACHED - 1;
    enum health_phase phase = health_phase_of(answered);
    if (answered == SMTP_GREETING)
        s->times.greeting_ms = ms;
    else if (answered == SMTP_EHLO || answered == SMTP_HELO)
        s->times.ehlo_ms = ms;
    else if (answered == SMTP_TLS)
        s->times.tls_ms = ms;
    if (of != NULL && of->sent)
        phase = HEALTH_COMMIT;
    else if (answered == SMTP_BODY || answered == SMTP_DOT || answered == SMTP_QUIT ||
             (of != NULL && of->was_behind && answered == SMTP_MAIL))
        return;
    health_learn(s->worker->parts->health, &s->target.address, phase, ms);
}

void session_watch_time(struct session *s, const struct carriage *done)
{
    if (s->stage == SESSION_CLOSED || s->closing)
        return;
    const struct carriage *first =
        list_empty(&s->carriages) ? NULL : CONTAINER_OF(s->carriages.next, struct carriage, link);
    enum smtp_phase phase = smtp_client_phase(s->smtp);
    uint64_t replies = smtp_client_replies(s->smtp);
    if (phase == s->phase_seen && replies == s->replies_seen)
        return;
    if (replies != s->replies_seen || s->phase_seen == SMTP_TLS)
        learn(s, s->phase_seen, done != NULL ? done : first);
    s->phase_seen = phase;
    s->replies_seen = replies;
    if (phase == SMTP_READY || phase == SMTP_CLOSED) {
        timer_disarm(&s->worker->timers, &s->limit);
        timer_disarm(&s->worker->timers, &s->patience);
        return;
    }
    bool committed = first != NULL && first->sent;
    /* RSET alone is soon given up; in front of a message that is under way it has a
     * command's time. */
    enum smtp_phase limit = committed && phase == SMTP_RSET ? SMTP_MAIL : phase;
    if (smtp_client_said_goodbye(s->smtp)) /* it is to close, or to answer the rest: soon */
        limit = SMTP_QUIT;
    session_arm(s, smtp_phase_limit_ms(limit), committed ? HEALTH_COMMIT : health_phase_of(phase));
    if (phase == SMTP_DOT && !committed) /* an empty content, for nobody */
        timer_disarm(&s->worker->timers, &s->patience);
}

static void on_limit(struct timer *timer, void *owner)
{
    struct session *s = CONTAINER_OF(timer, struct session, limit);
    ASSERT(owner == s->worker);
    struct slice about = slice_str(s->target.exchange->name);
    bool connecting = s->stage == SESSION_CONNECTING;
    struct reply reply =
        reply_local_about(connecting ? LOCAL_CONNECT_TIMEOUT : LOCAL_TIMEOUT, about);
    session_fail(s, END_SILENT, &reply);
}

/* A large content takes as long as the peer's line does: who takes it at a fair pace is not silent.
 * The kernel has a good deal of it before the peer does, behind its last byte as well, so that what
 * we could write tells little of that. A peer's buffers take some even where nobody reads: what
 * they take in the first half of the patience counts for nothing. */
static uint64_t taking_patience_ms(const struct session *s)
{
    struct health_view v = health_view(s->worker->parts->health, &s->target.address);
    uint64_t longest = s->worker->config->delivery.patience_max_ms;
    return v.state == HEALTH_HEALTHY ? longest : patience_ms(s, HEALTH_COMMAND);
}

void session_await_taking(struct session *s)
{
    session_arm(s, smtp_phase_limit_ms(SMTP_BODY), HEALTH_COMMAND);
    timer_arm(&s->worker->timers, &s->patience, s->worker->now_ms + taking_patience_ms(s) / 2);
    s->large = true;
    s->taken = 0;
}

/* The patience is over: is there a content that the peer may be taking still? Then it
 * is armed anew. */
static bool waits_on(struct session *s)
{
    bool committed = session_is_committed(s);
    if (!s->large || (s->sending == NULL && !committed))
        return false;
    uint64_t now = s->worker->now_ms, patience = taking_patience_ms(s);
    uint64_t taken = net_acknowledged(s->conn.fd), before = s->taken;
    uint64_t fair = (now - s->looked_ms) * PACE_BYTES_A_MS;
    s->taken = taken;
    s->looked_ms = now;
    if (before == 0) {
        timer_arm(&s->worker->timers, &s->patience, now + patience / 2);
        return true;
    }
    if (taken - before < fair)
        return false;
    session_arm(s, smtp_phase_limit_ms(committed ? SMTP_DOT : SMTP_BODY),
                committed ? HEALTH_COMMIT : HEALTH_COMMAND);
    timer_arm(&s->worker->timers, &s->patience, now + patience);
    return true;
}

static void on_patience(struct timer *timer, void *owner)
{
    struct session *s = CONTAINER_OF(timer, struct session, patience);
    ASSERT(owner == s->worker);
    if (waits_on(s)) {
        lane_on_long(s->lane);
        return;
    }
    if (session_is_committed(s)) { /* nothing is raced; but others need not wait behind it */
        lane_on_late(s->lane, s);
        return;
    }
    if (session_is_unheard(s)) {
        lane_on_misfire(s->lane, s);
        return;
    }
    s->slow = true;
    session_tell(s, (struct observed){.kind = OBSERVED_SLOW,
                                      .bytes = slice_str(session_phase_name(s)),
                                      .amount = s->worker->now_ms - s->phase_began_ms});
    if (s->lane != NULL) {
        lane_on_patience(s->lane, s);
        return;
    }
    bool handshake = s->stage == SESSION_TLS;
    recovery_tell(s->worker, &s->target,
                  handshake ? HEALTH_EVENT_TLS_BROKEN : recovery_silence_of(s));
    close_now(s);
}

/* ---- the protocol machine's events ---- */

static void on_machine_ready(struct session *s)
{
    s->ready = true;
    session_tell(s, (struct observed){.kind = OBSERVED_READY});
    if (!s->greeted_well) {
        s->greeted_well = true;
        histogram_note(&s->worker->shared.times.session, (s->worker->now_ms - s->opened_ms) * 1000,
                       1);
        recovery_tell(s->worker, &s->target, HEALTH_EVENT_SUCCESS);
    }
    if (s->lane != NULL)
        lane_on_ready(s->lane, s);
    else
        session_quit(s); /* a probe that had no mail left to carry */
}

static enum session_end end_of(enum smtp_client_trouble trouble)
{
    switch (trouble) {
    case TROUBLE_NOT_SMTP:
    case TROUBLE_FLOOD:
        return END_BROKEN;
    case TROUBLE_BUSY:
        return END_BUSY;
    case TROUBLE_REFUSING:
        return END_REFUSING;
    case TROUBLE_TLS_REQUIRED:
        return END_TLS_POLICY;
    case TROUBLE_CLOSED:
    case TROUBLE_NONE:
        break;
    }
    return END_DOWN;
}

static void tls_step(struct session *s)
{
    enum net_status status = conn_tls_step(&s->conn);
    if (status == NET_AGAIN)
        return;
    if (status != NET_OK) {
        char why[160];
        tls_failure(why, sizeof why);
        struct reply reply = reply_local_about(LOCAL_TLS_FAILED, slice_str(why));
        session_fail(s, END_TLS_FAILED, &reply);
        return;
    }
    figure_add(&s->worker->shared.figures.tls_handshakes, 1);
    if (tls_resumed(s->conn.ssl))
        figure_add(&s->worker->shared.figures.tls_resumed, 1);
    s->stage = SESSION_TALKING;
    session_tell(s, (struct observed){.kind = OBSERVED_TLS, .note = tls_version(s->conn.ssl)});
    smtp_client_tls_up(s->smtp);
    session_watch_time(s, NULL);
}

static void start_tls(struct session *s)
{
    s->stage = SESSION_TLS;
    session_watch_time(s, NULL);
    if (s->worker->parts->tls != NULL &&
        conn_tls_start(&s->conn, s->worker->parts->tls, s->target.exchange->name,
                       &s->target.address))
        return;
    struct reply reply = reply_local(LOCAL_NO_RESOURCES);
    session_fail(s, END_LOCAL, &reply);
}

/* A transaction is over. What is behind a broken-off one is never answered, so that one ends
 * the session. */
static void on_done(struct session *s, struct carriage *done)
{
    lane_on_done(s->lane, s, done);
    free(done);
    if (s->stage != SESSION_CLOSED && s->broken_off && s->handed_over == 0)
        lane_on_broken_off(s->lane, s);
}

/* Feeds received bytes; handles events until the machine wants more. False: the session is over, or
 * in TLS. */
static bool feed(struct session *s, struct slice input)
{
    for (;;) {
        size_t used = 0;
        enum smtp_client_event event = smtp_client_feed(s->smtp, input, &used);
        input = slice_skip(input, used);
        struct carriage *done = event == CLIENT_DONE ? session_take_done(s) : NULL;
        session_watch_time(s, done);
        switch (event) {
        case CLIENT_MORE:
            return true;
        case CLIENT_START_TLS:
            start_tls(s);
            return false;
        case CLIENT_READY:
            on_machine_ready(s);
            break;
        case CLIENT_BODY:
            session_begin_content(s);
            break;
        case CLIENT_DONE:
            on_done(s, done);
            break;
        case CLIENT_FAILED:
            session_fail(s, end_of(smtp_client_trouble(s->smtp)), smtp_client_last_reply(s->smtp));
            return false;
        }
        if (s->stage == SESSION_CLOSED || s->closing)
            return false;
    }
}

/* ---- moving bytes ---- */

static void connected(struct session *s)
{
    if (!s->conn.writable && !s->conn.readable)
        return;
    enum net_status status = net_connect_result(s->conn.fd);
    if (status == NET_AGAIN)
        return;
    if (status != NET_OK) {
        session_end_by_net(s, status);
        return;
    }
    uint64_t took = s->worker->now_ms - s->phase_began_ms;
    s->times.connect_ms = (uint32_t)took;
    health_learn(s->worker->parts->health, &s->target.address, HEALTH_CONNECT, (uint32_t)took);
    s->stage = SESSION_TALKING;
    session_tell(s, (struct observed){.kind = OBSERVED_CONNECTED, .amount = took});
    s->phase_seen = SMTP_CLOSED; /* so that the greeting arms its own deadlines */
    s->replies_seen = smtp_client_replies(s->smtp);
    session_watch_time(s, NULL);
}

/* Reads once and feeds. False: nothing more to do now, or the session is over. */
static bool receive(struct session *s)
{
    size_t len = 0;
    enum net_status status = conn_read(&s->conn, s->worker->scratch, WORKER_SCRATCH_BYTES, &len);
    if (status == NET_AGAIN)
        return false;
    if (status != NET_OK) {
        session_end_by_net(s, status);
        return false;
    }
    struct slice input = slice_of(s->worker->scratch, len);
    session_tell(s, (struct observed){.kind = OBSERVED_RECEIVED, .bytes = input});
    return feed(s, input);
}

/* QUIT is on its way: whatever comes back, or the end of the stream, closes. */
static void pump_closing(struct session *s)
{
    size_t len = 0;
    enum net_status status = session_write_out(s);
    if (status == NET_OK && s->conn.readable)
        status = conn_read(&s->conn, s->worker->scratch, WORKER_SCRATCH_BYTES, &len);
    if ((status != NET_OK && status != NET_AGAIN) || len > 0)
        close_now(s);
}

static bool flush(struct session *s)
{
    enum net_status status = session_write_out(s);
    if (status == NET_OK || status == NET_AGAIN) {
        if (status == NET_OK)
            buf_shrink(&s->out);
        return true;
    }
    session_lose(s, status);
    return false;
}

/* Writes all that may go now: contents, which take the commands around them along; commands; more
 * messages, where there is mail and trust. False: the session is over. */
static bool write_all(struct session *s)
{
    if (s->sending == NULL && !flush(s))
        return false;
    if (s->sending != NULL && !session_send_content(s))
        return false;
    session_refill(s);
    return s->stage != SESSION_CLOSED;
}

/* Nothing can be written any more: reads what was said before, and ends. */
static void hear_out(struct session *s)
{
    for (int round = 0; round < PUMP_ROUNDS_MAX; round++)
        if (!receive(s))
            break;
    if (s->stage == SESSION_TALKING && !s->closing)
        session_end_by_net(s, s->lost);
}

static void talk(struct session *s)
{
    if (s->lost != NET_OK) {
        hear_out(s);
        return;
    }
    for (int round = 0; round < PUMP_ROUNDS_MAX; round++) {
        if (!write_all(s))
            return;
        session_watch_time(s, NULL);
        if (!s->conn.readable)
            return;
        if (!receive(s))
            break;
    }
    if (s->stage == SESSION_TLS || s->stage == SESSION_CLOSED || s->closing)
        return;
    /* Answers to what the last read brought; more input is left to the next turn. */
    if (!write_all(s))
        return;
    session_watch_time(s, NULL);
    /* No new edge tells of what is there already, least of all where TLS holds it. */
    if (s->stage == SESSION_TALKING && !s->closing && s->conn.readable)
        if (list_empty(&s->again_link))
            list_push_back(&s->worker->outbound->again, &s->again_link);
}

static void pump(struct session *s)
{
    if (s->stage == SESSION_CONNECTING)
        connected(s);
    if (s->stage == SESSION_TLS)
        tls_step(s);
    if (s->closing)
        pump_closing(s);
    else if (s->stage == SESSION_TALKING)
        talk(s);
    if (s->stage == SESSION_TLS) /* 220 to STARTTLS was just read: begin */
        tls_step(s);
    if (s->stage == SESSION_TALKING && !s->closing && s->lost == NET_OK && s->sending == NULL &&
        buf_len(&s->out) > 0)
        (void)flush(s);
}

void session_read_on(struct session *s)
{
    pump(s);
}
