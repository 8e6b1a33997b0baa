/* The resolver against a real name server: every shape of record that RFC 5321 5.1 and RFC 7505
 * know. */
#include "dns/resolver.h"

#include "core/base/clock.h"
#include "dns/flight.h"
#include "tests/unit/nameserver.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

enum { ANSWER_MS_MAX = 60000, PORT = 25, BIG_COUNT = 300, ZONE_SIZE = 65536 };

static const char zone_text[] = "$ORIGIN sampleorg.test.\n"
                                "$TTL 600\n"
                                "@ SOA ns hostmaster 1 3600 600 86400 120\n"
                                "@ NS ns\n"
                                "ns A 127.0.0.1\n"
                                "server1 A 192.0.2.1\n"
                                "server2 A 192.0.2.2\n"
                                "server2 AAAA 2001:db8::2\n"
                                "six AAAA 2001:db8::6\n"
                                "me A 192.0.2.50\n"
                                "alsome A 192.0.2.99\n"
                                "otherport A 192.0.2.98\n"
                                "nowhere A 0.0.0.0\n"
                                "nowhere AAAA ::\n"
                                "textonly TXT \"nothing here\"\n"
                                "sorted MX 300 server2\n"
                                "sorted MX 100 Server1\n"
                                "sorted MX 200 six\n"
                                "equal MX 10 server2\n"
                                "equal MX 10 server1\n"
                                "nullmx MX 0 .\n"
                                "nullmx A 192.0.2.7\n"
                                "halfnull MX 0 .\n"
                                "halfnull MX 10 server1\n"
                                "aonly A 192.0.2.11\n"
                                "aonly A 192.0.2.12\n"
                                "aaaaonly AAAA 2001:db8::11\n"
                                "both A 192.0.2.13\n"
                                "both AAAA 2001:db8::13\n"
                                "alias CNAME sorted\n"
                                "hostalias CNAME aonly\n"
                                "tomissing CNAME missing\n"
                                "loop1 CNAME loop2\n"
                                "loop2 CNAME loop1\n"
                                "mxalias MX 10 aliashost\n"
                                "aliashost CNAME server1\n"
                                "mxmissing MX 10 missing\n"
                                "mxmissing MX 20 textonly\n"
                                "mxhalfmissing MX 10 missing\n"
                                "mxhalfmissing MX 20 server1\n"
                                "mxaddress MX 10 192.0.2.1.\n"
                                "mxaddress MX 20 server1\n"
                                "mxonlyaddress MX 10 192.0.2.1.\n"
                                "mxrefused MX 10 host.refused.test.\n"
                                "mxhalfrefused MX 10 host.refused.test.\n"
                                "mxhalfrefused MX 20 server1\n"
                                "mxnowhere MX 10 nowhere\n"
                                "mxsilent MX 10 server1\n"
                                "mxsilent MX 20 host.silent.test.\n"
                                "mxbogus MX 10 host.bogus.test.\n"
                                "xn--bcher-kva MX 10 server1\n"
                                "ownname MX 10 server1\n"
                                "ownname MX 20 ME\n"
                                "ownname MX 20 six\n"
                                "ownname MX 20 aonly\n"
                                "ownname MX 30 server2\n"
                                "ownaddress MX 10 server1\n"
                                "ownaddress MX 20 alsome\n"
                                "ownaddress MX 30 server2\n"
                                "loop A 127.0.0.9\n"
                                "loop AAAA ::1\n"
                                "ownloop MX 10 server1\n"
                                "ownloop MX 20 loop\n"
                                "ownport MX 10 otherport\n"
                                "ownfirst MX 10 me\n"
                                "ownfirst MX 20 server1\n"
                                "short 7 MX 10 server1\n"
                                "long 864000 MX 10 longhost\n"
                                "longhost 864000 A 192.0.2.20\n"
                                "*.many MX 10 server1\n"
                                "*.big A 192.0.2.30\n";

static const char bogus_text[] = "$ORIGIN bogus.test.\n"
                                 "$TTL 600\n"
                                 "@ SOA ns hostmaster 1 3600 600 86400 120\n"
                                 "@ NS ns\n"
                                 "ns A 127.0.0.1\n"
                                 "host A 192.0.2.66\n"
                                 "@ MX 10 host\n";

/* Signed once, for 2020 to 2036; its key is pinned below. */
#define SIGNED " 20370101000000 20200101000000 16326 secure.test. "

