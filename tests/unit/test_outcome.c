/* From what an exchange said, at which command, to what becomes of the recipient: the fault table
 * of workers/README.md, with the notices it causes. The replies go through the real protocol
 * machine and a real flight; the committer is this file. */
#include "workers/outbound/outcome.h"

#include "tests/unit/spool_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { ID = 42, ARRIVED = 1000000, HOUR = 3600000, RECIPIENTS_MAX = 3, OPS_MAX = 4 };

#define CONTENT "Subject: hello\r\n\r\nIt works.\r\n"

/* ---- the committer's place: ops are kept for the test to look at ---- */

static struct commit_op *ops[OPS_MAX];
static unsigned op_count;

void committer_submit(struct committer *c, struct commit_op **op)
{
    (void)c;
    assert_true(op_count < OPS_MAX);
    ops[op_count++] = *op;
    *op = NULL;
}

static void forget_ops(void)
{
    for (unsigned i = 0; i < op_count; i++)
        ops[i]->on_done(&ops[i]->mail, NULL);
    op_count = 0;
}

/* ---- a worker with one stored message ---- */

struct world {
    char path[64];
    struct config config;
    struct worker_parts parts;
    struct worker worker;
    struct domain *domain;
    struct message message;
    struct delivery delivery;
    uint32_t indexes[RECIPIENTS_MAX];
    struct link list;
};

static void store_message(struct world *w, const char *sender, const uint8_t *notify,
                          uint32_t count)
{
    static const char *const names[] = {"a@x.example", "b@x.example", "c@x.example"};
    struct envelope_recipient recipients[RECIPIENTS_MAX];
    for (uint32_t i = 0; i < count; i++)
        recipients[i] = (struct envelope_recipient){.address = slice_str(names[i]),
                                                    .domain = SLICE_LIT("x.example"),
                                                    .orcpt = SLICE_LIT(""),
                                                    .notify = notify[i]};
    struct envelope e = {.id = ID,
                         .arrived_wall_ms = ARRIVED,
                         .size_bytes = strlen(CONTENT),
                         .header_bytes = 18,
                         .sender = slice_str(sender),
                         .envid = SLICE_LIT(""),
                         .origin = SLICE_LIT("test"),
                         .recipients = recipients,
                         .recipient_count = count};
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    envelope_encode(&e, &record);
    assert_int_equal(store_begin(w->parts.store), STORE_OK);
    assert_int_equal(store_put_envelope(w->parts.store, ID, buf_slice(&record)), STORE_OK);
    assert_int_equal(store_put_chunk(w->parts.store, ID, 0, SLICE_LIT(CONTENT)), STORE_OK);
    assert_int_equal(store_commit(w->parts.store), STORE_OK);
    buf_fini(&record);
}

/* In the place of the stored message: a header section of so many bytes, and nothing else. */
static void store_large(struct world *w, const struct envelope *e)
{
    static char chunk[STORE_CHUNK_BYTES + 1];
    struct buf record;
    for (size_t at = 0; at < STORE_CHUNK_BYTES; at += 16)
        (void)snprintf(chunk + at, 17, "X-Line: %05zu.\r\n", at / 16);
    (void)memcpy(chunk, "X-Line: 0\r\nY: \r\n", 16);
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    envelope_encode(e, &record);
    assert_true(buf_ok(&record));
    assert_int_equal(store_begin(w->parts.store), STORE_OK);
    assert_int_equal(store_put_envelope(w->parts.store, ID, buf_slice(&record)), STORE_OK);
    for (uint32_t i = 0; (size_t)i * STORE_CHUNK_BYTES < e->size_bytes; i++)
        assert_int_equal(store_put_chunk(w->parts.store, ID, i, slice_of(chunk, STORE_CHUNK_BYTES)),
                         STORE_OK);
    assert_int_equal(store_commit(w->parts.store), STORE_OK);
    buf_fini(&record);
}

