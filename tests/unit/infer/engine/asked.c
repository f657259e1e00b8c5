/* See asked.h. */
#include "asked.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;

static bool on_token(void *context, const struct nef_token *t)
{
    struct answer *a = context;

    assert_true(a->count < TOKENS_MAX);
    assert_int_equal(t->position, a->next_position);
    a->next_position++;
    a->logprobs[a->count] = t->logprob;
    a->top_count[a->count] = t->top_count;
    if (t->top_count > 0)
        memcpy(a->top[a->count], t->top, t->top_count * sizeof(t->top[0]));
    a->tokens[a->count++] = t->token;
    if (a->pace.tv_nsec != 0)
        (void)nanosleep(&a->pace, NULL);
    return a->stop_after == 0 || a->count < a->stop_after;
}

static void on_prompt_token(void *context, const struct nef_token *t)
{
    struct answer *a = context;

    assert_int_equal(a->count, 0);
    assert_int_equal(t->position, a->prompt_told);
    a->prompt_logprobs[a->prompt_told] = t->logprob;
    if (t->top_count > 0)
        memcpy(a->prompt_top[a->prompt_told], t->top, t->top_count * sizeof(t->top[0]));
    a->prompt_tokens[a->prompt_told++] = t->token;
}

static bool on_end_token(void *context, uint32_t token)
{
    const struct answer *a = context;

    return a->ends_with != 0 && token == a->ends_with;
}

static void on_finished(void *context, enum nef_finish finish, nef_err err, uint32_t cached)
{
    struct answer *a = context;

    (void)pthread_mutex_lock(&lock);
    assert_false(a->done); /* once */
    a->finish = finish;
    a->err = err;
    a->cached = cached;
    a->done = true;
    (void)pthread_cond_broadcast(&ended);
    (void)pthread_mutex_unlock(&lock);
}

void wait_for(struct answer *a)
{
    (void)pthread_mutex_lock(&lock);
    while (!a->done)
        (void)pthread_cond_wait(&ended, &lock);
    (void)pthread_mutex_unlock(&lock);
}

struct nef_generate request(struct answer *a, const uint32_t *prompt, uint32_t count, uint32_t tokens_max,
                            struct nef_sampling sampling)
{
    a->next_position = count;
    return (struct nef_generate){.prompt = prompt,
                                 .prompt_count = count,
                                 .tokens_max = tokens_max,
                                 .sampling = sampling,
                                 .ends = on_end_token,
                                 .token = on_token,
                                 .prompt_token = on_prompt_token,
                                 .finished = on_finished,
                                 .context = a};
}

void asked(struct nef_engine *engine, struct answer *a, const struct nef_generate *g)
{
    assert_int_equal(nef_engine_generate(engine, g, &a->generation), NEF_OK);
}

void told(struct answer *a)
{
    wait_for(a);
    nef_generation_unref(a->generation);
    a->generation = NULL;
}

void ask_and_wait(struct nef_engine *engine, struct answer *a, const struct nef_generate *g)
{
    asked(engine, a, g);
    told(a);
}

struct nef_engine *start(const struct fixture *f, uint32_t slots, uint32_t context, uint64_t kv_bytes,
                         uint32_t waiting)
{
    struct nef_engine *engine;

    assert_int_equal(nef_engine_start(&(struct nef_engine_options){.model = f->model,
                                                                   .slots = slots,
                                                                   .context = context,
                                                                   .kv_type = nef_model_kv_default(f->model),
                                                                   .kv_bytes = kv_bytes,
                                                                   .waiting_max = waiting},
                                      &engine),
                     NEF_OK);
    return engine;
}

uint64_t kv_bytes_of(const struct fixture *f, uint32_t pages)
{
    const struct nef_model_config *c = nef_model_config(f->model);

    return (uint64_t)nef_kv_page_bytes(nef_model_kv_default(f->model), c->head_dim) * 2 * c->layers * c->kv_heads *
           pages;
}

/* What a request gets alone, from a plain loop over model and sampler. */
void alone(const struct fixture *f, const uint32_t *prompt, uint32_t count, uint32_t wanted,
           struct nef_sampling sampling, uint32_t *out)
{
    static const uint8_t salt[32];
    struct nef_kv_cache *cache = cache_open(f, nef_model_kv_default(f->model), 16);
    float *logits = malloc(f->vocab * sizeof(float));
    void *scratch = malloc(nef_sampler_scratch(f->vocab));
    struct nef_kv_sequence *sequence;
    uint32_t cached;

    assert_int_equal(nef_kv_sequence_open(cache, salt, prompt, 1, &cached, &sequence), NEF_OK);
    for (uint32_t i = 0; i < count; i++)
        step(f, sequence, prompt[i], i, logits);
    for (uint32_t i = 0; i < wanted; i++) {
        assert_int_equal(nef_sample(&sampling, logits, f->vocab, count + i, scratch, &out[i]), NEF_OK);
        step(f, sequence, out[i], count + i, logits);
    }
    nef_kv_sequence_close(sequence);
    nef_kv_close(cache);
    free(scratch);
    free(logits);
}
