/* The simulator's queue of events, its random numbers and its trace. Equal times are served in the order
 * in which they were scheduled, so that a seed is a run. */
#include "sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

/* xoshiro256** (Blackman, Vigna), seeded by splitmix64. */
static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

uint64_t sim_random(struct sim *s)
{
    uint64_t *r = s->random;
    uint64_t result = rotl(r[1] * 5, 7) * 9, t = r[1] << 17;

    r[2] ^= r[0];
    r[3] ^= r[1];
    r[1] ^= r[2];
    r[0] ^= r[3];
    r[2] ^= t;
    r[3] = rotl(r[3], 45);
    return result;
}

uint64_t sim_below(struct sim *s, uint64_t n)
{
    return n == 0 ? 0 : sim_random(s) % n;
}

uint64_t sim_between(struct sim *s, uint64_t low, uint64_t high)
{
    return low + sim_below(s, high - low + 1);
}

bool sim_chance(struct sim *s, double p)
{
    return (double)(sim_random(s) >> 11) * 0x1p-53 < p;
}

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->time < b->time || (a->time == b->time && a->sequence < b->sequence);
}

struct sim_event *sim_at(struct sim *s, uint64_t time, enum sim_event_type type)
{
    uint32_t i;
    struct sim_event ev = {.time = NEF_MAX(time, s->now), .sequence = ++s->sequence, .type = type};

    if (s->heap_count == s->heap_capacity) {
        s->heap_capacity = s->heap_capacity ? 2 * s->heap_capacity : 1024;
        s->heap = realloc(s->heap, s->heap_capacity * sizeof *s->heap);
        NEF_ASSERT(s->heap);
    }
    for (i = s->heap_count++; i > 0 && before(&ev, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = ev;
    return &s->heap[i]; /* the caller fills what doesn't order it, before the next call */
}

bool sim_pop(struct sim *s, struct sim_event *out)
{
    struct sim_event last;
    uint32_t i = 0;

    if (s->heap_count == 0)
        return false;
    *out = s->heap[0];
    last = s->heap[--s->heap_count];
    for (;;) {
        uint32_t child = 2 * i + 1;

        if (child >= s->heap_count)
            break;
        if (child + 1 < s->heap_count && before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!before(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return true;
}

void sim_trace(struct sim *s, const struct node *n, const char *format, ...)
{
    char line[512];
    int at;
    va_list args;

    if (!s->trace_print && !s->trace)
        return;
    at = snprintf(line, sizeof line, "[%7.1f] %c > ", (double)s->now / 1e6, n ? n->name : '-');
    va_start(args, format);
    vsnprintf(line + at, sizeof line - (size_t)at - 2, format, args);
    va_end(args);
    strcat(line, "\n");
    if (s->trace_print)
        fputs(line, stdout);
    if (s->trace) {
        uint32_t bytes = (uint32_t)strlen(line);

        if (s->trace_bytes + bytes + 1 > s->trace_capacity) {
            s->trace_capacity = 2 * s->trace_capacity + bytes + 4096;
            s->trace = realloc(s->trace, s->trace_capacity);
            NEF_ASSERT(s->trace);
        }
        memcpy(s->trace + s->trace_bytes, line, bytes + 1);
        s->trace_bytes += bytes;
    }
}

void sim_fail(struct sim *s, const char *format, ...)
{
    va_list args;

    if (s->failed)
        return; /* the first is the cause */
    s->failed = true;
    va_start(args, format);
    vsnprintf(s->failure, sizeof s->failure, format, args);
    va_end(args);
    sim_trace(s, NULL, "FAILED: %s", s->failure);
}
