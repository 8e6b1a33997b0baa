#include "core/base/address.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/list.h"
#include "core/base/mailbox.h"
#include "core/base/net.h"
#include "core/base/random.h"
#include "core/base/ring.h"
#include "core/reply.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <cmocka.h>

static void numbers_are_read_whole_or_not_at_all(void **state)
{
    (void)state;
    uint64_t n = 0;
    assert_true(slice_to_u64(SLICE_LIT("0"), &n) && n == 0);
    assert_true(slice_to_u64(SLICE_LIT("9999999999999999999"), &n) && n == 9999999999999999999u);
    static const char *const bad[] = {"", "-1", "1 ", "+1", "0x1", "10000000000000000000000"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(slice_to_u64(slice_str(bad[i]), &n));
}

static void a_slice_with_a_nul_is_no_c_string(void **state)
{
    (void)state;
    char out[8];
    assert_false(slice_to_cstr(SLICE_LIT("a\0b"), out, sizeof out));
    assert_false(slice_to_cstr(SLICE_LIT("12345678"), out, sizeof out));
    assert_true(slice_to_cstr(SLICE_LIT("1234567"), out, sizeof out));
    assert_string_equal(out, "1234567");
}

static void a_buffer_keeps_to_its_bound(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    for (int i = 0; i < 100; i++)
        buf_append(&b, SLICE_LIT("0123456789"));
    assert_true(buf_ok(&b));
    assert_int_equal(buf_len(&b), 1000);
    buf_append(&b, SLICE_LIT("x"));
    assert_false(buf_ok(&b));
    assert_int_equal(buf_len(&b), 1000);
    buf_clear(&b);
    assert_true(buf_ok(&b));
    buf_fini(&b);
}

static void a_consumed_buffer_reuses_its_room(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 300);
    for (int i = 0; i < 1000; i++) {
        buf_append(&b, SLICE_LIT("abcdefghij"));
        if (i >= 20)
            buf_consume(&b, 10);
    }
    assert_true(buf_ok(&b));
    assert_int_equal(buf_len(&b), 200);
    assert_memory_equal(buf_slice(&b).ptr, "abcdefghij", 10);
    buf_printf(&b, "%s-%d", "tail", 7);
    assert_memory_equal(buf_slice(&b).ptr + 200, "tail-7", 6);
    buf_append_u64(&b, 18446744073709551615u);
    assert_memory_equal(buf_slice(&b).ptr + 206, "18446744073709551615", 20);
    buf_fini(&b);
}

static void the_interfaces_addresses_are_known(void **state)
{
    (void)state;
    struct address all[1024], loopback = address_from_v4((const uint8_t[4]){127, 0, 0, 1}, 0);
    unsigned count = net_interface_addresses(all, 1024), found = 0;
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(all[i].port, 0);
        found += address_same_ip(&all[i], &loopback);
    }
    assert_int_equal(found, 1);
    assert_int_equal(net_interface_addresses(all, 0), 0);
}

static void each_byte_of_an_ipv4_address_is_written_as_libc_writes_it(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 256; i++) {
        uint8_t ip[4] = {(uint8_t)i, (uint8_t)(255 - i), (uint8_t)(i / 2), (uint8_t)(i ^ 100)};
        char expected[INET_ADDRSTRLEN], text[ADDRESS_TEXT_SIZE];
        struct address a = address_from_v4(ip, 25);
        assert_non_null(inet_ntop(AF_INET, ip, expected, sizeof expected));
        address_format_ip(&a, text);
        assert_string_equal(text, expected);
    }
}

static void what_is_printed_is_whole_wherever_the_room_ends(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4000);
    size_t total = 0;
    for (int width = 0; width < 80; width++) {
        buf_printf(&b, "%*d", width, 7);
        total += width > 0 ? (size_t)width : 1;
        assert_int_equal(buf_len(&b), total);
        assert_int_equal(buf_slice(&b).ptr[total - 1], '7');
    }
    buf_printf(&b, "%4000d", 7);
    assert_false(buf_ok(&b));
    buf_printf(&b, "%d", 7); /* there is room, but what came before it is missing */
    assert_int_equal(buf_len(&b), total);
    b.overflow = false;
    b.bound = total + 3;
    buf_printf(&b, "%d", 123); /* without room for its NUL, as ever */
    assert_false(buf_ok(&b));
    assert_int_equal(buf_len(&b), total);
    buf_fini(&b);
}

