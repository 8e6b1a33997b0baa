/* The client machine's transactions: pipelined and not, partial, refused, cut short; and what an
 * envelope turns into on the wire. */
#include "tests/unit/smtp_dialogue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

/* ---- the usual course ---- */

static void pipelined_commands_go_out_as_one_group(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO DATA "P: MAIL\n"
                                 "S: 250 2.1.0 sender ok\n"
                                 "P: RCPT\n"
                                 "S: 250 2.1.5 one ok\n"
                                 "P: RCPT\n"
                                 "S: 251 two forwarded\n"
                                 "P: DATA\n"
                                 "S: 354 go\n"
                                 "= BODY\n"
                                 "P: message body\n"
                                 "! sent\n"
                                 "P: end of message\n"
                                 "S: 250 2.0.0 queued as 1\n"
                                 "= DONE\n"
                                 "R: 250 queued as 1\n"
                                 "R: 250 queued as 1\n"
                                 "= READY\n"
                                 "P: ready\n");
}

static void without_pipelining_commands_go_one_by_one(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    dialogue_play(&d, PLAIN "! begin\n" MAIL "S: 250 ok\n"
                            "P: RCPT\n" ONE "S: 250 ok\n" TWO "S: 550 5.1.1 who\n"
                            "P: DATA\n" DATA "S: 354 go\n"
                            "= BODY\n"
                            "! sent\n"
                            "S: 250 queued\n"
                            "= DONE\n"
                            "R: 250 queued\n"
                            "R: 550 5.1.1 who\n"
                            "= READY\n");
}

static void a_session_carries_one_message_after_another(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d,
                  PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                             "S: 250 ok\n"
                             "S: 354 go\n"
                             "= BODY\n"
                             "! sent\n"
                             "S: 250 first\n"
                             "= DONE\n"
                             "R: 250 first\n"
                             "= READY\n"
                             "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                             "S: 550 not this time\n"
                             "S: 554 nobody\n"
                             "= DONE\n"
                             "R: 550 not this time\n" RSET "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                             "S: 250 ok\n"
                             "S: 354 go\n"
                             "= BODY\n"
                             "! sent\n"
                             "S: 452 4.3.1 third\n"
                             "= DONE\n"
                             "R: 452 4.3.1 third\n"
                             "= READY\n"
                             "! quit\n"
                             "C: QUIT\n"
                             "S: 221 bye\n"
                             "= FAILED\n");
}

static void the_dots_refusal_is_each_accepted_recipients_reply(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(3);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO THREE DATA "S: 250 ok\n"
                                 "S: 250 ok\n"
                                 "S: 550 5.1.1 no such user\n"
                                 "S: 250 ok\n"
                                 "S: 354 go\n"
                                 "= BODY\n"
                                 "! sent\n"
                                 "S: 554-5.6.0 we do not\n"
                                 "S: 554 5.6.0 like it\n"
                                 "= DONE\n"
                                 "R: 554 5.6.0 we do not like it\n"
                                 "R: 550 5.1.1 no such user\n"
                                 "R: 554 5.6.0 we do not like it\n"
                                 "= READY\n");
}

/* RFC 5321 4.5.3.1.10: the driver sends the rest in the next transaction. */
static void too_many_recipients_stay_with_their_reply(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(3);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO THREE DATA "S: 250 ok\n"
                                 "S: 250 ok\n"
                                 "S: 452 4.5.3 too many\n"
                                 "S: 552 too many\n"
                                 "S: 354 go\n"
                                 "= BODY\n"
                                 "! sent\n"
                                 "S: 250 queued\n"
                                 "= DONE\n"
                                 "R: 250 queued\n"
                                 "R: 452 4.5.3 too many\n"
                                 "R: 552 too many\n"
                                 "= READY\n");
}

/* ---- refused before the content ---- */

static void mail_refused_is_every_recipients_reply(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO DATA "S: 550 5.7.1 not you\n"
                                 "S: 503 mail first\n"
                                 "S: 250 strange but true\n"
                                 "S: 503 rcpt first\n"
                                 "= DONE\n"
                                 "R: 550 5.7.1 not you\n"
                                 "R: 550 5.7.1 not you\n" RSET);
    dialogue_play(&d, PLAIN "! begin\n" MAIL "S: 450 4.7.1 greylisted\n"
                            "= DONE\n"
                            "R: 450 4.7.1 greylisted\n"
                            "R: 450 4.7.1 greylisted\n" RSET);
}

