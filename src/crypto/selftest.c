/* Known answers, computed at each start: a process whose AES or SHA is wrong (a broken build, a
 * broken CPU) must not write one byte. Sources: NIST GCM test case 16 (with its key, nonce and
 * associated data; McGrew and Viega), c2sp.org/XAES-256-GCM, FIPS 180-2 appendices, RFC 1321, RFC
 * 4231 case 2, RFC 5869 case 1, NIST SP 800-38A F.5.5. */
#include "crypto/crypto_internal.h"
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"

/* BYTES bytes at p are those of HEX. */
static bool is(const uint8_t *p, size_t bytes, const char *hex)
{
    uint8_t expected[128];

    NEF_ASSERT(bytes <= sizeof(expected));
    return nef_unhex(hex, strlen(hex), expected, bytes) == NEF_OK &&
           memcmp(p, expected, bytes) == 0;
}

static void from(const char *hex, uint8_t *out, size_t bytes)
{
    NEF_ASSERT(nef_unhex(hex, strlen(hex), out, bytes) == NEF_OK);
}

static bool gcm_works(void)
{
    uint8_t key[32], nonce[12], aad[20], text[60], out[76], back[60];

    from("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", key, 32);
    from("cafebabefacedbaddecaf888", nonce, 12);
    from("feedfacedeadbeeffeedfacedeadbeefabaddad2", aad, 20);
    from("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
         "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
         text, 60);
    if (nef_gcm_seal(key, nonce, aad, 20, text, 60, out) != NEF_OK ||
        !is(out, 76,
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
            "76fc6ece0f4e1768cddf8853bb2d551b") ||
        nef_gcm_open(key, nonce, aad, 20, out, 76, back) != NEF_OK || memcmp(back, text, 60) != 0)
        return false;
    out[5] ^= 1;
    return nef_gcm_open(key, nonce, aad, 20, out, 76, back) == NEF_E_CORRUPT;
}

static bool xaes_works(void)
{
    static const uint8_t nonce[24] = "ABCDEFGHIJKLMNOPQRSTUVWX";
    uint8_t key[32], out[28];

    memset(key, 1, sizeof(key));
    if (nef_xaes_seal_with(key, nonce, NULL, 0, "XAES-256-GCM", 12, out) != NEF_OK ||
        !is(out, 28, "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"))
        return false;
    memset(key, 3, sizeof(key));
    return nef_xaes_seal_with(key, nonce, "c2sp.org/XAES-256-GCM", 21, "XAES-256-GCM", 12, out) ==
               NEF_OK &&
           is(out, 28, "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}

static bool hashes_work(void)
{
    static const char *const of_abc[NEF_HASH_KINDS] = {
        [NEF_HASH_MD5] = "900150983cd24fb0d6963f7d28e17f72",
        [NEF_HASH_SHA1] = "a9993e364706816aba3e25717850c26c9cd0d89d",
        [NEF_HASH_SHA256] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        [NEF_HASH_SHA512] = ("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                             "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"),
    };
    uint8_t out[64];

    for (unsigned i = 0; i < NEF_HASH_KINDS; i++) {
        nef_hash_of((enum nef_hash_kind)i, "abc", 3, out);
        if (!is(out, nef_hash_bytes((enum nef_hash_kind)i), of_abc[i]))
            return false;
    }
    return true;
}

static bool derivations_work(void)
{
    static const char info[] = {(char)0xf0, (char)0xf1, (char)0xf2, (char)0xf3,
                                (char)0xf4, (char)0xf5, (char)0xf6, (char)0xf7,
                                (char)0xf8, (char)0xf9, '\0'};
    uint8_t key[22], salt[13], out[42];

    nef_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, out);
    if (!is(out, 32, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"))
        return false;
    memset(key, 0x0b, sizeof(key));
    from("000102030405060708090a0b0c", salt, 13);
    return nef_hkdf_sha256(key, sizeof(key), salt, sizeof(salt), info, out, 42) == NEF_OK &&
           is(out, 42,
              "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b88718586"
              "5");
}

static bool ctr_works(void)
{
    uint8_t key[32], iv[16], text[64], out[64];

    from("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", key, 32);
    from("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", iv, 16);
    from("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
         "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
         text, 64);
    if (nef_ctr_xor(key, iv, 0, text, 64, out) != NEF_OK ||
        !is(out, 64,
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
            "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"))
        return false;
    /* from the middle of a block */
    return nef_ctr_xor(key, iv, 21, out + 21, 43, out + 21) == NEF_OK &&
           memcmp(out + 21, text + 21, 43) == 0;
}

nef_err nef_crypto_selftest(void)
{
    uint8_t a[32], b[32];

    if (!gcm_works() || !xaes_works() || !hashes_work() || !derivations_work() || !ctr_works())
        return NEF_E_CRYPTO;
    nef_random(a, sizeof(a)); /* a generator that is stuck, not one that is weak */
    nef_random(b, sizeof(b));
    return nef_equal_ct(a, b, sizeof(a)) ? NEF_E_CRYPTO : NEF_OK;
}
