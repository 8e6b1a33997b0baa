#include "workers/cli/cli.h"

#include "core/config/units.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static const char usage[] =
    "usage: onward suspend list | DOMAIN... | --all [--for 2h] [--reason TEXT]";

/* Time limit and reason of `onward suspend`; taken out of argv. */
struct terms {
    uint64_t for_ms; /* 0: until it is resumed */
    const char *reason;
};

static void print_json(const json_t *line)
{
    (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    (void)fputc('\n', stdout);
}

/* ---- list ---- */

struct listing {
    struct table *table; /* NULL: JSON lines */
    unsigned count;
};

static void on_line(void *context, const json_t *line)
{
    struct listing *l = context;
    char since[40], left[40] = "until resumed";
    if (json_is_true(json_object_get(line, "done")))
        return;
    l->count++;
    if (l->table == NULL) {
        print_json(line);
        return;
    }
    const json_t *left_ms = json_object_get(line, "left_ms");
    cli_time(since, sizeof since, "", json_integer_value(json_object_get(line, "since_ms")), "");
    if (left_ms != NULL)
        cli_time(left, sizeof left, "", json_integer_value(left_ms), "");
    bool all = json_is_true(json_object_get(line, "all"));
    const char *cells[] = {all ? "(all mail)" : cli_text(line, "domain"), since, left,
                           cli_text(line, "reason"), NULL};
    table_add(l->table, cells);
}

static int list(const struct cli_options *options)
{
    static const char *const headings[] = {"DOMAIN", "SINCE", "STILL FOR", "REASON", NULL};
    struct listing l = {.table = options->json ? NULL : table_create(headings)};
    int status = cli_ask(options, json_pack("{s:s}", "op", "suspend.list"), on_line, &l);
    table_print(l.table);
    if (status == 0 && l.count == 0 && !options->json)
        (void)printf("Nothing is suspended.\n");
    table_destroy(&l.table);
    return status;
}

/* ---- suspend, resume ---- */

static void on_changed(void *context, const json_t *line)
{
    json_t **answer = context;
    *answer = json_deep_copy(line);
}

static void tell(const char *verb, const char *domain, const struct terms *t, const json_t *answer)
{
    char for_text[40] = "";
    json_int_t matched = json_integer_value(json_object_get(answer, "matched"));
    json_int_t others = json_integer_value(json_object_get(answer, "suspended"));
    bool suspends = strcmp(verb, "suspend") == 0;
    if (suspends && t->for_ms > 0)
        cli_time(for_text, sizeof for_text, " for ", (json_int_t)t->for_ms, "");
    (void)printf("%s: %s%s; %lld recipient%s in the queue%s\n",
                 domain != NULL ? domain : "all mail", suspends ? "suspended" : "resumed", for_text,
                 (long long)matched, matched == 1 ? "" : "s",
                 suspends ? "; what is under way is finished" : "");
    if (json_object_get(answer, "warning") != NULL)
        (void)fprintf(stderr, "onward: %s\n", cli_text(answer, "warning"));
    if (!suspends && others > 0)
        (void)printf("Still suspended: %lld; `onward suspend list` shows what.\n",
                     (long long)others);
}

/* `domain` NULL: all mail. */
static int change(const struct cli_options *options, const char *verb, const char *domain,
                  const struct terms *t)
{
    json_t *request = json_pack("{s:s}", "op", verb), *answer = NULL;
    if (domain != NULL)
        (void)json_object_set_new(request, "domain", json_string(domain));
    else
        (void)json_object_set_new(request, "all", json_true());
    if (t->for_ms > 0)
        (void)json_object_set_new(request, "for_ms", json_integer((json_int_t)t->for_ms));
    if (t->reason != NULL)
        (void)json_object_set_new(request, "reason", json_string(t->reason));
    int status = cli_ask(options, request, on_changed, &answer);
    if (status == 0 && options->json)
        print_json(answer);
    else if (status == 0)
        tell(verb, domain, t, answer);
    json_decref(answer);
    return status;
}

/* Each of argv[1...], or all. */
static int change_each(const struct cli_options *options, int argc, char **argv,
                       const struct terms *t, const char *how)
{
    int status = 0;
    if (argc == 2 && strcmp(argv[1], "--all") == 0)
        return change(options, argv[0], NULL, t);
    for (int i = 1; i < argc; i++)
        if (argv[i][0] == '-')
            return cli_fail(EX_USAGE, "%s", how);
    for (int i = 1; i < argc && status == 0; i++)
        status = change(options, argv[0], argv[i], t);
    return status;
}

static bool take_terms(int *argc, char **argv, struct terms *out)
{
    int kept = 0;
    *out = (struct terms){.for_ms = 0};
    for (int i = 0; i < *argc; i++) {
        bool has_value = i + 1 < *argc;
        if (strcmp(argv[i], "--for") == 0) {
            if (!has_value || !units_parse_duration(slice_str(argv[++i]), &out->for_ms) ||
                out->for_ms == 0)
                return false;
        } else if (strcmp(argv[i], "--reason") == 0) {
            if (!has_value)
                return false;
            out->reason = argv[++i];
        } else {
            argv[kept++] = argv[i];
        }
    }
    *argc = kept;
    return true;
}

int cmd_suspend(int argc, char **argv)
{
    struct cli_options options;
    struct terms t;
    if (!cli_take_options(&argc, argv, &options))
        return EX_USAGE;
    if (!take_terms(&argc, argv, &t))
        return cli_fail(EX_USAGE, "%s", usage);
    bool lists = argc == 1 || (argc == 2 && strcmp(argv[1], "list") == 0);
    if (!lists)
        return change_each(&options, argc, argv, &t, usage);
    return t.for_ms == 0 && t.reason == NULL ? list(&options) : cli_fail(EX_USAGE, "%s", usage);
}

int cmd_resume(int argc, char **argv)
{
    static const char how[] = "usage: onward resume DOMAIN... | --all";
    static const struct terms none = {.for_ms = 0};
    struct cli_options options;
    if (!cli_take_options(&argc, argv, &options))
        return EX_USAGE;
    return argc > 1 ? change_each(&options, argc, argv, &none, how) : cli_fail(EX_USAGE, "%s", how);
}