static struct world *create(const char *sender, const uint8_t *notify, uint32_t count)
{
    struct world *w = aligned_alloc(64, (sizeof *w + 63) / 64 * 64);
    assert_non_null(w);
    memset(w, 0, sizeof *w);
    make_spool_path(w->path);
    w->config.hostname = "relay.example";
    w->config.postmaster = "postmaster@relay.example";
    w->config.retry.age_limit_ms = (uint64_t)5 * 24 * HOUR;
    w->config.retry.delay_notice_ms = (uint64_t)4 * HOUR;
    w->parts.store = open_spool(w->path, 64 << 20, 0);
    w->parts.shared = aligned_alloc(64, (sizeof *w->parts.shared + 63) / 64 * 64);
    assert_non_null(w->parts.shared);
    memset(w->parts.shared, 0, sizeof *w->parts.shared);
    atomic_init(&w->parts.shared->next_id, ID + 1);
    w->worker.parts = &w->parts;
    w->worker.config = &w->config;
    w->worker.wall_ms = ARRIVED + 1000;
    w->worker.reader = store_reader_create(w->parts.store);
    w->domain = calloc(1, sizeof *w->domain + 16);
    assert_non_null(w->domain);
    store_message(w, sender, notify, count);
    w->message = (struct message){.id = ID, .arrived_mono_ms = 0};
    w->delivery =
        (struct delivery){.message = &w->message, .domain = w->domain, .recipient_count = count};
    for (uint32_t i = 0; i < count; i++)
        w->indexes[i] = i;
    if (count > 1)
        w->delivery.recipient.many = w->indexes;
    list_init(&w->list);
    list_push_back(&w->list, &w->delivery.shared.queue_link);
    return w;
}

static struct world *create_plain(void)
{
    return create("s@sender.example", (const uint8_t[]){0}, 1);
}

static void destroy(struct world *w)
{
    forget_ops();
    store_reader_destroy(&w->worker.reader);
    store_close(&w->parts.store);
    remove_spool(w->path);
    free(w->domain);
    free(w->parts.shared);
    free(w);
}

static struct flight *take_off(struct world *w)
{
    bool damaged = false;
    struct flight *f = flight_create(&w->list, w->worker.reader, 0, &damaged);
    assert_non_null(f);
    return f;
}

/* ---- one transaction with a scripted exchange ---- */

/* The batch's one recipient, with `reply` in the place of the usual one at `phase`: MAIL, RCPT,
 * DATA or the final dot. False: the session ended with `*last_out` before anything was said of the
 * recipient. */
static bool converse(struct flight *f, const char *phase, const char *reply, struct reply *replies,
                     struct reply *last_out)
{
    static const struct {
        const char *phase, *reply;
    } usual[] = {{"CONNECT", "220 hello"}, {"EHLO", "250 mx.example"}, {"MAIL", "250 ok"},
                 {"RCPT", "250 ok"},       {"DATA", "354 go"},         {".", "250 ok"}};
    struct smtp_client_options options = {.ehlo_name = "relay.example", .tls = SMTP_TLS_OFF};
    struct smtp_transaction t = {.envelope = &f->envelope,
                                 .recipients = f->batch_recipients,
                                 .replies = replies,
                                 .recipient_count = f->batch_count};
    struct buf out, in;
    buf_init(&out, 65536);
    buf_init(&in, 65536);
    struct smtp_client *c = smtp_client_create(&options, &out);
    assert_non_null(c);
    enum smtp_client_event event = CLIENT_MORE;
    for (size_t step = 0; event != CLIENT_DONE && event != CLIENT_FAILED;) {
        size_t used = 0;
        event = smtp_client_feed(c, buf_slice(&in), &used);
        buf_consume(&in, used);
        if (event == CLIENT_READY)
            smtp_client_begin(c, &t);
        if (event == CLIENT_BODY)
            smtp_client_body_sent(c);
        if (event != CLIENT_MORE)
            continue;
        assert_true(step < sizeof usual / sizeof *usual);
        bool here = strcmp(usual[step].phase, phase) == 0;
        buf_clear(&out); /* it has read what was asked */
        buf_printf(&in, "%s\r\n", here ? reply : usual[step].reply);
        step++;
    }
    *last_out = *smtp_client_last_reply(c);
    smtp_client_destroy(&c);
    buf_fini(&out);
    buf_fini(&in);
    return event == CLIENT_DONE;
}

static const char *name_of(enum outcome_verdict verdict)
{
    static const char *const names[] = {[OUTCOME_DELIVERED] = "delivered",
                                        [OUTCOME_DEFERRED] = "deferred",
                                        [OUTCOME_BOUNCED] = "bounced"};
    return names[verdict];
}

