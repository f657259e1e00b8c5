/* The KV cache alone: what is shared and what never is, who is forgotten first, zeroed pages, exhaustion; then random
 * operations beside a simple model of what the cache promises. Pages are marked by writing a number into them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "crypto/crypto.h"
#include "infer/model/kvcache.h"

#define TILE NEF_KV_TILE

static const uint8_t salt_a[32] = {1}, salt_b[32] = {2};

static struct nef_kv_cache *cache_of(uint32_t pages)
{
    struct nef_kv_cache *cache;

    assert_int_equal(nef_crypto_init(), NEF_OK);
    assert_int_equal(
        nef_kv_open(
            &(struct nef_kv_options){.type = NEF_KV_BF16, .layers = 2, .kv_heads = 2, .head_dim = 32, .pages = pages},
            &cache),
        NEF_OK);
    assert_int_equal(nef_kv_page_total_bytes(cache), 2 * 2 * 2 * nef_kv_page_bytes(NEF_KV_BF16, 32));
    return cache;
}

static struct nef_kv_sequence *open_sequence(struct nef_kv_cache *cache, const uint8_t *salt, const uint32_t *tokens,
                                             uint32_t count, uint32_t expect_cached)
{
    struct nef_kv_sequence *s;
    uint32_t cached;

    assert_int_equal(nef_kv_sequence_open(cache, salt, tokens, count, &cached, &s), NEF_OK);
    assert_int_equal(cached, expect_cached);
    assert_int_equal(nef_kv_reserved(s), cached);
    return s;
}

static void write_page(struct nef_kv_sequence *s, uint32_t page, uint8_t mark)
{
    for (uint32_t layer = 0; layer < 2; layer++)
        for (uint32_t head = 0; head < 2; head++)
            for (int value = 0; value < 2; value++)
                memset(nef_kv_page(s, page, layer, head, value != 0), mark + (int)(layer * 4 + head * 2) + value,
                       nef_kv_page_bytes(NEF_KV_BF16, 32));
}

static void assert_page(const struct nef_kv_sequence *s, uint32_t page, uint8_t mark, bool zero)
{
    for (uint32_t layer = 0; layer < 2; layer++)
        for (uint32_t head = 0; head < 2; head++)
            for (int value = 0; value < 2; value++) {
                const uint8_t *p = nef_kv_page(s, page, layer, head, value != 0);
                uint8_t expected = zero ? 0 : (uint8_t)(mark + layer * 4 + head * 2 + (uint32_t)value);

                for (size_t i = 0; i < nef_kv_page_bytes(NEF_KV_BF16, 32); i++)
                    assert_int_equal(p[i], expected);
            }
}

/* Computes TOKENS from what is cached on; pages are marked with MARK + their index. */
static void compute(struct nef_kv_sequence *s, const uint32_t *tokens, uint32_t from, uint32_t count, uint8_t mark)
{
    assert_int_equal(nef_kv_reserve(s, count), NEF_OK);
    for (uint32_t page = from / TILE; page * TILE < count; page++) {
        assert_page(s, page, 0, true);
        write_page(s, page, (uint8_t)(mark + page * 8));
    }
    for (uint32_t i = from; i < count; i++)
        nef_kv_note(s, i, tokens[i]);
}

static void fill(uint32_t *tokens, uint32_t count, uint32_t seed)
{
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = seed * 1000 + i;
}

static void shares_full_pages_of_the_same_beginning(void **state)
{
    struct nef_kv_cache *cache = cache_of(8);
    struct nef_kv_sequence *s, *t;
    uint32_t tokens[4 * TILE];

    (void)state;
    fill(tokens, NEF_COUNT(tokens), 1);
    s = open_sequence(cache, salt_a, tokens, 200, 0);
    compute(s, tokens, 0, 200, 10);
    t = open_sequence(cache, salt_a, tokens, 200, 192); /* while the first still runs */
    for (uint32_t page = 0; page < 3; page++)
        for (uint32_t layer = 0; layer < 2; layer++)
            assert_ptr_equal(nef_kv_page(t, page, layer, 1, true), nef_kv_page(s, page, layer, 1, true));
    assert_int_equal(nef_kv_pages_free(cache), 4);
    nef_kv_sequence_close(t);
    nef_kv_sequence_close(s);
    assert_int_equal(nef_kv_pages_free(cache), 8);
    /* The last token is always computed, so the page that it fills isn't taken. */
    nef_kv_sequence_close(open_sequence(cache, salt_a, tokens, 192, 128));
    nef_kv_sequence_close(open_sequence(cache, salt_a, tokens, 193, 192));
    nef_kv_sequence_close(open_sequence(cache, salt_a, tokens, 64, 0));
    nef_kv_sequence_close(open_sequence(cache, salt_a, tokens, 1, 0));
    tokens[100] ^= 1; /* in the second page: the third, though equal itself, isn't found either */
    t = open_sequence(cache, salt_a, tokens, 200, 64);
    assert_page(t, 0, 10, false);
    nef_kv_sequence_close(t);
    tokens[0] ^= 1;
    nef_kv_sequence_close(open_sequence(cache, salt_a, tokens, 200, 0));
    nef_kv_close(cache);
}

