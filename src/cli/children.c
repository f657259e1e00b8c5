/* Starting, adopting, stopping and restarting the processes of a region on one machine.
 *
 * A process is held by a pidfd, so a signal can never reach another process that got its id. Its
 * identity is on disk before the next thing happens, so that a supervisor that is killed leaves
 * nothing unknown (and for the moment between fork and write there is the search by command line,
 * see state.h). */
#include "cli/children.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "cli/etcd_member.h"
#include "crypto/crypto.h"
#include "io/clock.h"

/* A log larger than this becomes NAME.log.1. */
#define LOG_BYTES_MAX ((off_t)64 << 20)
#define LOG_LOOK_MS   5000u

uint32_t nef_children_etcd(uint32_t place)
{
    return place;
}

uint32_t nef_children_nef(uint32_t place)
{
    return NEF_PLAN_PLACES + place; /* zones, then the witness, as places are */
}

static const char *name_of(const struct nef_children *c, uint32_t index, char out[64])
{
    struct nef_process p = nef_process_at(&c->region, index);

    (void)snprintf(out, 64, "%s", p.name);
    return out;
}

static bool alive(const struct nef_child *child)
{
    return child->identity.pid > 0;
}

static void send_signal(const struct nef_children *c, uint32_t index, int number)
{
    const struct nef_child *child = &c->list[index];
    char name[64];

    if (!alive(child))
        return;
    /* ESRCH: it has ended, which poll tells next */
    if (syscall(SYS_pidfd_send_signal, child->pidfd, number, NULL, 0) != 0 && errno != ESRCH)
        nef_trace(NEF_TRACE_ERROR, "signal_failed", "s:process", name_of(c, index, name),
                  "i:signal", (int64_t)number, "i:errno", (int64_t)errno, NULL);
}

/* ---- adopting ---- */

static bool hold(struct nef_children *c, uint32_t index, const struct nef_identity *identity)
{
    struct nef_child *child = &c->list[index];
    int fd = (int)syscall(SYS_pidfd_open, identity->pid, 0);

    if (fd < 0)
        return false;
    child->pidfd = fd;
    child->identity = *identity;
    c->state.records[index].identity = *identity;
    c->changed = true;
    return true;
}

static void adopt(struct nef_children *c, uint32_t index)
{
    struct nef_child *child = &c->list[index];
    struct nef_seen seen, again;
    char name[64];

    nef_state_survivor(&c->region, &c->programs, &c->state, c->boot_id, index, &seen);
    if (!seen.there) {
        c->state.records[index].identity = (struct nef_identity){.pid = 0};
        return;
    }
    if (!hold(c, index, &seen.identity))
        return;
    /* Between the look and the pidfd the id may have got a new owner: look again, now that it is
     * held. */
    nef_proc_look(seen.identity.pid, &again);
    if (!again.there || again.identity.start_ticks != seen.identity.start_ticks) {
        (void)close(child->pidfd); /* nothing to lose */
        child->pidfd = -1;
        child->identity.pid = 0;
        c->state.records[index].identity.pid = 0;
        return;
    }
    child->own = false;
    child->started_at_ms = nef_now_ms();
    child->state = seen.state == 'T' ? NEF_CHILD_PAUSED : NEF_CHILD_RUNNING;
    nef_trace(NEF_TRACE_INFO, "adopted", "s:process", name_of(c, index, name), "u:pid",
              (uint64_t)seen.identity.pid, NULL);
}

nef_err nef_children_init(struct nef_children *c, const struct nef_region *region,
                          const struct nef_programs *programs, struct nef_region_error *error)
{
    nef_err err;

    *c = (struct nef_children){.changed = true};
    c->region = *region;
    c->programs = *programs;
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++)
        c->list[i].pidfd = -1;
    err = nef_state_load(region, &c->state, error);
    if (err != NEF_OK)
        return err;
    nef_proc_boot_id(c->boot_id);
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        adopt(c, i);
        /* Paused by zone-stop stays paused; paused by somebody else is his business, too. */
        if (c->state.records[i].wanted == NEF_WANTED_PAUSE && c->list[i].state != NEF_CHILD_PAUSED)
            c->state.records[i].wanted = alive(&c->list[i]) ? NEF_WANTED_RUN : NEF_WANTED_STOP;
    }
    (void)snprintf(c->state.boot_id, sizeof(c->state.boot_id), "%s", c->boot_id);
    return NEF_OK;
}

