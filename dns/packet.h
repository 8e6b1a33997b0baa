/* Reading a raw DNS answer (RFC 1035 4): the MX, A or AAAA records that answer its question, behind
 * a chain of CNAMEs where there is one. The packet is hostile: every read is bounded, compression
 * pointers only ever lead backwards, and chains end after a few links. Nothing is copied but names;
 * the packet's bytes stay the caller's and must last while it reads.
 *
 *   packet_open: header -> question -> every record walked once -> CNAMEs followed -> answer, TTL
 *   packet_next_*: the records of the answer, one by one
 *
 * Plain values, any thread, no allocation. */
#ifndef ONWARD_DNS_PACKET_H
#define ONWARD_DNS_PACKET_H

#include "core/base/address.h"
#include "core/domain.h"

enum packet_type { PACKET_A = 1, PACKET_MX = 15, PACKET_AAAA = 28 };

enum dns_answer {
    ANSWER_DATA,   /* at least one record of the type asked for */
    ANSWER_NODATA, /* the name exists and has none */
    ANSWER_NXDOMAIN,
    ANSWER_FAILED, /* SERVFAIL, REFUSED, time-out, a packet that cannot be read */
    ANSWER_BOGUS,  /* DNSSEC says forged; the library tells, never the packet */
};

enum {
    PACKET_NAME_WIRE_MAX = 255, /* RFC 1035 3.1 */
    PACKET_TTL_UNKNOWN = -1,
};

/* A name as on the wire, uncompressed and in lower case, so that equal names have equal bytes. */
struct packet_name {
    uint8_t len;
    uint8_t wire[PACKET_NAME_WIRE_MAX];
};

struct packet {
    struct slice bytes; /* borrowed */
    enum packet_type type;
    struct packet_name owner; /* of the answer's records: the end of the CNAME chain */
    size_t at;                /* the next record to look at */
    unsigned records_left;    /* of the answer section, from `at` on */
    int64_t ttl_s;            /* smallest along the chain and of the records; for ANSWER_NODATA and
                               * ANSWER_NXDOMAIN as RFC 2308 5 has it; PACKET_TTL_UNKNOWN if neither
                               **/
};

/* One MX record. */
struct packet_mx {
    uint16_t preference;
    bool is_root; /* "." (RFC 7505) */
    uint32_t ttl_s;
    char host[DOMAIN_SIZE]; /* normal form (domain.h); empty where it is no host name, or "." */
};

/* Reads `bytes` as the answer to a question of `type`. The iteration below is valid after
 * ANSWER_DATA. */
enum dns_answer packet_open(struct packet *p, struct slice bytes, enum packet_type type);

/* The next record; false after the last. An MX whose name cannot be read comes with an empty host
 * (it still means that the domain has an MX). */
bool packet_next_mx(struct packet *p, struct packet_mx *out);

/* The next A or AAAA record, port 0. Records of a wrong length are passed over. */
bool packet_next_address(struct packet *p, struct address *out);

#endif