/* Two that began at the same time: one finds, page by page, what the other has computed meanwhile. */
static void adopts_what_others_compute(void **state)
{
    struct nef_kv_cache *cache = cache_of(8);
    struct nef_kv_sequence *s, *t, *u;
    uint32_t tokens[4 * TILE], cached = 0;

    (void)state;
    fill(tokens, NEF_COUNT(tokens), 1);
    s = open_sequence(cache, salt_a, tokens, 200, 0);
    t = open_sequence(cache, salt_a, tokens, 200, 0);
    u = open_sequence(cache, salt_b, tokens, 200, 0);
    assert_int_equal(nef_kv_adopt(t, tokens, 200, &cached), NEF_OK);
    assert_int_equal(cached, 0);
    compute(s, tokens, 0, 130, 10);
    assert_int_equal(nef_kv_reserve(t, 100), NEF_OK); /* pages that it then needs no more */
    assert_int_equal(nef_kv_pages_free(cache), 8 - 3 - 2);
    assert_int_equal(nef_kv_adopt(t, tokens, 200, &cached), NEF_OK);
    assert_int_equal(cached, 128);
    assert_int_equal(nef_kv_pages_free(cache), 8 - 3);
    assert_page(t, 0, 10, false);
    assert_page(t, 1, 18, false);
    assert_ptr_equal(nef_kv_page(t, 1, 0, 0, false), nef_kv_page(s, 1, 0, 0, false));
    assert_int_equal(nef_kv_adopt(u, tokens, 200, &cached), NEF_OK); /* not of another salt */
    assert_int_equal(cached, 0);
    nef_kv_sequence_close(u);
    for (uint32_t i = 130; i < 192; i++)
        nef_kv_note(s, i, tokens[i]);
    nef_kv_sequence_close(s); /* what it computed stays */
    assert_int_equal(nef_kv_adopt(t, tokens, 192, &cached), NEF_OK); /* the last token is always computed */
    assert_int_equal(cached, 128);
    assert_int_equal(nef_kv_adopt(t, tokens, 200, &cached), NEF_OK);
    assert_int_equal(cached, 192);
    compute(t, tokens, 192, 200, 50);
    nef_kv_sequence_close(t);
    nef_kv_close(cache);
}

static bool resident(const void *address)
{
    unsigned char state = 0;

    assert_int_equal(mincore((void *)((uintptr_t)address & ~(uintptr_t)4095), 1, &state), 0);
    return (state & 1) != 0;
}

/* What can't be found again costs no memory; what can does. */
static void gives_memory_back(void **state)
{
    struct nef_kv_cache *cache;
    struct nef_kv_sequence *s;
    uint32_t tokens[3 * TILE];
    uint8_t *pages[3];

    (void)state;
    assert_int_equal(nef_crypto_init(), NEF_OK);
    assert_int_equal(
        nef_kv_open(
            &(struct nef_kv_options){.type = NEF_KV_I8, .layers = 28, .kv_heads = 8, .head_dim = 128, .pages = 4},
            &cache),
        NEF_OK); /* pages of 3.6 MiB, as Qwen3-0.6B's */
    fill(tokens, NEF_COUNT(tokens), 1);
    for (int round = 0; round < 3; round++) {
        s = open_sequence(cache, salt_a, tokens, 140, round == 0 ? 0 : 128);
        assert_int_equal(nef_kv_reserve(s, 140), NEF_OK);
        for (uint32_t i = 0; i < 3; i++) {
            pages[i] = nef_kv_page(s, i, 14, 4, false);
            assert_int_equal(resident(pages[i]), round > 0 && i < 2);
            assert_int_equal(pages[i][5000], round > 0 && i < 2 ? 1 + i : 0);
            pages[i][5000] = (uint8_t)(1 + i);
        }
        for (uint32_t i = round == 0 ? 0 : 128; i < 140; i++)
            nef_kv_note(s, i, tokens[i]);
        assert_true(resident(pages[2] + 5000));
        nef_kv_sequence_close(s);
        assert_true(resident(pages[0] + 5000) && resident(pages[1] + 5000));
        assert_false(resident(pages[2] + 5000));
        assert_int_equal(nef_kv_pages_free(cache), 4);
    }
    nef_kv_close(cache);
}

