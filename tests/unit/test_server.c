/* The submission dialogue (smtp/server.h): whole dialogues, each fed at once, byte by byte, in
 * pieces of several sizes and cut at every single byte; what comes out is the same every time. */
#include "smtp/server.h"

#include "core/base/buf.h"
#include "core/domain.h"
#include "smtp/command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

enum { OUT_MAX = 4096, CONTENT_MAX = 128, TRANSCRIPT_MAX = 1 << 16 };

/* A connection whose driver stores every message and writes down what passes:
 *
 *   250/2.1.0            a reply: code and enhanced status
 *   {s>r,r:flags:text}   a message: sender, recipients, what the envelope says, content
 *   {void} {close}       SERVER_ABANDON, SERVER_CLOSE */
struct play {
    struct smtp_server *server;
    struct buf out, content, message, transcript;
    bool closed;
};

static const struct smtp_refusal *refuse_full(void *context, const char *domain)
{
    static const struct smtp_refusal full = {452, "4.3.1", "Full"};
    (void)context;
    return strcmp(domain, "full.example") == 0 ? &full : NULL;
}

static const struct smtp_server_options options = {.hostname = "relay.example",
                                                   .message_bytes_max = 200,
                                                   .recipients_max = 3,
                                                   .command_bytes_max = 512,
                                                   .text_line_bytes_max = 80,
                                                   .bad_commands_max = 3,
                                                   .received_max = 2,
                                                   .normalize_domain = domain_normalize,
                                                   .refuse_domain = refuse_full};

static void write_reply(struct play *p, struct slice line)
{
    bool more = line.len > 3 && line.ptr[3] == '-';
    if (more)
        return; /* of several lines the last one counts */
    struct slice text = slice_skip(line, 4);
    struct slice word = slice_take(text, slice_find(text, ' '));
    bool enhanced = slice_find(word, '.') < word.len && word.ptr[0] == line.ptr[0];
    buf_printf(&p->transcript, "%.3s%s%.*s ", line.ptr, enhanced ? "/" : "",
               enhanced ? (int)word.len : 0, word.ptr);
}

static void write_replies(struct play *p)
{
    while (buf_len(&p->out) > 0) {
        struct slice all = buf_slice(&p->out);
        size_t len = slice_find(all, '\n');
        assert_true(len < all.len && len > 0 && all.ptr[len - 1] == '\r');
        write_reply(p, slice_take(all, len - 1));
        buf_consume(&p->out, len + 1);
    }
}

static void take_content(struct play *p)
{
    buf_append(&p->message, buf_slice(&p->content));
    buf_clear(&p->content);
}

static void write_message(struct play *p)
{
    const struct envelope *e = smtp_server_envelope(p->server);
    take_content(p);
    buf_printf(&p->transcript, "{%.*s>", (int)e->sender.len, e->sender.ptr);
    for (uint32_t i = 0; i < e->recipient_count; i++)
        buf_printf(&p->transcript, "%s%.*s%s%.*s%s%u", i > 0 ? "," : "",
                   (int)e->recipients[i].address.len, e->recipients[i].address.ptr,
                   e->recipients[i].orcpt.len > 0 ? "=" : "", (int)e->recipients[i].orcpt.len,
                   e->recipients[i].orcpt.ptr, e->recipients[i].notify > 0 ? "!" : "#",
                   e->recipients[i].notify);
    buf_printf(&p->transcript, ":%u:", e->flags);
    for (size_t i = 0; i < buf_len(&p->message); i++) {
        char c = buf_slice(&p->message).ptr[i];
        if (c != '\r')
            buf_append(&p->transcript, slice_of(c == '\n' ? "|" : &c, 1));
    }
    buf_printf(&p->transcript, "} ");
    assert_int_equal(e->size_bytes, buf_len(&p->message));
    buf_clear(&p->message);
    smtp_server_conclude(p->server, 250, "2.0.0", "Kept");
}

