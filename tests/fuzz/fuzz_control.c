/* Any bytes as a line on the control socket: the answer is whole JSON lines of which the last, and no
 * other, has "done"; or the request is on its way to the committer or the resolver. */
#include "workers/control_priv.h"

#include "core/base/assert.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- in the place of the threads behind it: whatever reaches them is taken and forgotten ---- */

static unsigned handed_over;

void committer_submit(struct committer *c, struct commit_op **op)
{
    (void)c;
    ASSERT((*op)->kind == COMMIT_EDIT);
    ASSERT(memchr((*op)->u.edit.domain, '\0', sizeof(*op)->u.edit.domain) != NULL);
    ASSERT((*op)->u.edit.id == 0 || (*op)->u.edit.domain[0] == '\0');
    free(*op); /* what control_queue.c made begins with it */
    *op = NULL;
    handed_over++;
}

struct committer_figures committer_figures(const struct committer *c)
{
    (void)c;
    return (struct committer_figures){0};
}

void resolver_ask(struct resolver *r, struct resolver_query **query)
{
    (void)r;
    ASSERT(memchr((*query)->domain, '\0', sizeof(*query)->domain) != NULL);
    free(*query); /* what control_route.c made begins with it */
    *query = NULL;
    handed_over++;
}

struct resolver_figures resolver_figures(struct resolver *r)
{
    (void)r;
    return (struct resolver_figures){0};
}

/* ---- a control without a socket, over a spool with one message ---- */

static char spool_path[] = "/tmp/onward-fuzz-XXXXXX";

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static void remove_spool(void)
{
    (void)nftw(spool_path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void put_message(struct store *store)
{
    struct envelope_recipient r = {.address = SLICE_LIT("a@x.example"),
                                   .domain = SLICE_LIT("x.example"),
                                   .orcpt = SLICE_LIT("")};
    struct envelope e = {.id = 1,
                         .size_bytes = 5,
                         .sender = SLICE_LIT("s@y.example"),
                         .envid = SLICE_LIT(""),
                         .origin = SLICE_LIT("fuzz"),
                         .recipients = &r,
                         .recipient_count = 1};
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    envelope_encode(&e, &record);
    bool ok = store_begin(store) == STORE_OK &&
              store_put_envelope(store, 1, buf_slice(&record)) == STORE_OK &&
              store_put_chunk(store, 1, 0, SLICE_LIT("x\xff\r\n.")) == STORE_OK &&
              store_commit(store) == STORE_OK;
    ASSERT(ok);
    buf_fini(&record);
}

static struct control *make_control(void)
{
    static struct control c;
    struct health_options health = {.entries = 64, .demote_max_ms = 1000, .patience_max_ms = 5000};
    struct store_options store = {.path = spool_path, .map_bytes = 1 << 20, .readers_max = 4};
    const char *made = mkdtemp(spool_path);
    ASSERT(made != NULL && atexit(remove_spool) == 0);
    c.options.store = store_open(&store, NULL);
    c.options.health = health_create(&health);
    ASSERT(c.options.store != NULL && c.options.health != NULL);
    put_message(c.options.store);
    c.reader = store_reader_create(c.options.store);
    ASSERT(c.reader != NULL);
    return &c;
}

static void check_answer(struct slice answer, bool waits)
{
    bool done = false;
    while (answer.len > 0) {
        struct slice line = slice_take(answer, slice_find(answer, '\n'));
        ASSERT(line.len < answer.len && !done);
        answer = slice_skip(answer, line.len + 1);
        json_t *object = json_loadb(line.ptr, line.len, 0, NULL);
        ASSERT(json_is_object(object));
        done = json_is_true(json_object_get(object, "done"));
        json_decref(object);
    }
    ASSERT(done != waits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct control *control;
    if (control == NULL)
        control = make_control();
    struct slice input = slice_of(data, size);
    struct control_client c = {.control = control};
    buf_init(&c.out, CONTROL_ANSWER_MAX);
    handed_over = 0;
    control_run(&c, slice_take(input, slice_find(input, '\n')));
    ASSERT(c.busy == (handed_over == 1));
    if (buf_len(&c.out) > 0 || !c.busy)
        check_answer(buf_slice(&c.out), c.busy);
    buf_fini(&c.out);
    return 0;
}
