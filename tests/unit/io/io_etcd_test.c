/* Unit tests of src/io/etcd.c against real etcd processes: one member, then three, on free loopback
 * ports, with mutual TLS made by src/io/tls_make.c, in a directory of the test's own. Members are
 * stopped by their pid and die with the test (PR_SET_PDEATHSIG). What etcd can't be brought to
 * answer is played by a listener that accepts and says nothing, or says what the test wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "io/clock.h"
#include "io/etcd.h"
#include "io/tls.h"
#include "temp_dir.h"

#define MEMBERS 3

struct cluster {
    int count;
    int client_port[MEMBERS], peer_port[MEMBERS];
    char url[MEMBERS][64];
    pid_t pid[MEMBERS];
};

static struct temp_dir dir;
static struct cluster single, triple;

/* A free port below those that the system gives to anybody's outgoing connections, and each once. Another process could
 * take it before etcd does; then etcd fails and the test says so. */
static int free_port(void)
{
    static int next;

    for (;;) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port;
        bool free;

        if (next == 0)
            next = 10000 + getpid() % 1000 * 20;
        assert_true(fd >= 0 && next < 32000);
        port = next++;
        address.sin_port = htons((uint16_t)port);
        free = bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
        (void)close(fd);
        if (free)
            return port;
    }
}

static void option(char *argv[], int *argc, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    assert_true(vasprintf(&argv[*argc], format, args) > 0);
    va_end(args);
    ++*argc;
}

static void start_member(struct cluster *c, int i, const char *name)
{
    char *argv[32] = {NULL};
    char peers[512] = "";
    int argc = 0;

    for (int j = 0; j < c->count; j++) {
        char one[128];

        (void)snprintf(one, sizeof(one), "%s%s%d=https://127.0.0.1:%d", j > 0 ? "," : "", name, j,
                       c->peer_port[j]);
        (void)strcat(peers, one);
    }
    option(argv, &argc, "etcd");
    option(argv, &argc, "--name=%s%d", name, i);
    option(argv, &argc, "--data-dir=%s/%s%d.data", dir.path, name, i);
    option(argv, &argc, "--listen-client-urls=%s", c->url[i]);
    option(argv, &argc, "--advertise-client-urls=%s", c->url[i]);
    option(argv, &argc, "--listen-peer-urls=https://127.0.0.1:%d", c->peer_port[i]);
    option(argv, &argc, "--initial-advertise-peer-urls=https://127.0.0.1:%d", c->peer_port[i]);
    option(argv, &argc, "--initial-cluster=%s", peers);
    option(argv, &argc, "--client-cert-auth");
    option(argv, &argc, "--trusted-ca-file=%s/ca.pem", dir.path);
    option(argv, &argc, "--cert-file=%s/etcd.pem", dir.path);
    option(argv, &argc, "--key-file=%s/etcd.key", dir.path);
    option(argv, &argc, "--peer-client-cert-auth");
    option(argv, &argc, "--peer-trusted-ca-file=%s/ca.pem", dir.path);
    option(argv, &argc, "--peer-cert-file=%s/etcd.pem", dir.path);
    option(argv, &argc, "--peer-key-file=%s/etcd.key", dir.path);
    option(argv, &argc, "--heartbeat-interval=100");
    option(argv, &argc, "--election-timeout=1000");
    c->pid[i] = fork();
    assert_true(c->pid[i] >= 0);
    if (c->pid[i] == 0) {
        int log = open(in_dir(&dir, "etcd.log"), O_WRONLY | O_CREAT | O_APPEND, 0600);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(log, 1);
        (void)dup2(log, 2);
        (void)execvp("etcd", argv);
        _exit(127);
    }
    for (int j = 0; j < argc; j++)
        free(argv[j]);
}

static void start_cluster(struct cluster *c, int count, const char *name)
{
    c->count = count;
    for (int i = 0; i < count; i++) {
        c->client_port[i] = free_port();
        c->peer_port[i] = free_port();
        (void)snprintf(c->url[i], sizeof(c->url[i]), "https://127.0.0.1:%d", c->client_port[i]);
    }
    for (int i = 0; i < count; i++)
        start_member(c, i, name);
}

