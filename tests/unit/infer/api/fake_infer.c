/* The server over an engine that says what it is told to, for api_test.py:
 *
 *   fake_infer PORT|unix:PATH [SLOTS] [WAITING] [--trust-salt | --loading]
 *
 * prints "port N" and serves until SIGTERM, which drains; --loading: has a model once SIGUSR1 comes. What a request's prompt has between "say[[" and "]]" is the
 * answer, a token a byte; the prompt may also hold "slow[[MS]]": milliseconds between tokens, "endless[[]]": the answer
 * again and again, "hang[[]]": never a token, "fail[[]]": the generation fails after the answer, "whose[[]]": the answer
 * is salt, tenant, weight and priority, "asked[[]]": the answer is what of the request only an engine sees. Each
 * generation has a thread; there are as many slots as said, and so many requests wait.
 *
 * The log probability of a byte b is -b/64; the likeliest others are b + 1, b + 2, ... An embedding is of four numbers:
 * the prompt's length, its first byte, its last one, and pooling. */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "infer/api/api.h"
#include "tiny.h"

#define CONTEXT 65536u

struct nef_engine {
    pthread_mutex_t lock;
    uint32_t slots, waiting_max, running, admitted; /* admitted: those that wait, too */
};
static struct nef_engine engine = {PTHREAD_MUTEX_INITIALIZER, 2, 4, 0, 0};

struct nef_generation {
    atomic_uint refs;
    atomic_bool cancelled;
    struct nef_generate g;
    char *prompt;
    char *say;
    long slow_ms;
    bool endless, hang, fail;
    uint32_t first, last;
};

/* Malloc'd text between NAME[[ and ]], or NULL. */
static char *told(const char *prompt, const char *name)
{
    char mark[32];
    const char *from, *to;

    (void)snprintf(mark, sizeof(mark), "%s[[", name);
    from = strstr(prompt, mark);
    if (from == NULL)
        return NULL;
    from += strlen(mark);
    to = strstr(from, "]]");
    return strndup(from, to == NULL ? strlen(from) : (size_t)(to - from));
}

static bool is_told(const char *prompt, const char *name)
{
    char *text = told(prompt, name);
    bool is = text != NULL;

    free(text);
    return is;
}

static struct nef_token token_of(const struct nef_generation *n, uint32_t token, uint32_t position,
                                 struct nef_logprob top[NEF_ENGINE_LOGPROBS_MAX])
{
    struct nef_token t = {token, position, NAN, NULL, 0};

    if (n->g.logprobs == 0)
        return t;
    t.logprob = -(float)token / 64;
    t.top = top;
    t.top_count = n->g.logprobs - 1;
    for (uint32_t i = 0; i < t.top_count; i++)
        top[i] = (struct nef_logprob){(token + 1 + i) % TINY_VOCAB, -(float)(token + 1 + i) / 64};
    return t;
}

static bool one(struct nef_generation *n, uint32_t token, uint32_t *made, enum nef_finish *finish)
{
    struct nef_logprob top[NEF_ENGINE_LOGPROBS_MAX];
    struct nef_token t = token_of(n, token, n->g.prompt_count - n->g.continued + *made, top);

    if (atomic_load(&n->cancelled)) {
        *finish = NEF_FINISH_CANCELLED;
        return false;
    }
    if (n->slow_ms > 0)
        (void)usleep((useconds_t)n->slow_ms * 1000);
    if (*made == n->g.tokens_max) {
        *finish = NEF_FINISH_LENGTH;
        return false;
    }
    (*made)++;
    if (!n->g.token(n->g.context, &t)) {
        *finish = NEF_FINISH_STOP;
        return false;
    }
    return true;
}

static void embed(struct nef_generation *n)
{
    const float values[4] = {(float)n->g.prompt_count, (float)n->first, (float)n->last, (float)n->g.pooling};

    while (n->hang && !atomic_load(&n->cancelled))
        (void)usleep(1000);
    if (n->hang || n->fail) {
        n->g.finished(n->g.context, n->hang ? NEF_FINISH_CANCELLED : NEF_FINISH_ERROR, n->hang ? NEF_OK : NEF_E_CORRUPT,
                      0);
        return;
    }
    n->g.embedding(n->g.context, values, 4);
    n->g.finished(n->g.context, NEF_FINISH_STOP, NEF_OK, 0);
}

