/* The configuration's schema, for this folder only: one table of keys, each with its type, default,
 * range and place. */
#ifndef ONWARD_CORE_CONFIG_CONFIG_PRIV_H
#define ONWARD_CORE_CONFIG_CONFIG_PRIV_H

#include "core/base/arena.h"
#include "core/config/config.h"

#include <stddef.h>
#include <yaml.h>

enum config_type {
    CONFIG_STRING,
    CONFIG_DOMAIN, /* kept in normal form (core/domain.h) */
    CONFIG_MAILBOX,
    CONFIG_PATH, /* absolute, or "-" */
    CONFIG_BOOL,
    CONFIG_UNSIGNED,
    CONFIG_COUNT, /* of what may be more than an unsigned holds */
    CONFIG_POWER_OF_2,
    CONFIG_PORT,
    CONFIG_DURATION,
    CONFIG_SIZE,
    CONFIG_TLS_MODE,
    CONFIG_ENDPOINT, /* address with port */
    CONFIG_URL,
    CONFIG_FIELD_NAME, /* RFC 5322 2.2; may be empty */
    CONFIG_PRIORITY,
    CONFIG_STRINGS, /* lists */
    CONFIG_ADDRESSES,
    CONFIG_NETS,
    CONFIG_LISTENERS,
    CONFIG_HTTP_LISTENERS,
    CONFIG_STUB_ZONES,
    CONFIG_EVENTS,
    CONFIG_WEBHOOKS,
};

struct config_key {
    const char *path; /* "delivery.port"; of an entry's: "submission.listen.address" */
    enum config_type type;
    size_t offset;       /* of the value in struct config, or in the entry's struct */
    size_t count_offset; /* of the count, for lists that have one */
    const char *initial; /* the default: a text, or a list as in the file; NULL: none */
    uint64_t min, max;   /* in ms, bytes or plain */
    bool reload;         /* a reload may change it */
};

/* The table; `*count_out` entries. */
const struct config_key *config_keys(size_t *count_out);

/* One load under way. */
struct config_loader {
    struct config *config;
    void *base; /* what the offsets of keys count from: the config, or an entry of a list in it */
    struct arena *arena;
    const char *file;
    yaml_document_t *document;
    struct error *error;
};

/* config_value.c: sets one value from its node. False with the error. */
bool config_set_value(struct config_loader *l, const struct config_key *key, yaml_node_t *node);
bool config_set_initial(struct config_loader *l, const struct config_key *key);

/* config_entries.c: lists of mappings, each entry with a table of keys of its own. */
bool config_set_entries(struct config_loader *l, const struct config_key *key, yaml_node_t *node);

/* The place of a key's value. */
static inline void *config_value_at(struct config_loader *l, size_t offset)
{
    return (char *)l->base + offset;
}

/* "file:line: path: `value`: what; expected ...". Always false. */
bool config_refuse(struct config_loader *l, const yaml_node_t *node, const char *path,
                   const char *what);

#endif