static void nobody_accepted_ends_without_content(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO DATA "S: 250 ok\n"
                                 "S: 550 5.1.1 one\n"
                                 "S: 450 4.2.1 two\n"
                                 "S: 503 5.5.1 no valid recipients\n"
                                 "= DONE\n"
                                 "R: 550 5.1.1 one\n"
                                 "R: 450 4.2.1 two\n" RSET);
    dialogue_play(&d, PLAIN "! begin\n" MAIL "S: 250 ok\n" ONE "S: 550 5.1.1 one\n" TWO
                            "S: 450 4.2.1 two\n"
                            "= DONE\n"
                            "R: 550 5.1.1 one\n"
                            "R: 450 4.2.1 two\n" RSET);
}

/* RFC 2920 3.1 */
static void a_354_for_nobody_is_answered_with_an_empty_content(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    static const char *const verdicts[] = {"250 queued", "554 no valid recipients", "354 what"};
    for (size_t i = 0; i < sizeof verdicts / sizeof *verdicts; i++) {
        char script[1024];
        (void)snprintf(script, sizeof script,
                       PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                  "S: 550 5.1.1 who\n"
                                  "S: 354 go\n"
                                  "C: .\n"
                                  "P: end of message\n"
                                  "S: %s\n"
                                  "= DONE\n"
                                  "R: 550 5.1.1 who\n"
                                  "= READY\n",
                       verdicts[i]);
        dialogue_play(&d, script);
    }
}

static void a_354_behind_a_refused_mail_is_answered_the_same(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 451 4.7.1 later\n"
                                 "S: 250 ok\n"
                                 "S: 354 go\n"
                                 "C: .\n"
                                 "S: 250 queued\n"
                                 "= DONE\n"
                                 "R: 451 4.7.1 later\n"
                                 "= READY\n");
}

static void data_refused_is_each_accepted_recipients_reply(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO DATA "S: 250 ok\n"
                                 "S: 550 5.1.1 one\n"
                                 "S: 250 ok\n"
                                 "S: 451 4.3.0 not now\n"
                                 "= DONE\n"
                                 "R: 550 5.1.1 one\n"
                                 "R: 451 4.3.0 not now\n" RSET);
    dialogue_play(&d, PLAIN "! begin\n" MAIL "S: 250 ok\n" ONE "S: 250 ok\n" TWO
                            "S: 550 5.1.1 two\n" DATA "S: 554 5.3.0 never\n"
                            "= DONE\n"
                            "R: 554 5.3.0 never\n"
                            "R: 550 5.1.1 two\n" RSET);
}

static void a_refused_rset_ends_the_session(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PLAIN "! begin\n" MAIL "S: 550 no\n"
                            "= DONE\n"
                            "R: 550 no\n"
                            "C: RSET\n"
                            "S: 502 what\n"
                            "= FAILED\n"
                            "F: BUSY 502 what\n"
                            "P: RSET\n");
}

/* ---- out of step ---- */

static void a_250_in_place_of_354_is_not_smtp(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                 "S: 250 ok\n"
                                 "S: 250 ok\n"
                                 "= FAILED\n"
                                 "F: NOT_SMTP 4.5.0 the exchange does not speak SMTP\n"
                                 "P: DATA\n");
}

static void a_354_in_answer_to_the_dot_is_not_smtp(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                 "S: 250 ok\n"
                                 "S: 354 go\n"
                                 "= BODY\n"
                                 "! sent\n"
                                 "S: 354 go on\n"
                                 "= FAILED\n"
                                 "F: NOT_SMTP 4.5.0 the exchange does not speak SMTP\n"
                                 "P: end of message\n");
}

static void an_acceptance_before_the_contents_end_is_not_believed(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                 "S: 250 ok\n"
                                 "S: 354 go\n"
                                 "S: 250 queued\n"
                                 "= BODY\n"
                                 "= FAILED\n"
                                 "F: NOT_SMTP 4.5.0 the exchange does not speak SMTP\n"
                                 "P: message body\n");
}

static void reply_before_end_of_data_is_kept(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                 "S: 250 ok\n"
                                 "S: 354 go\n"
                                 "= BODY\n"
                                 "S: 552 5.3.4 too big, I stopped reading\n"
                                 "= FAILED\n"
                                 "F: CLOSED 552 5.3.4 too big, I stopped reading\n"
                                 "P: message body\n");
}

