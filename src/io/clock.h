/* Time. Two clocks, never mixed:
 *
 *   now    CLOCK_BOOTTIME: leases, timeouts, rates. Goes on while the machine is suspended, never steps.
 *   wall   what the customer's documents show: SigV4, Last-Modified, lifecycle. An offset to `now`, read
 *          from CLOCK_REALTIME once and from then on drawn slowly to it, so that a stepped system clock
 *          (NTP, an operator, a bad hypervisor) never steps the region's time. A difference above
 *          NEF_WALL_STEP_MS is not followed at all: which clock is wrong is decided with the peer's and
 *          the witness's help (nef_wall_decide), never by this machine alone.
 *
 * Any thread. */
#ifndef NEF_IO_CLOCK_H
#define NEF_IO_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define NEF_WALL_STEP_MS 60000 /* default tolerance (design section 4) */

uint64_t nef_now_ns(void);
static inline uint64_t nef_now_ms(void)
{
    return nef_now_ns() / 1000000;
}

/* Milliseconds since 1970. Never steps back by more than a millisecond, but for nef_wall_adjust. */
uint64_t nef_wall_ms(void);

/* Take over another clock: adds DELTA_MS to the wall time at once. */
void nef_wall_adjust(int64_t delta_ms);

/* CLOCK_REALTIME minus the wall time: what the wall time doesn't follow, or not yet. For metrics. */
int64_t nef_wall_behind_ms(void);

/* ---- pure decisions ---- */

/* A clock as read at the same moment as the others (a remote one: plus half the round trip). */
struct nef_wall_sample {
    bool known;
    uint64_t ms;
};

enum nef_wall_verdict {
    NEF_WALL_GOOD,    /* nobody known differs, or one of two differs: that one is the wrong one */
    NEF_WALL_UNSURE,  /* the only other clock known differs, or all three differ: keep ours and warn */
    NEF_WALL_OUTVOTED /* peer and witness agree with each other and not with us: take theirs and warn */
};

struct nef_wall_decision {
    enum nef_wall_verdict verdict;
    int64_t adjust_ms; /* for nef_wall_adjust; not 0 only if OUTVOTED: the middle of theirs minus ours */
    bool warn;         /* tell the operator */
};

/* tolerance_ms > 0: clocks that differ by no more agree. */
struct nef_wall_decision nef_wall_decide(uint64_t own_ms, struct nef_wall_sample peer,
                                         struct nef_wall_sample witness, uint64_t tolerance_ms);

/* The offset after ELAPSED_NS of drawing OFFSET_NS towards TARGET_NS at NEF_WALL_SLEW_PPM; OFFSET_NS itself
 * if they differ by more than NEF_WALL_STEP_MS. */
#define NEF_WALL_SLEW_PPM 500
int64_t nef_wall_slew(int64_t offset_ns, int64_t target_ns, uint64_t elapsed_ns);

#endif
