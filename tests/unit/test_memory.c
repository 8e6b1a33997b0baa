/* What is held is what was touched, and the least limit of a control group and those
 * above it counts. */
#include "core/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static uint64_t anonymous(int fd)
{
    return memory_read(fd).anonymous_bytes;
}

/* By the kernel: a write of our own would have a sanitizer touch memory beside it. */
static void touch(char *memory, size_t len)
{
    assert_int_equal(madvise(memory, len, MADV_POPULATE_WRITE), 0);
}

static void touched_memory_is_counted_and_a_mapped_file_is_not(void **state)
{
    (void)state;
    int fd = memory_open();
    assert_true(fd >= 0);
    uint64_t before = anonymous(fd);
    assert_true(before > 0);
    char *touched =
        mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(touched != MAP_FAILED);
    assert_true(anonymous(fd) < before + 32 * MIB); /* address space alone costs nothing */
    touch(touched, 64 * MIB);
    assert_true(anonymous(fd) >= before + 64 * MIB);
    (void)munmap(touched, 64 * MIB);
    assert_true(anonymous(fd) < before + 32 * MIB);

    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), 64 * MIB), 0);
    char *mapped = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    assert_true(mapped != MAP_FAILED);
    touch(mapped, 64 * MIB);
    assert_true(anonymous(fd) < before + 32 * MIB);
    (void)munmap(mapped, 64 * MIB);
    (void)fclose(file);
    (void)close(fd);
}

static void without_proc_nothing_is_counted(void **state)
{
    (void)state;
    assert_int_equal(anonymous(-1), 0);
}

static void freed_memory_is_given_back(void **state)
{
    (void)state;
    int fd = memory_open();
    uint64_t before = anonymous(fd);
    void *kept[64];
    for (int i = 0; i < 64; i++) {
        kept[i] = malloc(MIB);
        assert_non_null(kept[i]);
        memset(kept[i], 1, MIB);
    }
    assert_true(anonymous(fd) >= before + 60 * MIB);
    for (int i = 0; i < 64; i++)
        free(kept[i]);
    memory_give_back();
#ifndef ONWARD_NO_JEMALLOC
    assert_true(anonymous(fd) < before + 30 * MIB);
#endif
    (void)close(fd);
}

/* ---- control groups, as files of our own ---- */

static char root[] = "/tmp/onward-group-XXXXXX";

static void put(const char *path, const char *text)
{
    char full[256];
    (void)snprintf(full, sizeof full, "%s/%s", root, path);
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

static int make_groups(void **state)
{
    (void)state;
    char path[256];
    if (mkdtemp(root) == NULL)
        return -1;
    (void)snprintf(path, sizeof path, "%s/a", root);
    (void)mkdir(path, 0755);
    (void)snprintf(path, sizeof path, "%s/a/b", root);
    (void)mkdir(path, 0755);
    return 0;
}

static int remove_groups(void **state)
{
    (void)state;
    char command[300];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    return system(command); /* NOLINT(cert-env33-c): a path of our own */
}

static uint64_t limit(const char *path)
{
    return memory_group_limit_at(root, slice_str(path));
}

static void the_least_limit_on_the_way_up_counts(void **state)
{
    (void)state;
    assert_int_equal(limit("/a/b"), 0); /* the root has none, and that is no error */
    put("a/memory.max", "max\n");
    put("a/memory.high", "max\n");
    put("a/b/memory.max", "max\n");
    put("a/b/memory.high", "max\n");
    assert_int_equal(limit("/a/b"), 0);
    put("a/memory.max", "5000000\n");
    assert_int_equal(limit("/a/b"), 5000000);
    put("a/b/memory.max", "7000000\n");
    assert_int_equal(limit("/a/b"), 5000000);
    put("a/b/memory.high", "3000000\n");
    assert_int_equal(limit("/a/b"), 3000000);
    assert_int_equal(limit("/a"), 5000000);
    assert_int_equal(limit("/"), 0);
    put("memory.max", "2000000\n"); /* a container's own root has one */
    assert_int_equal(limit("/a/b"), 2000000);
    assert_int_equal(limit("/"), 2000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(touched_memory_is_counted_and_a_mapped_file_is_not),
        cmocka_unit_test(without_proc_nothing_is_counted),
        cmocka_unit_test(freed_memory_is_given_back),
        cmocka_unit_test_setup_teardown(the_least_limit_on_the_way_up_counts, make_groups,
                                        remove_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
