#include "workers/tls.h"

#include "core/base/net.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>

enum { SESSION_SLOTS = 4096 };

/* Sessions by exchange address: a direct-mapped table. A collision costs a full
 * handshake, no more. */
struct session_slot {
    struct address address;
    SSL_SESSION *session; /* owned */
    char *name;           /* that the certificate was verified for; owned; NULL where none was */
};

struct tls {
    SSL_CTX *context;
    BIO_METHOD *transport; /* TLS records over core/base/net.h, where all bytes pass */
    int peer_index;        /* of struct tls_peer among a connection's application data */
    bool verify;
    struct {
        pthread_mutex_t lock; /* held for a pointer swap, never across a handshake */
        struct session_slot slots[SESSION_SLOTS];
    } shared;
};

/* What a connection carries for the new-session callback. */
struct tls_peer {
    struct tls *tls;
    struct address address;
    char name[];
};

/* ---- the transport: an OpenSSL BIO over a descriptor of ours ---- */

static int fd_of(BIO *bio)
{
    return (int)(intptr_t)BIO_get_data(bio);
}

static int transport_read(BIO *bio, char *buffer, size_t size, size_t *len_out)
{
    BIO_clear_retry_flags(bio);
    enum net_status status = net_read(fd_of(bio), buffer, size, len_out);
    if (status == NET_AGAIN)
        BIO_set_retry_read(bio);
    return status == NET_OK;
}

static int transport_write(BIO *bio, const char *bytes, size_t size, size_t *len_out)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    BIO_clear_retry_flags(bio);
    enum net_status status = net_writev(fd_of(bio), &part, 1, len_out);
    if (status == NET_AGAIN)
        BIO_set_retry_write(bio);
    return status == NET_OK;
}

static long transport_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH; /* nothing is kept here */
}

static BIO_METHOD *transport_create(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "onward");
    if (m == NULL || BIO_meth_set_read_ex(m, transport_read) != 1 ||
        BIO_meth_set_write_ex(m, transport_write) != 1 ||
        BIO_meth_set_ctrl(m, transport_control) != 1) {
        BIO_meth_free(m);
        return NULL;
    }
    return m;
}

static bool attach(SSL *ssl, const struct tls *t, int fd)
{
    BIO *bio = BIO_new(t->transport);
    if (bio == NULL)
        return false;
    BIO_set_data(bio, (void *)(intptr_t)fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio); /* the connection owns it */
    return true;
}

/* ---- sessions to resume ---- */

static void free_peer(void *parent, void *ptr, CRYPTO_EX_DATA *data, int index, long argl,
                      void *argp)
{
    (void)parent, (void)data, (void)index, (void)argl, (void)argp;
    free(ptr);
}

static struct session_slot *slot_of(struct tls *t, const struct address *a)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < sizeof a->ip; i++)
        hash = (hash ^ a->ip[i]) * 16777619u;
    return &t->shared.slots[hash % SESSION_SLOTS];
}

/* OpenSSL hands us a session the peer gave (in TLS 1.3 after the handshake). 1 = we keep it. */
static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    const struct tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    const struct tls_peer *peer = SSL_get_ex_data(ssl, t->peer_index);
    if (peer == NULL)
        return 0;
    char *name = t->verify ? strdup(peer->name) : NULL;
    if (t->verify && name == NULL)
        return 0;
    struct session_slot *slot = slot_of(peer->tls, &peer->address);
    pthread_mutex_lock(&peer->tls->shared.lock);
    SSL_SESSION *old = slot->session;
    char *old_name = slot->name;
    slot->session = session;
    slot->name = name;
    slot->address = peer->address;
    pthread_mutex_unlock(&peer->tls->shared.lock);
    SSL_SESSION_free(old);
    free(old_name);
    return 1;
}

static bool load_authorities(SSL_CTX *context, const char *ca_file)
{
    return ca_file != NULL ? SSL_CTX_load_verify_locations(context, ca_file, NULL) == 1
                           : SSL_CTX_set_default_verify_paths(context) == 1;
}

