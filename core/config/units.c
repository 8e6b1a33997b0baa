#include "core/config/units.h"

#include <stdio.h>

struct unit {
    const char *name;
    uint64_t factor;
};

static bool parse(struct slice text, const struct unit *units, size_t count, uint64_t *out)
{
    size_t digits = 0;
    while (digits < text.len && text.ptr[digits] >= '0' && text.ptr[digits] <= '9')
        digits++;
    uint64_t value;
    if (!slice_to_u64(slice_take(text, digits), &value))
        return false;
    struct slice name = slice_skip(text, digits);
    if (name.len == 0) { /* only nothing at all needs no unit */
        *out = 0;
        return value == 0;
    }
    for (size_t i = 0; i < count; i++)
        if (slice_equal(name, slice_str(units[i].name)))
            return !__builtin_mul_overflow(value, units[i].factor, out);
    return false;
}

bool units_parse_duration(struct slice text, uint64_t *ms_out)
{
    static const struct unit units[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    return parse(text, units, sizeof units / sizeof *units, ms_out);
}

bool units_parse_size(struct slice text, uint64_t *bytes_out)
{
    static const struct unit units[] = {
        {"B", 1},           {"KB", 1000},          {"MB", 1000000},
        {"GB", 1000000000}, {"TB", 1000000000000}, {"KiB", 1024},
        {"MiB", 1048576},   {"GiB", 1073741824},   {"TiB", 1099511627776}};
    return parse(text, units, sizeof units / sizeof *units, bytes_out);
}

void units_format_duration(uint64_t ms, char out[UNITS_TEXT_SIZE])
{
    static const struct unit units[] = {
        {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
    for (size_t i = 0; i < 5; i++) {
        if (ms < units[i].factor && i < 4)
            continue;
        uint64_t rest = i < 3 ? ms % units[i].factor / units[i + 1].factor : 0;
        int len = snprintf(out, UNITS_TEXT_SIZE, "%llu%s",
                           (unsigned long long)(ms / units[i].factor), units[i].name);
        if (rest > 0 && len > 0 && len < UNITS_TEXT_SIZE)
            (void)snprintf(out + len, UNITS_TEXT_SIZE - (size_t)len, "%llu%s",
                           (unsigned long long)rest, units[i + 1].name);
        return;
    }
}

void units_format_size(uint64_t bytes, char out[UNITS_TEXT_SIZE])
{
    static const struct unit units[] = {
        {"TB", 1000000000000}, {"GB", 1000000000}, {"MB", 1000000}, {"KB", 1000}};
    for (size_t i = 0; i < 4; i++)
        if (bytes >= units[i].factor) {
            (void)snprintf(out, UNITS_TEXT_SIZE, "%.1f%s", (double)bytes / (double)units[i].factor,
                           units[i].name);
            return;
        }
    (void)snprintf(out, UNITS_TEXT_SIZE, "%lluB", (unsigned long long)bytes);
}