/* ---- starting ---- */

static bool etcd_has_data(const struct nef_children *c, uint32_t place)
{
    char path[NEF_PATH_MAX + 16];

    return nef_text(path, sizeof(path), "%s/member", c->region.plan.places[place].etcd_data) ==
               NEF_OK &&
           access(path, F_OK) == 0;
}

/* Data of a cluster that was overridden is put aside, not deleted: an operator may want to look. */
static nef_err put_aside(struct nef_children *c, uint32_t place)
{
    const char *data = c->region.plan.places[place].etcd_data;
    char aside[NEF_PATH_MAX + 32];

    if (nef_text(aside, sizeof(aside), "%s.overridden-%lld", data, (long long)time(NULL)) != NEF_OK)
        return NEF_E_LIMIT;
    if (rename(data, aside) != 0 && errno != ENOENT)
        return NEF_E_IO;
    c->state.etcd_void &= ~(1u << place);
    c->changed = true;
    return NEF_OK;
}

static nef_err etcd_start_of(struct nef_children *c, uint32_t place, enum nef_etcd_start *out_start,
                             unsigned *out_joined)
{
    char error[NEF_ETCD_MEMBER_ERROR], name[64];
    nef_err err;

    *out_start = NEF_ETCD_START_NORMAL;
    *out_joined = 0;
    if ((c->state.etcd_void & 1u << place) != 0) {
        err = put_aside(c, place);
        if (err != NEF_OK)
            return err;
    }
    if (!c->state.etcd_formed || etcd_has_data(c, place))
        return NEF_OK;
    err = nef_etcd_rejoin(&c->region.plan, place, out_joined, error);
    if (err != NEF_OK) {
        nef_trace(NEF_TRACE_ERROR, "etcd_rejoin_failed", "s:process", name_of(c, place, name),
                  "s:why", error, NULL);
        return err;
    }
    *out_start = NEF_ETCD_START_JOIN;
    return NEF_OK;
}

static void rotate(const char *path)
{
    char old[NEF_PATH_MAX + 4];
    struct stat st;

    if (stat(path, &st) == 0 && st.st_size > LOG_BYTES_MAX &&
        nef_text(old, sizeof(old), "%s.1", path) == NEF_OK)
        (void)rename(path, old); /* else it goes on growing, which is seen */
}

static bool copy_file(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t moved = -1;

    if (in >= 0 && out >= 0)
        do
            moved = copy_file_range(in, NULL, out, NULL, (size_t)LOG_BYTES_MAX, 0);
        while (moved > 0);
    if (in >= 0)
        (void)close(in); /* reading only */
    if (out >= 0 && close(out) != 0)
        moved = -1;
    return moved == 0;
}

/* Of a process that runs: it holds the file and appends to it, so the bytes move and the file stays. What it writes
 * between copy and cut is lost; a log that fills the region's disk would cost more. */
static void rotate_running(struct nef_children *c, uint64_t now)
{
    if (now - c->logs_seen_ms < LOG_LOOK_MS)
        return;
    c->logs_seen_ms = now;
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        char path[NEF_PATH_MAX], old[NEF_PATH_MAX + 4], name[64];
        struct stat st;
        bool kept;

        nef_region_path(&c->region, path, "logs/%s.log", name_of(c, i, name));
        if (!alive(&c->list[i]) || stat(path, &st) != 0 || st.st_size <= LOG_BYTES_MAX ||
            nef_text(old, sizeof(old), "%s.1", path) != NEF_OK)
            continue;
        kept = copy_file(path, old);
        if (!kept)
            (void)unlink(old); /* half of it is worse than none where space is short */
        if (truncate(path, 0) != 0)
            kept = false;
        nef_trace(kept ? NEF_TRACE_INFO : NEF_TRACE_WARN, kept ? "log_rotated" : "log_not_kept", "s:process", name,
                  NULL);
    }
}

