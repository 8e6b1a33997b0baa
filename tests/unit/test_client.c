/* The client machine from greeting to READY, its ends, and what a server may say out of turn. */
#include "tests/unit/smtp_dialogue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define NOT_SMTP "the exchange does not speak SMTP\n"
#define TOO_LONG "the exchange's reply is longer than any allowed\n"

/* ---- greeting, EHLO, HELO ---- */

static void a_greeting_and_ehlo_make_ready(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, "P: greeting\n" HELLO "P: EHLO\n"
                      "S: 250 mx.example\n"
                      "= READY\n"
                      "P: ready\n");
}

static void a_greeting_of_many_lines_is_one_greeting(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, "S: 220-mx.example welcomes you\n"
                      "S: 220-no spam here\n"
                      "S: 220\n"
                      "C: EHLO relay.example\n"
                      "S: 250 mx.example\n"
                      "= READY\n");
}

static void a_busy_greeting_fails_as_busy(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, "S: 450 4.3.2 try later\n"
                      "= FAILED\n"
                      "F: BUSY 450 4.3.2 try later\n"
                      "P: greeting\n");
    dialogue_play(&d, "S: 421-mx.example\n"
                      "S: 421 too many connections\n"
                      "= FAILED\n"
                      "F: BUSY 421 mx.example too many connections\n");
}

static void a_refusing_greeting_fails_as_refusing(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, "S: 521 5.3.2 accepts no mail\n"
                      "= FAILED\n"
                      "F: REFUSING 521 5.3.2 accepts no mail\n");
}

/* Postfix's postscreen sends the first line of its greeting at once, as a trap, and takes it back
 * where a block list names the client. */
static void a_greeting_that_is_taken_back_is_refusing_or_busy(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, "S: 220-mx.example ESMTP\n"
                      "S: 521 5.7.1 Service unavailable; client [192.0.2.1] blocked\n"
                      "= FAILED\n"
                      "F: REFUSING 521 5.7.1 Service unavailable; client [192.0.2.1] blocked\n");
    dialogue_play(&d, "S: 220-mx.example ESMTP\n"
                      "S: 421 4.3.2 All server ports are busy\n"
                      "= FAILED\n"
                      "F: BUSY 421 4.3.2 All server ports are busy\n");
}

static void what_ehlo_offers_counts_only_where_it_is_accepted(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, "S: 220 mx\n"
                      "C: EHLO relay.example\n"
                      "S: 250-mx\n"
                      "S: 250-PIPELINING\n"
                      "S: 550 denied\n"
                      "C: HELO relay.example\n"
                      "S: 250 mx\n"
                      "= READY\n"
                      "! begin\n"
                      "C: MAIL FROM:<a@sender.example>\n");
}

static void ehlo_not_understood_is_followed_by_helo(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d,
                  HELLO "S: 500-PIPELINING\n"
                        "S: 500 DSN\n"
                        "C: HELO relay.example\n"
                        "P: HELO\n"
                        "S: 250 mx.example\n"
                        "= READY\n"
                        "! begin\n"
                        "C: MAIL FROM:<a@sender.example>\n"); /* one by one: 500 offers nothing */
}

static void helo_refused_too_fails_as_refusing(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, HELLO "S: 502 what\n"
                            "C: HELO relay.example\n"
                            "S: 550 5.7.1 not you\n"
                            "= FAILED\n"
                            "F: REFUSING 550 5.7.1 not you\n"
                            "P: HELO\n");
}

static void a_temporary_refusal_of_ehlo_or_helo_is_busy(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, HELLO "S: 451 later\n"
                            "= FAILED\n"
                            "F: BUSY 451 later\n");
    dialogue_play(&d, HELLO "S: 502 what\n"
                            "C: HELO relay.example\n"
                            "S: 450 later\n"
                            "= FAILED\n"
                            "F: BUSY 450 later\n");
}

/* ---- STARTTLS ---- */