static const char secure_text[] =
    "secure.test. 600 SOA ns.secure.test. hostmaster.secure.test. 1 3600 600 86400 120\n"
    "secure.test. 600 RRSIG SOA 15 2 600" SIGNED
    "QMNGwAG+g4E31KxpVmvmI7LLJ6mUKP4gzaeL1KpvcrYfs6fIDvZf9ZFdnUwzoAObmQOn9+R08g7Az4gPTJ2vBA==\n"
    "secure.test. 600 NS ns.secure.test.\n"
    "secure.test. 600 RRSIG NS 15 2 600" SIGNED
    "0iFKVeEZn4No4Og3K8PQ8skvznBeycLNl245p371HhNkoMLITanJpJmz8METaP7+wIv/yxppWI6cZ2J/AanECg==\n"
    "secure.test. 600 MX 10 host.secure.test.\n"
    "secure.test. 600 RRSIG MX 15 2 600" SIGNED
    "EjD/kWjOk08IByqyD4yvREFEgywi4IbKVSfWNB95TimcIkDwM2DaN3pqW442y+ZqvgmZTjxc5rM4+LF9fvkOCQ==\n"
    "secure.test. 600 DNSKEY 257 3 15 mUlEo0OFfMEjktfUtg6a7TCzq09gM3dQpvQ4/doG458=\n"
    "secure.test. 600 RRSIG DNSKEY 15 2 600" SIGNED
    "YW5lD3GM506AtiB+jWLH/PXDBOZNhdwMV0PhRHlYGTZl7WWKphCchFsqAD9B5a2YPFSVkffRL+vuNWGGp1eRDQ==\n"
    "secure.test. 120 NSEC host.secure.test. NS SOA MX RRSIG NSEC DNSKEY\n"
    "secure.test. 120 RRSIG NSEC 15 2 120" SIGNED
    "mvW2Wlgzc0WcEwqoeD2REYAesNMix6QLEGus/gy1Fc4xFJNrKzsCydhr/zxZ7M4oiVdJpxBQsPYIZn3ORP41Dg==\n"
    "host.secure.test. 600 A 192.0.2.77\n"
    "host.secure.test. 600 RRSIG A 15 3 600" SIGNED
    "+UchAFvT0HiDALq+xJs84wcRv33PYCbNGQ01eM5SYi1wyugwD2fHia8DlmTQWN/yeOLJSC8e7H0G1OBZAzYYDA==\n"
    "host.secure.test. 120 NSEC ns.secure.test. A RRSIG NSEC\n"
    "host.secure.test. 120 RRSIG NSEC 15 3 120" SIGNED
    "UvbMLKrjaJ1CzLaQs4HzgPFigQSy7H6R8AnI1OrXROdqpdKhxnqN/Gm1ew7i+d6pLToV2b0ZVnnruNefmTcxAA==\n"
    "ns.secure.test. 600 A 127.0.0.1\n"
    "ns.secure.test. 600 RRSIG A 15 3 600" SIGNED
    "DKtrFcqll/aaqPUsSFaFlVrY2QYfhEm+6VS2SkJZGI9j2WmvnmshFDwmHA0KR7FE71LhN3hHMnGZ9coPUbfWCg==\n"
    "ns.secure.test. 120 NSEC secure.test. A RRSIG NSEC\n"
    "ns.secure.test. 120 RRSIG NSEC 15 3 120" SIGNED
    "9Ba6HrrIdcfIJeQtqG2BWEjb5KsR5BIn7erPSvgSeQzmeEZgGWE35orhSBVrUU3VpOv4m/OmV2uTnZF+5VAdDQ==\n";

struct fixture {
    struct nameserver server;
    char zone[ZONE_SIZE];
    int silent_fd;
    char server_text[32], silent_text[32];
    const char *server_list[2], *silent_list[2];
    struct resolver_zone stubs[6];
    struct address own_addresses[3];
    struct resolver_options options;
    struct mailbox mailbox;
    struct resolver *resolver;
    unsigned answers;
};

/* ---- asking ---- */

struct question {
    struct resolver_query query;
    bool answered;
    unsigned rank; /* in the order of the answers, from 1 */
};

static void on_answer(struct mail *mail, void *owner)
{
    struct fixture *f = owner;
    struct question *q = (struct question *)(void *)mail;
    assert_non_null(q->query.route);
    assert_false(q->answered);
    q->answered = true;
    q->rank = ++f->answers;
}

static void ask(struct fixture *f, struct resolver *r, struct question *q, const char *domain)
{
    *q = (struct question){.query = {.reply_to = &f->mailbox, .on_answer = on_answer}};
    assert_true(slice_to_cstr(slice_str(domain), q->query.domain, sizeof q->query.domain));
    struct resolver_query *query = &q->query;
    resolver_ask(r, &query);
    assert_null(query);
}

static void await(struct fixture *f, struct question *q)
{
    while (!q->answered) {
        if (mailbox_prepare_sleep(&f->mailbox)) {
            struct pollfd p = {.fd = f->mailbox.event_fd, .events = POLLIN};
            assert_int_equal(poll(&p, 1, ANSWER_MS_MAX), 1);
        }
        mailbox_awake(&f->mailbox);
        (void)mailbox_deliver(&f->mailbox);
    }
}

