/* AI budgets: two zones, one log, one user; what is taken in any 60 seconds, and what runs at once, never exceeds the
 * whole.
 *
 * The log is a list of ops in the order in which they are applied; a zone's proposals arrive after a random time, or
 * never, or long after their proposer gave up; a zone sees the rows with a lag, not at all while it is cut off, and
 * starts anew with nothing in its memory. Each zone has a clock of its own, with another beginning and up to 1 %
 * faster or slower. What is checked is counted in true time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/limits.h"
#include "gateway/budget.h"

#define ZONES       2u
#define STEP_MS     25u
#define FLIGHTS_MAX 64u
#define MINUTE_MS   60000u

struct flight { /* a proposal on its way */
    bool used;
    uint64_t at; /* true time when it is applied */
    unsigned zone;
    uint64_t start;
    struct nef_budget_entry entry;
    char names[NEF_REPLICA_MAX][NEF_ZONE_NAME_MAX + 1];
};

struct running {
    bool used;
    uint64_t ends, reserved, tokens;
    uint64_t boot; /* of the process that took it */
};
#define RUNNING_MAX 512u

struct zone {
    char name[2];
    struct nef_budget budget;
    uint64_t clock_from, clock_rate; /* rate: millionths */
    uint64_t boot, down_until, cut_until;
    struct running running[RUNNING_MAX];
    uint64_t taken, refused, waits, asked;
};

struct spent { /* what was taken, in true time */
    uint64_t at, requests, tokens;
};

struct world {
    uint64_t now, random;
    struct nef_budget_state row;
    struct nef_budget_whole whole;
    struct zone zones[ZONES];
    struct flight flights[FLIGHTS_MAX];
    struct spent *spent;
    size_t spent_count, spent_first;
    uint64_t in_window[NEF_BUDGET_RESOURCES], most[NEF_BUDGET_RESOURCES];
    uint32_t most_running;
    uint64_t ops, adopted;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return below == 0 ? 0 : w->random % below;
}

static uint64_t clock_of(const struct world *w, const struct zone *z)
{
    return z->clock_from + w->now * z->clock_rate / 1000000;
}

static void boot(struct world *w, struct zone *z)
{
    z->boot = 1 + draw(w, UINT32_MAX);
    z->clock_from = draw(w, 1u << 30);
    memset(z->running, 0, sizeof z->running);
    nef_budget_init(&z->budget, z->name, z->boot);
    nef_budget_saw(&z->budget, clock_of(w, z), &w->row);
}

static void begin(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->random = seed * 0x9e3779b97f4a7c15ull + 1;
    w->spent = calloc(4000000, sizeof *w->spent);
    assert_non_null(w->spent);
    for (unsigned i = 0; i < ZONES; i++) {
        w->zones[i].name[0] = (char)('a' + i);
        w->zones[i].clock_rate = 990000 + draw(w, 20001);
        boot(w, &w->zones[i]);
    }
}

static void end(struct world *w)
{
    free(w->spent);
}

static void note(struct world *w, uint64_t requests, uint64_t tokens)
{
    w->spent[w->spent_count++] = (struct spent){w->now, requests, tokens};
    w->in_window[NEF_BUDGET_REQUESTS] += requests;
    w->in_window[NEF_BUDGET_TOKENS] += tokens;
    while (w->spent[w->spent_first].at + MINUTE_MS <= w->now) {
        w->in_window[NEF_BUDGET_REQUESTS] -= w->spent[w->spent_first].requests;
        w->in_window[NEF_BUDGET_TOKENS] -= w->spent[w->spent_first].tokens;
        w->spent_first++;
    }
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
        if (w->in_window[r] > w->most[r])
            w->most[r] = w->in_window[r];
}

