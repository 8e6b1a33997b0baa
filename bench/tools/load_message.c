#include "bench/tools/load_message.h"
#include "bench/tools/mark.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    HEADER_BYTES = 330, /* about what the header section and the first line come to */
    COMMAND_BYTES = 512,
};

static const char second_line[] = ".this line begins with a dot\r\n";
static const char line[] =
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eius.\r\n";

struct messages {
    struct message_options options;
    char *tail; /* a dot, the shared rest of the body, and the final dot */
    size_t rest_bytes;
};

struct messages *messages_create(const struct message_options *options)
{
    struct messages *m = calloc(1, sizeof *m);
    size_t wanted = options->size_bytes > HEADER_BYTES ? options->size_bytes - HEADER_BYTES : 0;
    size_t line_len = sizeof line - 1, second_len = sizeof second_line - 1;
    size_t lines = wanted > second_len ? (wanted - second_len) / line_len : 0;
    if (m == NULL)
        abort();
    m->options = *options;
    m->rest_bytes = second_len + lines * line_len;
    m->tail = malloc(1 + m->rest_bytes + sizeof ".\r\n");
    if (m->tail == NULL)
        abort();
    m->tail[0] = '.';
    memcpy(m->tail + 1, second_line, second_len);
    for (size_t i = 0; i < lines; i++)
        memcpy(m->tail + 1 + second_len + i * line_len, line, line_len);
    memcpy(m->tail + 1 + m->rest_bytes, ".\r\n", sizeof ".\r\n");
    return m;
}

size_t messages_commands_max(const struct messages *m)
{
    return COMMAND_BYTES * (size_t)(m->options.recipients + 2);
}

size_t messages_commands(const struct messages *m, uint64_t number, char *out)
{
    const struct message_options *o = &m->options;
    uint64_t domain = number % o->domains;
    int len = snprintf(out, COMMAND_BYTES, "MAIL FROM:<sender@postbox.%s>\r\n", o->origin);
    for (unsigned i = 0; i < o->recipients; i++)
        len += snprintf(out + len, COMMAND_BYTES, "RCPT TO:<r%u@%s%" PRIu64 ".%s>\r\n", i, o->label,
                        domain, o->origin);
    len += snprintf(out + len, COMMAND_BYTES, "DATA\r\n");
    return (size_t)len;
}

static uint64_t checksum_of(const struct messages *m, const char *first_line, size_t len)
{
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    (void)XXH3_64bits_reset(&state);
    (void)XXH3_64bits_update(&state, first_line, len);
    (void)XXH3_64bits_update(&state, m->tail + 1, m->rest_bytes);
    return XXH3_64bits_digest(&state);
}

size_t messages_head(const struct messages *m, uint64_t number, uint64_t sent_ns, char *out)
{
    const struct message_options *o = &m->options;
    char first_line[64], mark[MARK_BYTES_MAX];
    uint64_t id = o->first + number;
    int first_len =
        snprintf(first_line, sizeof first_line, "This is message %c%" PRIu64 ".\r\n", o->group, id);
    mark[mark_write(mark, o->group, id, sent_ns, m->rest_bytes + (size_t)first_len,
                    checksum_of(m, first_line, (size_t)first_len))] = '\0';
    int len = snprintf(out, MESSAGE_HEAD_MAX,
                       "From: Sender <sender@postbox.%s>\r\nTo: undisclosed-recipients:;\r\n"
                       "Subject: notification %" PRIu64 "\r\nMessage-ID: <%c%" PRIu64 ".%" PRIu64
                       "@postbox.%s>\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n%s\r\n%s",
                       o->origin, id, o->group, id, sent_ns, o->origin, mark, first_line);
    return (size_t)len;
}

const char *messages_tail(const struct messages *m, size_t *len_out)
{
    *len_out = 1 + m->rest_bytes + sizeof ".\r\n" - 1;
    return m->tail;
}
