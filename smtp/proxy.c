#include "smtp/proxy.h"

enum { V1_MAX = 107, V2_FIXED = 16 };

static const char v2_signature[12] = "\r\n\r\n\0\r\nQUIT\n";

static bool begins_like(struct slice received, struct slice with)
{
    size_t n = received.len < with.len ? received.len : with.len;
    return memcmp(received.ptr, with.ptr, n) == 0;
}

static struct slice next_word(struct slice *line)
{
    struct slice word = slice_take(*line, slice_find(*line, ' '));
    *line = slice_skip(*line, word.len + 1);
    return word;
}

static bool read_port(struct slice word, uint16_t *port_out)
{
    uint64_t port;
    if (!slice_to_u64(word, &port) || port > 65535 || (word.len > 1 && word.ptr[0] == '0'))
        return false;
    *port_out = (uint16_t)port;
    return true;
}

/* "PROXY TCP4 source destination source-port destination-port\r\n", or "PROXY UNKNOWN ...\r\n" */
static enum proxy_status parse_v1(struct slice received, struct proxy_header *out)
{
    size_t lf = slice_find(received, '\n');
    if (lf >= V1_MAX)
        return PROXY_INVALID;
    if (lf == received.len)
        return PROXY_NEED_MORE;
    if (lf == 0 || received.ptr[lf - 1] != '\r')
        return PROXY_INVALID;
    out->length = lf + 1;
    struct slice line = slice_take(received, lf - 1);
    (void)next_word(&line); /* "PROXY" */
    struct slice family = next_word(&line);
    if (slice_equal(family, SLICE_LIT("UNKNOWN")))
        return PROXY_LOCAL;
    bool v4 = slice_equal(family, SLICE_LIT("TCP4"));
    if (!v4 && !slice_equal(family, SLICE_LIT("TCP6")))
        return PROXY_INVALID;
    struct slice source = next_word(&line), destination = next_word(&line);
    struct slice source_port = next_word(&line);
    if (!address_parse_ip(source, &out->source) ||
        !address_parse_ip(destination, &out->destination) || address_is_v4(&out->source) != v4 ||
        address_is_v4(&out->destination) != v4 || !read_port(source_port, &out->source.port) ||
        !read_port(line, &out->destination.port))
        return PROXY_INVALID;
    return PROXY_OK;
}

static uint16_t read_u16(const char *at)
{
    return (uint16_t)((uint8_t)at[0] << 8 | (uint8_t)at[1]);
}

/* signature, version and command, family and protocol, length; then addresses and options. */
static enum proxy_status parse_v2(struct slice received, struct proxy_header *out)
{
    enum { COMMAND_LOCAL = 0x20, COMMAND_PROXY = 0x21, TCP4 = 0x11, TCP6 = 0x21 };
    if (received.len < V2_FIXED)
        return PROXY_NEED_MORE;
    uint8_t command = (uint8_t)received.ptr[12], family = (uint8_t)received.ptr[13];
    size_t length = read_u16(received.ptr + 14);
    if ((command != COMMAND_LOCAL && command != COMMAND_PROXY) ||
        V2_FIXED + length > PROXY_HEADER_MAX)
        return PROXY_INVALID;
    if (received.len < V2_FIXED + length)
        return PROXY_NEED_MORE;
    out->length = V2_FIXED + length;
    const char *at = received.ptr + V2_FIXED;
    uint8_t ips[2][16];
    if (command == COMMAND_LOCAL || family == 0)
        return PROXY_LOCAL;
    if (family == TCP4 && length >= 12) {
        memcpy(ips[0], at, 4);
        memcpy(ips[1], at + 4, 4);
        out->source = address_from_v4(ips[0], read_u16(at + 8));
        out->destination = address_from_v4(ips[1], read_u16(at + 10));
        return PROXY_OK;
    }
    if (family == TCP6 && length >= 36) {
        memcpy(ips[0], at, 16);
        memcpy(ips[1], at + 16, 16);
        out->source = address_from_v6(ips[0], read_u16(at + 32));
        out->destination = address_from_v6(ips[1], read_u16(at + 34));
        return PROXY_OK;
    }
    return PROXY_INVALID;
}

enum proxy_status proxy_parse(struct slice received, struct proxy_header *out)
{
    static const struct slice v1 = {"PROXY ", 6};
    struct slice v2 = slice_of(v2_signature, sizeof v2_signature);
    *out = (struct proxy_header){0};
    if (received.len == 0)
        return PROXY_NEED_MORE;
    if (begins_like(received, v2))
        return received.len < v2.len ? PROXY_NEED_MORE : parse_v2(received, out);
    if (begins_like(received, v1))
        return received.len < v1.len ? PROXY_NEED_MORE : parse_v1(received, out);
    return PROXY_INVALID;
}
