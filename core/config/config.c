#include "core/config/config.h"

#include "core/base/assert.h"
#include "core/base/list.h"
#include "core/config/config_priv.h"
#include "core/domain.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Read with libyaml's document tree rather than libcyaml: only the tree knows the line of each
 * value when its meaning is checked, and every error must name file and line. */

enum { FILE_BYTES_MAX = 1 << 20, KEYS_MAX = 128 };

/* What config_load gives away, with the memory it lives in. */
struct loaded {
    struct config config;
    struct arena arena;
};

/* ---- the walk over the file ---- */

static unsigned distance(const char *a, const char *b)
{
    /* Levenshtein over short names, one row at a time. */
    unsigned row[80];
    size_t n = strlen(b);
    if (n >= 79)
        return 99;
    for (size_t k = 0; k <= n; k++)
        row[k] = (unsigned)k;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t k = 1; k <= n; k++) {
            unsigned best = diagonal + (a[i - 1] != b[k - 1]);
            best = row[k] + 1 < best ? row[k] + 1 : best;
            best = row[k - 1] + 1 < best ? row[k - 1] + 1 : best;
            diagonal = row[k];
            row[k] = best;
        }
    }
    return row[n];
}

static bool refuse_unknown(struct config_loader *l, const yaml_node_t *node, const char *path)
{
    size_t count;
    const struct config_key *keys = config_keys(&count), *nearest = NULL;
    size_t len = strlen(path);
    unsigned best = 6;
    for (size_t i = 0; i < count; i++) {
        size_t other = strlen(keys[i].path);
        if ((len > other ? len - other : other - len) >= best)
            continue; /* each byte more is a difference more */
        unsigned d = distance(path, keys[i].path);
        if (d < best) {
            best = d;
            nearest = &keys[i];
        }
    }
    char what[200];
    if (nearest != NULL)
        (void)snprintf(what, sizeof what, "unknown key; did you mean %s?", nearest->path);
    else
        (void)snprintf(what, sizeof what, "unknown key; the commented example file lists all");
    error_set(l->error, "%s:%u: %s: %s", l->file, (unsigned)node->start_mark.line + 1, path, what);
    return false;
}

static const struct config_key *find_key(const char *path, size_t *index_out)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(keys[i].path, path) == 0) {
            *index_out = i;
            return &keys[i];
        }
    return NULL;
}

static bool is_section(const char *path)
{
    size_t count, len = strlen(path);
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++)
        if (strncmp(keys[i].path, path, len) == 0 && keys[i].path[len] == '.')
            return true;
    return false;
}

/* Lines where keys were set, for checks that come later; 0 = not set in the file. */
struct seen {
    yaml_node_t *nodes[KEYS_MAX];
};

static bool walk(struct config_loader *l, yaml_node_t *mapping, const char *prefix,
                 struct seen *seen)
{
    for (yaml_node_pair_t *p = mapping->data.mapping.pairs.start;
         p < mapping->data.mapping.pairs.top; p++) {
        yaml_node_t *name = yaml_document_get_node(l->document, p->key);
        yaml_node_t *value = yaml_document_get_node(l->document, p->value);
        char path[128];
        if (name->type != YAML_SCALAR_NODE || name->data.scalar.length > 64)
            return config_refuse(l, name, prefix[0] != '\0' ? prefix : "(top)",
                                 "a key must be a short text");
        (void)snprintf(path, sizeof path, "%s%s%s", prefix, prefix[0] != '\0' ? "." : "",
                       (const char *)name->data.scalar.value);
        size_t index = 0;
        const struct config_key *key = find_key(path, &index);
        if (key != NULL) {
            if (seen->nodes[index] != NULL)
                return config_refuse(l, name, path, "stands twice in the file");
            seen->nodes[index] = value;
            if (!config_set_value(l, key, value))
                return false;
        } else if (prefix[0] == '\0' && is_section(path)) {
            bool empty = value->type == YAML_SCALAR_NODE && value->data.scalar.length == 0;
            if (!empty && value->type != YAML_MAPPING_NODE)
                return config_refuse(l, value, path,
                                     "not a section; expected its keys indented below it");
            if (!empty && !walk(l, value, path, seen))
                return false;
        } else {
            return refuse_unknown(l, name, path);
        }
    }
    return true;
}

/* Last, for most of the work of reading a file is here: one that is refused is refused at once. */
static bool fill_initial(struct config_loader *l, const struct seen *seen)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    ASSERT(count <= KEYS_MAX);
    for (size_t i = 0; i < count; i++)
        if (seen->nodes[i] == NULL && !config_set_initial(l, &keys[i]))
            return false;
    return true;
}