static void a_salt_sets_apart(void **state)
{
    struct nef_kv_cache *cache = cache_of(8);
    struct nef_kv_sequence *s, *t;
    uint32_t tokens[130];

    (void)state;
    fill(tokens, 130, 1);
    s = open_sequence(cache, salt_a, tokens, 130, 0);
    compute(s, tokens, 0, 130, 10);
    t = open_sequence(cache, salt_b, tokens, 130, 0);
    compute(t, tokens, 0, 130, 90);
    assert_page(s, 0, 10, false);
    assert_page(t, 0, 90, false);
    nef_kv_sequence_close(s);
    nef_kv_sequence_close(t);
    s = open_sequence(cache, salt_a, tokens, 130, 128);
    t = open_sequence(cache, salt_b, tokens, 130, 128);
    assert_page(s, 1, 18, false);
    assert_page(t, 1, 98, false);
    nef_kv_sequence_close(s);
    nef_kv_sequence_close(t);
    nef_kv_close(cache);
}

/* Two sequences compute the same beginning at the same time: the second one's page gives way. */
static void equal_pages_become_one(void **state)
{
    struct nef_kv_cache *cache = cache_of(4);
    struct nef_kv_sequence *s, *t;
    uint32_t tokens[70];

    (void)state;
    fill(tokens, 70, 1);
    s = open_sequence(cache, salt_a, tokens, 70, 0);
    t = open_sequence(cache, salt_a, tokens, 70, 0);
    compute(s, tokens, 0, 70, 10);
    compute(t, tokens, 0, 70, 10);
    assert_ptr_equal(nef_kv_page(s, 0, 0, 0, false), nef_kv_page(t, 0, 0, 0, false));
    assert_ptr_not_equal(nef_kv_page(s, 1, 0, 0, false), nef_kv_page(t, 1, 0, 0, false)); /* not full: their own */
    assert_int_equal(nef_kv_pages_free(cache), 1);
    nef_kv_sequence_close(s);
    assert_int_equal(nef_kv_pages_free(cache), 2);
    assert_page(t, 0, 10, false);
    nef_kv_sequence_close(t);
    nef_kv_close(cache);
}

static void forgets_what_was_used_least_recently(void **state)
{
    struct nef_kv_cache *cache = cache_of(6);
    uint32_t a[130], b[130], c[130];
    struct nef_kv_sequence *s;

    (void)state;
    fill(a, 130, 1);
    fill(b, 130, 2);
    fill(c, 130, 3);
    s = open_sequence(cache, salt_a, a, 130, 0);
    compute(s, a, 0, 130, 10);
    nef_kv_sequence_close(s);
    s = open_sequence(cache, salt_a, b, 130, 0);
    compute(s, b, 0, 130, 50);
    nef_kv_sequence_close(s);
    nef_kv_sequence_close(open_sequence(cache, salt_a, a, 130, 128)); /* now b is the older one */
    s = open_sequence(cache, salt_a, c, 130, 0);
    compute(s, c, 0, 130, 90); /* takes the two pages that are no prefix, and one of b */
    nef_kv_sequence_close(s);
    nef_kv_sequence_close(open_sequence(cache, salt_a, a, 130, 128));
    s = open_sequence(cache, salt_a, b, 130, 64); /* its end was forgotten, its beginning wasn't */
    assert_page(s, 0, 50, false);
    nef_kv_sequence_close(s);
    nef_kv_sequence_close(open_sequence(cache, salt_a, c, 130, 128));
    nef_kv_close(cache);
}

static void when_pages_run_out(void **state)
{
    struct nef_kv_cache *cache = cache_of(4);
    struct nef_kv_sequence *s, *t;
    uint32_t tokens[256];

    (void)state;
    fill(tokens, 256, 1);
    s = open_sequence(cache, salt_a, tokens, 200, 0);
    compute(s, tokens, 0, 129, 10); /* three pages */
    fill(tokens, 256, 2);
    t = open_sequence(cache, salt_a, tokens, 200, 0);
    assert_int_equal(nef_kv_reserve(t, 65), NEF_E_BUSY); /* two: none is taken */
    assert_int_equal(nef_kv_reserved(t), 0);
    assert_int_equal(nef_kv_pages_free(cache), 1);
    assert_int_equal(nef_kv_reserve(t, 64), NEF_OK);
    assert_int_equal(nef_kv_reserve(t, 3), NEF_OK); /* has them */
    assert_int_equal(nef_kv_reserve(s, 193), NEF_E_BUSY);
    assert_page(s, 0, 10, false);
    nef_kv_sequence_close(s);
    assert_int_equal(nef_kv_reserve(t, 256), NEF_OK); /* and what s left behind is zeroed */
    for (uint32_t page = 0; page < 4; page++)
        assert_page(t, page, 0, true);
    nef_kv_sequence_close(t);
    nef_kv_close(cache);
}

