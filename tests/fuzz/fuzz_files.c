/* Any bytes as a file that the relay reads beside its configuration: the tokens of the HTTP
 * interface (first byte even) or what is suspended (odd). Refused with what is wrong, in one line;
 * or taken, each name and reason one that can forge nothing where it is written next. */
#include "core/queue/suspensions.h"
#include "tests/fuzz/exact.h"
#include "workers/http/tokens.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PATH_SIZE = 64, LISTED_MAX = 64 };

/* A file in memory that has a path. */
static int make_file(char path[PATH_SIZE])
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    ASSERT(fd >= 0 && fchmod(fd, 0600) == 0);
    (void)snprintf(path, PATH_SIZE, "/proc/self/fd/%d", fd);
    return fd;
}

static void check_error(const struct error *e)
{
    ASSERT(e->text[0] != '\0' && is_one_line(slice_str(e->text)));
}

static void check_tokens(const char *path, struct slice text)
{
    struct error error = {{0}};
    struct tokens *t = tokens_load(path, &error);
    if (t == NULL) {
        check_error(&error);
        return;
    }
    while (text.len > 0) { /* the last word of a line may be a token */
        struct slice line = slice_trim(slice_take(text, slice_find(text, '\n')));
        text = slice_skip(text, slice_find(text, '\n') + 1);
        size_t at = line.len;
        while (at > 0 && line.ptr[at - 1] != ' ' && line.ptr[at - 1] != '\t')
            at--;
        const struct token_holder *h = tokens_find(t, slice_skip(line, at));
        if (h == NULL)
            continue;
        ASSERT(line.len - at >= TOKEN_BYTES_MIN && h->index < TOKENS_MAX);
        ASSERT(h->scopes != 0 && (h->scopes & SCOPE_ADMIN) <= (h->scopes & SCOPE_READ) * 2);
        for (const char *c = h->name; *c != '\0'; c++)
            ASSERT(*c > ' ' && *c <= 'z' && strchr("()<>\\\"", *c) == NULL);
        ASSERT(strlen(h->name) > 0 && strlen(h->name) <= TOKEN_NAME_MAX);
    }
    tokens_free(&t);
}

static void check_suspensions(const char *path)
{
    struct error error = {{0}};
    struct suspension list[LISTED_MAX];
    char domain[DOMAIN_SIZE];
    struct suspensions *s = suspensions_load(path, 1000, 1000, &error);
    if (s == NULL) {
        check_error(&error);
        return;
    }
    unsigned count = suspensions_list(s, list, LISTED_MAX);
    ASSERT(suspensions_count(s) >= count && suspensions_count(s) <= SUSPENSIONS_MAX);
    for (unsigned i = 0; i < count; i++) {
        ASSERT(is_one_line(slice_str(list[i].reason)));
        ASSERT(suspensions_hold(s, list[i].domain));
        ASSERT(list[i].until_mono_ms == 0 || list[i].until_mono_ms > 1000);
        ASSERT(list[i].domain[0] == '\0' || (domain_normalize(slice_str(list[i].domain), domain) &&
                                             strcmp(domain, list[i].domain) == 0));
    }
    suspensions_destroy(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path[PATH_SIZE];
    static int fd = -1;
    if (fd < 0)
        fd = make_file(path);
    if (size == 0)
        return 0;
    ASSERT(ftruncate(fd, 0) == 0 && pwrite(fd, data + 1, size - 1, 0) == (ssize_t)(size - 1));
    if ((data[0] & 1) == 0)
        check_tokens(path, slice_of(data + 1, size - 1));
    else
        check_suspensions(path);
    return 0;
}
