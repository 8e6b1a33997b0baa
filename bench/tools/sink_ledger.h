/* What the sink has seen: counts by prefix of addresses and by group of messages. One for the whole
 * process, shared by its threads behind one lock, which is held for a few additions each time. */
#pragma once
#include "bench/tools/mark.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct ledger;

/* One message that came whole. Borrowed for the call. */
struct arrival {
    unsigned prefix;            /* of the address it came to, from ledger_open */
    struct mark mark;           /* id_hash 0: not one of ours, counted at its prefix only */
    const uint64_t *recipients; /* a hash of each */
    size_t recipient_count;
    bool damaged; /* its body is not what its mark says */
};

/* Aborts the program when there is no memory, as do all of these. */
struct ledger *ledger_create(void);

/* The addresses of "127.2.0.0/16", or one address, hang or are well from now on. False: that is no
 * prefix, or there are 64 already. Of two prefixes that hold an address the longer one counts. */
bool ledger_set_prefix(struct ledger *l, const char *text, bool hung);

/* Notes when so many distinct deliveries of a group (0 = 'a') have come: once each pair of message
 * and recipient. */
void ledger_set_goal(struct ledger *l, unsigned group, uint64_t goal);

/* A connection to `address` (host order). Returns the index of its prefix; `hung_out`: it is to be
 * left unanswered. */
unsigned ledger_open(struct ledger *l, uint32_t address, bool *hung_out);
void ledger_close(struct ledger *l, unsigned prefix, bool hung);

/* No descriptor was left for a connection. */
void ledger_without_room(struct ledger *l);

/* A message, all of it. */
void ledger_arrive(struct ledger *l, const struct arrival *a);

/* All counts as one line of JSON. */
void ledger_print(struct ledger *l, FILE *out);