static void addresses_read_back_as_written(void **state)
{
    (void)state;
    static const char *const texts[] = {"192.0.2.1:25", "[2001:db8::1]:2525", "127.0.0.1:0"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct address a;
        char out[ADDRESS_TEXT_SIZE];
        assert_true(address_parse(slice_str(texts[i]), &a));
        address_format(&a, out);
        assert_string_equal(out, texts[i]);
    }
    static const char *const bad[] = {
        "", ":25", "1.2.3.4", "1.2.3.4:70000", "2001:db8::1:25", "[1.2.3]:25", "a:1"};
    struct address a;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(address_parse(slice_str(bad[i]), &a));
}

static bool contains(const char *net, const char *ip)
{
    struct address_net n;
    struct address a;
    assert_true(address_net_parse(slice_str(net), &n));
    assert_true(address_parse_ip(slice_str(ip), &a));
    return address_net_contains(&n, &a);
}

static void networks_contain_what_their_prefix_says(void **state)
{
    (void)state;
    assert_true(contains("127.0.0.0/8", "127.255.0.1"));
    assert_false(contains("127.0.0.0/8", "128.0.0.1"));
    assert_true(contains("192.0.2.128/25", "192.0.2.200"));
    assert_false(contains("192.0.2.128/25", "192.0.2.127"));
    assert_true(contains("::1", "::1"));
    assert_false(contains("::1", "::2"));
    assert_true(contains("2001:db8::/33", "2001:db8:7fff::1"));
    assert_false(contains("2001:db8::/33", "2001:db8:8000::1"));
    assert_true(contains("0.0.0.0/0", "255.1.2.3"));
    assert_false(contains("0.0.0.0/0", "2001:db8::1"));
    struct address_net n;
    assert_false(address_net_parse(SLICE_LIT("192.0.2.1/24"), &n)); /* host bits */
    assert_false(address_net_parse(SLICE_LIT("192.0.2.0/33"), &n));
    assert_false(address_net_parse(SLICE_LIT("192.0.2.0/"), &n));
}

static void literals_follow_rfc_5321_4_1_3(void **state)
{
    (void)state;
    struct address a;
    assert_true(address_parse_literal(SLICE_LIT("[192.0.2.1]"), &a));
    assert_true(address_parse_literal(SLICE_LIT("[IPv6:2001:db8::1]"), &a));
    assert_true(address_parse_literal(SLICE_LIT("[ipv6:::1]"), &a));
    assert_false(address_parse_literal(SLICE_LIT("[2001:db8::1]"), &a));
    assert_false(address_parse_literal(SLICE_LIT("[IPv6:192.0.2.1]"), &a));
    assert_false(address_parse_literal(SLICE_LIT("[]"), &a));
    assert_false(address_parse_literal(SLICE_LIT("192.0.2.1"), &a));
}

static void dates_are_those_of_the_rfcs(void **state)
{
    (void)state;
    char iso[CLOCK_ISO_SIZE], mail[CLOCK_RFC5322_SIZE];
    clock_format_iso(951782400123u, iso);
    clock_format_rfc5322(951782400123u, mail);
    assert_string_equal(iso, "2000-02-29T00:00:00.123Z");
    assert_string_equal(mail, "Tue, 29 Feb 2000 00:00:00 +0000");
}

static void every_day_has_the_date_that_libc_gives_it(void **state)
{
    (void)state;
    enum { YEARS = 800, STEP_S = 86400 - 61 }; /* each time of the day comes up too */
    for (time_t at = 0; at < (time_t)YEARS * 365 * 86400; at += STEP_S) {
        struct tm tm;
        assert_non_null(gmtime_r(&at, &tm));
        char iso[CLOCK_ISO_SIZE], mail[CLOCK_RFC5322_SIZE];
        char expected_iso[CLOCK_ISO_SIZE], expected_mail[CLOCK_RFC5322_SIZE];
        assert_int_equal(strftime(expected_iso, sizeof expected_iso, "%Y-%m-%dT%H:%M:%S.999Z", &tm),
                         CLOCK_ISO_SIZE - 1);
        assert_int_equal(
            strftime(expected_mail, sizeof expected_mail, "%a, %d %b %Y %H:%M:%S +0000", &tm),
            CLOCK_RFC5322_SIZE - 1);
        clock_format_iso((uint64_t)at * 1000 + 999, iso);
        clock_format_rfc5322((uint64_t)at * 1000 + 999, mail);
        assert_string_equal(iso, expected_iso);
        assert_string_equal(mail, expected_mail);
    }
}

