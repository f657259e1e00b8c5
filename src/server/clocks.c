/* This zone's clock beside those of peer and witness (design section 4: a zone that differs from both takes theirs).
 *
 * Each zone tells its peer the time every second over the link, and asks the witness every five; what is kept is the
 * difference, for the times themselves would age. io/clock.h decides.
 *
 * A process that starts believes the machine's clock, and that may be wrong by an hour. Until it was compared it
 * answers no request (503): else requests of clients with good clocks would be refused as skewed, and worse, those of
 * an attacker with an old signature taken. One other clock that agrees suffices; where one disagrees the other one is
 * waited for, because two decide. But not for ever: a zone whose peer is lost and whose witness is away may serve
 * alone (R8), and then nobody knows better than its own clock. */
#include <jansson.h>
#include <stdio.h>
#include <time.h>
#include "base/bytes.h"
#include "base/trace.h"
#include "io/clock.h"
#include "io/http_client.h"
#include "server/runtime_internal.h"

#define ROUND_NS         100000000ull
#define PEER_ROUNDS      10u
#define WITNESS_ROUNDS   50u
#define WITNESS_HURRY    5u            /* until the first comparison */
#define WITNESS_MS       500
#define ALONE_NS         5000000000ull /* after a start: as long as a request is held */

struct clocks {
    struct nef_runtime *rt;
    uint64_t round, started_ns;
    bool witness_known;
    int64_t witness_difference; /* its wall time minus ours */
    bool warned;
};

static void ask_witness(struct clocks *c)
{
    char url[512];
    struct nef_http_call call = {.url = url, .timeout_ms = WITNESS_MS, .ca = c->rt->config->tls.ca};
    struct nef_http_answer answer = {.status = 0};
    uint64_t before, after;
    json_t *root;

    if (c->rt->config->witness.address == NULL)
        return;
    (void)snprintf(url, sizeof(url), "%s/time", c->rt->config->witness.address);
    before = nef_wall_ms();
    c->witness_known = false;
    if (nef_http_do(&call, &answer) == NEF_OK && answer.status == 200) {
        after = nef_wall_ms();
        root = json_loadb((const char *)answer.body.data, answer.body.bytes, 0, NULL);
        if (json_is_integer(json_object_get(root, "wall_ms"))) {
            c->witness_known = true;
            c->witness_difference = json_integer_value(json_object_get(root, "wall_ms")) -
                                    (int64_t)(before + (after - before) / 2);
        }
        json_decref(root);
    }
    atomic_store(&c->rt->witness_seen, c->witness_known ? NEF_SEEN_YES : NEF_SEEN_NO);
    nef_buf_free(&answer.body);
}

static void tell_peers(struct nef_runtime *rt)
{
    for (uint32_t i = 0; i < rt->link_count; i++)
        link_send_clock(&rt->links[i]);
}

static bool agrees(uint64_t own, const struct nef_wall_sample *other, uint64_t tolerance_ms)
{
    uint64_t far = other->ms > own ? other->ms - own : own - other->ms;

    return other->known && far <= tolerance_ms;
}

/* Is it decided which clock is right? */
static void settle(struct clocks *c, uint64_t own, const struct nef_wall_sample *peer,
                   const struct nef_wall_sample *witness)
{
    struct nef_runtime *rt = c->rt;
    uint64_t tolerance_ms = rt->config->clock.tolerance_ns / 1000000;
    bool compared = agrees(own, peer, tolerance_ms) || agrees(own, witness, tolerance_ms) ||
                    (peer->known && witness->known);

    if (!compared && now_ns() - c->started_ns < ALONE_NS)
        return;
    if (!compared)
        nef_trace(NEF_TRACE_WARN, "clock_not_compared", "s:peer", peer->known ? "differs" : "away", "s:witness",
                  witness->known ? "differs" : "away", NULL);
    atomic_store(&rt->clock_settled, true);
}

static void check(struct clocks *c)
{
    struct nef_runtime *rt = c->rt;
    struct nef_wall_sample peer = {.known = false}, witness = {.known = c->witness_known};
    struct nef_wall_decision d;
    uint64_t own = nef_wall_ms();

    for (uint32_t i = 0; i < rt->link_count; i++) {
        int64_t difference = atomic_load(&rt->links[i].clock_difference_ms);

        if (difference != INT64_MIN) {
            peer.known = true;
            peer.ms = (uint64_t)((int64_t)own + difference);
        }
    }
    witness.ms = (uint64_t)((int64_t)own + c->witness_difference);
    d = nef_wall_decide(own, peer, witness, rt->config->clock.tolerance_ns / 1000000);
    if (d.adjust_ms != 0) {
        nef_wall_adjust(d.adjust_ms);
        c->witness_known = false; /* measured against the old clock */
        for (uint32_t i = 0; i < rt->link_count; i++)
            atomic_store(&rt->links[i].clock_difference_ms, INT64_MIN);
        nef_trace(NEF_TRACE_ERROR, "clock_adjusted", "i:by_ms", d.adjust_ms, NULL);
    } else if (d.warn && !c->warned) {
        nef_trace(NEF_TRACE_WARN, "clocks_differ", "i:peer_ms", peer.known ? (int64_t)(peer.ms - own) : 0,
                  "i:witness_ms", witness.known ? c->witness_difference : 0, NULL);
    }
    c->warned = d.warn;
    if (!atomic_load(&rt->clock_settled))
        settle(c, own, &peer, &witness); /* both known: taken or not, it is decided */
}

void *clocks_main(void *argument)
{
    struct nef_runtime *rt = argument;
    struct clocks c = {.rt = rt, .started_ns = now_ns()};

    thread_name("clocks");
    while (!atomic_load(&rt->stopping)) {
        struct timespec pause = {0, (long)ROUND_NS};
        bool settled = atomic_load(&rt->clock_settled);

        if (c.round % (settled ? WITNESS_ROUNDS : WITNESS_HURRY) == 0)
            ask_witness(&c);
        if (c.round % PEER_ROUNDS == 5)
            tell_peers(rt);
        if (!settled || c.round % PEER_ROUNDS == 5)
            check(&c);
        c.round++;
        (void)nanosleep(&pause, NULL);
    }
    return NULL;
}
