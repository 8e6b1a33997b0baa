#include "workers/events/webhook.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    TOKEN_BYTES_MAX = 4096,
    ANSWER_BYTES_MAX = 64 << 10, /* longer ones are cut off, and their status holds */
    CONNECT_LIMIT_MS = 10000,
    RETRY_FIRST_MS = 1000,
    RETRY_MAX_MS = 5 * 60000,
    HTTP_TOO_LARGE = 413,
};

/* ---- what libcurl calls ---- */

static size_t on_answer(char *bytes, size_t size, size_t count, void *context)
{
    struct webhook *w = context;
    size_t len = size * count, room = sizeof w->answer - w->answer_len;
    memcpy(w->answer + w->answer_len, bytes, len < room ? len : room);
    w->answer_len += len < room ? len : room;
    w->answer_bytes += len;
    return w->answer_bytes <= ANSWER_BYTES_MAX ? len : 0; /* 0 ends the request */
}

/* ---- beginning and end ---- */

/* For logs and people, scheme://host[:port]: what stands before the "@" may be secret, and so may
 * the path and the query, where many receivers keep the token by which they know a sender. */
static void shorten_url(const char *url, char *out, size_t size)
{
    const char *host = strstr(url, "://");
    host = host != NULL ? host + 3 : url;
    size_t host_len = strcspn(host, "/?#");
    const char *at = memrchr(host, '@', host_len); /* a password may hold one */
    const char *from = at != NULL ? at + 1 : host;
    (void)snprintf(out, size, "%.*s%.*s", (int)(host - url), url, (int)(host + host_len - from),
                   from);
}

static bool add_header(struct webhook *w, const char *header)
{
    struct curl_slist *longer = curl_slist_append(w->headers, header);
    if (longer != NULL)
        w->headers = longer;
    return longer != NULL;
}

/* Events go where the configuration says and nowhere else: not where an answer points to, nor by a
 * proxy of the environment. */
static bool set_options(struct webhook *w)
{
    const struct config_webhook *c = w->config;
    long limit = (long)c->timeout_ms;
    long connect_limit = limit < CONNECT_LIMIT_MS ? limit : CONNECT_LIMIT_MS;
    CURL *e = w->easy;
    return curl_easy_setopt(e, CURLOPT_URL, c->url) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_POST, 1L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_WRITEDATA, w) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PRIVATE, w) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, limit) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, connect_limit) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, c->verify_tls ? 1L : 0L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, c->verify_tls ? 2L : 0L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_USERAGENT, "onward/" ONWARD_VERSION) == CURLE_OK &&
           (c->ca_file == NULL || curl_easy_setopt(e, CURLOPT_CAINFO, c->ca_file) == CURLE_OK);
}

bool webhook_init(struct webhook *w, const struct config_webhook *config, unsigned index,
                  CURLM *multi, struct log *log)
{
    *w = (struct webhook){.config = config,
                          .index = index,
                          .multi = multi,
                          .log = log,
                          .batch_max = config->batch_size};
    buf_init(&w->body, WEBHOOK_BODY_BYTES * 2);
    shorten_url(config->url, w->shown_url, sizeof w->shown_url);
    w->easy = curl_easy_init();
    return w->easy != NULL && set_options(w);
}

static void take_back(struct webhook *w)
{
    if (w->sending)
        (void)curl_multi_remove_handle(w->multi, w->easy);
    w->sending = false;
    curl_slist_free_all(w->headers);
    w->headers = NULL;
}

void webhook_fini(struct webhook *w)
{
    take_back(w);
    curl_easy_cleanup(w->easy);
    buf_fini(&w->body);
}

/* ---- a request ---- */

void webhook_note_pending(struct webhook *w, uint64_t pending, uint64_t mono_ms)
{
    if (pending == 0 || w->sending || w->failures > 0 || w->done_upto > 0)
        return; /* while it fails, its back-off says when */
    bool now = w->was_cut || pending >= w->batch_max;
    if (now || w->due_mono_ms == 0)
        w->due_mono_ms = now ? mono_ms : mono_ms + w->config->max_delay_ms;
}

/* Read for each request, so that a new token needs no restart. False: there is none to be had, and
 * without it nothing is sent; `why` says so then. */
static bool add_token(struct webhook *w, char why[WEBHOOK_ERROR_SIZE])
{
    char header[TOKEN_BYTES_MAX + 32], token[TOKEN_BYTES_MAX + 1];
    if (w->config->token_file == NULL)
        return true;
    FILE *file = fopen(w->config->token_file, "re");
    if (file == NULL)
        (void)snprintf(why, WEBHOOK_ERROR_SIZE, "events.webhooks.token_file %.80s: %m",
                       w->config->token_file);
    size_t len = file != NULL ? fread(token, 1, sizeof token - 1, file) : 0;
    if (file != NULL)
        (void)fclose(file);
    while (len > 0 && (token[len - 1] == '\n' || token[len - 1] == '\r'))
        len--;
    for (size_t i = 0; i < len; i++)
        if (token[i] <= ' ' || token[i] > '~')
            len = 0; /* no header may be smuggled in */
    token[len] = '\0';
    if (file != NULL && len == 0)
        (void)snprintf(
            why, WEBHOOK_ERROR_SIZE,
            "events.webhooks.token_file %.80s holds no token: one word of printable ASCII",
            w->config->token_file);
    (void)snprintf(header, sizeof header, "Authorization: Bearer %s", token);
    return len > 0 && add_header(w, header);
}

