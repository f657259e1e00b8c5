/* Packed weights in a file beside the model, so that a start maps them instead of packing.
 *
 * One header of 4096 bytes, a table, the weights as they lie in memory:
 *
 *      0  8   magic "NEFPACK\n"
 *      8  4   version of this format and of the packing (kernels.h's layouts): PACK_VERSION
 *     12  4   bytes of a chunk: CHUNK_BYTES
 *     16  8   offset of the weights in this file, a multiple of 4096
 *     24  8   bytes of the weights
 *     32 32   digest of the model's contents: SHA-256 over the files' sizes and the SHA-256 of every 4 MiB of every
 *     file
 *     64 32   layout: SHA-256 over name, type, shape and place of every matrix
 *     96 32   identity: SHA-256 over device, inode, size, modification and change time of every model file; zeros:
 *     unknown
 *    128  4   CRC-32C of the table
 *   4092  4   CRC-32C of the 4092 bytes before
 *   4096      table: CRC-32C of each chunk of the weights, 4 bytes each; zeros up to the weights' offset
 *
 * Two models can't be taken for each other: the file is used only if the *contents* have the same digest. Reading a
 * model to compute it costs about as much as packing, so a model file whose identity is the one for which the digest
 * was computed isn't read again: a change of contents changes the change time, which no program can set. (Times are
 * coarse, so an identity is recorded only if the file hadn't changed for RACY_NS when its contents were read.)
 *
 * The weights are checked against the table at each start, by all threads. Whatever doesn't fit is traced and the file
 * written anew; it's never an error. Written beside, synced, renamed, the directory synced. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "infer/model/model_internal.h"

#define PACK_VERSION 1u
#define HEADER_BYTES 4096u
#define CHUNK_BYTES  (4u << 20)
#define RACY_NS      2000000000u

static const uint8_t magic[8] = {'N', 'E', 'F', 'P', 'A', 'C', 'K', '\n'};

struct header {
    uint64_t weights_at, weights_bytes;
    uint8_t digest[32], layout[32], identity[32];
    uint32_t table_crc;
};

static uint32_t chunks_of(uint64_t bytes)
{
    return (uint32_t)((bytes + CHUNK_BYTES - 1) / CHUNK_BYTES);
}

static uint64_t weights_at(uint64_t bytes)
{
    return (HEADER_BYTES + (uint64_t)chunks_of(bytes) * 4 + 4095) / 4096 * 4096;
}

static void encode(const struct header *h, uint8_t out[HEADER_BYTES])
{
    struct nef_writer w = nef_writer_of(out, HEADER_BYTES);

    nef_write_copy(&w, magic, sizeof(magic));
    nef_write_u32(&w, PACK_VERSION);
    nef_write_u32(&w, CHUNK_BYTES);
    nef_write_u64(&w, h->weights_at);
    nef_write_u64(&w, h->weights_bytes);
    nef_write_copy(&w, h->digest, 32);
    nef_write_copy(&w, h->layout, 32);
    nef_write_copy(&w, h->identity, 32);
    nef_write_u32(&w, h->table_crc);
    nef_write_zeros(&w, HEADER_BYTES - 4 - w.at);
    nef_write_u32(&w, nef_crc32c(0, out, HEADER_BYTES - 4));
    NEF_ASSERT(!w.failed && w.at == HEADER_BYTES);
}

/* NULL, or what is wrong with it. */
static const char *decode(const uint8_t bytes[HEADER_BYTES], struct header *out)
{
    struct nef_reader r = nef_reader_of(bytes, HEADER_BYTES);
    uint8_t seen[8];

    nef_read_copy(&r, seen, sizeof(seen));
    if (memcmp(seen, magic, sizeof(magic)) != 0)
        return "not a file of packed weights";
    if (nef_read_u32(&r) != PACK_VERSION || nef_read_u32(&r) != CHUNK_BYTES)
        return "another version";
    out->weights_at = nef_read_u64(&r);
    out->weights_bytes = nef_read_u64(&r);
    nef_read_copy(&r, out->digest, 32);
    nef_read_copy(&r, out->layout, 32);
    nef_read_copy(&r, out->identity, 32);
    out->table_crc = nef_read_u32(&r);
    r.at = HEADER_BYTES - 4;
    if (nef_read_u32(&r) != nef_crc32c(0, bytes, HEADER_BYTES - 4))
        return "the header's checksum is wrong";
    return NULL;
}

