/* Any bytes as a configuration: refused with the file's name and a line of it, in one line of text,
 * or taken with every value within its bounds. No file is read for it: there are no includes. */
#include "core/config/config.h"

#include "core/config/config_priv.h"
#include "core/domain.h"
#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(const struct error *e)
{
    struct slice text = slice_str(e->text);
    ASSERT(slice_starts_nocase(text, SLICE_LIT("fuzz.yaml:")) && text.len < sizeof e->text);
    ASSERT(is_one_line(text));
}

/* Numbers lie within what the table says of their key. */
static void check_numbers(const struct config *c)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++) {
        const void *at = (const char *)c + keys[i].offset;
        if (keys[i].type == CONFIG_DURATION || keys[i].type == CONFIG_SIZE)
            ASSERT(*(const uint64_t *)at >= keys[i].min && *(const uint64_t *)at <= keys[i].max);
        else if (keys[i].type == CONFIG_UNSIGNED || keys[i].type == CONFIG_POWER_OF_2)
            ASSERT(*(const unsigned *)at >= keys[i].min && *(const unsigned *)at <= keys[i].max);
        else if (keys[i].type == CONFIG_BOOL)
            ASSERT(*(const unsigned char *)at <= 1);
    }
}

static void check_config(const struct config *c)
{
    char domain[DOMAIN_SIZE];
    check_numbers(c);
    ASSERT(c->hostname != NULL && domain_normalize(slice_str(c->hostname), domain));
    ASSERT(is_one_line(slice_str(c->hostname)) && is_one_line(slice_str(c->postmaster)));
    ASSERT(c->own_names[0] != NULL && c->workers.threads >= 1 && c->workers.threads <= 256);
    ASSERT(c->submission.listener_count > 0 && c->submission.listeners != NULL);
    ASSERT(c->delivery.patience_min_ms <= c->delivery.patience_max_ms);
    ASSERT(c->retry.first_ms <= c->retry.max_ms);
    ASSERT(c->spool.path[0] == '/' && strlen(c->control.socket) <= 107);
    ASSERT(config_reload_conflict(c, c) == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error error = {{0}};
    struct config *c = config_load_text((const char *)data, size, "fuzz.yaml", &error);
    if (c == NULL)
        check_error(&error);
    else
        check_config(c);
    config_free(&c);
    return 0;
}
