#include "workers/cli/cli.h"

#include <stdio.h>
#include <sysexits.h>

enum { TEXT_SIZE = 64 };

static json_int_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* "1,234,567" */
static const char *count(char out[TEXT_SIZE], json_int_t n)
{
    char digits[32];
    int len = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0 && digits[i - 1] != '-')
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

/* "1.2 GB" */
static const char *size(char out[TEXT_SIZE], json_int_t bytes)
{
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1000 && unit + 1 < sizeof units / sizeof *units; unit++)
        value /= 1000;
    (void)snprintf(out, TEXT_SIZE, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

static void add_row(struct table *t, const char *what, const json_t *object, const char *now,
                    const char *limit, const char *(*format)(char out[TEXT_SIZE], json_int_t n),
                    const char *limit_means)
{
    char used[TEXT_SIZE], max[TEXT_SIZE], text[2 * TEXT_SIZE];
    json_int_t n = number_of(object, limit);
    (void)snprintf(text, sizeof text, "%s %s", limit_means, format(max, n));
    const char *cells[] = {what, format(used, number_of(object, now)), n > 0 ? text : "no limit",
                           NULL};
    table_add(t, cells);
}

/* What a person wants to know first: is mail taken, and how near is each limit. */
static void print_intake(const json_t *intake)
{
    static const char *const headings[] = {"HELD", "NOW", "LIMIT", NULL};
    char since[TEXT_SIZE], refused[TEXT_SIZE];
    cli_time(since, sizeof since, "for ", number_of(intake, "since_ms"), "");
    (void)printf("%s (%s), %s; %s refused since the start.\n\n", cli_text(intake, "text"),
                 cli_text(intake, "state"), since, count(refused, number_of(intake, "refused")));
    if (json_object_get(intake, "domain_share") != NULL)
        (void)printf("No domain may have more than %s recipients queued now; %s refused for that "
                     "since the start.\n\n",
                     count(since, number_of(intake, "domain_share")),
                     count(refused, number_of(intake, "recipients_refused")));
    struct table *t = table_create(headings);
    add_row(t, "queued messages", intake, "messages_queued", "messages_max", count, "at most");
    add_row(t, "queued recipients", intake, "recipients_queued", "recipients_max", count,
            "at most");
    add_row(t, "deliveries on their way to a worker", intake, "ring_used", "ring_slots", count,
            "at most");
    add_row(t, "memory", intake, "memory_bytes", "memory_max", size, "at most");
    add_row(t, "free room on the spool's disk", intake, "disk_free_bytes", "disk_floor_bytes", size,
            "at least");
    table_print(t);
    table_destroy(&t);
}

static void print_figures(const char *section, const json_t *figures)
{
    const char *const headings[] = {section, "COUNT", NULL};
    const char *key;
    json_t *value;
    char text[TEXT_SIZE];
    struct table *t = table_create(headings);
    json_object_foreach((json_t *)(uintptr_t)figures, key, value)
    {
        const char *cells[] = {key, count(text, json_integer_value(value)), NULL};
        if (json_is_integer(value))
            table_add(t, cells);
    }
    (void)printf("\n");
    table_print(t);
    table_destroy(&t);
}

/* Nothing where there is none. */
static void print_webhooks(const json_t *webhooks)
{
    static const char *const headings[] = {"WEBHOOK",  "WAITING",    "TAKEN", "DROPPED",
                                           "NEXT TRY", "LAST ERROR", NULL};
    size_t i;
    const json_t *w;
    struct table *t = table_create(headings);
    json_array_foreach(webhooks, i, w)
    {
        char waiting[TEXT_SIZE], taken[TEXT_SIZE], dropped[TEXT_SIZE], again[TEXT_SIZE] = "";
        bool failing = json_is_true(json_object_get(w, "failing"));
        if (failing)
            cli_time(again, sizeof again, "in ", number_of(w, "again_ms"), "");
        const char *cells[] = {cli_text(w, "url"),
                               count(waiting, number_of(w, "pending")),
                               count(taken, number_of(w, "delivered")),
                               count(dropped, number_of(w, "dropped")),
                               again,
                               failing ? cli_text(w, "last_error") : "",
                               NULL};
        table_add(t, cells);
    }
    if (i > 0)
        (void)printf("\n");
    table_print(t);
    table_destroy(&t);
}

static void on_status(void *context, const json_t *line)
{
    const struct cli_options *options = context;
    if (options->json) {
        (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
        (void)fputc('\n', stdout);
        return;
    }
    print_intake(json_object_get(line, "intake"));
    print_figures("SPOOL", json_object_get(line, "spool"));
    print_figures("WORKERS", json_object_get(line, "workers"));
    print_figures("DNS", json_object_get(line, "dns"));
    print_webhooks(json_object_get(line, "webhooks"));
}

int cmd_status(int argc, char **argv)
{
    struct cli_options options;
    if (!cli_take_options(&argc, argv, &options))
        return EX_USAGE;
    if (argc != 1)
        return cli_fail(EX_USAGE, "usage: onward status [--json]");
    return cli_ask(&options, json_pack("{s:s}", "op", "status"), on_status, &options);
}
