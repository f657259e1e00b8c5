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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const struct nef_sampling presets = {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f};
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
    NEF_ASSERT(r.stop_count <= NEF_COUNT(r.stops) && r.prompt_count <= NEF_INFER_PROMPTS_MAX);
    NEF_ASSERT(r.sampling.temperature >= 0 && r.sampling.temperature <= 2);
    NEF_ASSERT(r.sampling.top_p > 0 && r.sampling.top_p <= 1 && r.sampling.min_p >= 0 && r.sampling.min_p <= 1);
    for (uint32_t i = 0; i < r.prompt_count; i++) {
        for (uint32_t j = 0; j < r.prompts[i].count; j++)
            NEF_ASSERT(r.prompts[i].tokens[j] < VOCAB);
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
