#include "core/spool/store_priv.h"
#include "tests/unit/spool_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>

enum { MAP = 64 << 20 };

/* What the disk does to LMDB's writes and what it says of itself; these stand before libc's. */
static struct {
    bool cut_short; /* each write comes to nothing, and no call fails */
    bool sync_fails;
    bool is_full;
    long kind;           /* f_type, or 0: the real one */
    char synced[8][256]; /* names of what fsync was called for */
    unsigned syncs;
} disk;

int fsync(int fd)
{
    char link[64];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (disk.syncs < sizeof disk.synced / sizeof *disk.synced) {
        char *name = disk.synced[disk.syncs++];
        ssize_t len = readlink(link, name, sizeof *disk.synced - 1);
        name[len > 0 ? len : 0] = '\0';
    }
    return (int)syscall(SYS_fsync, fd);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    return disk.cut_short ? 0 : (ssize_t)syscall(SYS_pwrite64, fd, bytes, len, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return disk.cut_short ? 0 : (ssize_t)syscall(SYS_writev, fd, parts, count);
}

int fdatasync(int fd)
{
    if (!disk.sync_fails)
        return (int)syscall(SYS_fdatasync, fd);
    errno = EIO;
    return -1;
}

int statvfs(const char *path, struct statvfs *out)
{
    (void)path;
    *out = (struct statvfs){.f_frsize = 1, .f_bavail = disk.is_full ? 1000 : 1ul << 40};
    return 0;
}

int fstatfs(int fd, struct statfs *out)
{
    int rc = (int)syscall(SYS_fstatfs, fd, out);
    if (disk.kind != 0)
        out->f_type = disk.kind;
    return rc;
}

static void put_whole(struct store *s, uint64_t id, const char *content)
{
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, id, 1000, (const char *const[]){"a@x.example", NULL});
    assert_int_equal(store_begin(s), STORE_OK);
    assert_int_equal(store_put_chunk(s, id, 0, slice_str(content)), STORE_OK);
    assert_int_equal(store_put_envelope(s, id, buf_slice(&record)), STORE_OK);
    assert_int_equal(store_commit(s), STORE_OK);
    buf_fini(&record);
}

static void assert_chunk(struct store_reader *r, uint64_t id, uint32_t chunk, const char *content)
{
    struct slice bytes;
    assert_true(store_get_chunk(r, id, chunk, &bytes));
    assert_int_equal(bytes.len, strlen(content));
    assert_memory_equal(bytes.ptr, content, bytes.len);
}

static void what_is_committed_is_there_after_reopening(void **state)
{
    (void)state;
    char path[64];
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    put_whole(s, 42, "hello");
    put_whole(s, 43, "world");
    store_close(&s);
    s = open_spool(path, MAP, 0);
    uint64_t id = 0;
    assert_true(store_last_id(s, &id));
    assert_int_equal(id, 43);
    struct store_reader *r = store_reader_create(s);
    struct slice record;
    assert_true(store_read_begin(r));
    assert_true(store_next_envelope(r, 0, &id, &record) && id == 42);
    assert_true(store_next_envelope(r, 42, &id, &record) && id == 43);
    assert_false(store_next_envelope(r, 43, &id, &record) || store_ended_early(r));
    assert_chunk(r, 42, 0, "hello");
    store_read_end(r);
    store_reader_destroy(&r);
    store_close(&s);
    remove_spool(path);
}

static bool is_synced(const char *path)
{
    bool found = false;
    for (unsigned i = 0; i < disk.syncs; i++)
        found |= strcmp(disk.synced[i], path) == 0;
    return found;
}

static void the_names_of_a_new_spool_are_synced_however_its_path_is_written(void **state)
{
    (void)state;
    static const char *const forms[] = {"%s/spool", "%s/spool/", "%s//spool///"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char parent[64], path[96], spool[96];
        make_spool_path(parent);
        (void)snprintf(path, sizeof path, forms[i], parent);
        (void)snprintf(spool, sizeof spool, "%s/spool", parent);
        disk.syncs = 0;
        struct store *s = open_spool(path, MAP, 0);
        assert_true(is_synced(parent)); /* that has the folder's name */
        assert_true(is_synced(spool));  /* that has the file's */
        store_close(&s);
        remove_spool(parent);
    }
}

