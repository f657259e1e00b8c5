/* What the stories share; see story.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include "sim/story.h"

static struct sim sim;
struct sim *const s = &sim;

/* Two or three zones up, all in sync, a primary, nothing under way. */
void region(uint32_t zones)
{
    sim_init(s, 1, zones);
    s->trace = calloc(1, 1);
    s->client_count = 0;
    for (uint32_t i = 0; i < zones; i++)
        node_start(&s->nodes[i]);
    sim_run_until(s, 2 * SECOND);
    assert_false(s->failed);
    assert_int_equal(__builtin_popcount(s->etcd.group.in_sync), zones);
    assert_true(s->nodes[0].repl->won);
    s->trace_bytes = 0;
}

void done(void)
{
    if (s->failed)
        print_error("%s\n%s\n", s->trace, s->failure);
    assert_false(s->failed);
    sim_free(s);
}

void run(uint64_t ms)
{
    sim_run_until(s, s->now + ms * MS);
}

/* A request at ZONE; its index. Scenario requests belong to no client loop. */
uint32_t ask(uint32_t zone, enum op op, uint32_t key)
{
    s->clients[CLIENTS_MAX - 1].node = zone;
    return request_start(s, CLIENTS_MAX - 1, op, key, 0);
}

uint32_t put(uint32_t zone, uint32_t key)
{
    uint32_t i = ask(zone, OP_PUT, key);

    run(100);
    return i;
}

bool answered(uint32_t request)
{
    return s->requests[request].returned != UINT64_MAX;
}

uint32_t get(uint32_t zone, uint32_t key)
{
    uint32_t i = ask(zone, OP_GET, key);

    run(1);
    return i;
}

/* Each line of TEXT is in the trace, in this order. */
void told(const char *text)
{
    const char *at = s->trace;

    while (*text) {
        char line[256];
        size_t n = strcspn(text, "\n");

        assert_true(n < sizeof line);
        memcpy(line, text, n);
        line[n] = 0;
        text += n + (text[n] == '\n');
        at = strstr(at, line);
        if (!at) {
            (void)fprintf(stderr, "not told: %s\nin:\n%s\n", line, s->trace); /* print_error cuts it off */
            fail();
        }
        at += n;
    }
}

void settle(void)
{
    uint64_t limit = s->now + 30 * SECOND;

    while (!s->failed && s->now < limit && !sim_settled(s))
        sim_run_until(s, s->now + 50 * MS);
    if (!s->failed)
        assert_true(sim_settled(s));
    check_end(s);
    for (uint32_t k = 0; k < KEYS; k++)
        assert_true(linearizable(s, k));
}