static void begin(struct play *p)
{
    *p = (struct play){.closed = false};
    buf_init(&p->out, OUT_MAX);
    buf_init(&p->content, CONTENT_MAX);
    buf_init(&p->message, TRANSCRIPT_MAX);
    buf_init(&p->transcript, TRANSCRIPT_MAX);
    p->server = smtp_server_create(&options, &p->out, &p->content);
    assert_non_null(p->server);
    smtp_server_set_closed(p->server, NULL);
    smtp_server_greet(p->server);
}

static void end(struct play *p)
{
    smtp_server_destroy(&p->server);
    buf_fini(&p->out);
    buf_fini(&p->content);
    buf_fini(&p->message);
    buf_fini(&p->transcript);
}

static void feed(struct play *p, struct slice input)
{
    while (!p->closed) {
        size_t used = 0;
        enum smtp_server_event event = smtp_server_feed(p->server, input, &used);
        assert_true(used <= input.len);
        input = slice_skip(input, used);
        write_replies(p);
        switch (event) {
        case SERVER_MORE:
            assert_int_equal(input.len, 0);
            return;
        case SERVER_REPLIES:
            break;
        case SERVER_BEGIN:
            smtp_server_set_trace(p->server, SLICE_LIT("Date: now\r\n"),
                                  SLICE_LIT("Message-ID: <i>\r\n"));
            break;
        case SERVER_CONTENT:
            take_content(p);
            break;
        case SERVER_MESSAGE:
            write_message(p);
            break;
        case SERVER_ABANDON:
            buf_clear(&p->content);
            buf_clear(&p->message);
            buf_printf(&p->transcript, "{void} ");
            break;
        case SERVER_CLOSE:
            buf_printf(&p->transcript, "{close} ");
            p->closed = true;
            break;
        }
    }
}

/* Feeds `input` in pieces; the first one has `first` bytes, each other `size`. The exact-size
 * copies let the address sanitizer see a read beyond a piece. */
static void check_cut(const char *input, size_t len, size_t first, size_t size, const char *wanted)
{
    struct play p;
    begin(&p);
    for (size_t at = 0; at < len;) {
        size_t part = at == 0 && first > 0 ? first : size;
        if (part > len - at)
            part = len - at;
        char *copy = malloc(part);
        assert_non_null(copy);
        for (size_t i = 0; i < part; i++)
            copy[i] = input[at + i] == '\001' ? '\0' : input[at + i];
        feed(&p, slice_of(copy, part));
        free(copy);
        at += part;
    }
    feed(&p, slice_of("", 0));
    char got[TRANSCRIPT_MAX];
    assert_true(slice_to_cstr(buf_slice(&p.transcript), got, sizeof got));
    if (strcmp(got, wanted) != 0)
        fail_msg("cut at %zu, pieces of %zu:\n  wanted %s\n  got    %s", first, size, wanted, got);
    end(&p);
}

struct dialogue {
    const char *input, *wanted; /* a \001 in the input stands for NUL */
};

static void check_all(const struct dialogue *table, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(table[i].input);
        for (size_t size = 1; size <= 8; size++)
            check_cut(table[i].input, len, 0, size, table[i].wanted);
        for (size_t cut = 1; cut <= len; cut++)
            check_cut(table[i].input, len, cut, len, table[i].wanted);
    }
}

#define CHECK(table) check_all(table, sizeof(table) / sizeof *(table))

#define EHLO   "EHLO c\r\n"
#define MAIL   "MAIL FROM:<a@b.c>\r\n"
#define RCPT   "RCPT TO:<d@e.f>\r\n"
#define OPEN   EHLO MAIL RCPT "DATA\r\n"
#define OPENED "220 250 250/2.1.0 250/2.1.5 354 "
#define HEADER "Date: x\r\nMessage-ID: y\r\n\r\n"

