/* libcurl's multi interface on epoll; see loop.h.
 *
 * libcurl says by on_socket what it waits for and by on_timer when it wants to be called; we say what happened. Calls
 * are never added or removed within its callbacks (it forbids that): what ended is collected from its messages
 * afterwards, and a call that is cancelled inside another one's callback is taken out when the loop is back at its own
 * level. */
#include "gateway/loop.h"
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "io/clock.h"

#define EVENTS_MAX       256
#define READ_BYTES       8192L  /* of a call at once: thousands of them wait at the same time */
#define WRITE_BYTES      16384L /* libcurl's smallest; of bodies that don't fit into the first write */
#define CONNECTIONS_KEPT 512L

struct nef_loop {
    pthread_t thread;
    void (*tick)(void *context, uint64_t now_ns);
    void *context;
    CURLM *multi;
    int epoll, event;
    atomic_bool stopping;
    bool running; /* there is a thread */
    pthread_mutex_t lock;
    struct nef_post *first, **last; /* under lock */
    struct nef_loop_call *calls;    /* all */
    struct nef_loop_call *dead;     /* cancelled, to be taken out */
    uint64_t timer_ns;              /* libcurl's; 0: none */
    uint64_t tick_ns;
};

struct nef_loop_call {
    struct nef_loop *loop;
    struct nef_loop_call *previous, *next, *next_dead;
    CURL *curl;
    struct curl_slist *headers;
    char *body;
    size_t body_bytes;
    void (*head)(void *context, unsigned status, const char *content_type);
    bool (*data)(void *context, const void *bytes, size_t count);
    void (*end)(void *context, nef_err err);
    void *context;
    bool told, refused, cancelled, ended, paused;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode global;

static void init(void)
{
    global = curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- what libcurl asks for ---- */

static int on_socket(CURL *curl, curl_socket_t fd, int what, void *context, void *known)
{
    struct nef_loop *loop = context;
    struct epoll_event e = {.data.fd = fd};

    (void)curl;
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(loop->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    e.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (known == NULL) {
        if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &e) != 0 && errno == EEXIST)
            (void)epoll_ctl(loop->epoll, EPOLL_CTL_MOD, fd, &e);
        (void)curl_multi_assign(loop->multi, fd, loop);
    } else {
        (void)epoll_ctl(loop->epoll, EPOLL_CTL_MOD, fd, &e);
    }
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *context)
{
    struct nef_loop *loop = context;

    (void)multi;
    loop->timer_ns = ms < 0 ? 0 : nef_now_ns() + (uint64_t)ms * 1000000u + 1;
    return 0;
}

static size_t on_data(char *bytes, size_t size, size_t count, void *context)
{
    struct nef_loop_call *c = context;

    if (c->cancelled)
        return 0;
    if (!c->told) {
        const char *type = NULL;
        long status = 0;

        c->told = true;
        (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
        (void)curl_easy_getinfo(c->curl, CURLINFO_CONTENT_TYPE, &type);
        c->head(c->context, (unsigned)status, type != NULL ? type : "");
        if (c->cancelled)
            return 0;
    }
    if (!c->data(c->context, bytes, size * count)) {
        c->refused = true;
        return 0;
    }
    return size * count;
}

/* ---- calls ---- */

static void call_free(struct nef_loop_call *c)
{
    curl_slist_free_all(c->headers);
    if (c->curl != NULL)
        curl_easy_cleanup(c->curl);
    if (c->body != NULL)
        nef_wipe(c->body, c->body_bytes);
    free(c->body);
    free(c);
}

static nef_err add_header(struct nef_loop_call *c, const char *line)
{
    struct curl_slist *next = curl_slist_append(c->headers, line);

    if (next == NULL)
        return NEF_E_NOMEM;
    c->headers = next;
    return NEF_OK;
}

static nef_err add_headers(struct nef_loop_call *c, const struct nef_loop_call_options *o)
{
    nef_err err = add_header(c, "Expect:");

    if (err == NEF_OK && o->body != NULL)
        err = add_header(c, "Content-Type: application/json");
    if (err == NEF_OK && o->bearer != NULL) {
        char line[1024];
        int written = snprintf(line, sizeof(line), "Authorization: Bearer %s", o->bearer);

        err = written > 0 && (size_t)written < sizeof(line) ? add_header(c, line) : NEF_E_LIMIT;
        nef_wipe(line, sizeof(line));
    }
    for (size_t i = 0; o->headers != NULL && o->headers[i] != NULL && err == NEF_OK; i++)
        err = add_header(c, o->headers[i]);
    return err;
}

static CURLcode set_options(struct nef_loop_call *c, const struct nef_loop_call_options *o)
{
    CURLcode rc = CURLE_OK;

#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        if (rc == CURLE_OK)                                                                                            \
            rc = curl_easy_setopt(c->curl, option, value);                                                             \
    } while (0)
    SET(CURLOPT_URL, o->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PRIVATE, c);
    SET(CURLOPT_BUFFERSIZE, READ_BYTES);
    SET(CURLOPT_UPLOAD_BUFFERSIZE, WRITE_BYTES);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)o->connect_ms);
    SET(CURLOPT_TIMEOUT_MS, (long)o->total_ms);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_HTTPHEADER, c->headers);
    SET(CURLOPT_WRITEFUNCTION, on_data);
    SET(CURLOPT_WRITEDATA, c);
    if (c->body != NULL) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDS, c->body);
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body_bytes);
    }
    if (o->ca != NULL)
        SET(CURLOPT_CAINFO, o->ca);
    if (o->cert != NULL)
        SET(CURLOPT_SSLCERT, o->cert);
    if (o->key != NULL)
        SET(CURLOPT_SSLKEY, o->key);
    if (o->unix_socket != NULL)
        SET(CURLOPT_UNIX_SOCKET_PATH, o->unix_socket);
