/* Dot stuffing (RFC 5321 4.5.2) against an encoder that is too simple to be wrong, for every
 * content of a few symbols, at every split of content and of writes. */
#include "smtp/stuff.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { CONTENT_MAX = 64, WIRE_MAX = 2 * CONTENT_MAX };

struct wire {
    char bytes[WIRE_MAX];
    size_t len;
    unsigned runs;
};

static void naive(struct slice content, struct wire *w)
{
    w->len = 0;
    for (size_t i = 0; i < content.len; i++) {
        if (content.ptr[i] == '.' && (i == 0 || content.ptr[i - 1] == '\n'))
            w->bytes[w->len++] = '.';
        w->bytes[w->len++] = content.ptr[i];
    }
}

/* Encodes one part, as a socket that takes at most `write_max` bytes at once would see it. */
static void encode(struct stuff_state *s, struct slice part, size_t write_max, struct wire *w)
{
    while (part.len > 0) {
        bool is_extra = false;
        struct slice run = stuff_next(s, part, &is_extra);
        size_t len = run.len < write_max ? run.len : write_max;
        assert_true(len > 0 && w->len + len <= WIRE_MAX);
        assert_true(is_extra || (run.ptr == part.ptr && run.len <= part.len));
        memcpy(w->bytes + w->len, run.ptr, len);
        w->len += len;
        w->runs++;
        stuff_sent(s, run, len, is_extra);
        if (!is_extra)
            part = slice_skip(part, len);
    }
}

static void expect_wire(const struct wire *got, const struct wire *expected)
{
    assert_true(
        slice_equal(slice_of(got->bytes, got->len), slice_of(expected->bytes, expected->len)));
}

static void check_all_splits(struct slice content)
{
    struct wire expected;
    naive(content, &expected);
    static const size_t writes[] = {SIZE_MAX, 1, 2, 3};
    for (size_t cut = 0; cut <= content.len; cut++)
        for (size_t i = 0; i < sizeof writes / sizeof *writes; i++) {
            struct stuff_state s = {0};
            struct wire w = {.len = 0};
            encode(&s, slice_take(content, cut), writes[i], &w);
            encode(&s, slice_skip(content, cut), writes[i], &w);
            expect_wire(&w, &expected);
        }
    struct stuff_state s = {0};
    struct wire w = {.len = 0};
    for (size_t at = 0; at < content.len; at++)
        encode(&s, slice_take(slice_skip(content, at), 1), SIZE_MAX, &w);
    expect_wire(&w, &expected);
}

static void dots_in_all_positions_come_out_as_from_the_naive_encoder(void **state)
{
    (void)state;
    static const char *const symbols[] = {".", "\r\n", "x"};
    enum { SYMBOLS = 7 };
    unsigned all = 1;
    for (int i = 0; i < SYMBOLS; i++)
        all *= 3;
    for (unsigned number = 0; number < all; number++) {
        char content[CONTENT_MAX];
        size_t len = 0;
        for (unsigned i = 0, rest = number; i < SYMBOLS; i++, rest /= 3)
            for (const char *c = symbols[rest % 3]; *c != '\0'; c++)
                content[len++] = *c;
        check_all_splits(slice_of(content, len));
    }
}

static void content_without_dot_lines_is_one_run(void **state)
{
    (void)state;
    struct slice content = SLICE_LIT("a: b\r\n\r\nno line. of. it\r\nbegins with one\r\n");
    struct stuff_state s = {0};
    struct wire w = {.len = 0};
    encode(&s, content, SIZE_MAX, &w);
    assert_int_equal(w.runs, 1);
    assert_int_equal(w.len, content.len);
}

static void a_run_ends_where_a_dot_line_begins(void **state)
{
    (void)state;
    struct slice content = SLICE_LIT("a\r\n.b\r\nc\r\n");
    struct stuff_state s = {0};
    bool is_extra = true;
    struct slice run = stuff_next(&s, content, &is_extra);
    assert_true(!is_extra && slice_equal(run, SLICE_LIT("a\r\n")));
    stuff_sent(&s, run, run.len, is_extra);
    content = slice_skip(content, run.len);
    run = stuff_next(&s, content, &is_extra);
    assert_true(is_extra && slice_equal(run, SLICE_LIT(".")));
    stuff_sent(&s, run, run.len, is_extra);
    run = stuff_next(&s, content, &is_extra);
    assert_true(!is_extra && slice_equal(run, SLICE_LIT(".b\r\nc\r\n")));
}

static void an_unsent_dot_is_offered_again(void **state)
{
    (void)state;
    struct stuff_state s = {0};
    for (int i = 0; i < 3; i++) {
        bool is_extra = false;
        struct slice run = stuff_next(&s, SLICE_LIT(".x\r\n"), &is_extra);
        assert_true(is_extra);
        stuff_sent(&s, run, 0, is_extra);
    }
}

static void no_content_is_an_empty_run(void **state)
{
    (void)state;
    struct stuff_state s = {0};
    bool is_extra = true;
    struct slice run = stuff_next(&s, SLICE_LIT(""), &is_extra);
    assert_int_equal(run.len, 0);
    assert_false(is_extra);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dots_in_all_positions_come_out_as_from_the_naive_encoder),
        cmocka_unit_test(content_without_dot_lines_is_one_run),
        cmocka_unit_test(a_run_ends_where_a_dot_line_begins),
        cmocka_unit_test(an_unsent_dot_is_offered_again),
        cmocka_unit_test(no_content_is_an_empty_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