static void starttls_is_taken_where_offered(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    static const enum smtp_tls_policy policies[] = {SMTP_TLS_OPPORTUNISTIC, SMTP_TLS_REQUIRED};
    for (size_t i = 0; i < 2; i++) {
        d.tls = policies[i];
        dialogue_play(&d, HELLO "S: 250-mx.example\n"
                                "S: 250-PIPELINING\n"
                                "S: 250 STARTTLS\n"
                                "C: STARTTLS\n"
                                "P: STARTTLS\n"
                                "S: 220 2.0.0 go ahead\n"
                                "= START_TLS\n"
                                "P: TLS handshake\n"
                                "! tls\n"
                                "C: EHLO relay.example\n"
                                "P: EHLO\n"
                                "S: 250-mx.example\n"
                                "S: 250 STARTTLS\n"
                                "= READY\n"
                                "! begin\n"
                                "C: MAIL FROM:<a@sender.example>\n"); /* no PIPELINING in TLS */
    }
}

static void starttls_is_not_asked_for_where_tls_is_off(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, HELLO "S: 250-mx.example\n"
                            "S: 250 STARTTLS\n"
                            "= READY\n");
}

static void starttls_refused_goes_on_in_clear_unless_required(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    static const char *const refusals[] = {"454 4.7.0 not now", "501 no", "554 5.7.0 never"};
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        char script[512];
        d.tls = SMTP_TLS_OPPORTUNISTIC;
        (void)snprintf(script, sizeof script,
                       HELLO "S: 250-mx.example\n"
                             "S: 250-SIZE 999\n"
                             "S: 250 STARTTLS\n"
                             "C: STARTTLS\n"
                             "S: %s\n"
                             "= READY\n"
                             "? 5.3.4 the message is larger than the exchange accepts\n",
                       refusals[i]); /* what EHLO offered still holds */
        dialogue_play(&d, script);
        d.tls = SMTP_TLS_REQUIRED;
        (void)snprintf(script, sizeof script,
                       HELLO "S: 250 STARTTLS\n"
                             "= FAILED\n"
                             "F: TLS_REQUIRED 4.7.10 TLS is required and the exchange does not "
                             "offer it\n");
        dialogue_play(&d, script); /* on the first line it is the server's name, not a keyword */
        (void)snprintf(script, sizeof script,
                       HELLO "S: 250-mx.example\n"
                             "S: 250 STARTTLS\n"
                             "C: STARTTLS\n"
                             "S: %s\n"
                             "= FAILED\n"
                             "F: TLS_REQUIRED %s\n",
                       refusals[i], refusals[i]);
        dialogue_play(&d, script);
    }
}

static void required_tls_is_not_waived_for_a_server_that_knows_helo_only(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    d.tls = SMTP_TLS_REQUIRED;
    dialogue_play(&d, HELLO "S: 502 what\n"
                            "C: HELO relay.example\n"
                            "S: 250-mx.example\n"
                            "S: 250 STARTTLS\n"
                            "= FAILED\n"
                            "F: TLS_REQUIRED 4.7.10 TLS is required and the exchange does not "
                            "offer it\n");
}

static void bytes_behind_the_220_to_starttls_are_dropped(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    d.tls = SMTP_TLS_OPPORTUNISTIC;
    dialogue_play_at_once(&d, HELLO "S: 250-mx.example\n"
                                    "S: 250 STARTTLS\n"
                                    "C: STARTTLS\n"
                                    "S: 220 go\n"
                                    "S: 250-injected\n"
                                    "S: 250 PIPELINING\n"
                                    "s: 25\n"
                                    "= START_TLS\n"
                                    "! tls\n"
                                    "C: EHLO relay.example\n"
                                    "S: 250 mx.example\n"
                                    "= READY\n"
                                    "! begin\n"
                                    "C: MAIL FROM:<a@sender.example>\n");
}

/* ---- what is not SMTP, or too much ---- */

