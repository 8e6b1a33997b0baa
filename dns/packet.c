#include "dns/packet.h"

#include "core/base/assert.h"

enum {
    HEADER_BYTES = 12,
    FLAG_RESPONSE = 0x8000,
    FLAG_TRUNCATED = 0x0200,
    RCODE_MASK = 0x000f,
    RCODE_NOERROR = 0,
    RCODE_NXDOMAIN = 3,
    CLASS_IN = 1,
    TYPE_CNAME = 5,
    TYPE_SOA = 6,
    LABEL_KIND = 0xc0, /* RFC 1035 4.1.4: 00 a label, 11 a pointer */
    LABEL_POINTER = 0xc0,
    SOA_NUMBERS_BYTES = 20, /* behind its two names; the last of five is the negative TTL */
    CNAMES_MAX = 11,        /* Unbound's own bound on a chain */
};

/* A position in the packet. Reads never pass the end; a read that would fails and
 * leaves it there. */
struct cursor {
    struct slice bytes;
    size_t at;
};

struct record {
    struct packet_name owner;
    uint16_t type;
    uint16_t class;
    uint32_t ttl_s;
    size_t rdata_at;
    size_t rdata_len;
};

struct header {
    uint16_t flags, questions, answers, authorities;
};

/* ---- bounded reads ---- */

static bool read_u8(struct cursor *c, uint8_t *out)
{
    if (c->at >= c->bytes.len)
        return false;
    *out = (uint8_t)c->bytes.ptr[c->at++];
    return true;
}

static bool read_u16(struct cursor *c, uint16_t *out)
{
    uint8_t high, low;
    if (!read_u8(c, &high) || !read_u8(c, &low))
        return false;
    *out = (uint16_t)(high << 8 | low);
    return true;
}

static bool read_u32(struct cursor *c, uint32_t *out)
{
    uint16_t high, low;
    if (!read_u16(c, &high) || !read_u16(c, &low))
        return false;
    *out = (uint32_t)high << 16 | low;
    return true;
}

static bool append_label(struct cursor *c, uint8_t len, struct packet_name *out)
{
    if (c->bytes.len - c->at < len || (size_t)out->len + 1 + len > PACKET_NAME_WIRE_MAX)
        return false;
    out->wire[out->len++] = len;
    for (unsigned i = 0; i < len; i++) {
        uint8_t b = (uint8_t)c->bytes.ptr[c->at++];
        out->wire[out->len++] = b >= 'A' && b <= 'Z' ? (uint8_t)(b | 0x20) : b;
    }
    return true;
}

/* Reads a name and leaves the cursor behind it. Each pointer must lead to before the piece it ends,
 * so the pieces come ever earlier in the packet and no chain of pointers can loop. */
static bool read_name(struct cursor *c, struct packet_name *out)
{
    struct cursor piece = *c;
    size_t piece_start = c->at;
    bool jumped = false;
    out->len = 0;
    for (;;) {
        uint8_t len, low;
        if (!read_u8(&piece, &len))
            return false;
        if ((len & LABEL_KIND) == LABEL_POINTER) {
            if (!read_u8(&piece, &low))
                return false;
            size_t target = (size_t)(len & ~LABEL_KIND) << 8 | low;
            if (target >= piece_start)
                return false;
            if (!jumped)
                c->at = piece.at;
            jumped = true;
            piece.at = piece_start = target;
            continue;
        }
        if ((len & LABEL_KIND) != 0 || !append_label(&piece, len, out))
            return false;
        if (len == 0)
            break;
    }
    if (!jumped)
        c->at = piece.at;
    return true;
}

/* As read_name, where the name must fill exactly what is left up to `end`. */
static bool read_name_to(struct cursor *c, size_t end, struct packet_name *out)
{
    return read_name(c, out) && c->at == end;
}

static bool read_header(struct cursor *c, struct header *out)
{
    uint16_t id, additionals;
    return read_u16(c, &id) && read_u16(c, &out->flags) && read_u16(c, &out->questions) &&
           read_u16(c, &out->answers) && read_u16(c, &out->authorities) &&
           read_u16(c, &additionals);
}

static bool read_record(struct cursor *c, struct record *out)
{
    uint16_t rdata_len;
    if (!read_name(c, &out->owner) || !read_u16(c, &out->type) || !read_u16(c, &out->class) ||
        !read_u32(c, &out->ttl_s) || !read_u16(c, &rdata_len) || c->bytes.len - c->at < rdata_len)
        return false;
    if (out->ttl_s > INT32_MAX) /* RFC 2181 8 */
        out->ttl_s = 0;
    out->rdata_at = c->at;
    out->rdata_len = rdata_len;
    c->at += rdata_len;
    return true;
}

static bool name_equal(const struct packet_name *a, const struct packet_name *b)
{
    return a->len == b->len && memcmp(a->wire, b->wire, a->len) == 0;
}

/* A name in its normal text form; empty where it is not one of a host. */
static void name_to_host(const struct packet_name *name, char out[DOMAIN_SIZE])
{
    char text[PACKET_NAME_WIRE_MAX + 1];
    size_t len = 0;
    out[0] = '\0';
    for (size_t at = 0; name->wire[at] != 0; at += (size_t)name->wire[at] + 1) {
        struct slice label = slice_of(name->wire + at + 1, name->wire[at]);
        /* A dot or a byte over 127 inside a label would change meaning as text. */
        for (size_t i = 0; i < label.len; i++)
            if (label.ptr[i] == '.' || (unsigned char)label.ptr[i] >= 0x80)
                return;
        if (len > 0)
            text[len++] = '.';
        memcpy(text + len, label.ptr, label.len);
        len += label.len;
    }
    if (len == 0 || text[0] == '[' || !domain_normalize(slice_of(text, len), out))
        out[0] = '\0';
}