static const struct route *resolve(struct fixture *f, const char *domain)
{
    struct question q;
    ask(f, f->resolver, &q, domain);
    await(f, &q);
    return q.query.route;
}

/* ---- expecting ---- */

/* "100 server1.sampleorg.test 192.0.2.1; ..." for exchanges in order, IPv4 first. */
static void describe(const struct route *r, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < r->exchange_count; i++) {
        const struct route_exchange *e = &r->exchanges[i];
        len += (size_t)snprintf(out + len, size - len, "%s%u %s", i > 0 ? "; " : "",
                                (unsigned)e->preference, e->name);
        for (unsigned j = 0; j < (unsigned)e->v4_count + e->v6_count; j++) {
            const struct address *a = j < e->v4_count ? &e->v4[j] : &e->v6[j - e->v4_count];
            char ip[ADDRESS_TEXT_SIZE];
            assert_int_equal(a->port, PORT);
            address_format_ip(a, ip);
            len += (size_t)snprintf(out + len, size - len, " %s", ip);
        }
    }
}

static void expect_route(struct fixture *f, const char *domain, enum route_kind kind,
                         const char *exchanges)
{
    char text[2048];
    const struct route *r = resolve(f, domain);
    describe(r, text, sizeof text);
    assert_string_equal(text, exchanges);
    assert_int_equal(r->kind, kind);
    assert_true(r->expires_mono_ms > clock_mono_ms());
    route_release(&r);
}

static void expect_failure(struct fixture *f, const char *domain, enum reply_local code)
{
    const struct route *r = resolve(f, domain);
    assert_int_equal(r->kind, ROUTE_FAILED);
    assert_string_equal(reply_source_name(&r->failure),
                        reply_source_name(&(struct reply){.code = (uint16_t)code}));
    assert_int_equal(r->exchange_count, 0);
    route_release(&r);
}

static uint64_t flights(struct fixture *f)
{
    return resolver_figures(f->resolver).flights;
}

/* ---- fixture ---- */

static const char *const unbound_options[] = {
    "domain-insecure: sampleorg.test.", "domain-insecure: refused.test.",
    "domain-insecure: silent.test.",
    /* A key that the unsigned zone cannot have: all its answers are bogus. */
    "trust-anchor: bogus.test. DS 12345 8 2 "
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "trust-anchor: secure.test. DS 16326 15 2 "
    "bab22cf63cbf28e85db9ee70ae21d547636cd1c93c26a814355e90b3262a4d55",
    NULL};

static const char *const own_names[] = {"Me.SampleOrg.test.", NULL};

static void fill_options(struct fixture *f, uint16_t silent_port)
{
    (void)snprintf(f->server_text, sizeof f->server_text, "127.0.0.1@%u", (unsigned)f->server.port);
    (void)snprintf(f->silent_text, sizeof f->silent_text, "127.0.0.1@%u", (unsigned)silent_port);
    f->server_list[0] = f->server_text;
    f->silent_list[0] = f->silent_text;
    f->stubs[0] = (struct resolver_zone){"sampleorg.test", f->server_list};
    f->stubs[1] = (struct resolver_zone){"bogus.test", f->server_list};
    f->stubs[2] = (struct resolver_zone){"refused.test", f->server_list}; /* it has no such zone */
    f->stubs[3] = (struct resolver_zone){"silent.test", f->silent_list};
    f->stubs[4] = (struct resolver_zone){"secure.test", f->server_list};
    assert_true(address_parse_ip(SLICE_LIT("192.0.2.99"), &f->own_addresses[0]));
    assert_true(address_parse_ip(SLICE_LIT("192.0.2.98"), &f->own_addresses[1]));
    f->own_addresses[1].port = 2525; /* another service than that of the delivery port */
    f->own_addresses[2] = (struct address){.port = PORT}; /* "*", all addresses */
    f->options = (struct resolver_options){.stubs = f->stubs,
                                           .unbound_options = unbound_options,
                                           .dnssec = true,
                                           .own_names = own_names,
                                           .own_addresses = f->own_addresses,
                                           .own_address_count = 3,
                                           .delivery_port = PORT,
                                           .use_ipv4 = true,
                                           .use_ipv6 = true,
                                           .flights_max = 64,
                                           .flight_limit_ms = 20000,
                                           .cache_entries_max = 10000};
}

/* The zone, and a domain with more exchanges than an answer by UDP holds. */
static void write_zone(char *out, size_t size)
{
    size_t len = (size_t)snprintf(out, size, "%s", zone_text);
    for (unsigned i = 0; i < BIG_COUNT; i++) {
        len += (size_t)snprintf(out + len, size - len, "big MX %u exchange-number-%u.big\n",
                                BIG_COUNT - i, i);
        assert_true(len < size);
    }
}