static void an_aborted_batch_leaves_nothing(void **state)
{
    (void)state;
    char path[64];
    struct slice bytes;
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    assert_int_equal(store_begin(s), STORE_OK);
    assert_int_equal(store_put_chunk(s, 1, 0, SLICE_LIT("x")), STORE_OK);
    store_abort(s);
    struct store_reader *r = store_reader_create(s);
    assert_true(store_read_begin(r));
    assert_false(store_get_chunk(r, 1, 0, &bytes));
    store_read_end(r);
    store_reader_destroy(&r);
    store_close(&s);
    remove_spool(path);
}

static void removing_takes_all_parts_of_one_message_and_of_no_other(void **state)
{
    (void)state;
    char path[64];
    struct slice bytes;
    struct store_state st = {.progress = PROGRESS_WAITING, .attempts = 3};
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    for (uint64_t id = 1; id <= 3; id++)
        put_whole(s, id, "c0");
    assert_int_equal(store_begin(s), STORE_OK);
    for (uint32_t chunk = 1; chunk < 400; chunk++) /* over many pages */
        assert_int_equal(store_put_chunk(s, 2, chunk, SLICE_LIT("more and more and more")),
                         STORE_OK);
    for (uint32_t i = 0; i < 300; i++)
        assert_int_equal(store_put_state(s, 2, i, &st), STORE_OK);
    assert_int_equal(store_put_state(s, 3, 0, &st), STORE_OK);
    assert_int_equal(store_commit(s), STORE_OK);
    assert_int_equal(store_begin(s), STORE_OK);
    assert_int_equal(store_remove(s, 2), STORE_OK);
    assert_int_equal(store_remove(s, 99), STORE_OK);
    assert_int_equal(store_commit(s), STORE_OK);
    struct store_reader *r = store_reader_create(s);
    assert_true(store_read_begin(r));
    assert_false(store_get_envelope(r, 2, &bytes));
    for (uint32_t chunk = 0; chunk < 400; chunk++)
        assert_false(store_get_chunk(r, 2, chunk, &bytes));
    for (uint32_t i = 0; i < 300; i++)
        assert_false(store_get_state(r, 2, i, &st));
    assert_chunk(r, 1, 0, "c0");
    assert_chunk(r, 3, 0, "c0");
    assert_true(store_get_state(r, 3, 0, &st));
    store_read_end(r);
    store_reader_destroy(&r);
    store_close(&s);
    remove_spool(path);
}

static void chunks_without_an_envelope_are_gone_at_the_next_start(void **state)
{
    (void)state;
    char path[64];
    struct slice bytes;
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    put_whole(s, 5000, "kept");
    assert_int_equal(store_begin(s), STORE_OK);
    for (uint64_t id = 1; id <= 2500; id++) /* more than one round of tidying */
        assert_true(store_put_unfinished(s, id) == STORE_OK &&
                    store_put_chunk(s, id, 0, SLICE_LIT("left over")) == STORE_OK &&
                    store_put_chunk(s, id, 1, SLICE_LIT("left over")) == STORE_OK);
    assert_int_equal(store_commit(s), STORE_OK);
    store_close(&s);
    s = open_spool(path, MAP, 0);
    struct store_reader *r = store_reader_create(s);
    assert_true(store_read_begin(r));
    for (uint64_t id = 1; id <= 2500; id++)
        assert_false(store_get_chunk(r, id, 0, &bytes) || store_get_chunk(r, id, 1, &bytes));
    assert_chunk(r, 5000, 0, "kept");
    store_read_end(r);
    store_reader_destroy(&r);
    store_close(&s);
    remove_spool(path);
}

static void a_second_opener_is_told_who_has_it(void **state)
{
    (void)state;
    char path[64], pid[32];
    struct error error = {{0}};
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    struct store_options options = {.path = path, .map_bytes = MAP, .readers_max = 16};
    assert_null(store_open(&options, &error));
    (void)snprintf(pid, sizeof pid, "in use by process %ld", (long)getpid());
    assert_non_null(strstr(error.text, pid));
    store_close(&s);
    s = open_spool(path, MAP, 0);
    store_close(&s);
    remove_spool(path);
}

static void *close_soon(void *context)
{
    struct store *s = context;
    (void)usleep(100000); /* the other one has met the lock by then, or else the test shows less */
    store_close(&s);
    return NULL;
}

static void a_process_that_leaves_is_waited_for(void **state)
{
    (void)state;
    char path[64];
    struct error error = {{0}};
    pthread_t thread;
    make_spool_path(path);
    struct store_options options = {
        .path = path, .map_bytes = MAP, .readers_max = 16, .wait_ms = 60000};
    struct store *s = open_spool(path, MAP, 0);
    assert_null(store_open(&options, &error)); /* it does not leave: told at once */
    store_leave(s);
    options.wait_ms = 1;
    assert_null(store_open(&options, &error));
    assert_non_null(strstr(error.text, "leaving"));
    options.wait_ms = 60000;
    assert_int_equal(pthread_create(&thread, NULL, close_soon, s), 0);
    struct store *next = store_open(&options, &error);
    assert_non_null(next);
    assert_int_equal(pthread_join(thread, NULL), 0);
    store_close(&next);
    remove_spool(path);
}

