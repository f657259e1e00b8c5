/* A region's certificates, and TLS contexts between zones.
 *
 * Each region has a CA of its own; every certificate of its processes comes from it, and nothing else is
 * trusted. A zone's certificate names the zone in a URI SAN, "nef:zone:NAME": that, not a host name, is
 * what a peer is recognised by, so addresses may change. Keys are EC P-256.
 *
 * Files are PEM, mode 0600, made whole or not at all (written aside, synced, linked into place), and never
 * overwritten. */
#ifndef NEF_IO_TLS_H
#define NEF_IO_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/limits.h"

typedef struct ssl_ctx_st SSL_CTX; /* as in openssl/ssl.h */
typedef struct ssl_st SSL;

#define NEF_TLS_DAYS 3650u /* of CA and certificates: a region must not go dark because of a date */

/* Make a CA. If only KEY_PATH is there (an earlier call was cut short), its key is used.
 * Errors: NEF_E_EXISTS: there is a certificate already; nothing was changed. NEF_E_IO, NEF_E_CRYPTO. */
NEF_MUST_CHECK nef_err nef_tls_make_ca(const char *region, const char *cert_path,
                                       const char *key_path);

struct nef_tls_cert {
    const char *common_name; /* NULL: none; etcd's gateway refuses certificates that have one */
    const char *zone;        /* NULL: none; else "nef:zone:ZONE" is a URI SAN */
    const char *const *names; /* host names and addresses; localhost, 127.0.0.1, ::1 are always added */
    uint32_t name_count;
    bool server, client;      /* extended key usages; etcd's servers need both */
};

/* Make a key and a certificate for it, issued by the CA. As nef_tls_make_ca; also NEF_E_INVALID (a name
 * that is neither a host name nor an address, a zone name that isn't one). */
NEF_MUST_CHECK nef_err nef_tls_make_cert(const char *ca_cert_path, const char *ca_key_path,
                                         const struct nef_tls_cert *cert, const char *cert_path,
                                         const char *key_path);

/* Mutual TLS, 1.2 or later, AEAD suites only: the other side must present a certificate of CA for its role
 * (serverAuth, clientAuth). No host name is checked: check nef_tls_peer_zone after the handshake. No
 * session resumption, so that a restarted process is always authenticated anew. The caller frees out_ctx
 * with SSL_CTX_free. Errors: NEF_E_CONFIG: a file can't be read or key and certificate don't match. */
NEF_MUST_CHECK nef_err nef_tls_context(bool server, const char *ca, const char *cert, const char *key,
                                       SSL_CTX **out_ctx);

/* The zone in the verified certificate of the other side; after the handshake. out: text with NUL.
 * NEF_E_DENIED: not verified, or it doesn't name exactly one zone. */
NEF_MUST_CHECK nef_err nef_tls_peer_zone(SSL *ssl, char out_zone[NEF_ZONE_NAME_MAX + 1]);

/* The same of a certificate's DER, which the caller has verified. NEF_E_DENIED: it doesn't name exactly one zone, or is no certificate. */
NEF_MUST_CHECK nef_err nef_tls_cert_zone(const void *der, size_t bytes, char out_zone[NEF_ZONE_NAME_MAX + 1]);

/* 1 to NEF_ZONE_NAME_MAX of a-z, 0-9 and '-', not beginning or ending with '-'. */
bool nef_zone_name_ok(const char *name);

#endif
