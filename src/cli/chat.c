/* `nef chat`: a conversation in the terminal, with the model in this process or with a region's (chat_region.h).
 *
 * The main thread reads lines, and while an answer is made it prints what the engine's thread has put into the answer
 * (infer/api/answer.h), through the chat parser: what the model thinks is shown dimmed. Control characters of an answer
 * are replaced on a terminal, since a model may say anything, escape sequences too. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/limits.h"
#include "base/trace.h"
#include "cli/chat_region.h"
#include "cli/cli.h"
#include "cli/infer_setup.h"
#include "crypto/crypto.h"
#include "infer/api/answer.h"
#include "infer/api/api.h"
#include "io/clock.h"

#define POLL_MS    20
#define TAKE_BYTES 65536u
#define DIM        "\033[2m"
#define PLAIN      "\033[0m"

struct chat {
    struct nef_infer_setup s;
    struct nef_infer_options options;
    json_t *messages;
    const char *system; /* NULL: the template's own */
    char *system_own;
    bool think, terminal;
    struct nef_sampling sampling;
    bool seed_said, temperature_said;
    struct nef_chat_region *region; /* NULL: the model is here */
    uint64_t prompt_tokens, cached_tokens, answer_tokens;
    /* the answer that is made */
    struct nef_answer answer;
    pthread_mutex_t lock;
    pthread_cond_t news;
    bool dimmed, said; /* said: something of this answer was printed */
    struct nef_buf content;
};

static atomic_bool interrupted;

static void on_interrupt(int number)
{
    (void)number;
    atomic_store(&interrupted, true);
}

/* ---- printing ---- */

static void style(struct chat *c, bool dim)
{
    if (c->dimmed == dim)
        return;
    if (c->terminal)
        (void)fputs(dim ? DIM : PLAIN, stdout);
    c->dimmed = dim;
}

static void print_text(struct chat *c, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char ch = (unsigned char)text[i];
        bool c1 = ch == 0xc2 && i + 1 < bytes && ((unsigned char)text[i + 1] & 0xe0) == 0x80;

        if (c->terminal && (c1 || ch == 0x7f || (ch < 0x20 && ch != '\n' && ch != '\t'))) {
            (void)fputs("\xef\xbf\xbd", stdout);
            i += c1 ? 1 : 0;
        } else {
            (void)putchar(ch);
        }
    }
}

static void on_part(void *context, enum nef_chat_part part, uint32_t index, const char *text, size_t bytes)
{
    struct chat *c = context;

    (void)index;
    if (bytes == 0)
        return;
    if (part == NEF_CHAT_CONTENT) {
        if (c->dimmed && c->said)
            (void)fputs("\n\n", stdout);
        nef_buf_append(&c->content, text, bytes);
    }
    style(c, part != NEF_CHAT_CONTENT);
    print_text(c, text, bytes);
    c->said = true;
}

/* ---- the engine's thread ---- */

static bool on_ends(void *context, uint32_t token)
{
    const struct chat *c = context;

    return nef_token_ends(c->s.tokenizer, token);
}

static void tell(struct chat *c)
{
    (void)pthread_mutex_lock(&c->lock);
    (void)pthread_cond_signal(&c->news);
    (void)pthread_mutex_unlock(&c->lock);
}

static bool on_token(void *context, const struct nef_token *token)
{
    struct chat *c = context;
    bool news, go_on = nef_answer_put(&c->answer, token, &news);

    if (news)
        tell(c);
    return go_on;
}

static void on_finished(void *context, enum nef_finish finish, nef_err err, uint32_t cached)
{
    struct chat *c = context;

    nef_answer_finish(&c->answer, finish, err, cached);
    tell(c);
}

/* ---- a turn ---- */

static void wait_news(struct chat *c)
{
    struct timespec at;

    (void)clock_gettime(CLOCK_REALTIME, &at);
    at.tv_nsec += POLL_MS * 1000000l;
    if (at.tv_nsec >= 1000000000l) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000l;
    }
    (void)pthread_mutex_lock(&c->lock);
    (void)pthread_cond_timedwait(&c->news, &c->lock, &at);
    (void)pthread_mutex_unlock(&c->lock);
}

/* Prints until the answer is whole, or was stopped. */
static nef_err follow(struct chat *c, struct nef_generation *generation, struct nef_chat_parser *parser,
                      struct nef_answer_state *out_state)
{
    bool cancelled = false;
    nef_err err = NEF_OK;

