/* POSIX files; see file_posix.h, and base/file.h for what each operation promises.
 *
 * Past the page cache: O_DIRECT makes the kernel write dirty pages of the range out and then read the
 * device. File systems without it (tmpfs, some network and overlay ones) refuse it at open or at the
 * first read; there we sync the file and drop its cached pages before each read. That is weaker (the
 * kernel may keep a page that is mapped or being written), but on tmpfs there is nothing behind the page
 * cache, and elsewhere a freshly synced page is what was written.
 *
 * After a failed fdatasync the kernel marks the pages clean and reports the error once; callers stop
 * (design R7). Nothing here retries a sync. */
#include "io/file_posix.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"

#define ZERO_BYTES (64u << 10)

struct posix_file {
    struct nef_file base;
    int fd;
    atomic_bool drop_cache; /* asked for DIRECT, which this file system can't do; relaxed, only set */
};

struct posix_dir {
    struct nef_dir base;
    int fd;
};

static uint8_t zeros[ZERO_BYTES]; /* never written */

static nef_err map_errno(const char *operation, int e)
{
    switch (e) {
    case ENOSPC:
    case EDQUOT:
        return NEF_E_NOSPACE;
    case ENOENT:
        return NEF_E_NOT_FOUND;
    case EEXIST:
        return NEF_E_EXISTS;
    case ENOMEM:
        return NEF_E_NOMEM;
    default:
        nef_trace(NEF_TRACE_ERROR, "file_failed", "s:operation", operation, "i:errno", (int64_t)e,
                  NULL);
        return NEF_E_IO;
    }
}

/* ---- files ---- */

static struct posix_file *file_of(struct nef_file *f)
{
    return (struct posix_file *)f; /* base is the first member */
}