static void refuses_impossible_sizes(void **state)
{
    struct nef_kv_cache *cache;

    (void)state;
    assert_int_equal(nef_kv_open(&(struct nef_kv_options){.type = NEF_KV_F32, .layers = 1024, .kv_heads = 1024,
                                                          .head_dim = 256, .pages = 1u << 31}, &cache), NEF_E_NOMEM);
}

/* ---- against a simple model ---- */

#define LIVE  6
#define PAGES 24u

struct expected { /* of an open sequence */
    struct nef_kv_sequence *sequence;
    uint32_t tokens[6 * TILE], count, computed, salt;
};

/* The contents that a page must have: a function of salt and all tokens up to its end. */
static uint8_t mark_of(const struct expected *e, uint32_t page)
{
    uint32_t hash = e->salt * 2654435761u + 17;

    for (uint32_t i = 0; i < (page + 1) * TILE; i++)
        hash = (hash ^ e->tokens[i]) * 16777619u;
    return (uint8_t)(hash >> 24);
}

static void random_operations(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 20; seed++) {
        struct nef_kv_cache *cache = cache_of(PAGES);
        struct expected live[LIVE] = {0};
        uint32_t random = seed * 2654435761u;

        for (uint32_t n = 0; n < 600; n++) {
            struct expected *e;

            random = random * 1664525u + 1013904223u;
            e = &live[(random >> 24) % LIVE];
            if (e->sequence == NULL) {
                uint8_t salt[32] = {0};
                uint32_t cached;

                e->salt = random >> 16 & 1;
                salt[0] = (uint8_t)e->salt;
                e->count = 1 + (random >> 8) % (6 * TILE);
                for (uint32_t i = 0; i < e->count; i++) /* few prompts, so that beginnings are often equal */
                    e->tokens[i] = (random >> (17 + i / (2 * TILE)) & 1) * 1000 + i;
                assert_int_equal(nef_kv_sequence_open(cache, salt, e->tokens, e->count, &cached, &e->sequence), NEF_OK);
                assert_int_equal(cached % TILE, 0);
                assert_true(cached < e->count);
                for (uint32_t page = 0; page < cached / TILE; page++)
                    assert_int_equal(*(uint8_t *)nef_kv_page(e->sequence, page, 1, 1, true), mark_of(e, page));
                e->computed = cached;
            } else if ((random >> 8) % 4 == 0 || e->computed == e->count) {
                nef_kv_sequence_close(e->sequence);
                e->sequence = NULL;
            } else {
                uint32_t to = NEF_MIN(e->count, e->computed + 1 + (random >> 10) % 100),
                         held = nef_kv_reserved(e->sequence);
                uint32_t free_pages = nef_kv_pages_free(cache);
                uint32_t need = to <= held ? 0 : (to - held + TILE - 1) / TILE;
                nef_err err = nef_kv_reserve(e->sequence, to);

                assert_int_equal(err, need <= free_pages ? NEF_OK : NEF_E_BUSY);
                if (err != NEF_OK) {
                    assert_int_equal(nef_kv_reserved(e->sequence), held);
                    continue;
                }
                assert_int_equal(nef_kv_pages_free(cache), free_pages - need);
                for (uint32_t page = held / TILE; page * TILE < to; page++)
                    assert_page(e->sequence, page, 0, true);
                for (; e->computed < to; e->computed++) {
                    if (e->computed % TILE == TILE - 1)
                        memset(nef_kv_page(e->sequence, e->computed / TILE, 1, 1, true), mark_of(e, e->computed / TILE),
                               nef_kv_page_bytes(NEF_KV_BF16, 32));
                    nef_kv_note(e->sequence, e->computed, e->tokens[e->computed]);
                }
            }
            for (uint32_t i = 0; i < LIVE; i++) /* nothing that is held has changed */
                for (uint32_t page = 0; live[i].sequence != NULL && page < live[i].computed / TILE; page++)
                    assert_int_equal(*(uint8_t *)nef_kv_page(live[i].sequence, page, 1, 1, true),
                                     mark_of(&live[i], page));
        }
        for (uint32_t i = 0; i < LIVE; i++)
            nef_kv_sequence_close(live[i].sequence);
        assert_int_equal(nef_kv_pages_free(cache), PAGES);
        nef_kv_close(cache);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_full_pages_of_the_same_beginning),
        cmocka_unit_test(adopts_what_others_compute),
        cmocka_unit_test(gives_memory_back),
        cmocka_unit_test(a_salt_sets_apart),
        cmocka_unit_test(equal_pages_become_one),
        cmocka_unit_test(forgets_what_was_used_least_recently),
        cmocka_unit_test(when_pages_run_out),
        cmocka_unit_test(refuses_impossible_sizes),
        cmocka_unit_test(random_operations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
