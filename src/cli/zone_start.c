/* `nef zone-start`: brings back what zone-stop took. It returns at once, or with --wait when the zone counts again and
 * serves: whoever takes the other zone away before that takes away the only one that has everything. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "cli/cli.h"
#include "cli/control.h"
#include "io/clock.h"

#define ASK_MS     200u
#define TELL_MS    5000u   /* between lines about what is left */
#define SILENT_MS  60000u  /* without a zone that answers, or without progress */

struct waiting {
    struct nef_caller admin;
    const char *zone;
    uint32_t index; /* its place */
    uint64_t told_ms, moved_ms;
    double left;
};

static const json_t *zone_of(const json_t *root, const char *name)
{
    json_t *item;
    size_t n;

    json_array_foreach(json_object_get(root, "zones"), n, item)
        if (strcmp(nef_json_text(item, "name", ""), name) == 0)
            return item;
    return NULL;
}

/* A zone that has just been counted still waits for its first lease. */
static bool serves(struct waiting *w)
{
    json_t *root = NULL;
    long status = 0;
    bool good = nef_caller_zone(&w->admin, w->index, "GET", "/health/ready", NULL, 1000, &status, &root) == NEF_OK;

    json_decref(root);
    return good;
}

/* The primary's word: only it knows who counts. */
static bool counts(struct waiting *w, uint64_t now)
{
    double left = 0;
    bool in_sync = false;

    for (uint32_t i = 0; i < w->admin.count && !in_sync; i++) {
        json_t *root = NULL;
        long status;

        if (nef_caller_zone(&w->admin, i, "GET", "/status", NULL, 1000, &status, &root) != NEF_OK)
            continue;
        if (strcmp(nef_json_text(root, "role", ""), "primary") == 0) {
            const json_t *zone = zone_of(root, w->zone);
            const char *state = nef_json_text(zone, "state", "");

            /* one that died a moment ago is in sync until the record says otherwise, but it isn't connected */
            in_sync = json_is_true(json_object_get(zone, "in_sync")) && strcmp(state, "unreachable") != 0;
            left = nef_json_number(json_object_get(zone, "catch_up"), "bytes_left", 0);
        }
        json_decref(root);
    }
    if (left != w->left)
        w->moved_ms = now;
    w->left = left;
    return in_sync;
}

static int wait_until_it_counts(const struct nef_region *r, uint32_t index)
{
    const char *zone = r->plan.places[index].name;
    struct waiting w = {.zone = zone, .index = index};

    nef_caller_of(r, &w.admin);
    w.told_ms = w.moved_ms = nef_now_ms();
    for (;;) {
        uint64_t now = nef_now_ms();

        if (counts(&w, now) && serves(&w)) {
            printf("%s is in sync\n", zone);
            return 0;
        }
        if (now - w.moved_ms >= SILENT_MS)
            return nef_complain("zone-start", "%s isn't in sync after a minute without progress; see: nef status "
                                              "--dir %s, and %s/logs/zone-%s.log", zone, r->dir, r->dir, zone);
        if (now - w.told_ms >= TELL_MS && w.left > 0) {
            char text[32];

            nef_human_bytes(text, w.left);
            printf("%s is catching up: %s left\n", zone, text);
            (void)fflush(stdout); /* progress only */
            w.told_ms = now;
        }
        (void)usleep(ASK_MS * 1000);
    }
}

int nef_cmd_zone_start(int argc, char **argv)
{
    const char *dir = NULL;
    bool wait = false;
    const struct nef_option options[] = {
        {.name = "dir", .text = &dir}, {.name = "wait", .flag = &wait}, {.name = NULL}};
    struct nef_region_error error = {{0}};
    struct nef_region region;
    struct nef_words words;
    uint32_t place = 0;

    if (!nef_options(argc, argv, options, 1, 1, &words))
        return 2;
    if (dir == NULL) {
        (void)nef_complain("zone-start", "say which region: --dir DIR");
        return 2;
    }
    if (nef_region_open(dir, &region, &error) != NEF_OK ||
        nef_control_call(&region, "zone-start", words.word[0], NULL, 10000, &error) != NEF_OK)
        return nef_complain("zone-start", "%s", error.text);
    while (place < NEF_PLAN_ZONES && strcmp(region.plan.places[place].name, words.word[0]) != 0)
        place++;
    if (place == NEF_PLAN_ZONES) { /* it holds nothing that it would have to fetch */
        printf("the witness is starting\n");
        return 0;
    }
    if (wait)
        return wait_until_it_counts(&region, place);
    printf("%s is starting; see: nef status --dir %s\n", words.word[0], region.dir);
    return 0;
}