static void an_unknown_format_is_refused(void **state)
{
    (void)state;
    char path[64];
    struct error error = {{0}};
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    assert_int_equal(store_begin(s), STORE_OK);
    MDB_val key = {6, (char[]){"format"}}, value = {4, (char[]){"\0\0\0\x63"}};
    assert_int_equal(mdb_put(s->txn, s->meta, &key, &value, 0), 0);
    assert_int_equal(store_commit(s), STORE_OK);
    store_close(&s);
    struct store_options options = {.path = path, .map_bytes = MAP, .readers_max = 16};
    assert_null(store_open(&options, &error));
    assert_non_null(strstr(error.text, "has a format this version does not know"));
    remove_spool(path);
}

static void a_full_map_undoes_the_whole_batch_and_room_comes_back(void **state)
{
    (void)state;
    char path[64];
    struct slice bytes;
    make_spool_path(path);
    struct store *s = open_spool(path, 2 << 20, 0);
    char *block = calloc(1, STORE_CHUNK_BYTES);
    enum store_status status = STORE_OK;
    put_whole(s, 1, "first");
    assert_int_equal(store_begin(s), STORE_OK);
    uint32_t chunk = 0;
    while (status == STORE_OK && chunk < 100)
        status = store_put_chunk(s, 2, chunk++, slice_of(block, STORE_CHUNK_BYTES));
    assert_int_equal(status, STORE_NO_ROOM);
    store_abort(s);
    struct store_reader *r = store_reader_create(s);
    assert_true(store_read_begin(r));
    assert_false(store_get_chunk(r, 2, 0, &bytes));
    assert_chunk(r, 1, 0, "first");
    store_read_end(r);
    put_whole(s, 3, "after");
    store_reader_destroy(&r);
    store_close(&s);
    free(block);
    remove_spool(path);
}

static void the_floor_of_free_disk_is_looked_at(void **state)
{
    (void)state;
    char path[64];
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, UINT64_MAX);
    assert_false(store_has_room(s));
    store_close(&s);
    s = open_spool(path, MAP, 0);
    assert_true(store_has_room(s));
    store_close(&s);
    remove_spool(path);
}

/* Below the floor for good, as on a disk that the spool itself has filled. */
static void room_inside_the_file_is_room(void **state)
{
    (void)state;
    enum { CHUNKS = 1200 }; /* 75 MB: more than is asked for */
    char path[64];
    make_spool_path(path);
    struct store *s = open_spool(path, UINT64_C(1) << 30, UINT64_MAX);
    char *block = calloc(1, STORE_CHUNK_BYTES);
    assert_int_equal(store_begin(s), STORE_OK);
    for (uint32_t i = 0; i < CHUNKS; i++)
        assert_int_equal(store_put_chunk(s, 1, i, slice_of(block, STORE_CHUNK_BYTES)), STORE_OK);
    assert_int_equal(store_commit(s), STORE_OK);
    assert_false(store_has_room(s));
    assert_int_equal(store_begin(s), STORE_OK);
    assert_int_equal(store_remove(s, 1), STORE_OK);
    assert_int_equal(store_commit(s), STORE_OK);
    store_close(&s); /* another looks at the disk anew, and knows of the room from the file */
    s = open_spool(path, UINT64_C(1) << 30, UINT64_MAX);
    assert_true(store_has_room(s));
    store_close(&s);
    free(block);
    remove_spool(path);
}

