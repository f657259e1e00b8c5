/* A model from the log into a sealed memfd; see models.h.
 *
 *   gate -> look-up, the same content as listed? -> [block: read, repair if damaged, hash, write] ... -> digests
 *        -> GGUF parsed -> seals -> descriptor
 *
 * Plaintext is in the memfd and in one block of this function, which is wiped. A memfd is memory of the kernel's and
 * never a file; it could be swapped out, as any process's memory can: docs/gateway.md says what an operator does about
 * that.
 *
 * Two digests are checked if they are recorded: the SHA-256 of the whole model (user metadata, known when the source
 * published it or it could be read twice), and the SHA-256 of each part, which `nef model add` always sends and the
 * zone that took the part has compared. Both are of plaintext, end to end from the command that added the model; what
 * lies between is authenticated in any case (AES-GCM of each piece). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "gateway/models_internal.h"
#include "infer/gguf/gguf.h"

#define BLOCK_BYTES (1u << 20) /* a piece of the log: read without a copy in between */
#define REPAIRS_MAX 64u        /* of one model: more means a disk that is dying */

struct opening {
    struct nef_models *m;
    const struct nef_model_info *info;
    const atomic_bool *cancel;
    char *why;
    struct nef_object *object;
    int fd;
    uint8_t *block;
    struct nef_hash *whole, *part;
    uint32_t part_index; /* whose bytes come next */
    uint64_t part_left;
    uint32_t repairs;
};

static nef_err refuse(struct opening *o, nef_err err, const char *what)
{
    (void)snprintf(o->why, NEF_MODELS_WHY_MAX, "model %s: %s", o->info->name, what);
    return err;
}

/* ---- what is to be read ---- */

static nef_err find(struct opening *o)
{
    struct nef_store *store = nef_runtime_store(o->m->rt);
    struct nef_model_info now;
    struct nef_bucket bucket;
    struct nef_read read = {0};
    nef_err err = nef_runtime_read_wait(o->m->rt, UINT32_MAX, NULL, &read);

    if (err != NEF_OK)
        return refuse(o, err, "the zone can't read now");
    err = nef_store_bucket(store, NEF_MODELS_BUCKET, &bucket);
    if (err == NEF_OK)
        err = nef_store_object(store, &bucket, o->info->name, strlen(o->info->name), &o->object);
    if (nef_runtime_read_done(o->m->rt, &read) != NEF_OK)
        return refuse(o, NEF_E_UNAVAILABLE, "the zone can't read now");
    if (err == NEF_E_NO_BUCKET)
        err = NEF_E_NOT_FOUND;
    if (err != NEF_OK)
        return refuse(o, err, "it isn't there any more");
    nef_models_info_of(o->object, &now);
    if (strcmp(now.etag, o->info->etag) != 0 || now.created_ms != o->info->created_ms)
        return refuse(o, NEF_E_NOT_FOUND, "it was replaced meanwhile");
    return NEF_OK;
}

/* Memory that is written and not there kills a process, perhaps this one, which keeps the region's data. */
static nef_err check_memory(struct opening *o)
{
    char line[128], what[128];
    unsigned long long kilobytes = 0;
    FILE *file = fopen("/proc/meminfo", "re");

    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1)
            break;
    if (file != NULL)
        (void)fclose(file); /* reading only */
    if (kilobytes == 0)
        return refuse(o, NEF_E_SYSTEM, "/proc/meminfo doesn't say how much memory is free");
    if (o->object->size / 1024 * 2 <= kilobytes)
        return NEF_OK;
    (void)snprintf(what, sizeof(what), "it takes %llu MB while it is loaded, and %llu MB are free",
                   (unsigned long long)(o->object->size * 2 >> 20), kilobytes >> 10);
    return refuse(o, NEF_E_NOMEM, what);
}

/* ---- digests ---- */

static bool has_part_digests(const struct opening *o)
{
    return o->object->multipart && o->object->part_count > 0 &&
           o->object->parts[0].checksum.kind == NEF_CHECKSUM_SHA256;
}

static nef_err begin_digests(struct opening *o)
{
    o->whole = nef_hash_new(NEF_HASH_SHA256);
    o->part = nef_hash_new(NEF_HASH_SHA256);
    if (o->whole == NULL || o->part == NULL)
        return NEF_E_NOMEM;
    o->part_left = o->object->part_count > 0 ? o->object->parts[0].size : 0;
    return NEF_OK;
}

static nef_err end_part(struct opening *o)
{
    const struct nef_checksum *expected = &o->object->parts[o->part_index].checksum;
    uint8_t digest[32];

    nef_hash_final(o->part, digest);
    nef_hash_reset(o->part);
    if (expected->kind == NEF_CHECKSUM_SHA256 && (expected->bytes != 32 || memcmp(digest, expected->value, 32) != 0))
        return refuse(o, NEF_E_DIGEST, "a part isn't what was stored (SHA-256)");
    if (++o->part_index < o->object->part_count)
        o->part_left = o->object->parts[o->part_index].size;
    return NEF_OK;
}