#undef SET
    return rc;
}

nef_err nef_loop_call(struct nef_loop *loop, const struct nef_loop_call_options *o, struct nef_loop_call **out_call)
{
    struct nef_loop_call *c = calloc(1, sizeof(*c));
    nef_err err;

    if (c == NULL)
        return NEF_E_NOMEM;
    c->loop = loop;
    c->head = o->head;
    c->data = o->data;
    c->end = o->end;
    c->context = o->context;
    c->curl = curl_easy_init();
    err = c->curl == NULL ? NEF_E_NOMEM : add_headers(c, o);
    if (err == NEF_OK && o->body != NULL) {
        c->body = malloc(o->body_bytes > 0 ? o->body_bytes : 1);
        c->body_bytes = o->body_bytes;
        if (c->body == NULL)
            err = NEF_E_NOMEM;
        else
            memcpy(c->body, o->body, o->body_bytes);
    }
    if (err == NEF_OK && set_options(c, o) != CURLE_OK)
        err = NEF_E_NOMEM;
    if (err == NEF_OK && curl_multi_add_handle(loop->multi, c->curl) != CURLM_OK)
        err = NEF_E_NOMEM;
    if (err != NEF_OK) {
        call_free(c);
        return err;
    }
    c->next = loop->calls;
    if (c->next != NULL)
        c->next->previous = c;
    loop->calls = c;
    *out_call = c;
    return NEF_OK;
}

static void take_out(struct nef_loop_call *c)
{
    struct nef_loop *loop = c->loop;

    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        loop->calls = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    (void)curl_multi_remove_handle(loop->multi, c->curl);
    call_free(c);
}

void nef_loop_cancel(struct nef_loop_call *c)
{
    if (c->cancelled || c->ended)
        return;
    c->cancelled = true;
    c->next_dead = c->loop->dead;
    c->loop->dead = c;
}

void nef_loop_pause(struct nef_loop_call *c, bool paused)
{
    if (c->paused == paused || c->cancelled || c->ended)
        return;
    c->paused = paused;
    (void)curl_easy_pause(c->curl, paused ? CURLPAUSE_RECV : CURLPAUSE_CONT);
}

static void bury(struct nef_loop *loop)
{
    while (loop->dead != NULL) {
        struct nef_loop_call *c = loop->dead;

        loop->dead = c->next_dead;
        take_out(c);
    }
}

static nef_err err_of(const struct nef_loop_call *c, CURLcode rc)
{
    if (rc == CURLE_OK)
        return NEF_OK;
    if (c->refused)
        return NEF_E_PROTOCOL;
    switch ((int)rc) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
        return NEF_E_PEER;
    case CURLE_OPERATION_TIMEDOUT:
        return NEF_E_TIMEOUT;
    case CURLE_OUT_OF_MEMORY:
        return NEF_E_NOMEM;
    default:
        return NEF_E_UNAVAILABLE;
    }
}

static void collect(struct nef_loop *loop)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(loop->multi, &left)) != NULL) {
        struct nef_loop_call *c = NULL;
        CURLcode rc = message->data.result;

        if (message->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&c);
        if (c->cancelled)
            continue;
        if (rc == CURLE_OK && !c->told) { /* an answer without a body */
            long status = 0;

            c->told = true;
            (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
            c->head(c->context, (unsigned)status, "");
        }
        c->ended = true;
        if (!c->cancelled)
            c->end(c->context, err_of(c, rc));
        take_out(c);
    }
    bury(loop);
}

/* ---- the thread ---- */

bool nef_loop_post(struct nef_loop *loop, struct nef_post *post)
{
    const uint64_t one = 1;

    if (atomic_exchange(&post->queued, true))
        return false;
    (void)pthread_mutex_lock(&loop->lock);
    post->next = NULL;
    *loop->last = post;
    loop->last = &post->next;
    (void)pthread_mutex_unlock(&loop->lock);
    if (write(loop->event, &one, sizeof(one)) < 0)
        return true; /* the counter is full: it wakes anyway */
    return true;
}

