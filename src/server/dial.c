/* Links between zones: who connects, who is let in, and the life of a pair of connections.
 *
 * Of two zones the one whose name sorts first connects, twice (ctl, bulk), with one random nonce for the
 * pair. After the TLS handshake (both sides present certificates of the region's CA; the zone is the one
 * in the certificate, never one that was only claimed) each side sends a greeting of 64 bytes:
 *     "NefL" | u16 version 1 | u8 kind | u8 0 | region id 16 | u64 nonce | 32 zero
 * and the pair is up when both are there with the same nonce. A new pair from the same zone replaces the
 * old one (that process restarted before we noticed).
 *
 * Each link has one thread that owns its life: connect or wait, start the connection threads, join them when
 * the link broke, post PEER_DOWN, begin again. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "server/runtime_internal.h"

#define GREETING_BYTES    64u
#define LINK_VERSION      1u
#define CONNECT_MS        400
#define HANDSHAKE_MS      1000
#define RETRY_MS          100
#define GUEST_MS          2000u /* for all of a stranger's handshake and greeting: a drip doesn't keep it */
#define USER_TIMEOUT_MS   2000u /* TCP gives up an unanswered byte after this */

static void set_timeouts(int fd, int ms)
{
    struct timeval t = {ms / 1000, ms % 1000 * 1000};

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

static void set_options(int fd)
{
    int one = 1;
    unsigned user_timeout = USER_TIMEOUT_MS;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof(user_timeout));
}

static void close_ssl(SSL *ssl, int fd)
{
    if (ssl != NULL)
        SSL_free(ssl); /* no close-notify: the process on the other side may be stopped */
    if (fd >= 0)
        (void)close(fd);
    ERR_clear_error();
}

static bool greet_send(struct nef_runtime *rt, SSL *ssl, enum conn_kind kind, uint64_t nonce)
{
    uint8_t g[GREETING_BYTES] = {0};
    struct nef_writer w = nef_writer_of(g, sizeof(g));

    nef_write_copy(&w, "NefL", 4);
    nef_write_u16(&w, LINK_VERSION);
    nef_write_u8(&w, (uint8_t)kind);
    nef_write_u8(&w, 0);
    nef_write_copy(&w, rt->region.bytes, 16);
    nef_write_u64(&w, nonce);
    return SSL_write(ssl, g, sizeof(g)) == (int)sizeof(g);
}

static bool greet_receive(struct nef_runtime *rt, SSL *ssl, uint8_t *out_kind, uint64_t *out_nonce)
{
    uint8_t g[GREETING_BYTES];
    uint32_t have = 0;
    struct nef_reader r = nef_reader_of(g, sizeof(g));
    struct nef_id region;
    uint16_t version;

    while (have < sizeof(g)) {
        int n = SSL_read(ssl, g + have, (int)(sizeof(g) - have));

        if (n <= 0)
            return false;
        have += (uint32_t)n;
    }
    if (memcmp(nef_read_view(&r, 4), "NefL", 4) != 0)
        return false;
    version = nef_read_u16(&r);
    *out_kind = nef_read_u8(&r);
    (void)nef_read_u8(&r);
    nef_read_copy(&r, region.bytes, 16);
    *out_nonce = nef_read_u64(&r);
    if (version != LINK_VERSION) {
        nef_trace(NEF_TRACE_ERROR, "link_version", "u:theirs", (uint64_t)version, "u:ours",
                  (uint64_t)LINK_VERSION, NULL);
        return false;
    }
    return *out_kind < CONN_KINDS && nef_id_equal(&region, &rt->region);
}

