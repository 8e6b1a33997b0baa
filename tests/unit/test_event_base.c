/* The event base as libunbound uses it: by its method tables. */
#include "dns/event_base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unbound.h>
#include <unbound-event.h>
#include <unistd.h>
#include <cmocka.h>

struct probe {
    struct ub_event *event;
    struct probe *victim; /* taken off when this one is called */
    struct probe *heir;   /* then added, and so in the victim's slot */
    bool frees_victim;
    bool again; /* adds its zero timeout anew */
    unsigned calls;
    short bits;
};

static void on_event(int fd, short bits, void *arg)
{
    (void)fd;
    struct probe *p = arg;
    p->calls++;
    p->bits = bits;
    if (p->again)
        (void)p->event->vmt->add(p->event, &(struct timeval){0, 0});
    struct probe *victim = p->victim;
    p->victim = NULL;
    if (victim == NULL || victim->event == NULL)
        return;
    victim->victim = NULL;
    if (p->frees_victim) {
        victim->event->vmt->free(victim->event);
        victim->event = NULL;
    } else {
        (void)victim->event->vmt->del(victim->event);
    }
    if (p->heir != NULL)
        (void)p->heir->event->vmt->add(p->heir->event, NULL);
}

static void make(struct event_base *b, struct probe *p, int fd, short bits)
{
    struct ub_event_base *base = event_base_for_unbound(b);
    assert_int_equal(base->magic, UB_EVENT_MAGIC);
    p->event = base->vmt->new_event(base, fd, bits, on_event, p);
    assert_non_null(p->event);
    assert_int_equal(p->event->magic, UB_EVENT_MAGIC);
}

static void drop(struct probe *p)
{
    if (p->event != NULL)
        p->event->vmt->free(p->event);
    p->event = NULL;
}

static void turn(struct event_base *b)
{
    event_base_wait(b, false);
    event_base_dispatch(b);
}

static int readable_fd(void)
{
    int fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void ready_descriptor_is_told_as_long_as_it_is_added(void **state)
{
    (void)state;
    struct event_base *b = event_base_create();
    struct probe p = {.calls = 0};
    int fd = readable_fd();
    make(b, &p, fd, UB_EV_READ | UB_EV_PERSIST);
    turn(b);
    assert_int_equal(p.calls, 0);
    assert_int_equal(p.event->vmt->add(p.event, NULL), 0);
    turn(b);
    turn(b);
    assert_int_equal(p.calls, 2);
    assert_int_equal(p.bits, UB_EV_READ);
    assert_int_equal(p.event->vmt->del(p.event), 0);
    turn(b);
    assert_int_equal(p.calls, 2);
    drop(&p);
    (void)close(fd);
    event_base_destroy(&b);
}

static void bits_can_be_changed_while_it_is_off(void **state)
{
    (void)state;
    struct event_base *b = event_base_create();
    struct probe p = {.calls = 0};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    make(b, &p, -1, UB_EV_READ | UB_EV_PERSIST);
    p.event->vmt->set_fd(p.event, fds[0]);
    assert_int_equal(p.event->vmt->add(p.event, NULL), 0);
    turn(b);
    assert_int_equal(p.calls, 0); /* nothing to read */
    (void)p.event->vmt->del(p.event);
    p.event->vmt->add_bits(p.event, UB_EV_WRITE);
    p.event->vmt->del_bits(p.event, UB_EV_READ);
    assert_int_equal(p.event->vmt->add(p.event, NULL), 0);
    turn(b);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.bits, UB_EV_WRITE);
    drop(&p);
    (void)close(fds[0]);
    (void)close(fds[1]);
    event_base_destroy(&b);
}

/* Both are ready in the same wake-up, and whichever is called first takes the other off. */
static void event_taken_off_meanwhile_is_not_called(void **state)
{
    (void)state;
    for (int frees = 0; frees < 2; frees++) {
        struct event_base *b = event_base_create();
        struct probe p = {.frees_victim = frees}, q = {.frees_victim = frees};
        int fds[2] = {readable_fd(), readable_fd()};
        make(b, &p, fds[0], UB_EV_READ | UB_EV_PERSIST);
        make(b, &q, fds[1], UB_EV_READ | UB_EV_PERSIST);
        p.victim = &q;
        q.victim = &p;
        (void)p.event->vmt->add(p.event, NULL);
        (void)q.event->vmt->add(q.event, NULL);
        turn(b);
        assert_int_equal(p.calls + q.calls, 1);
        drop(&p);
        drop(&q);
        (void)close(fds[0]);
        (void)close(fds[1]);
        event_base_destroy(&b);
    }
}

