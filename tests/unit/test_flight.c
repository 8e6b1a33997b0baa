/* A flight: who is bound to it, what each reply makes of a recipient, and that whatever happens, no
 * recipient's message is committed twice. */
#include "workers/outbound/flight.h"

#include "tests/unit/spool_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { ID = 42, NOW = 1000, DELIVERIES = 2, RECIPIENTS = 3, BATCH = 2 };

/* One stored message: recipient 0 in one delivery, 1 and 2 in another. */
struct world {
    char path[64];
    struct store *store;
    struct store_reader *reader;
    struct message message;
    struct delivery deliveries[DELIVERIES];
    uint32_t indexes[2];
    struct link list;
};

static void put(struct store *store, struct slice record)
{
    assert_int_equal(store_begin(store), STORE_OK);
    assert_int_equal(store_put_envelope(store, ID, record), STORE_OK);
    assert_int_equal(store_commit(store), STORE_OK);
}

static struct world *create(void)
{
    struct world *w = calloc(1, sizeof *w);
    struct buf record;
    assert_non_null(w);
    make_spool_path(w->path);
    w->store = open_spool(w->path, 1 << 20, 0);
    w->reader = store_reader_create(w->store);
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, ID, NOW,
                    (const char *const[]){"a@x.example", "b@x.example", "c@x.example", NULL});
    put(w->store, buf_slice(&record));
    buf_fini(&record);
    w->message.id = ID;
    w->indexes[0] = 1;
    w->indexes[1] = 2;
    w->deliveries[0] = (struct delivery){.message = &w->message, .recipient_count = 1};
    w->deliveries[1] = (struct delivery){
        .message = &w->message, .recipient_count = 2, .recipient.many = w->indexes};
    list_init(&w->list);
    for (int i = 0; i < DELIVERIES; i++)
        list_push_back(&w->list, &w->deliveries[i].shared.queue_link);
    return w;
}

static void destroy(struct world *w)
{
    store_reader_destroy(&w->reader);
    store_close(&w->store);
    remove_spool(w->path);
    free(w);
}

static struct flight *take_off(struct world *w)
{
    bool damaged = true;
    struct flight *f = flight_create(&w->list, w->reader, NOW, &damaged);
    assert_non_null(f);
    assert_false(damaged);
    return f;
}

static void land(struct flight **f)
{
    (*f)->carriers = 0;
    while (list_pop_front(&(*f)->deliveries) != NULL)
        continue;
    flight_destroy(f);
    assert_null(*f);
}

/* "550", "452 4.5.3": as flight_apply sees a reply. */
static struct reply reply_from(const char *text)
{
    char *rest = NULL;
    unsigned long code = strtoul(text, &rest, 10), subject = 0, detail = 0;
    if (*rest == ' ') { /* past the class, which is the code's */
        subject = strtoul(rest + 3, &rest, 10);
        detail = strtoul(rest + 1, &rest, 10);
    }
    assert_int_equal(*rest, '\0');
    return (struct reply){.code = (uint16_t)code,
                          .class = (uint8_t)(code / 100),
                          .subject = (uint16_t)subject,
                          .detail = (uint16_t)detail};
}

/* ---- binding ---- */

static void all_recipients_of_all_deliveries_are_bound_in_order(void **state)
{
    (void)state;
    static const char *const names[] = {"a@x.example", "b@x.example", "c@x.example"};
    struct world *w = create();
    struct address at = {.port = 25};
    w->deliveries[1].try_first = &at;
    struct flight *f = take_off(w);
    assert_true(list_empty(&w->list));
    assert_int_equal(f->count, RECIPIENTS);
    assert_ptr_equal(f->try_first, &at);
    for (uint32_t i = 0; i < RECIPIENTS; i++) {
        assert_int_equal(f->recipients[i].index, i);
        assert_ptr_equal(f->recipients[i].delivery, &w->deliveries[i > 0]);
        assert_true(slice_equal(f->recipients[i].recipient.address, slice_str(names[i])));
        assert_int_equal(f->recipients[i].progress, FLIGHT_UNTRIED);
    }
    land(&f);
    destroy(w);
}