    for (;;) {
        struct nef_piece piece = {.text = {0}};

        if (!cancelled && (atomic_load(&interrupted) || err != NEF_OK)) {
            nef_generation_cancel(generation);
            cancelled = true;
        }
        nef_answer_take(&c->answer, TAKE_BYTES, UINT32_MAX, &piece, out_state);
        if (err == NEF_OK && piece.text.bytes > 0)
            err = nef_chat_parser_take(parser, (const char *)piece.text.data, piece.text.bytes);
        if (piece.text.failed)
            err = NEF_E_NOMEM;
        if (piece.text.bytes > 0)
            (void)fflush(stdout);
        else if (!out_state->finished)
            wait_news(c);
        nef_piece_free(&piece);
        if (out_state->finished)
            break;
    }
    return err == NEF_OK ? nef_chat_parser_end(parser) : err;
}

static void print_figures(struct chat *c, const struct nef_answer_state *state, uint32_t prompt, uint64_t start_ns)
{
    uint64_t end_ns = nef_now_ns(), first_ns = c->answer.first_token_ns;
    double decode = first_ns == 0 ? 0 : (double)(end_ns - first_ns) / 1e9;

    c->prompt_tokens += prompt;
    c->cached_tokens += state->cached;
    c->answer_tokens += state->tokens;
    (void)fflush(stdout);
    if (!c->terminal)
        return;
    (void)fprintf(stderr, DIM "[%u tokens", state->tokens);
    if (state->tokens > 1 && decode > 0)
        (void)fprintf(stderr, ", %.1f tok/s", (state->tokens - 1) / decode);
    if (first_ns != 0)
        (void)fprintf(stderr, ", first after %.2f s", (double)(first_ns - start_ns) / 1e9);
    (void)fprintf(stderr, "; prompt %u, %u of it known%s]" PLAIN "\n\n", prompt, state->cached,
                  state->finish == NEF_FINISH_LENGTH      ? "; the context is full"
                  : state->finish == NEF_FINISH_CANCELLED ? "; stopped"
                                                          : "");
}

static nef_err prompt_of(struct chat *c, uint32_t **out_tokens, uint32_t *out_count)
{
    const struct nef_chat_options options = {
        .family = c->s.family,
        .messages = c->messages,
        .add_generation_prompt = true,
        .enable_thinking = c->think,
    };
    char why[NEF_CHAT_ERROR_MAX] = "", *text = NULL;
    size_t bytes = 0;
    nef_err err = nef_chat_render(&options, why, &text, &bytes);

    if (err != NEF_OK && why[0] != '\0')
        (void)nef_complain("chat", "%s", why);
    if (err == NEF_OK)
        err = nef_tokenize(c->s.tokenizer, text, bytes, true, out_tokens, out_count);
    free(text);
    return err;
}

static nef_err add_message(struct chat *c, const char *role, const char *text, size_t bytes)
{
    json_t *content = json_stringn(text, bytes); /* NULL unless it is UTF-8 */

    if (content == NULL)
        return NEF_E_INVALID;
    return json_array_append_new(c->messages, json_pack("{s:s, s:o}", "role", role, "content", content)) == 0 ? NEF_OK
                                                                                                          : NEF_E_NOMEM;
}

static nef_err clear(struct chat *c)
{
    if (json_array_clear(c->messages) != 0)
        return NEF_E_NOMEM;
    return c->system == NULL ? NEF_OK : add_message(c, "system", c->system, strlen(c->system));
}