/* Takes ssl and fd. A pair's second connection makes the link ready; its thread is woken. */
static void attach(struct link *link, enum conn_kind kind, uint64_t nonce, SSL *ssl, int fd)
{
    bool stale;
    int flags = fcntl(fd, F_GETFL);

    (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    set_timeouts(fd, 0);
    pthread_mutex_lock(&link->lock);
    stale = link->broken || link->have[kind] || (link->nonce != nonce && (link->have[0] || link->have[1]));
    if (stale) {
        struct timespec until;

        pthread_mutex_unlock(&link->lock);
        link_close(link, "a new connection came");
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += 2;
        pthread_mutex_lock(&link->lock);
        while ((link->broken || link->have[kind] ||
                (link->nonce != nonce && (link->have[0] || link->have[1]))) &&
               !atomic_load(&link->rt->stopping))
            if (pthread_cond_timedwait(&link->cond, &link->lock, &until) == ETIMEDOUT)
                break;
        stale = link->broken || link->have[kind] ||
                (link->nonce != nonce && (link->have[0] || link->have[1]));
    }
    if (stale || atomic_load(&link->rt->stopping)) {
        pthread_mutex_unlock(&link->lock);
        close_ssl(ssl, fd);
        return;
    }
    link->nonce = nonce;
    link->have[kind] = true;
    link->conns[kind].ssl = ssl;
    link->conns[kind].fd = fd;
    pthread_cond_broadcast(&link->cond);
    pthread_mutex_unlock(&link->lock);
}

/* ---- connecting ---- */

static int connect_to(const struct nef_host_port *address)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    char port[8];
    int fd = -1;

    (void)snprintf(port, sizeof(port), "%u", address->port);
    if (getaddrinfo(address->host, port, &hints, &list) != 0)
        return -1;
    for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
        struct pollfd p;
        int error = 0, flags;
        socklen_t size = sizeof(error);

        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            continue;
        p = (struct pollfd){.fd = fd, .events = POLLOUT};
        if ((connect(fd, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS) ||
            poll(&p, 1, CONNECT_MS) != 1 ||
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) {
            (void)close(fd);
            fd = -1;
            continue;
        }
        flags = fcntl(fd, F_GETFL);
        (void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
        set_options(fd);
        set_timeouts(fd, HANDSHAKE_MS);
    }
    freeaddrinfo(list);
    return fd;
}

static bool dial_one(struct link *link, enum conn_kind kind, uint64_t nonce)
{
    struct nef_runtime *rt = link->rt;
    char zone[NEF_ZONE_NAME_MAX + 1];
    int fd = connect_to(link->address);
    SSL *ssl = fd < 0 ? NULL : SSL_new(rt->tls_client);
    uint8_t their_kind;
    uint64_t their_nonce;

    if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1)
        goto fail;
    if (nef_tls_peer_zone(ssl, zone) != NEF_OK || strcmp(zone, link->zone) != 0) {
        nef_trace(NEF_TRACE_ERROR, "peer_is_another", "s:zone", link->zone, NULL);
        goto fail;
    }
    if (!greet_send(rt, ssl, kind, nonce) || !greet_receive(rt, ssl, &their_kind, &their_nonce) ||
        their_kind != (uint8_t)kind || their_nonce != nonce)
        goto fail;
    attach(link, kind, nonce, ssl, fd);
    return true;
fail:
    close_ssl(ssl, fd);
    return false;
}

/* ---- accepting ---- */

struct guest {
    struct nef_runtime *rt;
    int fd;
};

static bool guest_enter(struct nef_runtime *rt, int fd)
{
    bool entered = false;

    pthread_mutex_lock(&rt->guests_lock);
    for (uint32_t i = 0; i < GREETING_MAX && !entered; i++)
        if (rt->guests[i].fd == 0) {
            rt->guests[i] = (struct guest_slot){fd, now_ns() + GUEST_MS * 1000000ull};
            entered = true;
        }
    pthread_mutex_unlock(&rt->guests_lock);
    return entered;
}

/* Before FD is closed or handed on: then nobody shuts it down any more. */
static void guest_leave(struct nef_runtime *rt, int fd)
{
    pthread_mutex_lock(&rt->guests_lock);
    for (uint32_t i = 0; i < GREETING_MAX; i++)
        if (rt->guests[i].fd == fd)
            rt->guests[i].fd = 0;
    pthread_mutex_unlock(&rt->guests_lock);
}