static void each_reply_at_each_command_has_the_outcome_of_the_fault_table(void **state)
{
    (void)state;
    static const struct {
        const char *phase, *reply;
        bool elsewhere; /* one other exchange is asked at once */
        enum outcome_verdict verdict;
    } table[] = {
        {".", "250 2.0.0 queued", false, OUTCOME_DELIVERED},
        {".", "200 unusual but fine", false, OUTCOME_DELIVERED},
        /* 421 at any command before commit */
        {"MAIL", "421 4.3.2 closing", true, OUTCOME_DEFERRED},
        {"RCPT", "421 4.3.2 closing", true, OUTCOME_DEFERRED},
        {"DATA", "421 4.3.2 closing", true, OUTCOME_DEFERRED},
        /* other 4xx: one other exchange at once */
        {"MAIL", "451 try later", true, OUTCOME_DEFERRED},
        {"MAIL", "452 4.3.1 no room", true, OUTCOME_DEFERRED},
        {"RCPT", "451 4.3.0 try later", true, OUTCOME_DEFERRED},
        {"RCPT", "452 too many", true, OUTCOME_DEFERRED},
        {"DATA", "451 4.3.5 try later", true, OUTCOME_DEFERRED},
        {".", "451 4.3.0 try later", true, OUTCOME_DEFERRED},
        {".", "452 4.3.1 no room", true, OUTCOME_DEFERRED},
        /* except about the mailbox, or policy and rate: the same everywhere */
        {"MAIL", "451 4.7.1 slow down", false, OUTCOME_DEFERRED},
        {"RCPT", "450 4.2.0 greylisted", false, OUTCOME_DEFERRED},
        {"RCPT", "452 4.2.2 mailbox full", false, OUTCOME_DEFERRED},
        {"RCPT", "451 4.7.24 policy", false, OUTCOME_DEFERRED},
        {"DATA", "450 4.7.0 rate", false, OUTCOME_DEFERRED},
        {".", "451 4.7.1 greylisted", false, OUTCOME_DEFERRED},
        /* 5xx is final */
        {"MAIL", "550 5.7.1 not from you", false, OUTCOME_BOUNCED},
        {"MAIL", "552 5.3.4 too big", false, OUTCOME_BOUNCED},
        {"RCPT", "550 5.1.1 no such user", false, OUTCOME_BOUNCED},
        {"RCPT", "553 no", false, OUTCOME_BOUNCED},
        {"DATA", "554 5.5.1 no valid recipients", false, OUTCOME_BOUNCED},
        {".", "554 5.6.0 looks like spam", false, OUTCOME_BOUNCED},
        {".", "552 5.2.2 mailbox full", false, OUTCOME_BOUNCED},
        /* the code decides, whatever class the enhanced status claims */
        {"RCPT", "550 4.2.1 confused", false, OUTCOME_BOUNCED},
        {"RCPT", "450 5.1.1 confused", true, OUTCOME_DEFERRED},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct world *w = create_plain();
        struct flight *f = take_off(w);
        struct reply replies[RECIPIENTS_MAX] = {{0}}, last;
        assert_int_equal(flight_next_batch(f, 100), 1);
        if (converse(f, table[i].phase, table[i].reply, replies, &last))
            flight_apply(f, replies, false);
        bool elsewhere = flight_try_elsewhere(f) || flight_has_untried(f);
        flight_give_up(f, &last); /* no other exchange takes it either */
        outcome_of_flight(&w->worker, &f, NULL, (struct stranding){0});
        assert_int_equal(op_count, 1);
        enum outcome_verdict verdict = ops[0]->u.outcome.recipients[0].verdict;
        if (elsewhere != table[i].elsewhere || verdict != table[i].verdict)
            fail_msg("%s to %s: %s, elsewhere %d", table[i].reply, table[i].phase, name_of(verdict),
                     elsewhere);
        assert_int_equal(ops[0]->u.outcome.recipients[0].reply->code,
                         strtoul(table[i].reply, NULL, 10));
        assert_int_equal(ops[0]->u.outcome.generated != NULL, verdict == OUTCOME_BOUNCED);
        destroy(w);
    }
}

