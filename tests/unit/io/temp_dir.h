/* A directory of a test's own under TMPDIR, removed at its end. */
#ifndef NEF_TESTS_TEMP_DIR_H
#define NEF_TESTS_TEMP_DIR_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct temp_dir {
    char path[256];
};

static inline int temp_dir_make(struct temp_dir *d)
{
    const char *base = getenv("TMPDIR");

    (void)snprintf(d->path, sizeof(d->path), "%s/nef-test-XXXXXX", base == NULL ? "/tmp" : base);
    return mkdtemp(d->path) == NULL ? -1 : 0;
}

static inline int temp_dir_drop(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static inline void temp_dir_remove(struct temp_dir *d)
{
    (void)nftw(d->path, temp_dir_drop, 16, FTW_DEPTH | FTW_PHYS);
}

/* PATH/NAME in one of a few static buffers: good until the eighth call from now. */
static inline const char *in_dir(const struct temp_dir *d, const char *name)
{
    static char text[8][512];
    static unsigned turn;
    char *at = text[turn++ % 8];

    (void)snprintf(at, sizeof(text[0]), "%s/%s", d->path, name);
    return at;
}

#endif
