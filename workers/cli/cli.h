/* The command line: one function per command, each `int cmd_x(int argc, char **argv)`, argv[0]
 * being the command's own name; they return an exit status (sysexits). */
#ifndef ONWARD_WORKERS_CLI_CLI_H
#define ONWARD_WORKERS_CLI_CLI_H

#include "core/base/slice.h"
#include "core/config/config.h"

#include <jansson.h>

#define CLI_CONFIG_DEFAULT "/etc/onward/onward.yaml"

/* Options every command takes, read off the front of its arguments. */
struct cli_options {
    const char *config_path;
    bool json;
    bool quiet; /* no word where no relay runs */
};

/* The commands. */
int cmd_serve(int argc, char **argv);
int cmd_check_config(int argc, char **argv);
int cmd_send(int argc, char **argv);
int cmd_queue(int argc, char **argv);
int cmd_suspend(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_health(int argc, char **argv);
int cmd_route(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_top(int argc, char **argv);

/* Takes "-c FILE", "--config FILE" and "--json" out of argv wherever they stand; the rest moves up.
 * False, having said so, where an option lacks its value. */
bool cli_take_options(int *argc, char **argv, struct cli_options *out);

/* "onward: ..." on standard error; returns `status`. */
int cli_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- the running relay (client.c) ---- */

/* Sends `request` (taken over) to the relay of the configuration and hands each line of the answer
 * to `on_line`; the last one, which has "done", too. Returns 0, or an exit status, having said why.
 */
int cli_ask(const struct cli_options *options, json_t *request,
            void (*on_line)(void *context, const json_t *line), void *context);

/* ---- for people's eyes (table.c) ---- */

/* What a sender or a peer wrote, for a terminal: what is no text, commands it or hides becomes '?'.
 * As much as fits into `size`, and a NUL; `out` may be where `text` lies. Returns `out`. */
char *cli_printable(struct slice text, char *out, size_t size);

struct table;

struct table *table_create(const char *const *headings);   /* NULL-terminated */
void table_add(struct table *t, const char *const *cells); /* as many; NULL is "-" */
void table_print(struct table *t); /* aligned; nothing where no row was added */
void table_destroy(struct table **t);

/* Strings of a JSON object for cells; "" where missing. */
const char *cli_text(const json_t *object, const char *key);

/* "in 4m10s", "3h ago" */
void cli_time(char *out, size_t size, const char *before, json_int_t ms, const char *after);

#endif
