/* What bulk senders meet, scene by scene: exchanges that answer 4xx beside slow ones, that say
 * nothing at a content's end, that take long over it. */
#include "tests/sim/sim_runs.h"

enum { CONTENT_BYTES = 400, SECOND_US = 1000000, SOON_S = 20 };

/* For good, and for whatever is said or heard before it. */
static struct sim_fault fault_of(enum sim_fault_kind kind, enum sim_phase phase)
{
    return (struct sim_fault){
        .kind = kind, .phase = phase, .after_said = -1, .after_heard = -1, .percent = 100};
}

static struct sim_fault replies(enum sim_phase phase, const char *reply, unsigned after_s)
{
    struct sim_fault f = fault_of(FAULT_REPLY, phase);
    f.reply = reply;
    f.delay_us = (uint64_t)after_s * SECOND_US;
    return f;
}

static struct sim_fault delays(enum sim_phase phase, unsigned s)
{
    struct sim_fault f = fault_of(FAULT_DELAY, phase);
    f.delay_us = (uint64_t)s * SECOND_US;
    return f;
}

/* Says nothing for so long, then is well. */
static struct sim_fault is_silent(enum sim_phase phase, unsigned for_s)
{
    struct sim_fault f = fault_of(FAULT_SILENT, phase);
    f.until_us = sim_now_us() + (uint64_t)for_s * SECOND_US;
    return f;
}

/* A world with one domain; its exchanges are hosts[1] and on, in order of preference. */
static struct sim_world *begin(const struct sim_tally *tally, unsigned exchanges, unsigned lanes)
{
    struct sim_world *w = sim_world_create(tally->worlds + 1);
    struct sim_domain *d = sim_world_domain(w);
    for (unsigned i = 1; i <= exchanges; i++)
        sim_domain_add(d, sim_world_host(w), (uint16_t)(10 * i));
    w->config->delivery.connections_per_destination = lanes;
    return w;
}

/* `gap_s`: between one message and the next. Returns behind the last end. */
static void submit(struct sim_world *w, unsigned messages, unsigned gap_s)
{
    struct sim_domain *d = &w->domains[w->domain_count - 1];
    for (unsigned i = 0; i < messages; i++) {
        if (i > 0 && gap_s > 0)
            sim_world_run_until(w, sim_now_us() + (uint64_t)gap_s * SECOND_US);
        (void)sim_world_send(w, &d, 1, 1, CONTENT_BYTES);
    }
    sim_world_run(w);
}

static void end(struct sim_world *w, struct sim_tally *tally)
{
    sim_tally_add(tally, w);
    sim_world_destroy(&w);
}

/* How many recipients took longer than that, or more than one attempt. */
static unsigned count_held_up(unsigned soon_s)
{
    unsigned count = 0;
    for (const struct sim_message *m = sim_messages(); m != NULL; m = m->next)
        for (uint32_t i = 0; i < m->envelope.recipient_count; i++)
            count += m->recipients[i].attempts > 1 ||
                     m->recipients[i].ended_us - m->sent_us > (uint64_t)soon_s * SECOND_US;
    return count;
}

/* The first exchange takes its time over MAIL, the others ask to come later: each of them is asked
 * once, and the slow one has the last word. */
static void who_said_later_is_not_asked_again(struct sim_tally *tally)
{
    enum { SLOW_S = 200 };
    struct sim_world *w = begin(tally, 4, 20);
    w->hosts[1].fault = delays(SIM_MAIL, SLOW_S);
    for (int i = 2; i <= 4; i++)
        w->hosts[i].fault = replies(SIM_RCPT, "450 4.7.1 Greylisted\r\n", 0);
    sim_world_start(w);
    submit(w, 1, 0);
    for (int i = 2; i <= 4; i++)
        if (w->hosts[i].mails != 1)
            sim_fail("%s was asked %u times", w->hosts[i].name, w->hosts[i].mails);
    if (count_held_up(SLOW_S + SOON_S) > 0)
        sim_fail("the slow exchange did not get its mail");
    end(w, tally);
}

/* For each message of a connection, and not for its first alone, one other exchange is
 * asked at once. */
static void each_message_that_is_put_off_goes_to_the_other(unsigned lanes, struct sim_tally *tally)
{
    enum { MESSAGES = 100 };
    struct sim_world *w = begin(tally, 2, lanes);
    w->hosts[1].fault = replies(SIM_RCPT, "451 4.3.0 Not now\r\n", 0);
    sim_world_start(w);
    submit(w, MESSAGES, 0);
    if (count_held_up(SOON_S) > 0)
        sim_fail("%u of %d messages were put off", count_held_up(SOON_S), MESSAGES);
    end(w, tally);
}

/* A hung exchange that is waited for does not keep the next one from being asked. */
static void a_hung_one_beside_does_not_stand_for_the_other(struct sim_tally *tally)
{
    struct sim_world *w = begin(tally, 3, 20);
    w->hosts[1].fault = is_silent(SIM_GREETING, 3600);
    w->hosts[2].fault = replies(SIM_RCPT, "451 4.3.0 Not now\r\n", 0);
    sim_world_start(w);
    submit(w, 10, 0);
    if (count_held_up(SOON_S) > 0)
        sim_fail("%u messages were held up", count_held_up(SOON_S));
    end(w, tally);
}