static void a_second_reply_to_the_dot_is_a_flood(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play_at_once(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                         "S: 250 ok\n"
                                         "S: 354 go\n"
                                         "= BODY\n"
                                         "! sent\n"
                                         "S: 250 queued\n"
                                         "S: 250 queued again\n"
                                         "= DONE\n"
                                         "R: 250 queued\n"
                                         "= FAILED\n"
                                         "F: FLOOD 4.5.0 the exchange does not speak SMTP\n");
}

/* ---- 421 ---- */

static void a_421_keeps_the_replies_that_came_before_it(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(3);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO THREE DATA "S: 250 ok\n"
                                 "S: 550 5.1.1 one\n"
                                 "S: 250 2.1.5 two\n"
                                 "S: 421 4.3.2 closing\n"
                                 "= FAILED\n"
                                 "F: BUSY 421 4.3.2 closing\n"
                                 "P: RCPT\n"
                                 "R: 550 5.1.1 one\n"
                                 "R: 250 2.1.5 two\n"
                                 "R: 0 \n");
}

static void a_421_in_a_transaction_is_busy_wherever_it_comes(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    static const char *const until[] = {
        PIPELINING "! begin\n" MAIL ONE DATA,
        PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n",
        PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\nS: 250 ok\n",
        PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\nS: 250 ok\nS: 354 go\n= BODY\n",
        PIPELINING "! begin\n" MAIL ONE DATA "S: 450 no\n",
        PLAIN "! begin\n" MAIL,
        PLAIN "! begin\n" MAIL "S: 250 ok\n" ONE,
        PLAIN "! begin\n" MAIL "S: 250 ok\n" ONE "S: 250 ok\n" DATA,
        PLAIN "! begin\n" MAIL "S: 450 no\n= DONE\nC: RSET\n",
        PIPELINING "! quit\nC: QUIT\n",
    };
    for (size_t i = 0; i < sizeof until / sizeof *until; i++) {
        char script[1024];
        (void)snprintf(script, sizeof script,
                       "%sS: 421 4.3.2 closing\n= FAILED\nF: BUSY 421 4.3.2 closing\n", until[i]);
        dialogue_play(&d, script);
    }
}

static void a_421_to_the_dot_is_a_known_outcome(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO DATA "S: 250 ok\n"
                                 "S: 250 ok\n"
                                 "S: 550 5.1.1 two\n"
                                 "S: 354 go\n"
                                 "= BODY\n"
                                 "! sent\n"
                                 "S: 421 4.3.2 closing\n"
                                 "= DONE\n"
                                 "R: 421 4.3.2 closing\n"
                                 "R: 550 5.1.1 two\n"
                                 "= FAILED\n"
                                 "F: BUSY 421 4.3.2 closing\n"
                                 "P: end of message\n");
}

static void a_421_behind_the_last_refusal_takes_nothing_back(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                 "S: 550 5.1.1 who\n"
                                 "S: 421 too many errors\n"
                                 "= DONE\n"
                                 "R: 550 5.1.1 who\n"
                                 "= FAILED\n"
                                 "F: BUSY 421 too many errors\n");
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                 "S: 550 5.1.1 who\n"
                                 "S: 354 go\n"
                                 "C: .\n"
                                 "S: 421 too many errors\n"
                                 "= DONE\n"
                                 "R: 550 5.1.1 who\n"
                                 "= FAILED\n"
                                 "F: BUSY 421 too many errors\n");
}

static void a_goodbye_behind_the_dots_250_comes_after_done(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    dialogue_play_at_once(&d, PIPELINING "! begin\n" MAIL ONE DATA "S: 250 ok\n"
                                         "S: 250 ok\n"
                                         "S: 354 go\n"
                                         "= BODY\n"
                                         "! sent\n"
                                         "S: 250 queued\n"
                                         "S: 421 one message is all I take\n"
                                         "= DONE\n"
                                         "R: 250 queued\n"
                                         "= FAILED\n"
                                         "F: BUSY 421 one message is all I take\n");
}

/* ---- what the envelope becomes ---- */

#define EVERYTHING                                                                                 \
    HELLO "S: 250-mx.example\n"                                                                    \
          "S: 250-PIPELINING\n"                                                                    \
          "S: 250-SIZE 2000\n"                                                                     \
          "S: 250-8BITMIME\n"                                                                      \
          "S: 250-SMTPUTF8\n"                                                                      \
          "S: 250 DSN\n"                                                                           \
          "= READY\n"

static void the_null_sender_is_sent_as_such(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    d.envelope.sender = SLICE_LIT("");
    dialogue_play(&d, PIPELINING "! begin\n"
                                 "C: MAIL FROM:<>\n" ONE DATA);
}