static int set_up_group(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct error error;
    *state = f;
    if (f == NULL)
        return -1;
    write_zone(f->zone, sizeof f->zone);
    const struct nameserver_zone zones[] = {{"sampleorg.test", f->zone},
                                            {"bogus.test", bogus_text},
                                            {"secure.test", secure_text},
                                            {NULL, NULL}};
    if (!nameserver_start(&f->server, zones) || mailbox_init(&f->mailbox, f) != 0)
        return -1;
    fill_options(f, nameserver_silent_port(&f->silent_fd));
    f->resolver = resolver_start(&f->options, &error);
    if (f->resolver == NULL)
        (void)fprintf(stderr, "FAILED: %s\n", error.text);
    return f->resolver != NULL ? 0 : -1;
}

static int tear_down_group(void **state)
{
    struct fixture *f = *state;
    resolver_stop(&f->resolver);
    mailbox_fini(&f->mailbox);
    nameserver_stop(&f->server);
    (void)close(f->silent_fd);
    free(f);
    return 0;
}

/* ---- tests ---- */

static void exchanges_come_sorted_by_preference(void **state)
{
    expect_route(*state, "sorted.sampleorg.test", ROUTE_MX,
                 "100 server1.sampleorg.test 192.0.2.1; 200 six.sampleorg.test 2001:db8::6; "
                 "300 server2.sampleorg.test 192.0.2.2 2001:db8::2");
}

static void destination_key_names_the_exchanges(void **state)
{
    const struct route *mx = resolve(*state, "sorted.sampleorg.test");
    assert_string_equal(mx->destination_key, "100 server1.sampleorg.test 200 six.sampleorg.test "
                                             "300 server2.sampleorg.test");
    assert_string_equal(mx->domain, "sorted.sampleorg.test");
    const struct route *same = resolve(*state, "alias.sampleorg.test");
    assert_string_equal(same->destination_key, mx->destination_key);
    const struct route *implicit = resolve(*state, "aonly.sampleorg.test");
    assert_string_equal(implicit->destination_key, "0 aonly.sampleorg.test");
    route_release(&mx);
    route_release(&same);
    route_release(&implicit);
}

static void equal_preferences_are_kept(void **state)
{
    expect_route(*state, "equal.sampleorg.test", ROUTE_MX,
                 "10 server1.sampleorg.test 192.0.2.1; 10 server2.sampleorg.test 192.0.2.2 "
                 "2001:db8::2");
}

static void null_mx_bounces_even_with_an_address(void **state)
{
    expect_failure(*state, "nullmx.sampleorg.test", LOCAL_NULL_MX);
}

static void root_among_real_exchanges_is_ignored(void **state)
{
    expect_route(*state, "halfnull.sampleorg.test", ROUTE_MX,
                 "10 server1.sampleorg.test 192.0.2.1");
}

static void domain_without_mx_is_its_own_exchange(void **state)
{
    const struct route *r = resolve(*state, "aonly.sampleorg.test");
    assert_int_equal(r->kind, ROUTE_IMPLICIT_MX);
    assert_int_equal(r->exchange_count, 1);
    assert_string_equal(r->exchanges[0].name, "aonly.sampleorg.test");
    assert_int_equal(r->exchanges[0].v4_count, 2);
    route_release(&r);
    expect_route(*state, "aaaaonly.sampleorg.test", ROUTE_IMPLICIT_MX,
                 "0 aaaaonly.sampleorg.test 2001:db8::11");
    expect_route(*state, "both.sampleorg.test", ROUTE_IMPLICIT_MX,
                 "0 both.sampleorg.test 192.0.2.13 2001:db8::13");
}

static void cname_owner_is_followed(void **state)
{
    expect_route(*state, "alias.sampleorg.test", ROUTE_MX,
                 "100 server1.sampleorg.test 192.0.2.1; 200 six.sampleorg.test 2001:db8::6; "
                 "300 server2.sampleorg.test 192.0.2.2 2001:db8::2");
    const struct route *r = resolve(*state, "hostalias.sampleorg.test");
    assert_int_equal(r->kind, ROUTE_IMPLICIT_MX);
    assert_int_equal(r->exchanges[0].v4_count, 2);
    route_release(&r);
    expect_failure(*state, "tomissing.sampleorg.test", LOCAL_NXDOMAIN);
}

static void cname_loop_defers(void **state)
{
    expect_failure(*state, "loop1.sampleorg.test", LOCAL_DNS_TEMPFAIL);
}

static void exchange_that_is_a_cname_is_followed(void **state)
{
    expect_route(*state, "mxalias.sampleorg.test", ROUTE_MX,
                 "10 aliashost.sampleorg.test 192.0.2.1");
}

static void exchanges_without_address_are_no_route(void **state)
{
    expect_failure(*state, "mxmissing.sampleorg.test", LOCAL_EXCHANGES_NO_ADDRESS);
    expect_failure(*state, "mxnowhere.sampleorg.test", LOCAL_EXCHANGES_NO_ADDRESS);
    expect_failure(*state, "mxonlyaddress.sampleorg.test", LOCAL_EXCHANGES_NO_ADDRESS);
}

