/* `nef infer`: a model behind an OpenAI-compatible server, or measured (--bench). Knows nothing of storage. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include "base/limits.h"
#include "base/trace.h"
#include "cli/cli.h"
#include "cli/infer_setup.h"
#include "infer/api/api.h"
#include "io/clock.h"
#include "io/notify.h"

#define LISTEN_PRESET   "127.0.0.1:8080" /* as llama.cpp's server */
#define DRAIN_S_PRESET  30u
#define POLL_MS         50

static bool listen_of(const char *text, struct nef_api_options *out)
{
    if (strncmp(text, "unix:", 5) == 0 && text[5] != '\0') {
        out->unix_path = text + 5;
        return true;
    }
    if (nef_host_port_parse(text, &out->listen) == NEF_OK)
        return true;
    (void)nef_complain("infer", "--listen must be HOST:PORT or unix:PATH, not '%s'", text);
    return false;
}

/* Each connection is a descriptor. */
static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Until SIGTERM or SIGINT; then until nothing runs, DRAIN_S have passed, or a second signal comes. */
static void serve(struct nef_api *api, const sigset_t *signals, uint32_t drain_s)
{
    const struct timespec poll = {0, POLL_MS * 1000000l};
    uint64_t deadline;
    int number;

    while (sigwait(signals, &number) != 0)
        continue;
    nef_notify("STOPPING=1");
    nef_trace(NEF_TRACE_INFO, "infer_draining", "u:active", (uint64_t)nef_api_active(api), NULL);
    nef_api_quiesce(api);
    deadline = nef_now_ms() + drain_s * 1000ull;
    while (nef_api_active(api) > 0 && nef_now_ms() < deadline)
        if (sigtimedwait(signals, NULL, &poll) > 0)
            break;
}

static nef_err serve_model(struct nef_api *api, const struct nef_infer_setup *s)
{
    const struct nef_model_config *config = nef_model_config(s->model);
    const struct nef_api_model model = {
        .engine = s->engine,
        .tokenizer = s->tokenizer,
        .alias = s->alias,
        .family = s->family,
        .context = s->context,
        .pooling = s->pooling,
        .embedding_end = s->embedding_end,
        .sampling = nef_api_sampling_of(s->family, config->embedding),
        .vocab = config->vocab,
        .context_trained = config->context,
        .embedding = config->embedding,
        .file_bytes = nef_model_file_bytes(s->model),
        .kernels = s->kernels->name,
        .kv_type = nef_kv_type_name(s->kv_type),
    };

    return nef_api_serve(api, &model);
}

static int run(const struct nef_infer_options *o, struct nef_api_options *api_options, const sigset_t *signals,
               uint32_t drain_s)
{
    struct nef_infer_setup s = {.engine = NULL};
    const struct nef_model_config *config;
    struct nef_api *api = NULL;
    char address[NEF_HOST_PORT_TEXT];
    nef_err err = nef_api_start(api_options, &api);
    int status;

    if (err != NEF_OK) {
        nef_host_port_text(&api_options->listen, address);
        return nef_complain("infer", "can't listen on %s: the line above says why; another place: --listen HOST:PORT",
                            api_options->unix_path != NULL ? api_options->unix_path : address);
    }
    status = nef_infer_load(o, &s);
    if (status == 0)
        status = nef_infer_engine(o, &s);
    if (status == 0)
        status = nef_infer_pooling(o, &s);
    if (status != 0)
        goto out;
    err = serve_model(api, &s);
    if (err != NEF_OK) {
        status = nef_complain("infer", "can't serve the model: %s", nef_err_text(err));
        goto out;
    }
    config = nef_model_config(s.model);
    api_options->listen.port = nef_api_port(api);
    nef_host_port_text(&api_options->listen, address);
    if (s.context > config->context)
        nef_trace(NEF_TRACE_WARN, "context_beyond_training", "u:context", (uint64_t)s.context, "u:trained",
                  (uint64_t)config->context, NULL);
    nef_trace(NEF_TRACE_INFO, "infer_started", "s:listen",
              api_options->unix_path != NULL ? api_options->unix_path : address, "s:model", s.alias, "s:kernels",
              s.kernels->name, "u:threads", (uint64_t)nef_pool_threads(s.pool), "u:slots", (uint64_t)s.slots,
              "u:context", (uint64_t)s.context, "s:kv_type", nef_kv_type_name(s.kv_type), "u:load_ms", s.load_ms,
              "s:version", NEF_VERSION, NULL);
    nef_notify("READY=1");
    serve(api, signals, drain_s);
out:
    nef_api_stop(api);
    nef_infer_done(&s);
    if (status == 0)
        nef_trace(NEF_TRACE_INFO, "infer_stopped", NULL);
    return status;
}

int nef_cmd_infer(int argc, char **argv)
{
    struct nef_infer_options o = {.command = "infer", .waiting_max = NEF_INFER_WAITING_MAX};
    struct nef_api_options api = {.connections_max = NEF_INFER_CONNECTIONS_MAX};
    struct nef_infer_bench_options measured = {.json = false};
    const char *listen = LISTEN_PRESET, *bench = NULL;
    uint32_t drain_s = DRAIN_S_PRESET;
    const struct nef_option options[] = {
        {.name = "model", .text = &o.model},
        {.name = "listen", .text = &listen},
        {.name = "threads", .number = &o.threads, .min = 1, .max = 256},
        {.name = "ctx", .number = &o.context, .min = 64, .max = NEF_MODEL_CONTEXT_MAX},
        {.name = "slots", .number = &o.slots, .min = 1, .max = 1024},
        {.name = "kv-type", .text = &o.kv_type},
        {.name = "cache-file", .text = &o.cache_file},
        {.name = "alias", .text = &o.alias},
        {.name = "pooling", .text = &o.pooling},
        {.name = "drain", .number = &drain_s, .min = 0, .max = 3600},
        {.name = "trust-salt", .flag = &api.trust_salt},
        {.name = "bench", .text = &bench},
        {.name = "prefill", .text = &measured.prefill},
        {.name = "depth", .text = &measured.depth},
        {.name = "decode", .number = &measured.decode, .min = 1, .max = 1u << 16},
        {.name = "repeat", .number = &measured.repeat, .min = 1, .max = NEF_BENCH_REPEAT_MAX},
        {.name = "json", .flag = &measured.json},
        {.name = NULL},
    };
    struct nef_words words;
    sigset_t signals;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if (bench != NULL) {
        if (o.model != NULL) {
            (void)nef_complain("infer", "--bench takes the model itself: --bench FILE.gguf");
            return 2;
        }
        o.model = bench;
        return nef_infer_bench(&o, &measured);
    }
    if (api.trust_salt) /* there are tenants: none takes the whole queue */
        o.tenant_waiting_max = NEF_INFER_TENANT_WAITING_MAX;
    if (measured.prefill != NULL || measured.depth != NULL || measured.decode != 0 || measured.repeat != 0 ||
        measured.json) {
        (void)nef_complain("infer", "--prefill, --depth, --decode, --repeat and --json belong to --bench FILE.gguf");
        return 2;
    }
    if (o.model == NULL) {
        (void)nef_complain("infer", "say which model: --model FILE.gguf");
        return 2;
    }
    if (!listen_of(listen, &api))
        return 2;
    /* Before any thread exists, so that only this one gets them. */
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)prctl(PR_SET_NAME, "nef-infer"); /* a zone starts it as /proc/self/exe, which would be named "exe" */
    nef_trace_setup(2, "infer", NEF_TRACE_INFO);
    raise_limits();
    return run(&o, &api, &signals, drain_s);
}
