#include "smtp/capability.h"

static struct slice next_word(struct slice *line)
{
    *line = slice_trim(*line);
    struct slice word = slice_take(*line, slice_find(*line, ' '));
    *line = slice_skip(*line, word.len);
    return word;
}

static uint32_t small(uint64_t value)
{
    return value <= UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

/* "LIMITS MAILMAX=10 RCPTMAX=100" (RFC 9422 4) */
static void read_limits(struct smtp_capabilities *c, struct slice rest)
{
    for (struct slice word = next_word(&rest); word.len > 0; word = next_word(&rest)) {
        size_t equals = slice_find(word, '=');
        struct slice name = slice_take(word, equals);
        uint64_t value;
        if (!slice_to_u64(slice_skip(word, equals + 1), &value) || value == 0)
            continue;
        if (slice_equal_nocase(name, SLICE_LIT("MAILMAX")))
            c->mail_max = small(value);
        else if (slice_equal_nocase(name, SLICE_LIT("RCPTMAX")))
            c->rcpt_max = small(value);
    }
}

void smtp_capability_read(struct smtp_capabilities *c, struct slice line)
{
    static const struct {
        const char *keyword;
        enum smtp_capability bit;
    } known[] = {{"PIPELINING", SMTP_CAP_PIPELINING},
                 {"SIZE", SMTP_CAP_SIZE},
                 {"8BITMIME", SMTP_CAP_8BITMIME},
                 {"SMTPUTF8", SMTP_CAP_SMTPUTF8},
                 {"DSN", SMTP_CAP_DSN},
                 {"STARTTLS", SMTP_CAP_STARTTLS},
                 {"CHUNKING", SMTP_CAP_CHUNKING},
                 {"ENHANCEDSTATUSCODES", SMTP_CAP_ENHANCED}};
    struct slice rest = line;
    struct slice keyword = next_word(&rest);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (slice_equal_nocase(keyword, slice_str(known[i].keyword)))
            c->bits |= (unsigned)known[i].bit;
    uint64_t size;
    if (slice_equal_nocase(keyword, SLICE_LIT("SIZE")) && slice_to_u64(next_word(&rest), &size))
        c->size_max = size;
    if (slice_equal_nocase(keyword, SLICE_LIT("LIMITS")))
        read_limits(c, rest);
}
