/* How the recipients of a message are gathered into deliveries: one for each domain, in whatever
 * order they come and however many there are. */
#include "tests/unit/queue_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

enum { HOUR = 3600000, NOW = 1000, ADDRESS_SIZE = 40, RECIPIENTS = 1000, RING = 8192 };

static void create(struct queue *q)
{
    struct schedule_options options = {.policy = {.retry_first_ms = HOUR,
                                                  .retry_max_ms = HOUR,
                                                  .age_limit_ms = UINT64_C(100) * HOUR},
                                       .random_seed = 1};
    queue_create(q, RING, options, NOW, NOW);
}

/* RECIPIENTS recipients, the i-th at domain i modulo `domains`. */
static void encode(struct buf *out, unsigned domains)
{
    static char addresses[RECIPIENTS][ADDRESS_SIZE];
    static struct envelope_recipient items[RECIPIENTS];
    for (unsigned i = 0; i < RECIPIENTS; i++) {
        (void)snprintf(addresses[i], ADDRESS_SIZE, "a@d%u.example", i % domains);
        struct slice address = slice_str(addresses[i]);
        items[i] = (struct envelope_recipient){
            .address = address, .domain = slice_skip(address, 2), .orcpt = SLICE_LIT("")};
    }
    struct envelope e = {.id = 1,
                         .arrived_wall_ms = NOW,
                         .size_bytes = 1,
                         .sender = SLICE_LIT(""),
                         .envid = SLICE_LIT(""),
                         .origin = SLICE_LIT(""),
                         .recipients = items,
                         .recipient_count = RECIPIENTS};
    buf_init(out, ENVELOPE_ENCODED_MAX);
    envelope_encode(&e, out);
    assert_true(buf_ok(out));
}

/* Takes the message in, and checks that each recipient is in one delivery of its domain. Returns
 * how many deliveries there are. */
static unsigned gather(unsigned domains,
                       bool (*state_of)(void *context, uint64_t id, uint32_t recipient,
                                        struct store_state *state_out))
{
    struct queue q;
    struct buf record;
    bool seen[RECIPIENTS] = {false};
    unsigned deliveries = 0;
    create(&q);
    encode(&record, domains);
    assert_int_equal(schedule_add(q.schedule, 1, buf_slice(&record), state_of, NULL),
                     SCHEDULE_ADDED);
    (void)schedule_run(q.schedule, NOW, NOW);
    for (struct delivery *d; (d = jobs_take(q.jobs, &q.turn)) != NULL; deliveries++)
        for (uint32_t i = 0; i < d->recipient_count; i++) {
            char name[ADDRESS_SIZE];
            uint32_t recipient = delivery_recipients(d)[i];
            (void)snprintf(name, sizeof name, "d%u.example", recipient % domains);
            assert_string_equal(d->domain->name, name);
            assert_false(seen[recipient]);
            assert_true(i == 0 || recipient > delivery_recipients(d)[i - 1]);
            seen[recipient] = true;
        }
    for (unsigned i = 0; i < RECIPIENTS; i++)
        assert_true(seen[i]);
    buf_fini(&record);
    queue_destroy(&q);
    return deliveries;
}

static void recipients_in_any_order_make_one_delivery_a_domain(void **state)
{
    (void)state;
    static const unsigned domains[] = {1, 2, 64, 65, 100, 333, RECIPIENTS};
    for (size_t i = 0; i < sizeof domains / sizeof *domains; i++)
        assert_int_equal(gather(domains[i], NULL), domains[i]);
}

/* All are due, but the second half has been tried more often. */
static bool tried_before(void *context, uint64_t id, uint32_t recipient,
                         struct store_state *state_out)
{
    (void)context, (void)id;
    *state_out = (struct store_state){.attempts = (uint16_t)(recipient / 500)};
    return true;
}

/* Nobody agrees with anybody. */
static bool tried_differently(void *context, uint64_t id, uint32_t recipient,
                              struct store_state *state_out)
{
    (void)context, (void)id;
    *state_out = (struct store_state){.attempts = (uint16_t)recipient};
    return true;
}

static void recipients_of_a_domain_that_stand_differently_go_apart(void **state)
{
    (void)state;
    assert_int_equal(gather(100, tried_before), 200);
    assert_int_equal(gather(1, tried_differently), RECIPIENTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipients_in_any_order_make_one_delivery_a_domain),
        cmocka_unit_test(recipients_of_a_domain_that_stand_differently_go_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
