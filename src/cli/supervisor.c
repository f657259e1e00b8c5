/* The supervisor of a region on one machine: one thread, one poll.
 *
 * It owns no data and serves no request: killed at any moment, the region goes on, and the next
 * `nef up` starts a supervisor that adopts what runs. A lock on DIR/supervisor.lock keeps it the
 * only one. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "cli/children.h"
#include "cli/control.h"
#include "io/clock.h"

#define CLIENTS_MAX 16u /* operators and scripts, one command each */

enum waiting { WAIT_LINE, WAIT_PLACE, WAIT_DOWN };

struct client {
    int fd; /* -1: free */
    enum waiting waiting;
    uint32_t place;
    size_t bytes;
    char line[NEF_CONTROL_LINE_MAX];
};

struct supervisor {
    struct nef_children children;
    int lock, listener, signals;
    struct client clients[CLIENTS_MAX];
};

/* ---- clients ---- */

static void hang_up(struct client *client)
{
    (void)close(client->fd); /* the answer was sent, or nobody reads it */
    client->fd = -1;
}

static void answer(struct client *client, const char *error)
{
    json_t *root = error == NULL ? json_pack("{s:b, s:i}", "ok", 1, "pid", (int)getpid())
                                 : json_pack("{s:b, s:s}", "ok", 0, "error", error);
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;

    if (text != NULL) {
        /* A line of this length fits any socket's buffer; who doesn't read it doesn't hold us up.
         */
        (void)send(client->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)send(client->fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    free(text);
    json_decref(root);
    hang_up(client);
}

static uint32_t place_of(const struct nef_children *c, const char *name)
{
    uint32_t i = 0;

    while (i < NEF_PLAN_PLACES &&
           (name == NULL || strcmp(c->region.plan.places[i].name, name) != 0))
        i++;
    return i;
}

static void place_command(struct supervisor *s, struct client *client, const char *command,
                          uint32_t place, const char *how)
{
    struct nef_children *c = &s->children;

    if (strcmp(command, "zone-start") == 0) {
        nef_children_place_start(c, place);
        answer(client, NULL);
    } else if (strcmp(command, "etcd-force") == 0) {
        answer(client, nef_children_etcd_force(c, place));
    } else {
        enum nef_stop_how stop = NEF_STOP_CLEAN;

        if (how != NULL && strcmp(how, "kill") == 0)
            stop = NEF_STOP_KILL;
        else if (how != NULL && strcmp(how, "pause") == 0)
            stop = NEF_STOP_PAUSE;
        nef_children_place_stop(c, place, stop);
        client->waiting = WAIT_PLACE;
        client->place = place;
    }
}

static void execute(struct supervisor *s, struct client *client)
{
    json_t *root = json_loads(client->line, JSON_REJECT_DUPLICATES, NULL);
    const char *command = NULL, *zone = NULL, *how = NULL;
    uint32_t index;

    if (root == NULL || json_unpack(root, "{s:s, s?:s, s?:s}", "command", &command, "zone", &zone,
                                    "how", &how) != 0) {
        answer(client, "not a command");
        goto out;
    }
    nef_trace(NEF_TRACE_INFO, "command", "s:command", command, "s:zone", zone != NULL ? zone : "",
              "s:how", how != NULL ? how : "", NULL);
    if (strcmp(command, "ping") == 0) {
        answer(client, NULL);
    } else if (strcmp(command, "down") == 0) {
        nef_children_close(&s->children);
        client->waiting = WAIT_DOWN;
    } else if (s->children.closing) {
        answer(client, "the region is being taken down");
    } else if (strcmp(command, "retry") == 0) {
        nef_children_retry(&s->children);
        answer(client, NULL);
    } else if (strcmp(command, "zone-start") == 0 || strcmp(command, "zone-stop") == 0 ||
               strcmp(command, "etcd-force") == 0) {
        index = place_of(&s->children, zone);
        if (index == NEF_PLAN_PLACES)
            answer(client, "no such zone");
        else
            place_command(s, client, command, index, how);
    } else {
        answer(client, "unknown command");
    }
out:
    json_decref(root);
}

static void read_client(struct supervisor *s, struct client *client)
{
    ssize_t got = recv(client->fd, client->line + client->bytes,
                       sizeof(client->line) - 1 - client->bytes, MSG_DONTWAIT);
    char *end;

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        hang_up(client);
        return;
    }
    client->bytes += (size_t)got;
    client->line[client->bytes] = 0;
    end = strchr(client->line, '\n');
    if (end == NULL) {
        if (client->bytes == sizeof(client->line) - 1)
            answer(client, "the line is too long");
        return;
    }
    if (client->waiting != WAIT_LINE) {
        hang_up(client); /* one command a connection */
        return;
    }
    *end = 0;
    execute(s, client);
}

static void accept_client(struct supervisor *s)
{
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        if (s->clients[i].fd < 0) {
            s->clients[i] = (struct client){.fd = fd, .waiting = WAIT_LINE};
            return;
        }
    }
    (void)close(fd); /* too many at once: the caller sees a closed connection and says so */
}

static void answer_waiting(struct supervisor *s)
{
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        struct client *client = &s->clients[i];

        if (client->fd >= 0 && client->waiting == WAIT_PLACE &&
            nef_children_place_settled(&s->children, client->place))
            answer(client, NULL);
    }
}

/* ---- start and loop ---- */

