/* A spool in a folder of its own, and envelopes to put into it. */
#ifndef ONWARD_TESTS_UNIT_SPOOL_FIXTURE_H
#define ONWARD_TESTS_UNIT_SPOOL_FIXTURE_H

#include "core/base/buf.h"
#include "core/spool/envelope.h"
#include "core/spool/store.h"

/* A fresh folder below the system's temporary one; remove_spool takes it away with all in it. */
void make_spool_path(char path[64]);
void remove_spool(const char *path);

/* Opens the spool, failing the test with the error's text. */
struct store *open_spool(const char *path, uint64_t map_bytes, uint64_t free_floor_bytes);

/* Appends an encoded envelope from s@example.org for the NULL-terminated recipients
 * (local@domain). */
void encode_envelope(struct buf *out, uint64_t id, uint64_t arrived_wall_ms,
                     const char *const *recipients);

#endif
