/* The hosts' end of TLS: one certificate for all of them, records through memory. */
#ifndef ONWARD_TESTS_SIM_TLS_H
#define ONWARD_TESTS_SIM_TLS_H

#include <openssl/ssl.h>

/* A server's connection that waits for a hello; the caller moves its records and owns it. Ed25519,
 * so that every handshake has the same length. */
SSL *sim_tls_server(void);

#endif
