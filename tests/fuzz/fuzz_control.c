/* Any bytes as a line on the control socket, or, behind a question mark, as the query part of a
 * URL: the answer is whole JSON lines of which the last, and no other, has "done"; or the
 * request is on its way to the committer or the resolver. What was suspended is the same when
 * its file is read again. */
#include "workers/control_priv.h"

#include "core/base/assert.h"
#include "core/base/clock.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

static char spool_path[] =
    "/dev/shm/onward-fuzz-XXXXXX"; /* in memory, where a sync costs nothing */
static char suspensions_path[sizeof spool_path + sizeof "/suspensions"];

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

/* So that there is one to be resumed. */
static void suspend_one(struct control *control)
{
    FILE *file = fopen(suspensions_path, "w");
    ASSERT(file != NULL && fputs("1 0 y.example because\n", file) >= 0 && fclose(file) == 0);
    control->options.suspensions = suspensions_load(suspensions_path, 1, 1, NULL);
    ASSERT(control->options.suspensions != NULL);
}

static struct control *make_control(void)
{
    static struct control c;
    static const struct config config = {.hostname = "relay.example"};
    struct health_options health = {.entries = 64, .demote_max_ms = 1000, .patience_max_ms = 5000};
    struct store_options store = {.path = spool_path, .map_bytes = 1 << 20, .readers_max = 4};
    const char *made = mkdtemp(spool_path);
    ASSERT(made != NULL && atexit(remove_spool) == 0);
    c.options.store = store_open(&store, NULL);
    c.options.health = health_create(&health);
    c.options.config = &config;
    c.options.destinations = destination_table_create();
    (void)snprintf(suspensions_path, sizeof suspensions_path, "%s/suspensions", spool_path);
    suspend_one(&c);
    timer_wheel_init(&c.timers, clock_mono_ms(), &c);
    control_start_suspensions(&c);
    ASSERT(c.options.store != NULL && c.options.health != NULL && c.options.destinations != NULL);
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

/* What a change left is what its file says; then as before it. */
static void check_suspensions(struct control *control)
{
    enum { LISTED_MAX = 4 };
    struct suspension now[LISTED_MAX], again[LISTED_MAX];
    unsigned count = suspensions_list(control->options.suspensions, now, LISTED_MAX);
    suspensions_destroy(&control->options.suspensions);
    control->options.suspensions =
        suspensions_load(suspensions_path, clock_mono_ms(), clock_wall_ms(), NULL);
    ASSERT(control->options.suspensions != NULL);
    unsigned found = suspensions_list(control->options.suspensions, again, LISTED_MAX);
    for (unsigned i = 0, k = 0; i < count; i++) {
        if (k < found && strcmp(now[i].domain, again[k].domain) == 0)
            ASSERT(strcmp(now[i].reason, again[k++].reason) == 0);
        else
            ASSERT(now[i].until_mono_ms != 0); /* its time was up meanwhile */
        ASSERT(i + 1 < count || k == found);
    }
    suspensions_destroy(&control->options.suspensions);
    suspend_one(control);
}

/* "op&name=value&name=value", as libmicrohttpd takes a URL apart. NULL: refused. */
static char *request_of_query(struct slice query)
{
    enum { ARGUMENTS_MAX = 8, TEXT_SIZE = 256 };
    static char texts[2 * ARGUMENTS_MAX + 1][TEXT_SIZE];
    struct control_argument arguments[ARGUMENTS_MAX];
    struct error error = {{0}};
    unsigned count = 0, used = 0;
    char *op = texts[used++];
    struct slice part = slice_take(query, slice_find(query, '&'));
    bool fits = slice_to_cstr(part, op, TEXT_SIZE);
    while (fits && part.len < query.len && count < ARGUMENTS_MAX) {
        query = slice_skip(query, part.len + 1);
        part = slice_take(query, slice_find(query, '&'));
        size_t name = slice_find(part, '=');
        char *name_text = texts[used++], *value_text = texts[used++];
        fits = slice_to_cstr(slice_take(part, name), name_text, TEXT_SIZE) &&
               slice_to_cstr(slice_skip(part, name + 1), value_text, TEXT_SIZE);
        arguments[count++] = (struct control_argument){name_text, value_text};
    }
    json_t *request = fits ? control_request_of(op, arguments, count, &error) : NULL;
    ASSERT(!fits || request != NULL || error.text[0] != '\0');
    char *line = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    return line;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct control *control;
    if (control == NULL)
        control = make_control();
    struct slice input = slice_of(data, size);
    char *made = NULL;
    if (size > 0 && data[0] == '?') {
        made = request_of_query(slice_skip(input, 1));
        if (made == NULL)
            return 0;
        input = slice_str(made);
    }
    struct control_client c = {.control = control};
    buf_init(&c.out, CONTROL_ANSWER_MAX);
    handed_over = 0;
    control_run(&c, slice_take(input, slice_find(input, '\n')));
    ASSERT(c.busy == (handed_over == 1));
    if (buf_len(&c.out) > 0 || !c.busy)
        check_answer(buf_slice(&c.out), c.busy);
    buf_fini(&c.out);
    free(made);
    if (handed_over > 0)
        check_suspensions(control);
    return 0;
}
