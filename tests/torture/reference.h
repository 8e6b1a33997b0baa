/* What a spool held after each of its commits, by the trace's own account: with nothing lost and
 * nothing out of order. A state after a power cut is judged by it. */
#ifndef ONWARD_TESTS_TORTURE_REFERENCE_H
#define ONWARD_TESTS_TORTURE_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A message, by its id: the first transaction that held it, and the first one after
 * that did not. */
struct reference_message {
    uint64_t id;
    uint64_t came; /* transaction; 0: never */
    uint64_t went; /* transaction; UINT64_MAX: it is still there */
};

struct reference;

struct reference *reference_create(void);
void reference_destroy(struct reference **r);

/* Reads the spool in folder `path` as it is, without changing it. Returns its last transaction in
 * `txn_out` and a digest of all records in `digest_out`; false where it cannot be read. */
bool reference_read(const char *path, uint64_t *txn_out, uint64_t *digest_out);

/* The spool at `path` is as the trace says: takes note of its transaction, once for each. False
 * where it cannot be read, or holds a message that is not whole; `what_out` tells then. */
bool reference_note(struct reference *r, const char *path, const char **what_out);

/* The digest after this transaction; false where there was none. */
bool reference_digest(const struct reference *r, uint64_t txn, uint64_t *digest_out);

/* What is known of a message; `came` is 0 where it was never seen. */
struct reference_message reference_message(const struct reference *r, uint64_t id);

/* How many transactions and messages were seen. */
void reference_counts(const struct reference *r, size_t *transactions_out, size_t *messages_out);

/* Opens the spool at `path` with the relay's own store, and looks for these messages: each must be
 * there, its content as its field "X-Sum: BYTES CRC32" says of the body. NULL where all is well;
 * otherwise what is not, with the message's id in `id_out`. */
const char *reference_check_store(const char *path, const uint64_t *ids, size_t count,
                                  uint64_t *id_out);

#endif
