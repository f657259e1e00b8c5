/* The other side of `nef chat`: a region's AI address, instead of a model in this process. One thread. */
#ifndef NEF_CLI_CHAT_REGION_H
#define NEF_CLI_CHAT_REGION_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

struct nef_chat_region;

struct nef_chat_region_options {
    const char *dir;      /* of a region that nef up made; or endpoint */
    const char *endpoint; /* "https://host:port"; the key, where one is needed, is in OPENAI_API_KEY */
    const char *ca;       /* with endpoint: NULL, or a PEM file */
    const char *model;    /* NULL: the first one that the region has */
};

/* Returns the exit status; what is wrong was said. */
int nef_chat_region_open(const struct nef_chat_region_options *options, struct nef_chat_region **out_region);
void nef_chat_region_close(struct nef_chat_region *region); /* NULL is accepted */
const char *nef_chat_region_model(const struct nef_chat_region *region);

struct nef_chat_region_answer {
    uint64_t prompt, cached, completion;
    uint64_t first_ns; /* nef_now_ns of the first piece; 0: none came */
    bool stopped, cut; /* by the caller; by its length */
    char why[512];     /* with an error: the region's message */
};

/* BODY (model, stream and usage are set here; changed) to /v1/chat/completions. part: pieces as they come; reasoning
 * says what the model only thinks. STOP, set from anywhere, ends it. Errors: NEF_E_UNAVAILABLE: why says it.
 * NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_chat_region_ask(struct nef_chat_region *region, json_t *body,
                                           void (*part)(void *context, bool reasoning, const char *text, size_t bytes),
                                           void *context, const atomic_bool *stop, struct nef_chat_region_answer *out);

#endif
