/* Any bytes as a path, a mailbox, an address literal, xtext: what is taken lies within them, has
 * its parts joined as RFC 5321 4.1.2 says, ends no line, and read again gives itself. */
#include "smtp/address.h"

#include "core/base/utf8.h"
#include "core/domain.h"
#include "smtp/xtext.h"
#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DECODED_MAX = 1 << 20 };

static void check_address(const struct smtp_address *a, struct slice text, bool allow_utf8)
{
    ASSERT(lies_within(a->mailbox, text) && lies_within(a->local, a->mailbox) &&
           lies_within(a->domain, a->mailbox));
    size_t at = a->domain.len > 0 ? 1 : 0;
    ASSERT(a->mailbox.len == a->local.len + at + a->domain.len);
    ASSERT(at == 0 || a->mailbox.ptr[a->local.len] == '@');
    ASSERT(a->mailbox.len <= 254 && a->domain.len <= 255);
    ASSERT(is_one_line(a->mailbox));
    ASSERT(a->has_utf8 == utf8_has_high(a->mailbox));
    ASSERT(!a->has_utf8 || (allow_utf8 && utf8_is_valid(a->mailbox)));
    if (a->local.len > 0 && a->local.ptr[0] != '"') /* what needs quotes has them */
        for (size_t i = 0; i < a->local.len; i++)
            ASSERT(strchr(" ()<>[]:;@\\,\"", a->local.ptr[i]) == NULL);
}

/* A normal form is its own normal form, and fit for DNS and for a log. */
static void check_domain(struct slice domain)
{
    char once[DOMAIN_SIZE], twice[DOMAIN_SIZE];
    if (!domain_normalize(domain, once))
        return;
    ASSERT(domain_normalize(slice_str(once), twice) && strcmp(once, twice) == 0);
    for (const char *c = once; *c != '\0'; c++)
        ASSERT(*c > ' ' && *c < 0x7f && (*c < 'A' || *c > 'Z' || once[0] == '['));
}

static void check_mailbox(struct slice text, bool allow_utf8)
{
    struct smtp_address a;
    if (smtp_address_read_mailbox(text, allow_utf8, &a) != SMTP_ADDRESS_OK)
        return;
    bool final_dot = a.mailbox.len + 1 == text.len && text.ptr[a.mailbox.len] == '.';
    ASSERT(slice_equal(a.mailbox, slice_take(text, text.len - final_dot)));
    check_address(&a, text, allow_utf8);
}

static void check_path(struct slice text, bool allow_null, bool allow_utf8)
{
    struct smtp_address a, again;
    struct slice rest = text;
    if (smtp_address_read_path(&rest, allow_null, allow_utf8, &a) != SMTP_ADDRESS_OK) {
        ASSERT(rest.ptr == text.ptr && rest.len == text.len);
        return;
    }
    ASSERT(rest.len < text.len && rest.ptr + rest.len == text.ptr + text.len);
    ASSERT(rest.ptr[-1] == '>');
    ASSERT(allow_null || a.mailbox.len > 0);
    check_address(&a, text, allow_utf8);
    if (a.mailbox.len == 0)
        return;
    check_domain(a.domain);
    ASSERT(smtp_address_read_mailbox(a.mailbox, allow_utf8, &again) == SMTP_ADDRESS_OK);
    ASSERT(slice_equal(a.mailbox, again.mailbox) && slice_equal(a.domain, again.domain));
}

static void check_xtext(struct slice text)
{
    struct buf out;
    if (!xtext_is_valid(text))
        return;
    buf_init(&out, DECODED_MAX);
    xtext_decode(text, &out);
    ASSERT(buf_len(&out) <= text.len && is_one_line(buf_slice(&out)));
    ASSERT(!utf8_has_high(buf_slice(&out)));
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct slice text = slice_of(data + 1, size - 1);
    check_mailbox(text, (data[0] & 1) != 0);
    check_path(text, (data[0] & 2) != 0, (data[0] & 1) != 0);
    check_xtext(text);
    return 0;
}