/* ---- the answer section ---- */

static void lower_ttl(struct packet *p, uint32_t ttl_s)
{
    if (p->ttl_s == PACKET_TTL_UNKNOWN || ttl_s < p->ttl_s)
        p->ttl_s = ttl_s;
}

static bool next_of_owner(struct packet *p, struct record *out, uint16_t type)
{
    struct cursor c = {p->bytes, p->at};
    while (p->records_left > 0) {
        bool whole = read_record(&c, out);
        ASSERT(whole); /* packet_open walked all of them */
        p->at = c.at;
        p->records_left--;
        if (out->type == type && out->class == CLASS_IN && name_equal(&out->owner, &p->owner))
            return true;
    }
    return false;
}

/* One look through the answer section, restored afterwards: the first record of `type` at the
 * owner. */
static bool find_of_owner(const struct packet *p, struct record *out, uint16_t type)
{
    struct packet probe = *p;
    return next_of_owner(&probe, out, type);
}

static void take_ttls(struct packet *p)
{
    struct packet probe = *p;
    struct record r;
    while (next_of_owner(&probe, &r, (uint16_t)p->type))
        lower_ttl(p, r.ttl_s);
}

/* Follows CNAMEs from the question's name (RFC 1034 3.6.2) until records of the type turn up. */
static enum dns_answer follow(struct packet *p)
{
    for (int links = 0; links <= CNAMES_MAX; links++) {
        struct record r;
        if (find_of_owner(p, &r, (uint16_t)p->type)) {
            take_ttls(p);
            return ANSWER_DATA;
        }
        if (!find_of_owner(p, &r, TYPE_CNAME))
            return ANSWER_NODATA;
        struct cursor c = {p->bytes, r.rdata_at};
        if (!read_name_to(&c, r.rdata_at + r.rdata_len, &p->owner))
            return ANSWER_FAILED;
        lower_ttl(p, r.ttl_s);
    }
    return ANSWER_FAILED;
}

/* RFC 2308 5: a negative answer holds for the smaller of the SOA's TTL and its last number. */
static bool take_negative_ttl(struct packet *p, struct cursor *c, unsigned authorities)
{
    for (unsigned i = 0; i < authorities; i++) {
        struct record r;
        if (!read_record(c, &r))
            return false;
        if (r.type != TYPE_SOA || r.rdata_len < SOA_NUMBERS_BYTES)
            continue;
        struct cursor last = {p->bytes, r.rdata_at + r.rdata_len - sizeof(uint32_t)};
        uint32_t minimum;
        if (!read_u32(&last, &minimum))
            return false;
        lower_ttl(p, r.ttl_s < minimum ? r.ttl_s : minimum);
    }
    return true;
}

/* ---- public ---- */

enum dns_answer packet_open(struct packet *p, struct slice bytes, enum packet_type type)
{
    *p = (struct packet){.bytes = bytes, .type = type, .ttl_s = PACKET_TTL_UNKNOWN};
    struct cursor c = {bytes, 0};
    struct header h;
    uint16_t question_type, question_class;
    if (!read_header(&c, &h) || (h.flags & FLAG_RESPONSE) == 0 || (h.flags & FLAG_TRUNCATED) != 0 ||
        h.questions != 1 || !read_name(&c, &p->owner) || !read_u16(&c, &question_type) ||
        !read_u16(&c, &question_class) || question_type != type || question_class != CLASS_IN)
        return ANSWER_FAILED;
    unsigned rcode = h.flags & RCODE_MASK;
    if (rcode != RCODE_NOERROR && rcode != RCODE_NXDOMAIN)
        return ANSWER_FAILED;
    p->at = c.at;
    p->records_left = h.answers;
    for (unsigned i = 0; i < h.answers; i++) {
        struct record r;
        if (!read_record(&c, &r))
            return ANSWER_FAILED;
    }
    /* With a CNAME before it, NXDOMAIN speaks of the chain's end (RFC 2308 2.1): there is no mail
     * host either way. */
    enum dns_answer answer = rcode == RCODE_NXDOMAIN ? ANSWER_NXDOMAIN : follow(p);
    bool negative = answer == ANSWER_NXDOMAIN || answer == ANSWER_NODATA;
    if (negative && !take_negative_ttl(p, &c, h.authorities))
        return ANSWER_FAILED;
    return answer;
}

bool packet_next_mx(struct packet *p, struct packet_mx *out)
{
    ASSERT(p->type == PACKET_MX);
    struct record r;
    if (!next_of_owner(p, &r, PACKET_MX))
        return false;
    *out = (struct packet_mx){.ttl_s = r.ttl_s};
    struct cursor c = {p->bytes, r.rdata_at};
    struct packet_name host;
    if (r.rdata_len < 3 || !read_u16(&c, &out->preference) ||
        !read_name_to(&c, r.rdata_at + r.rdata_len, &host))
        return true;
    out->is_root = host.len == 1;
    name_to_host(&host, out->host);
    return true;
}

bool packet_next_address(struct packet *p, struct address *out)
{
    ASSERT(p->type == PACKET_A || p->type == PACKET_AAAA);
    size_t len = p->type == PACKET_A ? 4 : 16;
    struct record r;
    while (next_of_owner(p, &r, (uint16_t)p->type)) {
        if (r.rdata_len != len)
            continue;
        const uint8_t *ip = (const uint8_t *)p->bytes.ptr + r.rdata_at;
        *out = len == 4 ? address_from_v4(ip, 0) : address_from_v6(ip, 0);
        return true;
    }
    return false;
}
