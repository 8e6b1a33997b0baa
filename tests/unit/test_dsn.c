/* Notices (smtp/dsn.h): who is told of what (RFC 3461), and the multipart/report they get (RFC
 * 3462, 3464, 6533), also where every word in it was written by somebody hostile. */
#include "smtp/dsn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

enum { NOTICE_MAX = 1 << 16 };

struct notice {
    struct envelope_recipient recipients[2];
    struct dsn_recipient about[2];
    struct reply replies[2];
    struct envelope original;
    struct dsn dsn;
    struct buf out;
    char text[NOTICE_MAX];
    struct envelope envelope;
    struct envelope_recipient to;
    char domain[256];
};

static struct notice n; /* large; each test sets it up anew */

static void set_reply(struct reply *r, uint16_t code, const char *text)
{
    *r = (struct reply){.code = code, .class = (uint8_t)(code / 100), .subject = 1, .detail = 1};
    reply_set_text(r, slice_str(text));
}

static void set_up(enum dsn_kind kind)
{
    n.recipients[0] = (struct envelope_recipient){.address = SLICE_LIT("x@gone.example"),
                                                  .domain = SLICE_LIT("gone.example"),
                                                  .orcpt = SLICE_LIT("rfc822;list+2B1@o.example")};
    n.recipients[1] = (struct envelope_recipient){.address = SLICE_LIT("y@gone.example"),
                                                  .domain = SLICE_LIT("gone.example"),
                                                  .orcpt = SLICE_LIT("")};
    n.original = (struct envelope){.id = 7,
                                   .arrived_wall_ms = UINT64_C(1790000000000),
                                   .size_bytes = 40,
                                   .header_bytes = 14,
                                   .sender = SLICE_LIT("from@Sender.Example"),
                                   .envid = SLICE_LIT("QQ+3D314"),
                                   .origin = SLICE_LIT("[192.0.2.7] c"),
                                   .recipient_count = 2,
                                   .recipients = n.recipients};
    for (int i = 0; i < 2; i++) {
        set_reply(&n.replies[i],
                  kind == DSN_FAILED    ? 550
                  : kind == DSN_DELAYED ? 450
                                        : 250,
                  i == 0 ? "No such user" : "Nor this one");
        n.about[i] = (struct dsn_recipient){.recipient = &n.recipients[i],
                                            .reply = &n.replies[i],
                                            .exchange = SLICE_LIT("mx.gone.example")};
    }
    n.dsn = (struct dsn){.kind = kind,
                         .hostname = "relay.example",
                         .postmaster = "postmaster@relay.example",
                         .id = 99,
                         .wall_ms = UINT64_C(1790000060000),
                         .give_up_wall_ms = UINT64_C(1790432000000),
                         .original = &n.original,
                         .recipients = n.about,
                         .recipient_count = 2,
                         .content = SLICE_LIT("Subject: s\r\n\r\n"),
                         .content_is_full = false};
}

static void compose(void)
{
    buf_init(&n.out, NOTICE_MAX);
    assert_true(dsn_compose(&n.dsn, &n.out, &n.envelope, &n.to, n.domain));
    assert_true(buf_ok(&n.out));
    assert_true(slice_to_cstr(buf_slice(&n.out), n.text, sizeof n.text));
    buf_fini(&n.out);
}

static unsigned count(const char *text)
{
    unsigned found = 0;
    for (const char *at = n.text; (at = strstr(at, text)) != NULL; at += strlen(text))
        found++;
    return found;
}

static void assert_has(const char *text)
{
    if (count(text) == 0)
        fail_msg("`%s` is not in\n%s", text, n.text);
}

/* CRLF everywhere, no line over 998 bytes (RFC 5321 4.5.3.1.6), and the parts closed. */
static void check_form(void)
{
    size_t line = 0;
    for (const char *c = n.text; *c != '\0'; c++) {
        if (*c == '\n')
            assert_true(c > n.text && c[-1] == '\r');
        if (*c == '\r')
            assert_int_equal(c[1], '\n');
        line = *c == '\n' ? 0 : line + 1;
        assert_true(line <= 999);
    }
    const char *at = strstr(n.text, "boundary=\"");
    assert_non_null(at);
    char boundary[128], close[136];
    assert_int_equal(sscanf(at, "boundary=\"%100[^\"]\"", boundary), 1);
    (void)snprintf(close, sizeof close, "--%s--\r\n", boundary);
    assert_int_equal(count(close), 1);
    (void)snprintf(close, sizeof close, "\r\n--%s\r\n", boundary);
    assert_int_equal(count(close), 3);
}