static void stop_member(struct cluster *c, int i)
{
    if (c->pid[i] <= 0)
        return;
    (void)kill(c->pid[i], SIGKILL);
    (void)waitpid(c->pid[i], NULL, 0);
    c->pid[i] = 0;
}

static struct nef_etcd *client_of(const char *const *urls, uint32_t count, uint32_t timeout_ms)
{
    struct nef_etcd_options o = {.endpoints = urls,
                                 .endpoint_count = count,
                                 .ca = in_dir(&dir, "ca.pem"),
                                 .cert = in_dir(&dir, "client.pem"),
                                 .key = in_dir(&dir, "client.key"),
                                 .timeout_ms = timeout_ms};
    struct nef_etcd *e = NULL;

    assert_int_equal(nef_etcd_new(&o, &e), NEF_OK);
    return e;
}

static struct nef_etcd *client(const struct cluster *c, uint32_t timeout_ms)
{
    const char *urls[MEMBERS];

    for (int i = 0; i < c->count; i++)
        urls[i] = c->url[i];
    return client_of(urls, (uint32_t)c->count, timeout_ms);
}

/* Wait until member I can do a linearizable read. */
static void await_health(const struct cluster *c, int i)
{
    struct nef_etcd *e = client(c, 1000);
    uint64_t until = nef_now_ns() + 30ull * 1000000000;

    while (nef_etcd_health(e, (uint32_t)i) != NEF_OK) {
        int status;

        if (c->pid[i] > 0 && waitpid(c->pid[i], &status, WNOHANG) == c->pid[i])
            fail_msg("etcd ended with status %d: see %s/etcd.log", status, dir.path);
        if (nef_now_ns() > until)
            fail_msg("etcd doesn't become healthy: %s", nef_etcd_error(e));
        (void)usleep(50000);
    }
    nef_etcd_free(e);
}

static int set_up(void **state)
{
    struct nef_tls_cert server = {.server = true, .client = true}, user = {.client = true};

    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    if (temp_dir_make(&dir) != 0 ||
        nef_tls_make_ca("test", in_dir(&dir, "ca.pem"), in_dir(&dir, "ca.key")) != NEF_OK ||
        nef_tls_make_cert(in_dir(&dir, "ca.pem"), in_dir(&dir, "ca.key"), &server,
                          in_dir(&dir, "etcd.pem"), in_dir(&dir, "etcd.key")) != NEF_OK ||
        nef_tls_make_cert(in_dir(&dir, "ca.pem"), in_dir(&dir, "ca.key"), &user,
                          in_dir(&dir, "client.pem"), in_dir(&dir, "client.key")) != NEF_OK)
        return -1;
    start_cluster(&single, 1, "one");
    start_cluster(&triple, 3, "three");
    await_health(&single, 0);
    for (int i = 0; i < MEMBERS; i++)
        await_health(&triple, i);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < MEMBERS; i++) {
        stop_member(&single, i);
        stop_member(&triple, i);
    }
    temp_dir_remove(&dir);
    return 0;
}

/* ---- one member ---- */

