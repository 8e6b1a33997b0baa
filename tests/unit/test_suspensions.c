/* What is suspended: asked by name, all or one, kept in a file that a change replaces whole, and
 * refused where the file says something that is none. */
#include "core/queue/suspensions.h"
#include "tests/unit/spool_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HOUR = 3600000 };
static const uint64_t MONO = 50000, WALL = 1700000000000;

struct world {
    char folder[64], path[96];
    struct suspensions *set;
};

static bool folders_fail;

/* Stands before libc's: a folder's sync may fail, also for root. */
int fsync(int fd)
{
    struct stat file;
    if (folders_fail && fstat(fd, &file) == 0 && S_ISDIR(file.st_mode)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

static struct suspensions *load(const char *path, uint64_t mono, uint64_t wall)
{
    struct error error = {{0}};
    struct suspensions *s = suspensions_load(path, mono, wall, &error);
    if (s == NULL)
        fail_msg("%s", error.text);
    return s;
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    make_spool_path(w->folder);
    (void)snprintf(w->path, sizeof w->path, "%s/suspended", w->folder);
    w->set = load(w->path, MONO, WALL);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    suspensions_destroy(&w->set);
    remove_spool(w->folder);
    free(w);
    return 0;
}

static void suspend(struct world *w, const char *domain, uint64_t until, const char *reason)
{
    struct error error = {{0}};
    struct suspension s = {.since_wall_ms = WALL, .until_mono_ms = until};
    (void)snprintf(s.domain, sizeof s.domain, "%s", domain);
    (void)snprintf(s.reason, sizeof s.reason, "%s", reason);
    if (suspensions_set(w->set, &s, MONO, WALL, &error) != SUSPENSIONS_SAVED)
        fail_msg("%s", error.text);
}

static void resume(struct world *w, const char *domain)
{
    struct error error = {{0}};
    assert_int_equal(suspensions_clear(w->set, domain, MONO, WALL, &error), SUSPENSIONS_SAVED);
}

static void nothing_is_suspended_at_first_and_by_nobody(void **state)
{
    struct world *w = *state;
    assert_int_equal(suspensions_count(w->set), 0);
    assert_false(suspensions_hold(w->set, "x.example"));
    assert_int_equal(suspensions_next_end(w->set), 0);
    assert_int_equal(suspensions_count(NULL), 0);
    assert_false(suspensions_hold(NULL, "x.example"));
    assert_int_not_equal(access(w->path, F_OK), 0); /* no file before there is something to say */
}

static void a_domain_is_held_by_itself_and_all_by_one_word(void **state)
{
    struct world *w = *state;
    suspend(w, "x.example", 0, "");
    suspend(w, "a.example", 0, "");
    assert_true(suspensions_hold(w->set, "x.example"));
    assert_true(suspensions_hold(w->set, "a.example"));
    assert_false(suspensions_hold(w->set, "y.example"));
    assert_false(suspensions_hold(w->set, "sub.x.example"));
    suspend(w, "", 0, "");
    assert_true(suspensions_hold(w->set, "y.example"));
    resume(w, "x.example"); /* all still is */
    assert_true(suspensions_hold(w->set, "x.example"));
    resume(w, "");
    assert_false(suspensions_hold(w->set, "x.example"));
    assert_true(suspensions_hold(w->set, "a.example"));
    assert_int_equal(suspensions_count(w->set), 1);
}

static void a_second_word_replaces_the_first(void **state)
{
    struct world *w = *state;
    struct suspension s;
    suspend(w, "x.example", MONO + HOUR, "first");
    suspend(w, "x.example", MONO + 2 * HOUR, "second");
    assert_int_equal(suspensions_count(w->set), 1);
    assert_true(suspensions_find(w->set, "x.example", &s));
    assert_string_equal(s.reason, "second");
    assert_int_equal(s.until_mono_ms, MONO + 2 * HOUR);
    assert_false(suspensions_find(w->set, "", &s));
}

static void the_next_end_is_the_soonest(void **state)
{
    struct world *w = *state;
    suspend(w, "a.example", 0, "");
    suspend(w, "b.example", MONO + 2 * HOUR, "");
    suspend(w, "c.example", MONO + HOUR, "");
    assert_int_equal(suspensions_next_end(w->set), MONO + HOUR);
    resume(w, "c.example");
    assert_int_equal(suspensions_next_end(w->set), MONO + 2 * HOUR);
}

static void another_process_finds_them_in_order_with_the_time_that_is_left(void **state)
{
    struct world *w = *state;
    struct suspension list[4];
    suspend(w, "z.example", 0, "they asked us to  stop, \"for now\"");
    suspend(w, "", MONO + HOUR, "");
    suspend(w, "[192.0.2.1]", MONO + 60000, "short");
    struct suspensions *next = load(w->path, 7, WALL + 1000);
    assert_int_equal(suspensions_list(next, list, 4), 3);
    assert_string_equal(list[0].domain, "");
    assert_int_equal(list[0].until_mono_ms, 7 + HOUR - 1000);
    assert_string_equal(list[1].domain, "[192.0.2.1]");
    assert_string_equal(list[2].domain, "z.example");
    assert_string_equal(list[2].reason, "they asked us to  stop, \"for now\"");
    assert_int_equal(list[2].since_wall_ms, WALL);
    assert_int_equal(list[2].until_mono_ms, 0);
    suspensions_destroy(&next);
    next = load(w->path, 7, WALL + 2 * HOUR); /* the time of two was up meanwhile */
    assert_int_equal(suspensions_count(next), 1);
    assert_true(suspensions_hold(next, "z.example"));
    suspensions_destroy(&next);
    struct stat file;
    assert_int_equal(stat(w->path, &file), 0);
    assert_int_equal(file.st_mode & 0777, 0600);
}

static void a_clock_that_was_wrong_lengthens_none_without_end(void **state)
{
    struct world *w = *state;
    struct suspension s;
    suspend(w, "x.example", MONO + HOUR, "");
    struct suspensions *next = load(w->path, 0, 1000);
    assert_true(suspensions_find(next, "x.example", &s));
    assert_true(s.until_mono_ms <= SUSPENSION_DAYS_MAX * 24ull * HOUR);
    suspensions_destroy(&next);
}

static void write_file(const struct world *w, const char *text)
{
    FILE *file = fopen(w->path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void a_line_that_is_none_stops_the_start_with_its_number(void **state)
{
    struct world *w = *state;
    static const char *const lines[] = {
        "\n",
        "x\n",
        "1 2\n",
        "1 0 \n",
        "1 0 not..a.domain why\n",
        "-1 0 x.example why\n",
        "1 x x.example why\n",
        "1 0 x.example cut short",
        "1 0 x.example \n1 0 x.example twice\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct error error = {{0}};
        write_file(w, lines[i]);
        struct suspensions *s = suspensions_load(w->path, MONO, WALL, &error);
        if (s != NULL)
            fail_msg("%s", lines[i]);
        assert_non_null(strstr(error.text, i == 8 ? "suspended:2:" : "suspended:1:"));
    }
    char longer[1024];
    memset(longer, 'r', sizeof longer);
    memcpy(longer, "1 0 x.example ", 14);
    memcpy(longer + sizeof longer - 2, "\n", 2);
    write_file(w, longer);
    assert_null(suspensions_load(w->path, MONO, WALL, NULL));
}

static unsigned on_disk(const struct world *w)
{
    struct suspensions *next = load(w->path, MONO, WALL);
    unsigned count = suspensions_count(next);
    suspensions_destroy(&next);
    return count;
}

static void what_cannot_be_written_is_not_suspended_but_is_resumed_and_written_later(void **state)
{
    struct world *w = *state;
    struct error error = {{0}};
    struct suspension s = {.domain = "y.example"};
    suspend(w, "x.example", 0, "");
    suspend(w, "z.example", 0, "");
    char part[128];
    (void)snprintf(part, sizeof part, "%s.part", w->path);
    assert_int_equal(mkdir(part, 0700), 0); /* in the way, for root too */
    assert_int_equal(suspensions_set(w->set, &s, MONO, WALL, &error), SUSPENSIONS_REFUSED);
    assert_non_null(strstr(error.text, "nothing was changed"));
    assert_false(suspensions_hold(w->set, "y.example"));
    assert_true(suspensions_are_saved(w->set));
    assert_int_equal(suspensions_clear(w->set, "x.example", MONO, WALL, &error),
                     SUSPENSIONS_UNSAVED);
    assert_non_null(strstr(error.text, "a restart would bring back"));
    assert_non_null(strstr(error.text, "Is a directory"));
    assert_false(suspensions_hold(w->set, "x.example"));
    assert_true(suspensions_hold(w->set, "z.example"));
    assert_false(suspensions_are_saved(w->set));
    assert_int_equal(on_disk(w), 2);
    assert_int_equal(suspensions_save(w->set, MONO, WALL, &error), SUSPENSIONS_UNSAVED);
    assert_int_equal(rmdir(part), 0);
    assert_int_equal(suspensions_save(w->set, MONO, WALL, &error), SUSPENSIONS_SAVED);
    assert_true(suspensions_are_saved(w->set));
    assert_int_equal(on_disk(w), 1);
}

static void behind_the_rename_it_is_changed_whatever_the_folder_says(void **state)
{
    struct world *w = *state;
    struct error error = {{0}};
    struct suspension s = {.domain = "y.example"};
    folders_fail = true;
    enum suspensions_change change = suspensions_set(w->set, &s, MONO, WALL, &error);
    folders_fail = false;
    assert_int_equal(change, SUSPENSIONS_UNSAVED);
    assert_null(strstr(error.text, "nothing was changed"));
    assert_non_null(strstr(error.text, "a power cut may undo it"));
    assert_true(suspensions_hold(w->set, "y.example"));
    assert_int_equal(on_disk(w), 1);
    assert_false(suspensions_are_saved(w->set));
    assert_int_equal(suspensions_save(w->set, MONO, WALL, &error), SUSPENSIONS_SAVED);
}

static void there_are_as_many_as_may_be(void **state)
{
    struct world *w = *state;
    struct error error = {{0}};
    char *text = NULL;
    size_t size = 0;
    FILE *lines = open_memstream(&text, &size);
    assert_non_null(lines);
    for (int i = 0; i < SUSPENSIONS_MAX; i++)
        (void)fprintf(lines, "1 0 d%d.example \n", i);
    (void)fclose(lines);
    write_file(w, text);
    free(text);
    struct suspensions *full = load(w->path, MONO, WALL);
    struct suspension one = {.domain = "more.example"}, known = {.domain = "d7.example"};
    assert_int_equal(suspensions_count(full), SUSPENSIONS_MAX);
    assert_true(suspensions_hold(full, "d999.example"));
    assert_int_equal(suspensions_set(full, &one, MONO, WALL, &error), SUSPENSIONS_REFUSED);
    assert_non_null(strstr(error.text, "as many as may be"));
    assert_int_equal(suspensions_set(full, &known, MONO, WALL, &error), SUSPENSIONS_SAVED);
    suspensions_destroy(&full);
}

struct asker {
    struct suspensions *set;
    atomic_bool stop;
    uint64_t wrong;
};

/* The one that stays is held at any moment; the one that never was is not. */
static void *ask(void *context)
{
    struct asker *a = context;
    while (!atomic_load(&a->stop)) {
        struct suspension list[8];
        a->wrong += !suspensions_hold(a->set, "stays.example");
        a->wrong += suspensions_hold(a->set, "never.example");
        a->wrong += suspensions_list(a->set, list, 8) == 0;
    }
    return NULL;
}

static void who_asks_while_it_changes_sees_one_or_the_other(void **state)
{
    struct world *w = *state;
    suspend(w, "stays.example", 0, "");
    struct asker a = {.set = w->set};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask, &a), 0);
    for (int i = 0; i < 50; i++) {
        suspend(w, "comes.example", 0, "");
        suspend(w, "zzz.example", 0, "");
        resume(w, "comes.example");
        resume(w, "zzz.example");
    }
    atomic_store(&a.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(a.wrong, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_suspended_at_first_and_by_nobody),
        TEST(a_domain_is_held_by_itself_and_all_by_one_word),
        TEST(a_second_word_replaces_the_first),
        TEST(the_next_end_is_the_soonest),
        TEST(another_process_finds_them_in_order_with_the_time_that_is_left),
        TEST(a_clock_that_was_wrong_lengthens_none_without_end),
        TEST(a_line_that_is_none_stops_the_start_with_its_number),
        TEST(what_cannot_be_written_is_not_suspended_but_is_resumed_and_written_later),
        TEST(behind_the_rename_it_is_changed_whatever_the_folder_says),
        TEST(there_are_as_many_as_may_be),
        TEST(who_asks_while_it_changes_sees_one_or_the_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