static void a_record_that_cannot_be_read_leaves_the_deliveries_where_they_were(void **state)
{
    (void)state;
    struct world *w = create();
    bool damaged = false;
    w->indexes[1] = 99; /* no such recipient in the envelope */
    assert_null(flight_create(&w->list, w->reader, NOW, &damaged));
    assert_true(damaged);
    assert_ptr_equal(w->list.next, &w->deliveries[0].shared.queue_link);
    assert_ptr_equal(w->list.prev, &w->deliveries[1].shared.queue_link);
    put(w->store, SLICE_LIT("not an envelope"));
    damaged = false;
    assert_null(flight_create(&w->list, w->reader, NOW, &damaged));
    assert_true(damaged && !list_empty(&w->list));
    w->message.id = ID + 1; /* no such message */
    damaged = false;
    assert_null(flight_create(&w->list, w->reader, NOW, &damaged));
    assert_true(damaged && !list_empty(&w->list));
    destroy(w);
}

/* ---- what a reply makes of a recipient ---- */

static void each_reply_settles_its_recipient_as_the_fault_table_says(void **state)
{
    (void)state;
    static const struct {
        const char *reply; /* of the recipient looked at */
        bool other_taken;  /* the batch's other one has 250 */
        bool awaited;      /* a slow exchange may still answer */
        enum flight_progress progress;
    } table[] = {
        {"250", false, false, FLIGHT_FINAL},
        {"251", true, false, FLIGHT_FINAL},
        {"550", false, false, FLIGHT_FINAL},
        {"550 5.1.1", true, true, FLIGHT_FINAL},
        {"554", true, false, FLIGHT_FINAL},
        /* 4xx: one other exchange, except about the mailbox or policy */
        {"451", false, false, FLIGHT_ELSEWHERE},
        {"421", false, false, FLIGHT_ELSEWHERE},
        {"450", true, false, FLIGHT_ELSEWHERE},
        {"451 4.3.0", false, false, FLIGHT_ELSEWHERE},
        {"450 4.2.0", false, false, FLIGHT_FINAL},
        {"452 4.2.2", true, false, FLIGHT_FINAL},
        {"451 4.7.1", false, false, FLIGHT_FINAL},
        /* while a slow exchange may still answer, every 4xx is worth it: decoys */
        {"450 4.2.0", false, true, FLIGHT_ELSEWHERE},
        {"451 4.7.1", false, true, FLIGHT_ELSEWHERE},
        /* too many recipients: the rest in the next transaction, where some were taken */
        {"452", true, false, FLIGHT_UNTRIED},
        {"552", true, false, FLIGHT_UNTRIED},
        {"452 4.5.3", true, true, FLIGHT_UNTRIED},
        {"552 5.5.3", true, false, FLIGHT_UNTRIED},
        {"452", false, false, FLIGHT_ELSEWHERE},
        {"552", false, false, FLIGHT_FINAL},
        {"452 4.3.1", true, false, FLIGHT_ELSEWHERE},
        {"552 5.2.2", true, false, FLIGHT_FINAL},
    };
    struct world *w = create();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct flight *f = take_off(w);
        struct reply replies[BATCH] = {reply_from(table[i].other_taken ? "250" : table[i].reply),
                                       reply_from(table[i].reply)};
        assert_int_equal(flight_next_batch(f, BATCH), BATCH);
        flight_apply(f, replies, table[i].awaited);
        if (f->recipients[1].progress != table[i].progress)
            fail_msg("%s: progress %d", table[i].reply, (int)f->recipients[1].progress);
        assert_int_equal(f->recipients[1].reply.code, replies[1].code);
        assert_int_equal(f->recipients[2].progress, FLIGHT_UNTRIED);
        list_splice_back(&w->list, &f->deliveries);
        land(&f);
    }
    destroy(w);
}

static void batches_take_the_untried_in_order_and_never_more_than_allowed(void **state)
{
    (void)state;
    struct world *w = create();
    struct flight *f = take_off(w);
    const struct reply ok = reply_from("250");
    assert_int_equal(flight_next_batch(f, 1), 1);
    assert_int_equal(f->batch[0], 0);
    flight_apply(f, &ok, false);
    assert_int_equal(flight_next_batch(f, 100), 2);
    assert_true(f->batch[0] == 1 && f->batch[1] == 2);
    assert_true(slice_equal(f->batch_recipients[1].address, SLICE_LIT("c@x.example")));
    flight_apply(f, (struct reply[]){ok, ok}, false);
    assert_false(flight_has_untried(f));
    assert_int_equal(flight_next_batch(f, 100), 0);
    land(&f);
    destroy(w);
}

