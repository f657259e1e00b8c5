/* What the server is: /health, /v1/models and /metrics. */
#include <string.h>
#include "infer/api/api_internal.h"

void nef_api_health(struct call *c)
{
    struct nef_buf out = {0};

    if (atomic_load(&c->api->draining)) {
        struct nef_api_error error;

        (void)nef_api_fail(&error, 503, "draining", "", "The server is stopping.");
        nef_api_answer_error(c, &error);
        return;
    }
    nef_buf_text(&out, "{\"status\":\"ok\"}");
    nef_api_answer_json(c, 200, &out);
}

static void describe(const struct nef_api *api, struct nef_buf *out)
{
    const struct nef_api_model *o = &api->model;

    nef_buf_text(out, "{\"id\":");
    nef_json_text_write(out, o->alias, strlen(o->alias));
    nef_buf_printf(out, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"nef\",\"meta\":{",
                   (unsigned long long)api->started_s);
    nef_buf_printf(out, "\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_ctx\":%u,\"n_embd\":%u,\"size\":%llu,", o->vocab,
                   o->context_trained, o->context, o->embedding, (unsigned long long)o->file_bytes);
    nef_buf_printf(out, "\"numerics\":%u,\"kernels\":\"%s\",\"kv_type\":\"%s\"}}", NEF_NUMERICS_VERSION, o->kernels,
                   o->kv_type);
}

void nef_api_models(struct call *c)
{
    struct nef_buf out = {0};

    nef_buf_text(&out, "{\"object\":\"list\",\"data\":[");
    describe(c->api, &out);
    nef_buf_text(&out, "]}");
    nef_api_answer_json(c, 200, &out);
}

void nef_api_model(struct call *c)
{
    const char *name = c->path + strlen("/v1/models/");
    struct nef_buf out = {0};

    if (strcmp(name, c->api->model.alias) != 0) {
        struct nef_api_error error;

        (void)nef_api_fail(&error, 404, "model_not_found", "model",
                           "There is no such model here; this server has '%s'.", c->api->model.alias);
        nef_api_answer_error(c, &error);
        return;
    }
    describe(c->api, &out);
    nef_api_answer_json(c, 200, &out);
}