/* What is unknown there has to wait; the rest goes to the other exchange. */
static void silence_behind_the_dot_holds_up_what_it_swallowed(unsigned messages, unsigned gap_s,
                                                              unsigned swallowed_max,
                                                              struct sim_tally *tally)
{
    struct sim_world *w = begin(tally, 2, 20);
    w->hosts[1].fault = is_silent(SIM_DOT, 3600);
    sim_world_start(w);
    submit(w, messages, gap_s);
    if (sim_spool_totals().unknown > swallowed_max)
        sim_fail("%llu of %u messages, one each %u s, are unknown",
                 (unsigned long long)sim_spool_totals().unknown, messages, gap_s);
    if (count_held_up(SOON_S) > sim_spool_totals().unknown)
        sim_fail("%u messages were held up, and %llu are unknown", count_held_up(SOON_S),
                 (unsigned long long)sim_spool_totals().unknown);
    end(w, tally);
}

/* Known to take so long, it is not left for another connection with each message. */
static void long_over_the_dot_is_its_usual_pace(struct sim_tally *tally)
{
    enum { MESSAGES = 200, LANES = 20, DOT_S = 7 };
    struct sim_world *w = begin(tally, 1, LANES);
    w->hosts[1].fault = delays(SIM_DOT, DOT_S);
    sim_world_start(w);
    submit(w, MESSAGES, 0);
    if (w->hosts[1].connections > 3 * LANES)
        sim_fail("%u connections", w->hosts[1].connections);
    if (count_held_up(DOT_S * (MESSAGES / LANES + 1)) > 0)
        sim_fail("%u messages were held up", count_held_up(DOT_S * (MESSAGES / LANES + 1)));
    end(w, tally);
}

/* As many connections as may be are parked at the one that says nothing behind the dot (the
 * invariants count them), so what the slow one carries is not raced there any more; and when
 * that one asks to come later, after all, the message is put off: it does not wait for those
 * that are parked. */
static void a_crowded_exchange_gets_no_more(struct sim_tally *tally)
{
    enum { MESSAGES = 20, SLOW_S = 8, PARKED_S = 600 };
    struct sim_world *w = begin(tally, 2, 1);
    w->hosts[1].fault = replies(SIM_DATA, "451 4.3.0 Not now\r\n", SLOW_S);
    w->hosts[2].fault = is_silent(SIM_DOT, 3600);
    sim_world_start(w);
    struct sim_domain *d = &w->domains[w->domain_count - 1];
    uint64_t began_us = sim_now_us();
    for (int i = 0; i < MESSAGES; i++)
        (void)sim_world_send(w, &d, 1, 1, CONTENT_BYTES);
    sim_world_run_until(w, began_us + (uint64_t)(PARKED_S - SLOW_S) * SECOND_US);
    if (sim_spool_totals().deferrals == 0)
        sim_fail("nothing was put off: all wait for %s", w->hosts[2].name);
    sim_world_run(w);
    end(w, tally);
}

/* Domains that share their exchanges, which take one domain at a time, as Google's do: one
 * transaction for each, at once. */
static void one_domain_at_a_time_is_found_out_at_once(struct sim_tally *tally)
{
    enum { DOMAINS = 6, RECIPIENTS = 3 };
    struct sim_world *w = sim_world_create(tally->worlds + 1);
    struct sim_host *hosts[] = {sim_world_host(w), sim_world_host(w)};
    struct sim_domain *domains[DOMAINS];
    for (int i = 0; i < DOMAINS; i++) {
        domains[i] = sim_world_domain(w);
        for (int k = 0; k < 2; k++) {
            hosts[k]->one_domain = true;
            sim_domain_add(domains[i], hosts[k], (uint16_t)(10 * (k + 1)));
        }
    }
    sim_world_start(w);
    (void)sim_world_send(w, domains, DOMAINS, RECIPIENTS, CONTENT_BYTES);
    sim_world_run(w);
    if (count_held_up(SOON_S) > 0)
        sim_fail("%u recipients were held up", count_held_up(SOON_S));
    if (hosts[0]->mails + hosts[1]->mails > DOMAINS + 1)
        sim_fail("%u transactions for %d domains", hosts[0]->mails + hosts[1]->mails, DOMAINS);
    end(w, tally);
}

void sim_run_scenes(struct sim_tally *tally)
{
    who_said_later_is_not_asked_again(tally);
    each_message_that_is_put_off_goes_to_the_other(1, tally);
    each_message_that_is_put_off_goes_to_the_other(20, tally);
    a_hung_one_beside_does_not_stand_for_the_other(tally);
    silence_behind_the_dot_holds_up_what_it_swallowed(1000, 0, 25, tally);
    silence_behind_the_dot_holds_up_what_it_swallowed(100, 10, 10, tally);
    long_over_the_dot_is_its_usual_pace(tally);
    a_crowded_exchange_gets_no_more(tally);
    one_domain_at_a_time_is_found_out_at_once(tally);
}
