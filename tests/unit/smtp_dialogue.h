/* Plays a written dialogue against the client machine (smtp/client.h), with the test as the peer
 * and the driver: at once as far as it goes, and in pieces down to single bytes. A script is one
 * string of lines, in the order in which things happen:
 *
 *   S: 250 ok            the server sends this line and CRLF
 *   s: 25                the same without a line end
 *   C: RSET              the next line that the client wrote
 *   = READY              the next event, without MORE
 *   ! begin              the driver acts: begin, begin by bdat, retract, sent, tls, quit; or it asserts: goodbye
 *   ? yes                may the first recipient be carried: "yes", or the bounce as text
 *   R: 250 ok            the reply of the next recipient, as text: of the transaction that was DONE last, or is open
 *   F: BUSY 421 bye      why the session failed: trouble, then reply
 *   P: MAIL              the phase, by its log phrase
 *
 * Neither lines nor events may be left over at the end. */
#ifndef ONWARD_TESTS_UNIT_SMTP_DIALOGUE_H
#define ONWARD_TESTS_UNIT_SMTP_DIALOGUE_H

#include "smtp/client.h"

enum { DIALOGUE_RECIPIENTS_MAX = 4 };

/* What scripts have in common. A greeting and EHLO; its reply, that offers this much: */
#define HELLO                                                                                      \
    "S: 220 mx.example ESMTP\n"                                                                    \
    "C: EHLO relay.example\n"
#define PLAIN      HELLO "S: 250 mx.example\n= READY\n"
#define PIPELINING HELLO "S: 250-mx.example\nS: 250 PIPELINING\n= READY\n"
#define CHUNKING   HELLO "S: 250-mx.example\nS: 250-PIPELINING\nS: 250 CHUNKING\n= READY\n"

/* A transaction's commands, as dialogue_for's envelope has them. */
#define MAIL  "C: MAIL FROM:<a@sender.example>\n"
#define ONE   "C: RCPT TO:<one@rcpt.example>\n"
#define TWO   "C: RCPT TO:<two@rcpt.example>\n"
#define THREE "C: RCPT TO:<three@rcpt.example>\n"
#define DATA  "C: DATA\n"
#define BDAT  "C: BDAT 1000 LAST\n"

/* MAIL and one recipient are taken; what was not taken is cleared. */
#define TAKEN "S: 250 ok\nS: 250 ok\n"
#define RSET  "C: RSET\nP: RSET\nS: 250 flushed\n= READY\n"

struct dialogue {
    enum smtp_tls_policy tls;
    struct envelope envelope;
    struct envelope_recipient recipients[DIALOGUE_RECIPIENTS_MAX];
    uint32_t recipient_count;
};

/* From a@sender.example, 1000 bytes, for one@, two@ ... rcpt.example; TLS is off. */
struct dialogue dialogue_for(uint32_t recipient_count);

/* Asserts that all goes as written, at every size of pieces. */
void dialogue_play(const struct dialogue *d, const char *script);

/* The same where all that the server says in a row arrives in one read, and only so. */
void dialogue_play_at_once(const struct dialogue *d, const char *script);

#endif
