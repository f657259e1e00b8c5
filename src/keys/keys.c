/* The table of bucket keys, and what is done with them.
 *
 * Each bucket key lies in locked memory beside the key-tag key derived from it; the table itself (ids and
 * pointers) needs no protection. Operations run under the table's read lock: two microseconds of AES, so
 * that a key is never used after nef_keys_forget returned, without a count on each key.
 *
 * One bucket key serves three uses under XAES-256-GCM, and what is sealed for one can't be opened as
 * another because the associated data begins with a byte that says which:
 *     1 | bucket-key id (16) | bound-to id (16)      a DEK
 *     2 | bucket-key id (16) | the caller's bytes    nef_keys_seal
 * XAES nonces are random, 192 bits, so no counter has to survive a crash (crypto/aead.c). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "keys/keys_internal.h"

#define TABLE_COUNT  4096u /* chains; a region has at most NEF_BUCKET_COUNT_MAX (10,000) buckets */
#define USE_DEK      1u
#define USE_SEAL     2u
#define AAD_MAX      256u /* of a caller */
#define BUCKET_LABEL "nef bucket key"
#define INDEX_LABEL  "nef index key"

struct secret { /* in locked memory */
    uint8_t key[NEF_KEY_BYTES];
    uint8_t tag_key[32];
};

struct entry {
    struct entry *next;
    struct nef_id id;
    struct secret *secret;
};

struct nef_keys {
    struct nef_customer_key *customer; /* in locked memory; never changes */
    pthread_rwlock_t lock;             /* guards the table */
    struct entry *table[TABLE_COUNT];
};

static void entry_free(struct entry *entry)
{
    if (entry == NULL)
        return;
    nef_secret_free(entry->secret, sizeof(*entry->secret));
    free(entry);
}

/* ids are random, so their first bytes are a good hash */
static struct entry **chain(struct nef_keys *keys, const struct nef_id *id)
{
    return &keys->table[(id->bytes[0] | (uint32_t)id->bytes[1] << 8) % TABLE_COUNT];
}

/* lock held */
static struct secret *find(struct nef_keys *keys, const struct nef_id *id)
{
    for (struct entry *e = *chain(keys, id); e != NULL; e = e->next)
        if (nef_id_equal(&e->id, id))
            return e->secret;
    return NULL;
}

nef_err nef_keys_open_file(const char *path, struct nef_keys **out_keys)
{
    struct nef_keys *keys = calloc(1, sizeof(*keys));
    nef_err err = NEF_E_NOMEM;

    if (keys == NULL)
        return NEF_E_NOMEM;
    if (pthread_rwlock_init(&keys->lock, NULL) != 0) {
        free(keys);
        return NEF_E_SYSTEM;
    }
    keys->customer = nef_secret_new(sizeof(*keys->customer));
    if (keys->customer != NULL)
        err = nef_key_file_read(path, keys->customer);
    if (err != NEF_OK) {
        nef_keys_close(keys);
        return err;
    }
    *out_keys = keys;
    return NEF_OK;
}

void nef_keys_close(struct nef_keys *keys)
{
    if (keys == NULL)
        return;
    for (uint32_t i = 0; i < TABLE_COUNT; i++) {
        while (keys->table[i] != NULL) {
            struct entry *entry = keys->table[i];

            keys->table[i] = entry->next;
            entry_free(entry);
        }
    }
    nef_secret_free(keys->customer, sizeof(*keys->customer));
    (void)pthread_rwlock_destroy(&keys->lock); /* nobody holds it */
    free(keys);
}

static nef_err entry_new(const struct nef_id *id, struct entry **out_entry)
{
    struct entry *entry = calloc(1, sizeof(*entry));

    if (entry == NULL)
        return NEF_E_NOMEM;
    entry->id = *id;
    entry->secret = nef_secret_new(sizeof(*entry->secret));
    if (entry->secret == NULL) {
        free(entry);
        return NEF_E_NOMEM;
    }
    *out_entry = entry;
    return NEF_OK;
}