static void propose(struct world *w, unsigned zone, const struct nef_budget_entry *entry, uint64_t delay)
{
    for (unsigned i = 0; i < FLIGHTS_MAX; i++) {
        struct flight *f = &w->flights[i];

        if (f->used)
            continue;
        *f = (struct flight){true, w->now + delay, zone, w->zones[zone].boot, *entry, {{0}}};
        for (uint32_t c = 0; c < entry->claim_count; c++) { /* the claims' names are borrowed */
            memcpy(f->names[c], entry->claims[c].zone.data, entry->claims[c].zone.bytes);
            f->entry.claims[c].zone.data = f->names[c];
        }
        return;
    }
}

static void apply(struct world *w)
{
    for (unsigned i = 0; i < FLIGHTS_MAX; i++) {
        struct flight *f = &w->flights[i];
        struct nef_text name;

        if (!f->used || f->at > w->now)
            continue;
        f->used = false;
        for (uint32_t c = 0; c < f->entry.claim_count; c++)
            f->entry.claims[c].zone.data = f->names[c];
        name = (struct nef_text){w->zones[f->zone].name, 1};
        w->ops++;
        (void)nef_budget_decide(&w->row, &w->whole, &name, f->start, &f->entry);
    }
}

/* How many run, of zones whose lease isn't over: what runs in a zone that was cut off ends there by itself. */
static uint32_t running(const struct world *w)
{
    uint32_t count = 0;

    for (unsigned i = 0; i < ZONES; i++)
        if (w->zones[i].down_until <= w->now && clock_of(w, &w->zones[i]) < w->zones[i].budget.until_ms)
            count += w->zones[i].budget.running;
    return count;
}

static enum nef_budget_verdict request(struct world *w, unsigned zone, uint64_t tokens, uint64_t lasts)
{
    struct zone *z = &w->zones[zone];
    uint64_t reserved = 0;
    enum nef_budget_verdict verdict;

    verdict = nef_budget_take(&z->budget, clock_of(w, z), &w->whole, tokens, &reserved);
    if (verdict == NEF_BUDGET_REFUSED)
        z->refused++;
    else if (verdict == NEF_BUDGET_WAIT)
        z->waits++;
    if (verdict != NEF_BUDGET_TAKEN)
        return verdict;
    z->taken++;
    note(w, 1, 0);
    for (unsigned k = 0; k < RUNNING_MAX; k++)
        if (!z->running[k].used) {
            z->running[k] =
                (struct running){true, w->now + lasts, reserved, reserved == 0 ? 0 : draw(w, reserved + 1), z->boot};
            break;
        }
    if (running(w) > w->most_running)
        w->most_running = running(w);
    return verdict;
}

/* A zone is lost, and the other one goes on with its answers. */
static void lose(struct world *w, unsigned zone, uint64_t until)
{
    struct zone *z = &w->zones[zone], *other = &w->zones[1 - zone];

    if (z->down_until <= w->now && other->down_until <= w->now)
        for (unsigned k = 0, m = 0; k < RUNNING_MAX; k++) {
            struct running *r = &z->running[k];
            uint64_t made, left;

            if (!r->used)
                continue;
            made = draw(w, r->tokens + 1);
            left = r->reserved - made;
            note(w, 0, made);
            while (m < RUNNING_MAX && other->running[m].used)
                m++;
            assert_true(m < RUNNING_MAX);
            nef_budget_adopt(&other->budget, clock_of(w, other), &w->whole, left, &left);
            other->running[m] = (struct running){true, r->ends, left, r->tokens - made, other->boot};
            w->adopted++;
        }
    z->down_until = until;
}

static void step(struct world *w, unsigned loss_percent)
{
    w->now += STEP_MS;
    apply(w);
    for (unsigned i = 0; i < ZONES; i++) {
        struct zone *z = &w->zones[i];
        struct nef_budget_entry entry;

        if (z->down_until > w->now)
            continue;
        if (z->down_until != 0) {
            z->down_until = 0;
            boot(w, z);
        }
        for (unsigned k = 0; k < RUNNING_MAX; k++)
            if (z->running[k].used && z->running[k].ends <= w->now) {
                z->running[k].used = false;
                nef_budget_settle(&z->budget, clock_of(w, z), z->running[k].reserved, z->running[k].tokens);
                note(w, 0, z->running[k].tokens);
            }
        if (z->cut_until <= w->now && draw(w, 4) != 0) /* it sees what was applied, a little late at times */
            nef_budget_saw(&z->budget, clock_of(w, z), &w->row);
        if (!nef_budget_wants(&z->budget, clock_of(w, z), &w->whole, &entry))
            continue;
        z->asked++;
        if (z->cut_until > w->now || draw(w, 100) < loss_percent) {
            if (draw(w, 2) == 0) /* lost; or it comes when nobody expects it any more */
                propose(w, i, &entry, draw(w, 20000));
        } else {
            propose(w, i, &entry, draw(w, 60));
        }
    }
}