struct tls *tls_create(bool verify, const char *ca_file, struct error *error)
{
    struct tls *t = calloc(1, sizeof *t);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    BIO_METHOD *transport = transport_create();
    if (t == NULL || context == NULL || transport == NULL) {
        error_set(error, "out of memory for TLS");
        free(t);
        SSL_CTX_free(context);
        BIO_meth_free(transport);
        return NULL;
    }
    t->transport = transport;
    t->context = context;
    t->verify = verify;
    t->peer_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_peer);
    SSL_CTX_set_app_data(context, t);
    pthread_mutex_init(&t->shared.lock, NULL);
    /* A parked connection must not keep 32 KB of record buffers; retried writes come
     * from the map. */
    (void)SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    (void)SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    (void)SSL_CTX_set_session_cache_mode(context,
                                         SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
    SSL_CTX_sess_set_new_cb(context, on_new_session);
    if (verify && !load_authorities(context, ca_file)) {
        error_set(error, "cannot read the certificates in delivery.tls_ca_file %s",
                  ca_file != NULL ? ca_file : "(the system's default)");
        tls_destroy(&t);
        return NULL;
    }
    return t;
}

void tls_destroy(struct tls **t)
{
    if (*t == NULL)
        return;
    for (int i = 0; i < SESSION_SLOTS; i++) {
        SSL_SESSION_free((*t)->shared.slots[i].session);
        free((*t)->shared.slots[i].name);
    }
    pthread_mutex_destroy(&(*t)->shared.lock);
    SSL_CTX_free((*t)->context);
    BIO_meth_free((*t)->transport);
    free(*t);
    *t = NULL;
}

/* A resumed session shows no certificate: it is good only for the name it was verified for. */
static void resume(struct tls *t, SSL *ssl, const char *name, const struct address *address)
{
    struct session_slot *slot = slot_of(t, address);
    SSL_SESSION *session = NULL;
    pthread_mutex_lock(&t->shared.lock);
    if (slot->session != NULL && address_same_ip(&slot->address, address) &&
        (!t->verify || strcmp(slot->name, name) == 0)) {
        session = slot->session;
        SSL_SESSION_up_ref(session);
    }
    pthread_mutex_unlock(&t->shared.lock);
    if (session != NULL)
        (void)SSL_set_session(ssl, session); /* refused: a full handshake follows */
    SSL_SESSION_free(session);
}

/* The certificate must name the address itself. */
static bool expect_address(SSL *ssl, const struct address *a)
{
    bool is_v4 = address_is_v4(a);
    return X509_VERIFY_PARAM_set1_ip(SSL_get0_param(ssl), a->ip + (is_v4 ? 12 : 0),
                                     is_v4 ? 4 : 16) == 1;
}

SSL *tls_connection(struct tls *t, int fd, const char *name, const struct address *address)
{
    SSL *ssl = SSL_new(t->context);
    size_t name_size = t->verify ? strlen(name) + 1 : 0;
    struct tls_peer *peer = malloc(sizeof *peer + name_size);
    if (ssl == NULL || peer == NULL)
        goto fail;
    *peer = (struct tls_peer){.tls = t, .address = *address};
    memcpy(peer->name, name, name_size);
    if (SSL_set_ex_data(ssl, t->peer_index, peer) != 1)
        goto fail;
    peer = NULL; /* the connection owns it */
    if (!attach(ssl, t, fd))
        goto fail;
    if (name[0] != '[') { /* no SNI for address literals (RFC 6066 3) */
        if (SSL_set_tlsext_host_name(ssl, name) != 1)
            goto fail;
        if (t->verify && SSL_set1_host(ssl, name) != 1)
            goto fail;
    } else if (t->verify && !expect_address(ssl, address)) {
        goto fail;
    }
    SSL_set_verify(ssl, t->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    SSL_set_connect_state(ssl);
    resume(t, ssl, name, address);
    return ssl;
fail:
    free(peer);
    SSL_free(ssl);
    ERR_clear_error();
    return NULL;
}

const char *tls_version(const SSL *ssl)
{
    return SSL_get_version(ssl);
}

bool tls_resumed(SSL *ssl)
{
    return SSL_session_reused(ssl) == 1;
}

void tls_failure(char *text, size_t size)
{
    unsigned long code = ERR_get_error();
    if (code == 0)
        (void)snprintf(text, size, "the peer broke off");
    else
        ERR_error_string_n(code, text, size);
    ERR_clear_error();
}