static void garbage_is_not_smtp(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    static const char *const garbage[] = {"HTTP/1.1 400 Bad Request",
                                          "* OK IMAP4rev1",
                                          "+OK POP3",
                                          "-ERR",
                                          "22O mx",
                                          "220_mx",
                                          "2200 mx",
                                          "20",
                                          "120 early",
                                          "600 late",
                                          "000",
                                          " 220 mx",
                                          ""};
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        char script[256];
        (void)snprintf(script, sizeof script,
                       "S: %s\n"
                       "= FAILED\n"
                       "F: NOT_SMTP 4.5.0 " NOT_SMTP "P: greeting\n",
                       garbage[i]);
        dialogue_play(&d, script);
    }
}

static void garbage_is_known_before_its_line_ends(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, "s: SSH\n"
                      "= FAILED\n"
                      "F: NOT_SMTP 4.5.0 " NOT_SMTP);
}

static void an_intermediate_reply_belongs_to_data_alone(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    static const char *const until[] = {
        "",
        HELLO,
        HELLO "S: 500 what\nC: HELO relay.example\n",
        PIPELINING "! begin\nC: MAIL FROM:<a@sender.example>\nC: RCPT TO:<one@rcpt.example>\n"
                   "C: DATA\n",
        PIPELINING "! begin\nC: MAIL FROM:<a@sender.example>\nC: RCPT TO:<one@rcpt.example>\n"
                   "C: DATA\nS: 250 ok\n",
    };
    for (size_t i = 0; i < sizeof until / sizeof *until; i++) {
        char script[512];
        (void)snprintf(script, sizeof script, "%sS: 354 go\n= FAILED\nF: NOT_SMTP 4.5.0 " NOT_SMTP,
                       until[i]);
        dialogue_play(&d, script);
    }
}

static void an_endless_reply_is_a_flood(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    enum { LINES = 129 };
    char script[LINES * 16 + 256] = "";
    for (int i = 0; i < LINES; i++)
        memcpy(script + i * 13, "S: 220-flood\n", 13);
    (void)snprintf(script + LINES * 13, sizeof script - LINES * 13, "%s",
                   "= FAILED\n"
                   "F: FLOOD 4.5.0 " TOO_LONG "P: greeting\n");
    dialogue_play(&d, script);
}

static void replies_nobody_asked_for_are_a_flood(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "S: 250 ok\n"
                                 "= FAILED\n"
                                 "F: FLOOD 4.5.0 " NOT_SMTP "P: ready\n");
    dialogue_play(&d, PIPELINING "s: hello\n"
                                 "= FAILED\n"
                                 "F: FLOOD 4.5.0 " NOT_SMTP);
}

static void a_second_reply_to_ehlo_is_found_out_before_ready(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play_at_once(&d, HELLO "S: 250 mx.example\n"
                                    "S: 250 again\n"
                                    "= FAILED\n"
                                    "F: FLOOD 4.5.0 " NOT_SMTP);
}

static void a_reply_begun_before_its_command_is_no_answer(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "s: 250 earl\n"
                                 "! begin\n"
                                 "C: MAIL FROM:<a@sender.example>\n"
                                 "C: RCPT TO:<one@rcpt.example>\n"
                                 "C: DATA\n"
                                 "S: y\n"
                                 "= FAILED\n"
                                 "F: FLOOD 4.5.0 " NOT_SMTP "P: MAIL\n");
}

static void a_server_that_answers_ahead_of_the_question_is_a_flood(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play_at_once(&d, "S: 220 mx.example\n"
                              "S: 250 mx.example\n" /* EHLO has not been written yet */
                              "C: EHLO relay.example\n"
                              "= FAILED\n"
                              "F: FLOOD 4.5.0 " NOT_SMTP "P: EHLO\n");
}

/* ---- the end ---- */

static void a_goodbye_while_idle_is_busy(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "S: 421 4.4.2 idle too long\n"
                                 "= FAILED\n"
                                 "F: BUSY 421 4.4.2 idle too long\n"
                                 "P: ready\n");
    dialogue_play(&d, PIPELINING "S: 451 4.7.0 Timeout waiting for client input\n"
                                 "= FAILED\n"
                                 "F: BUSY 451 4.7.0 Timeout waiting for client input\n");
}

