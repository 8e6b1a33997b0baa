#include "smtp/address.h"

#include "core/base/utf8.h"

#include <stdio.h>

enum { ROUTE_BYTES_MAX = 256 }; /* of a source route */

static bool is_high(char c)
{
    return (unsigned char)c >= 0x80;
}

/* RFC 5322 3.2.3 atext; UTF-8 is judged apart. */
static bool is_atext(char c)
{
    if (is_high(c))
        return true;
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
        return true;
    return c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL;
}

static bool is_domain_char(char c)
{
    return is_high(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_'; /* underscore: not of the RFC, but of the world */
}

/* Length of the quoted string at the front, with its quotes; 0 where it is none. */
static size_t quoted_length(struct slice s)
{
    for (size_t i = 1; i < s.len; i++) {
        char c = s.ptr[i];
        if (c == '"')
            return i + 1;
        if (c == '\\') {
            if (++i == s.len || s.ptr[i] < ' ' || s.ptr[i] > '~')
                return 0;
        } else if ((c < ' ' || c > '~') && !is_high(c)) {
            return 0;
        }
    }
    return 0;
}

static size_t dot_string_length(struct slice s)
{
    size_t n = 0;
    while (n < s.len && (is_atext(s.ptr[n]) || s.ptr[n] == '.'))
        n++;
    return n;
}

static size_t local_length(struct slice s)
{
    if (s.len == 0)
        return 0;
    return s.ptr[0] == '"' ? quoted_length(s) : dot_string_length(s);
}

static size_t domain_length(struct slice s)
{
    if (s.len > 0 && s.ptr[0] == '[') {
        size_t close = slice_find(s, ']');
        for (size_t i = 1; i < close; i++)
            if (s.ptr[i] <= ' ' || s.ptr[i] > '~' || s.ptr[i] == '[' || s.ptr[i] == '\\')
                return 0;
        return close < s.len ? close + 1 : 0;
    }
    size_t n = 0;
    while (n < s.len && is_domain_char(s.ptr[n]))
        n++;
    return n;
}

/* Reads a mailbox off the front of `*s`. */
static enum smtp_address_error read_mailbox(struct slice *s, bool allow_utf8,
                                            struct smtp_address *out)
{
    size_t local = local_length(*s);
    if (local == 0)
        return SMTP_ADDRESS_SYNTAX;
    size_t domain = 0, end = local;
    if (local < s->len && s->ptr[local] == '@') {
        domain = domain_length(slice_skip(*s, local + 1));
        end = local + 1 + domain;
        bool final_dot = domain > 0 && s->ptr[end - 1] == '.';
        domain -= final_dot;
        if (domain == 0 || s->ptr[local + domain] == '.')
            return SMTP_ADDRESS_SYNTAX;
    }
    out->local = slice_take(*s, local);
    out->domain = slice_take(slice_skip(*s, local + 1), domain);
    out->mailbox = slice_take(*s, local + (domain > 0) + domain);
    *s = slice_skip(*s, end);
    if (out->mailbox.len > SMTP_ADDRESS_MAX)
        return SMTP_ADDRESS_TOO_LONG;
    out->has_utf8 = utf8_has_high(out->mailbox);
    if (out->has_utf8 && (!allow_utf8 || !utf8_is_valid(out->mailbox)))
        return SMTP_ADDRESS_UTF8;
    return SMTP_ADDRESS_OK;
}

/* "@one,@two:" in front of a mailbox: accepted and dropped. False where it begins but
 * does not end. */
static bool skip_source_route(struct slice *s)
{
    if (s->len == 0 || s->ptr[0] != '@')
        return true;
    size_t colon = slice_find(*s, ':');
    struct slice route = slice_take(*s, colon);
    for (size_t i = 0; i < route.len; i++)
        if (!is_domain_char(route.ptr[i]) && route.ptr[i] != '@' && route.ptr[i] != ',')
            return false;
    *s = slice_skip(*s, colon + 1);
    return colon < ROUTE_BYTES_MAX && route.len > 1;
}

enum smtp_address_error smtp_address_read_path(struct slice *input, bool allow_null,
                                               bool allow_utf8, struct smtp_address *out)
{
    *out = (struct smtp_address){
        .mailbox = SLICE_LIT(""), .local = SLICE_LIT(""), .domain = SLICE_LIT("")};
    struct slice s = *input;
    if (s.len == 0 || s.ptr[0] != '<')
        return SMTP_ADDRESS_SYNTAX;
    s = slice_skip(s, 1);
    if (allow_null && s.len > 0 && s.ptr[0] == '>') {
        *input = slice_skip(s, 1);
        return SMTP_ADDRESS_OK;
    }
    if (!skip_source_route(&s))
        return SMTP_ADDRESS_SYNTAX;
    enum smtp_address_error error = read_mailbox(&s, allow_utf8, out);
    if (error != SMTP_ADDRESS_OK)
        return error;
    if (s.len == 0 || s.ptr[0] != '>')
        return SMTP_ADDRESS_SYNTAX;
    *input = slice_skip(s, 1);
    return SMTP_ADDRESS_OK;
}

enum smtp_address_error smtp_address_read_mailbox(struct slice text, bool allow_utf8,
                                                  struct smtp_address *out)
{
    *out = (struct smtp_address){
        .mailbox = SLICE_LIT(""), .local = SLICE_LIT(""), .domain = SLICE_LIT("")};
    enum smtp_address_error error = read_mailbox(&text, allow_utf8, out);
    return error == SMTP_ADDRESS_OK && text.len > 0 ? SMTP_ADDRESS_SYNTAX : error;
}

struct slice smtp_address_on_wire(const struct smtp_address *a, const char *domain,
                                  char room[SMTP_ADDRESS_MAX + 1])
{
    size_t len = a->local.len + 1 + strlen(domain);
    if (!utf8_has_high(a->domain) || utf8_has_high(a->local) || len > SMTP_ADDRESS_MAX)
        return a->mailbox;
    (void)snprintf(room, SMTP_ADDRESS_MAX + 1, "%.*s@%s", SLICE_ARG(a->local), domain);
    return slice_of(room, len);
}