static _Noreturn void become(const struct nef_region *r, char *const argv[], int log)
{
    struct sigaction act = {.sa_handler = SIG_DFL};
    struct rlimit files;
    sigset_t none;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    (void)setsid(); /* a child of fork is no group leader: can't fail */
    for (int number = 1; number < NSIG; number++)
        (void)sigaction(number, &act, NULL); /* those that can't be set keep their action */
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur =
            files.rlim_max; /* a connection each; the hard limit is the operator's word */
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0 || chdir(r->dir) != 0)
        _exit(126);
    (void)close_range(3, ~0u, 0);
    (void)execv(argv[0], argv);
    (void)dprintf(2, "can't run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static bool alone_due(const struct nef_children *c, const struct nef_process *p)
{
    return p->kind == NEF_PROCESS_ETCD && c->state.alone_since != 0 && c->state.alone_place == p->place;
}

static void make_data_directory(const struct nef_children *c, const struct nef_process *p)
{
    /* Wiped whole is a fault we survive: the process finds an empty directory, not none. If it
     * can't be made the process says so. */
    if (p->kind == NEF_PROCESS_ZONE)
        (void)mkdir(c->region.plan.places[p->place].data, 0700);
    else if (p->kind == NEF_PROCESS_ETCD)
        (void)mkdir(c->region.plan.places[p->place].etcd_data, 0700);
}

static nef_err launch(struct nef_children *c, uint32_t index)
{
    struct nef_process p = nef_process_at(&c->region, index);
    struct nef_child *child = &c->list[index];
    enum nef_etcd_start start = NEF_ETCD_START_NORMAL;
    struct nef_identity identity;
    struct nef_etcd_args argv;
    struct nef_seen seen;
    char path[NEF_PATH_MAX];
    unsigned joined = 0;
    pid_t pid;
    int log;
    bool alone = alone_due(c, &p);
    nef_err err = NEF_OK;

    if (alone) {
        err = nef_process_alone_args(&c->region, p.place, &c->programs, c->state.alone_since, &argv);
    } else {
        if (p.kind == NEF_PROCESS_ETCD)
            err = etcd_start_of(c, p.place, &start, &joined);
        if (err == NEF_OK)
            err = nef_process_args(&c->region, index, &c->programs, start, joined, &argv);
    }
    if (err != NEF_OK)
        return err;
    if (!alone)
        make_data_directory(c, &p);
    nef_region_path(&c->region, path, "logs/%s.log", p.name);
    rotate(path);
    log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        return NEF_E_IO;
    pid = fork();
    if (pid == 0)
        become(&c->region, argv.argv, log);
    (void)close(log); /* the child has its own */
    if (pid < 0)
        return NEF_E_SYSTEM;
    /* The start time is that of fork and stays through exec; the command line is the one being
     * executed. */
    nef_proc_look(pid, &seen);
    identity = (struct nef_identity){.pid = pid, .start_ticks = seen.identity.start_ticks};
    nef_command_digest(&argv, identity.command);
    if (!hold(c, index, &identity)) {
        (void)kill(pid, SIGKILL); /* ours, not yet reaped: the id can't be anybody else's */
        (void)waitpid(pid, NULL, 0);
        return NEF_E_SYSTEM;
    }
    child->own = true;
    child->alone = alone;
    child->state = NEF_CHILD_RUNNING;
    child->started_at_ms = nef_now_ms();
    nef_trace(NEF_TRACE_INFO, alone ? "started_alone" : "started", "s:process", p.name, "u:pid", (uint64_t)pid, NULL);
    return NEF_OK;
}

static void start_child(struct nef_children *c, uint32_t index)
{
    struct nef_child *child = &c->list[index];
    nef_err err = launch(c, index);
    char name[64];

    if (err != NEF_OK) {
        child->state = NEF_CHILD_CRASHED;
        child->restart_at_ms = nef_now_ms() + NEF_RESTART_MS;
        child->crashes++;
        nef_trace(NEF_TRACE_ERROR, "start_failed", "s:process", name_of(c, index, name), "e:error",
                  err, NULL);
    }
    c->changed = true;
}

/* ---- ending ---- */

static bool wanted_running(const struct nef_children *c, uint32_t index)
{
    return !c->closing && c->state.records[index].wanted == NEF_WANTED_RUN;
}

void nef_children_ended(struct nef_children *c, uint32_t index)
{
    struct nef_child *child = &c->list[index];
    struct nef_record *record = &c->state.records[index];
    struct nef_process p = nef_process_at(&c->region, index);
    bool at_once = false;
    int status = 0;
    char name[64];

    if (child->own && waitpid(child->identity.pid, &status, WNOHANG) == 0)
        return; /* not yet */
    nef_trace(child->state == NEF_CHILD_STOPPING ? NEF_TRACE_INFO : NEF_TRACE_WARN, "ended",
              "s:process", name_of(c, index, name), "u:pid", (uint64_t)child->identity.pid,
              "i:exit_status",
              (int64_t)(child->own && WIFEXITED(status) ? WEXITSTATUS(status) : -1), "i:signal",
              (int64_t)(child->own && WIFSIGNALED(status) ? WTERMSIG(status) : 0), NULL);
    (void)close(child->pidfd); /* nothing is written through it */
    child->pidfd = -1;
    child->identity = (struct nef_identity){.pid = 0};
    record->identity = child->identity;
    /* A member that ended so that it can be made a cluster, and that work's end. Of work that a former supervisor
     * started nobody knows how it ended: it is repeated, and then says that it was done. */
    if (child->alone ? child->own && WIFEXITED(status) && WEXITSTATUS(status) == 0 : alone_due(c, &p)) {
        at_once = true;
        if (child->alone)
            c->state.alone_since = 0;
    }
    child->alone = false;
    if (record->wanted == NEF_WANTED_PAUSE)
        record->wanted = NEF_WANTED_STOP; /* killed while it was paused */
    if (wanted_running(c, index)) {
        child->crashes++;
        child->restart_at_ms = at_once ? 0 : nef_now_ms() + NEF_RESTART_MS;
        child->state = NEF_CHILD_CRASHED;
    } else {
        child->state = NEF_CHILD_STOPPED;
    }
    c->changed = true;
}

/* May INDEX be told to end now? An etcd member goes after what needs it: its zone's last
 * compare-and-swap hands the region over. */
static bool may_end(const struct nef_children *c, uint32_t index)
{
    if (index >= NEF_PLAN_PLACES)
        return true;
    if (!c->closing)
        return !alive(&c->list[nef_children_nef(index)]);
    /* One member after the other, the witness's last: one that leads hands over to the next, which
     * takes seconds if that one is ending, too. */
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++)
        if ((i < index || i >= NEF_PLAN_PLACES) && alive(&c->list[i]))
            return false;
    return true;
}

