#include "workers/cli/cli.h"

#include "core/config/units.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum { LIST_ROWS = 1000 };

/* What the lines of an answer are gathered into. */
struct listing {
    struct table *table; /* NULL: lines are printed as JSON */
    json_int_t count;
    json_int_t limit; /* rows to show; 0: all */
    char after[32];   /* the relay has more behind this id; "" = that was all */
    bool with_content;
};

static void add_row(struct listing *l, const json_t *line)
{
    char age[40] = "", next[40] = "", size[UNITS_TEXT_SIZE], attempts[16], reply[320] = "";
    cli_time(age, sizeof age, "", json_integer_value(json_object_get(line, "age_ms")), "");
    const json_t *next_ms = json_object_get(line, "next_ms");
    if (next_ms != NULL && json_integer_value(next_ms) > 0)
        cli_time(next, sizeof next, "in ", json_integer_value(next_ms), "");
    else if (next_ms != NULL)
        (void)snprintf(next, sizeof next, "now");
    units_format_size((uint64_t)json_integer_value(json_object_get(line, "bytes")), size);
    (void)snprintf(attempts, sizeof attempts, "%d",
                   (int)json_integer_value(json_object_get(line, "attempts")));
    const json_t *last = json_object_get(line, "last");
    if (last != NULL)
        (void)snprintf(reply, sizeof reply, "%.8s %.200s", cli_text(last, "status"),
                       cli_text(last, "text"));
    const char *sender = cli_text(line, "sender");
    const char *cells[] = {
        cli_text(line, "id"),        age,      size, cli_text(line, "state"),
        cli_text(line, "priority"),  attempts, next, sender[0] != '\0' ? sender : "<>",
        cli_text(line, "recipient"), reply,    NULL};
    table_add(l->table, cells);
}

static void on_list_line(void *context, const json_t *line)
{
    struct listing *l = context;
    if (json_is_true(json_object_get(line, "done"))) {
        (void)snprintf(l->after, sizeof l->after, "%s", cli_text(line, "after"));
        return;
    }
    l->count++;
    if (l->limit > 0 && l->count > l->limit)
        return;
    if (l->table != NULL) {
        add_row(l, line);
        return;
    }
    (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    (void)fputc('\n', stdout);
}

static const char *const headings[] = {"ID",        "AGE",        "SIZE", "STATE",
                                       "PRIORITY",  "TRIED",      "NEXT", "SENDER",
                                       "RECIPIENT", "LAST REPLY", NULL};

static void print_count(const struct listing *l)
{
    if (l->count == 0)
        (void)printf("The queue holds nothing that matches.\n");
    else if (l->limit > 0 && l->count > l->limit)
        (void)printf(
            "%lld recipients, and there are more: --limit N shows more of them, --domain, --state "
            "and --older fewer; `onward top` counts them.\n",
            (long long)l->limit);
    else
        (void)printf("%lld recipient%s.\n", (long long)l->count, l->count == 1 ? "" : "s");
}

/* A screenful for people, where nobody asked for another; a program gets all. */
static int list(const struct cli_options *options, int argc, char **argv)
{
    const char *domain = NULL, *state = NULL;
    uint64_t older = 0, limit = options->json ? 0 : LIST_ROWS;
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && strcmp(argv[i], "--domain") == 0)
            domain = argv[++i];
        else if (i + 1 < argc && strcmp(argv[i], "--state") == 0)
            state = argv[++i];
        else if (i + 1 < argc && ((strcmp(argv[i], "--older") == 0 &&
                                   units_parse_duration(slice_str(argv[i + 1]), &older)) ||
                                  (strcmp(argv[i], "--limit") == 0 &&
                                   slice_to_u64(slice_str(argv[i + 1]), &limit) && limit > 0 &&
                                   limit <= INT32_MAX)))
            i++;
        else
            return cli_fail(EX_USAGE, "usage: onward queue list [--domain D] [--state "
                                      "active|deferred|suspended|held] [--older 1h] [--limit N]");
    }
    struct listing l = {.table = options->json ? NULL : table_create(headings),
                        .limit = (json_int_t)limit};
    int status;
    do { /* page by page: the relay answers each quickly, however long the queue is */
        json_t *request = json_pack("{s:s,s:I,s:s}", "op", "queue.list", "older_than_ms",
                                    (json_int_t)older, "after", l.after);
        if (domain != NULL)
            (void)json_object_set_new(request, "domain", json_string(domain));
        if (state != NULL)
            (void)json_object_set_new(request, "state", json_string(state));
        status = cli_ask(options, request, on_list_line, &l);
    } while (status == 0 && l.after[0] != '\0' && (limit == 0 || l.count <= l.limit));
    table_print(l.table);
    if (status == 0 && !options->json)
        print_count(&l);
    table_destroy(&l.table);
    return status;
}

