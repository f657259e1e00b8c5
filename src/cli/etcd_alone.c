/* `nef etcd-alone`: an etcd member whose cluster has lost its majority becomes a cluster of its own, with the data
 * that it holds. Run where the member ran, while it is stopped; `nef up` and docs/operations.md use this same command.
 *
 * Why not simply etcd --force-new-cluster. A follower learns that an entry is decided and applies it to its database
 * before its log says so on disk (the log's commit index is written with the next entry). --force-new-cluster drops the
 * entries above that index and numbers new ones from there, but the database remembers that entries with those numbers
 * were applied and skips the new ones, while members that join apply them: their data differ for good, and nobody
 * notices (etcd issues 14009 and 20009; 3.4 has no remedy). So:
 *
 *   1. DATA is copied. The copy is started alone with --force-new-cluster and only asked, never written to.
 *   2. What it holds is taken as a snapshot, whose hash etcdctl checks, and restored: an empty log begins from it. The
 *      cluster's token is new each time, so members of an overridden cluster can't take part in this one.
 *   3. The restored member is started alone. Each key is written again with its own value REWRITES times, so that its
 *      revision is above any that the lost majority may have given out: whoever still has a compare-and-swap under
 *      way from then loses it, and no zone takes the record for an old answer. Then all values are compared.
 *   4. DATA is renamed to ASIDE, and the restored directory to DATA.
 *
 * Both lone runs listen on unix sockets in a directory that only this user can open: no zone and no peer reaches them.
 *
 * Killed anywhere and repeated with the same ASIDE, it continues or starts over: that ASIDE exists is what tells that
 * DATA was replaced or is about to be, and until then nothing but DATA.alone is written. Not here: what the survivor
 * never had is lost (the zone makes an epoch above all that it knows, repl/epoch.c), and the other members, which join
 * anew with empty directories (cli/etcd_member.c). */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/bytes.h"
#include "cli/cli.h"
#include "crypto/crypto.h"
#include "io/clock.h"
#include "io/http_client.h"

#define COMMAND "etcd-alone"
#define REWRITES 100u /* the record changes once an epoch: a survivor that missed more had been away, not lagging */
#define SERVE_MS 60000u
#define CALL_MS  5000u
#define STOP_MS  20000u
#define SOCKET   "localhost:1" /* etcd's form of a unix socket's address; a file in the working directory */

struct alone {
    const char *data, *name, *peer_url, *aside;
    char work[NEF_PATH_MAX];
    char etcd[NEF_PATH_MAX], etcdctl[NEF_PATH_MAX];
    pid_t server; /* 0: none */
};

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* ---- processes ---- */

