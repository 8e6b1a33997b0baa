/* The page that shows the relay as it runs. It is one file, put into the binary as it is
 * (page.html), fetches nothing from elsewhere, and reads the control's "view" as everybody does who
 * has a token; without one it shows a form for it. */
#include "workers/http/http_priv.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

__asm__(".pushsection .rodata\n"
        "page_begin:\n"
        ".incbin \"workers/http/page.html\"\n"
        "page_end:\n"
        ".popsection\n");
extern const char page_begin[], page_end[];

enum { HASH_BYTES = 32, HASH_TEXT = 48 };

/* The hash by which a browser knows the element of this name for ours (CSP 3, 6.6.3.2); what a peer
 * may have slipped into the page is none of it and is not run. */
static void hash_of(struct slice page, const char *name, char out[HASH_TEXT])
{
    char open[16], close[16];
    unsigned char hash[HASH_BYTES];
    (void)snprintf(open, sizeof open, "<%s>", name);
    (void)snprintf(close, sizeof close, "</%s>", name);
    const char *begin = memmem(page.ptr, page.len, open, strlen(open));
    const char *text = begin != NULL ? begin + strlen(open) : page.ptr;
    size_t left = page.len - (size_t)(text - page.ptr);
    const char *end = memmem(text, left, close, strlen(close));
    size_t len = end != NULL ? (size_t)(end - text) : 0;
    (void)EVP_Digest(text, len, hash, NULL, EVP_sha256(), NULL);
    (void)EVP_EncodeBlock((unsigned char *)out, hash, HASH_BYTES);
}

void http_serve_page(struct http_request *r)
{
    struct slice page = slice_of(page_begin, (size_t)(page_end - page_begin));
    char style[HASH_TEXT], script[HASH_TEXT], policy[512];
    char *copy = malloc(page.len);
    if (copy == NULL) {
        http_answer_error(r, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory");
        return;
    }
    memcpy(copy, page.ptr, page.len);
    hash_of(page, "style", style);
    hash_of(page, "script", script);
    (void)snprintf(policy, sizeof policy,
                   "default-src 'none'; style-src 'sha256-%s'; script-src 'sha256-%s'; "
                   "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                   "frame-ancestors 'none'",
                   style, script);
    http_answer(r, MHD_HTTP_OK, "text/html; charset=utf-8", copy, page.len);
    http_answer_field(r, "Content-Security-Policy", policy);
    http_answer_field(r, "Referrer-Policy", "no-referrer");
}
