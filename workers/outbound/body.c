#include "workers/outbound/body.h"

#include "core/base/assert.h"

enum { PARTS_MAX = 32, TAIL_BYTES = 3 };

void body_begin(struct body *b, uint64_t id, uint64_t size_bytes, bool has_dots)
{
    *b = (struct body){.id = id, .size = size_bytes, .stuff = has_dots};
}

/* One write: runs of the current chunk, and the end-of-data line where it may follow. */
struct gathered {
    struct iovec parts[PARTS_MAX];
    bool extra[PARTS_MAX]; /* the part is a stuffed dot */
    int count;
    bool has_tail;
};

static void add(struct gathered *g, struct slice s, bool extra)
{
    g->parts[g->count] = (struct iovec){.iov_base = (void *)(uintptr_t)s.ptr, .iov_len = s.len};
    g->extra[g->count] = extra;
    g->count++;
}

/* Leaves room for the tail. Returns whether all of `content` was gathered. */
static bool gather(struct gathered *g, const struct body *b, struct slice content)
{
    if (!b->stuff) {
        add(g, content, false);
        return true;
    }
    struct stuff_state state = b->stuffing;
    while (content.len > 0 && g->count < PARTS_MAX - 1) {
        bool extra = false;
        struct slice run = stuff_next(&state, content, &extra);
        add(g, run, extra);
        stuff_sent(&state, run, run.len, extra);
        if (!extra)
            content = slice_skip(content, run.len);
    }
    return content.len == 0;
}

static struct slice tail_of(const struct body *b)
{
    return slice_skip(SLICE_LIT(".\r\n"), b->tail_sent);
}

/* `len` bytes of what was gathered are with the kernel. */
static void account(struct body *b, const struct gathered *g, size_t len)
{
    for (int i = 0; i < g->count && len > 0; i++) {
        size_t part = len < g->parts[i].iov_len ? len : g->parts[i].iov_len;
        len -= part;
        if (g->has_tail && i == g->count - 1) {
            b->tail_sent += (unsigned)part;
            continue;
        }
        if (b->stuff)
            stuff_sent(&b->stuffing, slice_of(g->parts[i].iov_base, g->parts[i].iov_len), part,
                       g->extra[i]);
        if (!g->extra[i]) {
            b->sent += part;
            b->chunk_at += part;
        }
    }
}

/* Would the end-of-data line be in the next write? */
static bool end_fits(const struct gathered *g, const struct body *b, const struct conn *conn)
{
    size_t len = tail_of(b).len;
    for (int i = 0; i < g->count; i++)
        len += g->parts[i].iov_len;
    return len <= conn_write_max(conn);
}

/* A TLS record that is half with the kernel goes out whole, sooner or later, so the token stays with
 * it. The last one is not begun where a peer that has stopped reading could halt it. */
static bool end_may_go(const struct body *b, const struct conn *conn)
{
    return conn->ssl == NULL || b->sent == 0 || net_has_room(conn->fd);
}

/* One round: what can be written at once. The reader's snapshot is open. */
static enum body_status send_some(struct body *b, struct conn *conn, struct store_reader *reader,
                                  bool (*take_token)(void *context), void *context)
{
    struct gathered g = {.count = 0};
    bool all = true;
    size_t chunk_len = 0;
    if (b->sent < b->size) {
        struct slice chunk;
        if (!store_get_chunk(reader, b->id, b->chunk, &chunk) || chunk.len <= b->chunk_at ||
            chunk.len - b->chunk_at > b->size - b->sent)
            return BODY_DAMAGED;
        struct slice rest = slice_skip(chunk, b->chunk_at);
        all = gather(&g, b, rest) && b->sent + rest.len == b->size;
        chunk_len = chunk.len;
    }
    if (all && end_fits(&g, b, conn)) {
        if (!b->committed && !end_may_go(b, conn)) {
            conn->writable = false;
            b->net = NET_AGAIN;
            return BODY_AGAIN;
        }
        if (!b->committed)
            b->committed = take_token(context);
        g.has_tail = b->committed;
        if (g.has_tail)
            add(&g, tail_of(b), false);
        else if (g.count == 0)
            return BODY_NO_TOKEN;
    }
    size_t len = 0;
    b->net = conn_writev(conn, g.parts, g.count, &len);
    account(b, &g, len);
    bool on_its_way = b->net == NET_AGAIN && conn->ssl != NULL;
    if (b->tail_sent < TAIL_BYTES && !on_its_way)
        b->committed = false;
    if (b->net == NET_AGAIN)
        return BODY_AGAIN;
    if (b->net != NET_OK)
        return BODY_LOST;
    if (chunk_len > 0 && b->chunk_at == chunk_len) {
        b->chunk++;
        b->chunk_at = 0;
    }
    return b->tail_sent == TAIL_BYTES ? BODY_SENT : BODY_AGAIN;
}

enum body_status body_send(struct body *b, struct conn *conn, struct store_reader *reader,
                           bool (*take_token)(void *context), void *context)
{
    if (!store_read_begin(reader))
        return BODY_DAMAGED;
    enum body_status status;
    do {
        status = send_some(b, conn, reader, take_token, context);
    } while (status == BODY_AGAIN && b->net == NET_OK);
    store_read_end(reader);
    return status;
}
