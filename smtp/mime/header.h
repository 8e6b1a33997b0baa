/* Header fields (RFC 5322 2.2) made from UTF-8 text: what is not ASCII becomes encoded words (RFC
 * 2047) where the field allows them, lines are folded, and addresses are read and written anew, so
 * that neither a template's text nor a value ever begins a field of its own.
 *
 *   kind           fields                            not ASCII
 *   unstructured   Subject, X-..., all others        encoded words
 *   addresses      From, To, Cc, Reply-To, ...       encoded words in display names; an address with
 *                                                    a UTF-8 local part stays (RFC 6532)
 *   structured     Message-ID, List-..., ...         refused */
#ifndef ONWARD_SMTP_MIME_HEADER_H
#define ONWARD_SMTP_MIME_HEADER_H

#include "smtp/mime/template.h"

enum header_kind { HEADER_UNSTRUCTURED, HEADER_ADDRESSES, HEADER_STRUCTURED };

/* A field, compiled: its value may have holes. Lives in the arena, its name where it lay. */
struct header_field {
    struct slice name;
    enum header_kind kind;
    struct template value;
};

/* Is it a field's name (RFC 5322 3.6.8) of a length that leaves room for a value? */
bool header_name_is_valid(struct slice name);
enum header_kind header_kind_of(struct slice name);

/* Reads the value, without line ends or with folded ones. False with `error`. */
bool header_compile(struct arena *a, struct slice name, struct slice value, bool is_static,
                    struct header_field *out, struct error *error);

/* Appends "Name: value" with its CRLF; nothing where the value is empty. `scratch` is emptied and
 * used. False with `error`: a value cannot stand there. */
bool header_render(const struct header_field *f, const struct template_values *values,
                   struct buf *scratch, struct buf *out, struct error *error);

/* Appends a field with one mailbox, e.g. To. */
bool header_append_mailbox(struct buf *out, const char *field, struct slice display_name,
                           struct slice address, struct error *error);

/* The address as it goes over the wire (address.h). False: it is none. `out` has 512 bytes. */
bool header_wire_address(struct slice address, char out[512]);

#endif
