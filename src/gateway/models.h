/* Models of a zone: the objects of the bucket NEF_MODELS_BUCKET, object key = name of the model.
 *
 * A thread watches the zone's index and keeps a list, which is the same in both zones as soon as both have applied
 * the same ops. A model that is to run is decrypted from the log into a sealed memfd, never into a file: every block is
 * authenticated as for any GET, repaired from the peer if it is damaged, checked against the digests that were recorded
 * when the model was stored, and parsed as GGUF before anyone gets the descriptor.
 *
 *   models.c        the watch and the list
 *   models_open.c   from the log into a memfd
 *   models_json.c   /v1/models
 *
 * How a model gets there: src/cli/model.c (`nef model add`), or any S3 client; the bucket needs nothing special. */
#ifndef NEF_GATEWAY_MODELS_H
#define NEF_GATEWAY_MODELS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/limits.h"
#include "server/runtime.h"

#define NEF_MODELS_BUCKET "nef-models"
/* User metadata of a model's object. Both may be absent: then nothing is known but what S3 knows. */
#define NEF_MODELS_META_SHA256 "x-amz-meta-sha256" /* 64 hex digits, of the whole object */
#define NEF_MODELS_META_SOURCE "x-amz-meta-source" /* where it came from */

struct nef_models;

struct nef_model_info {
    char name[NEF_MODEL_NAME_MAX + 1]; /* A-Z a-z 0-9 . _ - / : objects with other names are no models */
    char etag[NEF_ETAG_MAX + 1];       /* with name and created_ms: which content; another one is another model */
    uint64_t bytes;
    uint64_t created_ms; /* when it was stored: the log's time, equal in both zones */
    bool has_sha256;
    uint8_t sha256[32];
};

struct nef_models_options {
    struct nef_runtime *rt; /* borrowed until stop */
    uint32_t cells;         /* of the region */
    /* The list isn't what it was (not at start, when it is read for the first time: also then). From the watch's
     * thread; must not block for long; may be NULL. */
    void (*changed)(void *context);
    void *context;
};

/* 1 to NEF_MODEL_NAME_MAX of A-Z a-z 0-9 . _ - and single inner '/'; not beginning with '.' or '-'. */
bool nef_model_name_ok(const char *name, size_t bytes);

/* Starts the watch. Before there is a list (the zone has no lease yet, say) it is empty: see nef_models_known.
 * Errors: NEF_E_NOMEM, NEF_E_SYSTEM. */
NEF_MUST_CHECK nef_err nef_models_start(const struct nef_models_options *options, struct nef_models **out_models);
/* Before nef_runtime_stop, and when no nef_models_open runs. NULL is accepted. May take as long as the runtime holds a
 * read (request_hold). */
void nef_models_stop(struct nef_models *models);

bool nef_models_known(struct nef_models *models);       /* the list was read at least once */
uint64_t nef_models_version(struct nef_models *models); /* grows with every change of the list */
/* A copy of the list in name order; free it. At most NEF_MODELS_MAX are listed. NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_models_list(struct nef_models *models, struct nef_model_info **out_list,
                                       uint32_t *out_count);
/* NEF_E_NOT_FOUND. */
NEF_MUST_CHECK nef_err nef_models_find(struct nef_models *models, const char *name, struct nef_model_info *out_info);

#define NEF_MODELS_WHY_MAX 256u
/* Decrypt INFO's model into a memfd: sealed against every change (F_SEAL_WRITE, SHRINK, GROW, SEAL), close-on-exec,
 * offset 0. It costs as much memory as the model has bytes, and is refused where there aren't twice as many free, for
 * the engine packs its weights beside it and nothing may bring the zone's process into danger. Blocking, at the log's
 * reading speed: from a thread of the caller's. cancel: set it to true from anywhere to end it within a block (may be
 * NULL).
 *
 * out_why   NEF_MODELS_WHY_MAX bytes: for the operator's log; names the model, holds nothing of its content.
 * Errors    NEF_E_NOT_FOUND: it isn't there any more, or its content was replaced: look at the list again.
 *           NEF_E_CLOSED: cancelled. NEF_E_UNAVAILABLE: the zone can't read now; later. NEF_E_DIGEST,
 *           NEF_E_UNSUPPORTED, NEF_E_PROTOCOL, NEF_E_LIMIT, NEF_E_VERSION: it is not what was stored, or no GGUF
 *           that can be loaded: the same again until it is replaced. NEF_E_NOMEM: also too little is free now.
 *           NEF_E_SYSTEM, NEF_E_CORRUPT. */
NEF_MUST_CHECK nef_err nef_models_open(struct nef_models *models, const struct nef_model_info *info,
                                       const atomic_bool *cancel, char *out_why, int *out_fd);

/* One model as OpenAI's object: {"id", "object": "model", "created", "owned_by": "nef", "meta": {"size", "sha256"}}:
 * only what both zones know alike. */
void nef_models_json(const struct nef_model_info *info, struct nef_buf *out);

#endif
