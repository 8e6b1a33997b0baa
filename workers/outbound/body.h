/* Streaming a message's content from the spool to a connection: chunk by chunk straight from
 * the store's map. By DATA, dots are stuffed only where the envelope says that lines begin with
 * one, and the end-of-data line closes it; by BDAT the commands that announce it go in front,
 * and it goes as it is. The last byte goes out only where the commit token was won. Embedded in
 * the session. */
#ifndef ONWARD_WORKERS_OUTBOUND_BODY_H
#define ONWARD_WORKERS_OUTBOUND_BODY_H

#include "core/spool/store.h"
#include "smtp/stuff.h"
#include "workers/conn.h"

enum body_status {
    BODY_SENT,     /* the last byte is with the kernel */
    BODY_AGAIN,    /* wait for writable */
    BODY_NO_TOKEN, /* all before the last write is out, and another session has the token */
    BODY_DAMAGED,  /* the spool cannot give the content back */
    BODY_LOST,     /* the connection broke; see `net` */
};

struct body {
    uint64_t id;
    uint64_t size;   /* of the content */
    uint64_t sent;   /* content bytes written so far, without stuffing */
    uint32_t chunk;  /* the chunk being written, */
    size_t chunk_at; /* and how far */
    bool by_bdat;
    bool stuff;         /* has lines that begin with a dot, and goes by DATA */
    bool committed;     /* the token is ours: the end may go, or has gone */
    unsigned tail_sent; /* bytes of ".\r\n" written */
    struct stuff_state stuffing;
    enum net_status net;
};

/* A content of `size_bytes`; `has_dots`: some line of it begins with one. */
void body_begin(struct body *b, uint64_t id, uint64_t size_bytes, bool has_dots, bool by_bdat);

/* Is what is left so little that a connection with nothing on its way surely takes it, and a few
 * commands, in one write? */
bool body_end_is_near(const struct body *b);

/* Writes until done or until the connection would block. By BDAT, `out` goes in front; by DATA, it
 * goes behind the last byte, in the same write. `take_token(context)` is asked before a write that
 * may hold the last byte. Where the connection did not take that byte, `committed` is false again
 * behind the call, and the token is to be given back: a peer that stops reading near the end, or
 * breaks the connection there, is raced and replaced like any other. */
enum body_status body_send(struct body *b, struct conn *conn, struct buf *out,
                           struct store_reader *reader, bool (*take_token)(void *context),
                           void *context);

#endif
