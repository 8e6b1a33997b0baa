#include "workers/cli/cli.h"

#include "core/base/utf8.h"
#include "core/config/units.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum { COLUMNS_MAX = 16 };

struct table {
    const char *headings[COLUMNS_MAX];
    size_t columns;
    char **cells; /* row by row; owned */
    size_t count, room;
};

struct table *table_create(const char *const *headings)
{
    struct table *t = calloc(1, sizeof *t);
    while (t != NULL && headings[t->columns] != NULL && t->columns < COLUMNS_MAX) {
        t->headings[t->columns] = headings[t->columns];
        t->columns++;
    }
    return t;
}

char *cli_printable(struct slice text, char *out, size_t size)
{
    size_t at = 0;
    while (text.len > 0) {
        unsigned code;
        unsigned char c = (unsigned char)text.ptr[0];
        size_t len = utf8_length(text);
        bool good = len > 0 && c >= ' ' && c != 0x7f && !utf8_is_hidden(text, len, &code);
        if (at + (good ? len : 1) >= size)
            break;
        if (good)
            memmove(out + at, text.ptr, len);
        else
            out[at] = '?';
        at += good ? len : 1;
        text = slice_skip(text, len > 0 ? len : 1);
    }
    out[at] = '\0';
    return out;
}

void table_add(struct table *t, const char *const *cells)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->columns; i++) {
        if (t->count == t->room) {
            size_t room = t->room > 0 ? t->room * 2 : 64;
            char **grown = reallocarray(t->cells, room, sizeof *grown);
            if (grown == NULL)
                return;
            t->cells = grown;
            t->room = room;
        }
        const char *text = cells[i] != NULL && cells[i][0] != '\0' ? cells[i] : "-";
        t->cells[t->count] = strdup(text);
        if (t->cells[t->count] == NULL)
            return;
        char *cell = t->cells[t->count++];
        (void)cli_printable(slice_str(cell), cell, strlen(cell) + 1);
    }
}

/* Columns on the screen; bytes where the text is not of the locale. */
static int width_of(const char *text)
{
    wchar_t wide[1024];
    size_t n = mbstowcs(wide, text, sizeof wide / sizeof *wide);
    int width = n < sizeof wide / sizeof *wide ? wcswidth(wide, n) : -1;
    return width >= 0 ? width : (int)strlen(text);
}

static void print_row(const struct table *t, const char *const *cells, const int *widths)
{
    for (size_t i = 0; i < t->columns; i++) {
        (void)fputs(cells[i], stdout);
        int pad = i + 1 < t->columns ? widths[i] - width_of(cells[i]) + 2 : 0;
        (void)printf("%*s", pad, "");
    }
    (void)fputc('\n', stdout);
}

void table_print(struct table *t)
{
    int widths[COLUMNS_MAX];
    if (t == NULL || t->columns == 0 || t->count == 0)
        return;
    for (size_t i = 0; i < t->columns; i++)
        widths[i] = width_of(t->headings[i]);
    for (size_t i = 0; i < t->count; i++) {
        int width = width_of(t->cells[i]);
        if (width > widths[i % t->columns])
            widths[i % t->columns] = width;
    }
    bool colour = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    (void)fputs(colour ? "\033[1m" : "", stdout);
    print_row(t, t->headings, widths);
    (void)fputs(colour ? "\033[0m" : "", stdout);
    for (size_t i = 0; i + t->columns <= t->count; i += t->columns)
        print_row(t, (const char *const *)t->cells + i, widths);
}

void table_destroy(struct table **t)
{
    if (*t == NULL)
        return;
    for (size_t i = 0; i < (*t)->count; i++)
        free((*t)->cells[i]);
    free((*t)->cells);
    free(*t);
    *t = NULL;
}

const char *cli_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

void cli_time(char *out, size_t size, const char *before, json_int_t ms, const char *after)
{
    char text[UNITS_TEXT_SIZE];
    uint64_t value = ms > 0 ? (uint64_t)ms : 0;
    units_format_duration(value >= 1000 ? value / 1000 * 1000 : value, text);
    (void)snprintf(out, size, "%s%s%s", before, text, after);
}
