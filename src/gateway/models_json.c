/* A model as OpenAI's clients see it; see models.h. Names need no escaping: nef_model_name_ok. */
#include "base/bytes.h"
#include "gateway/models.h"

void nef_models_json(const struct nef_model_info *info, struct nef_buf *out)
{
    nef_buf_printf(out,
                   "{\"id\":\"%s\",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"nef\",\"meta\":{\"size\":%llu",
                   info->name, (unsigned long long)(info->created_ms / 1000), (unsigned long long)info->bytes);
    if (info->has_sha256) {
        char hex[65];

        nef_hex(info->sha256, sizeof(info->sha256), hex);
        nef_buf_printf(out, ",\"sha256\":\"%s\"", hex);
    }
    nef_buf_text(out, "}}");
}