static void tell_prompt(struct nef_generation *n)
{
    struct nef_logprob top[NEF_ENGINE_LOGPROBS_MAX];

    for (uint32_t i = 0; i < n->g.prompt_count - n->g.continued; i++) {
        struct nef_token t = token_of(n, (uint8_t)n->prompt[i], i, top);

        if (i == 0) {
            t.logprob = NAN;
            t.top_count = 0;
        }
        n->g.prompt_token(n->g.context, &t);
    }
}

static void speak(struct nef_generation *n)
{
    enum nef_finish finish = NEF_FINISH_STOP;
    uint32_t made = n->g.continued, skip = made;

    if (n->g.embedding != NULL) {
        embed(n);
        return;
    }
    if (n->g.prompt_logprobs)
        tell_prompt(n);
    while (n->hang && !atomic_load(&n->cancelled))
        (void)usleep(1000);
    do {
        for (const char *c = n->say; *c != '\0'; c++)
            if (skip > 0)
                skip--;
            else if (!one(n, (uint8_t)*c, &made, &finish))
                goto out;
    } while (n->endless && n->say[0] != '\0');
    if (made == n->g.tokens_max)
        finish = NEF_FINISH_LENGTH;
    else if (n->hang)
        finish = NEF_FINISH_CANCELLED;
    if (n->fail)
        finish = NEF_FINISH_ERROR;
out:
    n->g.finished(n->g.context, finish, finish == NEF_FINISH_ERROR ? NEF_E_CORRUPT : NEF_OK, 0);
}

static void *run(void *context)
{
    struct nef_generation *n = context;

    (void)pthread_mutex_lock(&engine.lock);
    while (engine.running == engine.slots && !atomic_load(&n->cancelled)) {
        (void)pthread_mutex_unlock(&engine.lock);
        (void)usleep(1000);
        (void)pthread_mutex_lock(&engine.lock);
    }
    engine.running++;
    (void)pthread_mutex_unlock(&engine.lock);
    speak(n);
    (void)pthread_mutex_lock(&engine.lock);
    engine.running--;
    engine.admitted--;
    (void)pthread_mutex_unlock(&engine.lock);
    nef_generation_unref(n);
    return NULL;
}

static void tell_whose(struct nef_generation *n)
{
    struct nef_buf text = {0};

    for (int i = 0; i < 32; i++)
        nef_buf_printf(&text, "%02x", n->g.salt[i]);
    nef_buf_printf(&text, " %llx %u %u", (unsigned long long)n->g.tenant, n->g.weight, n->g.priority);
    free(n->say);
    n->say = strdup(nef_buf_cstr(&text));
    nef_buf_free(&text);
}

static void tell_asked(struct nef_generation *n)
{
    const struct nef_sampling *s = &n->g.sampling;
    struct nef_buf text = {0};

    nef_buf_printf(&text, "seed=%llu presence=%g frequency=%g repetition=%g bias=", (unsigned long long)s->seed,
                   (double)s->presence_penalty, (double)s->frequency_penalty, (double)s->repetition_penalty);
    for (uint32_t i = 0; i < n->g.bias_count; i++)
        nef_buf_printf(&text, "%u:%g,", n->g.bias[i].token, (double)n->g.bias[i].bias);
    nef_buf_printf(&text, " grammar=%d budget=%u/%u", n->g.grammar != NULL, n->g.thinking_max, n->g.budget_count);
    free(n->say);
    n->say = strdup(nef_buf_cstr(&text));
    nef_buf_free(&text);
}

void nef_engine_stats(struct nef_engine *e, struct nef_engine_stats *out_stats)
{
    (void)pthread_mutex_lock(&e->lock);
    *out_stats = (struct nef_engine_stats){
        .running = e->running, .waiting = e->admitted - e->running, .slots = e->slots, .requests = 7};
    (void)pthread_mutex_unlock(&e->lock);
}

