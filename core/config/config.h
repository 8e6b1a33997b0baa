/* The configuration: one YAML file, read into one immutable struct. Durations are milliseconds and
 * sizes bytes here, whatever unit the file used. Every key is documented in core/config/onward.yaml
 * (installed as the example) with unit, default and range; an unknown key, a bad unit or an
 * impossible value is refused with file, line, key and what was expected.
 *
 * Owned by whoever loaded it; read by any thread; never changed after loading. A reload loads a
 * second one. */
#ifndef ONWARD_CORE_CONFIG_CONFIG_H
#define ONWARD_CORE_CONFIG_CONFIG_H

#include "core/base/address.h"
#include "core/base/error.h"
#include "core/spool/envelope.h"

/* One entry of submission.listen. */
struct config_listener {
    struct address address;
    bool proxy_protocol; /* connections from submission.proxy_from must open with a PROXY header */
    enum envelope_priority priority; /* of what comes here and does not say its own */
};

/* One entry of http.listen: an address with a port, or the path of a unix socket. */
struct config_http_listener {
    struct address address;
    const char *socket; /* NULL: `address` */
    bool tls;           /* with http.tls_certificate and http.tls_key */
};

/* One entry of dns.stub_zones. */
struct config_stub_zone {
    const char *name;
    const char *const *servers; /* "127.0.0.1@5353", NULL-terminated */
};

/* What a webhook may be told of: kind, name in the configuration and in the log. */
#define CONFIG_EVENT_KINDS(X)                                                                      \
    X(EVENT_ACCEPTED, "accepted")                                                                  \
    X(EVENT_DELIVERED, "delivered")                                                                \
    X(EVENT_DEFERRED, "deferred")                                                                  \
    X(EVENT_BOUNCED, "bounced")                                                                    \
    X(EVENT_UNKNOWN, "unknown")

enum event_kind {
#define X(kind_, name_) kind_,
    CONFIG_EVENT_KINDS(X)
#undef X
        EVENT_KINDS
};

/* One entry of events.webhooks. */
struct config_webhook {
    const char *url;
    unsigned events;     /* 1 << enum event_kind */
    unsigned batch_size; /* events in one request */
    uint64_t max_delay_ms;
    uint64_t timeout_ms;    /* of one request */
    const char *token_file; /* holds the bearer token; NULL: none */
    bool verify_tls;
    const char *ca_file; /* NULL: the system's */
};

enum config_tls { CONFIG_TLS_OPPORTUNISTIC, CONFIG_TLS_REQUIRED, CONFIG_TLS_OFF };

struct config {
    const char *path;  /* the file it was read from */
    struct slice text; /* and what stood there */

    const char
        *hostname; /* `hostname`: our name in EHLO, Received, bounces; default: the system's FQDN */
    const char *const *own_names; /* `own_names`: further names of this relay; NULL-terminated;
                                     hostname included */
    const struct address *own_addresses; /* `own_addresses`: e.g. the load balancer's; port 0 */
    unsigned own_address_count;
    const char *postmaster; /* `postmaster`: From of bounces; default "postmaster@<hostname>" */

    struct {                     /* `workers:` */
        unsigned threads;        /* default 0 in the file = one per CPU; filled in here; 1..256 */
        unsigned job_ring_slots; /* 65536; power of two */
    } workers;

    struct {                                     /* `submission:` */
        const struct config_listener *listeners; /* default 127.0.0.1:2525 and [::1]:2525 */
        unsigned listener_count;
        const struct address_net *allow; /* networks that may submit; default 127.0.0.0/8, ::1 */
        unsigned allow_count;
        const struct address_net *proxy_from; /* load balancers that may send PROXY; default none */
        unsigned proxy_from_count;
        const char *priority_header;         /* X-Priority-Class; "" = none */
        unsigned connections_max;            /* 4000 */
        unsigned connections_per_client_max; /* 1000 */
        uint64_t message_size_max;           /* 50MB */
        unsigned recipients_max;             /* 1000 per message */
        unsigned text_line_max;              /* 1000 with CRLF */
        unsigned bad_commands_max;           /* 10 */
        uint64_t idle_timeout_ms;            /* 5m: no byte received */
        uint64_t command_timeout_ms;         /* 5m: a command line must be complete */
        uint64_t message_timeout_ms;         /* 30m: a content must be complete */
        uint64_t session_timeout_ms;         /* 6h: in all */
    } submission;

    struct {                     /* `spool:` */
        const char *path;        /* /var/lib/onward */
        uint64_t map_size;       /* 1TB of address space */
        uint64_t free_floor;     /* 512MB */
        uint64_t messages_max;   /* 0 = no limit: beyond, new mail is refused */
        uint64_t recipients_max; /* 0 = no limit */
    } spool;

