#include "workers/outbound/body.h"

#include "core/base/assert.h"

enum {
    PARTS_MAX = 32,
    SPARE_PARTS = 2, /* of them, for the end-of-data line and what goes behind it */
    TAIL_BYTES = 3,
    NEAR_BYTES = 16 * 1024,
};

void body_begin(struct body *b, uint64_t id, uint64_t size_bytes, bool has_dots, bool by_bdat)
{
    *b = (struct body){
        .id = id, .size = size_bytes, .stuff = has_dots && !by_bdat, .by_bdat = by_bdat};
}

enum part_kind { PART_COMMANDS, PART_CONTENT, PART_DOT, PART_TAIL };

/* One write: commands in front, runs of the current chunk, and the end with what may follow it. */
struct gathered {
    struct iovec parts[PARTS_MAX];
    enum part_kind kinds[PARTS_MAX];
    int count;
};

static void add(struct gathered *g, struct slice s, enum part_kind kind)
{
    ASSERT(g->count < PARTS_MAX);
    g->parts[g->count] = (struct iovec){.iov_base = (void *)(uintptr_t)s.ptr, .iov_len = s.len};
    g->kinds[g->count] = kind;
    g->count++;
}

static void add_commands(struct gathered *g, const struct buf *out)
{
    if (buf_len(out) > 0)
        add(g, buf_slice(out), PART_COMMANDS);
}

/* Returns whether all of `content` was gathered. */
static bool gather(struct gathered *g, const struct body *b, struct slice content)
{
    if (!b->stuff) {
        add(g, content, PART_CONTENT);
        return true;
    }
    struct stuff_state state = b->stuffing;
    while (content.len > 0 && g->count < PARTS_MAX - SPARE_PARTS) {
        bool extra = false;
        struct slice run = stuff_next(&state, content, &extra);
        add(g, run, extra ? PART_DOT : PART_CONTENT);
        stuff_sent(&state, run, run.len, extra);
        if (!extra)
            content = slice_skip(content, run.len);
    }
    return content.len == 0;
}

static struct slice tail_of(const struct body *b)
{
    return b->by_bdat ? SLICE_LIT("") : slice_skip(SLICE_LIT(".\r\n"), b->tail_sent);
}

static bool is_ended(const struct body *b, const struct buf *out)
{
    return b->by_bdat ? b->sent == b->size && buf_len(out) == 0 : b->tail_sent == TAIL_BYTES;
}

/* `len` bytes of what was gathered are with the kernel. */
static void account(struct body *b, const struct gathered *g, struct buf *out, size_t len)
{
    for (int i = 0; i < g->count && len > 0; i++) {
        size_t part = len < g->parts[i].iov_len ? len : g->parts[i].iov_len;
        len -= part;
        switch (g->kinds[i]) {
        case PART_COMMANDS:
            buf_consume(out, part);
            break;
        case PART_TAIL:
            b->tail_sent += (unsigned)part;
            break;
        case PART_CONTENT:
            b->sent += part;
            b->chunk_at += part;
            break;
        case PART_DOT:
            break;
        }
        if (b->stuff && (g->kinds[i] == PART_CONTENT || g->kinds[i] == PART_DOT))
            stuff_sent(&b->stuffing, slice_of(g->parts[i].iov_base, g->parts[i].iov_len), part,
                       g->kinds[i] == PART_DOT);
    }
}

/* Would the last byte be in the next write? */
static bool end_fits(const struct gathered *g, const struct body *b, const struct conn *conn)
{
    size_t len = tail_of(b).len;
    for (int i = 0; i < g->count; i++)
        len += g->parts[i].iov_len;
    return len <= conn_write_max(conn);
}

/* A TLS record that is half with the kernel goes out whole, sooner or later, so the token stays
 * with it. The last one is not begun where a peer that has stopped reading could halt it. */
