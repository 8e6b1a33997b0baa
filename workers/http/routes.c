#include "core/base/assert.h"
#include "workers/http/http_priv.h"

static const struct http_route routes[] = {
    {.path = "/", .gets = true, .serve = http_serve_page},
    {.path = "/livez", .gets = true, .serve = http_serve_livez},
    {.path = "/readyz", .gets = true, .serve = http_serve_readyz},
    {.path = "/metrics", .gets = true, .serve = http_serve_metrics},
    {.path = "/api/inject/v1",
     .posts = true,
     .post_scope = SCOPE_INJECT,
     .takes_large = true,
     .admit = http_admit_inject,
     .serve = http_serve_inject},
    {.path = "/api/control/",
     .prefix = true,
     .gets = true,
     .posts = true,
     .get_scope = SCOPE_READ,
     .post_scope = SCOPE_ADMIN,
     .serve = http_serve_control},
};
static_assert(sizeof routes / sizeof *routes <= HTTP_ROUTES_MAX, "each route has its figures");

const struct http_route *http_routes(unsigned *count_out)
{
    *count_out = sizeof routes / sizeof *routes;
    return routes;
}
