/* The built-in engine's process; see engine.h.
 *
 * The child is made by vfork-like clone, not fork: a zone has gigabytes mapped and locked memory, and many threads.
 * Until exec it runs on the parent's memory, so it only calls what is async-signal-safe and touches nothing but its own
 * stack. PR_SET_PDEATHSIG is of the thread that made it: ours, which lives as long as the zone. */
#include "gateway/engine.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "io/clock.h"

#define BACKOFF_FIRST_MS 50u
#define BACKOFF_MAX_MS   5000u
#define STEADY_MS        10000u /* a process that lived so long starts the back-off anew */
#define ARGUMENTS_MAX    24u
#define MODEL_FD         3      /* in the child */
#define ENVIRONMENT_MAX  64u
#define NICE             10     /* a tenth of what the zone's threads get, when both want the same core */

struct nef_engine_child {
    pthread_t thread;
    struct nef_engine_child_options o; /* texts: own copies */
    char *texts[5];
    char *directory; /* of the socket: the child's working directory, so that its path is short */
    int event; /* wakes the thread */
    pthread_mutex_t lock;
    pid_t pid; /* under lock, as is whether it may be signalled: it isn't reaped while it is set */
    atomic_bool stopping;
    atomic_uint grace_ms;
    atomic_ullong restarts;
};

/* ---- the child ---- */

struct arguments {
    char *argv[ARGUMENTS_MAX];
    uint32_t count;
    char text[1024];
    size_t used;
};

static void add(struct arguments *a, const char *text)
{
    size_t bytes = strlen(text) + 1;

    NEF_ASSERT(a->count + 1 < ARGUMENTS_MAX && bytes <= sizeof(a->text) - a->used);
    memcpy(a->text + a->used, text, bytes);
    a->argv[a->count++] = a->text + a->used;
    a->argv[a->count] = NULL;
    a->used += bytes;
}

static void add_number(struct arguments *a, const char *name, uint32_t number)
{
    char text[16];

    if (number == 0)
        return;
    (void)snprintf(text, sizeof(text), "%u", number);
    add(a, name);
    add(a, text);
}

static void arguments_of(const struct nef_engine_child *c, struct arguments *a)
{
    char listen[160];
    const char *name = strrchr(c->o.socket_path, '/');

    memset(a, 0, sizeof(*a));
    add(a, "nef");
    add(a, "infer");
    add(a, "--model");
    if (c->o.model_file != NULL) {
        /* may be longer than the room for texts */
        a->argv[a->count++] = c->texts[2];
        a->argv[a->count] = NULL;
    } else {
        add(a, "fd:3");
    }
    (void)snprintf(listen, sizeof(listen), "unix:%s", name != NULL ? name + 1 : c->o.socket_path);
    add(a, "--alias");
    add(a, c->o.model);
    add(a, "--listen");
    add(a, listen);
    add(a, "--trust-salt");
    add_number(a, "--threads", c->o.threads);
    add_number(a, "--slots", c->o.slots);
    add_number(a, "--ctx", c->o.context_tokens);
    if (c->o.kv_type != NULL) {
        add(a, "--kv-type");
        add(a, c->o.kv_type);
    }
}

