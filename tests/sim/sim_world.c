#include "tests/sim/sim_world.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "dns/draft.h"
#include "tests/sim/sim_tls.h"
#include "tests/sim/sim_trail.h"
#include "workers/inbound/client_counts.h"
#include "workers/outbound/lane_priv.h"
#include "workers/outbound/outbound.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    STEPS_AT_ONE_TIME_MAX = 200000,
    AFTERMATH_US = 20 * 60 * 1000000, /* the longest reply limit, and idling */
    CONTENT_MAX = 4 << 20,
    ROUTE_TTL_MS = 600000,
};

static const char config_text[] = "hostname: relay.sim\n"
                                  "delivery: {tls: opportunistic}\n"
                                  "workers: {threads: 1}\n"
                                  "log: {deliveries: false}\n";

static struct sim_world *current; /* the link-time stand-ins know no other way to it */
static uint64_t current_seed;

/* In the place of core/base/assert.c: an assertion of the relay's own says in which
 * world it broke. */
_Noreturn void assert_failed(const char *file, int line, const char *function, const char *text)
{
    sim_fail("assertion failed at %s:%d in %s: %s", file, line, function, text);
}

_Noreturn void sim_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "seed %llu, at %.3f s: ", (unsigned long long)current_seed,
                  (double)sim_now_us() / 1e6);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    abort();
}

/* ---- hosts and domains ---- */

static struct sim_host *host_at(const struct address *a)
{
    for (unsigned i = 0; i < current->host_count; i++)
        if (address_same_ip(&current->hosts[i].address, a))
            return &current->hosts[i];
    return NULL;
}

struct sim_host *sim_world_host(struct sim_world *w)
{
    ASSERT(w->host_count < SIM_HOSTS_MAX);
    unsigned number = w->host_count++;
    struct sim_host *h = &w->hosts[number];
    const uint8_t ip[4] = {10, 0, 0, (uint8_t)(number + 1)};
    *h = (struct sim_host){.address = address_from_v4(ip, 25),
                           .latency_us = 1000,
                           .pipelining = true,
                           .eightbit = true,
                           .enhanced = true,
                           .dsn = true,
                           .size = true};
    h->fault = (struct sim_fault){.after_said = -1, .after_heard = -1, .percent = 100};
    (void)snprintf(h->name, sizeof h->name, "mx%u.sim", number + 1);
    return h;
}

struct sim_domain *sim_world_domain(struct sim_world *w)
{
    ASSERT(w->domain_count < SIM_DOMAINS_MAX);
    struct sim_domain *d = &w->domains[w->domain_count++];
    *d = (struct sim_domain){.dns_us = 5000};
    (void)snprintf(d->name, sizeof d->name, "d%u.sim", w->domain_count);
    return d;
}

void sim_domain_add(struct sim_domain *d, struct sim_host *h, uint16_t preference)
{
    ASSERT(d->count < SIM_EXCHANGES_MAX);
    d->exchanges[d->count] = h;
    d->preferences[d->count++] = preference;
}

/* ---- the resolver's stand-in: real routes from what the world says ---- */

static struct sim_domain *domain_named(struct slice name)
{
    for (unsigned i = 0; i < current->domain_count; i++)
        if (slice_equal(slice_str(current->domains[i].name), name))
            return &current->domains[i];
    sim_fail("a route is wanted for %.*s", (int)name.len, name.ptr);
}

static const struct route *make_route(struct sim_domain *d)
{
    static const struct draft_rules rules = {.delivery_port = 25, .use_ipv4 = true};
    uint64_t mono = clock_mono_ms(), wall = clock_wall_ms();
    struct slice name = slice_str(d->name);
    if (d->is_missing)
        return draft_failure(name, LOCAL_NXDOMAIN, mono, wall);
    if (d->dns_failures > 0) {
        d->dns_failures--;
        return draft_failure(name, LOCAL_DNS_TEMPFAIL, mono, wall);
    }
    struct draft draft;
    draft_init(&draft, name);
    draft.kind = ROUTE_MX;
    draft.ttl_s = ROUTE_TTL_MS / 1000;
    draft.exchange_count = d->count;
    draft.exchanges = calloc(d->count, sizeof *draft.exchanges);
    ASSERT(draft.exchanges != NULL);
    for (unsigned i = 0; i < d->count; i++) {
        struct draft_exchange *x = &draft.exchanges[i];
        memcpy(x->name, d->exchanges[i]->name, sizeof d->exchanges[i]->name);
        x->preference = d->preferences[i];
        x->ttl_s = x->address_ttl_s = x->absence_ttl_s = draft.ttl_s;
        x->v4_count = 1;
        x->v4[0] = d->exchanges[i]->address;
    }
    const struct route *route = draft_finish(&draft, &rules, mono, wall);
    draft_fini(&draft);
    ASSERT(route != NULL);
    return route;
}