/* ---- what follows from several values ---- */

static yaml_node_t *node_of(const struct seen *seen, const char *path)
{
    size_t index = 0;
    ASSERT(find_key(path, &index) != NULL);
    return seen->nodes[index];
}

static bool fill_hostname(struct config_loader *l)
{
    char name[256] = "";
    if (l->config->hostname != NULL)
        return true;
    if (gethostname(name, sizeof name - 1) != 0)
        name[0] = '\0';
    /* The system's name, only where it is a full one: asking DNS for it could hang the start. */
    char domain[DOMAIN_SIZE];
    if (strchr(name, '.') == NULL || !domain_normalize(slice_str(name), domain)) {
        error_set(l->error,
                  "%s:1: hostname: the system's name `%s` is not fully qualified; set `hostname: "
                  "relay1.example.org`",
                  l->file, name);
        return false;
    }
    struct slice copy;
    if (!arena_copy(l->arena, slice_of(domain, strlen(domain) + 1), &copy))
        return false;
    l->config->hostname = copy.ptr;
    return true;
}

static bool fill_postmaster(struct config_loader *l)
{
    if (l->config->postmaster != NULL)
        return true;
    size_t size = strlen(l->config->hostname) + sizeof "postmaster@";
    char *text = arena_alloc(l->arena, size);
    if (text == NULL)
        return false;
    (void)snprintf(text, size, "postmaster@%s", l->config->hostname);
    l->config->postmaster = text;
    return true;
}

/* own_names always holds the hostname itself. */
static bool fill_own_names(struct config_loader *l, const struct seen *seen)
{
    size_t count = 0;
    char domain[DOMAIN_SIZE];
    for (; l->config->own_names[count] != NULL; count++)
        if (!domain_normalize(slice_str(l->config->own_names[count]), domain)) {
            const yaml_node_t *list = node_of(seen, "own_names");
            return config_refuse(
                l, yaml_document_get_node(l->document, list->data.sequence.items.start[count]),
                "own_names", "not a name; expected one such as relay1.example.org");
        }
    const char **names = arena_alloc(l->arena, (count + 2) * sizeof *names);
    if (names == NULL)
        return false;
    names[0] = l->config->hostname;
    memcpy(names + 1, l->config->own_names, (count + 1) * sizeof *names);
    l->config->own_names = names;
    return true;
}

static void fill_threads(struct config *c)
{
    if (c->workers.threads != 0)
        return;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    c->workers.threads = cpus < 1 ? 1 : cpus > 256 ? 256 : (unsigned)cpus;
}

static bool check_together(struct config_loader *l, const struct seen *seen)
{
    const struct config *c = l->config;
    if (c->delivery.patience_min_ms > c->delivery.patience_max_ms)
        return config_refuse(l, node_of(seen, "delivery.patience_min"), "delivery.patience_min",
                             "longer than delivery.patience_max; expected at most that");
    if (c->health.demote_first_ms > c->health.demote_max_ms)
        return config_refuse(l, node_of(seen, "health.demote_first"), "health.demote_first",
                             "longer than health.demote_max; expected at most that");
    if (c->retry.first_ms > c->retry.max_ms)
        return config_refuse(l, node_of(seen, "retry.first"), "retry.first",
                             "longer than retry.max; expected at most that");
    if (!c->delivery.use_ipv4 && !c->delivery.use_ipv6)
        return config_refuse(l, node_of(seen, "delivery.ipv6"), "delivery.ipv6",
                             "neither IPv4 nor IPv6 is left; expected at least one of them true");
    if (c->delivery.tls_ca_file != NULL && access(c->delivery.tls_ca_file, R_OK) != 0)
        return config_refuse(l, node_of(seen, "delivery.tls_ca_file"), "delivery.tls_ca_file",
                             "cannot be read; expected a file of PEM certificates");
    for (unsigned i = 0; i < c->http.listener_count; i++)
        if (c->http.listeners[i].tls &&
            (c->http.tls_certificate == NULL || c->http.tls_key == NULL))
            return config_refuse(l, node_of(seen, "http.listen"), "http.listen",
                                 "a listener has `tls: true`; expected http.tls_certificate and "
                                 "http.tls_key, the PEM files to use");
    if (strcmp(c->spool.path, "-") == 0 || strcmp(c->control.socket, "-") == 0)
        return config_refuse(l, node_of(seen, "spool.path"), "spool.path or control.socket",
                             "not a path; expected one that begins with /");
    return true;
}

/* ---- loading ---- */