static void options_go_to_servers_that_offer_them(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    d.envelope.flags = ENVELOPE_BODY_8BIT;
    d.envelope.ret = RET_HDRS;
    d.envelope.envid = SLICE_LIT("QQ+2B314");
    d.recipients[0].notify = NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY;
    d.recipients[0].orcpt = SLICE_LIT("rfc822;Bob+2B@x.example");
    d.recipients[1].notify = NOTIFY_NEVER;
    dialogue_play(&d, EVERYTHING "! begin\n"
                                 "C: MAIL FROM:<a@sender.example> SIZE=1000 BODY=8BITMIME RET=HDRS "
                                 "ENVID=QQ+2B314\n"
                                 "C: RCPT TO:<one@rcpt.example> NOTIFY=SUCCESS,FAILURE,DELAY "
                                 "ORCPT=rfc822;Bob+2B@x.example\n"
                                 "C: RCPT TO:<two@rcpt.example> NOTIFY=NEVER\n" DATA);
    dialogue_play(&d, PIPELINING "! begin\n" MAIL ONE TWO DATA);
}

static void ret_full_and_plain_recipients_are_sent_plainly(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    d.envelope.ret = RET_FULL;
    dialogue_play(&d, EVERYTHING "! begin\n"
                                 "C: MAIL FROM:<a@sender.example> SIZE=1000 RET=FULL\n" ONE DATA);
}

static void smtputf8_goes_only_where_something_needs_it(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(2);
    d.envelope.flags = ENVELOPE_SMTPUTF8;
    dialogue_play(&d, EVERYTHING "? yes\n"
                                 "! begin\n"
                                 "C: MAIL FROM:<a@sender.example> SIZE=1000\n" ONE TWO DATA);
    dialogue_play(&d, PIPELINING "? yes\n");
    d.envelope.flags = ENVELOPE_SMTPUTF8 | ENVELOPE_HAS_UTF8_HEADER;
    dialogue_play(
        &d, EVERYTHING
        "! begin\n"
        "C: MAIL FROM:<a@sender.example> SIZE=1000 BODY=8BITMIME SMTPUTF8\n" ONE TWO DATA);
    d.envelope.flags = ENVELOPE_SMTPUTF8;
    d.recipients[1].address = SLICE_LIT("zw\xc3\xb6lf@rcpt.example");
    dialogue_play(&d, EVERYTHING
                  "! begin\n"
                  "C: MAIL FROM:<a@sender.example> SIZE=1000 BODY=8BITMIME SMTPUTF8\n" ONE
                  "C: RCPT TO:<zw\xc3\xb6lf@rcpt.example>\n" DATA);
    d = dialogue_for(1);
    d.envelope.flags = ENVELOPE_SMTPUTF8;
    d.envelope.sender = SLICE_LIT("\xc3\xa4@sender.example");
    dialogue_play(
        &d, EVERYTHING
        "! begin\n"
        "C: MAIL FROM:<\xc3\xa4@sender.example> SIZE=1000 BODY=8BITMIME SMTPUTF8\n" ONE DATA);
}

static void what_a_server_cannot_take_is_known_before_mail(void **state)
{
    (void)state;
    static const char utf8[] = "? 5.6.7 the exchange does not take internationalized addresses\n";
    char script[512];
    struct dialogue d = dialogue_for(1);
    d.envelope.flags = ENVELOPE_HAS_8BIT;
    dialogue_play(&d, PIPELINING "? 5.6.3 the exchange does not take 8-bit content\n");
    dialogue_play(&d,
                  EVERYTHING "? yes\n"
                             "! begin\n"
                             "C: MAIL FROM:<a@sender.example> SIZE=1000 BODY=8BITMIME\n" ONE DATA);
    d.envelope.flags = ENVELOPE_BODY_8BIT; /* declared, but there are none: it goes as it is */
    dialogue_play(&d, PIPELINING "? yes\n! begin\n" MAIL ONE DATA);
    d.envelope.flags = ENVELOPE_SMTPUTF8 | ENVELOPE_HAS_UTF8_HEADER;
    (void)snprintf(script, sizeof script, "%s%s", PIPELINING, utf8);
    dialogue_play(&d, script);
    d.envelope.flags = ENVELOPE_SMTPUTF8;
    d.recipients[0].address = SLICE_LIT("f\xc3\xbcnf@rcpt.example");
    dialogue_play(&d, script);
}