const struct route *resolver_cached(struct resolver *r, struct slice domain, uint64_t mono_ms)
{
    (void)r;
    const struct sim_domain *d = domain_named(domain);
    if (d->route == NULL || d->route->expires_mono_ms <= mono_ms)
        return NULL;
    return route_reference(d->route);
}

static void on_looked_up(void *context, uint64_t unused)
{
    (void)unused;
    struct resolver_query *q = context;
    struct sim_domain *d = domain_named(slice_str(q->domain));
    route_release(&d->route);
    d->route = make_route(d);
    q->route = route_reference(d->route);
    q->mail.on_arrival = q->on_answer;
    struct mail *mail = &q->mail;
    mailbox_post(q->reply_to, &mail);
}

void resolver_ask(struct resolver *r, struct resolver_query **query)
{
    (void)r;
    sim_after(domain_named(slice_str((*query)->domain))->dns_us, on_looked_up, *query, 0);
    *query = NULL;
}

/* ---- beginning ---- */

static void on_event(struct observer *o, const struct observed *what)
{
    struct sim_world *w = CONTAINER_OF(o, struct sim_world, observer);
    if (w->shows_trace)
        trace_print_event(&w->print, what);
}

struct sim_world *sim_world_create(uint64_t seed)
{
    struct error error = {{0}};
    struct sim_world *w = calloc(1, sizeof *w);
    ASSERT(w != NULL && current == NULL);
    current = w;
    current_seed = seed;
    sim_find_host = host_at;
    sim_net_reset(seed);
    sim_tls_reset(seed);
    sim_trail_begin();
    sim_copies_reset();
    w->config = config_load_text(config_text, sizeof config_text - 1, "sim", &error);
    if (w->config == NULL)
        sim_fail("%s", error.text);
    w->sessions_max = 10000;
    w->next_id = 1;
    w->observer.on_event = on_event;
    struct sim_host *home = sim_world_host(w);
    w->home = sim_world_domain(w);
    (void)snprintf(w->home->name, sizeof w->home->name, "home.sim");
    sim_domain_add(w->home, home, 10);
    return w;
}

static void create_parts(struct sim_world *w)
{
    const struct config *c = w->config;
    struct health_options health = {.entries = c->health.entries,
                                    .demote_first_ms = c->health.demote_first_ms,
                                    .demote_max_ms = c->health.demote_max_ms,
                                    .down_first_ms = c->health.down_first_ms,
                                    .tls_broken_ms = c->health.tls_broken_ms,
                                    .patience_min_ms = c->delivery.patience_min_ms,
                                    .patience_max_ms = c->delivery.patience_max_ms};
    void *shared = aligned_alloc(64, (sizeof *w->parts.shared + 63) / 64 * 64);
    ASSERT(shared != NULL);
    memset(shared, 0, sizeof *w->parts.shared);
    w->parts = (struct worker_parts){.config = c,
                                     .jobs = jobs_create(64),
                                     .tls = sim_tls_client(),
                                     .observer = &w->observer,
                                     .sessions_max = w->sessions_max,
                                     .workers = &w->worker,
                                     .worker_count = 1,
                                     .shared = shared};
    w->parts.health = health_create(&health); /* in this order: each draws a seed */
    w->parts.destinations = destination_table_create();
    w->parts.shared->clients = client_counts_create();
    atomic_init(&w->parts.shared->next_id, 1 << 20); /* notices: apart from the world's own */
    ASSERT(w->parts.health != NULL && w->parts.destinations != NULL && w->parts.jobs != NULL);
}

static void on_pushed(void *context, unsigned count)
{
    (void)context, (void)count; /* the worker looks into the ring in every turn */
}

