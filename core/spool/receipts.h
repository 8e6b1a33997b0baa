/* Receipts: what makes a mailing that is sent a second time no second mailing. A sender names its
 * request with a key of its own; the receipt under that key says what the request was (a digest),
 * and a mark for each recipient whose message is stored, written in the same transaction as the
 * message. So a retry, also after a crash in the midst of it, stores only what is missing.
 *
 *   receipts   "r" key             -> digest, when it was made
 *              "m" key, recipient  -> id of its message
 *              "t" when, key       -> nothing: the oldest come first, to be forgotten in time
 *
 * Writing is the committer's, as all of the store's (store.h). */
#ifndef ONWARD_CORE_SPOOL_RECEIPTS_H
#define ONWARD_CORE_SPOOL_RECEIPTS_H

#include "core/spool/store.h"

enum { RECEIPT_KEY_BYTES = 16, RECEIPT_DIGEST_BYTES = 32 };

/* What was asked for under a key. */
struct receipt {
    unsigned char key[RECEIPT_KEY_BYTES];
    unsigned char digest[RECEIPT_DIGEST_BYTES]; /* of the request */
    uint64_t made_wall_ms;
};

/* One recipient's message of a request. */
struct receipt_mark {
    unsigned char key[RECEIPT_KEY_BYTES];
    uint32_t recipient; /* its place in the request */
};

/* ---- writing: committer thread, between store_begin and store_commit ---- */

/* Writes it, anew where it is there; writes one mark. */
enum store_status store_put_receipt(struct store *s, const struct receipt *r);
enum store_status store_put_mark(struct store *s, const struct receipt_mark *m, uint64_t id);

/* Removes the receipt with up to `marks_max` of its marks; `*more_out` where some are left, and
 * with them the receipt. */
enum store_status store_forget_receipt(struct store *s, const struct receipt *r, unsigned marks_max,
                                       bool *more_out);

/* ---- reading, under an open snapshot ---- */

/* False: there is none under this key. */
bool store_get_receipt(struct store_reader *r, const unsigned char key[RECEIPT_KEY_BYTES],
                       struct receipt *out);

/* Fills in the ids of the marks of recipients below `count`; others stay as they are. */
void store_get_marks(struct store_reader *r, const unsigned char key[RECEIPT_KEY_BYTES],
                     uint64_t *ids, uint32_t count);

/* The one that was made first. False: there is none. */
bool store_oldest_receipt(struct store_reader *r, struct receipt *out);

#endif