static bool refuse_yaml(struct config_loader *l, const yaml_parser_t *parser)
{
    error_set(l->error,
              "%s:%u: not valid YAML: %s; expected keys and values as in the commented example",
              l->file, (unsigned)parser->problem_mark.line + 1,
              parser->problem != NULL ? parser->problem : "bad text");
    return false;
}

/* What stands behind the document would count for nothing. */
static bool check_end(struct config_loader *l, yaml_parser_t *parser)
{
    yaml_document_t behind;
    if (!yaml_parser_load(parser, &behind))
        return refuse_yaml(l, parser);
    const yaml_node_t *root = yaml_document_get_root_node(&behind);
    if (root != NULL)
        error_set(l->error,
                  "%s:%u: a second document begins here, behind `---`; expected all keys in one",
                  l->file, (unsigned)root->start_mark.line + 1);
    yaml_document_delete(&behind);
    return root == NULL;
}

static bool load_document(struct config_loader *l, const char *text, size_t len)
{
    yaml_parser_t parser;
    yaml_document_t document;
    struct seen seen = {{NULL}};
    if (!yaml_parser_initialize(&parser))
        return config_refuse(l, NULL, "(file)", "out of memory");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    if (!yaml_parser_load(&parser, &document)) {
        (void)refuse_yaml(l, &parser);
        yaml_parser_delete(&parser);
        return false;
    }
    l->document = &document;
    yaml_node_t *root = yaml_document_get_root_node(&document);
    bool empty = root == NULL || (root->type == YAML_SCALAR_NODE && root->data.scalar.length == 0);
    bool ok = true;
    if (!empty && root->type != YAML_MAPPING_NODE)
        ok = config_refuse(l, root, "(file)",
                           "not a mapping; expected lines of the form `key: value`");
    else if (!empty)
        ok = walk(l, root, "", &seen);
    ok = ok && (root == NULL || check_end(l, &parser));
    ok = ok && fill_initial(l, &seen) && fill_hostname(l) && fill_postmaster(l) &&
         fill_own_names(l, &seen) && check_together(l, &seen);
    l->document = NULL;
    yaml_document_delete(&document);
    yaml_parser_delete(&parser);
    return ok;
}

struct config *config_load_text(const char *text, size_t len, const char *name, struct error *error)
{
    error_set(error, "%s: out of memory", name);
    struct loaded *loaded = calloc(1, sizeof *loaded);
    if (loaded == NULL)
        return NULL;
    arena_init(&loaded->arena);
    struct config *config = &loaded->config;
    struct config_loader l = {
        .config = config, .base = config, .arena = &loaded->arena, .file = name, .error = error};
    struct slice path;
    bool ok = arena_copy(&loaded->arena, slice_of(name, strlen(name) + 1), &path) &&
              arena_copy(&loaded->arena, slice_of(text, len), &config->text);
    config->path = path.ptr;
    if (!ok || !load_document(&l, text, len)) {
        config_free(&config);
        return NULL;
    }
    fill_threads(config);
    return config;
}

struct config *config_load(const char *path, struct error *error)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        error_set(error, "%s: cannot be read: %m; give a configuration with -c FILE", path);
        return NULL;
    }
    char *text = malloc(FILE_BYTES_MAX + 1);
    size_t len = text != NULL ? fread(text, 1, FILE_BYTES_MAX + 1, file) : 0;
    bool bad = ferror(file) != 0;
    (void)fclose(file);
    struct config *config = NULL;
    if (text == NULL)
        error_set(error, "%s: out of memory", path);
    else if (bad)
        error_set(error, "%s: cannot be read; expected a YAML file", path);
    else if (len > FILE_BYTES_MAX)
        error_set(error, "%s: larger than 1 MB; expected a configuration file", path);
    else
        config = config_load_text(text, len, path, error);
    free(text);
    return config;
}

void config_free(struct config **c)
{
    if (*c == NULL)
        return;
    struct loaded *loaded = CONTAINER_OF(*c, struct loaded, config);
    arena_fini(&loaded->arena);
    free(loaded);
    *c = NULL;
}

/* ---- reload ---- */

static bool same_strings(const char *const *a, const char *const *b)
{
    size_t i = 0;
    while (a[i] != NULL && b[i] != NULL && strcmp(a[i], b[i]) == 0)
        i++;
    return a[i] == NULL && b[i] == NULL;
}

