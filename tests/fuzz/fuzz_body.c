/* Any bytes as the body of an HTTP request, as they are or compressed, in any pieces: the same
 * body, or a refusal, however it is cut; never more than the bounds; and what it was charged is
 * given back. The first bytes choose the coding and the cuts. */
#include "workers/http/body.h"

#include "tests/fuzz/exact.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BODY_MAX = 100000, SMALL_MAX = 65536, MEMORY_MAX = 150000, LENGTH_SIZE = 24 };

/* ---- in the place of request.c ---- */

static const char *encoding, *length;

const char *http_field(const struct http_request *r, const char *name)
{
    (void)r;
    if (strcmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0)
        return length;
    return strcmp(name, MHD_HTTP_HEADER_CONTENT_ENCODING) == 0 ? encoding : NULL;
}

/* libmicrohttpd's is opaque: this one is only there. */
static char answered;

void http_answer_error(struct http_request *r, unsigned status, const char *format, ...)
{
    ASSERT(status >= 400 && status < 600 && format[0] != '\0' && r->status == 0);
    r->status = status;
    r->response = (struct MHD_Response *)(void *)&answered;
}

void http_answer_field(struct http_request *r, const char *name, const char *value)
{
    ASSERT(r->response != NULL && name[0] != '\0' && value[0] != '\0');
}

/* ---- one request ---- */

static void receive(struct http_request *r, struct slice body, size_t piece)
{
    struct exact_block block = exact_block_create(exact_min(piece, body.len));
    bool more = http_body_begin(r) || http_body_may_drop(r);
    for (size_t at = 0; more && at < body.len; at += piece)
        more = http_body_feed(r, exact_put(&block, slice_take(slice_skip(body, at), piece)));
    exact_block_destroy(&block);
    bool whole = more && r->status == 0 && http_body_end(r);
    ASSERT(whole == (r->status == 0));
    ASSERT(!whole || r->body_len <= (r->route->takes_large ? BODY_MAX : SMALL_MAX));
    ASSERT(atomic_load(&r->http->shared.memory) <= MEMORY_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const encodings[] = {NULL, "gzip", "deflate", "identity", "br"};
    static const struct config config = {
        .http = {.body_size_max = BODY_MAX, .memory_max = MEMORY_MAX}};
    static const struct http_route routes[] = {{.path = "/large", .takes_large = true},
                                               {.path = "/small"}};
    static struct http http[2];
    char digits[LENGTH_SIZE];
    if (size < 2)
        return 0;
    struct slice body = slice_of(data + 2, size - 2);
    struct http_request whole = {
        .http = &http[0], .config = &config, .route = &routes[data[0] & 1]};
    struct http_request cut = whole;
    cut.http = &http[1];
    encoding = encodings[(data[0] >> 1) % 5];
    (void)snprintf(digits, sizeof digits, "%zu", body.len);
    length = (data[0] & 0x80) != 0 ? digits : NULL;
    receive(&whole, body, SIZE_MAX / 2);
    receive(&cut, body, 1u + data[1]);
    /* Not for the same reason: too large and broken may be met in either order. */
    ASSERT((whole.response == NULL) == (cut.response == NULL));
    if (whole.response == NULL)
        ASSERT(slice_equal(slice_of(whole.body, whole.body_len), slice_of(cut.body, cut.body_len)));
    http_body_fini(&whole);
    http_body_fini(&cut);
    ASSERT(atomic_load(&http[0].shared.memory) == 0 && atomic_load(&http[1].shared.memory) == 0);
    return 0;
}
