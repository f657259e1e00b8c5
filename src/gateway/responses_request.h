/* Requests of /v1/responses as requests of chats. PURE: JSON in, JSON out. The fields that are taken: docs/gateway.md;
 * what isn't known, or asks for what isn't built, is refused by its name. */
#ifndef NEF_GATEWAY_RESPONSES_REQUEST_H
#define NEF_GATEWAY_RESPONSES_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

#define NEF_RESPONSE_ID_BYTES 64u /* with its NUL */

/* Why a request is refused, as OpenAI's error object says it. */
struct nef_responses_why {
    unsigned status;
    const char *code; /* static */
    char param[96];
    char message[256];
};

struct nef_responses_request {
    json_t *body;  /* what was asked, without `input`: echoed by the response object */
    json_t *input; /* items, an array; each has an id */
    bool stream, store, background;
    const char *previous; /* previous_response_id, or NULL; in body */
};

/* Check BODY and take it apart for the response ID. NEF_E_INVALID: *why says it; NEF_E_NOMEM. *out is to be freed in
 * any case. */
NEF_MUST_CHECK nef_err nef_responses_request_parse(json_t *body, const char *id, struct nef_responses_request *out,
                                                   struct nef_responses_why *why);
void nef_responses_request_free(struct nef_responses_request *request);

/* The chat request for BODY: CONTEXT are the items before, in order (may be NULL), INPUT the request's own. It has
 * SEED if the body has none, and asks for token ids, so that it can go on elsewhere. NEF_E_INVALID: the items don't
 * make a chat; NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_responses_chat(const json_t *body, const json_t *context, const json_t *input, uint64_t seed,
                                          json_t **out_chat, struct nef_responses_why *why);

/* "resp_" and lower-case hex. */
bool nef_response_id_ok(const char *id);

NEF_PRINTF(5, 6)
nef_err nef_responses_refuse(struct nef_responses_why *why, unsigned status, const char *code, const char *param,
                             const char *format, ...);

#endif
