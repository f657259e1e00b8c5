/* Linearizability of the history of one key (Wing and Gong 1993, with Lowe's memo of visited states).
 *
 * Search for an order of the requests that respects real time and in which each answer is what a single
 * copy would have given. An unknown write may stand anywhere after its invocation, or nowhere. A state of the
 * search is (set of requests placed, value); a state seen before isn't entered again. A read that fits is
 * placed at once: it changes nothing, so placing it early can't hurt. */
#include "sim/sim.h"

#include <stdlib.h>

#define STATES_MAX (1u << 20)
#define UNSEEN     UINT32_MAX /* a value that no answer names: one stands for all of them */

struct set {
    uint64_t low, high;
};

struct visited {
    struct set set;
    uint32_t value;
    bool used;
};

struct search {
    const struct request *at[OPS_OF_KEY_MAX + CLIENTS_MAX]; /* by time of invocation */
    uint32_t writes[OPS_OF_KEY_MAX + CLIENTS_MAX];          /* the value each writes, or UNSEEN */
    uint32_t count;
    struct visited *visited;
    uint32_t visited_count, visited_capacity;
    bool gave_up;
};

static bool has(struct set s, uint32_t i)
{
    return (i < 64 ? s.low >> i : s.high >> (i - 64)) & 1;
}

static struct set with(struct set s, uint32_t i)
{
    if (i < 64)
        s.low |= 1ull << i;
    else
        s.high |= 1ull << (i - 64);
    return s;
}

static uint64_t hash(struct set s, uint32_t value)
{
    uint64_t h = s.low * 0x9e3779b97f4a7c15u ^ (s.high + value) * 0xc2b2ae3d27d4eb4fu;

    return h ^ h >> 29;
}

static bool enter(struct search *q, struct set s, uint32_t value);

static void grow(struct search *q)
{
    struct visited *old = q->visited;
    uint32_t old_capacity = q->visited_capacity;

    q->visited_capacity = old_capacity ? 2 * old_capacity : 1024;
    q->visited = calloc(q->visited_capacity, sizeof *q->visited);
    NEF_ASSERT(q->visited);
    q->visited_count = 0;
    for (uint32_t i = 0; i < old_capacity; i++)
        if (old[i].used)
            (void)enter(q, old[i].set, old[i].value);
    free(old);
}

static bool enter(struct search *q, struct set s, uint32_t value)
{
    uint64_t i;

    if (2 * q->visited_count >= q->visited_capacity)
        grow(q);
    for (i = hash(s, value) % q->visited_capacity; q->visited[i].used;
         i = (i + 1) % q->visited_capacity)
        if (q->visited[i].set.low == s.low && q->visited[i].set.high == s.high &&
            q->visited[i].value == value)
            return false;
    q->visited[i] = (struct visited){s, value, true};
    q->visited_count++;
    return true;
}

/* What placing request R on VALUE gives; false if its answer says otherwise. */
static bool apply(const struct request *r, uint32_t writes, uint32_t value, uint32_t *out)
{
    bool known = r->returned != UINT64_MAX, holds = true;

    switch ((enum op)r->op) {
    case OP_GET:
        *out = value;
        return r->result == value;
    case OP_CREATE:
        holds = value == 0;
        break;
    case OP_REPLACE:
        holds = value == r->expected;
        break;
    case OP_PUT:
    case OP_DELETE:
    case OP_NONE:
        break;
    }
    if (known && r->failed == holds)
        return false;
    if (!known && !holds)
        return false; /* it would change nothing: as well nowhere */
    *out = holds ? writes : value;
    return true;
}

static bool search(struct search *q, struct set placed, uint32_t value)
{
    uint64_t first_return;
    bool all, again;

    do { /* reads that fit */
        again = false;
        all = true;
        first_return = UINT64_MAX;
        for (uint32_t i = 0; i < q->count; i++)
            if (!has(placed, i)) {
                first_return = NEF_MIN(first_return, q->at[i]->returned);
                all = all && q->at[i]->returned == UINT64_MAX;
            }
        for (uint32_t i = 0; i < q->count && !again; i++)
            if (!has(placed, i) && q->at[i]->op == OP_GET && q->at[i]->invoked <= first_return &&
                q->at[i]->result == value) {
                placed = with(placed, i);
                again = true;
            }
    } while (again);
    if (all)
        return true;
    if (q->gave_up || !enter(q, placed, value))
        return false;
    if (q->visited_count > STATES_MAX) {
        q->gave_up = true;
        return false;
    }
    /* What has an answer first, and of the rest only what has an effect: nearly every history has an order
     * that needs few of its unknown writes. */
    for (uint32_t pass = 0; pass < 2; pass++) {
        uint32_t tried[OP_GET + 1] = {0};

        for (uint32_t i = 0; i < q->count; i++) {
            const struct request *r = q->at[i];
            bool known = r->returned != UINT64_MAX;
            uint32_t next;

            if (has(placed, i) || r->op == OP_GET || r->invoked > first_return ||
                known != (pass == 0) || !apply(r, q->writes[i], value, &next) ||
                (!known && next == value))
                continue;
            /* Unknown writes with the same effect are interchangeable: the earliest stands for all. */
            if (!known && r->op != OP_REPLACE && (next == 0 || next == UNSEEN) && tried[r->op]++ > 0)
                continue;
            if (search(q, with(placed, i), next))
                return true;
        }
    }
    return false;
}

static uint32_t written(const struct search *q, uint32_t i)
{
    uint32_t value = q->at[i]->value;

    if (value == 0)
        return 0;
    for (uint32_t j = 0; j < q->count; j++)
        if ((q->at[j]->op == OP_GET && q->at[j]->result == value) ||
            (q->at[j]->op == OP_REPLACE && q->at[j]->expected == value))
            return value;
    return UNSEEN;
}

bool linearizable(struct sim *s, uint32_t key)
{
    struct search q = {0};
    bool good;

    for (uint32_t i = 0; i < s->request_count; i++) {
        const struct request *r = &s->requests[i];

        if (r->key != key || r->dropped || (r->op == OP_GET && r->returned == UINT64_MAX))
            continue;
        NEF_ASSERT(q.count < NEF_COUNT(q.at) && q.count < 128);
        q.at[q.count++] = r;
    }
    for (uint32_t i = 0; i < q.count; i++)
        q.writes[i] = written(&q, i);
    good = search(&q, (struct set){0}, 0);
    if (!good)
        sim_fail(s, q.gave_up ? "history of key %u is too wide to check"
                              : "history of key %u isn't linearizable", key);
    for (uint32_t i = 0; !good && i < q.count; i++)
        sim_trace(s, NULL, "  request %u op %u value %u expected %u%s: %.3f .. %.3f, read %u%s",
                  (uint32_t)(q.at[i] - s->requests), q.at[i]->op, q.at[i]->value,
                  q.at[i]->expected, q.at[i]->failed ? " refused" : "",
                  (double)q.at[i]->invoked / 1e6,
                  q.at[i]->returned == UINT64_MAX ? -1.0 : (double)q.at[i]->returned / 1e6,
                  q.at[i]->result, q.at[i]->node == 0 ? " at a" : " at b");
    free(q.visited);
    return good;
}