static void guests_sweep(struct nef_runtime *rt)
{
    uint64_t now = now_ns();

    pthread_mutex_lock(&rt->guests_lock);
    for (uint32_t i = 0; i < GREETING_MAX; i++)
        if (rt->guests[i].fd != 0 && now > rt->guests[i].until_ns)
            (void)shutdown(rt->guests[i].fd, SHUT_RDWR); /* its thread sees it, and closes */
    pthread_mutex_unlock(&rt->guests_lock);
}

static void *greet_guest(void *argument)
{
    struct guest *guest = argument;
    struct nef_runtime *rt = guest->rt;
    char zone[NEF_ZONE_NAME_MAX + 1];
    uint8_t kind;
    uint64_t nonce;
    int fd = guest->fd;
    SSL *ssl = NULL;

    free(guest);
    if (!guest_enter(rt, fd)) /* its time can't be kept */
        goto fail;
    set_options(fd);
    set_timeouts(fd, HANDSHAKE_MS);
    ssl = SSL_new(rt->tls_server);
    if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || SSL_accept(ssl) != 1 ||
        nef_tls_peer_zone(ssl, zone) != NEF_OK || !greet_receive(rt, ssl, &kind, &nonce))
        goto fail;
    for (uint32_t i = 0; i < rt->link_count; i++)
        if (!rt->links[i].dials && strcmp(rt->links[i].zone, zone) == 0) {
            if (!greet_send(rt, ssl, (enum conn_kind)kind, nonce))
                goto fail;
            guest_leave(rt, fd);
            attach(&rt->links[i], (enum conn_kind)kind, nonce, ssl, fd);
            (void)atomic_fetch_sub(&rt->greeting, 1);
            return NULL;
        }
    nef_trace(NEF_TRACE_WARN, "peer_not_configured", "s:zone", zone, NULL);
fail:
    guest_leave(rt, fd);
    close_ssl(ssl, fd);
    (void)atomic_fetch_sub(&rt->greeting, 1);
    return NULL;
}

