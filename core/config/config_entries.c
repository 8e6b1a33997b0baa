#include "core/base/net_unix.h"
#include "core/config/config_priv.h"

#include <stdio.h>

#define MINUTE UINT64_C(60000)
#define NOT    0

/* What an entry of a list may hold, and what list that makes. */
struct entry_kind {
    enum config_type type;
    size_t size; /* of an entry's struct */
    const struct config_key *keys;
    size_t key_count;
    /* Refuses an entry that lacks something, or that does not go with the ones before it. */
    bool (*check)(struct config_loader *l, const struct config_key *key, const yaml_node_t *node,
                  const void *items, size_t at);
    bool ends_with_empty; /* the list has no count: an empty entry ends it */
};

static bool check_listener(struct config_loader *l, const struct config_key *key,
                           const yaml_node_t *node, const void *items, size_t at)
{
    const struct config_listener *listeners = items;
    if (listeners[at].address.port == 0)
        return config_refuse(l, node, key->path,
                             "incomplete; expected {address: \"192.0.2.1:2525\"}");
    for (size_t i = 0; i < at; i++)
        if (address_same_ip(&listeners[i].address, &listeners[at].address) &&
            listeners[i].address.port == listeners[at].address.port)
            return config_refuse(l, node, key->path, "listed twice");
    return true;
}

static bool same_http_listener(const struct config_http_listener *a,
                               const struct config_http_listener *b)
{
    if (a->socket != NULL || b->socket != NULL)
        return a->socket != NULL && b->socket != NULL && strcmp(a->socket, b->socket) == 0;
    return address_same_ip(&a->address, &b->address) && a->address.port == b->address.port;
}

static bool check_http_listener(struct config_loader *l, const struct config_key *key,
                                const yaml_node_t *node, const void *items, size_t at)
{
    const struct config_http_listener *listeners = items;
    if ((listeners[at].address.port != 0) == (listeners[at].socket != NULL))
        return config_refuse(l, node, key->path, "expected one of `address` and `socket`");
    if (listeners[at].socket != NULL && listeners[at].tls)
        return config_refuse(l, node, key->path, "tls is for an `address`, not for a `socket`");
    for (size_t i = 0; i < at; i++)
        if (same_http_listener(&listeners[i], &listeners[at]))
            return config_refuse(l, node, key->path, "listed twice");
    return true;
}

static bool check_stub_zone(struct config_loader *l, const struct config_key *key,
                            const yaml_node_t *node, const void *items, size_t at)
{
    const struct config_stub_zone *zone = &((const struct config_stub_zone *)items)[at];
    if (zone->name == NULL || zone->servers == NULL || zone->servers[0] == NULL)
        return config_refuse(
            l, node, key->path,
            "incomplete; expected {zone: \"example.org\", servers: [\"192.0.2.53@53\"]}");
    return true;
}

static bool check_webhook(struct config_loader *l, const struct config_key *key,
                          const yaml_node_t *node, const void *items, size_t at)
{
    const struct config_webhook *hooks = items;
    if (hooks[at].url == NULL)
        return config_refuse(l, node, key->path,
                             "incomplete; expected {url: \"https://hooks.example.org/mail\"}");
    for (size_t i = 0; i < at; i++)
        if (strcmp(hooks[i].url, hooks[at].url) == 0)
            return config_refuse(l, node, key->path, "listed twice");
    return true;
}