static nef_err answer(struct chat *c)
{
    struct nef_generate g = {.sampling = c->sampling, .ends = on_ends, .token = on_token, .finished = on_finished,
                             .context = c};
    struct nef_generation *generation = NULL;
    struct nef_chat_parser *parser = NULL;
    struct nef_answer_state state = {0};
    uint32_t *tokens = NULL, count = 0;
    uint64_t start = nef_now_ns();
    nef_err err = prompt_of(c, &tokens, &count);

    if (err == NEF_OK && count >= c->s.context)
        err = NEF_E_LIMIT;
    if (err != NEF_OK)
        goto out;
    g.prompt = tokens;
    g.prompt_count = count;
    g.tokens_max = c->s.context - count;
    if (!c->seed_said)
        g.sampling.seed = nef_random_u64();
    err = nef_answer_init(&c->answer,
                          &(struct nef_answer_options){.tokenizer = c->s.tokenizer, .tokens_max = g.tokens_max});
    if (err == NEF_OK)
        err = nef_chat_parser_open(c->think && c->s.family == NEF_CHAT_QWEN3, false, on_part, c, &parser);
    if (err == NEF_OK) {
        c->said = false;
        nef_buf_reset(&c->content);
        err = nef_engine_generate(c->s.engine, &g, &generation);
    }
    if (err != NEF_OK)
        goto out;
    err = follow(c, generation, parser, &state);
    style(c, false);
    (void)putchar('\n');
    print_figures(c, &state, count, start);
    if (err == NEF_OK && state.finish == NEF_FINISH_ERROR)
        err = state.err;
    if (err == NEF_OK)
        err = add_message(c, "assistant", c->content.bytes == 0 ? "" : (const char *)c->content.data, c->content.bytes);
out:
    if (parser != NULL)
        nef_chat_parser_close(parser);
    if (generation != NULL)
        nef_generation_unref(generation);
    nef_answer_done(&c->answer);
    free(tokens);
    return err;
}

/* ---- a turn with a region ---- */

static void on_region_part(void *context, bool reasoning, const char *text, size_t bytes)
{
    on_part(context, reasoning ? NEF_CHAT_REASONING : NEF_CHAT_CONTENT, 0, text, bytes);
    (void)fflush(stdout);
}

static void print_region_figures(struct chat *c, const struct nef_chat_region_answer *a, uint64_t start_ns)
{
    double decode = a->first_ns == 0 ? 0 : (double)(nef_now_ns() - a->first_ns) / 1e9;

    c->prompt_tokens += a->prompt;
    c->cached_tokens += a->cached;
    c->answer_tokens += a->completion;
    (void)fflush(stdout);
    if (!c->terminal)
        return;
    (void)fprintf(stderr, DIM "[%llu tokens", (unsigned long long)a->completion);
    if (a->completion > 1 && decode > 0)
        (void)fprintf(stderr, ", %.1f tok/s", (double)(a->completion - 1) / decode);
    if (a->first_ns != 0)
        (void)fprintf(stderr, ", first after %.2f s", (double)(a->first_ns - start_ns) / 1e9);
    (void)fprintf(stderr, "; prompt %llu, %llu of it known%s]" PLAIN "\n\n", (unsigned long long)a->prompt,
                  (unsigned long long)a->cached,
                  a->stopped ? "; stopped"
                  : a->cut   ? "; the context is full"
                             : "");
}

static nef_err answer_of_region(struct chat *c)
{
    struct nef_chat_region_answer a;
    uint64_t start = nef_now_ns();
    json_t *body = json_pack("{s:O}", "messages", c->messages);
    nef_err err = body == NULL ? NEF_E_NOMEM : NEF_OK;

    if (err == NEF_OK &&
        ((c->temperature_said &&
          json_object_set_new(body, "temperature", json_real((double)c->sampling.temperature)) != 0) ||
         (c->seed_said &&
          json_object_set_new(body, "seed", json_integer((json_int_t)(c->sampling.seed & INT64_MAX))) != 0) ||
         (!c->think &&
          json_object_set_new(body, "chat_template_kwargs", json_pack("{s:b}", "enable_thinking", 0)) != 0)))
        err = NEF_E_NOMEM;
    c->said = false;
    nef_buf_reset(&c->content);
    if (err == NEF_OK)
        err = nef_chat_region_ask(c->region, body, on_region_part, c, &interrupted, &a);
    json_decref(body);
    style(c, false);
    if (c->said)
        (void)putchar('\n');
    if (err == NEF_E_UNAVAILABLE)
        (void)nef_complain("chat", "%s", a.why);
    if (err != NEF_OK)
        return err;
    print_region_figures(c, &a, start);
    return add_message(c, "assistant", c->content.bytes == 0 ? "" : (const char *)c->content.data, c->content.bytes);
}

static void turn(struct chat *c, const char *line, size_t bytes)
{
    size_t before = json_array_size(c->messages);
    nef_err err = add_message(c, "user", line, bytes);

    atomic_store(&interrupted, false);
    if (err == NEF_OK)
        err = c->region != NULL ? answer_of_region(c) : answer(c);
    if (err == NEF_OK)
        return;
    while (json_array_size(c->messages) > before) /* as if it had not been asked */
        (void)json_array_remove(c->messages, json_array_size(c->messages) - 1);
    if (c->region == NULL || err != NEF_E_UNAVAILABLE) /* that was said */
        (void)nef_complain("chat", "%s",
                       err == NEF_E_LIMIT
                           ? "the conversation doesn't fit into the context any more; /clear begins a new one"
                       : err == NEF_E_INVALID ? "that isn't UTF-8"
                                              : nef_err_text(err));
}

