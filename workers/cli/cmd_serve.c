#include "workers/cli/cli.h"
#include "workers/relay.h"

#include <stdio.h>
#include <sysexits.h>

int cmd_serve(int argc, char **argv)
{
    struct cli_options options;
    if (!cli_take_options(&argc, argv, &options))
        return EX_USAGE;
    if (argc > 1)
        return cli_fail(EX_USAGE, "serve takes no argument %s; usage: onward serve [-c FILE]",
                        argv[1]);
    return relay_serve(options.config_path);
}

int cmd_check_config(int argc, char **argv)
{
    struct cli_options options;
    struct error error = {{0}};
    if (!cli_take_options(&argc, argv, &options))
        return EX_USAGE;
    if (argc > 2 || (argc == 2 && argv[1][0] == '-'))
        return cli_fail(EX_USAGE, "usage: onward check-config [FILE]");
    const char *path = argc > 1 ? argv[1] : options.config_path;
    struct config *config = config_load(path, &error);
    if (config == NULL)
        return cli_fail(EX_CONFIG, "%s", error.text);
    (void)printf("%s is good: %s, %u listener%s, spool %s\n", path, config->hostname,
                 config->submission.listener_count,
                 config->submission.listener_count == 1 ? "" : "s", config->spool.path);
    config_free(&config);
    return 0;
}
