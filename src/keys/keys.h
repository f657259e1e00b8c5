/* The customer's keys. Only this directory sees the bytes of customer and bucket keys; everyone else
 * holds a bucket-key id and asks for an operation. Unwrapped bucket keys lie in locked memory.
 *
 *   customer key   in DIR/keys/customer.key (mode 0600) until a key manager is configured; wraps
 *   bucket key     one for each bucket, and one for the region itself (users, buckets' names, checkpoint
 *                  rows, index keys, and by HKDF the key-tag key); wrapped in BUCKET_PUT / REGION ops; wraps
 *   DEK            one for each op and its body; in KEY records.
 *
 * What is sealed under a long-lived key is XAES-256-GCM; under a single-use DEK AES-256-GCM.
 * Threads: any. Errors: NEF_E_KEY (unknown or unavailable key), NEF_E_CORRUPT (doesn't verify). */
#ifndef NEF_KEYS_KEYS_H
#define NEF_KEYS_KEYS_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/id.h"
#include "crypto/crypto.h"

#define NEF_WRAPPED_KEY_MAX 256u                                /* a bucket key under a customer key */
#define NEF_WRAPPED_DEK_BYTES (32u + NEF_XAES_OVERHEAD)         /* 72 */

struct nef_keys;

/* Write a fresh customer key file (mode 0600, synced, never over an existing one: NEF_E_EXISTS). */
NEF_MUST_CHECK nef_err nef_keys_make_file(const char *path);
/* NEF_E_CONFIG: others can access the file, or it isn't a key file; NEF_E_NOT_FOUND. */
NEF_MUST_CHECK nef_err nef_keys_open_file(const char *path, struct nef_keys **out_keys);
void nef_keys_close(struct nef_keys *keys);

/* Make a bucket key: it is known under ID at once; wrapped form to out_wrapped (NEF_WRAPPED_KEY_MAX). */
NEF_MUST_CHECK nef_err nef_keys_create(struct nef_keys *keys, const struct nef_id *id,
                                       uint8_t *out_wrapped, size_t *out_bytes);
/* Make a wrapped bucket key known under ID. Idempotent; a different key under a known id: NEF_E_EXISTS.
 * NEF_E_KEY: it is wrapped under another customer key. */
NEF_MUST_CHECK nef_err nef_keys_load(struct nef_keys *keys, const struct nef_id *id,
                                     const uint8_t *wrapped, size_t bytes);
void nef_keys_forget(struct nef_keys *keys, const struct nef_id *id); /* wiped */

/* out: NEF_WRAPPED_DEK_BYTES; aad binds the DEK to its stream or op id. */
NEF_MUST_CHECK nef_err nef_keys_wrap_dek(struct nef_keys *keys, const struct nef_id *bucket_key,
                                         const struct nef_id *bound_to, const uint8_t dek[32],
                                         uint8_t out[NEF_WRAPPED_DEK_BYTES]);
NEF_MUST_CHECK nef_err nef_keys_unwrap_dek(struct nef_keys *keys, const struct nef_id *bucket_key,
                                           const struct nef_id *bound_to,
                                           const uint8_t wrapped[NEF_WRAPPED_DEK_BYTES],
                                           uint8_t out_dek[32]);

/* XAES under a bucket key (checkpoint rows: the region's). out: bytes + / - NEF_XAES_OVERHEAD.
 * aad_bytes: at most 256. */
NEF_MUST_CHECK nef_err nef_keys_seal(struct nef_keys *keys, const struct nef_id *bucket_key,
                                     const void *aad, size_t aad_bytes, const void *in, size_t bytes,
                                     void *out);
NEF_MUST_CHECK nef_err nef_keys_open(struct nef_keys *keys, const struct nef_id *bucket_key,
                                     const void *aad, size_t aad_bytes, const void *in, size_t bytes,
                                     void *out);

/* The 16-byte key tag of an object: HMAC-SHA-256 under a key derived (HKDF) from the region's key. */
NEF_MUST_CHECK nef_err nef_keys_tag(struct nef_keys *keys, const struct nef_id *region_key,
                                    const struct nef_id *bucket, const void *object_key, size_t bytes,
                                    uint8_t out_tag[16]);

/* The index key of a zone: read from PATH (wrapped under the customer key) or made and written there.
 * NEF_E_CORRUPT, NEF_E_KEY (of another customer key): the caller may unlink PATH and wipe the index. */
NEF_MUST_CHECK nef_err nef_keys_index_key(struct nef_keys *keys, const char *path, uint8_t out_key[32]);

#endif
