/* All that a request can ask for, each against a plain loop over the model that does the same in the simplest way,
 * alone and beside others: penalties, bias, grammar, budget, log probabilities, embeddings, and going on after a cut.
 * */
#include "asked.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/text/tokenizer.h"

static struct fixture f;
static struct nef_engine *engine;

/* ---- a grammar over the model's vocabulary ---- */

#define END_TOKEN 300u

/* Token i: byte i; then pieces of JSON; one that ends; the rest is nothing that a text could hold. */
static struct nef_grammar_vocab *make_vocab(void)
{
    static const char *const pieces[] = {"{\"", "\": ", "\", \"", "\"}",  "true", "false",
                                         "12",  "ab",   "name",   "]}",   "[1"};
    static char bytes[256];
    struct nef_grammar_token *tokens = calloc(f.vocab, sizeof(*tokens));
    struct nef_grammar_vocab *vocab;

    for (uint32_t i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        tokens[i] = (struct nef_grammar_token){&bytes[i], 1, false};
    }
    for (uint32_t i = 0; i < NEF_COUNT(pieces); i++)
        tokens[256 + i] = (struct nef_grammar_token){pieces[i], (uint32_t)strlen(pieces[i]), false};
    tokens[END_TOKEN].ends = true;
    assert_int_equal(nef_grammar_vocab_make(tokens, f.vocab, &vocab), NEF_OK);
    free(tokens);
    return vocab;
}

static struct nef_grammar *make_grammar(struct nef_grammar_vocab *vocab, const char *text, bool thinking)
{
    json_t *schema = json_loads(text, 0, NULL);
    char why[NEF_GRAMMAR_ERROR_MAX] = "";
    struct nef_grammar *g = NULL;

    assert_non_null(schema);
    assert_int_equal(nef_grammar_compile(vocab,
                                         &(struct nef_grammar_options){.answer = NEF_GRAMMAR_SCHEMA,
                                                                       .schema = schema,
                                                                       .thinking = thinking},
                                         why, &g),
                     NEF_OK);
    json_decref(schema);
    return g;
}

static const char SCHEMA[] = "{\"type\": \"object\", \"properties\": {"
                             "\"name\": {\"type\": \"string\", \"maxLength\": 20}, "
                             "\"list\": {\"type\": \"array\", \"items\": {\"type\": \"integer\", \"minimum\": 0, "
                             "\"maximum\": 9999}, \"maxItems\": 9}, \"yes\": {\"type\": \"boolean\"}}, "
                             "\"required\": [\"name\", \"list\", \"yes\"], \"additionalProperties\": false}";

/* ---- the plain loop ---- */

struct plain {
    uint32_t tokens[TOKENS_MAX], count;
    float logprobs[TOKENS_MAX];
    float prompt_logprobs[TOKENS_MAX];
    bool ended; /* by the grammar */
};

static void change_logits(const struct nef_generate *r, struct nef_matcher *m, const uint32_t *said,
                          uint32_t said_count, float *logits)
{
    uint32_t words[4096] = {0};
    float repetition = r->sampling.repetition_penalty == 0 ? 1 : r->sampling.repetition_penalty;

    if (m != NULL) {
        assert_int_equal(nef_matcher_mask(m, words), NEF_OK);
        for (uint32_t i = 0; i < f.vocab; i++)
            if ((words[i / 32] >> i % 32 & 1) == 0)
                logits[i] = -INFINITY;
    }
    for (uint32_t i = 0; i < r->bias_count; i++)
        logits[r->bias[i].token] += r->bias[i].bias;
    for (uint32_t i = 0; i < f.vocab; i++) {
        uint32_t times = 0;
        bool there = false;

        for (uint32_t k = 0; k < r->prompt_count; k++)
            there |= r->prompt[k] == i;
        for (uint32_t k = 0; k < said_count; k++)
            times += said[k] == i;
        if (there || times > 0)
            logits[i] = logits[i] > 0 ? logits[i] / repetition : logits[i] * repetition;
        if (times > 0) {
            logits[i] -= r->sampling.frequency_penalty * (float)times;
            logits[i] -= r->sampling.presence_penalty;
        }
    }
}

