/* Attention: every set against scalar bit by bit, alone and with other rows; scalar against float64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>
#include "base/assert.h"
#include "fixture.h"

#define PAGES_MAX 48u /* three segments */
#define ROWS_MAX  70u

/* A sequence's cache of one kv head, and queries. */
struct cache {
    enum nef_kv_type type;
    uint32_t dim, positions;
    float *keys, *values, *queries; /* as they were before rounding */
    uint8_t *k[PAGES_MAX], *v[PAGES_MAX];
};

static void cache_init(struct cache *c, struct random *r, const struct nef_kernels *set, enum nef_kv_type type,
                       uint32_t dim, uint32_t positions, enum values kind)
{
    size_t bytes = nef_kv_page_bytes(type, dim);

    *c = (struct cache){.type = type, .dim = dim, .positions = positions};
    c->keys = room((size_t)positions * dim * 4);
    c->values = room((size_t)positions * dim * 4);
    c->queries = room(ROWS_MAX * dim * 4);
    random_floats(r, kind, (size_t)positions * dim, c->keys);
    random_floats(r, kind, (size_t)positions * dim, c->values);
    random_floats(r, kind, ROWS_MAX * dim, c->queries);
    for (size_t i = 0; i < ROWS_MAX * dim; i++)
        c->queries[i] *= 2;
    for (uint32_t i = 0; i < PAGES_MAX; i++) {
        c->k[i] = room(bytes);
        c->v[i] = room(bytes);
    }
    for (size_t i = 0; i < positions; i++) {
        set->kv_put(type, dim, false, c->k[i / 64], i % 64, c->keys + i * dim);
        set->kv_put(type, dim, true, c->v[i / 64], i % 64, c->values + i * dim);
    }
}

static void cache_done(struct cache *c)
{
    for (uint32_t i = 0; i < PAGES_MAX; i++) {
        free(c->k[i]);
        free(c->v[i]);
    }
    free(c->keys);
    free(c->values);
    free(c->queries);
}

/* What a row of a call gave. */
struct partial {
    float m, l, o[NEF_HEAD_DIM_MAX];
};

/* Rows row[0 .. rows) with their limits against PAGES pages of one segment from PAGE on; if that isn't the first, OUT
 * has what those before gave. */
static void attend_pages(const struct nef_kernels *set, const struct cache *c, uint32_t segment, uint32_t page,
                         uint32_t pages, uint32_t rows, const uint32_t *row, const uint32_t *limit, struct partial *out)
{
    const float *q[ROWS_MAX];
    float m[ROWS_MAX], l[ROWS_MAX], *o[ROWS_MAX];
    const void *k[16], *v[16];
    void *scratch = room(nef_matmul_scratch(256));
    struct nef_attend a = {.type = c->type,
                           .head_dim = c->dim,
                           .rows = rows,
                           .q = q,
                           .limit = limit,
                           .first = segment * NEF_KV_SEGMENT + page * NEF_KV_TILE,
                           .pages = pages,
                           .resume = page != 0,
                           .k_page = k,
                           .v_page = v,
                           .scale = 1.0f / sqrtf((float)c->dim),
                           .out_m = m,
                           .out_l = l,
                           .out_o = o};

    for (uint32_t i = 0; i < pages; i++) {
        k[i] = c->k[segment * 16 + page + i];
        v[i] = c->v[segment * 16 + page + i];
    }
    for (uint32_t i = 0; i < rows; i++) {
        q[i] = c->queries + (size_t)row[i] * c->dim;
        o[i] = out[i].o;
        m[i] = out[i].m;
        l[i] = out[i].l;
    }
    set->attend(&a, scratch);
    for (uint32_t i = 0; i < rows; i++) {
        out[i].m = m[i];
        out[i].l = l[i];
    }
    free(scratch);
}

static void attend(const struct nef_kernels *set, const struct cache *c, uint32_t segment, uint32_t rows,
                   const uint32_t *row, const uint32_t *limit, struct partial *out)
{
    attend_pages(set, c, segment, 0, 16, rows, row, limit, out);
}

