/* The commented example (core/config/onward.yaml, from which its manual page is made) and the table
 * of keys say the same: every key, its default, its range, whether a reload may change it. */
#include "core/base/slice.h"
#include "core/config/config_priv.h"
#include "core/config/units.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define EXAMPLE "core/config/onward.yaml"

enum { LINE_SIZE = 512, COMMENT_SIZE = 2048, PATH_SIZE = 128 };

/* One key of the example, with the comment that speaks for it. */
struct entry {
    char path[PATH_SIZE];
    char value[LINE_SIZE];
    char comment[COMMENT_SIZE];
};

/* Reads the example entry by entry. */
struct example {
    FILE *in;
    char section[PATH_SIZE];
    char comment[COMMENT_SIZE];
    bool has_keys; /* the comment was for the keys above: another comment begins anew */
};

static void open_example(struct example *e)
{
    *e = (struct example){.in = fopen(EXAMPLE, "r")};
    if (e->in == NULL)
        fail_msg("%s cannot be read; run the tests from the top folder", EXAMPLE);
}

static void add_comment(struct example *e, const char *text)
{
    if (e->has_keys)
        e->comment[0] = '\0';
    e->has_keys = false;
    size_t used = strlen(e->comment);
    int n = snprintf(e->comment + used, sizeof e->comment - used, "%s ", text);
    assert_in_range(n, 0, sizeof e->comment - used - 1);
}

/* "  #key: value" or "key: value", with or without the mark that comments it out. */
static bool read_key(struct example *e, const char *line, struct entry *out)
{
    bool nested = *line == ' ';
    line += strspn(line, " ");
    line += *line == '#';
    const char *colon = strchr(line, ':');
    size_t name_len = strspn(line, "abcdefghijklmnopqrstuvwxyz_0123456789");
    if (colon == NULL || colon != line + name_len || name_len == 0)
        return false;
    if (!nested)
        e->section[0] = '\0';
    if (colon[1] == '\0') { /* a section */
        (void)snprintf(e->section, sizeof e->section, "%.*s.", (int)name_len, line);
        return false;
    }
    assert_int_equal(colon[1], ' ');
    e->has_keys = true;
    (void)snprintf(out->path, sizeof out->path, "%.60s%.*s", e->section, (int)name_len, line);
    (void)snprintf(out->value, sizeof out->value, "%s", colon + 2);
    memcpy(out->comment, e->comment, sizeof out->comment);
    return true;
}

/* False at the end of the file. */
static bool next_entry(struct example *e, struct entry *out)
{
    char line[LINE_SIZE];
    while (fgets(line, sizeof line, e->in) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        const char *text = line + strspn(line, " ");
        if (*text == '\0')
            e->comment[0] = '\0';
        else if (text[0] == '#' && (text[1] == ' ' || text[1] == '\0'))
            add_comment(e, text + 1 + strspn(text + 1, " "));
        else if (read_key(e, line, out))
            return true;
    }
    (void)fclose(e->in);
    return false;
}

static const struct config_key *find(const char *path)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(keys[i].path, path) == 0)
            return &keys[i];
    return NULL;
}

/* The key of the next entry; NULL at the end of the file. */
static const struct config_key *next_key(struct example *e, struct entry *entry)
{
    if (!next_entry(e, entry))
        return NULL;
    const struct config_key *key = find(entry->path);
    assert_non_null(key);
    return key;
}

static void every_key_is_in_the_example_once_and_no_other(void **state)
{
    (void)state;
    size_t count;
    const struct config_key *keys = config_keys(&count);
    unsigned *seen = calloc(count, sizeof *seen);
    assert_non_null(seen);
    struct example example;
    struct entry entry;
    open_example(&example);
    while (next_entry(&example, &entry)) {
        const struct config_key *key = find(entry.path);
        if (key == NULL)
            fail_msg("%s is in the example, but is no key", entry.path);
        else
            seen[key - keys]++;
    }
    for (size_t i = 0; i < count; i++)
        if (seen[i] != 1)
            fail_msg("%s is in the example %u times", keys[i].path, seen[i]);
    free(seen);
}

