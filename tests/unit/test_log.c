/* The log: every line is one JSON object whatever is put into it, and a file that takes nothing
 * costs lines, never a thread. */
#include "core/log.h"

#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

enum { LINES = 1000, MANY = 10000, HANG_S = 120, STOP_MS_MAX = 15000 };

static struct log *open_log(const char *path)
{
    struct error error = {{0}};
    struct log *log = log_open(path, &error);
    if (log == NULL)
        fail_msg("%s", error.text);
    return log;
}

/* The next line of the file as an object; NULL at its end. */
static json_t *read_line(FILE *in)
{
    static char line[LOG_LINE_MAX + 2];
    if (fgets(line, sizeof line, in) == NULL)
        return NULL;
    assert_non_null(strchr(line, '\n'));
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(object))
        fail_msg("not an object: %s", line);
    assert_non_null(json_object_get(object, "time"));
    return object;
}

static FILE *written(const char *path)
{
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    return in;
}

static void make_path(char path[64])
{
    (void)snprintf(path, 64, "/tmp/onward-log-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
}

static void whatever_a_peer_says_is_one_line_and_one_object(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } table[] = {
        {"plain", "plain"},
        {"", ""},
        {"a\"b\\c", "a\"b\\c"},
        {"line\r\n{\"event\":\"forged\"}", "line\r\n{\"event\":\"forged\"}"},
        {"\x01\x1f\x7f", "\x01\x1f\x7f"},
        {"Grüße", "Grüße"},
        {"\xff\xc3", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc2\x9b"
         "31m\xe2\x80\xa8\xe2\x80\xaegpj.exe\xe2\x81\xa6",
         "\xc2\x9b"
         "31m\xe2\x80\xa8\xe2\x80\xaegpj.exe\xe2\x81\xa6"},
    };
    char path[64];
    make_path(path);
    struct log *log = open_log(path);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct log_line l;
        log_begin(&l, log, "test");
        log_cstr(&l, "text", table[i].in);
        log_u64(&l, "number", UINT64_MAX - i);
        log_end(&l);
    }
    log_close(&log);
    FILE *in = written(path);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        static char line[LOG_LINE_MAX + 2];
        assert_non_null(fgets(line, sizeof line, in));
        assert_null(strstr(line, "\xc2\x9b")); /* what a terminal obeys, or a reader does not see */
        assert_null(strstr(line, "\xe2\x80\xa8"));
        assert_null(strstr(line, "\xe2\x80\xae"));
        assert_null(strstr(line, "\xe2\x81\xa6"));
        json_t *o = json_loads(line, JSON_DECODE_INT_AS_REAL, NULL);
        assert_string_equal(json_string_value(json_object_get(o, "text")), table[i].out);
        json_decref(o);
    }
    assert_null(read_line(in));
    (void)fclose(in);
    (void)unlink(path);
}

static void a_line_that_would_be_too_long_is_cut_and_still_an_object(void **state)
{
    (void)state;
    static char text[2 * LOG_LINE_MAX];
    static const char *const units[] = {"x", "\"", "\x01", "ü", "\xff"};
    char path[64];
    make_path(path);
    struct log *log = open_log(path);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        for (size_t len = LOG_LINE_MAX - 120; len < LOG_LINE_MAX + 20; len++) {
            size_t unit = strlen(units[i]), at = 0;
            while (at + unit <= len) {
                memcpy(text + at, units[i], unit);
                at += unit;
            }
            struct log_line l;
            log_begin(&l, log, "long");
            log_str(&l, "text", slice_of(text, at));
            log_cstr(&l, "behind", "it");
            log_end(&l);
        }
    log_close(&log);
    FILE *in = written(path);
    unsigned count = 0;
    for (json_t *o; (o = read_line(in)) != NULL; count++)
        json_decref(o);
    assert_int_equal(count, sizeof units / sizeof *units * 140);
    (void)fclose(in);
    (void)unlink(path);
}

static void a_reopened_log_goes_on_in_the_new_file(void **state)
{
    (void)state;
    char path[64], old[80];
    make_path(path);
    (void)snprintf(old, sizeof old, "%s.1", path);
    struct log *log = open_log(path);
    log_note(log, "first", "before");
    log_reopen(log);
    assert_int_equal(rename(path, old), 0);
    log_note(log, "second", "after");
    log_close(&log);
    unsigned lines = 0;
    const char *const files[] = {old, path};
    for (int i = 0; i < 2; i++) {
        FILE *in = fopen(files[i], "r");
        for (json_t *o; in != NULL && (o = read_line(in)) != NULL; lines++)
            json_decref(o);
        if (in != NULL)
            (void)fclose(in);
        (void)unlink(files[i]);
    }
    assert_int_equal(lines, 2);
}

static void a_full_disk_costs_lines_and_the_log_still_closes(void **state)
{
    (void)state;
    (void)alarm(HANG_S); /* a hang becomes a failure */
    struct log *log = open_log("/dev/full");
    for (int i = 0; i < LINES; i++)
        log_note(log, "lost", "nobody reads this");
    log_close(&log);
    assert_null(log);
    (void)alarm(0);
}

