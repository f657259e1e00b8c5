/* A key under the customer key, 88 bytes:
 *
 *      0   4  magic "NefK"
 *      4   2  version (1), little-endian
 *      6   2  kind of customer key: 1, a key file; others will be key managers
 *      8   8  customer key's id: first 8 bytes of HMAC-SHA-256(customer key, "nef customer key id")
 *     16  72  XAES-256-GCM: nonce (24), the key (32), tag (16)
 *
 * Associated data: the 16 bytes before, the label ("nef bucket key", "nef index key") with its NUL, the
 * 16-byte id of the bucket key (zeros for an index key). So a wrapped key can't be passed off as one of
 * another bucket or another use. The customer key's id makes "wrong customer key" an answer of its own,
 * not to be confused with damage. */
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "keys/keys_internal.h"

#define MAGIC         0x4b66654eu /* "NefK" */
#define VERSION       1u
#define KIND_FILE     1u
#define HEAD_BYTES    16u
#define LABEL_MAX     32u

void nef_customer_key_identify(struct nef_customer_key *customer)
{
    static const char label[] = "nef customer key id";
    uint8_t mac[32];

    nef_hmac_sha256(customer->key, NEF_KEY_BYTES, label, sizeof(label) - 1, mac);
    memcpy(customer->id, mac, NEF_CUSTOMER_ID_BYTES);
}

static size_t bind(const uint8_t head[HEAD_BYTES], const char *label, const struct nef_id *id,
                   uint8_t aad[HEAD_BYTES + LABEL_MAX + 16])
{
    struct nef_writer w = nef_writer_of(aad, HEAD_BYTES + LABEL_MAX + 16);

    nef_write_copy(&w, head, HEAD_BYTES);
    nef_write_copy(&w, label, strlen(label) + 1);
    nef_write_copy(&w, id->bytes, sizeof(id->bytes));
    NEF_ASSERT(nef_writer_end(&w) == NEF_OK);
    return w.at;
}

nef_err nef_customer_wrap(const struct nef_customer_key *customer, const char *label,
                          const struct nef_id *id, const uint8_t key[32],
                          uint8_t out[NEF_WRAPPED_BYTES])
{
    uint8_t aad[HEAD_BYTES + LABEL_MAX + 16];
    struct nef_writer w = nef_writer_of(out, HEAD_BYTES);
    size_t aad_bytes;

    nef_write_u32(&w, MAGIC);
    nef_write_u16(&w, VERSION);
    nef_write_u16(&w, KIND_FILE);
    nef_write_copy(&w, customer->id, NEF_CUSTOMER_ID_BYTES);
    NEF_ASSERT(nef_writer_end(&w) == NEF_OK && w.at == HEAD_BYTES);
    aad_bytes = bind(out, label, id, aad);
    return nef_xaes_seal(customer->key, aad, aad_bytes, key, NEF_KEY_BYTES, out + HEAD_BYTES);
}

nef_err nef_customer_unwrap(const struct nef_customer_key *customer, const char *label,
                            const struct nef_id *id, const uint8_t *wrapped, size_t bytes,
                            uint8_t out_key[32])
{
    struct nef_reader r = nef_reader_of(wrapped, bytes);
    uint8_t aad[HEAD_BYTES + LABEL_MAX + 16];
    uint8_t customer_id[NEF_CUSTOMER_ID_BYTES];
    uint8_t key[NEF_KEY_BYTES];
    uint32_t magic = nef_read_u32(&r);
    uint16_t version = nef_read_u16(&r);
    uint16_t kind = nef_read_u16(&r);
    size_t aad_bytes;
    nef_err err;

    nef_read_copy(&r, customer_id, sizeof(customer_id));
    if (r.failed || magic != MAGIC)
        return NEF_E_CORRUPT;
    if (version != VERSION || kind != KIND_FILE)
        return NEF_E_VERSION;
    if (bytes != NEF_WRAPPED_BYTES)
        return NEF_E_CORRUPT;
    if (!nef_equal_ct(customer_id, customer->id, sizeof(customer_id)))
        return NEF_E_KEY;
    aad_bytes = bind(wrapped, label, id, aad);
    err = nef_xaes_open(customer->key, aad, aad_bytes, wrapped + HEAD_BYTES, bytes - HEAD_BYTES, key);
    if (err == NEF_OK)
        memcpy(out_key, key, NEF_KEY_BYTES);
    nef_wipe(key, sizeof(key));
    return err;
}
