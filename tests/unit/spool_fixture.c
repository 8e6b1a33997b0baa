#include "tests/unit/spool_fixture.h"

#include <ftw.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

void make_spool_path(char path[64])
{
    (void)snprintf(path, 64, "/tmp/onward-spool-XXXXXX");
    assert_non_null(mkdtemp(path));
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

void remove_spool(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

struct store *open_spool(const char *path, uint64_t map_bytes, uint64_t free_floor_bytes)
{
    struct error error = {{0}};
    struct store_options options = {.path = path,
                                    .map_bytes = map_bytes,
                                    .free_floor_bytes = free_floor_bytes,
                                    .readers_max = 16};
    struct store *s = store_open(&options, &error);
    if (s == NULL)
        fail_msg("%s", error.text);
    return s;
}

void encode_envelope(struct buf *out, uint64_t id, uint64_t arrived_wall_ms,
                     const char *const *recipients)
{
    struct envelope_recipient items[64];
    uint32_t count = 0;
    for (; recipients[count] != NULL; count++) {
        struct slice address = slice_str(recipients[count]);
        items[count] =
            (struct envelope_recipient){.address = address,
                                        .domain = slice_skip(address, slice_find(address, '@') + 1),
                                        .orcpt = SLICE_LIT("")};
    }
    struct envelope e = {.id = id,
                         .arrived_wall_ms = arrived_wall_ms,
                         .size_bytes = 100,
                         .header_bytes = 10,
                         .sender = SLICE_LIT("s@example.org"),
                         .envid = SLICE_LIT(""),
                         .origin = SLICE_LIT("test"),
                         .recipients = items,
                         .recipient_count = count};
    envelope_encode(&e, out);
    assert_true(buf_ok(out));
}