nef_err nef_engine_generate(struct nef_engine *e, const struct nef_generate *g, struct nef_generation **out_generation)
{
    struct nef_generation *n;
    char *slow;
    pthread_t thread;
    bool busy;

    (void)pthread_mutex_lock(&e->lock);
    busy = e->admitted == e->slots + e->waiting_max;
    e->admitted += !busy;
    (void)pthread_mutex_unlock(&e->lock);
    if (busy)
        return NEF_E_BUSY;
    n = calloc(1, sizeof(*n));
    NEF_ASSERT(n != NULL && g->prompt_count > 0);
    n->g = *g;
    n->prompt = calloc(1, g->prompt_count + 1);
    NEF_ASSERT(n->prompt != NULL);
    for (uint32_t i = 0; i < g->prompt_count; i++)
        n->prompt[i] = g->prompt[i] < TINY_BYTES && g->prompt[i] != 0 ? (char)g->prompt[i] : ' ';
    n->say = told(n->prompt, "say");
    if (n->say == NULL)
        n->say = strdup("");
    slow = told(n->prompt, "slow");
    n->slow_ms = slow == NULL ? 0 : strtol(slow, NULL, 10);
    free(slow);
    n->endless = is_told(n->prompt, "endless");
    n->hang = is_told(n->prompt, "hang");
    n->fail = is_told(n->prompt, "fail");
    if (is_told(n->prompt, "whose"))
        tell_whose(n);
    if (is_told(n->prompt, "asked"))
        tell_asked(n);
    n->first = g->prompt[0];
    n->last = g->prompt[g->prompt_count - 1];
    atomic_init(&n->refs, 2);
    NEF_ASSERT(pthread_create(&thread, NULL, run, n) == 0 && pthread_detach(thread) == 0);
    *out_generation = n;
    return NEF_OK;
}

void nef_generation_cancel(struct nef_generation *n)
{
    atomic_store(&n->cancelled, true);
}

void nef_generation_unref(struct nef_generation *n)
{
    if (atomic_fetch_sub(&n->refs, 1) != 1)
        return;
    free(n->prompt);
    free(n->say);
    free(n);
}

int main(int argc, char **argv)
{
    struct nef_api_options o = {
        .listen = {.host = "127.0.0.1"},
        .connections_max = 512,
    };
    struct nef_api_model model = {
        .engine = &engine,
        .alias = "fake",
        .context = CONTEXT,
        .sampling = {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .repetition_penalty = 1},
        .vocab = TINY_VOCAB,
        .pooling = NEF_POOLING_LAST,
        .embedding_end = TINY_ENDOFTEXT,
        .context_trained = CONTEXT,
        .embedding = 4,
        .kernels = "scalar",
        .kv_type = "bf16",
    };
    struct nef_tokenizer *tokenizer = tiny_tokenizer(&model.family);
    struct nef_api *api = NULL;
    sigset_t signals;
    int number;

    NEF_ASSERT(argc > 1 && nef_crypto_init() == NEF_OK);
    if (strncmp(argv[1], "unix:", 5) == 0)
        o.unix_path = argv[1] + 5;
    else
        o.listen.port = (uint16_t)atoi(argv[1]);
    if (argc > 2)
        engine.slots = (uint32_t)atoi(argv[2]);
    if (argc > 3)
        engine.waiting_max = (uint32_t)atoi(argv[3]);
    o.trust_salt = argc > 4 && strcmp(argv[4], "--trust-salt") == 0;
    model.tokenizer = tokenizer;
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGUSR1);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    nef_trace_setup(2, "fake", NEF_TRACE_INFO);
    if (nef_api_start(&o, &api) != NEF_OK) {
        nef_tokenizer_close(tokenizer);
        return 1;
    }
    if (argc <= 4 || strcmp(argv[4], "--loading") != 0)
        NEF_ASSERT(nef_api_serve(api, &model) == NEF_OK);
    printf("port %u\n", nef_api_port(api));
    (void)fflush(stdout);
    while (sigwait(&signals, &number) != 0 || number == SIGUSR1)
        NEF_ASSERT(nef_api_serve(api, &model) == NEF_OK);
    nef_api_quiesce(api);
    for (int i = 0; i < 100 && nef_api_active(api) > 0; i++)
        (void)usleep(20000);
    nef_api_stop(api);
    nef_tokenizer_close(tokenizer);
    return 0;
}
