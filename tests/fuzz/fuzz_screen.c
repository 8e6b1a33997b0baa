/* Any bytes as what senders and exchanges said, between NULs, on an operator's screen: as cells of
 * a table (first byte 0 of 3), as events of a trace for people (1) or for programs (2). Lines stay
 * lines, nothing commands the terminal or hides, and what is for programs is JSON in ASCII. */
#include "workers/cli/cli.h"
#include "workers/cli/trace_print.h"
#include "workers/outbound/session.h"

#include "core/base/utf8.h"
#include "tests/fuzz/exact.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COLUMNS = 3, CELL_SIZE = 2048, EVENTS_MAX = 200 };

static struct slice next_string(struct slice *rest)
{
    size_t len = slice_find(*rest, '\0');
    struct slice s = slice_take(*rest, len);
    *rest = slice_skip(*rest, len + 1);
    return s;
}

static void check_line(struct slice line)
{
    while (line.len > 0) {
        unsigned code;
        size_t len = utf8_length(line);
        ASSERT(len > 0 && (unsigned char)line.ptr[0] >= ' ' && line.ptr[0] != 0x7f);
        ASSERT(!utf8_is_hidden(line, len, &code));
        line = slice_skip(line, len);
    }
}

static void check_json(struct slice line)
{
    ASSERT(!utf8_has_high(line) && is_one_line(line));
    json_t *o = json_loadb(line.ptr, line.len, JSON_REJECT_DUPLICATES, NULL);
    ASSERT(json_is_object(o));
    json_decref(o);
}

/* ---- a table ---- */

static unsigned print_table(struct slice rest)
{
    static const char *const headings[COLUMNS + 1] = {"ID", "STATE", "WHY", NULL};
    struct table *t = table_create(headings);
    unsigned rows = 0;
    ASSERT(t != NULL);
    while (rest.len > 0) {
        char text[COLUMNS][CELL_SIZE];
        const char *cells[COLUMNS + 1] = {text[0], text[1], text[2], NULL};
        for (unsigned i = 0; i < COLUMNS; i++) {
            struct slice s = slice_take(next_string(&rest), CELL_SIZE - 1);
            if (!slice_to_cstr(s, text[i], CELL_SIZE))
                text[i][0] = '\0';
        }
        table_add(t, cells);
        rows++;
    }
    table_print(t);
    table_destroy(&t);
    return rows > 0 ? rows + 1 : 0;
}

/* ---- a trace ---- */

/* The first byte says what happened. */
static void print_event(struct trace_print *p, struct slice s)
{
    static const struct route_exchange exchange = {.preference = 10, .name = "mx.x.example"};
    static const struct target target = {.exchange = &exchange};
    static struct session sessions[2] = {{.number = 1}, {.number = 2}};
    enum observed_kind kind = (unsigned char)s.ptr[0] % (OBSERVED_VERDICT + 1u);
    struct slice bytes = slice_skip(s, 1);
    struct reply reply = {.code = 550, .class = 5};
    reply_set_text(&reply, bytes);
    bool by_session = kind != OBSERVED_TLS && kind != OBSERVED_SPENT;
    struct observed e = {.kind = kind,
                         .session = by_session ? &sessions[bytes.len & 1] : NULL,
                         .target = &target,
                         .bytes = bytes,
                         .reply = &reply,
                         .note = "noted"};
    trace_print_event(p, &e);
    if (kind == OBSERVED_SPENT) {
        char text[REPLY_TEXT_SIZE + 32];
        (void)reply_format(&reply, text, sizeof text);
        trace_print_note(p, "dns", "no route: %s", text);
    }
}

static void print_trace(struct slice rest, bool json)
{
    struct trace_print p;
    trace_print_init(&p, json);
    for (unsigned i = 0; rest.len > 0 && i < EVENTS_MAX; i++) {
        struct slice s = next_string(&rest);
        if (s.len > 0)
            print_event(&p, s);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = NULL;
    size_t len = 0;
    unsigned rows = 0, lines = 0;
    if (size == 0)
        return 0;
    FILE *screen = stdout;
    stdout = open_memstream(&text, &len);
    ASSERT(stdout != NULL);
    struct slice rest = slice_of(data + 1, size - 1);
    if (data[0] % 3 == 0)
        rows = print_table(rest);
    else
        print_trace(rest, data[0] % 3 == 2);
    (void)fclose(stdout);
    stdout = screen;
    struct slice shown = slice_of(text, len);
    for (; shown.len > 0; lines++) {
        struct slice line = slice_take(shown, slice_find(shown, '\n'));
        ASSERT(line.len < shown.len);
        if (data[0] % 3 == 2)
            check_json(line);
        else
            check_line(line);
        shown = slice_skip(shown, line.len + 1);
    }
    ASSERT(data[0] % 3 != 0 || lines == rows);
    free(text);
    return 0;
}
