#include "core/base/error.h"

#include <stdarg.h>
#include <stdio.h>

void error_set(struct error *e, const char *format, ...)
{
    if (e == NULL)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    for (char *c = e->text; *c != '\0'; c++) /* it may quote what stands in a file */
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
}
