/* An answer in the making; see answer.h. */
#include "infer/api/answer.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "io/clock.h"

nef_err nef_answer_init(struct nef_answer *a, const struct nef_answer_options *options)
{
    struct nef_stop *stop;
    nef_err err = nef_stop_open(options->stops, options->stop_count, &stop);

    if (err != NEF_OK)
        return err;
    *a = (struct nef_answer){.options = *options, .stop = stop};
    a->options.stops = NULL; /* the caller's */
    (void)pthread_mutex_init(&a->lock, NULL);
    return NEF_OK;
}

void nef_answer_done(struct nef_answer *a)
{
    if (a->stop == NULL)
        return;
    if (a->options.memory != NULL)
        (void)atomic_fetch_sub(a->options.memory, a->counted);
    nef_stop_close(a->stop);
    nef_buf_free(&a->scratch);
    nef_buf_free(&a->text);
    free(a->tokens);
    free(a->tops);
    (void)pthread_mutex_destroy(&a->lock);
    *a = (struct nef_answer){0};
}

/* ---- the engine's thread ---- */

/* Room for one token more. */
static bool grow(struct nef_answer *a)
{
    uint64_t each = sizeof(*a->tokens) + a->options.top * sizeof(*a->tops), more;
    uint32_t capacity = a->capacity == 0 ? 64 : a->capacity * 2;
    struct nef_answer_token *tokens;
    struct nef_logprob *tops;

    if (a->count < a->capacity)
        return true;
    NEF_ASSERT(a->put < a->options.tokens_max);
    capacity = NEF_MIN(capacity, a->options.tokens_max);
    NEF_ASSERT(capacity > a->count);
    more = (capacity - a->capacity) * each;
    if (a->options.memory != NULL) {
        a->counted += more;
        if (atomic_fetch_add(a->options.memory, more) + more > a->options.memory_max) {
            a->failed = NEF_E_LIMIT;
            return false;
        }
    }
    tokens = realloc(a->tokens, capacity * sizeof(*tokens));
    if (tokens != NULL)
        a->tokens = tokens;
    tops = a->options.top == 0 ? a->tops : realloc(a->tops, (size_t)capacity * a->options.top * sizeof(*tops));
    if (tops != NULL)
        a->tops = tops;
    if (tokens == NULL || (tops == NULL && a->options.top > 0)) {
        a->failed = NEF_E_NOMEM;
        return false;
    }
    a->capacity = capacity;
    return true;
}

static bool note_token(struct nef_answer *a, const struct nef_token *token, bool prompt)
{
    uint32_t tops = NEF_MIN(token->top_count, a->options.top);

    if (!grow(a))
        return false;
    a->tokens[a->count] = (struct nef_answer_token){
        .id = token->token, .logprob = token->logprob, .top_count = (uint8_t)tops, .prompt = prompt};
    if (tops > 0)
        memcpy(a->tops + (size_t)a->count * a->options.top, token->top, tops * sizeof(*a->tops));
    a->count++;
    a->put++;
    a->prompt += prompt;
    return true;
}

/* BYTES of a token, or at the end the held tail of a character. */
static void add_text(struct nef_answer *a, const char *bytes, size_t count, bool last, bool prompt)
{
    size_t used = 0, held = 0, got;
    char *out;

    nef_buf_reset(&a->scratch);
    out = (char *)nef_buf_grow(&a->scratch, 3 * (count + 4));
    if (out == NULL) {
        a->failed = NEF_E_NOMEM;
        return;
    }
    got = nef_utf8_stream_take(&a->utf8, bytes, count, last, out);
    if (prompt)
        used = got;
    else
        a->stopped = nef_stop_take(a->stop, out, got, &used, &held);
    nef_buf_append(&a->text, out, used);
    if (a->text.failed) {
        a->failed = NEF_E_NOMEM;
        return;
    }
    if (a->stopped) {
        /* The stop string itself. It lies in tokens that weren't released; only ids from outside (nef_answer_given) may
         * have given a part of it. */
        a->text.bytes -= NEF_MIN(held, a->text.bytes);
        held = 0;
    }
    a->held = (uint32_t)held;
}

static uint64_t text_end(const struct nef_answer *a)
{
    return a->text_base + a->text.bytes;
}

/* Move `released` past the tokens whose text is all there and can't be part of a stop string. */
static void release(struct nef_answer *a)
{
    while (a->scanned < a->count && a->tokens[a->scanned].end + (uint64_t)a->held <= text_end(a))
        if (a->tokens[a->scanned++].whole)
            a->released = a->scanned;
}

static void put(struct nef_answer *a, const struct nef_token *token, bool prompt)
{
    struct nef_answer_token *noted;
    size_t count = 0;
    const char *bytes = nef_token_bytes(a->options.tokenizer, token->token, &count);

    if (!note_token(a, token, prompt))
        return;
    if (!nef_token_control(a->options.tokenizer, token->token))
        add_text(a, bytes, count, false, prompt);
    noted = &a->tokens[a->count - 1];
    noted->end = (uint32_t)text_end(a);
    noted->whole = a->utf8.held_bytes == 0;
    if (!a->stopped) /* what a stop string cut comes with the end */
        release(a);
}