/* All rows over all segments that they see, in calls of at most PART rows, joined and finished: rows x dim. */
static void attend_all(const struct nef_kernels *set, const struct cache *c, uint32_t rows, const uint32_t *limit,
                       uint32_t part, float *out)
{
    static struct partial sum[ROWS_MAX], here[ROWS_MAX];
    uint32_t row[ROWS_MAX], seen[ROWS_MAX];

    for (uint32_t segment = 0; segment * NEF_KV_SEGMENT < c->positions; segment++)
        for (uint32_t next = 0; next < rows;) {
            uint32_t count = 0;

            for (; next < rows && count < part; next++)
                if (limit[next] >= segment * NEF_KV_SEGMENT) {
                    row[count] = next;
                    seen[count++] = limit[next];
                }
            if (count == 0)
                continue;
            attend(set, c, segment, count, row, seen, here);
            for (uint32_t i = 0; i < count; i++) {
                if (segment == 0)
                    sum[row[i]] = here[i];
                else
                    set->attend_join(c->dim, &sum[row[i]].m, &sum[row[i]].l, sum[row[i]].o, here[i].m, here[i].l,
                                     here[i].o);
            }
        }
    for (uint32_t i = 0; i < rows; i++)
        set->attend_finish(c->dim, sum[i].l, sum[i].o, out + (size_t)i * c->dim);
}

static void random_limits(struct random *r, uint32_t rows, uint32_t positions, bool ascending, uint32_t *limit)
{
    uint32_t start = positions > rows ? random_below(r, positions - rows) : 0;

    for (uint32_t i = 0; i < rows; i++) /* a prompt's rows, or those of heads and sequences of any length */
        limit[i] = ascending ? NEF_MIN(start + i / 2, positions - 1) : random_below(r, positions);
}

static const uint32_t dims[] = {32, 64, 128, 256};

static void test_pages_equal_scalar(void **state)
{
    const struct nef_kernels *const *sets = fast_sets();

    (void)state;
    for (; *sets != NULL; sets++)
        for (int type = NEF_KV_BF16; type <= NEF_KV_I8; type++)
            for (size_t d = 0; d < NEF_COUNT(dims); d++)
                for (int kind = PLAIN; kind <= BROKEN; kind++) {
                    struct random r = {1}, again = {1};
                    struct cache a, b;

                    cache_init(&a, &r, scalar_set(), (enum nef_kv_type)type, dims[d], 130, (enum values)kind);
                    cache_init(&b, &again, *sets, (enum nef_kv_type)type, dims[d], 130, (enum values)kind);
                    for (uint32_t i = 0; i < 3; i++) {
                        size_t values = type == NEF_KV_I8 ? 64 * dims[d] : nef_kv_page_bytes(a.type, dims[d]);

                        assert_memory_equal(a.k[i], b.k[i], values);
                        assert_memory_equal(a.v[i], b.v[i], values);
                        if (type == NEF_KV_I8) {
                            assert_true(
                                same_floats("k scales", (float *)(a.k[i] + values), (float *)(b.k[i] + values), 64));
                            assert_true(
                                same_floats("v scales", (float *)(a.v[i] + values), (float *)(b.v[i] + values), 64));
                        }
                    }
                    cache_done(&a);
                    cache_done(&b);
                }
}

static void compare_partials(struct random *r, enum nef_kv_type type, uint32_t dim, uint32_t positions, uint32_t rows,
                             enum values kind)
{
    static struct partial expected[ROWS_MAX], got[ROWS_MAX];
    const struct nef_kernels *const *sets = fast_sets();
    uint32_t row[ROWS_MAX], limit[ROWS_MAX];
    struct cache c;
    char what[96];

    cache_init(&c, r, scalar_set(), type, dim, positions, kind);
    random_limits(r, rows, positions, random_below(r, 2) == 0, limit);
    for (uint32_t i = 0; i < rows; i++)
        row[i] = i;
    attend(scalar_set(), &c, 0, rows, row, limit, expected);
    for (; *sets != NULL; sets++) {
        memset(got, 0x55, sizeof got);
        attend(*sets, &c, 0, rows, row, limit, got);
        for (uint32_t i = 0; i < rows; i++) {
            (void)snprintf(what, sizeof what, "%s type %d dim %u row %u of %u limit %u", (*sets)->name, (int)type, dim,
                           i, rows, limit[i]);
            assert_true(same_floats(what, &expected[i].m, &got[i].m, 1));
            assert_true(same_floats(what, &expected[i].l, &got[i].l, 1));
            assert_true(same_floats(what, expected[i].o, got[i].o, dim));
        }
    }
    cache_done(&c);
}

static void test_partials_equal_scalar(void **state)
{
    struct random r = {2};

    (void)state;
    for (int type = NEF_KV_BF16; type <= NEF_KV_I8; type++)
        for (uint32_t rows = 1; rows <= 18; rows++)
            compare_partials(&r, (enum nef_kv_type)type, dims[rows % NEF_COUNT(dims)], 1 + random_below(&r, 400), rows,
                             rows % 3 == 0 ? WILD : PLAIN);
}