/* Defaults that are no lists stand in the table without the quotes that the file needs. */
static void take_quotes_off(char *text)
{
    size_t len = strlen(text);
    if (len < 2 || text[0] != '"' || text[len - 1] != '"')
        return;
    memmove(text, text + 1, len - 2);
    text[len - 2] = '\0';
}

static void its_values_are_the_defaults(void **state)
{
    (void)state;
    struct example example;
    struct entry entry;
    open_example(&example);
    for (const struct config_key *key; (key = next_key(&example, &entry)) != NULL;) {
        if (key->type < CONFIG_STRINGS)
            take_quotes_off(entry.value);
        if (key->initial != NULL)
            assert_string_equal(entry.value, key->initial);
        else if (strstr(entry.comment, "Default: ") == NULL)
            fail_msg("%s has no default of its own: its comment must say \"Default: ...\"",
                     key->path);
    }
}

/* The words around each " to ", as numbers of the key's kind. */
static bool names_the_range(const char *comment, const struct config_key *key)
{
    bool (*parse)(struct slice, uint64_t *) = key->type == CONFIG_DURATION ? units_parse_duration
                                              : key->type == CONFIG_SIZE   ? units_parse_size
                                                                           : slice_to_u64;
    for (const char *to = comment; (to = strstr(to, " to ")) != NULL; to++) {
        const char *from = to, *limit = to + strlen(" to ");
        while (from > comment && isalnum((unsigned char)from[-1]))
            from--;
        size_t limit_len = 0;
        while (isalnum((unsigned char)limit[limit_len]))
            limit_len++;
        uint64_t min, max;
        if (parse(slice_of(from, (size_t)(to - from)), &min) &&
            parse(slice_of(limit, limit_len), &max) && min == key->min && max == key->max)
            return true;
    }
    return false;
}

static void its_comments_name_the_ranges(void **state)
{
    (void)state;
    struct example example;
    struct entry entry;
    open_example(&example);
    for (const struct config_key *key; (key = next_key(&example, &entry)) != NULL;) {
        bool has_range = key->max != 0 && key->type != CONFIG_PATH;
        if (has_range && !names_the_range(entry.comment, key))
            fail_msg("%s: its comment must say \"%llu to %llu\", in units of its kind", key->path,
                     (unsigned long long)key->min, (unsigned long long)key->max);
    }
}

static void its_comments_say_what_needs_a_restart(void **state)
{
    (void)state;
    struct example example;
    struct entry entry;
    open_example(&example);
    for (const struct config_key *key; (key = next_key(&example, &entry)) != NULL;) {
        if ((strstr(entry.comment, "restart)") == NULL) != key->reload)
            fail_msg("%s: %s", key->path,
                     key->reload
                         ? "a reload may change it, but its comment says \"restart\""
                         : "a reload may not change it: its comment must say \"(restart)\"");
    }
}

static void it_loads_with_every_key_set(void **state)
{
    (void)state;
    char path[] = "/tmp/onward-example-XXXXXX";
    int fd = mkstemp(path);
    FILE *out = fdopen(fd, "w");
    FILE *in = fopen(EXAMPLE, "r");
    assert_non_null(out);
    assert_non_null(in);
    char line[LINE_SIZE];
    while (fgets(line, sizeof line, in) != NULL) {
        char *mark = line + strspn(line, " ");
        if (mark[0] == '#' && isalpha((unsigned char)mark[1]))
            memmove(mark, mark + 1, strlen(mark));
        (void)fputs(line, out);
    }
    (void)fclose(in);
    assert_int_equal(fclose(out), 0);
    struct error error = {{0}};
    struct config *config = config_load(path, &error);
    (void)unlink(path);
    if (config == NULL)
        fail_msg("%s", error.text);
    else
        assert_string_equal(config->hostname, "relay1.example.org");
    config_free(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_in_the_example_once_and_no_other),
        cmocka_unit_test(its_values_are_the_defaults),
        cmocka_unit_test(its_comments_name_the_ranges),
        cmocka_unit_test(its_comments_say_what_needs_a_restart),
        cmocka_unit_test(it_loads_with_every_key_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