static void each_recipient_of_a_message_has_an_outcome_of_its_own(void **state)
{
    (void)state;
    struct world *w = create("s@sender.example", (const uint8_t[]){0, 0, 0}, 3);
    struct flight *f = take_off(w);
    struct reply replies[] = {{.code = 250, .class = 2},
                              {.code = 550, .class = 5, .subject = 1, .detail = 1},
                              {.code = 450, .class = 4, .subject = 2}};
    assert_int_equal(flight_next_batch(f, 100), 3);
    flight_apply(f, replies, false);
    outcome_of_flight(&w->worker, &f, NULL, (struct stranding){0});
    assert_null(f);
    static const enum outcome_verdict expected[] = {OUTCOME_DELIVERED, OUTCOME_BOUNCED,
                                                    OUTCOME_DEFERRED};
    assert_int_equal(op_count, 1);
    assert_ptr_equal(ops[0]->u.outcome.delivery, &w->delivery);
    assert_int_equal(ops[0]->u.outcome.recipient_count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(ops[0]->u.outcome.recipients[i].recipient, i);
        assert_int_equal(ops[0]->u.outcome.recipients[i].verdict, expected[i]);
        assert_int_equal(ops[0]->u.outcome.recipients[i].reply->code, replies[i].code);
    }
    const struct worker_figures *figures = &w->worker.shared.figures;
    assert_int_equal(figures->recipients_delivered, 1);
    assert_int_equal(figures->recipients_bounced, 1);
    assert_int_equal(figures->recipients_deferred, 1);
    destroy(w);
}

static void an_unknown_outcome_is_kept_and_asked_of_the_same_exchange_first(void **state)
{
    (void)state;
    struct world *w = create("s@sender.example", (const uint8_t[]){0, 0}, 2);
    struct flight *f = take_off(w);
    struct address at = {.ip = {9}, .port = 25};
    struct reply replies[] = {{.code = 250, .class = 2}, {.code = 550, .class = 5}};
    assert_int_equal(flight_next_batch(f, 100), 2);
    flight_apply_unknown(f, replies, &at);
    outcome_of_flight(&w->worker, &f, NULL, (struct stranding){0});
    assert_int_equal(ops[0]->u.outcome.recipients[0].verdict, OUTCOME_DEFERRED);
    assert_int_equal(ops[0]->u.outcome.recipients[1].verdict, OUTCOME_BOUNCED);
    assert_true(ops[0]->u.outcome.has_try_first);
    assert_true(address_same_ip(&ops[0]->u.outcome.try_first, &at));
    destroy(w);
}

/* ---- conclusions of our own ---- */

static void our_own_conclusions_bounce_or_defer_by_their_class(void **state)
{
    (void)state;
    static const struct {
        enum reply_local code;
        enum outcome_verdict verdict;
    } table[] = {
#define X(name, class_, subject_, detail_, text_)                                                  \
    {name, (class_) == 5 ? OUTCOME_BOUNCED : OUTCOME_DEFERRED},
        REPLY_LOCALS(X)
#undef X
    };
    for (size_t i = 0; i < 2 * sizeof table / sizeof *table; i++) {
        bool defer_anyway = i % 2 == 1;
        enum outcome_verdict expected = defer_anyway ? OUTCOME_DEFERRED : table[i / 2].verdict;
        struct world *w = create_plain();
        struct address at = {.ip = {9}};
        w->delivery.try_first = &at; /* of an earlier attempt: it outlives this one */
        struct reply reply = reply_local(table[i / 2].code);
        outcome_of_list(&w->worker, &w->list, &reply, defer_anyway);
        assert_true(list_empty(&w->list));
        assert_int_equal(op_count, 1);
        assert_int_equal(ops[0]->u.outcome.recipients[0].verdict, expected);
        assert_int_equal(ops[0]->u.outcome.recipients[0].reply->code, table[i / 2].code);
        assert_int_equal(ops[0]->u.outcome.generated != NULL, expected == OUTCOME_BOUNCED);
        assert_true(ops[0]->u.outcome.has_try_first);
        destroy(w);
    }
}

static void what_nothing_decides_is_never_bounced(void **state)
{
    (void)state;
    static const enum reply_local transient[] = {
        LOCAL_DNS_TEMPFAIL,    LOCAL_DNS_BOGUS,       LOCAL_EXCHANGES_NO_ADDRESS,
        LOCAL_CONNECT_REFUSED, LOCAL_UNREACHABLE,     LOCAL_CONNECT_TIMEOUT,
        LOCAL_TIMEOUT,         LOCAL_CLOSED,          LOCAL_RESET,
        LOCAL_NOT_SMTP,        LOCAL_TLS_REQUIRED,    LOCAL_REPLY_TOO_LONG,
        LOCAL_TLS_FAILED,      LOCAL_UNKNOWN_OUTCOME, LOCAL_ALL_HOSTS_REFUSE,
        LOCAL_SHUTDOWN,        LOCAL_NO_RESOURCES,
    };
    for (size_t i = 0; i < sizeof transient / sizeof *transient; i++)
        assert_int_equal(reply_local(transient[i]).class, 4);
}