void sim_world_start(struct sim_world *w)
{
    struct error error = {{0}};
    w->config->health.entries = 1024;
    create_parts(w);
    struct schedule_options options = {.policy = {.retry_first_ms = w->config->retry.first_ms,
                                                  .retry_max_ms = w->config->retry.max_ms,
                                                  .age_limit_ms = w->config->retry.age_limit_ms,
                                                  .jitter_percent = 10},
                                       .jobs = w->parts.jobs,
                                       .destinations = w->parts.destinations,
                                       .on_pushed = on_pushed,
                                       .random_seed = random_u64(sim_random())};
    w->schedule = schedule_create(&options, clock_mono_ms(), clock_wall_ms());
    ASSERT(w->schedule != NULL);
    sim_spool_reset(w->schedule);
    if (!worker_init(&w->worker, 0, &w->parts, &error))
        sim_fail("%s", error.text);
    random_init_seed(&w->worker.random, random_u64(sim_random()));
    trace_print_init(&w->print, false);
}

/* ---- messages ---- */

/* Returns how long its header section is. */
static uint32_t compose(struct buf *out, uint64_t id, size_t bytes)
{
    buf_printf(out, "Message-ID: <%llx@sim>\r\nSubject: simulated\r\n\r\n", (unsigned long long)id);
    uint32_t header = (uint32_t)buf_len(out);
    for (unsigned line = 0; buf_len(out) < bytes; line++)
        buf_append_str(out,
                       line % 7 == 0 ? ".a line that begins with a dot\r\n" : "Plain text.\r\n");
    return header;
}

struct sim_message *sim_world_send(struct sim_world *w, struct sim_domain *const *domains,
                                   unsigned domain_count, unsigned recipients_each, size_t bytes)
{
    uint64_t id = w->next_id++;
    unsigned count = domain_count * recipients_each, longest = 0;
    uint64_t look_up_us = 0;
    struct envelope_recipient *recipients = calloc(count, sizeof *recipients);
    char(*addresses)[160] = calloc(count, sizeof *addresses), sender[96];
    struct buf content;
    ASSERT(recipients != NULL && addresses != NULL);
    bool urgent = true;
    for (unsigned i = 0; i < count; i++) {
        const struct sim_domain *d = domains[i % domain_count];
        (void)snprintf(addresses[i], sizeof addresses[i], "r%u.m%llu@%s", i, (unsigned long long)id,
                       d->name);
        recipients[i] = (struct envelope_recipient){.address = slice_str(addresses[i]),
                                                    .domain = slice_str(d->name),
                                                    .orcpt = SLICE_LIT("")};
        urgent &= d->urgent;
        longest = d->count > longest ? d->count : longest;
        look_up_us = d->dns_us > look_up_us ? d->dns_us : look_up_us;
    }
    (void)snprintf(sender, sizeof sender, "m%llu@%s", (unsigned long long)id, w->home->name);
    buf_init(&content, CONTENT_MAX);
    uint32_t header = compose(&content, id, bytes);
    struct envelope e = {.id = id,
                         .arrived_wall_ms = clock_wall_ms(),
                         .size_bytes = buf_len(&content),
                         .header_bytes = header,
                         .flags = ENVELOPE_HAS_DOTS,
                         .sender = slice_str(sender),
                         .envid = SLICE_LIT(""),
                         .origin = SLICE_LIT("sim"),
                         .recipient_count = count,
                         .recipients = recipients};
    struct sim_message *m = sim_spool_add(&e, buf_slice(&content));
    m->urgent = urgent;
    m->sent_us = sim_now_us();
    m->routed_us = m->sent_us + look_up_us;
    m->deadline_us = m->sent_us + 5000000 + UINT64_C(7000000) * longest;
    buf_fini(&content);
    free(recipients);
    free(addresses);
    return m;
}

/* ---- invariants after each step ---- */

/* Every session that is not ready has a deadline; those that are wait for one that has, or idle. */
static bool has_deadline(const struct session *s)
{
    if (!timer_armed(&s->limit) && !s->ready)
        sim_fail("session #%llu to %s has no deadline (%s)", (unsigned long long)s->number,
                 s->target.exchange->name, session_phase_name(s));
    return timer_armed(&s->limit);
}

