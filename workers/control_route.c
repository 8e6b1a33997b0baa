#include "core/base/clock.h"
#include "core/domain.h"
#include "workers/control_priv.h"
#include "workers/outbound/order.h"

#include <stdlib.h>

struct route_request {
    struct resolver_query query;
    struct control_client *client;
};

static const char *kind_name(enum route_kind kind)
{
    static const char *const names[] = {"mx", "implicit mx", "address literal", "failed"};
    return names[kind];
}

/* Why the address stands where it stands. */
static const char *reason(const struct target *t)
{
    if (t->needs_probe)
        return "demoted, and due: the next message probes it, with the next exchange racing";
    if (t->rank == TARGET_BACKING_OFF)
        return "tried only after all others";
    switch (t->state) {
    case HEALTH_SUSPECT:
        return "in order of preference; suspect, so with little patience";
    case HEALTH_HEALTHY:
    case HEALTH_DEMOTED:
    case HEALTH_DOWN:
    case HEALTH_BUSY:
    case HEALTH_REFUSING:
        break;
    }
    return "in order of preference";
}

static void say_target(struct control_client *c, unsigned position, const struct target *t)
{
    char address[ADDRESS_TEXT_SIZE];
    address_format(&t->address, address);
    uint64_t now = clock_mono_ms();
    json_t *o = json_pack("{s:i,s:s,s:i,s:i,s:s,s:i,s:s,s:s}", "order", (int)position + 1,
                          "exchange", t->exchange->name, "preference", (int)t->exchange->preference,
                          "ttl_s", (int)t->exchange->ttl_s, "address", address, "address_ttl_s",
                          (int)t->exchange->address_ttl_s, "health", health_state_name(t->state),
                          "why", reason(t));
    if (o == NULL)
        return;
    if (t->again_mono_ms > now)
        (void)json_object_set_new(o, "again_ms",
                                  json_integer((json_int_t)(t->again_mono_ms - now)));
    control_say(c, o);
}

static void on_route(struct mail *mail, void *owner)
{
    struct control *control = owner;
    struct route_request *q = CONTAINER_OF(mail, struct route_request, query.mail);
    struct control_client *c = q->client;
    const struct route *route = q->query.route;
    struct target order[ROUTE_TARGETS_MAX];
    unsigned count = 0;
    if (route->kind != ROUTE_FAILED)
        count =
            order_targets(route, control->options.health, &control->random, clock_mono_ms(), order);
    for (unsigned i = 0; i < count; i++)
        say_target(c, i, &order[i]);
    json_t *last =
        json_pack("{s:s,s:s,s:s,s:b,s:b}", "domain", route->domain, "kind", kind_name(route->kind),
                  "destination", route->destination_key != NULL ? route->destination_key : "",
                  "secure", route->secure, "own_host_cut", route->own_host_cut);
    if (last != NULL && suspensions_hold(control->options.suspensions, route->domain))
        (void)json_object_set_new(last, "suspended", json_true());
    if (route->kind == ROUTE_FAILED && last != NULL)
        (void)json_object_set_new(last, "failure", control_reply(&route->failure));
    control_done(c, last);
    route_release(&route);
    free(q);
    control_resume(c);
}

void control_route(struct control_client *c, const json_t *request)
{
    const char *domain = json_string_value(json_object_get(request, "domain"));
    struct route_request *q = calloc(1, sizeof *q);
    if (q == NULL || domain == NULL || !domain_normalize(slice_str(domain), q->query.domain)) {
        free(q);
        control_error(c, "not a valid domain; give one such as example.org or [192.0.2.1]");
        return;
    }
    q->client = c;
    q->query.fresh = json_is_true(json_object_get(request, "fresh"));
    q->query.reply_to = &c->control->mailbox;
    q->query.on_answer = on_route;
    c->busy = true;
    struct resolver_query *query = &q->query;
    resolver_ask(c->control->options.resolver, &query);
}
