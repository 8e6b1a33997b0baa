/* Messages made for many recipients: templates are filled in for where they stand, header fields
 * are folded and encoded, parts are built or found, and nothing a value says becomes structure.
 * What comes out is read back by a parser that is not ours in tests/e2e/test_http.py. */
#include "smtp/mime/encode.h"
#include "smtp/mime/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

/* Up to four values by name. */
struct values {
    const char *names[4], *texts[4];
};

static bool find(void *context, struct slice name, struct slice *out)
{
    const struct values *v = context;
    for (int i = 0; i < 4 && v->names[i] != NULL; i++)
        if (slice_equal(name, slice_str(v->names[i]))) {
            *out = slice_str(v->texts[i]);
            return true;
        }
    return false;
}

static struct arena arena;
static char result[1 << 16];
static struct error error;

static int set_up(void **state)
{
    (void)state;
    arena_init(&arena);
    error.text[0] = '\0';
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_fini(&arena);
    return 0;
}

static void keep(const struct buf *out)
{
    struct slice s = buf_slice(out);
    assert_true(buf_ok(out));
    assert_in_range(s.len, 0, sizeof result - 1);
    memcpy(result, s.ptr, s.len);
    result[s.len] = '\0';
}

/* The field rendered for one value `v`; NULL: refused. */
static const char *field(const char *name, const char *value, const char *v)
{
    struct values values = {.names = {"v"}, .texts = {v}};
    struct template_values lookup = {find, &values};
    struct header_field f;
    struct buf scratch, out;
    buf_init(&scratch, sizeof result);
    buf_init(&out, sizeof result);
    bool ok = header_compile(&arena, slice_str(name), slice_str(value), false, &f, &error) &&
              header_render(&f, &lookup, &scratch, &out, &error);
    if (ok)
        keep(&out);
    buf_fini(&scratch);
    buf_fini(&out);
    return ok ? result : NULL;
}

static const char *render(const struct mime_message *m, const char *v)
{
    struct values values = {.names = {"v"}, .texts = {v}};
    struct mime_recipient r = {
        .email = SLICE_LIT("r@x.example"), .name = SLICE_LIT(""), .values = {find, &values}};
    struct mime_scratch scratch;
    struct buf out;
    if (m == NULL)
        fail_msg("%s", error.text);
    mime_scratch_init(&scratch, sizeof result);
    buf_init(&out, sizeof result);
    bool ok = mime_render(m, &r, &scratch, &out, &error);
    if (ok)
        keep(&out);
    mime_scratch_fini(&scratch);
    buf_fini(&out);
    return ok ? result : NULL;
}

static const char *raw(const char *text, const char *v)
{
    return render(mime_from_raw(&arena, slice_str(text), false, &error), v);
}

/* ---- templates ---- */

static bool compiles(const char *text)
{
    struct template t;
    return template_compile(&arena, slice_str(text), false, PLACE_PLAIN, &t, &error);
}

