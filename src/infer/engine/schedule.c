/* Rows of a batch; see schedule.h. */
#include "infer/engine/schedule.h"
#include "base/assert.h"
#include "base/limits.h"

static uint32_t give_decoding(const uint32_t *left, uint32_t count, uint64_t turn, uint32_t *out_rows)
{
    uint32_t decoding = 0, given = 0, skip, at = 0;

    for (uint32_t i = 0; i < count; i++)
        decoding += left[i] == 1;
    if (decoding == 0)
        return 0;
    /* With more than a batch holds, each turn begins where the last one ended. */
    skip = decoding <= NEF_BATCH_ROWS_MAX ? 0 : (uint32_t)(turn % decoding * NEF_BATCH_ROWS_MAX % decoding);
    for (uint32_t i = 0; i < count; i++) {
        if (left[i] != 1)
            continue;
        if ((at + decoding - skip) % decoding < NEF_BATCH_ROWS_MAX) {
            out_rows[i] = 1;
            given++;
        }
        at++;
    }
    return given;
}

void nef_schedule(const uint32_t *left, uint32_t count, uint64_t turn, uint32_t *out_rows)
{
    uint32_t budget, given, oldest = count, prompts = 0, first;

    NEF_ASSERT(count > 0 && count <= NEF_ENGINE_SLOTS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        NEF_ASSERT(left[i] > 0);
        out_rows[i] = 0;
        if (left[i] == 1)
            continue;
        oldest = NEF_MIN(oldest, i);
        prompts++;
    }
    given = give_decoding(left, count, turn, out_rows);
    budget = NEF_BATCH_ROWS_MAX - given;
    if (given > 0)
        budget = NEF_MIN(budget, NEF_PROMPT_ROWS_BESIDE);
    if (prompts == 0 || budget == 0)
        return;
    first = NEF_MIN(left[oldest], prompts == 1 ? budget : (budget + 1) / 2);
    out_rows[oldest] = first;
    budget -= first;
    for (uint32_t n = 1; n < prompts && budget > 0; n++) {
        uint32_t least = count;

        for (uint32_t i = oldest + 1; i < count; i++)
            if (left[i] > 1 && out_rows[i] == 0 && (least == count || left[i] < left[least]))
                least = i;
        out_rows[least] = NEF_MIN(left[least], budget);
        budget -= out_rows[least];
    }
    out_rows[oldest] += NEF_MIN(left[oldest] - first, budget);
}
