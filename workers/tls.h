/* TLS towards mail exchanges (RFC 3207), on OpenSSL. One context for the process, configured once
 * and then only read; sessions for resumption are kept per exchange address, and where certificates
 * are verified, only for the name they were verified for. */
#ifndef ONWARD_WORKERS_TLS_H
#define ONWARD_WORKERS_TLS_H

#include "core/base/address.h"
#include "core/base/error.h"

#include <openssl/ssl.h>

struct tls;

/* `verify`: certificates must match the exchange's name and chain to `ca_file` (NULL: the
 * system's). */
struct tls *tls_create(bool verify, const char *ca_file, struct error *error);
void tls_destroy(struct tls **t);

/* A client connection on `fd`, with SNI `name` and the address's last session to resume. NULL: out
 * of memory. */
SSL *tls_connection(struct tls *t, int fd, const char *name, const struct address *address);

/* "TLSv1.3", and whether the handshake was a resumption. */
const char *tls_version(const SSL *ssl);
bool tls_resumed(SSL *ssl);

/* The reason of the last failure on this thread's error queue, which it empties. */
void tls_failure(char *text, size_t size);

#endif
