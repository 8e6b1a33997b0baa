/* The client machine with more than one transaction under way: behind a content's end,
 * and by BDAT. */
#include "tests/unit/smtp_dialogue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* ---- one behind the other ---- */

/* RFC 2920 3.1: the end of a content may be the first of a group, and RFC 5321 4.1.1.4: it clears
 * the server's buffers, whatever its reply. */
static void the_next_one_follows_in_the_write_of_a_contents_end(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA TAKEN "S: 354 go\n= BODY\n"
                                 "! begin\n! sent\nP: end of message\n" MAIL ONE DATA
                                 "S: 550 5.7.1 the first\n= DONE\nR: 550 5.7.1 the first\n"
                                 "P: MAIL\n" TAKEN "S: 354 go\n= BODY\n"
                                 "! sent\nS: 250 the second\n= DONE\nR: 250 the second\n= READY\n");
}

static void all_that_comes_at_once_is_told_in_order(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d,
                  PIPELINING "! begin\n" MAIL ONE DATA TAKEN "S: 354 go\n= BODY\n"
                             "! begin\n! sent\n" MAIL ONE DATA "S: 250 first\n" TAKEN "S: 354 go\n"
                             "= DONE\nR: 250 first\n= BODY\n! sent\n"
                             "S: 250 second\n= DONE\nR: 250 second\n= READY\n");
}

static void what_is_behind_a_contents_end_can_be_taken_back_unwritten(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA TAKEN "S: 354 go\n= BODY\n"
                                 "! begin\n! retract\nP: message body\n! sent\n"
                                 "S: 250 first\n= DONE\nR: 250 first\n= READY\n");
}

static void a_refusal_behind_a_contents_end_is_cleared_with_rset(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA TAKEN "S: 354 go\n= BODY\n"
                                 "! begin\n! sent\n" MAIL ONE DATA
                                 "S: 250 first\n= DONE\nR: 250 first\n"
                                 "S: 451 4.3.0 later\nS: 503 mail first\nS: 503 mail first\n"
                                 "= DONE\nR: 451 4.3.0 later\n" RSET);
}

static void a_421_to_the_dot_ends_it_with_what_is_behind(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA TAKEN "S: 354 go\n= BODY\n"
                                 "! begin\n! sent\n" MAIL ONE DATA
                                 "S: 421 4.3.2 bye\n= DONE\nR: 421 4.3.2 bye\n= FAILED\n"
                                 "F: BUSY 421 4.3.2 bye\nP: end of message\n");
}

/* One reply too many is read as the answer to MAIL; DATA's then is none that DATA can have. */
static void a_second_reply_to_the_dot_is_found_out_behind_it(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA TAKEN "S: 354 go\n= BODY\n"
                                 "! begin\n! sent\n" MAIL ONE DATA
                                 "S: 250 first\n= DONE\nR: 250 first\n"
                                 "S: 250 first, I said\n" TAKEN "= FAILED\n"
                                 "F: NOT_SMTP 4.5.0 the exchange does not speak SMTP\n");
}

/* ---- contents along with their envelopes ---- */

static void by_bdat_a_message_is_one_write(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    dialogue_play(&d,
                  CHUNKING "! begin by bdat\n" MAIL ONE TWO BDAT "! sent\nP: MAIL\n"
                           "S: 250 ok\nP: RCPT\nS: 250 ok\nS: 550 5.1.1 who\nP: BDAT\n"
                           "S: 250 2.0.0 taken\n= DONE\nR: 250 taken\nR: 550 5.1.1 who\n= READY\n");
}

static void without_chunking_or_pipelining_it_is_by_data(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin by bdat\n" MAIL ONE DATA);
    dialogue_play(&d, HELLO "S: 250-mx\nS: 250 CHUNKING\n= READY\n! begin by bdat\n" MAIL);
}

static void several_are_in_flight_each_opened_with_rset(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(
        &d, CHUNKING
        "! begin by bdat\n! sent\n! begin by bdat\n! sent\n! begin by bdat\n! sent\n" MAIL ONE BDAT
        "C: RSET\n" MAIL ONE BDAT "C: RSET\n" MAIL ONE BDAT TAKEN
        "S: 250 first\n= DONE\nR: 250 first\nP: RSET\n"
        "S: 250 reset\n" TAKEN "S: 452 4.3.1 full\n= DONE\nR: 452 4.3.1 full\nP: RSET\n"
        "S: 250 reset\nS: 250 ok\nS: 550 5.1.1 who\nS: 503 nobody\n"
        "= DONE\nR: 550 5.1.1 who\n" RSET);
}

