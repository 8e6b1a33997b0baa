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
        *(uint16_t *)config_value_at(l, key->offset) = (uint16_t)value;
    else if (key->type == CONFIG_COUNT)
        *(uint64_t *)config_value_at(l, key->offset) = value;
    else
        *(unsigned *)config_value_at(l, key->offset) = (unsigned)value;
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
    *(uint64_t *)config_value_at(l, key->offset) = value;
    return true;
}

static bool set_bool(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    bool yes = slice_equal(scalar(node), SLICE_LIT("true"));
    if (!yes && !slice_equal(scalar(node), SLICE_LIT("false")))
        return config_refuse(l, node, key->path, "neither true nor false; expected one of them");
    *(bool *)config_value_at(l, key->offset) = yes;
    return true;
}

static bool set_tls(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    static const char *const names[] = {"opportunistic", "required", "off"};
    for (unsigned i = 0; i < 3; i++)
        if (slice_equal(scalar(node), slice_str(names[i]))) {
            *(enum config_tls *)config_value_at(l, key->offset) = (enum config_tls)i;
            return true;
        }
    return config_refuse(l, node, key->path,
                         "not a TLS mode; expected opportunistic, required or off");
}

/* A plain one: it goes into header fields as it is. */
static bool is_mailbox(struct slice s)
{
    char domain[DOMAIN_SIZE];
    size_t at = slice_find(s, '@');
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] <= ' ' || s.ptr[i] >= 0x7f || strchr("\"(),:;<>[\\]", s.ptr[i]) != NULL)
            return false;
    return at > 0 && domain_normalize(slice_skip(s, at + 1), domain);
}

static bool set_string(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    struct slice s = scalar(node);
    char domain[DOMAIN_SIZE];
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ')
            return config_refuse(l, node, key->path,
                                 "holds a control character; expected plain text");
    if (key->type == CONFIG_DOMAIN && (!domain_normalize(s, domain) || strchr(domain, '.') == NULL))
        return config_refuse(l, node, key->path,
                             "not a fully qualified name; expected one such as relay1.example.org");
    if (key->type == CONFIG_DOMAIN)
        s = slice_str(domain);
    if (key->type == CONFIG_MAILBOX && !is_mailbox(s))
        return config_refuse(l, node, key->path,
                             "not an address; expected one such as postmaster@example.org");
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
    *(const char **)config_value_at(l, key->offset) = copy;
    return true;
}

static bool set_endpoint(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    if (address_parse(scalar(node), config_value_at(l, key->offset)))
        return true;
    return config_refuse(l, node, key->path,
                         "not an address with a port; expected \"192.0.2.1:2525\", "
                         "\"[2001:db8::1]:2525\" or \"*:2525\"");
}

static bool set_field_name(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    struct slice s = scalar(node);
    bool clean = s.len <= key->max;
    for (size_t i = 0; i < s.len; i++)
        clean &= s.ptr[i] > ' ' && s.ptr[i] < 0x7f && s.ptr[i] != ':';
    if (!clean)
        return config_refuse(l, node, key->path,
                             "not the name of a header field; expected one such as "
                             "X-Priority-Class, of at most 40 characters, without the colon");
    const char *copy = keep_string(l, s);
    if (copy == NULL)
        return out_of_memory(l, node, key->path);
    *(const char **)config_value_at(l, key->offset) = copy;
    return true;
}

static bool set_priority(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    uint8_t priority;
    if (!envelope_priority_parse(scalar(node), &priority))
        return config_refuse(l, node, key->path, "not a priority; expected transactional or bulk");
    *(enum envelope_priority *)config_value_at(l, key->offset) = (enum envelope_priority)priority;
    return true;
}

static bool set_url(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    yaml_node_t unquoted = *node; /* what is refused may hold a secret: it goes into no log */
    unquoted.type = YAML_NO_NODE;
    struct slice s = scalar(node);
    bool known = slice_starts_nocase(s, SLICE_LIT("http://")) ||
                 slice_starts_nocase(s, SLICE_LIT("https://"));
    bool clean = s.len <= key->max;
    for (size_t i = 0; i < s.len; i++)
        clean &= (unsigned char)s.ptr[i] > ' ' && (unsigned char)s.ptr[i] < 0x7f;
    if (!known || !clean)
        return config_refuse(
            l, &unquoted, key->path,
            "not a URL; expected one such as https://hooks.example.org/mail, of at "
            "most 500 characters");
    const char *copy = keep_string(l, s);
    if (copy == NULL)
        return out_of_memory(l, node, key->path);
    *(const char **)config_value_at(l, key->offset) = copy;
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
    *(const struct address **)config_value_at(l, key->offset) = items;
    *(unsigned *)config_value_at(l, key->count_offset) = (unsigned)count;
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
    *(const struct address_net **)config_value_at(l, key->offset) = items;
    *(unsigned *)config_value_at(l, key->count_offset) = (unsigned)count;
    return true;
}

