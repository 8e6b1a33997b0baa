/* The messages that the load generator submits. Each has a mark (mark.h) and a first line of its
 * own; all share the rest of the body, whose second line begins with a dot. Made once, read by
 * all threads. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { MESSAGE_HEAD_MAX = 1024 };

struct messages;

/* What they are like. The strings must outlive the messages. */
struct message_options {
    char group;          /* a lower-case letter, in front of the id */
    uint64_t first;      /* number of the first message */
    uint64_t size_bytes; /* about, header section included */
    unsigned recipients; /* of each, all at one domain */
    unsigned domains;    /* message n goes to <label><n % domains>.<origin> */
    const char *label, *origin;
};

/* Aborts where there is no memory. */
struct messages *messages_create(const struct message_options *options);

/* Room for the commands of one message. */
size_t messages_commands_max(const struct messages *m);

/* Writes MAIL, the RCPTs and DATA of message `number` (from 0) to `out`; returns their length. */
size_t messages_commands(const struct messages *m, uint64_t number, char *out);

/* Writes the header section and the first line of message `number` to `out` (MESSAGE_HEAD_MAX);
 * returns their length. */
size_t messages_head(const struct messages *m, uint64_t number, uint64_t sent_ns, char *out);

/* The rest of every message as it is on the wire: dots stuffed, the final dot
 * included. Borrowed. */
const char *messages_tail(const struct messages *m, size_t *len_out);