static void compare_and_swap(void **state)
{
    static const char binary[] = "\0\x01\xff record";
    struct nef_etcd *e = client(&single, 2000);
    struct nef_buf value = {0};
    uint64_t revision = 99, first = 0, second = 0, seen = 0;

    (void)state;
    assert_int_equal(nef_etcd_get(e, "/nef/a", &value, &revision), NEF_OK);
    assert_int_equal(revision, 0);
    assert_int_equal(value.bytes, 0);

    assert_int_equal(nef_etcd_cas(e, "/nef/a", 0, binary, sizeof(binary), NULL, &first),
                     NEF_ETCD_WON);
    assert_true(first > 0);
    assert_int_equal(nef_etcd_get(e, "/nef/a", &value, &revision), NEF_OK);
    assert_int_equal(revision, first);
    assert_int_equal(value.bytes, sizeof(binary));
    assert_memory_equal(value.data, binary, sizeof(binary));

    /* created once */
    assert_int_equal(nef_etcd_cas(e, "/nef/a", 0, "other", 5, &value, &seen), NEF_ETCD_LOST);
    assert_int_equal(seen, first);
    assert_memory_equal(value.data, binary, sizeof(binary));
    /* changed once */
    assert_int_equal(nef_etcd_cas(e, "/nef/a", first, "second", 6, NULL, &second), NEF_ETCD_WON);
    assert_true(second > first);
    assert_int_equal(nef_etcd_cas(e, "/nef/a", first, "third", 5, &value, &seen), NEF_ETCD_LOST);
    assert_int_equal(seen, second);
    assert_string_equal(nef_buf_cstr(&value), "second");
    /* expected, but there is none */
    assert_int_equal(nef_etcd_cas(e, "/nef/b", second, "x", 1, &value, &seen), NEF_ETCD_LOST);
    assert_int_equal(seen, 0);
    assert_int_equal(value.bytes, 0);
    /* the same write sent twice (unique by its nonce): the second answer says that the first won */
    assert_int_equal(nef_etcd_cas(e, "/nef/a", first, "second", 6, NULL, &seen), NEF_ETCD_WON);
    assert_int_equal(seen, second);
    nef_buf_free(&value);
    nef_etcd_free(e);
}

static void values_of_every_size(void **state)
{
    struct nef_etcd *e = client(&single, 2000);
    struct nef_buf value = {0};
    uint64_t revision = 0, seen = 0;
    uint8_t *data = malloc(NEF_ETCD_VALUE_MAX);

    (void)state;
    assert_non_null(data);
    for (size_t i = 0; i < NEF_ETCD_VALUE_MAX; i++)
        data[i] = (uint8_t)(i * 7 >> 3);
    for (size_t n = 1; n <= NEF_ETCD_VALUE_MAX; n = n * 8 + (n < 10)) {
        assert_int_equal(nef_etcd_cas(e, "/nef/size", revision, data, n, NULL, &revision),
                         NEF_ETCD_WON);
        assert_int_equal(nef_etcd_get(e, "/nef/size", &value, &seen), NEF_OK);
        assert_int_equal(seen, revision);
        assert_int_equal(value.bytes, n);
        assert_memory_equal(value.data, data, n);
    }
    assert_int_equal(
        nef_etcd_cas(e, "/nef/size", revision, data, NEF_ETCD_VALUE_MAX, NULL, &revision),
        NEF_ETCD_WON);
    assert_int_equal(nef_etcd_cas(e, "/nef/size", 1, "x", 1, &value, &seen), NEF_ETCD_LOST);
    assert_int_equal(value.bytes, NEF_ETCD_VALUE_MAX);
    free(data);
    nef_buf_free(&value);
    nef_etcd_free(e);
}

static void only_the_regions_certificates(void **state)
{
    const char *url = single.url[0];
    struct nef_etcd_options o = {.endpoints = &url,
                                 .endpoint_count = 1,
                                 .ca = in_dir(&dir, "other.pem"),
                                 .cert = in_dir(&dir, "client.pem"),
                                 .key = in_dir(&dir, "client.key"),
                                 .timeout_ms = 2000};
    struct nef_tls_cert user = {.client = true};
    struct nef_buf value = {0};
    uint64_t revision = 7;
    struct nef_etcd *e;

    (void)state;
    assert_int_equal(nef_tls_make_ca("other", in_dir(&dir, "other.pem"), in_dir(&dir, "other.key")),
                     NEF_OK);
    assert_int_equal(nef_etcd_new(&o, &e), NEF_OK); /* we don't trust it */
    assert_int_equal(nef_etcd_get(e, "/nef/a", &value, &revision), NEF_E_UNAVAILABLE);
    nef_etcd_free(e);
    assert_int_equal(nef_tls_make_cert(in_dir(&dir, "other.pem"), in_dir(&dir, "other.key"), &user,
                                       in_dir(&dir, "foreign.pem"), in_dir(&dir, "foreign.key")),
                     NEF_OK);
    o.ca = in_dir(&dir, "ca.pem");
    o.cert = in_dir(&dir, "foreign.pem");
    o.key = in_dir(&dir, "foreign.key");
    assert_int_equal(nef_etcd_new(&o, &e), NEF_OK); /* it doesn't trust us */
    assert_int_equal(nef_etcd_get(e, "/nef/a", &value, &revision), NEF_E_UNAVAILABLE);
    assert_int_equal(nef_etcd_cas(e, "/nef/x", 0, "x", 1, NULL, &revision), NEF_ETCD_UNKNOWN);
    assert_int_equal(revision, 7);
    nef_etcd_free(e);
    url = "http://127.0.0.1:1"; /* clear text with certificates, or the reverse */
    assert_int_equal(nef_etcd_new(&o, &e), NEF_E_INVALID);
    nef_buf_free(&value);
}