static void test_broken_values_are_broken_alike(void **state)
{
    struct random r = {3};

    (void)state;
    for (int type = NEF_KV_BF16; type <= NEF_KV_I8; type++)
        for (uint32_t rows = 1; rows <= 9; rows += 4)
            compare_partials(&r, (enum nef_kv_type)type, 64, 200, rows, BROKEN);
}

static void test_segments_and_cuts_do_not_show(void **state)
{
    struct random r = {4};

    (void)state;
    for (int type = NEF_KV_BF16; type <= NEF_KV_I8; type++)
        for (int ascending = 0; ascending < 2; ascending++) {
            const uint32_t rows = 23, dim = ascending ? 128 : 32, positions = ascending ? 1100 : 2200;
            float *expected = room(rows * dim * 4), *got = room(rows * dim * 4);
            const struct nef_kernels *const *sets = fast_sets();
            uint32_t limit[ROWS_MAX];
            struct cache c;

            cache_init(&c, &r, scalar_set(), (enum nef_kv_type)type, dim, positions, PLAIN);
            random_limits(&r, rows, positions, ascending != 0, limit);
            if (ascending) /* rows on both sides of a segment's end */
                for (uint32_t i = 0; i < rows; i++)
                    limit[i] = 1010 + i;
            attend_all(scalar_set(), &c, rows, limit, rows, expected);
            for (; *sets != NULL; sets++)
                for (uint32_t part = 1; part <= rows; part += part < 3 ? 1 : 10) {
                    attend_all(*sets, &c, rows, limit, part, got);
                    assert_true(same_floats((*sets)->name, expected, got, rows * dim));
                }
            cache_done(&c);
            free(expected);
            free(got);
        }
}

/* A segment in two calls: the first for all rows, the second for those that see more, one by one or together. */
static void test_a_segment_may_be_left_and_resumed(void **state)
{
    static struct partial expected[ROWS_MAX], got[ROWS_MAX];
    struct random r = {9};

    (void)state;
    for (int type = NEF_KV_BF16; type <= NEF_KV_I8; type++)
        for (uint32_t rows = 1; rows <= 22; rows += 3)
            for (uint32_t page = 1; page < 16; page += 1 + random_below(&r, 6)) {
                const struct nef_kernels *const one[] = {scalar_set(), NULL}, *const *sets = one;
                const uint32_t positions = 1024, dim = dims[rows % NEF_COUNT(dims)];
                uint32_t row[ROWS_MAX], limit[ROWS_MAX];
                struct cache c;

                cache_init(&c, &r, scalar_set(), (enum nef_kv_type)type, dim, positions, PLAIN);
                for (uint32_t i = 0; i < rows; i++) {
                    row[i] = i;
                    limit[i] = page * NEF_KV_TILE + random_below(&r, positions - page * NEF_KV_TILE);
                }
                attend(scalar_set(), &c, 0, rows, row, limit, expected);
                for (int fast = 0; fast < 2; fast++, sets = fast_sets())
                    for (; *sets != NULL; sets++) {
                        uint32_t part = 1 + random_below(&r, rows);

                        memset(got, 0x55, sizeof got);
                        attend_pages(*sets, &c, 0, 0, page, rows, row, limit, got);
                        for (uint32_t i = 0; i < rows; i += part)
                            attend_pages(*sets, &c, 0, page, 16 - page, NEF_MIN(part, rows - i), row + i, limit + i,
                                         got + i);
                        for (uint32_t i = 0; i < rows; i++) {
                            assert_true(same_floats((*sets)->name, &expected[i].m, &got[i].m, 1));
                            assert_true(same_floats((*sets)->name, &expected[i].l, &got[i].l, 1));
                            assert_true(same_floats((*sets)->name, expected[i].o, got[i].o, dim));
                        }
                    }
                cache_done(&c);
            }
}

/* A cache whose scores are the given ones: q = 8 e0, key = score e0, 1/sqrt(64) takes the 8 away. */
static void put_score(const struct nef_kernels *set, struct cache *c, uint32_t pos, float score)
{
    float row[64] = {score};

    set->kv_put(c->type, 64, false, c->k[pos / 64], pos % 64, row);
}

static void put_value(const struct nef_kernels *set, struct cache *c, uint32_t pos, float value)
{
    float row[64];

    for (uint32_t i = 0; i < 64; i++)
        row[i] = value;
    set->kv_put(c->type, 64, true, c->v[pos / 64], pos % 64, row);
}

/* What lies in the cache behind a row's limit doesn't matter: a prompt may be cut anywhere. Built so that the sum is a
 * zero whose sign would tell: the first tile's o is flushed to -0 by alpha, then every chain holds a flushed -0, and
 * the last ones go on over hidden positions, which give -0 (values below zero) or 0 (not yet written). */
