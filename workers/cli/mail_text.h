/* A message as it stands in a file, made ready for SMTP: line ends, recipients out of its header
 * (-t), Bcc removed. */
#ifndef ONWARD_WORKERS_CLI_MAIL_TEXT_H
#define ONWARD_WORKERS_CLI_MAIL_TEXT_H

#include "core/base/buf.h"

#include <stdio.h>

/* A list of addresses; all zero when empty. */
struct mail_addresses {
    char **items; /* owned */
    size_t count;
};

/* Adds an address ("a@b", "<a@b>"); false where it is none. */
bool mail_addresses_add(struct mail_addresses *a, struct slice text);
void mail_addresses_free(struct mail_addresses *a);

/* Adds every address of a field's value: display names, comments, groups and folding are passed
 * over (RFC 5322 3.4). */
void mail_addresses_add_field(struct mail_addresses *a, struct slice value);

/* Reads to the end of `in`, or to a line with a single dot where `dots_end`. */
bool mail_text_read(FILE *in, bool dots_end, struct buf *out);

/* Lines to CRLF; Bcc fields left out; with `recipients` the addresses of To, Cc and Bcc are added
 * there; a From is put in where there is none. */
void mail_text_prepare(struct slice raw, struct mail_addresses *recipients, const char *from,
                       const char *full_name, struct buf *out);

#endif
