/* The read gate (R5): which reads must wait for commit and apply, and until where. PURE.
 *
 * A cell's gate remembers, for the ops between `applied` and the log end, their 16-byte key tag and the
 * offset at which each ends. A reader asks when it arrives; if an op that may already be acknowledged to
 * somebody touches its key, it must wait until apply has passed that op. On a backup that is any op below
 * its durable end, on a primary any op below commit (a backup may have applied and answered it already).
 * Using the log end for both is also right, only slower; callers pass the bound they note on arrival, or,
 * if they may not serve then (SERVE), at the first moment when they may: a process that is starting or
 * returning can be behind what was acknowledged and not know it.
 *
 * Threads: none of its own; the runtime guards each cell's gate with a mutex. Memory: fixed, from the
 * caller. When more ops are waiting than the table holds, everything waits (reads never go wrong, they
 * get slower): `overflow_until`. */
#ifndef NEF_REPL_GATE_H
#define NEF_REPL_GATE_H

#include <stdbool.h>
#include <stdint.h>

struct nef_gate;

uint64_t nef_gate_bytes(uint32_t entries_max);
struct nef_gate *nef_gate_init(void *memory, uint32_t entries_max, uint64_t applied);

/* An op with this tag now stands in the log and ends at END. All-zero tag: touches every key (bucket
 * ops). Ends rise from call to call. Called before the op's bytes can be acknowledged by anybody. */
void nef_gate_mark(struct nef_gate *gate, const uint8_t tag[16], uint64_t end);
/* The log was cut at TO: forget marks that end above it. */
void nef_gate_cut(struct nef_gate *gate, uint64_t to);
/* Everything below APPLIED has been applied to the index that readers see. */
void nef_gate_applied(struct nef_gate *gate, uint64_t applied);

/* Offset that apply must have passed before a read may look: 0 if it may look now. tag NULL: a listing,
 * touched by every op. bound: ops that end above it don't matter to this reader. */
uint64_t nef_gate_wait(const struct nef_gate *gate, const uint8_t tag[16], uint64_t bound);

#endif