/* ---- commands ---- */

static bool number_of(const char *text, double low, double high, double *out)
{
    char *end;

    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out >= low && *out <= high;
}

static bool set_temperature(struct chat *c, const char *text)
{
    double value;

    if (!number_of(text, 0, 2, &value)) {
        (void)nef_complain("chat", "a temperature is a number from 0 to 2, not '%s'", text);
        return false;
    }
    c->sampling.temperature = (float)value;
    c->temperature_said = true;
    return true;
}

static bool set_seed(struct chat *c, const char *text)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || *end != '\0') {
        (void)nef_complain("chat", "a seed is a whole number, not '%s'", text);
        return false;
    }
    c->sampling.seed = value;
    c->seed_said = true;
    return true;
}

static bool set_system(struct chat *c, const char *text)
{
    char *own = strdup(text);

    if (own == NULL)
        return false;
    free(c->system_own);
    c->system_own = own;
    c->system = own[0] == '\0' ? NULL : own;
    return clear(c) == NEF_OK;
}

/* False: the conversation ends. */
static bool command(struct chat *c, char *line)
{
    char *argument = line + strcspn(line, " ");

    if (*argument != '\0')
        *argument++ = '\0';
    argument += strspn(argument, " ");
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
        return false;
    if (strcmp(line, "/clear") == 0) {
        if (clear(c) != NEF_OK)
            (void)nef_complain("chat", "out of memory");
    } else if (strcmp(line, "/system") == 0) {
        if (!set_system(c, argument))
            (void)nef_complain("chat", "that can't be the instructions (is it UTF-8?)");
    } else if (strcmp(line, "/think") == 0) {
        if (strcmp(argument, "on") == 0 || strcmp(argument, "off") == 0)
            c->think = strcmp(argument, "on") == 0;
        else
            (void)nef_complain("chat", "/think on, or /think off");
    } else if (strcmp(line, "/temperature") == 0) {
        (void)set_temperature(c, argument);
    } else if (strcmp(line, "/seed") == 0) {
        if (strcmp(argument, "off") == 0)
            c->seed_said = false;
        else
            (void)set_seed(c, argument);
    } else if (strcmp(line, "/stats") == 0) {
        printf("prompts %llu tokens (%llu of them known), answers %llu tokens", (unsigned long long)c->prompt_tokens,
               (unsigned long long)c->cached_tokens, (unsigned long long)c->answer_tokens);
        if (c->region == NULL)
            printf("; context %u", c->s.context);
        (void)putchar('\n');
    } else {
        if (strcmp(line, "/help") != 0)
            (void)nef_complain("chat", "there is no %s", line);
        printf("/clear  /system TEXT  /think on|off  /temperature T  /seed N|off  /stats  /quit\n"
               "Ctrl-C stops an answer, Ctrl-D ends; a line that ends with \\ goes on in the next.\n");
    }
    return true;
}

/* One entry, lines that end with \ joined. False: the input has ended. */
static bool read_entry(struct chat *c, char **line, size_t *room, struct nef_buf *out)
{
    nef_buf_reset(out);
    for (;;) {
        ssize_t bytes;

        if (c->terminal) {
            (void)fputs(out->bytes == 0 ? "> " : ". ", stdout);
            (void)fflush(stdout);
        }
        bytes = getline(line, room, stdin);
        if (bytes < 0 && atomic_exchange(&interrupted, false)) { /* Ctrl-C: begin again */
            clearerr(stdin);
            (void)putchar('\n');
            nef_buf_reset(out);
            continue;
        }
        if (bytes < 0)
            return out->bytes > 0;
        while (bytes > 0 && ((*line)[bytes - 1] == '\n' || (*line)[bytes - 1] == '\r'))
            bytes--;
        if (bytes == 0 || (*line)[bytes - 1] != '\\') {
            nef_buf_append(out, *line, (size_t)bytes);
            return true;
        }
        (*line)[bytes - 1] = '\n';
        nef_buf_append(out, *line, (size_t)bytes);
    }
}

