/* Suspensions: an operator wants nothing new tried at a domain, or anywhere. The set is changed and
 * on disk first; the committer then goes through the queue for what it means there, and the
 * operator is answered behind that. */
#include "core/base/clock.h"
#include "workers/control_priv.h"

#include <stdio.h>
#include <stdlib.h>

enum { AGAIN_MS = 5000 };

static const json_int_t DURATION_MAX_MS = SUSPENSION_DAYS_MAX * INT64_C(24) * 3600000;

static struct suspensions *set_of(const struct control_client *c)
{
    return c->control->options.suspensions;
}

static const char *shown(const char *domain)
{
    return domain[0] != '\0' ? domain : "all mail";
}

json_t *control_describe_suspension(const struct suspension *s)
{
    uint64_t mono = clock_mono_ms(), wall = clock_wall_ms();
    json_t *o = s->domain[0] != '\0' ? json_pack("{s:s}", "domain", s->domain)
                                     : json_pack("{s:b}", "all", 1);
    if (o == NULL)
        return json_null();
    (void)json_object_set_new(
        o, "since_ms",
        json_integer(wall > s->since_wall_ms ? (json_int_t)(wall - s->since_wall_ms) : 0));
    if (s->until_mono_ms != 0)
        (void)json_object_set_new(
            o, "left_ms",
            json_integer(s->until_mono_ms > mono ? (json_int_t)(s->until_mono_ms - mono) : 0));
    if (s->reason[0] != '\0')
        (void)json_object_set_new(o, "reason", control_text(slice_str(s->reason)));
    return o;
}

json_t *control_suspensions(const struct control_options *o, unsigned max)
{
    json_t *list = json_array();
    unsigned room = suspensions_count(o->suspensions);
    struct suspension *all = calloc(room + 1, sizeof *all);
    unsigned count = all != NULL ? suspensions_list(o->suspensions, all, room) : 0;
    for (unsigned i = 0; i < count && i < max; i++)
        (void)json_array_append_new(list, control_describe_suspension(&all[i]));
    free(all);
    return list;
}

void control_suspend_list(struct control_client *c, const json_t *request)
{
    (void)request;
    json_t *list = control_suspensions(&c->control->options, SUSPENSIONS_MAX), *one;
    size_t i;
    json_array_foreach(list, i, one) control_say(c, json_incref(one));
    json_decref(list);
    control_done(c, NULL);
}

static void log_change(const struct control *control, const char *event, const struct suspension *s)
{
    struct log_line line;
    log_begin(&line, control->options.log, event);
    log_cstr(&line, "domain", s->domain[0] != '\0' ? s->domain : "*");
    if (s->until_mono_ms != 0)
        log_u64(&line, "left_ms",
                s->until_mono_ms > clock_mono_ms() ? s->until_mono_ms - clock_mono_ms() : 0);
    log_cstr(&line, "text", s->reason);
    log_end(&line);
}

/* ---- what it means for the queue ---- */

struct suspension_edit {
    struct commit_op op;
    struct control_client *client; /* NULL: nobody waits for it */
    struct error warning;          /* the change may not last; or "" */
};

static void on_gone_through(struct mail *mail, void *owner)
{
    (void)owner;
    struct suspension_edit *e = CONTAINER_OF(mail, struct suspension_edit, op.mail);
    struct control_client *c = e->client;
    if (c != NULL && e->op.status != STORE_OK) {
        control_error(
            c, "the suspensions are changed, but what is queued was not gone through, for the "
               "spool cannot be written: this relay ends, and its next start goes by them");
        control_resume(c);
    } else if (c != NULL) {
        json_t *answer = json_pack("{s:I,s:i}", "matched", (json_int_t)e->op.u.edit.matched,
                                   "suspended", (int)suspensions_count(set_of(c)));
        if (e->warning.text[0] != '\0')
            (void)json_object_set_new(answer, "warning", json_string(e->warning.text));
        control_done(c, answer);
        control_resume(c);
    }
    free(e);
}

static struct suspension_edit *make_edit(const char *domain)
{
    struct suspension_edit *e = calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    e->op = (struct commit_op){.kind = COMMIT_EDIT, .on_done = on_gone_through};
    e->op.u.edit.edit = EDIT_SUSPENSION;
    (void)snprintf(e->op.u.edit.domain, sizeof e->op.u.edit.domain, "%s", domain);
    return e;
}

/* What may not last is tried again until it does, and logged. */
static void note_change(struct control *control, enum suspensions_change change,
                        const struct error *warning)
{
    if (change == SUSPENSIONS_UNSAVED)
        log_note(control->options.log, "suspensions_unsaved", warning->text);
    control_await_suspensions(control);
}

static void submit(struct control *control, struct suspension_edit *e,
                   struct control_client *client)
{
    struct commit_op *op = &e->op;
    e->client = client;
    if (client != NULL) {
        client->busy = true;
        op->reply_to = &control->mailbox;
    }
    committer_submit(control->options.committer, &op);
}

/* ---- requests ---- */

/* Which suspension is meant: the domain's, or "" for that of all. False, having said so. */
static bool read_which(struct control_client *c, const json_t *request, char domain[DOMAIN_SIZE])
{
    bool all = json_is_true(json_object_get(request, "all"));
    if (set_of(c) == NULL) {
        control_error(c, "nothing can be suspended here");
        return false;
    }
    if (!control_domain_member(c, request, domain))
        return false;
    if ((domain[0] != '\0') + all == 1)
        return true;
    control_error(c, "name either a domain or all");
    return false;
}

