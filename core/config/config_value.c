#include "core/config/config_priv.h"

#include "core/config/units.h"
#include "core/domain.h"

#include <stdio.h>

enum { LIST_MAX = 4096 };

bool config_refuse(struct config_loader *l, const yaml_node_t *node, const char *path,
                   const char *what)
{
    unsigned line = node != NULL ? (unsigned)node->start_mark.line + 1 : 1;
    if (node != NULL && node->type == YAML_SCALAR_NODE)
        error_set(l->error, "%s:%u: %s: `%.100s`: %s", l->file, line, path,
                  (const char *)node->data.scalar.value, what);
    else
        error_set(l->error, "%s:%u: %s: %s", l->file, line, path, what);
    return false;
}

static struct slice scalar(const yaml_node_t *node)
{
    return slice_of(node->data.scalar.value, node->data.scalar.length);
}

static bool is_scalar(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE &&
           memchr(node->data.scalar.value, '\0', node->data.scalar.length) == NULL;
}

static const char *keep_string(struct config_loader *l, struct slice s)
{
    char *copy = arena_alloc(l->arena, s.len + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, s.ptr, s.len);
    copy[s.len] = '\0';
    return copy;
}

static bool out_of_memory(struct config_loader *l, const yaml_node_t *node, const char *path)
{
    return config_refuse(l, node, path, "out of memory");
}

static void *value_at(struct config_loader *l, size_t offset)
{
    return (char *)l->config + offset;
}

/* ---- scalars ---- */

static bool in_range(struct config_loader *l, const struct config_key *key, yaml_node_t *node,
                     uint64_t value)
{
    char what[200], low[UNITS_TEXT_SIZE], high[UNITS_TEXT_SIZE];
    if (value >= key->min && value <= key->max)
        return true;
    if (key->type == CONFIG_DURATION) {
        units_format_duration(key->min, low);
        units_format_duration(key->max, high);
    } else if (key->type == CONFIG_SIZE) {
        units_format_size(key->min, low);
        units_format_size(key->max, high);
    } else {
        (void)snprintf(low, sizeof low, "%llu", (unsigned long long)key->min);
        (void)snprintf(high, sizeof high, "%llu", (unsigned long long)key->max);
    }
    (void)snprintf(what, sizeof what, "out of range; expected %s to %s", low, high);
    return config_refuse(l, node, key->path, what);
}

static bool set_number(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    uint64_t value;
    if (!slice_to_u64(scalar(node), &value))
        return config_refuse(l, node, key->path,
                             "not a number; expected a whole number such as 20");
    if (!in_range(l, key, node, value))
        return false;
    if (key->type == CONFIG_POWER_OF_2 && (value & (value - 1)) != 0)
        return config_refuse(l, node, key->path,
                             "not a power of two; expected one such as 4096 or 65536");
    if (key->type == CONFIG_PORT)
        *(uint16_t *)value_at(l, key->offset) = (uint16_t)value;
    else if (key->type == CONFIG_COUNT)
        *(uint64_t *)value_at(l, key->offset) = value;
    else
        *(unsigned *)value_at(l, key->offset) = (unsigned)value;
    return true;
}

static bool set_unit_value(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    uint64_t value;
    bool duration = key->type == CONFIG_DURATION;
    if (!(duration ? units_parse_duration(scalar(node), &value)
                   : units_parse_size(scalar(node), &value)))
        return config_refuse(
            l, node, key->path,
            duration
                ? "not a duration; expected a whole number with a unit: 500ms, 30s, 5m, 4h or 5d"
                : "not a size; expected a whole number with a unit: 512B, 10KB, 64KiB, 10MB, 1GB "
                  "or 1TB");
    if (!in_range(l, key, node, value))
        return false;
    *(uint64_t *)value_at(l, key->offset) = value;
    return true;
}

static bool set_bool(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    bool yes = slice_equal(scalar(node), SLICE_LIT("true"));
    if (!yes && !slice_equal(scalar(node), SLICE_LIT("false")))
        return config_refuse(l, node, key->path, "neither true nor false; expected one of them");
    *(bool *)value_at(l, key->offset) = yes;
    return true;
}

static bool set_tls(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    static const char *const names[] = {"opportunistic", "required", "off"};
    for (unsigned i = 0; i < 3; i++)
        if (slice_equal(scalar(node), slice_str(names[i]))) {
            *(enum config_tls *)value_at(l, key->offset) = (enum config_tls)i;
            return true;
        }
    return config_refuse(l, node, key->path,
                         "not a TLS mode; expected opportunistic, required or off");
}