/* In the work directory; its output goes to LOG there. It dies with us. -1: said. */
static pid_t start(const char *const *argv, const char *log)
{
    pid_t parent = getpid(), pid;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    if (fd < 0) {
        (void)nef_complain(COMMAND, "%s: %s", log, strerror(errno));
        return -1;
    }
    pid = fork();
    if (pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
            _exit(126);
        (void)execv(argv[0], (char *const *)(uintptr_t)argv);
        (void)dprintf(2, "can't run %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    (void)close(fd); /* the child has its own */
    if (pid < 0)
        (void)nef_complain(COMMAND, "fork: %s", strerror(errno));
    return pid;
}

/* The end of LOG, indented: why a program failed. */
static void show(const char *log)
{
    char text[2048];
    int fd = open(log, O_RDONLY | O_CLOEXEC);
    off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    ssize_t got;

    if (fd < 0)
        return;
    got = pread(fd, text, sizeof(text) - 1, end > (off_t)sizeof(text) - 1 ? end - (off_t)sizeof(text) + 1 : 0);
    (void)close(fd); /* reading only */
    if (got > 0) {
        text[got] = 0;
        (void)fprintf(stderr, "%s\n", text);
    }
}

static bool run(const char *const *argv, const char *log)
{
    pid_t pid = start(argv, log);
    int status = -1;

    if (pid < 0)
        return false;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    (void)nef_complain(COMMAND, "%s failed:", argv[0]);
    show(log);
    return false;
}

static bool server_start(struct alone *a, const char *dir, bool force)
{
    char name[80], data[32], peer[NEF_URL_MAX + 64], cluster[NEF_URL_MAX + 128];
    const char *argv[] = {a->etcd, name, data, "--listen-client-urls=unix://" SOCKET,
                          "--advertise-client-urls=unix://" SOCKET, "--listen-peer-urls=unix://localhost:2", peer,
                          cluster, "--enable-v2=false", "--logger=zap", "--log-outputs=stderr",
                          force ? "--force-new-cluster=true" : NULL, NULL};

    if (nef_text(name, sizeof(name), "--name=%s", a->name) != NEF_OK ||
        nef_text(data, sizeof(data), "--data-dir=%s", dir) != NEF_OK ||
        nef_text(peer, sizeof(peer), "--initial-advertise-peer-urls=%s", a->peer_url) != NEF_OK ||
        nef_text(cluster, sizeof(cluster), "--initial-cluster=%s=%s", a->name, a->peer_url) != NEF_OK) {
        (void)nef_complain(COMMAND, "the name or peer URL is too long");
        return false;
    }
    (void)unlink(SOCKET); /* of a run that was killed */
    (void)unlink("localhost:2");
    a->server = start(argv, "etcd.log");
    if (a->server > 0)
        return true;
    a->server = 0;
    return false;
}

static void server_stop(struct alone *a)
{
    uint64_t until = nef_now_ms() + STOP_MS;
    int status;

    if (a->server == 0)
        return;
    (void)kill(a->server, SIGTERM); /* our child, not yet reaped */
    while (waitpid(a->server, &status, WNOHANG) == 0) {
        if (nef_now_ms() >= until)
            (void)kill(a->server, SIGKILL); /* what it had answered is on disk: its log is */
        (void)usleep(20000);
    }
    a->server = 0;
}

/* ---- asking ---- */

static nef_err ask(const char *path, json_t *request, char *error, size_t error_bytes, json_t **out_root)
{
    char url[128], *body = json_dumps(request, JSON_COMPACT);
    struct nef_http_answer answer = {0};
    struct nef_http_call call = {.url = url, .body = body, .timeout_ms = CALL_MS, .unix_socket = SOCKET};
    json_t *root = NULL;
    nef_err err;

    if (body == NULL)
        return NEF_E_NOMEM;
    call.body_bytes = strlen(body);
    (void)snprintf(url, sizeof(url), "http://localhost%s", path);
    err = nef_http_do(&call, &answer);
    if (err == NEF_OK && answer.status == 200)
        root = json_loadb((const char *)answer.body.data, answer.body.bytes, 0, NULL);
    if (root != NULL) {
        *out_root = root;
    } else {
        (void)snprintf(error, error_bytes, "%.200s: %.200s", path,
                       err != NEF_OK ? answer.error : nef_buf_cstr(&answer.body));
        err = NEF_E_UNAVAILABLE;
    }
    nef_buf_free(&answer.body);
    free(body);
    return err;
}

/* Everything that it holds, once it serves: a linearizable read, so what was decided is applied. NULL: said. A new
 * reference to an array. */
static json_t *read_all(struct alone *a)
{
    uint64_t until = nef_now_ms() + SERVE_MS;
    json_t *request = json_pack("{s:s, s:s}", "key", "AA==", "range_end", "AA=="); /* 0 to 0: every key */
    json_t *root = NULL, *kvs = NULL;
    char error[512] = "out of memory";
    int status;

    while (request != NULL && ask("/v3/kv/range", request, error, sizeof(error), &root) != NEF_OK) {
        if (nef_now_ms() >= until || waitpid(a->server, &status, WNOHANG) != 0) {
            if (nef_now_ms() < until)
                a->server = 0; /* it ended, and was reaped */
            break;
        }
        (void)usleep(100000);
    }
    if (root != NULL) {
        kvs = json_object_get(root, "kvs"); /* absent: none */
        kvs = kvs != NULL ? json_incref(kvs) : json_array();
        if (json_object_get(root, "more") != NULL) {
            (void)snprintf(error, sizeof(error), "it holds too much");
            json_decref(kvs);
            kvs = NULL;
        }
    }
    if (kvs == NULL) {
        (void)nef_complain(COMMAND, "etcd doesn't serve: %s", error);
        show("etcd.log");
    }
    json_decref(root);
    json_decref(request);
    return kvs;
}

static bool rewrite(const json_t *kvs)
{
    char error[512];
    const json_t *kv;
    size_t n;

    for (uint32_t i = 0; i < REWRITES; i++) {
        json_array_foreach(kvs, n, kv)
        {
            json_t *request = json_pack("{s:O, s:O}", "key", json_object_get(kv, "key"), "value",
                                        json_object_get(kv, "value"));
            json_t *root = NULL;
            nef_err err = NEF_E_PROTOCOL;

            if (request != NULL)
                err = ask("/v3/kv/put", request, error, sizeof(error), &root);
            else
                (void)snprintf(error, sizeof(error), "a key without value");
            json_decref(request);
            json_decref(root);
            if (err != NEF_OK) {
                (void)nef_complain(COMMAND, "%s", error);
                return false;
            }
        }
    }
    return true;
}

static int64_t revision_of(const json_t *kv)
{
    const char *text = json_string_value(json_object_get(kv, "mod_revision"));

    return text != NULL ? strtoll(text, NULL, 10) : -1;
}

/* Same keys and values, each with a revision that is higher by REWRITES at least. */
static bool same(const json_t *before, const json_t *after)
{
    size_t n;
    const json_t *kv;

    if (json_array_size(before) != json_array_size(after))
        return false;
    json_array_foreach(before, n, kv)
    {
        const json_t *other = json_array_get(after, n);

        if (!json_equal(json_object_get(kv, "key"), json_object_get(other, "key")) ||
            !json_equal(json_object_get(kv, "value"), json_object_get(other, "value")) || revision_of(kv) < 0 ||
            revision_of(other) < revision_of(kv) + (int64_t)REWRITES)
            return false;
    }
    return true;
}

/* ---- directories ---- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static bool remove_work(const struct alone *a)
{
    if (chdir("/") == 0 && (nftw(a->work, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 || !exists(a->work)))
        return true;
    (void)nef_complain(COMMAND, "can't remove %s: %s", a->work, strerror(errno));
    return false;
}

static bool sync_directory(const char *path, bool whole_file_system)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && (whole_file_system ? syncfs(fd) : fsync(fd)) == 0;

    if (!synced)
        (void)nef_complain(COMMAND, "sync of %s: %s", path, strerror(errno));
    if (fd >= 0)
        (void)close(fd); /* a directory: nothing to lose */
    return synced;
}

static bool move(const char *from, const char *to, const char *parent)
{
    if (rename(from, to) == 0)
        return sync_directory(parent, false);
    (void)nef_complain(COMMAND, "can't rename %s to %s: %s", from, to, strerror(errno));
    return false;
}

/* A member that runs holds a lock on its database; we hold it while we copy. */
static bool copy(const struct alone *a)
{
    char db[NEF_PATH_MAX + 32], from[NEF_PATH_MAX + 4];
    const char *argv[] = {"/bin/cp", "-a", "--sparse=always", from, "copy", NULL};
    bool copied = false;
    int fd = -1;

    if (nef_text(db, sizeof(db), "%s/member/snap/db", a->data) == NEF_OK &&
        nef_text(from, sizeof(from), "%s/.", a->data) == NEF_OK)
        fd = open(db, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        (void)nef_complain(COMMAND, "%s: %s; this isn't an etcd member's data", db, strerror(errno));
    else if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        (void)nef_complain(COMMAND, "etcd runs on %s: stop it first", a->data);
    else
        copied = run(argv, "cp.log");
    if (fd >= 0)
        (void)close(fd); /* nothing was written */
    return copied;
}

static bool restore(const struct alone *a)
{
    char token[48], cluster[NEF_URL_MAX + 128];
    uint8_t fresh[16];
    const char *save[] = {a->etcdctl, "--endpoints=unix://" SOCKET, "snapshot", "save", "snapshot.db", NULL};
    const char *load[] = {a->etcdctl, "snapshot", "restore", "snapshot.db", "--data-dir=new", "--name", a->name,
                          "--initial-cluster", cluster, "--initial-advertise-peer-urls", a->peer_url,
                          "--initial-cluster-token", token, NULL};

    nef_random(fresh, sizeof(fresh));
    nef_hex(fresh, sizeof(fresh), token);
    if (nef_text(cluster, sizeof(cluster), "%s=%s", a->name, a->peer_url) != NEF_OK) {
        (void)nef_complain(COMMAND, "the name or peer URL is too long");
        return false;
    }
    return run(save, "etcdctl.log") && run(load, "etcdctl.log");
}

/* Steps 1 to 3: DATA.alone/new, durable. */
static bool build(struct alone *a)
{
    json_t *before = NULL, *after = NULL;
    bool built = false;

    if (!remove_work(a))
        return false;
    if (mkdir(a->work, 0700) != 0 || chdir(a->work) != 0) {
        (void)nef_complain(COMMAND, "%s: %s", a->work, strerror(errno));
        return false;
    }
    if (!copy(a) || !server_start(a, "copy", true))
        goto out;
    before = read_all(a);
    if (before == NULL || !restore(a))
        goto out;
    server_stop(a);
    if (!server_start(a, "new", false))
        goto out;
    after = read_all(a);
    if (after == NULL || !rewrite(after))
        goto out;
    json_decref(after);
    after = read_all(a);
    if (after == NULL)
        goto out;
    if (!same(before, after)) {
        (void)nef_complain(COMMAND, "what was restored isn't what %s held; nothing was changed", a->data);
        goto out;
    }
    server_stop(a); /* before the sync: its last words count */
    built = sync_directory(a->work, true);
out:
    server_stop(a);
    json_decref(before);
    json_decref(after);
    return built;
}

static bool has_member(const char *data)
{
    char path[NEF_PATH_MAX + 8];

    return nef_text(path, sizeof(path), "%s/member", data) == NEF_OK && exists(path);
}

static int replace(struct alone *a, const char *parent)
{
    char fresh[NEF_PATH_MAX + 8];

    if (nef_text(fresh, sizeof(fresh), "%s/new", a->work) != NEF_OK)
        return nef_complain(COMMAND, "%s: too long", a->work);
    if (!exists(a->aside)) {
        if (!build(a) || !move(a->data, a->aside, parent))
            return 1;
    } else if (!exists(fresh) && !has_member(a->data)) {
        return nef_complain(COMMAND, "%s is there, but %s holds no member: name another --aside, and the survivor's "
                                     "--data-dir", a->aside, a->data);
    } else if (!exists(fresh)) {
        printf("%s is there: it was done before; another loss needs another --aside\n", a->aside);
        return remove_work(a) ? 0 : 1;
    }
    /* an empty DATA that somebody made meanwhile is replaced, one with something in it isn't */
    if (!move(fresh, a->data, parent) || !remove_work(a))
        return 1;
    printf("etcd's member %s is a cluster of its own; its former data: %s\n", a->name, a->aside);
    return 0;
}

int nef_cmd_etcd_alone(int argc, char **argv)
{
    struct alone a = {.server = 0};
    const struct nef_option options[] = {{.name = "data-dir", .text = &a.data},
                                         {.name = "name", .text = &a.name},
                                         {.name = "peer-url", .text = &a.peer_url},
                                         {.name = "aside", .text = &a.aside},
                                         {.name = NULL}};
    char parent[NEF_PATH_MAX];
    struct nef_words words;
    int lock, status;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if (a.data == NULL || a.name == NULL || a.peer_url == NULL || a.aside == NULL || a.data[0] != '/' ||
        a.aside[0] != '/' || nef_text(parent, sizeof(parent), "%s", a.data) != NEF_OK ||
        nef_text(a.work, sizeof(a.work), "%s.alone", a.data) != NEF_OK) {
        (void)nef_complain(COMMAND, "--data-dir, --name, --peer-url and --aside are needed, with absolute paths");
        return 2;
    }
    *strrchr(parent, '/') = 0;
    if (parent[0] == 0 || strncmp(a.aside, parent, strlen(parent)) != 0 ||
        strchr(a.aside + strlen(parent) + 1, '/') != NULL) {
        (void)nef_complain(COMMAND, "--aside must be in the directory that --data-dir is in");
        return 2;
    }
    if (!nef_program_find("etcd", a.etcd) || !nef_program_find("etcdctl", a.etcdctl))
        return nef_complain(COMMAND, "needs etcd and etcdctl (Debian: apt-get install etcd-server etcd-client)");
    nef_environment_forget("ETCD"); /* the unit's settings, and etcdctl's: here only ours count */
    if (setenv("ETCDCTL_API", "3", 1) != 0)
        return nef_complain(COMMAND, "out of memory");
    lock = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) != 0)
        return nef_complain(COMMAND, "%s: %s", parent,
                            lock >= 0 && errno == EWOULDBLOCK ? "another one works there" : strerror(errno));
    status = replace(&a, parent);
    (void)close(lock); /* only a lock */
    return status;
}
