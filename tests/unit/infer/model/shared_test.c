/* Sequences of one batch that have pages of the cache in common: attention reads those once for all of them
 * (attention.c), and no bit may tell. */
#include "fixture.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

static const enum nef_kv_type kv_types[] = {NEF_KV_F32, NEF_KV_BF16, NEF_KV_I8};

/* Some go on together for longer than others, into a second segment too; each gets the bits that it has alone. */
static void shared_beginnings(void **state)
{
    enum { SEQUENCES = 12, LONGEST = 1340 };
    /* of the longest one's tokens, and own ones; nothing in common but a page's part in the last two */
    static const uint32_t common[SEQUENCES] = {1216, 1216, 1088, 64, 1216, 1024, 128, 1280, 64, 1216, 63, 0};
    static const uint32_t own[SEQUENCES] = {1, 70, 3, 1, 1, 5, 40, 2, 130, 2, 90, 7};
    static const uint32_t chunk[SEQUENCES] = {1, 1, 2, 1, 1, 5, 9, 1, 70, 1, 40, 1};
    static const uint32_t threads[] = {1, 2, 6};
    static const uint8_t salt[32] = {1}; /* that of logits_of */
    uint32_t tokens[SEQUENCES][LONGEST];

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(kv_types) * NEF_COUNT(threads); t++) {
        enum nef_kv_type type = kv_types[t % NEF_COUNT(kv_types)];
        uint32_t counts[SEQUENCES], at[SEQUENCES], left = SEQUENCES, found = 0;
        float *expected[SEQUENCES], *logits;
        struct nef_kv_sequence *sequence[SEQUENCES];
        struct nef_kv_cache *cache;
        struct fixture f;

        fixture_open(&f, "qwen3-pico-bf16", NULL, threads[t / NEF_COUNT(kv_types)]);
        cache = cache_open(&f, type, 100);
        logits = malloc(SEQUENCES * f.vocab * sizeof(float));
        make_tokens(tokens[0], LONGEST, f.vocab, 77);
        free(logits_of(&f, cache, tokens[0], 1300, 0)); /* from now on its pages are found */
        for (uint32_t i = 0; i < SEQUENCES; i++) {
            struct nef_kv_cache *cold = cache_open(&f, type, LONGEST / NEF_KV_TILE + 1);

            counts[i] = common[i] + own[i];
            make_tokens(tokens[i], LONGEST, f.vocab, 77);
            make_tokens(tokens[i] + common[i], own[i], f.vocab, 200 + i);
            expected[i] = logits_of(&f, cold, tokens[i], counts[i], 0);
            nef_kv_close(cold);
            assert_int_equal(nef_kv_sequence_open(cache, salt, tokens[i], counts[i], &at[i], &sequence[i]), NEF_OK);
            assert_int_equal(at[i], common[i] / NEF_KV_TILE * NEF_KV_TILE);
            assert_int_equal(nef_kv_reserve(sequence[i], counts[i]), NEF_OK);
            found += at[i] > 0;
        }
        assert_int_equal(found, 10);
        while (left > 0) {
            struct nef_row rows[NEF_BATCH_ROWS_MAX];
            uint32_t n = 0, wanted = 0, ended[SEQUENCES];

            for (uint32_t i = 0; i < SEQUENCES; i++)
                for (uint32_t r = 0; r < chunk[i] && at[i] < counts[i]; r++, at[i]++) {
                    bool last = at[i] + 1 == counts[i];

                    rows[n++] = (struct nef_row){.sequence = sequence[i], .token = tokens[i][at[i]],
                                                 .position = at[i], .logits = last};
                    if (last)
                        ended[wanted++] = i;
                }
            assert_int_equal(nef_model_forward(f.model, rows, n, logits), NEF_OK);
            for (uint32_t w = 0; w < wanted; w++, left--)
                assert_memory_equal(logits + w * f.vocab, expected[ended[w]], f.vocab * sizeof(float));
        }
        for (uint32_t i = 0; i < SEQUENCES; i++) {
            nef_kv_sequence_close(sequence[i]);
            free(expected[i]);
        }
        free(logits);
        nef_kv_close(cache);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_beginnings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
