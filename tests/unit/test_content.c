/* Content as it arrives (smtp/content.h): whole lines are taken many at a time, single bytes
 * one by one, and what comes out must be the same however the input is cut and however small
 * the output is. */
#include "smtp/content.h"
#include "core/base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { INPUT_MAX = 4096, OUTPUT_MAX = 4 * INPUT_MAX, CONTENTS = 4000, PARTS_MAX = 120 };

/* What came of one content. */
struct result {
    char bytes[OUTPUT_MAX];
    size_t len, used;
    enum smtp_content_status status;
    enum smtp_content_error error;
    uint32_t header_bytes;
    bool has_8bit, has_dot_lines, has_utf8_header;
};

static void take_out(struct buf *out, struct result *r)
{
    assert_true(r->len + buf_len(out) <= OUTPUT_MAX);
    if (buf_len(out) > 0)
        memcpy(r->bytes + r->len, buf_slice(out).ptr, buf_len(out));
    r->len += buf_len(out);
    buf_clear(out);
}

/* Feeds `input` in pieces of `piece` bytes into an output of `bound` bytes. */
static void run(struct slice input, enum smtp_content_mode mode, size_t piece, size_t bound,
                struct result *r)
{
    const struct smtp_content_limits limits = {
        .bytes_max = 3000, .line_bytes_max = 80, .received_max = 3};
    struct smtp_content c;
    struct buf out;
    buf_init(&out, bound);
    smtp_content_begin(&c, mode, &limits, &out);
    c.date_line = SLICE_LIT("Date: x\r\n");
    c.message_id_line = SLICE_LIT("Message-ID: y\r\n");
    *r = (struct result){0};
    while (r->used < input.len && r->status != SMTP_CONTENT_END) {
        size_t used = 0;
        r->status = smtp_content_feed(&c, slice_take(slice_skip(input, r->used), piece), &used);
        r->used += used;
        take_out(&out, r);
    }
    if (mode == SMTP_CONTENT_BDAT) {
        while ((r->status = smtp_content_finish(&c)) == SMTP_CONTENT_FULL)
            take_out(&out, r);
        take_out(&out, r);
    }
    r->error = c.error;
    r->header_bytes = c.header_bytes;
    r->has_8bit = c.has_8bit;
    r->has_dot_lines = c.has_dot_lines;
    r->has_utf8_header = c.has_utf8_header;
    buf_fini(&out);
}

/* Where an error is found, how much was put out before is nobody's business. */
static void expect_same(const struct result *a, const struct result *b)
{
    assert_int_equal(a->error, b->error);
    assert_int_equal(a->status, b->status);
    assert_int_equal(a->used, b->used);
    if (a->error != SMTP_CONTENT_OK)
        return;
    assert_true(slice_equal(slice_of(a->bytes, a->len), slice_of(b->bytes, b->len)));
    assert_int_equal(a->header_bytes, b->header_bytes);
    assert_int_equal(a->has_8bit, b->has_8bit);
    assert_int_equal(a->has_dot_lines, b->has_dot_lines);
    assert_int_equal(a->has_utf8_header, b->has_utf8_header);
}

/* Mostly sound lines behind a first field; now and then what must be noticed. */
static size_t generate(struct random *random, char *out)
{
    static const char *const usual[] = {
        "a line\r\n",
        "To: someone\r\n",
        "\r\n",
        "..dots\r\n",
        "with\ta tab\r\n",
        "umlaut \xc3\xa4 here, long enough\r\n",
        "Received: by x\r\n",
        ".hidden\r\n",
        "seventy or so characters, as mail has them, to be taken many at once\r\n"};
    static const struct slice odd[] = {
        SLICE_LIT("\r"),
        SLICE_LIT("\n"),
        SLICE_LIT("\0"),
        SLICE_LIT(".\r\n"),
        SLICE_LIT("x"),
        SLICE_LIT(
            "much longer than any line may be, that is 80 bytes with its end, is this one\r\n")};
    static const struct slice first = SLICE_LIT("Subject: a\r\n");
    size_t len = first.len, parts = random_below(random, PARTS_MAX);
    unsigned odd_one_in = random_below(random, 2) > 0 ? 200 : 15;
    memcpy(out, first.ptr, len);
    for (size_t i = 0; i < parts; i++) {
        struct slice part = slice_str(usual[random_below(random, sizeof usual / sizeof *usual)]);
        if (random_below(random, odd_one_in) == 0)
            part = odd[random_below(random, sizeof odd / sizeof *odd)];
        if (len + part.len > INPUT_MAX - 3)
            break;
        memcpy(out + len, part.ptr, part.len);
        len += part.len;
    }
    memcpy(out + len, ".\r\n", 3);
    return len + 3;
}

static void a_content_comes_out_the_same_however_it_is_cut(void **state)
{
    (void)state;
    static char input[INPUT_MAX];
    static struct result whole, cut;
    struct random random;
    random_init_seed(&random, 1);
    unsigned sound = 0;
    for (unsigned i = 0; i < CONTENTS; i++) {
        size_t len = generate(&random, input);
        enum smtp_content_mode mode = i % 2 ? SMTP_CONTENT_BDAT : SMTP_CONTENT_DATA;
        run(slice_of(input, len), mode, SIZE_MAX, OUTPUT_MAX, &whole);
        size_t pieces[] = {1, 1 + random_below(&random, 40), 1 + random_below(&random, 1000)};
        for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
            run(slice_of(input, len), mode, pieces[k], k > 0 ? 100 : OUTPUT_MAX, &cut);
            expect_same(&whole, &cut);
        }
        sound += whole.error == SMTP_CONTENT_OK;
    }
    assert_in_range(sound, CONTENTS / 10, CONTENTS * 9 / 10); /* both kinds were seen */
}

static void sound_lines_come_out_as_they_came(void **state)
{
    (void)state;
    static struct result r;
    struct slice content = SLICE_LIT("Date: x\r\nMessage-ID: y\r\n\r\none\r\n\r\ntwo\xff\r\n.\r\n");
    run(content, SMTP_CONTENT_DATA, SIZE_MAX, OUTPUT_MAX, &r);
    assert_int_equal(r.status, SMTP_CONTENT_END);
    assert_int_equal(r.error, SMTP_CONTENT_OK);
    assert_true(slice_equal(slice_of(r.bytes, r.len), slice_take(content, content.len - 3)));
    assert_true(r.has_8bit && !r.has_utf8_header && !r.has_dot_lines);
}

static void a_line_at_its_limit_is_taken_and_one_byte_more_is_not(void **state)
{
    (void)state;
    static struct result r;
    char line[] = "\r\n0123456789012345678901234567890123456789012345678901234567890123456789"
                  "01234567x\r\n\r\n";
    struct slice longer = slice_of(line, sizeof line - 1);
    run(longer, SMTP_CONTENT_BDAT, SIZE_MAX, OUTPUT_MAX, &r);
    assert_int_equal(r.error, SMTP_CONTENT_LINE_TOO_LONG);
    line[longer.len - 5] = '\r'; /* in place of the x */
    line[longer.len - 4] = '\n';
    run(slice_take(longer, longer.len - 3), SMTP_CONTENT_BDAT, SIZE_MAX, OUTPUT_MAX, &r);
    assert_int_equal(r.error, SMTP_CONTENT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_content_comes_out_the_same_however_it_is_cut),
        cmocka_unit_test(sound_lines_come_out_as_they_came),
        cmocka_unit_test(a_line_at_its_limit_is_taken_and_one_byte_more_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
