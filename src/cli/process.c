/* The processes of a region on one machine: their names, ports and command lines. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "cli/region.h"

extern char **environ;

struct nef_process nef_process_at(const struct nef_region *r, uint32_t index)
{
    struct nef_process p = {.place = NEF_PLAN_PLACES};
    int written;

    NEF_ASSERT(index < NEF_PROCESS_COUNT);
    if (index < NEF_PLAN_PLACES) {
        p.kind = NEF_PROCESS_ETCD;
        p.place = index;
        written = snprintf(p.name, sizeof(p.name), "etcd-%s", r->plan.places[index].name);
    } else if (index < NEF_PLAN_PLACES + NEF_PLAN_ZONES) {
        p.kind = NEF_PROCESS_ZONE;
        p.place = index - NEF_PLAN_PLACES;
        written = snprintf(p.name, sizeof(p.name), "zone-%s", r->plan.places[p.place].name);
    } else if (index == NEF_PLAN_PLACES + NEF_PLAN_ZONES) {
        p.kind = NEF_PROCESS_WITNESS;
        p.place = NEF_PLAN_WITNESS;
        written = snprintf(p.name, sizeof(p.name), "witness");
    } else {
        p.kind = NEF_PROCESS_FRONT;
        written = snprintf(p.name, sizeof(p.name), "front");
    }
    NEF_ASSERT(written > 0 && (size_t)written < sizeof(p.name));
    return p;
}

uint32_t nef_process_ports(const struct nef_region *r, uint32_t index,
                           struct nef_process_port out[NEF_PROCESS_PORTS_MAX])
{
    struct nef_process process = nef_process_at(r, index);
    const struct nef_place *p =
        process.place < NEF_PLAN_PLACES ? &r->plan.places[process.place] : NULL;

    switch (process.kind) {
    case NEF_PROCESS_ETCD:
        out[0] = (struct nef_process_port){p->etcd_client, "clients"};
        out[1] = (struct nef_process_port){p->etcd_peer, "its peers"};
        return 2;
    case NEF_PROCESS_ZONE:
        out[0] = (struct nef_process_port){p->s3, "S3"};
        out[1] = (struct nef_process_port){p->peer, "its peer"};
        out[2] = (struct nef_process_port){p->admin, "health and administration"};
        out[3] = (struct nef_process_port){p->ai, "models"};
        out[4] = (struct nef_process_port){p->relay, "its peer's gateway"};
        return 5;
    case NEF_PROCESS_WITNESS:
        out[0] = (struct nef_process_port){p->admin, "health and administration"};
        return 1;
    case NEF_PROCESS_FRONT:
        out[0] = (struct nef_process_port){r->plan.front.port, "S3"};
        out[1] = (struct nef_process_port){r->plan.front.ai_port, "models"};
        return 2;
    }
    return 0;
}

static nef_err arguments(struct nef_etcd_args *out, uint32_t count, const char *const *list)
{
    size_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        int written = snprintf(out->text + at, sizeof(out->text) - at, "%s", list[i]);

        if (written < 0 || (size_t)written >= sizeof(out->text) - at)
            return NEF_E_LIMIT;
        out->argv[i] = out->text + at;
        at += (size_t)written + 1;
    }
    out->argv[count] = NULL;
    out->count = count;
    return NEF_OK;
}

nef_err nef_process_args(const struct nef_region *r, uint32_t index,
                         const struct nef_programs *programs, enum nef_etcd_start start,
                         unsigned joined, struct nef_etcd_args *out)
{
    struct nef_process p = nef_process_at(r, index);
    char config[NEF_PATH_MAX];

    switch (p.kind) {
    case NEF_PROCESS_ETCD:
        return nef_plan_etcd_args(&r->plan, p.place, programs->etcd, start, joined, out);
    case NEF_PROCESS_ZONE:
        nef_region_path(r, config, "config/%s.yaml", p.name);
        return arguments(out, 4, (const char *const[]){programs->nef, "zone", "--config", config});
    case NEF_PROCESS_WITNESS:
        nef_region_path(r, config, "config/%s.yaml", p.name);
        return arguments(out, 4,
                         (const char *const[]){programs->nef, "witness", "--config", config});
    case NEF_PROCESS_FRONT:
        nef_region_path(r, config, "config/haproxy.cfg");
        /* -db: in the foreground and without a master process, so that its id is the id we hold */
        return arguments(out, 4, (const char *const[]){programs->haproxy, "-db", "-f", config});
    }
    return NEF_E_INVALID;
}

