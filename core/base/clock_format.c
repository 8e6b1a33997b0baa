#include "core/base/clock.h"

#include "core/base/assert.h"

#include <stdio.h>
#include <time.h>

static struct tm broken_down(uint64_t wall_ms)
{
    time_t seconds = (time_t)(wall_ms / 1000u);
    struct tm tm = {0};
    (void)gmtime_r(&seconds, &tm);
    return tm;
}

void clock_format_iso(uint64_t wall_ms, char out[CLOCK_ISO_SIZE])
{
    struct tm tm = broken_down(wall_ms);
    char date[20];
    size_t len = strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
    ASSERT(len == 19);
    (void)snprintf(out, CLOCK_ISO_SIZE, "%s.%03uZ", date, (unsigned)(wall_ms % 1000u));
}

void clock_format_rfc5322(uint64_t wall_ms, char out[CLOCK_RFC5322_SIZE])
{
    /* Names are spelled out here: strftime's follow the locale, RFC 5322's do not. */
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct tm tm = broken_down(wall_ms);
    (void)snprintf(out, CLOCK_RFC5322_SIZE, "%s, %02u %s %04u %02u:%02u:%02u +0000",
                   days[(unsigned)tm.tm_wday % 7], (unsigned)tm.tm_mday % 100,
                   months[(unsigned)tm.tm_mon % 12], (unsigned)(tm.tm_year + 1900) % 10000,
                   (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100,
                   (unsigned)tm.tm_sec % 100);
}
