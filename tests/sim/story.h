/* How a story is told (scenarios_test.c, catchup_test.c): one simulated region with a fixed seed and no weather,
 * requests of its own, and a trace whose words are compared. One region at a time. */
#ifndef NEF_SIM_STORY_H
#define NEF_SIM_STORY_H

#include "sim/sim.h"

extern struct sim *const s;

void region(uint32_t zones); /* that many zones up, all in sync, a leads, nothing under way */
void done(void);             /* nothing was violated; frees it */
void run(uint64_t ms);
uint32_t ask(uint32_t zone, enum op op, uint32_t key); /* a request that belongs to no client's loop; its index */
uint32_t put(uint32_t zone, uint32_t key);             /* and 100 ms */
uint32_t get(uint32_t zone, uint32_t key);             /* and 1 ms */
bool answered(uint32_t request);
void told(const char *text); /* each line of TEXT is in the trace, in this order */
void settle(void);           /* all becomes well within 30 s, and was right */

#endif