static void data_may_follow_bdat(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d,
                  CHUNKING "! begin by bdat\n! sent\n! begin\n" MAIL ONE BDAT
                           "C: RSET\n" MAIL ONE DATA TAKEN "S: 250 first\n= DONE\nR: 250 first\n"
                           "S: 250 reset\n" TAKEN
                           "S: 354 go\n= BODY\n! begin by bdat\n! sent\n! sent\n" MAIL ONE BDAT
                           "S: 250 second\n= DONE\nR: 250 second\n" TAKEN
                           "S: 250 third\n= DONE\nR: 250 third\n= READY\n");
}

static void a_failed_bdat_is_cleared_with_rset(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, CHUNKING "! begin by bdat\n! sent\n" MAIL ONE BDAT TAKEN
                               "S: 554 5.7.1 spam\n= DONE\nR: 554 5.7.1 spam\n" RSET);
}

/* It was offered: what is wrong is the server, and nobody is bounced for it. */
static void a_bdat_that_is_not_understood_ends_the_session_and_bounces_nobody(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, CHUNKING "! begin by bdat\n! sent\n" MAIL ONE BDAT TAKEN
                               "S: 500 5.5.1 what?\n= DONE\nR: 500 4.5.1 what?\n= FAILED\n"
                               "F: NOT_SMTP 500 4.5.1 what?\n");
}

static void an_acceptance_before_the_end_of_a_chunk_is_not_believed(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, CHUNKING "! begin by bdat\n" MAIL ONE BDAT TAKEN "S: 250 taken\n= FAILED\n"
                               "F: NOT_SMTP 4.5.0 the exchange does not speak SMTP\n");
}

/* Its word on what comes behind still counts, should it go on all the same. */
static void a_421_in_front_of_what_was_sent_waits_for_the_end(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, CHUNKING
                  "! begin by bdat\n! sent\n! begin by bdat\n! sent\n" MAIL ONE BDAT
                  "C: RSET\n" MAIL ONE BDAT "S: 421 4.3.2 enough\nP: RCPT\n! goodbye\n"
                  "S: 503 no\nS: 503 no\n= DONE\nR: 421 4.3.2 enough\n"
                  "S: 250 reset\n" TAKEN
                  "S: 250 taken\n= DONE\nR: 250 taken\n= FAILED\nF: BUSY 421 4.3.2 enough\n");
}

static void a_refused_rset_in_between_ends_the_session(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d,
                  CHUNKING "! begin by bdat\n! sent\n! begin by bdat\n! sent\n" MAIL ONE BDAT
                           "C: RSET\n" MAIL ONE BDAT TAKEN "S: 250 first\n= DONE\nR: 250 first\n"
                           "S: 500 what?\n= FAILED\nF: BUSY 500 what?\n");
}

static void a_second_reply_to_a_chunk_is_a_flood(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play_at_once(&d,
                          CHUNKING "! begin by bdat\n! sent\n" MAIL ONE BDAT TAKEN
                                   "S: 250 chunk\nS: 250 taken\n= DONE\nR: 250 chunk\n= FAILED\n"
                                   "F: FLOOD 4.5.0 the exchange does not speak SMTP\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_one_follows_in_the_write_of_a_contents_end),
        cmocka_unit_test(all_that_comes_at_once_is_told_in_order),
        cmocka_unit_test(what_is_behind_a_contents_end_can_be_taken_back_unwritten),
        cmocka_unit_test(a_refusal_behind_a_contents_end_is_cleared_with_rset),
        cmocka_unit_test(a_421_to_the_dot_ends_it_with_what_is_behind),
        cmocka_unit_test(a_second_reply_to_the_dot_is_found_out_behind_it),
        cmocka_unit_test(by_bdat_a_message_is_one_write),
        cmocka_unit_test(without_chunking_or_pipelining_it_is_by_data),
        cmocka_unit_test(several_are_in_flight_each_opened_with_rset),
        cmocka_unit_test(data_may_follow_bdat),
        cmocka_unit_test(a_failed_bdat_is_cleared_with_rset),
        cmocka_unit_test(a_bdat_that_is_not_understood_ends_the_session_and_bounces_nobody),
        cmocka_unit_test(an_acceptance_before_the_end_of_a_chunk_is_not_believed),
        cmocka_unit_test(a_421_in_front_of_what_was_sent_waits_for_the_end),
        cmocka_unit_test(a_refused_rset_in_between_ends_the_session),
        cmocka_unit_test(a_second_reply_to_a_chunk_is_a_flood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
