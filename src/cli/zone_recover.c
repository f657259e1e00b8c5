/* `nef zone-recover --accept-loss`: with one zone and the witness gone for good, a person decides
 * that the other zone goes on alone (invariant R8). What only the lost zone had acknowledged is
 * lost with it; what it may still hold when it returns is kept in a file there and listed, not
 * merged.
 *
 * Two steps: etcd without quorum is made to go on with the survivor's member alone, whose word the
 * zone then needs for its compare-and-swap; then the zone is told. In a region of `nef up` the
 * supervisor does the first (`nef etcd-alone` in the member's place, etcd_alone.c); on three hosts it
 * is a step of docs/operations.md, which is printed if the zone can't get its new epoch. Killed at any
 * moment, the command is simply given again. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "cli/control.h"
#include "cli/up.h"
#include "io/clock.h"
#include "io/etcd.h"

#define HEALTHY_MS 120000u /* two lone runs of etcd, a hundred synced writes, an election */
#define RECOVER_MS 60000u
#define EPOCH_MS   60000u /* calls to an etcd under load time out a few times */

static bool etcd_healthy(const struct nef_region *r, uint32_t zone)
{
    const struct nef_place *p = &r->plan.places[zone];
    char url[NEF_URL_MAX];
    const char *endpoint = url;
    struct nef_etcd_options options = {.endpoints = &endpoint,
                                       .endpoint_count = 1,
                                       .ca = p->ca,
                                       .cert = p->cert,
                                       .key = p->key,
                                       .timeout_ms = 2000};
    struct nef_etcd *etcd;
    bool healthy;

    nef_plan_url(url, true, p->host, p->etcd_client);
    if (nef_etcd_new(&options, &etcd) != NEF_OK)
        return false;
    healthy = nef_etcd_health(etcd, 0) == NEF_OK;
    nef_etcd_free(etcd);
    return healthy;
}

/* The zone that goes on: the one that was named, or the only one that runs. */
static uint32_t survivor(const struct nef_region *r, const char *name,
                         const struct nef_region_view *view)
{
    uint32_t found = NEF_PLAN_ZONES, running = 0;

    for (uint32_t i = 0; i < NEF_PLAN_ZONES; i++) {
        if (name != NULL && strcmp(name, r->plan.places[i].name) == 0)
            return i;
        if (strcmp(view->state[NEF_PLAN_PLACES + i], "running") == 0) {
            running++;
            found = i;
        }
    }
    return name == NULL && running == 1 ? found : NEF_PLAN_ZONES;
}

static int recover_etcd(const struct nef_region *r, uint32_t zone)
{
    struct nef_region_error error = {{0}};
    uint64_t until = nef_now_ms() + HEALTHY_MS;
    const char *name = r->plan.places[zone].name;

    if (etcd_healthy(r, zone))
        return 0;
    printf("etcd has no quorum: its member of zone %s goes on alone, the others join it anew (if none has data, "
           "all three begin anew)\n", name);
    (void)fflush(stdout); /* progress only */
    if (nef_control_call(r, "etcd-force", name, NULL, 10000, &error) != NEF_OK)
        return nef_complain("zone-recover", "%s", error.text);
    while (!etcd_healthy(r, zone)) {
        if (nef_now_ms() >= until)
            return nef_complain("zone-recover",
                                "etcd of zone %s doesn't become healthy; see %s/logs/etcd-%s.log",
                                name, r->dir, name);
        (void)usleep(200000);
    }
    return 0;
}

/* The epoch that the zone has adopted, or 0. */
static uint64_t epoch_of(struct nef_caller *admin, uint32_t zone)
{
    json_t *root = NULL;
    uint64_t epoch = 0;
    long status;

    if (nef_caller_zone(admin, zone, "GET", "/status", NULL, 2000, &status, &root) == NEF_OK)
        epoch = (uint64_t)nef_json_number(root, "epoch", 0);
    json_decref(root);
    return epoch;
}

static void print_steps(void)
{
    (void)fputs("\n"
                "Has etcd no majority? Then, on the surviving zone's host, with etcd-client installed:\n"
                "\n"
                "    systemctl stop etcd\n"
                "    set -a; . /etc/default/etcd; set +a\n"
                "    runuser -u etcd -- nef etcd-alone --data-dir \"$ETCD_DATA_DIR\" --name \"$ETCD_NAME\" \\\n"
                "        --peer-url \"$ETCD_INITIAL_ADVERTISE_PEER_URLS\" --aside \"$ETCD_DATA_DIR.overridden-1\"\n"
                "    systemctl start etcd\n"
                "\n"
                "and give this command again. The lost members join anew, with empty directories:\n"
                "docs/operations.md, \"One zone and the witness are lost\".\n",
                stderr);
}

static int tell_zone(struct nef_caller *admin, uint32_t zone, bool by_hand)
{
    uint64_t before = epoch_of(admin, zone), until, now;
    json_t *root = NULL;
    long status;

    if (nef_caller_zone(admin, zone, "POST", "/recover", "{\"accept_loss\": true}", RECOVER_MS,
                        &status, &root) != NEF_OK)
        return nef_complain("zone-recover", "%s", admin->error);
    json_decref(root);
    until = nef_now_ms() + EPOCH_MS;
    while ((now = epoch_of(admin, zone)) <= before) {
        if (nef_now_ms() >= until) {
            (void)nef_complain("zone-recover", "the zone knows it, but gets no new epoch from etcd");
            if (by_hand)
                print_steps();
            return 1;
        }
        (void)usleep(100000);
    }
    printf("the zone goes on alone in epoch %llu; what a returning zone held beyond it is kept there and listed\n",
           (unsigned long long)now);
    return 0;
}

int nef_cmd_zone_recover(int argc, char **argv)
{
    const char *dir = NULL, *endpoint = NULL, *token_file = NULL, *ca = NULL;
    bool accept_loss = false;
    const struct nef_option options[] = {{.name = "dir", .text = &dir},
                                         {.name = "endpoint", .text = &endpoint},
                                         {.name = "token-file", .text = &token_file},
                                         {.name = "ca", .text = &ca},
                                         {.name = "accept-loss", .flag = &accept_loss},
                                         {.name = NULL}};
    struct nef_region_error error = {{0}};
    struct nef_region_view view;
    struct nef_region region;
    struct nef_caller admin;
    struct nef_words words;
    uint32_t zone;

    if (!nef_options(argc, argv, options, 0, 1, &words) ||
        !nef_caller_open("zone-recover", dir, endpoint, token_file, ca, &admin))
        return 2;
    if (!accept_loss) {
        (void)nef_complain(
            "zone-recover",
            "what only the lost zone had acknowledged is lost by this, and can't be had back; "
            "say --accept-loss if that is decided (nef help zone-recover)");
        return 2;
    }
    if (endpoint != NULL)
        return tell_zone(&admin, 0, true);
    if (nef_region_open(dir, &region, &error) != NEF_OK)
        return nef_complain("zone-recover", "%s", error.text);
    if (nef_region_view(&region, &view) != NEF_OK)
        return nef_complain("zone-recover", "%s/region.json can't be read", region.dir);
    zone = survivor(&region, words.count > 0 ? words.word[0] : NULL, &view);
    if (zone == NEF_PLAN_ZONES)
        return nef_complain("zone-recover",
                            "say which zone goes on: exactly one must run, or be named");
    if (recover_etcd(&region, zone) != 0)
        return 1;
    return tell_zone(&admin, zone, false);
}
