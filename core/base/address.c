#include "core/base/address.h"

#include "core/base/assert.h"

#include <arpa/inet.h>
#include <stdio.h>

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

struct address address_from_v4(const uint8_t ip[4], uint16_t port)
{
    struct address a = {.port = port};
    memcpy(a.ip, v4_prefix, sizeof v4_prefix);
    memcpy(a.ip + 12, ip, 4);
    return a;
}

struct address address_from_v6(const uint8_t ip[16], uint16_t port)
{
    struct address a = {.port = port};
    memcpy(a.ip, ip, sizeof a.ip);
    return a;
}

bool address_from_sockaddr(const struct sockaddr *sa, struct address *out)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        *out = address_from_v4((const uint8_t *)&in.sin_addr, ntohs(in.sin_port));
        return true;
    }
    if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof in6);
        *out = address_from_v6((const uint8_t *)&in6.sin6_addr, ntohs(in6.sin6_port));
        return true;
    }
    return false;
}

bool address_is_v4(const struct address *a)
{
    return memcmp(a->ip, v4_prefix, sizeof v4_prefix) == 0;
}

socklen_t address_to_sockaddr(const struct address *a, struct sockaddr_storage *ss_out)
{
    memset(ss_out, 0, sizeof *ss_out);
    if (address_is_v4(a)) {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(a->port)};
        memcpy(&in.sin_addr, a->ip + 12, 4);
        memcpy(ss_out, &in, sizeof in);
        return sizeof in;
    }
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(a->port)};
    memcpy(&in6.sin6_addr, a->ip, 16);
    memcpy(ss_out, &in6, sizeof in6);
    return sizeof in6;
}

bool address_is_unspecified(const struct address *a)
{
    for (size_t i = address_is_v4(a) ? sizeof v4_prefix : 0; i < sizeof a->ip; i++)
        if (a->ip[i] != 0)
            return false;
    return true;
}

bool address_same_ip(const struct address *a, const struct address *b)
{
    return memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

/* Each message has its addresses written five times, and glibc's inet_ntop does it by sprintf. */
static void format_v4(const uint8_t ip[4], char *out)
{
    for (int i = 0; i < 4; i++) {
        if (ip[i] >= 100)
            *out++ = (char)('0' + ip[i] / 100);
        if (ip[i] >= 10)
            *out++ = (char)('0' + ip[i] / 10 % 10);
        *out++ = (char)('0' + ip[i] % 10);
        *out++ = i < 3 ? '.' : '\0';
    }
}

void address_format_ip(const struct address *a, char out[ADDRESS_TEXT_SIZE])
{
    if (address_is_v4(a)) {
        format_v4(a->ip + 12, out);
        return;
    }
    const char *text = inet_ntop(AF_INET6, a->ip, out, ADDRESS_TEXT_SIZE);
    ASSERT(text != NULL);
}

void address_format(const struct address *a, char out[ADDRESS_TEXT_SIZE])
{
    char ip[ADDRESS_TEXT_SIZE];
    address_format_ip(a, ip);
    int len = snprintf(out, ADDRESS_TEXT_SIZE, address_is_v4(a) ? "%s:%u" : "[%s]:%u", ip,
                       (unsigned)a->port);
    ASSERT(len > 0 && len < ADDRESS_TEXT_SIZE);
}

bool address_parse_ip(struct slice text, struct address *out)
{
    char z[ADDRESS_TEXT_SIZE];
    uint8_t ip[16];
    if (!slice_to_cstr(text, z, sizeof z))
        return false;
    if (inet_pton(AF_INET, z, ip) == 1) {
        *out = address_from_v4(ip, 0);
        return true;
    }
    if (inet_pton(AF_INET6, z, ip) == 1) {
        *out = address_from_v6(ip, 0);
        return true;
    }
    return false;
}

bool address_parse(struct slice text, struct address *out)
{
    size_t colon = text.len;
    for (size_t i = 0; i < text.len; i++)
        if (text.ptr[i] == ':')
            colon = i;
    uint64_t port;
    if (colon == text.len || !slice_to_u64(slice_skip(text, colon + 1), &port) || port > 65535)
        return false;
    struct slice host = slice_take(text, colon);
    if (slice_equal(host, SLICE_LIT("*"))) {
        *out = (struct address){0};
    } else if (host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']') {
        if (!address_parse_ip(slice_of(host.ptr + 1, host.len - 2), out))
            return false;
    } else if (slice_find(host, ':') < host.len || !address_parse_ip(host, out)) {
        return false;
    }
    out->port = (uint16_t)port;
    return true;
}

static bool bit(const uint8_t ip[16], unsigned index)
{
    return (ip[index / 8] >> (7 - index % 8) & 1) != 0;
}

bool address_net_parse(struct slice text, struct address_net *out)
{
    size_t slash = slice_find(text, '/');
    struct address a;
    if (!address_parse_ip(slice_take(text, slash), &a))
        return false;
    unsigned base = address_is_v4(&a) ? 96 : 0;
    uint64_t bits = 128 - base;
    if (slash < text.len &&
        (!slice_to_u64(slice_skip(text, slash + 1), &bits) || bits > 128 - base))
        return false;
    for (unsigned i = base + (unsigned)bits; i < 128; i++)
        if (bit(a.ip, i))
            return false;
    memcpy(out->ip, a.ip, sizeof out->ip);
    out->prefix_bits = (uint8_t)(base + bits);
    return true;
}

bool address_net_contains(const struct address_net *net, const struct address *a)
{
    unsigned whole = net->prefix_bits / 8;
    if (memcmp(net->ip, a->ip, whole) != 0)
        return false;
    unsigned rest = net->prefix_bits % 8;
    return rest == 0 || ((net->ip[whole] ^ a->ip[whole]) >> (8 - rest)) == 0;
}

bool address_parse_literal(struct slice text, struct address *out)
{
    if (text.len < 3 || text.ptr[0] != '[' || text.ptr[text.len - 1] != ']')
        return false;
    struct slice inner = slice_of(text.ptr + 1, text.len - 2);
    bool tagged = slice_starts_nocase(inner, SLICE_LIT("IPv6:"));
    if (tagged)
        inner = slice_skip(inner, 5);
    /* RFC 5321 4.1.3: the tag stands before an IPv6 address and never before an IPv4 one. */
    return tagged == (slice_find(inner, ':') < inner.len) && address_parse_ip(inner, out);
}
