#include "workers/http/inject.h"

#include "core/base/utf8.h"
#include "smtp/address.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- members ---- */

static struct slice text_of(const json_t *value)
{
    return slice_of(json_string_value(value), json_string_length(value));
}

/* Nothing but these may stand in an object. */
static bool check_members(json_t *object, const char *where, const char *const *known,
                          struct error *error)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        const char *const *k = known;
        while (*k != NULL && strcmp(*k, key) != 0)
            k++;
        if (*k != NULL)
            continue;
        error_set(error, "%s: unknown member \"%.60s\"", where, key);
        return false;
    }
    return true;
}

/* A text that may be absent or null; "" then. */
static bool read_text(const json_t *object, const char *key, const char *where, struct slice *out,
                      struct error *error)
{
    const json_t *value = json_object_get(object, key);
    *out = SLICE_LIT("");
    if (value == NULL || json_is_null(value))
        return true;
    if (!json_is_string(value)) {
        error_set(error, "%s: \"%s\" must be a string", where, key);
        return false;
    }
    *out = text_of(value);
    return true;
}

/* An object or array that may be absent or null; NULL then. */
static bool read_nested(const json_t *object, const char *key, json_type type, const char *where,
                        json_t **out, struct error *error)
{
    json_t *value = json_object_get(object, key);
    *out = NULL;
    if (value == NULL || json_is_null(value))
        return true;
    if (json_typeof(value) != type) {
        error_set(error, "%s: \"%s\" must be an %s", where, key,
                  type == JSON_OBJECT ? "object" : "array");
        return false;
    }
    *out = value;
    return true;
}

static bool read_person(const json_t *content, const char *key, struct mime_person *out,
                        struct error *error)
{
    static const char *const known[] = {"email", "name", NULL};
    json_t *person;
    *out = (struct mime_person){.name = SLICE_LIT(""), .email = SLICE_LIT("")};
    if (!read_nested(content, key, JSON_OBJECT, "content", &person, error))
        return false;
    if (person == NULL)
        return true;
    if (!check_members(person, key, known, error) ||
        !read_text(person, "email", key, &out->email, error) ||
        !read_text(person, "name", key, &out->name, error))
        return false;
    if (out->email.len == 0)
        error_set(error, "%s: \"email\" is missing", key);
    return out->email.len > 0;
}

/* ---- content ---- */

static bool read_headers(struct inject *i, const json_t *content, struct mime_source *source,
                         struct error *error)
{
    json_t *headers, *value;
    const char *key;
    if (!read_nested(content, "headers", JSON_OBJECT, "content", &headers, error))
        return false;
    size_t count = json_object_size(headers);
    struct mime_named_value *fields = arena_alloc(&i->arena, (count + 1) * sizeof *fields);
    if (fields == NULL)
        return false;
    source->fields = fields;
    json_object_foreach(headers, key, value)
    {
        if (!json_is_string(value)) {
            error_set(error, "headers: \"%.60s\" must be a string", key);
            return false;
        }
        fields[source->field_count++] =
            (struct mime_named_value){.name = slice_str(key), .value = text_of(value)};
    }
    return true;
}

static bool read_attachment(const json_t *item, struct mime_attachment *out, struct error *error)
{
    static const char *const known[] = {"data",      "content_type", "content_id",
                                        "file_name", "base64",       NULL};
    const char *where = "attachments";
    const json_t *base64 = json_object_get(item, "base64");
    if (!json_is_object(item) || (base64 != NULL && !json_is_boolean(base64)) ||
        !json_is_string(json_object_get(item, "data")) ||
        !json_is_string(json_object_get(item, "content_type"))) {
        error_set(error,
                  "attachments: each is an object with \"data\" and \"content_type\", strings, "
                  "and perhaps \"base64\": true");
        return false;
    }
    out->is_base64 = json_is_true(base64);
    return check_members((json_t *)(uintptr_t)item, where, known, error) &&
           read_text(item, "data", where, &out->data, error) &&
           read_text(item, "content_type", where, &out->content_type, error) &&
           read_text(item, "content_id", where, &out->content_id, error) &&
           read_text(item, "file_name", where, &out->file_name, error);
}

static bool read_attachments(struct inject *i, const json_t *content, struct mime_source *source,
                             struct error *error)
{
    json_t *list;
    if (!read_nested(content, "attachments", JSON_ARRAY, "content", &list, error))
        return false;
    size_t count = json_array_size(list);
    struct mime_attachment *items = NULL;
    if (count <= MIME_PARTS_MAX)
        items = arena_alloc(&i->arena, (count + 1) * sizeof *items);
    else
        error_set(error, "attachments: at most %d", MIME_PARTS_MAX);
    if (items == NULL)
        return false;
    for (size_t n = 0; n < count; n++)
        if (!read_attachment(json_array_get(list, n), &items[n], error))
            return false;
    source->attachments = items;
    source->attachment_count = (unsigned)count;
    return true;
}