static void a_message_is_taken_however_it_is_cut(void **state)
{
    (void)state;
    static const struct dialogue table[] = {
        {OPEN HEADER "hello\r\n.\r\nQUIT\r\n",
         OPENED "{a@b.c>d@e.f#0:0:Date: x|Message-ID: y||hello|} 250/2.0.0 221/2.0.0 {close} "},
        {OPEN HEADER "..a\r\n...\r\n.b\r\n.\r\n",
         OPENED "{a@b.c>d@e.f#0:8:Date: x|Message-ID: y||.a|..|b|} 250/2.0.0 "},
        {OPEN "Subject: s\r\n\r\nx\r\n.\r\n",
         OPENED "{a@b.c>d@e.f#0:0:Subject: s|Date: now|Message-ID: <i>||x|} 250/2.0.0 "},
        {OPEN ".\r\n", OPENED "{a@b.c>d@e.f#0:0:Date: now|Message-ID: <i>||} 250/2.0.0 "},
        {OPEN "no header: here\r\n.\r\n", /* known by its second word only */
         OPENED "{a@b.c>d@e.f#0:0:Date: now|Message-ID: <i>||no header: here|} 250/2.0.0 "},
        {OPEN "..word\r\n.\r\n",
         OPENED "{a@b.c>d@e.f#0:8:Date: now|Message-ID: <i>||.word|} 250/2.0.0 "},
        {"HELO c\r\nMAIL FROM:<>\r\n" RCPT "DATA\r\n" HEADER ".\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 {>d@e.f#0:0:Date: x|Message-ID: y||} 250/2.0.0 "},
        {EHLO MAIL RCPT "RCPT TO:<g@h.i>\r\nDATA\r\n" HEADER ".\r\n" MAIL RCPT "DATA\r\n" HEADER
                        ".\r\n",
         "220 250 250/2.1.0 250/2.1.5 250/2.1.5 354 "
         "{a@b.c>d@e.f#0,g@h.i#0:0:Date: x|Message-ID: y||} 250/2.0.0 250/2.1.0 250/2.1.5 354 "
         "{a@b.c>d@e.f#0:0:Date: x|Message-ID: y||} 250/2.0.0 "},
    };
    CHECK(table);
}

/* RFC 3030. */
static void chunks_are_taken_as_they_are(void **state)
{
    (void)state;
    static const struct dialogue table[] = {
        {EHLO MAIL RCPT "BDAT 26 LAST\r\n" HEADER,
         "220 250 250/2.1.0 250/2.1.5 {a@b.c>d@e.f#0:0:Date: x|Message-ID: y||} 250/2.0.0 "},
        {EHLO MAIL RCPT "BDAT 26\r\n" HEADER "BDAT 6\r\n.dot\r\nBDAT 0 LAST\r\n",
         "220 250 250/2.1.0 250/2.1.5 250/2.0.0 250/2.0.0 "
         "{a@b.c>d@e.f#0:8:Date: x|Message-ID: y||.dot|} 250/2.0.0 "},
        {EHLO MAIL RCPT "BDAT 10\r\nDate: x\r\nMBDAT 16 LAST\r\nessage-ID: y\r\n\r\n",
         "220 250 250/2.1.0 250/2.1.5 250/2.0.0 {a@b.c>d@e.f#0:0:Date: x|Message-ID: y||} "
         "250/2.0.0 "},
        {EHLO MAIL RCPT "BDAT 3\r\nabcDATA\r\nRSET\r\n",
         "220 250 250/2.1.0 250/2.1.5 250/2.0.0 503/5.5.1 250/2.0.0 {void} "},
        {EHLO MAIL RCPT "BDAT 201\r\nRSET\r\n", "220 250 250/2.1.0 250/2.1.5 "},
        {EHLO MAIL "BDAT 3\r\nabcNOOP\r\n", "220 250 250/2.1.0 503/5.5.1 250/2.0.0 "},
        {EHLO MAIL RCPT "BDAT x\r\nBDAT 99999999999999999999\r\nBDAT\r\n",
         "220 250 250/2.1.0 250/2.1.5 501/5.5.4 501/5.5.4 501/5.5.4 "},
    };
    CHECK(table);
}