/* ---- what it is bound to ---- */

struct hashing {
    const struct nef_source_file *file;
    uint8_t (*leaves)[32];
};

static void hash_part(void *context, uint32_t part, void *scratch)
{
    const struct hashing *h = context;
    size_t from = (size_t)part * CHUNK_BYTES, bytes = NEF_MIN((size_t)CHUNK_BYTES, h->file->bytes - from);

    (void)scratch;
    nef_hash_of(NEF_HASH_SHA256, h->file->data + from, bytes, h->leaves[part]);
    nef_source_release(h->file->data + from, bytes);
}

static nef_err contents_digest(const struct nef_model *model, uint8_t out_digest[32])
{
    struct nef_hash *hash = nef_hash_new(NEF_HASH_SHA256);
    uint8_t digest[32];
    nef_err err = hash == NULL ? NEF_E_NOMEM : NEF_OK;

    for (uint32_t i = 0; err == NEF_OK && i < model->source.count; i++) {
        struct hashing h = {.file = &model->source.files[i]};
        uint32_t chunks = chunks_of(h.file->bytes);
        uint64_t bytes = h.file->bytes;

        h.leaves = calloc(chunks, sizeof(h.leaves[0]));
        if (h.leaves == NULL) {
            err = NEF_E_NOMEM;
            break;
        }
        nef_pool_run(model->pool, chunks, hash_part, &h);
        nef_hash_update(hash, &bytes, sizeof(bytes));
        nef_hash_update(hash, h.leaves, (size_t)chunks * sizeof(h.leaves[0]));
        free(h.leaves);
    }
    if (err == NEF_OK) {
        nef_hash_final(hash, digest);
        memcpy(out_digest, digest, sizeof(digest));
    }
    nef_hash_free(hash);
    return err;
}

/* Zeros when a file changed so lately that it could change again within the same tick of its times. */
static void identity_digest(const struct nef_model *model, uint8_t out[32])
{
    const struct nef_source *s = &model->source;
    struct nef_source_identity all[1];
    struct nef_hash *hash = nef_hash_new(NEF_HASH_SHA256);
    struct timespec t;
    uint64_t now;
    bool racy = hash == NULL;

    (void)clock_gettime(CLOCK_REALTIME, &t);
    now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    for (uint32_t i = 0; !racy && i < s->count; i++) {
        all[0] = s->files[i].identity;
        nef_hash_update(hash, all, sizeof(all));
        racy = all[0].changed_ns + RACY_NS > now;
    }
    memset(out, 0, 32);
    if (!racy)
        nef_hash_final(hash, out);
    nef_hash_free(hash);
}

static bool is_zero(const uint8_t bytes[32])
{
    static const uint8_t zero[32];

    return memcmp(bytes, zero, 32) == 0;
}

/* ---- checksums ---- */

struct summing {
    const uint8_t *weights;
    uint64_t bytes;
    uint8_t *table; /* of u32, little-endian */
};

static void sum_part(void *context, uint32_t part, void *scratch)
{
    const struct summing *s = context;
    uint64_t from = (uint64_t)part * CHUNK_BYTES;
    struct nef_writer w = nef_writer_of(s->table + (size_t)part * 4, 4);

    (void)scratch;
    nef_write_u32(&w, nef_crc32c(0, s->weights + from, NEF_MIN((uint64_t)CHUNK_BYTES, s->bytes - from)));
}

/* malloc'd; NULL: no memory. */
static uint8_t *make_table(const struct nef_model *model, const uint8_t *weights, uint64_t bytes)
{
    struct summing s = {.weights = weights, .bytes = bytes, .table = malloc((size_t)chunks_of(bytes) * 4)};

    if (s.table != NULL)
        nef_pool_run(model->pool, chunks_of(bytes), sum_part, &s);
    return s.table;
}

/* ---- reading ---- */

