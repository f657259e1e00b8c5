/* What the files of keys/ share: the customer key and the file it comes from. */
#ifndef NEF_KEYS_KEYS_INTERNAL_H
#define NEF_KEYS_KEYS_INTERNAL_H

#include <stdbool.h>
#include "keys/keys.h"

#define NEF_CUSTOMER_ID_BYTES 8u

/* In locked memory. */
struct nef_customer_key {
    uint8_t key[NEF_KEY_BYTES];
    uint8_t id[NEF_CUSTOMER_ID_BYTES]; /* first half of a hash of the key: names it in what it wraps */
};

/* Bytes of a key wrapped under a customer key (format in wrap.c). */
#define NEF_WRAPPED_BYTES (16u + 32u + NEF_XAES_OVERHEAD)
_Static_assert(NEF_WRAPPED_BYTES <= NEF_WRAPPED_KEY_MAX, "a wrapped key fits where it is stored");

void nef_customer_key_identify(struct nef_customer_key *customer);

/* label: what kind of key; id: whose. Both are bound to the wrapped form. */
NEF_MUST_CHECK nef_err nef_customer_wrap(const struct nef_customer_key *customer, const char *label,
                                         const struct nef_id *id, const uint8_t key[32],
                                         uint8_t out[NEF_WRAPPED_BYTES]);
/* NEF_E_KEY: wrapped under another customer key; NEF_E_VERSION; NEF_E_CORRUPT. */
NEF_MUST_CHECK nef_err nef_customer_unwrap(const struct nef_customer_key *customer,
                                           const char *label, const struct nef_id *id,
                                           const uint8_t *wrapped, size_t bytes,
                                           uint8_t out_key[32]);

/* Read a customer key file; see keys.h for what is refused. */
NEF_MUST_CHECK nef_err nef_key_file_read(const char *path, struct nef_customer_key *out_customer);
/* A new file of mode 0600 with DATA, synced with its directory. NEF_E_EXISTS. */
NEF_MUST_CHECK nef_err nef_key_file_create(const char *path, const void *data, size_t bytes);
/* At most MAX bytes of a file that only its owner may access; a longer one is NEF_E_LIMIT. */
NEF_MUST_CHECK nef_err nef_key_file_load(const char *path, void *out, size_t max, size_t *out_bytes);

#endif