static void one_exchange_with_an_address_is_enough(void **state)
{
    expect_route(*state, "mxhalfmissing.sampleorg.test", ROUTE_MX,
                 "10 missing.sampleorg.test; 20 server1.sampleorg.test 192.0.2.1");
    expect_route(*state, "mxaddress.sampleorg.test", ROUTE_MX,
                 "20 server1.sampleorg.test 192.0.2.1");
}

static void answer_too_large_for_udp_is_fetched_by_tcp(void **state)
{
    const struct route *r = resolve(*state, "big.sampleorg.test");
    assert_int_equal(r->kind, ROUTE_MX);
    assert_int_equal(r->exchange_count, ROUTE_EXCHANGES_MAX);
    for (unsigned i = 0; i < r->exchange_count; i++) {
        assert_int_equal(r->exchanges[i].preference, i + 1);
        assert_int_equal(r->exchanges[i].v4_count, 1);
    }
    route_release(&r);
}

static void absent_domains_and_addresses_bounce(void **state)
{
    expect_failure(*state, "missing.sampleorg.test", LOCAL_NXDOMAIN);
    expect_failure(*state, "textonly.sampleorg.test", LOCAL_NO_ADDRESS);
}

static void server_failure_defers(void **state)
{
    expect_failure(*state, "refused.test", LOCAL_DNS_TEMPFAIL);
    expect_failure(*state, "mxrefused.sampleorg.test", LOCAL_DNS_TEMPFAIL);
}

static void failed_exchange_look_up_leaves_the_others_usable(void **state)
{
    const struct route *r = resolve(*state, "mxhalfrefused.sampleorg.test");
    assert_int_equal(r->kind, ROUTE_MX);
    assert_int_equal(r->exchange_count, 2);
    assert_true(r->exchanges[0].lookup_failed);
    assert_false(r->exchanges[1].lookup_failed);
    assert_int_equal(r->exchanges[1].v4_count, 1);
    /* It is looked up again soon. */
    assert_true(r->expires_mono_ms <= clock_mono_ms() + DRAFT_FAILURE_TTL_S * 1000);
    route_release(&r);
}

static void bogus_answer_defers_and_says_so(void **state)
{
    expect_failure(*state, "bogus.test", LOCAL_DNS_BOGUS);
    expect_failure(*state, "mxbogus.sampleorg.test", LOCAL_DNS_BOGUS);
}

static void validated_routes_are_marked_secure(void **state)
{
    const struct route *r = resolve(*state, "secure.test");
    assert_int_equal(r->kind, ROUTE_MX);
    assert_true(r->secure);
    route_release(&r);
    r = resolve(*state, "host.secure.test");
    assert_int_equal(r->kind, ROUTE_IMPLICIT_MX);
    assert_true(r->secure);
    route_release(&r);
    r = resolve(*state, "sorted.sampleorg.test");
    assert_false(r->secure);
    route_release(&r);
    expect_failure(*state, "missing.secure.test", LOCAL_NXDOMAIN);
}

static void international_names_are_found(void **state)
{
    expect_route(*state, "b\xc3\xbc\x63her.SampleOrg.test", ROUTE_MX,
                 "10 server1.sampleorg.test 192.0.2.1");
    expect_failure(*state, "no such name.test", LOCAL_BAD_DOMAIN);
    expect_failure(*state, "", LOCAL_BAD_DOMAIN);
}

static void own_host_is_cut_with_its_preference_and_worse(void **state)
{
    expect_route(*state, "ownname.sampleorg.test", ROUTE_MX, "10 server1.sampleorg.test 192.0.2.1");
    expect_route(*state, "ownaddress.sampleorg.test", ROUTE_MX,
                 "10 server1.sampleorg.test 192.0.2.1");
    const struct route *r = resolve(*state, "ownaddress.sampleorg.test");
    assert_true(r->own_host_cut);
    assert_string_equal(r->destination_key, "10 server1.sampleorg.test");
    route_release(&r);
    expect_failure(*state, "ownfirst.sampleorg.test", LOCAL_MAIL_LOOP);
    expect_failure(*state, "me.sampleorg.test", LOCAL_MAIL_LOOP);
    expect_failure(*state, "alsome.sampleorg.test", LOCAL_MAIL_LOOP);
}

/* Whoever listens on all addresses listens on these; others than these it must be told. */
static void on_all_addresses_our_loopback_is_us(void **state)
{
    expect_route(*state, "ownloop.sampleorg.test", ROUTE_MX, "10 server1.sampleorg.test 192.0.2.1");
    expect_failure(*state, "loop.sampleorg.test", LOCAL_MAIL_LOOP);
    expect_failure(*state, "localhost", LOCAL_MAIL_LOOP);
}

