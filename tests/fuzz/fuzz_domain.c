/* Any bytes as a domain: what is taken is in normal form, so taking it again changes nothing. */
#include "core/domain.h"

#include "core/base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char once[DOMAIN_SIZE], twice[DOMAIN_SIZE];
    if (domain_normalize(slice_of(data, size), once)) {
        size_t len = strnlen(once, sizeof once);
        ASSERT(len > 0 && len <= 253);
        ASSERT(domain_normalize(slice_of(once, len), twice));
        ASSERT(strcmp(once, twice) == 0);
        for (size_t i = 0; i < len; i++)
            ASSERT(once[i] > ' ' && once[i] < 0x7f &&
                   !(once[i] >= 'A' && once[i] <= 'Z' && once[0] != '['));
    }
    return 0;
}