static void what_is_no_substitution_is_refused_never_sent(void **state)
{
    (void)state;
    static const char *const bad[] = {"{% if x %}", "{# c #}",           "{{",          "{{}}",
                                      "{{ x y }}",  "{{ x | odd }}",     "{{ x + 1 }}", "{{ 'x }}",
                                      "{{x}",       "{{ x|default(y) }}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (compiles(bad[i]))
            fail_msg("%s was taken", bad[i]);
    assert_non_null(strstr(error.text, "template_dialect"));
}

static void braces_that_are_none_of_a_template_stay(void **state)
{
    (void)state;
    assert_string_equal(raw("A: b\r\n\r\n{ } }} a{b} {\r\n", "x"), "A: b\r\n\r\n{ } }} a{b} {\r\n");
    assert_string_equal(strstr(raw("A: b\n\n{{ '{{' }}{{v}}\n", "x"), "\r\n\r\n"),
                        "\r\n\r\n{{x\r\n");
}

static void filters_and_defaults(void **state)
{
    (void)state;
    const char *body = strstr(
        raw("A: b\n\n{{v|urlencode}} {{ none | default('d') }} {{none}}.\n", "a b&ü"), "\r\n\r\n");
    assert_string_equal(body, "\r\n\r\na%20b%26%C3%BC d .\r\n");
}

static void a_value_in_html_is_no_markup(void **state)
{
    (void)state;
    const char *text = "Content-Type: text/html\n\n<b>{{v}}</b>{{v|safe}}\n";
    assert_non_null(strstr(raw(text, "<i>&\"'"), "<b>&lt;i&gt;&amp;&quot;&#39;</b><i>&\"'\r\n"));
}

/* ---- header fields ---- */

static void no_value_ends_its_field(void **state)
{
    (void)state;
    static const char *const evil[] = {"x\r\nBcc: y", "x\n", "\rx", "\x01", "\x7f", "\x0b", "a\tb"};
    static const char *const fields[] = {"Subject", "X-Any", "From", "List-Unsubscribe"};
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++)
        for (size_t k = 0; k < sizeof fields / sizeof *fields; k++)
            assert_null(field(fields[k], "\"{{v}}\" <a@b.example>", evil[i]));
}

static void a_value_that_looks_like_an_encoded_word_is_read_as_it_is(void **state)
{
    (void)state;
    assert_string_equal(field("Subject", "{{v}}", "=?utf-8?q?x?="),
                        "Subject: =?utf-8?b?PT91dGYtOD9xP3g/PQ==?=\r\n");
    assert_string_equal(field("Subject", "={{v}}", "?a"), "Subject: =?utf-8?b?PT9h?=\r\n");
    assert_string_equal(field("Subject", "a={{v}}", "b?"), "Subject: a=b?\r\n");
    assert_string_equal(field("Subject", "=?utf-8?q?x?= y", ""), "Subject: =?utf-8?q?x?= y\r\n");
}

static void white_space_between_encoded_words_is_encoded(void **state)
{
    (void)state;
    assert_string_equal(field("Subject", "ü {{v}} a", "ö"), "Subject: =?utf-8?b?w7wgw7Y=?= a\r\n");
    assert_string_equal(field("Subject", "=?utf-8?q?x?= ü", ""),
                        "Subject: =?utf-8?q?x?= =?utf-8?b?IMO8?=\r\n");
}

static void encoded_words_that_hide_a_hole_are_read(void **state)
{
    (void)state;
    assert_string_equal(field("Subject", "=?utf-8?q?Hi_=7B=7Bv=7D=7D?=", "Bob"),
                        "Subject: Hi Bob\r\n");
}

static void every_line_end_becomes_crlf(void **state)
{
    (void)state;
    static const struct {
        const char *text, *lines;
    } rows[] = {
        {"", ""},
        {"a", "a\r\n"},
        {"a\n", "a\r\n"},
        {"a\r\n", "a\r\n"},
        {"a\r", "a\r\n"},
        {"\n\n", "\r\n\r\n"},
        {"\r\r", "\r\n\r\n"},
        {"a\rb\nc\r\nd", "a\r\nb\r\nc\r\nd\r\n"},
        {"a\r\r\nb", "a\r\n\r\nb\r\n"},
        {"a\n\rb\r", "a\r\n\r\nb\r\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf out;
        buf_init(&out, 100);
        mime_append_lines(&out, slice_str(rows[i].text));
        if (!slice_equal(buf_slice(&out), slice_str(rows[i].lines)))
            fail_msg("row %zu: `%.*s`", i, SLICE_ARG(buf_slice(&out)));
        buf_fini(&out);
    }
}

static double seconds_to_compile(const char *head, const char *repeated, size_t bytes)
{
    struct buf text;
    buf_init(&text, bytes + 1000);
    buf_append_str(&text, head);
    while (buf_len(&text) < bytes)
        buf_append_str(&text, repeated);
    buf_append_str(&text, "\n\n{{v}}");
    clock_t start = clock();
    (void)mime_from_raw(&arena, buf_slice(&text), false, &error); /* taken or refused */
    buf_fini(&text);
    return (double)(clock() - start) / CLOCKS_PER_SEC;
}

/* Each part of it is read to its end once, whatever it is made of: 2 MB of one thing. */
static void odd_content_takes_no_longer_than_other(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"Content-Type: a/b", ";"}, {"Content-Type: text/plain", ";a=b"},
        {"Subject: a", "\n b"},     {"Subject: ", "=?utf-8?q?=7b= "},
        {"A: b\n\n", "\r"},         {"Content-Type: multipart/a; boundary=b\n\n", "--b\n"},
        {"A: b\n\n{{v}}", "{ "},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (seconds_to_compile(pairs[i][0], pairs[i][1], 2 << 20) > 5)
            fail_msg("`%s` and much of `%s`", pairs[i][0], pairs[i][1]);
}

