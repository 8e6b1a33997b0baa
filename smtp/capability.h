/* What a server offers at EHLO (RFC 5321 4.1.1.1): keywords to bits, SIZE (RFC 1870), LIMITS (RFC
 * 9422). */
#ifndef ONWARD_SMTP_CAPABILITY_H
#define ONWARD_SMTP_CAPABILITY_H

#include "core/base/slice.h"

enum smtp_capability {
    SMTP_CAP_PIPELINING = 1,
    SMTP_CAP_SIZE = 2,
    SMTP_CAP_8BITMIME = 4,
    SMTP_CAP_SMTPUTF8 = 8,
    SMTP_CAP_DSN = 16,
    SMTP_CAP_STARTTLS = 32,
    SMTP_CAP_CHUNKING = 64,
    SMTP_CAP_ENHANCED = 128,
};

/* What one EHLO reply offers: enum smtp_capability bits and limits (RFC 1870, RFC 9422). */
struct smtp_capabilities {
    unsigned bits;
    uint64_t size_max; /* 0 = no limit told */
    uint32_t mail_max; /* transactions a session; 0 = no limit told */
    uint32_t rcpt_max; /* recipients a transaction; 0 = no limit told */
};

/* Reads one line of the EHLO reply behind its first; unknown keywords and bad values are passed
 * over. */
void smtp_capability_read(struct smtp_capabilities *c, struct slice line);

#endif
