/* The watch: which models the region has; see models.h.
 *
 * Nobody tells the watch that the bucket has changed. It looks several times a second whether anything was applied at
 * all, which costs an addition, and only then lists the bucket, which is one short look-up a cell. Reads go through the
 * gate like any client's (R4, R5): what a zone lists, the region had at that moment. A zone that may not read keeps
 * what it knew.
 *
 * Threads: the watch's own. The list is replaced under `lock`; callers get copies. */
#include "gateway/models.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "gateway/models_internal.h"

#define LOOK_MS  250u  /* how late a zone sees a new model */
#define RETRY_MS 1000u /* after a read that failed */

/* ---- names ---- */

bool nef_model_name_ok(const char *name, size_t bytes)
{
    if (bytes == 0 || bytes > NEF_MODEL_NAME_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (size_t i = 0; i < bytes; i++) {
        char c = name[i];
        bool word = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
                    c == '_' || c == '-';

        if (!word && (c != '/' || i == 0 || i + 1 == bytes || name[i - 1] == '/'))
            return false;
    }
    return true;
}

/* ---- reading the bucket ---- */

void nef_models_info_of(const struct nef_object *object, struct nef_model_info *out)
{
    struct nef_attr attr;

    memset(out, 0, sizeof(*out));
    NEF_ASSERT(object->key_bytes <= NEF_MODEL_NAME_MAX);
    memcpy(out->name, object->key, object->key_bytes);
    memcpy(out->etag, object->etag, sizeof(out->etag));
    out->bytes = object->size;
    out->created_ms = object->modified_ms;
    if (nef_attrs_find(&object->attrs, NEF_MODELS_META_SHA256, &attr) && attr.value_bytes == 64)
        out->has_sha256 = nef_unhex(attr.value, 64, out->sha256, sizeof(out->sha256)) == NEF_OK;
}

static const struct nef_model_info *known(const struct nef_models_snapshot *s, const struct nef_list_entry *entry)
{
    for (uint32_t i = 0; i < s->count; i++) {
        const struct nef_model_info *m = &s->models[i];

        if (strlen(m->name) == entry->key_bytes && memcmp(m->name, entry->key, entry->key_bytes) == 0)
            return strcmp(m->etag, entry->etag) == 0 && m->created_ms == entry->modified_ms ? m : NULL;
    }
    return NULL;
}

/* The models of a listing: those that were known are taken over, the others looked up for their metadata. */
static nef_err describe(struct nef_models *m, const struct nef_bucket *bucket, const struct nef_list *list,
                        struct nef_models_snapshot *out)
{
    struct nef_store *store = nef_runtime_store(m->rt);
    struct nef_model_info *models = calloc(list->count > 0 ? list->count : 1, sizeof(models[0]));
    uint32_t count = 0;

    if (models == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct nef_list_entry *entry = &list->entries[i];
        const struct nef_model_info *before = known(&m->list, entry);
        struct nef_object *object = NULL;
        nef_err err;

        if (!nef_model_name_ok(entry->key, entry->key_bytes))
            continue;
        if (before != NULL) {
            memcpy(&models[count++], before, sizeof(*before)); /* with its padding: lists are compared as bytes */
            continue;
        }
        err = nef_store_object(store, bucket, entry->key, entry->key_bytes, &object);
        if (err == NEF_E_NOT_FOUND)
            continue; /* deleted since the listing: the next look sees that, too */
        if (err != NEF_OK) {
            free(models);
            return err;
        }
        nef_models_info_of(object, &models[count++]);
        nef_object_free(object);
    }
    *out = (struct nef_models_snapshot){.models = models, .count = count};
    return NEF_OK;
}

static nef_err read_bucket(struct nef_models *m, struct nef_models_snapshot *out)
{
    const struct nef_list_query query = {
        .prefix = {"", 0}, .delimiter = {"", 0}, .after = {"", 0}, .max = NEF_MODELS_MAX};
    struct nef_store *store = nef_runtime_store(m->rt);
    struct nef_models_snapshot snapshot = {NULL, 0};
    struct nef_read read = {0};
    struct nef_bucket bucket;
    struct nef_list list;
    nef_err err = nef_runtime_read_wait(m->rt, UINT32_MAX, NULL, &read);

    if (err != NEF_OK)
        return err;
    err = nef_store_bucket(store, NEF_MODELS_BUCKET, &bucket);
    if (err == NEF_OK) {
        err = nef_store_list(store, &bucket, &query, &list);
        if (err != NEF_OK)
            return err;
        if (list.truncated && !m->truncation_told) {
            nef_trace(NEF_TRACE_WARN, "models_too_many", "u:listed", (uint64_t)NEF_MODELS_MAX, NULL);
            m->truncation_told = true;
        }
        err = describe(m, &bucket, &list, &snapshot);
        nef_list_free(&list);
    } else if (err == NEF_E_NO_BUCKET) {
        err = NEF_OK; /* nobody has added a model yet */
    }
    if (err == NEF_OK)
        err = nef_runtime_read_done(m->rt, &read);
    if (err != NEF_OK)
        free(snapshot.models);
    else
        *out = snapshot;
    return err;
}

static bool same(const struct nef_models_snapshot *a, const struct nef_models_snapshot *b)
{
    return a->count == b->count &&
           (a->count == 0 || memcmp(a->models, b->models, a->count * sizeof(a->models[0])) == 0); /* zeroed padding */
}

static nef_err look(struct nef_models *m)
{
    struct nef_models_snapshot now = {NULL, 0};
    bool news;
    nef_err err = read_bucket(m, &now);

    if (err != NEF_OK)
        return err;
    (void)pthread_mutex_lock(&m->lock);
    news = !m->known || !same(&m->list, &now);
    if (news) {
        struct nef_model_info *old = m->list.models;

        m->list = now;
        now.models = old;
        m->version++;
        m->known = true;
    }
    (void)pthread_mutex_unlock(&m->lock);
    free(now.models);
    if (news && m->changed != NULL)
        m->changed(m->context);
    return NEF_OK;
}

/* ---- the thread ---- */

static uint64_t applied_sum(struct nef_models *m)
{
    struct nef_store *store = nef_runtime_store(m->rt);
    uint64_t sum = 0;

    for (uint32_t cell = 0; cell < m->cells; cell++)
        sum += nef_store_applied(store, cell); /* offsets only grow; a rebuilt index begins below: another sum */
    return sum;
}

/* False: it is time to end. */
static bool pause_for(struct nef_models *m, uint32_t ms)
{
    struct timespec until;
    bool go_on;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000l;
    if (until.tv_nsec >= 1000000000l) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000l;
    }
    (void)pthread_mutex_lock(&m->lock);
    while (!m->stop && pthread_cond_timedwait(&m->wake, &m->lock, &until) == 0)
        continue;
    go_on = !m->stop;
    (void)pthread_mutex_unlock(&m->lock);
    return go_on;
}