/* More than a pipe holds, of different lengths. */
static void log_many(struct log *log, unsigned count)
{
    static const char filling[] =
        "................................................................"
        "................................................................";
    for (unsigned i = 0; i < count; i++) {
        struct log_line l;
        log_begin(&l, log, "many");
        log_u64(&l, "number", i);
        log_str(&l, "filling", slice_of(filling, i % sizeof filling));
        log_end(&l);
    }
}

static uint64_t now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void standard_error_that_nobody_reads_keeps_nobody_from_stopping(void **state)
{
    (void)state;
    int ends[2], kept = dup(STDERR_FILENO);
    (void)alarm(HANG_S);
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0); /* it blocks, and is not ours to change */
    struct log *log = open_log("-");
    uint64_t began = now_ms();
    log_many(log, MANY);
    log_close(&log);
    uint64_t took = now_ms() - began;
    (void)dup2(kept, STDERR_FILENO);
    assert_in_range(took, 0, STOP_MS_MAX);
    (void)close(ends[0]);
    (void)close(ends[1]);
    (void)close(kept);
    (void)alarm(0);
}

static void lines_behind_a_pause_of_the_reader_are_whole(void **state)
{
    (void)state;
    char path[64];
    make_path(path);
    (void)unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(fd >= 0);
    struct log *log = open_log(path);
    log_many(log, MANY);
    while (log_dropped(log) == 0) /* nobody has read so far */
        (void)poll(NULL, 0, 10);
    FILE *in = fdopen(fd, "r");
    unsigned lines = 0;
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
    for (bool told = false; !told; lines++) { /* of the lines that were dropped */
        json_t *o = read_line(in);
        assert_non_null(o);
        told = strcmp(json_string_value(json_object_get(o, "event")), "log_dropped") == 0;
        json_decref(o);
    }
    assert_true(lines > 100 && lines < MANY);
    log_close(&log);
    (void)fclose(in);
    (void)unlink(path);
}

/* A file that takes so many bytes and no more, as on a full disk: the last line it takes is cut. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_line_that_the_full_disk_cut_spoils_no_other(void **state)
{
    (void)state;
    char path[64], line[LOG_LINE_MAX + 2];
    make_path(path);
    (void)signal(SIGXFSZ, SIG_IGN);
    struct log *log = open_log(path);
    limit_files(5000);
    log_many(log, 100);
    while (log_dropped(log) == 0)
        (void)poll(NULL, 0, 10);
    limit_files(RLIM_INFINITY);
    log_note(log, "first", "behind the cut");
    log_close(&log);
    FILE *in = written(path);
    unsigned whole = 0, cut = 0, lines_dropped = 0;
    while (fgets(line, sizeof line, in) != NULL) {
        json_t *o = json_loads(line, 0, NULL);
        whole += o != NULL;
        cut += o == NULL;
        lines_dropped += (unsigned)json_integer_value(json_object_get(o, "lines"));
        json_decref(o);
    }
    assert_int_equal(cut, 1);
    assert_int_equal(whole + lines_dropped, 102); /* and the line that tells of those dropped */
    (void)fclose(in);
    (void)unlink(path);
}

static void a_log_that_cannot_be_begun_anew_says_so_in_the_former(void **state)
{
    (void)state;
    char folder[] = "/tmp/onward-log-XXXXXX", path[64], moved[40];
    assert_non_null(mkdtemp(folder));
    (void)snprintf(moved, sizeof moved, "%s.moved", folder);
    (void)snprintf(path, sizeof path, "%s/log", folder);
    struct log *log = open_log(path);
    assert_int_equal(rename(folder, moved), 0);
    log_reopen(log);
    log_close(&log);
    (void)snprintf(path, sizeof path, "%s/log", moved);
    FILE *in = written(path);
    json_t *o = read_line(in);
    assert_non_null(o);
    assert_string_equal(json_string_value(json_object_get(o, "event")), "log_not_reopened");
    assert_non_null(strstr(json_string_value(json_object_get(o, "text")), folder));
    json_decref(o);
    (void)fclose(in);
    (void)unlink(path);
    (void)rmdir(moved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_a_peer_says_is_one_line_and_one_object),
        cmocka_unit_test(a_line_that_would_be_too_long_is_cut_and_still_an_object),
        cmocka_unit_test(a_reopened_log_goes_on_in_the_new_file),
        cmocka_unit_test(a_full_disk_costs_lines_and_the_log_still_closes),
        cmocka_unit_test(standard_error_that_nobody_reads_keeps_nobody_from_stopping),
        cmocka_unit_test(lines_behind_a_pause_of_the_reader_are_whole),
        cmocka_unit_test(a_line_that_the_full_disk_cut_spoils_no_other),
        cmocka_unit_test(a_log_that_cannot_be_begun_anew_says_so_in_the_former),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