static void a_message_that_cannot_be_read_is_kept_for_the_operator(void **state)
{
    (void)state;
    struct world *w = create_plain();
    w->message.id = ID + 7; /* no such record */
    w->delivery.flags = DELIVERY_EXPIRED;
    list_init(&w->delivery.shared.queue_link);
    outcome_of_marked(&w->worker, &w->delivery);
    assert_int_equal(ops[0]->u.outcome.recipients[0].verdict, OUTCOME_DEFERRED);
    assert_null(ops[0]->u.outcome.generated);
    destroy(w);
}

static void marked_deliveries_bounce_with_the_reason_they_are_marked_for(void **state)
{
    (void)state;
    static const struct {
        uint8_t flags;
        enum reply_local code;
    } table[] = {{DELIVERY_EXPIRED, LOCAL_EXPIRED},
                 {DELIVERY_OPERATOR_BOUNCE, LOCAL_OPERATOR_BOUNCE},
                 {DELIVERY_EXPIRED | DELIVERY_OPERATOR_BOUNCE, LOCAL_OPERATOR_BOUNCE}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct world *w = create_plain();
        w->delivery.flags = table[i].flags;
        list_init(&w->delivery.shared.queue_link);
        outcome_of_marked(&w->worker, &w->delivery);
        assert_int_equal(ops[0]->u.outcome.recipients[0].verdict, OUTCOME_BOUNCED);
        assert_int_equal(ops[0]->u.outcome.recipients[0].reply->code, table[i].code);
        destroy(w);
    }
}

/* ---- notices ---- */

static unsigned count_notices(void)
{
    unsigned count = 0;
    for (const struct commit_message *m = ops[0]->u.outcome.generated; m != NULL; m = m->next) {
        struct envelope e;
        struct envelope_recipient r;
        assert_true(envelope_decode(m->envelope, &e) && m->id > ID);
        assert_int_equal(e.recipient_count, 1);
        assert_int_equal(e.sender.len, 0); /* never a bounce of a bounce */
        assert_true(envelope_decode_recipient(m->envelope, 0, &r));
        assert_true(slice_equal(r.address, SLICE_LIT("s@sender.example")));
        assert_int_equal(e.size_bytes, m->chunk.len);
        count++;
    }
    return count;
}

static bool mentions(const char *text)
{
    const struct commit_message *m = ops[0]->u.outcome.generated;
    return memmem(m->chunk.ptr, m->chunk.len, text, strlen(text)) != NULL;
}

