/* Which sequences get how many rows of the next batch. PURE. */
#ifndef NEF_INFER_SCHEDULE_H
#define NEF_INFER_SCHEDULE_H

#include <stdint.h>
#include "infer/model/model.h"

/* Prompt rows of a batch in which somebody decodes: what a stream waits longer for its next token when prompts are
 * computed beside it. Weights are read once for all rows, so far fewer would waste most of the machine. */
#define NEF_PROMPT_ROWS_BESIDE 256u

/* left[i]: tokens of sequence i that aren't computed yet (1 or more), oldest sequence first. turn: a number that grows
 * by one with each batch. Writes how many of each go into this batch; their sum is 1 .. NEF_BATCH_ROWS_MAX.
 *
 *   1. every sequence that lacks one token (it decodes) gets its row; if there are more than rows, they take turns;
 *   2. of the rest the oldest prompt gets half, so that long ones go on whatever arrives;
 *   3. the other half goes to the prompts that need least, so that a short one doesn't wait for long ones;
 *   4. what is left over goes to the oldest again. */
void nef_schedule(const uint32_t *left, uint32_t count, uint64_t turn, uint32_t *out_rows);

#endif
