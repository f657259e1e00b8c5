/* struct nef_file and struct nef_dir: what seglog needs of a disk, as interfaces, so that the same code
 * runs on POSIX files (io/file_posix.c) and on the simulated disk (tests/lib/sim_disk.c).
 *
 * Semantics are POSIX's: a write is durable only after sync of the file returned; a created, renamed or
 * unlinked name only after sync_dir. After a failed sync the file must not be used again (the page cache
 * proves nothing). Threads: read and read_now may run in any number of threads beside one writer and one sync. */
#ifndef NEF_BASE_FILE_H
#define NEF_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct nef_file;
struct nef_dir;

#define NEF_FILE_CREATE 1u /* create, error NEF_E_EXISTS if it is there */
#define NEF_FILE_DIRECT 2u /* reads go past the page cache; offset, length and memory in 4096 */
#define NEF_FILE_READ   4u /* read only */
#define NEF_FILE_FRESH  8u /* with DIRECT: forget the file's clean cached pages (they may show what a failed sync lost) */

struct nef_file_ops {
    /* All BYTES bytes or an error; reading past the end of the file gives NEF_E_RANGE. */
    nef_err (*read)(struct nef_file *f, uint64_t offset, void *out, size_t bytes);
    /* The same, without waiting for the disk: NEF_E_AGAIN if some of it would have to be, or that can't be known; then
     * OUT is undefined. */
    nef_err (*read_now)(struct nef_file *f, uint64_t offset, void *out, size_t bytes);
    nef_err (*write)(struct nef_file *f, uint64_t offset, const void *data, size_t bytes);
    nef_err (*sync)(struct nef_file *f);                                   /* fdatasync */
    nef_err (*allocate)(struct nef_file *f, uint64_t bytes);               /* reserve and set size */
    nef_err (*punch)(struct nef_file *f, uint64_t offset, uint64_t bytes); /* hole; reads as zeros */
    nef_err (*size)(struct nef_file *f, uint64_t *out_bytes);
    void (*close)(struct nef_file *f); /* frees f */
};

struct nef_file {
    const struct nef_file_ops *ops;
};

struct nef_dir_ops {
    nef_err (*open)(struct nef_dir *d, const char *name, unsigned flags, struct nef_file **out_file);
    nef_err (*unlink)(struct nef_dir *d, const char *name); /* NEF_E_NOT_FOUND if it isn't there */
    nef_err (*rename)(struct nef_dir *d, const char *from, const char *to);
    nef_err (*sync_dir)(struct nef_dir *d);
    /* Calls visit for each plain file; the name is borrowed for the call. */
    nef_err (*list)(struct nef_dir *d, void (*visit)(void *context, const char *name),
                    void *context);
    nef_err (*free_bytes)(struct nef_dir *d, uint64_t *out_free, uint64_t *out_total);
    void (*close)(struct nef_dir *d); /* frees d */
};

struct nef_dir {
    const struct nef_dir_ops *ops;
};

#endif