static void plain(const struct nef_generate *r, struct plain *out)
{
    static const uint8_t salt[32];
    struct nef_kv_cache *cache = cache_open(&f, nef_model_kv_default(f.model), 16);
    float *logits = malloc(f.vocab * sizeof(float));
    void *scratch = malloc(nef_sampler_scratch(f.vocab));
    struct nef_kv_sequence *sequence;
    struct nef_matcher *m = NULL;
    struct nef_logsum sum;
    uint32_t cached;
    bool thought = false;

    memset(out, 0, sizeof(*out));
    if (r->grammar != NULL)
        assert_int_equal(nef_matcher_open(r->grammar, &m), NEF_OK);
    assert_int_equal(nef_kv_sequence_open(cache, salt, r->prompt, 1, &cached, &sequence), NEF_OK);
    for (uint32_t i = 0; i < r->prompt_count; i++) {
        step(&f, sequence, r->prompt[i], i, logits);
        assert_int_equal(nef_logsum(logits, f.vocab, &sum), NEF_OK);
        if (i + 1 < r->prompt_count)
            out->prompt_logprobs[i + 1] = nef_logprob_of(&sum, logits[r->prompt[i + 1]]);
    }
    out->prompt_logprobs[0] = NAN;
    while (out->count < r->tokens_max) {
        uint32_t n = out->count, token;
        float raw;

        assert_int_equal(nef_logsum(logits, f.vocab, &sum), NEF_OK);
        if (r->thinking_max > 0 && !thought && n >= r->thinking_max && n - r->thinking_max < r->budget_count) {
            token = r->budget_text[n - r->thinking_max];
            raw = logits[token];
        } else {
            float *changed = malloc(f.vocab * sizeof(float));

            memcpy(changed, logits, f.vocab * sizeof(float));
            change_logits(r, m, out->tokens, n, changed);
            assert_int_equal(nef_sample(&r->sampling, changed, f.vocab, r->prompt_count + n, scratch, &token), NEF_OK);
            raw = logits[token];
            free(changed);
        }
        if (m != NULL) {
            assert_int_equal(nef_matcher_accept(m, token), NEF_OK);
            out->ended = nef_matcher_ended(m);
            if (out->ended)
                break;
        }
        if (n < r->thinking_max && token == r->think_end)
            thought = true;
        out->logprobs[n] = nef_logprob_of(&sum, raw);
        out->tokens[out->count++] = token;
        step(&f, sequence, token, r->prompt_count + n, logits);
    }
    nef_matcher_close(m);
    nef_kv_sequence_close(sequence);
    nef_kv_close(cache);
    free(scratch);
    free(logits);
}

/* ---- requests of every kind ---- */

#define KINDS 24

struct kind {
    struct nef_generate g;
    uint32_t prompt[200];
    struct nef_logit_bias bias[5];
    uint32_t budget[6];
    struct plain expected;
    struct answer answer;
};

static void make_kind(struct kind *k, uint32_t seed, struct nef_grammar *grammar, struct nef_grammar *thinking)
{
    uint32_t random[8];

    memset(k, 0, sizeof(*k));
    make_tokens(random, 8, 1u << 30, 1000 + seed);
    make_tokens(k->prompt, 200, f.vocab, seed % 3);
    k->g = request(&k->answer, k->prompt, 1 + random[0] % 190, 20 + random[1] % 100,
                   (struct nef_sampling){.temperature = seed % 2 == 0 ? 0 : 0.9f,
                                         .top_p = seed % 4 == 1 ? 0.9f : 1,
                                         .top_k = seed % 5 == 3 ? 40 : 0,
                                         .seed = seed});
    if (seed % 3 != 0) {
        k->g.sampling.presence_penalty = 0.7f;
        k->g.sampling.frequency_penalty = seed % 3 == 1 ? 0.3f : -0.2f;
        k->g.sampling.repetition_penalty = seed % 4 == 0 ? 0 : 1.2f;
    }
    for (uint32_t i = 0; i < 5; i++)
        k->bias[i] = (struct nef_logit_bias){random[2 + i % 4] % f.vocab, (float)i * 3 - 5};
    k->g.bias = k->bias;
    k->g.bias_count = seed % 4 == 2 ? 5 : 0;
    k->g.grammar = seed % 4 == 3 ? grammar : NULL;
    k->g.logprobs = 1 + seed % 21;
    if (seed % 6 == 4 || seed % 8 == 7) {
        k->g.grammar = seed % 8 == 7 ? thinking : NULL;
        memcpy(k->budget, (uint32_t[]){'<', '/', 't', 'h', 'i', 'n'}, sizeof(k->budget));
        k->g.budget_text = k->budget;
        k->g.budget_count = 6;
        if (k->g.grammar != NULL) { /* the whole tag, for the grammar */
            static const uint32_t tag[] = {'<', '/', 't', 'h', 'i', 'n', 'k', '>'};

            k->g.budget_text = tag;
            k->g.budget_count = 8;
        }
        k->g.thinking_max = 3 + random[7] % 20;
        k->g.think_end = '>';
    }
    plain(&k->g, &k->expected);
}