/* The digest was right but the identity wasn't known or has changed: note it, for the next start. Torn by a crash it
 * fails its checksum and is written anew. */
static void refresh(const char *path, const struct header *h)
{
    uint8_t bytes[HEADER_BYTES];
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

    encode(h, bytes);
    if (fd < 0 || pwrite(fd, bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        nef_trace(NEF_TRACE_INFO, "packed_weights_not_refreshed", "s:error", strerror(errno), NULL);
    if (fd >= 0)
        (void)close(fd);
}

/* NULL, or what is wrong with it. *out_err is changed only when that isn't the file's fault. */
static const char *check_mapped(struct nef_model *model, const char *path, const uint8_t layout[32],
                                const uint8_t *data, uint64_t bytes, nef_err *out_err)
{
    uint64_t table_bytes = (uint64_t)chunks_of(model->weights_bytes) * 4;
    uint8_t identity[32], digest[32], *table;
    struct header h;
    const char *wrong;
    bool equal;

    if (bytes < HEADER_BYTES)
        return "too short";
    wrong = decode(data, &h);
    if (wrong != NULL)
        return wrong;
    if (memcmp(h.layout, layout, 32) != 0 || h.weights_bytes != model->weights_bytes ||
        h.weights_at != weights_at(model->weights_bytes))
        return "made for another model";
    if (bytes != h.weights_at + h.weights_bytes)
        return "not as long as its header says";
    if (nef_crc32c(0, data + HEADER_BYTES, table_bytes) != h.table_crc)
        return "the table's checksum is wrong";
    identity_digest(model, identity);
    if (is_zero(identity) || memcmp(identity, h.identity, 32) != 0) {
        nef_err err = contents_digest(model, digest);

        if (err != NEF_OK) {
            *out_err = err;
            return "";
        }
        if (memcmp(digest, h.digest, 32) != 0)
            return "made for another model";
        memcpy(h.identity, identity, 32);
        if (!is_zero(identity))
            refresh(path, &h);
    }
    table = make_table(model, data + h.weights_at, h.weights_bytes);
    if (table == NULL) {
        *out_err = NEF_E_NOMEM;
        return "";
    }
    equal = memcmp(table, data + HEADER_BYTES, table_bytes) == 0;
    free(table);
    return equal ? NULL : "a checksum of the weights is wrong";
}

nef_err nef_packfile_map(struct nef_model *model, const char *path, const uint8_t layout[32])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    const char *wrong = NULL;
    uint8_t *data = MAP_FAILED;
    struct stat st;
    nef_err err = NEF_E_NOT_FOUND;

    if (fd < 0 && errno == ENOENT)
        return NEF_E_NOT_FOUND;
    if (fd < 0 || fstat(fd, &st) != 0)
        wrong = strerror(errno);
    else if (!S_ISREG(st.st_mode) || st.st_size <= 0)
        wrong = "not a plain file with something in it";
    if (wrong == NULL) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            wrong = strerror(errno);
    }
    if (wrong == NULL) {
        (void)madvise(data, (size_t)st.st_size, MADV_WILLNEED);
        (void)madvise(data, (size_t)st.st_size, MADV_HUGEPAGE); /* some file systems have them */
        wrong = check_mapped(model, path, layout, data, (uint64_t)st.st_size, &err);
    }
    if (fd >= 0)
        (void)close(fd);
    if (wrong == NULL) {
        model->mapping = data;
        model->mapping_bytes = (size_t)st.st_size;
        model->weights = data + weights_at(model->weights_bytes);
        return NEF_OK;
    }
    if (data != MAP_FAILED)
        (void)munmap(data, (size_t)st.st_size);
    if (err == NEF_E_NOT_FOUND)
        nef_trace(NEF_TRACE_WARN, "packed_weights_refused", "s:file", path, "s:reason", wrong, NULL);
    return err;
}

/* ---- writing ---- */

static nef_err write_all(int fd, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t did = write(fd, data, NEF_MIN(bytes, (size_t)64 << 20));

        if (did < 0 && errno == EINTR)
            continue;
        if (did < 0)
            return errno == ENOSPC || errno == EDQUOT ? NEF_E_NOSPACE : NEF_E_IO;
        data += did;
        bytes -= (size_t)did;
    }
    return NEF_OK;
}

