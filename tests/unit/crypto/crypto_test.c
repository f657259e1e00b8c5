/* Unit tests of src/crypto: the published vectors (C2SP XAES-256-GCM with its accumulated test),
 * what must be refused, and contexts under many threads. The primitives' own known answers run at
 * start-up (selftest.c) and so here too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <stdio.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "crypto/crypto_internal.h"

static void assert_hex(const uint8_t *p, size_t bytes, const char *hex)
{
    char text[257];

    assert_true(bytes <= 128);
    nef_hex(p, bytes, text);
    assert_string_equal(text, hex);
}

static void init_passes_known_answers(void **state)
{
    (void)state;
    assert_int_equal(nef_crypto_init(), NEF_OK);
    assert_int_equal(nef_crypto_init(), NEF_OK); /* harmless when repeated */
}

static void gcm_refuses_every_changed_bit(void **state)
{
    uint8_t key[32], nonce[12] = {1}, text[33], sealed[49], back[33], zero[33] = {0};

    (void)state;
    nef_random(key, sizeof(key));
    nef_random(text, sizeof(text));
    assert_int_equal(nef_gcm_seal(key, nonce, "ad", 2, text, 33, sealed), NEF_OK);
    assert_int_equal(nef_gcm_open(key, nonce, "ad", 2, sealed, 49, back), NEF_OK);
    assert_memory_equal(back, text, 33);
    for (size_t bit = 0; bit < 49 * 8; bit++) {
        sealed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        memset(back, 0xee, sizeof(back));
        assert_int_equal(nef_gcm_open(key, nonce, "ad", 2, sealed, 49, back), NEF_E_CORRUPT);
        assert_memory_equal(back, zero, 33);
        sealed[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(nef_gcm_open(key, nonce, "ae", 2, sealed, 49, back), NEF_E_CORRUPT);
    assert_int_equal(nef_gcm_open(key, nonce, NULL, 0, sealed, 49, back), NEF_E_CORRUPT);
    assert_int_equal(nef_gcm_open(key, nonce, "ad", 2, sealed, 48, back), NEF_E_CORRUPT);
    assert_int_equal(nef_gcm_open(key, nonce, "ad", 2, sealed, 15, back), NEF_E_CORRUPT);
    nonce[11] ^= 1;
    assert_int_equal(nef_gcm_open(key, nonce, "ad", 2, sealed, 49, back), NEF_E_CORRUPT);
    nonce[11] ^= 1;
    key[31] ^= 1;
    assert_int_equal(nef_gcm_open(key, nonce, "ad", 2, sealed, 49, back), NEF_E_CORRUPT);
}

static void gcm_in_place_and_empty(void **state)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 31, 1023, 4096, 1 << 20};
    uint8_t key[32], nonce[12] = {0};
    uint8_t *text = malloc((1 << 20) + 16), *other = malloc((1 << 20) + 16);

    (void)state;
    assert_non_null(text);
    assert_non_null(other);
    nef_random(key, sizeof(key));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t n = sizes[i];

        nonce[0]++;
        memset(text, (int)i, n);
        assert_int_equal(nef_gcm_seal(key, nonce, NULL, 0, text, n, other), NEF_OK);
        assert_int_equal(nef_gcm_seal(key, nonce, NULL, 0, text, n, text), NEF_OK);
        assert_memory_equal(text, other, n + 16);
        assert_int_equal(nef_gcm_open(key, nonce, NULL, 0, text, n + 16, text), NEF_OK);
        for (size_t j = 0; j < n; j++)
            assert_int_equal(text[j], i);
    }
    /* NIST: no plaintext, no associated data, zero key and nonce (test case 13) */
    memset(key, 0, sizeof(key));
    memset(nonce, 0, sizeof(nonce));
    assert_int_equal(nef_gcm_seal(key, nonce, NULL, 0, NULL, 0, other), NEF_OK);
    assert_hex(other, 16, "530f8afbc74536b9a963b4f1c4cb738b");
    free(text);
    free(other);
}

