/* What is done to rows, every set against scalar; scalar against libm in double; dispatch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <float.h>
#include <math.h>
#include <cmocka.h>
#include "base/assert.h"
#include "fixture.h"
#include "infer/kernels/kernels_internal.h"
#include "infer/kernels/math.h"

static void test_exp_is_within_an_ulp(void **state)
{
    double worst = 0;

    (void)state;
    (void)fast_sets();
    for (float x = NEF_EXP_LOW; x <= NEF_EXP_HIGH; x += 0.00037f) {
        double right = exp((double)x), error = fabs((double)nef_exp(x) - right);
        int exponent;

        (void)frexp(right, &exponent);
        error /= ldexp(1.0, exponent - 24);
        worst = error > worst ? error : worst;
    }
    assert_true(worst < 1.0);
    assert_true(nef_exp(0.0f) == 1.0f && nef_exp(-0.0f) == 1.0f);
    assert_true(nef_exp(-87.01f) == 0.0f && nef_exp(-INFINITY) == 0.0f);
    assert_true(nef_exp(-87.0f) >= FLT_MIN);
    assert_true(nef_exp(1000.0f) == nef_exp(88.0f) && nef_exp(INFINITY) == nef_exp(88.0f));
    assert_true(isnan(nef_exp(NAN)));
}

static void test_sin_cos_and_pow_are_right(void **state)
{
    struct random r = {1};

    (void)state;
    for (int i = 0; i < 200000; i++) {
        double x = ldexp((double)random_unit(&r), (int)random_below(&r, 31)), base, exponent, right;

        assert_true(fabs(nef_math_sin(x) - sin(x)) < 1e-14);
        assert_true(fabs(nef_math_cos(x) - cos(x)) < 1e-14);
        base = ldexp(1.5 + 0.5 * (double)random_unit(&r), (int)random_below(&r, 60) - 30);
        exponent = 8 * (double)random_unit(&r);
        right = pow(base, exponent);
        assert_true(fabs(nef_math_pow(base, exponent) - right) < 1e-13 * right);
    }
    assert_true(nef_math_sin(0) == 0 && nef_math_cos(0) == 1 && nef_math_pow(1e6, 0) == 1 && nef_math_pow(1, 7) == 1);
    assert_true(fabs(nef_math_sin(0x1.fffffffp29) - sin(0x1.fffffffp29)) < 1e-14);
    for (int i = 1; i < 40; i++) /* next to multiples of pi/2, where the reduction cancels */
        assert_true(fabs(nef_math_sin(i * 1.5707963267948966) - sin(i * 1.5707963267948966)) < 1e-16);
    assert_true(nef_math_pow(10, 400) == HUGE_VAL && nef_math_pow(10, -400) == 0);
    assert_true(fabs(nef_math_pow(0x1p-1022, 0.5) / 0x1p-511 - 1) < 1e-13);
}

static void test_halves_are_read_and_rounded(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = nef_f32_of_f16((uint16_t)h);
        double sign = h & 0x8000 ? -1.0 : 1.0, exponent = (double)(h >> 10 & 31), fraction = (double)(h & 1023);

        if ((h >> 10 & 31) == 31) {
            assert_true(fraction == 0 ? isinf(f) : isnan(f));
            continue;
        }
        assert_true((double)f ==
                    sign * (exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, (int)exponent - 25)));
        if (!isnan(nef_f32_of_bf16((uint16_t)h)) && (h & 0x7f80) != 0)
            assert_int_equal(nef_bf16_of_f32(nef_f32_of_bf16((uint16_t)h)), h);
    }
    assert_int_equal(nef_bf16_of_f32(nef_f32_of_bits(0x3f808000)), 0x3f80); /* a tie goes to even */
    assert_int_equal(nef_bf16_of_f32(nef_f32_of_bits(0x3f818000)), 0x3f82);
    assert_int_equal(nef_bf16_of_f32(nef_f32_of_bits(0x3f808001)), 0x3f81);
    assert_int_equal(nef_bf16_of_f32(nef_f32_of_bits(0x7f7fffff)), 0x7f80);
    assert_int_equal(nef_bf16_of_f32(nef_f32_of_bits(0x007fffff)), 0); /* not up to the least normal number */
    assert_int_equal(nef_bf16_of_f32(nef_f32_of_bits(0x807fffff)), 0x8000);
    assert_int_equal(nef_bf16_of_f32(nef_f32_of_bits(0x7f800001)), 0x7fc0);
}