/* The file beside, ours alone: another process that writes it at this moment has the lock, and one that has just
 * renamed it away has left us a file that isn't there any more. */
static nef_err open_beside(const char *beside, int *out_fd)
{
    struct stat opened, named;
    int fd = open(beside, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    nef_err err = NEF_OK;

    if (fd < 0)
        return NEF_E_IO;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        err = NEF_E_BUSY;
    else if (fstat(fd, &opened) != 0 || lstat(beside, &named) != 0 || opened.st_ino != named.st_ino ||
             opened.st_dev != named.st_dev || !S_ISREG(opened.st_mode))
        err = NEF_E_BUSY;
    else if (ftruncate(fd, 0) != 0)
        err = NEF_E_IO;
    if (err != NEF_OK) {
        (void)close(fd);
        return err;
    }
    *out_fd = fd;
    return NEF_OK;
}

static nef_err sync_directory_of(const char *path)
{
    char *directory = strdup(path), *slash;
    nef_err err = NEF_OK;
    int fd;

    if (directory == NULL)
        return NEF_E_NOMEM;
    slash = strrchr(directory, '/');
    if (slash != NULL)
        slash[slash == directory] = 0;
    fd = open(slash == NULL ? "." : directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        err = NEF_E_IO;
    if (fd >= 0)
        (void)close(fd);
    free(directory);
    return err;
}

static nef_err write_file(const struct nef_model *model, const struct header *h, const uint8_t *table, const char *path)
{
    uint8_t header[HEADER_BYTES], zeros[4096] = {0};
    size_t table_bytes = (size_t)chunks_of(h->weights_bytes) * 4;
    char *beside = NULL;
    int fd = -1;
    nef_err err;

    if (asprintf(&beside, "%s.new", path) < 0)
        return NEF_E_NOMEM;
    err = open_beside(beside, &fd);
    if (err != NEF_OK)
        goto out;
    encode(h, header);
    err = write_all(fd, header, sizeof(header));
    if (err == NEF_OK)
        err = write_all(fd, table, table_bytes);
    if (err == NEF_OK)
        err = write_all(fd, zeros, h->weights_at - HEADER_BYTES - table_bytes);
    if (err == NEF_OK)
        err = write_all(fd, model->weights, model->weights_bytes);
    if (err == NEF_OK && fsync(fd) != 0)
        err = NEF_E_IO;
    if (err == NEF_OK && rename(beside, path) != 0)
        err = NEF_E_IO;
    if (err != NEF_OK)
        (void)unlink(beside);
    else
        err = sync_directory_of(path);
    (void)close(fd); /* only now: it holds the lock */
out:
    free(beside);
    return err;
}

void nef_packfile_write(const struct nef_model *model, const char *path, const uint8_t layout[32])
{
    struct header h = {.weights_at = weights_at(model->weights_bytes), .weights_bytes = model->weights_bytes};
    uint8_t *table = make_table(model, model->weights, model->weights_bytes);
    nef_err err = table == NULL ? NEF_E_NOMEM : NEF_OK;

    memcpy(h.layout, layout, 32);
    identity_digest(model, h.identity); /* before the contents are read: a change during that isn't missed */
    if (err == NEF_OK)
        err = contents_digest(model, h.digest);
    if (err == NEF_OK && !nef_source_unchanged(&model->source))
        err = NEF_E_CORRUPT; /* what was packed may not be what was digested */
    if (err == NEF_OK) {
        h.table_crc = nef_crc32c(0, table, (size_t)chunks_of(h.weights_bytes) * 4);
        err = write_file(model, &h, table, path);
    }
    free(table);
    if (err != NEF_OK)
        nef_trace(NEF_TRACE_WARN, "packed_weights_not_written", "s:file", path, "e:error", (int)err, NULL);
    else
        nef_trace(NEF_TRACE_INFO, "packed_weights_written", "s:file", path, "u:bytes", (uint64_t)h.weights_bytes, NULL);
}
