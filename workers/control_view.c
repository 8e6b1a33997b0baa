/* The "view" request: all that `onward top` and the web page show, in one answer. */
#include "core/base/clock.h"
#include "workers/chronicle.h"
#include "workers/control_priv.h"

#include <stdlib.h>

enum {
    EXCHANGES_SHOWN = 200,
    DESTINATIONS_SHOWN = 50,
    SUSPENSIONS_SHOWN = 50,
    KEY_SHOWN = 120, /* of a destination's name, the addresses behind it */
};

/* ---- the best of many, kept while all are visited ---- */

/* The heaviest so far, in no order. */
struct ranking {
    unsigned count, max;
    uint64_t met; /* in all */
    size_t size;  /* of an item, which begins with its weight */
    char *items;
};

static uint64_t *weight_at(const struct ranking *r, unsigned i)
{
    return (uint64_t *)(void *)(r->items + i * r->size);
}

/* The place for an item of this weight, or NULL where it is too light. */
static void *rank(struct ranking *r, uint64_t weight)
{
    unsigned lightest = 0;
    r->met++;
    if (r->count < r->max) {
        *weight_at(r, r->count) = weight;
        return weight_at(r, r->count++);
    }
    for (unsigned i = 1; i < r->count; i++)
        if (*weight_at(r, i) < *weight_at(r, lightest))
            lightest = i;
    if (*weight_at(r, lightest) >= weight)
        return NULL;
    *weight_at(r, lightest) = weight;
    return weight_at(r, lightest);
}

static int heaviest_first(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x < *y) - (*x > *y);
}

static bool ranking_init(struct ranking *r, unsigned max, size_t size)
{
    *r = (struct ranking){.max = max, .size = size, .items = calloc(max, size)};
    return r->items != NULL;
}

static void sort(struct ranking *r)
{
    qsort(r->items, r->count, r->size, heaviest_first);
}

/* ---- destinations ---- */

struct shown_destination {
    uint64_t weight;
    struct destination_figures figures;
    char key[KEY_SHOWN + 1];
};

static void on_destination(void *context, struct destination *d)
{
    struct destination_figures f = destination_figures(d);
    struct shown_destination *shown = rank(context, f.queued * 1024 + f.lanes);
    if (shown == NULL)
        return;
    shown->figures = f;
    (void)slice_to_cstr(slice_take(destination_key(d), KEY_SHOWN), shown->key, sizeof shown->key);
}

static json_t *destinations(const struct control_options *o)
{
    struct ranking r;
    json_t *list = json_array();
    if (!ranking_init(&r, DESTINATIONS_SHOWN, sizeof(struct shown_destination)))
        return list;
    destination_table_visit(o->destinations, on_destination, &r);
    sort(&r);
    for (unsigned i = 0; i < r.count; i++) {
        const struct shown_destination *s = (const void *)weight_at(&r, i);
        (void)json_array_append_new(
            list,
            json_pack("{s:o,s:I,s:I,s:i,s:i,s:i}", "destination", control_text(slice_str(s->key)),
                      "queued", (json_int_t)s->figures.queued, "transactional",
                      (json_int_t)s->figures.transactional, "lanes", (int)s->figures.lanes, "ready",
                      (int)s->figures.sessions_ready, "idle", (int)s->figures.idle));
    }
    free(r.items);
    return list;
}

/* ---- exchanges ---- */

struct shown_exchange {
    uint64_t weight;
    struct health_view view;
};

/* The unwell first, then the busiest. */
static void on_exchange(void *context, const struct health_view *v)
{
    uint64_t unwell = v->state != HEALTH_HEALTHY;
    uint64_t traffic =
        v->successes + v->failures < UINT32_MAX ? v->successes + v->failures : UINT32_MAX;
    uint64_t open = v->parked < UINT16_MAX ? v->parked : UINT16_MAX;
    struct shown_exchange *shown = rank(context, unwell << 60 | open << 32 | traffic);
    if (shown != NULL)
        shown->view = *v;
}

static json_t *describe_exchange(const struct control_options *o, const struct health_view *v)
{
    struct chronicle_exchange known = chronicle_exchange(o->chronicle, &v->address);
    json_t *e = control_describe_host(v);
    if (e == NULL)
        return json_null();
    (void)json_object_set_new(e, "name", control_text(slice_str(known.name)));
    (void)json_object_set_new(e, "races_won", json_integer(known.races_won));
    (void)json_object_set_new(e, "races_lost", json_integer(known.races_lost));
    return e;
}

static json_t *exchanges(const struct control_options *o, uint64_t *known_out)
{
    struct ranking r;
    json_t *list = json_array();
    if (!ranking_init(&r, EXCHANGES_SHOWN, sizeof(struct shown_exchange)))
        return list;
    health_visit(o->health, on_exchange, &r);
    sort(&r);
    for (unsigned i = 0; i < r.count; i++) {
        const struct shown_exchange *s = (const void *)weight_at(&r, i);
        (void)json_array_append_new(list, describe_exchange(o, &s->view));
    }
    *known_out = r.met;
    free(r.items);
    return list;
}

/* ---- failures ---- */

