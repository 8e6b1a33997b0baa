#include "workers/http/tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { LINE_BYTES_MAX = 1024 };

struct entry {
    struct token_holder holder;
    char name[TOKEN_NAME_MAX + 1];
    unsigned char digest[SHA256_DIGEST_LENGTH];
};

struct tokens {
    unsigned count;
    struct entry entries[TOKENS_MAX];
};

/* The next word of a line, stepped over. */
static struct slice next_word(struct slice *line)
{
    *line = slice_trim(*line);
    size_t end = 0;
    while (end < line->len && line->ptr[end] != ' ' && line->ptr[end] != '\t')
        end++;
    struct slice word = slice_take(*line, end);
    *line = slice_skip(*line, end);
    return word;
}

/* 0 where one of them is unknown. */
static unsigned read_scopes(struct slice words)
{
    unsigned scopes = 0;
    while (words.len > 0) {
        size_t comma = slice_find(words, ',');
        struct slice word = slice_take(words, comma);
        if (slice_equal(word, SLICE_LIT("inject")))
            scopes |= SCOPE_INJECT;
        else if (slice_equal(word, SLICE_LIT("read")))
            scopes |= SCOPE_READ;
        else if (slice_equal(word, SLICE_LIT("admin")))
            scopes |= SCOPE_ADMIN | SCOPE_READ | SCOPE_INJECT;
        else
            return 0;
        words = slice_skip(words, comma + 1);
    }
    return scopes;
}

static bool add_line(struct tokens *t, struct slice line, const char *where, struct error *error)
{
    struct slice name = next_word(&line), scopes = next_word(&line), token = next_word(&line);
    if (name.len == 0 || name.ptr[0] == '#')
        return true;
    if (t->count == TOKENS_MAX) {
        error_set(error, "%s: more than %d tokens", where, TOKENS_MAX);
        return false;
    }
    struct entry *e = &t->entries[t->count];
    unsigned bits = read_scopes(scopes);
    for (size_t i = 0; i < name.len; i++) /* it goes into Received */
        if (!(name.ptr[i] >= 'a' && name.ptr[i] <= 'z') &&
            !(name.ptr[i] >= 'A' && name.ptr[i] <= 'Z') &&
            !(name.ptr[i] >= '0' && name.ptr[i] <= '9') && name.ptr[i] != '-' && name.ptr[i] != '_')
            bits = 0;
    if (!slice_to_cstr(name, e->name, sizeof e->name) || bits == 0 || slice_trim(line).len > 0) {
        error_set(error,
                  "%s: not a token's line; expected `name scopes token`, with scopes of inject, "
                  "read and admin, joined by commas, and a name of letters, digits, - and _",
                  where);
        return false;
    }
    if (token.len < TOKEN_BYTES_MIN) {
        error_set(
            error,
            "%s: the token of %s is shorter than %d characters and could be guessed; make one "
            "with `openssl rand -hex 32`",
            where, e->name, TOKEN_BYTES_MIN);
        return false;
    }
    (void)SHA256((const unsigned char *)token.ptr, token.len, e->digest);
    e->holder = (struct token_holder){.name = e->name, .scopes = bits, .index = t->count};
    t->count++;
    return true;
}

static bool read_lines(struct tokens *t, FILE *file, const char *path, struct error *error)
{
    char line[LINE_BYTES_MAX];
    bool ok = true;
    for (unsigned number = 1; ok && fgets(line, sizeof line, file) != NULL; number++) {
        char where[512];
        (void)snprintf(where, sizeof where, "http.token_file %.400s:%u", path, number);
        struct slice text = slice_str(line);
        if (text.len == sizeof line - 1) {
            error_set(error, "%s: the line is too long", where);
            ok = false;
        } else {
            while (text.len > 0 &&
                   (text.ptr[text.len - 1] == '\n' || text.ptr[text.len - 1] == '\r'))
                text.len--;
            ok = add_line(t, text, where, error);
        }
    }
    OPENSSL_cleanse(line, sizeof line);
    if (ok && ferror(file)) {
        error_set(error, "cannot read http.token_file %s: %m", path);
        ok = false;
    }
    return ok;
}

struct tokens *tokens_load(const char *path, struct error *error)
{
    struct tokens *t = calloc(1, sizeof *t);
    if (t == NULL)
        error_set(error, "out of memory for http.token_file");
    if (t == NULL || path == NULL)
        return t;
    struct stat status;
    FILE *file = fopen(path, "re");
    bool ok = file != NULL && fstat(fileno(file), &status) == 0;
    if (!ok) {
        error_set(error, "cannot read http.token_file %s: %m; the relay's user must be able to",
                  path);
    } else if ((status.st_mode & (S_IROTH | S_IWOTH | S_IWGRP)) != 0) {
        error_set(error,
                  "http.token_file %s can be read by everybody or written by others; do `chmod 640 "
                  "%s`",
                  path, path);
        ok = false;
    } else {
        ok = read_lines(t, file, path, error);
    }
    if (file != NULL)
        (void)fclose(file);
    if (!ok)
        tokens_free(&t);
    return t;
}

void tokens_free(struct tokens **t)
{
    free(*t);
    *t = NULL;
}

const struct token_holder *tokens_find(const struct tokens *t, struct slice token)
{
    unsigned char digest[SHA256_DIGEST_LENGTH];
    const struct token_holder *found = NULL;
    (void)SHA256((const unsigned char *)token.ptr, token.len, digest);
    for (unsigned i = 0; i < t->count; i++) /* all of them, whichever it is */
        if (CRYPTO_memcmp(digest, t->entries[i].digest, sizeof digest) == 0)
            found = &t->entries[i].holder;
    return found;
}