static void *accept_main(void *argument)
{
    struct nef_runtime *rt = argument;

    thread_name("accept");
    while (!atomic_load(&rt->stopping)) {
        struct pollfd p = {.fd = rt->listen_fd, .events = POLLIN};
        struct guest *guest;
        pthread_t thread;
        int fd, came = poll(&p, 1, 250);

        guests_sweep(rt);
        if (came <= 0)
            continue;
        fd = accept4(rt->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        guest = malloc(sizeof(*guest));
        if (guest == NULL || atomic_load(&rt->greeting) >= GREETING_MAX) {
            free(guest);
            (void)close(fd);
            continue;
        }
        guest->rt = rt;
        guest->fd = fd;
        (void)atomic_fetch_add(&rt->greeting, 1);
        if (pthread_create(&thread, NULL, greet_guest, guest) != 0) {
            (void)atomic_fetch_sub(&rt->greeting, 1);
            free(guest);
            (void)close(fd);
            continue;
        }
        (void)pthread_detach(thread); /* links_stop waits for `greeting` to reach zero */
    }
    return NULL;
}

/* ---- the life of a link ---- */

static void wait_a_while(struct link *link, int ms)
{
    struct timespec until;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ms * 1000000l;
    until.tv_sec += until.tv_nsec / 1000000000l;
    until.tv_nsec %= 1000000000l;
    (void)pthread_cond_timedwait(&link->cond, &link->lock, &until);
}

static void start_pair(struct link *link)
{
    struct item *item = item_new(NEF_EV_PEER_UP);

    /* under link->lock */
    link->generation++;
    link->users = 0;
    for (int k = 0; k < CONN_KINDS; k++) {
        link->conns[k].thread_started =
            pthread_create(&link->conns[k].thread, NULL, conn_main, &link->conns[k]) == 0;
        if (link->conns[k].thread_started)
            link->users++;
        else
            link->broken = true;
    }
    link->up = true;
    item->event.peer = link->peer;
    post(link->rt, item); /* before any message: the threads' first post comes after the lock */
    nef_trace(NEF_TRACE_INFO, "peer_up", "s:zone", link->zone, NULL);
}

static void end_pair(struct link *link)
{
    bool was_up = link->up;

    /* under link->lock; users is 0 */
    for (int k = 0; k < CONN_KINDS; k++) {
        struct conn *conn = &link->conns[k];

        if (conn->thread_started) {
            pthread_mutex_unlock(&link->lock);
            (void)pthread_join(conn->thread, NULL);
            pthread_mutex_lock(&link->lock);
        }
        conn->thread_started = false;
        close_ssl(conn->ssl, conn->fd);
        conn->ssl = NULL;
        conn->fd = -1;
        link->have[k] = false;
        while (link->first[k] != NULL) {
            struct frame *f = link->first[k];

            link->first[k] = f->next;
            frame_free(f);
        }
        link->last[k] = NULL;
        link->queued_bytes[k] = 0;
    }
    link->up = false;
    atomic_store(&link->clock_difference_ms, INT64_MIN);
    if (was_up) {
        struct item *item = item_new(NEF_EV_PEER_DOWN);

        item->event.peer = link->peer;
        post(link->rt, item);
        nef_trace(NEF_TRACE_WARN, "peer_down", "s:zone", link->zone, NULL);
    }
    link->broken = false;
    pthread_cond_broadcast(&link->cond);
}

static void *link_main(void *argument)
{
    struct link *link = argument;
    struct nef_runtime *rt = link->rt;
    uint64_t half_since = 0;

    thread_name("link-%.10s", link->zone);
    pthread_mutex_lock(&link->lock);
    while (!atomic_load(&rt->stopping)) {
        if (link->broken) {
            while (link->up && link->users > 0)
                pthread_cond_wait(&link->cond, &link->lock);
            end_pair(link);
            half_since = 0;
            continue;
        }
        if (link->up) {
            wait_a_while(link, 250);
            continue;
        }
        if (link->have[CONN_CTL] && link->have[CONN_BULK]) {
            start_pair(link);
            pthread_mutex_unlock(&link->lock);
            link_send_clock(link); /* a zone that starts waits for it */
            pthread_mutex_lock(&link->lock);
            continue;
        }
        if (link->have[CONN_CTL] || link->have[CONN_BULK]) {
            uint64_t now = now_ns();

            if (half_since == 0)
                half_since = now;
            if (now - half_since > 2 * HANDSHAKE_MS * 1000000ull)
                link->broken = true; /* its other half never came */
            else if (!link->dials)
                wait_a_while(link, RETRY_MS);
        }
        if (link->dials && !link->broken) {
            uint64_t nonce = nef_random_u64();
            bool good;

            pthread_mutex_unlock(&link->lock);
            good = dial_one(link, CONN_CTL, nonce) && dial_one(link, CONN_BULK, nonce);
            pthread_mutex_lock(&link->lock);
            if (!good) {
                if (link->have[CONN_CTL] || link->have[CONN_BULK])
                    link->broken = true;
                else
                    wait_a_while(link, RETRY_MS);
            }
        } else if (!link->have[CONN_CTL] && !link->have[CONN_BULK]) {
            wait_a_while(link, 250);
        }
    }
    link->broken = true;
    for (int k = 0; k < CONN_KINDS; k++)
        if (link->conns[k].fd >= 0)
            (void)shutdown(link->conns[k].fd, SHUT_RDWR);
    while (link->up && link->users > 0)
        pthread_cond_wait(&link->cond, &link->lock);
    end_pair(link);
    pthread_mutex_unlock(&link->lock);
    return NULL;
}

static nef_err listen_on(const struct nef_host_port *address, int *out_fd)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    char port[8], text[NEF_HOST_PORT_TEXT];
    int fd = -1, one = 1;

    (void)snprintf(port, sizeof(port), "%u", address->port);
    nef_host_port_text(address, text);
    if (getaddrinfo(address->host, port, &hints, &list) != 0) {
        nef_trace(NEF_TRACE_ERROR, "listen_address", "s:address", text, NULL);
        return NEF_E_CONFIG;
    }
    for (struct addrinfo *a = list; a != NULL; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 64) == 0)
            break;
        (void)close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    if (fd < 0) {
        nef_trace(NEF_TRACE_ERROR, "listen_failed", "s:address", text, "s:why", strerror(errno), NULL);
        return NEF_E_SYSTEM;
    }
    *out_fd = fd;
    return NEF_OK;
}