static void a_bounce_is_a_report_of_three_parts(void **state)
{
    (void)state;
    set_up(DSN_FAILED);
    compose();
    check_form();
    assert_has("Content-Type: multipart/report; report-type=delivery-status;");
    assert_has("To: <from@Sender.Example>\r\n");
    assert_has("Auto-Submitted: auto-replied\r\n");
    assert_has("\r\nContent-Type: message/delivery-status\r\n");
    assert_has("Reporting-MTA: dns; relay.example\r\n");
    assert_has("Original-Envelope-Id: QQ=314\r\n");
    assert_has("Original-Recipient: rfc822; list+1@o.example\r\n");
    assert_int_equal(count("Final-Recipient: rfc822; "), 2);
    assert_int_equal(count("Action: failed\r\n"), 2);
    assert_int_equal(count("Status: 5.1.1\r\n"), 2);
    assert_int_equal(count("Remote-MTA: dns; mx.gone.example\r\n"), 2);
    assert_has("Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n");
    assert_has("text/rfc822-headers\r\n");
}

static void its_envelope_is_from_nobody_to_the_sender(void **state)
{
    (void)state;
    set_up(DSN_FAILED);
    compose();
    assert_int_equal(n.envelope.sender.len, 0);
    assert_int_equal(n.envelope.size_bytes, strlen(n.text));
    assert_int_equal(n.envelope.header_bytes, strstr(n.text, "\r\n\r\n") + 4 - n.text);
    assert_true(slice_equal(n.to.address, SLICE_LIT("from@Sender.Example")));
    assert_true(slice_equal(n.to.domain, SLICE_LIT("sender.example")));
    assert_int_equal(n.envelope.flags, 0);
}

static void the_whole_content_comes_back_where_it_is_given(void **state)
{
    (void)state;
    set_up(DSN_FAILED);
    n.dsn.content = SLICE_LIT("Subject: s\r\n\r\nthe body\r\n");
    n.dsn.content_is_full = true;
    compose();
    check_form();
    assert_has("Content-Type: message/rfc822\r\n");
    assert_has("\r\nthe body\r\n");
}

static void delay_and_relay_notices_say_so(void **state)
{
    (void)state;
    set_up(DSN_DELAYED);
    compose();
    check_form();
    assert_int_equal(count("Action: delayed\r\n"), 2);
    assert_int_equal(count("Status: 4.1.1\r\n"), 2);
    assert_int_equal(count("Will-Retry-Until: "), 2);
    set_up(DSN_RELAYED);
    compose();
    check_form();
    assert_int_equal(count("Action: relayed\r\n"), 2);
    assert_int_equal(count("Status: 2."), 2);
    assert_int_equal(count("Will-Retry-Until: "), 0);
}

/* A bounce of a reply that is no 5xx (expired: the last was 4xx) has a status of its own class. */
static void the_status_is_of_the_actions_class(void **state)
{
    (void)state;
    set_up(DSN_FAILED);
    set_reply(&n.replies[0], 450, "Later");
    n.replies[1] = reply_local(LOCAL_EXPIRED);
    compose();
    check_form();
    assert_int_equal(count("Status: 4."), 0);
    assert_int_equal(count("Status: 5."), 2);
}

/* RFC 6533. */
static void addresses_beyond_ascii_make_a_global_report(void **state)
{
    (void)state;
    set_up(DSN_FAILED);
    n.recipients[0].address = SLICE_LIT("\303\244@gone.example");
    n.recipients[0].orcpt = SLICE_LIT("");
    compose();
    check_form();
    assert_has("report-type=global-delivery-status");
    assert_has("Content-Type: message/global-delivery-status\r\n");
    assert_has("Final-Recipient: utf-8; \303\244@gone.example\r\n");
    assert_has("Final-Recipient: rfc822; y@gone.example\r\n");
    assert_true(n.envelope.flags & ENVELOPE_SMTPUTF8);
}

/* RFC 3464 2.1, RFC 2045 6.2: a part without an encoding of its own is 7-bit, whatever its
 * container says. */