static bool set_events(struct config_loader *l, const struct config_key *key, yaml_node_t *node)
{
    static const char *const names[] = {
#define X(kind_, name_) [kind_] = (name_),
        CONFIG_EVENT_KINDS(X)
#undef X
    };
    unsigned events = 0;
    for (size_t i = 0; i < list_length(node); i++) {
        yaml_node_t *item = list_item(l, node, i);
        unsigned kind = 0;
        while (kind < EVENT_KINDS &&
               !(is_scalar(item) && slice_equal(scalar(item), slice_str(names[kind]))))
            kind++;
        if (kind == EVENT_KINDS)
            return config_refuse(
                l, item, key->path,
                "no event; expected some of accepted, delivered, deferred, bounced, unknown");
        events |= 1u << kind;
    }
    if (events == 0)
        return config_refuse(l, node, key->path, "an empty list; expected at least one event");
    *(unsigned *)config_value_at(l, key->offset) = events;
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
    case CONFIG_ENDPOINT:
        return set_endpoint(l, key, node);
    case CONFIG_URL:
        return set_url(l, key, node);
    case CONFIG_FIELD_NAME:
        return set_field_name(l, key, node);
    case CONFIG_PRIORITY:
        return set_priority(l, key, node);
    case CONFIG_STRING:
    case CONFIG_DOMAIN:
    case CONFIG_MAILBOX:
    case CONFIG_PATH:
    case CONFIG_STRINGS:
    case CONFIG_ADDRESSES:
    case CONFIG_NETS:
    case CONFIG_LISTENERS:
    case CONFIG_HTTP_LISTENERS:
    case CONFIG_STUB_ZONES:
    case CONFIG_EVENTS:
    case CONFIG_WEBHOOKS:
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
    case CONFIG_EVENTS:
        return set_events(l, key, node);
    case CONFIG_LISTENERS:
    case CONFIG_HTTP_LISTENERS:
    case CONFIG_STUB_ZONES:
    case CONFIG_WEBHOOKS:
        return config_set_entries(l, key, node);
    case CONFIG_STRING:
    case CONFIG_DOMAIN:
    case CONFIG_MAILBOX:
    case CONFIG_PATH:
    case CONFIG_BOOL:
    case CONFIG_UNSIGNED:
    case CONFIG_COUNT:
    case CONFIG_POWER_OF_2:
    case CONFIG_PORT:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
    case CONFIG_TLS_MODE:
    case CONFIG_ENDPOINT:
    case CONFIG_URL:
    case CONFIG_FIELD_NAME:
    case CONFIG_PRIORITY:
    case CONFIG_STRINGS:
        break;
    }
    return set_strings(l, key->path, node, config_value_at(l, key->offset));
}

/* A default as the node that a parser would make of it. False: it takes a parser, being a list that
 * holds something. */
static bool read_initial(const struct config_key *key, yaml_node_t *out)
{
    *out = (yaml_node_t){.type = YAML_SEQUENCE_NODE};
    if (key->type >= CONFIG_STRINGS)
        return strcmp(key->initial, "[]") == 0;
    out->type = YAML_SCALAR_NODE;
    out->data.scalar.value = (yaml_char_t *)(uintptr_t)key->initial;
    out->data.scalar.length = strlen(key->initial);
    return true;
}

/* Defaults go the same way as values from a file, so that both mean the same. Every command reads
 * the configuration, and a parser for each key was most of the time that took. */
bool config_set_initial(struct config_loader *l, const struct config_key *key)
{
    yaml_node_t node;
    yaml_parser_t parser;
    yaml_document_t document;
    if (key->initial == NULL)
        return true;
    if (read_initial(key, &node))
        return config_set_value(l, key, &node);
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