static void talk(struct chat *c)
{
    struct nef_buf entry = {0};
    char *line = NULL;
    size_t room = 0;
    bool go_on = true;

    while (go_on && read_entry(c, &line, &room, &entry)) {
        const char *text = nef_buf_cstr(&entry);

        if (entry.bytes == 0)
            continue;
        if (text[0] == '/')
            go_on = command(c, (char *)entry.data);
        else
            turn(c, text, entry.bytes);
    }
    if (c->terminal && go_on)
        (void)putchar('\n');
    if (line != NULL)
        nef_wipe(line, room);
    free(line);
    nef_buf_free(&entry);
}

/* SIGINT comes to this thread alone: threads inherit the mask that holds while they are started. */
static int start(struct chat *c)
{
    struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: it ends a getline */
    sigset_t interrupt;
    int status;

    (void)sigemptyset(&interrupt);
    (void)sigaddset(&interrupt, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &interrupt, NULL);
    status = nef_infer_load(&c->options, &c->s);
    if (status == 0)
        status = nef_infer_engine(&c->options, &c->s);
    if (status != 0)
        return status;
    if (c->s.family == NEF_CHAT_UNKNOWN)
        return nef_complain("chat", "%s: tokenizer.chat_template is none of Qwen's", c->options.model);
    (void)sigaction(SIGINT, &action, NULL);
    (void)pthread_sigmask(SIG_UNBLOCK, &interrupt, NULL);
    return 0;
}

/* Of a region; SIGINT stops an answer. */
static int start_region(struct chat *c, const struct nef_chat_region_options *options)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    int status = nef_chat_region_open(options, &c->region);

    if (status == 0)
        (void)sigaction(SIGINT, &action, NULL);
    return status;
}

int nef_cmd_chat(int argc, char **argv)
{
    struct nef_chat_region_options region = {.dir = NULL};
    struct chat c = {.options = {.command = "chat", .slots = 1, .waiting_max = 1}, .think = true};
    const char *temperature = NULL, *seed = NULL;
    bool no_think = false, remote;
    const struct nef_option options[] = {
        {.name = "model", .text = &c.options.model},
        {.name = "dir", .text = &region.dir},
        {.name = "endpoint", .text = &region.endpoint},
        {.name = "ca", .text = &region.ca},
        {.name = "system", .text = &c.system},
        {.name = "no-think", .flag = &no_think},
        {.name = "temperature", .text = &temperature},
        {.name = "seed", .text = &seed},
        {.name = "threads", .number = &c.options.threads, .min = 1, .max = 256},
        {.name = "ctx", .number = &c.options.context, .min = 64, .max = NEF_MODEL_CONTEXT_MAX},
        {.name = "kv-type", .text = &c.options.kv_type},
        {.name = "cache-file", .text = &c.options.cache_file},
        {.name = NULL},
    };
    struct nef_words words;
    int status;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    remote = region.dir != NULL || region.endpoint != NULL;
    if (c.options.model == NULL && !remote) {
        (void)nef_complain("chat", "say with whom: --dir DIR of a region, or --model FILE.gguf");
        return 2;
    }
    region.model = c.options.model;
    nef_trace_setup(2, "chat", NEF_TRACE_WARN);
    c.think = !no_think;
    c.terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    (void)pthread_mutex_init(&c.lock, NULL);
    (void)pthread_cond_init(&c.news, NULL);
    c.messages = json_array();
    status = c.messages == NULL ? nef_complain("chat", "out of memory")
             : remote           ? start_region(&c, &region)
                                : start(&c);
    if (status == 0) {
        if (!remote)
            c.sampling = nef_api_sampling_of(c.s.family, nef_model_config(c.s.model)->embedding);
        if ((temperature != NULL && !set_temperature(&c, temperature)) || (seed != NULL && !set_seed(&c, seed)))
            status = 2;
        else if (clear(&c) != NEF_OK)
            status = nef_complain("chat", "--system must be UTF-8");
    }
    if (status == 0) {
        if (c.terminal && remote)
            printf("%s. /help says what there is.\n\n", nef_chat_region_model(c.region));
        else if (c.terminal)
            printf("%s, context %u, loaded in %.1f s. /help says what there is.\n\n", c.s.alias, c.s.context,
                   (double)c.s.load_ms / 1000);
        talk(&c);
    }
    nef_infer_done(&c.s);
    nef_chat_region_close(c.region);
    json_decref(c.messages);
    free(c.system_own);
    nef_buf_free(&c.content);
    (void)pthread_cond_destroy(&c.news);
    (void)pthread_mutex_destroy(&c.lock);
    return status;
}
