#include "workers/tls.h"

#include "core/base/assert.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>

enum { SESSION_SLOTS = 4096 };

/* Sessions by exchange address: a direct-mapped table. A collision costs a full handshake, no more.
 */
struct session_slot {
    struct address address;
    SSL_SESSION *session; /* owned */
};

struct tls {
    SSL_CTX *context;
    int peer_index; /* of struct tls_peer among a connection's application data */
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
};

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
    struct session_slot *slot = slot_of(peer->tls, &peer->address);
    pthread_mutex_lock(&peer->tls->shared.lock);
    SSL_SESSION *old = slot->session;
    slot->session = session;
    slot->address = peer->address;
    pthread_mutex_unlock(&peer->tls->shared.lock);
    SSL_SESSION_free(old);
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
    if (t == NULL || context == NULL) {
        error_set(error, "out of memory for TLS");
        free(t);
        SSL_CTX_free(context);
        return NULL;
    }
    t->context = context;
    t->verify = verify;
    t->peer_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_peer);
    SSL_CTX_set_app_data(context, t);
    pthread_mutex_init(&t->shared.lock, NULL);
    /* A parked connection must not keep 32 KB of record buffers; retried writes come from the map.
     */
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
    for (int i = 0; i < SESSION_SLOTS; i++)
        SSL_SESSION_free((*t)->shared.slots[i].session);
    pthread_mutex_destroy(&(*t)->shared.lock);
    SSL_CTX_free((*t)->context);
    free(*t);
    *t = NULL;
}

static void resume(struct tls *t, SSL *ssl, const struct address *address)
{
    struct session_slot *slot = slot_of(t, address);
    SSL_SESSION *session = NULL;
    pthread_mutex_lock(&t->shared.lock);
    if (slot->session != NULL && address_same_ip(&slot->address, address)) {
        session = slot->session;
        SSL_SESSION_up_ref(session);
    }
    pthread_mutex_unlock(&t->shared.lock);
    if (session != NULL)
        (void)SSL_set_session(ssl, session); /* refused: a full handshake follows */
    SSL_SESSION_free(session);
}

SSL *tls_connection(struct tls *t, int fd, const char *name, const struct address *address)
{
    SSL *ssl = SSL_new(t->context);
    struct tls_peer *peer = malloc(sizeof *peer);
    if (ssl == NULL || peer == NULL)
        goto fail;
    *peer = (struct tls_peer){.tls = t, .address = *address};
    if (SSL_set_ex_data(ssl, t->peer_index, peer) != 1)
        goto fail;
    peer = NULL; /* the connection owns it */
    if (SSL_set_fd(ssl, fd) != 1)
        goto fail;
    if (name[0] != '[') { /* no SNI for address literals (RFC 6066 3) */
        if (SSL_set_tlsext_host_name(ssl, name) != 1)
            goto fail;
        if (t->verify && SSL_set1_host(ssl, name) != 1)
            goto fail;
    }
    SSL_set_verify(ssl, t->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    SSL_set_connect_state(ssl);
    resume(t, ssl, address);
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