static nef_err digest(struct opening *o, const uint8_t *data, size_t bytes)
{
    nef_hash_update(o->whole, data, bytes);
    while (bytes > 0 && has_part_digests(o) && o->part_index < o->object->part_count) {
        size_t n = bytes < o->part_left ? bytes : (size_t)o->part_left;
        nef_err err;

        nef_hash_update(o->part, data, n);
        data += n;
        bytes -= n;
        o->part_left -= n;
        if (o->part_left > 0)
            break;
        err = end_part(o);
        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}

static nef_err end_digests(struct opening *o)
{
    uint8_t computed[32];

    nef_hash_final(o->whole, computed);
    if (o->info->has_sha256 && memcmp(computed, o->info->sha256, sizeof(computed)) != 0)
        return refuse(o, NEF_E_DIGEST, "it isn't what was added (SHA-256)");
    return NEF_OK;
}

/* ---- copying ---- */

static nef_err write_all(struct opening *o, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(o->fd, data, bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return refuse(o, n < 0 && (errno == ENOMEM || errno == ENOSPC) ? NEF_E_NOMEM : NEF_E_SYSTEM,
                          "there isn't enough memory for it");
        data += n;
        bytes -= (size_t)n;
    }
    return NEF_OK;
}

static nef_err copy(struct opening *o)
{
    struct nef_body *body = NULL;
    uint64_t left = o->object->size;
    nef_err err = nef_body_open(nef_runtime_store(o->m->rt), o->object, 0, left, &body);

    while (err == NEF_OK && left > 0) {
        uint32_t bad_cell = 0;
        uint64_t bad_offset = 0;
        size_t bytes = 0;

        if (o->cancel != NULL && atomic_load_explicit(o->cancel, memory_order_relaxed)) {
            err = refuse(o, NEF_E_CLOSED, "not needed any more");
            break;
        }
        err = nef_body_read(body, o->block, BLOCK_BYTES, &bytes, &bad_cell, &bad_offset);
        if (err == NEF_E_CORRUPT && o->repairs++ < REPAIRS_MAX) {
            nef_trace(NEF_TRACE_WARN, "model_met_damage", "u:cell", (uint64_t)bad_cell, "u:offset", bad_offset, NULL);
            err = nef_runtime_repair(o->m->rt, bad_cell, bad_offset);
            if (err != NEF_OK)
                err = refuse(o, NEF_E_UNAVAILABLE, "a block is damaged and the other zone can't repair it now");
            continue;
        }
        if (err == NEF_OK && bytes == 0)
            err = NEF_E_NOT_FOUND; /* shorter than its row says: dropped meanwhile */
        if (err == NEF_OK)
            err = digest(o, o->block, bytes);
        if (err == NEF_OK)
            err = write_all(o, o->block, bytes);
        left -= err == NEF_OK ? bytes : 0;
    }
    nef_body_close(body);
    if (err != NEF_OK && o->why[0] == '\0')
        err = refuse(o, err, err == NEF_E_NOT_FOUND ? "it isn't there any more" : nef_err_text(err));
    return err;
}

/* ---- what it is ---- */

static nef_err check_gguf(struct opening *o)
{
    char error[NEF_GGUF_ERROR_MAX] = "";
    struct nef_gguf *file = NULL;
    size_t bytes = (size_t)o->object->size;
    void *data;
    nef_err err;

    if (bytes == 0)
        return refuse(o, NEF_E_PROTOCOL, "it is empty");
    data = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, o->fd, 0);
    if (data == MAP_FAILED)
        return refuse(o, NEF_E_SYSTEM, "it can't be mapped");
    err = nef_gguf_parse(data, bytes, error, &file);
    if (err != NEF_OK)
        err = refuse(o, err, error);
    nef_gguf_free(file);
    (void)munmap(data, bytes);
    return err;
}

static nef_err seal(struct opening *o)
{
    if (fcntl(o->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0 ||
        lseek(o->fd, 0, SEEK_SET) != 0)
        return refuse(o, NEF_E_SYSTEM, "it can't be sealed");
    return NEF_OK;
}

static nef_err run(struct opening *o)
{
    nef_err err = find(o);

    if (err == NEF_OK)
        err = check_memory(o);
    if (err != NEF_OK)
        return err;
    o->fd = memfd_create("nef-model", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (o->fd < 0)
        return refuse(o, NEF_E_SYSTEM, "no memfd can be made");
    o->block = malloc(BLOCK_BYTES);
    if (o->block == NULL || begin_digests(o) != NEF_OK)
        return refuse(o, NEF_E_NOMEM, "out of memory");
    err = copy(o);
    if (err == NEF_OK)
        err = end_digests(o);
    if (err == NEF_OK)
        err = check_gguf(o);
    return err == NEF_OK ? seal(o) : err;
}

nef_err nef_models_open(struct nef_models *models, const struct nef_model_info *info, const atomic_bool *cancel,
                        char *out_why, int *out_fd)
{
    struct opening o = {.m = models, .info = info, .cancel = cancel, .why = out_why, .fd = -1};
    nef_err err;

    out_why[0] = '\0';
    err = run(&o);
    if (o.block != NULL) {
        nef_wipe(o.block, BLOCK_BYTES);
        free(o.block);
    }
    nef_hash_free(o.whole);
    nef_hash_free(o.part);
    nef_object_free(o.object);
    if (err == NEF_OK)
        *out_fd = o.fd;
    else if (o.fd >= 0)
        (void)close(o.fd); /* its memory is given back; nothing was anywhere else */
    return err;
}
