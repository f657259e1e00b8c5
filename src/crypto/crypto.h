/* Cryptography over OpenSSL 3; the only directory that includes OpenSSL's EVP headers (io/tls.c includes
 * its TLS headers). Algorithms are fetched once; contexts are per thread, so one-shot calls cost no
 * allocation. Every function may be called from any thread. Failures inside OpenSSL return NEF_E_CRYPTO;
 * a tag that doesn't verify returns NEF_E_CORRUPT and the output is zeroed. */
#ifndef NEF_CRYPTO_CRYPTO_H
#define NEF_CRYPTO_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

#define NEF_KEY_BYTES         32u
#define NEF_TAG_BYTES         16u
#define NEF_GCM_NONCE_BYTES   12u
#define NEF_XAES_NONCE_BYTES  24u
#define NEF_XAES_OVERHEAD     (NEF_XAES_NONCE_BYTES + NEF_TAG_BYTES)

/* Fetches algorithms and runs known-answer tests of each; call once at start-up. */
NEF_MUST_CHECK nef_err nef_crypto_init(void);

/* Cryptographically strong; aborts the process if the system has no randomness. */
void nef_random(void *out, size_t bytes);
uint64_t nef_random_u64(void); /* never 0 */

bool nef_equal_ct(const void *a, const void *b, size_t bytes); /* constant time */
void nef_wipe(void *p, size_t bytes);

/* Memory for keys: locked, not dumped, wiped on free. NULL if the system refuses (RLIMIT_MEMLOCK). */
void *nef_secret_new(size_t bytes);
void nef_secret_free(void *p, size_t bytes);

/* AES-256-GCM. out has room for bytes + 16: ciphertext, tag. in == out is allowed. A (key, nonce) pair
 * must never seal twice: only single-use DEKs come here, nonce = purpose and number (design section 3). */
NEF_MUST_CHECK nef_err nef_gcm_seal(const uint8_t key[32], const uint8_t nonce[12], const void *aad,
                                    size_t aad_bytes, const void *in, size_t bytes, void *out);
/* bytes: of ciphertext with tag; out gets bytes - 16. in == out is allowed. */
NEF_MUST_CHECK nef_err nef_gcm_open(const uint8_t key[32], const uint8_t nonce[12], const void *aad,
                                    size_t aad_bytes, const void *in, size_t bytes, void *out);

/* XAES-256-GCM (C2SP XAES-256-GCM): for long-lived keys. Seal writes random nonce (24), ciphertext, tag
 * (16): bytes + NEF_XAES_OVERHEAD. No overlap of in and out. */
NEF_MUST_CHECK nef_err nef_xaes_seal(const uint8_t key[32], const void *aad, size_t aad_bytes,
                                     const void *in, size_t bytes, void *out);
NEF_MUST_CHECK nef_err nef_xaes_open(const uint8_t key[32], const void *aad, size_t aad_bytes,
                                     const void *in, size_t bytes, void *out);

/* Hashes, incremental. The digest's size is nef_hash_bytes(kind). */
enum nef_hash_kind { NEF_HASH_MD5, NEF_HASH_SHA1, NEF_HASH_SHA256, NEF_HASH_SHA512 };
struct nef_hash; /* opaque, heap */
size_t nef_hash_bytes(enum nef_hash_kind kind);
struct nef_hash *nef_hash_new(enum nef_hash_kind kind); /* NULL: out of memory */
void nef_hash_update(struct nef_hash *h, const void *data, size_t bytes);
void nef_hash_final(struct nef_hash *h, uint8_t *out); /* once; then reset or free */
void nef_hash_reset(struct nef_hash *h);
void nef_hash_free(struct nef_hash *h);
void nef_hash_of(enum nef_hash_kind kind, const void *data, size_t bytes, uint8_t *out);

/* SHA-256 whose state can be kept and taken up again: the digest of a transfer that goes on after an interruption. Any
 * saved bytes may be loaded; wrong ones give a wrong digest. */
#define NEF_SHA256_STATE_BYTES 104u
struct nef_sha256 {
    uint64_t opaque[16];
};
void nef_sha256_init(struct nef_sha256 *h);
void nef_sha256_update(struct nef_sha256 *h, const void *data, size_t bytes);
void nef_sha256_final(struct nef_sha256 *h, uint8_t out[32]);
void nef_sha256_save(const struct nef_sha256 *h, uint8_t out[NEF_SHA256_STATE_BYTES]);
void nef_sha256_load(struct nef_sha256 *h, const uint8_t in[NEF_SHA256_STATE_BYTES]);

void nef_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t bytes,
                     uint8_t out[32]);
/* RFC 5869 with SHA-256. info is a text that names the use. */
NEF_MUST_CHECK nef_err nef_hkdf_sha256(const void *key, size_t key_bytes, const void *salt,
                                       size_t salt_bytes, const char *info, uint8_t *out,
                                       size_t bytes);

/* AES-256-CTR keystream XOR at byte OFFSET of a stream with a 16-byte IV: the index's encryption at rest.
 * in == out is allowed. */
NEF_MUST_CHECK nef_err nef_ctr_xor(const uint8_t key[32], const uint8_t iv[16], uint64_t offset,
                                   const void *in, size_t bytes, void *out);

#endif