static void check_lane(const struct lane *l)
{
    unsigned tokens = 0, sessions = 0, deadlines = 0;
    for (const struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        deadlines += has_deadline(s);
        tokens += session_has_committed(s);
        sessions++;
    }
    bool waits = !list_empty(&l->turn_link);
    if (sessions == 0 && !waits && !l->idling)
        sim_fail("a lane has neither a session nor a turn to come");
    if (sessions > 0 && deadlines == 0 && !l->idling && !waits)
        sim_fail("a lane waits for nothing");
    if (sessions > LANE_SESSIONS_PER_ADDRESS_MAX * l->target_count + 1)
        sim_fail("%u sessions in a lane of %u addresses", sessions, l->target_count);
    if (tokens > 1)
        sim_fail("two sessions have committed the same flight");
    if (l->idling && !timer_armed(&l->idle_timer))
        sim_fail("an idle lane has no end");
}

static void check_step(const struct sim_world *w)
{
    const struct outbound *o = w->worker.outbound;
    for (const struct link *i = o->lanes.next; i != &o->lanes; i = i->next)
        check_lane(CONTAINER_OF(i, struct lane, outbound_link));
    struct sim_totals t = sim_spool_totals();
    if (schedule_recipients(w->schedule) != t.recipients - t.delivered - t.bounced)
        sim_fail("%llu recipients are queued, the books say %llu",
                 (unsigned long long)schedule_recipients(w->schedule),
                 (unsigned long long)(t.recipients - t.delivered - t.bounced));
    if (o->sessions > w->sessions_max || o->sessions != sim_open_conns())
        sim_fail("%u sessions, %u connections, %u allowed", o->sessions, sim_open_conns(),
                 w->sessions_max);
}

/* ---- running ---- */

static uint64_t timers_due_us(const struct sim_world *w)
{
    int wait = timer_wheel_wait_ms(&w->worker.timers, clock_mono_ms());
    return wait < 0 ? UINT64_MAX : (clock_mono_ms() + (uint64_t)wait) * 1000;
}

/* One event. False: nothing will ever happen again. */
static bool step(struct sim_world *w)
{
    uint64_t now = sim_now_us(), at = sim_next_us(), timers = timers_due_us(w);
    at = timers < at ? timers : at;
    at = w->schedule_due_us < at ? w->schedule_due_us : at;
    if (sim_poller_ready() || w->busy || at < now)
        at = now;
    if (at == UINT64_MAX)
        return false;
    w->steps++;
    w->steps_now = at > now ? 0 : w->steps_now + 1;
    if (w->steps_now > STEPS_AT_ONE_TIME_MAX)
        sim_fail("time stands still");
    sim_trail_step(at);
    sim_trail_note("draws", sim_random()->state[0] ^ w->worker.random.state[0], SLICE_LIT(""));
    sim_advance(at);
    int wait = schedule_run(w->schedule, clock_mono_ms(), clock_wall_ms());
    w->schedule_due_us =
        wait < 0 ? UINT64_MAX : (clock_mono_ms() + (uint64_t)wait) * 1000 + (wait == 0 ? 1000 : 0);
    w->busy = worker_turn(&w->worker, poller_fetch(w->worker.poller, 0));
    check_step(w);
    return true;
}

static bool is_over(const struct sim_world *w)
{
    return schedule_messages(w->schedule) == 0 && sim_commits_pending() == 0 &&
           sim_open_conns() == 0 && list_empty(&w->worker.outbound->lanes) &&
           w->worker.outbound->sessions == 0;
}

/* ---- the books ---- */

static const char *recipient_of(const struct sim_message *m, uint32_t index, char out[128])
{
    struct envelope_recipient r;
    bool sound = envelope_decode_recipient(buf_slice(&m->record), index, &r) &&
                 slice_to_cstr(r.address, out, 128);
    ASSERT(sound);
    return out;
}

/* Copies of one message for one recipient, in order of time, judged against each other. Returns how
 * many the relay was told of. */
static unsigned check_copies(const struct sim_world *w, const struct sim_message *m,
                             const struct sim_digest *meant, const char *recipient)
{
    const struct sim_copy *later = NULL;
    unsigned told = 0;
    uint64_t gap_us = w->config->retry.first_ms * 900;
    for (const struct sim_copy *c = sim_copies(); c != NULL; c = c->next) {
        if (c->message != m->id || strcmp(c->recipient, recipient) != 0)
            continue;
        bool known = sim_copy_was_told(c);
        if (c->content.bytes != meant->bytes || c->content.hash != meant->hash)
            sim_fail("message %llu came to %s with %llu bytes of %llu, or others",
                     (unsigned long long)m->id, c->host->name, (unsigned long long)c->content.bytes,
                     (unsigned long long)meant->bytes);
        told += known;
        if (later != NULL && known)
            sim_fail("message %llu went to %s again, though %s had said 250",
                     (unsigned long long)m->id, recipient, c->host->name);
        if (later != NULL && later->at_us - c->at_us < gap_us)
            sim_fail("message %llu went to %s at %s and %.3f s later at %s",
                     (unsigned long long)m->id, recipient, c->host->name,
                     (double)(later->at_us - c->at_us) / 1e6, later->host->name);
        later = c;
    }
    return told;
}