static void a_goodbye_that_crosses_mail_on_the_wire_is_busy(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n"
                                 "S: 421 closing\n"
                                 "C: MAIL FROM:<a@sender.example>\n"
                                 "C: RCPT TO:<one@rcpt.example>\n"
                                 "C: DATA\n"
                                 "= FAILED\n"
                                 "F: BUSY 421 closing\n"
                                 "P: MAIL\n");
}

static void quit_ends_with_its_answer(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! quit\n"
                                 "C: QUIT\n"
                                 "P: QUIT\n"
                                 "S: 221 bye\n"
                                 "= FAILED\n"
                                 "F: CLOSED 221 bye\n");
}

static void a_421_before_ready_is_busy_wherever_it_comes(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    d.tls = SMTP_TLS_OPPORTUNISTIC;
    static const char *const until[] = {
        "",
        HELLO,
        HELLO "S: 500 what\nC: HELO relay.example\n",
        HELLO "S: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\n",
    };
    for (size_t i = 0; i < sizeof until / sizeof *until; i++) {
        char script[512];
        (void)snprintf(script, sizeof script,
                       "%sS: 421 4.3.2 closing\n= FAILED\nF: BUSY 421 4.3.2 closing\n", until[i]);
        dialogue_play(&d, script);
    }
}

static void after_the_end_nothing_is_read(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1024);
    struct smtp_client_options options = {.ehlo_name = "relay.example", .tls = SMTP_TLS_OFF};
    struct smtp_client *c = smtp_client_create(&options, &out);
    assert_non_null(c);
    size_t used = 0;
    assert_int_equal(smtp_client_feed(c, SLICE_LIT("554 no\r\n220 yes\r\n"), &used), CLIENT_FAILED);
    assert_int_equal(used, 8);
    assert_int_equal(smtp_client_feed(c, SLICE_LIT("220 yes\r\n"), &used), CLIENT_FAILED);
    assert_int_equal(used, 0);
    assert_int_equal(smtp_client_trouble(c), TROUBLE_REFUSING);
    assert_int_equal(buf_len(&out), 0);
    smtp_client_destroy(&c);
    buf_fini(&out);
}

/* ---- what the driver measures ---- */

static void only_a_whole_reply_counts_against_the_deadline(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1024);
    struct smtp_client_options options = {.ehlo_name = "relay.example", .tls = SMTP_TLS_OFF};
    struct smtp_client *c = smtp_client_create(&options, &out);
    assert_non_null(c);
    struct slice trickle = SLICE_LIT("220-a\r\n220-b\r\n220 c\r\n");
    for (size_t i = 0; i < trickle.len; i++) {
        assert_int_equal(smtp_client_replies(c), 0);
        assert_int_equal(smtp_client_phase(c), SMTP_GREETING);
        size_t used = 0;
        assert_int_equal(smtp_client_feed(c, slice_of(trickle.ptr + i, 1), &used), CLIENT_MORE);
    }
    assert_int_equal(smtp_client_replies(c), 1);
    assert_int_equal(smtp_client_phase(c), SMTP_EHLO);
    smtp_client_destroy(&c);
    buf_fini(&out);
}

static void each_phase_has_the_limit_of_the_rfc(void **state)
{
    (void)state;
    assert_int_equal(smtp_phase_limit_ms(SMTP_GREETING), 5 * 60 * 1000);
    assert_int_equal(smtp_phase_limit_ms(SMTP_MAIL), 5 * 60 * 1000);
    assert_int_equal(smtp_phase_limit_ms(SMTP_RCPT), 5 * 60 * 1000);
    assert_int_equal(smtp_phase_limit_ms(SMTP_DATA), 2 * 60 * 1000);
    assert_int_equal(smtp_phase_limit_ms(SMTP_BODY), 3 * 60 * 1000);
    assert_int_equal(smtp_phase_limit_ms(SMTP_DOT), 10 * 60 * 1000);
    assert_int_equal(smtp_phase_limit_ms(SMTP_READY), 0);
    assert_string_equal(smtp_phase_name(SMTP_DOT), "end of message");
}