static bool read_parts(struct inject *i, json_t *content, const char *boundary, bool is_static,
                       struct error *error)
{
    static const char *const known[] = {"text_body", "html_body",   "amp_html_body",
                                        "subject",   "from",        "reply_to",
                                        "headers",   "attachments", NULL};
    struct mime_source source = {.envelope_sender = slice_str(i->sender)};
    const char *where = "content";
    if (!check_members(content, where, known, error) ||
        !read_text(content, "text_body", where, &source.text, error) ||
        !read_text(content, "html_body", where, &source.html, error) ||
        !read_text(content, "amp_html_body", where, &source.amp, error) ||
        !read_text(content, "subject", where, &source.subject, error) ||
        !read_person(content, "from", &source.from, error) ||
        !read_person(content, "reply_to", &source.reply_to, error) ||
        !read_headers(i, content, &source, error) || !read_attachments(i, content, &source, error))
        return false;
    i->message = mime_from_parts(&i->arena, &source, boundary, is_static, error);
    return i->message != NULL;
}

static bool read_dialect(const json_t *root, bool *is_static, struct error *error)
{
    struct slice dialect;
    if (!read_text(root, "template_dialect", "request", &dialect, error))
        return false;
    *is_static = slice_equal(dialect, SLICE_LIT("Static"));
    if (*is_static || dialect.len == 0 || slice_equal(dialect, SLICE_LIT("Jinja")))
        return true;
    error_set(error, "\"template_dialect\" is \"Jinja\" (of which {{name}} is known here) or "
                     "\"Static\"");
    return false;
}

/* ---- sender and recipients ---- */

static bool read_sender(struct inject *i, struct error *error)
{
    const json_t *value = json_object_get(i->root, "envelope_sender");
    if (!json_is_string(value)) {
        error_set(error, "\"envelope_sender\" is missing; expected an address, or \"\" for none");
        return false;
    }
    struct slice sender = text_of(value);
    if (sender.len > 0 && !header_wire_address(sender, i->sender)) {
        error_set(error, "\"envelope_sender\": `%.*s` is no mail address",
                  SLICE_ARG(slice_take(sender, 100)));
        return false;
    }
    i->sender_is_utf8 = utf8_has_high(slice_str(i->sender));
    return true;
}

/* Absent is bulk. */
static bool read_priority(struct inject *i, struct error *error)
{
    const json_t *value = json_object_get(i->root, "priority");
    if (value == NULL)
        return true;
    if (json_is_string(value) && envelope_priority_parse(text_of(value), &i->priority))
        return true;
    error_set(error, "\"priority\" is \"bulk\" or \"transactional\"");
    return false;
}

static bool check_recipient(json_t *item, size_t index, struct error *error)
{
    static const char *const known[] = {"email", "name", "substitutions", NULL};
    char where[48];
    (void)snprintf(where, sizeof where, "recipients[%zu]", index);
    struct slice name;
    json_t *substitutions;
    if (!json_is_object(item) || !json_is_string(json_object_get(item, "email"))) {
        error_set(error, "%s: expected an object with \"email\", a string", where);
        return false;
    }
    return check_members(item, where, known, error) &&
           read_text(item, "name", where, &name, error) &&
           read_nested(item, "substitutions", JSON_OBJECT, where, &substitutions, error);
}

static bool read_recipients(struct inject *i, struct error *error)
{
    i->recipients = json_object_get(i->root, "recipients");
    size_t count = json_array_size(i->recipients);
    if (count == 0) {
        error_set(error, "\"recipients\" is missing or empty; expected a list of {\"email\": ...}");
        return false;
    }
    for (size_t n = 0; n < count; n++)
        if (!check_recipient(json_array_get(i->recipients, n), n, error))
            return false;
    return read_nested(i->root, "substitutions", JSON_OBJECT, "request", &i->substitutions, error);
}

/* ---- the whole ---- */

size_t inject_values(struct slice s)
{
    size_t count = 0;
    bool in_string = false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string)
            count += c == ',' || c == '[' || c == '{';
    }
    return count;
}

