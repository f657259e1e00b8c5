/* What of which file makes the model's object, and the walk along it; see model.h.
 *
 * A model in one file is that file, byte for byte. A split one is joined (infer/gguf/join.h): an engine gets one
 * descriptor, a region has one object, and the digest of each published file is still checked: a file's digest is over
 * its head, which is in memory, and its data, which pass by. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "cli/model.h"
#include "infer/model/model.h"
#include "infer/text/tokenizer.h"

#define ZEROS 4096u

/* A model that the engine would refuse isn't stored: architecture, shapes and tokenizer are all in the head. */
static nef_err check_model(struct nef_model_source *source)
{
    char error[NEF_GGUF_ERROR_MAX] = "";
    struct nef_tokenizer *tokenizer = NULL;
    struct nef_model_config config;
    nef_err err = nef_model_config_read(source->files[0].gguf, error, &config);

    if (err == NEF_OK)
        err = nef_tokenizer_open(source->files[0].gguf, error, &tokenizer);
    nef_tokenizer_close(tokenizer);
    if (err != NEF_OK)
        return nef_model_fail(source->why, err, "the engine can't load it: %s",
                              error[0] != '\0' ? error : nef_err_text(err));
    return NEF_OK;
}

static nef_err plan_single(struct nef_model_source *source, struct nef_model_plan *plan)
{
    uint64_t parts = 1;

    if (nef_gguf_u64(source->files[0].gguf, "split.count", &parts) == NEF_OK && parts > 1)
        return nef_model_fail(source->why, NEF_E_INVALID,
                              "it is one of %llu files of a split model; give the first, named -00001-of-%05llu.gguf",
                              (unsigned long long)parts, (unsigned long long)parts);
    plan->runs = calloc(1, sizeof(plan->runs[0]));
    if (plan->runs == NULL)
        return nef_model_fail(source->why, NEF_E_NOMEM, "out of memory");
    plan->runs[0] = (struct nef_gguf_run){.bytes = source->files[0].bytes};
    plan->run_count = 1;
    plan->bytes = source->files[0].bytes;
    return NEF_OK;
}

static nef_err plan_joined(struct nef_model_source *source, struct nef_model_plan *plan)
{
    const struct nef_gguf *files[NEF_MODEL_FILES_MAX];
    uint64_t totals[NEF_MODEL_FILES_MAX];
    char error[NEF_GGUF_ERROR_MAX] = "";
    nef_err err;

    plan->runs = calloc(2 * (size_t)source->count, sizeof(plan->runs[0]));
    if (plan->runs == NULL)
        return nef_model_fail(source->why, NEF_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < source->count; i++) {
        files[i] = source->files[i].gguf;
        totals[i] = source->files[i].bytes;
    }
    plan->header.max = NEF_MODEL_HEAD_MAX;
    err = nef_gguf_join(files, totals, source->count, error, &plan->header, plan->runs);
    if (err != NEF_OK)
        return nef_model_fail(source->why, err, "the files aren't one model: %s",
                              error[0] != '\0' ? error : nef_err_text(err));
    plan->run_count = 2 * source->count;
    plan->bytes = plan->header.bytes;
    for (uint32_t i = 0; i < plan->run_count; i++)
        plan->bytes += plan->runs[i].bytes;
    return NEF_OK;
}

nef_err nef_model_plan_make(struct nef_model_source *source, struct nef_model_plan *out)
{
    struct nef_model_plan plan = {.bytes = 0};
    nef_err err = check_model(source);

    if (err == NEF_OK)
        err = source->count == 1 ? plan_single(source, &plan) : plan_joined(source, &plan);
    if (err == NEF_OK && plan.bytes > NEF_OBJECT_BYTES_MAX)
        err = nef_model_fail(source->why, NEF_E_LIMIT, "it is larger than an object may be");
    if (err != NEF_OK) {
        nef_model_plan_free(&plan);
        return err;
    }
    *out = plan;
    return NEF_OK;
}

void nef_model_plan_free(struct nef_model_plan *plan)
{
    nef_buf_free(&plan->header);
    free(plan->runs);
    plan->runs = NULL;
}

/* ---- the walk ---- */

void nef_model_digests_init(struct nef_model_digests *digests)
{
    nef_sha256_init(&digests->object);
    nef_sha256_init(&digests->file);
    digests->file_index = UINT32_MAX;
}

struct walk {
    struct nef_model_source *source;
    const struct nef_model_plan *plan;
    struct nef_model_digests *digests;
    nef_err (*sink)(void *context, const uint8_t *data, size_t bytes);
    void *context;
    uint64_t border, position;     /* in the object */
    struct nef_model_origin *file; /* that is being read; NULL: none of a file */
    uint64_t at;                   /* in it */
};