static void without_memory_for_a_command_the_session_ends(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 8);
    struct smtp_client_options options = {.ehlo_name = "relay.example", .tls = SMTP_TLS_OFF};
    struct smtp_client *c = smtp_client_create(&options, &out);
    assert_non_null(c);
    size_t used = 0;
    assert_int_equal(smtp_client_feed(c, SLICE_LIT("220 mx\r\n"), &used), CLIENT_FAILED);
    assert_int_equal(smtp_client_trouble(c), TROUBLE_NONE);
    assert_int_equal(smtp_client_last_reply(c)->code, LOCAL_NO_RESOURCES);
    smtp_client_destroy(&c);
    buf_fini(&out);
}

static void the_limits_of_the_server_are_told(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1024);
    struct smtp_client_options options = {.ehlo_name = "relay.example", .tls = SMTP_TLS_OFF};
    struct smtp_client *c = smtp_client_create(&options, &out);
    assert_non_null(c);
    size_t used = 0;
    assert_int_equal(smtp_client_feed(c, SLICE_LIT("220 mx\r\n"), &used), CLIENT_MORE);
    buf_consume(&out, buf_len(&out));
    struct slice ehlo = SLICE_LIT("250-mx\r\n250-DSN\r\n250 LIMITS MAILMAX=20 RCPTMAX=5\r\n");
    assert_int_equal(smtp_client_feed(c, ehlo, &used), CLIENT_READY);
    assert_int_equal(smtp_client_mail_max(c), 20);
    assert_int_equal(smtp_client_rcpt_max(c), 5);
    assert_int_equal(smtp_client_capabilities(c), SMTP_CAP_DSN);
    smtp_client_destroy(&c);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_greeting_and_ehlo_make_ready),
        cmocka_unit_test(a_greeting_of_many_lines_is_one_greeting),
        cmocka_unit_test(a_busy_greeting_fails_as_busy),
        cmocka_unit_test(a_refusing_greeting_fails_as_refusing),
        cmocka_unit_test(a_greeting_that_is_taken_back_is_refusing_or_busy),
        cmocka_unit_test(what_ehlo_offers_counts_only_where_it_is_accepted),
        cmocka_unit_test(ehlo_not_understood_is_followed_by_helo),
        cmocka_unit_test(helo_refused_too_fails_as_refusing),
        cmocka_unit_test(a_temporary_refusal_of_ehlo_or_helo_is_busy),
        cmocka_unit_test(starttls_is_taken_where_offered),
        cmocka_unit_test(starttls_is_not_asked_for_where_tls_is_off),
        cmocka_unit_test(starttls_refused_goes_on_in_clear_unless_required),
        cmocka_unit_test(required_tls_is_not_waived_for_a_server_that_knows_helo_only),
        cmocka_unit_test(bytes_behind_the_220_to_starttls_are_dropped),
        cmocka_unit_test(garbage_is_not_smtp),
        cmocka_unit_test(garbage_is_known_before_its_line_ends),
        cmocka_unit_test(an_intermediate_reply_belongs_to_data_alone),
        cmocka_unit_test(an_endless_reply_is_a_flood),
        cmocka_unit_test(replies_nobody_asked_for_are_a_flood),
        cmocka_unit_test(a_second_reply_to_ehlo_is_found_out_before_ready),
        cmocka_unit_test(a_reply_begun_before_its_command_is_no_answer),
        cmocka_unit_test(a_server_that_answers_ahead_of_the_question_is_a_flood),
        cmocka_unit_test(a_goodbye_while_idle_is_busy),
        cmocka_unit_test(a_goodbye_that_crosses_mail_on_the_wire_is_busy),
        cmocka_unit_test(quit_ends_with_its_answer),
        cmocka_unit_test(a_421_before_ready_is_busy_wherever_it_comes),
        cmocka_unit_test(after_the_end_nothing_is_read),
        cmocka_unit_test(only_a_whole_reply_counts_against_the_deadline),
        cmocka_unit_test(each_phase_has_the_limit_of_the_rfc),
        cmocka_unit_test(without_memory_for_a_command_the_session_ends),
        cmocka_unit_test(the_limits_of_the_server_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
