/* AES-256-GCM, XAES-256-GCM and AES-256-CTR over this thread's contexts.
 *
 * XAES-256-GCM (c2sp.org/XAES-256-GCM) in two lines: a subkey is derived from the key and the
 * nonce's first 12 bytes by AES-CMAC (NIST SP 800-108r1, counter mode, label 'X'), then plain
 * AES-256-GCM runs under the subkey with the last 12 bytes. Random nonces are safe for 2^80
 * messages, so a long-lived key needs no counter that a crash or a rollback could repeat.
 *
 * No key stays behind in a context (nef_crypto_forget). Output of an open whose tag is wrong is
 * zeroed before it returns: unauthenticated plaintext is never seen. */
#include "crypto/crypto_internal.h"
#include <string.h>
#include "base/assert.h"

#define STEP_BYTES ((size_t)1 << 30) /* EVP counts in int */

/* EVP_CipherUpdate over any length. out NULL: in is associated data. */
static bool update(EVP_CIPHER_CTX *ctx, const uint8_t *in, size_t bytes, uint8_t *out)
{
    while (bytes > 0) {
        int step = (int)NEF_MIN(bytes, STEP_BYTES);
        int done = 0;

        if (EVP_CipherUpdate(ctx, out, &done, in, step) != 1 || done != step)
            return false;
        in += step;
        bytes -= (size_t)step;
        if (out != NULL)
            out += step;
    }
    return true;
}

nef_err nef_gcm_seal(const uint8_t key[32], const uint8_t nonce[12], const void *aad,
                     size_t aad_bytes, const void *in, size_t bytes, void *out)
{
    struct nef_crypto_thread *t = nef_crypto_thread();
    uint8_t *to = out;
    int none = 0;
    bool ok;

    NEF_ASSERT(bytes <= SIZE_MAX - NEF_TAG_BYTES);
    if (t == NULL)
        return NEF_E_CRYPTO;
    ok = EVP_CipherInit_ex2(t->seal, NULL, key, nonce, 1, NULL) == 1 &&
         update(t->seal, aad, aad_bytes, NULL) && update(t->seal, in, bytes, to) &&
         EVP_CipherFinal_ex(t->seal, to + bytes, &none) == 1 && none == 0 &&
         EVP_CIPHER_CTX_ctrl(t->seal, EVP_CTRL_AEAD_GET_TAG, NEF_TAG_BYTES, to + bytes) == 1;
    if (nef_crypto_forget(t->seal) != NEF_OK)
        ok = false;
    if (!ok)
        nef_wipe(out,
                 bytes + NEF_TAG_BYTES); /* in == out: plaintext must not pass for ciphertext */
    return ok ? NEF_OK : NEF_E_CRYPTO;
}

nef_err nef_gcm_open(const uint8_t key[32], const uint8_t nonce[12], const void *aad,
                     size_t aad_bytes, const void *in, size_t bytes, void *out)
{
    struct nef_crypto_thread *t = nef_crypto_thread();
    uint8_t tag[NEF_TAG_BYTES];
    uint8_t *to = out;
    nef_err err = NEF_OK;
    int none = 0;

    if (bytes < NEF_TAG_BYTES)
        return NEF_E_CORRUPT;
    if (t == NULL)
        return NEF_E_CRYPTO;
    bytes -= NEF_TAG_BYTES;
    memcpy(tag, (const uint8_t *)in + bytes, sizeof(tag));
    if (EVP_CipherInit_ex2(t->open, NULL, key, nonce, 0, NULL) != 1 ||
        !update(t->open, aad, aad_bytes, NULL) || !update(t->open, in, bytes, to) ||
        EVP_CIPHER_CTX_ctrl(t->open, EVP_CTRL_AEAD_SET_TAG, NEF_TAG_BYTES, tag) != 1)
        err = NEF_E_CRYPTO;
    else if (EVP_CipherFinal_ex(t->open, tag, &none) !=
             1) /* writes nothing: GCM has no last block */
        err = NEF_E_CORRUPT;
    if (nef_crypto_forget(t->open) != NEF_OK && err == NEF_OK)
        err = NEF_E_CRYPTO;
    if (err != NEF_OK)
        nef_wipe(out, bytes);
    return err;
}

