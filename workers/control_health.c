#include "core/base/clock.h"
#include "workers/control_priv.h"

enum { DEMOTION_DEFAULT_MS = 600000 };
static const json_int_t DEMOTION_MAX_MS = INT64_C(365) * 24 * 3600000;

json_t *control_describe_host(const struct health_view *v)
{
    char address[ADDRESS_TEXT_SIZE];
    address_format_ip(&v->address, address);
    uint64_t mono = clock_mono_ms(), wall = clock_wall_ms();
    json_t *o = json_pack("{s:s,s:s,s:i,s:I,s:I,s:i,s:b}", "address", address, "state",
                          health_state_name(v->state), "strikes", (int)v->strikes, "successes",
                          (json_int_t)v->successes, "failures", (json_int_t)v->failures, "sessions",
                          (int)v->parked, "probing", v->probing);
    if (o == NULL)
        return NULL;
    if (v->since_wall_ms != 0)
        (void)json_object_set_new(o, "since_ms",
                                  json_integer((json_int_t)(wall - v->since_wall_ms)));
    if (v->again_mono_ms > mono)
        (void)json_object_set_new(o, "again_ms",
                                  json_integer((json_int_t)(v->again_mono_ms - mono)));
    if (v->tls_broken_until_mono_ms > mono)
        (void)json_object_set_new(o, "tls_broken_ms",
                                  json_integer((json_int_t)(v->tls_broken_until_mono_ms - mono)));
    if (v->runs > 0)
        (void)json_object_set_new(o, "runs", json_integer((json_int_t)v->runs));
    if (v->one_by_one)
        (void)json_object_set_new(o, "one_by_one", json_true());
    if (v->nothing_behind)
        (void)json_object_set_new(o, "nothing_behind", json_true());
    static const char *const phases[HEALTH_PHASES] = {"connect_ms", "greeting_ms", "ehlo_ms",
                                                      "tls_ms",     "command_ms",  "commit_ms"};
    for (int i = 0; i < HEALTH_PHASES; i++)
        if (v->latency_ms[i] > 0)
            (void)json_object_set_new(o, phases[i], json_integer((json_int_t)v->latency_ms[i]));
    return o;
}

static void say_host(void *context, const struct health_view *v)
{
    json_t *host = control_describe_host(v);
    if (host != NULL)
        control_say(context, host);
}

void control_health_list(struct control_client *c, const json_t *request)
{
    (void)request;
    health_visit(c->control->options.health, say_host, c);
    control_done(c, NULL);
}

void control_health_edit(struct control_client *c, const json_t *request)
{
    struct address a;
    const char *text = json_string_value(json_object_get(request, "address"));
    struct health *health = c->control->options.health;
    if (text == NULL || !address_parse_ip(slice_str(text), &a)) {
        control_error(c, "not an IP address; give one such as 192.0.2.1 or 2001:db8::1");
        return;
    }
    if (strcmp(json_string_value(json_object_get(request, "op")), "health.clear") == 0) {
        bool known = health_clear(health, &a);
        control_done(c, json_pack("{s:b}", "known", known));
        return;
    }
    json_int_t duration = json_integer_value(json_object_get(request, "duration_ms"));
    if (json_object_get(request, "duration_ms") == NULL)
        duration = DEMOTION_DEFAULT_MS;
    if (duration <= 0 || duration > DEMOTION_MAX_MS) {
        control_error(c, "\"duration_ms\" is a number from 1 to %lld", (long long)DEMOTION_MAX_MS);
        return;
    }
    health_demote(health, &a, (uint64_t)duration, clock_mono_ms(), clock_wall_ms());
    control_done(c, json_pack("{s:I}", "duration_ms", duration));
}
