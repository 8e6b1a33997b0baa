/* One SMTP command line, parsed (RFC 5321 4.1.1 with the extensions we offer).
 *
 *   command   = verb [ SP argument ] CRLF
 *   MAIL      = "MAIL FROM:" path *( SP "SIZE=" n / "BODY=7BIT" / "BODY=8BITMIME" / "SMTPUTF8" /
 *               "RET=FULL" / "RET=HDRS" / "ENVID=" xtext )
 *   RCPT      = "RCPT TO:" path *( SP "NOTIFY=NEVER" / "NOTIFY=" 1#( "SUCCESS" / "FAILURE" /
 *               "DELAY" ) / "ORCPT=" ( addr-type ";" xtext / "utf-8;" UTF-8 (RFC 6533 3) ) )
 *   BDAT      = "BDAT" SP n [ SP "LAST" ]                                         (RFC 3030)
 *
 * Slices borrow from the line; `orcpt` perhaps from the command itself, which is not to be copied.
 * No state, no policy: limits and sequence are the server's. */
#ifndef ONWARD_SMTP_COMMAND_H
#define ONWARD_SMTP_COMMAND_H

#include "core/spool/envelope.h"
#include "smtp/address.h"

#define SMTP_VERBS(X)                                                                              \
    X(EHLO) X(HELO) X(MAIL) X(RCPT) X(DATA) X(BDAT) X(RSET) X(NOOP) X(QUIT) X(VRFY) X(EXPN) X(HELP)

enum smtp_verb {
#define X(name) VERB_##name,
    SMTP_VERBS(X)
#undef X
        VERB_UNKNOWN,
};

enum { SMTP_ORCPT_MAX = 500 }; /* RFC 3461 4.2 */

struct smtp_command {
    enum smtp_verb verb;
    struct slice argument;       /* what follows the verb, trimmed (EHLO's name) */
    struct smtp_address address; /* MAIL, RCPT */
    uint64_t size;               /* MAIL: SIZE=, 0 = not given; BDAT: bytes of the chunk */
    bool last;                   /* BDAT LAST */
    bool smtputf8;
    bool body_8bit;
    uint8_t ret; /* enum envelope_ret */
    struct slice envid;
    uint8_t notify;     /* enum envelope_notify bits */
    struct slice orcpt; /* xtext; what came as UTF-8 is in its 7-bit form */
    char orcpt_7bit[SMTP_ORCPT_MAX];
};

/* A refusal of the line itself: reply code, enhanced status, text. Static storage. */
struct smtp_refusal {
    unsigned code; /* 0 = none */
    const char *enhanced;
    const char *text;
};

/* `line` is without its CRLF. `allow_utf8`: SMTPUTF8 was asked for in this transaction (RCPT); MAIL
 * decides by its own parameter. */
struct smtp_refusal smtp_command_parse(struct slice line, bool allow_utf8,
                                       struct smtp_command *out);

#endif