static bool is_zone(uint32_t index)
{
    for (uint32_t place = 0; place + 1 < NEF_PLAN_PLACES; place++) /* the last place is the witness's */
        if (index == nef_children_nef(place))
            return true;
    return false;
}

static void tell_to_end(struct nef_children *c, uint32_t index, uint64_t now)
{
    struct nef_child *child = &c->list[index];

    child->state = NEF_CHILD_STOPPING;
    child->kill_at_ms = now + NEF_STOP_MS;
    /* A zone that stops alone hands over; when all stop, none takes over from another (server/zone.c). */
    send_signal(c, index, c->closing && is_zone(index) ? SIGINT : SIGTERM);
    send_signal(c, index, SIGCONT); /* a paused one has to run in order to end */
    c->changed = true;
}

/* ---- the round ---- */

static void note_etcd_formed(struct nef_children *c)
{
    if (c->state.etcd_formed)
        return;
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++)
        if (!etcd_has_data(c, i))
            return;
    c->state.etcd_formed = true;
    c->changed = true;
}

static void write_files(struct nef_children *c)
{
    struct nef_child_view views[NEF_PROCESS_COUNT];
    nef_err err = nef_state_save(&c->region, &c->state);
    json_t *root;

    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++)
        views[i] = (struct nef_child_view){c->list[i].identity.pid, c->list[i].state};
    root = nef_region_json(&c->region, views);
    if (err == NEF_OK)
        err = nef_region_write_json(&c->region, "region.json", root);
    json_decref(root);
    c->changed =
        err != NEF_OK; /* tried again in the next round: the disk may be full for a while */
    if (err != NEF_OK)
        nef_trace(NEF_TRACE_ERROR, "state_not_written", "e:error", err, NULL);
}

