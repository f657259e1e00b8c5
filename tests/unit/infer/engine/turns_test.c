/* Whose turn it is in the running engine: common beginnings that are computed once, tenants, priorities, bounds of the
 * queue; and whatever happens to the others, everybody's tokens are those that it gets alone. */
#include "asked.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

#define MANY 8

static struct fixture f;
static struct nef_engine *engine;

static void open_all(uint32_t slots, uint32_t pages)
{
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 2);
    engine = start(&f, slots, 512, pages == 0 ? 0 : kv_bytes_of(&f, pages), 64);
}

static void close_all(void)
{
    nef_engine_stop(engine);
    fixture_close(&f);
}

static struct nef_engine_stats stats_of(void)
{
    struct nef_engine_stats s;

    nef_engine_stats(engine, &s);
    return s;
}

/* Holds the engine's thread in its first token until it is let go, so that what arrives meanwhile arrives at once. */
static atomic_bool gate_open, gate_reached;
static void (*at_second)(void *); /* done in the engine's thread at the gate's second token, while the others run */
static void *at_second_context;

static bool gate_token(void *context, const struct nef_token *t)
{
    const struct timespec pause = {0, 200000};

    (void)context;
    atomic_store(&gate_reached, true);
    while (!atomic_load(&gate_open))
        (void)nanosleep(&pause, NULL);
    if (t->position == 2)
        at_second(at_second_context);
    return true;
}

static void close_gate_of(struct answer *a, uint32_t tokens)
{
    static const uint32_t prompt[] = {3};
    const struct timespec pause = {0, 200000};
    struct nef_generate g = request(a, prompt, 1, tokens, (struct nef_sampling){0});

    atomic_store(&gate_open, false);
    atomic_store(&gate_reached, false);
    g.token = gate_token;
    asked(engine, a, &g);
    while (!atomic_load(&gate_reached))
        (void)nanosleep(&pause, NULL);
}

static void close_gate(struct answer *a)
{
    close_gate_of(a, 1);
}

/* n choices of a prompt of 400 tokens, at once: its pages are computed by one of them. */
static void a_common_beginning_is_computed_once(void **state)
{
    uint32_t prompt[MANY][400], expected[MANY][20];
    struct nef_engine_stats before, after;
    struct answer *a = calloc(MANY + 1, sizeof(*a));

    (void)state;
    open_all(MANY + 1, 0);
    for (uint32_t i = 0; i < MANY; i++) {
        make_tokens(prompt[i], 400, f.vocab, 5);
        if (i % 2 == 1) /* some differ behind the second page, and then among themselves */
            prompt[i][130] = 7;
        if (i == 3 || i == 5)
            prompt[i][300] = 9;
        alone(&f, prompt[i], 400, 20, (struct nef_sampling){.temperature = 1, .top_p = 1, .seed = i}, expected[i]);
    }
    for (int salts = 0; salts < 2; salts++) {
        before = stats_of();
        close_gate(&a[MANY]);
        for (uint32_t i = 0; i < MANY; i++) {
            struct nef_generate g =
                request(&a[i], prompt[i], 400, 20, (struct nef_sampling){.temperature = 1, .top_p = 1, .seed = i});

            g.salt[0] = (uint8_t)(1 + (salts == 0 ? 0 : i)); /* own salts: nothing is common */
            g.salt[1] = (uint8_t)salts;
            asked(engine, &a[i], &g);
        }
        atomic_store(&gate_open, true);
        told(&a[MANY]);
        for (uint32_t i = 0; i < MANY; i++) {
            told(&a[i]);
            assert_int_equal(a[i].finish, NEF_FINISH_LENGTH);
            assert_memory_equal(a[i].tokens, expected[i], sizeof(expected[i]));
        }
        nef_engine_drain(engine);
        after = stats_of();
        if (salts == 0) { /* 128 + two ways of 256 + one of 128 beside ends of 16 each, and the gate's */
            assert_int_equal(after.prompt_rows - before.prompt_rows, 128 + 2 * 256 + 128 + MANY * 16);
            assert_true(after.shared_waits >= MANY - 1);
        } else {
            assert_int_equal(after.prompt_rows - before.prompt_rows, MANY * 400);
            assert_int_equal(after.shared_waits, before.shared_waits);
        }
        nef_engine_stop(engine);
        engine = start(&f, MANY + 1, 512, 0, 64);
        memset(a, 0, (MANY + 1) * sizeof(*a));
    }
    close_all();
    free(a);
}

