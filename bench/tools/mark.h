/* What a message of ours carries so that it is known again: two header fields.
 *
 *     X-Id: a12                              group (one lower-case letter) and number
 *     X-Mark: SENT_NS BYTES CHECKSUM         when its submitter began with it (CLOCK_MONOTONIC, decimal),
 *                                            how long its body is, and XXH3-64 over the body in hexadecimal
 *
 * A relay may add to the header section as it likes; the body must arrive byte for byte. The second
 * field may be missing: such a message is counted, but neither timed nor verified. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MARK_BYTES_MAX = 128 };

struct mark {
    unsigned group;   /* 0 = 'a' */
    uint64_t id_hash; /* over "a12"; never 0 */
    bool verifiable;  /* the three below were there */
    uint64_t sent_ns, body_bytes, checksum;
};

/* Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. */
uint64_t mark_now_ns(void);

/* FNV-1a over some bytes, going on from `hash` (0 to begin with); never 0. */
uint64_t mark_hash(uint64_t hash, const char *text, size_t len);

/* Writes both fields, each with its CRLF, to `out` (MARK_BYTES_MAX bytes); returns their length. */
size_t mark_write(char *out, char group, uint64_t number, uint64_t sent_ns, uint64_t body_bytes,
                  uint64_t checksum);

/* Finds the fields in a header section that ends with the CRLF of its last field. False: there is
 * no X-Id, or it makes no sense. */
bool mark_read(const char *header, size_t len, struct mark *out);