static void the_announced_size_is_obeyed(void **state)
{
    (void)state;
    struct dialogue d = dialogue_for(1);
    d.envelope.size_bytes = 2000;
    dialogue_play(&d, EVERYTHING "? yes\n");
    d.envelope.size_bytes = 2001;
    dialogue_play(&d, EVERYTHING "? 5.3.4 the message is larger than the exchange accepts\n");
    dialogue_play(&d, PIPELINING "? yes\n");
    /* RFC 1870 4: 0 is no limit, and so is no number at all. */
    dialogue_play(&d, HELLO "S: 250-mx\nS: 250 SIZE 0\n= READY\n? yes\n! begin\n"
                            "C: MAIL FROM:<a@sender.example> SIZE=2001\n");
    dialogue_play(&d, HELLO "S: 250-mx\nS: 250 SIZE\n= READY\n? yes\n");
}

/* ---- many recipients ---- */

enum { MANY = 1000, SMALL_OUT = 40 * 1024 };

struct crowd {
    struct smtp_client *client;
    struct buf out;
    struct envelope envelope;
    struct smtp_transaction transaction;
    struct envelope_recipient recipients[MANY];
    struct reply replies[MANY];
    char orcpt[500];
};

static enum smtp_client_event crowd_say(struct crowd *c, const char *line)
{
    char text[128];
    size_t used = 0;
    int len = snprintf(text, sizeof text, "%s\r\n", line);
    enum smtp_client_event event = smtp_client_feed(c->client, slice_of(text, (size_t)len), &used);
    assert_true(buf_ok(&c->out));
    return event;
}

static struct crowd *crowd_create(const char *ehlo)
{
    struct crowd *c = calloc(1, sizeof *c);
    assert_non_null(c);
    struct smtp_client_options options = {.ehlo_name = "relay.example", .tls = SMTP_TLS_OFF};
    buf_init(&c->out, SMALL_OUT);
    c->client = smtp_client_create(&options, &c->out);
    assert_non_null(c->client);
    memset(c->orcpt, 'x', sizeof c->orcpt);
    for (int i = 0; i < MANY; i++)
        c->recipients[i] = (struct envelope_recipient){
            .address = SLICE_LIT("one@rcpt.example"),
            .orcpt = slice_of(c->orcpt, sizeof c->orcpt),
        };
    assert_int_equal(crowd_say(c, "220 mx"), CLIENT_MORE);
    buf_consume(&c->out, buf_len(&c->out));
    assert_int_equal(crowd_say(c, "250-mx"), CLIENT_MORE);
    assert_int_equal(crowd_say(c, "250-DSN"), CLIENT_MORE);
    assert_int_equal(crowd_say(c, ehlo), CLIENT_READY);
    return c;
}

static void crowd_destroy(struct crowd *c)
{
    smtp_client_destroy(&c->client);
    buf_fini(&c->out);
    free(c);
}

/* Takes the next command from what was written: its first letter, or 0 where there is none. */
static char crowd_take(struct crowd *c)
{
    struct slice s = buf_slice(&c->out);
    size_t len = slice_find(s, '\n');
    if (len == s.len)
        return '\0';
    char letter = s.ptr[0];
    buf_consume(&c->out, len + 1);
    return letter;
}

static void crowd_begin(struct crowd *c)
{
    c->transaction = (struct smtp_transaction){.envelope = &c->envelope,
                                               .recipients = c->recipients,
                                               .replies = c->replies,
                                               .recipient_count = MANY};
    smtp_client_begin(c->client, &c->transaction);
    assert_true(buf_ok(&c->out));
}

static void very_many_recipients_never_overfill_the_buffer(void **state)
{
    (void)state;
    struct crowd *c = crowd_create("250 PIPELINING");
    crowd_begin(c);
    assert_true(buf_len(&c->out) < SMALL_OUT);
    assert_int_equal(crowd_take(c), 'M');
    assert_int_equal(crowd_say(c, "250 ok"), CLIENT_MORE);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(smtp_client_phase(c->client), SMTP_RCPT);
        assert_int_equal(crowd_take(c), 'R');
        assert_int_equal(crowd_say(c, i % 2 == 0 ? "250 ok" : "550 no"), CLIENT_MORE);
    }
    assert_int_equal(crowd_take(c), 'D');
    assert_int_equal(crowd_take(c), '\0');
    assert_int_equal(crowd_say(c, "354 go"), CLIENT_BODY);
    smtp_client_body_sent(c->client);
    assert_int_equal(crowd_say(c, "250 queued"), CLIENT_DONE);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(c->replies[i].code, i % 2 == 0 ? 250 : 550);
    crowd_destroy(c);
}