static bool end_may_go(const struct body *b, const struct conn *conn)
{
    bool is_first = b->sent == 0 && !b->by_bdat; /* the peer has just read all that went before */
    return conn->ssl == NULL || is_first || net_has_room(conn->fd);
}

/* What is left of the current chunk, its whole length in `*chunk_len_out`; false: damaged. */
static bool rest_of_chunk(const struct body *b, struct store_reader *reader, struct slice *rest_out,
                          size_t *chunk_len_out)
{
    struct slice chunk;
    if (!store_get_chunk(reader, b->id, b->chunk, &chunk) || chunk.len <= b->chunk_at ||
        chunk.len - b->chunk_at > b->size - b->sent)
        return false;
    *rest_out = slice_skip(chunk, b->chunk_at);
    *chunk_len_out = chunk.len;
    return true;
}

/* The next write may hold the last byte: with the token it does, by DATA with the end-of-data line
 * and what follows. BODY_SENT: write. */
static enum body_status add_end(struct gathered *g, struct body *b, struct conn *conn,
                                const struct buf *out, bool (*take_token)(void *context),
                                void *context)
{
    if (!b->committed && !end_may_go(b, conn)) {
        conn->writable = false;
        b->net = NET_AGAIN;
        return BODY_AGAIN;
    }
    if (!b->committed)
        b->committed = take_token(context);
    if (!b->committed)
        return b->by_bdat || g->count == 0 ? BODY_NO_TOKEN : BODY_SENT;
    if (b->by_bdat)
        return BODY_SENT;
    add(g, tail_of(b), PART_TAIL);
    add_commands(g, out);
    return BODY_SENT;
}

/* One round: what can be written at once. The reader's snapshot is open. */
static enum body_status send_some(struct body *b, struct conn *conn, struct buf *out,
                                  struct store_reader *reader, bool (*take_token)(void *context),
                                  void *context)
{
    struct gathered g = {.count = 0};
    struct slice rest = SLICE_LIT("");
    size_t chunk_len = 0;
    bool all = true;
    if (b->by_bdat)
        add_commands(&g, out);
    if (b->sent < b->size) {
        if (!rest_of_chunk(b, reader, &rest, &chunk_len))
            return BODY_DAMAGED;
        all = gather(&g, b, rest) && b->sent + rest.len == b->size;
    }
    if (all && end_fits(&g, b, conn)) {
        enum body_status may = add_end(&g, b, conn, out, take_token, context);
        if (may != BODY_SENT)
            return may;
    }
    size_t len = 0;
    b->net = conn_writev(conn, g.parts, g.count, &len);
    account(b, &g, out, len);
    bool on_its_way = b->net == NET_AGAIN && conn->ssl != NULL;
    if (!is_ended(b, out) && !on_its_way)
        b->committed = false;
    if (b->net == NET_AGAIN)
        return BODY_AGAIN;
    if (b->net != NET_OK)
        return BODY_LOST;
    if (chunk_len > 0 && b->chunk_at == chunk_len) {
        b->chunk++;
        b->chunk_at = 0;
    }
    return is_ended(b, out) ? BODY_SENT : BODY_AGAIN;
}

bool body_end_is_near(const struct body *b)
{
    return !b->by_bdat && !b->committed && b->size - b->sent <= NEAR_BYTES;
}

enum body_status body_send(struct body *b, struct conn *conn, struct buf *out,
                           struct store_reader *reader, bool (*take_token)(void *context),
                           void *context)
{
    if (!buf_ok(out)) { /* no memory for DATA: the content would be read as commands */
        b->net = NET_NO_RESOURCES;
        return BODY_LOST;
    }
    if (!store_read_begin(reader))
        return BODY_DAMAGED;
    enum body_status status;
    do {
        status = send_some(b, conn, out, reader, take_token, context);
    } while (status == BODY_AGAIN && b->net == NET_OK);
    store_read_end(reader);
    return status;
}