static void jitter_stays_within_its_percentage(void **state)
{
    (void)state;
    struct random r;
    random_init_seed(&r, 1);
    uint64_t low = UINT64_MAX, high = 0;
    for (int i = 0; i < 10000; i++) {
        uint64_t v = random_jitter(&r, 1000, 10);
        assert_true(v >= 900 && v <= 1100);
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    assert_true(low < 910 && high > 1090);
    assert_int_equal(random_jitter(&r, 1000, 0), 1000);
}

static void reply_text_is_made_harmless(void **state)
{
    (void)state;
    struct reply r = {0};
    reply_set_text(&r, SLICE_LIT("a\r\nb\0c\x1b[1m\xff\xc3\xa9\xc3"));
    assert_int_equal(r.text_len, 14);
    assert_memory_equal(r.text, "a??b?c?[1m?\xc3\xa9?", 14);
    char big[1000];
    memset(big, 'x', sizeof big);
    reply_set_text(&r, slice_of(big, sizeof big));
    assert_int_equal(r.text_len, REPLY_TEXT_SIZE);
}

static void local_conclusions_carry_their_status(void **state)
{
    (void)state;
    struct reply r = reply_local_about(LOCAL_NULL_MX, SLICE_LIT("example.com"));
    char text[REPLY_TEXT_SIZE + 32];
    assert_true(reply_is_local(&r));
    assert_int_equal(r.class, 5);
    assert_string_equal(reply_source_name(&r), "LOCAL_NULL_MX");
    (void)reply_format(&r, text, sizeof text);
    assert_string_equal(text, "5.1.10 recipient's domain accepts no mail (null MX) [example.com]");
}

/* ---- threads ---- */

enum { SENDERS = 4, LETTERS = 20000 };

struct letter {
    struct mail mail;
    unsigned sender, number;
};

struct receiver {
    struct mailbox mailbox;
    struct mail letter; /* to it, where one is enough */
    unsigned next[SENDERS];
    unsigned received;
};

struct sender {
    struct receiver *to;
    unsigned index;
    pthread_t thread;
};

static void on_letter(struct mail *mail, void *owner)
{
    struct receiver *r = owner;
    struct letter *l = CONTAINER_OF(mail, struct letter, mail);
    assert_int_equal(l->number, r->next[l->sender]);
    r->next[l->sender]++;
    r->received++;
    free(l);
}

static void *send_letters(void *context)
{
    struct sender *s = context;
    for (unsigned i = 0; i < LETTERS; i++) {
        struct letter *l = malloc(sizeof *l);
        *l = (struct letter){.mail.on_arrival = on_letter, .sender = s->index, .number = i};
        struct mail *mail = &l->mail;
        mailbox_post(&s->to->mailbox, &mail);
    }
    return NULL;
}

static void mail_from_each_sender_arrives_once_and_in_order(void **state)
{
    (void)state;
    struct receiver r = {.received = 0};
    struct sender senders[SENDERS];
    assert_int_equal(mailbox_init(&r.mailbox, &r), 0);
    for (unsigned i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.to = &r, .index = i};
        assert_int_equal(pthread_create(&senders[i].thread, NULL, send_letters, &senders[i]), 0);
    }
    while (r.received < SENDERS * LETTERS) {
        if (mailbox_prepare_sleep(&r.mailbox)) {
            struct pollfd fd = {.fd = r.mailbox.event_fd, .events = POLLIN};
            assert_true(poll(&fd, 1, 60000) > 0); /* a lost wake-up would end here */
            mailbox_awake(&r.mailbox);
        }
        (void)mailbox_deliver(&r.mailbox);
    }
    for (unsigned i = 0; i < SENDERS; i++)
        pthread_join(senders[i].thread, NULL);
    mailbox_fini(&r.mailbox);
}