/* Google's "451 4.3.0 Multiple destination domains per transaction is unsupported". */
static void who_was_put_off_beside_another_domain_goes_apart_from_it(void **state)
{
    (void)state;
    static struct domain first, second;
    const struct reply ok = reply_from("250"), later = reply_from("451 4.3.0");
    struct world *w = create();
    w->deliveries[0].domain = &first;
    w->deliveries[1].domain = &second;
    struct flight *f = take_off(w);
    assert_int_equal(flight_next_batch(f, 100), RECIPIENTS);
    flight_apply(f, (struct reply[]){ok, later, later}, false);
    assert_int_equal(flight_next_batch(f, 100), 2);
    assert_true(f->batch[0] == 1 && f->batch[1] == 2);
    assert_false(flight_is_untouched(f));
    flight_apply(f, (struct reply[]){ok, later}, false); /* now it speaks of the recipient */
    assert_false(flight_has_untried(f));
    assert_int_equal(f->recipients[2].progress, FLIGHT_ELSEWHERE);
    assert_true(flight_try_elsewhere(f)); /* all that was one exchange */
    assert_int_equal(flight_next_batch(f, 100), 1);
    flight_apply(f, &later, false);
    assert_false(flight_try_elsewhere(f));
    land(&f);
    destroy(w);
}

static void who_was_put_off_beside_its_own_domain_goes_elsewhere(void **state)
{
    (void)state;
    static struct domain first, second;
    static const struct {
        const char *replies[RECIPIENTS];
        unsigned untried; /* left for the next transaction there */
    } table[] = {
        {{"250", "250", "451"}, 0},       /* another of its domain was taken */
        {{"250", "450 4.2.0", "550"}, 0}, /* the mailbox */
        {{"250", "450 4.7.1", "550"}, 0}, /* policy */
        {{"451", "451", "451"}, 0},       /* nobody was taken */
        {{"250", "451 4.3.0", "550"}, 1}, /* as it may be */
        {{"451 4.3.0", "250", "250"}, 1},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct reply replies[RECIPIENTS];
        struct world *w = create();
        w->deliveries[0].domain = &first;
        w->deliveries[1].domain = &second;
        struct flight *f = take_off(w);
        for (int k = 0; k < RECIPIENTS; k++)
            replies[k] = reply_from(table[i].replies[k]);
        assert_int_equal(flight_next_batch(f, 100), RECIPIENTS);
        flight_apply(f, replies, false);
        assert_int_equal(flight_next_batch(f, 100), table[i].untried);
        land(&f);
        destroy(w);
    }
}

static void two_exchanges_are_asked_and_no_third(void **state)
{
    (void)state;
    struct world *w = create();
    struct flight *f = take_off(w);
    struct reply replies[] = {reply_from("250"), reply_from("451"), reply_from("550")};
    assert_int_equal(flight_next_batch(f, 100), RECIPIENTS);
    flight_apply(f, replies, false);
    assert_true(flight_try_elsewhere(f));
    assert_int_equal(flight_next_batch(f, 100), 1);
    assert_int_equal(f->batch[0], 1);
    flight_apply(f, &replies[1], false);
    assert_false(flight_try_elsewhere(f));
    struct reply silent = reply_local(LOCAL_TIMEOUT);
    flight_give_up(f, &silent);
    assert_int_equal(f->recipients[0].reply.code, 250);
    assert_int_equal(f->recipients[1].reply.code, 451); /* the peer's own words, not ours */
    assert_int_equal(f->recipients[2].reply.code, 550);
    land(&f);
    destroy(w);
}

static void giving_up_says_why_for_who_never_had_a_reply(void **state)
{
    (void)state;
    struct world *w = create();
    struct flight *f = take_off(w);
    struct reply silent = reply_local(LOCAL_TIMEOUT);
    flight_give_up(f, &silent);
    for (uint32_t i = 0; i < RECIPIENTS; i++) {
        assert_int_equal(f->recipients[i].progress, FLIGHT_FINAL);
        assert_int_equal(f->recipients[i].reply.code, LOCAL_TIMEOUT);
    }
    land(&f);
    destroy(w);
}

