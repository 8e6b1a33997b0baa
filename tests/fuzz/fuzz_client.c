/* A hostile server against the client machine, with a driver that behaves. The first byte chooses
 * policy, envelope and how contents go; then each read is a byte of length, with a bit that says
 * whether the driver gets to write before it, and the bytes themselves. As many messages are under
 * way as the machine allows, up to IN_FLIGHT_MAX. */
#include "smtp/client.h"

#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    RECIPIENTS = 3,
    OUT_MAX = 8192,
    TRANSACTIONS_MAX = 12,
    IN_FLIGHT_MAX = 4,
    WRITE_BIT = 0x80,
    LENGTH_BITS = 0x7f
};

struct message {
    struct smtp_transaction transaction;
    struct reply replies[RECIPIENTS];
    bool committed; /* its last byte is out */
};

struct driver {
    struct smtp_client *client;
    struct exact_block block; /* what was read last */
    struct buf out;
    struct envelope envelope;
    struct envelope_recipient recipients[RECIPIENTS];
    struct message messages[TRANSACTIONS_MAX];
    uint32_t recipient_count;
    enum smtp_content by;
    unsigned begun, done;
    bool sending; /* the content of the oldest, until the next read */
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
    d->recipient_count = 1u + choice % RECIPIENTS;
    d->by = (choice & 8) != 0 ? SMTP_BY_BDAT : SMTP_BY_DATA;
    d->block = exact_block_create(LENGTH_BITS);
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

static void begin(struct driver *d)
{
    struct message *m = &d->messages[d->begun++];
    m->transaction = (struct smtp_transaction){.envelope = &d->envelope,
                                               .recipients = d->recipients,
                                               .replies = m->replies,
                                               .recipient_count = d->recipient_count,
                                               .by = d->by};
    smtp_client_begin(d->client, &m->transaction);
    ASSERT(m->transaction.by == SMTP_BY_DATA ||
           (smtp_client_capabilities(d->client) & SMTP_CAP_CHUNKING) != 0);
}

static void on_ready(struct driver *d)
{
    ASSERT(d->begun == d->done && smtp_client_phase(d->client) == SMTP_READY);
    struct reply why = {0};
    if (!smtp_client_can_carry(d->client, &d->envelope, &d->recipients[0], &why)) {
        ASSERT(reply_is_local(&why) && why.class == 5);
        smtp_client_quit(d->client);
        return;
    }
    if (d->begun == TRANSACTIONS_MAX) {
        smtp_client_quit(d->client);
        return;
    }
    begin(d);
}

/* What is begun is written, contents with it; more is begun behind. One that was begun ahead of the
 * end it follows may be taken back while nothing of it is out. */
static void write_messages(struct driver *d)
{
    if (d->sending) {
        bool ahead = d->begun < TRANSACTIONS_MAX && smtp_client_may_begin(d->client);
        if (ahead) {
            begin(d);
            d->messages[d->begun - 1].committed = false;
        }
        if (ahead && d->begun % 3 == 0) {
            buf_clear(&d->out);
            smtp_client_retract(d->client);
            d->begun--;
        }
        d->sending = false;
        d->messages[d->done].committed = true;
        smtp_client_body_sent(d->client);
    }
    write_out(d);
    while (d->begun > d->done) {
        struct message *newest = &d->messages[d->begun - 1];
        if (newest->transaction.by == SMTP_BY_BDAT && !newest->committed) {
            newest->committed = true;
            smtp_client_body_sent(d->client);
        }
        if (d->begun == TRANSACTIONS_MAX || d->begun - d->done == IN_FLIGHT_MAX ||
            !newest->committed || !smtp_client_may_begin(d->client))
            return;
        begin(d);
        write_out(d);
    }
}

/* Every recipient has one final reply, and nobody is delivered before the last byte is out. */
static void on_done(struct driver *d)
{
    ASSERT(d->done < d->begun);
    const struct message *m = &d->messages[d->done++];
    d->sending = false;
    for (uint32_t i = 0; i < d->recipient_count; i++) {
        const struct reply *r = &m->replies[i];
        ASSERT(r->class == 2 || r->class == 4 || r->class == 5);
        ASSERT(r->class != 2 || m->committed);
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
            ASSERT(d->done < d->begun && !d->messages[d->done].committed);
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
        write_messages(d);
    feed(d, exact_put(&d->block, bytes));
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
    exact_block_destroy(&d.block);
    return 0;
}
