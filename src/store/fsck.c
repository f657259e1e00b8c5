/* nef fsck: locks the directories, runs the checks in order. fsck.h says what is checked. */
#include "store/fsck.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/limits.h"
#include "store/fsck_internal.h"
#include "store/store.h"

static void could_not(struct nef_fsck *f, uint32_t zone, const char *what, nef_err err)
{
    if (err == NEF_E_BUSY) /* a lock that another process holds: WHAT says it all */
        nef_fsck_say(f, true, zone, 0, UINT64_MAX, "%s", what);
    else
        nef_fsck_say(f, true, zone, 0, UINT64_MAX, "%s: %s", what, nef_err_text(err));
    f->could_not_run = true;
}

/* The lock that a zone process holds while it runs. */
static int lock_dir(struct nef_fsck *f, uint32_t zone)
{
    char path[4096];
    int fd;

    (void)snprintf(path, sizeof path, "%s/" NEF_STORE_LOCK_NAME, f->options->zones[zone].data_dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        could_not(f, zone, "the data directory can't be opened", NEF_E_IO);
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        (void)close(fd);
        could_not(f, zone, "the data directory is in use: stop the zone first", NEF_E_BUSY);
        return -1;
    }
    return fd;
}

static void check_logs(struct nef_fsck *f, struct nef_fsck_log *logs)
{
    uint32_t zones = f->options->zone_count, cells = f->options->cell_count;

    for (uint32_t c = 0; c < cells; c++) {
        nef_err err = NEF_OK;

        for (uint32_t z = 0; z < zones && !f->could_not_run; z++) {
            err = nef_fsck_scan(f, z, c, &logs[z * cells + c]);
            if (err != NEF_OK)
                could_not(f, z, "a log can't be read", err);
        }
        for (uint32_t z = 1; z < zones && !f->could_not_run; z++) {
            err = nef_fsck_compare(f, c, 0, &logs[c], z, &logs[z * cells + c]);
            if (err != NEF_OK)
                could_not(f, z, "the logs can't be compared", err);
        }
    }
}

static void check_zone_index(struct nef_fsck *f, uint32_t zone, const struct nef_fsck_log *logs)
{
    uint64_t marks[NEF_CELL_MAX];
    bool faulty = false;
    nef_err err;

    for (uint32_t c = 0; c < f->options->cell_count; c++) {
        faulty = faulty || logs[c].faulty;
        marks[c] = logs[c].mark;
    }
    if (faulty) { /* opening a faulty log would change it, and its index can't be judged by it */
        nef_fsck_say(f, false, zone, 0, UINT64_MAX, "the index wasn't looked at: the log has faults");
        return;
    }
    err = nef_fsck_index(f, zone, marks);
    if (err != NEF_OK)
        could_not(f, zone, "the index can't be checked", err);
}

int nef_fsck(const struct nef_fsck_options *options)
{
    struct nef_fsck f = {.options = options};
    struct nef_fsck_log *logs = NULL;
    int *locks = NULL;

    NEF_ASSERT(options->cell_count > 0 && options->cell_count <= NEF_CELL_MAX);
    NEF_ASSERT(options->zone_count > 0 && options->zone_count <= NEF_REPLICA_MAX);
    locks = malloc(options->zone_count * sizeof *locks);
    logs = calloc((size_t)options->zone_count * options->cell_count, sizeof *logs);
    if (locks == NULL || logs == NULL) {
        could_not(&f, 0, "fsck", NEF_E_NOMEM);
        free(locks);
        free(logs);
        return 2;
    }
    for (uint32_t z = 0; z < options->zone_count; z++)
        locks[z] = lock_dir(&f, z);
    if (!f.could_not_run)
        check_logs(&f, logs);
    for (uint32_t z = 0; z < options->zone_count && !f.could_not_run; z++)
        check_zone_index(&f, z, &logs[z * options->cell_count]);
    for (uint32_t i = 0; i < options->zone_count * options->cell_count; i++)
        nef_fsck_log_free(&logs[i]);
    for (uint32_t z = 0; z < options->zone_count; z++)
        if (locks[z] >= 0)
            (void)close(locks[z]);
    free(logs);
    free(locks);
    return f.could_not_run ? 2 : f.problems > 0 ? 1 : 0;
}