/* A map that content would fill to the end: what outcomes need is kept. */
static void content_is_refused_before_outcomes_find_no_room(void **state)
{
    (void)state;
    enum { SMALL_MAP = 8 << 20 };
    char path[64], block[1000] = {0};
    make_spool_path(path);
    struct store *s = open_spool(path, SMALL_MAP, 0);
    uint64_t id = 0;
    assert_true(store_has_room(s));
    while (store_reserve(s, sizeof block)) {
        assert_int_equal(store_begin(s), STORE_OK);
        assert_int_equal(store_put_chunk(s, ++id, 0, slice_of(block, sizeof block)), STORE_OK);
        assert_int_equal(store_commit(s), STORE_OK);
        assert_true(id < SMALL_MAP / sizeof block);
    }
    struct store_state st = {.progress = PROGRESS_WAITING};
    for (uint32_t i = 0; i < 50; i++) { /* so many batches of deferrals */
        assert_int_equal(store_begin(s), STORE_OK);
        for (uint32_t k = 0; k < 100; k++)
            assert_int_equal(store_put_state(s, id, i * 100 + k, &st), STORE_OK);
        assert_int_equal(store_commit(s), STORE_OK);
    }
    store_close(&s);
    s = open_spool(path, SMALL_MAP, 0); /* and it starts */
    assert_false(store_has_room(s));
    for (; id > 0; id--) {
        assert_int_equal(store_begin(s), STORE_OK);
        assert_int_equal(store_remove(s, id), STORE_OK);
        assert_int_equal(store_commit(s), STORE_OK);
    }
    assert_true(store_reserve(s, sizeof block)); /* what left makes room inside */
    store_close(&s);
    remove_spool(path);
}