static nef_err write_pid(const struct nef_region *r)
{
    char path[NEF_PATH_MAX];
    FILE *file;

    nef_region_path(r, path, "supervisor.pid");
    file = fopen(path, "we");
    if (file == NULL)
        return NEF_E_IO;
    (void)fprintf(file, "%d\n", (int)getpid()); /* fclose tells */
    return fclose(file) == 0 ? NEF_OK : NEF_E_IO;
}

static nef_err open_all(struct supervisor *s, const char *dir)
{
    struct nef_region_error error = {{0}};
    struct nef_region region;
    struct nef_programs programs;
    char path[NEF_PATH_MAX];
    bool locked = false;
    sigset_t set;
    nef_err err;

    err = nef_region_open(dir, &region, &error);
    if (err == NEF_OK)
        err = nef_programs_find(&programs, &error);
    if (err != NEF_OK)
        goto out;
    nef_region_path(&region, path, "supervisor.lock");
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    /* one that has just answered `down` needs a moment to go */
    for (int i = 0; i < 50 && s->lock >= 0; i++) {
        locked = flock(s->lock, LOCK_EX | LOCK_NB) == 0;
        if (locked || errno != EWOULDBLOCK)
            break;
        (void)usleep(100000);
    }
    if (!locked) {
        err = nef_region_fail(&error, NEF_E_BUSY, "%s: %s", path,
                              errno == EWOULDBLOCK ? "another supervisor runs" : strerror(errno));
        goto out;
    }
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGPIPE);
    (void)sigprocmask(SIG_BLOCK, &set, NULL); /* valid arguments: can't fail */
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    err = nef_children_init(&s->children, &region, &programs, &error);
    if (err != NEF_OK)
        goto out;
    s->listener = nef_control_socket(&region, true);
    if (s->listener < 0 || s->signals < 0 || write_pid(&region) != NEF_OK) {
        err = nef_region_fail(&error, NEF_E_SYSTEM, "%s: control socket or pid file: %s",
                              region.dir, strerror(errno));
    }
out:
    if (err != NEF_OK)
        nef_trace(NEF_TRACE_ERROR, "supervisor_failed", "s:why", error.text, "e:error", err, NULL);
    return err;
}

static void take_signals(struct supervisor *s)
{
    struct signalfd_siginfo info;

    while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        /* A hang-up is a terminal that went away, not a wish. */
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) {
            nef_trace(NEF_TRACE_INFO, "signal", "u:signal", (uint64_t)info.ssi_signo, NULL);
            nef_children_close(&s->children);
        }
    }
}

static void one_round(struct supervisor *s)
{
    struct pollfd fds[2 + CLIENTS_MAX + NEF_PROCESS_COUNT];
    uint32_t whose[NEF_PROCESS_COUNT], whom[CLIENTS_MAX], children, clients = 0;
    uint32_t wait = nef_children_tick(&s->children);

    answer_waiting(s);
    fds[0] = (struct pollfd){.fd = s->signals, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = s->listener, .events = POLLIN};
    children = nef_children_poll(&s->children, &fds[2], whose);
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        if (s->clients[i].fd < 0)
            continue;
        fds[2 + children + clients] = (struct pollfd){.fd = s->clients[i].fd, .events = POLLIN};
        whom[clients++] = i;
    }
    if (poll(fds, 2 + children + clients, (int)wait) <= 0)
        return;
    if (fds[0].revents != 0)
        take_signals(s);
    for (uint32_t i = 0; i < children; i++)
        if (fds[2 + i].revents != 0)
            nef_children_ended(&s->children, whose[i]);
    for (uint32_t i = 0; i < clients; i++)
        if (fds[2 + children + i].revents != 0)
            read_client(s, &s->clients[whom[i]]);
    if (fds[1].revents != 0)
        accept_client(s);
}

int nef_supervise(const char *dir, bool only_down)
{
    struct supervisor *s = calloc(1, sizeof(*s));
    char path[NEF_PATH_MAX];
    int status = 1;

    nef_trace_setup(2, "supervisor", only_down ? NEF_TRACE_WARN : NEF_TRACE_INFO);
    if (s == NULL)
        return 1;
    s->lock = s->listener = s->signals = -1;
    for (uint32_t i = 0; i < CLIENTS_MAX; i++)
        s->clients[i].fd = -1;
    /* etcd takes options from ETCD_*: one that is set in the shell of the operator must not reach a
     * member. */
    nef_environment_forget("ETCD_");
    (void)unsetenv("NOTIFY_SOCKET"); /* it names our manager, not that of our children */
    if (open_all(s, dir) != NEF_OK)
        goto out;
    nef_trace(NEF_TRACE_INFO, "supervisor_started", "u:pid", (uint64_t)getpid(), NULL);
    if (only_down)
        nef_children_close(&s->children);
    while (!s->children.closing || !nef_children_gone(&s->children))
        one_round(s);
    (void)nef_children_tick(&s->children); /* the last states to disk */
    nef_region_path(&s->children.region, path, "supervisor.sock");
    (void)unlink(path); /* a stale one is replaced by the next start */
    nef_region_path(&s->children.region, path, "supervisor.pid");
    (void)unlink(path); /* the same */
    for (uint32_t i = 0; i < CLIENTS_MAX; i++)
        if (s->clients[i].fd >= 0 && s->clients[i].waiting != WAIT_LINE)
            answer(&s->clients[i], NULL);
    nef_trace(NEF_TRACE_INFO, "supervisor_ended", NULL);
    status = 0;
out:
    /* the process ends here: descriptors and the lock go with it */
    free(s);
    return status;
}
