/* `onward top`: the relay as it runs, on a terminal with ncurses, anywhere else as plain lines once.
 * Both are made of the same lines. */
#include "core/base/clock.h"
#include "workers/cli/cli.h"

#include <ncurses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    LINE_MAX_BYTES = 256, /* as wide as a terminal is drawn */
    LINES_MAX_COUNT = 200,
    PLAIN_ROWS = 60,
    PLAIN_COLUMNS = 120,
    SUSPENSIONS_SHOWN = 3,
    SECTION_ROWS = 2, /* its heading and a blank line */
    REFRESH_MS = 2000,
    PLAIN_WAIT_US = 1000000, /* between the two looks that make a rate */
};

enum order { BY_STATE, BY_NAME, BY_OPEN, BY_LOST };

static const char *order_name(enum order order)
{
    static const char *const names[] = {[BY_STATE] = "worst first",
                                        [BY_NAME] = "by name",
                                        [BY_OPEN] = "by connections",
                                        [BY_LOST] = "by races lost"};
    return names[order];
}

/* What is shown, line by line, and how. */
struct sheet {
    char lines[LINES_MAX_COUNT][LINE_MAX_BYTES];
    bool bold[LINES_MAX_COUNT];
    int count, rows, columns;
};

struct top {
    struct cli_options options;
    json_t *view;     /* the last answer; owned */
    json_t *before;   /* the one before it, for rates; owned */
    enum order order; /* of exchanges */
    struct sheet sheet;
};

/* ---- lines ---- */

