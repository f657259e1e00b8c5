/* Fairness between tenants: counters, claims of slots, and a model of the engine's queue with random tenants, weights,
 * slots and requests, of which everybody must be served by weight and nobody may starve. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"
#include "infer/engine/schedule.h"
#include "infer/engine/share.h"

static struct nef_tenant *tenant(struct nef_shares *s, uint64_t id, uint32_t weight)
{
    struct nef_tenant *t = NULL;

    assert_int_equal(nef_shares_find(s, id, weight, &t), NEF_OK);
    return t;
}

static void arrive(struct nef_shares *s, struct nef_tenant *t, uint64_t number)
{
    nef_shares_contend(s, t);
    if (t->waiting++ == 0)
        t->number = number;
}

static void leave(struct nef_shares *s, struct nef_tenant *t)
{
    t->waiting = 0;
    while (t->contending > 0)
        nef_shares_content(s, t);
}

static void who_stays_away_saves_nothing_up(void **state)
{
    struct nef_shares s = {0};
    struct nef_tenant *a = tenant(&s, 1, 1), *b;

    (void)state;
    arrive(&s, a, 0);
    nef_shares_charge(a, 5000);
    b = tenant(&s, 2, 1);
    arrive(&s, b, 1); /* comes late: from here on both are equal */
    assert_true(b->served == a->served);
    assert_ptr_equal(nef_shares_next(&s), a);
    nef_shares_charge(a, 1);
    assert_ptr_equal(nef_shares_next(&s), b);
    nef_shares_charge(b, 100); /* goes, and comes back at once: what it had isn't forgotten */
    leave(&s, b);
    b = tenant(&s, 2, 1);
    arrive(&s, b, 2);
    assert_true(b->served == a->served + 99ull * NEF_SHARE_UNIT);
    a->priority = 0;
    b->priority = 1;
    assert_ptr_equal(nef_shares_next(&s), b); /* a higher priority goes before any counter */
    leave(&s, a);
    leave(&s, b);
    assert_null(nef_shares_next(&s));
    nef_shares_done(&s);
}

static void weights_divide(void **state)
{
    struct nef_shares s = {0};
    struct nef_tenant *a = tenant(&s, 1, 1), *b;

    (void)state;
    a->running = 1;
    b = tenant(&s, 2, 1000);
    nef_shares_charge(a, 1);
    nef_shares_charge(b, 1000);
    assert_in_range(a->served - b->served, 0, 1000); /* rounding */
    assert_ptr_equal(tenant(&s, 2, 7), b); /* the latest request says the weight */
    assert_int_equal(b->weight, 7);
    a->running = 0;
    nef_shares_done(&s);
}

static void idle_tenants_are_forgotten(void **state)
{
    struct nef_shares s = {0};
    struct nef_tenant *a = tenant(&s, 1, 1);

    (void)state;
    arrive(&s, a, 0);
    nef_shares_charge(a, 10);
    for (uint64_t id = 2; id < 20000; id++) { /* each has more than the one that contends, and goes */
        struct nef_tenant *t = tenant(&s, id, 1);

        arrive(&s, t, id);
        nef_shares_charge(t, 5);
        leave(&s, t);
    }
    assert_in_range(s.count, 2, NEF_ENGINE_IDLE_TENANTS_MAX + 3);
    nef_shares_charge(a, 1000000); /* now they are behind: their counters say nothing */
    (void)tenant(&s, 99999, 1);
    assert_int_equal(s.count, 2);
    leave(&s, a);
    nef_shares_done(&s);
}

static void slots_are_claimed_up_to_the_share(void **state)
{
    struct nef_shares s = {0};
    struct nef_tenant *a = tenant(&s, 1, 1), *b, *of = NULL;
    uint32_t moved = 0;

    (void)state;
    a->running = 32;
    arrive(&s, a, 0);
    b = tenant(&s, 2, 1);
    assert_null(nef_shares_claim(&s, 32, &of)); /* nobody else */
    for (uint32_t i = 0; i < 100; i++)
        arrive(&s, b, 1);
    while (nef_shares_claim(&s, 32, &of) == b) {
        assert_ptr_equal(of, a);
        of->running--;
        b->running++;
        moved++;
    }
    assert_int_equal(moved, 16);
    b->running = 3; /* of a tenant that had more than the other nothing is taken */
    a->running = 29;
    nef_shares_charge(b, 1);
    assert_null(nef_shares_claim(&s, 32, &of));
    b->running = 0; /* more tenants than slots: a slice each */
    a->running = 1;
    assert_null(nef_shares_claim(&s, 1, &of));
    nef_shares_charge(a, NEF_SHARE_SLICE);
    assert_null(nef_shares_claim(&s, 1, &of));
    nef_shares_charge(a, 1);
    assert_ptr_equal(nef_shares_claim(&s, 1, &of), b);
    assert_ptr_equal(of, a);
    a->running = b->running = 0;
    leave(&s, a);
    leave(&s, b);
    nef_shares_done(&s);
}

