/* SHA-256 whose state can be kept in a file and taken up again; see crypto.h. OpenSSL's EVP interface hides the state,
 * so this uses the older one, which is the same code underneath. Only for digests of what is being transferred. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "crypto/crypto.h"

_Static_assert(sizeof(SHA256_CTX) <= sizeof(struct nef_sha256), "the state fits");
_Static_assert(NEF_SHA256_STATE_BYTES == 8 * 4 + 8 + 64, "eight words, bits, and what waits for a block");

/* OpenSSL's struct lies at the start of ours. */
static SHA256_CTX *context_of(struct nef_sha256 *h)
{
    return (SHA256_CTX *)(void *)h->opaque;
}

void nef_sha256_init(struct nef_sha256 *h)
{
    memset(h, 0, sizeof(*h));
    NEF_ASSERT(SHA256_Init(context_of(h)) == 1);
}

void nef_sha256_update(struct nef_sha256 *h, const void *data, size_t bytes)
{
    if (bytes > 0)
        NEF_ASSERT(SHA256_Update(context_of(h), data, bytes) == 1);
}

void nef_sha256_final(struct nef_sha256 *h, uint8_t out[32])
{
    NEF_ASSERT(SHA256_Final(out, context_of(h)) == 1);
}

void nef_sha256_save(const struct nef_sha256 *h, uint8_t out[NEF_SHA256_STATE_BYTES])
{
    struct nef_writer w = nef_writer_of(out, NEF_SHA256_STATE_BYTES);
    struct nef_sha256 copy = *h;
    const SHA256_CTX *c = context_of(&copy);

    for (unsigned i = 0; i < 8; i++)
        nef_write_u32(&w, c->h[i]);
    nef_write_u64(&w, (uint64_t)c->Nh << 32 | c->Nl);
    nef_write_copy(&w, c->data, c->num);
    nef_write_zeros(&w, 64 - c->num);
    NEF_ASSERT(nef_writer_end(&w) == NEF_OK);
}

void nef_sha256_load(struct nef_sha256 *h, const uint8_t in[NEF_SHA256_STATE_BYTES])
{
    struct nef_reader r = nef_reader_of(in, NEF_SHA256_STATE_BYTES);
    SHA256_CTX *c = context_of(h);
    uint64_t bits;

    nef_sha256_init(h);
    for (unsigned i = 0; i < 8; i++)
        c->h[i] = nef_read_u32(&r);
    bits = nef_read_u64(&r);
    c->Nl = (uint32_t)bits;
    c->Nh = (uint32_t)(bits >> 32);
    c->num = (unsigned)(bits / 8 % 64); /* what the length says: nothing read here can lead astray */
    nef_read_copy(&r, c->data, 64);
}