/* Into a file or a pipe as it is; a terminal gets no commands from it. */
static void print_content(const char *text)
{
    char shown[1024];
    if (!isatty(STDOUT_FILENO)) {
        (void)fputs(text, stdout);
        return;
    }
    while (*text != '\0') {
        size_t len = strcspn(text, "\t\n");
        struct slice piece = slice_of(text, len < sizeof shown ? len : sizeof shown - 1);
        text += piece.len;
        if (*text == '\n' && piece.len > 0 && text[-1] == '\r')
            piece.len--;
        (void)fputs(cli_printable(piece, shown, sizeof shown), stdout);
        if (*text == '\t' || *text == '\n')
            (void)fputc(*text++, stdout);
    }
}

static void on_show_line(void *context, const json_t *line)
{
    struct listing *l = context;
    if (!json_is_true(json_object_get(line, "done"))) {
        on_list_line(context, line);
        return;
    }
    if (l->table == NULL) {
        on_list_line(context, line);
        (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
        (void)fputc('\n', stdout);
        return;
    }
    table_print(l->table);
    (void)printf("submitted by %s\n", cli_text(line, "origin"));
    if (!l->with_content)
        return;
    (void)fputc('\n', stdout);
    print_content(cli_text(line, "content"));
}

static int show(const struct cli_options *options, int argc, char **argv)
{
    bool content = argc == 3 && strcmp(argv[2], "--content") == 0;
    if (argc != 2 && !content)
        return cli_fail(EX_USAGE, "usage: onward queue show ID [--content]");
    struct listing l = {.table = options->json ? NULL : table_create(headings),
                        .with_content = content};
    json_t *request =
        json_pack("{s:s,s:s,s:b}", "op", "queue.show", "id", argv[1], "content", content);
    int status = cli_ask(options, request, on_show_line, &l);
    table_destroy(&l.table);
    return status;
}

static void on_edited(void *context, const json_t *line)
{
    *(json_int_t *)context += json_integer_value(json_object_get(line, "matched"));
}

static int edit_one(const struct cli_options *options, const char *verb, const char *key,
                    json_t *value, json_int_t *matched)
{
    char op[32];
    (void)snprintf(op, sizeof op, "queue.%s", verb);
    return cli_ask(options, json_pack("{s:s,s:o}", "op", op, key, value), on_edited, matched);
}

static int edit(const struct cli_options *options, int argc, char **argv)
{
    json_int_t matched = 0;
    int status = 0;
    if (argc == 3 && strcmp(argv[1], "--domain") == 0)
        status = edit_one(options, argv[0], "domain", json_string(argv[2]), &matched);
    else if (argc == 2 && strcmp(argv[1], "--all") == 0)
        status = edit_one(options, argv[0], "all", json_true(), &matched);
    else if (argc < 2 || argv[1][0] == '-')
        return cli_fail(EX_USAGE, "usage: onward queue %s ID... | --domain D | --all", argv[0]);
    else
        for (int i = 1; i < argc && status == 0; i++)
            status = edit_one(options, argv[0], "id", json_string(argv[i]), &matched);
    if (status != 0)
        return status;
    if (options->json)
        (void)printf("{\"matched\":%lld}\n", (long long)matched);
    else
        (void)printf("%s: %lld recipient%s\n", argv[0], (long long)matched,
                     matched == 1 ? "" : "s");
    return matched > 0 ? 0 : cli_fail(EX_DATAERR, "nothing in the queue matches");
}

int cmd_queue(int argc, char **argv)
{
    struct cli_options options;
    static const char *const edits[] = {"retry", "hold", "release", "bounce"};
    if (!cli_take_options(&argc, argv, &options))
        return EX_USAGE;
    if (argc < 2 || argv[1][0] == '-')
        return list(&options, argc, argv);
    if (strcmp(argv[1], "list") == 0)
        return list(&options, argc - 1, argv + 1);
    if (strcmp(argv[1], "show") == 0)
        return show(&options, argc - 1, argv + 1);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++)
        if (strcmp(argv[1], edits[i]) == 0)
            return edit(&options, argc - 1, argv + 1);
    return cli_fail(EX_USAGE,
                    "unknown: queue %s; there are list, show, retry, hold, release and bounce",
                    argv[1]);
}
