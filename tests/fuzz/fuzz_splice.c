/* What a backend says: server-sent events into a splice, in pieces. The first byte says how the stream is cut and after
 * how many events the backend is lost; the rest is the stream, which is told to each of three backends in turn. */
#include <stdint.h>
#include <stdlib.h>
#include "base/assert.h"
#include "gateway/splice.h"
#include "gateway/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct told {
    struct nef_splice *splice;
    unsigned left;
};

static bool on_event(void *context, const char *data, size_t bytes)
{
    struct told *t = context;
    json_t *event = json_loadb(data, bytes, JSON_ALLOW_NUL, NULL), *chunk = NULL;
    nef_err err = event == NULL ? NEF_E_PROTOCOL : nef_splice_take(t->splice, event, &chunk);

    if (chunk != NULL && json_array_size(json_object_get(chunk, "choices")) != 1)
        abort();
    json_decref(chunk);
    json_decref(event);
    return err == NEF_OK && t->left-- > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    json_t *body = json_pack("{s:s, s:[{s:s, s:s}]}", "model", "m", "messages", "role", "user", "content", "x");
    struct told t = {.splice = NULL};

    if (bytes < 2 || body == NULL || nef_splice_new(NEF_AI_CHAT, body, 1, &t.splice) != NEF_OK) {
        json_decref(body);
        return 0;
    }
    for (unsigned i = 0; i < 3 && !nef_splice_finished(t.splice); i++) {
        const struct nef_splice_backend backend = {.built_in = (data[0] >> i & 1) != 0, .token_ids = true};
        json_t *asked = NULL;
        struct nef_sse sse;
        size_t piece = 1 + (data[0] >> 3);

        if (nef_splice_request(t.splice, &backend, &asked) != NEF_OK)
            break;
        json_decref(asked);
        t.left = i == 2 ? 1000 : 2 + i;
        nef_sse_init(&sse, 1u << 16);
        for (size_t at = 1; at < bytes; at += piece)
            if (nef_sse_take(&sse, data + at, NEF_MIN(piece, bytes - at), on_event, &t) != NEF_OK)
                break;
        nef_sse_done(&sse);
    }
    (void)nef_splice_usage(t.splice);
    nef_splice_free(t.splice);
    json_decref(body);
    return 0;
}