/* A stopped process: the kernel still accepts, nobody answers. */
static void no_answer_is_unknown(void **state)
{
    struct nef_etcd *e = client(&single, 200);
    struct nef_buf value = {0};
    uint64_t revision = 0, after = 0, took;
    enum nef_etcd_outcome outcome;

    (void)state;
    assert_int_equal(nef_etcd_get(e, "/nef/slow", &value, &revision), NEF_OK);
    assert_int_equal(revision, 0);
    assert_int_equal(kill(single.pid[0], SIGSTOP), 0);
    /* its threads stop one by one: some may answer until all have */
    assert_int_equal(waitpid(single.pid[0], NULL, WUNTRACED), single.pid[0]);
    took = nef_now_ns();
    outcome = nef_etcd_cas(e, "/nef/slow", 0, "late", 4, NULL, &after);
    took = nef_now_ns() - took;
    assert_int_equal(kill(single.pid[0], SIGCONT), 0);
    assert_int_equal(outcome, NEF_ETCD_UNKNOWN);
    assert_int_equal(after, 0);
    assert_true(took >= 190000000ull && took < 1000000000ull);
    assert_non_null(strstr(nef_etcd_error(e), single.url[0]));
    /* and it may have happened: what UNKNOWN means. If it did, repeating it says so. */
    nef_etcd_set_timeout(e, 5000);
    assert_int_equal(nef_etcd_cas(e, "/nef/slow", 0, "late", 4, NULL, &after), NEF_ETCD_WON);
    assert_int_equal(nef_etcd_get(e, "/nef/slow", &value, &revision), NEF_OK);
    assert_int_equal(revision, after);
    nef_buf_free(&value);
    nef_etcd_free(e);
}

/* ---- a server that says what we want, in clear text ---- */

struct fake {
    int fd, port;
    pthread_t thread;
    const char *answer; /* NULL: read the request, then close */
    _Atomic int requests;
};

static void *serve(void *arg)
{
    struct fake *f = arg;
    int fd;

    while ((fd = accept(f->fd, NULL, NULL)) >= 0) {
        char request[4096];

        if (recv(fd, request, sizeof(request), 0) > 0) {
            f->requests++;
            if (f->answer != NULL)
                (void)!write(fd, f->answer, strlen(f->answer));
        }
        (void)shutdown(fd, SHUT_WR); /* what it sent must arrive before the close */
        while (recv(fd, request, sizeof(request), 0) > 0)
            ;
        (void)close(fd);
    }
    return NULL;
}

static void fake_start(struct fake *f, const char *answer)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(address);

    f->answer = answer;
    f->requests = 0;
    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(f->fd, 8), 0);
    assert_int_equal(getsockname(f->fd, (struct sockaddr *)&address, &bytes), 0);
    f->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
}

static void fake_stop(struct fake *f)
{
    (void)shutdown(f->fd, SHUT_RDWR); /* ends accept */
    (void)pthread_join(f->thread, NULL);
    (void)close(f->fd);
}

/* Closing the connection ends the body, but for the one with a length that never comes. */
#define HTTP(status, body)                                                                         \
    "HTTP/1.1 " status "\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" body
#define CUT "HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"header\":{"

