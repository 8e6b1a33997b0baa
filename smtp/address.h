/* Mail addresses as SMTP carries them (RFC 5321 4.1.2; with UTF-8 by RFC 6531 3.3):
 *
 *   path        = "<" [ "@" domain *( "," "@" domain ) ":" ] mailbox ">"      the source route is
 *               dropped (RFC 5321 C)
 *   mailbox     = local-part "@" ( domain / address-literal )
 *   local-part  = atom *( "." atom ) / quoted-string
 *
 * Bounds: local part 64 bytes, domain 255, path 256 (4.5.3.1). */
#ifndef ONWARD_SMTP_ADDRESS_H
#define ONWARD_SMTP_ADDRESS_H

#include "core/base/slice.h"

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

#endif