static void check_kind(const struct kind *k, uint32_t from)
{
    const struct answer *a = &k->answer;

    assert_int_equal(a->err, NEF_OK);
    assert_int_equal(a->finish, k->expected.ended ? NEF_FINISH_STOP : NEF_FINISH_LENGTH);
    assert_int_equal(a->count, k->expected.count - from);
    assert_memory_equal(a->tokens, k->expected.tokens + from, a->count * sizeof(uint32_t));
    for (uint32_t i = 0; i < a->count && k->g.logprobs > 0; i++) {
        bool found = k->g.logprobs == 1;

        assert_true(a->logprobs[i] == k->expected.logprobs[from + i]);
        assert_int_equal(a->top_count[i], k->g.logprobs - 1);
        for (uint32_t t = 0; t < a->top_count[i]; t++) {
            assert_true(t == 0 || a->top[i][t].logprob <= a->top[i][t - 1].logprob);
            found |= a->top[i][t].token == a->tokens[i] ? a->top[i][t].logprob == a->logprobs[i]
                                                        : a->top[i][t].logprob >= a->logprobs[i];
        }
        assert_true(found); /* it is among them, or they are all at least as likely */
    }
}

static void open_all(uint32_t slots, uint64_t kv_pages)
{
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 2);
    engine = start(&f, slots, 512, kv_pages == 0 ? 0 : kv_bytes_of(&f, (uint32_t)kv_pages), 64);
}

static void close_all(void)
{
    nef_engine_stop(engine);
    fixture_close(&f);
}

/* Alone, all together, and then all of them cut at random positions and gone on with. */
static void every_kind_gets_what_it_asks_for(void **state)
{
    struct kind *kinds = calloc(KINDS, sizeof(*kinds));
    struct nef_grammar *grammar, *thinking;
    struct nef_grammar_vocab *vocab;
    uint32_t ended = 0, forced = 0;

    (void)state;
    open_all(8, 20); /* pages run out, too */
    vocab = make_vocab();
    grammar = make_grammar(vocab, SCHEMA, false);
    thinking = make_grammar(vocab, SCHEMA, true);
    for (uint32_t i = 0; i < KINDS; i++) {
        make_kind(&kinds[i], i, grammar, thinking);
        ended += kinds[i].expected.ended;
        forced += kinds[i].g.thinking_max > 0;
        ask_and_wait(engine, &kinds[i].answer, &kinds[i].g);
        check_kind(&kinds[i], 0);
    }
    assert_true(ended > 0 && forced > 2);
    for (uint32_t round = 0; round < 12; round++) {
        for (uint32_t i = 0; i < KINDS; i++) {
            struct kind *k = &kinds[i];
            uint32_t cut = 0, tokens[TOKENS_MAX];
            struct nef_generate g = k->g;

            if (round > 0 && k->expected.count > 0) {
                make_tokens(&cut, 1, k->expected.count, round * 100 + i);
                cut = round == 1 ? k->expected.count - 1 : cut;
            }
            memset(&k->answer, 0, sizeof(k->answer));
            memcpy(tokens, k->prompt, g.prompt_count * sizeof(uint32_t));
            memcpy(tokens + g.prompt_count, k->expected.tokens, cut * sizeof(uint32_t));
            g.prompt = tokens;
            g.prompt_count += cut;
            g.continued = cut;
            g.tenant = i % 3;
            g.weight = 1 + i % 2;
            k->answer.next_position = g.prompt_count;
            k->answer.prompt_told = cut; /* for check below */
            asked(engine, &k->answer, &g);
        }
        for (uint32_t i = 0; i < KINDS; i++) {
            told(&kinds[i].answer);
            check_kind(&kinds[i], kinds[i].answer.prompt_told);
        }
    }
    nef_engine_stop(engine);
    nef_grammar_unref(grammar);
    nef_grammar_unref(thinking);
    nef_grammar_vocab_close(vocab);
    fixture_close(&f);
    free(kinds);
}

