/* Any bytes as SMTP replies: within bounds, and the same however they are cut. The first byte
 * chooses the cuts. */
#include "smtp/reply.h"

#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct heard {
    unsigned lines;
    uint64_t sum; /* of all that was heard */
};

static void on_line(void *context, unsigned line, struct slice text)
{
    struct heard *h = context;
    ASSERT(line == h->lines && line < SMTP_REPLY_LINES_MAX && text.len < SMTP_REPLY_LINE_MAX);
    h->lines++;
    for (size_t i = 0; i < text.len; i++)
        h->sum = h->sum * 31 + (unsigned char)text.ptr[i];
}

static bool same_reply(const struct reply *a, const struct reply *b)
{
    return a->code == b->code && a->class == b->class && a->subject == b->subject &&
           a->detail == b->detail && a->text_len == b->text_len &&
           memcmp(a->text, b->text, a->text_len) == 0;
}

static void check_reply(const struct reply *r)
{
    ASSERT(r->code >= 200 && r->code <= 599 && r->class == r->code / 100);
    ASSERT(r->subject <= 999 && r->detail <= 999 && r->text_len <= REPLY_TEXT_SIZE);
    for (size_t i = 0; i < r->text_len; i++)
        ASSERT((unsigned char)r->text[i] >= 0x20 && r->text[i] != 0x7f);
    char text[REPLY_TEXT_SIZE + 32];
    (void)reply_format(r, text, sizeof text);
}

/* Reads one reply from pieces of `piece` bytes. */
static enum smtp_reply_status parse(struct slice input, size_t piece, struct smtp_reply_parser *p,
                                    struct heard *h, size_t *used_out)
{
    enum smtp_reply_status status = SMTP_REPLY_MORE;
    struct exact_block block = exact_block_create(exact_min(piece, input.len));
    smtp_reply_reset(p);
    *h = (struct heard){0};
    *used_out = 0;
    while (*used_out < input.len && status == SMTP_REPLY_MORE) {
        struct slice part = exact_put(&block, slice_take(slice_skip(input, *used_out), piece));
        size_t used = 0;
        status = smtp_reply_feed(p, part, &used, on_line, h);
        ASSERT(used <= part.len && (status != SMTP_REPLY_MORE || used == part.len));
        *used_out += used;
    }
    exact_block_destroy(&block);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct slice input = slice_of(data + 1, size - 1);
    size_t piece = 1u + data[0] % 64u;
    for (size_t used = 0; input.len > 0; input = slice_skip(input, used)) {
        static struct smtp_reply_parser whole, cut;
        struct heard whole_heard, cut_heard;
        size_t cut_used = 0;
        enum smtp_reply_status status = parse(input, SIZE_MAX, &whole, &whole_heard, &used);
        ASSERT(status == parse(input, piece, &cut, &cut_heard, &cut_used));
        ASSERT(whole_heard.lines == cut_heard.lines && whole_heard.sum == cut_heard.sum);
        if (status != SMTP_REPLY_COMPLETE)
            return 0;
        ASSERT(used == cut_used && same_reply(&whole.reply, &cut.reply));
        check_reply(&whole.reply);
    }
    return 0;
}
