/* Fuzz target: bodies of requests to the inference API. The first byte says to which endpoint. Whatever is refused must
 * say why in an error object that is JSON; whatever is taken keeps within its limits, and its stop strings are then
 * looked for in the body itself, whole and byte by byte, with the same result. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/api/request.h"
#include "infer/api/stop.h"
#include "infer/api/write.h"

#define VOCAB 1000u

static void check_json(struct nef_buf *out)
{
    json_t *root;

    NEF_ASSERT(nef_buf_end(out) == NEF_OK);
    root = json_loadb((const char *)out->data, out->bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    NEF_ASSERT(root != NULL);
    json_decref(root);
    nef_buf_free(out);
}

/* Bytes of DATA before the first stop string, looked for in pieces of STEP. */
static size_t before_stop(const struct nef_api_request *r, const char *data, size_t bytes, size_t step)
{
    struct nef_stop *stop;
    size_t seen = 0, left = 0;
    bool found = false;

    NEF_ASSERT(nef_stop_open(r->stops, r->stop_count, &stop) == NEF_OK);
    while (seen < bytes && !found) {
        size_t used = 0, held = 0;

        found = nef_stop_take(stop, data + seen, NEF_MIN(step, bytes - seen), &used, &held);
        seen += used;
        NEF_ASSERT(held <= seen && seen - held >= left);
        left = seen - held;
    }
    nef_stop_close(stop);
    return found ? left : bytes;
}

static void check_ids(const struct nef_api_prompt *prompts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < prompts[i].count; j++)
            NEF_ASSERT(prompts[i].tokens[j] < VOCAB);
}

static void check_limits(const struct nef_api_request *r)
{
    const struct nef_sampling *s = &r->sampling;
    const bool generates = r->kind == NEF_API_COMPLETION || r->kind == NEF_API_CHAT;
    const uint32_t prompts = r->kind == NEF_API_CHAT ? 1 : r->prompt_count;

    NEF_ASSERT(r->stop_count <= NEF_COUNT(r->stops));
    NEF_ASSERT(r->prompt_count <= (r->kind == NEF_API_EMBEDDING ? NEF_INFER_INPUTS_MAX : NEF_INFER_PROMPTS_MAX));
    NEF_ASSERT(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1);
    NEF_ASSERT(s->min_p >= 0 && s->min_p <= 1 && s->repetition_penalty > 0 && s->repetition_penalty <= 100);
    NEF_ASSERT(s->presence_penalty >= -2 && s->presence_penalty <= 2);
    NEF_ASSERT(s->frequency_penalty >= -2 && s->frequency_penalty <= 2);
    NEF_ASSERT(r->logprobs <= 1 + NEF_ENGINE_LOGPROBS_MAX && r->bias_count <= NEF_ENGINE_BIAS_MAX);
    for (uint32_t i = 0; i < r->bias_count; i++)
        NEF_ASSERT(r->bias[i].token < VOCAB && r->bias[i].bias >= -100 && r->bias[i].bias <= 100);
    NEF_ASSERT(r->choices >= 1 && (!generates || (uint64_t)prompts * r->choices <= NEF_INFER_CHOICES_MAX));
    NEF_ASSERT(r->continued == NULL || r->continued_count == prompts * r->choices);
    check_ids(r->prompts, r->prompt_count);
    check_ids(r->continued, r->continued_count);
}

/* What may be called is among what is told, and named where a name is asked for. */
static void check_tools(const struct nef_api_request *r)
{
    const json_t *tool;
    size_t i;

    NEF_ASSERT((r->tools == NULL) == (r->callable == NULL));
    NEF_ASSERT(r->tools != NULL || (!r->tools_required && r->function == NULL));
    NEF_ASSERT(r->tools == NULL || json_array_size(r->callable) > 0);
    NEF_ASSERT(json_array_size(r->callable) <= json_array_size(r->tools));
    json_array_foreach(r->callable, i, tool)
        NEF_ASSERT(json_string_length(json_object_get(json_object_get(tool, "function"), "name")) > 0);
    NEF_ASSERT((r->answer == NEF_GRAMMAR_SCHEMA) == (r->schema != NULL));
    NEF_ASSERT(!r->ignore_eos || !nef_api_request_grammar(r));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const struct nef_sampling presets = {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .repetition_penalty = 1};
    struct nef_api_request r;
    struct nef_api_error error;
    struct nef_buf out = {0};

    if (bytes == 0)
        return 0;
    if (!nef_api_request_parse((enum nef_api_kind)(data[0] % NEF_API_KINDS), data + 1, bytes - 1, &presets, VOCAB, &r, &error)) {
        NEF_ASSERT(error.message[0] != '\0' && error.status >= 400 && error.status < 600);
        nef_write_error(&error, &out);
        check_json(&out);
        return 0;
    }
    check_limits(&r);
    check_tools(&r);
    for (uint32_t i = 0; i < r.prompt_count; i++) {
        if (r.prompts[i].text != NULL) {
            nef_json_text_write(&out, r.prompts[i].text, r.prompts[i].bytes);
            json_decref(json_loadb((const char *)out.data, out.bytes, JSON_DECODE_ANY, NULL));
            nef_buf_free(&out);
        }
    }
    NEF_ASSERT(before_stop(&r, (const char *)data, bytes, 1) == before_stop(&r, (const char *)data, bytes, bytes));
    NEF_ASSERT(before_stop(&r, (const char *)data, bytes, 7) == before_stop(&r, (const char *)data, bytes, bytes));
    nef_api_request_free(&r);
    return 0;
}
