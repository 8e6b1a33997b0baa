/* Tables for people: columns line up by what the screen shows, and nothing is printed
 * for nothing. */
#include "workers/cli/cli.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const headings[] = {"ID", "STATE", "WHY", NULL};

/* What printing the table writes; to be freed. */
static char *printed(struct table *t)
{
    char *text = NULL;
    size_t size = 0;
    FILE *real = stdout;
    stdout = open_memstream(&text, &size);
    assert_non_null(stdout);
    table_print(t);
    (void)fclose(stdout);
    stdout = real;
    return text;
}

static void assert_printed(struct table *t, const char *expected)
{
    char *text = printed(t);
    assert_string_equal(text, expected);
    free(text);
}

static void columns_are_as_wide_as_their_widest_cell_and_the_last_has_no_tail(void **state)
{
    (void)state;
    struct table *t = table_create(headings);
    table_add(t, (const char *const[]){"1", "deferred", "because"});
    table_add(t, (const char *const[]){"a long id", "held", "it is"});
    assert_printed(t, "ID         STATE     WHY\n"
                      "1          deferred  because\n"
                      "a long id  held      it is\n");
    table_destroy(&t);
    assert_null(t);
}

static void missing_and_empty_cells_are_dashes(void **state)
{
    (void)state;
    struct table *t = table_create(headings);
    table_add(t, (const char *const[]){"1", NULL, ""});
    assert_printed(t, "ID  STATE  WHY\n1   -      -\n");
    table_destroy(&t);
}

static void a_table_without_rows_prints_nothing(void **state)
{
    (void)state;
    struct table *t = table_create(headings);
    assert_printed(t, "");
    table_destroy(&t);
    assert_printed(NULL, "");
    table_destroy(&t);
}

static void width_is_counted_in_columns_of_the_screen(void **state)
{
    (void)state;
    assert_non_null(setlocale(LC_CTYPE, "C.UTF-8"));
    struct table *t = table_create(headings);
    table_add(t, (const char *const[]){"Grüße", "x", "1"});
    table_add(t, (const char *const[]){"郵件", "x", "2"});
    table_add(t, (const char *const[]){"\xff\xfe", "x", "3"}); /* no text at all */
    table_add(t, (const char *const[]){"\xc2\x9b"
                                       "2J\033",
                                       "x", "4"}); /* for a terminal to obey */
    assert_printed(t, "ID     STATE  WHY\n"
                      "Grüße  x      1\n"
                      "郵件   x      2\n"
                      "??     x      3\n"
                      "?2J?   x      4\n");
    table_destroy(&t);
}

static void many_rows_with_long_cells_are_kept_whole(void **state)
{
    (void)state;
    enum { ROWS = 1000, LONG = 3000 };
    char cell[LONG + 1];
    memset(cell, 'x', LONG);
    cell[LONG] = '\0';
    struct table *t = table_create(headings);
    for (int i = 0; i < ROWS; i++)
        table_add(t, (const char *const[]){"1", "2", cell});
    char *text = printed(t);
    assert_int_equal(strlen(text),
                     strlen("ID  STATE  WHY\n") + ROWS * (strlen("1   2      \n") + LONG));
    free(text);
    table_destroy(&t);
}

static void members_that_are_no_strings_are_empty_cells(void **state)
{
    (void)state;
    json_t *o = json_pack("{s:s,s:i,s:n}", "text", "hello", "number", 3, "null");
    assert_string_equal(cli_text(o, "text"), "hello");
    assert_string_equal(cli_text(o, "number"), "");
    assert_string_equal(cli_text(o, "null"), "");
    assert_string_equal(cli_text(o, "absent"), "");
    assert_string_equal(cli_text(NULL, "text"), "");
    json_decref(o);
}

static void times_read_like_speech(void **state)
{
    (void)state;
    static const struct {
        const char *before;
        json_int_t ms;
        const char *after, *expected;
    } table[] = {
        {"in ", 250000, "", "in 4m10s"},
        {"", 10800000, " ago", "3h ago"},
        {"in ", 999, "", "in 999ms"},
        {"in ", 1999, "", "in 1s"},
        {"", 0, "", "0ms"},
        {"in ", -5, "", "in 0ms"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[64];
        cli_time(text, sizeof text, table[i].before, table[i].ms, table[i].after);
        assert_string_equal(text, table[i].expected);
    }
    char small[6];
    cli_time(small, sizeof small, "in ", 250000, "");
    assert_string_equal(small, "in 4m");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_as_wide_as_their_widest_cell_and_the_last_has_no_tail),
        cmocka_unit_test(missing_and_empty_cells_are_dashes),
        cmocka_unit_test(a_table_without_rows_prints_nothing),
        cmocka_unit_test(width_is_counted_in_columns_of_the_screen),
        cmocka_unit_test(many_rows_with_long_cells_are_kept_whole),
        cmocka_unit_test(members_that_are_no_strings_are_empty_cells),
        cmocka_unit_test(times_read_like_speech),
    };
    if (setenv("NO_COLOR", "1", 1) != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
