#include "core/base/clock.h"

#include "core/base/assert.h"

#include <stdbool.h>
#include <string.h>

/* Written out instead of gmtime_r and strftime: each line of the log has a time, and glibc's
 * gmtime_r takes a lock that all threads share. */

enum { MS_A_DAY = 86400 * 1000, DAYS_IN_400_YEARS = 146097, YEARS = 10000 };

struct moment {
    uint32_t year, month, day; /* month and day from 1 */
    uint32_t weekday;          /* from Sunday, 0 */
    uint32_t hour, minute, second, ms;
};

/* Years begin in March here, so that a leap day comes last: in the 400 years of the Gregorian
 * calendar's cycle, which began on 0000-03-01, the rest is division. */
static struct moment moment_of(uint64_t wall_ms)
{
    uint32_t in_day = (uint32_t)(wall_ms % MS_A_DAY);
    uint64_t days = wall_ms / MS_A_DAY;
    uint64_t since = days + 719468; /* from 0000-03-01 to 1970-01-01 */
    uint32_t in_cycle = (uint32_t)(since % DAYS_IN_400_YEARS);
    uint32_t years = (in_cycle - in_cycle / 1460 + in_cycle / 36524 - in_cycle / 146096) / 365;
    uint32_t in_year = in_cycle - (365 * years + years / 4 - years / 100);
    uint32_t march_month =
        (5 * in_year + 2) / 153;        /* five months from March or August have 153 days */
    bool next_year = march_month >= 10; /* January and February */
    return (struct moment){
        .year = (uint32_t)((since / DAYS_IN_400_YEARS * 400 + years + next_year) % YEARS),
        .month = next_year ? march_month - 9 : march_month + 3,
        .day = in_year - (153 * march_month + 2) / 5 + 1,
        .weekday = (uint32_t)((days + 4) % 7), /* 1970-01-01 was a Thursday */
        .hour = in_day / 3600000,
        .minute = in_day / 60000 % 60,
        .second = in_day / 1000 % 60,
        .ms = in_day % 1000,
    };
}

/* The last `digits` digits of `value`; returns what lies behind them. */
static char *put_number(char *to, uint32_t value, unsigned digits)
{
    for (unsigned i = digits; i > 0; i--, value /= 10)
        to[i - 1] = (char)('0' + value % 10);
    return to + digits;
}

static char *put_text(char *to, const char *text, size_t len)
{
    memcpy(to, text, len);
    return to + len;
}

static char *put_time(char *to, const struct moment *m)
{
    to = put_number(to, m->hour, 2);
    *to++ = ':';
    to = put_number(to, m->minute, 2);
    *to++ = ':';
    return put_number(to, m->second, 2);
}

void clock_format_iso(uint64_t wall_ms, char out[CLOCK_ISO_SIZE])
{
    struct moment m = moment_of(wall_ms);
    char *to = put_number(out, m.year, 4);
    *to++ = '-';
    to = put_number(to, m.month, 2);
    *to++ = '-';
    to = put_number(to, m.day, 2);
    *to++ = 'T';
    to = put_time(to, &m);
    *to++ = '.';
    to = put_number(to, m.ms, 3);
    to = put_text(to, "Z", sizeof "Z");
    ASSERT(to == out + CLOCK_ISO_SIZE);
}

void clock_format_rfc5322(uint64_t wall_ms, char out[CLOCK_RFC5322_SIZE])
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct moment m = moment_of(wall_ms);
    char *to = put_text(out, days[m.weekday], 3);
    to = put_text(to, ", ", 2);
    to = put_number(to, m.day, 2);
    *to++ = ' ';
    to = put_text(to, months[m.month - 1], 3);
    *to++ = ' ';
    to = put_number(to, m.year, 4);
    *to++ = ' ';
    to = put_time(to, &m);
    to = put_text(to, " +0000", sizeof " +0000");
    ASSERT(to == out + CLOCK_RFC5322_SIZE);
}