/* 4 MB took more than a minute where each line looked for its end through all that follows. */
static void many_lines_take_no_longer_each(void **state)
{
    (void)state;
    enum { SIZE = 4 << 20 };
    char *text = malloc(SIZE);
    assert_non_null(text);
    for (int i = 0; i < 2; i++) {
        struct buf out;
        memset(text, "\r\n"[i], SIZE);
        buf_init(&out, (size_t)2 * SIZE);
        clock_t start = clock();
        mime_append_lines(&out, slice_of(text, SIZE));
        assert_true(clock() - start < 10 * CLOCKS_PER_SEC);
        assert_int_equal(buf_len(&out), 2 * SIZE);
        buf_fini(&out);
    }
    free(text);
}

static void lines_of_fields_are_folded(void **state)
{
    (void)state;
    char words[4000];
    size_t len = 0;
    for (int i = 0; i < 300; i++)
        len += (size_t)snprintf(words + len, sizeof words - len, i % 7 == 0 ? "wörter " : "word ");
    memset(words + len, 'x', 1000); /* one word longer than a line may be */
    words[len + 1000] = '\0';
    const char *line = field("Subject", words, "");
    assert_non_null(line);
    while (*line != '\0') {
        const char *end = strstr(line, "\r\n");
        assert_non_null(end);
        assert_in_range(end - line, 1, MIME_FOLD_COLUMNS);
        line = end + 2;
    }
}

static void display_names_are_quoted_or_encoded(void **state)
{
    (void)state;
    assert_string_equal(field("To", "{{v}} <a@b.example>", "Bob"), "To: Bob <a@b.example>\r\n");
    assert_string_equal(field("To", "{{v}} <a@b.example>", "B, \"x\" <y@z>"),
                        "To: \"B, \\\"x\\\" <y@z>\" <a@b.example>\r\n");
    assert_string_equal(field("To", "\"{{v}}\" <a@b.example>", "\\\""),
                        "To: \"\\\\\\\"\" <a@b.example>\r\n");
    assert_string_equal(field("To", "Mr. {{v}} <a@b.example>", "Ü"),
                        "To: =?utf-8?b?TXIuIMOc?= <a@b.example>\r\n");
    assert_string_equal(field("Cc", "{{v}}, (x {{v}}) c@d.example", "a@b.example"),
                        "Cc: a@b.example, c@d.example\r\n");
}

static void a_value_is_one_address_or_none(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "a@b.example, c@d.example", "x> <y@z", "a b@c", "\"", "(", ""};
    for (size_t i = 0; i < 5; i++) {
        assert_null(field("To", "{{v}}", bad[i]));
        assert_null(field("To", "x <{{v}}>", bad[i]));
    }
    assert_string_equal(field("To", "<{{v}}>", "a@bücher.example"),
                        "To: a@xn--bcher-kva.example\r\n");
    assert_string_equal(field("To", "{{v}}", "ä@b.example"), "To: ä@b.example\r\n");
    assert_string_equal(field("To", "undisclosed-recipients:;", ""),
                        "To: undisclosed-recipients:;\r\n");
}

