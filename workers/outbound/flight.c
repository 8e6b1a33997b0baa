#include "workers/outbound/flight.h"

#include "core/base/assert.h"

#include <stdlib.h>

enum { EXCHANGES_TRIED_MAX = 2 }; /* RFC 5321 5.1: at least two addresses */

static uint32_t count_recipients(const struct link *list)
{
    uint32_t count = 0;
    for (const struct link *l = list->next; l != list; l = l->next)
        count += CONTAINER_OF(l, struct delivery, shared.queue_link)->recipient_count;
    return count;
}

static struct flight *allocate(uint32_t count, size_t record_len)
{
    struct flight *f = calloc(1, sizeof *f);
    if (f == NULL)
        return NULL;
    f->count = count;
    list_init(&f->link);
    f->record = malloc(record_len > 0 ? record_len : 1);
    f->recipients = calloc(count, sizeof *f->recipients);
    f->batch = calloc(count, sizeof *f->batch);
    f->batch_recipients = calloc(count, sizeof *f->batch_recipients);
    list_init(&f->deliveries);
    if (f->record == NULL || f->recipients == NULL || f->batch == NULL ||
        f->batch_recipients == NULL)
        flight_destroy(&f);
    return f;
}

/* Fills the recipients from the record. False where it is damaged. */
static bool fill(struct flight *f, struct slice record, struct link *list)
{
    if (!envelope_decode(record, &f->envelope))
        return false;
    uint32_t at = 0;
    for (struct link *l = list->next; l != list; l = l->next) {
        struct delivery *d = CONTAINER_OF(l, struct delivery, shared.queue_link);
        const uint32_t *indexes = delivery_recipients(d);
        if (d->try_first != NULL && f->try_first == NULL)
            f->try_first = d->try_first;
        for (uint32_t i = 0; i < d->recipient_count; i++, at++) {
            struct flight_recipient *r = &f->recipients[at];
            *r = (struct flight_recipient){.delivery = d, .index = indexes[i]};
            if (!envelope_decode_recipient(record, indexes[i], &r->recipient))
                return false;
        }
    }
    ASSERT(at == f->count);
    return true;
}

struct flight *flight_create(struct link *list, struct store_reader *reader, uint64_t now_ms,
                             bool *damaged_out)
{
    ASSERT(!list_empty(list));
    const struct delivery *first = CONTAINER_OF(list->next, struct delivery, shared.queue_link);
    *damaged_out = false;
    if (!store_read_begin(reader))
        return NULL;
    struct slice stored;
    struct flight *f = NULL;
    if (!store_get_envelope(reader, first->message->id, &stored)) {
        *damaged_out = true;
    } else if ((f = allocate(count_recipients(list), stored.len)) != NULL) {
        memcpy(f->record, stored.ptr, stored.len);
        f->started_ms = now_ms;
        if (!fill(f, slice_of(f->record, stored.len), list)) {
            *damaged_out = true;
            flight_destroy(&f);
        }
    }
    store_read_end(reader);
    if (f != NULL)
        list_splice_back(&f->deliveries, list);
    return f;
}

void flight_destroy(struct flight **f)
{
    if (*f == NULL)
        return;
    ASSERT((*f)->carriers == 0);
    ASSERT(list_empty(&(*f)->deliveries));
    free((*f)->record);
    free((*f)->recipients);
    free((*f)->batch);
    free((*f)->batch_recipients);
    free(*f);
    *f = NULL;
}

bool flight_is_untouched(const struct flight *f)
{
    for (uint32_t i = 0; i < f->count; i++)
        if (f->recipients[i].progress != FLIGHT_UNTRIED || f->recipients[i].reply.code != 0)
            return false;
    return f->exchanges == 0;
}

void flight_undo(struct flight **f, struct link *deliveries_out)
{
    ASSERT(flight_is_untouched(*f) && (*f)->token == NULL);
    list_splice_back(deliveries_out, &(*f)->deliveries);
    flight_destroy(f);
}

void flight_forget_batch(struct flight *f)
{
    ASSERT(f->carriers == 0);
    f->batch_count = 0;
    f->token = NULL;
}

static bool of_one_domain(const struct flight *f, uint32_t a, uint32_t b)
{
    return f->recipients[a].delivery->domain == f->recipients[b].delivery->domain;
}

uint32_t flight_next_batch(struct flight *f, uint32_t max)
{
    ASSERT(f->carriers == 0);
    f->batch_count = 0;
    ASSERT(f->token == NULL);
    for (uint32_t i = 0; i < f->count && f->batch_count < max; i++) {
        if (f->recipients[i].progress != FLIGHT_UNTRIED)
            continue;
        bool other_domain = f->batch_count > 0 && !of_one_domain(f, f->batch[0], i);
        if (f->one_domain && other_domain)
            continue;
        f->batch[f->batch_count] = i;
        f->batch_recipients[f->batch_count] = f->recipients[i].recipient;
        f->batch_count++;
    }
    return f->batch_count;
}

