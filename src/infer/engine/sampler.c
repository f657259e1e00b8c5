/* Sampling; see sampler.h and docs/numerics.md section 4.
 *
 * The weight of a token is exp(logit/temperature - the largest such), in float; sums are double and go through tokens
 * in one order: by id where no filter needs an order, else from likely to unlikely (equals: lower id first). Which of
 * the two applies depends on the request's parameters alone. A weight below exp(-80) counts as 0: together such tokens
 * are less likely than 1e-28.
 *
 * Sorting 150,000 logits for each token would cost more than a small model's layer, and filters keep few of them. So a
 * histogram over the leading bits of the logits finds a threshold that the most likely ones exceed; those are sorted,
 * and only if the filter wants more is the threshold lowered. The order is total, so what comes out doesn't depend on
 * the threshold. Where top_k is small there is a quicker one: the k-th largest of the maxima of blocks of 64, which k
 * tokens at least reach; those maxima are found anyway, with the largest logit.
 *
 * Compiled without contraction to fma (meson.build): the same source must round the same on every machine. */
#include "infer/engine/sampler.h"
#include <stdbool.h>
#include <string.h>
#include "base/assert.h"
#include "base/philox.h"
#include "infer/engine/weight.h"

/* ---- random numbers ---- */

double nef_sampler_random(uint64_t seed, uint64_t position)
{
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t bits[4];

    nef_philox(counter, key, bits);
    return (double)(((uint64_t)bits[0] << 32 | bits[1]) >> 11) * 0x1p-53;
}

/* ---- weights ---- */

/* All weights, by id. Clamped, so that -inf (a token that something forbids) gives 0. */
static void weights_of_all(const float *logits, uint32_t vocab, float temperature, float largest, float *out)
{
    for (uint32_t i = 0; i < vocab; i++) {
        float x = (logits[i] - largest) / temperature;

        out[i] = nef_weight(x < -81.0f ? -81.0f : x);
    }
}

/* ---- maxima ---- */

#define BLOCK 64u
#define LANES 16u
#define FEW   256u /* top_k up to here */

/* The largest of each block of logits; false: there is a NaN. Lanes, because compilers can't reorder maxima otherwise.
 * */
static bool find_maxima(const float *logits, uint32_t vocab, float *out_maxima)
{
    uint32_t bad[LANES] = {0}, any = 0, whole = vocab / BLOCK * BLOCK;

    for (uint32_t i = 0; i < whole; i += BLOCK) {
        float lanes[LANES], most = -__builtin_inff();

        for (uint32_t l = 0; l < LANES; l++)
            lanes[l] = -__builtin_inff();
        for (uint32_t k = i; k < i + BLOCK; k += LANES)
            for (uint32_t l = 0; l < LANES; l++) {
                lanes[l] = logits[k + l] > lanes[l] ? logits[k + l] : lanes[l];
                bad[l] |= logits[k + l] != logits[k + l];
            }
        for (uint32_t l = 0; l < LANES; l++)
            most = lanes[l] > most ? lanes[l] : most;
        out_maxima[i / BLOCK] = most;
    }
    if (whole < vocab)
        out_maxima[whole / BLOCK] = -__builtin_inff();
    for (uint32_t i = whole; i < vocab; i++) {
        any |= logits[i] != logits[i];
        if (logits[i] > out_maxima[whole / BLOCK])
            out_maxima[whole / BLOCK] = logits[i];
    }
    for (uint32_t l = 0; l < LANES; l++)
        any |= bad[l];
    return any == 0;
}

/* The COUNT-th largest of them; -inf where there are fewer. COUNT is 1 .. FEW. */
static float kth_largest(const float *maxima, uint32_t blocks, uint32_t count)
{
    float few[FEW];
    uint32_t have = 0;

    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t at;

        if (have == count && !(maxima[i] > few[count - 1]))
            continue;
        for (at = have < count ? have++ : count - 1; at > 0 && maxima[i] > few[at - 1]; at--)
            few[at] = few[at - 1];
        few[at] = maxima[i];
    }
    return have == count ? few[count - 1] : -__builtin_inff();
}

/* ---- order ---- */

