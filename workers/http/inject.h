/* What an injection asks for: the JSON of POST /api/inject/v1, in the shape that KumoMTA documents,
 * read once and then asked for one recipient at a time. Pure: no store, no thread, no clock.
 *
 *   {"envelope_sender": "a@x", "recipients": [{"email", "name"?, "substitutions"?}], "substitutions"?,
 *    "content": "raw message" / {"text_body"?, "html_body"?, "amp_html_body"?, "subject"?, "from"?,
 *    "reply_to"?, "headers"?, "attachments"?}, "template_dialect"?, "priority"?: "bulk" / "transactional"}
 *
 * deferred_spool, deferred_generation and trace_headers are taken and change nothing: every answer
 * waits until all is durable. Any other key is refused. */
#ifndef ONWARD_WORKERS_HTTP_INJECT_H
#define ONWARD_WORKERS_HTTP_INJECT_H

#include "core/domain.h"
#include "core/spool/envelope.h"
#include "smtp/mime/message.h"

#include <jansson.h>

enum { INJECT_VALUES_MAX = 2000000, INJECT_VALUE_BYTES = 160 };

struct inject {
    struct arena arena;
    json_t *root;
    json_t *recipients;
    json_t *substitutions; /* or NULL */
    const struct mime_message *message;
    char sender[512]; /* as it goes over the wire; "" is <> */
    bool sender_is_utf8;
    uint8_t priority; /* enum envelope_priority */
    json_t *current;  /* the recipient whose values are asked for */
    char number[64];  /* a value that was no text */
    char *dumped;     /* the same, of any length */
};

/* One recipient, ready to be rendered; valid until the next is asked for. */
struct inject_recipient {
    struct mime_recipient mime;
    char address[512];        /* as it goes over the wire */
    char domain[DOMAIN_SIZE]; /* its routing key */
    bool is_utf8;
};

/* How many values the JSON text holds, about, without reading it: each takes memory when it is
 * read, some INJECT_VALUE_BYTES with its share of what holds it. */
size_t inject_values(struct slice body);

/* Reads `body`; it may be freed behind it. `boundary` as mime_from_parts wants it. False with
 * `error`, which names the member; inject_fini is due in both cases. */
bool inject_read(struct inject *i, struct slice body, const char *boundary, struct error *error);
void inject_fini(struct inject *i);

/* How many recipients; recipient `index` as the request names it, for answers, borrowed. */
size_t inject_count(const struct inject *i);
struct slice inject_email(const struct inject *i, size_t index);

/* False with `error`: there is nothing to send it to. */
bool inject_recipient(struct inject *i, size_t index, struct inject_recipient *out,
                      struct error *error);

#endif