/* Digests first, then the sink; never across a border, so that a sink that ends a part there finds the digests just
 * there. */
static nef_err give(struct walk *w, const uint8_t *data, size_t bytes)
{
    nef_err err = NEF_OK;

    while (err == NEF_OK && bytes > 0) {
        size_t n = (size_t)NEF_MIN((uint64_t)bytes, w->border - w->position % w->border);

        if (w->file != NULL)
            nef_sha256_update(&w->digests->file, data, n);
        nef_sha256_update(&w->digests->object, data, n);
        err = w->sink(w->context, data, n);
        w->position += n;
        data += n;
        bytes -= n;
    }
    return err;
}

/* Bytes of a file. Those that were checked as its head must be those that are stored. */
static nef_err on_file(void *context, const uint8_t *data, size_t bytes)
{
    struct walk *w = context;

    if (w->at < w->file->head.bytes) {
        size_t n = NEF_MIN(bytes, w->file->head.bytes - (size_t)w->at);

        if (memcmp(data, w->file->head.data + w->at, n) != 0)
            return nef_model_fail(w->source->why, NEF_E_PRECONDITION, "it has changed at the source");
    }
    w->at += bytes;
    return give(w, data, bytes);
}

static nef_err check_digest(struct walk *w)
{
    struct nef_sha256 file = w->digests->file;
    uint8_t digest[32];
    char said[65], found[65];

    if (!w->file->has_sha256)
        return NEF_OK;
    nef_sha256_final(&file, digest);
    if (memcmp(digest, w->file->sha256, sizeof(digest)) == 0)
        return NEF_OK;
    nef_hex(w->file->sha256, 32, said);
    nef_hex(digest, 32, found);
    return nef_model_fail(w->source->why, NEF_E_DIGEST, "its SHA-256 is %s and should be %s%s", found, said,
                          w->file->sha256_guessed
                              ? " (which is the server's ETag; if its ETags are something else, say which "
                                "digest it must have: --sha256)"
                              : "");
}

/* RUN from byte SKIP of it on. */
static nef_err walk_run(struct walk *w, const struct nef_gguf_run *run, uint64_t skip)
{
    static const uint8_t zeros[ZEROS];
    nef_err err = NEF_OK;

    w->file = NULL;
    if (run->padding) {
        for (uint64_t left = run->bytes - skip; err == NEF_OK && left > 0;) {
            size_t n = left < ZEROS ? (size_t)left : ZEROS;

            err = give(w, zeros, n);
            left -= n;
        }
        return err;
    }
    w->file = &w->source->files[run->file];
    w->at = run->offset + skip;
    if (skip == 0) { /* a file begins: with its head, which of a joined model isn't stored */
        nef_sha256_init(&w->digests->file);
        w->digests->file_index = run->file;
        NEF_ASSERT(run->offset <= w->file->head.bytes || w->file->bytes <= w->file->head.bytes);
        nef_sha256_update(&w->digests->file, w->file->head.data, NEF_MIN((size_t)run->offset, w->file->head.bytes));
    }
    err = nef_model_source_read(w->source, run->file, w->at, run->bytes - skip, on_file, w);
    return err == NEF_OK ? check_digest(w) : err;
}

nef_err nef_model_plan_walk(struct nef_model_source *source, const struct nef_model_plan *plan, uint64_t offset,
                            uint64_t border, struct nef_model_digests *digests,
                            nef_err (*sink)(void *context, const uint8_t *data, size_t bytes), void *context)
{
    struct walk w = {.source = source,
                     .plan = plan,
                     .digests = digests,
                     .sink = sink,
                     .context = context,
                     .border = border,
                     .position = offset};
    uint64_t at = plan->header.bytes;
    nef_err err = NEF_OK;

    if (offset < at)
        err = give(&w, plan->header.data + offset, plan->header.bytes - (size_t)offset);
    for (uint32_t i = 0; err == NEF_OK && i < plan->run_count; i++) {
        uint64_t end = at + plan->runs[i].bytes;

        if (offset == end && offset > at && !plan->runs[i].padding && digests->file_index == plan->runs[i].file) {
            w.file = &source->files[plan->runs[i].file]; /* interrupted just before its digest was compared */
            err = check_digest(&w);
        } else if (offset < end || (plan->runs[i].bytes == 0 && offset <= at && !plan->runs[i].padding)) {
            err = walk_run(&w, &plan->runs[i], offset > at ? offset - at : 0);
        }
        at = end;
    }
    return err;
}
