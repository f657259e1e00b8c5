/* What the models_*.c files share. */
#ifndef NEF_GATEWAY_MODELS_INTERNAL_H
#define NEF_GATEWAY_MODELS_INTERNAL_H

#include <pthread.h>
#include "gateway/models.h"

struct nef_models_snapshot {
    struct nef_model_info *models;
    uint32_t count;
};

struct nef_models {
    struct nef_runtime *rt;
    uint32_t cells;
    void (*changed)(void *context);
    void *context;
    pthread_t thread;
    bool truncation_told; /* the watch's */
    pthread_mutex_t lock; /* of what follows; the watch alone writes the list, and so may read it without */
    pthread_cond_t wake;
    struct nef_models_snapshot list;
    uint64_t version;
    bool known, stop;
};

/* All fields of OUT are set, padding is zero. */
void nef_models_info_of(const struct nef_object *object, struct nef_model_info *out);

#endif