/* ---- a model of the engine ---- */

#define TENANTS_MAX 8
#define SLOTS_MAX   96
#define REQUEST_ROWS_MAX 2700ull
#define QUEUE       3 /* requests that each tenant has waiting, always */

struct sequence {
    uint32_t tenant, left, answer; /* tokens of the prompt not computed yet, with the last one generated; to come */
    uint32_t waited;
    uint64_t number;
    uint64_t asked; /* rows that its tenant had when it came */
};
struct world {
    uint64_t random;
    struct nef_shares shares;
    struct nef_tenant *tenants[TENANTS_MAX];
    uint32_t tenant_count, slots, prompt_rows;
    uint32_t long_prompts[TENANTS_MAX]; /* of four */
    uint64_t turn;
    struct sequence queues[TENANTS_MAX][SLOTS_MAX + QUEUE];
    uint32_t queued[TENANTS_MAX];
    struct sequence running[SLOTS_MAX];
    uint32_t count;
    uint64_t numbers, rows[TENANTS_MAX], claims;
};

static uint32_t draw(struct world *w, uint32_t below)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % below;
}

static void note(struct world *w, uint32_t t)
{
    w->tenants[t]->waiting = w->queued[t];
    w->tenants[t]->number = w->queued[t] > 0 ? w->queues[t][0].number : 0;
}

static void ask(struct world *w, uint32_t t)
{
    struct sequence *q = &w->queues[t][w->queued[t]++];

    *q = (struct sequence){.tenant = t, .answer = draw(w, 200), .number = w->numbers++, .asked = w->rows[t]};
    q->left = draw(w, 4) < w->long_prompts[t] ? 500 + draw(w, 2000) : 1 + draw(w, 60);
    nef_shares_contend(&w->shares, w->tenants[t]);
    note(w, t);
}

static void put_back(struct world *w, uint32_t i)
{
    struct sequence s = w->running[i];
    uint32_t t = s.tenant, at = 0;

    while (at < w->queued[t] && w->queues[t][at].number < s.number)
        at++;
    memmove(&w->queues[t][at + 1], &w->queues[t][at], (w->queued[t] - at) * sizeof(s));
    w->queues[t][at] = s;
    w->queued[t]++;
    w->tenants[t]->running--;
    w->count--;
    memmove(&w->running[i], &w->running[i + 1], (w->count - i) * sizeof(s));
    if (s.left <= 1)
        w->tenants[t]->contending++;
    note(w, t);
}

static void admit(struct world *w)
{
    for (;;) {
        struct nef_tenant *next = nef_shares_next(&w->shares), *of = NULL;
        uint32_t t;

        if (next != NULL && w->count == w->slots) {
            uint32_t youngest = SLOTS_MAX;

            next = nef_shares_claim(&w->shares, w->slots, &of);
            if (next != NULL) {
                for (uint32_t i = 0; i < w->count; i++)
                    if (w->tenants[w->running[i].tenant] == of &&
                        (youngest == SLOTS_MAX || w->running[i].number > w->running[youngest].number))
                        youngest = i;
                assert_true(youngest < SLOTS_MAX);
                put_back(w, youngest);
                w->claims++;
            }
        }
        if (next == NULL)
            return;
        t = (uint32_t)next->id;
        assert_true(w->queued[t] > 0);
        w->running[w->count++] = w->queues[t][0];
        w->running[w->count - 1].waited = 0;
        w->queued[t]--;
        memmove(&w->queues[t][0], &w->queues[t][1], w->queued[t] * sizeof(w->queues[t][0]));
        next->running++;
        note(w, t);
    }
}