/* Whatever a peer said is shown as plain ASCII: nothing of it reaches the terminal as a command. */
static void clean(char *text)
{
    for (; *text != '\0'; text++)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

static void add(struct sheet *s, bool bold, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void add(struct sheet *s, bool bold, const char *format, ...)
{
    if (s->count >= s->rows || s->count >= LINES_MAX_COUNT)
        return;
    char *line = s->lines[s->count];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, LINE_MAX_BYTES, format, args);
    va_end(args);
    clean(line);
    if (s->columns < LINE_MAX_BYTES)
        line[s->columns] = '\0';
    s->bold[s->count++] = bold;
}

static json_int_t number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static const json_t *part(const json_t *view, const char *a, const char *b)
{
    return json_object_get(json_object_get(view, a), b);
}

/* Of a counter of all workers, a second, between the last two answers. */
static double rate(const struct top *t, const char *figure)
{
    json_int_t ms = number(t->view, "at_ms") - number(t->before, "at_ms");
    if (t->before == NULL || ms <= 0)
        return 0;
    json_int_t more = number(part(t->view, "status", "workers"), figure) -
                      number(part(t->before, "status", "workers"), figure);
    return more > 0 ? (double)more * 1000 / (double)ms : 0;
}

static void add_head(struct top *t)
{
    char up[40];
    const json_t *workers = part(t->view, "status", "workers");
    const json_t *spool = part(t->view, "status", "spool");
    const json_t *ages = part(t->view, "queue", "ages");
    cli_time(up, sizeof up, "up ", number(t->view, "up_ms"), "");
    add(&t->sheet, true, "%s  %s  onward %s%s", cli_text(t->view, "relay"), up,
        cli_text(t->view, "version"),
        json_is_true(part(t->view, "status", "draining")) ? "  DRAINING" : "");
    add(&t->sheet, false, "delivered %.1f/s  accepted %.1f/s  deferred %.1f/s  bounced %.1f/s",
        rate(t, "recipients_delivered"), rate(t, "messages_accepted"),
        rate(t, "recipients_deferred"), rate(t, "recipients_bounced"));
    add(&t->sheet, false,
        "connections %lld  submitters %lld  races %lld, won by another %lld  unknown %lld",
        (long long)number(workers, "sessions_open"), (long long)number(workers, "submissions_open"),
        (long long)number(workers, "races_started"),
        (long long)number(workers, "races_won_by_later"),
        (long long)number(workers, "outcomes_unknown"));
    add(&t->sheet, false,
        "queue %lld (%lld transactional)  by age <1m %lld <5m %lld <1h %lld <4h %lld <1d %lld >1d "
        "%lld",
        (long long)number(spool, "recipients_queued"),
        (long long)number(spool, "transactional_queued"), (long long)number(ages, "1m"),
        (long long)number(ages, "5m"), (long long)number(ages, "1h"), (long long)number(ages, "4h"),
        (long long)number(ages, "1d"), (long long)number(ages, "older"));
}

/* ---- suspensions ---- */

static void add_suspensions(struct top *t)
{
    const json_t *list = json_object_get(t->view, "suspended");
    size_t count = json_array_size(list);
    for (size_t i = 0; i < count && i < SUSPENSIONS_SHOWN; i++) {
        const json_t *s = json_array_get(list, i);
        char since[40], left[40] = "until resumed";
        cli_time(since, sizeof since, "since ", number(s, "since_ms"), "");
        if (json_object_get(s, "left_ms") != NULL)
            cli_time(left, sizeof left, "for another ", number(s, "left_ms"), "");
        bool all = json_is_true(json_object_get(s, "all"));
        add(&t->sheet, true, "SUSPENDED %s, %s, %s%s%s", all ? "all mail" : cli_text(s, "domain"),
            since, left, cli_text(s, "reason")[0] != '\0' ? ": " : "", cli_text(s, "reason"));
    }
    if (count > SUSPENSIONS_SHOWN)
        add(&t->sheet, true, "SUSPENDED %zu more; onward suspend list", count - SUSPENSIONS_SHOWN);
}

/* ---- exchanges ---- */

static const char *name_of(const json_t *exchange)
{
    const char *name = cli_text(exchange, "name");
    return name[0] != '\0' ? name : cli_text(exchange, "address");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(name_of(*(json_t *const *)a), name_of(*(json_t *const *)b));
}

static int by_figure(const void *a, const void *b, void *key)
{
    json_int_t x = number(*(json_t *const *)a, key), y = number(*(json_t *const *)b, key);
    return (x < y) - (x > y);
}

/* The order of the answer is "worst first". */
static void sort(json_t **list, size_t count, enum order order)
{
    char sessions[] = "sessions", lost[] = "races_lost";
    switch (order) {
    case BY_STATE:
        return;
    case BY_NAME:
        qsort(list, count, sizeof(json_t *), by_name);
        return;
    case BY_OPEN:
        qsort_r(list, count, sizeof(json_t *), by_figure, sessions);
        return;
    case BY_LOST:
        qsort_r(list, count, sizeof(json_t *), by_figure, lost);
        return;
    }
}

static void add_exchange(struct sheet *s, const json_t *e)
{
    char again[40] = "";
    if (json_is_true(json_object_get(e, "probing")))
        (void)snprintf(again, sizeof again, "probing");
    else if (number(e, "again_ms") > 0)
        cli_time(again, sizeof again, "in ", number(e, "again_ms"), "");
    add(s, false, "%-30.30s %-16.16s %-8.8s %-8.8s %4lld %4lld %4lld", name_of(e),
        cli_text(e, "address"), cli_text(e, "state"), again, (long long)number(e, "sessions"),
        (long long)number(e, "races_won"), (long long)number(e, "races_lost"));
}

static void add_exchanges(struct top *t, int rows)
{
    const json_t *list = json_object_get(t->view, "exchanges");
    size_t count = json_array_size(list);
    json_t **sorted = calloc(count + 1, sizeof(json_t *));
    add(&t->sheet, true, "%-30s %-16s %-8s %-8s %4s %4s %4s", "EXCHANGE", "ADDRESS", "STATE",
        "NEXT TRY", "OPEN", "WON", "LOST");
    for (size_t i = 0; sorted != NULL && i < count; i++)
        sorted[i] = json_array_get(list, i);
    if (sorted != NULL)
        sort(sorted, count, t->order);
    for (size_t i = 0; sorted != NULL && i < count && (int)i < rows; i++)
        add_exchange(&t->sheet, sorted[i]);
    free(sorted);
}

/* ---- domains, failures ---- */

static void add_domains(struct top *t, int rows)
{
    const json_t *list = part(t->view, "queue", "domains");
    add(&t->sheet, true, "%-40s %12s %12s %10s", "DOMAIN", "RECIPIENTS", "DEFERRED", "OLDEST");
    for (size_t i = 0; i < json_array_size(list) && (int)i < rows; i++) {
        const json_t *d = json_array_get(list, i);
        char oldest[40];
        cli_time(oldest, sizeof oldest, "", number(d, "oldest_ms"), "");
        add(&t->sheet, false, "%-40.40s %12lld %12lld %10s%s", cli_text(d, "domain"),
            (long long)number(d, "recipients"), (long long)number(d, "deferred"), oldest,
            json_is_true(json_object_get(d, "suspended")) ? " suspended" : "");
    }
}

static void add_failure(struct sheet *s, const json_t *f)
{
    char ago[40], said[LINE_MAX_BYTES] = "slower than usual";
    const json_t *reply = json_object_get(f, "reply");
    const char *exchange = cli_text(f, "exchange");
    cli_time(ago, sizeof ago, "", number(f, "ago_ms"), "");
    if (reply != NULL && number(reply, "code") > 0)
        (void)snprintf(said, sizeof said, "%lld %s %s", (long long)number(reply, "code"),
                       cli_text(reply, "status"), cli_text(reply, "text"));
    else if (reply != NULL)
        (void)snprintf(said, sizeof said, "%s", cli_text(reply, "text"));
    add(s, false, "%8s %5lld %-8.8s %-24.24s %s", ago, (long long)number(f, "count"),
        cli_text(f, "kind"), exchange[0] != '\0' ? exchange : cli_text(f, "domain"), said);
}

static void add_failures(struct top *t, int rows)
{
    const json_t *list = json_object_get(t->view, "failures");
    add(&t->sheet, true, "%8s %5s %-8s %-24s %s", "AGO", "TIMES", "FAILURE", "WHERE", "REASON");
    for (size_t i = 0; i < json_array_size(list) && (int)i < rows; i++)
        add_failure(&t->sheet, json_array_get(list, i));
}

/* Each section gets its share of the rows, and what another leaves. */
static void compose(struct top *t, int rows, int columns)
{
    t->sheet.count = 0;
    t->sheet.rows = rows;
    t->sheet.columns = columns;
    add_head(t);
    add_suspensions(t);
    int room = rows - t->sheet.count - 3 * SECTION_ROWS;
    int domains = (int)json_array_size(part(t->view, "queue", "domains"));
    int failures = (int)json_array_size(json_object_get(t->view, "failures"));
    domains = domains < room / 4 ? domains : room / 4;
    failures = failures < room * 2 / 5 ? failures : room * 2 / 5;
    add(&t->sheet, false, "%s", "");
    add_exchanges(t, room - domains - failures);
    add(&t->sheet, false, "%s", "");
    add_domains(t, domains);
    add(&t->sheet, false, "%s", "");
    add_failures(t, failures);
}

/* ---- asking, showing ---- */

static void on_line(void *context, const json_t *line)
{
    struct top *t = context;
    json_decref(t->before);
    t->before = t->view;
    t->view = json_deep_copy(line);
}

static int ask(struct top *t)
{
    return cli_ask(&t->options, json_pack("{s:s}", "op", "view"), on_line, t);
}

static int print_plain(struct top *t)
{
    int status = ask(t);
    if (status == 0 && t->options.json) {
        (void)json_dumpf(t->view, stdout, JSON_COMPACT);
        (void)fputc('\n', stdout);
        return 0;
    }
    if (status == 0)
        (void)usleep(PLAIN_WAIT_US);
    status = status == 0 ? ask(t) : status;
    if (status != 0)
        return status;
    compose(t, PLAIN_ROWS, PLAIN_COLUMNS);
    for (int i = 0; i < t->sheet.count; i++)
        (void)printf("%s\n", t->sheet.lines[i]);
    return 0;
}

static void draw(struct top *t)
{
    compose(t, LINES - 1, COLS);
    (void)erase();
    for (int i = 0; i < t->sheet.count; i++) {
        (void)attrset(t->sheet.bold[i] ? A_BOLD : A_NORMAL);
        (void)mvaddstr(i, 0, t->sheet.lines[i]);
    }
    char keys[LINE_MAX_BYTES];
    (void)snprintf(keys, sizeof keys,
                   " q quit   exchanges %s: s worst first  n name  o connections  l races lost",
                   order_name(t->order));
    if (COLS < LINE_MAX_BYTES)
        keys[COLS] = '\0';
    (void)attrset(A_REVERSE);
    (void)mvaddstr(LINES - 1, 0, keys);
    (void)refresh();
}

/* False: to end. */
static bool on_key(struct top *t, int key)
{
    if (key == 'q' || key == 'Q')
        return false;
    if (key == 's')
        t->order = BY_STATE;
    else if (key == 'n')
        t->order = BY_NAME;
    else if (key == 'o')
        t->order = BY_OPEN;
    else if (key == 'l')
        t->order = BY_LOST;
    return true;
}

/* The first look is taken before the screen is, so that what is wrong can be read. */
static int run_screen(struct top *t)
{
    int status = ask(t);
    if (status != 0)
        return status;
    if (initscr() == NULL)
        return cli_fail(EX_OSERR,
                        "this terminal is not known; set TERM, or use `onward top | cat`");
    (void)cbreak();
    (void)noecho();
    (void)curs_set(0);
    (void)keypad(stdscr, true);
    uint64_t due = clock_mono_ms() + REFRESH_MS;
    for (;;) {
        draw(t);
        uint64_t now = clock_mono_ms();
        timeout(due > now ? (int)(due - now) : 0);
        if (!on_key(t, getch()))
            break;
        if (clock_mono_ms() < due)
            continue;
        due = clock_mono_ms() + REFRESH_MS;
        if (ask(t) != 0) {
            (void)endwin(); /* where the relay is gone, that is said again on a proper terminal */
            return ask(t);
        }
    }
    (void)endwin();
    return status;
}

int cmd_top(int argc, char **argv)
{
    struct top *t = calloc(1, sizeof *t);
    if (t == NULL)
        return cli_fail(EX_OSERR, "out of memory");
    int status = EX_USAGE;
    if (!cli_take_options(&argc, argv, &t->options))
        (void)status;
    else if (argc != 1)
        status = cli_fail(EX_USAGE, "usage: onward top [-c FILE]");
    else
        status = !t->options.json && isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) ? run_screen(t)
                                                                                   : print_plain(t);
    json_decref(t->view);
    json_decref(t->before);
    free(t);
    return status;
}
