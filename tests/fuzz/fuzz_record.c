/* Any bytes as what the spool holds of a message, the envelope (first byte even) or a recipient's
 * state (odd): read within bounds; what is taken can end no line of a protocol, comes out the same
 * when it is written again, and the queue takes it. */
#include "core/queue/destination.h"
#include "core/queue/jobs.h"
#include "core/queue/schedule.h"
#include "core/spool/envelope.h"
#include "core/spool/store_priv.h"
#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECIPIENTS_MAX = 64, RING_SLOTS = 256 };

static bool same_envelope(const struct envelope *a, const struct envelope *b)
{
    return a->id == b->id && a->arrived_wall_ms == b->arrived_wall_ms &&
           a->size_bytes == b->size_bytes && a->header_bytes == b->header_bytes &&
           a->flags == b->flags && a->ret == b->ret && slice_equal(a->sender, b->sender) &&
           slice_equal(a->envid, b->envid) && slice_equal(a->origin, b->origin) &&
           a->recipient_count == b->recipient_count;
}

static bool same_recipient(const struct envelope_recipient *a, const struct envelope_recipient *b)
{
    return slice_equal(a->address, b->address) && slice_equal(a->domain, b->domain) &&
           slice_equal(a->orcpt, b->orcpt) && a->notify == b->notify;
}

static void on_pushed(void *context, unsigned count)
{
    (void)context, (void)count;
}

/* As at a start: each sound recipient is there, in as many deliveries as there are domains. */
static void check_queue(struct slice record, const struct envelope *e, bool sound)
{
    static struct jobs *jobs;
    static struct destination_table *destinations;
    struct priority_turn turn = {0};
    if (jobs == NULL) {
        jobs = jobs_create(RING_SLOTS);
        destinations = destination_table_create();
    }
    struct schedule_options options = {.policy = {.retry_first_ms = 1000,
                                                  .retry_max_ms = 8000,
                                                  .age_limit_ms = UINT64_C(86400000)},
                                       .jobs = jobs,
                                       .destinations = destinations,
                                       .on_pushed = on_pushed,
                                       .random_seed = 1};
    struct schedule *s = schedule_create(&options, 1000, 1000);
    ASSERT(jobs != NULL && destinations != NULL && s != NULL);
    bool added = schedule_add(s, 1, record, NULL, NULL) == SCHEDULE_ADDED;
    ASSERT(added == sound);
    ASSERT(schedule_recipients(s) == (added ? e->recipient_count : 0));
    (void)schedule_run(s, 1000, 1000);
    uint64_t out = 0;
    for (struct delivery *d; (d = jobs_take(jobs, &turn)) != NULL;)
        out += d->recipient_count;
    ASSERT(out == schedule_recipients(s));
    schedule_destroy(&s);
}

static void check_envelope(struct slice record)
{
    struct envelope e, again;
    struct envelope_recipient recipients[RECIPIENTS_MAX], r;
    bool sound = true;
    if (!envelope_decode(record, &e)) {
        ASSERT(!envelope_decode_recipient(record, 0, &r));
        return;
    }
    ASSERT(e.recipient_count > 0 && e.header_bytes <= e.size_bytes);
    ASSERT(lies_within(e.sender, record) && lies_within(e.envid, record) &&
           lies_within(e.origin, record));
    ASSERT(is_one_line(e.sender) && is_one_line(e.envid));
    ASSERT(!envelope_decode_recipient(record, e.recipient_count, &r));
    if (e.recipient_count > RECIPIENTS_MAX)
        return;
    for (uint32_t i = 0; i < e.recipient_count; i++) {
        sound = sound && envelope_decode_recipient(record, i, &recipients[i]);
        if (sound)
            ASSERT(is_one_line(recipients[i].address) && is_one_line(recipients[i].domain) &&
                   is_one_line(recipients[i].orcpt) && recipients[i].domain.len < 256);
    }
    check_queue(record, &e, sound);
    if (!sound)
        return;
    struct buf out;
    buf_init(&out, ENVELOPE_ENCODED_MAX);
    e.recipients = recipients;
    envelope_encode(&e, &out);
    ASSERT(buf_ok(&out) && envelope_decode(buf_slice(&out), &again) && same_envelope(&e, &again));
    for (uint32_t i = 0; i < e.recipient_count; i++)
        ASSERT(envelope_decode_recipient(buf_slice(&out), i, &r) &&
               same_recipient(&recipients[i], &r));
    buf_fini(&out);
}

static void check_state(struct slice record)
{
    struct store_state s, again;
    char out[STORE_STATE_MAX], twice[STORE_STATE_MAX];
    if (!store_state_decode(record, &s))
        return;
    ASSERT(s.progress <= PROGRESS_DONE && s.last.class <= 5 && s.last.text_len <= REPLY_TEXT_SIZE);
    ASSERT(strlen(s.last_exchange) < sizeof s.last_exchange);
    ASSERT(is_one_line(slice_of(s.last.text, s.last.text_len)));
    char text[REPLY_TEXT_SIZE + 32];
    (void)reply_format(&s.last, text, sizeof text);
    size_t len = store_state_encode(&s, out);
    ASSERT(store_state_decode(slice_of(out, len), &again));
    ASSERT(store_state_encode(&again, twice) == len && memcmp(out, twice, len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct slice record = slice_of(data + 1, size - 1);
    if ((data[0] & 1) == 0)
        check_envelope(record);
    else
        check_state(record);
    return 0;
}
