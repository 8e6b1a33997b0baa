/* Fills a spool with messages, as if they had been submitted, without a relay: what the scenario
 * `backlog` starts from.
 *
 *   fill SPOOL MESSAGES DOMAINS ORIGIN BYTES DUE_S
 *
 * Message n (from 0) is for one recipient at d<n % DOMAINS>.ORIGIN and carries the X-Id "b<n>".
 * With DUE_S over 0 every recipient has had one attempt and waits so long for the next; with 0 it
 * was never tried. The ids are of the present, so the age limit is far. */
#include "core/base/clock.h"
#include "core/spool/envelope.h"
#include "core/spool/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PER_COMMIT = 5000, CONTENT_MAX = 1 << 20, RECORD_MAX = 4096 };

static const uint64_t MAP_BYTES = UINT64_C(64) << 30;

/* What the arguments say. */
struct plan {
    unsigned long messages, domains, bytes, due_s;
    const char *origin;
};

static _Noreturn void fail(const char *what)
{
    (void)fprintf(stderr, "fill: %s\n", what);
    _exit(1);
}

static void write_content(const struct plan *p, unsigned long number, struct buf *out)
{
    char head[256];
    int len = snprintf(head, sizeof head,
                       "From: <sender@postbox.%s>\r\nSubject: b%lu\r\nMessage-ID: <b%lu@%s>\r\n"
                       "X-Id: b%lu\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n\r\n",
                       p->origin, number, number, p->origin, number);
    buf_clear(out);
    buf_append(out, slice_of(head, (size_t)len));
    while (buf_len(out) < p->bytes)
        buf_append(out, SLICE_LIT("0123456789012345678901234567890123456789\r\n"));
}

static void write_record(const struct plan *p, unsigned long number, uint64_t id, uint64_t now_ms,
                         size_t size, struct buf *out)
{
    char address[128], sender[128];
    (void)snprintf(address, sizeof address, "r@d%lu.%s", number % p->domains, p->origin);
    (void)snprintf(sender, sizeof sender, "sender@postbox.%s", p->origin);
    struct envelope_recipient to = {.address = slice_str(address),
                                    .domain = slice_skip(slice_str(address), 2),
                                    .orcpt = SLICE_LIT("")};
    struct envelope e = {.id = id,
                         .arrived_wall_ms = now_ms,
                         .size_bytes = size,
                         .header_bytes = 100,
                         .sender = slice_str(sender),
                         .envid = SLICE_LIT(""),
                         .origin = SLICE_LIT("[127.0.0.1] fill"),
                         .recipient_count = 1,
                         .recipients = &to};
    buf_clear(out);
    envelope_encode(&e, out);
}

static void put(struct store *s, const struct plan *p, uint64_t id, uint64_t now_ms,
                const struct buf *record, const struct buf *content)
{
    const struct store_state waiting = {
        .progress = PROGRESS_WAITING,
        .attempts = 1,
        .due_wall_ms = now_ms + p->due_s * 1000,
        .last = {.code = 451, .class = 4, .subject = 4, .detail = 1}};
    bool stored = store_put_chunk(s, id, 0, buf_slice(content)) == STORE_OK &&
                  store_put_envelope(s, id, buf_slice(record)) == STORE_OK &&
                  (p->due_s == 0 || store_put_state(s, id, 0, &waiting) == STORE_OK);
    if (!stored)
        fail("the spool takes no more");
}

static void fill(struct store *s, const struct plan *p)
{
    struct buf content, record;
    uint64_t now_ms = clock_wall_ms(), first_id = now_ms << 20;
    buf_init(&content, CONTENT_MAX);
    buf_init(&record, RECORD_MAX);
    for (unsigned long n = 0; n < p->messages; n++) {
        if (n % PER_COMMIT == 0 && store_begin(s) != STORE_OK)
            fail("no transaction");
        write_content(p, n, &content);
        write_record(p, n, first_id + n, now_ms, buf_len(&content), &record);
        if (!buf_ok(&content) || !buf_ok(&record))
            fail("out of memory, or messages too large");
        put(s, p, first_id + n, now_ms, &record, &content);
        bool last = n + 1 == p->messages;
        if ((last || n % PER_COMMIT == PER_COMMIT - 1) && store_commit(s) != STORE_OK)
            fail("a commit failed");
    }
    buf_fini(&content);
    buf_fini(&record);
}

int main(int argc, char **argv)
{
    struct error error = {0};
    if (argc != 7) {
        (void)fputs("usage: fill SPOOL MESSAGES DOMAINS ORIGIN BYTES DUE_S\n", stderr);
        return 2;
    }
    struct plan p = {.messages = strtoul(argv[2], NULL, 10),
                     .domains = strtoul(argv[3], NULL, 10),
                     .origin = argv[4],
                     .bytes = strtoul(argv[5], NULL, 10),
                     .due_s = strtoul(argv[6], NULL, 10)};
    if (p.messages == 0 || p.domains == 0 || p.bytes > CONTENT_MAX / 2)
        fail("that makes no sense");
    struct store_options options = {
        .path = argv[1], .map_bytes = MAP_BYTES, .free_floor_bytes = 1 << 20, .readers_max = 4};
    struct store *s = store_open(&options, &error);
    if (s == NULL)
        fail(error.text);
    fill(s, &p);
    store_close(&s);
    return 0;
}