    struct {          /* `memory:` */
        uint64_t max; /* 0 = 80 % of what the control group allows */
    } memory;

    struct {                                  /* `delivery:` */
        uint16_t port;                        /* 25 */
        unsigned connections_max;             /* 0 = from RLIMIT_NOFILE */
        unsigned connections_per_destination; /* 20 */
        unsigned recipients_per_transaction;  /* 100 */
        uint64_t idle_ms;                     /* 2s: an unused connection is kept */
        unsigned messages_per_connection;     /* 1000 */
        uint64_t connection_lifetime_ms;      /* 5m */
        unsigned transactions_in_flight_max;  /* 8, on one connection */
        uint64_t content_with_envelope_max;   /* 256KB: BDAT in one write; 0 = never */
        enum config_tls tls;                  /* opportunistic | required | off */
        const char
            *tls_ca_file; /* for `required`: certificates must verify against it; NULL = system's */
        bool use_ipv4, use_ipv6; /* true, true */
        const struct address
            *source_addresses; /* bind to these, at most one per family used first; default none */
        unsigned source_address_count;
        uint64_t patience_min_ms; /* 1s */
        uint64_t patience_max_ms; /* 5s */
        bool bounce_on_refusing;  /* all exchanges greet 5xx: bounce instead of defer; false */
    } delivery;

    struct {                      /* `health:` */
        unsigned entries;         /* 65536; power of two */
        uint64_t demote_first_ms; /* 60s */
        uint64_t demote_max_ms;   /* 30m */
        uint64_t down_first_ms;   /* 5s */
        uint64_t tls_broken_ms;   /* 4h */
    } health;

    struct {                      /* `retry:` */
        uint64_t first_ms;        /* 5m */
        uint64_t max_ms;          /* 4h */
        uint64_t age_limit_ms;    /* 5d */
        uint64_t delay_notice_ms; /* 4h; 0 = never */
    } retry;

    struct {                           /* `dns:` */
        const char *const *forwarders; /* NULL-terminated; empty = recursion from the root */
        const struct config_stub_zone *stub_zones; /* ends with name NULL */
        const char *const *unbound;                /* "option: value", NULL-terminated */
        bool dnssec;                               /* true */
        unsigned cache_entries;                    /* 100000 routes */
    } dns;

    struct {              /* `log:` */
        const char *path; /* "-" = standard error; else a file, reopened at SIGHUP */
        bool deliveries;  /* true: a line per attempt */
    } log;

    struct {                                   /* `events:` */
        const struct config_webhook *webhooks; /* default none */
        unsigned webhook_count;
        uint64_t store_max; /* 256MB of events that a webhook has not taken yet */
    } events;

    struct {                /* `control:` */
        const char *socket; /* /run/onward/control.sock */
    } control;

    struct {                                          /* `http:` */
        const struct config_http_listener *listeners; /* default 127.0.0.1:2580, [::1]:2580 */
        unsigned listener_count;
        const char *tls_certificate;    /* PEM, the chain behind it; NULL = none */
        const char *tls_key;            /* PEM */
        const char *token_file;         /* who may do what over TCP; NULL = nobody anything */
        unsigned threads;               /* 2: that make messages of injections */
        unsigned connections_max;       /* 200 per listener */
        uint64_t body_size_max;         /* 32MB, inflated */
        uint64_t memory_max;            /* 256MB: bodies received and under way, together */
        unsigned recipients_max;        /* 50000 per injection */
        unsigned recipients_per_second; /* 0 = no limit; per token */
        uint64_t idle_timeout_ms;       /* 30s: no byte moved */
        uint64_t request_timeout_ms;    /* 2m: a request must be complete, and its answer taken */
        uint64_t idempotency_window_ms; /* 1d */
    } http;

    const char *user; /* `user`: whom to become when started as root; NULL = not set */
    bool seccomp;     /* `seccomp`: restrict system calls; true */

    uint64_t drain_timeout_ms; /* `drain_timeout`: 30s at SIGTERM */
};

/* Reads and checks the file. NULL with `error`: "file:line: key: what is wrong; what
 * was expected". */
struct config *config_load(const char *path, struct error *error);

/* The same from memory; `name` stands for the file in errors. */
struct config *config_load_text(const char *text, size_t len, const char *name,
                                struct error *error);

/* Nulls the caller's pointer; NULL is harmless. */
void config_free(struct config **c);

/* What a reload cannot change (spool path, listeners, threads...): the first key that differs, or
 * NULL. */
const char *config_reload_conflict(const struct config *running, const struct config *fresh);

#endif
