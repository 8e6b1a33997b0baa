/* One connection to the sink: an SMTP server that takes everything, as cheaply as it can, and
 * checks it. It offers PIPELINING, SIZE, 8BITMIME and what its options say; content comes by DATA
 * or BDAT. Owned by one thread. Does its own reading and writing; the descriptor is not blocking,
 * and its owner's to watch. */
#pragma once
#include "bench/tools/sink_ledger.h"

#include <openssl/ssl.h>
#include <stdbool.h>

struct session;

/* What all sessions share; must outlive them. */
struct sink_options {
    struct ledger *ledger;
    SSL_CTX *tls; /* STARTTLS is offered; NULL = it is not */
    bool chunking;
};

/* Takes over a connection that was just accepted, and greets it unless its address hangs. NULL:
 * it was closed. */
struct session *session_create(const struct sink_options *options, int fd);

/* There is something to read. False: the connection is over, and destroyed. */
bool session_on_readable(struct session *s);

/* Closes the descriptor too; sets the pointer to NULL. */
void session_destroy(struct session **s);
