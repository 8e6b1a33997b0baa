#include "tests/sim/sim_tls.h"

#include "core/base/assert.h"

#include <openssl/evp.h>
#include <openssl/x509.h>

enum { VALID_S = 10 * 365 * 86400 };

static SSL_CTX *context; /* made at the first use, kept for the process */

static X509 *make_certificate(EVP_PKEY *key)
{
    X509 *certificate = X509_new();
    ASSERT(certificate != NULL);
    X509_NAME *name = X509_get_subject_name(certificate);
    (void)X509_set_version(certificate, 2);
    (void)ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    (void)X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    (void)X509_gmtime_adj(X509_getm_notAfter(certificate), VALID_S);
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
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
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

SSL *sim_tls_server(void)
{
    if (context == NULL)
        make_context();
    SSL *ssl = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    ASSERT(ssl != NULL && in != NULL && out != NULL);
    SSL_set_bio(ssl, in, out);
    SSL_set_accept_state(ssl);
    return ssl;
}
