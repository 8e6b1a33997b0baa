#include "workers/cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

enum { ANSWER_WAIT_S = 60 };

static FILE *connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval wait = {.tv_sec = ANSWER_WAIT_S};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || strlen(path) >= sizeof address.sun_path)
        return NULL;
    memcpy(address.sun_path, path, strlen(path) + 1);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    FILE *stream =
        connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fdopen(fd, "r+") : NULL;
    if (stream == NULL) {
        int error = errno;
        (void)close(fd);
        errno = error;
    }
    return stream;
}

/* Reads lines until the last one. Returns 0 or an exit status. */
static int read_answer(FILE *stream, void (*on_line)(void *context, const json_t *line),
                       void *context)
{
    char *text = NULL;
    size_t size = 0;
    ssize_t len;
    int status = -1;
    while (status < 0 && (len = getline(&text, &size, stream)) > 0) {
        json_t *line = json_loadb(text, (size_t)len, 0, NULL);
        const char *error = json_string_value(json_object_get(line, "error"));
        if (line == NULL)
            status = cli_fail(EX_PROTOCOL, "the relay's answer cannot be read");
        else if (error != NULL)
            status = cli_fail(EX_DATAERR, "%s", error);
        else
            on_line(context, line);
        if (status < 0 && json_is_true(json_object_get(line, "done")))
            status = 0;
        json_decref(line);
    }
    free(text);
    return status >= 0 ? status : cli_fail(EX_TEMPFAIL, "the relay did not finish its answer");
}

static int no_relay(const struct cli_options *options, const char *socket)
{
    if (options->quiet)
        return EX_UNAVAILABLE;
    if (errno == EACCES)
        return cli_fail(EX_NOPERM, "no right to use %s; run this as the relay's user or as root",
                        socket);
    return cli_fail(EX_UNAVAILABLE,
                    "no relay answers on %s (%s); start it with `onward serve -c %s`", socket,
                    strerrordesc_np(errno), options->config_path);
}

int cli_ask(const struct cli_options *options, json_t *request,
            void (*on_line)(void *context, const json_t *line), void *context)
{
    struct error error = {{0}};
    struct config *config = config_load(options->config_path, &error);
    if (config == NULL) {
        json_decref(request);
        return cli_fail(EX_CONFIG, "%s", error.text);
    }
    FILE *stream = connect_to(config->control.socket);
    int status;
    if (stream == NULL) {
        status = no_relay(options, config->control.socket);
    } else {
        status = json_dumpf(request, stream, JSON_COMPACT) == 0 && fputc('\n', stream) != EOF &&
                         fflush(stream) == 0
                     ? read_answer(stream, on_line, context)
                     : cli_fail(EX_IOERR, "the relay hung up");
        (void)fclose(stream);
    }
    json_decref(request);
    config_free(&config);
    return status;
}