static void cancel_it(void *context)
{
    nef_generation_cancel(((struct answer *)context)->generation);
}

/* In the middle of its prompt, with all others waiting for it. */
static void a_leader_that_is_cancelled_is_replaced_at_once(void **state)
{
    struct answer *a = calloc(MANY + 1, sizeof(*a));
    uint32_t prompt[500], expected[10];
    struct nef_engine_stats s;

    (void)state;
    open_all(MANY + 1, 0);
    make_tokens(prompt, 500, f.vocab, 5);
    alone(&f, prompt, 500, 10, (struct nef_sampling){0}, expected);
    close_gate_of(&a[MANY], 20);
    at_second = cancel_it;
    at_second_context = &a[0];
    for (uint32_t i = 0; i < MANY; i++) {
        struct nef_generate g = request(&a[i], prompt, 500, 10, (struct nef_sampling){0});

        asked(engine, &a[i], &g);
    }
    atomic_store(&gate_open, true);
    for (uint32_t i = 1; i < MANY; i++) {
        wait_for(&a[i]);
        assert_int_equal(a[i].finish, NEF_FINISH_LENGTH);
        assert_memory_equal(a[i].tokens, expected, sizeof(expected));
    }
    for (uint32_t i = 0; i <= MANY; i++)
        told(&a[i]);
    assert_int_equal(a[0].finish, NEF_FINISH_CANCELLED);
    assert_int_equal(a[0].count, 0);
    s = stats_of();
    /* What the cancelled one has computed is found; of an unfinished page nothing. */
    assert_in_range(s.prompt_rows, 448 + (MANY - 1) * 52, 448 + (MANY - 1) * 52 + 64);
    close_all();
    free(a);
}

static struct nef_generate urgent;
static void ask_urgently(void *context)
{
    asked(engine, context, &urgent);
}

static void on_embedding(void *context, const float *values, uint32_t count)
{
    struct answer *a = context;

    memcpy(a->embedding, values, count * sizeof(values[0]));
    a->embedding_count = count;
}

/* An embedding's sums, a prompt's log probabilities: put back when they are half done, they begin again. */
static void what_is_put_back_begins_again(void **state)
{
    struct answer *a = calloc(5, sizeof(*a));
    uint32_t prompt[500];

    (void)state;
    open_all(2, 0);
    make_tokens(prompt, 500, f.vocab, 6);
    at_second = ask_urgently;
    for (uint32_t kind = 0; kind < 2; kind++) {
        uint64_t before;

        memset(a, 0, 5 * sizeof(*a));
        for (int again = 0; again < 2; again++) { /* undisturbed; then put back */
            struct answer *it = &a[again];
            struct nef_generate g = request(it, prompt, 500, 3, (struct nef_sampling){0});

            before = stats_of().preempted;
            g.embedding = kind == 0 ? on_embedding : NULL;
            g.pooling = NEF_POOLING_MEAN;
            g.prompt_logprobs = kind == 1;
            if (again == 0) {
                ask_and_wait(engine, it, &g);
                continue;
            }
            urgent = request(&a[3], prompt, 9, 3, (struct nef_sampling){0});
            urgent.priority = 1;
            at_second_context = &a[3];
            close_gate_of(&a[2], 30);
            asked(engine, it, &g);
            atomic_store(&gate_open, true);
            told(it);
            told(&a[2]);
            told(&a[3]);
            assert_int_equal(stats_of().preempted - before, 1);
        }
        assert_int_equal(a[1].finish, a[0].finish);
        assert_int_equal(a[1].count, a[0].count);
        assert_memory_equal(a[1].tokens, a[0].tokens, a[0].count * sizeof(uint32_t));
        assert_int_equal(a[1].embedding_count, kind == 0 ? nef_model_config(f.model)->embedding : 0);
        assert_memory_equal(a[1].embedding, a[0].embedding, sizeof(a[0].embedding));
        assert_int_equal(a[1].prompt_told, kind == 0 ? 0 : 500);
        assert_int_equal(a[0].prompt_told, kind == 0 ? 0 : 500);
        assert_memory_equal(a[1].prompt_logprobs + 1, a[0].prompt_logprobs + 1, 499 * sizeof(float));
    }
    close_all();
    free(a);
}

