/* `nef fsck`: the command line of the offline check; the check itself is the store's. What to check
 * is read from the zones' own configuration: data directories, cells, segment size and the
 * customer's key. */
#include "store/fsck.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "cli/cli.h"
#include "crypto/crypto.h"

struct counts {
    uint64_t problems, notes;
};

static void report(void *context, const struct nef_fsck_finding *f)
{
    struct counts *counts = context;

    if (f->problem)
        counts->problems++;
    else
        counts->notes++;
    if (f->offset != UINT64_MAX)
        printf("%s: zone %s, cell %u, offset %" PRIu64 ": %s\n", f->problem ? "problem" : "note",
               f->zone, f->cell, f->offset, f->text);
    else
        printf("%s: zone %s, cell %u: %s\n", f->problem ? "problem" : "note", f->zone, f->cell,
               f->text);
}

static int check(const struct nef_zone_config *configs, uint32_t count, bool rebuild)
{
    struct nef_fsck_zone zones[NEF_PLAN_ZONES];
    struct nef_keys *keys = NULL;
    struct counts counts = {0, 0};
    struct nef_fsck_options options = {.zones = zones,
                                       .zone_count = count,
                                       .region = configs[0].region_id,
                                       .cell_count = configs[0].cells,
                                       .segment_bytes = configs[0].segment_bytes,
                                       .rebuild_index = rebuild,
                                       .report = report,
                                       .context = &counts};
    int status;

    for (uint32_t i = 0; i < count; i++) {
        zones[i] = (struct nef_fsck_zone){configs[i].zone, configs[i].data_dir};
        if (configs[i].cells != configs[0].cells ||
            configs[i].segment_bytes != configs[0].segment_bytes ||
            !nef_id_equal(&configs[i].region_id, &configs[0].region_id)) {
            (void)nef_complain("fsck",
                               "the zones' configurations differ in region, cells or segment size");
            return 2;
        }
    }
    if (nef_keys_open_file(configs[0].keys.customer_key_file, &keys) != NEF_OK) {
        (void)nef_complain(
            "fsck", "%s can't be read; without the customer's key the index can't be checked",
            configs[0].keys.customer_key_file);
        return 2;
    }
    options.keys = keys;
    nef_trace_setup(2, "fsck", NEF_TRACE_ERROR); /* what it finds is reported, not traced */
    status = nef_fsck(&options);
    nef_keys_close(keys);
    if (status == 2)
        (void)nef_complain("fsck", "it could not run to its end: see the lines that begin with \"problem\". What it "
                                   "checks must not run (nef down, or systemctl stop nef-zone)");
    else
        printf("%s: %" PRIu64 " problems, %" PRIu64 " notes\n", status == 0 ? "clean" : "NOT clean",
               counts.problems, counts.notes);
    return fflush(stdout) == 0 ? status : 2;
}

/* The zones' configuration files of a region of `nef up`. */
static bool files_of(const char *dir, char paths[NEF_PLAN_ZONES][NEF_PATH_MAX])
{
    struct nef_region *r = calloc(1, sizeof(*r));
    struct nef_region_error error = {{0}};
    bool good = r != NULL && nef_region_open(dir, r, &error) == NEF_OK;

    if (!good)
        (void)nef_complain("fsck", "%s", r != NULL ? error.text : "out of memory");
    for (uint32_t i = 0; i < NEF_PLAN_ZONES && good; i++)
        nef_region_path(r, paths[i], "config/zone-%s.yaml", r->plan.places[i].name);
    free(r);
    return good;
}

int nef_cmd_fsck(int argc, char **argv)
{
    const char *dir = NULL, *config = NULL;
    bool rebuild = false;
    const struct nef_option options[] = {{.name = "dir", .text = &dir},
                                         {.name = "config", .text = &config},
                                         {.name = "rebuild-index", .flag = &rebuild},
                                         {.name = NULL}};
    char paths[NEF_PLAN_ZONES][NEF_PATH_MAX];
    struct nef_zone_config configs[NEF_PLAN_ZONES];
    struct nef_config_error error = {{0}};
    uint32_t count = 1, loaded = 0;
    struct nef_words words;
    int status = 2;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if ((dir == NULL) == (config == NULL)) {
        (void)nef_complain(
            "fsck",
            "say what to check: --dir DIR (a region of nef up) or --config FILE (a zone's)");
        return 2;
    }
    if (nef_crypto_init() != NEF_OK) {
        (void)nef_complain("fsck", "OpenSSL fails its self-test");
        return 2;
    }
    if (dir != NULL) {
        if (!files_of(dir, paths))
            return 2;
        count = NEF_PLAN_ZONES;
    } else if (nef_text(paths[0], sizeof(paths[0]), "%s", config) != NEF_OK) {
        (void)nef_complain("fsck", "--config: the path is too long");
        return 2;
    }
    while (loaded < count &&
           nef_zone_config_load(paths[loaded], &configs[loaded], &error) == NEF_OK)
        loaded++;
    if (loaded == count)
        status = check(configs, count, rebuild);
    else
        (void)nef_complain("fsck", "%s", error.text);
    for (uint32_t i = 0; i < loaded; i++)
        nef_zone_config_free(&configs[i]);
    return status;
}
