/* Who may do what over HTTP: bearer tokens (RFC 6750) from a file that only the relay's user reads.
 *
 *   line   = name SP scopes SP token / "#" comment / empty
 *   scopes = scope *( "," scope ), of inject, read and admin
 *
 * Only digests are kept, so that no dump and no log holds a token. A set of tokens is immutable
 * once loaded. */
#ifndef ONWARD_WORKERS_HTTP_TOKENS_H
#define ONWARD_WORKERS_HTTP_TOKENS_H

#include "core/base/error.h"
#include "core/base/slice.h"

enum { TOKEN_NAME_MAX = 64, TOKEN_BYTES_MIN = 16, TOKENS_MAX = 1000 };

enum token_scope {
    SCOPE_INJECT = 1,
    SCOPE_READ = 2,  /* queue, health, routes, figures */
    SCOPE_ADMIN = 4, /* changes of all these; holds the other two */
};

struct tokens;

/* One of them: whom it was given to. */
struct token_holder {
    const char *name;
    unsigned scopes;
    unsigned index; /* below TOKENS_MAX */
};

/* Reads the file. NULL with `error`: unreadable, readable by others, or what is wrong on which
 * line. `path` NULL gives an empty set. */
struct tokens *tokens_load(const char *path, struct error *error);
void tokens_free(struct tokens **t);

/* The holder of `token`, or NULL. Takes the same time for every wrong one. Any thread. */
const struct token_holder *tokens_find(const struct tokens *t, struct slice token);

#endif