static void own_address_of_another_port_is_not_us(void **state)
{
    expect_route(*state, "ownport.sampleorg.test", ROUTE_MX,
                 "10 otherport.sampleorg.test 192.0.2.98");
}

static void address_literals_need_no_dns(void **state)
{
    struct fixture *f = *state;
    uint64_t before = flights(f);
    expect_route(f, "[192.0.2.7]", ROUTE_LITERAL, "0 [192.0.2.7] 192.0.2.7");
    expect_route(f, "[IPv6:2001:db8::7]", ROUTE_LITERAL, "0 [IPv6:2001:db8::7] 2001:db8::7");
    expect_failure(f, "[192.0.2.99]", LOCAL_MAIL_LOOP);
    expect_failure(f, "[192.0.2.300]", LOCAL_BAD_DOMAIN);
    assert_int_equal(flights(f), before);
}

static void lifetimes_follow_the_ttls_within_bounds(void **state)
{
    static const struct {
        const char *domain;
        uint64_t seconds;
    } cases[] = {{"short.sampleorg.test", 7},
                 {"long.sampleorg.test", 3600},
                 {"both.sampleorg.test", 120}, /* the negative answer for MX */
                 {"missing.sampleorg.test", 120},
                 {"refused.test", 30}};
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t now_ms = clock_mono_ms();
        const struct route *r = resolve(f, cases[i].domain);
        assert_true(r->expires_mono_ms <= clock_mono_ms() + cases[i].seconds * 1000);
        /* Some seconds have passed since an earlier test asked. */
        assert_true(r->expires_mono_ms + 60000 > now_ms + cases[i].seconds * 1000);
        route_release(&r);
    }
}

static void a_hundred_askers_share_one_flight(void **state)
{
    enum { ASKERS = 100 };
    struct fixture *f = *state;
    uint64_t before = flights(f);
    struct question *q = calloc(ASKERS, sizeof *q);
    for (int i = 0; i < ASKERS; i++)
        ask(f, f->resolver, &q[i], "shared.many.sampleorg.test");
    for (int i = 0; i < ASKERS; i++) {
        await(f, &q[i]);
        assert_ptr_equal(q[i].query.route, q[0].query.route);
        assert_int_equal(q[i].query.route->kind, ROUTE_MX);
    }
    assert_int_equal(flights(f), before + 1);
    for (int i = 0; i < ASKERS; i++)
        route_release(&q[i].query.route);
    free(q);
}

static void cached_route_is_given_without_a_flight(void **state)
{
    struct fixture *f = *state;
    const char *domain = "cached.many.sampleorg.test";
    assert_null(resolver_cached(f->resolver, slice_str(domain), clock_mono_ms()));
    const struct route *asked = resolve(f, domain);
    uint64_t before = flights(f);
    const struct route *again = resolve(f, domain);
    const struct route *cached = resolver_cached(f->resolver, slice_str(domain), clock_mono_ms());
    assert_ptr_equal(again, asked);
    assert_ptr_equal(cached, asked);
    assert_null(resolver_cached(f->resolver, slice_str(domain), asked->expires_mono_ms));
    assert_int_equal(flights(f), before);
    route_release(&asked);
    route_release(&again);
    route_release(&cached);
}

static void fresh_question_flies_though_cached(void **state)
{
    struct fixture *f = *state;
    const struct route *cached = resolve(f, "sorted.sampleorg.test");
    uint64_t before = flights(f);
    struct question q = {.query = {.reply_to = &f->mailbox,
                                   .on_answer = on_answer,
                                   .fresh = true,
                                   .domain = "sorted.sampleorg.test"}};
    struct resolver_query *query = &q.query;
    resolver_ask(f->resolver, &query);
    await(f, &q);
    assert_int_equal(flights(f), before + 1);
    assert_ptr_not_equal(q.query.route, cached);
    route_release(&cached);
    route_release(&q.query.route);
}

static void hit_in_the_last_moments_of_a_route_refreshes_it(void **state)
{
    struct fixture *f = *state;
    struct slice domain = SLICE_LIT("hot.many.sampleorg.test");
    const struct route *r = resolve(f, domain.ptr);
    uint64_t before = flights(f);
    /* One hit only: the refreshed route may be there by the second (test_cache has many). */
    const struct route *hit = resolver_cached(f->resolver, domain, r->expires_mono_ms - 100);
    assert_ptr_equal(hit, r);
    route_release(&hit);
    /* Mail of one sender arrives in order: this answer comes behind the start of the refresh. */
    const struct route *other = resolve(f, "behind.many.sampleorg.test");
    assert_int_equal(flights(f), before + 2);
    route_release(&other);
    route_release(&r);
}

