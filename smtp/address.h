/* Mail addresses as SMTP carries them (RFC 5321 4.1.2; with UTF-8 by RFC 6531 3.3):
 *
 *   path        = "<" [ "@" domain *( "," "@" domain ) ":" ] mailbox ">"      the source route is
 *               dropped (RFC 5321 C)
 *   mailbox     = local-part "@" ( domain [ "." ] / address-literal )           so is the final dot
 *   local-part  = 1*( atom / "." ) / quoted-string
 *
 * RFC 5321 wants an atom on both sides of each dot of a local part. Subscribers of Japanese
 * carriers have addresses without ("a..b@", "a.@"), and their exchanges take them as they are.
 *
 * Bounds: domain 255 bytes, path 256 (4.5.3.1). A local part may fill the path: the 64 bytes of
 * 4.5.3.1.1 are what everybody must take, and VERP and SRS make longer ones. */
#ifndef ONWARD_SMTP_ADDRESS_H
#define ONWARD_SMTP_ADDRESS_H

#include "core/base/slice.h"

enum { SMTP_ADDRESS_MAX = 254 }; /* a path without its brackets */

struct smtp_address {
    struct slice mailbox; /* local-part@domain, or "" for <>, or a bare local part ("postmaster") */
    struct slice local;
    struct slice domain; /* with brackets for a literal; "" where there is none */
    bool has_utf8;
};

enum smtp_address_error {
    SMTP_ADDRESS_OK,
    SMTP_ADDRESS_SYNTAX,
    SMTP_ADDRESS_TOO_LONG,
    SMTP_ADDRESS_UTF8, /* holds bytes over 127 that were not agreed on, or are not UTF-8 */
};

/* Reads a path from the front of `*input` and steps over it. `allow_null`: <> is fine
 * (reverse-path). */
enum smtp_address_error smtp_address_read_path(struct slice *input, bool allow_null,
                                               bool allow_utf8, struct smtp_address *out);

/* Reads a whole mailbox without brackets. */
enum smtp_address_error smtp_address_read_mailbox(struct slice text, bool allow_utf8,
                                                  struct smtp_address *out);

/* The address as it goes to an exchange. One whose domain alone is beyond ASCII has that in
 * A-labels (`domain`, in normal form), if it fits: every exchange takes it then, also one without
 * SMTPUTF8. Lies in `room`, or is the mailbox as it stood. */
struct slice smtp_address_on_wire(const struct smtp_address *a, const char *domain,
                                  char room[SMTP_ADDRESS_MAX + 1]);

#endif