static void only_a_clear_answer_counts(void **state)
{
    static const struct {
        const char *answer;
        enum nef_etcd_outcome outcome;
    } cases[] = {
        {NULL, NEF_ETCD_UNKNOWN}, /* the connection breaks after the request */
        {HTTP("503 Service Unavailable",
              "{\"error\":\"etcdserver: request timed out\",\"code\":14}"),
         NEF_ETCD_UNKNOWN},
        {HTTP("503 Service Unavailable", "{\"error\":\"etcdserver: leader changed\",\"code\":14}"),
         NEF_ETCD_UNKNOWN},
        {HTTP("400 Bad Request", "{}"), NEF_ETCD_UNKNOWN},
        {HTTP("200 OK", "{}"), NEF_ETCD_UNKNOWN},
        {HTTP("200 OK", "[]"), NEF_ETCD_UNKNOWN},
        {HTTP("200 OK", "{\"header\""), NEF_ETCD_UNKNOWN}, /* cut JSON */
        {CUT, NEF_ETCD_UNKNOWN},
        {HTTP("200 OK", "{\"succeeded\":true}"), NEF_ETCD_UNKNOWN},
        {HTTP("200 OK", "{\"header\":{\"revision\":\"9\"},\"succeeded\":true,\"responses\":[{"
                        "\"response_put\":{}}]}"),
         NEF_ETCD_WON},
        {HTTP("200 OK", /* a revision that isn't above the expected one */
              "{\"header\":{\"revision\":\"3\"},\"succeeded\":true,\"responses\":[{\"response_"
              "put\":{}}]}"),
         NEF_ETCD_UNKNOWN},
        {HTTP("200 OK", "{\"header\":{\"revision\":\"9\"},\"responses\":[{\"response_range\":{"),
         NEF_ETCD_UNKNOWN},
        {HTTP("200 OK",
              "{\"header\":{\"revision\":\"9\"},\"responses\":[{\"response_range\":{}}]}"),
         NEF_ETCD_LOST},
        {HTTP("200 OK", "{\"header\":{\"revision\":\"9\"},\"responses\":[{\"response_put\":{}}]}"),
         NEF_ETCD_UNKNOWN},
        {HTTP("200 OK", /* failed the comparison with the revision that was expected */
              "{\"responses\":[{\"response_range\":{\"kvs\":[{\"mod_revision\":\"3\",\"value\":"
              "\"eA==\"}]}}]}"),
         NEF_ETCD_UNKNOWN},
        {HTTP("200 OK", "{\"responses\":[{\"response_range\":{\"kvs\":[{\"mod_revision\":\"4\","
                        "\"value\":\"eA==\"}]}}]}"),
         NEF_ETCD_LOST},
        {HTTP("200 OK", "{\"responses\":[{\"response_range\":{\"kvs\":[{\"mod_revision\":\"4\","
                        "\"value\":\"e===\"}]}}]}"),
         NEF_ETCD_UNKNOWN},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nef_etcd_options o = {.endpoint_count = 2, .timeout_ms = 1000};
        char url[64], other_url[64];
        const char *urls[2] = {url, other_url};
        struct fake f, other;
        struct nef_etcd *e;
        uint64_t revision = 77;
        struct nef_buf value = {0};
        enum nef_etcd_outcome outcome;

        fake_start(&f, cases[i].answer);
        fake_start(&other, cases[9].answer);
        (void)snprintf(url, sizeof(url), "http://127.0.0.1:%d", f.port);
        (void)snprintf(other_url, sizeof(other_url), "http://127.0.0.1:%d", other.port);
        o.endpoints = urls;
        assert_int_equal(nef_etcd_new(&o, &e), NEF_OK);
        outcome = nef_etcd_cas(e, "/nef/a", 3, "mine", 4, &value, &revision);
        if (outcome != cases[i].outcome)
            fail_msg("case %zu: outcome %d (%s)", i, (int)outcome, nef_etcd_error(e));
        if (outcome == NEF_ETCD_UNKNOWN)
            assert_int_equal(revision, 77);
        assert_int_equal(f.requests, 1);
        assert_int_equal(other.requests, 0); /* once sent, nobody else is asked */
        nef_etcd_free(e);
        nef_buf_free(&value);
        fake_stop(&f);
        fake_stop(&other);
    }
}