/* Puts the entry, whose key is set, into the table; takes it over. */
static nef_err insert(struct nef_keys *keys, struct entry *entry)
{
    struct entry **at = chain(keys, &entry->id);
    struct secret *known;
    nef_err err;

    err = nef_hkdf_sha256(entry->secret->key, NEF_KEY_BYTES, NULL, 0, "nef key tag",
                          entry->secret->tag_key, sizeof(entry->secret->tag_key));
    if (err != NEF_OK) {
        entry_free(entry);
        return err;
    }
    (void)pthread_rwlock_wrlock(&keys->lock);
    known = find(keys, &entry->id);
    if (known == NULL) {
        entry->next = *at;
        *at = entry;
        entry = NULL;
    } else if (!nef_equal_ct(known->key, entry->secret->key, NEF_KEY_BYTES)) {
        err = NEF_E_EXISTS;
    }
    (void)pthread_rwlock_unlock(&keys->lock);
    entry_free(entry);
    return err;
}

nef_err nef_keys_create(struct nef_keys *keys, const struct nef_id *id, uint8_t *out_wrapped,
                        size_t *out_bytes)
{
    uint8_t wrapped[NEF_WRAPPED_BYTES];
    struct entry *entry;
    nef_err err;

    err = entry_new(id, &entry);
    if (err != NEF_OK)
        return err;
    nef_random(entry->secret->key, NEF_KEY_BYTES);
    err = nef_customer_wrap(keys->customer, BUCKET_LABEL, id, entry->secret->key, wrapped);
    if (err != NEF_OK) {
        entry_free(entry);
        return err;
    }
    err = insert(keys, entry); /* NEF_E_EXISTS: a fresh key is never the known one */
    if (err != NEF_OK)
        return err;
    memcpy(out_wrapped, wrapped, sizeof(wrapped));
    *out_bytes = sizeof(wrapped);
    return NEF_OK;
}

nef_err nef_keys_load(struct nef_keys *keys, const struct nef_id *id, const uint8_t *wrapped,
                      size_t bytes)
{
    struct entry *entry;
    nef_err err;

    err = entry_new(id, &entry);
    if (err != NEF_OK)
        return err;
    err = nef_customer_unwrap(keys->customer, BUCKET_LABEL, id, wrapped, bytes, entry->secret->key);
    if (err != NEF_OK) {
        entry_free(entry);
        return err;
    }
    return insert(keys, entry);
}

void nef_keys_forget(struct nef_keys *keys, const struct nef_id *id)
{
    struct entry **at = chain(keys, id);
    struct entry *entry;

    (void)pthread_rwlock_wrlock(&keys->lock);
    while (*at != NULL && !nef_id_equal(&(*at)->id, id))
        at = &(*at)->next;
    entry = *at;
    if (entry != NULL)
        *at = entry->next;
    (void)pthread_rwlock_unlock(&keys->lock);
    entry_free(entry);
}

static size_t bind(uint8_t use, const struct nef_id *bucket_key, const void *more, size_t bytes,
                   uint8_t aad[17 + AAD_MAX])
{
    NEF_ASSERT(bytes <= AAD_MAX);
    aad[0] = use;
    memcpy(aad + 1, bucket_key->bytes, 16);
    if (bytes > 0)
        memcpy(aad + 17, more, bytes);
    return 17 + bytes;
}

static nef_err seal(struct nef_keys *keys, uint8_t use, const struct nef_id *bucket_key,
                    const void *more, size_t more_bytes, const void *in, size_t bytes, void *out)
{
    uint8_t aad[17 + AAD_MAX];
    size_t aad_bytes = bind(use, bucket_key, more, more_bytes, aad);
    const struct secret *secret;
    nef_err err = NEF_E_KEY;

    (void)pthread_rwlock_rdlock(&keys->lock);
    secret = find(keys, bucket_key);
    if (secret != NULL)
        err = nef_xaes_seal(secret->key, aad, aad_bytes, in, bytes, out);
    (void)pthread_rwlock_unlock(&keys->lock);
    return err;
}

