/* The configuration: what is refused, what becomes of a value, what a reload may change. That the
 * keys are what the commented example says is test_example's. */
#include "core/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static struct config *load(const char *text)
{
    struct error error = {{0}};
    struct config *c = config_load_text(text, strlen(text), "file", &error);
    if (c == NULL)
        fail_msg("%s", error.text);
    return c;
}

/* The line it names, and what it says. */
static void refuses(const char *text, const char *place, const char *what)
{
    struct error error = {{0}};
    struct config *c = config_load_text(text, strlen(text), "file", &error);
    if (c != NULL)
        fail_msg("taken: %s", text);
    if (strstr(error.text, place) != error.text || strstr(error.text, what) == NULL)
        fail_msg("\"%s\" does not begin with \"%s\", or says nothing of \"%s\"", error.text, place,
                 what);
}

static void a_name_is_kept_as_it_goes_over_the_wire(void **state)
{
    (void)state;
    static const struct {
        const char *given, *kept;
    } names[] = {{"relay1.example.org", "relay1.example.org"},
                 {"Relay1.Example.ORG.", "relay1.example.org"},
                 {"m\xc3\xbcnchen.example", "xn--mnchen-3ya.example"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[128], postmaster[128];
        (void)snprintf(text, sizeof text, "hostname: %s\n", names[i].given);
        struct config *c = load(text);
        assert_string_equal(c->hostname, names[i].kept);
        assert_string_equal(c->own_names[0], names[i].kept);
        (void)snprintf(postmaster, sizeof postmaster, "postmaster@%s", names[i].kept);
        assert_string_equal(c->postmaster, postmaster);
        config_free(&c);
    }
    refuses("hostname: localhost\n", "file:1: hostname:", "fully qualified");
    refuses("hostname: localhost.\n", "file:1: hostname:", "fully qualified");
}

static void whom_bounces_come_from_is_an_address(void **state)
{
    (void)state;
    struct config *c = load("hostname: a.example\npostmaster: mail-team+1@example.org\n");
    assert_string_equal(c->postmaster, "mail-team+1@example.org");
    config_free(&c);
    static const char *const bad[] = {"\"\"",
                                      "postmaster",
                                      "\"@example.org\"",
                                      "a@",
                                      "a@b@example.org",
                                      "a b@example.org",
                                      "a>@example.org",
                                      "a@exa mple.org",
                                      "\"a\\n@example.org\""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[128];
        (void)snprintf(text, sizeof text, "hostname: a.example\npostmaster: %s\n", bad[i]);
        refuses(text, "file:2: postmaster:", "expected");
    }
}

static void names_of_our_own_are_names(void **state)
{
    (void)state;
    refuses("hostname: a.example\nown_names:\n  - b.example\n  - \"b..example\"\n",
            "file:4: own_names:", "expected");
}

static void nothing_behind_the_first_document_is_passed_over(void **state)
{
    (void)state;
    refuses("hostname: a.example\n---\nretry: {first: 1m}\n", "file:3:", "second document");
    refuses("hostname: a.example\n...\n{{{\n", "file:", "not valid YAML");
    struct config *c = load("---\nhostname: a.example\n...\n# the end\n");
    config_free(&c);
}

static void a_reload_names_the_key_that_it_cannot_change(void **state)
{
    (void)state;
    struct config *running = load("hostname: a.example\n");
    static const struct {
        const char *text, *conflict;
    } fresh[] = {{"hostname: a.example\n", NULL},
                 {"hostname: A.example.\n", NULL},
                 {"hostname: b.example\n", "hostname"},
                 {"hostname: a.example\nown_names: [b.example]\n", "own_names"},
                 {"hostname: a.example\npostmaster: p@b.example\n", NULL},
                 {"hostname: a.example\nretry: {first: 1m}\n", NULL},
                 {"hostname: a.example\nhttp: {threads: 3}\n", "http.threads"}};
    for (size_t i = 0; i < sizeof fresh / sizeof *fresh; i++) {
        struct config *c = load(fresh[i].text);
        const char *conflict = config_reload_conflict(running, c);
        if (fresh[i].conflict == NULL)
            assert_null(conflict);
        else
            assert_string_equal(conflict, fresh[i].conflict);
        config_free(&c);
    }
    config_free(&running);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_kept_as_it_goes_over_the_wire),
        cmocka_unit_test(whom_bounces_come_from_is_an_address),
        cmocka_unit_test(names_of_our_own_are_names),
        cmocka_unit_test(nothing_behind_the_first_document_is_passed_over),
        cmocka_unit_test(a_reload_names_the_key_that_it_cannot_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