/* How one server's end of data becomes another's second message: none of these ever ends one. */
static void no_odd_line_end_ends_a_message(void **state)
{
    (void)state;
    static const struct dialogue table[] = {
        {OPEN HEADER "x\n.\r\nMAIL FROM:<evil@x.y>\r\n.\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
        {OPEN HEADER "x\r\n.\nMAIL FROM:<evil@x.y>\r\n.\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
        {OPEN HEADER "x\n.\nMAIL FROM:<evil@x.y>\r\n.\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
        {OPEN HEADER "x\r.\r\nMAIL FROM:<evil@x.y>\r\n.\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
        {OPEN HEADER "x\r\n.\rMAIL FROM:<evil@x.y>\r\n.\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
        {OPEN HEADER "x\r\r\n.\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
        {OPEN HEADER "x\r\n.\r\r\n.\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
        {OPEN HEADER "a\001b\r\n.\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
    };
    CHECK(table);
}

static void limits_are_told_and_the_dialogue_goes_on(void **state)
{
    (void)state;
    static const struct dialogue table[] = {
        {EHLO "MAIL FROM:<a@b.c> SIZE=201\r\nMAIL FROM:<a@b.c> SIZE=200\r\n",
         "220 250 552/5.3.4 250/2.1.0 "},
        {EHLO MAIL RCPT RCPT RCPT RCPT "DATA\r\n" HEADER ".\r\n",
         "220 250 250/2.1.0 250/2.1.5 250/2.1.5 250/2.1.5 452/4.5.3 354 "
         "{a@b.c>d@e.f#0,d@e.f#0,d@e.f#0:0:Date: x|Message-ID: y||} 250/2.0.0 "},
        {OPEN HEADER
         "12345678901234567890123456789012345678901234567890123456789012345678901234567890\r\n"
         ".\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.6.0 {void} 250/2.0.0 "},
        {OPEN HEADER "1234567890123456789012345678901234567890123456789012345678901234567\r\n"
                     "1234567890123456789012345678901234567890123456789012345678901234567\r\n"
                     "1234567890123456789012345678901234567890123456789012345678901234567\r\n"
                     ".\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 552/5.3.4 {void} 250/2.0.0 "},
        {OPEN "Received: 1\r\nReceived: 2\r\nReceived: 3\r\n" HEADER ".\r\nNOOP\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 554/5.4.6 {void} 250/2.0.0 "},
        {EHLO "what\r\nis\r\nthis\r\nthen\r\n",
         "220 250 500/5.5.1 500/5.5.1 500/5.5.1 421/4.7.0 {close} "},
    };
    CHECK(table);
}

/* Others of the transaction go on; where none is left, what was pipelined behind it is
 * no mistake. */
static void a_recipient_whose_domain_has_its_share_is_refused_alone(void **state)
{
    (void)state;
#define FULL         "RCPT TO:<d@full.example>\r\n"
#define NONE         MAIL FULL "DATA\r\nRSET\r\n"
#define NONE_REPLIES "250/2.1.0 452/4.3.1 503/5.5.1 250/2.0.0 "
    static const struct dialogue table[] = {
        {EHLO MAIL FULL RCPT FULL "DATA\r\n" HEADER ".\r\n",
         "220 250 250/2.1.0 452/4.3.1 250/2.1.5 452/4.3.1 354 "
         "{a@b.c>d@e.f#0:0:Date: x|Message-ID: y||} 250/2.0.0 "},
        {EHLO NONE NONE NONE NONE NONE "NOOP\r\n",
         "220 250 " NONE_REPLIES NONE_REPLIES NONE_REPLIES NONE_REPLIES NONE_REPLIES "250/2.0.0 "},
    };
    CHECK(table);
#undef FULL
#undef NONE
#undef NONE_REPLIES
}

/* A list of recipients may hold more bad addresses than a program may make mistakes: the others'
 * message is taken all the same. */
static void bad_addresses_are_no_mistakes_of_the_client(void **state)
{
    (void)state;
#define BAD "RCPT TO:<d@-.->\r\nRCPT TO:<d d@e.f>\r\nRCPT TO:<d>\r\nRCPT TO:<\303\244@e.f>\r\n"
    static const struct dialogue table[] = {
        {EHLO MAIL BAD BAD RCPT "DATA\r\n" HEADER ".\r\n",
         "220 250 250/2.1.0 501/5.1.3 501/5.1.3 550/5.1.1 553/5.6.7 501/5.1.3 501/5.1.3 550/5.1.1 "
         "553/5.6.7 250/2.1.5 354 {a@b.c>d@e.f#0:0:Date: x|Message-ID: y||} 250/2.0.0 "},
    };
    CHECK(table);
#undef BAD
}

/* RFC 2920 3.1: it is sent before the refusal can be read. */
static void what_is_pipelined_behind_a_refusal_is_no_mistake(void **state)
{
    (void)state;
#define TO_DATA         RCPT RCPT RCPT "DATA\r\n"
#define TO_DATA_REPLIES "503/5.5.1 503/5.5.1 503/5.5.1 503/5.5.1 "
#define CHUNK           "BDAT 1\r\nx"
    static const struct dialogue table[] = {
        {EHLO "MAIL FROM:<a@b.c> SIZE=201\r\n" TO_DATA MAIL,
         "220 250 552/5.3.4 " TO_DATA_REPLIES "250/2.1.0 "},
        {EHLO "MAIL FROM:<a@-.->\r\n" TO_DATA MAIL,
         "220 250 501/5.1.7 " TO_DATA_REPLIES "250/2.1.0 "},
        {EHLO "MAIL FROM:<a a@b.c>\r\n" TO_DATA MAIL,
         "220 250 501/5.1.7 " TO_DATA_REPLIES "250/2.1.0 "},
        {EHLO MAIL RCPT "BDAT 2\r\nx\n" CHUNK CHUNK CHUNK "BDAT 0 LAST\r\n" MAIL,
         "220 250 250/2.1.0 250/2.1.5 554/5.6.0 {void} " TO_DATA_REPLIES "250/2.1.0 "},
    };
    CHECK(table);
#undef TO_DATA
#undef TO_DATA_REPLIES
#undef CHUNK
}

/* What was pipelined ends with DATA, or the last chunk: who says it again has read the refusal. */
static void content_without_a_recipient_is_excused_once(void **state)
{
    (void)state;
#define DATAS        "DATA\r\nDATA\r\nDATA\r\nDATA\r\nDATA\r\n"
#define LAST         "BDAT 1 LAST\r\nx"
#define FIVE_REPLIES "503/5.5.1 503/5.5.1 503/5.5.1 503/5.5.1 421/4.7.0 {close} "
    static const struct dialogue table[] = {
        {EHLO MAIL "RCPT TO:<d@full.example>\r\n" DATAS,
         "220 250 250/2.1.0 452/4.3.1 " FIVE_REPLIES},
        {EHLO "MAIL FROM:<a@b.c> SIZE=201\r\n" DATAS, "220 250 552/5.3.4 " FIVE_REPLIES},
        {EHLO MAIL "RCPT TO:<d@full.example>\r\n" LAST LAST LAST LAST LAST,
         "220 250 250/2.1.0 452/4.3.1 " FIVE_REPLIES},
    };
    CHECK(table);
#undef DATAS
#undef LAST
#undef FIVE_REPLIES
}

/* A connection may stay for hours: only those in a row count. */
static void a_message_that_is_taken_makes_up_for_mistakes(void **state)
{
    (void)state;
#define BAD "what\r\nwhat\r\nwhat\r\n"
    static const struct dialogue table[] = {
        {EHLO BAD MAIL RCPT "DATA\r\n" HEADER ".\r\n" BAD "what\r\n",
         "220 250 500/5.5.1 500/5.5.1 500/5.5.1 250/2.1.0 250/2.1.5 354 "
         "{a@b.c>d@e.f#0:0:Date: x|Message-ID: y||} 250/2.0.0 500/5.5.1 500/5.5.1 500/5.5.1 "
         "421/4.7.0 {close} "},
    };
    CHECK(table);
#undef BAD
}

static void commands_out_of_turn_are_refused(void **state)
{
    (void)state;
    static const struct dialogue table[] = {
        {MAIL EHLO RCPT "DATA\r\n", "220 503/5.5.1 250 503/5.5.1 503/5.5.1 "},
        {EHLO MAIL "DATA\r\n" MAIL "RSET\r\n" RCPT,
         "220 250 250/2.1.0 503/5.5.1 503/5.5.1 250/2.0.0 503/5.5.1 "},
        {EHLO MAIL RCPT EHLO "DATA\r\n", "220 250 250/2.1.0 250/2.1.5 250 503/5.5.1 "},
        {EHLO "VRFY a\r\nEXPN b\r\nHELP\r\nNOOP x\r\nSTARTTLS\r\n",
         "220 250 252/2.5.2 502/5.5.1 214/2.0.0 250/2.0.0 500/5.5.1 "},
    };
    CHECK(table);
}

/* RFC 3461, 6152, 6531. */
static void parameters_reach_the_envelope(void **state)
{
    (void)state;
    static const struct dialogue table[] = {
        {EHLO "MAIL FROM:<a@b.c> BODY=8BITMIME RET=HDRS ENVID=e+2Bf\r\n"
              "RCPT TO:<d@e.f> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@p.q\r\nDATA\r\n" HEADER
              "\303\244\r\n.\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 {a@b.c>d@e.f=rfc822;o@p.q!10:6:Date: x|Message-ID: "
         "y||\303\244|} 250/2.0.0 "},
        {EHLO "MAIL FROM:<\303\244@b.c> SMTPUTF8\r\nRCPT TO:<d@\303\244.f>\r\nDATA\r\n" HEADER
              ".\r\n",
         "220 250 250/2.1.0 250/2.1.5 354 {\303\244@b.c>d@xn--4ca.f#0:1:Date: x|Message-ID: y||} "
         "250/2.0.0 "},
        {EHLO "MAIL FROM:<\303\244@b.c>\r\n", "220 250 553/5.6.7 "},
        {EHLO MAIL "RCPT TO:<d@\303\244.f>\r\n", "220 250 250/2.1.0 553/5.6.7 "},
        {EHLO "MAIL FROM:<a@b.c> X=1\r\nMAIL FROM:<a@b.c> RET=NO\r\nMAIL FROM:<a@b\r\n",
         "220 250 555/5.5.4 501/5.5.4 501/5.1.7 "},
        {EHLO MAIL "RCPT TO:<d@e.f> NOTIFY=NEVER,DELAY\r\nRCPT TO:<>\r\nRCPT TO:<d@-.->\r\n",
         "220 250 250/2.1.0 501/5.5.4 501/5.1.3 501/5.1.3 "},
    };
    CHECK(table);
}

/* Then every exchange takes it, also one without SMTPUTF8. */
static void an_address_that_can_be_ascii_is(void **state)
{
    (void)state;
    static const struct dialogue table[] = {
        {EHLO "MAIL FROM:<a@\303\244.c> SMTPUTF8\r\nRCPT TO:<d@\303\204.f>\r\n"
              "RCPT TO:<\303\244@\303\244.f>\r\nDATA\r\n" HEADER ".\r\n",
         "220 250 250/2.1.0 250/2.1.5 250/2.1.5 354 "
         "{a@xn--4ca.c>d@xn--4ca.f#0,\303\244@\303\244.f#0:1:Date: x|Message-ID: y||} 250/2.0.0 "},
    };
    CHECK(table);
}

/* Each piece is fed with the relay open or closed. */
static void a_closed_relay_refuses_and_holds_nothing_against_what_was_pipelined(void **state)
{
    (void)state;
    static const struct smtp_refusal full = {452, "4.3.1", "The queue is full"};
    static const char transaction[] =
        "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";
    struct play p;
    char got[TRANSCRIPT_MAX];
    begin(&p);
    feed(&p, SLICE_LIT("EHLO x\r\n"));
    smtp_server_set_closed(p.server, &full);
    for (unsigned i = 0; i < options.bad_commands_max; i++)
        feed(&p, slice_str(transaction));
    assert_int_equal(smtp_server_take_closed_count(p.server), options.bad_commands_max);
    assert_int_equal(smtp_server_take_closed_count(p.server), 0);
    smtp_server_set_closed(p.server, NULL);
    feed(&p, SLICE_LIT("MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"));
    smtp_server_set_closed(p.server, &full); /* closed in the middle of a transaction */
    feed(&p, SLICE_LIT("DATA\r\nBDAT 2 LAST\r\nxyRSET\r\nRCPT TO:<c@d.example>\r\n"));
    assert_true(slice_to_cstr(buf_slice(&p.transcript), got, sizeof got));
    assert_string_equal(got, "220 250 "
                             "452/4.3.1 503/5.5.1 503/5.5.1 452/4.3.1 503/5.5.1 503/5.5.1 "
                             "452/4.3.1 503/5.5.1 503/5.5.1 "
                             "250/2.1.0 250/2.1.5 452/4.3.1 452/4.3.1 250/2.0.0 503/5.5.1 ");
    end(&p);
}

static void a_relay_that_shuts_down_says_421_once_and_closes(void **state)
{
    (void)state;
    static const struct smtp_refusal leaving = {421, "4.3.2", "Shutting down"};
    static const char *const behind[] = {"MAIL FROM:<a@b.example>\r\n", "DATA\r\n",
                                         "BDAT 3 LAST\r\nabc"};
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++) {
        struct play p;
        char got[TRANSCRIPT_MAX];
        begin(&p);
        feed(&p, SLICE_LIT("EHLO x\r\n"));
        if (i > 0)
            feed(&p, SLICE_LIT("MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"));
        smtp_server_set_closed(p.server, &leaving);
        feed(&p, slice_str(behind[i]));
        feed(&p, SLICE_LIT("RCPT TO:<c@d.example>\r\nDATA\r\n"));
        assert_true(slice_to_cstr(buf_slice(&p.transcript), got, sizeof got));
        assert_string_equal(got, i > 0 ? "220 250 250/2.1.0 250/2.1.5 421/4.3.2 {close} "
                                       : "220 250 421/4.3.2 {close} ");
        end(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_is_taken_however_it_is_cut),
        cmocka_unit_test(chunks_are_taken_as_they_are),
        cmocka_unit_test(no_odd_line_end_ends_a_message),
        cmocka_unit_test(limits_are_told_and_the_dialogue_goes_on),
        cmocka_unit_test(a_recipient_whose_domain_has_its_share_is_refused_alone),
        cmocka_unit_test(bad_addresses_are_no_mistakes_of_the_client),
        cmocka_unit_test(what_is_pipelined_behind_a_refusal_is_no_mistake),
        cmocka_unit_test(content_without_a_recipient_is_excused_once),
        cmocka_unit_test(a_message_that_is_taken_makes_up_for_mistakes),
        cmocka_unit_test(commands_out_of_turn_are_refused),
        cmocka_unit_test(parameters_reach_the_envelope),
        cmocka_unit_test(an_address_that_can_be_ascii_is),
        cmocka_unit_test(a_closed_relay_refuses_and_holds_nothing_against_what_was_pipelined),
        cmocka_unit_test(a_relay_that_shuts_down_says_421_once_and_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