static void what_a_grammar_says_is_valid(void **state)
{
    struct nef_grammar_vocab *vocab;
    struct nef_engine_stats stats;
    struct nef_grammar *grammar;
    uint32_t prompt[5] = {1, 2, 3, 4, 5};

    (void)state;
    open_all(4, 0);
    vocab = make_vocab();
    grammar = make_grammar(vocab, SCHEMA, false);
    for (uint32_t seed = 0; seed < 12; seed++) {
        struct answer a = {0};
        struct nef_generate g =
            request(&a, prompt, 5, 300, (struct nef_sampling){.temperature = 1, .top_p = 1, .seed = seed});
        char text[2 * TOKENS_MAX] = "";
        json_t *value;

        g.grammar = grammar;
        g.ends = NULL; /* the grammar alone knows */
        ask_and_wait(engine, &a, &g);
        assert_int_equal(a.finish, NEF_FINISH_STOP);
        for (uint32_t i = 0; i < a.count; i++) {
            static const char *const pieces[] = {"{\"",   "\": ", "\", \"", "\"}",  "true", "false",
                                                 "12",    "ab",   "name",   "]}",   "[1"};

            if (a.tokens[i] < 256)
                strncat(text, &(char){(char)a.tokens[i]}, 1);
            else
                strcat(text, pieces[a.tokens[i] - 256]);
        }
        value = json_loads(text, 0, NULL);
        assert_non_null(value);
        assert_true(json_is_string(json_object_get(value, "name")) && json_is_array(json_object_get(value, "list")) &&
                    json_is_boolean(json_object_get(value, "yes")) && json_object_size(value) == 3);
        json_decref(value);
    }
    nef_engine_stats(engine, &stats);
    assert_true(stats.masks > 12 * 10 && stats.mask_ns_max < 1000000000 && stats.mask_ns > 0);
    nef_engine_stop(engine);
    nef_grammar_unref(grammar);
    nef_grammar_vocab_close(vocab);
    fixture_close(&f);
}

static void a_budget_ends_thinking(void **state)
{
    const uint32_t prompt[] = {9, 8, 7}, text[] = {11, 12, 13};
    const struct nef_logit_bias soon = {13, 100}, never = {13, -100};

    (void)state;
    open_all(2, 0);
    for (int i = 0; i < 2; i++) {
        struct answer a = {0};
        struct nef_generate g = request(&a, prompt, 3, 20, (struct nef_sampling){0});

        g.think_end = 13;
        g.thinking_max = 6;
        g.budget_text = text;
        g.budget_count = 3;
        g.bias = i == 0 ? &never : &soon;
        g.bias_count = 1;
        ask_and_wait(engine, &a, &g);
        assert_int_equal(a.count, 20);
        if (i == 0)
            assert_memory_equal(a.tokens + 6, text, sizeof(text));
        else /* it ended by itself: nothing is forced */
            for (uint32_t k = 0; k < 20; k++)
                assert_int_equal(a.tokens[k], 13);
        for (uint32_t k = 0; i == 0 && k < 20; k++)
            assert_true(k == 8 || a.tokens[k] != 13);
    }
    close_all();
}

static void padding_is_never_sampled(void **state)
{
    const uint32_t prompt[] = {1, 2, 3};
    struct nef_logit_bias bias[] = {{0, 100}, {0, 0}};
    struct answer *a = calloc(1, sizeof(*a));
    struct nef_engine_options o;
    struct nef_generate g;

    (void)state;
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 2);
    o = (struct nef_engine_options){.model = f.model,
                                    .slots = 1,
                                    .context = 64,
                                    .kv_type = nef_model_kv_default(f.model),
                                    .vocab_used = f.vocab - 100};
    assert_int_equal(nef_engine_start(&o, &engine), NEF_OK);
    bias[0].token = f.vocab - 50;
    for (float temperature = 0; temperature < 2; temperature++) {
        memset(a, 0, sizeof(*a));
        g = request(a, prompt, 3, 40, (struct nef_sampling){.temperature = temperature, .top_p = 1});
        g.bias = bias;
        g.bias_count = 1;
        g.logprobs = 21;
        ask_and_wait(engine, a, &g);
        assert_int_equal(a->count, 40);
        for (uint32_t i = 0; i < 40; i++) {
            assert_true(a->tokens[i] < f.vocab - 100);
            for (uint32_t t = 0; t < 20; t++)
                assert_true(a->top[i][t].token < f.vocab - 100);
        }
    }
    nef_engine_stop(engine);
    o.vocab_used = f.vocab + 1;
    assert_int_equal(nef_engine_start(&o, &engine), NEF_E_RANGE);
    fixture_close(&f);
    free(a);
}

