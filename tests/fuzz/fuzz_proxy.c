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

static enum proxy_status parse(struct slice received, struct proxy_header *out)
{
    struct slice exact = exact_copy(received);
    enum proxy_status status = proxy_parse(exact, out);
    exact_free(exact);
    return status;
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
    ASSERT(parse(slice_of(line, (size_t)len), &again) == PROXY_OK);
    ASSERT(again.length == (size_t)len && same_address(&again.source, &h->source) &&
           same_address(&again.destination, &h->destination));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice all = slice_of(data, size);
    struct proxy_header whole, part;
    enum proxy_status status = parse(all, &whole);
    size_t least = status == PROXY_OK || status == PROXY_LOCAL ? whole.length : size + 1;
    ASSERT(status != PROXY_NEED_MORE || size < PROXY_HEADER_MAX);
    ASSERT(least <= size || status == PROXY_NEED_MORE || status == PROXY_INVALID);
    ASSERT(least == size + 1 || (least > 0 && least <= PROXY_HEADER_MAX));
    if (size < 64 && status == PROXY_INVALID) { /* a prefix is invalid, or too short to tell */
        for (size_t len = 0; len < size; len++) {
            enum proxy_status s = parse(slice_take(all, len), &part);
            ASSERT(s == PROXY_NEED_MORE || s == PROXY_INVALID);
        }
    } else if (least <= size) { /* not one byte less, and the same with what follows cut off */
        ASSERT(parse(slice_take(all, least - 1), &part) == PROXY_NEED_MORE);
        ASSERT(parse(slice_take(all, least), &part) == status && part.length == least);
        ASSERT(same_address(&part.source, &whole.source));
    }
    if (status == PROXY_OK)
        check_text_form(&whole);
    return 0;
}