/* False, having said so. */
static bool read_suspension(struct control_client *c, const json_t *request, struct suspension *out)
{
    const json_t *for_ms = json_object_get(request, "for_ms");
    const char *reason = json_string_value(json_object_get(request, "reason"));
    *out = (struct suspension){.since_wall_ms = clock_wall_ms()};
    if (!read_which(c, request, out->domain))
        return false;
    if (for_ms != NULL &&
        (json_integer_value(for_ms) < 1 || json_integer_value(for_ms) > DURATION_MAX_MS)) {
        control_error(c, "\"for_ms\" is a number from 1 to %lld", (long long)DURATION_MAX_MS);
        return false;
    }
    if (for_ms != NULL)
        out->until_mono_ms = clock_mono_ms() + (uint64_t)json_integer_value(for_ms);
    if (reason == NULL)
        return true;
    bool is_line = strlen(reason) < sizeof out->reason;
    for (const char *p = reason; *p != '\0'; p++)
        is_line = is_line && (unsigned char)*p >= ' ' && *p != 0x7f;
    if (!is_line)
        control_error(c, "\"reason\" is one line of at most %d bytes", SUSPENSION_REASON_SIZE - 1);
    else
        (void)snprintf(out->reason, sizeof out->reason, "%s", reason);
    return is_line;
}

void control_suspend(struct control_client *c, const json_t *request)
{
    struct suspension s;
    if (!read_suspension(c, request, &s))
        return;
    struct suspension_edit *e = make_edit(s.domain);
    if (e == NULL) {
        control_error(c, "out of memory");
        return;
    }
    enum suspensions_change change =
        suspensions_set(set_of(c), &s, clock_mono_ms(), clock_wall_ms(), &e->warning);
    if (change == SUSPENSIONS_REFUSED) {
        control_error(c, "%s", e->warning.text);
        free(e);
        return;
    }
    log_change(c->control, "suspended", &s);
    note_change(c->control, change, &e->warning);
    submit(c->control, e, c);
}

void control_unsuspend(struct control_client *c, const json_t *request)
{
    struct suspension s;
    char domain[DOMAIN_SIZE];
    if (!read_which(c, request, domain))
        return;
    if (!suspensions_find(set_of(c), domain, &s)) {
        bool all = suspensions_hold(set_of(c), domain);
        control_error(c, "%.100s is not suspended%s; `onward suspend list` shows what is",
                      shown(domain), all ? " by itself, but all mail is" : "");
        return;
    }
    struct suspension_edit *e = make_edit(domain);
    if (e == NULL) {
        control_error(c, "out of memory");
        return;
    }
    enum suspensions_change change =
        suspensions_clear(set_of(c), domain, clock_mono_ms(), clock_wall_ms(), &e->warning);
    log_change(c->control, "resumed", &s);
    note_change(c->control, change, &e->warning);
    submit(c->control, e, c);
}

/* ---- those whose time is up ---- */

/* False: it could not be taken out, for want of memory. */
static bool end_one(struct control *c, const struct suspension *s)
{
    struct suspension_edit *e = make_edit(s->domain);
    if (e == NULL)
        return false;
    enum suspensions_change change = suspensions_clear(
        c->options.suspensions, s->domain, clock_mono_ms(), clock_wall_ms(), &e->warning);
    log_change(c, "resumed", s);
    note_change(c, change, &e->warning);
    submit(c, e, NULL);
    return true;
}

/* The disk may take now what it did not before. */
static void save_again(struct control *c)
{
    struct error error = {{0}};
    if (suspensions_are_saved(c->options.suspensions))
        return;
    if (suspensions_save(c->options.suspensions, clock_mono_ms(), clock_wall_ms(), &error) ==
        SUSPENSIONS_SAVED)
        log_note(c->options.log, "suspensions_saved", "the disk knows all changes again");
}

static void on_time_up(struct timer *timer, void *owner)
{
    struct control *c = owner;
    unsigned room = suspensions_count(c->options.suspensions);
    struct suspension *all = calloc(room + 1, sizeof *all);
    unsigned count = all != NULL ? suspensions_list(c->options.suspensions, all, room) : 0;
    uint64_t now = clock_mono_ms();
    bool well = all != NULL;
    save_again(c);
    for (unsigned i = 0; i < count && well; i++)
        if (all[i].until_mono_ms != 0 && all[i].until_mono_ms <= now)
            well = end_one(c, &all[i]);
    free(all);
    control_await_suspensions(c);
    if (!well)
        timer_arm(&c->timers, timer, now + AGAIN_MS);
}

void control_start_suspensions(struct control *c)
{
    timer_init(&c->suspension_timer, on_time_up);
    control_await_suspensions(c);
}

void control_await_suspensions(struct control *c)
{
    struct suspensions *set = c->options.suspensions;
    uint64_t next = suspensions_next_end(set), again = clock_mono_ms() + AGAIN_MS;
    if (set != NULL && !suspensions_are_saved(set) && (next == 0 || next > again))
        next = again;
    if (next != 0)
        timer_arm(&c->timers, &c->suspension_timer, next);
    else
        timer_disarm(&c->timers, &c->suspension_timer);
}