static void prompts_are_told_with_log_probabilities(void **state)
{
    struct kind *kinds = calloc(6, sizeof(*kinds));
    struct answer *beside = calloc(6, sizeof(*beside));

    (void)state;
    open_all(4, 12);
    for (uint32_t i = 0; i < 6; i++) {
        make_kind(&kinds[i], i * 6, NULL, NULL);
        kinds[i].g.prompt_logprobs = true;
        kinds[i].g.tokens_max = i == 1 ? 0 : 30;
        kinds[i].g.logprobs = i == 2 ? 0 : 4;
        plain(&kinds[i].g, &kinds[i].expected);
    }
    for (uint32_t i = 0; i < 6; i++) { /* the same prompts beside them, which leave pages in the cache */
        struct nef_generate g = request(&beside[i], kinds[i].prompt, 199, 60, (struct nef_sampling){0});

        asked(engine, &beside[i], &g);
        asked(engine, &kinds[i].answer, &kinds[i].g);
    }
    for (uint32_t i = 0; i < 6; i++) {
        const struct answer *a = &kinds[i].answer;

        told(&beside[i]);
        told(&kinds[i].answer);
        check_kind(&kinds[i], 0);
        assert_int_equal(a->prompt_told, kinds[i].g.prompt_count);
        assert_memory_equal(a->prompt_tokens, kinds[i].prompt, a->prompt_told * sizeof(uint32_t));
        assert_true(isnan(a->prompt_logprobs[0]));
        for (uint32_t t = 1; t < a->prompt_told; t++) {
            assert_true(a->prompt_logprobs[t] == kinds[i].expected.prompt_logprobs[t]);
            if (kinds[i].g.logprobs == 4)
                assert_true(a->prompt_top[t][2].logprob <= a->prompt_top[t][0].logprob &&
                            a->prompt_top[t][0].logprob >= a->prompt_logprobs[t]);
        }
        assert_int_equal(a->cached, 0);
    }
    close_all();
    free(beside);
    free(kinds);
}

/* ---- embeddings ---- */

static void plain_embedding(const uint32_t *prompt, uint32_t count, enum nef_pooling pooling, float *out)
{
    static const uint8_t salt[32];
    struct nef_kv_cache *cache = cache_open(&f, nef_model_kv_default(f.model), 16);
    uint32_t width = nef_model_config(f.model)->embedding, cached;
    struct nef_kv_sequence *sequence;
    double sums[512] = {0};

    assert_int_equal(nef_kv_sequence_open(cache, salt, prompt, 1, &cached, &sequence), NEF_OK);
    for (uint32_t i = 0; i < count; i++) {
        struct nef_row row = {.sequence = sequence, .token = prompt[i], .position = i, .hidden = true};

        assert_int_equal(nef_kv_reserve(sequence, i + 1), NEF_OK);
        assert_int_equal(nef_model_forward(f.model, &row, 1, NULL), NEF_OK);
        nef_kv_note(sequence, i, prompt[i]);
        if (pooling == NEF_POOLING_MEAN || (pooling == NEF_POOLING_CLS && i == 0) ||
            (pooling == NEF_POOLING_LAST && i + 1 == count))
            for (uint32_t k = 0; k < width; k++)
                sums[k] += (double)nef_model_hidden(f.model)[k];
    }
    for (uint32_t k = 0; k < width; k++)
        out[k] = (float)(sums[k] / (pooling == NEF_POOLING_MEAN ? (double)count : 1.0));
    nef_kv_sequence_close(sequence);
    nef_kv_close(cache);
}

static void on_embedding(void *context, const float *values, uint32_t count)
{
    struct answer *a = context;

    assert_int_equal(a->embedding_count, 0);
    assert_true(count <= NEF_COUNT(a->embedding));
    memcpy(a->embedding, values, count * sizeof(values[0]));
    a->embedding_count = count;
}

