/* The client's side of the control socket, and the address trick that both sides need. */
#include "cli/control.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include "io/clock.h"

#define SUPERVISOR_END_MS 5000 /* from its last answer to its end */

int nef_control_socket(const struct nef_region *r, bool listening)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int dir = open(r->dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -1, saved;

    if (dir < 0)
        return -1;
    /* sun_path has 108 bytes; through the descriptor's name in /proc every directory is short */
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/supervisor.sock",
                   dir);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (listening ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0)
        goto out;
    if (listening) {
        if (unlink(address.sun_path) != 0 && errno != ENOENT)
            goto fail;
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
            chmod(address.sun_path, 0600) != 0 || listen(fd, 16) != 0)
            goto fail;
    } else if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        goto fail;
    }
    goto out;
fail:
    saved = errno;
    (void)close(fd); /* nothing was written */
    errno = saved;
    fd = -1;
out:
    saved = errno;
    (void)close(dir); /* only a name */
    errno = saved;
    return fd;
}

static nef_err read_answer(int fd, char *line, size_t bytes, uint64_t until_ms)
{
    size_t at = 0;

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t now = nef_now_ms();
        ssize_t got;

        if (now >= until_ms)
            return NEF_E_TIMEOUT;
        if (poll(&p, 1, (int)(until_ms - now)) < 0 && errno != EINTR)
            return NEF_E_SYSTEM;
        if (p.revents == 0)
            continue;
        got = read(fd, line + at, bytes - 1 - at);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            return NEF_E_CLOSED;
        at += (size_t)got;
        line[at] = 0;
        if (memchr(line, '\n', at) != NULL)
            return NEF_OK;
        if (at == bytes - 1)
            return NEF_E_LIMIT;
    }
}

/* A pidfd of who listens, or -1. */
static int peer_of(int fd)
{
    struct ucred who;
    socklen_t bytes = sizeof(who);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) == 0 ? (int)syscall(SYS_pidfd_open, who.pid, 0) : -1;
}

nef_err nef_control_call(const struct nef_region *r, const char *command, const char *zone,
                         const char *how, uint32_t timeout_ms, struct nef_region_error *error)
{
    char line[NEF_CONTROL_LINE_MAX];
    json_t *request = NULL, *answer = NULL;
    char *text = NULL;
    const char *why = NULL;
    int fd, supervisor = -1, ok = 0;
    nef_err err;

    fd = nef_control_socket(r, false);
    if (fd < 0) {
        return nef_region_fail(error, NEF_E_NOT_FOUND,
                               "no supervisor runs for %s (%s); start it with: nef up "
                               "--dir %s",
                               r->dir, strerror(errno), r->dir);
    }
    request = json_pack("{s:s, s:s*, s:s*}", "command", command, "zone", zone, "how", how);
    text = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;
    if (strcmp(command, "down") == 0)
        supervisor = peer_of(fd);
    if (text == NULL) {
        err = NEF_E_NOMEM;
    } else if (dprintf(fd, "%s\n", text) < 0) {
        err = NEF_E_CLOSED;
    } else {
        err = read_answer(fd, line, sizeof(line), nef_now_ms() + timeout_ms);
    }
    if (err == NEF_OK) {
        answer = json_loads(line, 0, NULL);
        if (answer == NULL || json_unpack(answer, "{s:b, s?:s}", "ok", &ok, "error", &why) != 0)
            err = NEF_E_PROTOCOL;
        else if (!ok)
            err = NEF_E_DENIED;
    }
    if (err != NEF_OK)
        err = nef_region_fail(error, err, "the supervisor of %s: %s", r->dir,
                              why != NULL ? why : nef_err_text(err));
    if (supervisor >= 0) {
        struct pollfd ended = {.fd = supervisor, .events = POLLIN};

        /* It answers when all others are gone, and is gone itself a moment later. */
        if (err == NEF_OK)
            (void)poll(&ended, 1, SUPERVISOR_END_MS);
        (void)close(supervisor); /* nothing to lose */
    }
    json_decref(answer);
    json_decref(request);
    free(text);
    (void)close(fd); /* the answer was read, or never comes */
    return err;
}
