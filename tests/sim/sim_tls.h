/* TLS in the simulated world: the hosts' end, with one certificate for all of them and records
 * through memory, and what the relay's connections are made of. */
#ifndef ONWARD_TESTS_SIM_TLS_H
#define ONWARD_TESTS_SIM_TLS_H

#include "workers/tls.h"

#include <openssl/ssl.h>
#include <stdint.h>

/* Starts a world: from here on both ends' random numbers are those of this seed, so that the
 * records of two runs are the same byte for byte. */
void sim_tls_reset(uint64_t seed);

/* The relay's end, the same for all worlds: nothing of one is kept in it, as no host gives
 * sessions to resume. */
struct tls *sim_tls_client(void);

/* A server's connection that waits for a hello; the caller moves its records and owns it. Ed25519,
 * so that every handshake has the same length. */
SSL *sim_tls_server(void);

#endif
