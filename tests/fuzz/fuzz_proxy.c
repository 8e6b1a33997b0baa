/* Any bytes as a PROXY header: nothing is decided before it can be, what was decided holds whatever
 * follows, and what it names, written as a text header, reads the same. */
#include "smtp/proxy.h"

#include "tests/fuzz/exact.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same_address(const struct address *a, const struct address *b)
{
    return address_same_ip(a, b) && a->port == b->port;
}

static void check_text_form(const struct proxy_header *h)
{
    char source[ADDRESS_TEXT_SIZE], destination[ADDRESS_TEXT_SIZE], line[256];
    struct proxy_header again;
    bool v4 = address_is_v4(&h->source);
    if (v4 != address_is_v4(&h->destination))
        return; /* a binary header of mapped addresses: the text form has none for it */
    address_format_ip(&h->source, source);
    address_format_ip(&h->destination, destination);
    int len = snprintf(line, sizeof line, "PROXY %s %s %s %u %u\r\n", v4 ? "TCP4" : "TCP6", source,
                       destination, (unsigned)h->source.port, (unsigned)h->destination.port);
    ASSERT(len > 0 && len <= 107);
    ASSERT(proxy_parse(slice_of(line, (size_t)len), &again) == PROXY_OK);
    ASSERT(again.length == (size_t)len && same_address(&again.source, &h->source) &&
           same_address(&again.destination, &h->destination));
}

/* Nothing but the whole decides: a prefix of what is invalid is invalid, or too short to tell; of
 * what is taken there is not one byte less, and it reads the same with what follows cut off. */
static void check_prefixes(struct slice all, enum proxy_status status,
                           const struct proxy_header *whole, size_t least)
{
    struct exact_block block = exact_block_create(all.len);
    struct proxy_header part;
    if (all.len < 64 && status == PROXY_INVALID) {
        for (size_t len = 0; len < all.len; len++) {
            enum proxy_status s = proxy_parse(exact_put(&block, slice_take(all, len)), &part);
            ASSERT(s == PROXY_NEED_MORE || s == PROXY_INVALID);
        }
    } else if (least <= all.len) {
        struct slice less = exact_put(&block, slice_take(all, least - 1));
        ASSERT(proxy_parse(less, &part) == PROXY_NEED_MORE);
        struct slice just = exact_put(&block, slice_take(all, least));
        ASSERT(proxy_parse(just, &part) == status && part.length == least);
        ASSERT(same_address(&part.source, &whole->source));
    }
    exact_block_destroy(&block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice all = slice_of(data, size);
    struct proxy_header whole;
    enum proxy_status status = proxy_parse(all, &whole);
    size_t least = status == PROXY_OK || status == PROXY_LOCAL ? whole.length : size + 1;
    ASSERT(status != PROXY_NEED_MORE || size < PROXY_HEADER_MAX);
    ASSERT(least <= size || status == PROXY_NEED_MORE || status == PROXY_INVALID);
    ASSERT(least == size + 1 || (least > 0 && least <= PROXY_HEADER_MAX));
    check_prefixes(all, status, &whole, least);
    if (status == PROXY_OK)
        check_text_form(&whole);
    return 0;
}
