#include "smtp/command.h"

#include "smtp/xtext.h"

enum { ENVID_MAX = 100 }; /* RFC 3461 4.4 */

static const struct smtp_refusal none = {0, "", ""};

static struct smtp_refusal refuse(unsigned code, const char *enhanced, const char *text)
{
    return (struct smtp_refusal){code, enhanced, text};
}

static enum smtp_verb verb_of(struct slice word)
{
    static const char *const names[] = {
#define X(name) #name,
        SMTP_VERBS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (slice_equal_nocase(word, slice_str(names[i])))
            return (enum smtp_verb)i;
    return VERB_UNKNOWN;
}

/* Takes "name=value" off the front of the parameters; false at their end. */
static bool next_parameter(struct slice *rest, struct slice *name_out, struct slice *value_out)
{
    *rest = slice_trim(*rest);
    if (rest->len == 0)
        return false;
    struct slice word = slice_take(*rest, slice_find(*rest, ' '));
    *rest = slice_skip(*rest, word.len);
    size_t equals = slice_find(word, '=');
    *name_out = slice_take(word, equals);
    *value_out = slice_skip(word, equals + 1);
    return true;
}

static struct smtp_refusal bad_value(void)
{
    return refuse(501, "5.5.4", "Bad value of a parameter");
}

static struct smtp_refusal mail_parameter(struct smtp_command *c, struct slice name,
                                          struct slice value)
{
    if (slice_equal_nocase(name, SLICE_LIT("SIZE")))
        return slice_to_u64(value, &c->size) ? none : bad_value();
    if (slice_equal_nocase(name, SLICE_LIT("BODY"))) {
        c->body_8bit = slice_equal_nocase(value, SLICE_LIT("8BITMIME"));
        return c->body_8bit || slice_equal_nocase(value, SLICE_LIT("7BIT")) ? none : bad_value();
    }
    if (slice_equal_nocase(name, SLICE_LIT("SMTPUTF8")) && value.len == 0) {
        c->smtputf8 = true;
        return none;
    }
    if (slice_equal_nocase(name, SLICE_LIT("RET"))) {
        bool full = slice_equal_nocase(value, SLICE_LIT("FULL"));
        c->ret = full ? RET_FULL : RET_HDRS;
        return full || slice_equal_nocase(value, SLICE_LIT("HDRS")) ? none : bad_value();
    }
    if (slice_equal_nocase(name, SLICE_LIT("ENVID"))) {
        c->envid = value;
        return value.len > 0 && value.len <= ENVID_MAX && xtext_is_valid(value) ? none
                                                                                : bad_value();
    }
    return refuse(555, "5.5.4", "This parameter of MAIL is not known here");
}

/* NEVER stands alone (RFC 3461 4.1). */
static bool read_notify(struct slice value, uint8_t *bits_out)
{
    static const struct {
        const char *name;
        enum envelope_notify bit;
    } names[] = {{"NEVER", NOTIFY_NEVER},
                 {"SUCCESS", NOTIFY_SUCCESS},
                 {"FAILURE", NOTIFY_FAILURE},
                 {"DELAY", NOTIFY_DELAY}};
    unsigned bits = 0;
    for (bool more = true; more;) {
        size_t comma = slice_find(value, ',');
        struct slice word = slice_take(value, comma);
        more = comma < value.len;
        value = slice_skip(value, comma + 1);
        unsigned bit = 0;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (slice_equal_nocase(word, slice_str(names[i].name)))
                bit = (unsigned)names[i].bit;
        if (bit == 0)
            return false;
        bits |= bit;
    }
    *bits_out = (uint8_t)bits;
    return (bits & NOTIFY_NEVER) == 0 || bits == NOTIFY_NEVER;
}

/* An address type, a semicolon and xtext; of the type "utf-8" UTF-8 as well. */
static bool read_orcpt(struct slice value, struct smtp_command *c)
{
    size_t semicolon = slice_find(value, ';');
    c->orcpt = value;
    if (slice_equal_nocase(slice_take(value, semicolon), SLICE_LIT("utf-8"))) {
        size_t len = xtext_from_utf8(value, c->orcpt_7bit, sizeof c->orcpt_7bit);
        c->orcpt = slice_of(c->orcpt_7bit, len);
    }
    return semicolon > 0 && semicolon + 1 < c->orcpt.len && c->orcpt.len <= SMTP_ORCPT_MAX &&
           xtext_is_valid(c->orcpt);
}

static struct smtp_refusal rcpt_parameter(struct smtp_command *c, struct slice name,
                                          struct slice value)
{
    if (slice_equal_nocase(name, SLICE_LIT("NOTIFY")))
        return read_notify(value, &c->notify) ? none : bad_value();
    if (slice_equal_nocase(name, SLICE_LIT("ORCPT")))
        return read_orcpt(value, c) ? none : bad_value();
    return refuse(555, "5.5.4", "This parameter of RCPT is not known here");
}

static struct smtp_refusal address_refusal(enum smtp_address_error error, bool is_sender)
{
    switch (error) {
    case SMTP_ADDRESS_OK:
        return none;
    case SMTP_ADDRESS_UTF8:
        return refuse(553, "5.6.7",
                      "An address with non-ASCII characters needs SMTPUTF8 and valid UTF-8");
    case SMTP_ADDRESS_TOO_LONG:
        return refuse(501, is_sender ? "5.1.7" : "5.1.3", "Address too long");
    case SMTP_ADDRESS_SYNTAX:
        break;
    }
    return refuse(501, is_sender ? "5.1.7" : "5.1.3", "Bad address syntax");
}

/* Does a parameter of this name stand among them? */
static bool has_parameter(struct slice line, struct slice wanted)
{
    struct slice name, value;
    while (next_parameter(&line, &name, &value))
        if (slice_equal_nocase(name, wanted))
            return true;
    return false;
}

static struct smtp_refusal parse_path(struct slice rest, struct slice keyword, bool allow_utf8,
                                      struct smtp_command *c)
{
    bool is_mail = c->verb == VERB_MAIL;
    if (!slice_starts_nocase(rest, keyword))
        return refuse(501, "5.5.4",
                      is_mail ? "Syntax: MAIL FROM:<address> [parameters]"
                              : "Syntax: RCPT TO:<address> [parameters]");
    rest = slice_trim(slice_skip(rest, keyword.len)); /* a space before "<" is forgiven */
    /* MAIL's address is judged by the SMTPUTF8 behind it. */
    bool utf8 = is_mail ? has_parameter(rest, SLICE_LIT("SMTPUTF8")) : allow_utf8;
    enum smtp_address_error error = smtp_address_read_path(&rest, is_mail, utf8, &c->address);
    if (error != SMTP_ADDRESS_OK)
        return address_refusal(error, is_mail);
    if (rest.len > 0 && rest.ptr[0] != ' ')
        return refuse(501, "5.5.4", "A space must separate address and parameters");
    struct slice name, value;
    while (next_parameter(&rest, &name, &value)) {
        if (has_parameter(rest, name))
            return refuse(501, "5.5.4", "A parameter was given twice");
        struct smtp_refusal r =
            is_mail ? mail_parameter(c, name, value) : rcpt_parameter(c, name, value);
        if (r.code != 0)
            return r;
    }
    return none;
}

static struct smtp_refusal parse_bdat(struct slice rest, struct smtp_command *c)
{
    struct slice number = slice_take(rest, slice_find(rest, ' '));
    struct slice tail = slice_trim(slice_skip(rest, number.len));
    c->last = slice_equal_nocase(tail, SLICE_LIT("LAST"));
    if (!slice_to_u64(number, &c->size) || (tail.len > 0 && !c->last))
        return refuse(501, "5.5.4", "Syntax: BDAT bytes [LAST]");
    return none;
}

struct smtp_refusal smtp_command_parse(struct slice line, bool allow_utf8, struct smtp_command *out)
{
    *out = (struct smtp_command){.envid = SLICE_LIT(""), .orcpt = SLICE_LIT("")};
    struct slice word = slice_take(line, slice_find(line, ' '));
    out->verb = verb_of(word);
    out->argument = slice_trim(slice_skip(line, word.len));
    switch (out->verb) {
    case VERB_MAIL:
        return parse_path(out->argument, SLICE_LIT("FROM:"), allow_utf8, out);
    case VERB_RCPT:
        return parse_path(out->argument, SLICE_LIT("TO:"), allow_utf8, out);
    case VERB_BDAT:
        return parse_bdat(out->argument, out);
    case VERB_EHLO:
    case VERB_HELO:
        return out->argument.len > 0 ? none : refuse(501, "5.5.4", "Syntax: EHLO name");
    case VERB_DATA:
    case VERB_RSET:
    case VERB_QUIT:
        return out->argument.len == 0 ? none
                                      : refuse(501, "5.5.4", "This command takes no argument");
    case VERB_NOOP:
    case VERB_VRFY:
    case VERB_EXPN:
    case VERB_HELP:
        return none;
    case VERB_UNKNOWN:
        break;
    }
    return refuse(500, "5.5.1", "Command not recognized");
}