static void check(const struct world *w, uint64_t seed)
{
    if ((w->whole.units[NEF_BUDGET_REQUESTS] != 0 &&
         w->most[NEF_BUDGET_REQUESTS] > w->whole.units[NEF_BUDGET_REQUESTS]) ||
        (w->whole.units[NEF_BUDGET_TOKENS] != 0 && w->most[NEF_BUDGET_TOKENS] > w->whole.units[NEF_BUDGET_TOKENS]) ||
        (w->whole.slots != 0 && w->most_running > w->whole.slots))
        fail_msg("seed %lu at %lu ms: %lu of %lu requests, %lu of %lu tokens, %u of %u at once", (unsigned long)seed,
                 (unsigned long)w->now, (unsigned long)w->most[0], (unsigned long)w->whole.units[0],
                 (unsigned long)w->most[1], (unsigned long)w->whole.units[1], w->most_running, w->whole.slots);
}

/* Anything that goes wrong, at random. */
static void never_above_the_whole(void **state)
{
    uint64_t taken = 0, adopted = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct world w;
        unsigned loss;

        begin(&w, seed);
        loss = (unsigned)draw(&w, 30);
        w.whole.units[NEF_BUDGET_REQUESTS] = draw(&w, 5) == 0 ? 0 : 1 + draw(&w, 200);
        w.whole.units[NEF_BUDGET_TOKENS] = draw(&w, 3) == 0 ? 0 : 1 + draw(&w, 20000);
        w.whole.slots = draw(&w, 3) == 0 ? 0 : 1 + (uint32_t)draw(&w, 12);
        while (w.now < 400000) {
            uint64_t each = 1 + draw(&w, 40); /* a request every so many steps, by turns busy and quiet */
            uint64_t phase = w.now / 15000;

            step(&w, loss);
            for (unsigned i = 0; i < ZONES; i++)
                if (w.zones[i].down_until <= w.now && (phase + i + seed) % 3 != 0 && draw(&w, each) == 0)
                    (void)request(&w, i, 1 + draw(&w, 300), draw(&w, 4000));
            if (draw(&w, 1600) == 0)
                lose(&w, (unsigned)draw(&w, ZONES), w.now + 100 + draw(&w, 20000));
            if (draw(&w, 1600) == 0)
                w.zones[draw(&w, ZONES)].cut_until = w.now + 100 + draw(&w, 30000);
            check(&w, seed);
        }
        taken += w.zones[0].taken + w.zones[1].taken;
        adopted += w.adopted;
        end(&w);
    }
    assert_true(taken > 60u * 100u); /* it isn't safe because it refuses everything */
    assert_true(adopted > 100);
}

/* Requests at a steady rate of a zone, until TAKEN more were taken or UNTIL: waits are tried again, as the gateway
 * does. */
static void busy(struct world *w, unsigned zone, uint64_t until, uint64_t every_ms)
{
    bool waiting = false;

    while (w->now < until) {
        step(w, 0);
        if (waiting || w->now % every_ms == 0)
            waiting = request(w, zone, 10, 50) == NEF_BUDGET_WAIT;
    }
}