static json_t *describe_failure(const struct failure *f, uint64_t now)
{
    json_t *o = json_pack("{s:s,s:I,s:I,s:I,s:s}", "kind", failure_kind_name(f->kind), "count",
                          (json_int_t)f->count, "ago_ms", (json_int_t)(now - f->wall_ms),
                          "first_ago_ms", (json_int_t)(now - f->first_wall_ms), "phase", f->phase);
    if (o == NULL)
        return json_null();
    if (f->has_address) {
        char address[ADDRESS_TEXT_SIZE];
        address_format_ip(&f->address, address);
        (void)json_object_set_new(o, "address", json_string(address));
        (void)json_object_set_new(o, "exchange", control_text(slice_str(f->exchange)));
    }
    if (f->domain[0] != '\0')
        (void)json_object_set_new(o, "domain", control_text(slice_str(f->domain)));
    if (f->id != 0) {
        char id[ENVELOPE_ID_SIZE];
        envelope_id_format(f->id, id);
        (void)json_object_set_new(o, "id", json_string(id));
    }
    if (f->reply.code != 0)
        (void)json_object_set_new(o, "reply", control_reply(&f->reply));
    return o;
}

static json_t *failures(const struct control_options *o, uint64_t now)
{
    json_t *list = json_array();
    struct failure *all = calloc(CHRONICLE_FAILURES, sizeof *all);
    unsigned count = all != NULL ? chronicle_failures(o->chronicle, all) : 0;
    for (unsigned i = 0; i < count; i++)
        (void)json_array_append_new(list, describe_failure(&all[i], now));
    free(all);
    return list;
}

/* ---- history ---- */

/* [when, accepted, delivered, deferred, bounced, unknown, queued, sessions] each: it is asked for
 * often enough to be short. */
static json_t *samples(const struct control_options *o)
{
    json_t *list = json_array();
    struct chronicle_sample *all = calloc(CHRONICLE_SAMPLES, sizeof *all);
    unsigned count = all != NULL ? chronicle_samples(o->chronicle, all) : 0;
    for (unsigned i = 0; i < count; i++) {
        const struct chronicle_sample *s = &all[i];
        (void)json_array_append_new(
            list,
            json_pack("[I,I,I,I,I,I,I,I]", (json_int_t)s->wall_ms, (json_int_t)s->accepted,
                      (json_int_t)s->delivered, (json_int_t)s->deferred, (json_int_t)s->bounced,
                      (json_int_t)s->unknown, (json_int_t)s->queued, (json_int_t)s->sessions));
    }
    free(all);
    return list;
}

static json_t *changes(const struct control_options *o)
{
    json_t *list = json_array();
    struct chronicle_change *all = calloc(CHRONICLE_CHANGES, sizeof *all);
    unsigned count = all != NULL ? chronicle_changes(o->chronicle, all) : 0;
    for (unsigned i = 0; i < count; i++) {
        char address[ADDRESS_TEXT_SIZE];
        address_format_ip(&all[i].address, address);
        (void)json_array_append_new(list, json_pack("{s:I,s:s,s:o,s:s,s:s}", "at_ms",
                                                    (json_int_t)all[i].wall_ms, "address", address,
                                                    "name", control_text(slice_str(all[i].name)),
                                                    "before", health_state_name(all[i].before),
                                                    "now", health_state_name(all[i].now)));
    }
    free(all);
    return list;
}

/* ---- the request ---- */

void control_view(struct control_client *c, const json_t *request)
{
    const struct control_options *o = &c->control->options;
    uint64_t now = clock_wall_ms(), known = 0;
    json_t *list = exchanges(o, &known);
    json_t *view = json_pack(
        "{s:s,s:s,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:I,s:o}", "relay", o->config->hostname, "version",
        ONWARD_VERSION, "at_ms", (json_int_t)now, "up_ms",
        (json_int_t)(clock_mono_ms() - c->control->started_mono_ms), "status",
        control_describe_status(o), "queue", control_survey(c->control), "suspended",
        control_suspensions(o, SUSPENSIONS_SHOWN), "destinations", destinations(o), "exchanges",
        list, "exchanges_known", (json_int_t)known, "failures", failures(o, now));
    if (json_is_true(json_object_get(request, "history"))) {
        (void)json_object_set_new(view, "samples", samples(o));
        (void)json_object_set_new(view, "changes", changes(o));
    }
    control_done(c, view);
}

static void take_sample(struct control *c)
{
    struct chronicle_sample s = {.wall_ms = clock_wall_ms()};
    if (c->options.read_sample == NULL)
        return;
    c->options.read_sample(c->options.context, &s);
    s.queued = committer_figures(c->options.committer).recipients_queued;
    chronicle_sample(c->options.chronicle, &s);
}

static void on_sample_due(struct timer *timer, void *owner)
{
    struct control *c = owner;
    take_sample(c);
    timer_arm(&c->timers, timer, clock_mono_ms() + CHRONICLE_SAMPLE_MS);
}

void control_start_sampling(struct control *c)
{
    c->started_mono_ms = clock_mono_ms();
    timer_init(&c->sample_timer, on_sample_due);
    take_sample(c);
    timer_arm(&c->timers, &c->sample_timer, c->started_mono_ms + CHRONICLE_SAMPLE_MS);
}
