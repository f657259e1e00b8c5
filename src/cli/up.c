/* `nef up`: a whole region on this machine. Makes it if DIR holds none, starts a supervisor if none
 * runs, and waits until the region serves. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/assert.h"
#include "cli/control.h"
#include "cli/state.h"
#include "cli/up.h"
#include "crypto/crypto.h"
#include "io/clock.h"

#define SERVE_MS 55000u /* `make run` promises 60 s */
#define START_MS 15000u /* of the supervisor */

#define FULL_BYTES       64e6                       /* less is left of a disk that is full */
#define FRESH_ETCD_BYTES (3 * 64e6)                 /* what etcd preallocates */
#define FRESH_CELL_BYTES (double)(256ull << 20)     /* a cell's first segment, with the preset of zone.yaml */

/* ---- ports ---- */

static bool port_free(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    bool good;

    if (fd < 0)
        return true; /* whoever binds it says what is wrong */
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one,
                     sizeof(one)); /* else TIME_WAIT counts as used */
    good = bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno != EADDRINUSE;
    (void)close(fd); /* nothing was sent */
    return good;
}

/* Ports of what survived an earlier supervisor are ours; all others must be free. */
static bool ports_free(const struct nef_region *r, const struct nef_programs *programs)
{
    struct nef_supervisor_state state;
    struct nef_region_error error = {{0}};
    char boot_id[40];

    if (nef_state_load(r, &state, &error) != NEF_OK) {
        (void)nef_complain("up", "%s", error.text);
        return false;
    }
    nef_proc_boot_id(boot_id);
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        struct nef_process p = nef_process_at(r, i);
        struct nef_process_port ports[NEF_PROCESS_PORTS_MAX];
        uint32_t count = nef_process_ports(r, i, ports);
        struct nef_seen seen;

        nef_state_survivor(r, programs, &state, boot_id, i, &seen);
        for (uint32_t k = 0; k < count && !seen.there; k++) {
            if (port_free(ports[k].port))
                continue;
            (void)nef_complain(
                "up",
                "port %u, where %s listens for %s, is in use by another program (see it "
                "with: ss -ltnp 'sport = :%u'); stop that, or make a region elsewhere: "
                "nef up --dir OTHER --port-base %u",
                ports[k].port, p.name, ports[k].use, ports[k].port, r->port_base + 1000);
            return false;
        }
    }
    return true;
}

/* ---- the supervisor ---- */

static _Noreturn void become_supervisor(const struct nef_region *r,
                                        const struct nef_programs *programs)
{
    char log[NEF_PATH_MAX];
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC), out;

    nef_region_path(r, log, "logs/supervisor.log");
    out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    (void)setsid(); /* a child of fork is no group leader: can't fail */
    if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 ||
        chdir("/") != 0)
        _exit(126);
    (void)close_range(3, ~0u, 0);
    (void)execl(programs->nef, programs->nef, "supervise", "--dir", r->dir, (char *)NULL);
    _exit(127);
}

static bool start_supervisor(const struct nef_region *r, const struct nef_programs *programs)
{
    struct nef_region_error error;
    uint64_t until = nef_now_ms() + START_MS;
    pid_t pid = fork();
    int status;

    if (pid == 0)
        become_supervisor(r, programs);
    if (pid < 0) {
        (void)nef_complain("up", "can't start the supervisor: %s", strerror(errno));
        return false;
    }
    while (nef_now_ms() < until) {
        if (nef_control_call(r, "ping", NULL, NULL, 5000, &error) == NEF_OK)
            return true;
        if (waitpid(pid, &status, WNOHANG) == pid)
            break;
        (void)usleep(20000);
    }
    (void)nef_complain("up",
                       "the supervisor doesn't start; the end of %s/logs/supervisor.log:", r->dir);
    {
        char path[NEF_PATH_MAX], line[1024];
        FILE *file;

        nef_region_path(r, path, "logs/supervisor.log");
        file = fopen(path, "re");
        if (file != NULL && fseek(file, -1024, SEEK_END) != 0)
            rewind(file); /* shorter than that */
        while (file != NULL && fgets(line, sizeof(line), file) != NULL)
            (void)fprintf(stderr, "    %s", line);
        if (file != NULL)
            (void)fclose(file); /* reading only */
    }
    return false;
}

/* ---- what a person is told ---- */

static void introduce(const struct nef_region *r)
{
    printf("region      %s, zones %s and %s, %u cell%s, in %s\n"
           "endpoint    http://%s:%u\n"
           "access key  %s\n"
           "secret key  %s\n"
           "try         curl --aws-sigv4 aws:amz:%s:s3 -H x-amz-content-sha256:UNSIGNED-PAYLOAD "
           "--user %s:%s "
           "http://%s:%u/\n"
           "All of it is on one machine, which is one failure domain: this shows how a region "
           "behaves, it "
           "doesn't protect data. Three hosts: nef help init\n",
           r->plan.region, r->plan.places[0].name, r->plan.places[1].name, r->plan.cells,
           r->plan.cells == 1 ? "" : "s", r->dir,
           r->plan.front.bind, r->plan.front.port, r->root.access_key, r->root.secret_key,
           r->plan.region, r->root.access_key, r->root.secret_key, r->plan.front.bind,
           r->plan.front.port);
}