static void test_hidden_positions_do_not_show(void **state)
{
    static const enum nef_kv_type kinds[] = {NEF_KV_BF16, NEF_KV_F32};
    const uint32_t limit = 104;
    struct random r = {5};

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(kinds); t++)
        for (int fast = 0; fast < 2; fast++) {
            const struct nef_kernels *const one[] = {scalar_set(), NULL}, *const *sets = fast ? fast_sets() : one;

            for (; *sets != NULL; sets++) {
                float whole[64], cut[64];
                struct cache c;

                cache_init(&c, &r, *sets, kinds[t], 64, 128, PLAIN);
                memset(c.queries, 0, 64 * 4);
                c.queries[0] = 8;
                for (uint32_t i = 0; i < 128; i++) {
                    put_score(*sets, &c, i, i == 0 || i >= 64 ? 0.0f : -100.0f);
                    put_value(*sets, &c, i, i < 64 ? 0.0f : i <= limit ? -0.0f : -1.0f);
                }
                put_value(*sets, &c, 0, -0x1p-126f);
                put_score(*sets, &c, 66, 2);
                for (uint32_t i = 64; i < 128; i += 32) {
                    put_value(*sets, &c, i, -0x1p-126f);
                    put_value(*sets, &c, i + 1, -0x1p-126f);
                }
                attend_all(*sets, &c, 1, &limit, 1, whole);
                for (uint32_t i = limit + 1; i < 128; i++)
                    put_value(*sets, &c, i, 0.0f);
                attend_all(*sets, &c, 1, &limit, 1, cut);
                assert_memory_equal(whole, cut, sizeof whole);
                cache_done(&c);
            }
        }
}

/* Scores that are flushed to -0: m is 0 for every set. */
static void test_a_maximum_of_zeros_is_plus_zero(void **state)
{
    const struct nef_kernels *const *sets = fast_sets();
    const uint32_t limit = 10, row = 0;
    struct random r = {7};

    (void)state;
    for (; *sets != NULL; sets++) {
        struct partial scalar, got;
        struct cache c;

        cache_init(&c, &r, *sets, NEF_KV_F32, 64, 64, PLAIN);
        memset(c.queries, 0, 64 * 4);
        c.queries[0] = 1;
        for (uint32_t i = 0; i <= limit; i++)
            put_score(*sets, &c, i, -0x1p-126f);
        attend(scalar_set(), &c, 0, 1, &row, &limit, &scalar);
        attend(*sets, &c, 0, 1, &row, &limit, &got);
        assert_true(!signbit(scalar.m) && !signbit(got.m) && scalar.m == 0 && got.m == 0);
        cache_done(&c);
    }
}

static void test_scalar_is_near_float64(void **state)
{
    static const double tolerance[] = {[NEF_KV_BF16] = 0.02, [NEF_KV_F32] = 2e-6, [NEF_KV_I8] = 0.03};
    struct random r = {6};

    (void)state;
    (void)fast_sets();
    for (int type = NEF_KV_BF16; type <= NEF_KV_I8; type++) {
        const uint32_t rows = 3, dim = 64, positions = 1300, limit[3] = {17, 1024, 1299};
        float *out = room(rows * dim * 4);
        struct cache c;

        cache_init(&c, &r, scalar_set(), (enum nef_kv_type)type, dim, positions, PLAIN);
        attend_all(scalar_set(), &c, rows, limit, 2, out);
        for (uint32_t row = 0; row < rows; row++) {
            double sum = 0, right[64] = {0};

            for (uint32_t j = 0; j <= limit[row]; j++) {
                double s = 0, p;

                for (uint32_t i = 0; i < dim; i++)
                    s += (double)c.queries[row * dim + i] * (double)c.keys[j * dim + i];
                p = exp(s / sqrt((double)dim));
                sum += p;
                for (uint32_t i = 0; i < dim; i++)
                    right[i] += p * (double)c.values[j * dim + i];
            }
            for (uint32_t i = 0; i < dim; i++)
                assert_true(fabs((double)out[row * dim + i] - right[i] / sum) < tolerance[type]);
        }
        cache_done(&c);
        free(out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_equal_scalar),           cmocka_unit_test(test_partials_equal_scalar),
        cmocka_unit_test(test_broken_values_are_broken_alike), cmocka_unit_test(test_segments_and_cuts_do_not_show),
        cmocka_unit_test(test_hidden_positions_do_not_show), cmocka_unit_test(test_a_maximum_of_zeros_is_plus_zero),
        cmocka_unit_test(test_a_segment_may_be_left_and_resumed),
        cmocka_unit_test(test_scalar_is_near_float64),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