static void due(uint64_t at, uint64_t now, uint32_t *wait)
{
    uint64_t left = at > now ? at - now : 0;

    if (left < *wait)
        *wait = (uint32_t)left;
}

uint32_t nef_children_tick(struct nef_children *c)
{
    uint64_t now = nef_now_ms();
    uint32_t wait = 1000;
    char name[64];

    note_etcd_formed(c);
    rotate_running(c, now);
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        struct nef_child *child = &c->list[i];
        bool run = wanted_running(c, i);

        if (run && !alive(child)) {
            if (child->state != NEF_CHILD_CRASHED || child->restart_at_ms <= now)
                start_child(c, i);
        } else if (!run && !alive(child) && child->state != NEF_CHILD_STOPPED) {
            child->state = NEF_CHILD_STOPPED;
            c->changed = true;
        } else if (!run && alive(child) && child->state != NEF_CHILD_STOPPING &&
                   (c->closing || c->state.records[i].wanted == NEF_WANTED_STOP) && may_end(c, i)) {
            tell_to_end(c, i, now);
        } else if (child->state == NEF_CHILD_STOPPING && child->kill_at_ms != 0 &&
                   child->kill_at_ms <= now) {
            nef_trace(NEF_TRACE_WARN, "killed", "s:process", name_of(c, i, name), "s:why",
                      "didn't end in time", NULL);
            child->kill_at_ms = 0;
            send_signal(c, i, SIGKILL);
        }
        if (child->state == NEF_CHILD_CRASHED)
            due(child->restart_at_ms, now, &wait);
        if (child->state == NEF_CHILD_STOPPING && child->kill_at_ms != 0)
            due(child->kill_at_ms, now, &wait);
    }
    if (c->changed)
        write_files(c);
    return wait;
}

uint32_t nef_children_poll(const struct nef_children *c, struct pollfd *out,
                           uint32_t out_index[NEF_PROCESS_COUNT])
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        if (!alive(&c->list[i]))
            continue;
        out[count] = (struct pollfd){.fd = c->list[i].pidfd, .events = POLLIN};
        out_index[count++] = i;
    }
    return count;
}

/* ---- commands ---- */

static void stop_one(struct nef_children *c, uint32_t index, enum nef_stop_how how)
{
    struct nef_child *child = &c->list[index];
    struct nef_record *record = &c->state.records[index];

    c->changed = true;
    if (how == NEF_STOP_PAUSE && alive(child)) {
        record->wanted = NEF_WANTED_PAUSE;
        child->state = NEF_CHILD_PAUSED;
        send_signal(c, index, SIGSTOP);
        return;
    }
    record->wanted = NEF_WANTED_STOP;
    if (how == NEF_STOP_KILL && alive(child)) {
        child->state = NEF_CHILD_STOPPING;
        child->kill_at_ms = 0;
        send_signal(c, index, SIGKILL);
    }
}

void nef_children_place_stop(struct nef_children *c, uint32_t place, enum nef_stop_how how)
{
    NEF_ASSERT(place < NEF_PLAN_PLACES);
    stop_one(c, nef_children_nef(place), how);
    stop_one(c, nef_children_etcd(place), how);
}

static void start_one(struct nef_children *c, uint32_t index)
{
    struct nef_child *child = &c->list[index];

    c->state.records[index].wanted = NEF_WANTED_RUN;
    c->changed = true;
    child->crashes = 0;
    child->restart_at_ms = 0;
    if (alive(child) && child->state == NEF_CHILD_PAUSED) {
        child->state = NEF_CHILD_RUNNING;
        send_signal(c, index, SIGCONT);
    }
    /* One that is STOPPING ends first; wanted again, it is then started after the back-off. */
}