static void a_value_in_a_link_stays_in_it(void **state)
{
    (void)state;
    assert_string_equal(field("List-Unsubscribe", "<https://x.example/{{v}}>", "a b>, <ü\""),
                        "List-Unsubscribe: <https://x.example/a%20b%3E,%20%3C%C3%BC%22>\r\n");
    assert_null(field("List-Unsubscribe", "ü", ""));
}

/* ---- encodings ---- */

static void each_text_has_the_encoding_it_needs(void **state)
{
    (void)state;
    char line[1002];
    memset(line, 'x', 1000);
    memcpy(line + 998, "\r\n", 3);
    assert_int_equal(mime_choose(slice_str(line)), MIME_7BIT);
    memcpy(line + 998, "x\r\n", 4);
    assert_int_equal(mime_choose(slice_str(line)), MIME_QUOTED_PRINTABLE);
    assert_int_equal(mime_choose(SLICE_LIT("a long text with an ü in it\r\n")),
                     MIME_QUOTED_PRINTABLE);
    assert_int_equal(mime_choose(SLICE_LIT("üüüü\r\n")), MIME_BASE64);
    assert_int_equal(mime_choose(slice_of("\0\r\n", 3)), MIME_BASE64);
}

static void any_bytes_survive_base64_and_quoted_printable(void **state)
{
    (void)state;
    unsigned char bytes[700];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 37 ^ i >> 3);
    for (size_t len = 0; len < sizeof bytes; len++) {
        struct buf text, back;
        buf_init(&text, 4096);
        buf_init(&back, 4096);
        mime_append_base64(&text, slice_of(bytes, len));
        assert_true(mime_decode_base64(&back, buf_slice(&text)));
        assert_true(slice_equal(buf_slice(&back), slice_of(bytes, len)));
        buf_fini(&text);
        buf_fini(&back);
    }
    struct buf lines, text, back;
    buf_init(&lines, 4096);
    buf_init(&text, 4096);
    buf_init(&back, 4096);
    mime_append_lines(&lines, slice_of(bytes, sizeof bytes));
    mime_append_encoded(&text, MIME_QUOTED_PRINTABLE, buf_slice(&lines));
    mime_decode_quoted_printable(&back, buf_slice(&text));
    assert_true(slice_equal(buf_slice(&back), buf_slice(&lines)));
    buf_fini(&lines);
    buf_fini(&text);
    buf_fini(&back);
}

static void bad_base64_is_told(void **state)
{
    (void)state;
    static const char *const bad[] = {"a", "ab=c", "a===", "!", "YQ=", "YWJj="};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf out;
        buf_init(&out, 64);
        if (mime_decode_base64(&out, slice_str(bad[i])))
            fail_msg("%s was taken", bad[i]);
        buf_fini(&out);
    }
}

/* ---- whole messages ---- */

static void raw_content_without_templates_passes_byte_by_byte(void **state)
{
    (void)state;
    const char *text =
        "Received: x\r\n\ty\r\nSubject: =?utf-8?q?a?=\r\n  b\r\nContent-Type: multipart/mixed;\r\n"
        " boundary=b\r\n\r\npre\r\n--b\r\nContent-Type: text/plain; charset=koi8-r\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\n8A==\r\n--b\r\n\r\n\r\n--b--\r\npost\r\n";
    assert_string_equal(raw(text, ""), text);
}

static void bcc_is_dropped(void **state)
{
    (void)state;
    assert_string_equal(raw("To: a@b.example\nBCC: c@d.example,\n e@f.example\nX: y\n\nz\n", ""),
                        "To: a@b.example\r\nX: y\r\n\r\nz\r\n");
}

static void signed_content_is_never_touched(void **state)
{
    (void)state;
    const char *text = "DKIM-Signature: v=1; b=x\r\nSubject: ü\r\n\r\nü\r\n";
    assert_string_equal(raw(text, ""), text);
    assert_null(mime_from_raw(&arena, SLICE_LIT("DKIM-Signature: v=1\n\n{{v}}\n"), false, &error));
    assert_non_null(strstr(error.text, "signed"));
}

