#include "workers/inbound/upload.h"

#include "core/base/assert.h"
#include "core/base/list.h"

#include <stdlib.h>

/* Content or envelope on its way to the spool, with the memory it borrows. */
struct store_op {
    struct commit_op op;
    struct upload *upload;
    struct receipt_mark mark;
    struct buf content;
    struct buf envelope;
};

void upload_init(struct upload *u, struct committer *committer, struct mailbox *reply_to,
                 void (*on_stored)(struct upload *u, bool ended))
{
    *u = (struct upload){.committer = committer, .reply_to = reply_to, .on_stored = on_stored};
    buf_init(&u->content, STORE_CHUNK_BYTES);
}

void upload_fini(struct upload *u)
{
    ASSERT(u->ops_out == 0);
    buf_fini(&u->content);
}

void upload_begin(struct upload *u, uint64_t id)
{
    u->id = id;
    u->chunks = 0;
    u->status = STORE_OK;
    buf_clear(&u->content);
}

static void free_op(struct store_op *o)
{
    buf_fini(&o->content);
    buf_fini(&o->envelope);
    free(o);
}

static void on_done(struct mail *mail, void *owner)
{
    (void)owner;
    struct store_op *o = CONTAINER_OF(mail, struct store_op, op.mail);
    struct upload *u = o->upload;
    bool ended = o->op.kind == COMMIT_MESSAGE;
    if (o->op.status != STORE_OK)
        u->status = o->op.status;
    if (ended) {
        u->chunks = o->op.u.message.chunk_number; /* those before it are stored for themselves */
        if (u->status == STORE_OK)
            u->chunks = 0; /* they are the message's now */
        else
            upload_discard(u);
    }
    free_op(o);
    u->ops_out--;
    u->on_stored(u, ended);
}

static void on_discarded(struct mail *mail, void *owner)
{
    (void)owner;
    free_op(CONTAINER_OF(mail, struct store_op, op.mail));
}

static struct store_op *create_op(struct upload *u, enum commit_kind kind,
                                  void (*done)(struct mail *mail, void *owner))
{
    struct store_op *o = calloc(1, sizeof *o);
    if (o == NULL)
        return NULL;
    o->upload = u;
    o->op = (struct commit_op){.kind = kind, .reply_to = u->reply_to, .on_done = done};
    buf_init(&o->content, STORE_CHUNK_BYTES);
    buf_init(&o->envelope, ENVELOPE_ENCODED_MAX);
    return o;
}

static void post(struct upload *u, struct store_op *o)
{
    struct commit_op *op = &o->op;
    u->ops_out++;
    committer_submit(u->committer, &op);
}

/* The content's memory goes with the op; the upload starts an empty buffer. */
static void move_content(struct upload *u, struct store_op *o)
{
    o->content = u->content;
    buf_init(&u->content, STORE_CHUNK_BYTES);
    o->op.u.message.id = u->id;
    o->op.u.message.chunk = buf_slice(&o->content);
    o->op.u.message.chunk_number = u->chunks++;
}

void upload_chunk(struct upload *u)
{
    struct store_op *o = u->status == STORE_OK ? create_op(u, COMMIT_CHUNK, on_done) : NULL;
    if (o == NULL) {
        u->status = u->status == STORE_OK ? STORE_NO_ROOM : u->status;
        buf_clear(&u->content);
        return;
    }
    move_content(u, o);
    post(u, o);
}

bool upload_message(struct upload *u, const struct envelope *e, const struct receipt_mark *mark)
{
    ASSERT(u->ops_out == 0);
    struct store_op *o = u->status == STORE_OK ? create_op(u, COMMIT_MESSAGE, on_done) : NULL;
    if (o != NULL) {
        envelope_encode(e, &o->envelope);
        if (buf_ok(&o->envelope)) {
            move_content(u, o);
            o->op.u.message.envelope = buf_slice(&o->envelope);
            if (mark != NULL) {
                o->mark = *mark;
                o->op.u.message.receipt = &o->mark;
            }
            post(u, o);
            return true;
        }
        free_op(o);
    }
    if (u->status == STORE_OK)
        u->status = STORE_NO_ROOM;
    upload_discard(u);
    return false;
}

void upload_discard(struct upload *u)
{
    buf_clear(&u->content);
    if (u->chunks == 0)
        return;
    struct store_op *o = create_op(u, COMMIT_DISCARD, on_discarded);
    if (o == NULL)
        return;
    o->op.u.discard_id = u->id;
    struct commit_op *op = &o->op;
    committer_submit(u->committer, &op);
    u->chunks = 0;
}
