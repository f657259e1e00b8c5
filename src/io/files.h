/* Small whole files: certificates, tokens, credentials, configurations. Written whole or not at all and
 * durable on return; read with a bound. (The log's files are io/file_posix.c's.) Any thread. */
#ifndef NEF_IO_FILES_H
#define NEF_IO_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include "base/buf.h"
#include "base/err.h"

/* What errno E says of a file: NEF_E_NOT_FOUND, NEF_E_EXISTS, NEF_E_DENIED, NEF_E_NOSPACE, else NEF_E_IO. */
nef_err nef_file_error(int e);

/* A new file: written aside, synced, linked into place. NEF_E_EXISTS if there is something at PATH.
 * NEF_E_IO, NEF_E_NOSPACE. */
NEF_MUST_CHECK nef_err nef_file_make(const char *path, unsigned mode, const void *data, size_t bytes);

/* The same, but takes the place of what is there, atomically. */
NEF_MUST_CHECK nef_err nef_file_replace(const char *path, unsigned mode, const void *data,
                                        size_t bytes);

/* The same for a small file (at most NEF_FILE_SWAP_MAX) that has to be written on a disk without a free byte, too:
 * PATH and PATH.other keep a block each, and exchange their names. Only the first call needs space. One caller at a
 * time. */
#define NEF_FILE_SWAP_MAX 512u
#define NEF_FILE_OTHER    ".other"
NEF_MUST_CHECK nef_err nef_file_swap(const char *path, unsigned mode, const void *data, size_t bytes);

/* Append the whole file to OUT. only_owner: refuse one that group or others may read or write.
 * Errors: NEF_E_NOT_FOUND, NEF_E_DENIED (only_owner, no permission, or not a plain file), NEF_E_LIMIT
 * (more than bytes_max), NEF_E_IO. */
NEF_MUST_CHECK nef_err nef_file_read(const char *path, size_t bytes_max, bool only_owner,
                                     struct nef_buf *out);

#endif
