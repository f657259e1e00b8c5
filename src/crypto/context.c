/* Algorithms of the process and contexts of each thread.
 *
 * OpenSSL 3 looks an algorithm up by name, under locks, whenever it isn't given one; and it
 * allocates for each new context. Both would cost more than sealing 4 KiB, so algorithms are
 * fetched once and each thread keeps one context per algorithm, freed by a pthread key's
 * destructor. Contexts are bound to their algorithm when made; later calls pass only a key and a
 * nonce, which allocates nothing. */
#include "crypto/crypto_internal.h"
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key;
static struct nef_crypto_algorithms algorithms; /* written by fetch_all, under `once` */
static bool fetched;
static _Thread_local struct nef_crypto_thread *this_thread;

static void thread_free(void *p)
{
    struct nef_crypto_thread *t = p;

    if (t == NULL)
        return;
    EVP_CIPHER_CTX_free(t->seal);
    EVP_CIPHER_CTX_free(t->open);
    EVP_CIPHER_CTX_free(t->ecb);
    EVP_CIPHER_CTX_free(t->ctr);
    for (unsigned i = 0; i < NEF_HASH_KINDS; i++)
        EVP_MD_CTX_free(t->md[i]);
    EVP_MAC_CTX_free(t->hmac);
    free(t);
}

/* A destructor of another key may still call us while the thread ends: it then gets new contexts.
 */
static void thread_end(void *p)
{
    this_thread = NULL;
    thread_free(p);
}

static void fetch_all(void)
{
    static const char *const names[NEF_HASH_KINDS] = {
        [NEF_HASH_MD5] = "MD5",
        [NEF_HASH_SHA1] = "SHA1",
        [NEF_HASH_SHA256] = "SHA2-256",
        [NEF_HASH_SHA512] = "SHA2-512",
    };
    bool ok = true;

    if (pthread_key_create(&thread_key, thread_end) != 0)
        return;
    algorithms.gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    algorithms.ecb = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
    algorithms.ctr = EVP_CIPHER_fetch(NULL, "AES-256-CTR", NULL);
    for (unsigned i = 0; i < NEF_HASH_KINDS; i++) {
        algorithms.md[i] = EVP_MD_fetch(NULL, names[i], NULL);
        ok = ok && algorithms.md[i] != NULL;
    }
    algorithms.hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    algorithms.hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    fetched = ok && algorithms.gcm != NULL && algorithms.ecb != NULL && algorithms.ctr != NULL &&
              algorithms.hmac != NULL && algorithms.hkdf != NULL;
}

const struct nef_crypto_algorithms *nef_crypto_algorithms(void)
{
    (void)pthread_once(&once, fetch_all); /* can't fail with a valid once and a function */
    return fetched ? &algorithms : NULL;
}

static EVP_CIPHER_CTX *cipher_new(EVP_CIPHER *cipher, int encrypt)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

    if (ctx == NULL)
        return NULL;
    if (EVP_CipherInit_ex2(ctx, cipher, NULL, NULL, encrypt, NULL) != 1) {
        EVP_CIPHER_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

static EVP_MAC_CTX *hmac_new(EVP_MAC *hmac)
{
    char digest[] = "SHA2-256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                           OSSL_PARAM_construct_end()};
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(hmac);

    if (ctx != NULL && EVP_MAC_CTX_set_params(ctx, params) != 1) {
        EVP_MAC_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

static struct nef_crypto_thread *thread_new(void)
{
    const struct nef_crypto_algorithms *a = nef_crypto_algorithms();
    struct nef_crypto_thread *t;
    bool ok;

    if (a == NULL)
        return NULL;
    t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NULL;
    t->seal = cipher_new(a->gcm, 1);
    t->open = cipher_new(a->gcm, 0);
    t->ecb = cipher_new(a->ecb, 1);
    t->ctr = cipher_new(a->ctr, 1);
    t->hmac = hmac_new(a->hmac);
    ok = t->seal != NULL && t->open != NULL && t->ecb != NULL && t->ctr != NULL &&
         t->hmac != NULL && EVP_CIPHER_CTX_set_padding(t->ecb, 0) == 1;
    for (unsigned i = 0; i < NEF_HASH_KINDS; i++) {
        t->md[i] = EVP_MD_CTX_new();
        ok = ok && t->md[i] != NULL && EVP_DigestInit_ex2(t->md[i], a->md[i], NULL) == 1;
    }
    if (!ok || pthread_setspecific(thread_key, t) != 0) {
        thread_free(t);
        return NULL;
    }
    return t;
}

struct nef_crypto_thread *nef_crypto_thread(void)
{
    if (this_thread == NULL)
        this_thread = thread_new();
    return this_thread;
}

nef_err nef_crypto_forget(EVP_CIPHER_CTX *ctx)
{
    static const uint8_t zero[NEF_KEY_BYTES];

    return EVP_CipherInit_ex2(ctx, NULL, zero, NULL, -1, NULL) == 1 ? NEF_OK : NEF_E_CRYPTO;
}

nef_err nef_crypto_init(void)
{
    if (nef_crypto_algorithms() == NULL || nef_crypto_thread() == NULL)
        return NEF_E_CRYPTO;
    return nef_crypto_selftest();
}
