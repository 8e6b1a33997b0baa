/* `onward top`: the relay as it runs, on a terminal with ncurses, anywhere else as plain lines
 * once. Both are made of the same lines. */
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
    SMALL_ROWS = 18,     /* below, there are no blank lines, no domains and one suspension */
    NARROW_COLUMNS = 76, /* below, fewer figures; an exchange has no address, no next try */
    WIDE_COLUMNS = 110,  /* from here on, an IPv6 address has room */
    IPV4_COLUMNS = 15,
    IPV6_COLUMNS = 39,
    DOMAIN_COLUMNS = 40, /* at most, beside other things */
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

/* The text in so many columns; where it is longer, that is marked. `out` has a byte more, or is a
 * line. */
static void fit(char *out, int columns, const char *text)
{
    int room = columns < LINE_MAX_BYTES ? columns : LINE_MAX_BYTES - 1;
    (void)snprintf(out, (size_t)(room > 0 ? room : 0) + 1, "%s", text);
    if (room > 0 && strlen(text) > (size_t)room)
        out[room - 1] = '~';
}

/* "59m59s", "23h59m", "6d23h": a duration in a column is told by two of its units. */
static void short_time(char *out, size_t size, const char *before, json_int_t ms)
{
    const json_int_t minute = 60 * 1000, hour = 60 * minute, day = 24 * hour;
    json_int_t unit = ms >= day ? hour : ms >= hour ? minute : 1;
    cli_time(out, size, before, ms / unit * unit, "");
}