static void behind_the_last_byte_who_was_not_refused_is_unknown(void **state)
{
    (void)state;
    struct world *w = create();
    struct flight *f = take_off(w);
    struct address at = {.ip = {1}, .port = 25};
    struct reply replies[] = {reply_from("250"), {0}, reply_from("550")};
    assert_int_equal(flight_next_batch(f, 100), RECIPIENTS);
    flight_apply_unknown(f, replies, &at);
    assert_int_equal(f->recipients[0].reply.code, LOCAL_UNKNOWN_OUTCOME);
    assert_int_equal(f->recipients[1].reply.code, LOCAL_UNKNOWN_OUTCOME);
    assert_int_equal(f->recipients[2].reply.code, 550);
    assert_true(f->unknown && address_same_ip(&f->unknown_at, &at));
    assert_int_equal(f->recipients[0].reply.class, 4); /* kept, never returned */
    assert_false(flight_has_untried(f));
    land(&f);
    destroy(w);
}

/* ---- one commit, whatever happens ----
 *
 * Every sequence of events that lane.c can bring about, up to a depth, over three sessions that
 * race with one flight of three recipients in batches of two. The model keeps per recipient whether
 * a last byte that may have been accepted is out: from then on there must be no other. */

enum { SESSIONS = 3, DEPTH = 9 };

enum event { BEGIN, STALL, COMMIT, ACCEPTED, TOO_MANY, DEFERRED, REFUSED, LOST, EVENTS };

enum stage { IDLE, CARRYING, COMMITTED };

struct model {
    enum stage stages[SESSIONS];
    bool spoken_for[RECIPIENTS]; /* accepted, or unknown */
    bool over;
};

static uint64_t sequences, commits;

static const struct session *session(int s)
{
    static char bodies[SESSIONS]; /* a flight never looks into a session */
    return (const struct session *)(const void *)&bodies[s];
}

static void drop_carriers(struct flight *f, struct model *m)
{
    for (int s = 0; s < SESSIONS; s++)
        if (m->stages[s] != IDLE) {
            assert_int_equal(m->stages[s], CARRYING); /* never one that has sent the last byte */
            m->stages[s] = IDLE;
            f->carriers--;
        }
}

static void step_down(struct flight *f, struct model *m, int s)
{
    m->stages[s] = IDLE;
    f->carriers--;
}

static void conclude(struct flight *f, struct model *m, const char *first, const char *rest)
{
    struct reply replies[BATCH];
    for (uint32_t i = 0; i < f->batch_count; i++) {
        replies[i] = reply_from(i == 0 ? first : rest);
        m->spoken_for[f->batch[i]] |= replies[i].class == 2;
    }
    drop_carriers(f, m);
    flight_apply(f, replies, false);
    m->over = !flight_has_untried(f) && !flight_try_elsewhere(f);
}

static bool begin(struct flight *f, struct model *m, int s)
{
    if (m->stages[s] != IDLE || f->token != NULL)
        return false;
    if (f->carriers == 0 && flight_next_batch(f, BATCH) == 0)
        return false;
    m->stages[s] = CARRYING;
    f->carriers++;
    return true;
}

static bool commit(struct flight *f, struct model *m, int s)
{
    if (m->stages[s] != CARRYING || !flight_take_token(f, session(s)))
        return false;
    for (int other = 0; other < SESSIONS; other++)
        assert_int_not_equal(m->stages[other], COMMITTED);
    for (uint32_t i = 0; i < f->batch_count; i++)
        assert_false(m->spoken_for[f->batch[i]]);
    m->stages[s] = COMMITTED;
    commits++;
    return true;
}

/* The connection took part of what was written, but not the last byte. */
static bool stall(struct flight *f, const struct model *m, int s)
{
    if (m->stages[s] != CARRYING || !flight_take_token(f, session(s)))
        return false;
    flight_return_token(f, session(s));
    assert_null(f->token);
    return true;
}

/* Refused at MAIL or RCPT: by lane.c's rule it counts at once only where no other one
 * carries on. */
static bool refuse(struct flight *f, struct model *m, int s, const char *reply)
{
    if (m->stages[s] == IDLE)
        return false;
    bool committed = m->stages[s] == COMMITTED;
    step_down(f, m, s);
    if (committed || f->carriers == 0 || (f->token == NULL && reply[0] == '5'))
        conclude(f, m, reply, reply);
    return true;
}