static void notices_go_out_where_they_are_asked_for_and_nowhere_else(void **state)
{
    (void)state;
    enum { LATER = 5 * HOUR };
    static const struct {
        const char *what, *sender;
        uint8_t notify;
        unsigned code;
        uint64_t age_ms;
        bool noticed; /* a delay notice has been sent before */
        unsigned notices;
        bool delay_noticed;
    } table[] = {
        {"bounced", "s@sender.example", 0, 550, 0, false, 1, false},
        {"bounced, FAILURE asked for", "s@sender.example", NOTIFY_FAILURE, 550, 0, false, 1, false},
        {"bounced, only DELAY asked for", "s@sender.example", NOTIFY_DELAY, 550, 0, false, 0,
         false},
        {"bounced, NEVER", "s@sender.example", NOTIFY_NEVER, 550, 0, false, 0, false},
        {"a bounce bounced", "", 0, 550, 0, false, 0, false},
        {"deferred, fresh", "s@sender.example", 0, 450, 0, false, 0, false},
        {"deferred for long", "s@sender.example", 0, 450, LATER, false, 1, true},
        {"deferred for long, told before", "s@sender.example", 0, 450, LATER, true, 0, false},
        {"deferred for long, NEVER", "s@sender.example", NOTIFY_NEVER, 450, LATER, false, 0, false},
        {"a bounce deferred for long", "", 0, 450, LATER, false, 0, false},
        {"delivered", "s@sender.example", 0, 250, 0, false, 0, false},
        {"delivered, SUCCESS asked for", "s@sender.example", NOTIFY_SUCCESS, 250, 0, false, 1,
         false},
        {"delivered late", "s@sender.example", 0, 250, LATER, false, 0, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct world *w = create(table[i].sender, &table[i].notify, 1);
        w->worker.now_ms = table[i].age_ms;
        w->delivery.flags = table[i].noticed ? DELIVERY_DELAY_NOTICED : 0;
        struct flight *f = take_off(w);
        struct reply reply = {
            .code = (uint16_t)table[i].code, .class = (uint8_t)(table[i].code / 100), .subject = 2};
        assert_int_equal(flight_next_batch(f, 100), 1);
        flight_apply(f, &reply, false);
        outcome_of_flight(&w->worker, &f, NULL, (struct stranding){0});
        if (count_notices() != table[i].notices ||
            ops[0]->u.outcome.delay_noticed != table[i].delay_noticed)
            fail_msg("%s: %u notices", table[i].what, count_notices());
        destroy(w);
    }
}

static void one_notice_speaks_of_all_who_failed_and_returns_the_content(void **state)
{
    (void)state;
    struct world *w = create("s@sender.example", (const uint8_t[]){0, NOTIFY_NEVER, 0}, 3);
    struct reply reply = reply_local(LOCAL_NXDOMAIN);
    outcome_of_list(&w->worker, &w->list, &reply, false);
    assert_int_equal(count_notices(), 1);
    assert_true(mentions("a@x.example") && mentions("c@x.example"));
    assert_false(mentions("b@x.example"));
    assert_true(mentions("It works."));
    assert_int_equal(ops[0]->u.outcome.recipients[1].verdict, OUTCOME_BOUNCED);
    destroy(w);
}

/* Returned mail must not get lost for its size: neither the content's nor the number
 * of recipients. */
static void the_largest_messages_have_their_notices_too(void **state)
{
    (void)state;
    static const struct {
        uint32_t recipients, header_bytes;
    } table[] = {{1, 12 << 20}, {12000, 10000}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct world *w = create_plain();
        uint32_t count = table[i].recipients;
        struct envelope_recipient *r = calloc(count, sizeof *r);
        uint32_t *indexes = calloc(count, sizeof *indexes);
        assert_non_null(r);
        assert_non_null(indexes);
        char local[300];
        memset(local, 'r', 240);
        (void)snprintf(local + 240, sizeof local - 240, "@x.example");
        for (uint32_t k = 0; k < count; k++) {
            indexes[k] = k;
            r[k] = (struct envelope_recipient){.address = slice_str(local),
                                               .domain = SLICE_LIT("x.example"),
                                               .orcpt = SLICE_LIT("")};
        }
        struct envelope e = {.id = ID,
                             .arrived_wall_ms = ARRIVED,
                             .size_bytes = table[i].header_bytes,
                             .header_bytes = table[i].header_bytes,
                             .sender = SLICE_LIT("s@sender.example"),
                             .envid = SLICE_LIT(""),
                             .origin = SLICE_LIT("test"),
                             .recipients = r,
                             .recipient_count = count};
        store_large(w, &e);
        w->delivery.recipient_count = count;
        if (count > 1)
            w->delivery.recipient.many = indexes;
        struct reply reply = reply_local_about(LOCAL_NXDOMAIN, slice_of(local, 200));
        outcome_of_list(&w->worker, &w->list, &reply, false);
        assert_int_equal(count_notices(), 1);
        assert_true(mentions("X-Line: 0\r\n"));
        destroy(w);
        free(r);
        free(indexes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_reply_at_each_command_has_the_outcome_of_the_fault_table),
        cmocka_unit_test(each_recipient_of_a_message_has_an_outcome_of_its_own),
        cmocka_unit_test(an_unknown_outcome_is_kept_and_asked_of_the_same_exchange_first),
        cmocka_unit_test(our_own_conclusions_bounce_or_defer_by_their_class),
        cmocka_unit_test(what_nothing_decides_is_never_bounced),
        cmocka_unit_test(a_message_that_cannot_be_read_is_kept_for_the_operator),
        cmocka_unit_test(marked_deliveries_bounce_with_the_reason_they_are_marked_for),
        cmocka_unit_test(notices_go_out_where_they_are_asked_for_and_nowhere_else),
        cmocka_unit_test(one_notice_speaks_of_all_who_failed_and_returns_the_content),
        cmocka_unit_test(the_largest_messages_have_their_notices_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
