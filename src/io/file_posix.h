/* struct nef_dir and struct nef_file over a POSIX file system.
 *
 * What a disk can do to us is mapped to three codes: NEF_E_NOSPACE (ENOSPC, EDQUOT), NEF_E_NOT_FOUND and
 * NEF_E_EXISTS for names, NEF_E_IO for the rest, which is traced with its errno. */
#ifndef NEF_IO_FILE_POSIX_H
#define NEF_IO_FILE_POSIX_H

#include <stdbool.h>
#include "base/file.h"

/* Open the directory PATH; if CREATE and it isn't there, make it (mode 0700; its parent must exist) and
 * make its name durable. Files in it are made with mode 0600, their names must be plain ("a", not "a/b"),
 * symbolic links are not followed.
 * Ownership  the caller's; out_dir->ops->close frees it. Files outlive their directory's handle.
 * Threads    any, as base/file.h says. */
NEF_MUST_CHECK nef_err nef_dir_posix_open(const char *path, bool create, struct nef_dir **out_dir);

#endif