static void embeddings_are_the_same_alone_and_in_a_batch(void **state)
{
    uint32_t prompts[9][300], width;
    struct answer *answers = calloc(9, sizeof(*answers));
    struct answer *beside = calloc(4, sizeof(*beside));

    (void)state;
    open_all(6, 18);
    width = nef_model_config(f.model)->embedding;
    for (uint32_t i = 0; i < 9; i++)
        make_tokens(prompts[i], 300, f.vocab, i % 2);
    for (uint32_t i = 0; i < 9; i++) {
        struct nef_generate g =
            request(&answers[i], prompts[i], 1 + i * 35, 10 /* ignored */, (struct nef_sampling){0});

        g.embedding = on_embedding;
        g.pooling = NEF_POOLING_MEAN + i % 3;
        if (i % 2 == 0 && i < 8) {
            struct nef_generate d = request(&beside[i / 2], prompts[i], 250, 40, (struct nef_sampling){0});

            asked(engine, &beside[i / 2], &d);
        }
        asked(engine, &answers[i], &g);
    }
    for (uint32_t i = 0; i < 4; i++)
        told(&beside[i]);
    for (uint32_t i = 0; i < 9; i++)
        told(&answers[i]);
    nef_engine_drain(engine); /* the model is ours again */
    for (uint32_t i = 0; i < 9; i++) {
        float expected[512];

        assert_int_equal(answers[i].finish, NEF_FINISH_STOP);
        assert_int_equal(answers[i].count, 0);
        assert_int_equal(answers[i].embedding_count, width);
        plain_embedding(prompts[i], 1 + i * 35, NEF_POOLING_MEAN + i % 3, expected);
        assert_memory_equal(answers[i].embedding, expected, width * sizeof(float));
    }
    close_all();
    free(answers);
    free(beside);
}

/* ---- what is refused ---- */

static void wrong_requests_are_refused(void **state)
{
    const uint32_t prompt[] = {1, 2, 3}, wrong[] = {UINT32_MAX};
    struct nef_logit_bias bias[3] = {{0, 101}, {0, NAN}, {UINT32_MAX, 1}};
    struct nef_generation *none = NULL;
    struct nef_grammar_vocab *vocab;
    struct nef_grammar *grammar;
    struct nef_generate all[18];
    struct answer a = {0};
    size_t n = 0;

    (void)state;
    open_all(2, 0);
    vocab = make_vocab();
    grammar = make_grammar(vocab, SCHEMA, false);
    for (size_t i = 0; i < NEF_COUNT(all); i++)
        all[i] = request(&a, prompt, 3, 10, (struct nef_sampling){0});
    all[n++].continued = 3;
    for (int i = 0; i < 3; i++) {
        all[n].bias = &bias[i];
        all[n++].bias_count = 1;
    }
    all[n].bias = bias;
    all[n++].bias_count = NEF_ENGINE_BIAS_MAX + 1;
    all[n].budget_text = wrong;
    all[n++].budget_count = 1;
    all[n].budget_text = prompt;
    all[n++].budget_count = NEF_ENGINE_BUDGET_MAX + 1;
    all[n++].logprobs = 22;
    all[n++].sampling.presence_penalty = NAN;
    all[n++].sampling.frequency_penalty = INFINITY;
    all[n++].sampling.repetition_penalty = -1;
    all[n++].weight = NEF_ENGINE_WEIGHT_MAX + 1;
    all[n++].priority = NEF_ENGINE_PRIORITY_MAX + 1;
    all[n++].embedding = on_embedding; /* and no pooling */
    all[n].embedding = on_embedding;
    all[n].pooling = NEF_POOLING_LAST;
    all[n++].grammar = grammar;
    all[n].embedding = on_embedding;
    all[n++].pooling = 4;
    for (size_t i = 0; i < n; i++)
        assert_int_equal(nef_engine_generate(engine, &all[i], &none), NEF_E_RANGE);
    all[17].grammar = grammar; /* an answer that isn't one of the grammar */
    all[17].continued = 2;
    assert_int_equal(nef_engine_generate(engine, &all[17], &none), NEF_E_INVALID);
    assert_null(none);
    assert_false(a.done);
    all[17].continued = 0; /* a budget that the grammar doesn't allow ends it with an error */
    all[17].thinking_max = 1;
    all[17].think_end = 2;
    all[17].budget_text = prompt;
    all[17].budget_count = 3;
    ask_and_wait(engine, &a, &all[17]);
    assert_int_equal(a.finish, NEF_FINISH_ERROR);
    assert_int_equal(a.err, NEF_E_INVALID);
    nef_engine_stop(engine);
    nef_grammar_unref(grammar);
    nef_grammar_vocab_close(vocab);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_gets_what_it_asks_for),
        cmocka_unit_test(what_a_grammar_says_is_valid),
        cmocka_unit_test(a_budget_ends_thinking),
        cmocka_unit_test(padding_is_never_sampled),
        cmocka_unit_test(prompts_are_told_with_log_probabilities),
        cmocka_unit_test(embeddings_are_the_same_alone_and_in_a_batch),
        cmocka_unit_test(wrong_requests_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
