/* The file or files of a model; see source.h. */
#include "infer/model/source.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/limits.h"

#define SPLIT_SUFFIX_BYTES 20u /* "-00001-of-00002.gguf" */

static struct nef_source_identity identity_of(const struct stat *st)
{
    return (struct nef_source_identity){
        .device = st->st_dev,
        .inode = st->st_ino,
        .bytes = (uint64_t)st->st_size,
        .modified_ns = (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec,
        .changed_ns = (uint64_t)st->st_ctim.tv_sec * 1000000000u + (uint64_t)st->st_ctim.tv_nsec,
    };
}

/* FD is out_file's from here on, also after an error. */
static nef_err map(int fd, char *out_error, struct nef_source_file *out_file)
{
    struct stat st;
    void *data;

    out_file->fd = fd;
    if (fstat(fd, &st) != 0) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "the file can't be examined: %s", strerror(errno));
        return NEF_E_IO;
    }
    if (!S_ISREG(st.st_mode) || st.st_size <= 0) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "not a plain file with something in it");
        return NEF_E_INVALID;
    }
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "the file can't be mapped: %s", strerror(errno));
        return errno == ENOMEM ? NEF_E_NOMEM : NEF_E_IO;
    }
    out_file->data = data;
    out_file->bytes = (size_t)st.st_size;
    out_file->identity = identity_of(&st);
    return NEF_OK;
}

static nef_err open_path(const char *path, char *out_error, struct nef_source_file *out_file)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "%.150s: %s", path, strerror(errno));
        return errno == ENOENT ? NEF_E_NOT_FOUND : NEF_E_IO;
    }
    return map(fd, out_error, out_file);
}

/* PATH ends in "-00001-of-N.gguf": *out_count is N; else 1. */
static nef_err split_count(const char *path, char *out_error, uint32_t *out_count)
{
    size_t length = strlen(path);
    unsigned first, count;
    int used = 0;

    *out_count = 1;
    if (length < SPLIT_SUFFIX_BYTES)
        return NEF_OK;
    if (sscanf(path + length - SPLIT_SUFFIX_BYTES, "-%5u-of-%5u.gguf%n", &first, &count, &used) != 2 ||
        used != (int)SPLIT_SUFFIX_BYTES)
        return NEF_OK;
    if (first != 1) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "a split model is named by its first file, -00001-of-%05u.gguf",
                       count);
        return NEF_E_INVALID;
    }
    if (count < 1 || count > NEF_MODEL_FILES_MAX) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "a model in %u files: more than %u", count, NEF_MODEL_FILES_MAX);
        return NEF_E_LIMIT;
    }
    *out_count = count;
    return NEF_OK;
}

/* The keys of gguf-split: each file says which of how many it is. */
static nef_err check_split(const struct nef_source *source, char *out_error)
{
    for (uint32_t i = 0; i < source->count; i++) {
        uint64_t count = 1, number = i;
        nef_err err = nef_gguf_u64(source->files[i].gguf, "split.count", &count);

        if (err == NEF_OK || err == NEF_E_NOT_FOUND)
            err = nef_gguf_u64(source->files[i].gguf, "split.no", &number);
        if (err != NEF_OK && err != NEF_E_NOT_FOUND) {
            (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "split.count or split.no isn't an integer");
            return NEF_E_INVALID;
        }
        if (count <= 1 && source->count == 1)
            continue; /* also what tools leave in a file that they joined */
        if (count != source->count) {
            (void)snprintf(out_error, NEF_GGUF_ERROR_MAX,
                           "split.count is %" PRIu64 ": %u opened; give the path of the first", count, source->count);
            return NEF_E_INVALID;
        }
        if (number != i) {
            (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "split.no is %" PRIu64 " in file %u", number, i + 1);
            return NEF_E_INVALID;
        }
    }
    return NEF_OK;
}

