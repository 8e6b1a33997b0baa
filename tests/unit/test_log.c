/* The log: every line is one JSON object whatever is put into it, and a file that takes nothing costs
 * lines, never a thread. */
#include "core/log.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

enum { LINES = 1000, HANG_S = 120 };

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_a_peer_says_is_one_line_and_one_object),
        cmocka_unit_test(a_line_that_would_be_too_long_is_cut_and_still_an_object),
        cmocka_unit_test(a_reopened_log_goes_on_in_the_new_file),
        cmocka_unit_test(a_full_disk_costs_lines_and_the_log_still_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