static nef_err unseal(struct nef_keys *keys, uint8_t use, const struct nef_id *bucket_key,
                      const void *more, size_t more_bytes, const void *in, size_t bytes, void *out)
{
    uint8_t aad[17 + AAD_MAX];
    size_t aad_bytes = bind(use, bucket_key, more, more_bytes, aad);
    const struct secret *secret;
    nef_err err = NEF_E_KEY;

    (void)pthread_rwlock_rdlock(&keys->lock);
    secret = find(keys, bucket_key);
    if (secret != NULL)
        err = nef_xaes_open(secret->key, aad, aad_bytes, in, bytes, out);
    (void)pthread_rwlock_unlock(&keys->lock);
    return err;
}

nef_err nef_keys_wrap_dek(struct nef_keys *keys, const struct nef_id *bucket_key,
                          const struct nef_id *bound_to, const uint8_t dek[32],
                          uint8_t out[NEF_WRAPPED_DEK_BYTES])
{
    return seal(keys, USE_DEK, bucket_key, bound_to->bytes, 16, dek, NEF_KEY_BYTES, out);
}

nef_err nef_keys_unwrap_dek(struct nef_keys *keys, const struct nef_id *bucket_key,
                            const struct nef_id *bound_to,
                            const uint8_t wrapped[NEF_WRAPPED_DEK_BYTES], uint8_t out_dek[32])
{
    return unseal(keys, USE_DEK, bucket_key, bound_to->bytes, 16, wrapped, NEF_WRAPPED_DEK_BYTES,
                  out_dek);
}

nef_err nef_keys_seal(struct nef_keys *keys, const struct nef_id *bucket_key, const void *aad,
                      size_t aad_bytes, const void *in, size_t bytes, void *out)
{
    return seal(keys, USE_SEAL, bucket_key, aad, aad_bytes, in, bytes, out);
}

nef_err nef_keys_open(struct nef_keys *keys, const struct nef_id *bucket_key, const void *aad,
                      size_t aad_bytes, const void *in, size_t bytes, void *out)
{
    return unseal(keys, USE_SEAL, bucket_key, aad, aad_bytes, in, bytes, out);
}

nef_err nef_keys_tag(struct nef_keys *keys, const struct nef_id *region_key,
                     const struct nef_id *bucket, const void *object_key, size_t bytes,
                     uint8_t out_tag[16])
{
    uint8_t message[16 + NEF_OBJECT_KEY_MAX];
    uint8_t mac[32];
    const struct secret *secret;

    if (bytes > NEF_OBJECT_KEY_MAX)
        return NEF_E_LIMIT;
    memcpy(message, bucket->bytes, 16);
    memcpy(message + 16, object_key, bytes);
    (void)pthread_rwlock_rdlock(&keys->lock);
    secret = find(keys, region_key);
    if (secret != NULL)
        nef_hmac_sha256(secret->tag_key, sizeof(secret->tag_key), message, 16 + bytes, mac);
    (void)pthread_rwlock_unlock(&keys->lock);
    if (secret == NULL)
        return NEF_E_KEY;
    memcpy(out_tag, mac, 16);
    return NEF_OK;
}

nef_err nef_keys_index_key(struct nef_keys *keys, const char *path, uint8_t out_key[32])
{
    static const struct nef_id none;
    uint8_t wrapped[NEF_WRAPPED_BYTES];
    uint8_t key[NEF_KEY_BYTES];
    size_t bytes = 0;
    nef_err err;

    err = nef_key_file_load(path, wrapped, sizeof(wrapped), &bytes);
    if (err == NEF_E_LIMIT)
        return NEF_E_CORRUPT;
    if (err == NEF_OK)
        return nef_customer_unwrap(keys->customer, INDEX_LABEL, &none, wrapped, bytes, out_key);
    if (err != NEF_E_NOT_FOUND)
        return err;
    nef_random(key, sizeof(key));
    err = nef_customer_wrap(keys->customer, INDEX_LABEL, &none, key, wrapped);
    if (err == NEF_OK)
        err = nef_key_file_create(path, wrapped, sizeof(wrapped));
    if (err == NEF_OK)
        memcpy(out_key, key, sizeof(key));
    nef_wipe(key, sizeof(key));
    return err;
}
