#include "workers/cli/mail_text.h"

#include "smtp/address.h"

#include <stdlib.h>

bool mail_addresses_add(struct mail_addresses *a, struct slice text)
{
    struct smtp_address parsed;
    text = slice_trim(text);
    if (text.len > 2 && text.ptr[0] == '<' && text.ptr[text.len - 1] == '>')
        text = slice_of(text.ptr + 1, text.len - 2);
    if (smtp_address_read_mailbox(text, true, &parsed) != SMTP_ADDRESS_OK)
        return false;
    char **grown = reallocarray(a->items, a->count + 1, sizeof *grown);
    if (grown == NULL)
        return false;
    a->items = grown;
    a->items[a->count] = strndup(text.ptr, text.len);
    a->count += a->items[a->count] != NULL;
    return true;
}

void mail_addresses_free(struct mail_addresses *a)
{
    for (size_t i = 0; i < a->count; i++)
        free(a->items[i]);
    free(a->items);
    *a = (struct mail_addresses){NULL, 0};
}

/* What was gathered of one mailbox; words that are no address are passed over. */
static void end_mailbox(struct mail_addresses *a, struct buf *mailbox)
{
    if (buf_ok(mailbox) && buf_len(mailbox) > 0)
        (void)mail_addresses_add(a, buf_slice(mailbox));
    buf_clear(mailbox);
}

void mail_addresses_add_field(struct mail_addresses *a, struct slice value)
{
    struct buf mailbox;
    buf_init(&mailbox, 4096);
    int comment = 0;
    bool quoted = false, literal = false, past = false;
    for (size_t i = 0; i < value.len; i++) {
        char c = value.ptr[i];
        bool plain = !quoted && comment == 0;
        literal = plain && (c == '[' || (literal && c != ']')); /* [IPv6:2001:db8::1] */
        if (c == '\\' && !plain && i + 1 < value.len) {
            if (comment == 0 && !past)
                buf_append(&mailbox, slice_of(&value.ptr[i], 2));
            i++;
        } else if (!quoted && (c == '(' || c == ')')) {
            comment += c == '(' ? 1 : comment > 0 ? -1 : 0;
        } else if (plain && !literal && (c == ',' || c == ';')) {
            end_mailbox(a, &mailbox);
            past = false;
        } else if (plain && !literal && (c == '<' || c == ':')) {
            buf_clear(&mailbox); /* behind a display name, a group's name or a source route */
        } else if (plain && c == '>') {
            past = true;
        } else if (comment == 0) {
            quoted ^= c == '"';
            if (!past && c != '\r' && c != '\n')
                buf_append(&mailbox, slice_of(&c, 1));
        }
    }
    end_mailbox(a, &mailbox);
    buf_fini(&mailbox);
}

bool mail_text_read(FILE *in, bool dots_end, struct buf *out)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    while ((len = getline(&line, &size, in)) > 0) {
        if (dots_end && line[0] == '.' && (len == 1 || line[1] == '\n' || line[1] == '\r'))
            break;
        buf_append(out, slice_of(line, (size_t)len));
    }
    free(line);
    return ferror(in) == 0 && buf_ok(out);
}

/* Takes one line off `*rest`, without its end. */
static struct slice next_line(struct slice *rest)
{
    struct slice line = slice_take(*rest, slice_find(*rest, '\n'));
    *rest = slice_skip(*rest, line.len + 1);
    while (line.len > 0 && line.ptr[line.len - 1] == '\r')
        line.len--;
    return line;
}

static void put_line(struct buf *out, struct slice line)
{
    buf_append(out, line);
    buf_append_str(out, "\r\n");
}

/* A whole field with its folded lines, off the front of `*rest`. */
static struct slice next_field(struct slice *rest)
{
    struct slice start = *rest;
    (void)next_line(rest);
    while (rest->len > 0 && (rest->ptr[0] == ' ' || rest->ptr[0] == '\t'))
        (void)next_line(rest);
    return slice_take(start, start.len - rest->len);
}

static bool is_field(struct slice line)
{
    size_t colon = slice_find(line, ':');
    if (colon == 0 || colon == line.len)
        return false;
    for (size_t i = 0; i < colon; i++)
        if (line.ptr[i] <= ' ' || line.ptr[i] > '~')
            return false;
    return true;
}

static void take_field(struct slice field, struct mail_addresses *recipients, struct buf *out,
                       bool *has_from)
{
    static const char *const destinations[] = {"to", "cc", "bcc"};
    struct slice name = slice_take(field, slice_find(field, ':'));
    struct slice value = slice_skip(field, name.len + 1);
    for (size_t i = 0; recipients != NULL && i < 3; i++)
        if (slice_equal_nocase(name, slice_str(destinations[i])))
            mail_addresses_add_field(recipients, value);
    *has_from |= slice_equal_nocase(name, SLICE_LIT("from"));
    if (slice_equal_nocase(name, SLICE_LIT("bcc")))
        return;
    while (field.len > 0)
        put_line(out, next_line(&field));
}

void mail_text_prepare(struct slice raw, struct mail_addresses *recipients, const char *from,
                       const char *full_name, struct buf *out)
{
    bool has_from = false;
    struct slice rest = raw, ahead = raw;
    while (rest.len > 0 && is_field(next_line(&ahead))) {
        take_field(next_field(&rest), recipients, out, &has_from);
        ahead = rest;
    }
    if (!has_from) {
        buf_append_str(out, "From: ");
        if (full_name != NULL && strpbrk(full_name, "\"\\\r\n") == NULL)
            buf_printf(out, "\"%s\" ", full_name);
        buf_printf(out, "<%s>\r\n", from);
    }
    buf_append_str(out, "\r\n");
    ahead = rest;
    if (rest.len > 0 && next_line(&ahead).len == 0)
        rest = ahead; /* the blank line stands already */
    while (rest.len > 0)
        put_line(out, next_line(&rest));
}