static void batch(struct world *w)
{
    struct nef_want_tenant tenants[TENANTS_MAX];
    struct nef_want wants[SLOTS_MAX];
    uint32_t rows[SLOTS_MAX], sum = 0, kept = 0, count = w->count, tenant_count = 0;

    for (uint32_t t = 0; t < w->tenant_count; t++)
        w->tenants[t]->index = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        struct nef_tenant *t = w->tenants[w->running[i].tenant];

        if (t->index == UINT32_MAX) {
            t->index = tenant_count;
            tenants[tenant_count++] = (struct nef_want_tenant){t->served, t->weight};
        }
        wants[i] = (struct nef_want){w->running[i].left, t->index, w->running[i].waited};
    }
    nef_schedule(&(struct nef_schedule){wants, count, tenants, tenant_count, w->prompt_rows, w->turn++}, rows);
    for (uint32_t i = 0; i < count; i++) {
        struct sequence *s = &w->running[i];
        struct nef_tenant *t = w->tenants[s->tenant];
        bool prompt = s->left > 1;

        sum += rows[i];
        assert_true(rows[i] <= s->left);
        nef_shares_charge(t, rows[i]);
        w->rows[s->tenant] += rows[i];
        s->left -= rows[i];
        s->waited = rows[i] > 0 ? 0 : s->waited + 1;
        if (s->left == 0) {
            if (prompt || t->contending > w->queued[s->tenant]) {
                uint32_t contending = w->queued[s->tenant];

                for (uint32_t k = 0; k < count; k++)
                    contending += w->running[k].tenant == s->tenant && w->running[k].left > 1 && k != i;
                while (t->contending > contending)
                    nef_shares_content(&w->shares, t);
            }
            if (s->answer > 0) {
                s->answer--;
                s->left = 1;
            }
        }
    }
    assert_in_range(sum, 1, NEF_BATCH_ROWS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t t = w->running[i].tenant;

        if (w->running[i].left > 0) {
            w->running[kept++] = w->running[i];
            continue;
        }
        /* Nobody starves: half of its tenant's rows go to the oldest, and so many were older at most. */
        assert_true(w->rows[t] - w->running[i].asked <= 2 * (w->slots + QUEUE + 1) * REQUEST_ROWS_MAX);
        w->tenants[t]->running--;
    }
    w->count = kept;
    for (uint32_t t = 0; t < w->tenant_count; t++)
        while (w->queued[t] < QUEUE)
            ask(w, t);
}

/* Everybody always wants more: then each gets rows by its weight, whatever its requests look like. */
static void shares_converge_to_weights(void **state)
{
    static const uint32_t weights[] = {1, 1, 2, 3, 10};
    struct world *w = calloc(1, sizeof(*w));
    uint64_t claims = 0;

    (void)state;
    for (uint32_t seed = 1; seed <= 30; seed++) {
        double least = 1e30, most = 0;
        uint64_t total = 0;

        memset(w, 0, sizeof(*w));
        w->random = seed;
        w->tenant_count = 2 + draw(w, TENANTS_MAX - 1);
        w->slots = seed % 5 == 0 ? 1 + draw(w, w->tenant_count) : w->tenant_count + draw(w, SLOTS_MAX - TENANTS_MAX);
        w->prompt_rows = 32u << draw(w, 4);
        for (uint32_t t = 0; t < w->tenant_count; t++) {
            w->tenants[t] = tenant(&w->shares, t, weights[draw(w, NEF_COUNT(weights))]);
            w->long_prompts[t] = 1 + draw(w, 3);
            w->tenants[t]->waiting = 1; /* not to be forgotten while the others are made */
        }
        for (uint32_t t = 0; t < w->tenant_count; t++)
            while (w->queued[t] < QUEUE)
                ask(w, t);
        while (total < 2000000) {
            admit(w);
            batch(w);
            total = 0;
            for (uint32_t t = 0; t < w->tenant_count; t++)
                total += w->rows[t];
        }
        for (uint32_t t = 0; t < w->tenant_count; t++) {
            double share = (double)w->rows[t] / w->tenants[t]->weight;

            least = share < least ? share : least;
            most = share > most ? share : most;
        }
        if (most > least * 1.1 + 5000)
            print_error("seed %u: %u tenants, %u slots: %.0f to %.0f\n", seed, w->tenant_count, w->slots, least, most);
        assert_true(most <= least * 1.1 + 5000);
        claims += w->claims;
        for (uint32_t t = 0; t < w->tenant_count; t++) {
            w->tenants[t]->running = 0;
            leave(&w->shares, w->tenants[t]);
        }
        nef_shares_done(&w->shares);
    }
    assert_true(claims > 0);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_stays_away_saves_nothing_up),
        cmocka_unit_test(weights_divide),
        cmocka_unit_test(idle_tenants_are_forgotten),
        cmocka_unit_test(slots_are_claimed_up_to_the_share),
        cmocka_unit_test(shares_converge_to_weights),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