static nef_err parse(struct nef_source *source, char *out_error)
{
    for (uint32_t i = 0; i < source->count; i++) {
        struct nef_source_file *file = &source->files[i];
        nef_err err = nef_gguf_parse(file->data, file->bytes, out_error, &file->gguf);

        if (err != NEF_OK)
            return err;
    }
    return check_split(source, out_error);
}

static nef_err open_fd(const char *number, char *out_error, struct nef_source_file *out_file)
{
    char *end;
    long fd;
    int own;

    errno = 0;
    fd = strtol(number, &end, 10);
    if (errno != 0 || end == number || *end != 0 || fd < 0 || fd > INT32_MAX) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "fd:%.20s is no file descriptor", number);
        return NEF_E_INVALID;
    }
    own = fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "fd:%ld: %s", fd, strerror(errno));
        return errno == EBADF ? NEF_E_NOT_FOUND : NEF_E_SYSTEM;
    }
    return map(own, out_error, out_file);
}

nef_err nef_source_open(const char *text, char *out_error, struct nef_source *out_source)
{
    struct nef_source source = {.count = 1};
    char *path = NULL;
    bool by_fd = strncmp(text, "fd:", 3) == 0;
    nef_err err = NEF_OK;

    if (!by_fd)
        err = split_count(text, out_error, &source.count);
    if (err != NEF_OK)
        return err;
    source.files = calloc(source.count, sizeof(source.files[0]));
    path = strdup(text);
    if (source.files == NULL || path == NULL) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "out of memory");
        err = NEF_E_NOMEM;
    }
    for (uint32_t i = 0; source.files != NULL && i < source.count; i++)
        source.files[i].fd = -1;
    for (uint32_t i = 0; err == NEF_OK && i < source.count; i++) {
        if (i > 0) { /* the digits of "-00001" */
            char digits[12];

            (void)snprintf(digits, sizeof(digits), "%05u", i + 1);
            memcpy(path + strlen(path) - SPLIT_SUFFIX_BYTES + 1, digits, 5);
        }
        err = by_fd ? open_fd(text + 3, out_error, &source.files[i]) : open_path(path, out_error, &source.files[i]);
    }
    free(path);
    if (err == NEF_OK)
        err = parse(&source, out_error);
    if (err != NEF_OK) {
        nef_source_close(&source);
        return err;
    }
    *out_source = source;
    return NEF_OK;
}

void nef_source_close(struct nef_source *source)
{
    for (uint32_t i = 0; source->files != NULL && i < source->count; i++) {
        nef_gguf_free(source->files[i].gguf);
        if (source->files[i].data != NULL)
            (void)munmap((void *)(uintptr_t)source->files[i].data, source->files[i].bytes);
        if (source->files[i].fd >= 0)
            (void)close(source->files[i].fd);
    }
    free(source->files);
    *source = (struct nef_source){0};
}

const struct nef_gguf_tensor *nef_source_tensor(const struct nef_source *source, const char *name)
{
    for (uint32_t i = 0; i < source->count; i++) {
        const struct nef_gguf_tensor *t = nef_gguf_tensor(source->files[i].gguf, name);

        if (t != NULL)
            return t;
    }
    return NULL;
}

uint64_t nef_source_bytes(const struct nef_source *source)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < source->count; i++)
        bytes += source->files[i].bytes;
    return bytes;
}

bool nef_source_unchanged(const struct nef_source *source)
{
    for (uint32_t i = 0; i < source->count; i++) {
        const struct nef_source_identity *before = &source->files[i].identity;
        struct nef_source_identity now;
        struct stat st;

        if (fstat(source->files[i].fd, &st) != 0)
            return false;
        now = identity_of(&st);
        if (now.bytes != before->bytes || now.modified_ns != before->modified_ns ||
            now.changed_ns != before->changed_ns)
            return false;
    }
    return true;
}

void nef_source_release(const uint8_t *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)data + page - 1) / page * page, to = ((uintptr_t)data + bytes) / page * page;

    if (from < to)
        (void)madvise((void *)from, to - from, MADV_DONTNEED); /* a hint: the pages are unchanged copies of the file */
}