bool flight_take_token(struct flight *f, const struct session *s)
{
    if (f->token == NULL)
        f->token = s;
    return f->token == s;
}

void flight_return_token(struct flight *f, const struct session *s)
{
    if (f->token == s)
        f->token = NULL;
}

void flight_settle(struct flight_recipient *r, enum flight_progress progress,
                   const struct reply *reply)
{
    ASSERT(r->progress != FLIGHT_FINAL);
    r->progress = progress;
    r->reply = *reply;
}

/* 452, and 552 as old servers say it, on RCPT after others were taken: the rest goes in the next
 * transaction. */
static bool means_too_many(const struct reply *r)
{
    bool about_recipients = r->subject == 0 || (r->subject == 5 && r->detail == 3);
    return (r->code == 452 || r->code == 552) && about_recipients;
}

/* A 4xx about the mailbox (x.2.x) or about policy and rate (x.7.x) would be the same everywhere. */
static bool worth_another_exchange(const struct reply *r, bool others_awaited)
{
    return r->class == 4 && (others_awaited || (r->subject != 2 && r->subject != 7));
}

/* Put off, beside recipients of other domains that were taken, while none of its own was: some
 * exchanges take one domain in a transaction (Google's say 451 4.3.0 to all others), and which,
 * goes by who comes first. */
static bool is_of_a_second_domain(const struct flight *f, const struct reply *replies, uint32_t i)
{
    if (f->one_domain || !worth_another_exchange(&replies[i], false))
        return false;
    bool any_taken = false;
    for (uint32_t k = 0; k < f->batch_count; k++) {
        bool taken = replies[k].class == 2;
        if (taken && of_one_domain(f, f->batch[k], f->batch[i]))
            return false;
        any_taken |= taken;
    }
    return any_taken;
}

void flight_apply(struct flight *f, const struct reply *replies, bool others_awaited)
{
    bool any_taken = false, one_domain = f->one_domain;
    for (uint32_t i = 0; i < f->batch_count; i++)
        any_taken |= replies[i].class == 2;
    for (uint32_t i = 0; i < f->batch_count; i++) {
        struct flight_recipient *r = &f->recipients[f->batch[i]];
        bool apart = is_of_a_second_domain(f, replies, i);
        one_domain |= apart;
        if (apart || (any_taken && means_too_many(&replies[i])))
            r->reply = replies[i]; /* stays UNTRIED; each round takes some, so this ends */
        else if (worth_another_exchange(&replies[i], others_awaited))
            flight_settle(r, FLIGHT_ELSEWHERE, &replies[i]);
        else
            flight_settle(r, FLIGHT_FINAL, &replies[i]);
    }
    f->one_domain = one_domain;
    f->exchanges += !flight_has_untried(f); /* else it is asked for the rest */
    f->batch_count = 0;
    f->token = NULL;
}

void flight_apply_unknown(struct flight *f, const struct reply *replies, const struct address *at)
{
    struct reply unknown = reply_local(LOCAL_UNKNOWN_OUTCOME);
    for (uint32_t i = 0; i < f->batch_count; i++) {
        struct flight_recipient *r = &f->recipients[f->batch[i]];
        bool refused = replies[i].class == 4 || replies[i].class == 5;
        flight_settle(r, FLIGHT_FINAL, refused ? &replies[i] : &unknown);
    }
    f->batch_count = 0;
    f->token = NULL;
    f->unknown = true;
    f->unknown_at = *at;
}

void flight_note_asked(struct flight *f, const struct address *a)
{
    if (!flight_has_asked(f, a))
        f->asked[f->asked_count++] = *a;
}

bool flight_has_asked(const struct flight *f, const struct address *a)
{
    for (unsigned i = 0; i < f->asked_count; i++)
        if (address_same_ip(a, &f->asked[i]))
            return true;
    return f->asked_count == FLIGHT_ASKED_MAX;
}

bool flight_try_elsewhere(struct flight *f)
{
    if (f->exchanges >= EXCHANGES_TRIED_MAX)
        return false;
    bool any = false;
    for (uint32_t i = 0; i < f->count; i++) {
        if (f->recipients[i].progress != FLIGHT_ELSEWHERE)
            continue;
        f->recipients[i].progress = FLIGHT_UNTRIED;
        any = true;
    }
    return any;
}

bool flight_has_untried(const struct flight *f)
{
    for (uint32_t i = 0; i < f->count; i++)
        if (f->recipients[i].progress == FLIGHT_UNTRIED)
            return true;
    return false;
}

void flight_give_up(struct flight *f, const struct reply *reply)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct flight_recipient *r = &f->recipients[i];
        if (r->progress == FLIGHT_FINAL)
            continue;
        r->progress = FLIGHT_FINAL;
        if (r->reply.code == 0)
            r->reply = *reply;
    }
}