static void add(struct sheet *s, bool bold, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void add(struct sheet *s, bool bold, const char *format, ...)
{
    if (s->count >= s->rows || s->count >= LINES_MAX_COUNT)
        return;
    char text[LINE_MAX_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    clean(text);
    fit(s->lines[s->count], s->columns, text);
    s->bold[s->count++] = bold;
}

static bool is_small(const struct sheet *s)
{
    return s->rows < SMALL_ROWS;
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

static void add_queue(struct top *t)
{
    const json_t *spool = part(t->view, "status", "spool");
    const json_t *ages = part(t->view, "queue", "ages");
    char queued[80], by_age[160];
    (void)snprintf(queued, sizeof queued, "queue %lld (%lld transactional)",
                   (long long)number(spool, "recipients_queued"),
                   (long long)number(spool, "transactional_queued"));
    (void)snprintf(by_age, sizeof by_age,
                   "  by age <1m %lld <5m %lld <1h %lld <4h %lld <1d %lld >1d %lld",
                   (long long)number(ages, "1m"), (long long)number(ages, "5m"),
                   (long long)number(ages, "1h"), (long long)number(ages, "4h"),
                   (long long)number(ages, "1d"), (long long)number(ages, "older"));
    bool fits = strlen(queued) + strlen(by_age) <= (size_t)t->sheet.columns;
    add(&t->sheet, false, "%s%s", queued, fits ? by_age : "");
    if (!fits)
        add(&t->sheet, false, "%s", by_age);
}

static void add_figures(struct top *t)
{
    const json_t *workers = part(t->view, "status", "workers");
    add(&t->sheet, false, "delivered %.1f/s  accepted %.1f/s  deferred %.1f/s  bounced %.1f/s",
        rate(t, "recipients_delivered"), rate(t, "messages_accepted"),
        rate(t, "recipients_deferred"), rate(t, "recipients_bounced"));
    add(&t->sheet, false,
        "connections %lld  submitters %lld  races %lld, won by another %lld  unknown %lld",
        (long long)number(workers, "sessions_open"), (long long)number(workers, "submissions_open"),
        (long long)number(workers, "races_started"),
        (long long)number(workers, "races_won_by_later"),
        (long long)number(workers, "outcomes_unknown"));
    add_queue(t);
}

static void add_fewer_figures(struct top *t)
{
    const json_t *workers = part(t->view, "status", "workers");
    add(&t->sheet, false, "delivered %.0f/s  accepted %.0f/s", rate(t, "recipients_delivered"),
        rate(t, "messages_accepted"));
    add(&t->sheet, false, "deferred %.0f/s  bounced %.0f/s", rate(t, "recipients_deferred"),
        rate(t, "recipients_bounced"));
    add(&t->sheet, false, "queue %lld  connections %lld",
        (long long)number(part(t->view, "status", "spool"), "recipients_queued"),
        (long long)number(workers, "sessions_open"));
}

static void add_head(struct top *t)
{
    char up[40];
    cli_time(up, sizeof up, "up ", number(t->view, "up_ms"), "");
    add(&t->sheet, true, "%s  %s  onward %s%s", cli_text(t->view, "relay"), up,
        cli_text(t->view, "version"),
        json_is_true(part(t->view, "status", "draining")) ? "  DRAINING" : "");
    if (t->sheet.columns >= NARROW_COLUMNS)
        add_figures(t);
    else
        add_fewer_figures(t);
}

/* ---- suspensions ---- */

static void add_suspension(struct sheet *sheet, const json_t *s)
{
    char since[40], left[40] = "until resumed", domain[LINE_MAX_BYTES];
    short_time(since, sizeof since, "since ", number(s, "since_ms"));
    if (json_object_get(s, "left_ms") != NULL)
        short_time(left, sizeof left, "for another ", number(s, "left_ms"));
    fit(domain, sheet->columns < DOMAIN_COLUMNS * 2 ? DOMAIN_COLUMNS / 2 : DOMAIN_COLUMNS,
        json_is_true(json_object_get(s, "all")) ? "all mail" : cli_text(s, "domain"));
    add(sheet, true, "SUSPENDED %s, %s, %s%s%s", domain, since, left,
        cli_text(s, "reason")[0] != '\0' ? ": " : "", cli_text(s, "reason"));
}

static void add_suspensions(struct top *t)
{
    const json_t *list = json_object_get(t->view, "suspended");
    size_t count = json_array_size(list);
    size_t shown = is_small(&t->sheet) ? 1 : SUSPENSIONS_SHOWN;
    for (size_t i = 0; i < count && i < shown; i++)
        add_suspension(&t->sheet, json_array_get(list, i));
    if (count > shown)
        add(&t->sheet, true, "SUSPENDED %zu more; onward suspend list", count - shown);
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

/* A line of the table of exchanges: the name has the columns that the others leave. */
static void add_exchange_cells(struct sheet *s, bool bold, const char *const cells[4],
                               const char *figures)
{
    char middle[LINE_MAX_BYTES], name[LINE_MAX_BYTES], address[IPV6_COLUMNS + 1];
    int width = s->columns >= WIDE_COLUMNS ? IPV6_COLUMNS : IPV4_COLUMNS;
    fit(address, width, cells[1]);
    if (s->columns >= NARROW_COLUMNS)
        (void)snprintf(middle, sizeof middle, " %-*.39s %-8.8s %-9.9s", width, address, cells[2],
                       cells[3]);
    else
        (void)snprintf(middle, sizeof middle, " %-8.8s", cells[2]);
    int room = s->columns - (int)(strlen(middle) + strlen(figures));
    room = room > 0 ? room : 0;
    fit(name, room, cells[0]);
    add(s, bold, "%-*s%s%s", room, name, middle, figures);
}

static void add_exchange(struct sheet *s, const json_t *e)
{
    char again[40] = "", figures[80];
    if (json_is_true(json_object_get(e, "probing")))
        (void)snprintf(again, sizeof again, "probing");
    else if (number(e, "again_ms") > 0)
        short_time(again, sizeof again, "in ", number(e, "again_ms"));
    (void)snprintf(figures, sizeof figures, " %4lld %4lld %4lld", (long long)number(e, "sessions"),
                   (long long)number(e, "races_won"), (long long)number(e, "races_lost"));
    add_exchange_cells(
        s, false,
        (const char *const[]){name_of(e), cli_text(e, "address"), cli_text(e, "state"), again},
        figures);
}

static void add_exchanges(struct top *t, int rows)
{
    const json_t *list = json_object_get(t->view, "exchanges");
    size_t count = json_array_size(list);
    json_t **sorted = calloc(count + 1, sizeof(json_t *));
    add_exchange_cells(&t->sheet, true,
                       (const char *const[]){"EXCHANGE", "ADDRESS", "STATE", "NEXT TRY"},
                       " OPEN  WON LOST");
    for (size_t i = 0; sorted != NULL && i < count; i++)
        sorted[i] = json_array_get(list, i);
    if (sorted != NULL)
        sort(sorted, count, t->order);
    for (size_t i = 0; sorted != NULL && i < count && (int)i < rows; i++)
        add_exchange(&t->sheet, sorted[i]);
    free(sorted);
}

/* ---- domains, failures ---- */

/* A line of the table of domains, whose figures take 44 columns with the mark of a suspension. */
static void add_domain_cells(struct sheet *s, bool bold, const char *domain, const char *figures)
{
    char name[LINE_MAX_BYTES];
    int room = s->columns > 44 ? s->columns - 44 : 0;
    fit(name, room, domain);
    add(s, bold, "%-*s%s", room, name, figures);
}

static void add_domains(struct top *t, int rows)
{
    const json_t *list = part(t->view, "queue", "domains");
    char figures[160];
    (void)snprintf(figures, sizeof figures, " %12s %10s %8s", "RECIPIENTS", "DEFERRED", "OLDEST");
    add_domain_cells(&t->sheet, true, "DOMAIN", figures);
    for (size_t i = 0; i < json_array_size(list) && (int)i < rows; i++) {
        const json_t *d = json_array_get(list, i);
        char oldest[40];
        short_time(oldest, sizeof oldest, "", number(d, "oldest_ms"));
        (void)snprintf(figures, sizeof figures, " %12lld %10lld %8s%s",
                       (long long)number(d, "recipients"), (long long)number(d, "deferred"), oldest,
                       json_is_true(json_object_get(d, "suspended")) ? " suspended" : "");
        add_domain_cells(&t->sheet, false, cli_text(d, "domain"), figures);
    }
}

/* An exchange's columns in the table of failures: the reason has more than half of what is left. */
static int where_columns(const struct sheet *s)
{
    int room = (s->columns - 24) * 2 / 5;
    return room > 6 ? room : 6;
}

static void add_failure(struct sheet *s, const json_t *f)
{
    char ago[40], said[LINE_MAX_BYTES] = "slower than usual";
    const json_t *reply = json_object_get(f, "reply");
    const char *exchange = cli_text(f, "exchange");
    short_time(ago, sizeof ago, "", number(f, "ago_ms"));
    if (reply != NULL && number(reply, "code") > 0)
        (void)snprintf(said, sizeof said, "%lld %s %s", (long long)number(reply, "code"),
                       cli_text(reply, "status"), cli_text(reply, "text"));
    else if (reply != NULL)
        (void)snprintf(said, sizeof said, "%s", cli_text(reply, "text"));
    char where[LINE_MAX_BYTES];
    int width = where_columns(s);
    fit(where, width, exchange[0] != '\0' ? exchange : cli_text(f, "domain"));
    add(s, false, "%7s %5lld %-8.8s %-*s %s", ago, (long long)number(f, "count"),
        cli_text(f, "kind"), width, where, said);
}

static void add_failures(struct top *t, int rows)
{
    const json_t *list = json_object_get(t->view, "failures");
    add(&t->sheet, true, "%7s %5s %-8s %-*s %s", "AGO", "TIMES", "FAILURE",
        where_columns(&t->sheet), "WHERE", "REASON");
    for (size_t i = 0; i < json_array_size(list) && (int)i < rows; i++)
        add_failure(&t->sheet, json_array_get(list, i));
}

static void add_blank(struct sheet *s)
{
    if (!is_small(s))
        add(s, false, "%s", "");
}

/* Each section gets its share of the rows, and what another leaves. */
static void compose(struct top *t, int rows, int columns)
{
    t->sheet.count = 0;
    t->sheet.rows = rows;
    t->sheet.columns = columns;
    add_head(t);
    add_suspensions(t);
    bool small = is_small(&t->sheet);
    int headings = small ? 2 : 6; /* with the blank lines */
    int room = rows - t->sheet.count - headings;
    int domains = (int)json_array_size(part(t->view, "queue", "domains"));
    int failures = (int)json_array_size(json_object_get(t->view, "failures"));
    domains = small ? 0 : domains < room / 4 ? domains : room / 4;
    failures = failures < room * 2 / 5 ? failures : room * 2 / 5;
    add_blank(&t->sheet);
    add_exchanges(t, room - domains - failures);
    add_blank(&t->sheet);
    if (!small) {
        add_domains(t, domains);
        add_blank(&t->sheet);
    }
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
    char keys[LINE_MAX_BYTES], line[LINE_MAX_BYTES];
    (void)snprintf(keys, sizeof keys,
                   COLS < NARROW_COLUMNS + 2
                       ? " q quit   %s: s n o l"
                       : " q quit   %s:  s worst first  n name  o connections  l races lost",
                   order_name(t->order));
    fit(line, COLS, keys);
    (void)attrset(A_REVERSE);
    (void)mvaddstr(LINES - 1, 0, line);
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