/* Half a second more for each message that may have been queued before it. */
static uint64_t deadline_of(const struct sim_message *m)
{
    uint64_t before = 0;
    for (const struct sim_message *other = sim_messages(); other != NULL; other = other->next)
        before += !other->is_notice && other->sent_us <= m->routed_us;
    return m->deadline_us + UINT64_C(500000) * before;
}

static void check_recipient(const struct sim_world *w, const struct sim_message *m,
                            const struct sim_digest *meant, uint32_t index)
{
    char name[128];
    const struct sim_recipient *r = &m->recipients[index];
    unsigned told = check_copies(w, m, meant, recipient_of(m, index, name));
    unsigned long long id = m->id;
    if (r->end == SIM_WAITING)
        sim_fail("message %llu for %s has no end", id, name);
    if (r->end == SIM_DELIVERED && told != 1)
        sim_fail("message %llu for %s is called delivered; %u hosts say so", id, name, told);
    if (r->end == SIM_BOUNCED && told != 0)
        sim_fail("message %llu for %s was delivered and bounced", id, name);
    if (m->urgent && (r->end != SIM_DELIVERED || r->attempts != 1))
        sim_fail("message %llu for %s: an exchange was well, and %s after %u attempts: %s", id,
                 name, r->end == SIM_DELIVERED ? "it was delivered" : "it was bounced", r->attempts,
                 r->state.last.text);
    if (m->urgent && r->ended_us > deadline_of(m))
        sim_fail("message %llu for %s came %.3f s late", id, name,
                 (double)(r->ended_us - deadline_of(m)) / 1e6);
}

static void check_books(const struct sim_world *w)
{
    uint64_t bounced_messages = 0;
    for (const struct sim_message *m = sim_messages(); m != NULL; m = m->next) {
        bool bounced = false;
        struct sim_digest meant = sim_digest_of(buf_slice(&m->content));
        for (uint32_t i = 0; i < m->envelope.recipient_count; i++) {
            check_recipient(w, m, &meant, i);
            bounced |= m->recipients[i].end == SIM_BOUNCED;
        }
        bounced_messages += bounced && m->envelope.sender.len > 0;
    }
    if (sim_spool_totals().notices < bounced_messages)
        sim_fail("%llu messages bounced, %llu notices", (unsigned long long)bounced_messages,
                 (unsigned long long)sim_spool_totals().notices);
}

static void on_moment(void *context, uint64_t number)
{
    (void)context;
    (void)number;
}

void sim_world_run_until(struct sim_world *w, uint64_t until_us)
{
    sim_after(until_us - sim_now_us(), on_moment, NULL, 0); /* time does not jump over it */
    while (sim_now_us() < until_us)
        (void)step(w);
}

void sim_world_run(struct sim_world *w)
{
    uint64_t until = sim_now_us() + w->config->retry.age_limit_ms * 2000 + AFTERMATH_US;
    while (!is_over(w)) {
        if (!step(w))
            sim_fail("nothing will happen any more, and %llu messages wait",
                     (unsigned long long)schedule_messages(w->schedule));
        if (sim_now_us() > until)
            sim_fail("%llu messages are still queued, %u connections open",
                     (unsigned long long)schedule_messages(w->schedule), sim_open_conns());
    }
    check_books(w);
}

void sim_world_destroy(struct sim_world **w)
{
    struct sim_world *old = *w;
    *w = NULL;
    outbound_abandon(old->worker.outbound);
    worker_bury(&old->worker);
    schedule_destroy(&old->schedule);
    for (unsigned i = 0; i < old->domain_count; i++)
        route_release(&old->domains[i].route);
    destination_table_destroy(&old->parts.destinations);
    health_destroy(&old->parts.health);
    client_counts_destroy(&old->parts.shared->clients);
    jobs_destroy(&old->parts.jobs);
    free(old->parts.shared);
    config_free(&old->config);
    free(old);
    current = NULL;
}