static void a_refused_connection_goes_to_the_next(void **state)
{
    struct nef_etcd *e;
    char refused[64];
    const char *urls[2] = {refused, single.url[0]};
    uint64_t revision = 0, began;
    struct nef_buf value = {0};

    (void)state;
    (void)snprintf(refused, sizeof(refused), "https://127.0.0.1:%d", free_port());
    e = client_of(urls, 2, 2000);
    assert_int_equal(nef_etcd_cas(e, "/nef/next", 0, "x", 1, NULL, &revision), NEF_ETCD_WON);
    assert_int_equal(nef_etcd_get(e, "/nef/next", &value, &revision), NEF_OK);
    nef_etcd_free(e);
    e = client_of(urls, 1, 200); /* nobody at all */
    began = nef_now_ns();
    assert_int_equal(nef_etcd_cas(e, "/nef/next", revision, "y", 1, NULL, &revision),
                     NEF_ETCD_UNKNOWN);
    assert_int_equal(nef_etcd_get(e, "/nef/next", &value, &revision), NEF_E_UNAVAILABLE);
    assert_true(nef_now_ns() - began < 1000000000ull);
    nef_etcd_free(e);
    nef_buf_free(&value);
}

/* An address that swallows packets: nothing was sent, so the next member is asked, after the
 * timeout. */
static void a_full_backlog_goes_to_the_next(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fill[8];
    char deaf[64];
    const char *urls[2] = {deaf, single.url[0]};
    uint64_t revision = 0, first, second;
    struct nef_buf value = {0};
    struct nef_etcd *e;

    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
    for (size_t i = 0; i < 8; i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(fill[i], (struct sockaddr *)&address, sizeof(address)); /* in progress */
    }
    (void)snprintf(deaf, sizeof(deaf), "https://127.0.0.1:%d", ntohs(address.sin_port));
    e = client_of(urls, 2, 200);
    first = nef_now_ns();
    assert_int_equal(nef_etcd_cas(e, "/nef/deaf", 0, "x", 1, NULL, &revision), NEF_ETCD_WON);
    first = nef_now_ns() - first;
    assert_true(first >= 190000000ull);
    second = nef_now_ns(); /* now it is known to be bad and tried last */
    assert_int_equal(nef_etcd_get(e, "/nef/deaf", &value, &revision), NEF_OK);
    second = nef_now_ns() - second;
    assert_true(second < 190000000ull);
    nef_etcd_free(e);
    nef_buf_free(&value);
    for (size_t i = 0; i < 8; i++)
        (void)close(fill[i]);
    (void)close(fd);
}

static void answers_are_bounded(void **state)
{
    struct nef_etcd_options o = {.endpoint_count = 1, .timeout_ms = 2000};
    size_t body = NEF_ETCD_ANSWER_MAX + 10;
    char *answer = malloc(body + 200), url[64];
    const char *urls[1] = {url};
    struct nef_buf value = {0};
    struct nef_etcd *e;
    uint64_t revision = 5;
    struct fake f;
    int n;

    (void)state;
    assert_non_null(answer);
    n = snprintf(answer, 200, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", body);
    memset(answer + n, ' ', body);
    answer[(size_t)n + body] = '\0';
    fake_start(&f, answer);
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%d", f.port);
    o.endpoints = urls;
    assert_int_equal(nef_etcd_new(&o, &e), NEF_OK);
    assert_int_equal(nef_etcd_get(e, "/nef/a", &value, &revision), NEF_E_UNAVAILABLE);
    assert_int_equal(revision, 5);
    nef_etcd_free(e);
    nef_buf_free(&value);
    fake_stop(&f);
    free(answer);
}

/* ---- three members ---- */

static void leadership_can_be_moved(void **state)
{
    struct nef_etcd *e = client(&triple, 1000);
    struct nef_etcd_member members[NEF_ETCD_MEMBERS_MAX];
    struct nef_etcd_status s;
    uint32_t count = 0;

    (void)state;
    assert_int_equal(nef_etcd_members(e, members, &count), NEF_OK);
    assert_int_equal(count, 3);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(strncmp(members[i].name, "three", 5) == 0);
        assert_true(strncmp(members[i].client_url, "https://127.0.0.1:", 18) == 0);
    }
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t until = nef_now_ns() + 10ull * 1000000000, id;

        assert_int_equal(nef_etcd_status(e, i, &s), NEF_OK);
        id = s.member_id;
        assert_true(strncmp(s.version, "3.", 2) == 0);
        assert_true(s.leader_id != 0 && s.raft_term > 0 && s.db_bytes > 0);
        assert_int_equal(nef_etcd_transfer_leader(e, id), NEF_OK);
        do
            assert_int_equal(nef_etcd_status(e, i, &s), NEF_OK);
        while (s.leader_id != id && nef_now_ns() < until);
        assert_int_equal(s.leader_id, id);
        assert_int_equal(nef_etcd_transfer_leader(e, id), NEF_OK); /* harmless when repeated */
    }
    assert_int_equal(nef_etcd_transfer_leader(e, 12345), NEF_E_UNAVAILABLE); /* no such member */
    nef_etcd_free(e);
}

