/* A route in the making: what DNS has said about a domain so far, and the conclusion from it (RFC
 * 5321 5.1, RFC 7505). Pure computation: no look-ups, no clock, no threads.
 *
 *   draft_init -> draft_take_mx -> draft_take_addresses, each exchange and family -> draft_finish
 *
 *   answer for MX   exchanges                         or else
 *   -------------   -------------------------------   ----------------------------------------
 *   records         the best 64 with a valid name     LOCAL_NULL_MX where there is but "."
 *   NODATA          the domain itself, preference 0
 *   NXDOMAIN                                          LOCAL_NXDOMAIN
 *   failed                                            LOCAL_DNS_TEMPFAIL
 *   bogus                                             LOCAL_DNS_BOGUS
 *
 * Then our own host and all of its preference or worse are cut (nothing left: LOCAL_MAIL_LOOP). No
 * address left: LOCAL_DNS_BOGUS or LOCAL_DNS_TEMPFAIL where a look-up failed, LOCAL_NO_ADDRESS for
 * an implicit MX, else LOCAL_EXCHANGES_NO_ADDRESS. */
#ifndef ONWARD_DNS_DRAFT_H
#define ONWARD_DNS_DRAFT_H

#include "dns/packet.h"
#include "dns/route.h"

enum {
    DRAFT_TTL_S_MIN = 5,
    DRAFT_TTL_S_MAX = 3600,
    DRAFT_NEGATIVE_TTL_S_MAX = 300, /* a domain that has just been set up is found soon */
    DRAFT_FAILURE_TTL_S = 30,
};

/* What the relay knows about itself. Borrowed; lives as long as the resolver. */
struct draft_rules {
    const char (*own_names)[DOMAIN_SIZE]; /* normal form */
    unsigned own_name_count;
    const struct address
        *own_addresses; /* port 0 = any port; 0.0.0.0 or :: = the loopback's, all */
    unsigned own_address_count;
    uint16_t delivery_port;
    bool use_ipv4, use_ipv6;
};

/* One exchange as far as it is known. */
struct draft_exchange {
    char name[DOMAIN_SIZE];
    uint16_t preference;
    uint32_t ttl_s;
    uint32_t address_ttl_s; /* smallest of the families that have addresses */
    uint32_t absence_ttl_s; /* smallest of those that have none */
    uint8_t v4_count, v6_count;
    bool lookup_failed;
    bool bogus;
    struct address v4[ROUTE_ADDRESSES_MAX], v6[ROUTE_ADDRESSES_MAX];
};

struct draft {
    char domain[DOMAIN_SIZE];
    enum route_kind kind;
    uint16_t failure;        /* enum reply_local once concluded, or 0 */
    char about[DOMAIN_SIZE]; /* why the answer is bogus; empty: the failure is about the domain */
    uint32_t ttl_s;          /* of the MX answer, negative or not */
    bool secure;             /* every answer so far was validated */
    unsigned exchange_count;
    struct draft_exchange *exchanges; /* sorted by preference, then name; owned */
};

/* `domain` in normal form. */
void draft_init(struct draft *d, struct slice domain);
void draft_fini(struct draft *d);

/* The answer for MX. `p` is read where `answer` is ANSWER_DATA (and its TTL where negative), else
 * may be NULL. `why` explains ANSWER_BOGUS, or is empty. Afterwards the exchanges stand, or
 * `failure` does. */
void draft_take_mx(struct draft *d, enum dns_answer answer, struct packet *p, bool secure,
                   struct slice why);

/* The answer for one exchange and family (PACKET_A or PACKET_AAAA). */
void draft_take_addresses(struct draft *d, unsigned exchange, enum packet_type type,
                          enum dns_answer answer, struct packet *p, bool secure);

/* Some exchange has an address already. */
bool draft_is_usable(const struct draft *d);

/* The route that follows, with one reference; NULL only when out of memory. */
const struct route *draft_finish(const struct draft *d, const struct draft_rules *rules,
                                 uint64_t mono_ms, uint64_t wall_ms);

/* The route of an address literal, which needs no DNS (RFC 5321 4.1.3). */
const struct route *draft_literal(struct slice domain, const struct draft_rules *rules,
                                  uint64_t mono_ms, uint64_t wall_ms);

/* A route that failed for a reason of our own. */
const struct route *draft_failure(struct slice domain, enum reply_local why, uint64_t mono_ms,
                                  uint64_t wall_ms);

#endif