static void eight_bit_text_is_written_anew_with_its_charset(void **state)
{
    (void)state;
    assert_string_equal(
        raw("Subject: a\n\nü{{v}} is plain text\n", "x"),
        "Subject: a\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BCx is plain text\r\n");
}

static void headers_that_are_ours_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"Content-Type", "MIME-Version", "a b", "a:b", "", "ä"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct mime_named_value f = {slice_str(names[i]), SLICE_LIT("x")};
        struct mime_source s = {.text = SLICE_LIT("t"),
                                .fields = &f,
                                .field_count = 1,
                                .envelope_sender = SLICE_LIT("a@b.example")};
        assert_null(mime_from_parts(&arena, &s, "b", false, &error));
    }
}

static void attachments_are_checked(void **state)
{
    (void)state;
    const struct mime_attachment bad[] = {
        {.content_type = SLICE_LIT("text/plain\r\nX: y"), .data = SLICE_LIT("")},
        {.content_type = SLICE_LIT("message/rfc822"), .data = SLICE_LIT("")},
        {.content_type = SLICE_LIT("x"), .data = SLICE_LIT("")},
        {.content_type = SLICE_LIT("a/b"), .content_id = SLICE_LIT("a>b"), .data = SLICE_LIT("")},
        {.content_type = SLICE_LIT("a/b"), .file_name = SLICE_LIT("a\nb"), .data = SLICE_LIT("")},
        {.content_type = SLICE_LIT("a/b"), .is_base64 = true, .data = SLICE_LIT("!")},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct mime_source s = {.text = SLICE_LIT("t"),
                                .attachments = &bad[i],
                                .attachment_count = 1,
                                .envelope_sender = SLICE_LIT("a@b.example")};
        assert_null(mime_from_parts(&arena, &s, "b", false, &error));
    }
}

static void a_message_larger_than_its_room_is_told(void **state)
{
    (void)state;
    struct values values = {.names = {"v"}, .texts = {"0123456789"}};
    struct mime_recipient r = {
        .email = SLICE_LIT("r@x.example"), .name = SLICE_LIT(""), .values = {find, &values}};
    const struct mime_message *m = mime_from_raw(
        &arena, SLICE_LIT("A: b\n\n{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}\n"), false,
        &error);
    struct mime_scratch scratch;
    struct buf out;
    mime_scratch_init(&scratch, 50);
    buf_init(&out, 50);
    assert_non_null(m);
    assert_false(mime_render(m, &r, &scratch, &out, &error));
    assert_non_null(strstr(error.text, "message_size_max"));
    mime_scratch_fini(&scratch);
    buf_fini(&out);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_no_substitution_is_refused_never_sent),
        TEST(braces_that_are_none_of_a_template_stay),
        TEST(filters_and_defaults),
        TEST(a_value_in_html_is_no_markup),
        TEST(no_value_ends_its_field),
        TEST(a_value_that_looks_like_an_encoded_word_is_read_as_it_is),
        TEST(white_space_between_encoded_words_is_encoded),
        TEST(encoded_words_that_hide_a_hole_are_read),
        TEST(every_line_end_becomes_crlf),
        TEST(many_lines_take_no_longer_each),
        TEST(odd_content_takes_no_longer_than_other),
        TEST(lines_of_fields_are_folded),
        TEST(display_names_are_quoted_or_encoded),
        TEST(a_value_is_one_address_or_none),
        TEST(a_value_in_a_link_stays_in_it),
        TEST(each_text_has_the_encoding_it_needs),
        TEST(any_bytes_survive_base64_and_quoted_printable),
        TEST(bad_base64_is_told),
        TEST(raw_content_without_templates_passes_byte_by_byte),
        TEST(bcc_is_dropped),
        TEST(signed_content_is_never_touched),
        TEST(eight_bit_text_is_written_anew_with_its_charset),
        TEST(headers_that_are_ours_are_refused),
        TEST(attachments_are_checked),
        TEST(a_message_larger_than_its_room_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
