/* The clocks. Deadlines use the monotonic clock, which no administrator and no leap second moves;
 * what is written down for people or across restarts uses the wall clock. The simulation links a
 * clock of its own (tests/sim), so nothing else may ask the system for the time. */
#ifndef ONWARD_CORE_BASE_CLOCK_H
#define ONWARD_CORE_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

/* Since an unknown moment; never steps back. */
uint64_t clock_mono_us(void);
uint64_t clock_mono_ms(void);

/* Milliseconds since 1970 UTC. */
uint64_t clock_wall_ms(void);

enum { CLOCK_ISO_SIZE = 25, CLOCK_RFC5322_SIZE = 32 };

/* "2026-11-23T15:45:02.123Z": 24 characters and a NUL (RFC 3339). */
void clock_format_iso(uint64_t wall_ms, char out[CLOCK_ISO_SIZE]);

/* "Mon, 23 Nov 2026 15:45:02 +0000": the date-time of RFC 5322 3.3, in UTC. */
void clock_format_rfc5322(uint64_t wall_ms, char out[CLOCK_RFC5322_SIZE]);

#endif
