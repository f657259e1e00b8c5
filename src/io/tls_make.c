/* Makes a region's CA and certificates; see tls.h.
 *
 * Order on disk: the key first, then its certificate. A certificate that is there therefore always
 * has its key, and a key without certificate is what a crash in between leaves: the next call goes
 * on with it.
 *
 * Certificates begin a day in the past, so that a machine whose clock is behind accepts them at
 * once. Their subject has an organisation, so that it is never empty, and a common name only when
 * asked for: etcd's gateway refuses certificates that have one. */
#include <arpa/inet.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "base/assert.h"
#include "base/buf.h"
#include "crypto/crypto.h"
#include "io/files.h"
#include "io/tls.h"
#include "io/tls_internal.h"

#define PEM_BYTES_MAX (64u << 10) /* one key or one certificate */
#define DAY_SECONDS   (24L * 60 * 60)

bool nef_zone_name_ok(const char *name)
{
    size_t n = strlen(name);

    if (n == 0 || n > NEF_ZONE_NAME_MAX || name[0] == '-' || name[n - 1] == '-')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!islower((unsigned char)name[i]) && !isdigit((unsigned char)name[i]) && name[i] != '-')
            return false;
    return true;
}

/* ---- files ---- */

/* NEF_E_NOT_FOUND if there is no file; NEF_E_CONFIG if it isn't a key. */
static nef_err read_key(const char *path, EVP_PKEY **out_key)
{
    struct nef_buf text = {.max = PEM_BYTES_MAX + 4096};
    nef_err err = nef_file_read(path, PEM_BYTES_MAX, true, &text);
    BIO *bio = NULL;
    EVP_PKEY *key = NULL;

    if (err == NEF_OK) {
        bio = BIO_new_mem_buf(text.data, (int)text.bytes);
        key = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
        err = key == NULL ? NEF_E_CONFIG : NEF_OK;
    }
    BIO_free(bio);
    nef_buf_free(&text);
    if (err == NEF_OK)
        *out_key = key;
    return err;
}

static nef_err read_cert(const char *path, X509 **out_cert)
{
    struct nef_buf text = {.max = PEM_BYTES_MAX + 4096};
    nef_err err = nef_file_read(path, PEM_BYTES_MAX, false, &text);
    BIO *bio = NULL;
    X509 *cert = NULL;

    if (err == NEF_OK) {
        bio = BIO_new_mem_buf(text.data, (int)text.bytes);
        cert = bio == NULL ? NULL : PEM_read_bio_X509(bio, NULL, NULL, NULL);
        err = cert == NULL ? NEF_E_CONFIG : NEF_OK;
    }
    BIO_free(bio);
    nef_buf_free(&text);
    if (err == NEF_OK)
        *out_cert = cert;
    return err;
}

/* Writes what is in BIO to a new file and wipes it. */
static nef_err write_pem(BIO *bio, const char *path)
{
    char *data = NULL;
    long bytes = BIO_get_mem_data(bio, &data);
    nef_err err = NEF_E_CRYPTO;

    if (bytes > 0) {
        err = nef_file_make(path, 0600, data, (size_t)bytes);
        nef_wipe(data, (size_t)bytes);
    }
    return err;
}

/* The key in PATH, or a new one written there. */
static nef_err key_at(const char *path, EVP_PKEY **out_key)
{
    EVP_PKEY *key = NULL;
    BIO *bio = NULL;
    nef_err err = read_key(path, out_key);

    if (err != NEF_E_NOT_FOUND)
        return err;
    err = NEF_E_CRYPTO;
    key = EVP_EC_gen("P-256");
    bio = BIO_new(BIO_s_secmem());
    if (key != NULL && bio != NULL &&
        PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1)
        err = write_pem(bio, path);
    BIO_free(bio);
    if (err == NEF_OK)
        *out_key = key;
    else
        EVP_PKEY_free(key);
    return err;
}

static nef_err cert_to(const char *path, X509 *cert)
{
    BIO *bio = BIO_new(BIO_s_mem());
    nef_err err = NEF_E_CRYPTO;

    if (bio != NULL && PEM_write_bio_X509(bio, cert) == 1)
        err = write_pem(bio, path);
    BIO_free(bio);
    return err;
}

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* ---- certificates ---- */

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509_EXTENSION *extension;
    X509V3_CTX context;
    bool ok;

    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    ok = extension != NULL && X509_add_ext(cert, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return ok;
}

static bool add_name(X509_NAME *name, const char *field, const char *text)
{
    return X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8, (const unsigned char *)text, -1,
                                      -1, 0) == 1;
}

/* Everything but extensions and signature. A random 127-bit serial number (RFC 5280: positive). */
static X509 *cert_new(const char *organisation, const char *common_name, EVP_PKEY *key)
{
    X509 *cert = X509_new();
    X509_NAME *subject;
    BIGNUM *serial = NULL;
    uint8_t random[16];
    bool ok;

    if (cert == NULL)
        return NULL;
    nef_random(random, sizeof(random));
    random[0] = (uint8_t)((random[0] & 0x7f) | 0x40);
    serial = BN_bin2bn(random, sizeof(random), NULL);
    subject = X509_get_subject_name(cert);
    ok = serial != NULL && BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(cert)) != NULL &&
         X509_set_version(cert, X509_VERSION_3) == 1 &&
         X509_gmtime_adj(X509_getm_notBefore(cert), -DAY_SECONDS) != NULL &&
         X509_gmtime_adj(X509_getm_notAfter(cert), (long)NEF_TLS_DAYS * DAY_SECONDS) != NULL &&
         X509_set_pubkey(cert, key) == 1 && add_name(subject, "O", organisation) &&
         (common_name == NULL || add_name(subject, "CN", common_name));
    BN_free(serial);
    if (!ok) {
        X509_free(cert);
        cert = NULL;
    }
    return cert;
}