/* What an idle zone had is a busy one's within seconds: all of it, for nothing lies elsewhere. */
static void an_idle_zones_share_moves(void **state)
{
    struct world w;

    (void)state;
    begin(&w, 7);
    w.whole.units[NEF_BUDGET_REQUESTS] = 120;
    w.whole.slots = 4;
    busy(&w, 0, 10000, 200); /* 50 of them in a */
    assert_in_range(w.zones[0].taken, 45, 51);
    assert_int_equal(w.zones[0].refused, 0);
    busy(&w, 1, 15000, 50); /* now b alone: all that is left, at once */
    assert_true(w.zones[0].taken + w.zones[1].taken >= 118);
    assert_int_equal(w.most[NEF_BUDGET_REQUESTS] <= 120, 1);
    check(&w, 7);
    end(&w);
}

/* A zone is lost while it is busy: the other one has the rest at once, and the lost one's slots when its lease is
 * over. */
static void a_lost_zones_share_moves(void **state)
{
    struct world w;

    (void)state;
    begin(&w, 8);
    w.whole.units[NEF_BUDGET_REQUESTS] = 600;
    w.whole.slots = 2;
    for (unsigned i = 0; i < 40; i++) {
        step(&w, 0);
        (void)request(&w, 0, 10, 100000); /* both slots, for long */
    }
    assert_int_equal(w.zones[0].taken, 2);
    w.zones[0].down_until = UINT64_MAX;
    for (uint64_t lost = w.now; w.now < lost + 3000;) {
        step(&w, 0);
        assert_int_not_equal(request(&w, 1, 10, 50), NEF_BUDGET_TAKEN);
    }
    for (uint64_t lost = w.now; w.now < lost + 4000;) {
        step(&w, 0);
        (void)request(&w, 1, 10, 50);
    }
    assert_true(w.zones[1].taken > 10);
    check(&w, 8);
    end(&w);
}

/* What goes on in another zone counts there: its place until it ends, and its tokens once more than it held. */
static void an_answer_that_is_taken_over(void **state)
{
    struct world w;
    struct zone *b;
    uint64_t reserved = 0, left = 0, lost;

    (void)state;
    begin(&w, 12);
    b = &w.zones[1];
    w.whole.units[NEF_BUDGET_REQUESTS] = 600;
    w.whole.units[NEF_BUDGET_TOKENS] = 1000;
    w.whole.slots = 1;
    while (nef_budget_take(&w.zones[0].budget, clock_of(&w, &w.zones[0]), &w.whole, 500, &reserved) != NEF_BUDGET_TAKEN)
        step(&w, 0);
    lost = w.now;
    lose(&w, 0, UINT64_MAX);
    nef_budget_adopt(&b->budget, clock_of(&w, b), &w.whole, 400, &left); /* 100 were made */
    assert_int_equal(left, 400);
    while (w.now < lost + 100000) { /* longer than what the lost zone held is remembered */
        step(&w, 0);
        assert_int_not_equal(request(&w, 1, 10, 50), NEF_BUDGET_TAKEN);
    }
    assert_in_range(nef_budget_left(&b->budget, clock_of(&w, b), &w.whole, NEF_BUDGET_TOKENS), 500, 600);
    nef_budget_settle(&b->budget, clock_of(&w, b), left, 300);
    assert_in_range(nef_budget_left(&b->budget, clock_of(&w, b), &w.whole, NEF_BUDGET_TOKENS), 600, 700);
    for (lost = w.now; w.now < lost + 2000 && b->taken == 0;) {
        step(&w, 0);
        (void)request(&w, 1, 10, 50);
    }
    assert_int_equal(b->taken, 1); /* its place is free */
    end(&w);
}

/* One request a minute, in whichever zone. */
static void the_smallest_budget(void **state)
{
    struct world w;

    (void)state;
    begin(&w, 9);
    w.whole.units[NEF_BUDGET_REQUESTS] = 1;
    w.whole.slots = 1;
    while (w.now < 300000) {
        step(&w, 0);
        (void)request(&w, (unsigned)(w.now / 1000 % 2), 1, 100);
    }
    assert_in_range(w.zones[0].taken + w.zones[1].taken, 4, 5);
    check(&w, 9);
    end(&w);
}