/* What the engine may see: not, say, credentials that the zone was started with. */
static bool passes(const char *variable)
{
    static const char *const names[] = {
        "PATH=",         "LANG=",          "LC_ALL=",         "TZ=", "NEF_KERNELS=", "NEF_PREFETCH=",
        "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=", "LD_LIBRARY_PATH="};

    for (size_t i = 0; i < NEF_COUNT(names); i++)
        if (strncmp(variable, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

/* In the child, on the parent's memory. */
static int exec_engine(const struct nef_engine_child *c, const struct arguments *a, char *const *environment,
                       int model_fd, pid_t parent)
{
    const struct rlimit none = {1, 1}; /* see no_core of server/zone.c */
    sigset_t empty;
    int null, last;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        return 126;
    (void)setpgid(0, 0); /* Ctrl-C in a terminal is the zone's to handle */
    (void)setrlimit(RLIMIT_CORE, &none); /* its memory holds prompts */
    /* It computes on every core for as long as it is asked, and its loss costs a pause: storage comes first. Asking for
     * less is always allowed. Only after vfork is oom_score_adj the child's alone, on memory that is also the zone's. */
    (void)!nice(NICE);
    last = open("/proc/self/oom_score_adj", O_WRONLY);
    if (last >= 0)
        (void)!write(last, "1000", 4);
    for (int number = 1; number < NSIG; number++) {
        const struct sigaction action = {.sa_handler = SIG_DFL};

        if (number != SIGKILL && number != SIGSTOP)
            (void)sigaction(number, &action, NULL);
    }
    (void)sigemptyset(&empty);
    (void)sigprocmask(SIG_SETMASK, &empty, NULL);
    if (chdir(c->directory) != 0)
        return 126;
    null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
        return 126;
    if (model_fd == MODEL_FD) {
        if (fcntl(model_fd, F_SETFD, 0) != 0)
            return 126;
    } else if (model_fd >= 0 && dup2(model_fd, MODEL_FD) < 0) {
        return 126;
    }
    if (close_range(model_fd >= 0 ? MODEL_FD + 1 : MODEL_FD, ~0u, 0) != 0)
        return 126;
    (void)execve("/proc/self/exe", a->argv, environment); /* this version, also if the file was replaced by another */
    return 127;
}


extern char **environ;

static pid_t spawn(const struct nef_engine_child *c, int model_fd)
{
    char *environment[ENVIRONMENT_MAX + 1];
    struct arguments a;
    sigset_t all, before;
    size_t count = 0;
    pid_t pid, parent = getpid();

    arguments_of(c, &a);
    for (char **v = environ; *v != NULL && count < ENVIRONMENT_MAX; v++)
        if (passes(*v))
            environment[count++] = *v;
    environment[count] = NULL;
    (void)sigfillset(&all); /* no handler of the zone's may run in the child on our memory */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    pid = vfork();
    if (pid == 0)
        _exit(exec_engine(c, &a, environment, model_fd, parent));
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid;
}

/* ---- the thread ---- */

/* Until something is said to the thread, or MS have passed. */
static void wait_event(struct nef_engine_child *c, int pidfd, int ms)
{
    struct pollfd fds[2] = {{.fd = c->event, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    uint64_t counter;

    if (poll(fds, pidfd >= 0 ? 2 : 1, ms) > 0 && (fds[0].revents & POLLIN) != 0 &&
        read(c->event, &counter, sizeof(counter)) < 0)
        return;
}

static void set_pid(struct nef_engine_child *c, pid_t pid)
{
    (void)pthread_mutex_lock(&c->lock);
    c->pid = pid;
    (void)pthread_mutex_unlock(&c->lock);
}

static bool ended(pid_t pid)
{
    siginfo_t info = {.si_pid = 0};

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == pid;
}

/* Lives with the process until it is gone. */
static void attend(struct nef_engine_child *c, pid_t pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0u), status = 0;
    uint64_t deadline = 0;
    bool killed = false;

    while (!ended(pid)) {
        wait_event(c, pidfd, deadline != 0 || pidfd < 0 ? 20 : 1000);
        if (!atomic_load(&c->stopping))
            continue;
        if (deadline == 0) {
            deadline = nef_now_ms() + atomic_load(&c->grace_ms);
            (void)kill(pid, SIGTERM);
        } else if (nef_now_ms() >= deadline && !killed) {
            (void)kill(pid, SIGKILL);
            killed = true;
        }
    }
    set_pid(c, 0); /* before it is reaped: its id is nobody else's until then */
    (void)waitpid(pid, &status, 0);
    if (pidfd >= 0)
        (void)close(pidfd);
    nef_trace(atomic_load(&c->stopping) ? NEF_TRACE_INFO : NEF_TRACE_WARN, "ai_engine_ended", "s:model", c->o.model,
              "u:pid", (uint64_t)pid, "u:status", (uint64_t)(WIFEXITED(status) ? WEXITSTATUS(status) : 0), "u:signal",
              (uint64_t)(WIFSIGNALED(status) ? WTERMSIG(status) : 0), NULL);
}

static void *main_of(void *context)
{
    struct nef_engine_child *c = context;
    uint64_t backoff = BACKOFF_FIRST_MS;
    bool first = true;

    while (!atomic_load(&c->stopping)) {
        uint64_t began = nef_now_ms();
        int model = -1;
        nef_err err = c->o.model_file != NULL ? NEF_OK : c->o.open(c->o.context, &model);

        if (err == NEF_OK && !atomic_load(&c->stopping)) {
            pid_t pid;

            if (!first)
                (void)atomic_fetch_add(&c->restarts, 1);
            first = false;
            pid = spawn(c, model);
            if (model >= 0)
                (void)close(model);
            if (pid > 0) {
                set_pid(c, pid);
                nef_trace(NEF_TRACE_INFO, "ai_engine_started", "s:model", c->o.model, "u:pid", (uint64_t)pid, NULL);
                attend(c, pid);
            } else {
                nef_trace(NEF_TRACE_ERROR, "ai_engine_fork", "s:model", c->o.model, "s:why", strerror(errno), NULL);
            }
        } else if (model >= 0) {
            (void)close(model);
        }
        if (nef_now_ms() - began > STEADY_MS)
            backoff = BACKOFF_FIRST_MS;
        if (!atomic_load(&c->stopping))
            wait_event(c, -1, (int)backoff);
        backoff = NEF_MIN(2 * backoff, BACKOFF_MAX_MS);
    }
    return NULL;
}

/* ---- the interface ---- */

static void release(struct nef_engine_child *c)
{
    for (size_t i = 0; i < NEF_COUNT(c->texts); i++)
        free(c->texts[i]);
    free(c->directory);
    if (c->event >= 0)
        (void)close(c->event);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

static bool copy(struct nef_engine_child *c, size_t at, const char *text)
{
    if (text == NULL)
        return true;
    c->texts[at] = strdup(text);
    return c->texts[at] != NULL;
}

static nef_err prepare(struct nef_engine_child *c, const struct nef_engine_child_options *options)
{
    char *slash;

    if (!copy(c, 0, options->model) || !copy(c, 1, options->socket_path) || !copy(c, 3, options->kv_type))
        return NEF_E_NOMEM;
    if (options->model_file != NULL) {
        c->texts[2] = realpath(options->model_file, NULL);
        if (c->texts[2] == NULL && !copy(c, 2, options->model_file)) /* it may come later */
            return NEF_E_NOMEM;
    }
    c->o.model = c->texts[0];
    c->o.socket_path = c->texts[1];
    c->o.model_file = c->texts[2];
    c->o.kv_type = c->texts[3];
    c->directory = strdup(c->texts[1]);
    if (c->directory == NULL)
        return NEF_E_NOMEM;
    slash = strrchr(c->directory, '/');
    if (slash == NULL)
        return NEF_E_INVALID;
    slash[slash == c->directory ? 1 : 0] = '\0';
    return NEF_OK;
}

nef_err nef_engine_child_start(const struct nef_engine_child_options *options, struct nef_engine_child **out_child)
{
    struct nef_engine_child *c = calloc(1, sizeof(*c));
    sigset_t all, before;
    nef_err err;
    int rc;

    if (c == NULL)
        return NEF_E_NOMEM;
    NEF_ASSERT(options->model_file != NULL || options->open != NULL);
    c->o = *options;
    (void)pthread_mutex_init(&c->lock, NULL);
    c->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = c->event < 0 ? NEF_E_SYSTEM : prepare(c, options);
    if (err != NEF_OK) {
        release(c);
        return err;
    }
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&c->thread, NULL, main_of, c);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        release(c);
        return NEF_E_SYSTEM;
    }
    *out_child = c;
    return NEF_OK;
}

void nef_engine_child_kill(struct nef_engine_child *c, pid_t pid)
{
    (void)pthread_mutex_lock(&c->lock);
    if (c->pid == pid && pid > 0)
        (void)kill(pid, SIGKILL);
    (void)pthread_mutex_unlock(&c->lock);
}

pid_t nef_engine_child_pid(struct nef_engine_child *c)
{
    pid_t pid;

    (void)pthread_mutex_lock(&c->lock);
    pid = c->pid;
    (void)pthread_mutex_unlock(&c->lock);
    return pid;
}

uint64_t nef_engine_child_restarts(struct nef_engine_child *c)
{
    return atomic_load(&c->restarts);
}

void nef_engine_child_stop(struct nef_engine_child *c, uint32_t grace_ms)
{
    const uint64_t one = 1;

    if (c == NULL)
        return;
    atomic_store(&c->grace_ms, grace_ms);
    atomic_store(&c->stopping, true);
    if (write(c->event, &one, sizeof(one)) < 0)
        nef_trace(NEF_TRACE_DEBUG, "engine_wake", NULL);
    (void)pthread_join(c->thread, NULL);
    release(c);
}
