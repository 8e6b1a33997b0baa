/* A map whose file fails under it: the process says so and ends, each case in a
 * process of its own. */
#include "core/base/map_guard.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { PAGES = 4, PAGE = 4096, STATUS = 74, TEXT_MAX = 4096 };

/* A file of PAGES pages, mapped. */
struct mapped {
    int fd;
    char *bytes;
};

static struct mapped map_file(void)
{
    char path[] = "/tmp/onward-map-XXXXXX";
    struct mapped m = {.fd = mkstemp(path)};
    assert_true(m.fd >= 0);
    char renamed[sizeof path + 8]; /* the name is looked up: blanks in it are no harm */
    (void)snprintf(renamed, sizeof renamed, "%s a b", path);
    assert_int_equal(rename(path, renamed), 0);
    assert_int_equal(ftruncate(m.fd, PAGES * PAGE), 0);
    m.bytes = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, m.fd, 0);
    assert_true(m.bytes != MAP_FAILED);
    assert_int_equal(unlink(renamed), 0);
    return m;
}

/* Runs `body` in a process of its own; returns its status as wait tells it, and what it said. */
static int run(void (*body)(void), char said[TEXT_MAX])
{
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit none = {0};
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)dup2(ends[1], STDERR_FILENO);
        body();
        _exit(0);
    }
    (void)close(ends[1]);
    size_t len = 0;
    for (ssize_t n; (n = read(ends[0], said + len, TEXT_MAX - 1 - len)) > 0;)
        len += (size_t)n;
    said[len] = '\0';
    (void)close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void read_behind_the_end(void)
{
    struct mapped m = map_file();
    if (map_guard_watch(m.fd, "the file is cut short", STATUS) < 0 || ftruncate(m.fd, PAGE) != 0)
        _exit(1);
    (void)*(volatile char *)(m.bytes + 2 * PAGE);
}

static void send_behind_the_end(void)
{
    struct mapped m = map_file();
    int pair[2];
    if (map_guard_watch(m.fd, "the file is cut short", STATUS) < 0 || ftruncate(m.fd, PAGE) != 0 ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        _exit(1);
    if (send(pair[0], m.bytes + 2 * PAGE, PAGE, 0) < 0) /* no signal: only EFAULT */
        map_guard_touch(m.bytes + 2 * PAGE, PAGE);
}

static void read_behind_the_end_of_another(void)
{
    struct mapped watched = map_file(), other = map_file();
    if (map_guard_watch(watched.fd, "the file is cut short", STATUS) < 0 ||
        ftruncate(other.fd, PAGE) != 0)
        _exit(1);
    (void)*(volatile char *)(other.bytes + 2 * PAGE);
}

static void read_when_forgotten(void)
{
    struct mapped m = map_file();
    int number = map_guard_watch(m.fd, "the file is cut short", STATUS);
    map_guard_forget(number);
    if (number < 0 || ftruncate(m.fd, PAGE) != 0)
        _exit(1);
    (void)*(volatile char *)(m.bytes + 2 * PAGE);
}

static void be_sent_one(void)
{
    struct mapped m = map_file();
    if (map_guard_watch(m.fd, "the file is cut short", STATUS) < 0)
        _exit(1);
    (void)kill(getpid(), SIGBUS);
}

static void assert_told(void (*body)(void))
{
    char said[TEXT_MAX];
    int status = run(body, said);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), STATUS);
    assert_string_equal(said, "onward: the file is cut short\n");
}

static void assert_killed(void (*body)(void))
{
    char said[TEXT_MAX];
    int status = run(body, said);
    assert_false(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == STATUS));
    assert_null(strstr(said, "cut short"));
}

static void a_page_that_is_gone_is_told_of_and_ends_the_process(void **state)
{
    (void)state;
    assert_told(read_behind_the_end);
}

static void what_the_system_cannot_read_for_us_is_told_of_too(void **state)
{
    (void)state;
    assert_told(send_behind_the_end);
}

static void another_map_is_none_of_our_business(void **state)
{
    (void)state;
    assert_killed(read_behind_the_end_of_another);
    assert_killed(read_when_forgotten);
    assert_killed(be_sent_one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_that_is_gone_is_told_of_and_ends_the_process),
        cmocka_unit_test(what_the_system_cannot_read_for_us_is_told_of_too),
        cmocka_unit_test(another_map_is_none_of_our_business),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
