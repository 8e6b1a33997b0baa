/* PROXY headers (smtp/proxy.h), versions 1 and 2: every shape, every truncation, every byte of the
 * fixed part wrong. */
#include "smtp/proxy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V4_BYTES  "\xc0\x00\x02\x01\xc0\x00\x02\x02\x30\x39\x00\x19"
#define V6_BYTES                                                                                   \
    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x30\x39" \
    "\x00\x19"

struct row {
    const char *bytes;
    size_t len;
    enum proxy_status status;
    const char *source; /* PROXY_OK */
};

#define ROW(bytes_, status_, source_)                                                              \
    {                                                                                              \
        bytes_, sizeof(bytes_) - 1, status_, source_                                               \
    }

static const struct row rows[] = {
    ROW("PROXY TCP4 192.0.2.1 192.0.2.2 12345 25\r\n", PROXY_OK, "192.0.2.1:12345"),
    ROW("PROXY TCP6 2001:db8::1 2001:db8::2 12345 25\r\n", PROXY_OK, "[2001:db8::1]:12345"),
    ROW("PROXY UNKNOWN\r\n", PROXY_LOCAL, NULL),
    ROW("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", PROXY_LOCAL, NULL),
    ROW("PROXY TCP4 2001:db8::1 2001:db8::2 12345 25\r\n", PROXY_INVALID, NULL),
    ROW("PROXY TCP6 192.0.2.1 192.0.2.2 12345 25\r\n", PROXY_INVALID, NULL),
    ROW("PROXY TCP4 192.0.2.1 192.0.2.2 65536 25\r\n", PROXY_INVALID, NULL),
    ROW("PROXY TCP4 192.0.2.1 192.0.2.2 012 25\r\n", PROXY_INVALID, NULL),
    ROW("PROXY TCP4 192.0.2.1 192.0.2.2 12345\r\n", PROXY_INVALID, NULL),
    ROW("PROXY TCP4 192.0.2.1 192.0.2.2 12345 25 6\r\n", PROXY_INVALID, NULL),
    ROW("PROXY TCP4 192.0.2.1 192.0.2.2 12345 25\n", PROXY_INVALID, NULL),
    ROW("PROXY UDP4 192.0.2.1 192.0.2.2 12345 25\r\n", PROXY_INVALID, NULL),
    ROW("proxy TCP4 192.0.2.1 192.0.2.2 12345 25\r\n", PROXY_INVALID, NULL),
    ROW("EHLO c\r\n", PROXY_INVALID, NULL),
    ROW(SIGNATURE "\x21\x11\x00\x0c" V4_BYTES, PROXY_OK, "192.0.2.1:12345"),
    ROW(SIGNATURE "\x21\x21\x00\x24" V6_BYTES, PROXY_OK, "[2001:db8::1]:12345"),
    ROW(SIGNATURE "\x21\x11\x00\x0f" V4_BYTES "\x04\x00\x00", PROXY_OK, "192.0.2.1:12345"),
    ROW(SIGNATURE "\x20\x00\x00\x00", PROXY_LOCAL, NULL),
    ROW(SIGNATURE "\x21\x00\x00\x00", PROXY_LOCAL, NULL),
    ROW(SIGNATURE "\x31\x11\x00\x0c" V4_BYTES, PROXY_INVALID, NULL),
    ROW(SIGNATURE "\x22\x11\x00\x0c" V4_BYTES, PROXY_INVALID, NULL),
    ROW(SIGNATURE "\x21\x11\x00\x0b" V4_BYTES, PROXY_INVALID, NULL),
    ROW(SIGNATURE "\x21\x21\x00\x0c" V4_BYTES, PROXY_INVALID, NULL),
    ROW(SIGNATURE "\x21\x11\xff\xff" V4_BYTES, PROXY_INVALID, NULL),
};

/* In a buffer of its exact size, so that the address sanitizer sees a read beyond it. */
static enum proxy_status parse(const char *bytes, size_t len, struct proxy_header *out)
{
    char *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    enum proxy_status status = proxy_parse(slice_of(copy, len), out);
    free(copy);
    return status;
}

static void every_shape_means_what_the_protocol_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct proxy_header h;
        enum proxy_status status = parse(rows[i].bytes, rows[i].len, &h);
        if (status != rows[i].status)
            fail_msg("row %zu: status %d, wanted %d", i, (int)status, (int)rows[i].status);
        if (status == PROXY_OK || status == PROXY_LOCAL)
            assert_int_equal(h.length, rows[i].len);
        if (status != PROXY_OK)
            continue;
        char text[ADDRESS_TEXT_SIZE];
        address_format(&h.source, text);
        assert_string_equal(text, rows[i].source);
        assert_int_equal(h.destination.port, 25);
    }
}

static void a_header_that_has_not_come_whole_is_waited_for(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t len = 0; rows[i].status != PROXY_INVALID && len < rows[i].len; len++) {
            struct proxy_header h;
            assert_int_equal(parse(rows[i].bytes, len, &h), PROXY_NEED_MORE);
        }
}

static void what_follows_the_header_is_not_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char longer[256];
        struct proxy_header h;
        if (rows[i].status == PROXY_INVALID)
            continue;
        memcpy(longer, rows[i].bytes, rows[i].len);
        memcpy(longer + rows[i].len, "EHLO c\r\n", 8);
        assert_int_equal(parse(longer, rows[i].len + 8, &h), rows[i].status);
        assert_int_equal(h.length, rows[i].len);
    }
}

static void a_wrong_byte_in_the_signature_is_told_as_soon_as_it_comes(void **state)
{
    (void)state;
    static const char *const signatures[] = {"PROXY ", SIGNATURE};
    static const size_t lengths[] = {6, 12};
    for (size_t s = 0; s < 2; s++)
        for (size_t at = 0; at < lengths[s]; at++) {
            char bytes[12];
            struct proxy_header h;
            memcpy(bytes, signatures[s], lengths[s]);
            bytes[at] = '#';
            assert_int_equal(parse(bytes, at + 1, &h), PROXY_INVALID);
        }
}

static void an_endless_line_is_not_waited_for(void **state)
{
    (void)state;
    char line[108];
    struct proxy_header h;
    memset(line, '1', sizeof line);
    memcpy(line, "PROXY TCP4 ", 11);
    assert_int_equal(parse(line, sizeof line, &h), PROXY_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_means_what_the_protocol_says),
        cmocka_unit_test(a_header_that_has_not_come_whole_is_waited_for),
        cmocka_unit_test(what_follows_the_header_is_not_read),
        cmocka_unit_test(a_wrong_byte_in_the_signature_is_told_as_soon_as_it_comes),
        cmocka_unit_test(an_endless_line_is_not_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
