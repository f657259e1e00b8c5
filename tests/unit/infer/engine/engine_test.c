/* The engine: whatever runs beside it, whoever is cancelled and however short pages are, a request gets the tokens that
 * it gets alone. Also run under TSan (make soak). */
#include "asked.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

#define REQUESTS 20

struct plan {
    uint32_t prompt[300], count, wanted, expected[TOKENS_MAX], cancel_ms;
    bool cancel;
    struct nef_sampling sampling;
};

static void make_plans(const struct fixture *f, struct plan *plans, uint32_t seed)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct plan *p = &plans[i];
        uint32_t random[6];

        make_tokens(random, 6, 1u << 30, seed * 100 + i);
        p->count = 1 + random[0] % 250;
        p->wanted = 1 + random[1] % 60;
        make_tokens(p->prompt, p->count, f->vocab, i % 3); /* few different beginnings */
        p->prompt[p->count - 1] = random[2] % f->vocab;
        p->sampling = (struct nef_sampling){.temperature = i % 2 == 0 ? 0 : 0.9f, .top_p = i % 4 == 1 ? 0.9f : 1,
                                            .top_k = i % 5 == 3 ? 40 : 0, .seed = i};
        p->cancel = i % 4 == 2;
        p->cancel_ms = random[3] % 30;
        alone(f, p->prompt, p->count, p->wanted, p->sampling, p->expected);
    }
}

static void *cancel_after(void *arg)
{
    const struct timespec pause = {0, 1000000};

    (void)nanosleep(&pause, NULL);
    nef_generation_cancel(arg);
    return NULL;
}

/* All at once, some cancelled at some moment; then what must hold for each. */
static void run_together(struct nef_engine *engine, const struct plan *plans)
{
    struct answer *answers = calloc(REQUESTS, sizeof(*answers));
    struct nef_generation *generations[REQUESTS];
    pthread_t threads[REQUESTS];

    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct nef_generate g =
            request(&answers[i], plans[i].prompt, plans[i].count, plans[i].wanted, plans[i].sampling);

        assert_int_equal(nef_engine_generate(engine, &g, &generations[i]), NEF_OK);
        if (plans[i].cancel) {
            const struct timespec pause = {0, (long)plans[i].cancel_ms * 100000};

            (void)nanosleep(&pause, NULL);
            assert_int_equal(pthread_create(&threads[i], NULL, cancel_after, generations[i]), 0);
        }
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        if (plans[i].cancel)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        wait_for(&answers[i]);
        nef_generation_cancel(generations[i]); /* harmless afterwards */
        nef_generation_unref(generations[i]);
        assert_int_equal(answers[i].err, NEF_OK);
        if (plans[i].cancel && answers[i].finish == NEF_FINISH_CANCELLED)
            assert_true(answers[i].count <= plans[i].wanted);
        else {
            assert_int_equal(answers[i].finish, NEF_FINISH_LENGTH);
            assert_int_equal(answers[i].count, plans[i].wanted);
        }
        assert_memory_equal(answers[i].tokens, plans[i].expected, answers[i].count * sizeof(uint32_t));
    }
    free(answers);
}

static void together_as_alone(void **state)
{
    static const char *const models[] = {"qwen3-nano-Q8_0", "qwen3-nano-f32", "qwen2-pico-q5_0"};
    struct plan *plans = calloc(REQUESTS, sizeof(*plans));

    (void)state;
    for (size_t m = 0; m < NEF_COUNT(models); m++) {
        struct fixture f;

        fixture_open(&f, models[m], NULL, 2);
        make_plans(&f, plans, (uint32_t)m);
        for (uint32_t slots = 1; slots <= 32; slots = slots * 5 + 2) {
            struct nef_engine *engine = start(&f, slots, 512, 0, REQUESTS);
            struct nef_engine_stats stats;

            run_together(engine, plans);
            run_together(engine, plans); /* and with pages of the first time */
            nef_engine_drain(engine);
            nef_engine_stats(engine, &stats);
            assert_int_equal(stats.requests, 2 * REQUESTS);
            assert_int_equal(stats.waiting, 0);
            assert_true(stats.cached_tokens > 0 && stats.cached_tokens < stats.prompt_tokens);
            nef_engine_stop(engine);
        }
        fixture_close(&f);
    }
    free(plans);
}

