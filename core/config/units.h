/* Durations and sizes as people write them. */
#ifndef ONWARD_CORE_CONFIG_UNITS_H
#define ONWARD_CORE_CONFIG_UNITS_H

#include "core/base/slice.h"

enum { UNITS_TEXT_SIZE = 32 };

/* "500ms", "30s", "5m", "4h", "5d", or "0", to milliseconds. False: no number, no or unknown unit,
 * overflow. */
bool units_parse_duration(struct slice text, uint64_t *ms_out);

/* "512B", "10KB", "64KiB", "10MB", "1GiB", "1TB", or "0", to bytes; KB is 1000, KiB 1024. */
bool units_parse_size(struct slice text, uint64_t *bytes_out);

/* "4h10m", "35s", "120ms": the two largest units that are not zero. */
void units_format_duration(uint64_t ms, char out[UNITS_TEXT_SIZE]);

/* "10.2KB", "3MB" */
void units_format_size(uint64_t bytes, char out[UNITS_TEXT_SIZE]);

#endif
