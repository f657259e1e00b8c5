/* Hashes, HMAC-SHA-256 and HKDF.
 *
 * MD5 and SHA-1 are here because S3 speaks them (ETag, x-amz-checksum-sha1), never for our own
 * proofs. The functions that return nothing can fail only when OpenSSL lacks an algorithm
 * (nef_crypto_init says so first) or memory is gone; both stop the process, since a wrong digest
 * must never go on. */
#include "crypto/crypto_internal.h"
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <stdlib.h>
#include "base/assert.h"

struct nef_hash {
    EVP_MD_CTX *ctx;
    enum nef_hash_kind kind;
};

size_t nef_hash_bytes(enum nef_hash_kind kind)
{
    switch (kind) {
    case NEF_HASH_MD5:
        return 16;
    case NEF_HASH_SHA1:
        return 20;
    case NEF_HASH_SHA256:
        return 32;
    case NEF_HASH_SHA512:
        return 64;
    }
    nef_assert_fail(__FILE__, __LINE__, "a hash kind of the list");
}

struct nef_hash *nef_hash_new(enum nef_hash_kind kind)
{
    const struct nef_crypto_algorithms *a = nef_crypto_algorithms();
    struct nef_hash *h;

    NEF_ASSERT(a != NULL);
    NEF_ASSERT((unsigned)kind < NEF_HASH_KINDS);
    h = calloc(1, sizeof(*h));
    if (h == NULL)
        return NULL;
    h->kind = kind;
    h->ctx = EVP_MD_CTX_new();
    if (h->ctx == NULL || EVP_DigestInit_ex2(h->ctx, a->md[kind], NULL) != 1) {
        nef_hash_free(h);
        return NULL;
    }
    return h;
}

void nef_hash_update(struct nef_hash *h, const void *data, size_t bytes)
{
    if (bytes > 0)
        NEF_ASSERT(EVP_DigestUpdate(h->ctx, data, bytes) == 1);
}

void nef_hash_final(struct nef_hash *h, uint8_t *out)
{
    unsigned bytes = 0;

    NEF_ASSERT(EVP_DigestFinal_ex(h->ctx, out, &bytes) == 1);
    NEF_ASSERT(bytes == nef_hash_bytes(h->kind));
}

void nef_hash_reset(struct nef_hash *h)
{
    NEF_ASSERT(EVP_DigestInit_ex2(h->ctx, NULL, NULL) == 1);
}

void nef_hash_free(struct nef_hash *h)
{
    if (h == NULL)
        return;
    EVP_MD_CTX_free(h->ctx);
    free(h);
}

void nef_hash_of(enum nef_hash_kind kind, const void *data, size_t bytes, uint8_t *out)
{
    struct nef_crypto_thread *t = nef_crypto_thread();
    EVP_MD_CTX *ctx;

    NEF_ASSERT(t != NULL);
    NEF_ASSERT((unsigned)kind < NEF_HASH_KINDS);
    ctx = t->md[kind];
    NEF_ASSERT(EVP_DigestInit_ex2(ctx, NULL, NULL) == 1);
    if (bytes > 0)
        NEF_ASSERT(EVP_DigestUpdate(ctx, data, bytes) == 1);
    NEF_ASSERT(EVP_DigestFinal_ex(ctx, out, NULL) == 1);
}

void nef_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t bytes,
                     uint8_t out[32])
{
    static const uint8_t zero[NEF_KEY_BYTES];
    struct nef_crypto_thread *t = nef_crypto_thread();
    size_t out_bytes = 0;

    NEF_ASSERT(t != NULL);
    /* a NULL key would mean "the one from before" to OpenSSL */
    NEF_ASSERT(EVP_MAC_init(t->hmac, key_bytes == 0 ? zero : key, key_bytes, NULL) == 1);
    if (bytes > 0)
        NEF_ASSERT(EVP_MAC_update(t->hmac, data, bytes) == 1);
    NEF_ASSERT(EVP_MAC_final(t->hmac, out, &out_bytes, 32) == 1);
    NEF_ASSERT(out_bytes == 32);
    NEF_ASSERT(EVP_MAC_init(t->hmac, zero, sizeof(zero), NULL) == 1); /* forget the key */
}

nef_err nef_hkdf_sha256(const void *key, size_t key_bytes, const void *salt, size_t salt_bytes,
                        const char *info, uint8_t *out, size_t bytes)
{
    const struct nef_crypto_algorithms *a = nef_crypto_algorithms();
    char digest[] = "SHA2-256";
    OSSL_PARAM params[5];
    OSSL_PARAM *p = params;
    EVP_KDF_CTX *ctx;
    uint8_t made[255 * 32];
    size_t info_bytes = 0;
    nef_err err = NEF_OK;

    NEF_ASSERT(info != NULL);
    while (info[info_bytes] != '\0')
        info_bytes++;
    if (key_bytes == 0 || bytes == 0 || bytes > sizeof(made)) /* RFC 5869: at most 255 blocks */
        return NEF_E_INVALID;
    if (a == NULL || (ctx = EVP_KDF_CTX_new(a->hkdf)) == NULL)
        return NEF_E_CRYPTO;
    *p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
    *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, key_bytes);
    *p++ =
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)(uintptr_t)info, info_bytes);
    if (salt_bytes > 0)
        *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt,
                                                 salt_bytes);
    *p = OSSL_PARAM_construct_end();
    if (EVP_KDF_derive(ctx, made, bytes, params) != 1)
        err = NEF_E_CRYPTO;
    else
        for (size_t i = 0; i < bytes; i++)
            out[i] = made[i];
    EVP_KDF_CTX_free(ctx); /* clears its copies of key, salt and info */
    nef_wipe(made, bytes);
    return err;
}
