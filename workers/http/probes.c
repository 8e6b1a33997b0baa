#include "workers/http/http_priv.h"
#include "workers/intake.h"

bool http_ready(const struct http *h, const char **reason_out)
{
    const struct worker_parts *parts = atomic_load(&h->shared.parts);
    enum intake_state state = parts != NULL ? intake_state(parts->intake) : INTAKE_STARTING;
    *reason_out = intake_word(state);
    return state == INTAKE_OPEN;
}

void http_serve_livez(struct http_request *r)
{
    http_answer_json(r, MHD_HTTP_OK, json_pack("{s:b}", "live", true));
}

void http_serve_readyz(struct http_request *r)
{
    const char *reason;
    bool ready = http_ready(r->http, &reason);
    http_answer_json(r, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
                     json_pack("{s:b,s:s}", "ready", ready, "reason", reason));
    if (!ready)
        http_answer_field(r, MHD_HTTP_HEADER_RETRY_AFTER, "5");
}
