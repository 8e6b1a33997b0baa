/* Any bytes as a message from a file: what comes out has a header section, whole lines and no Bcc,
 * preparing it again changes nothing, and whoever its header named is an address. */
#include "workers/cli/mail_text.h"

#include "core/base/assert.h"
#include "smtp/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_MAX = 16 << 20 };

static void prepare(struct slice raw, struct mail_addresses *recipients, struct buf *out)
{
    buf_init(out, OUT_MAX);
    mail_text_prepare(raw, recipients, "me@x.example", "Ann", out);
    ASSERT(buf_ok(out));
}

static void check_lines(struct slice text)
{
    bool in_header = true, has_from = false;
    while (text.len > 0) {
        struct slice line = slice_take(text, slice_find(text, '\n') + 1);
        ASSERT(line.len >= 2 && line.ptr[line.len - 1] == '\n' && line.ptr[line.len - 2] == '\r');
        text = slice_skip(text, line.len);
        line = slice_take(line, line.len - 2);
        in_header &= line.len > 0;
        if (!in_header)
            continue;
        ASSERT(!slice_equal_nocase(slice_take(line, 4), SLICE_LIT("bcc:")));
        has_from |= slice_equal_nocase(slice_take(line, 5), SLICE_LIT("from:"));
    }
    ASSERT(!in_header && has_from);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mail_addresses recipients = {NULL, 0}, again = {NULL, 0};
    struct buf once, twice;
    prepare(slice_of(data, size), &recipients, &once);
    check_lines(buf_slice(&once));
    prepare(buf_slice(&once), &again, &twice);
    ASSERT(slice_equal(buf_slice(&once), buf_slice(&twice)));
    ASSERT(again.count <= recipients.count); /* all but those of Bcc */
    for (size_t i = 0; i < recipients.count; i++) {
        struct smtp_address a;
        struct slice item = slice_str(recipients.items[i]);
        ASSERT(smtp_address_read_mailbox(item, true, &a) == SMTP_ADDRESS_OK);
    }
    mail_addresses_free(&recipients);
    mail_addresses_free(&again);
    buf_fini(&once);
    buf_fini(&twice);
    return 0;
}