static void log_failure(const struct webhook *w, uint64_t wait_ms)
{
    struct log_line line;
    log_begin(&line, w->log, "webhook_failed");
    log_cstr(&line, "url", w->shown_url);
    log_cstr(&line, "text", w->last_error);
    log_u64(&line, "events", w->sent.count);
    log_u64(&line, "failures", w->failures);
    log_u64(&line, "again_ms", wait_ms);
    log_end(&line);
}

static void fail(struct webhook *w, uint64_t wait_ms, uint64_t mono_ms)
{
    w->failed++;
    w->failures++;
    w->due_mono_ms = mono_ms + wait_ms;
    log_failure(w, wait_ms);
}

void webhook_start(struct webhook *w, struct event_store *store, const char *hostname,
                   uint64_t mono_ms)
{
    if (w->sending || w->done_upto > 0 || w->due_mono_ms == 0 || mono_ms < w->due_mono_ms)
        return;
    w->due_mono_ms = 0;
    buf_clear(&w->body);
    buf_printf(&w->body, "{\"relay\":\"%s\",\"dropped\":%llu,\"events\":[", hostname,
               (unsigned long long)event_store_dropped(store, w->index));
    w->sent = event_store_read(store, w->index, w->batch_max, WEBHOOK_BODY_BYTES, &w->body);
    buf_append_str(&w->body, "]}\n");
    if (w->sent.count == 0) { /* nothing it wants */
        w->done_upto = w->sent.upto;
        return;
    }
    w->was_cut = buf_len(&w->body) >= WEBHOOK_BODY_BYTES;
    w->answer_len = w->answer_bytes = 0;
    char why[WEBHOOK_ERROR_SIZE] = "out of memory";
    struct slice body = buf_slice(&w->body);
    bool ready = buf_ok(&w->body) && add_header(w, "Content-Type: application/json") &&
                 add_header(w, "Expect:") && add_token(w, why) &&
                 curl_easy_setopt(w->easy, CURLOPT_HTTPHEADER, w->headers) == CURLE_OK &&
                 curl_easy_setopt(w->easy, CURLOPT_POSTFIELDSIZE, (long)body.len) == CURLE_OK &&
                 curl_easy_setopt(w->easy, CURLOPT_POSTFIELDS, body.ptr) == CURLE_OK;
    w->sending = ready && curl_multi_add_handle(w->multi, w->easy) == CURLM_OK;
    if (w->sending)
        return;
    take_back(w);
    memcpy(w->last_error, why, sizeof why);
    fail(w, RETRY_MAX_MS / 10, mono_ms);
}

/* Twice as long as before, moved a little so that relays do not come together. */
static uint64_t backoff(const struct webhook *w, struct random *random)
{
    uint64_t wait = RETRY_FIRST_MS;
    for (unsigned i = 0; i < w->failures && wait < RETRY_MAX_MS; i++)
        wait *= 2;
    return random_jitter(random, wait < RETRY_MAX_MS ? wait : RETRY_MAX_MS, 10);
}

static void describe_failure(struct webhook *w, bool answered, CURLcode result, long status)
{
    struct reply said; /* makes whatever it said printable */
    reply_set_text(&said, slice_of(w->answer, w->answer_len));
    if (!answered)
        (void)snprintf(w->last_error, sizeof w->last_error, "%s", curl_easy_strerror(result));
    else
        (void)snprintf(w->last_error, sizeof w->last_error, "HTTP status %ld: %.*s", status,
                       (int)said.text_len, said.text);
}

static void log_recovery(const struct webhook *w)
{
    struct log_line line;
    log_begin(&line, w->log, "webhook_recovered");
    log_cstr(&line, "url", w->shown_url);
    log_u64(&line, "failures", w->failures);
    log_end(&line);
}

/* How long it asks to be left alone (RFC 9110 10.2.3), within reason. */
static uint64_t asked_wait_ms(struct webhook *w)
{
    curl_off_t seconds = 0;
    if (curl_easy_getinfo(w->easy, CURLINFO_RETRY_AFTER, &seconds) != CURLE_OK || seconds <= 0)
        return 0;
    return seconds < RETRY_MAX_MS / 1000 ? (uint64_t)seconds * 1000 : RETRY_MAX_MS;
}

void webhook_ended(struct webhook *w, CURLcode result, struct random *random, uint64_t mono_ms)
{
    long status = 0;
    (void)curl_easy_getinfo(w->easy, CURLINFO_RESPONSE_CODE, &status);
    bool answered = result == CURLE_OK || w->answer_bytes > ANSWER_BYTES_MAX;
    uint64_t asked = asked_wait_ms(w);
    take_back(w);
    if (answered && status >= 200 && status < 300) {
        w->delivered += w->sent.count;
        w->done_upto = w->sent.upto;
        if (w->failures > 0)
            log_recovery(w);
        w->failures = 0;
        return;
    }
    uint64_t wait = backoff(w, random);
    if (answered && status == HTTP_TOO_LARGE && w->batch_max > 1) {
        w->batch_max /= 2;
        wait = 0;
    }
    describe_failure(w, answered, result, status);
    fail(w, wait > asked ? wait : asked, mono_ms);
}