/* What etcd and zones say of a full disk is lost in what else they say. */
static void tell_full(const struct nef_region *r)
{
    char left[32], needed[32];
    struct statvfs fs;

    if (statvfs(r->dir, &fs) != 0 || (double)fs.f_bavail * (double)fs.f_frsize >= FULL_BYTES)
        return;
    nef_human_bytes(left, (double)fs.f_bavail * (double)fs.f_frsize);
    nef_human_bytes(needed, FRESH_ETCD_BYTES + (double)NEF_PLAN_ZONES * r->plan.cells * FRESH_CELL_BYTES);
    (void)fprintf(stderr, "The disk of %s has %s left; a new region of %u cells takes about %s.\n", r->dir, left,
                  r->plan.cells, needed);
}

static void tell_stopped(const struct nef_region *r)
{
    struct nef_region_view view;

    if (nef_region_view(r, &view) != NEF_OK)
        return;
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++) { /* zones, then the witness */
        const char *state = view.state[NEF_PLAN_PLACES + i];

        if (strcmp(state, "stopped") == 0 || strcmp(state, "paused") == 0)
            printf("%s%s is %s; bring it back with: nef zone-start --dir %s %s\n", i < NEF_PLAN_ZONES ? "zone " : "witness ",
                   r->plan.places[i].name, state, r->dir, r->plan.places[i].name);
    }
}

/* ---- the command ---- */

static bool bring_up(struct nef_region *r, const struct nef_region_wish *wish, const char *dir,
                     bool *out_started)
{
    struct nef_region_error error = {{0}};
    struct nef_programs programs;
    bool made = false;

    if (nef_programs_find(&programs, &error) != NEF_OK ||
        nef_region_make(dir, wish, r, &made, &error) != NEF_OK) {
        (void)nef_complain("up", "%s", error.text);
        return false;
    }
    *out_started = false;
    if (nef_control_call(r, "ping", NULL, NULL, 5000, &error) != NEF_E_NOT_FOUND) {
        if (nef_control_call(r, "retry", NULL, NULL, 5000, &error) == NEF_OK)
            return true;
        (void)nef_complain("up", "%s", error.text);
        return false;
    }
    if (!ports_free(r, &programs) || !start_supervisor(r, &programs))
        return false;
    *out_started = true;
    return true;
}

static int watch_until_end(const struct nef_region *r, bool started)
{
    struct nef_region_error error = {{0}};

    printf(
        started
            ? "Ctrl-C stops the region.\n\n"
            : "The region was running already: Ctrl-C ends this view and leaves it running.\n\n");
    nef_up_watch(r);
    if (!started)
        return 0;
    printf("stopping the region\n");
    if (nef_control_call(r, "down", NULL, NULL, 90000, &error) != NEF_OK)
        return nef_complain("up", "%s", error.text);
    return 0;
}

int nef_cmd_up(int argc, char **argv)
{
    const char *dir = NULL;
    struct nef_region_wish wish = {.region = NULL};
    bool detach = false, prepare = false, started = false, made = false;
    const struct nef_option options[] = {
        {.name = "dir", .text = &dir},
        {.name = "region", .text = &wish.region},
        {.name = "port-base", .number = &wish.port_base, .min = 1024, .max = 65535 - NEF_PORT_SPAN},
        {.name = "cells", .number = &wish.cells, .min = 1, .max = NEF_CELL_MAX},
        {.name = "model", .text = &wish.model},
        {.name = "model-file", .text = &wish.model_file},
        {.name = "detach", .flag = &detach},
        {.name = "prepare-only", .flag = &prepare},
        {.name = NULL}};
    struct nef_region *r;
    struct nef_words words;
    struct nef_region_error why = {{0}};
    int status = 0;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if (dir == NULL) {
        (void)nef_complain("up", "say where the region is to live: --dir DIR");
        return 2;
    }
    if (wish.model_file != NULL && wish.model == NULL) {
        (void)nef_complain("up", "--model-file needs --model NAME, what clients are to call it");
        return 2;
    }
    r = calloc(1, sizeof(*r));
    if (r == NULL || nef_crypto_init() != NEF_OK)
        return nef_complain("up", "out of memory, or OpenSSL fails its self-test");
    (void)signal(SIGPIPE, SIG_IGN); /* can't fail */
    if (prepare) {
        if (nef_region_make(dir, &wish, r, &made, &why) != NEF_OK)
            status = nef_complain("up", "%s", why.text);
        else
            printf("the region's files are in %s, its configuration in %s/config; start it with: "
                   "nef up --dir "
                   "%s\n",
                   r->dir, r->dir, r->dir);
    } else if (!bring_up(r, &wish, dir, &started)) {
        status = 1;
    } else if (!nef_up_wait(r, SERVE_MS, &why)) {
        status =
            nef_complain("up",
                         "the region doesn't serve: %s\n"
                         "What started was left as it is; look with: nef status --dir %s; stop it "
                         "with: nef down --dir %s",
                         why.text, r->dir, r->dir);
        tell_full(r);
        tell_stopped(r);
    } else {
        introduce(r);
        tell_stopped(r);
        (void)fflush(stdout); /* a closed pipe isn't the region's failure */
        if (!detach)
            status = watch_until_end(r, started);
    }
    nef_wipe(r, sizeof(*r));
    free(r);
    return status;
}
