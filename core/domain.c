#include "core/domain.h"

#include "core/base/address.h"
#include "core/base/assert.h"

#include <idn2.h>
#include <stdio.h>

enum {
    NAME_LEN_MAX = 253, /* 255 octets on the wire (RFC 1035 3.1) are 253 characters of text */
    LABEL_LEN_MAX = 63,
    U_NAME_LEN_MAX = 1024, /* no U-label name of 253 characters in A-labels is longer in UTF-8 */
};

static_assert((int)NAME_LEN_MAX < (int)DOMAIN_SIZE, "a name and its NUL fit");

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* RFC 5321 4.1.2 allows letters, digits and inner hyphens. Underscores are taken as well: real host
 * names have them, and DNS does not mind. */
static bool label_is_valid(struct slice label)
{
    if (label.len == 0 || label.len > LABEL_LEN_MAX)
        return false;
    for (size_t i = 0; i < label.len; i++) {
        char c = lower(label.ptr[i]);
        if (!((c >= 'a' && c <= 'z') || is_digit(c) || c == '-' || c == '_'))
            return false;
    }
    return label.ptr[0] != '-' && label.ptr[label.len - 1] != '-';
}

static bool is_numeric(struct slice label)
{
    for (size_t i = 0; i < label.len; i++)
        if (!is_digit(label.ptr[i]))
            return false;
    return true;
}

static bool normalize_ascii(struct slice name, char out[DOMAIN_SIZE])
{
    if (name.len > 0 && name.ptr[name.len - 1] == '.')
        name.len--;
    if (name.len == 0 || name.len > NAME_LEN_MAX)
        return false;
    struct slice rest = name;
    for (;;) {
        size_t dot = slice_find(rest, '.');
        struct slice label = slice_take(rest, dot);
        if (!label_is_valid(label))
            return false;
        if (dot == rest.len) {
            /* No top-level domain is all digits (RFC 3696 2): this is an address without its
             * brackets. */
            if (is_numeric(label))
                return false;
            break;
        }
        rest = slice_skip(rest, dot + 1);
    }
    for (size_t i = 0; i < name.len; i++)
        out[i] = lower(name.ptr[i]);
    out[name.len] = '\0';
    return true;
}

static bool normalize_idn(struct slice name, char out[DOMAIN_SIZE])
{
    char text[U_NAME_LEN_MAX + 1];
    if (!slice_to_cstr(name, text, sizeof text))
        return false;
    uint8_t *ascii = NULL;
    int rc = idn2_lookup_u8((const uint8_t *)text, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    /* The mapping makes plain ASCII of look-alikes (a full-width "@", "/" or digit), so what comes
     * out is checked as strictly as what was ASCII from the start. */
    bool valid = rc == IDN2_OK && normalize_ascii(slice_str((const char *)ascii), out);
    idn2_free(ascii);
    return valid;
}

static bool normalize_literal(struct slice literal, char out[DOMAIN_SIZE])
{
    struct address a;
    if (!address_parse_literal(literal, &a))
        return false;
    char ip[ADDRESS_TEXT_SIZE];
    address_format_ip(&a, ip);
    int len = snprintf(out, DOMAIN_SIZE, address_is_v4(&a) ? "[%s]" : "[IPv6:%s]", ip);
    ASSERT(len > 0 && len < DOMAIN_SIZE);
    return true;
}

static bool is_ascii(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] >= 0x80)
            return false;
    return true;
}

bool domain_normalize(struct slice domain, char out[DOMAIN_SIZE])
{
    if (domain.len > 0 && domain.ptr[0] == '[')
        return normalize_literal(domain, out);
    return is_ascii(domain) ? normalize_ascii(domain, out) : normalize_idn(domain, out);
}
