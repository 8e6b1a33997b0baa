/* Any bytes as what a submitter sends on one connection. The same replies, messages and end however
 * they are cut; each reply well formed; of a message that is taken, the envelope can be stored and
 * the content holds nothing that ends it early anywhere else. The first bytes choose the cuts and
 * what the driver does. */
#include "smtp/server.h"

#include "core/domain.h"
#include "smtp/command.h"
#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_MAX = 4096, CONTENT_MAX = 128, TRANSCRIPT_MAX = 1 << 22, LINE_MAX_BYTES = 200 };

static const struct smtp_server_options options = {.hostname = "relay.example",
                                                   .message_bytes_max = 2000,
                                                   .recipients_max = 3,
                                                   .command_bytes_max = 300,
                                                   .text_line_bytes_max = LINE_MAX_BYTES,
                                                   .bad_commands_max = 20,
                                                   .received_max = 2,
                                                   .normalize_domain = domain_normalize};

/* What the driver does; drawn from the input. */
enum whims { WHIM_CLOSED = 1, WHIM_FAIL = 4 };

/* A connection, and the transcript of all that came of it. The memory of its buffers serves
 * for the next. */
struct play {
    struct smtp_server *server;
    struct buf out, content, message, transcript;
    unsigned whims;
    bool begun, closed;
};

static void check_reply(struct slice line)
{
    ASSERT(line.len >= 4 && line.len < 512 && is_one_line(line));
    ASSERT(line.ptr[0] >= '2' && line.ptr[0] <= '5' && (line.ptr[3] == ' ' || line.ptr[3] == '-'));
    struct slice text = slice_skip(line, 4);
    if (text.len > 2 && text.ptr[1] == '.' && text.ptr[0] >= '0' && text.ptr[0] <= '9')
        ASSERT(text.ptr[0] == line.ptr[0]); /* RFC 2034 4 */
}

static void take_replies(struct play *p)
{
    ASSERT(buf_ok(&p->out));
    while (buf_len(&p->out) > 0) {
        struct slice all = buf_slice(&p->out);
        size_t len = slice_find(all, '\n');
        ASSERT(len < all.len && len > 0 && all.ptr[len - 1] == '\r');
        check_reply(slice_take(all, len - 1));
        buf_append(&p->transcript, slice_take(all, len + 1));
        buf_consume(&p->out, len + 1);
    }
}

static void take_content(struct play *p)
{
    ASSERT(p->begun && buf_len(&p->content) <= CONTENT_MAX);
    buf_append(&p->message, buf_slice(&p->content));
    buf_clear(&p->content);
}

static void check_envelope(const struct envelope *e)
{
    struct buf record;
    struct envelope again;
    ASSERT(e->recipient_count >= 1 && e->recipient_count <= 3);
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    envelope_encode(e, &record);
    ASSERT(buf_ok(&record) && envelope_decode(buf_slice(&record), &again));
    for (uint32_t i = 0; i < e->recipient_count; i++) {
        struct envelope_recipient r;
        ASSERT(envelope_decode_recipient(buf_slice(&record), i, &r));
        ASSERT(slice_equal(r.address, e->recipients[i].address));
    }
    buf_fini(&record);
}

static void check_content(const struct envelope *e, struct slice s)
{
    ASSERT(e->size_bytes == s.len && s.len <= options.message_bytes_max && is_crlf_text(s));
    ASSERT(e->header_bytes >= 2 && e->header_bytes <= s.len);
    ASSERT(memmem(s.ptr, e->header_bytes, "ate: ", 5) != NULL || /* given, in whatever case */
           memmem(s.ptr, e->header_bytes, ":", 1) != NULL);
    while (s.len > 0) {
        size_t line = slice_find(s, '\n') + 1;
        ASSERT(line <= LINE_MAX_BYTES);
        s = slice_skip(s, line);
    }
}

static void note(struct buf *transcript, struct slice text)
{
    buf_append(transcript, text);
    buf_append_str(transcript, "|");
}

static void note_envelope(struct buf *transcript, const struct envelope *e)
{
    buf_append_str(transcript, "{");
    note(transcript, e->sender);
    note(transcript, e->envid);
    buf_append_u64(transcript, e->flags * 8u + (unsigned)e->ret);
    for (uint32_t i = 0; i < e->recipient_count; i++) {
        note(transcript, e->recipients[i].address);
        note(transcript, e->recipients[i].orcpt);
        buf_append_u64(transcript, e->recipients[i].notify);
    }
    buf_append_str(transcript, ":");
}