static void *watch(void *context)
{
    struct nef_models *m = context;
    uint64_t seen = UINT64_MAX, sum;
    nef_err err = NEF_OK;

    do {
        sum = applied_sum(m);
        if (sum == seen)
            continue;
        err = look(m);
        if (err == NEF_OK)
            seen = sum; /* taken before the look: what came meanwhile is looked at again */
        else
            nef_trace(NEF_TRACE_DEBUG, "models_unread", "e:err", (int)err, NULL);
    } while (pause_for(m, err == NEF_OK ? LOOK_MS : RETRY_MS));
    return NULL;
}

nef_err nef_models_start(const struct nef_models_options *options, struct nef_models **out_models)
{
    struct nef_models *m = calloc(1, sizeof(*m));
    pthread_condattr_t attr;

    NEF_ASSERT(options->cells > 0 && options->cells <= NEF_CELL_MAX);
    if (m == NULL)
        return NEF_E_NOMEM;
    m->rt = options->rt;
    m->cells = options->cells;
    m->changed = options->changed;
    m->context = options->context;
    (void)pthread_mutex_init(&m->lock, NULL); /* can't fail with these attributes */
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&m->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    if (pthread_create(&m->thread, NULL, watch, m) != 0) {
        (void)pthread_cond_destroy(&m->wake);
        (void)pthread_mutex_destroy(&m->lock);
        free(m);
        return NEF_E_SYSTEM;
    }
    *out_models = m;
    return NEF_OK;
}

void nef_models_stop(struct nef_models *m)
{
    if (m == NULL)
        return;
    (void)pthread_mutex_lock(&m->lock);
    m->stop = true;
    (void)pthread_cond_signal(&m->wake);
    (void)pthread_mutex_unlock(&m->lock);
    (void)pthread_join(m->thread, NULL);
    (void)pthread_cond_destroy(&m->wake);
    (void)pthread_mutex_destroy(&m->lock);
    free(m->list.models);
    free(m);
}

/* ---- asking ---- */

bool nef_models_known(struct nef_models *m)
{
    bool value;

    (void)pthread_mutex_lock(&m->lock);
    value = m->known;
    (void)pthread_mutex_unlock(&m->lock);
    return value;
}

uint64_t nef_models_version(struct nef_models *m)
{
    uint64_t value;

    (void)pthread_mutex_lock(&m->lock);
    value = m->version;
    (void)pthread_mutex_unlock(&m->lock);
    return value;
}

nef_err nef_models_list(struct nef_models *m, struct nef_model_info **out_list, uint32_t *out_count)
{
    struct nef_model_info *copy;
    uint32_t count;

    (void)pthread_mutex_lock(&m->lock);
    count = m->list.count;
    copy = malloc((count > 0 ? count : 1) * sizeof(copy[0]));
    if (copy != NULL && count > 0)
        memcpy(copy, m->list.models, count * sizeof(copy[0]));
    (void)pthread_mutex_unlock(&m->lock);
    if (copy == NULL)
        return NEF_E_NOMEM;
    *out_list = copy;
    *out_count = count;
    return NEF_OK;
}

nef_err nef_models_find(struct nef_models *m, const char *name, struct nef_model_info *out_info)
{
    nef_err err = NEF_E_NOT_FOUND;

    (void)pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < m->list.count && err != NEF_OK; i++) {
        if (strcmp(m->list.models[i].name, name) == 0) {
            *out_info = m->list.models[i];
            err = NEF_OK;
        }
    }
    (void)pthread_mutex_unlock(&m->lock);
    return err;
}
