#include "bench/tools/mark.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FIELD_MAX = 96 };

uint64_t mark_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t mark_hash(uint64_t hash, const char *text, size_t len)
{
    if (hash == 0)
        hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
    return hash != 0 ? hash : 1;
}

size_t mark_write(char *out, char group, uint64_t number, uint64_t sent_ns, uint64_t body_bytes,
                  uint64_t checksum)
{
    int len = snprintf(out, MARK_BYTES_MAX,
                       "X-Id: %c%" PRIu64 "\r\nX-Mark: %" PRIu64 " %" PRIu64 " %" PRIx64 "\r\n",
                       group, number, sent_ns, body_bytes, checksum);
    return (size_t)len;
}

/* Copies the value of the field `name` (with its CRLF in front and ": " behind) as a string. */
static bool find_field(const char *header, size_t len, const char *name, char value[FIELD_MAX])
{
    size_t name_len = strlen(name);
    const char *at = memmem(header, len, name, name_len);
    if (at == NULL)
        return false;
    at += name_len;
    const char *end = memchr(at, '\r', len - (size_t)(at - header));
    if (end == NULL || end == at || end - at >= FIELD_MAX)
        return false;
    memcpy(value, at, (size_t)(end - at));
    value[end - at] = '\0';
    return true;
}

bool mark_read(const char *header, size_t len, struct mark *out)
{
    char value[FIELD_MAX];
    *out = (struct mark){0};
    if (!find_field(header, len, "\r\nX-Id: ", value) || !islower((unsigned char)value[0]))
        return false;
    out->group = (unsigned)(value[0] - 'a');
    out->id_hash = mark_hash(0, value, strlen(value));
    if (!find_field(header, len, "\r\nX-Mark: ", value))
        return true;
    char *end = value;
    out->sent_ns = strtoull(end, &end, 10);
    out->body_bytes = strtoull(end, &end, 10);
    out->checksum = strtoull(end, &end, 16);
    out->verifiable = *end == '\0';
    return true;
}