static void each_part_is_7bit_or_says_that_it_is_not(void **state)
{
    (void)state;
    for (int utf8_address = 0; utf8_address < 2; utf8_address++) {
        set_up(DSN_FAILED);
        reply_set_text(&n.replies[0], SLICE_LIT("N\303\244h"));
        if (utf8_address)
            n.recipients[1].address = SLICE_LIT("\303\244@gone.example");
        compose();
        check_form();
        char *part = strstr(n.text, "delivery-status\r\n"), *end = strstr(part, "\r\n--=_");
        assert_non_null(end);
        *end = '\0';
        assert_has(utf8_address ? "550 5.1.1 N\303\244h" : "550 5.1.1 N??h");
        const char *encoding = strstr(part, "Content-Transfer-Encoding: 8bit\r\n\r\n");
        bool is_high = false;
        for (const char *c = part; *c != '\0'; c++)
            is_high |= (unsigned char)*c >= 0x80;
        assert_int_equal(is_high, utf8_address);
        assert_int_equal(encoding != NULL, utf8_address);
    }
}

static void hostile_words_stay_on_their_line(void **state)
{
    (void)state;
    static const char hostile[] =
        "x\r\nAction: delivered\r\n\r\n--boundary\r\n.\r\nMAIL FROM:<a@b.c>\r\n";
    set_up(DSN_FAILED);
    reply_set_text(&n.replies[0], slice_str(hostile));
    n.about[0].exchange = SLICE_LIT("mx\r\nAction: delivered\r\n");
    n.recipients[1].orcpt = SLICE_LIT("rfc822;a+0D+0AAction:+20delivered");
    n.original.envid = SLICE_LIT("e+0D+0AAction:+20delivered");
    compose();
    check_form();
    assert_int_equal(count("\r\nAction: "), 2);
    assert_int_equal(count("\r\nAction: delivered"), 0);
    assert_int_equal(count("\r\n.\r\n"), 0);
}

static void long_words_are_cut_to_the_line(void **state)
{
    (void)state;
    static char word[5000];
    set_up(DSN_FAILED);
    memset(word, 'w', sizeof word);
    n.about[0].exchange = slice_of(word, sizeof word);
    n.original.envid = slice_of(word, sizeof word);
    n.recipients[0].orcpt = slice_of(word, sizeof word);
    compose();
    check_form();
}

static void notify_decides_who_is_told(void **state)
{
    (void)state;
    static const struct {
        uint8_t notify;
        bool failed, delayed, relayed;
    } rows[] = {{0, true, true, false},
                {NOTIFY_NEVER, false, false, false},
                {NOTIFY_FAILURE, true, false, false},
                {NOTIFY_DELAY, false, true, false},
                {NOTIFY_SUCCESS, false, false, true},
                {NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY, true, true, true}};
    set_up(DSN_FAILED);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct envelope_recipient r = {.notify = rows[i].notify};
        assert_int_equal(dsn_wanted(DSN_FAILED, &n.original, &r), rows[i].failed);
        assert_int_equal(dsn_wanted(DSN_DELAYED, &n.original, &r), rows[i].delayed);
        assert_int_equal(dsn_wanted(DSN_RELAYED, &n.original, &r), rows[i].relayed);
    }
}

static void nobody_is_told_of_a_bounce(void **state)
{
    (void)state;
    set_up(DSN_FAILED);
    n.original.sender = SLICE_LIT("");
    struct envelope_recipient r = {.notify = NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY};
    for (int kind = DSN_FAILED; kind <= DSN_RELAYED; kind++)
        assert_false(dsn_wanted((enum dsn_kind)kind, &n.original, &r));
}

static void a_sender_without_a_domain_gets_none(void **state)
{
    (void)state;
    set_up(DSN_FAILED);
    n.original.sender = SLICE_LIT("localpart");
    buf_init(&n.out, NOTICE_MAX);
    assert_false(dsn_compose(&n.dsn, &n.out, &n.envelope, &n.to, n.domain));
    buf_fini(&n.out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bounce_is_a_report_of_three_parts),
        cmocka_unit_test(its_envelope_is_from_nobody_to_the_sender),
        cmocka_unit_test(the_whole_content_comes_back_where_it_is_given),
        cmocka_unit_test(delay_and_relay_notices_say_so),
        cmocka_unit_test(the_status_is_of_the_actions_class),
        cmocka_unit_test(addresses_beyond_ascii_make_a_global_report),
        cmocka_unit_test(each_part_is_7bit_or_says_that_it_is_not),
        cmocka_unit_test(hostile_words_stay_on_their_line),
        cmocka_unit_test(long_words_are_cut_to_the_line),
        cmocka_unit_test(notify_decides_who_is_told),
        cmocka_unit_test(nobody_is_told_of_a_bounce),
        cmocka_unit_test(a_sender_without_a_domain_gets_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
