/* Sources of models: files here, objects of the region, and what is far away (model_https.c); see model.h.
 *
 * A source is opened by reading the head of each of its files: that tells whether it is a model at all before a byte is
 * stored, and where the data begin. Reads are by offset, so that they can go on anywhere. Beside its length a file has
 * a validator, and a file whose validator has changed is another file: what was stored of it is worth nothing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "cli/model.h"

#define SPLIT_SUFFIX 20u /* "-00001-of-00002.gguf" */
#define HEAD_FIRST   (1u << 20)
#define BLOCK_BYTES  (1u << 20)

/* ---- names of split files ---- */

static size_t path_bytes(const char *where)
{
    return strncmp(where, "https://", 8) == 0 ? strcspn(where, "?#") : strlen(where);
}

nef_err nef_model_split_count(const char *where, uint32_t *out_count, struct nef_model_why *why)
{
    size_t bytes = path_bytes(where);
    char suffix[SPLIT_SUFFIX + 1];
    unsigned first, count;
    int used = 0;

    *out_count = 1;
    if (bytes < SPLIT_SUFFIX)
        return NEF_OK;
    memcpy(suffix, where + bytes - SPLIT_SUFFIX, SPLIT_SUFFIX);
    suffix[SPLIT_SUFFIX] = '\0';
    if (sscanf(suffix, "-%5u-of-%5u.gguf%n", &first, &count, &used) != 2 || used != (int)SPLIT_SUFFIX)
        return NEF_OK;
    if (first != 1)
        return nef_model_fail(why, NEF_E_INVALID, "a split model is named by its first file, -00001-of-%05u.gguf",
                              count);
    if (count < 1 || count > NEF_MODEL_FILES_MAX)
        return nef_model_fail(why, NEF_E_LIMIT, "a model in %u files: at most %u are taken", count,
                              NEF_MODEL_FILES_MAX);
    *out_count = count;
    return NEF_OK;
}

nef_err nef_model_split_name(const char *first, uint32_t number, char out[NEF_MODEL_WHERE_MAX])
{
    size_t bytes = path_bytes(first);
    char digits[12];

    if (strlen(first) >= NEF_MODEL_WHERE_MAX)
        return NEF_E_LIMIT;
    (void)strcpy(out, first);
    if (number > 1) {
        (void)snprintf(digits, sizeof(digits), "%05u", number);
        memcpy(out + bytes - SPLIT_SUFFIX + 1, digits, 5);
    }
    return NEF_OK;
}

/* ---- heads ---- */

nef_err nef_model_head_parse(struct nef_model_source *source, struct nef_model_origin *file)
{
    char error[NEF_GGUF_ERROR_MAX] = "";
    nef_err err;

    err = nef_gguf_parse_head(file->head.data, file->head.bytes, file->bytes, error, &file->gguf);
    if (err == NEF_OK && file->head.bytes < nef_gguf_data_start(file->gguf) && file->head.bytes < file->bytes) {
        nef_gguf_free(file->gguf); /* the padding is still missing */
        file->gguf = NULL;
        err = NEF_E_AGAIN;
    }
    if (err == NEF_E_AGAIN && file->head.bytes >= NEF_MODEL_HEAD_MAX)
        return nef_model_fail(source->why, NEF_E_LIMIT, "its metadata have more than %llu MB",
                              (unsigned long long)(NEF_MODEL_HEAD_MAX >> 20));
    if (err != NEF_OK && err != NEF_E_AGAIN)
        return nef_model_fail(source->why, err, "it can't be loaded: %s", error[0] != '\0' ? error : nef_err_text(err));
    return err;
}

/* ---- files ---- */

