#include "workers/cli/cli.h"

#include <fcntl.h>
#include <jemalloc/jemalloc.h>
#include <lmdb.h>
#include <locale.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unbound.h>
#include <unistd.h>
#include <yaml.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *usage;
    const char *help;
};

static const struct command *commands(size_t *count_out)
{
    static const struct command table[] = {
        {"serve", cmd_serve, "serve [-c FILE]", "run the relay in the foreground"},
        {"check-config", cmd_check_config, "check-config [FILE]",
         "say whether a configuration is good, and if not why"},
        {"send", cmd_send, "send [-f SENDER] [-t] RECIPIENT... < MESSAGE",
         "submit a message; compatible with sendmail"},
        {"queue", cmd_queue, "queue [list|show|retry|hold|release|bounce] ...",
         "look into the queue and change it"},
        {"suspend", cmd_suspend, "suspend list|DOMAIN...|--all [--for 2h] [--reason TEXT]",
         "try nothing new at a domain, or anywhere, until resumed"},
        {"resume", cmd_resume, "resume DOMAIN...|--all", "end a suspension"},
        {"health", cmd_health, "health [list|demote ADDRESS [--for 10m]|clear ADDRESS]",
         "what is known of each mail exchange"},
        {"route", cmd_route, "route [--fresh] DOMAIN",
         "a domain's exchanges, in the order they would be tried, and why"},
        {"trace", cmd_trace, "trace [--probe] [--wait 5m] [--from SENDER] [--message FILE] ADDRESS",
         "deliver one message, or go as far as the greeting, and show every step"},
        {"status", cmd_status, "status", "the running relay's figures"},
        {"top", cmd_top, "top", "the relay as it runs: throughput, queue, exchanges, failures"},
    };
    *count_out = sizeof table / sizeof *table;
    return table;
}

int cli_fail(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fputs("onward: ", stderr);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    return status;
}

bool cli_take_options(int *argc, char **argv, struct cli_options *out)
{
    int kept = 0;
    *out = (struct cli_options){.config_path = CLI_CONFIG_DEFAULT};
    for (int i = 0; i < *argc; i++) {
        if (i > 0 && (strcmp(argv[i], "-c") == 0 || strcmp(argv[i], "--config") == 0)) {
            if (++i == *argc) {
                (void)cli_fail(EX_USAGE, "-c needs a file");
                return false;
            }
            out->config_path = argv[i];
        } else if (i > 0 && strcmp(argv[i], "--json") == 0) {
            out->json = true;
        } else {
            argv[kept++] = argv[i];
        }
    }
    *argc = kept;
    argv[kept] = NULL;
    return true;
}

static void print_version(void)
{
    const char *allocator = "unknown";
    size_t size = sizeof(const char *);
#ifndef ONWARD_NO_JEMALLOC
    if (mallctl("version", &allocator, &size, NULL, 0) != 0)
        allocator = "not in use";
#else
    (void)size;
    allocator = "not in use (sanitizer build)";
#endif
    (void)printf("onward %s\n", ONWARD_VERSION);
    (void)printf("  compiler    %s\n", __VERSION__);
    (void)printf("  jemalloc    %s\n", allocator);
    (void)printf("  libunbound  %s\n", ub_version());
    (void)printf("  OpenSSL     %s\n", OpenSSL_version(OPENSSL_VERSION));
    (void)printf("  LMDB        %s\n", mdb_version(NULL, NULL, NULL));
    (void)printf("  libyaml     %s\n", yaml_get_version_string());
}

static bool is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static int print_help(void)
{
    size_t count;
    const struct command *table = commands(&count);
    (void)printf(
        "Onward, an outbound SMTP relay.\n\nusage: onward COMMAND [-c FILE] [--json] ...\n\n");
    for (size_t i = 0; i < count; i++)
        (void)printf("  %s\n        %s\n", table[i].usage, table[i].help);
    (void)printf("\n-c FILE is the configuration (default %s). `man onward` tells more.\n",
                 CLI_CONFIG_DEFAULT);
    return 0;
}

/* What a command does, for `onward COMMAND --help` and `onward help COMMAND`. */
static int print_usage(const struct command *c)
{
    (void)printf("usage: onward %s\n       %s. `man onward` tells more.\n", c->usage, c->help);
    return 0;
}

static const struct command *find_command(const char *name)
{
    size_t count;
    const struct command *table = commands(&count);
    for (size_t i = 0; i < count; i++)
        if (is(name, table[i].name))
            return &table[i];
    return NULL;
}

/* Who starts us with one of them closed would have it given to a file or socket, which then would
 * get what is written to standard error. */
static void hold_standard_descriptors(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        (void)close(fd);
}

int main(int argc, char **argv)
{
    hold_standard_descriptors();
    (void)setlocale(LC_CTYPE, "");
    const char *slash = strrchr(argv[0], '/');
    if (is(slash != NULL ? slash + 1 : argv[0], "sendmail"))
        return cmd_send(argc, argv);
    const struct command *command = argc > 1 ? find_command(argv[argc - 1]) : NULL;
    if (argc == 3 && is(argv[1], "help") && command != NULL)
        return print_usage(command);
    if (argc < 2 || is(argv[1], "help") || is(argv[1], "--help") || is(argv[1], "-h"))
        return argc < 2 ? (print_help(), EX_USAGE) : print_help();
    if (is(argv[1], "--version") || is(argv[1], "version")) {
        print_version();
        return 0;
    }
    command = find_command(argv[1]);
    if (command == NULL)
        return cli_fail(EX_USAGE, "unknown command %s; `onward help` lists them", argv[1]);
    if (argc == 3 && is(argv[2], "--help"))
        return print_usage(command);
    return command->run(argc - 1, argv + 1);
}
