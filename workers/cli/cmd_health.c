#include "workers/cli/cli.h"

#include "core/config/units.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

struct output {
    struct table *table; /* NULL: JSON lines */
    json_t *last;        /* the line with "done"; borrowed until the answer ends, so copied */
};

static void print_json(const json_t *line)
{
    (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    (void)fputc('\n', stdout);
}

static bool take_line(struct output *o, const json_t *line)
{
    if (json_is_true(json_object_get(line, "done"))) {
        o->last = json_deep_copy(line);
        return false;
    }
    if (o->table == NULL)
        print_json(line);
    return o->table != NULL;
}

static const char *number(char *out, size_t size, const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    if (value == NULL)
        return NULL;
    (void)snprintf(out, size, "%lld", (long long)json_integer_value(value));
    return out;
}

static const char *duration(char *out, size_t size, const char *before, const json_t *line,
                            const char *key)
{
    const json_t *value = json_object_get(line, key);
    if (value == NULL)
        return NULL;
    cli_time(out, size, before, json_integer_value(value), "");
    return out;
}

static void on_host(void *context, const json_t *line)
{
    struct output *o = context;
    char text[8][40];
    if (!take_line(o, line))
        return;
    const char *cells[] = {cli_text(line, "address"),
                           cli_text(line, "state"),
                           duration(text[0], 40, "", line, "since_ms"),
                           number(text[1], 40, line, "strikes"),
                           json_is_true(json_object_get(line, "probing"))
                               ? "probing now"
                               : duration(text[2], 40, "in ", line, "again_ms"),
                           number(text[3], 40, line, "sessions"),
                           number(text[4], 40, line, "connect_ms"),
                           number(text[5], 40, line, "greeting_ms"),
                           number(text[6], 40, line, "ehlo_ms"),
                           duration(text[7], 40, "for ", line, "tls_broken_ms"),
                           NULL};
    table_add(o->table, cells);
}

static int list(const struct cli_options *options)
{
    static const char *const headings[] = {"ADDRESS",  "STATE",      "SINCE",      "STRIKES",
                                           "NEXT TRY", "SESSIONS",   "CONNECT ms", "GREETING ms",
                                           "EHLO ms",  "TLS BROKEN", NULL};
    struct output o = {.table = options->json ? NULL : table_create(headings)};
    int status = cli_ask(options, json_pack("{s:s}", "op", "health.list"), on_host, &o);
    table_print(o.table);
    table_destroy(&o.table);
    json_decref(o.last);
    return status;
}

static void on_done(void *context, const json_t *line)
{
    (void)context, (void)line;
}

int cmd_health(int argc, char **argv)
{
    struct cli_options options;
    uint64_t ms = 600000;
    if (!cli_take_options(&argc, argv, &options))
        return EX_USAGE;
    if (argc == 1 || (argc == 2 && strcmp(argv[1], "list") == 0))
        return list(&options);
    bool demote = strcmp(argv[1], "demote") == 0, clear = strcmp(argv[1], "clear") == 0;
    bool timed = demote && argc == 5 && strcmp(argv[3], "--for") == 0 &&
                 units_parse_duration(slice_str(argv[4]), &ms);
    if (!(argc == 3 && (demote || clear)) && !timed)
        return cli_fail(EX_USAGE,
                        "usage: onward health [list | demote ADDRESS [--for 10m] | clear ADDRESS]");
    json_t *request =
        json_pack("{s:s,s:s}", "op", demote ? "health.demote" : "health.clear", "address", argv[2]);
    if (demote)
        (void)json_object_set_new(request, "duration_ms", json_integer((json_int_t)ms));
    int status = cli_ask(&options, request, on_done, NULL);
    if (status == 0 && !options.json)
        (void)printf("%s: %s\n", argv[2],
                     demote ? "demoted; it is tried last" : "forgotten; it is tried in its turn");
    return status;
}

/* ---- route ---- */

static void on_target(void *context, const json_t *line)
{
    struct output *o = context;
    char text[4][40];
    if (!take_line(o, line))
        return;
    const char *cells[] = {number(text[0], 40, line, "order"),
                           number(text[1], 40, line, "preference"),
                           cli_text(line, "exchange"),
                           cli_text(line, "address"),
                           number(text[2], 40, line, "ttl_s"),
                           cli_text(line, "health"),
                           duration(text[3], 40, "in ", line, "again_ms"),
                           cli_text(line, "why"),
                           NULL};
    table_add(o->table, cells);
}

static void print_route_end(const json_t *last)
{
    const json_t *failure = json_object_get(last, "failure");
    if (failure != NULL)
        (void)printf("No route to %s: %s %s\n", cli_text(last, "domain"),
                     cli_text(failure, "status"), cli_text(failure, "text"));
    else
        (void)printf("Route by %s%s%s.\n", cli_text(last, "kind"),
                     json_is_true(json_object_get(last, "secure")) ? ", DNSSEC-validated" : "",
                     json_is_true(json_object_get(last, "own_host_cut"))
                         ? "; this relay itself was cut from it"
                         : "");
    if (json_is_true(json_object_get(last, "suspended")))
        (void)printf("Deliveries there are suspended; `onward suspend list` shows why.\n");
}

int cmd_route(int argc, char **argv)
{
    static const char *const headings[] = {"ORDER",  "PREF",  "EXCHANGE", "ADDRESS", "TTL s",
                                           "HEALTH", "AGAIN", "WHY",      NULL};
    struct cli_options options;
    if (!cli_take_options(&argc, argv, &options))
        return EX_USAGE;
    bool fresh = argc == 3 && strcmp(argv[1], "--fresh") == 0;
    if (argc != 2 && !fresh)
        return cli_fail(EX_USAGE, "usage: onward route [--fresh] DOMAIN");
    struct output o = {.table = options.json ? NULL : table_create(headings)};
    json_t *request =
        json_pack("{s:s,s:s,s:b}", "op", "route", "domain", argv[argc - 1], "fresh", fresh);
    int status = cli_ask(&options, request, on_target, &o);
    table_print(o.table);
    if (status == 0 && options.json)
        print_json(o.last);
    else if (status == 0)
        print_route_end(o.last);
    if (json_object_get(o.last, "failure") != NULL)
        status = EX_NOHOST;
    table_destroy(&o.table);
    json_decref(o.last);
    return status;
}