nef_err links_start(struct nef_runtime *rt)
{
    const struct nef_zone_config *config = rt->config;
    pthread_condattr_t monotonic;
    nef_err err;

    rt->listen_fd = -1;
    pthread_mutex_init(&rt->guests_lock, NULL);
    if (config->peer_count == 0)
        return NEF_OK;
    if (config->peer_count > NEF_PEER_MAX)
        return NEF_E_CONFIG;
    err = nef_tls_context(true, config->tls.ca, config->tls.cert, config->tls.key, &rt->tls_server);
    if (err == NEF_OK)
        err = nef_tls_context(false, config->tls.ca, config->tls.cert, config->tls.key,
                              &rt->tls_client);
    if (err == NEF_OK)
        err = listen_on(&config->listeners.peer.listen, &rt->listen_fd);
    if (err != NEF_OK)
        return err;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    rt->link_count = config->peer_count;
    for (uint32_t i = 0; i < rt->link_count; i++) {
        struct link *link = &rt->links[i];

        link->rt = rt;
        link->peer = i;
        link->zone = config->peers[i].zone;
        link->address = &config->peers[i].address;
        link->dials = strcmp(config->zone, link->zone) < 0;
        pthread_mutex_init(&link->lock, NULL);
        pthread_mutex_init(&link->fetch_lock, NULL);
        pthread_cond_init(&link->cond, &monotonic);
        atomic_store(&link->clock_difference_ms, INT64_MIN);
        for (int k = 0; k < CONN_KINDS; k++) {
            link->conns[k].link = link;
            link->conns[k].kind = (enum conn_kind)k;
            link->conns[k].fd = -1;
            link->conns[k].wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
            if (link->conns[k].wake_fd < 0)
                return NEF_E_SYSTEM;
        }
        link->dial_started = pthread_create(&link->dial_thread, NULL, link_main, link) == 0;
        if (!link->dial_started)
            return NEF_E_SYSTEM;
    }
    if (pthread_create(&rt->accept_thread, NULL, accept_main, rt) != 0)
        return NEF_E_SYSTEM;
    rt->accepting = true;
    return NEF_OK;
}

/* rt->stopping is set. */
void links_stop(struct nef_runtime *rt)
{
    struct timespec pause = {0, 10000000};

    if (rt->accepting)
        (void)pthread_join(rt->accept_thread, NULL);
    while (atomic_load(&rt->greeting) > 0) {
        guests_sweep(rt);
        (void)nanosleep(&pause, NULL);
    }
    for (uint32_t i = 0; i < rt->link_count; i++) {
        struct link *link = &rt->links[i];

        if (link->dial_started) {
            pthread_mutex_lock(&link->lock);
            pthread_cond_broadcast(&link->cond);
            pthread_mutex_unlock(&link->lock);
            (void)pthread_join(link->dial_thread, NULL);
        }
        for (int k = 0; k < CONN_KINDS; k++)
            if (link->conns[k].wake_fd >= 0)
                (void)close(link->conns[k].wake_fd);
    }
    if (rt->listen_fd >= 0)
        (void)close(rt->listen_fd);
    SSL_CTX_free(rt->tls_server);
    SSL_CTX_free(rt->tls_client);
}