static void test_elementwise_sets_equal_scalar(void **state)
{
    const struct nef_kernels *const *sets = fast_sets(), *scalar = scalar_set();
    struct random r = {2};
    enum { MAX = 1040 };
    float *x = room(3 * MAX * 4), *a = room((MAX + 1) * 4), *b = room((MAX + 1) * 4);
    const float eps = 1e-6f;

    (void)state;
    for (; *sets != NULL; sets++)
        for (uint32_t n = 1; n <= MAX; n += n < 70 ? 1 : 97)
            for (int kind = PLAIN; kind <= BROKEN; kind++) {
                uint32_t whole = (n + 15) / 16 * 16;

                random_floats(&r, (enum values)kind, 3 * MAX, x);
                for (uint32_t i = 0; i < n; i += 3)
                    x[i] *= 90.0f; /* both ends of SiLU */
                a[n] = b[n] = 7;
                scalar->silu_mul(n, x, x + MAX, a);
                (*sets)->silu_mul(n, x, x + MAX, b);
                assert_true(same_floats("silu_mul", a, b, n + 1));
                scalar->add(n, x + 2 * MAX, a);
                (*sets)->add(n, x + 2 * MAX, b);
                assert_true(same_floats("add", a, b, n + 1));
                a[whole] = b[whole] = 7;
                scalar->rms_norm(whole, x, x + MAX, eps, a);
                (*sets)->rms_norm(whole, x, x + MAX, eps, b);
                assert_true(same_floats("rms_norm", a, b, whole + 1));
            }
    for (sets = fast_sets(); *sets != NULL; sets++)
        for (uint32_t d = 32; d <= 256; d += 32) {
            random_floats(&r, WILD, d, a);
            random_floats(&r, WILD, d, x);
            memcpy(b, a, d * sizeof *a);
            scalar->rope(d, x, x + d / 2, a);
            (*sets)->rope(d, x, x + d / 2, b);
            assert_true(same_floats("rope", a, b, d));
            scalar->rms_norm(d, a, x, eps, a); /* in place */
            (*sets)->rms_norm(d, b, x, eps, b);
            assert_true(same_floats("rms_norm in place", a, b, d));
        }
    free(x);
    free(a);
    free(b);
}

static void test_scalar_rows_are_near_float64(void **state)
{
    const struct nef_kernels *scalar = scalar_set();
    struct random r = {3};
    float x[256], w[256], y[256];
    double sum = 0;

    (void)state;
    (void)fast_sets();
    random_floats(&r, PLAIN, 256, x);
    random_floats(&r, PLAIN, 256, w);
    for (int i = 0; i < 256; i++)
        sum += (double)x[i] * (double)x[i];
    scalar->rms_norm(256, x, w, 1e-6f, y);
    for (int i = 0; i < 256; i++)
        assert_true(fabs((double)y[i] - (double)x[i] * (double)w[i] / sqrt(sum / 256 + 1e-6)) < 1e-6);
    scalar->silu_mul(256, x, w, y);
    for (int i = 0; i < 256; i++)
        assert_true(fabs((double)y[i] - (double)x[i] * (double)w[i] / (1 + exp(-(double)x[i]))) < 1e-6);
    memcpy(y, x, sizeof y);
    scalar->rope(128, w, w + 64, y);
    for (int i = 0; i < 64; i++) {
        double a = (double)x[i], b = (double)x[i + 64], c = (double)w[i], s = (double)w[i + 64];

        assert_true(fabs((double)y[i] - (a * c - b * s)) < 1e-6 && fabs((double)y[i + 64] - (a * s + b * c)) < 1e-6);
    }
}

static void test_sets_are_found_and_entered(void **state)
{
    volatile float least = FLT_MIN, subnormal = FLT_TRUE_MIN;
    struct nef_kernels stranger = *scalar_set();

    (void)state;
    assert_null(nef_kernels_get("sse9"));
    assert_non_null(nef_kernels_get(NULL));
    assert_string_equal(nef_kernels_get("scalar")->name, "scalar");
    assert_int_equal(nef_kernels_thread_enter(&stranger), NEF_E_UNSUPPORTED);
    assert_int_equal(nef_kernels_thread_enter(nef_kernels_get(NULL)), NEF_OK);
    assert_true(least * 0.5f == 0); /* flushed */
    assert_true(subnormal * 1e30f == 0);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) /* a set that the processor has must pass its test against scalar */
        assert_non_null(nef_kernels_get("avx2"));
    if (__builtin_cpu_supports("avx512vnni"))
        assert_non_null(nef_kernels_get("avx512"));
#endif
}

/* ---- a set that computes wrongly is found out ---- */

static void nudge(float *y)
{
    *y = nef_f32_of_bits(nef_bits_of_f32(*y) ^ 1);
}

static void wrong_matmul(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles,
                         float *y, size_t y_stride, void *scratch)
{
    scalar_set()->matmul(m, act, tile0, tiles, y, y_stride, scratch);
    if (m->scales_kind == NEF_SCALES_K6)
        nudge(&y[(act->rows - 1) * y_stride + m->n - 1]);
}

static void wrong_attend(const struct nef_attend *a, void *scratch)
{
    scalar_set()->attend(a, scratch);
    if (a->type == NEF_KV_I8)
        nudge(&a->out_o[0][3]);
}

static void wrong_silu(uint32_t n, const float *gate, const float *up, float *out)
{
    scalar_set()->silu_mul(n, gate, up, out);
    nudge(&out[n - 1]);
}

static void test_a_wrong_set_is_found_out(void **state)
{
    struct nef_kernels set = *scalar_set();

    (void)state;
    (void)fast_sets();
    assert_true(nef_kernels_agree(&set));
    set.matmul = wrong_matmul;
    assert_false(nef_kernels_agree(&set));
    set = *scalar_set();
    set.attend = wrong_attend;
    assert_false(nef_kernels_agree(&set));
    set = *scalar_set();
    set.silu_mul = wrong_silu;
    assert_false(nef_kernels_agree(&set));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_is_within_an_ulp),          cmocka_unit_test(test_sin_cos_and_pow_are_right),
        cmocka_unit_test(test_halves_are_read_and_rounded),   cmocka_unit_test(test_elementwise_sets_equal_scalar),
        cmocka_unit_test(test_scalar_rows_are_near_float64),  cmocka_unit_test(test_sets_are_found_and_entered),
        cmocka_unit_test(test_a_wrong_set_is_found_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