static nef_err file_open(struct nef_model_source *source, struct nef_model_origin *file)
{
    struct stat st;

    file->fd = open(file->where, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0 || fstat(file->fd, &st) != 0)
        return nef_model_fail(source->why, errno == ENOENT ? NEF_E_NOT_FOUND : NEF_E_IO, "%s: %s", file->where,
                              strerror(errno));
    if (!S_ISREG(st.st_mode))
        return nef_model_fail(source->why, NEF_E_INVALID, "%s is no plain file", file->where);
    file->bytes = (uint64_t)st.st_size;
    (void)snprintf(file->validator, sizeof(file->validator), "%llu-%llu.%09ld", (unsigned long long)st.st_ino,
                   (unsigned long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    return NEF_OK;
}

static nef_err file_read(struct nef_model_source *source, struct nef_model_origin *file, uint64_t offset,
                         uint64_t bytes, nef_err (*sink)(void *context, const uint8_t *data, size_t bytes),
                         void *context)
{
    uint8_t *block = malloc(BLOCK_BYTES);
    nef_err err = block == NULL ? NEF_E_NOMEM : NEF_OK;

    while (err == NEF_OK && bytes > 0) {
        ssize_t n = pread(file->fd, block, bytes < BLOCK_BYTES ? (size_t)bytes : BLOCK_BYTES, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err = nef_model_fail(source->why, NEF_E_IO, "%s: %s", file->where, strerror(errno));
        else if (n == 0)
            err = nef_model_fail(source->why, NEF_E_PRECONDITION, "%s has become shorter", file->where);
        else
            err = sink(context, block, (size_t)n);
        offset += err == NEF_OK ? (uint64_t)n : 0;
        bytes -= err == NEF_OK ? (uint64_t)n : 0;
    }
    free(block);
    return err;
}

/* ---- objects of the region ---- */

/* "bucket/key" */
static const char *key_of(const struct nef_model_origin *file, char bucket[NEF_BUCKET_NAME_MAX + 1])
{
    size_t bytes = strcspn(file->where, "/");

    if (bytes == 0 || bytes > NEF_BUCKET_NAME_MAX || file->where[bytes] == '\0' || file->where[bytes + 1] == '\0')
        return NULL;
    memcpy(bucket, file->where, bytes);
    bucket[bytes] = '\0';
    return file->where + bytes + 1;
}

static nef_err s3_open(struct nef_model_source *source, struct nef_model_origin *file)
{
    char bucket[NEF_BUCKET_NAME_MAX + 1];
    const char *key = key_of(file, bucket);
    struct nef_model_object object;
    nef_err err;

    if (key == NULL)
        return nef_model_fail(source->why, NEF_E_INVALID, "s3://%s isn't s3://BUCKET/KEY", file->where);
    err = nef_model_head(source->region, bucket, key, &object);
    if (err != NEF_OK)
        return nef_model_fail(source->why, err, "s3://%s: %s", file->where,
                              err == NEF_E_NOT_FOUND ? "there is no such object in this region"
                                                     : source->region->why.text);
    file->bytes = object.bytes;
    (void)snprintf(file->validator, sizeof(file->validator), "%s", object.etag);
    return NEF_OK;
}

struct s3_sink {
    nef_err (*sink)(void *context, const uint8_t *data, size_t bytes);
    void *context;
    uint64_t left;
    nef_err err;
};

static bool on_s3(void *context, const uint8_t *data, size_t bytes)
{
    struct s3_sink *s = context;

    s->err = bytes > s->left ? NEF_E_PROTOCOL : s->sink(s->context, data, bytes);
    s->left -= s->err == NEF_OK ? bytes : 0;
    return s->err == NEF_OK;
}

static nef_err s3_read(struct nef_model_source *source, struct nef_model_origin *file, uint64_t offset, uint64_t bytes,
                       nef_err (*sink)(void *context, const uint8_t *data, size_t bytes), void *context)
{
    struct s3_sink s = {.sink = sink, .context = context, .left = bytes};
    char bucket[NEF_BUCKET_NAME_MAX + 1];
    const char *key = key_of(file, bucket);
    unsigned idle = 0;

    while (s.left > 0) {
        uint64_t before = s.left;
        nef_err err =
            nef_model_get(source->region, bucket, key, file->validator, offset + bytes - s.left, s.left, on_s3, &s);

        if (s.err != NEF_OK)
            return s.err;
        if (err == NEF_E_PRECONDITION || err == NEF_E_NOT_FOUND)
            return nef_model_fail(source->why, NEF_E_PRECONDITION, "s3://%s isn't what it was", file->where);
        if (err != NEF_OK && err != NEF_E_UNAVAILABLE && err != NEF_E_PEER && err != NEF_E_TIMEOUT)
            return nef_model_fail(source->why, err, "s3://%s: %s", file->where, source->region->why.text);
        idle = s.left < before ? 0 : idle + 1;
        if (s.left > 0 && idle == 8)
            return nef_model_fail(source->why, NEF_E_UNAVAILABLE, "s3://%s: %s", file->where, source->region->why.text);
        if (s.left > 0)
            (void)usleep(500000u * (idle + 1));
    }
    return NEF_OK;
}

/* ---- heads of files and objects: by offset, as any read ---- */

static nef_err on_head(void *context, const uint8_t *data, size_t bytes)
{
    struct nef_model_origin *file = context;

    nef_buf_append(&file->head, data, bytes);
    return file->head.failed ? NEF_E_NOMEM : NEF_OK;
}

static nef_err read_head(struct nef_model_source *source, struct nef_model_origin *file)
{
    uint64_t step = HEAD_FIRST;
    nef_err err;

    file->head.max = NEF_MODEL_HEAD_MAX;
    if (file->bytes == 0)
        return nef_model_fail(source->why, NEF_E_PROTOCOL, "%s is empty", file->where);
    do {
        uint64_t at = file->head.bytes, want = NEF_MIN(step, NEF_MODEL_HEAD_MAX - at);

        want = NEF_MIN(want, file->bytes - at);
        err = file->kind == NEF_ORIGIN_FILE ? file_read(source, file, at, want, on_head, file)
                                            : s3_read(source, file, at, want, on_head, file);
        if (err == NEF_OK)
            err = nef_model_head_parse(source, file);
        step = file->head.bytes; /* twice as much each time */
    } while (err == NEF_E_AGAIN);
    return err;
}

/* ---- the source ---- */

static nef_err open_one(struct nef_model_source *source, struct nef_model_origin *file)
{
    nef_err err;

    switch (file->kind) {
    case NEF_ORIGIN_FILE:
        err = file_open(source, file);
        break;
    case NEF_ORIGIN_S3:
        err = s3_open(source, file);
        break;
    case NEF_ORIGIN_HTTPS:
        return nef_model_https_open(source, file);
    default:
        return NEF_E_INVALID;
    }
    return err == NEF_OK ? read_head(source, file) : err;
}

nef_err nef_model_source_open(struct nef_model_source *source, const char *text)
{
    enum nef_model_origin_kind kind = NEF_ORIGIN_FILE;
    nef_err err;

    if (strncmp(text, "https://", 8) == 0) {
        kind = NEF_ORIGIN_HTTPS;
    } else if (strncmp(text, "s3://", 5) == 0) {
        kind = NEF_ORIGIN_S3;
        text += 5;
    } else if (strstr(text, "://") != NULL) {
        return nef_model_fail(source->why, NEF_E_INVALID,
                              "%s: a source is a file, s3://BUCKET/KEY of this region, or an https:// address", text);
    }
    err = nef_model_split_count(text, &source->count, source->why);
    if (err != NEF_OK)
        return err;
    source->files = calloc(source->count, sizeof(source->files[0]));
    if (source->files == NULL)
        return nef_model_fail(source->why, NEF_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < source->count; i++) {
        source->files[i].kind = kind;
        source->files[i].fd = -1;
        err = nef_model_split_name(text, i + 1, source->files[i].where);
        if (err != NEF_OK)
            return nef_model_fail(source->why, err, "the address is too long");
    }
    for (uint32_t i = 0; err == NEF_OK && i < source->count; i++)
        err = open_one(source, &source->files[i]);
    return err;
}

void nef_model_source_close(struct nef_model_source *source)
{
    for (uint32_t i = 0; source->files != NULL && i < source->count; i++) {
        struct nef_model_origin *file = &source->files[i];

        nef_gguf_free(file->gguf);
        nef_buf_free(&file->head);
        if (file->kind == NEF_ORIGIN_FILE && file->fd >= 0)
            (void)close(file->fd);
    }
    free(source->files);
    source->files = NULL;
    source->count = 0;
}

nef_err nef_model_source_read(struct nef_model_source *source, uint32_t index, uint64_t offset, uint64_t bytes,
                              nef_err (*sink)(void *context, const uint8_t *data, size_t bytes), void *context)
{
    struct nef_model_origin *file = &source->files[index];

    if (bytes == 0)
        return NEF_OK;
    switch (file->kind) {
    case NEF_ORIGIN_FILE:
        return file_read(source, file, offset, bytes, sink, context);
    case NEF_ORIGIN_S3:
        return s3_read(source, file, offset, bytes, sink, context);
    case NEF_ORIGIN_HTTPS:
        return nef_model_https_read(source, file, offset, bytes, sink, context);
    }
    return NEF_E_INVALID;
}
