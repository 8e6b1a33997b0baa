#include "workers/http/injector.h"
#include "workers/intake.h"

#include <stdio.h>

bool http_admit_inject(struct http_request *r)
{
    char seconds[24];
    enum intake_state state = r->parts != NULL ? intake_state(r->parts->intake) : INTAKE_STARTING;
    uint64_t wait_ms = r->parts != NULL ? injectors_wait_ms(r->http->injectors, &r->caller) : 0;
    if (state != INTAKE_OPEN) {
        http_answer_error(r, MHD_HTTP_SERVICE_UNAVAILABLE, "%s", intake_reply(state)->text);
        http_answer_field(r, MHD_HTTP_HEADER_RETRY_AFTER, "5");
        return false;
    }
    if (wait_ms == 0)
        return true;
    http_answer_error(r, MHD_HTTP_TOO_MANY_REQUESTS,
                      "more than %u recipients a second (http.recipients_per_second)",
                      r->config->http.recipients_per_second);
    (void)snprintf(seconds, sizeof seconds, "%llu", (unsigned long long)(wait_ms + 999) / 1000);
    http_answer_field(r, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    return false;
}

void http_serve_inject(struct http_request *r)
{
    r->idempotency_key = http_field(r, "Idempotency-Key");
    if (http_suspend(r))
        injectors_take(r->http->injectors, r);
}