static void conclude(struct play *p)
{
    const struct envelope *e = smtp_server_envelope(p->server);
    take_content(p);
    check_envelope(e);
    check_content(e, buf_slice(&p->message));
    note_envelope(&p->transcript, e);
    buf_append(&p->transcript, buf_slice(&p->message));
    buf_append_str(&p->transcript, "}");
    buf_clear(&p->message);
    p->begun = false;
    bool fails = (p->whims & WHIM_FAIL) != 0;
    smtp_server_conclude(p->server, fails ? 452 : 250, fails ? "4.3.1" : "2.0.0", "Said");
}

static void begin_message(struct play *p)
{
    ASSERT(!p->begun);
    p->begun = true;
    smtp_server_set_trace(p->server, SLICE_LIT("Date: now\r\n"), SLICE_LIT("Message-ID: <i>\r\n"));
}

/* What the driver does at an event; false: all input is used. */
static bool on_event(struct play *p, enum smtp_server_event event)
{
    switch (event) {
    case SERVER_MORE:
        return false;
    case SERVER_REPLIES:
        break;
    case SERVER_BEGIN:
        begin_message(p);
        break;
    case SERVER_CONTENT:
        ASSERT(buf_len(&p->content) > 0);
        take_content(p);
        break;
    case SERVER_MESSAGE:
        conclude(p);
        break;
    case SERVER_ABANDON:
        ASSERT(p->begun);
        p->begun = false;
        buf_clear(&p->content);
        buf_clear(&p->message);
        buf_append_str(&p->transcript, "{void}");
        break;
    case SERVER_CLOSE:
        buf_append_str(&p->transcript, "{close}");
        p->closed = true;
        break;
    }
    return true;
}

static void feed(struct play *p, struct slice input)
{
    for (bool more = true; more && !p->closed;) {
        size_t used = 0;
        enum smtp_server_event event = smtp_server_feed(p->server, input, &used);
        ASSERT(used <= input.len);
        input = slice_skip(input, used);
        take_replies(p);
        more = on_event(p, event);
        ASSERT(more || input.len == 0);
    }
}

static void play(struct play *p, struct slice input, size_t piece, unsigned whims)
{
    static const struct smtp_refusal why = {452, "4.3.1", "No room"};
    p->whims = whims;
    p->begun = p->closed = false;
    buf_clear(&p->out);
    buf_clear(&p->content);
    buf_clear(&p->message);
    buf_clear(&p->transcript);
    p->server = smtp_server_create(&options, &p->out, &p->content);
    ASSERT(p->server != NULL);
    if ((whims & WHIM_CLOSED) != 0)
        smtp_server_set_closed(p->server, &why);
    smtp_server_greet(p->server);
    struct exact_block block = exact_block_create(exact_min(piece, input.len));
    for (size_t at = 0; at < input.len && !p->closed; at += piece)
        feed(p, exact_put(&block, slice_take(slice_skip(input, at), piece)));
    exact_block_destroy(&block);
    buf_append_str(&p->transcript, smtp_server_state_name(p->server));
    ASSERT(buf_ok(&p->transcript) && buf_ok(&p->message));
    struct slice helo = smtp_server_helo(p->server);
    for (size_t i = 0; i < helo.len; i++) /* goes into Received and logs */
        ASSERT(helo.ptr[i] > ' ' && helo.ptr[i] < 0x7f && strchr("()<>\\\"", helo.ptr[i]) == NULL);
    smtp_server_destroy(&p->server);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    struct slice input = slice_of(data + 2, size - 2);
    static struct play whole = {.out.bound = OUT_MAX,
                                .content.bound = CONTENT_MAX,
                                .message.bound = TRANSCRIPT_MAX,
                                .transcript.bound = TRANSCRIPT_MAX};
    static struct play cut = {.out.bound = OUT_MAX,
                              .content.bound = CONTENT_MAX,
                              .message.bound = TRANSCRIPT_MAX,
                              .transcript.bound = TRANSCRIPT_MAX};
    play(&whole, input, SIZE_MAX / 2, data[1]);
    play(&cut, input, 1u + data[0] % 64u, data[1]);
    ASSERT(slice_equal(buf_slice(&whole.transcript), buf_slice(&cut.transcript)));
    return 0;
}