static void questions_beyond_the_cap_wait_their_turn(void **state)
{
    enum { DOMAINS = 200 };
    struct fixture *f = *state;
    struct resolver_options options = f->options;
    options.flights_max = 2;
    struct error error;
    struct resolver *r = resolver_start(&options, &error);
    assert_non_null(r);
    struct question *q = calloc(DOMAINS, sizeof *q);
    for (int i = 0; i < DOMAINS; i++) {
        char domain[64];
        (void)snprintf(domain, sizeof domain, "d%d.many.sampleorg.test", i);
        ask(f, r, &q[i], domain);
    }
    for (int i = 0; i < DOMAINS; i++) {
        await(f, &q[i]);
        assert_int_equal(q[i].query.route->kind, ROUTE_MX);
        route_release(&q[i].query.route);
    }
    assert_int_equal(resolver_figures(r).flights, DOMAINS);
    assert_int_equal(resolver_figures(r).cached, DOMAINS);
    assert_int_equal(resolver_figures(r).failures, 0);
    free(q);
    resolver_stop(&r);
}

static void silent_name_server_defers_at_the_limit(void **state)
{
    struct fixture *f = *state;
    struct resolver_options options = f->options;
    options.flight_limit_ms = 150;
    struct error error;
    struct resolver *r = resolver_start(&options, &error);
    assert_non_null(r);
    struct question q;
    ask(f, r, &q, "silent.test");
    await(f, &q);
    assert_int_equal(q.query.route->failure.code, LOCAL_DNS_TEMPFAIL);
    assert_int_equal(resolver_figures(r).failures, 1);
    route_release(&q.query.route);
    resolver_stop(&r);
}

static void a_domain_in_line_waits_for_a_flight_to_end(void **state)
{
    struct fixture *f = *state;
    struct resolver_options options = f->options;
    options.flights_max = 1;
    options.flight_limit_ms = 100;
    struct error error;
    struct resolver *r = resolver_start(&options, &error);
    assert_non_null(r);
    struct question slow, quick;
    ask(f, r, &slow, "silent.test");
    ask(f, r, &quick, "sorted.sampleorg.test");
    await(f, &quick);
    assert_true(slow.answered);
    assert_true(slow.rank < quick.rank);
    assert_int_equal(quick.query.route->kind, ROUTE_MX);
    route_release(&slow.query.route);
    route_release(&quick.query.route);
    resolver_stop(&r);
}

/* More silent name servers than there may be flights: whoever is in line behind them does not wait
 * until each has had its 20 s. The first four make way after 2 s, and one of the next four after 2
 * s more. All are waited for. */
static void silent_name_servers_make_way_for_whoever_is_in_line(void **state)
{
    enum { FLIGHTS = 4, SILENT = 2 * FLIGHTS };
    struct fixture *f = *state;
    struct resolver_options options = f->options;
    options.flights_max = FLIGHTS;
    struct error error;
    struct resolver *r = resolver_start(&options, &error);
    assert_non_null(r);
    struct question silent[SILENT], quick;
    for (int i = 0; i < SILENT; i++) {
        char domain[64];
        (void)snprintf(domain, sizeof domain, "d%d.silent.test", i);
        ask(f, r, &silent[i], domain);
    }
    uint64_t start_ms = clock_mono_ms();
    ask(f, r, &quick, "sorted.sampleorg.test");
    await(f, &quick);
    uint64_t took_ms = clock_mono_ms() - start_ms;
    assert_in_range(took_ms, 2 * RESOLVER_QUICK_MS, 3 * RESOLVER_QUICK_MS);
    assert_int_equal(quick.query.route->kind, ROUTE_MX);
    route_release(&quick.query.route);
    resolver_stop(&r);
    for (int i = 0; i < SILENT; i++) {
        await(f, &silent[i]);
        assert_int_equal(silent[i].query.route->failure.code, LOCAL_SHUTDOWN);
        route_release(&silent[i].query.route);
    }
}

/* Both wait for the same silent name server; only the one with nothing else to go by waits to the
 * end. */
static void silence_about_one_exchange_holds_no_mail_back(void **state)
{
    struct fixture *f = *state;
    struct error error;
    struct resolver *r = resolver_start(&f->options, &error);
    assert_non_null(r);
    struct question hopeless, usable;
    ask(f, r, &hopeless, "silent.test");
    ask(f, r, &usable, "mxsilent.sampleorg.test");
    await(f, &usable);
    assert_false(hopeless.answered);
    const struct route *route = usable.query.route;
    assert_int_equal(route->kind, ROUTE_MX);
    assert_int_equal(route->exchanges[0].v4_count, 1);
    assert_true(route->exchanges[1].lookup_failed);
    resolver_stop(&r);
    await(f, &hopeless);
    route_release(&usable.query.route);
    route_release(&hopeless.query.route);
}