nef_err nef_xaes_subkey(const uint8_t key[32], const uint8_t nonce[24], uint8_t out[32])
{
    struct nef_crypto_thread *t = nef_crypto_thread();
    uint8_t k1[16] = {0};
    uint8_t m[32];
    unsigned carry;
    bool ok;

    if (t == NULL)
        return NEF_E_CRYPTO;
    /* L = AES(0); K1 = L << 1, reduced by 0x87 if L's top bit was set, without a branch on it */
    ok = EVP_CipherInit_ex2(t->ecb, NULL, key, NULL, 1, NULL) == 1 && update(t->ecb, k1, 16, k1);
    carry = k1[0] >> 7;
    for (unsigned i = 0; i < 15; i++)
        k1[i] = (uint8_t)(k1[i] << 1 | k1[i + 1] >> 7);
    k1[15] = (uint8_t)((unsigned)(k1[15] << 1) ^ (0x87u & (0u - carry)));
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *block = m + 16 * i;

        block[0] = 0x00;
        block[1] = (uint8_t)(i + 1);
        block[2] = 'X';
        block[3] = 0x00;
        memcpy(block + 4, nonce, 12);
        for (unsigned j = 0; j < 16; j++)
            block[j] ^= k1[j];
    }
    ok = ok && update(t->ecb, m, 32, m);
    if (nef_crypto_forget(t->ecb) != NEF_OK)
        ok = false;
    if (ok)
        memcpy(out, m, 32);
    nef_wipe(k1, sizeof(k1));
    nef_wipe(m, sizeof(m));
    return ok ? NEF_OK : NEF_E_CRYPTO;
}

nef_err nef_xaes_seal_with(const uint8_t key[32], const uint8_t nonce[24], const void *aad,
                           size_t aad_bytes, const void *in, size_t bytes, void *out)
{
    uint8_t subkey[NEF_KEY_BYTES];
    nef_err err;

    err = nef_xaes_subkey(key, nonce, subkey);
    if (err != NEF_OK)
        return err;
    err = nef_gcm_seal(subkey, nonce + 12, aad, aad_bytes, in, bytes, out);
    nef_wipe(subkey, sizeof(subkey));
    return err;
}

nef_err nef_xaes_seal(const uint8_t key[32], const void *aad, size_t aad_bytes, const void *in,
                      size_t bytes, void *out)
{
    uint8_t *to = out;

    nef_random(to, NEF_XAES_NONCE_BYTES);
    return nef_xaes_seal_with(key, to, aad, aad_bytes, in, bytes, to + NEF_XAES_NONCE_BYTES);
}

nef_err nef_xaes_open(const uint8_t key[32], const void *aad, size_t aad_bytes, const void *in,
                      size_t bytes, void *out)
{
    const uint8_t *from = in;
    uint8_t subkey[NEF_KEY_BYTES];
    nef_err err;

    if (bytes < NEF_XAES_OVERHEAD)
        return NEF_E_CORRUPT;
    err = nef_xaes_subkey(key, from, subkey);
    if (err != NEF_OK)
        return err;
    err = nef_gcm_open(subkey, from + 12, aad, aad_bytes, from + NEF_XAES_NONCE_BYTES,
                       bytes - NEF_XAES_NONCE_BYTES, out);
    nef_wipe(subkey, sizeof(subkey));
    return err;
}

nef_err nef_ctr_xor(const uint8_t key[32], const uint8_t iv[16], uint64_t offset, const void *in,
                    size_t bytes, void *out)
{
    struct nef_crypto_thread *t = nef_crypto_thread();
    uint8_t counter[16], skipped[16] = {0};
    uint64_t carry = offset / 16;
    bool ok;

    if (t == NULL)
        return NEF_E_CRYPTO;
    /* counter = iv + offset / 16, a 128-bit big-endian sum that wraps, as CTR's own counter does */
    for (int i = 15; i >= 0; i--) {
        carry += iv[i];
        counter[i] = (uint8_t)carry;
        carry >>= 8;
    }
    ok = EVP_CipherInit_ex2(t->ctr, NULL, key, counter, 1, NULL) == 1 &&
         update(t->ctr, skipped, (size_t)(offset % 16), skipped) && update(t->ctr, in, bytes, out);
    if (nef_crypto_forget(t->ctr) != NEF_OK)
        ok = false;
    nef_wipe(skipped, sizeof(skipped)); /* keystream */
    if (!ok)
        nef_wipe(out, bytes); /* in == out: plaintext must not pass for ciphertext */
    return ok ? NEF_OK : NEF_E_CRYPTO;
}
