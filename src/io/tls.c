/* TLS contexts between zones, and who is on the other side; see tls.h. */
#include "io/tls.h"
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/stat.h>
#include "base/assert.h"
#include "io/tls_internal.h"

nef_err nef_tls_context(bool server, const char *ca, const char *cert, const char *key,
                        SSL_CTX **out_ctx)
{
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    STACK_OF(X509_NAME) * names;
    struct stat st;

    if (ctx == NULL)
        return NEF_E_CRYPTO;
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") != 1 ||
        SSL_CTX_set1_groups_list(ctx, "X25519:P-256") != 1) {
        SSL_CTX_free(ctx);
        return NEF_E_CRYPTO;
    }
    (void)SSL_CTX_set_options(ctx,
                              SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
    (void)SSL_CTX_set_num_tickets(ctx, 0); /* returns 1 always; so do those below */
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_mode(ctx,
                           SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_verify_depth(ctx, 1);
    /* a key that others can read is no key: refused as customer.key and the tokens are */
    if (stat(key, &st) != 0 || (st.st_mode & 077) != 0 || SSL_CTX_load_verify_file(ctx, ca) != 1 ||
        SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1) {
        SSL_CTX_free(ctx);
        return NEF_E_CONFIG;
    }
    if (server) {
        names = SSL_load_client_CA_file(ca); /* a hint to clients; verification doesn't use it */
        if (names == NULL) {
            SSL_CTX_free(ctx);
            return NEF_E_CONFIG;
        }
        SSL_CTX_set_client_CA_list(ctx, names); /* takes names */
    }
    *out_ctx = ctx;
    return NEF_OK;
}

static nef_err zone_of(X509 *cert, char out_zone[NEF_ZONE_NAME_MAX + 1])
{
    static const char prefix[] = NEF_TLS_ZONE_URI;
    GENERAL_NAMES *names;
    char zone[NEF_ZONE_NAME_MAX + 1] = "";
    unsigned found = 0;

    names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) { /* -1 if names is NULL */
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        const char *text;
        size_t bytes;

        if (name->type != GEN_URI)
            continue;
        text = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
        bytes = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier);
        if (bytes <= sizeof(prefix) - 1 || memcmp(text, prefix, sizeof(prefix) - 1) != 0)
            continue;
        text += sizeof(prefix) - 1;
        bytes -= sizeof(prefix) - 1;
        if (bytes > NEF_ZONE_NAME_MAX || found++ > 0) {
            found = 2; /* two names are none */
            break;
        }
        memcpy(zone, text, bytes);
        zone[bytes] =
            '\0'; /* a zero byte inside makes it shorter, and the check below refuses that */
        if (strlen(zone) != bytes || !nef_zone_name_ok(zone))
            found = 2;
    }
    GENERAL_NAMES_free(names);
    if (found != 1)
        return NEF_E_DENIED;
    memcpy(out_zone, zone, strlen(zone) + 1);
    return NEF_OK;
}

nef_err nef_tls_peer_zone(SSL *ssl, char out_zone[NEF_ZONE_NAME_MAX + 1])
{
    X509 *cert = SSL_get0_peer_certificate(ssl);

    if (cert == NULL || SSL_get_verify_result(ssl) != X509_V_OK)
        return NEF_E_DENIED;
    return zone_of(cert, out_zone);
}

nef_err nef_tls_cert_zone(const void *der, size_t bytes, char out_zone[NEF_ZONE_NAME_MAX + 1])
{
    const unsigned char *at = der;
    X509 *cert = d2i_X509(NULL, &at, (long)bytes);
    nef_err err;

    if (cert == NULL)
        return NEF_E_DENIED;
    err = zone_of(cert, out_zone);
    X509_free(cert);
    return err;
}
