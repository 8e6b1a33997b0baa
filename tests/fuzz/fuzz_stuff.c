/* Any content through the dot stuffing, cut anywhere and written anyhow: the same as a naive
 * encoder gives. The first bytes choose cuts and writes. */
#include "smtp/stuff.h"

#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t naive(struct slice content, char *wire)
{
    size_t len = 0;
    for (size_t i = 0; i < content.len; i++) {
        if (content.ptr[i] == '.' && (i == 0 || content.ptr[i - 1] == '\n'))
            wire[len++] = '.';
        wire[len++] = content.ptr[i];
    }
    return len;
}

/* Encodes one part of the content. */
static size_t encode(struct stuff_state *s, struct slice rest, size_t write_max, char *wire)
{
    size_t at = 0;
    while (rest.len > 0) {
        bool is_extra = false;
        struct slice run = stuff_next(s, rest, &is_extra);
        size_t len = run.len < write_max ? run.len : write_max;
        ASSERT(len > 0);
        memcpy(wire + at, run.ptr, len);
        at += len;
        stuff_sent(s, run, len, is_extra);
        if (!is_extra)
            rest = slice_skip(rest, len);
    }
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    struct slice content = slice_of(data + 2, size - 2);
    size_t piece = 1u + data[0], write_max = data[1] == 0 ? SIZE_MAX : data[1];
    char *expected = malloc(2 * content.len), *wire = malloc(2 * content.len);
    ASSERT(expected != NULL && wire != NULL);
    size_t expected_len = naive(content, expected), len = 0;
    struct stuff_state s = {0};
    struct exact_block block = exact_block_create(exact_min(piece, content.len));
    for (size_t at = 0; at < content.len; at += piece)
        len += encode(&s, exact_put(&block, slice_take(slice_skip(content, at), piece)), write_max,
                      wire + len);
    exact_block_destroy(&block);
    ASSERT(len == expected_len && memcmp(wire, expected, len) == 0);
    free(expected);
    free(wire);
    return 0;
}
