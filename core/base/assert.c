#include "core/base/assert.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void put(const char *text)
{
    size_t len = strlen(text);
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

void assert_failed(const char *file, int line, const char *function, const char *text)
{
    char digits[16];
    size_t at = sizeof digits - 1;
    digits[at] = '\0';
    for (unsigned rest = (unsigned)line; at > 0; rest /= 10) {
        digits[--at] = (char)('0' + rest % 10);
        if (rest < 10)
            break;
    }
    put("onward: assertion failed at ");
    put(file);
    put(":");
    put(digits + at);
    put(" in ");
    put(function);
    put(": ");
    put(text);
    put("\n");
    abort();
}