static void mail_refused_stops_the_recipients_not_sent_yet(void **state)
{
    (void)state;
    struct crowd *c = crowd_create("250 PIPELINING");
    crowd_begin(c);
    int sent = 0;
    assert_int_equal(crowd_take(c), 'M');
    while (crowd_take(c) == 'R')
        sent++;
    assert_true(sent > 0 && sent < MANY);
    assert_int_equal(crowd_say(c, "451 later"), CLIENT_MORE);
    for (int i = 1; i < sent; i++)
        assert_int_equal(crowd_say(c, "503 mail first"), CLIENT_MORE);
    assert_int_equal(crowd_say(c, "503 mail first"), CLIENT_DONE);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(c->replies[i].code, 451);
    assert_int_equal(smtp_client_phase(c->client), SMTP_RSET);
    crowd_destroy(c);
}

static void nobody_of_very_many_accepted_ends_without_content(void **state)
{
    (void)state;
    static const char *const ehlos[] = {"250 PIPELINING", "250 HELP"};
    for (int pipelined = 1; pipelined >= 0; pipelined--) {
        struct crowd *c = crowd_create(ehlos[1 - pipelined]);
        crowd_begin(c);
        assert_int_equal(crowd_take(c), 'M');
        assert_int_equal(crowd_say(c, "250 ok"), CLIENT_MORE);
        for (int i = 1; i <= MANY; i++) {
            bool over = i == MANY && !pipelined;
            assert_int_equal(crowd_take(c), 'R');
            assert_int_equal(crowd_say(c, "550 no"), over ? CLIENT_DONE : CLIENT_MORE);
        }
        if (pipelined) { /* DATA has gone along with the last RCPTs */
            assert_int_equal(crowd_take(c), 'D');
            assert_int_equal(crowd_say(c, "503 nobody"), CLIENT_DONE);
        }
        assert_int_equal(smtp_client_phase(c->client), SMTP_RSET);
        crowd_destroy(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelined_commands_go_out_as_one_group),
        cmocka_unit_test(without_pipelining_commands_go_one_by_one),
        cmocka_unit_test(a_session_carries_one_message_after_another),
        cmocka_unit_test(the_dots_refusal_is_each_accepted_recipients_reply),
        cmocka_unit_test(too_many_recipients_stay_with_their_reply),
        cmocka_unit_test(mail_refused_is_every_recipients_reply),
        cmocka_unit_test(nobody_accepted_ends_without_content),
        cmocka_unit_test(a_354_for_nobody_is_answered_with_an_empty_content),
        cmocka_unit_test(a_354_behind_a_refused_mail_is_answered_the_same),
        cmocka_unit_test(data_refused_is_each_accepted_recipients_reply),
        cmocka_unit_test(a_refused_rset_ends_the_session),
        cmocka_unit_test(a_250_in_place_of_354_is_not_smtp),
        cmocka_unit_test(a_354_in_answer_to_the_dot_is_not_smtp),
        cmocka_unit_test(an_acceptance_before_the_contents_end_is_not_believed),
        cmocka_unit_test(reply_before_end_of_data_is_kept),
        cmocka_unit_test(a_second_reply_to_the_dot_is_a_flood),
        cmocka_unit_test(a_421_keeps_the_replies_that_came_before_it),
        cmocka_unit_test(a_421_in_a_transaction_is_busy_wherever_it_comes),
        cmocka_unit_test(a_421_to_the_dot_is_a_known_outcome),
        cmocka_unit_test(a_421_behind_the_last_refusal_takes_nothing_back),
        cmocka_unit_test(a_goodbye_behind_the_dots_250_comes_after_done),
        cmocka_unit_test(the_null_sender_is_sent_as_such),
        cmocka_unit_test(options_go_to_servers_that_offer_them),
        cmocka_unit_test(ret_full_and_plain_recipients_are_sent_plainly),
        cmocka_unit_test(smtputf8_goes_only_where_something_needs_it),
        cmocka_unit_test(what_a_server_cannot_take_is_known_before_mail),
        cmocka_unit_test(the_announced_size_is_obeyed),
        cmocka_unit_test(very_many_recipients_never_overfill_the_buffer),
        cmocka_unit_test(mail_refused_stops_the_recipients_not_sent_yet),
        cmocka_unit_test(nobody_of_very_many_accepted_ends_without_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