/* Room for hardly more than one sequence, and ten that want it. */
static void pages_that_run_out(void **state)
{
    struct plan *plans = calloc(REQUESTS, sizeof(*plans));
    uint64_t preempted = 0;
    struct fixture f;

    (void)state;
    fixture_open(&f, "qwen3-pico-q4_k_m", NULL, 2);
    make_plans(&f, plans, 7);
    for (uint32_t i = 0; i < REQUESTS; i++) { /* short prompts, long answers: pages run out while all decode */
        plans[i].count = NEF_MIN(plans[i].count, 60u);
        plans[i].wanted = 100 + i * 5;
        alone(&f, plans[i].prompt, plans[i].count, plans[i].wanted, plans[i].sampling, plans[i].expected);
    }
    for (uint32_t pages = 5; pages <= 9; pages += 2) {
        struct nef_engine *engine = start(&f, 10, 320, kv_bytes_of(&f, pages), REQUESTS);
        struct nef_engine_stats stats;

        run_together(engine, plans);
        nef_engine_drain(engine);
        nef_engine_stats(engine, &stats);
        assert_int_equal(stats.kv_pages, pages);
        preempted += stats.preempted;
        nef_engine_stop(engine);
    }
    assert_true(preempted > 0);
    fixture_close(&f);
    free(plans);
}

static void how_it_ends(void **state)
{
    static const uint32_t prompt[] = {5, 6, 7, 8};
    const struct nef_sampling sampling = {.temperature = 0};
    struct nef_generation *generation;
    struct nef_engine *engine;
    struct nef_generate g;
    uint32_t expected[40];
    struct answer a;
    struct fixture f;

    (void)state;
    fixture_open(&f, "qwen3-nano-f32", NULL, 2);
    alone(&f, prompt, 4, 40, sampling, expected);
    engine = start(&f, 2, 40, 0, 2);
    a = (struct answer){.stop_after = 5}; /* the caller has enough */
    g = request(&a, prompt, 4, 30, sampling);
    assert_int_equal(nef_engine_generate(engine, &g, &generation), NEF_OK);
    wait_for(&a);
    nef_generation_unref(generation);
    assert_int_equal(a.finish, NEF_FINISH_STOP);
    assert_int_equal(a.count, 5);
    a = (struct answer){.ends_with = expected[7]}; /* an end token isn't delivered */
    g = request(&a, prompt, 4, 30, sampling);
    assert_int_equal(nef_engine_generate(engine, &g, &generation), NEF_OK);
    wait_for(&a);
    nef_generation_unref(generation);
    assert_int_equal(a.finish, NEF_FINISH_STOP);
    for (uint32_t i = 0; i < a.count; i++)
        assert_int_not_equal(a.tokens[i], expected[7]);
    assert_true(a.count <= 7);
    a = (struct answer){0}; /* the context is full */
    g = request(&a, prompt, 4, 1000, sampling);
    assert_int_equal(nef_engine_generate(engine, &g, &generation), NEF_OK);
    wait_for(&a);
    nef_generation_unref(generation);
    assert_int_equal(a.finish, NEF_FINISH_LENGTH);
    assert_int_equal(a.count, 36);
    assert_memory_equal(a.tokens, expected, 36 * sizeof(uint32_t));
    a = (struct answer){0}; /* no token is wanted */
    g = request(&a, prompt, 4, 0, sampling);
    assert_int_equal(nef_engine_generate(engine, &g, &generation), NEF_OK);
    wait_for(&a);
    nef_generation_unref(generation);
    assert_int_equal(a.finish, NEF_FINISH_LENGTH);
    assert_int_equal(a.count, 0);
    nef_engine_stop(engine);
    fixture_close(&f);
}

static void the_prefix_cache_is_used_and_scoped(void **state)
{
    const struct nef_sampling sampling = {.temperature = 0};
    uint32_t prompt[150], expected[10];
    struct nef_engine *engine;
    struct fixture f;

    (void)state;
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 2);
    make_tokens(prompt, 150, f.vocab, 1);
    alone(&f, prompt, 150, 10, sampling, expected);
    engine = start(&f, 2, 256, 0, 4);
    for (int i = 0; i < 4; i++) {
        struct answer a = {0};
        struct nef_generate g = request(&a, prompt, 150, 10, sampling);
        struct nef_generation *generation;

        g.salt[0] = (uint8_t)(i / 2);
        assert_int_equal(nef_engine_generate(engine, &g, &generation), NEF_OK);
        wait_for(&a);
        nef_generation_unref(generation);
        assert_int_equal(a.cached, i % 2 == 0 ? 0 : 128);
        assert_memory_equal(a.tokens, expected, sizeof(expected));
    }
    nef_engine_stop(engine);
    fixture_close(&f);
}

