/* Small whole files; see files.h.
 *
 * A new file is written under a random name beside its place and linked (or renamed) there only
 * after fsync, then its directory is synced: at no moment can a crash leave half a key under the
 * real name. What a crash can leave is a file "NAME.<random>.tmp", mode as asked, that nothing
 * reads. */
#include "io/files.h"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "crypto/crypto.h"

#define PATH_BYTES 4096u

nef_err nef_file_error(int e)
{
    switch (e) {
    case ENOENT:
        return NEF_E_NOT_FOUND;
    case EEXIST:
        return NEF_E_EXISTS;
    case EACCES:
    case EPERM:
        return NEF_E_DENIED;
    case ENOSPC:
    case EDQUOT:
        return NEF_E_NOSPACE;
    default:
        return NEF_E_IO;
    }
}

static nef_err write_all(int fd, const void *data, size_t bytes)
{
    const uint8_t *p = data;

    while (bytes > 0) {
        ssize_t n = write(fd, p, bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return nef_file_error(errno);
        p += n;
        bytes -= (size_t)n;
    }
    return NEF_OK;
}

static nef_err sync_parent(const char *path)
{
    char parent[PATH_BYTES];
    char *slash;
    nef_err err = NEF_OK;
    int fd;

    (void)snprintf(parent, sizeof(parent), "%s", path); /* put_file checked that it fits */
    slash = strrchr(parent, '/');
    if (slash == NULL)
        (void)snprintf(parent, sizeof(parent), ".");
    else
        slash[slash == parent ? 1 : 0] = '\0';
    fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return nef_file_error(errno);
    if (fsync(fd) != 0)
        err = nef_file_error(errno);
    (void)close(fd); /* read-only */
    return err;
}

static nef_err put_file(const char *path, unsigned mode, const void *data, size_t bytes,
                        bool replace)
{
    char aside[PATH_BYTES];
    bool there = false;
    nef_err err;
    int fd, n;

    n = snprintf(aside, sizeof(aside), "%s.%016llx.tmp", path,
                 (unsigned long long)nef_random_u64());
    if (n < 0 || (size_t)n >= sizeof(aside))
        return NEF_E_INVALID;
    fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return nef_file_error(errno);
    there = true;
    err = write_all(fd, data, bytes);
    if (err == NEF_OK &&
        (fchmod(fd, mode) != 0 || fsync(fd) != 0)) /* the umask may have cut mode */
        err = nef_file_error(errno);
    if (close(fd) != 0 && err == NEF_OK)
        err = nef_file_error(errno);
    if (err != NEF_OK)
        goto out;
    if ((replace ? rename(aside, path) : link(aside, path)) != 0) {
        err = nef_file_error(errno);
        goto out;
    }
    there = !replace;
out:
    if (there)
        (void)unlink(aside); /* what is left behind is never read */
    if (err == NEF_OK)
        err = sync_parent(path);
    return err;
}

nef_err nef_file_make(const char *path, unsigned mode, const void *data, size_t bytes)
{
    return put_file(path, mode, data, bytes, false);
}

nef_err nef_file_replace(const char *path, unsigned mode, const void *data, size_t bytes)
{
    return put_file(path, mode, data, bytes, true);
}

/* BYTES of DATA into PATH itself, which is nobody's yet. */
static nef_err fill_file(const char *path, unsigned mode, const void *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode);
    nef_err err;

    if (fd < 0)
        return nef_file_error(errno);
    err = write_all(fd, data, bytes);
    if (err == NEF_OK && (fchmod(fd, mode) != 0 || ftruncate(fd, (off_t)bytes) != 0 || fsync(fd) != 0))
        err = nef_file_error(errno);
    if (close(fd) != 0 && err == NEF_OK)
        err = nef_file_error(errno);
    return err;
}

nef_err nef_file_swap(const char *path, unsigned mode, const void *data, size_t bytes)
{
    char other[PATH_BYTES];
    bool gone = false; /* PATH.other is: there was no PATH, or this file system can't exchange two names */
    int n = snprintf(other, sizeof(other), "%s" NEF_FILE_OTHER, path);
    nef_err err;

    if (n < 0 || (size_t)n >= sizeof(other) || bytes > NEF_FILE_SWAP_MAX)
        return NEF_E_INVALID;
    err = fill_file(other, mode, data, bytes);
    if (err != NEF_OK)
        return err;
    if (renameat2(AT_FDCWD, other, AT_FDCWD, path, RENAME_EXCHANGE) != 0) {
        gone = errno == ENOENT || errno == EINVAL || errno == ENOSYS;
        if (!gone || rename(other, path) != 0)
            return nef_file_error(errno);
    }
    err = sync_parent(path);
    if (err == NEF_OK && gone) {
        err = fill_file(other, mode, data, bytes);
        if (err == NEF_E_NOSPACE) /* what was asked for is done; the next call needs space, like a first one */
            err = NEF_OK;
    }
    return err;
}

nef_err nef_file_read(const char *path, size_t bytes_max, bool only_owner, struct nef_buf *out)
{
    struct stat st;
    size_t total = 0;
    nef_err err = NEF_OK;
    int fd;

    /* O_NONBLOCK: a FIFO in its place must not hang us before fstat refuses it */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return nef_file_error(errno);
    if (fstat(fd, &st) != 0) {
        err = nef_file_error(errno);
        goto out;
    }
    if (!S_ISREG(st.st_mode) || (only_owner && (st.st_mode & 077) != 0)) {
        err = NEF_E_DENIED;
        goto out;
    }
    for (;;) {
        uint8_t piece[4096];
        ssize_t n = read(fd, piece, sizeof(piece));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err = nef_file_error(errno);
        else if ((size_t)n > bytes_max - total)
            err = NEF_E_LIMIT;
        if (n > 0 && err == NEF_OK)
            nef_buf_append(out, piece, (size_t)n);
        nef_wipe(piece, sizeof(piece)); /* keys and tokens come this way */
        if (n <= 0 || err != NEF_OK)
            break;
        total += (size_t)n;
    }
    if (err == NEF_OK)
        err = nef_buf_end(out);
out:
    (void)close(fd); /* read-only */
    return err;
}
