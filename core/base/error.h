/* A message for a person: what went wrong, where, and what to do about it. Filled by functions that
 * open, read or configure; never on the hot path. */
#ifndef ONWARD_CORE_BASE_ERROR_H
#define ONWARD_CORE_BASE_ERROR_H

struct error {
    char text[1024];
};

/* Sets the text, one line, cut to size: control characters become '?'. `e` may be NULL. */
void error_set(struct error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