static const struct entry_kind *kind_of(enum config_type type)
{
#define AT(m) offsetof(struct config_listener, m)
    static const struct config_key listener[] = {
        {"submission.listen.address", CONFIG_ENDPOINT, AT(address), NOT, NULL, 0, 0, false},
        {"submission.listen.proxy_protocol", CONFIG_BOOL, AT(proxy_protocol), NOT, "false", 0, 0,
         false},
        {"submission.listen.priority", CONFIG_PRIORITY, AT(priority), NOT, "bulk", 0, 0, false},
    };
#undef AT
#define AT(m) offsetof(struct config_http_listener, m)
    static const struct config_key http_listener[] = {
        {"http.listen.address", CONFIG_ENDPOINT, AT(address), NOT, NULL, 0, 0, false},
        {"http.listen.socket", CONFIG_PATH, AT(socket), NOT, NULL, 0, NET_UNIX_PATH_MAX, false},
        {"http.listen.tls", CONFIG_BOOL, AT(tls), NOT, "false", 0, 0, false},
    };
#undef AT
#define AT(m) offsetof(struct config_stub_zone, m)
    static const struct config_key stub_zone[] = {
        {"dns.stub_zones.zone", CONFIG_STRING, AT(name), NOT, NULL, 0, 0, false},
        {"dns.stub_zones.servers", CONFIG_STRINGS, AT(servers), NOT, NULL, 0, 0, false},
    };
#undef AT
#define AT(m) offsetof(struct config_webhook, m)
    static const struct config_key webhook[] = {
        {"events.webhooks.url", CONFIG_URL, AT(url), NOT, NULL, 0, 500, false},
        {"events.webhooks.events", CONFIG_EVENTS, AT(events), NOT,
         "[delivered, deferred, bounced, unknown]", 0, 0, false},
        {"events.webhooks.batch_size", CONFIG_UNSIGNED, AT(batch_size), NOT, "1000", 1, 10000,
         false},
        {"events.webhooks.max_delay", CONFIG_DURATION, AT(max_delay_ms), NOT, "1s", 0, 10 * MINUTE,
         false},
        {"events.webhooks.timeout", CONFIG_DURATION, AT(timeout_ms), NOT, "30s", 100, 10 * MINUTE,
         false},
        {"events.webhooks.token_file", CONFIG_PATH, AT(token_file), NOT, NULL, 0, 0, false},
        {"events.webhooks.verify_tls", CONFIG_BOOL, AT(verify_tls), NOT, "true", 0, 0, false},
        {"events.webhooks.ca_file", CONFIG_PATH, AT(ca_file), NOT, NULL, 0, 0, false},
    };
#undef AT
#define KEYS(k) k, sizeof(k) / sizeof *(k)
    static const struct entry_kind kinds[] = {
        {CONFIG_LISTENERS, sizeof(struct config_listener), KEYS(listener), check_listener, false},
        {CONFIG_HTTP_LISTENERS, sizeof(struct config_http_listener), KEYS(http_listener),
         check_http_listener, false},
        {CONFIG_STUB_ZONES, sizeof(struct config_stub_zone), KEYS(stub_zone), check_stub_zone,
         true},
        {CONFIG_WEBHOOKS, sizeof(struct config_webhook), KEYS(webhook), check_webhook, false},
    };
#undef KEYS
    const struct entry_kind *kind = kinds;
    while (kind->type != type)
        kind++;
    return kind;
}

/* The key of this name, behind the list's own path. */
static const struct config_key *find(const struct entry_kind *kind, const struct config_key *list,
                                     const yaml_node_t *name)
{
    size_t prefix = strlen(list->path) + 1;
    for (size_t i = 0; i < kind->key_count && name->type == YAML_SCALAR_NODE; i++)
        if (strcmp(kind->keys[i].path + prefix, (const char *)name->data.scalar.value) == 0)
            return &kind->keys[i];
    return NULL;
}

static bool read_entry(struct config_loader *l, const struct entry_kind *kind,
                       const struct config_key *list, yaml_node_t *mapping)
{
    enum { ENTRY_KEYS_MAX = 16 };
    bool seen[ENTRY_KEYS_MAX] = {false};
    if (mapping->type != YAML_MAPPING_NODE)
        return config_refuse(l, mapping, list->path,
                             "not a mapping; expected entries as the example file shows");
    for (size_t i = 0; i < kind->key_count; i++)
        if (!config_set_initial(l, &kind->keys[i]))
            return false;
    for (yaml_node_pair_t *p = mapping->data.mapping.pairs.start;
         p < mapping->data.mapping.pairs.top; p++) {
        yaml_node_t *name = yaml_document_get_node(l->document, p->key);
        const struct config_key *key = find(kind, list, name);
        if (key == NULL || seen[key - kind->keys])
            return config_refuse(l, name, list->path,
                                 key == NULL ? "unknown key of an entry"
                                             : "stands twice in one entry");
        seen[key - kind->keys] = true;
        if (!config_set_value(l, key, yaml_document_get_node(l->document, p->value)))
            return false;
    }
    return true;
}

bool config_set_entries(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    const struct entry_kind *kind = kind_of(key->type);
    const yaml_node_item_t *nodes = node->data.sequence.items.start;
    size_t count = (size_t)(node->data.sequence.items.top - nodes);
    char *items = arena_alloc(l->arena, (count + 1) * kind->size);
    if (items == NULL)
        return config_refuse(l, node, key->path, "out of memory");
    if (key->max > 0 && (count < key->min || count > key->max)) {
        char what[64];
        (void)snprintf(what, sizeof what, "expected %u to %u entries", (unsigned)key->min,
                       (unsigned)key->max);
        return config_refuse(l, node, key->path, what);
    }
    memset(items, 0, (count + 1) * kind->size);
    for (size_t i = 0; i < count; i++) {
        struct config_loader own = *l;
        yaml_node_t *item = yaml_document_get_node(l->document, nodes[i]);
        own.base = items + i * kind->size;
        if (!read_entry(&own, kind, key, item) || !kind->check(l, key, item, items, i))
            return false;
    }
    *(void **)config_value_at(l, key->offset) = items;
    if (!kind->ends_with_empty)
        *(unsigned *)config_value_at(l, key->count_offset) = (unsigned)count;
    return true;
}