/* Whoever computes it may leave, at any moment, and pages may run out: the others get what they get alone. */
static void a_leader_that_goes_is_replaced(void **state)
{
    uint32_t prompt[500], expected[MANY][12];
    struct answer *a = calloc(MANY, sizeof(*a));
    uint64_t preempted = 0;

    (void)state;
    open_all(MANY, 0);
    make_tokens(prompt, 500, f.vocab, 5);
    for (uint32_t i = 0; i < MANY; i++)
        alone(&f, prompt, 500 - i * 40, 12, (struct nef_sampling){.temperature = 1, .top_p = 1, .seed = i},
              expected[i]);
    for (uint32_t round = 0; round < 60; round++) {
        uint32_t random[MANY];

        if (round % 15 == 0) {
            nef_engine_drain(engine);
            preempted += stats_of().preempted;
            nef_engine_stop(engine);
            engine = start(&f, round == 30 ? 3 : MANY, 512, round % 30 == 0 ? 0 : kv_bytes_of(&f, 9), 64);
        }
        make_tokens(random, MANY, 1u << 30, round);
        memset(a, 0, MANY * sizeof(*a));
        for (uint32_t i = 0; i < MANY; i++) {
            struct nef_generate g = request(&a[i], prompt, 500 - i * 40, 12,
                                            (struct nef_sampling){.temperature = 1, .top_p = 1, .seed = i});

            g.salt[0] = (uint8_t)round;
            g.salt[1] = (uint8_t)(round >> 8);
            g.tenant = random[i] % 3;
            g.priority = round % 4 == 3 ? random[i] / 8 % 2 : 0;
            asked(engine, &a[i], &g);
            if (random[i] % 3 == 0) {
                const struct timespec pause = {0, (long)(random[i] % 700) * 1000};

                (void)nanosleep(&pause, NULL);
            }
        }
        for (uint32_t i = 0; i < MANY; i++)
            if (random[i] / 3 % 3 == 0)
                nef_generation_cancel(a[i].generation);
        for (uint32_t i = 0; i < MANY; i++) {
            told(&a[i]);
            assert_int_equal(a[i].err, NEF_OK);
            if (a[i].finish != NEF_FINISH_CANCELLED)
                assert_int_equal(a[i].count, 12);
            assert_memory_equal(a[i].tokens, expected[i], a[i].count * sizeof(uint32_t));
        }
    }
    nef_engine_drain(engine);
    preempted += stats_of().preempted;
    assert_true(preempted > 0);
    close_all();
    free(a);
}

/* One tenant has all slots and a long queue; another one's request doesn't wait for them. */
static void a_tenant_with_many_requests_doesnt_shut_others_out(void **state)
{
    const uint32_t prompt[] = {1, 2, 3};
    struct answer *a = calloc(12, sizeof(*a)), late = {0};
    struct nef_generate g;
    uint32_t before = 0, after = 0, expected[300];

    (void)state;
    open_all(4, 0);
    alone(&f, prompt, 3, 300, (struct nef_sampling){0}, expected);
    for (uint32_t i = 0; i < 12; i++) {
        a[i].pace = (struct timespec){0, 100000};
        g = request(&a[i], prompt, 3, 300, (struct nef_sampling){0});
        g.tenant = 1;
        asked(engine, &a[i], &g);
    }
    while (stats_of().generated_tokens < 40)
        (void)nanosleep(&(const struct timespec){0, 100000}, NULL);
    before = (uint32_t)stats_of().generated_tokens;
    g = request(&late, prompt, 3, 300, (struct nef_sampling){0});
    g.tenant = 2;
    late.stop_after = 1;
    asked(engine, &late, &g);
    told(&late);
    after = (uint32_t)stats_of().generated_tokens;
    assert_in_range(after - before, 0, 40); /* some steps of four rows; one of the twelve would take 300 */
    assert_true(stats_of().preempted >= 1);
    for (uint32_t i = 0; i < 12; i++) {
        told(&a[i]);
        assert_memory_equal(a[i].tokens, expected, sizeof(expected));
    }
    close_all();
    free(a);
}