static void drop_cache(struct posix_file *file, uint64_t offset, size_t bytes)
{
    /* Both are best effort, see the head of this file: an error of the sync is the writer's to see. */
    (void)fdatasync(file->fd);
    (void)posix_fadvise(file->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

static nef_err posix_read(struct nef_file *f, uint64_t offset, void *out, size_t bytes)
{
    struct posix_file *file = file_of(f);
    uint8_t *p = out;

    if (atomic_load_explicit(&file->drop_cache, memory_order_relaxed))
        drop_cache(file, offset, bytes);
    while (bytes > 0) {
        ssize_t n = pread(file->fd, p, bytes, (off_t)offset);

        if (n > 0) {
            p += n;
            offset += (uint64_t)n;
            bytes -= (size_t)n;
        } else if (n == 0) {
            return NEF_E_RANGE;
        } else if (errno == EINVAL && (fcntl(file->fd, F_GETFL) & O_DIRECT)) {
            /* accepted O_DIRECT at open, but can't do it */
            if (fcntl(file->fd, F_SETFL, fcntl(file->fd, F_GETFL) & ~O_DIRECT) != 0)
                return map_errno("fcntl", errno);
            atomic_store_explicit(&file->drop_cache, true, memory_order_relaxed);
            drop_cache(file, offset, bytes);
        } else if (errno != EINTR) {
            return map_errno("read", errno);
        }
    }
    return NEF_OK;
}

/* RWF_NOWAIT: what is in the page cache, else EAGAIN. File systems that can't tell say EOPNOTSUPP. */
static nef_err posix_read_now(struct nef_file *f, uint64_t offset, void *out, size_t bytes)
{
    struct posix_file *file = file_of(f);
    uint8_t *p = out;

    if (atomic_load_explicit(&file->drop_cache, memory_order_relaxed))
        return NEF_E_AGAIN;
    while (bytes > 0) {
        struct iovec part = {.iov_base = p, .iov_len = bytes};
        ssize_t n = preadv2(file->fd, &part, 1, (off_t)offset, RWF_NOWAIT);

        if (n > 0) {
            p += n;
            offset += (uint64_t)n;
            bytes -= (size_t)n;
        } else if (n == 0) {
            return NEF_E_RANGE;
        } else if (errno == EAGAIN || errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS) {
            return NEF_E_AGAIN;
        } else if (errno != EINTR) {
            return map_errno("read", errno);
        }
    }
    return NEF_OK;
}

static nef_err posix_write(struct nef_file *f, uint64_t offset, const void *data, size_t bytes)
{
    const uint8_t *p = data;

    while (bytes > 0) {
        ssize_t n = pwrite(file_of(f)->fd, p, bytes, (off_t)offset);

        if (n >= 0) {
            p += n;
            offset += (uint64_t)n;
            bytes -= (size_t)n;
        } else if (errno != EINTR) {
            return map_errno("write", errno);
        }
    }
    return NEF_OK;
}

static nef_err posix_sync(struct nef_file *f)
{
    return fdatasync(file_of(f)->fd) == 0 ? NEF_OK : map_errno("fdatasync", errno);
}

static nef_err posix_size(struct nef_file *f, uint64_t *out_bytes)
{
    struct stat st;

    if (fstat(file_of(f)->fd, &st) != 0)
        return map_errno("fstat", errno);
    *out_bytes = (uint64_t)st.st_size;
    return NEF_OK;
}

static nef_err write_zeros(struct nef_file *f, uint64_t offset, uint64_t bytes)
{
    nef_err err = NEF_OK;

    while (err == NEF_OK && bytes > 0) {
        size_t n = (size_t)NEF_MIN(bytes, (uint64_t)ZERO_BYTES);

        err = posix_write(f, offset, zeros, n);
        offset += n;
        bytes -= n;
    }
    return err;
}

static nef_err posix_allocate(struct nef_file *f, uint64_t bytes)
{
    uint64_t size = 0;
    nef_err err;
    int n;

    do
        n = fallocate(file_of(f)->fd, 0, 0, (off_t)bytes);
    while (n != 0 && errno == EINTR);
    if (n == 0)
        return NEF_OK;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return map_errno("fallocate", errno);
    err = posix_size(f, &size); /* what is there already is reserved by being there */
    if (err == NEF_OK && size < bytes)
        err = write_zeros(f, size, bytes - size);
    return err;
}

static nef_err posix_punch(struct nef_file *f, uint64_t offset, uint64_t bytes)
{
    int n;

    do
        n = fallocate(file_of(f)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                      (off_t)bytes);
    while (n != 0 && errno == EINTR);
    if (n == 0)
        return NEF_OK;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return map_errno("punch", errno);
    return write_zeros(f, offset, bytes);
}

static void posix_file_close(struct nef_file *f)
{
    (void)close(file_of(f)->fd); /* what matters was synced; an error here says nothing about it */
    free(file_of(f));
}

static const struct nef_file_ops file_ops = {
    .read = posix_read,
    .read_now = posix_read_now,
    .write = posix_write,
    .sync = posix_sync,
    .allocate = posix_allocate,
    .punch = posix_punch,
    .size = posix_size,
    .close = posix_file_close,
};

/* ---- directories ---- */

static struct posix_dir *dir_of(struct nef_dir *d)
{
    return (struct posix_dir *)d;
}

static bool plain_name(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static nef_err posix_open(struct nef_dir *d, const char *name, unsigned flags,
                          struct nef_file **out_file)
{
    int mode = (flags & NEF_FILE_READ ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW;
    bool direct = (flags & NEF_FILE_DIRECT) != 0, refused = false;
    struct posix_file *file;
    int fd;

    /* writing past the page cache isn't offered: the log groups its writes there */
    if (!plain_name(name) || (direct && !(flags & NEF_FILE_READ)) ||
        ((flags & NEF_FILE_CREATE) && (flags & NEF_FILE_READ)))
        return NEF_E_INVALID;
    if (flags & NEF_FILE_CREATE)
        mode |= O_CREAT | O_EXCL;
    fd = openat(dir_of(d)->fd, name, mode | (direct ? O_DIRECT : 0), 0600);
    if (fd < 0 && direct && errno == EINVAL) {
        refused = true;
        fd = openat(dir_of(d)->fd, name, mode, 0600);
    }
    if (fd < 0)
        return map_errno("open", errno);
    file = calloc(1, sizeof(*file));
    if (file == NULL) {
        (void)close(fd);
        return NEF_E_NOMEM;
    }
    file->base.ops = &file_ops;
    file->fd = fd;
    atomic_init(&file->drop_cache, refused);
    if (flags & NEF_FILE_FRESH)
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* advice; only says no to pipes */
    *out_file = &file->base;
    return NEF_OK;
}

static nef_err posix_unlink(struct nef_dir *d, const char *name)
{
    if (!plain_name(name))
        return NEF_E_INVALID;
    return unlinkat(dir_of(d)->fd, name, 0) == 0 ? NEF_OK : map_errno("unlink", errno);
}

static nef_err posix_rename(struct nef_dir *d, const char *from, const char *to)
{
    int fd = dir_of(d)->fd;

    if (!plain_name(from) || !plain_name(to))
        return NEF_E_INVALID;
    return renameat(fd, from, fd, to) == 0 ? NEF_OK : map_errno("rename", errno);
}

static nef_err posix_sync_dir(struct nef_dir *d)
{
    return fsync(dir_of(d)->fd) == 0 ? NEF_OK : map_errno("fsync", errno);
}

static bool is_plain_file(int dir_fd, const struct dirent *entry)
{
    struct stat st;

    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_REG;
    return fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

static nef_err posix_list(struct nef_dir *d, void (*visit)(void *context, const char *name),
                          void *context)
{
    int fd = openat(dir_of(d)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct dirent *entry;
    nef_err err = NEF_OK;
    DIR *dir;

    if (fd < 0)
        return map_errno("open", errno);
    dir = fdopendir(fd);
    if (dir == NULL) {
        err = map_errno("fdopendir", errno);
        (void)close(fd);
        return err;
    }
    for (;;) {
        errno = 0;
        entry = readdir(dir);
        if (entry == NULL)
            break;
        if (is_plain_file(fd, entry))
            visit(context, entry->d_name);
    }
    if (errno != 0)
        err = map_errno("readdir", errno);
    (void)closedir(dir);
    return err;
}

static nef_err posix_free_bytes(struct nef_dir *d, uint64_t *out_free, uint64_t *out_total)
{
    struct statvfs st;

    if (fstatvfs(dir_of(d)->fd, &st) != 0)
        return map_errno("statvfs", errno);
    *out_free = (uint64_t)st.f_bavail * st.f_frsize; /* what one who isn't root can use */
    *out_total = (uint64_t)st.f_blocks * st.f_frsize;
    return NEF_OK;
}

static void posix_dir_close(struct nef_dir *d)
{
    (void)close(dir_of(d)->fd);
    free(dir_of(d));
}

static const struct nef_dir_ops dir_ops = {
    .open = posix_open,
    .unlink = posix_unlink,
    .rename = posix_rename,
    .sync_dir = posix_sync_dir,
    .list = posix_list,
    .free_bytes = posix_free_bytes,
    .close = posix_dir_close,
};

/* A new directory's name is an entry of its parent. */
static nef_err sync_parent(int dir_fd)
{
    int fd = openat(dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    nef_err err = NEF_OK;

    if (fd < 0)
        return map_errno("open", errno);
    if (fsync(fd) != 0)
        err = map_errno("fsync", errno);
    (void)close(fd);
    return err;
}

nef_err nef_dir_posix_open(const char *path, bool create, struct nef_dir **out_dir)
{
    struct posix_dir *dir;
    nef_err err = NEF_OK;
    int fd;

    if (create && mkdir(path, 0700) != 0 && errno != EEXIST)
        return map_errno("mkdir", errno);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return map_errno("open", errno);
    /* also when it was there: whoever made it may have crashed before its sync */
    if (create)
        err = sync_parent(fd);
    dir = err == NEF_OK ? calloc(1, sizeof(*dir)) : NULL;
    if (dir == NULL) {
        (void)close(fd);
        return err == NEF_OK ? NEF_E_NOMEM : err;
    }
    dir->base.ops = &dir_ops;
    dir->fd = fd;
    *out_dir = &dir->base;
    return NEF_OK;
}