/* Own member gone: the next one serves. Two gone: nothing is decided. */
static void members_may_die(void **state)
{
    struct nef_etcd *e = client(&triple, 1000);
    struct nef_etcd_status s;
    struct nef_buf value = {0};
    uint64_t revision = 0, seen = 0, until;
    enum nef_etcd_outcome outcome;

    (void)state;
    assert_int_equal(nef_etcd_status(e, 2, &s), NEF_OK); /* the leader survives, as in a region */
    assert_int_equal(nef_etcd_transfer_leader(e, s.member_id), NEF_OK);
    assert_int_equal(nef_etcd_cas(e, "/nef/r", 0, "all", 3, NULL, &revision), NEF_ETCD_WON);
    stop_member(&triple, 0);
    /* the kept connection broke: at most one call may have to be called unknown, none is lost */
    outcome = nef_etcd_cas(e, "/nef/r", revision, "two", 3, NULL, &seen);
    if (outcome == NEF_ETCD_UNKNOWN)
        outcome = nef_etcd_cas(e, "/nef/r", revision, "two", 3, NULL, &seen);
    assert_int_equal(outcome, NEF_ETCD_WON);
    revision = seen;
    assert_int_equal(nef_etcd_get(e, "/nef/r", &value, &seen), NEF_OK);
    assert_int_equal(seen, revision);
    assert_int_equal(nef_etcd_status(e, 0, &s), NEF_E_UNAVAILABLE);

    stop_member(&triple,
                1); /* no majority: a linearizable read must not be answered from one member */
    nef_etcd_set_timeout(e, 300);
    until = nef_now_ns() + 3ull * 1000000000;
    while (nef_now_ns() < until)
        assert_int_equal(nef_etcd_get(e, "/nef/r", &value, &seen), NEF_E_UNAVAILABLE);
    assert_int_equal(nef_etcd_cas(e, "/nef/r", revision, "one", 3, NULL, &seen), NEF_ETCD_UNKNOWN);
    assert_int_equal(nef_etcd_health(e, 2), NEF_E_UNAVAILABLE);
    start_member(&triple, 1, "three");
    await_health(&triple, 1);
    nef_etcd_set_timeout(e, 2000);
    assert_int_equal(nef_etcd_get(e, "/nef/r", &value, &seen), NEF_OK);
    assert_true(seen >= revision); /* "one" may have come through after all */
    nef_buf_free(&value);
    nef_etcd_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compare_and_swap),
        cmocka_unit_test(values_of_every_size),
        cmocka_unit_test(only_the_regions_certificates),
        cmocka_unit_test(a_refused_connection_goes_to_the_next),
        cmocka_unit_test(a_full_backlog_goes_to_the_next),
        cmocka_unit_test(only_a_clear_answer_counts),
        cmocka_unit_test(answers_are_bounded),
        cmocka_unit_test(no_answer_is_unknown),
        cmocka_unit_test(leadership_can_be_moved),
        cmocka_unit_test(members_may_die),
    };

    return cmocka_run_group_tests_name("io etcd", tests, set_up, tear_down);
}