/* The same with one tenant and a higher priority. */
static void a_higher_priority_goes_first(void **state)
{
    const uint32_t prompt[] = {1, 2, 3};
    struct answer *a = calloc(6, sizeof(*a)), late = {0};
    struct nef_generate g;
    uint32_t expected[200];
    uint64_t before;

    (void)state;
    open_all(2, 0);
    alone(&f, prompt, 3, 200, (struct nef_sampling){0}, expected);
    for (uint32_t i = 0; i < 6; i++) {
        a[i].pace = (struct timespec){0, 100000};
        g = request(&a[i], prompt, 3, 200, (struct nef_sampling){0});
        asked(engine, &a[i], &g);
    }
    while (stats_of().generated_tokens < 20)
        (void)nanosleep(&(const struct timespec){0, 100000}, NULL);
    before = stats_of().generated_tokens;
    g = request(&late, prompt, 3, 5, (struct nef_sampling){0});
    g.priority = 1;
    asked(engine, &late, &g);
    told(&late);
    assert_in_range(stats_of().generated_tokens - before, 5, 60);
    for (uint32_t i = 0; i < 6; i++) {
        told(&a[i]);
        assert_memory_equal(a[i].tokens, expected, sizeof(expected));
    }
    close_all();
    free(a);
}

static void the_queue_is_bounded_for_a_tenant(void **state)
{
    static const uint32_t prompt[] = {1, 2, 3};
    struct answer *a = calloc(8, sizeof(*a));
    struct nef_generation *none = NULL;
    struct nef_engine_options o;
    struct nef_generate g;
    uint32_t n = 0;

    (void)state;
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 1);
    o = (struct nef_engine_options){.model = f.model,
                                    .slots = 2,
                                    .context = 64,
                                    .kv_type = nef_model_kv_default(f.model),
                                    .waiting_max = 4,
                                    .tenant_waiting_max = 2};
    assert_int_equal(nef_engine_start(&o, &engine), NEF_OK);
    for (; n < 4; n++) { /* two slots and two that wait */
        a[n].pace = (struct timespec){0, 5000000};
        g = request(&a[n], prompt, 3, 50, (struct nef_sampling){0});
        g.tenant = 1;
        asked(engine, &a[n], &g);
    }
    assert_int_equal(nef_engine_generate(engine, &g, &none), NEF_E_BUSY);
    g.tenant = 2; /* another tenant's place isn't taken; but that of one of 1 that runs is, so 1 waits thrice */
    for (; n < 6; n++) {
        g.context = &a[n];
        a[n].next_position = 3;
        a[n].pace = (struct timespec){0, 5000000};
        asked(engine, &a[n], &g);
    }
    assert_int_equal(nef_engine_generate(engine, &g, &none), NEF_E_BUSY); /* all places */
    g.tenant = 3;
    assert_int_equal(nef_engine_generate(engine, &g, &none), NEF_E_BUSY);
    assert_int_equal(stats_of().refused, 3);
    assert_int_equal(stats_of().tenants, 2);
    nef_engine_stop(engine);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(a[i].finish, NEF_FINISH_CANCELLED);
        nef_generation_unref(a[i].generation);
    }
    assert_null(none);
    fixture_close(&f);
    free(a);
}

/* A batch doesn't take so long that a short request waits for the prompts of long ones. */
static void a_short_request_passes_long_prompts(void **state)
{
    uint32_t prompt[500];
    struct answer *a = calloc(7, sizeof(*a)), late = {0};
    struct nef_engine_stats before, after;
    struct nef_generate g;

    (void)state;
    open_all(8, 0);
    make_tokens(prompt, 500, f.vocab, 9);
    close_gate(&a[6]);
    for (uint32_t i = 0; i < 6; i++) {
        g = request(&a[i], prompt, 500, 10, (struct nef_sampling){0});
        g.salt[0] = (uint8_t)i;
        asked(engine, &a[i], &g);
    }
    g = request(&late, prompt + 7, 20, 1, (struct nef_sampling){0});
    asked(engine, &late, &g);
    before = stats_of();
    atomic_store(&gate_open, true);
    told(&late);
    after = stats_of();
    assert_true(after.prompt_rows - before.prompt_rows < 1500); /* of 3,020 */
    for (uint32_t i = 0; i < 7; i++)
        told(&a[i]);
    close_all();
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_common_beginning_is_computed_once),
        cmocka_unit_test(a_leader_that_is_cancelled_is_replaced_at_once),
        cmocka_unit_test(what_is_put_back_begins_again),
        cmocka_unit_test(a_leader_that_goes_is_replaced),
        cmocka_unit_test(a_tenant_with_many_requests_doesnt_shut_others_out),
        cmocka_unit_test(a_higher_priority_goes_first),
        cmocka_unit_test(the_queue_is_bounded_for_a_tenant),
        cmocka_unit_test(a_short_request_passes_long_prompts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
