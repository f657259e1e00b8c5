/* Where a listener listens: a TCP address, or a file of the system (a Unix socket). And the files of its certificate.
 *
 * A Unix socket's file stays behind when a process is killed. It is replaced if nobody answers on it, and taken away
 * when the listener stops; one on which somebody listens is "in use". Group and owner may connect, others may not: who
 * may reach the directory decides the rest. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/trace.h"
#include "http/http_internal.h"

#define LISTEN_BACKLOG 1024
#define PEM_BYTES_MAX  (1u << 20)
#define SOCKET_MODE    0660

nef_err nef_http_start_failed(const char *what, const struct nef_http_options *options, const char *why, nef_err err)
{
    char text[NEF_HOST_PORT_TEXT];

    nef_host_port_text(&options->listen, text);
    nef_trace(NEF_TRACE_ERROR, "http_start_failed", "s:what", what, "s:address",
              options->unix_path != NULL ? options->unix_path : text, "s:why", why, NULL);
    return err;
}

static nef_err open_tcp(const struct nef_http_options *options, int *out_fd, uint16_t *out_port)
{
    const struct nef_host_port *listen_at = &options->listen;
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    struct sockaddr_storage bound;
    socklen_t bound_bytes = sizeof(bound);
    char port[8];
    int one = 1, fd = -1;
    nef_err err = NEF_OK;

    (void)snprintf(port, sizeof(port), "%u", listen_at->port);
    if (getaddrinfo(listen_at->host, port, &hints, &found) != 0)
        return nef_http_start_failed("resolve", options, "no such address", NEF_E_CONFIG);
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0) {
        err = nef_http_start_failed("socket", options, strerror(errno), NEF_E_SYSTEM);
        goto out;
    }
    if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, LISTEN_BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &bound_bytes) != 0) {
        err = nef_http_start_failed("bind", options, strerror(errno), NEF_E_CONFIG);
        goto out;
    }
    /* sin_port and sin6_port stand at the same place. */
    *out_port = (uint16_t)(((const uint8_t *)&bound)[2] << 8 | ((const uint8_t *)&bound)[3]);
    *out_fd = fd;
    fd = -1;
out:
    if (fd >= 0)
        (void)close(fd);
    freeaddrinfo(found);
    return err;
}

/* True if PATH was a socket's file that nobody listens on; it is gone then. */
static bool remove_stale(const struct sockaddr_un *address)
{
    struct stat st;
    bool refused;
    int fd;

    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    refused = connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 && errno == ECONNREFUSED;
    (void)close(fd);
    return refused && unlink(address->sun_path) == 0;
}

static nef_err open_unix(const struct nef_http_options *options, int *out_fd, uint16_t *out_port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct sockaddr *bind_to = (const struct sockaddr *)&address;
    int fd, bound;

    if (strlen(options->unix_path) >= sizeof(address.sun_path))
        return nef_http_start_failed("bind", options, "the path is longer than 107 bytes", NEF_E_CONFIG);
    (void)strcpy(address.sun_path, options->unix_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return nef_http_start_failed("socket", options, strerror(errno), NEF_E_SYSTEM);
    bound = bind(fd, bind_to, sizeof(address));
    if (bound != 0 && errno == EADDRINUSE) {
        if (remove_stale(&address))
            bound = bind(fd, bind_to, sizeof(address));
        else
            errno = EADDRINUSE;
    }
    /* The mode is set before anybody can connect. */
    if (bound != 0 || chmod(address.sun_path, SOCKET_MODE) != 0 || listen(fd, LISTEN_BACKLOG) != 0) {
        nef_err err = nef_http_start_failed("bind", options, strerror(errno), NEF_E_CONFIG);

        (void)close(fd);
        return err;
    }
    *out_port = 0;
    *out_fd = fd;
    return NEF_OK;
}

nef_err nef_http_open_socket(const struct nef_http_options *options, int *out_fd, uint16_t *out_port)
{
    return options->unix_path != NULL ? open_unix(options, out_fd, out_port) : open_tcp(options, out_fd, out_port);
}

bool nef_http_close_socket(int fd)
{
    int nothing = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool closed;

    if (nothing < 0)
        return false;
    closed = dup3(nothing, fd, O_CLOEXEC) >= 0;
    (void)close(nothing);
    return closed;
}

void nef_http_remove_socket(const char *path, int fd)
{
    struct sockaddr_un address;
    socklen_t bytes = sizeof(address);

    /* Only a socket that was bound to this path; the file is taken away while it still answers, so that one
     * that another process puts there is never taken for ours. */
    if (getsockname(fd, (struct sockaddr *)&address, &bytes) == 0 && address.sun_family == AF_UNIX)
        (void)unlink(path);
}

nef_err nef_http_read_pem(const char *path, char **out_text)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t bytes = 0;
    nef_err err = NEF_E_CONFIG;

    if (file == NULL)
        return NEF_E_CONFIG;
    text = malloc(PEM_BYTES_MAX + 1);
    if (text == NULL) {
        err = NEF_E_NOMEM;
        goto out;
    }
    bytes = fread(text, 1, PEM_BYTES_MAX + 1, file);
    if (ferror(file) || bytes == 0 || bytes > PEM_BYTES_MAX)
        goto out;
    text[bytes] = '\0';
    *out_text = text;
    text = NULL;
    err = NEF_OK;
out:
    if (text != NULL)
        explicit_bzero(text, bytes);
    free(text);
    (void)fclose(file);
    return err;
}
