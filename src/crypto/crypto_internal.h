/* What the files of crypto/ share: fetched algorithms and this thread's contexts. */
#ifndef NEF_CRYPTO_CRYPTO_INTERNAL_H
#define NEF_CRYPTO_CRYPTO_INTERNAL_H

#include <openssl/evp.h>
#include <openssl/kdf.h>
#include "crypto/crypto.h"

#define NEF_HASH_KINDS 4u

/* Fetched once for the process, read-only afterwards, never freed: threads may run until exit. */
struct nef_crypto_algorithms {
    EVP_CIPHER *gcm;
    EVP_CIPHER *ecb;
    EVP_CIPHER *ctr;
    EVP_MD *md[NEF_HASH_KINDS];
    EVP_MAC *hmac;
    EVP_KDF *hkdf;
};

/* Contexts of one thread, each bound to its algorithm for good; freed when the thread ends. Between
 * calls none holds a key: see nef_crypto_forget. */
struct nef_crypto_thread {
    EVP_CIPHER_CTX *seal;
    EVP_CIPHER_CTX *open;
    EVP_CIPHER_CTX *ecb;
    EVP_CIPHER_CTX *ctr;
    EVP_MD_CTX *md[NEF_HASH_KINDS];
    EVP_MAC_CTX *hmac;
};

/* NULL if an algorithm is missing from this OpenSSL. Any thread. */
const struct nef_crypto_algorithms *nef_crypto_algorithms(void);

/* This thread's contexts, made on first use; NULL if that failed. Valid until the thread ends. */
struct nef_crypto_thread *nef_crypto_thread(void);

/* Overwrites the key schedule in CTX by that of an all-zero key, so that no key outlives the call
 * that brought it. (EVP_CIPHER_CTX_reset would also do, at the price of an allocation per call.) */
NEF_MUST_CHECK nef_err nef_crypto_forget(EVP_CIPHER_CTX *ctx);

/* Known answers of every primitive: NEF_E_CRYPTO if one is wrong. */
NEF_MUST_CHECK nef_err nef_crypto_selftest(void);

/* Steps of XAES-256-GCM that tests check one by one: the subkey of (key, first half of nonce). */
NEF_MUST_CHECK nef_err nef_xaes_subkey(const uint8_t key[32], const uint8_t nonce[24],
                                       uint8_t out[32]);
/* XAES with the caller's nonce, which isn't written: out gets bytes + 16. For known answers only.
 */
NEF_MUST_CHECK nef_err nef_xaes_seal_with(const uint8_t key[32], const uint8_t nonce[24],
                                          const void *aad, size_t aad_bytes, const void *in,
                                          size_t bytes, void *out);

#endif
