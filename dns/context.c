#include "dns/context.h"

#include "dns/packet.h"

#include <stdio.h>
#include <unbound.h>
#include <unbound-event.h>
#include <unistd.h>

enum { OPTION_SIZE = 1024, CLASS_IN = 1 };

#define ROOT_KEY_FILE "/usr/share/dns/root.key"

struct setting {
    const char *option;
    const char *value;
};

/* Measured with libunbound 1.17.1; its own defaults are for programs that look up a name now and
 * then. */
static const struct setting basics[] = {
    /* RESOLVER_SOCKETS: 16 allow 315 look-ups a second at 50 ms, and a name server that never
     * answers keeps one for a quarter of a minute. */
    {"outgoing-range:", "2048"},
    {"outgoing-num-tcp:", "32"},
    {"msg-cache-size:", "64m"}, /* 1 MB always misses beyond 1,000 domains */
    {"rrset-cache-size:", "128m"},
    {"msg-cache-slabs:", "1"}, /* one thread: slabs would only split the room */
    {"rrset-cache-slabs:", "1"},
    {"infra-cache-slabs:", "1"},
    {"key-cache-slabs:", "1"},
    {"infra-host-ttl:", "30"},            /* a server that was down is asked again soon */
    {"local-zone:", "test. transparent"}, /* else NXDOMAIN is built in (RFC 6761 6.2) */
};

/* A forwarder is all there is: never back off from it for minutes. */
static const struct setting with_forwarders[] = {
    {"infra-cache-min-rtt:", "400"},
};

static bool apply(struct ub_ctx *c, const struct setting *settings, size_t count,
                  struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        int rc = ub_ctx_set_option(c, settings[i].option, settings[i].value);
        if (rc != 0) {
            error_set(error, "libunbound refuses \"%s %s\": %s", settings[i].option,
                      settings[i].value, ub_strerror(rc));
            return false;
        }
    }
    return true;
}

static bool add_trust_anchor(struct ub_ctx *c, struct error *error)
{
    if (access(ROOT_KEY_FILE, R_OK) != 0)
        return true; /* without the dns-root-data package answers stay unvalidated */
    int rc = ub_ctx_add_ta_file(c, ROOT_KEY_FILE);
    if (rc != 0)
        error_set(error, "libunbound refuses the trust anchor " ROOT_KEY_FILE ": %s",
                  ub_strerror(rc));
    return rc == 0;
}

static bool add_forwarders(struct ub_ctx *c, const char *const *forwarders, struct error *error)
{
    if (forwarders == NULL || forwarders[0] == NULL)
        return true;
    for (size_t i = 0; forwarders[i] != NULL; i++) {
        int rc = ub_ctx_set_fwd(c, forwarders[i]);
        if (rc != 0) {
            error_set(error,
                      "dns.forwarders: \"%s\" is refused (%s); write an IP address, with "
                      "\"@port\" behind it where that is not 53",
                      forwarders[i], ub_strerror(rc));
            return false;
        }
    }
    return apply(c, with_forwarders, sizeof with_forwarders / sizeof with_forwarders[0], error);
}

static bool add_stub(struct ub_ctx *c, const struct resolver_zone *zone, struct error *error)
{
    for (size_t i = 0; zone->servers[i] != NULL; i++) {
        int rc = ub_ctx_set_stub(c, zone->name, zone->servers[i], 0);
        if (rc != 0) {
            error_set(error,
                      "dns.stubs: zone \"%s\" with server \"%s\" is refused (%s); write an IP "
                      "address, with \"@port\" behind it where that is not 53",
                      zone->name, zone->servers[i], ub_strerror(rc));
            return false;
        }
    }
    return true;
}

static bool add_stubs(struct ub_ctx *c, const struct resolver_zone *zones, struct error *error)
{
    for (size_t i = 0; zones != NULL && zones[i].name != NULL; i++)
        if (!add_stub(c, &zones[i], error))
            return false;
    return true;
}

/* "option: value" as in unbound.conf. */
static bool pass_through(struct ub_ctx *c, const char *text, struct error *error)
{
    struct slice line = slice_str(text);
    size_t colon = slice_find(line, ':');
    char option[OPTION_SIZE], value[OPTION_SIZE];
    bool split = colon < line.len &&
                 slice_to_cstr(slice_take(slice_trim(line), colon + 1), option, sizeof option) &&
                 slice_to_cstr(slice_trim(slice_skip(line, colon + 1)), value, sizeof value);
    if (!split) {
        error_set(error, "dns.unbound: \"%s\" is not of the form \"option: value\"", text);
        return false;
    }
    int rc = ub_ctx_set_option(c, option, value);
    if (rc != 0)
        error_set(error,
                  "dns.unbound: libunbound refuses \"%s\" (%s); see unbound.conf(5) for its "
                  "options and their values",
                  text, ub_strerror(rc));
    return rc == 0;
}

static bool pass_all_through(struct ub_ctx *c, const char *const *options, struct error *error)
{
    for (size_t i = 0; options != NULL && options[i] != NULL; i++)
        if (!pass_through(c, options[i], error))
            return false;
    return true;
}

static void ignore_answer(void *context, int rcode, void *packet, int packet_len, int sec,
                          char *why_bogus, int was_ratelimited)
{
    (void)context, (void)rcode, (void)packet, (void)packet_len, (void)sec, (void)why_bogus;
    (void)was_ratelimited;
}

/* libunbound reads files and checks some values only at the first look-up, when nobody is left to
 * tell. So the first one is made here, of a name it answers from its built-in zones. */
static bool finalize(struct ub_ctx *c, struct error *error)
{
    int rc = ub_resolve_event(c, "localhost.", PACKET_A, CLASS_IN, NULL, ignore_answer, NULL);
    if (rc != 0)
        error_set(error, "libunbound cannot start with the options under dns: %s", ub_strerror(rc));
    return rc == 0;
}

static bool configure(struct ub_ctx *c, const struct resolver_options *o, struct error *error)
{
    return ub_ctx_debugout(c, NULL) == 0 && /* it would write to our standard error */
           apply(c, basics, sizeof basics / sizeof basics[0], error) &&
           (!o->dnssec || add_trust_anchor(c, error)) && add_forwarders(c, o->forwarders, error) &&
           add_stubs(c, o->stubs, error) && pass_all_through(c, o->unbound_options, error) &&
           finalize(c, error);
}

struct ub_ctx *context_create(struct ub_event_base *base, const struct resolver_options *options,
                              struct error *error)
{
    struct ub_ctx *c = ub_ctx_create_ub_event(base);
    if (c == NULL) {
        error_set(error, "out of memory for libunbound");
        return NULL;
    }
    if (!configure(c, options, error)) {
        ub_ctx_delete(c);
        return NULL;
    }
    return c;
}
