/* IP addresses as values: 16 bytes (an IPv4 address in its ::ffff:0:0/96 form) and a port. */
#ifndef ONWARD_CORE_BASE_ADDRESS_H
#define ONWARD_CORE_BASE_ADDRESS_H

#include "core/base/slice.h"

#include <netinet/in.h>
#include <sys/socket.h>

struct address {
    uint8_t ip[16];
    uint16_t port; /* host byte order; 0 where it does not matter */
};

/* A network: the addresses whose first `prefix_bits` bits are those of `ip`. */
struct address_net {
    uint8_t ip[16];
    uint8_t prefix_bits; /* 0 to 128, counted on the 16-byte form */
};

enum { ADDRESS_TEXT_SIZE = 64 };

/* From raw bytes in network order. A sockaddr of another family than IPv4 and IPv6 gives false. */
struct address address_from_v4(const uint8_t ip[4], uint16_t port);
struct address address_from_v6(const uint8_t ip[16], uint16_t port);
bool address_from_sockaddr(const struct sockaddr *sa, struct address *out);

/* Fills `ss_out`; returns its length for connect and bind. */
socklen_t address_to_sockaddr(const struct address *a, struct sockaddr_storage *ss_out);

/* Is it an IPv4 address (in its mapped form)? */
bool address_is_v4(const struct address *a);

/* Is it 0.0.0.0 or ::? */
bool address_is_unspecified(const struct address *a);

/* Same IP; the port is not compared. */
bool address_same_ip(const struct address *a, const struct address *b);

/* "192.0.2.1" or "2001:db8::1"; "1.2.3.4:25" or "[2001:db8::1]:25" where port is wanted. */
void address_format_ip(const struct address *a, char out[ADDRESS_TEXT_SIZE]);
void address_format(const struct address *a, char out[ADDRESS_TEXT_SIZE]);

/* "192.0.2.1", "2001:db8::1". Port 0. */
bool address_parse_ip(struct slice text, struct address *out);

/* "192.0.2.1:25", "[2001:db8::1]:25", "*:25" (all addresses: the IPv6 wildcard). */
bool address_parse(struct slice text, struct address *out);

/* "192.0.2.0/24", "2001:db8::/32", "192.0.2.1". Host bits must be zero. */
bool address_net_parse(struct slice text, struct address_net *out);
bool address_net_contains(const struct address_net *net, const struct address *a);

/* RFC 5321 4.1.3: "[192.0.2.1]", "[IPv6:2001:db8::1]", brackets included. */
bool address_parse_literal(struct slice text, struct address *out);

#endif