void nef_children_place_start(struct nef_children *c, uint32_t place)
{
    NEF_ASSERT(place < NEF_PLAN_PLACES);
    start_one(c, nef_children_etcd(place));
    start_one(c, nef_children_nef(place));
}

bool nef_children_place_settled(const struct nef_children *c, uint32_t place)
{
    const uint32_t both[] = {nef_children_nef(place), nef_children_etcd(place)};

    for (size_t i = 0; i < NEF_COUNT(both); i++) {
        const struct nef_child *child = &c->list[both[i]];

        if (child->state == NEF_CHILD_STOPPING ||
            (c->state.records[both[i]].wanted == NEF_WANTED_STOP && alive(child)))
            return false;
    }
    return true;
}

void nef_children_retry(struct nef_children *c)
{
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++)
        if (c->list[i].state == NEF_CHILD_CRASHED)
            c->list[i].restart_at_ms = 0;
}

void nef_children_close(struct nef_children *c)
{
    /* zone-stop holds until the region is taken down; the next `nef up` starts all of it */
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++)
        c->state.records[i].wanted = NEF_WANTED_RUN;
    c->closing = true;
    c->changed = true;
}

bool nef_children_gone(const struct nef_children *c)
{
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++)
        if (alive(&c->list[i]))
            return false;
    return true;
}

static bool none_has_data(const struct nef_children *c)
{
    char path[NEF_PATH_MAX + 48];

    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++)
        if (etcd_has_data(c, i))
            return false;
    /* A member that is being made a cluster of its own has put its data aside for a moment. */
    return c->state.alone_since == 0 ||
           nef_text(path, sizeof(path), "%s.overridden-%lld/member",
                    c->region.plan.places[c->state.alone_place].etcd_data, (long long)c->state.alone_since) != NEF_OK ||
           access(path, F_OK) != 0;
}

/* docs/operations.md, "All etcd members lost their data": there is nothing that a member could go on from, so all three
 * begin a new cluster, as at the region's first start. The zone that goes on writes its record into that. */
static void form_anew(struct nef_children *c)
{
    c->state.etcd_formed = false;
    c->state.etcd_void = 0;
    c->state.alone_since = 0;
    write_files(c);
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++) {
        uint32_t index = nef_children_etcd(i);

        c->state.records[index].wanted = NEF_WANTED_RUN;
        if (alive(&c->list[index]))
            send_signal(c, index, SIGKILL); /* its files were taken from under it */
        else
            c->list[index].restart_at_ms = 0;
    }
    c->changed = true;
}

const char *nef_children_etcd_force(struct nef_children *c, uint32_t place)
{
    const uint32_t index = nef_children_etcd(place);
    struct nef_child *child = &c->list[index];

    NEF_ASSERT(place < NEF_PLAN_PLACES);
    c->state.records[index].wanted = NEF_WANTED_RUN;
    if (!alive(child))
        child->restart_at_ms = 0;
    c->changed = true;
    if (none_has_data(c)) {
        /* The first zone begins a new region where etcd holds none and its own disk is empty (plan.c, `bootstrap`):
         * then what the other one holds would be given up. */
        if (place != 0 && alive(&c->list[NEF_PLAN_PLACES]))
            return "no etcd member has data; stop the first zone until the other one goes on (nef zone-stop)";
        form_anew(c);
        return NULL;
    }
    if (c->state.alone_since != 0 && c->state.alone_place == place)
        return NULL; /* under way */
    c->state.alone_since = (int64_t)time(NULL);
    c->state.alone_place = place;
    c->state.etcd_void = ((1u << NEF_PLAN_PLACES) - 1) & ~(1u << place);
    /* On disk before anything is killed: members with the old data must never meet again as a
     * quorum. */
    write_files(c);
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++)
        if (i != place)
            send_signal(c, i, SIGKILL);
    if (alive(child))
        tell_to_end(c, index, nef_now_ms()); /* in order: what it applied last reaches its disk */
    return NULL;
}
