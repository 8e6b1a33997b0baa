/* Any bytes as a command line: what is read lies within the line; written out again in plain order
 * it reads the same; a refusal is a reply of one line whose status has the class of its code. */
#include "smtp/command.h"

#include "core/base/buf.h"
#include "smtp/xtext.h"
#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LINE_MAX_BYTES = 1 << 20 };

static void check_refusal(const struct smtp_refusal *r)
{
    ASSERT(r->code >= 500 && r->code <= 559); /* no line is wrong for now only */
    ASSERT(r->enhanced[0] == '5' && r->enhanced[1] == '.');
    ASSERT(is_one_line(slice_str(r->enhanced)) && is_one_line(slice_str(r->text)));
    ASSERT(strlen(r->text) > 0 && strlen(r->text) < 400);
}

static void write_notify(struct buf *out, unsigned bits)
{
    static const char *const names[] = {"NEVER", "SUCCESS", "FAILURE", "DELAY"};
    const char *before = " NOTIFY=";
    for (unsigned i = 0; i < 4; i++)
        if ((bits & (1u << i)) != 0) {
            buf_printf(out, "%s%s", before, names[i]);
            before = ",";
        }
}

/* MAIL and RCPT in plain order. */
static void write_command(struct buf *out, const struct smtp_command *c)
{
    bool is_mail = c->verb == VERB_MAIL;
    buf_append_str(out, is_mail ? "MAIL FROM:<" : "RCPT TO:<");
    buf_append(out, c->address.mailbox);
    buf_append_str(out, ">");
    if (is_mail)
        buf_printf(out, " SIZE=%llu BODY=%s%s", (unsigned long long)c->size,
                   c->body_8bit ? "8BITMIME" : "7BIT", c->smtputf8 ? " SMTPUTF8" : "");
    if (c->ret != RET_NONE)
        buf_append_str(out, c->ret == RET_FULL ? " RET=FULL" : " RET=HDRS");
    if (c->envid.len > 0) {
        buf_append_str(out, " ENVID=");
        buf_append(out, c->envid);
    }
    write_notify(out, c->notify);
    if (c->orcpt.len > 0) {
        buf_append_str(out, " ORCPT=");
        buf_append(out, c->orcpt);
    }
}

static void check_again(const struct smtp_command *c, bool allow_utf8)
{
    struct buf line;
    struct smtp_command again;
    buf_init(&line, LINE_MAX_BYTES);
    write_command(&line, c);
    ASSERT(buf_ok(&line));
    ASSERT(smtp_command_parse(buf_slice(&line), allow_utf8, &again).code == 0);
    ASSERT(again.verb == c->verb && slice_equal(again.address.mailbox, c->address.mailbox));
    ASSERT(slice_equal(again.address.domain, c->address.domain));
    ASSERT(again.size == c->size && again.smtputf8 == c->smtputf8 && again.ret == c->ret &&
           again.body_8bit == c->body_8bit && again.notify == c->notify);
    ASSERT(slice_equal(again.envid, c->envid) && slice_equal(again.orcpt, c->orcpt));
    buf_fini(&line);
}

static void check_command(const struct smtp_command *c, struct slice line)
{
    ASSERT(lies_within(c->argument, line) && lies_within(c->address.mailbox, line) &&
           lies_within(c->address.domain, line) && lies_within(c->envid, line) &&
           (lies_within(c->orcpt, line) ||
            lies_within(c->orcpt, slice_of(c->orcpt_7bit, sizeof c->orcpt_7bit))));
    ASSERT(is_one_line(c->address.mailbox)); /* and so no ">" or CRLF ends it early */
    ASSERT(xtext_is_valid(c->envid) && xtext_is_valid(c->orcpt));
    ASSERT(c->envid.len <= 100 && c->orcpt.len <= 500);
    ASSERT((c->notify & NOTIFY_NEVER) == 0 || c->notify == NOTIFY_NEVER);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct slice line = slice_of(data + 1, size - 1);
    bool allow_utf8 = (data[0] & 1) != 0;
    struct smtp_command c;
    struct smtp_refusal r = smtp_command_parse(line, allow_utf8, &c);
    if (r.code != 0) {
        check_refusal(&r);
    } else {
        check_command(&c, line);
        if (c.verb == VERB_MAIL || c.verb == VERB_RCPT)
            check_again(&c, allow_utf8);
    }
    return 0;
}