static bool lose(struct flight *f, struct model *m, int s)
{
    if (m->stages[s] == IDLE)
        return false;
    bool committed = m->stages[s] == COMMITTED;
    step_down(f, m, s);
    if (!committed) {
        const struct session *holder = f->token;
        flight_return_token(f, session(s)); /* not its own: harmless */
        assert_ptr_equal(f->token, holder);
        return true;
    }
    for (uint32_t i = 0; i < f->batch_count; i++)
        m->spoken_for[f->batch[i]] = true;
    drop_carriers(f, m);
    struct address at = {0};
    flight_apply_unknown(f, (struct reply[BATCH]){{0}}, &at);
    m->over = true;
    return true;
}

static bool answer(struct flight *f, struct model *m, int s, const char *first, const char *rest)
{
    if (m->stages[s] != COMMITTED)
        return false;
    step_down(f, m, s);
    conclude(f, m, first, rest);
    return true;
}

/* False: it cannot happen now. */
static bool happen(struct flight *f, struct model *m, enum event event, int s)
{
    switch (event) {
    case BEGIN:
        return begin(f, m, s);
    case STALL:
        return stall(f, m, s);
    case COMMIT:
        return commit(f, m, s);
    case ACCEPTED:
        return answer(f, m, s, "250", "250");
    case TOO_MANY:
        return answer(f, m, s, "250", "452");
    case DEFERRED:
        return refuse(f, m, s, "451");
    case REFUSED:
        return refuse(f, m, s, "550");
    case LOST:
        return lose(f, m, s);
    case EVENTS:
        break;
    }
    return false;
}

/* The end: every recipient is final, and who was spoken for says so. */
static void check_end(struct flight *f, const struct model *m)
{
    struct reply silent = reply_local(LOCAL_TIMEOUT);
    flight_give_up(f, &silent);
    for (uint32_t i = 0; i < RECIPIENTS; i++) {
        const struct flight_recipient *r = &f->recipients[i];
        assert_int_equal(r->progress, FLIGHT_FINAL);
        bool kept = r->reply.class == 2 || r->reply.code == LOCAL_UNKNOWN_OUTCOME;
        assert_int_equal(kept, m->spoken_for[i]);
    }
    sequences++;
}

struct snapshot {
    struct flight flight;
    struct flight_recipient recipients[RECIPIENTS];
    uint32_t batch[RECIPIENTS];
};

static void keep(struct snapshot *to, const struct flight *f)
{
    to->flight = *f;
    memcpy(to->recipients, f->recipients, sizeof to->recipients);
    memcpy(to->batch, f->batch, sizeof to->batch);
}

static void restore(struct flight *f, const struct snapshot *from)
{
    *f = from->flight;
    memcpy(f->recipients, from->recipients, sizeof from->recipients);
    memcpy(f->batch, from->batch, sizeof from->batch);
}

static void explore(struct flight *f, const struct model *before, int depth)
{
    struct snapshot snapshot;
    keep(&snapshot, f);
    for (int event = 0; event < EVENTS; event++)
        for (int s = 0; s < SESSIONS; s++) {
            struct model m = *before;
            if (happen(f, &m, (enum event)event, s)) {
                if (m.over)
                    check_end(f, &m);
                else if (depth < DEPTH)
                    explore(f, &m, depth + 1);
            }
            restore(f, &snapshot);
        }
}

static void no_sequence_of_events_commits_a_recipient_twice(void **state)
{
    (void)state;
    struct world *w = create();
    struct flight *f = take_off(w);
    struct model m = {0};
    explore(f, &m, 1);
    assert_true(sequences > 10000 && commits > sequences / 10);
    land(&f);
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_recipients_of_all_deliveries_are_bound_in_order),
        cmocka_unit_test(a_record_that_cannot_be_read_leaves_the_deliveries_where_they_were),
        cmocka_unit_test(each_reply_settles_its_recipient_as_the_fault_table_says),
        cmocka_unit_test(batches_take_the_untried_in_order_and_never_more_than_allowed),
        cmocka_unit_test(who_was_put_off_beside_another_domain_goes_apart_from_it),
        cmocka_unit_test(who_was_put_off_beside_its_own_domain_goes_elsewhere),
        cmocka_unit_test(two_exchanges_are_asked_and_no_third),
        cmocka_unit_test(giving_up_says_why_for_who_never_had_a_reply),
        cmocka_unit_test(behind_the_last_byte_who_was_not_refused_is_unknown),
        cmocka_unit_test(no_sequence_of_events_commits_a_recipient_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