static bool sleep_ends_at_once(struct mailbox *b)
{
    assert_true(mailbox_prepare_sleep(b));
    struct pollfd fd = {.fd = b->event_fd, .events = POLLIN};
    bool woken = poll(&fd, 1, 0) > 0;
    mailbox_awake(b);
    return woken;
}

/* As a sender does it, in its two steps: the owner may move between them. */
static void decide_to_wake(struct mailbox *b)
{
    assert_true(atomic_exchange(&b->shared.asleep, false));
}

static void write_the_wake(struct mailbox *b)
{
    assert_int_equal(eventfd_write(b->event_fd, 1), 0);
}

static void a_wake_that_comes_late_ends_one_sleep(void **state)
{
    (void)state;
    struct mailbox b;
    assert_int_equal(mailbox_init(&b, NULL), 0);
    for (int i = 0; i < 2; i++) { /* two senders, one after the other */
        assert_true(mailbox_prepare_sleep(&b));
        decide_to_wake(&b);
        mailbox_awake(&b); /* of itself */
    }
    write_the_wake(&b);
    assert_true(sleep_ends_at_once(&b));
    assert_false(sleep_ends_at_once(&b));
    write_the_wake(&b);
    assert_true(sleep_ends_at_once(&b));
    assert_false(sleep_ends_at_once(&b));
    assert_int_equal(b.wakes_owed, 0);
    mailbox_fini(&b);
}

static void drop_letter(struct mail *mail, void *owner)
{
    (void)mail, (void)owner;
}

/* The sender is between its letter and its look at the owner while the owner calls its
 * sleep off. */
static void *send_one_letter(void *context)
{
    struct receiver *r = context;
    struct mail *mail = &r->letter;
    mailbox_post(&r->mailbox, &mail);
    return NULL;
}

static void a_sleep_that_is_called_off_leaves_no_wake_behind(void **state)
{
    (void)state;
    struct receiver r = {.letter.on_arrival = drop_letter};
    pthread_t sender;
    assert_int_equal(mailbox_init(&r.mailbox, &r), 0);
    for (int i = 0; i < 3000; i++) {
        assert_int_equal(pthread_create(&sender, NULL, send_one_letter, &r), 0);
        while (mailbox_prepare_sleep(&r.mailbox))
            mailbox_awake(&r.mailbox);
        pthread_join(sender, NULL);
        assert_int_equal(mailbox_deliver(&r.mailbox), 1);
        (void)sleep_ends_at_once(&r.mailbox); /* all that was written is read by now */
        assert_false(sleep_ends_at_once(&r.mailbox));
        assert_int_equal(r.mailbox.wakes_owed, 0);
    }
    mailbox_fini(&r.mailbox);
}

struct ring_job {
    struct ring *ring;
    _Atomic uint64_t *sum;
    atomic_uint *popped;
    uint64_t *numbers;
};

static void *push_numbers(void *context)
{
    const struct ring_job *j = context;
    for (uint64_t i = 0; i < LETTERS; i++) {
        j->numbers[i] += i; /* the taker must see it */
        while (!ring_push(j->ring, &j->numbers[i]))
            (void)sched_yield();
    }
    return NULL;
}

static void *pop_numbers(void *context)
{
    const struct ring_job *j = context;
    while (atomic_load(j->popped) < 2 * LETTERS) {
        const uint64_t *number = ring_pop(j->ring);
        if (number == NULL) {
            (void)sched_yield();
            continue;
        }
        atomic_fetch_add(j->sum, *number);
        atomic_fetch_add(j->popped, 1);
    }
    return NULL;
}

