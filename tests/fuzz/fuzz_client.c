/* A hostile server against the client machine, with a driver that behaves. The first byte chooses
 * policy and envelope; then each read is a byte of length, with a bit that says whether the driver
 * gets to write before it, and the bytes themselves. */
#include "smtp/client.h"

#include "core/base/assert.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECIPIENTS = 3, OUT_MAX = 4096, TRANSACTIONS_MAX = 8, WRITE_BIT = 0x80, LENGTH_BITS = 0x7f };

struct driver {
    struct smtp_client *client;
    struct buf out;
    struct envelope envelope;
    struct envelope_recipient recipients[RECIPIENTS];
    struct reply replies[RECIPIENTS];
    struct smtp_transaction transaction;
    unsigned transactions;
    bool open;      /* between begin and DONE */
    bool committed; /* the open one's dot is out */
    bool sending;   /* the content, until the next read */
    bool over;
};

static void setup(struct driver *d, uint8_t choice)
{
    static const enum smtp_tls_policy policies[] = {SMTP_TLS_OPPORTUNISTIC, SMTP_TLS_REQUIRED,
                                                    SMTP_TLS_OFF, SMTP_TLS_OFF};
    struct smtp_client_options options = {.ehlo_name = "relay.example",
                                          .tls = policies[choice & 3]};
    *d = (struct driver){.envelope = {.sender = SLICE_LIT("a@sender.example"),
                                      .envid = SLICE_LIT("E1"),
                                      .size_bytes = 1000,
                                      .ret = RET_FULL}};
    if ((choice & 4) != 0)
        d->envelope.flags = ENVELOPE_HAS_8BIT | ENVELOPE_SMTPUTF8 | ENVELOPE_HAS_UTF8_HEADER;
    for (int i = 0; i < RECIPIENTS; i++)
        d->recipients[i] = (struct envelope_recipient){.address = SLICE_LIT("one@rcpt.example"),
                                                       .orcpt = SLICE_LIT("rfc822;o@x.example"),
                                                       .notify = NOTIFY_SUCCESS | NOTIFY_DELAY};
    d->transaction = (struct smtp_transaction){.envelope = &d->envelope,
                                               .recipients = d->recipients,
                                               .replies = d->replies,
                                               .recipient_count = 1u + choice % RECIPIENTS};
    buf_init(&d->out, OUT_MAX);
    d->client = smtp_client_create(&options, &d->out);
    ASSERT(d->client != NULL);
}

/* What goes out is whole command lines, whatever came in. */
static void write_out(struct driver *d)
{
    ASSERT(buf_ok(&d->out));
    if (buf_len(&d->out) == 0)
        return;
    struct slice s = buf_slice(&d->out);
    for (size_t i = 0; i < s.len; i++) {
        ASSERT(s.ptr[i] != '\0');
        ASSERT((s.ptr[i] == '\n') == (i > 0 && s.ptr[i - 1] == '\r'));
    }
    ASSERT(s.ptr[s.len - 1] == '\n');
    buf_consume(&d->out, s.len);
}

static void on_ready(struct driver *d)
{
    ASSERT(!d->open && smtp_client_phase(d->client) == SMTP_READY);
    struct reply why = {0};
    if (!smtp_client_can_carry(d->client, &d->envelope, &d->recipients[0], &why)) {
        ASSERT(reply_is_local(&why) && why.class == 5);
        smtp_client_quit(d->client);
        return;
    }
    if (d->transactions++ == TRANSACTIONS_MAX) {
        smtp_client_quit(d->client);
        return;
    }
    d->open = true;
    d->committed = false;
    smtp_client_begin(d->client, &d->transaction);
}

/* Every recipient has one final reply, and nobody is delivered without the dot. */
static void on_done(struct driver *d)
{
    ASSERT(d->open);
    d->open = false;
    for (uint32_t i = 0; i < d->transaction.recipient_count; i++) {
        const struct reply *r = &d->replies[i];
        ASSERT(r->class == 2 || r->class == 4 || r->class == 5);
        ASSERT(r->class != 2 || d->committed);
    }
}

static void on_failed(struct driver *d)
{
    d->over = true;
    ASSERT(smtp_client_phase(d->client) == SMTP_CLOSED);
    ASSERT(smtp_client_last_phase(d->client) != SMTP_CLOSED);
    ASSERT(smtp_client_trouble(d->client) != TROUBLE_NONE);
    ASSERT(smtp_client_last_reply(d->client)->code != 0);
}

static void feed(struct driver *d, struct slice input)
{
    while (!d->over) {
        size_t used = SIZE_MAX;
        uint64_t before = smtp_client_replies(d->client);
        enum smtp_client_event event = smtp_client_feed(d->client, input, &used);
        ASSERT(used <= input.len && smtp_client_replies(d->client) >= before);
        input = slice_skip(input, used);
        switch (event) {
        case CLIENT_MORE:
            ASSERT(input.len == 0);
            return;
        case CLIENT_START_TLS:
            ASSERT(input.len == 0);
            smtp_client_tls_up(d->client);
            return;
        case CLIENT_READY:
            ASSERT(input.len == 0);
            on_ready(d);
            break;
        case CLIENT_BODY:
            ASSERT(d->open && !d->committed);
            d->sending = true;
            break;
        case CLIENT_DONE:
            on_done(d);
            break;
        case CLIENT_FAILED:
            on_failed(d);
            break;
        }
    }
}

static void read_once(struct driver *d, struct slice bytes, bool write_first)
{
    if (write_first)
        write_out(d);
    if (write_first && d->sending) {
        d->sending = false;
        d->committed = true;
        smtp_client_body_sent(d->client);
    }
    char *exact = malloc(bytes.len + 1); /* never of size 0 */
    ASSERT(exact != NULL);
    memcpy(exact + 1, bytes.ptr, bytes.len);
    feed(d, slice_of(exact + 1, bytes.len));
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct driver d;
    setup(&d, data[0]);
    struct slice rest = slice_of(data + 1, size - 1);
    while (rest.len > 0 && !d.over) {
        unsigned head = (unsigned char)rest.ptr[0];
        struct slice bytes = slice_take(slice_skip(rest, 1), head & LENGTH_BITS);
        rest = slice_skip(rest, 1 + bytes.len);
        read_once(&d, bytes, (head & WRITE_BIT) != 0);
    }
    write_out(&d);
    smtp_client_destroy(&d.client);
    buf_fini(&d.out);
    return 0;
}