static void run_posts(struct nef_loop *loop)
{
    struct nef_post *list;

    (void)pthread_mutex_lock(&loop->lock);
    list = loop->first;
    loop->first = NULL;
    loop->last = &loop->first;
    (void)pthread_mutex_unlock(&loop->lock);
    while (list != NULL) {
        struct nef_post *post = list;

        list = post->next;
        atomic_store(&post->queued, false); /* from here on it may be posted anew, and freed by what runs now */
        post->run(post);
    }
}

static int wait_ms(const struct nef_loop *loop, uint64_t now)
{
    uint64_t until = loop->tick_ns;

    if (loop->timer_ns != 0 && loop->timer_ns < until)
        until = loop->timer_ns;
    return until <= now ? 0 : (int)((until - now + 999999) / 1000000);
}

static void *loop_main(void *context)
{
    struct nef_loop *loop = context;
    struct epoll_event events[EVENTS_MAX];
    int running;

    while (!atomic_load(&loop->stopping)) {
        int count = epoll_wait(loop->epoll, events, EVENTS_MAX, wait_ms(loop, nef_now_ns()));
        uint64_t now;

        for (int i = 0; i < count; i++) {
            int what = (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) ? CURL_CSELECT_IN : 0) |
                       (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                       (events[i].events & EPOLLERR ? CURL_CSELECT_ERR : 0);
            uint64_t counter;

            if (events[i].data.fd == loop->event) {
                if (read(loop->event, &counter, sizeof(counter)) < 0)
                    continue;
            } else {
                (void)curl_multi_socket_action(loop->multi, events[i].data.fd, what, &running);
            }
        }
        now = nef_now_ns();
        if (loop->timer_ns != 0 && loop->timer_ns <= now) {
            loop->timer_ns = 0;
            (void)curl_multi_socket_action(loop->multi, CURL_SOCKET_TIMEOUT, 0, &running);
        }
        collect(loop);
        run_posts(loop);
        bury(loop);
        now = nef_now_ns(); /* what was begun just now began before the tick */
        if (loop->tick_ns <= now) {
            loop->tick(loop->context, now);
            loop->tick_ns = now + NEF_LOOP_TICK_MS * 1000000ull;
            bury(loop);
        }
    }
    run_posts(loop);
    bury(loop);
    return NULL;
}

static void release(struct nef_loop *loop)
{
    while (loop->calls != NULL)
        take_out(loop->calls);
    if (loop->multi != NULL)
        (void)curl_multi_cleanup(loop->multi);
    if (loop->epoll >= 0)
        (void)close(loop->epoll);
    if (loop->event >= 0)
        (void)close(loop->event);
    (void)pthread_mutex_destroy(&loop->lock);
    free(loop);
}

nef_err nef_loop_run(struct nef_loop *loop)
{
    sigset_t all, before;
    int rc;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&loop->thread, NULL, loop_main, loop);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    loop->running = rc == 0;
    return rc == 0 ? NEF_OK : NEF_E_SYSTEM;
}

nef_err nef_loop_open(void (*tick)(void *context, uint64_t now_ns), void *context, struct nef_loop **out_loop)
{
    struct nef_loop *loop = calloc(1, sizeof(*loop));
    struct epoll_event e = {.events = EPOLLIN};
    nef_err err = NEF_E_SYSTEM;

    if (loop == NULL)
        return NEF_E_NOMEM;
    (void)pthread_once(&once, init);
    loop->tick = tick;
    loop->context = context;
    loop->last = &loop->first;
    (void)pthread_mutex_init(&loop->lock, NULL);
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->multi = global == CURLE_OK ? curl_multi_init() : NULL;
    e.data.fd = loop->event;
    if (loop->epoll < 0 || loop->event < 0 || loop->multi == NULL ||
        epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->event, &e) != 0)
        goto fail;
    if (curl_multi_setopt(loop->multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
        curl_multi_setopt(loop->multi, CURLMOPT_SOCKETDATA, loop) != CURLM_OK ||
        curl_multi_setopt(loop->multi, CURLMOPT_TIMERFUNCTION, on_timer) != CURLM_OK ||
        curl_multi_setopt(loop->multi, CURLMOPT_TIMERDATA, loop) != CURLM_OK ||
        curl_multi_setopt(loop->multi, CURLMOPT_MAXCONNECTS, CONNECTIONS_KEPT) != CURLM_OK)
        goto fail;
    *out_loop = loop;
    return NEF_OK;
fail:
    release(loop);
    return err;
}

void nef_loop_stop(struct nef_loop *loop)
{
    const uint64_t one = 1;

    if (loop == NULL)
        return;
    atomic_store(&loop->stopping, true);
    if (write(loop->event, &one, sizeof(one)) < 0)
        nef_trace(NEF_TRACE_DEBUG, "loop_wake", NULL);
    if (loop->running)
        (void)pthread_join(loop->thread, NULL);
    else
        run_posts(loop);
    release(loop);
}