static bool set_string(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    struct slice s = scalar(node);
    char domain[DOMAIN_SIZE];
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ')
            return config_refuse(l, node, key->path,
                                 "holds a control character; expected plain text");
    if (key->type == CONFIG_DOMAIN && (!domain_normalize(s, domain) || slice_find(s, '.') == s.len))
        return config_refuse(l, node, key->path,
                             "not a fully qualified name; expected one such as relay1.example.org");
    if (key->type == CONFIG_PATH &&
        (s.len == 0 || (s.ptr[0] != '/' && !slice_equal(s, SLICE_LIT("-")))))
        return config_refuse(l, node, key->path,
                             "not an absolute path; expected one that begins with /");
    if (key->max > 0 && s.len > key->max)
        return config_refuse(l, node, key->path,
                             "too long for a unix socket; expected at most 107 characters");
    const char *copy = keep_string(l, s);
    if (copy == NULL)
        return out_of_memory(l, node, key->path);
    *(const char **)value_at(l, key->offset) = copy;
    return true;
}

/* ---- lists ---- */

static size_t list_length(const yaml_node_t *node)
{
    return (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
}

static yaml_node_t *list_item(struct config_loader *l, const yaml_node_t *node, size_t i)
{
    return yaml_document_get_node(l->document, node->data.sequence.items.start[i]);
}

static bool set_strings(struct config_loader *l, const char *path, yaml_node_t *node,
                        const char *const **out)
{
    size_t count = list_length(node);
    const char **items = arena_alloc(l->arena, (count + 1) * sizeof *items);
    if (items == NULL)
        return out_of_memory(l, node, path);
    for (size_t i = 0; i < count; i++) {
        yaml_node_t *item = list_item(l, node, i);
        if (!is_scalar(item) || scalar(item).len == 0)
            return config_refuse(l, item, path, "not a text; expected a list of texts");
        items[i] = keep_string(l, scalar(item));
        if (items[i] == NULL)
            return out_of_memory(l, node, path);
    }
    items[count] = NULL;
    *out = items;
    return true;
}

static bool set_addresses(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    size_t count = list_length(node);
    struct address *items = arena_alloc(l->arena, (count + 1) * sizeof *items);
    if (items == NULL)
        return out_of_memory(l, node, key->path);
    for (size_t i = 0; i < count; i++) {
        yaml_node_t *item = list_item(l, node, i);
        if (!is_scalar(item) || !address_parse_ip(scalar(item), &items[i]))
            return config_refuse(
                l, item, key->path,
                "not an IP address; expected one such as 192.0.2.1 or 2001:db8::1");
    }
    *(const struct address **)value_at(l, key->offset) = items;
    *(unsigned *)value_at(l, key->count_offset) = (unsigned)count;
    return true;
}

static bool set_nets(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    size_t count = list_length(node);
    struct address_net *items = arena_alloc(l->arena, (count + 1) * sizeof *items);
    if (items == NULL)
        return out_of_memory(l, node, key->path);
    for (size_t i = 0; i < count; i++) {
        yaml_node_t *item = list_item(l, node, i);
        if (!is_scalar(item) || !address_net_parse(scalar(item), &items[i]))
            return config_refuse(l, item, key->path,
                                 "not a network; expected an address or a prefix without host "
                                 "bits, such as 192.0.2.0/24");
    }
    *(const struct address_net **)value_at(l, key->offset) = items;
    *(unsigned *)value_at(l, key->count_offset) = (unsigned)count;
    return true;
}

/* One entry of a mapping in a list: the value node of each of `count` names, or NULL. Unknown names
 * are refused. */
static bool read_entry(struct config_loader *l, yaml_node_t *mapping, const char *path, int count,
                       const char *const *names, yaml_node_t **values)
{
    for (int i = 0; i < count; i++)
        values[i] = NULL;
    if (mapping->type != YAML_MAPPING_NODE)
        return config_refuse(l, mapping, path,
                             "not a mapping; expected entries as the example file shows");
    for (yaml_node_pair_t *p = mapping->data.mapping.pairs.start;
         p < mapping->data.mapping.pairs.top; p++) {
        yaml_node_t *name = yaml_document_get_node(l->document, p->key);
        int found = -1;
        for (int i = 0; i < count && is_scalar(name); i++)
            if (slice_equal(scalar(name), slice_str(names[i])))
                found = i;
        if (found < 0 || values[found] != NULL)
            return config_refuse(
                l, name, path, found < 0 ? "unknown key of an entry" : "stands twice in one entry");
        values[found] = yaml_document_get_node(l->document, p->value);
    }
    return true;
}

/* True and false, spelled so; absent is false. */
static bool read_flag(struct config_loader *l, const struct config_key *key, yaml_node_t *node,
                      const char *what, bool *out)
{
    *out = node != NULL && is_scalar(node) && slice_equal(scalar(node), SLICE_LIT("true"));
    return node == NULL || *out ||
           (is_scalar(node) && slice_equal(scalar(node), SLICE_LIT("false"))) ||
           config_refuse(l, node, key->path, what);
}

static bool set_listeners(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    static const char *const names[2] = {"address", "proxy_protocol"};
    size_t count = list_length(node);
    struct config_listener *items = arena_alloc(l->arena, (count + 1) * sizeof *items);
    if (items == NULL)
        return out_of_memory(l, node, key->path);
    if (count < key->min || count > key->max)
        return config_refuse(l, node, key->path, "expected 1 to 64 listeners");
    for (size_t i = 0; i < count; i++) {
        yaml_node_t *item = list_item(l, node, i), *values[2];
        if (!read_entry(l, item, key->path, 2, names, values))
            return false;
        items[i] = (struct config_listener){.proxy_protocol = false};
        if (values[0] == NULL || !is_scalar(values[0]) ||
            !address_parse(scalar(values[0]), &items[i].address))
            return config_refuse(l, values[0] != NULL ? values[0] : item, key->path,
                                 "not an address with a port; expected \"192.0.2.1:2525\", "
                                 "\"[2001:db8::1]:2525\" or \"*:2525\"");
        if (!read_flag(l, key, values[1], "proxy_protocol is true or false",
                       &items[i].proxy_protocol))
            return false;
        for (size_t k = 0; k < i; k++)
            if (address_same_ip(&items[k].address, &items[i].address) &&
                items[k].address.port == items[i].address.port)
                return config_refuse(l, values[0], key->path, "listed twice");
    }
    *(const struct config_listener **)value_at(l, key->offset) = items;
    *(unsigned *)value_at(l, key->count_offset) = (unsigned)count;
    return true;
}

/* One of address and socket, and perhaps tls. */
static bool set_http_listener(struct config_loader *l, const struct config_key *key,
                              yaml_node_t *item, struct config_http_listener *out)
{
    static const char *const names[3] = {"address", "socket", "tls"};
    enum { SOCKET_PATH_MAX = 107 };
    yaml_node_t *values[3];
    *out = (struct config_http_listener){.socket = NULL};
    if (!read_entry(l, item, key->path, 3, names, values) ||
        !read_flag(l, key, values[2], "tls is true or false", &out->tls))
        return false;
    if ((values[0] != NULL) == (values[1] != NULL))
        return config_refuse(l, item, key->path, "expected one of `address` and `socket`");
    if (values[0] != NULL)
        return (is_scalar(values[0]) && address_parse(scalar(values[0]), &out->address)) ||
               config_refuse(l, values[0], key->path,
                             "not an address with a port; expected \"127.0.0.1:2580\", "
                             "\"[2001:db8::1]:2580\" or \"*:2580\"");
    if (!is_scalar(values[1]) || scalar(values[1]).len == 0 || scalar(values[1]).ptr[0] != '/' ||
        scalar(values[1]).len > SOCKET_PATH_MAX || out->tls)
        return config_refuse(l, values[1], key->path,
                             "not a unix socket; expected an absolute path of at most 107 "
                             "characters, without tls");
    out->socket = keep_string(l, scalar(values[1]));
    return out->socket != NULL || out_of_memory(l, item, key->path);
}

static bool set_http_listeners(struct config_loader *l, const struct config_key *key,
                               yaml_node_t *node)
{
    size_t count = list_length(node);
    struct config_http_listener *items = arena_alloc(l->arena, (count + 1) * sizeof *items);
    if (items == NULL)
        return out_of_memory(l, node, key->path);
    if (count > key->max)
        return config_refuse(l, node, key->path, "expected at most 16 listeners");
    for (size_t i = 0; i < count; i++) {
        if (!set_http_listener(l, key, list_item(l, node, i), &items[i]))
            return false;
        for (size_t k = 0; k < i; k++)
            if (items[i].socket != NULL
                    ? items[k].socket != NULL && strcmp(items[k].socket, items[i].socket) == 0
                    : items[k].socket == NULL &&
                          address_same_ip(&items[k].address, &items[i].address) &&
                          items[k].address.port == items[i].address.port)
                return config_refuse(l, list_item(l, node, i), key->path, "listed twice");
    }
    *(const struct config_http_listener **)value_at(l, key->offset) = items;
    *(unsigned *)value_at(l, key->count_offset) = (unsigned)count;
    return true;
}

static bool set_stub_zones(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    static const char *const names[2] = {"zone", "servers"};
    size_t count = list_length(node);
    struct config_stub_zone *items = arena_alloc(l->arena, (count + 1) * sizeof *items);
    if (items == NULL)
        return out_of_memory(l, node, key->path);
    for (size_t i = 0; i < count; i++) {
        yaml_node_t *item = list_item(l, node, i), *values[2];
        if (!read_entry(l, item, key->path, 2, names, values))
            return false;
        if (values[0] == NULL || values[1] == NULL || !is_scalar(values[0]) ||
            values[1]->type != YAML_SEQUENCE_NODE || list_length(values[1]) == 0)
            return config_refuse(
                l, item, key->path,
                "incomplete; expected {zone: \"example.org\", servers: [\"192.0.2.53@53\"]}");
        items[i].name = keep_string(l, scalar(values[0]));
        if (items[i].name == NULL || !set_strings(l, key->path, values[1], &items[i].servers))
            return items[i].name != NULL ? false : out_of_memory(l, node, key->path);
    }
    items[count] = (struct config_stub_zone){NULL, NULL};
    *(const struct config_stub_zone **)value_at(l, key->offset) = items;
    return true;
}

/* ---- by type ---- */

static bool set_scalar(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    if (!is_scalar(node))
        return config_refuse(l, node, key->path, "not a single value; expected one");
    switch (key->type) {
    case CONFIG_BOOL:
        return set_bool(l, key, node);
    case CONFIG_UNSIGNED:
    case CONFIG_COUNT:
    case CONFIG_POWER_OF_2:
    case CONFIG_PORT:
        return set_number(l, key, node);
    case CONFIG_DURATION:
    case CONFIG_SIZE:
        return set_unit_value(l, key, node);
    case CONFIG_TLS_MODE:
        return set_tls(l, key, node);
    case CONFIG_STRING:
    case CONFIG_DOMAIN:
    case CONFIG_PATH:
    case CONFIG_STRINGS:
    case CONFIG_ADDRESSES:
    case CONFIG_NETS:
    case CONFIG_LISTENERS:
    case CONFIG_HTTP_LISTENERS:
    case CONFIG_STUB_ZONES:
        break;
    }
    return set_string(l, key, node);
}

bool config_set_value(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    if (key->type < CONFIG_STRINGS)
        return set_scalar(l, key, node);
    if (node->type != YAML_SEQUENCE_NODE || list_length(node) > LIST_MAX)
        return config_refuse(l, node, key->path,
                             "not a list; expected [one, another] or lines that begin with \"- \"");
    switch (key->type) {
    case CONFIG_ADDRESSES:
        return set_addresses(l, key, node);
    case CONFIG_NETS:
        return set_nets(l, key, node);
    case CONFIG_LISTENERS:
        return set_listeners(l, key, node);
    case CONFIG_HTTP_LISTENERS:
        return set_http_listeners(l, key, node);
    case CONFIG_STUB_ZONES:
        return set_stub_zones(l, key, node);
    case CONFIG_STRING:
    case CONFIG_DOMAIN:
    case CONFIG_PATH:
    case CONFIG_BOOL:
    case CONFIG_UNSIGNED:
    case CONFIG_COUNT:
    case CONFIG_POWER_OF_2:
    case CONFIG_PORT:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
    case CONFIG_TLS_MODE:
    case CONFIG_STRINGS:
        break;
    }
    return set_strings(l, key->path, node, value_at(l, key->offset));
}

/* Defaults go the same way as values from a file, so that both mean the same. */
bool config_set_initial(struct config_loader *l, const struct config_key *key)
{
    yaml_parser_t parser;
    yaml_document_t document;
    if (key->initial == NULL)
        return true;
    if (!yaml_parser_initialize(&parser))
        return out_of_memory(l, NULL, key->path);
    yaml_parser_set_input_string(&parser, (const unsigned char *)key->initial,
                                 strlen(key->initial));
    bool ok = yaml_parser_load(&parser, &document) == 1;
    if (ok) {
        struct config_loader own = *l;
        own.document = &document;
        ok = config_set_value(&own, key, yaml_document_get_root_node(&document));
        yaml_document_delete(&document);
    }
    yaml_parser_delete(&parser);
    return ok;
}
