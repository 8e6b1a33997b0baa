/* One webhook: its request under way, and when the next one is due. Owner: the events thread. */
#ifndef ONWARD_WORKERS_EVENTS_WEBHOOK_H
#define ONWARD_WORKERS_EVENTS_WEBHOOK_H

#include "core/base/random.h"
#include "core/log.h"
#include "workers/events/event_store.h"

#include <curl/curl.h>

enum { WEBHOOK_BODY_BYTES = 1 << 20, WEBHOOK_ANSWER_BYTES = 128, WEBHOOK_ERROR_SIZE = 160 };

struct webhook {
    const struct config_webhook *config;
    unsigned index; /* in the store */
    CURLM *multi;   /* borrowed, like the log */
    struct log *log;
    CURL *easy;
    struct curl_slist *headers;
    struct buf body;
    char answer[WEBHOOK_ANSWER_BYTES]; /* the beginning of what it said */
    size_t answer_len;
    size_t answer_bytes;     /* in all */
    bool sending;            /* `easy` is with `multi` */
    bool was_cut;            /* the last batch had no room for more bytes: the next goes at once */
    struct event_batch sent; /* what is under way */
    unsigned batch_max;      /* config->batch_size, or less where that was too large for it */
    uint64_t due_mono_ms;    /* of the next request; 0: nothing is waiting */
    unsigned failures;       /* in a row */
    uint64_t delivered, failed;
    uint64_t done_upto; /* taken by it, to be written down with the next commit; 0: nothing */
    char last_error[WEBHOOK_ERROR_SIZE];
    char shown_url[128];
};

/* Makes ready; nothing is sent yet. False: out of memory. */
bool webhook_init(struct webhook *w, const struct config_webhook *config, unsigned index,
                  CURLM *multi, struct log *log);

/* Breaks off what is under way. */
void webhook_fini(struct webhook *w);

/* Something may be waiting: a request is due at once where it makes a full batch, else when the
 * first of it has waited long enough. */
void webhook_note_pending(struct webhook *w, uint64_t pending, uint64_t mono_ms);

/* Starts a request where one is due. `hostname` names the relay to the receiver. */
void webhook_start(struct webhook *w, struct event_store *store, const char *hostname,
                   uint64_t mono_ms);

/* Its request has ended. What failed is logged. */
void webhook_ended(struct webhook *w, CURLcode result, struct random *random, uint64_t mono_ms);

#endif
