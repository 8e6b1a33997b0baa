#include "core/spool/envelope.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

static struct envelope_recipient recipients[3];

static struct envelope sample(void)
{
    recipients[0] = (struct envelope_recipient){SLICE_LIT("a@one.example"),
                                                SLICE_LIT("one.example"), SLICE_LIT(""), 0};
    recipients[1] =
        (struct envelope_recipient){SLICE_LIT("b@[192.0.2.1]"), SLICE_LIT("[192.0.2.1]"),
                                    SLICE_LIT("rfc822;b+2Bx@two"), NOTIFY_SUCCESS | NOTIFY_DELAY};
    recipients[2] = (struct envelope_recipient){
        SLICE_LIT("c@one.example"), SLICE_LIT("one.example"), SLICE_LIT(""), NOTIFY_NEVER};
    return (struct envelope){.id = 0x1234567890abcdef,
                             .arrived_wall_ms = 1700000000123,
                             .size_bytes = 10240,
                             .header_bytes = 512,
                             .flags = ENVELOPE_HAS_DOTS | ENVELOPE_SMTPUTF8,
                             .ret = RET_HDRS,
                             .sender = SLICE_LIT("sender@example.org"),
                             .envid = SLICE_LIT("QQ314159"),
                             .origin = SLICE_LIT("[192.0.2.7] helo.example"),
                             .recipients = recipients,
                             .recipient_count = 3};
}

static struct buf encoded(void)
{
    struct envelope e = sample();
    struct buf out;
    buf_init(&out, ENVELOPE_ENCODED_MAX);
    envelope_encode(&e, &out);
    assert_true(buf_ok(&out));
    return out;
}

static void assert_slice(struct slice s, const char *text)
{
    assert_int_equal(s.len, strlen(text));
    assert_memory_equal(s.ptr, text, s.len);
}

static void what_was_encoded_is_decoded(void **state)
{
    (void)state;
    struct buf out = encoded();
    struct envelope e;
    struct envelope_recipient r;
    assert_true(envelope_decode(buf_slice(&out), &e));
    assert_int_equal(e.id, 0x1234567890abcdef);
    assert_int_equal(e.arrived_wall_ms, 1700000000123);
    assert_int_equal(e.size_bytes, 10240);
    assert_int_equal(e.header_bytes, 512);
    assert_int_equal(e.flags, ENVELOPE_HAS_DOTS | ENVELOPE_SMTPUTF8);
    assert_int_equal(e.ret, RET_HDRS);
    assert_slice(e.sender, "sender@example.org");
    assert_slice(e.envid, "QQ314159");
    assert_slice(e.origin, "[192.0.2.7] helo.example");
    assert_int_equal(e.recipient_count, 3);
    assert_true(envelope_decode_recipient(buf_slice(&out), 1, &r));
    assert_slice(r.address, "b@[192.0.2.1]");
    assert_slice(r.domain, "[192.0.2.1]");
    assert_slice(r.orcpt, "rfc822;b+2Bx@two");
    assert_int_equal(r.notify, NOTIFY_SUCCESS | NOTIFY_DELAY);
    assert_true(envelope_decode_recipient(buf_slice(&out), 2, &r));
    assert_slice(r.address, "c@one.example");
    assert_false(envelope_decode_recipient(buf_slice(&out), 3, &r));
    buf_fini(&out);
}

/* Every prefix in a buffer of its own exact size, so that a sanitizer sees the first byte read too
 * many. */
static void no_truncation_is_taken_for_a_whole_record(void **state)
{
    (void)state;
    struct buf out = encoded();
    size_t whole = buf_len(&out);
    for (size_t len = 0; len < whole; len++) {
        char *copy = malloc(len > 0 ? len : 1);
        memcpy(copy, buf_slice(&out).ptr, len);
        struct envelope e;
        struct envelope_recipient r;
        bool ok = envelope_decode(slice_of(copy, len), &e);
        for (uint32_t i = 0; i < 3; i++)
            ok &= envelope_decode_recipient(slice_of(copy, len), i, &r);
        assert_false(ok);
        free(copy);
    }
    buf_fini(&out);
}

static void no_flipped_byte_leads_out_of_the_record(void **state)
{
    (void)state;
    struct buf out = encoded();
    size_t len = buf_len(&out);
    char *copy = malloc(len);
    for (size_t i = 0; i < len; i++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(copy, buf_slice(&out).ptr, len);
            copy[i] = (char)(copy[i] ^ (1 << bit));
            struct envelope e;
            struct envelope_recipient r;
            if (!envelope_decode(slice_of(copy, len), &e))
                continue;
            for (uint32_t k = 0; k < 4; k++)
                if (envelope_decode_recipient(slice_of(copy, len), k, &r))
                    assert_true(r.address.ptr >= copy &&
                                r.address.ptr + r.address.len <= copy + len);
        }
    free(copy);
    buf_fini(&out);
}

static void a_control_character_in_an_address_is_damage(void **state)
{
    (void)state;
    struct buf out = encoded();
    char *at = memmem(out.ptr, buf_len(&out), "b@[", 3);
    assert_non_null(at);
    at[1] = '\n';
    struct envelope_recipient r;
    assert_false(envelope_decode_recipient(buf_slice(&out), 1, &r));
    buf_fini(&out);
}

static void ids_read_back_and_nothing_else_does(void **state)
{
    (void)state;
    char text[ENVELOPE_ID_SIZE];
    uint64_t id = 0;
    envelope_id_format(0x00ab, text);
    assert_string_equal(text, "00000000000000ab");
    assert_true(envelope_id_parse(slice_str(text), &id) && id == 0xab);
    static const char *const bad[] = {"", "ab", "00000000000000AB", "00000000000000a ",
                                      "00000000000000abc"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(envelope_id_parse(slice_str(bad[i]), &id));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_encoded_is_decoded),
        cmocka_unit_test(no_truncation_is_taken_for_a_whole_record),
        cmocka_unit_test(no_flipped_byte_leads_out_of_the_record),
        cmocka_unit_test(a_control_character_in_an_address_is_damage),
        cmocka_unit_test(ids_read_back_and_nothing_else_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