static bool same_zones(const struct config_stub_zone *a, const struct config_stub_zone *b)
{
    size_t i = 0;
    while (a[i].name != NULL && b[i].name != NULL && strcmp(a[i].name, b[i].name) == 0 &&
           same_strings(a[i].servers, b[i].servers))
        i++;
    return a[i].name == NULL && b[i].name == NULL;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_listeners(const struct config *a, const struct config *b)
{
    if (a->submission.listener_count != b->submission.listener_count)
        return false;
    for (unsigned i = 0; i < a->submission.listener_count; i++) {
        const struct config_listener *x = &a->submission.listeners[i],
                                     *y = &b->submission.listeners[i];
        if (!address_same_ip(&x->address, &y->address) || x->address.port != y->address.port ||
            x->proxy_protocol != y->proxy_protocol || x->priority != y->priority)
            return false;
    }
    return true;
}

static bool same_http_listeners(const struct config *a, const struct config *b)
{
    bool same = a->http.listener_count == b->http.listener_count;
    for (unsigned i = 0; same && i < a->http.listener_count; i++) {
        const struct config_http_listener *x = &a->http.listeners[i], *y = &b->http.listeners[i];
        same = address_same_ip(&x->address, &y->address) && x->address.port == y->address.port &&
               same_text(x->socket, y->socket) && x->tls == y->tls;
    }
    return same;
}

static bool same_addresses(const struct config *a, const struct config *b)
{
    bool same = a->own_address_count == b->own_address_count;
    for (unsigned i = 0; same && i < a->own_address_count; i++)
        same = address_same_ip(&a->own_addresses[i], &b->own_addresses[i]);
    return same;
}

static bool same_webhooks(const struct config *a, const struct config *b)
{
    bool same = a->events.webhook_count == b->events.webhook_count;
    for (unsigned i = 0; same && i < a->events.webhook_count; i++) {
        const struct config_webhook *x = &a->events.webhooks[i], *y = &b->events.webhooks[i];
        same = same_text(x->url, y->url) && x->events == y->events &&
               x->batch_size == y->batch_size && x->max_delay_ms == y->max_delay_ms &&
               x->timeout_ms == y->timeout_ms && same_text(x->token_file, y->token_file) &&
               x->verify_tls == y->verify_tls && same_text(x->ca_file, y->ca_file);
    }
    return same;
}

static size_t size_of(enum config_type type)
{
    switch (type) {
    case CONFIG_BOOL:
        return sizeof(bool);
    case CONFIG_UNSIGNED:
    case CONFIG_POWER_OF_2:
        return sizeof(unsigned);
    case CONFIG_PORT:
        return sizeof(uint16_t);
    case CONFIG_COUNT:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
        return sizeof(uint64_t);
    case CONFIG_TLS_MODE:
        return sizeof(enum config_tls);
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
    case CONFIG_ENDPOINT:
    case CONFIG_URL:
    case CONFIG_FIELD_NAME:
    case CONFIG_PRIORITY:
    case CONFIG_EVENTS:
    case CONFIG_WEBHOOKS:
        break;
    }
    return 0;
}

static bool same_value(const struct config_key *key, const struct config *a, const struct config *b)
{
    const void *x = (const char *)a + key->offset, *y = (const char *)b + key->offset;
    switch (key->type) {
    case CONFIG_STRING:
    case CONFIG_DOMAIN:
    case CONFIG_MAILBOX:
    case CONFIG_PATH:
    case CONFIG_FIELD_NAME:
        return same_text(*(const char *const *)x, *(const char *const *)y);
    case CONFIG_STRINGS:
        return same_strings(*(const char *const *const *)x, *(const char *const *const *)y);
    case CONFIG_STUB_ZONES:
        return same_zones(*(const struct config_stub_zone *const *)x,
                          *(const struct config_stub_zone *const *)y);
    case CONFIG_LISTENERS:
        return same_listeners(a, b);
    case CONFIG_HTTP_LISTENERS:
        return same_http_listeners(a, b);
    case CONFIG_ADDRESSES:
        return same_addresses(a, b);
    case CONFIG_WEBHOOKS:
        return same_webhooks(a, b);
    case CONFIG_NETS:
        return true; /* both lists of networks may change at a reload */
    case CONFIG_BOOL:
    case CONFIG_UNSIGNED:
    case CONFIG_COUNT:
    case CONFIG_POWER_OF_2:
    case CONFIG_PORT:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
    case CONFIG_TLS_MODE:
    case CONFIG_ENDPOINT: /* these stand in entries only */
    case CONFIG_URL:
    case CONFIG_PRIORITY:
    case CONFIG_EVENTS:
        break;
    }
    return memcmp(x, y, size_of(key->type)) == 0;
}

const char *config_reload_conflict(const struct config *running, const struct config *fresh)
{
    size_t count;
    const struct config_key *keys = config_keys(&count);
    for (size_t i = 0; i < count; i++)
        if (!keys[i].reload && !same_value(&keys[i], running, fresh))
            return keys[i].path;
    return NULL;
}
