/* /v1/embeddings: each input is a generation without tokens, pooled as the model says, cut to `dimensions` and brought to
 * length 1 (Matryoshka representations, Kusupati et al. 2022; OpenAI does the same).
 *
 * A window of inputs is with the engine at any time, so that a batch of thousands fills neither its queue nor its slots.
 * The listener's thread hands over the next ones when some have finished; a worker writes the document. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "infer/api/api_internal.h"

#define WINDOW 32u
/* Bytes of a number in the document: "-0.123456789," and its like, or base64 of four bytes. */
#define FLOAT_BYTES  16u
#define BASE64_BYTES 6u

/* ---- the engine's thread ---- */

static void on_embedding(void *context, const float *values, uint32_t count)
{
    struct run *run = context;

    run->values = malloc(count * sizeof(*values));
    if (run->values == NULL) {
        run->err = NEF_E_NOMEM;
        return;
    }
    memcpy(run->values, values, count * sizeof(*values));
    run->value_count = count;
}

static void on_finished(void *context, enum nef_finish finish, nef_err err, uint32_t cached)
{
    struct run *run = context;

    run->finish = finish;
    if (run->err == NEF_OK)
        run->err = err;
    run->state.cached = cached;
    run->ended = true;
    nef_api_run_finished(run); /* which publishes the above */
}

/* ---- submitting ---- */

static nef_err submit_next(struct call *c)
{
    struct run *run = &c->runs[c->submitted];
    const struct nef_generate g = {
        .prompt = run->tokens,
        .prompt_count = run->prompt_tokens,
        .think_end = NEF_NO_TOKEN,
        .embedding = on_embedding,
        .pooling = c->api->model.pooling,
        .finished = on_finished,
    };
    nef_err err = nef_api_submit(c, run, &g);

    if (err != NEF_OK)
        return err;
    c->submitted++;
    nef_wipe(run->tokens, run->prompt_tokens * sizeof(*run->tokens));
    free(run->tokens);
    run->tokens = NULL;
    return NEF_OK;
}

/* Until the window is full. A full queue is an error only where nothing of this request runs. */
static bool submit_some(struct call *c)
{
    nef_err err = NEF_OK;

    while (c->submitted < c->run_count && atomic_load(&c->running) < WINDOW && err == NEF_OK)
        err = submit_next(c);
    if (err == NEF_OK || (err == NEF_E_BUSY && atomic_load(&c->running) > 0))
        return true;
    return nef_api_refuse_err(c, err);
}

static bool check(struct call *c, const struct nef_api_request *r)
{
    const struct nef_api_model *o = &c->api->model;
    uint32_t wide = r->dimensions == 0 ? o->embedding : r->dimensions;

    if (o->pooling == NEF_POOLING_NONE)
        return nef_api_fail(&c->error, 400, "unsupported_model", "model",
                            "This model's file doesn't say how embeddings are pooled; the server needs --pooling.");
    if (wide > o->embedding)
        return nef_api_fail(&c->error, 400, "invalid_value", "dimensions",
                            "'dimensions' must be at most %u with this model.", o->embedding);
    if ((uint64_t)r->prompt_count * wide * (r->base64 ? BASE64_BYTES : FLOAT_BYTES) > NEF_BUF_MAX)
        return nef_api_fail(&c->error, 400, "invalid_value", "input",
                            "The answer would be too large; send fewer inputs at once%s.",
                            r->base64 ? "" : ", or ask for base64");
    return true;
}

bool nef_api_embed(struct call *c, struct nef_api_request *r)
{
    if (!check(c, r))
        return false;
    c->runs = calloc(r->prompt_count, sizeof(*c->runs));
    if (c->runs == NULL)
        return nef_api_refuse_err(c, NEF_E_NOMEM);
    c->run_count = r->prompt_count;
    c->dimensions = r->dimensions == 0 ? c->api->model.embedding : r->dimensions;
    c->base64 = r->base64;
    for (uint32_t i = 0; i < c->run_count; i++) {
        struct run *run = &c->runs[i];

        run->call = c;
        run->first = true;
        if (!nef_api_prompt_tokens(c, r, i, &run->tokens, &run->prompt_tokens) ||
            !nef_api_prompt_fits(c, r, run->prompt_tokens))
            return false;
    }
    c->wanted = true;
    return submit_some(c);
}

/* ---- the document ---- */

/* The first COUNT values at length 1; zeros stay zeros. */
static void normalize(float *values, uint32_t count)
{
    double sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum += (double)values[i] * (double)values[i];
    if (!(sum > 0))
        return;
    for (uint32_t i = 0; i < count; i++)
        values[i] = (float)((double)values[i] / sqrt(sum));
}

static void write_document(struct call *c)
{
    const struct nef_usage usage = nef_api_usage(c);
    struct nef_buf *out = &c->document;

    nef_buf_text(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < c->run_count && !out->failed; i++) {
        struct run *run = &c->runs[i];

        NEF_ASSERT(run->value_count >= c->dimensions);
        normalize(run->values, c->dimensions);
        nef_buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i == 0 ? "" : ",", i);
        (c->base64 ? nef_json_base64_write : nef_json_floats_write)(out, run->values, c->dimensions);
        nef_buf_u8(out, '}');
    }
    nef_buf_text(out, "],\"model\":");
    nef_json_cstr_write(out, c->api->model.alias);
    nef_buf_printf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}", (unsigned long long)usage.prompt,
                   (unsigned long long)usage.prompt);
}

/* ---- the listener's thread ---- */

static bool failed(struct call *c)
{
    for (uint32_t i = 0; i < c->submitted; i++) {
        const struct run *run = &c->runs[i];

        if (run->finish == NEF_FINISH_CANCELLED)
            return !nef_api_fail(&c->error, 503, "cancelled", "", "The server is stopping.");
        if (run->finish == NEF_FINISH_ERROR || run->err != NEF_OK)
            return !nef_api_refuse_err(c, run->err);
    }
    return false;
}

enum nef_http_next nef_api_embed_goes_on(struct call *c)
{
    const uint32_t running = atomic_load_explicit(&c->running, memory_order_acquire);

    if (nef_http_gone(c->http))
        return NEF_HTTP_DROP;
    if (running >= WINDOW || (running > 0 && c->submitted == c->run_count))
        return NEF_HTTP_WAIT;
    if (running == 0 && failed(c)) {
        nef_api_answer_error(c, &c->error);
        return NEF_HTTP_ANSWERED;
    }
    if (c->submitted < c->run_count) {
        if (submit_some(c))
            return NEF_HTTP_WAIT;
        nef_api_call_cancel(c);
        nef_api_answer_error(c, &c->error);
        return NEF_HTTP_ANSWERED;
    }
    c->wanted = false; /* the next answer is the document */
    if (!nef_api_call_work(c, write_document))
        c->wanted = true; /* the workers are busy: at the next tick */
    return NEF_HTTP_WAIT;
}