nef_err nef_tls_make_ca(const char *region, const char *cert_path, const char *key_path)
{
    EVP_PKEY *key = NULL;
    X509 *cert = NULL;
    char name[64];
    nef_err err;

    if (exists(cert_path))
        return NEF_E_EXISTS;
    if (snprintf(name, sizeof(name), "Nef region %s", region) >= (int)sizeof(name))
        return NEF_E_INVALID; /* X.520: names of 64 characters at most */
    err = key_at(key_path, &key);
    if (err != NEF_OK)
        return err;
    cert = cert_new(name, "Nef region CA", key);
    err = NEF_E_CRYPTO;
    if (cert != NULL && X509_set_issuer_name(cert, X509_get_subject_name(cert)) == 1 &&
        add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
        add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") &&
        add_extension(cert, cert, NID_subject_key_identifier, "hash") &&
        X509_sign(cert, key, EVP_sha256()) > 0)
        err = cert_to(cert_path, cert);
    X509_free(cert);
    EVP_PKEY_free(key);
    return err;
}

static bool host_name_ok(const char *name)
{
    size_t n = strlen(name);

    if (n == 0 || n > 253)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '-' && name[i] != '.')
            return false;
    return true;
}

/* "DNS:localhost,IP:127.0.0.1,..." in OpenSSL's notation. Every name is checked first, because a
 * comma in one would add names of the writer's choice. */
static nef_err alternative_names(const struct nef_tls_cert *c, struct nef_buf *out)
{
    nef_buf_text(out, "DNS:localhost,IP:127.0.0.1,IP:::1");
    for (uint32_t i = 0; i < c->name_count; i++) {
        struct in6_addr address;

        if (inet_pton(AF_INET, c->names[i], &address) == 1 ||
            inet_pton(AF_INET6, c->names[i], &address) == 1)
            nef_buf_printf(out, ",IP:%s", c->names[i]);
        else if (host_name_ok(c->names[i]))
            nef_buf_printf(out, ",DNS:%s", c->names[i]);
        else
            return NEF_E_INVALID;
    }
    if (c->zone != NULL && !nef_zone_name_ok(c->zone))
        return NEF_E_INVALID;
    if (c->zone != NULL)
        nef_buf_printf(out, ",URI:" NEF_TLS_ZONE_URI "%s", c->zone);
    return nef_buf_end(out);
}

static nef_err issue(X509 *ca, EVP_PKEY *ca_key, const struct nef_tls_cert *c, const char *names,
                     EVP_PKEY *key, X509 **out_cert)
{
    const char *usage =
        c->server ? (c->client ? "serverAuth,clientAuth" : "serverAuth") : "clientAuth";
    X509 *cert = cert_new("Nef", c->common_name, key);

    if (cert != NULL && X509_set_issuer_name(cert, X509_get_subject_name(ca)) == 1 &&
        add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(cert, ca, NID_key_usage, "critical,digitalSignature") &&
        add_extension(cert, ca, NID_ext_key_usage, usage) &&
        add_extension(cert, ca, NID_subject_alt_name, names) &&
        add_extension(cert, ca, NID_subject_key_identifier, "hash") &&
        add_extension(cert, ca, NID_authority_key_identifier, "keyid") &&
        X509_sign(cert, ca_key, EVP_sha256()) > 0) {
        *out_cert = cert;
        return NEF_OK;
    }
    X509_free(cert);
    return NEF_E_CRYPTO;
}

nef_err nef_tls_make_cert(const char *ca_cert_path, const char *ca_key_path,
                          const struct nef_tls_cert *c, const char *cert_path, const char *key_path)
{
    struct nef_buf names = {0};
    EVP_PKEY *ca_key = NULL, *key = NULL;
    X509 *ca = NULL, *cert = NULL;
    nef_err err;

    NEF_ASSERT(c->server || c->client);
    if (exists(cert_path))
        return NEF_E_EXISTS;
    err = alternative_names(c, &names);
    if (err == NEF_OK)
        err = read_cert(ca_cert_path, &ca);
    if (err == NEF_OK)
        err = read_key(ca_key_path, &ca_key);
    if (err == NEF_OK && X509_check_private_key(ca, ca_key) != 1)
        err = NEF_E_CONFIG;
    if (err == NEF_OK)
        err = key_at(key_path, &key);
    if (err == NEF_OK)
        err = issue(ca, ca_key, c, nef_buf_cstr(&names), key, &cert);
    if (err == NEF_OK)
        err = cert_to(cert_path, cert);
    X509_free(cert);
    X509_free(ca);
    EVP_PKEY_free(key);
    EVP_PKEY_free(ca_key);
    nef_buf_free(&names);
    return err;
}
