#include "workers/http/body.h"

#include <stdlib.h>

enum {
    SMALL_BYTES_MAX = 64 * 1024, /* where no injection is taken */
    FIRST_BYTES = 4096,
    INFLATE_BYTES = 64 * 1024,
    DROPPED_BYTES_MAX = 1 << 20, /* of a caller that is nobody */
    GZIP_OR_ZLIB =
        15 + 32, /* inflateInit2: the largest window, the format told by its first bytes */
};

static uint64_t limit_of(const struct http_request *r)
{
    return r->route->takes_large ? r->config->http.body_size_max : SMALL_BYTES_MAX;
}

static void refuse_large(struct http_request *r)
{
    http_answer_error(
        r, MHD_HTTP_CONTENT_TOO_LARGE,
        "the body is larger than %llu bytes (http.body_size_max); send the recipients "
        "in several requests",
        (unsigned long long)limit_of(r));
}

static void refuse_for_memory(struct http_request *r)
{
    http_answer_error(r, MHD_HTTP_SERVICE_UNAVAILABLE,
                      "too much is under way now (http.memory_max); try again later");
    http_answer_field(r, MHD_HTTP_HEADER_RETRY_AFTER, "2");
}

/* Takes `bytes` of what all requests may hold. False: there is not so much. */
static bool charge(struct http_request *r, uint64_t bytes)
{
    _Atomic uint64_t *memory = &r->http->shared.memory;
    if (atomic_fetch_add(memory, bytes) + bytes > r->config->http.memory_max) {
        atomic_fetch_sub(memory, bytes);
        return false;
    }
    r->charged += bytes;
    return true;
}

void http_body_fini(struct http_request *r)
{
    free(r->body);
    r->body = NULL;
    r->body_len = r->body_capacity = 0;
    atomic_fetch_sub(&r->http->shared.memory, r->charged);
    r->charged = 0;
    if (r->is_gzip)
        (void)inflateEnd(&r->inflater);
    r->is_gzip = false;
}

bool http_body_begin(struct http_request *r)
{
    const char *length = http_field(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
    const char *encoding = http_field(r, MHD_HTTP_HEADER_CONTENT_ENCODING);
    uint64_t bytes = 0;
    if (length != NULL && (!slice_to_u64(slice_str(length), &bytes) || bytes > limit_of(r))) {
        refuse_large(r);
        return false;
    }
    if (encoding == NULL || slice_equal_nocase(slice_str(encoding), SLICE_LIT("identity")))
        return true;
    if (!slice_equal_nocase(slice_str(encoding), SLICE_LIT("gzip")) &&
        !slice_equal_nocase(slice_str(encoding), SLICE_LIT("deflate"))) {
        http_answer_error(r, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
                          "Content-Encoding %.40s is not known here; use gzip, or none", encoding);
        return false;
    }
    if (inflateInit2(&r->inflater, GZIP_OR_ZLIB) != Z_OK) {
        refuse_for_memory(r);
        return false;
    }
    r->is_gzip = true;
    return true;
}

/* What is read and dropped at most: a connection that is closed over unread bytes is reset, and its
 * answer may be lost with it. */
static uint64_t dropped_max(const struct http_request *r)
{
    bool known = r->route != NULL && r->caller.scopes != 0;
    return known ? 2 * limit_of(r) : DROPPED_BYTES_MAX;
}

bool http_body_may_drop(const struct http_request *r)
{
    const char *length = http_field(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
    uint64_t bytes;
    return length != NULL && slice_to_u64(slice_str(length), &bytes) && bytes > 0 &&
           bytes <= dropped_max(r) && http_field(r, MHD_HTTP_HEADER_EXPECT) == NULL;
}

/* Room for `len` more bytes behind what there is. False, having answered: a bound was reached. */
static bool make_room(struct http_request *r, size_t len)
{
    if (r->body_len + len > limit_of(r)) {
        refuse_large(r);
        return false;
    }
    if (r->body_len + len <= r->body_capacity)
        return true;
    size_t capacity = r->body_capacity > 0 ? r->body_capacity : FIRST_BYTES;
    while (capacity < r->body_len + len)
        capacity *= 2;
    char *body = charge(r, capacity - r->body_capacity) ? realloc(r->body, capacity) : NULL;
    if (body == NULL) {
        refuse_for_memory(r);
        return false;
    }
    r->body = body;
    r->body_capacity = capacity;
    return true;
}

static bool append(struct http_request *r, struct slice bytes)
{
    if (!make_room(r, bytes.len))
        return false;
    if (bytes.len == 0) /* nothing was inflated yet: there may be no body */
        return true;
    memcpy(r->body + r->body_len, bytes.ptr, bytes.len);
    r->body_len += bytes.len;
    return true;
}

static bool inflate_all(struct http_request *r, struct slice bytes)
{
    char out[INFLATE_BYTES];
    r->inflater.next_in = (unsigned char *)(uintptr_t)bytes.ptr;
    r->inflater.avail_in = (unsigned)bytes.len;
    do {
        r->inflater.next_out = (unsigned char *)out;
        r->inflater.avail_out = sizeof out;
        int rc = r->gzip_ended ? Z_DATA_ERROR : inflate(&r->inflater, Z_NO_FLUSH);
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR) {
            http_answer_error(r, MHD_HTTP_BAD_REQUEST,
                              "the body is not what its Content-Encoding "
                              "says");
            return false;
        }
        r->gzip_ended = rc == Z_STREAM_END;
        if (!append(r, slice_of(out, sizeof out - r->inflater.avail_out)))
            return false;
    } while (r->inflater.avail_in > 0 || (r->inflater.avail_out == 0 && !r->gzip_ended));
    return true;
}

bool http_body_feed(struct http_request *r, struct slice bytes)
{
    if (r->status != 0) { /* refused: what still comes is read, within the bound, and dropped */
        r->body_len += bytes.len;
        return r->body_len <= dropped_max(r);
    }
    bool ok = r->is_gzip ? inflate_all(r, bytes) : append(r, bytes);
    if (!ok)
        http_body_fini(r);
    return true;
}

bool http_body_end(struct http_request *r)
{
    if (!r->is_gzip || r->gzip_ended || (r->inflater.total_in == 0 && r->body_len == 0))
        return true;
    http_answer_error(r, MHD_HTTP_BAD_REQUEST, "the body ends in the middle of its gzip stream");
    return false;
}