nef_err nef_process_alone_args(const struct nef_region *r, uint32_t place, const struct nef_programs *programs,
                               int64_t since, struct nef_etcd_args *out)
{
    const struct nef_place *p = &r->plan.places[place];
    char peer[NEF_URL_MAX], aside[NEF_PATH_MAX];

    nef_plan_url(peer, true, p->host, p->etcd_peer);
    nef_region_path(r, aside, "etcd-%s.overridden-%lld", p->name, (long long)since);
    return arguments(out, 10,
                     (const char *const[]){programs->nef, "etcd-alone", "--name", p->name, "--peer-url", peer,
                                           "--aside", aside, "--data-dir", p->etcd_data});
}

void nef_environment_forget(const char *prefix)
{
    for (uint32_t i = 0; environ != NULL && environ[i] != NULL;) {
        char name[128];
        size_t bytes = strcspn(environ[i], "=");

        if (strncmp(environ[i], prefix, strlen(prefix)) == 0 && bytes < sizeof(name)) {
            memcpy(name, environ[i], bytes);
            name[bytes] = 0;
            if (unsetenv(name) == 0) {
                i = 0;
                continue;
            }
        }
        i++;
    }
}

bool nef_program_find(const char *name, char out[NEF_PATH_MAX])
{
    const char *path = getenv("PATH");
    char list[4096];
    char *save = NULL;

    /* Debian's haproxy is in /usr/sbin, which isn't in the PATH of a plain user */
    if (snprintf(list, sizeof(list), "%s:/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin",
                 path != NULL ? path : "") >= (int)sizeof(list))
        return false;
    for (char *dir = strtok_r(list, ":", &save); dir != NULL; dir = strtok_r(NULL, ":", &save)) {
        if (dir[0] == '/' && nef_text(out, NEF_PATH_MAX, "%s/%s", dir, name) == NEF_OK &&
            access(out, X_OK) == 0)
            return true;
    }
    return false;
}

nef_err nef_programs_find(struct nef_programs *out, struct nef_region_error *error)
{
    struct nef_programs p = {{0}};
    char etcdctl[NEF_PATH_MAX];
    ssize_t bytes = readlink("/proc/self/exe", p.nef, sizeof(p.nef) - 1);
    const char *missing = NULL;

    if (bytes <= 0 || (size_t)bytes >= sizeof(p.nef) - 1) {
        return nef_region_fail(error, NEF_E_SYSTEM, "can't tell where this program is: %s",
                               strerror(errno));
    }
    p.nef[bytes] = 0;
    /* built anew while it ran: the path is the new program, which is the one to start */
    if (strlen(p.nef) > 10 && strcmp(p.nef + strlen(p.nef) - 10, " (deleted)") == 0)
        p.nef[strlen(p.nef) - 10] = 0;
    if (!nef_program_find("etcd", p.etcd))
        missing = "etcd (Debian: apt-get install etcd-server)";
    else if (!nef_program_find("etcdctl", etcdctl)) /* too late to notice when a loss is accepted */
        missing = "etcdctl (Debian: apt-get install etcd-client)";
    else if (!nef_program_find("haproxy", p.haproxy))
        missing = "haproxy (Debian: apt-get install haproxy)";
    if (missing != NULL) {
        return nef_region_fail(error, NEF_E_NOT_FOUND, "a region needs %s", missing);
    }
    *out = p;
    return NEF_OK;
}
