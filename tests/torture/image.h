/* A disk under a spool, as a power cut leaves it. Operations of a trace are noted one after the
 * other; what has been synced is durable, what has not may be there or not, whole or in part, in
 * any order. From that a state is drawn, and written into a folder where a spool can be opened.
 *
 * The rules are those that POSIX promises and no more: a sync makes durable what was written to
 * that file before; a name is durable once its directory was synced; a sector of 512 bytes is
 * written whole or not at all. After a failed sync what it should have written may or may not be
 * there for good, whatever is synced later. One thread; aborts where memory is out. */
#ifndef ONWARD_TESTS_TORTURE_IMAGE_H
#define ONWARD_TESTS_TORTURE_IMAGE_H

#include "core/base/random.h"
#include "tests/torture/trace.h"

#include <stdbool.h>

struct image;

/* How a state is drawn from what is not durable. */
enum image_mode {
    IMAGE_NONE,    /* nothing of it is there */
    IMAGE_ALL,     /* everything */
    IMAGE_PREFIX,  /* the first of its operations, the last of them perhaps torn */
    IMAGE_SUFFIX,  /* the last of them */
    IMAGE_SUBSET,  /* any of them */
    IMAGE_SECTORS, /* any of their sectors */
    IMAGE_BUT_ONE, /* all sectors but one */
    IMAGE_MODES,
};

struct image *image_create(void);
void image_destroy(struct image **image);

/* Notes that the operation was begun: it may be on the disk, in part or whole. The payload is
 * borrowed for the image's life. Then that it has ended, as its record says. */
void image_begin(struct image *image, const struct trace_record *r, const char *payload);
void image_end(struct image *image, const struct trace_record *r);

/* Draws a state and writes it to the empty folder `parent` (the spool becomes a folder in it, named
 * as in the trace). `all` for each name: true also where it is not durable. Returns the name of the
 * spool's folder, or NULL where a cut now would leave none. */
const char *image_draw(struct image *image, enum image_mode mode, struct random *random,
                       const char *parent);

/* The file of this name with all that was ever written to it, and its size; NULL where
 * there is none. */
const char *image_whole(struct image *image, const char *name, uint64_t *inode_out,
                        uint64_t *written_out, uint64_t *size_out);

#endif
