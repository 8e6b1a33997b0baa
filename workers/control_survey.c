/* The queue by domain and age, for the "view" request: read from the spool by the control's own
 * thread, oldest first, a short snapshot at a time, so that it costs no mail anything. */
#include "core/base/clock.h"
#include "workers/control_priv.h"

#include <stdlib.h>

enum {
    SCAN_MAX = 20000, /* messages looked at: some 30 ms */
    PER_SNAPSHOT = 256,
    KEPT_MS = 5000, /* the same answer for all who ask meanwhile */
    DOMAINS_MAX = 1024,
    DOMAINS_SHOWN = 50,
    DOMAIN_SHOWN = 80,
    AGES = 6,
};

static const uint64_t age_limits_ms[AGES] = {60000,       5 * 60000,     3600000,
                                             4 * 3600000, 24 * 3600000u, UINT64_MAX};
static const char *const age_names[AGES] = {"1m", "5m", "1h", "4h", "1d", "older"};

struct tally {
    char name[DOMAIN_SHOWN + 1]; /* "" = free */
    uint64_t recipients, deferred, transactional;
    uint64_t oldest_ms;
};

struct survey {
    struct tally domains[DOMAINS_MAX];
    uint64_t elsewhere; /* recipients at domains there was no place for */
    uint64_t ages[AGES];
    uint64_t scanned;
    bool complete;
    uint64_t now_ms;
};

/* The domain's tally, or NULL where the table is full. */
static struct tally *tally_of(struct survey *s, struct slice domain)
{
    enum { LOOK_MAX = 64 };
    uint32_t hash = 2166136261u;
    domain = slice_take(domain, DOMAIN_SHOWN);
    for (size_t i = 0; i < domain.len; i++)
        hash = (hash ^ (uint8_t)domain.ptr[i]) * 16777619u;
    for (uint32_t i = 0; i < LOOK_MAX; i++) {
        struct tally *t = &s->domains[(hash + i) % DOMAINS_MAX];
        if (t->name[0] == '\0')
            (void)slice_to_cstr(domain, t->name, sizeof t->name);
        if (slice_equal(slice_str(t->name), domain))
            return t;
    }
    return NULL;
}

static void count_recipient(struct survey *s, const struct envelope *e, struct slice domain,
                            bool deferred)
{
    uint64_t age = s->now_ms > e->arrived_wall_ms ? s->now_ms - e->arrived_wall_ms : 0;
    unsigned bucket = 0;
    while (age >= age_limits_ms[bucket])
        bucket++;
    s->ages[bucket]++;
    struct tally *t = tally_of(s, domain);
    if (t == NULL) {
        s->elsewhere++;
        return;
    }
    t->recipients++;
    t->deferred += deferred;
    t->transactional += e->priority == PRIORITY_TRANSACTIONAL;
    t->oldest_ms = age > t->oldest_ms ? age : t->oldest_ms;
}

static void count_message(struct survey *s, struct store_reader *reader, struct slice record)
{
    struct envelope e;
    if (!envelope_decode(record, &e))
        return;
    for (uint32_t i = 0; i < e.recipient_count; i++) {
        struct envelope_recipient r;
        struct store_state state;
        if (!envelope_decode_recipient(record, i, &r))
            return;
        bool known = store_get_state(reader, e.id, i, &state);
        if (!known || state.progress != PROGRESS_DONE)
            count_recipient(s, &e, r.domain, known && state.attempts > 0);
    }
}

static void scan(struct survey *s, struct store_reader *reader)
{
    uint64_t id = 0;
    bool more = true;
    while (more && s->scanned < SCAN_MAX && store_read_begin(reader)) {
        for (int i = 0; i < PER_SNAPSHOT && more; i++) {
            struct slice record;
            more = store_next_envelope(reader, id, &id, &record);
            if (more) {
                count_message(s, reader, record);
                s->scanned++;
            }
        }
        store_read_end(reader);
    }
    s->complete = !more;
}

static int most_first(const void *a, const void *b)
{
    const struct tally *x = a, *y = b;
    return (x->recipients < y->recipients) - (x->recipients > y->recipients);
}

static json_t *describe(struct survey *s, struct suspensions *suspensions)
{
    json_t *ages = json_object(), *domains = json_array();
    for (int i = 0; i < AGES; i++)
        (void)json_object_set_new(ages, age_names[i], json_integer((json_int_t)s->ages[i]));
    qsort(s->domains, DOMAINS_MAX, sizeof *s->domains, most_first);
    for (int i = 0; i < DOMAINS_SHOWN && s->domains[i].recipients > 0; i++) {
        const struct tally *t = &s->domains[i];
        bool suspended = suspensions_hold(suspensions, t->name);
        (void)json_array_append_new(
            domains,
            json_pack("{s:o,s:I,s:I,s:I,s:I,s:b}", "domain", control_text(slice_str(t->name)),
                      "recipients", (json_int_t)t->recipients, "deferred", (json_int_t)t->deferred,
                      "transactional", (json_int_t)t->transactional, "oldest_ms",
                      (json_int_t)t->oldest_ms, "suspended", (int)suspended));
    }
    return json_pack("{s:o,s:o,s:b,s:I}", "ages", ages, "domains", domains, "complete",
                     (int)s->complete, "scanned", (json_int_t)s->scanned);
}

json_t *control_survey(struct control *c)
{
    uint64_t now = clock_mono_ms();
    if (c->survey != NULL && now - c->surveyed_mono_ms < KEPT_MS)
        return json_incref(c->survey);
    struct survey *s = calloc(1, sizeof *s);
    if (s == NULL)
        return json_null();
    s->now_ms = clock_wall_ms();
    scan(s, c->reader);
    json_decref(c->survey);
    c->survey = describe(s, c->options.suspensions);
    c->surveyed_mono_ms = now;
    free(s);
    return json_incref(c->survey);
}
