#include "core/base/net_unix.h"
#include "core/config/config_priv.h"

#define DAY   UINT64_C(86400000)
#define TERA  UINT64_C(1000000000000)
#define AT(m) offsetof(struct config, m)
#define NOT   0

/* Every key: name, kind, place, place of its count, default, bounds, whether a reload may change
 * it. */
static const struct config_key keys[] = {
    {"hostname", CONFIG_DOMAIN, AT(hostname), NOT, NULL, 0, 0, false},
    {"own_names", CONFIG_STRINGS, AT(own_names), NOT, "[]", 0, 0, false},
    {"own_addresses", CONFIG_ADDRESSES, AT(own_addresses), AT(own_address_count), "[]", 0, 0,
     false},
    {"postmaster", CONFIG_MAILBOX, AT(postmaster), NOT, NULL, 0, 0, true},
    {"user", CONFIG_STRING, AT(user), NOT, NULL, 0, 0, false},
    {"seccomp", CONFIG_BOOL, AT(seccomp), NOT, "true", 0, 0, false},
    {"drain_timeout", CONFIG_DURATION, AT(drain_timeout_ms), NOT, "30s", 0, 3600000, true},

    {"workers.threads", CONFIG_UNSIGNED, AT(workers.threads), NOT, "0", 0, 256, false},
    {"workers.job_ring_slots", CONFIG_POWER_OF_2, AT(workers.job_ring_slots), NOT, "65536", 64,
     1 << 24, false},

    {"submission.listen", CONFIG_LISTENERS, AT(submission.listeners), AT(submission.listener_count),
     "[{address: \"127.0.0.1:2525\"}, {address: \"[::1]:2525\"}]", 1, 64, false},
    {"submission.allow", CONFIG_NETS, AT(submission.allow), AT(submission.allow_count),
     "[127.0.0.0/8, \"::1\"]", 0, 0, true},
    {"submission.proxy_from", CONFIG_NETS, AT(submission.proxy_from),
     AT(submission.proxy_from_count), "[]", 0, 0, true},
    {"submission.priority_header", CONFIG_FIELD_NAME, AT(submission.priority_header), NOT,
     "X-Priority-Class", 0, 40, true},
    {"submission.connections_max", CONFIG_UNSIGNED, AT(submission.connections_max), NOT, "4000", 1,
     1000000, true},
    {"submission.connections_per_client_max", CONFIG_UNSIGNED,
     AT(submission.connections_per_client_max), NOT, "1000", 1, 1000000, true},
    {"submission.message_size_max", CONFIG_SIZE, AT(submission.message_size_max), NOT, "50MB", 1000,
     2 * TERA / 1000, true},
    {"submission.recipients_max", CONFIG_UNSIGNED, AT(submission.recipients_max), NOT, "1000", 1,
     50000, true},
    {"submission.text_line_max", CONFIG_UNSIGNED, AT(submission.text_line_max), NOT, "1000", 80,
     1000000, true},
    {"submission.bad_commands_max", CONFIG_UNSIGNED, AT(submission.bad_commands_max), NOT, "10", 1,
     1000, true},
    {"submission.idle_timeout", CONFIG_DURATION, AT(submission.idle_timeout_ms), NOT, "5m", 1000,
     DAY, true},
    {"submission.command_timeout", CONFIG_DURATION, AT(submission.command_timeout_ms), NOT, "5m",
     1000, DAY, true},
    {"submission.message_timeout", CONFIG_DURATION, AT(submission.message_timeout_ms), NOT, "30m",
     1000, DAY, true},
    {"submission.session_timeout", CONFIG_DURATION, AT(submission.session_timeout_ms), NOT, "6h",
     1000, 30 * DAY, true},

    {"spool.path", CONFIG_PATH, AT(spool.path), NOT, "/var/lib/onward", 0, 0, false},
    {"spool.map_size", CONFIG_SIZE, AT(spool.map_size), NOT, "1TB", 10000000, 100 * TERA, false},
    {"spool.free_floor", CONFIG_SIZE, AT(spool.free_floor), NOT, "512MB", 0, 100 * TERA, false},

    {"spool.messages_max", CONFIG_COUNT, AT(spool.messages_max), NOT, "0", 0, TERA, true},
    {"spool.recipients_max", CONFIG_COUNT, AT(spool.recipients_max), NOT, "0", 0, TERA, true},

    {"memory.max", CONFIG_SIZE, AT(memory.max), NOT, "0B", 0, 100 * TERA, true},

    {"delivery.port", CONFIG_PORT, AT(delivery.port), NOT, "25", 1, 65535, false},
    {"delivery.connections_max", CONFIG_UNSIGNED, AT(delivery.connections_max), NOT, "0", 0,
     1000000, false},
    {"delivery.connections_per_destination", CONFIG_UNSIGNED,
     AT(delivery.connections_per_destination), NOT, "20", 1, 10000, true},
    {"delivery.recipients_per_transaction", CONFIG_UNSIGNED,
     AT(delivery.recipients_per_transaction), NOT, "100", 1, 1000, true},
    {"delivery.idle", CONFIG_DURATION, AT(delivery.idle_ms), NOT, "2s", 0, 300000, true},
    {"delivery.messages_per_connection", CONFIG_UNSIGNED, AT(delivery.messages_per_connection), NOT,
     "1000", 1, 1000000000, true},
    {"delivery.connection_lifetime", CONFIG_DURATION, AT(delivery.connection_lifetime_ms), NOT,
     "5m", 1000, DAY, true},
    {"delivery.transactions_in_flight_max", CONFIG_UNSIGNED,
     AT(delivery.transactions_in_flight_max), NOT, "8", 1, 64, true},
    {"delivery.content_with_envelope_max", CONFIG_SIZE, AT(delivery.content_with_envelope_max), NOT,
     "256KB", 0, 100000000, true},
    {"delivery.tls", CONFIG_TLS_MODE, AT(delivery.tls), NOT, "opportunistic", 0, 0, false},
    {"delivery.tls_ca_file", CONFIG_PATH, AT(delivery.tls_ca_file), NOT, NULL, 0, 0, false},
    {"delivery.ipv4", CONFIG_BOOL, AT(delivery.use_ipv4), NOT, "true", 0, 0, false},
    {"delivery.ipv6", CONFIG_BOOL, AT(delivery.use_ipv6), NOT, "true", 0, 0, false},
    {"delivery.source_addresses", CONFIG_ADDRESSES, AT(delivery.source_addresses),
     AT(delivery.source_address_count), "[]", 0, 0, true},
    {"delivery.patience_min", CONFIG_DURATION, AT(delivery.patience_min_ms), NOT, "1s", 100, 60000,
     false},
    {"delivery.patience_max", CONFIG_DURATION, AT(delivery.patience_max_ms), NOT, "5s", 100, 300000,
     false},
    {"delivery.bounce_on_refusing", CONFIG_BOOL, AT(delivery.bounce_on_refusing), NOT, "false", 0,
     0, true},

    {"health.entries", CONFIG_POWER_OF_2, AT(health.entries), NOT, "65536", 64, 1 << 24, false},
    {"health.demote_first", CONFIG_DURATION, AT(health.demote_first_ms), NOT, "60s", 100, DAY,
     false},
    {"health.demote_max", CONFIG_DURATION, AT(health.demote_max_ms), NOT, "30m", 100, DAY, false},
    {"health.down_first", CONFIG_DURATION, AT(health.down_first_ms), NOT, "5s", 100, DAY, false},
    {"health.tls_broken", CONFIG_DURATION, AT(health.tls_broken_ms), NOT, "4h", 1000, 30 * DAY,
     false},

    {"retry.first", CONFIG_DURATION, AT(retry.first_ms), NOT, "5m", 100, DAY, true},
    {"retry.max", CONFIG_DURATION, AT(retry.max_ms), NOT, "4h", 100, 7 * DAY, true},
    {"retry.age_limit", CONFIG_DURATION, AT(retry.age_limit_ms), NOT, "5d", 1000, 60 * DAY, true},
    {"retry.delay_notice", CONFIG_DURATION, AT(retry.delay_notice_ms), NOT, "4h", 0, 60 * DAY,
     true},

    {"dns.forwarders", CONFIG_STRINGS, AT(dns.forwarders), NOT, "[]", 0, 0, false},
    {"dns.stub_zones", CONFIG_STUB_ZONES, AT(dns.stub_zones), NOT, "[]", 0, 0, false},
    {"dns.unbound", CONFIG_STRINGS, AT(dns.unbound), NOT, "[]", 0, 0, false},
    {"dns.dnssec", CONFIG_BOOL, AT(dns.dnssec), NOT, "true", 0, 0, false},
    {"dns.cache_entries", CONFIG_UNSIGNED, AT(dns.cache_entries), NOT, "100000", 100, 100000000,
     false},

    {"log.path", CONFIG_PATH, AT(log.path), NOT, "-", 0, 0, false},
    {"log.deliveries", CONFIG_BOOL, AT(log.deliveries), NOT, "true", 0, 0, true},

    {"events.webhooks", CONFIG_WEBHOOKS, AT(events.webhooks), AT(events.webhook_count), "[]", 0, 64,
     false},
    {"events.store_max", CONFIG_SIZE, AT(events.store_max), NOT, "256MB", 1000000, TERA, false},

    {"control.socket", CONFIG_PATH, AT(control.socket), NOT, "/run/onward/control.sock", 0,
     NET_UNIX_PATH_MAX, false},

    {"http.listen", CONFIG_HTTP_LISTENERS, AT(http.listeners), AT(http.listener_count),
     "[{address: \"127.0.0.1:2580\"}, {address: \"[::1]:2580\"}]", 0, 16, false},
    {"http.tls_certificate", CONFIG_PATH, AT(http.tls_certificate), NOT, NULL, 0, 0, false},
    {"http.tls_key", CONFIG_PATH, AT(http.tls_key), NOT, NULL, 0, 0, false},
    {"http.token_file", CONFIG_PATH, AT(http.token_file), NOT, NULL, 0, 0, true},
    {"http.threads", CONFIG_UNSIGNED, AT(http.threads), NOT, "2", 1, 64, false},
    {"http.connections_max", CONFIG_UNSIGNED, AT(http.connections_max), NOT, "200", 1, 100000,
     false},
    {"http.body_size_max", CONFIG_SIZE, AT(http.body_size_max), NOT, "32MB", 1000, TERA / 1000,
     true},
    {"http.memory_max", CONFIG_SIZE, AT(http.memory_max), NOT, "256MB", 1000000, TERA, true},
    {"http.recipients_max", CONFIG_UNSIGNED, AT(http.recipients_max), NOT, "50000", 1, 1000000,
     true},
    {"http.recipients_per_second", CONFIG_UNSIGNED, AT(http.recipients_per_second), NOT, "0", 0,
     1000000000, true},
    {"http.idle_timeout", CONFIG_DURATION, AT(http.idle_timeout_ms), NOT, "30s", 1000, 3600000,
     false},
    {"http.request_timeout", CONFIG_DURATION, AT(http.request_timeout_ms), NOT, "2m", 1000, DAY,
     true},
    {"http.idempotency_window", CONFIG_DURATION, AT(http.idempotency_window_ms), NOT, "1d", 60000,
     30 * DAY, true},
};

const struct config_key *config_keys(size_t *count_out)
{
    *count_out = sizeof keys / sizeof *keys;
    return keys;
}