/* An op costs both zones a sync, so an idle user costs none and a busy one few. */
static void few_ops(void **state)
{
    struct world w;
    uint64_t ops;

    (void)state;
    begin(&w, 10);
    w.whole.units[NEF_BUDGET_REQUESTS] = 100000;
    w.whole.units[NEF_BUDGET_TOKENS] = 10000000;
    w.whole.slots = 100;
    busy(&w, 0, 60000, 50);
    assert_true(w.zones[0].taken > 1100);
    assert_true(w.ops < 240); /* at most four a second */
    for (uint64_t from = w.now; w.now < from + 10000;)
        step(&w, 0);
    ops = w.ops;
    for (uint64_t from = w.now; w.now < from + 200000;)
        step(&w, 0);
    assert_int_equal(w.ops, ops);
    assert_true(nef_budget_idle(&w.zones[0].budget, clock_of(&w, &w.zones[0])));
    end(&w);
}

/* Tokens beyond what was reserved are a debt; the whole is what a larger request counts as. */
static void tokens_beyond_the_guess(void **state)
{
    struct world w;
    struct zone *a;
    uint64_t reserved, at;

    (void)state;
    begin(&w, 11);
    a = &w.zones[0];
    w.whole.units[NEF_BUDGET_TOKENS] = 1000;
    while (nef_budget_take(&a->budget, clock_of(&w, a), &w.whole, 5000, &reserved) != NEF_BUDGET_TAKEN)
        step(&w, 0);
    assert_int_equal(reserved, 1000);
    assert_int_equal(nef_budget_left(&a->budget, clock_of(&w, a), &w.whole, NEF_BUDGET_TOKENS), 0);
    nef_budget_settle(&a->budget, clock_of(&w, a), reserved, 1500);
    at = w.now;
    for (; w.now < at + 55000; step(&w, 0)) {
        assert_int_equal(nef_budget_take(&a->budget, clock_of(&w, a), &w.whole, 1, &reserved), NEF_BUDGET_REFUSED);
        assert_in_range(nef_budget_wait_ms(&a->budget, clock_of(&w, a), &w.whole, NEF_BUDGET_TOKENS, 1), 1, 61000);
    }
    while (w.now < at + 70000 &&
           nef_budget_take(&a->budget, clock_of(&w, a), &w.whole, 1000, &reserved) != NEF_BUDGET_TAKEN)
        step(&w, 0);
    assert_in_range(w.now, at + 60000, at + 63000);
    end(&w);
}

/* What row G says is what was put, and nothing else is taken. */
static void rows(void **state)
{
    struct nef_budget_state s = {.count = 2,
                                 .zones = {{.name = "a",
                                            .start = 1,
                                            .number = 2,
                                            .spent = {3, 4},
                                            .limit = {5, 6},
                                            .base = {1, 2},
                                            .unmet = {7, 8},
                                            .slots = 9,
                                            .slots_unmet = 10},
                                           {.name = "zone-b"}}};
    struct nef_budget_state got;
    struct nef_buf b = {0};

    (void)state;
    memset(&got, 0xff, sizeof got);
    nef_budget_put(&b, &s);
    assert_int_equal(nef_budget_get(b.data, b.bytes, &got), NEF_OK);
    assert_memory_equal(&got.zones[0], &s.zones[0], sizeof s.zones[0]);
    assert_string_equal(got.zones[1].name, "zone-b");
    for (size_t cut = 0; cut < b.bytes; cut++)
        assert_int_equal(nef_budget_get(b.data, cut, &got), NEF_E_CORRUPT);
    s.zones[0].base[0] = 4; /* more than was spent */
    nef_budget_put(&b, &s);
    assert_int_equal(nef_budget_get(b.data, b.bytes, &got), NEF_E_CORRUPT);
    nef_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_above_the_whole),    cmocka_unit_test(an_idle_zones_share_moves),
        cmocka_unit_test(a_lost_zones_share_moves), cmocka_unit_test(an_answer_that_is_taken_over),
        cmocka_unit_test(the_smallest_budget),      cmocka_unit_test(few_ops),
        cmocka_unit_test(tokens_beyond_the_guess),  cmocka_unit_test(rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