bool inject_read(struct inject *i, struct slice body, const char *boundary, struct error *error)
{
    static const char *const known[] = {"envelope_sender", "recipients",
                                        "content",         "substitutions",
                                        "deferred_spool",  "deferred_generation",
                                        "trace_headers",   "template_dialect",
                                        "priority",        NULL};
    json_error_t where;
    bool is_static;
    *i = (struct inject){.root = NULL};
    arena_init(&i->arena);
    error_set(error, "out of memory");
    if (inject_values(body) > INJECT_VALUES_MAX) {
        error_set(error, "more than %d JSON values; send the recipients in several requests",
                  INJECT_VALUES_MAX);
        return false;
    }
    if (body.len == 0) {
        error_set(error, "the body is empty; expected one JSON object");
        return false;
    }
    i->root = json_loadb(body.ptr, body.len, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(i->root)) {
        error_set(error, "the body is not one JSON object: line %d, column %d: %s",
                  i->root == NULL ? where.line : 1, i->root == NULL ? where.column : 1,
                  i->root == NULL ? where.text : "another value");
        return false;
    }
    if (!check_members(i->root, "request", known, error) ||
        !read_dialect(i->root, &is_static, error) || !read_sender(i, error) ||
        !read_recipients(i, error) || !read_priority(i, error))
        return false;
    json_t *content = json_object_get(i->root, "content");
    if (json_is_object(content))
        return read_parts(i, content, boundary, is_static, error);
    if (!json_is_string(content)) {
        error_set(error,
                  "\"content\" is missing; expected a raw message as a string, or an object");
        return false;
    }
    i->message = mime_from_raw(&i->arena, text_of(content), is_static, error);
    return i->message != NULL;
}

void inject_fini(struct inject *i)
{
    json_decref(i->root);
    i->root = NULL;
    free(i->dumped);
    i->dumped = NULL;
    arena_fini(&i->arena);
}

size_t inject_count(const struct inject *i)
{
    return json_array_size(i->recipients);
}

struct slice inject_email(const struct inject *i, size_t index)
{
    return text_of(json_object_get(json_array_get(i->recipients, index), "email"));
}

/* ---- values ---- */

/* `name`, or, where there is none of that name, the member that its dots lead to. */
static const json_t *look_up(const json_t *object, struct slice name)
{
    const json_t *value = json_object_getn(object, name.ptr, name.len);
    while (value == NULL && name.len > 0) {
        size_t dot = slice_find(name, '.');
        object = json_object_getn(object, name.ptr, dot);
        if (object == NULL || dot == name.len)
            return object;
        name = slice_skip(name, dot + 1);
    }
    return value;
}

static bool as_text(struct inject *i, const json_t *value, struct slice *out)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        *out = text_of(value);
        return true;
    case JSON_INTEGER:
        (void)snprintf(i->number, sizeof i->number, "%" JSON_INTEGER_FORMAT,
                       json_integer_value(value));
        *out = slice_str(i->number);
        return true;
    case JSON_TRUE:
        *out = SLICE_LIT("true");
        return true;
    case JSON_FALSE:
        *out = SLICE_LIT("false");
        return true;
    case JSON_NULL:
        *out = SLICE_LIT("");
        return true;
    case JSON_REAL:
    case JSON_OBJECT:
    case JSON_ARRAY:
        break;
    }
    free(i->dumped);
    i->dumped = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    *out = i->dumped != NULL ? slice_str(i->dumped) : SLICE_LIT("");
    return i->dumped != NULL;
}

/* The recipient's own substitutions, then its name and address, then those for all. */
static bool find_value(void *context, struct slice name, struct slice *out)
{
    struct inject *i = context;
    const json_t *value = look_up(json_object_get(i->current, "substitutions"), name);
    if (value == NULL &&
        (slice_equal(name, SLICE_LIT("email")) || slice_equal(name, SLICE_LIT("name"))))
        value = json_object_getn(i->current, name.ptr, name.len);
    if (value == NULL)
        value = look_up(i->substitutions, name);
    return value != NULL && as_text(i, value, out);
}

bool inject_recipient(struct inject *i, size_t index, struct inject_recipient *out,
                      struct error *error)
{
    struct smtp_address a;
    i->current = json_array_get(i->recipients, index);
    out->mime = (struct mime_recipient){.email = text_of(json_object_get(i->current, "email")),
                                        .name = SLICE_LIT(""),
                                        .values = {.find = find_value, .context = i}};
    const json_t *name = json_object_get(i->current, "name");
    if (json_is_string(name))
        out->mime.name = text_of(name);
    if (!header_wire_address(out->mime.email, out->address)) {
        error_set(error, "not a mail address; expected one such as user@example.org");
        return false;
    }
    (void)smtp_address_read_mailbox(slice_str(out->address), true, &a);
    out->is_utf8 = a.has_utf8;
    if (domain_normalize(a.domain, out->domain))
        return true;
    error_set(error, "the domain of this address is no valid name");
    return false;
}
