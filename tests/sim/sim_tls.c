/* Its random numbers are the world's. For so little, a provider with an own generator would be the
 * longer way. */
#define OPENSSL_SUPPRESS_DEPRECATED

#include "tests/sim/sim_tls.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/random.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509.h>

enum { VALID_S = 10 * 365 * 86400, KEY_BYTES = 32 };

/* Made for the first world, kept for the process. */
static SSL_CTX *context;
static struct tls *client;

static struct random numbers;

static int draw(unsigned char *out, int len)
{
    for (int i = 0; i < len; i++)
        out[i] = (unsigned char)random_u64(&numbers);
    return 1;
}

static int always(void)
{
    return 1;
}

static X509 *make_certificate(EVP_PKEY *key)
{
    X509 *certificate = X509_new();
    ASSERT(certificate != NULL);
    X509_NAME *name = X509_get_subject_name(certificate);
    (void)X509_set_version(certificate, 2);
    (void)ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    time_t now = (time_t)(clock_wall_ms() / 1000);
    (void)ASN1_TIME_set(X509_getm_notBefore(certificate), now);
    (void)ASN1_TIME_set(X509_getm_notAfter(certificate), now + VALID_S);
    (void)X509_set_pubkey(certificate, key);
    (void)X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"sim", -1, -1,
                                     0);
    (void)X509_set_issuer_name(certificate, name);
    int signed_bytes = X509_sign(certificate, key, NULL);
    ASSERT(signed_bytes > 0);
    return certificate;
}

static void make_context(void)
{
    static const unsigned char secret[KEY_BYTES] = "the same in each of all worlds";
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, secret, sizeof secret);
    ASSERT(key != NULL);
    X509 *certificate = make_certificate(key);
    context = SSL_CTX_new(TLS_server_method());
    ASSERT(context != NULL);
    int used = SSL_CTX_use_certificate(context, certificate) == 1 &&
               SSL_CTX_use_PrivateKey(context, key) == 1;
    ASSERT(used);
    (void)SSL_CTX_set_num_tickets(context, 0); /* their length varies */
    X509_free(certificate);
    EVP_PKEY_free(key);
}

void sim_tls_reset(uint64_t seed)
{
    static const RAND_METHOD method = {.bytes = draw, .pseudorand = draw, .status = always};
    if (context == NULL) {
        (void)RAND_set_rand_method(&method);
        make_context();
        struct error error = {{0}};
        client = tls_create(false, NULL, &error);
        ASSERT(client != NULL);
    }
    random_init_seed(&numbers, seed);
}

struct tls *sim_tls_client(void)
{
    return client;
}

SSL *sim_tls_server(void)
{
    SSL *ssl = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    ASSERT(ssl != NULL && in != NULL && out != NULL);
    SSL_set_bio(ssl, in, out);
    SSL_set_accept_state(ssl);
    return ssl;
}
