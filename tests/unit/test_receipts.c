/* Receipts and tokens: what keeps a mailing from being doubled, and who may send one. */
#include "core/spool/receipts.h"

#include "tests/unit/spool_fixture.h"
#include "workers/http/tokens.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

enum { MARKS = 2500, MAP_BYTES = 64 << 20 };

static struct receipt receipt_of(unsigned char key, uint64_t made_wall_ms)
{
    struct receipt r = {.made_wall_ms = made_wall_ms};
    memset(r.key, key, sizeof r.key);
    memset(r.digest, key + 1, sizeof r.digest);
    return r;
}

static void put(struct store *s, const struct receipt *r, uint32_t marks)
{
    assert_int_equal(store_begin(s), STORE_OK);
    assert_int_equal(store_put_receipt(s, r), STORE_OK);
    for (uint32_t i = 0; i < marks; i++) {
        struct receipt_mark m = {.recipient = i * 2};
        memcpy(m.key, r->key, sizeof m.key);
        assert_int_equal(store_put_mark(s, &m, 1000 + i), STORE_OK);
    }
    assert_int_equal(store_commit(s), STORE_OK);
}

static bool forget(struct store *s, const struct receipt *r)
{
    bool more = false;
    assert_int_equal(store_begin(s), STORE_OK);
    assert_int_equal(store_forget_receipt(s, r, 1000, &more), STORE_OK);
    assert_int_equal(store_commit(s), STORE_OK);
    return more;
}

static void receipts_outlive_the_process_and_are_forgotten_in_steps(void **state)
{
    (void)state;
    char path[64];
    make_spool_path(path);
    struct store *s = open_spool(path, MAP_BYTES, 0);
    const struct receipt young = receipt_of(3, 2000), old = receipt_of(7, 1000);
    put(s, &young, 10);
    put(s, &old, MARKS);
    store_close(&s);
    s = open_spool(path, MAP_BYTES, 0);
    struct store_reader *r = store_reader_create(s);
    struct receipt found;
    uint64_t ids[2 * MARKS] = {0};
    assert_true(store_read_begin(r));
    assert_true(store_get_receipt(r, old.key, &found));
    assert_memory_equal(&found, &old, sizeof found);
    assert_false(store_get_receipt(r, (const unsigned char *)"0123456789abcdef", &found));
    store_get_marks(r, old.key, ids, 2 * MARKS);
    for (uint32_t i = 0; i < 2 * MARKS; i++)
        assert_int_equal(ids[i], i % 2 == 0 ? 1000 + i / 2 : 0);
    assert_true(store_oldest_receipt(r, &found));
    assert_memory_equal(found.key, old.key, sizeof found.key);
    store_read_end(r);
    assert_true(forget(s, &old));
    assert_true(forget(s, &old));
    assert_false(forget(s, &old));
    assert_false(forget(s, &old)); /* harmless where there is none */
    assert_true(store_read_begin(r));
    assert_false(store_get_receipt(r, old.key, &found));
    assert_true(store_oldest_receipt(r, &found));
    assert_memory_equal(found.key, young.key, sizeof found.key);
    memset(ids, 0, sizeof ids);
    store_get_marks(r, young.key, ids, 4); /* no further than asked */
    assert_int_equal(ids[2], 1001);
    assert_int_equal(ids[4], 0);
    store_read_end(r);
    store_reader_destroy(&r);
    store_close(&s);
    remove_spool(path);
}

/* ---- tokens ---- */

#define TOKEN_A "0123456789abcdef"
#define TOKEN_B "fedcba9876543210"

static struct tokens *load(const char *text, mode_t mode, struct error *error)
{
    char path[] = "/tmp/onward-tokens-XXXXXX";
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    (void)fputs(text, file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
    struct tokens *t = tokens_load(path, error);
    (void)unlink(path);
    return t;
}

static void each_token_is_found_with_its_scopes(void **state)
{
    (void)state;
    struct error error;
    struct tokens *t =
        load("# comment\n\n  a inject " TOKEN_A "\r\nb-2 admin " TOKEN_B "\n", 0600, &error);
    assert_non_null(t);
    const struct token_holder *a = tokens_find(t, SLICE_LIT(TOKEN_A));
    const struct token_holder *b = tokens_find(t, SLICE_LIT(TOKEN_B));
    assert_string_equal(a->name, "a");
    assert_int_equal(a->scopes, SCOPE_INJECT);
    assert_string_equal(b->name, "b-2");
    assert_int_equal(b->scopes, SCOPE_INJECT | SCOPE_READ | SCOPE_ADMIN);
    assert_null(tokens_find(t, SLICE_LIT("0123456789abcdeg")));
    assert_null(tokens_find(t, SLICE_LIT("0123456789abcde")));
    assert_null(tokens_find(t, SLICE_LIT("")));
    tokens_free(&t);
}

static void bad_token_files_are_refused_with_their_line(void **state)
{
    (void)state;
    static const char *const bad[] = {"a inject",          "a inject short",
                                      "a injct " TOKEN_A,  "a inject,: " TOKEN_A,
                                      "ä inject " TOKEN_A, "a inject " TOKEN_A " more",
                                      "a(b) read " TOKEN_A};
    struct error error;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[128];
        (void)snprintf(text, sizeof text, "#\n%s\n", bad[i]);
        assert_null(load(text, 0600, &error));
        assert_non_null(strstr(error.text, ":2:"));
        assert_null(strstr(error.text, TOKEN_A));
    }
    assert_null(load("a read " TOKEN_A "\n", 0644, &error));
    assert_non_null(strstr(error.text, "chmod"));
    struct tokens *none = tokens_load(NULL, &error);
    assert_null(tokens_find(none, SLICE_LIT("")));
    tokens_free(&none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(receipts_outlive_the_process_and_are_forgotten_in_steps),
        cmocka_unit_test(each_token_is_found_with_its_scopes),
        cmocka_unit_test(bad_token_files_are_refused_with_their_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
