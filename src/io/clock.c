/* Clocks; see clock.h.
 *
 * The wall offset is one atomic, drawn to CLOCK_REALTIME by whoever asks for the wall time first
 * after SLEW_EVERY_NS: no thread, no timer, no lock. Concurrent callers may see the offset from
 * before or after such a step, which differ by microseconds. */
#include "io/clock.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include "base/assert.h"

#define NS_PER_MS     1000000
#define SLEW_EVERY_NS 100000000u /* 100 ms: a step of 50 us at 500 ppm */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic int64_t wall_offset_ns; /* wall = now + offset; relaxed: it orders nothing else */
static _Atomic uint64_t
    wall_slewed_ns; /* when it was last drawn; relaxed, a compare-and-swap elects */

static uint64_t read_clock(clockid_t id)
{
    struct timespec t;

    NEF_ASSERT(clock_gettime(id, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t nef_now_ns(void)
{
    return read_clock(CLOCK_BOOTTIME);
}

static int64_t real_offset_ns(void)
{
    return (int64_t)(read_clock(CLOCK_REALTIME) - read_clock(CLOCK_BOOTTIME));
}

static void wall_start(void)
{
    atomic_store_explicit(&wall_offset_ns, real_offset_ns(), memory_order_relaxed);
    atomic_store_explicit(&wall_slewed_ns, nef_now_ns(), memory_order_relaxed);
}

int64_t nef_wall_slew(int64_t offset_ns, int64_t target_ns, uint64_t elapsed_ns)
{
    int64_t difference = target_ns - offset_ns;
    int64_t most = (int64_t)(NEF_MIN(elapsed_ns, (uint64_t)INT64_MAX / NEF_WALL_SLEW_PPM) *
                             NEF_WALL_SLEW_PPM / 1000000u);

    if (llabs(difference) > (int64_t)NEF_WALL_STEP_MS * NS_PER_MS)
        return offset_ns;
    if (difference > most)
        return offset_ns + most;
    if (difference < -most)
        return offset_ns - most;
    return target_ns;
}

uint64_t nef_wall_ms(void)
{
    uint64_t now, last;

    (void)pthread_once(&once, wall_start); /* can't fail */
    now = nef_now_ns();
    last = atomic_load_explicit(&wall_slewed_ns, memory_order_relaxed);
    if (now > last && now - last >= SLEW_EVERY_NS &&
        atomic_compare_exchange_strong_explicit(&wall_slewed_ns, &last, now, memory_order_relaxed,
                                                memory_order_relaxed)) {
        int64_t offset = atomic_load_explicit(&wall_offset_ns, memory_order_relaxed);

        /* add the difference, so that an adjustment made meanwhile isn't lost */
        atomic_fetch_add_explicit(&wall_offset_ns,
                                  nef_wall_slew(offset, real_offset_ns(), now - last) - offset,
                                  memory_order_relaxed);
    }
    return (now + (uint64_t)atomic_load_explicit(&wall_offset_ns, memory_order_relaxed)) /
           NS_PER_MS;
}

void nef_wall_adjust(int64_t delta_ms)
{
    (void)pthread_once(&once, wall_start);
    atomic_fetch_add_explicit(&wall_offset_ns, delta_ms * NS_PER_MS, memory_order_relaxed);
}

int64_t nef_wall_behind_ms(void)
{
    (void)pthread_once(&once, wall_start);
    return (real_offset_ns() - atomic_load_explicit(&wall_offset_ns, memory_order_relaxed)) /
           NS_PER_MS;
}

static bool agree(uint64_t a, uint64_t b, uint64_t tolerance)
{
    return (a > b ? a - b : b - a) <= tolerance;
}

struct nef_wall_decision nef_wall_decide(uint64_t own_ms, struct nef_wall_sample peer,
                                         struct nef_wall_sample witness, uint64_t tolerance_ms)
{
    struct nef_wall_decision good = {NEF_WALL_GOOD, 0, false};
    struct nef_wall_decision unsure = {NEF_WALL_UNSURE, 0, true};
    bool with_peer = peer.known && agree(own_ms, peer.ms, tolerance_ms);
    bool with_witness = witness.known && agree(own_ms, witness.ms, tolerance_ms);
    uint64_t low, middle;

    NEF_ASSERT(tolerance_ms > 0);
    if (with_peer || with_witness || (!peer.known && !witness.known))
        return good;
    if (!peer.known || !witness.known || !agree(peer.ms, witness.ms, tolerance_ms))
        return unsure;
    low = NEF_MIN(peer.ms, witness.ms);
    middle = low + (NEF_MAX(peer.ms, witness.ms) - low) / 2;
    return (struct nef_wall_decision){NEF_WALL_OUTVOTED, (int64_t)(middle - own_ms), true};
}