bool nef_answer_put(struct nef_answer *a, const struct nef_token *token, bool *out_news)
{
    uint32_t before;
    bool go_on;

    (void)pthread_mutex_lock(&a->lock);
    before = a->released;
    a->last_token_ns = nef_now_ns();
    if (a->first_token_ns == 0)
        a->first_token_ns = a->last_token_ns;
    put(a, token, false);
    *out_news = a->released > before;
    go_on = !a->stopped && a->failed == NEF_OK;
    (void)pthread_mutex_unlock(&a->lock);
    return go_on;
}

void nef_answer_put_prompt(struct nef_answer *a, const struct nef_token *token)
{
    (void)pthread_mutex_lock(&a->lock);
    if (a->failed == NEF_OK)
        put(a, token, true);
    (void)pthread_mutex_unlock(&a->lock);
}

void nef_answer_finish(struct nef_answer *a, enum nef_finish finish, nef_err err, uint32_t cached)
{
    (void)pthread_mutex_lock(&a->lock);
    if (!a->stopped && a->failed == NEF_OK && (finish == NEF_FINISH_STOP || finish == NEF_FINISH_LENGTH))
        add_text(a, "", 0, true, false);
    a->held = 0; /* no stop string comes any more */
    /* Everything goes out now, in one piece with the end: also ids whose text a stop string cut away, and those that
     * ended in half a character. Without the end nobody could tell what of them was given. */
    for (uint32_t i = a->released; i < a->count; i++) {
        a->tokens[i].whole = i + 1 == a->count;
        a->tokens[i].end = (uint32_t)(i + 1 == a->count ? text_end(a) : NEF_MIN(a->tokens[i].end, text_end(a)));
    }
    a->released = a->scanned = a->count;
    a->finish = a->failed != NEF_OK ? NEF_FINISH_ERROR : a->stopped ? NEF_FINISH_STOP : finish;
    a->err = a->failed != NEF_OK ? a->failed : err;
    a->cached = cached;
    a->finished = true;
    (void)pthread_mutex_unlock(&a->lock);
}

void nef_answer_given(struct nef_answer *a, struct nef_piece *piece)
{
    struct nef_answer_state state;

    (void)pthread_mutex_lock(&a->lock);
    a->released = a->scanned = a->count;
    a->first_token_ns = a->last_token_ns = 0;
    (void)pthread_mutex_unlock(&a->lock);
    nef_answer_take(a, NEF_BUF_MAX, UINT32_MAX, piece, &state);
}

/* ---- the listener's thread ---- */

/* The first token after FROM at which a piece may end, of those that are released. */
static uint32_t next_border(const struct nef_answer *a, uint32_t from)
{
    while (from < a->released && !a->tokens[from].whole)
        from++;
    return NEF_MIN(from + 1, a->released);
}

static void drop(struct nef_answer *a, uint32_t count, size_t bytes)
{
    const uint32_t top = a->options.top;

    if (bytes > 0)
        memmove(a->text.data, a->text.data + bytes, a->text.bytes - bytes);
    a->text.bytes -= bytes;
    a->text_base += bytes;
    a->count -= count;
    a->released -= count;
    a->scanned -= count;
    if (count > 0) {
        memmove(a->tokens, a->tokens + count, a->count * sizeof(*a->tokens));
        if (top > 0)
            memmove(a->tops, a->tops + (size_t)count * top, (size_t)a->count * top * sizeof(*a->tops));
    }
}

void nef_answer_take(struct nef_answer *a, size_t text_max, uint32_t tokens_max, struct nef_piece *piece,
                     struct nef_answer_state *out_state)
{
    size_t bytes = 0, before = piece->text.bytes;
    uint32_t taken = 0;

    (void)pthread_mutex_lock(&a->lock);
    while (taken < a->released) {
        uint32_t border = next_border(a, taken);
        size_t end = (size_t)(a->tokens[border - 1].end - a->text_base);

        if (taken > 0 && (end > text_max || border > tokens_max))
            break;
        taken = border;
        bytes = end;
    }
    nef_buf_append(&piece->text, a->text.data, bytes);
    for (uint32_t i = 0; i < taken; i++) {
        const struct nef_answer_token *t = &a->tokens[i];
        const struct nef_piece_token token = {.id = t->id,
                                              .end = (uint32_t)(before + (t->end - a->text_base)),
                                              .logprob = t->logprob,
                                              .top_count = t->top_count,
                                              .prompt = t->prompt};

        nef_buf_append(&piece->tokens, &token, sizeof(token));
        if (t->top_count > 0)
            nef_buf_append(&piece->tops, a->tops + (size_t)i * a->options.top, t->top_count * sizeof(*a->tops));
    }
    drop(a, taken, bytes);
    *out_state = (struct nef_answer_state){
        .finished = a->finished && a->count == 0,
        .finish = a->finish,
        .err = a->err,
        .tokens = (uint32_t)(a->put - a->prompt),
        .cached = a->cached,
    };
    (void)pthread_mutex_unlock(&a->lock);
}