static uint64_t allocated_bytes(const char *path)
{
    struct stat st;
    char file[80];
    (void)snprintf(file, sizeof file, "%s/data.mdb", path);
    assert_int_equal(stat(file, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void the_file_has_blocks_ahead_of_what_is_written(void **state)
{
    (void)state;
    enum { RESERVE = 16 << 20, GROWTH = 100 };
    char path[64];
    char *block = calloc(1, STORE_CHUNK_BYTES);
    make_spool_path(path);
    struct store *s = open_spool(path, UINT64_C(1) << 30, 0);
    for (uint32_t i = 0; i < GROWTH; i++) {
        assert_true(store_reserve(s, 4 * STORE_CHUNK_BYTES));
        assert_int_equal(store_begin(s), STORE_OK);
        for (uint32_t k = 0; k < 4; k++)
            assert_int_equal(store_put_chunk(s, i, k, slice_of(block, STORE_CHUNK_BYTES)),
                             STORE_OK);
        assert_int_equal(store_commit(s), STORE_OK);
        assert_true(allocated_bytes(path) >= atomic_load(&s->shared.end_bytes) + RESERVE);
    }
    store_close(&s);
    free(block);
    remove_spool(path);
}

static void assert_told(struct store *s, int rc, const char *why, const char *advice)
{
    struct error error;
    (void)store_judge(s, rc);
    store_explain(s, &error);
    assert_non_null(strstr(error.text, s->path));
    assert_non_null(strstr(error.text, why));
    assert_non_null(strstr(error.text, advice));
}

static void what_failed_is_told_with_what_to_do(void **state)
{
    (void)state;
    char path[64];
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    assert_told(s, ENOSPC, "No space left on device", "make room");
    assert_told(s, EDQUOT, "quota exceeded", "make room");
    assert_told(s, MDB_MAP_FULL, "spool.map_size of 67.1MB", "set it higher");
    assert_told(s, ENOMEM, "no memory", "leave the relay more");
    assert_told(s, MDB_CORRUPTED, "MDB_CORRUPTED", "dmesg");
    assert_told(s, EROFS, "Read-only file system", "dmesg");
    assert_told(s, EIO, "Input/output error", "copy the folder to another");
    assert_told(s, MDB_PANIC, "Input/output error", "copy the folder to another");
    store_close(&s);
    remove_spool(path);
}

static struct store_state sample_state(void)
{
    struct store_state st = {.progress = PROGRESS_HELD,
                             .delay_noticed = 1,
                             .attempts = 7,
                             .due_wall_ms = 1700000000000,
                             .has_try_first = true,
                             .last = reply_local(LOCAL_UNKNOWN_OUTCOME),
                             .last_exchange = "mx.example.org [192.0.2.1]"};
    const uint8_t ip[4] = {192, 0, 2, 1};
    st.try_first = address_from_v4(ip, 25);
    return st;
}

static void a_state_reads_back_as_written(void **state)
{
    (void)state;
    struct store_state in = sample_state(), out;
    char record[STORE_STATE_MAX];
    size_t len = store_state_encode(&in, record);
    assert_true(store_state_decode(slice_of(record, len), &out));
    assert_int_equal(out.progress, PROGRESS_HELD);
    assert_int_equal(out.delay_noticed, 1);
    assert_int_equal(out.attempts, 7);
    assert_int_equal(out.due_wall_ms, 1700000000000);
    assert_true(out.has_try_first && address_same_ip(&out.try_first, &in.try_first));
    assert_int_equal(out.last.code, LOCAL_UNKNOWN_OUTCOME);
    assert_memory_equal(out.last.text, in.last.text, in.last.text_len);
    assert_string_equal(out.last_exchange, in.last_exchange);
    memset(in.last_exchange, 'm',
           sizeof in.last_exchange - 1); /* the longest, with the longest reply */
    memset(in.last.text, 't', sizeof in.last.text);
    in.last.text_len = sizeof in.last.text;
    len = store_state_encode(&in, record);
    assert_true(store_state_decode(slice_of(record, len), &out));
    assert_string_equal(out.last_exchange, in.last_exchange);
    assert_int_equal(out.last.text_len, in.last.text_len);
}

static void a_damaged_state_is_refused_not_trusted(void **state)
{
    (void)state;
    struct store_state in = sample_state(), out;
    char record[STORE_STATE_MAX];
    size_t len = store_state_encode(&in, record);
    for (size_t cut = 0; cut < len; cut++) {
        char *copy = malloc(cut > 0 ? cut : 1);
        memcpy(copy, record, cut);
        assert_false(store_state_decode(slice_of(copy, cut), &out));
        free(copy);
    }
    record[0] = 9; /* version */
    assert_false(store_state_decode(slice_of(record, len), &out));
}

/* A transaction that is committed on this disk. */
static enum store_status commit_on(struct store *s, bool cut_short, bool sync_fails, bool is_full)
{
    assert_int_equal(store_begin(s), STORE_OK);
    assert_int_equal(store_put_chunk(s, 7, 0, SLICE_LIT("x")), STORE_OK);
    disk.cut_short = cut_short;
    disk.sync_fails = sync_fails;
    disk.is_full = is_full;
    enum store_status status = store_commit(s);
    disk.cut_short = disk.sync_fails = disk.is_full = false;
    return status;
}

static void
a_write_that_a_full_disk_cuts_short_is_want_of_room_and_an_io_error_is_final(void **state)
{
    (void)state;
    char path[64];
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    assert_int_equal(commit_on(s, true, false, true), STORE_NO_ROOM);
    assert_int_equal(commit_on(s, false, false, false), STORE_OK);
    assert_int_equal(commit_on(s, true, false, false), STORE_FAILED);
    assert_int_equal(commit_on(s, false, false, false), STORE_OK);
    assert_int_equal(commit_on(s, false, true, true), STORE_FAILED); /* however full it is */
    store_close(&s);
    remove_spool(path);
}

static void a_file_system_that_keeps_no_blocks_is_told(void **state)
{
    (void)state;
    static const struct {
        long kind;
        bool keeps;
    } table[] = {{0xef53, true}, {0x58465342, true}, {0x9123683e, false}, {0x2fc12fc1, false}};
    char path[64];
    make_spool_path(path);
    struct store *s = open_spool(path, MAP, 0);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        disk.kind = table[i].kind;
        const char *doubt = store_reserve_doubt(s);
        if ((doubt == NULL) != table[i].keeps)
            fail_msg("%lx", (unsigned long)table[i].kind);
    }
    disk.kind = 0;
    s->cannot_allocate = true;
    assert_non_null(strstr(store_reserve_doubt(s), "fallocate"));
    store_close(&s);
    remove_spool(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_committed_is_there_after_reopening),
        cmocka_unit_test(
            a_write_that_a_full_disk_cuts_short_is_want_of_room_and_an_io_error_is_final),
        cmocka_unit_test(a_file_system_that_keeps_no_blocks_is_told),
        cmocka_unit_test(the_names_of_a_new_spool_are_synced_however_its_path_is_written),
        cmocka_unit_test(an_aborted_batch_leaves_nothing),
        cmocka_unit_test(removing_takes_all_parts_of_one_message_and_of_no_other),
        cmocka_unit_test(chunks_without_an_envelope_are_gone_at_the_next_start),
        cmocka_unit_test(a_second_opener_is_told_who_has_it),
        cmocka_unit_test(a_process_that_leaves_is_waited_for),
        cmocka_unit_test(an_unknown_format_is_refused),
        cmocka_unit_test(a_full_map_undoes_the_whole_batch_and_room_comes_back),
        cmocka_unit_test(the_floor_of_free_disk_is_looked_at),
        cmocka_unit_test(room_inside_the_file_is_room),
        cmocka_unit_test(content_is_refused_before_outcomes_find_no_room),
        cmocka_unit_test(the_file_has_blocks_ahead_of_what_is_written),
        cmocka_unit_test(what_failed_is_told_with_what_to_do),
        cmocka_unit_test(a_state_reads_back_as_written),
        cmocka_unit_test(a_damaged_state_is_refused_not_trusted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