static void stop_answers_whoever_still_waits(void **state)
{
    struct fixture *f = *state;
    struct resolver_options options = f->options;
    options.flights_max = 1;
    struct error error;
    struct resolver *r = resolver_start(&options, &error);
    assert_non_null(r);
    struct question flying, same, in_line;
    ask(f, r, &flying, "silent.test");
    ask(f, r, &same, "silent.test");
    ask(f, r, &in_line, "sorted.sampleorg.test");
    resolver_stop(&r);
    assert_null(r);
    struct question *all[] = {&flying, &same, &in_line};
    for (int i = 0; i < 3; i++) {
        await(f, all[i]);
        assert_int_equal(all[i]->query.route->failure.code, LOCAL_SHUTDOWN);
        route_release(&all[i]->query.route);
    }
}

static void only_the_families_in_use_are_asked_for(void **state)
{
    struct fixture *f = *state;
    struct resolver_options options = f->options;
    options.use_ipv6 = false;
    struct error error;
    struct resolver *before = f->resolver;
    f->resolver = resolver_start(&options, &error);
    assert_non_null(f->resolver);
    expect_route(f, "both.sampleorg.test", ROUTE_IMPLICIT_MX, "0 both.sampleorg.test 192.0.2.13");
    expect_failure(f, "aaaaonly.sampleorg.test", LOCAL_NO_ADDRESS);
    expect_failure(f, "[IPv6:2001:db8::7]", LOCAL_EXCHANGES_NO_ADDRESS);
    resolver_stop(&f->resolver);
    f->resolver = before;
}

static void expect_refused(const struct resolver_options *options, const char *named)
{
    struct error error = {.text = ""};
    assert_null(resolver_start(options, &error));
    if (strstr(error.text, named) == NULL)
        fail_msg("the error \"%s\" does not name \"%s\"", error.text, named);
}

static void bad_options_name_themselves(void **state)
{
    struct fixture *f = *state;
    struct resolver_options options = f->options;
    options.unbound_options = (const char *const[]){"no-such-option: 1", NULL};
    expect_refused(&options, "no-such-option: 1");
    options.unbound_options = (const char *const[]){"no colon at all", NULL};
    expect_refused(&options, "no colon at all");
    options.unbound_options = NULL;
    options.forwarders = (const char *const[]){"not an address", NULL};
    expect_refused(&options, "not an address");
    options.forwarders = NULL;
    options.own_names = (const char *const[]){"not a name", NULL};
    expect_refused(&options, "not a name");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exchanges_come_sorted_by_preference),
        cmocka_unit_test(destination_key_names_the_exchanges),
        cmocka_unit_test(equal_preferences_are_kept),
        cmocka_unit_test(null_mx_bounces_even_with_an_address),
        cmocka_unit_test(root_among_real_exchanges_is_ignored),
        cmocka_unit_test(domain_without_mx_is_its_own_exchange),
        cmocka_unit_test(cname_owner_is_followed),
        cmocka_unit_test(cname_loop_defers),
        cmocka_unit_test(exchange_that_is_a_cname_is_followed),
        cmocka_unit_test(exchanges_without_address_are_no_route),
        cmocka_unit_test(one_exchange_with_an_address_is_enough),
        cmocka_unit_test(answer_too_large_for_udp_is_fetched_by_tcp),
        cmocka_unit_test(absent_domains_and_addresses_bounce),
        cmocka_unit_test(server_failure_defers),
        cmocka_unit_test(failed_exchange_look_up_leaves_the_others_usable),
        cmocka_unit_test(bogus_answer_defers_and_says_so),
        cmocka_unit_test(validated_routes_are_marked_secure),
        cmocka_unit_test(international_names_are_found),
        cmocka_unit_test(own_host_is_cut_with_its_preference_and_worse),
        cmocka_unit_test(on_all_addresses_our_loopback_is_us),
        cmocka_unit_test(own_address_of_another_port_is_not_us),
        cmocka_unit_test(address_literals_need_no_dns),
        cmocka_unit_test(lifetimes_follow_the_ttls_within_bounds),
        cmocka_unit_test(a_hundred_askers_share_one_flight),
        cmocka_unit_test(cached_route_is_given_without_a_flight),
        cmocka_unit_test(fresh_question_flies_though_cached),
        cmocka_unit_test(hit_in_the_last_moments_of_a_route_refreshes_it),
        cmocka_unit_test(questions_beyond_the_cap_wait_their_turn),
        cmocka_unit_test(silent_name_server_defers_at_the_limit),
        cmocka_unit_test(a_domain_in_line_waits_for_a_flight_to_end),
        cmocka_unit_test(silent_name_servers_make_way_for_whoever_is_in_line),
        cmocka_unit_test(silence_about_one_exchange_holds_no_mail_back),
        cmocka_unit_test(stop_answers_whoever_still_waits),
        cmocka_unit_test(only_the_families_in_use_are_asked_for),
        cmocka_unit_test(bad_options_name_themselves),
    };
    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}