/* Bits that sort like the float, most likely first. -0 counts as 0: equals are told apart by id alone. */
static inline uint32_t rank_of(float logit)
{
    float value = logit + 0.0f;
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

#define BUCKET_BITS 12u
#define BUCKETS     (1u << BUCKET_BITS)

struct entry {
    uint32_t rank, id;
};

/* Stable, by rank, in four passes over bytes; the result is in A. */
static void sort(struct entry *a, struct entry *b, uint32_t count)
{
    for (uint32_t shift = 0; shift < 32; shift += 8) {
        uint32_t starts[257] = {0};
        struct entry *swap = a;

        for (uint32_t i = 0; i < count; i++)
            starts[(a[i].rank >> shift & 0xff) + 1]++;
        for (uint32_t i = 0; i < 256; i++)
            starts[i + 1] += starts[i];
        for (uint32_t i = 0; i < count; i++)
            b[starts[a[i].rank >> shift & 0xff]++] = a[i];
        a = b;
        b = swap;
    }
}

struct sorter {
    const float *logits;
    uint32_t vocab;
    uint32_t finite;  /* candidates: logits above -inf */
    uint32_t *counts; /* BUCKETS */
    struct entry *entries, *spare; /* vocab each */
};

/* Sort the most likely tokens, at least LEAST of them if there are so many; returns how many are in `entries`. */
static uint32_t sort_likely(struct sorter *s, uint32_t least)
{
    uint32_t count = 0, last = 0, at = 0;

    while (last < BUCKETS - 1 && (count += s->counts[last]) < least)
        last++;
    for (uint32_t i = 0; i < s->vocab; i++) {
        uint32_t rank = rank_of(s->logits[i]);

        if (rank >> (32 - BUCKET_BITS) <= last && s->logits[i] > -__builtin_inff())
            s->entries[at++] = (struct entry){rank, i};
    }
    sort(s->entries, s->spare, at);
    return at;
}

/* All tokens whose logit is THRESHOLD or more, which is finite: into `entries`, by id. Returns how many. */
static uint32_t take_from(struct sorter *s, const float *maxima, float threshold)
{
    uint32_t at = 0;

    for (uint32_t from = 0; from < s->vocab; from += BLOCK) {
        uint32_t to = NEF_MIN(from + BLOCK, s->vocab);

        for (uint32_t i = maxima[from / BLOCK] >= threshold ? from : to; i < to; i++)
            if (s->logits[i] >= threshold)
                s->entries[at++] = (struct entry){rank_of(s->logits[i]), i};
    }
    return at;
}

static void count_buckets(struct sorter *s)
{
    memset(s->counts, 0, BUCKETS * sizeof(s->counts[0]));
    s->finite = 0;
    for (uint32_t i = 0; i < s->vocab; i++) {
        bool candidate = s->logits[i] > -__builtin_inff();

        s->counts[rank_of(s->logits[i]) >> (32 - BUCKET_BITS)] += candidate;
        s->finite += candidate;
    }
}

/* ---- drawing ---- */

static uint32_t draw_by_id(const float *weights, uint32_t vocab, float least, double u)
{
    double sum = 0.0, at = 0.0, target;
    uint32_t last = 0;

    for (uint32_t i = 0; i < vocab; i++)
        sum += weights[i] >= least ? (double)weights[i] : 0.0;
    target = u * sum;
    for (uint32_t i = 0; i < vocab; i++) {
        if (weights[i] < least || weights[i] == 0.0f)
            continue;
        at += (double)weights[i];
        last = i;
        if (at > target)
            break;
    }
    return last; /* if rounding kept `at` from exceeding the target: the last one possible */
}

/* The first COUNT sorted tokens with their weights; `least` is min_p's. The most likely one always stays. */
static uint32_t draw_sorted(const struct entry *entries, const float *weights, uint32_t count, float least, double u)
{
    double sum = 0.0, at = 0.0, target;
    uint32_t kept = 1;

    while (kept < count && weights[kept] >= least && weights[kept] > 0.0f)
        kept++;
    for (uint32_t i = 0; i < kept; i++)
        sum += (double)weights[i];
    target = u * sum;
    for (uint32_t i = 0; i < kept; i++) {
        at += (double)weights[i];
        if (at > target)
            return entries[i].id;
    }
    return entries[kept - 1].id;
}

/* How many of the COUNT sorted weights reach PART of TOTAL; count + 1 if they don't. */
static uint32_t reach(const float *weights, uint32_t count, double part, double total)
{
    double sum = 0.0;

    for (uint32_t i = 0; i < count; i++) {
        sum += (double)weights[i];
        if (sum >= part * total)
            return i + 1;
    }
    return count + 1;
}

size_t nef_sampler_scratch(uint32_t vocab)
{
    return 2 * (size_t)vocab * sizeof(struct entry) + 2 * ((size_t)vocab + 1) * sizeof(float) +
           BUCKETS * sizeof(uint32_t);
}

/* Of the COUNT likeliest, which are all that top_k leaves, those that top_p leaves. */
static uint32_t keep_part(const float *weights, uint32_t count, float top_p)
{
    double total = 0.0;

    if (top_p >= 1.0f)
        return count;
    for (uint32_t i = 0; i < count; i++)
        total += (double)weights[i];
    return NEF_MIN(reach(weights, count, (double)top_p, total), count);
}

static void weigh_sorted(const struct sorter *sorter, uint32_t count, float largest, float temperature, float *out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = nef_weight(NEF_MAX((sorter->logits[sorter->entries[i].id] - largest) / temperature, -81.0f));
}

/* Where a mask leaves so few blocks: the same as sort_kept below, without looking at all logits again and again. */
#define FEW_BLOCKS 64u

static bool few_blocks(const float *maxima, uint32_t blocks)
{
    uint32_t finite = 0;

    for (uint32_t i = 0; i < blocks; i++)
        finite += maxima[i] > -__builtin_inff();
    return finite <= FEW_BLOCKS;
}

/* WEIGHTS is where MAXIMA lie, which are needed no more then. */
static uint32_t sort_few(const struct nef_sampling *s, struct sorter *sorter, const float *maxima, float largest,
                         float *weights)
{
    uint32_t finite = take_from(sorter, maxima, -__FLT_MAX__);
    uint32_t keep = s->top_k == 0 || s->top_k > finite ? finite : s->top_k;
    double total = 0.0;

    /* by id, as there; tokens of -inf add 0 */
    weigh_sorted(sorter, finite, largest, s->temperature, weights);
    for (uint32_t i = 0; i < finite; i++)
        total += (double)weights[i];
    sort(sorter->entries, sorter->spare, finite);
    weigh_sorted(sorter, finite, largest, s->temperature, weights);
    if (keep < finite)
        return keep_part(weights, keep, s->top_p);
    return s->top_p < 1.0f ? NEF_MIN(reach(weights, finite, (double)s->top_p, total), finite) : finite;
}

/* Sorts as many of the likeliest as top_k and top_p leave: into `entries`, with their weights. ALL is room for weights
 * by id. Returns how many. */
static uint32_t sort_kept(const struct nef_sampling *s, struct sorter *sorter, float largest, float *all,
                          float *weights)
{
    uint32_t count, keep;
    double total = 0.0;

    count_buckets(sorter);
    keep = s->top_k == 0 || s->top_k > sorter->finite ? sorter->finite : s->top_k;
    if (s->top_p < 1.0f && keep == sorter->finite) {
        weights_of_all(sorter->logits, sorter->vocab, s->temperature, largest, all);
        for (uint32_t i = 0; i < sorter->vocab; i++)
            total += (double)all[i];
    }
    for (uint32_t want = NEF_MIN(keep, FEW);; want = want > keep / 16 ? keep : want * 16) {
        count = NEF_MIN(sort_likely(sorter, want), keep);
        weigh_sorted(sorter, count, largest, s->temperature, weights);
        if (keep < sorter->finite && count >= keep)
            return keep_part(weights, count, s->top_p);
        if (s->top_p < 1.0f && keep == sorter->finite) {
            uint32_t reached = reach(weights, count, (double)s->top_p, total);

            if (reached <= count)
                return reached;
        }
        if (count >= keep)
            return count; /* all of them: rounding of the sums kept top_p from being reached */
    }
}

nef_err nef_sample(const struct nef_sampling *s, const float *logits, uint32_t vocab, uint64_t position, void *scratch,
                   uint32_t *out_token)
{
    struct sorter sorter = {.logits = logits, .vocab = vocab, .entries = scratch};
    uint32_t best = 0, count, blocks = (vocab + BLOCK - 1) / BLOCK;
    float largest = -__builtin_inff(), least, threshold = largest;
    float *all, *weights, *maxima; /* by id; of the sorted ones; of blocks, until there are weights */
    double u;

    NEF_ASSERT(vocab > 0);
    sorter.spare = sorter.entries + vocab;
    all = (float *)(sorter.spare + vocab);
    weights = maxima = all + vocab + 1;
    sorter.counts = (uint32_t *)(weights + vocab + 1);
    if (!find_maxima(logits, vocab, maxima))
        return NEF_E_CORRUPT;
    for (uint32_t i = 0; i < blocks; i++)
        if (maxima[i] > largest) {
            largest = maxima[i];
            best = i * BLOCK;
        }
    if (!(largest > -__builtin_inff()) || !(largest < __builtin_inff()))
        return NEF_E_CORRUPT;
    if (!(s->temperature > 0.0f)) {
        while (logits[best] != largest)
            best++;
        *out_token = best;
        return NEF_OK;
    }
    u = nef_sampler_random(s->seed, position);
    least = s->min_p > 0.0f ? s->min_p : 0.0f; /* against the largest weight, which is 1 */
    if (least > 1.0f)
        least = 1.0f;
    if (s->top_k == 0 && s->top_p >= 1.0f) {
        weights_of_all(logits, vocab, s->temperature, largest, all);
        *out_token = draw_by_id(all, vocab, least, u);
        return NEF_OK;
    }
    if (s->top_k > 0 && s->top_k <= FEW)
        threshold = kth_largest(maxima, blocks, s->top_k);
    if (threshold > -__builtin_inff()) {
        count = take_from(&sorter, maxima, threshold);
        sort(sorter.entries, sorter.spare, count);
        count = NEF_MIN(count, s->top_k);
        weigh_sorted(&sorter, count, largest, s->temperature, weights);
        count = keep_part(weights, count, s->top_p);
    } else if (few_blocks(maxima, blocks)) {
        count = sort_few(s, &sorter, maxima, largest, weights);
    } else {
        count = sort_kept(s, &sorter, largest, all, weights);
    }
    *out_token = draw_sorted(sorter.entries, weights, count, least, u);
    return NEF_OK;
}