/* As above, and the registration goes to another event at once, on a descriptor that
 * is not ready. */
static void stale_readiness_is_not_taken_for_that_of_a_new_event(void **state)
{
    (void)state;
    struct event_base *b = event_base_create();
    struct probe heir = {.calls = 0}, p = {.heir = &heir}, q = {.heir = &heir};
    int fds[2] = {readable_fd(), readable_fd()};
    int quiet_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    make(b, &p, fds[0], UB_EV_READ | UB_EV_PERSIST);
    make(b, &q, fds[1], UB_EV_READ | UB_EV_PERSIST);
    make(b, &heir, quiet_fd, UB_EV_READ | UB_EV_PERSIST);
    p.victim = &q;
    q.victim = &p;
    (void)p.event->vmt->add(p.event, NULL);
    (void)q.event->vmt->add(q.event, NULL);
    turn(b);
    assert_int_equal(p.calls + q.calls, 1);
    assert_int_equal(heir.calls, 0);
    drop(&p);
    drop(&q);
    drop(&heir);
    (void)close(fds[0]);
    (void)close(fds[1]);
    (void)close(quiet_fd);
    event_base_destroy(&b);
}

static void zero_timeout_is_called_in_the_same_turn_and_once(void **state)
{
    (void)state;
    struct event_base *b = event_base_create();
    struct probe p = {.calls = 0}, looping = {.again = true};
    make(b, &p, -1, UB_EV_TIMEOUT);
    make(b, &looping, -1, UB_EV_TIMEOUT);
    struct timeval zero = {0, 0};
    (void)p.event->vmt->add(p.event, &zero);
    (void)looping.event->vmt->add(looping.event, &zero);
    event_base_wait(b, true); /* does not sleep, or this test never ends */
    event_base_dispatch(b);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.bits, UB_EV_TIMEOUT);
    assert_int_equal(looping.calls, 1); /* what it added waits for the next turn */
    turn(b);
    assert_int_equal(p.calls, 1);
    assert_int_equal(looping.calls, 2);
    drop(&p);
    drop(&looping);
    event_base_destroy(&b);
}

static void timer_comes_when_due_unless_taken_off(void **state)
{
    (void)state;
    struct event_base *b = event_base_create();
    struct ub_event_base *base = event_base_for_unbound(b);
    struct probe soon = {.calls = 0}, later = {.calls = 0}, never = {.calls = 0};
    make(b, &soon, -1, UB_EV_TIMEOUT);
    make(b, &later, -1, UB_EV_TIMEOUT);
    make(b, &never, -1, UB_EV_TIMEOUT);
    soon.victim = &never;
    (void)soon.event->vmt->add_timer(soon.event, base, on_event, &soon, &(struct timeval){0, 1});
    (void)never.event->vmt->add_timer(never.event, base, on_event, &never,
                                      &(struct timeval){0, 3000});
    (void)later.event->vmt->add_timer(later.event, base, on_event, &later,
                                      &(struct timeval){0, 6000});
    while (later.calls == 0) {
        event_base_wait(b, true);
        event_base_dispatch(b);
    }
    assert_int_equal(soon.calls, 1);
    assert_int_equal(never.calls, 0);
    drop(&soon);
    drop(&later);
    drop(&never);
    event_base_destroy(&b);
}

static void wake_descriptor_ends_the_wait_and_calls_nobody(void **state)
{
    (void)state;
    struct event_base *b = event_base_create();
    int fd = readable_fd();
    assert_true(event_base_wake_on(b, fd));
    event_base_wait(b, true);
    event_base_dispatch(b);
    event_base_destroy(&b);
    assert_null(b);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ready_descriptor_is_told_as_long_as_it_is_added),
        cmocka_unit_test(bits_can_be_changed_while_it_is_off),
        cmocka_unit_test(event_taken_off_meanwhile_is_not_called),
        cmocka_unit_test(stale_readiness_is_not_taken_for_that_of_a_new_event),
        cmocka_unit_test(zero_timeout_is_called_in_the_same_turn_and_once),
        cmocka_unit_test(timer_comes_when_due_unless_taken_off),
        cmocka_unit_test(wake_descriptor_ends_the_wait_and_calls_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
