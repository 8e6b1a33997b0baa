/* Which domains are suspended: an operator wants nothing new tried there, or anywhere, whether it
 * waits or is still to come. Mail for them is taken and kept; what is under way is finished; the
 * age limit goes on counting.
 *
 * They survive restarts and power cuts in a file of the spool's folder, one a line, that is written
 * anew and put in place at each change:
 *
 *   since SP until SP domain SP reason      times in ms since 1970, until 0: until it is resumed;
 *                                           domain "*": all
 *
 * One thread changes the set, the control's, and writes the file meanwhile; any thread asks, under
 * a lock held for a look-up, and without it where nothing is suspended, which is nearly always. A
 * suspension whose time is up holds until it is taken out (suspensions_clear): so those who wait
 * for that learn of it in one way only.
 *
 * To suspend is refused where it cannot be written: mail that is to wait must wait over a restart
 * too. To resume is not, for a full disk empties only as mail goes: that holds at once, and is
 * written later (suspensions_save). */
#ifndef ONWARD_CORE_QUEUE_SUSPENSIONS_H
#define ONWARD_CORE_QUEUE_SUSPENSIONS_H

#include "core/base/error.h"
#include "core/domain.h"

enum {
    SUSPENSIONS_MAX = 1000,
    SUSPENSION_REASON_SIZE = 200,
    SUSPENSION_DAYS_MAX = 366, /* longer is until it is resumed */
};

/* One of them; a plain value. */
struct suspension {
    char domain[DOMAIN_SIZE];            /* in normal form; "" = all mail */
    char reason[SUSPENSION_REASON_SIZE]; /* one line, or "" */
    uint64_t since_wall_ms;
    uint64_t until_mono_ms; /* 0: until it is resumed */
};

struct suspensions;

/* The set that the file at `path` holds, without those whose time was up meanwhile; empty where
 * there is none. NULL with `error`: it cannot be read, or a line is none, for mail that was to
 * wait would go. */
struct suspensions *suspensions_load(const char *path, uint64_t mono_ms, uint64_t wall_ms,
                                     struct error *error);
void suspensions_destroy(struct suspensions **s);

/* Is mail for this domain (in normal form) to wait? Any thread; NULL holds nothing. */
bool suspensions_hold(struct suspensions *s, const char *domain);

/* How many there are, that of all mail included. Any thread; NULL has none. */
unsigned suspensions_count(struct suspensions *s);

/* Copies the suspension of this domain itself ("" = that of all); false where there is
 * none. Any thread. */
bool suspensions_find(struct suspensions *s, const char *domain, struct suspension *out);

/* Copies up to `max` of them, in order of name, that of all first. Returns how many. Any thread. */
unsigned suspensions_list(struct suspensions *s, struct suspension *out, unsigned max);

/* How a change ended. */
enum suspensions_change {
    SUSPENSIONS_SAVED, /* it holds, and is on disk */
    SUSPENSIONS_UNSAVED, /* it holds, but a restart or a power cut may undo it: `error` says which, and why */
    SUSPENSIONS_REFUSED, /* nothing was changed: `error` says why */
};

/* Adds one, or replaces the domain's. REFUSED: too many, no memory, no room; UNSAVED: the file is
 * in place, but its folder cannot be synced. The control's thread. */
enum suspensions_change suspensions_set(struct suspensions *s, const struct suspension *one,
                                        uint64_t mono_ms, uint64_t wall_ms, struct error *error);

/* Takes the domain's ("" = that of all) out; it must be there. Never REFUSED. Likewise. */
enum suspensions_change suspensions_clear(struct suspensions *s, const char *domain,
                                          uint64_t mono_ms, uint64_t wall_ms, struct error *error);

/* Does the disk know all that holds? Where it does not, suspensions_save tries again; SAVED or
 * UNSAVED. The control's thread. */
bool suspensions_are_saved(const struct suspensions *s);
enum suspensions_change suspensions_save(struct suspensions *s, uint64_t mono_ms, uint64_t wall_ms,
                                         struct error *error);

/* When the next one's time is up, monotonic; 0: never. */
uint64_t suspensions_next_end(struct suspensions *s);

#endif