static void too_much_is_refused(void **state)
{
    static const uint32_t prompt[64] = {1, 2, 3};
    const uint32_t wrong[] = {1, UINT32_MAX};
    struct nef_generation *generations[4], *none = NULL;
    struct answer answers[4] = {0}, a = {0};
    struct nef_engine_stats stats;
    struct nef_engine *engine;
    struct nef_generate g;
    struct fixture f;

    (void)state;
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 1);
    engine = start(&f, 1, 64, 0, 3);
    g = request(&a, prompt, 0, 4, (struct nef_sampling){0});
    assert_int_equal(nef_engine_generate(engine, &g, &none), NEF_E_RANGE);
    g = request(&a, prompt, 64, 4, (struct nef_sampling){0});
    assert_int_equal(nef_engine_generate(engine, &g, &none), NEF_E_RANGE);
    g = request(&a, wrong, 2, 4, (struct nef_sampling){0});
    assert_int_equal(nef_engine_generate(engine, &g, &none), NEF_E_RANGE);
    for (uint32_t i = 0; i < 4; i++) { /* one runs slowly, three wait */
        answers[i].pace = (struct timespec){0, 5000000};
        g = request(&answers[i], prompt, 3, 50, (struct nef_sampling){0});
        assert_int_equal(nef_engine_generate(engine, &g, &generations[i]), NEF_OK);
    }
    g = request(&a, prompt, 3, 50, (struct nef_sampling){0});
    assert_int_equal(nef_engine_generate(engine, &g, &none), NEF_E_BUSY);
    nef_engine_stats(engine, &stats);
    assert_int_equal(stats.refused, 1);
    assert_int_equal(stats.slots, 1);
    nef_generation_cancel(generations[2]); /* one that waits */
    wait_for(&answers[2]);
    assert_int_equal(answers[2].finish, NEF_FINISH_CANCELLED);
    assert_int_equal(answers[2].count, 0);
    assert_false(answers[3].done);
    nef_generation_cancel(generations[0]); /* the one that runs: the next one gets its slot */
    wait_for(&answers[0]);
    assert_int_equal(answers[0].finish, NEF_FINISH_CANCELLED);
    nef_engine_stop(engine); /* the others get their end */
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(answers[i].done);
        assert_int_equal(answers[i].finish, NEF_FINISH_CANCELLED);
        nef_generation_unref(generations[i]);
    }
    assert_false(a.done);
    assert_null(none);
    fixture_close(&f);
}

static void *drain_it(void *engine)
{
    nef_engine_drain(engine);
    return NULL;
}

static void draining_lets_everything_end(void **state)
{
    static const uint32_t prompt[] = {1, 2, 3};
    struct nef_generation *generations[5], *none;
    struct answer answers[5] = {0}, a = {0};
    struct nef_engine *engine;
    struct nef_generate g;
    struct fixture f;
    pthread_t thread;
    nef_err err;

    (void)state;
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 2);
    engine = start(&f, 2, 64, 0, 8);
    for (uint32_t i = 0; i < 5; i++) {
        answers[i].pace = (struct timespec){0, 1000000};
        g = request(&answers[i], prompt, 3, 40, (struct nef_sampling){0});
        assert_int_equal(nef_engine_generate(engine, &g, &generations[i]), NEF_OK);
    }
    assert_int_equal(pthread_create(&thread, NULL, drain_it, engine), 0);
    do { /* until drain has closed the door */
        const struct timespec pause = {0, 1000000};

        g = request(&a, prompt, 3, 1, (struct nef_sampling){0});
        err = nef_engine_generate(engine, &g, &none);
        if (err == NEF_OK) {
            wait_for(&a);
            nef_generation_unref(none);
            a = (struct answer){0};
        }
        (void)nanosleep(&pause, NULL);
    } while (err != NEF_E_CLOSED);
    assert_int_equal(pthread_join(thread, NULL), 0);
    for (uint32_t i = 0; i < 5; i++) {
        assert_true(answers[i].done);
        assert_int_equal(answers[i].finish, NEF_FINISH_LENGTH);
        assert_int_equal(answers[i].count, 40);
        nef_generation_unref(generations[i]);
    }
    nef_engine_stop(engine);
    fixture_close(&f);
}

static void options_are_checked(void **state)
{
    struct nef_engine *engine = NULL;
    struct fixture f;

    (void)state;
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 1);
    const struct nef_engine_options wrong[] = {
        {.model = f.model, .slots = 0, .context = 64},
        {.model = f.model, .slots = 1025, .context = 64},
        {.model = f.model, .slots = 1, .context = 1},
        {.model = f.model, .slots = 1, .context = 640, .kv_bytes = kv_bytes_of(&f, 9)}, /* not one whole sequence */
    };

    for (size_t i = 0; i < NEF_COUNT(wrong); i++) {
        struct nef_engine_options o = wrong[i];

        o.kv_type = nef_model_kv_default(f.model);
        assert_int_equal(nef_engine_start(&o, &engine), NEF_E_RANGE);
    }
    assert_null(engine);
    nef_engine_stop(NULL);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(together_as_alone),
        cmocka_unit_test(pages_that_run_out),
        cmocka_unit_test(how_it_ends),
        cmocka_unit_test(the_prefix_cache_is_used_and_scoped),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(draining_lets_everything_end),
        cmocka_unit_test(options_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