static void the_ring_gives_each_job_to_one_taker(void **state)
{
    (void)state;
    struct ring *ring = ring_create(64);
    static uint64_t numbers[2 * LETTERS];
    for (unsigned i = 0; i < 2 * LETTERS; i++)
        numbers[i] = i < LETTERS ? 1 : 1 + LETTERS;
    _Atomic uint64_t sum = 0;
    atomic_uint popped = 0;
    pthread_t threads[4];
    struct ring_job jobs[4];
    for (unsigned i = 0; i < 4; i++) {
        jobs[i] = (struct ring_job){ring, &sum, &popped, &numbers[i % 2 * LETTERS]};
        assert_int_equal(
            pthread_create(&threads[i], NULL, i < 2 ? push_numbers : pop_numbers, &jobs[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    uint64_t n = 2 * LETTERS;
    assert_int_equal(popped, n);
    assert_int_equal(sum, n * (n + 1) / 2);
    ring_destroy(&ring);
    assert_null(ring);
}

static void a_full_ring_says_so(void **state)
{
    (void)state;
    struct ring *ring = ring_create(4);
    int item;
    unsigned pushed = 0;
    while (ring_push(ring, &item))
        pushed++;
    assert_int_equal(pushed, 3);
    while (ring_pop(ring) != NULL)
        pushed--;
    assert_int_equal(pushed, 0);
    ring_destroy(&ring);
}

/* ---- net ---- */

static void room_in_the_kernel_ends_where_a_peer_does_not_read_and_comes_back(void **state)
{
    (void)state;
    struct address here;
    struct error error = {0};
    assert_true(address_parse_ip(slice_str("127.0.0.1"), &here));
    here.port = 0;
    int listener = net_listen(&here, &error), fd = -1, peer = -1;
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&bound, &len), 0);
    assert_true(address_from_sockaddr((struct sockaddr *)&bound, &here));
    enum net_status status = net_connect(&here, NULL, &fd);
    assert_true(status == NET_OK || status == NET_AGAIN);
    assert_int_equal(net_accept(listener, &peer, &here), NET_OK);
    assert_true(net_has_room(fd));
    static char block[65536];
    struct iovec part = {.iov_base = block, .iov_len = sizeof block};
    size_t written = 0, all = 0;
    while (net_writev(fd, &part, 1, &written) == NET_OK)
        all += written;
    assert_false(net_has_room(fd));
    uint64_t taken = net_acknowledged(fd);
    assert_true(taken > 0 && taken < all);
    struct pollfd in = {.fd = peer, .events = POLLIN}, out = {.fd = fd, .events = POLLOUT};
    for (size_t read = 0, n; read < all; read += n) {
        assert_int_equal(poll(&in, 1, 60000), 1);
        assert_int_equal(net_read(peer, block, sizeof block, &n), NET_OK);
    }
    assert_int_equal(poll(&out, 1, 60000), 1);
    assert_true(net_has_room(fd));
    assert_true(net_acknowledged(fd) > taken);
    net_close(peer);
    net_close(fd);
    net_close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_read_whole_or_not_at_all),
        cmocka_unit_test(a_slice_with_a_nul_is_no_c_string),
        cmocka_unit_test(a_buffer_keeps_to_its_bound),
        cmocka_unit_test(a_consumed_buffer_reuses_its_room),
        cmocka_unit_test(the_interfaces_addresses_are_known),
        cmocka_unit_test(each_byte_of_an_ipv4_address_is_written_as_libc_writes_it),
        cmocka_unit_test(what_is_printed_is_whole_wherever_the_room_ends),
        cmocka_unit_test(addresses_read_back_as_written),
        cmocka_unit_test(networks_contain_what_their_prefix_says),
        cmocka_unit_test(literals_follow_rfc_5321_4_1_3),
        cmocka_unit_test(dates_are_those_of_the_rfcs),
        cmocka_unit_test(every_day_has_the_date_that_libc_gives_it),
        cmocka_unit_test(jitter_stays_within_its_percentage),
        cmocka_unit_test(reply_text_is_made_harmless),
        cmocka_unit_test(local_conclusions_carry_their_status),
        cmocka_unit_test(mail_from_each_sender_arrives_once_and_in_order),
        cmocka_unit_test(a_wake_that_comes_late_ends_one_sleep),
        cmocka_unit_test(a_sleep_that_is_called_off_leaves_no_wake_behind),
        cmocka_unit_test(the_ring_gives_each_job_to_one_taker),
        cmocka_unit_test(a_full_ring_says_so),
        cmocka_unit_test(room_in_the_kernel_ends_where_a_peer_does_not_read_and_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