static void xaes_vectors(void **state)
{
    static const uint8_t nonce[24] = "ABCDEFGHIJKLMNOPQRSTUVWX";
    uint8_t key[32], subkey[32], out[28];

    (void)state;
    memset(key, 1, sizeof(key)); /* top bit of L clear */
    assert_int_equal(nef_xaes_subkey(key, nonce, subkey), NEF_OK);
    assert_hex(subkey, 32, "c8612c9ed53fe43e8e005b828a1631a0bbcb6ab2f46514ec4f439fcfd0fa969b");
    assert_int_equal(nef_xaes_seal_with(key, nonce, NULL, 0, "XAES-256-GCM", 12, out), NEF_OK);
    assert_hex(out, 28, "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
    memset(key, 3, sizeof(key)); /* top bit of L set */
    assert_int_equal(nef_xaes_subkey(key, nonce, subkey), NEF_OK);
    assert_hex(subkey, 32, "e9c621d4cdd9b11b00a6427ad7e559aeedd66b3857646677748f8ca796cb3fd8");
    assert_int_equal(
        nef_xaes_seal_with(key, nonce, "c2sp.org/XAES-256-GCM", 21, "XAES-256-GCM", 12, out),
        NEF_OK);
    assert_hex(out, 28, "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}

/* The deterministic stream of the specification's accumulated test: SHAKE-128 of nothing.
 * OpenSSL 3.0 can squeeze only once, so all that 10,000 rounds can need is squeezed at once. */
static void xaes_accumulated_vector(void **state)
{
    size_t rounds = 10000, at = 0, room = rounds * (32 + 24 + 2 + 255 + 255);
    uint8_t *stream = malloc(room), *hashed = malloc(rounds * (255 + 16));
    uint8_t sealed[24 + 255 + 16], back[255], digest[32];
    size_t hashed_bytes = 0;
    EVP_MD_CTX *shake = EVP_MD_CTX_new();

    (void)state;
    assert_non_null(stream);
    assert_non_null(hashed);
    assert_int_equal(EVP_DigestInit_ex(shake, EVP_shake128(), NULL), 1);
    assert_int_equal(EVP_DigestFinalXOF(shake, stream, room), 1);
    assert_hex(stream, 16, "7f9c2ba4e88f827d616045507605853e");
    for (size_t i = 0; i < rounds; i++) {
        const uint8_t *key = stream + at, *nonce = key + 32, *text = nonce + 24 + 1, *aad;
        size_t text_bytes = text[-1], aad_bytes;

        aad_bytes = text[text_bytes];
        aad = text + text_bytes + 1;
        at = (size_t)(aad + aad_bytes - stream);
        memcpy(sealed, nonce, 24);
        assert_int_equal(
            nef_xaes_seal_with(key, nonce, aad, aad_bytes, text, text_bytes, sealed + 24), NEF_OK);
        assert_int_equal(nef_xaes_open(key, aad, aad_bytes, sealed, 24 + text_bytes + 16, back),
                         NEF_OK);
        assert_memory_equal(back, text, text_bytes);
        memcpy(hashed + hashed_bytes, sealed + 24, text_bytes + 16);
        hashed_bytes += text_bytes + 16;
    }
    assert_int_equal(EVP_DigestInit_ex(shake, EVP_shake128(), NULL), 1);
    assert_int_equal(EVP_DigestUpdate(shake, hashed, hashed_bytes), 1);
    assert_int_equal(EVP_DigestFinalXOF(shake, digest, sizeof(digest)), 1);
    assert_hex(digest, 32, "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
    EVP_MD_CTX_free(shake);
    free(stream);
    free(hashed);
}

static void xaes_draws_a_nonce(void **state)
{
    uint8_t key[32], a[5 + NEF_XAES_OVERHEAD], b[5 + NEF_XAES_OVERHEAD], back[5];

    (void)state;
    nef_random(key, sizeof(key));
    assert_int_equal(nef_xaes_seal(key, "x", 1, "hello", 5, a), NEF_OK);
    assert_int_equal(nef_xaes_seal(key, "x", 1, "hello", 5, b), NEF_OK);
    assert_memory_not_equal(a, b, 24);
    assert_memory_not_equal(a + 24, b + 24, 5);
    assert_int_equal(nef_xaes_open(key, "x", 1, b, sizeof(b), back), NEF_OK);
    assert_memory_equal(back, "hello", 5);
    assert_int_equal(nef_xaes_open(key, "y", 1, b, sizeof(b), back), NEF_E_CORRUPT);
    b[0] ^= 1;
    assert_int_equal(nef_xaes_open(key, "x", 1, b, sizeof(b), back), NEF_E_CORRUPT);
    assert_int_equal(nef_xaes_open(key, "x", 1, b, NEF_XAES_OVERHEAD - 1, back), NEF_E_CORRUPT);
}

static void hashes_in_pieces_and_reset(void **state)
{
    uint8_t data[1000], once[64], pieces[64];

    (void)state;
    memset(data, 'x', sizeof(data));
    for (unsigned kind = 0; kind < NEF_HASH_KINDS; kind++) {
        struct nef_hash *h = nef_hash_new((enum nef_hash_kind)kind);
        size_t bytes = nef_hash_bytes((enum nef_hash_kind)kind);

        assert_non_null(h);
        nef_hash_of((enum nef_hash_kind)kind, data, sizeof(data), once);
        for (int again = 0; again < 2; again++) {
            for (size_t at = 0; at < sizeof(data); at += 125)
                nef_hash_update(h, data + at, 125);
            nef_hash_final(h, pieces);
            assert_memory_equal(pieces, once, bytes);
            nef_hash_reset(h);
        }
        nef_hash_update(h, data, 7); /* left unfinished */
        nef_hash_reset(h);
        nef_hash_update(h, data, sizeof(data));
        nef_hash_update(h, NULL, 0);
        nef_hash_final(h, pieces);
        assert_memory_equal(pieces, once, bytes);
        nef_hash_free(h);
    }
    nef_hash_free(NULL);
    nef_hash_of(NEF_HASH_SHA256, NULL, 0, once);
    assert_hex(once, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void hmac_keys_of_every_length(void **state)
{
    uint8_t key[131], out[32];

    (void)state;
    memset(key, 0xaa, sizeof(key)); /* RFC 4231, cases 6 and 7: longer than a block */
    nef_hmac_sha256(key, sizeof(key), "Test Using Larger Than Block-Size Key - Hash Key First", 54,
                    out);
    assert_hex(out, 32, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    nef_hmac_sha256(NULL, 0, NULL, 0, out); /* not the key of the call before */
    assert_hex(out, 32, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void hkdf_without_salt(void **state)
{
    uint8_t key[22], out[42], untouched[1] = {7};

    (void)state;
    memset(key, 0x0b, sizeof(key)); /* RFC 5869, case 3 */
    assert_int_equal(nef_hkdf_sha256(key, sizeof(key), NULL, 0, "", out, sizeof(out)), NEF_OK);
    assert_hex(
        out, 42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
    assert_int_equal(nef_hkdf_sha256(NULL, 0, NULL, 0, "", untouched, 1), NEF_E_INVALID);
    assert_int_equal(untouched[0], 7);
}

static void ctr_at_any_offset(void **state)
{
    uint8_t key[32], iv[16], text[300], whole[300], part[300];

    (void)state;
    nef_random(key, sizeof(key));
    memset(iv, 0xff, sizeof(iv)); /* the counter wraps over all 16 bytes */
    nef_random(text, sizeof(text));
    assert_int_equal(nef_ctr_xor(key, iv, 0, text, sizeof(text), whole), NEF_OK);
    for (size_t at = 0; at < sizeof(text); at += 7) {
        size_t n = sizeof(text) - at < 50 ? sizeof(text) - at : 50;

        memcpy(part, text + at, n);
        assert_int_equal(nef_ctr_xor(key, iv, at, part, n, part), NEF_OK);
        assert_memory_equal(part, whole + at, n);
    }
    /* offsets above 2^36 carry into the upper half of the IV */
    assert_int_equal(nef_ctr_xor(key, iv, 0xfffffffffffffff0u, text, 32, part), NEF_OK);
    assert_int_equal(nef_ctr_xor(key, iv, 0xfffffffffffffff8u, text + 8, 8, whole), NEF_OK);
    assert_memory_equal(part + 8, whole, 8);
}

static void random_is_never_zero_and_equal_compares(void **state)
{
    uint8_t a[40] = {0}, b[40] = {0};

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_true(nef_random_u64() != 0);
    assert_true(nef_equal_ct(a, b, 40));
    b[39] = 1;
    assert_false(nef_equal_ct(a, b, 40));
    assert_true(nef_equal_ct(a, b, 39));
    nef_wipe(b, 40);
    assert_true(nef_equal_ct(a, b, 40));
    nef_wipe(NULL, 0);
}

/* The sanitizers' mlock does nothing. gcc defines macros for them, clang has features. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MLOCK_IS_STUB true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MLOCK_IS_STUB true
#endif
#endif
#ifndef MLOCK_IS_STUB
#define MLOCK_IS_STUB false
#endif

static bool locked(const void *p)
{
    char line[256];
    FILE *f = fopen("/proc/self/smaps", "r");
    bool inside = false, found = false;

    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned long from, to;

        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = (uintptr_t)p >= from && (uintptr_t)p < to;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, " dd") != NULL && (MLOCK_IS_STUB || strstr(line, " lo") != NULL);
    }
    (void)fclose(f);
    return found;
}

static void secrets_are_locked_and_wiped(void **state)
{
    enum { COUNT = 1000 };
    static const size_t sizes[] = {1, 32, 33, 64, 1000, 1024, 1025, 5000};
    uint8_t *p[COUNT];

    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        uint8_t *one = nef_secret_new(sizes[s]);

        assert_non_null(one);
        assert_true(locked(one));
        for (size_t i = 0; i < sizes[s]; i++)
            assert_int_equal(one[i], 0);
        memset(one, 0xab, sizes[s]);
        nef_secret_free(one, sizes[s]);
    }
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < COUNT; i++) {
            p[i] = nef_secret_new(32);
            assert_non_null(p[i]);
            for (size_t j = 0; j < 32; j++)
                assert_int_equal(p[i][j], 0); /* wiped when it was freed */
            memset(p[i], (int)(i % 255) + 1, 32);
        }
        for (size_t i = 0; i < COUNT; i += 2)
            nef_secret_free(p[i], 32);
        for (size_t i = 1; i < COUNT; i += 2) {
            for (size_t j = 0; j < 32; j++)
                assert_int_equal(p[i][j], i % 255 + 1); /* no two share a slot */
            nef_secret_free(p[i], 32);
        }
    }
    nef_secret_free(NULL, 32);
}

static void secrets_do_not_reach_a_child(void **state)
{
    uint8_t *p = nef_secret_new(32);
    int status = -1;
    pid_t child;

    (void)state;
    assert_non_null(p);
    memset(p, 0x55, 32);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(p[0] == 0 && p[31] == 0 ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    nef_secret_free(p, 32);
}

static void *seal_and_open(void *arg)
{
    uint8_t key[32], nonce[12] = {0}, buf[4096 + 16], mac[32], again[32];
    uintptr_t bad = 0;

    memset(key, (int)(uintptr_t)arg, sizeof(key));
    nef_hmac_sha256(key, 32, "m", 1, mac);
    for (uint32_t i = 0; i < 500; i++) {
        memcpy(nonce, &i, sizeof(i));
        memset(buf, (int)i, 4096);
        bad += nef_gcm_seal(key, nonce, "a", 1, buf, 4096, buf) != NEF_OK;
        bad += nef_gcm_open(key, nonce, "a", 1, buf, sizeof(buf), buf) != NEF_OK;
        bad += buf[0] != (uint8_t)i || buf[4095] != (uint8_t)i;
        nef_hmac_sha256(key, 32, "m", 1, again);
        bad += memcmp(mac, again, 32) != 0;
    }
    return (void *)bad;
}

static void threads_do_not_disturb_each_other(void **state)
{
    pthread_t threads[8];

    (void)state;
    for (uintptr_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, seal_and_open, (void *)i), 0);
    for (int i = 0; i < 8; i++) {
        void *bad = NULL;

        assert_int_equal(pthread_join(threads[i], &bad), 0);
        assert_null(bad);
    }
}

/* A digest interrupted at any byte, kept, and taken up in another place is the digest. */
static void sha256_state_goes_on(void **state)
{
    uint8_t data[200], expected[32], got[32], kept[NEF_SHA256_STATE_BYTES];
    struct nef_sha256 a, b;

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    for (size_t bytes = 0; bytes <= sizeof(data); bytes += 25) {
        nef_hash_of(NEF_HASH_SHA256, data, bytes, expected);
        for (size_t cut = 0; cut <= bytes; cut++) {
            nef_sha256_init(&a);
            nef_sha256_update(&a, data, cut);
            nef_sha256_save(&a, kept);
            nef_sha256_load(&b, kept);
            nef_sha256_update(&b, data + cut, bytes - cut);
            nef_sha256_final(&b, got);
            assert_memory_equal(got, expected, 32);
        }
    }
    memset(kept, 0xff, sizeof(kept)); /* what isn't a state is harmless */
    nef_sha256_load(&b, kept);
    nef_sha256_update(&b, data, sizeof(data));
    nef_sha256_final(&b, got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_passes_known_answers),
        cmocka_unit_test(gcm_refuses_every_changed_bit),
        cmocka_unit_test(gcm_in_place_and_empty),
        cmocka_unit_test(xaes_vectors),
        cmocka_unit_test(xaes_accumulated_vector),
        cmocka_unit_test(xaes_draws_a_nonce),
        cmocka_unit_test(hashes_in_pieces_and_reset),
        cmocka_unit_test(hmac_keys_of_every_length),
        cmocka_unit_test(hkdf_without_salt),
        cmocka_unit_test(ctr_at_any_offset),
        cmocka_unit_test(random_is_never_zero_and_equal_compares),
        cmocka_unit_test(secrets_are_locked_and_wiped),
        cmocka_unit_test(secrets_do_not_reach_a_child),
        cmocka_unit_test(threads_do_not_disturb_each_other),
        cmocka_unit_test(sha256_state_goes_on),
    };

    return cmocka_run_group_tests_name("crypto", tests, NULL, NULL);
}
