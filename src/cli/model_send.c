/* Parts on their way into the region, beside the thread that reads the source; see model.h.
 *
 * One part is sent while the next is filled: the source and the region take turns waiting for each other, and memory is
 * two parts. A part counts when the region has it durably; only then is it kept (model_resume.c), with the digests as
 * they were at its end. After a failure nothing more is sent: whoever gives the next part is told.
 *
 * Threads: the region and what is kept belong to the sender from start to stop; the rest is under `lock`. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "cli/model.h"

static void *send_parts(void *context)
{
    struct nef_model_sender *s = context;

    (void)pthread_mutex_lock(&s->lock);
    for (;;) {
        nef_err err;

        while (!s->full && !s->stop)
            (void)pthread_cond_wait(&s->changed, &s->lock);
        if (!s->full)
            break;
        (void)pthread_mutex_unlock(&s->lock);
        err = nef_model_upload_part(s->region, s->name, s->resume->upload, s->resume->parts + 1, s->part, s->bytes);
        if (err == NEF_OK) {
            s->resume->parts++;
            s->resume->digests = s->digests;
            err = nef_model_resume_save(s->region, s->resume);
        }
        (void)pthread_mutex_lock(&s->lock);
        s->full = false;
        if (s->err == NEF_OK)
            s->err = err;
        (void)pthread_cond_signal(&s->changed);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

nef_err nef_model_sender_start(struct nef_model_region *region, const char *name, struct nef_model_resume *resume,
                               struct nef_model_sender *s)
{
    memset(s, 0, sizeof(*s));
    s->region = region;
    s->name = name;
    s->resume = resume;
    s->part = malloc((size_t)resume->part_bytes);
    s->filling = malloc((size_t)resume->part_bytes);
    if (s->part == NULL || s->filling == NULL)
        goto fail;
    (void)pthread_mutex_init(&s->lock, NULL); /* can't fail with these attributes */
    (void)pthread_cond_init(&s->changed, NULL);
    if (pthread_create(&s->thread, NULL, send_parts, s) != 0) {
        (void)pthread_cond_destroy(&s->changed);
        (void)pthread_mutex_destroy(&s->lock);
        goto fail;
    }
    s->running = true;
    return NEF_OK;
fail:
    free(s->part);
    free(s->filling);
    s->part = s->filling = NULL;
    return nef_model_fail(&region->why, NEF_E_NOMEM, "there is no memory for two parts of %llu MiB",
                          (unsigned long long)(resume->part_bytes >> 20));
}

nef_err nef_model_sender_give(struct nef_model_sender *s, size_t bytes, const struct nef_model_digests *digests)
{
    nef_err err;

    (void)pthread_mutex_lock(&s->lock);
    while (s->full)
        (void)pthread_cond_wait(&s->changed, &s->lock);
    err = s->err;
    if (err == NEF_OK) {
        uint8_t *empty = s->part;

        s->part = s->filling;
        s->filling = empty;
        s->bytes = bytes;
        s->digests = *digests;
        s->full = true;
        (void)pthread_cond_signal(&s->changed);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return err;
}

nef_err nef_model_sender_stop(struct nef_model_sender *s)
{
    if (!s->running)
        return NEF_OK;
    (void)pthread_mutex_lock(&s->lock);
    s->stop = true;
    (void)pthread_cond_signal(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
    (void)pthread_join(s->thread, NULL);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->lock);
    free(s->part);
    free(s->filling);
    s->part = s->filling = NULL;
    s->running = false;
    return s->err;
}
