#include "smtp/stuff.h"

/* Length of the run up to and including the first LF that a dot follows. A LF at the very end ends
 * the run anyway: the next content begins a line. */
static size_t run_length(struct slice content)
{
    size_t at = 0;
    for (;;) {
        struct slice rest = slice_skip(content, at);
        size_t lf = slice_find(rest, '\n');
        if (lf == rest.len)
            return content.len;
        at += lf + 1;
        if (at == content.len || content.ptr[at] == '.')
            return at;
    }
}

struct slice stuff_next(const struct stuff_state *s, struct slice content, bool *is_extra_out)
{
    *is_extra_out = content.len > 0 && !s->mid_line && !s->dot_pending && content.ptr[0] == '.';
    if (*is_extra_out)
        return SLICE_LIT(".");
    return slice_take(content, content.len > 0 ? run_length(content) : 0);
}

void stuff_sent(struct stuff_state *s, struct slice run, size_t len, bool is_extra)
{
    if (len == 0)
        return;
    s->dot_pending = is_extra;
    if (!is_extra)
        s->mid_line = run.ptr[len - 1] != '\n';
}
