/* Clients that have left, and the library didn't see it.
 *
 * libmicrohttpd watches its sockets edge-triggered and takes a read that didn't fill its buffer for "nothing more to
 * read" (0.9.75, recv_param_adapter; not over TLS). If a client's last bytes and its end arrive before the library
 * reads, the end is neither read nor told again: the connection, its request half there, stays until it times out.
 *
 * So each connection is watched here, too, for its client's end alone. One that is still there a moment after its
 * client has ended has the end told again: shutdown(SHUT_RD) wakes whoever watches the socket and changes nothing else,
 * as nothing more could come; what came before stays readable, and a client that closed only its own side still gets
 * its answer. That goes on until the connection is closed, for one being answered reads nothing now.
 *
 * A socket is told of only under the lock, and forgotten under it before it is closed: its number can't be another's. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/assert.h"
#include "http/http_internal.h"

#define GRACE_MS  250 /* most ends the library sees itself, at once */
#define AT_A_TIME 64  /* sockets for which the lock is held */

struct nef_http_left {
    pthread_mutex_t lock;
    pthread_t thread;
    int epoll, end; /* end: an eventfd, readable when the thread is to end */
};

static void *run(void *context)
{
    struct nef_http_left *l = context;
    struct epoll_event events[AT_A_TIME];
    bool over = false;

    (void)pthread_setname_np(pthread_self(), "http-left");
    while (!over) {
        int n = epoll_wait(l->epoll, events, 1, -1); /* somebody has left */

        NEF_ASSERT(n >= 0 || errno == EINTR);
        if (n == 1 && events[0].data.fd != l->end)
            (void)usleep(GRACE_MS * 1000);
        (void)pthread_mutex_lock(&l->lock);
        n = epoll_wait(l->epoll, events, AT_A_TIME, 0); /* each has its turn: the kernel puts those told of last */
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == l->end)
                over = true;
            else
                (void)shutdown(events[i].data.fd, SHUT_RD);
        }
        (void)pthread_mutex_unlock(&l->lock);
    }
    return NULL;
}

nef_err nef_http_left_start(struct nef_http_left **out_left)
{
    struct nef_http_left *l = calloc(1, sizeof(*l));
    struct epoll_event event = {.events = EPOLLIN};

    if (l == NULL)
        return NEF_E_NOMEM;
    (void)pthread_mutex_init(&l->lock, NULL);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->end = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    event.data.fd = l->end;
    if (l->epoll >= 0 && l->end >= 0 && epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->end, &event) == 0 &&
        pthread_create(&l->thread, NULL, run, l) == 0) {
        *out_left = l;
        return NEF_OK;
    }
    if (l->epoll >= 0)
        (void)close(l->epoll);
    if (l->end >= 0)
        (void)close(l->end);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
    return NEF_E_SYSTEM;
}

void nef_http_left_watch(struct nef_http_left *l, int fd)
{
    struct epoll_event event = {.events = EPOLLRDHUP, .data.fd = fd};

    (void)epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &event); /* not watched (no memory): its timeout is left */
}

void nef_http_left_forget(struct nef_http_left *l, int fd)
{
    (void)pthread_mutex_lock(&l->lock);
    (void)epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL);
    (void)pthread_mutex_unlock(&l->lock);
}

void nef_http_left_stop(struct nef_http_left *l)
{
    if (l == NULL)
        return;
    (void)eventfd_write(l->end, 1); /* can't fail: the count is 0 */
    (void)pthread_join(l->thread, NULL);
    (void)close(l->epoll);
    (void)close(l->end);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}
