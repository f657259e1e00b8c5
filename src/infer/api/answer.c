/* An answer in the making; see answer.h. */
#include "infer/api/answer.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "io/clock.h"

nef_err nef_answer_init(struct nef_answer *a, const struct nef_tokenizer *tokenizer, const struct nef_api_stop *stops,
                        uint32_t stop_count, uint32_t tokens_max)
{
    struct nef_stop *stop;
    nef_err err = nef_stop_open(stops, stop_count, &stop);

    if (err != NEF_OK)
        return err;
    *a = (struct nef_answer){.tokenizer = tokenizer, .stop = stop, .token_max = tokens_max};
    (void)pthread_mutex_init(&a->lock, NULL);
    return NEF_OK;
}

void nef_answer_done(struct nef_answer *a)
{
    if (a->stop == NULL)
        return;
    nef_stop_close(a->stop);
    nef_buf_free(&a->scratch);
    nef_buf_free(&a->text);
    free(a->tokens);
    (void)pthread_mutex_destroy(&a->lock);
    *a = (struct nef_answer){0};
}

/* ---- the engine's thread ---- */

static bool note_token(struct nef_answer *a, uint32_t token)
{
    if (a->token_count == a->token_capacity) {
        uint32_t capacity = a->token_capacity == 0 ? 64 : a->token_capacity * 2;
        struct nef_answer_token *grown;

        capacity = NEF_MIN(capacity, a->token_max);
        NEF_ASSERT(capacity > a->token_count);
        grown = realloc(a->tokens, capacity * sizeof(*grown));
        if (grown == NULL)
            return false;
        a->tokens = grown;
        a->token_capacity = capacity;
    }
    a->tokens[a->token_count++] = (struct nef_answer_token){token, 0};
    return true;
}

/* BYTES of a token, or at the end the held tail of a character. */
static void add_text(struct nef_answer *a, const char *bytes, size_t count, bool last)
{
    size_t used = 0, held = 0, got;
    char *out;

    nef_buf_reset(&a->scratch);
    out = (char *)nef_buf_grow(&a->scratch, 3 * (count + 4));
    if (out == NULL) {
        a->failed = true;
        return;
    }
    got = nef_utf8_stream_take(&a->utf8, bytes, count, last, out);
    a->stopped = nef_stop_take(a->stop, out, got, &used, &held);
    nef_buf_append(&a->text, out, used);
    if (a->text.failed) {
        a->failed = true;
        return;
    }
    if (a->stopped) {
        NEF_ASSERT(a->text.bytes >= held);
        a->text.bytes -= held; /* the stop string itself */
        held = 0;
    }
    a->released = a->text_base + a->text.bytes - held;
}

bool nef_answer_put(struct nef_answer *a, uint32_t token, bool *out_news)
{
    uint64_t before;
    size_t count = 0;
    const char *bytes = nef_token_bytes(a->tokenizer, token, &count);
    bool go_on;

    (void)pthread_mutex_lock(&a->lock);
    before = a->released;
    if (a->token_count == 0)
        a->first_token_ns = nef_now_ns();
    if (!note_token(a, token)) {
        a->failed = true;
    } else {
        if (!nef_token_control(a->tokenizer, token))
            add_text(a, bytes, count, false);
        /* Where its text ends: what the stream of characters still holds back counts, so that the id waits for it. */
        a->tokens[a->token_count - 1].end = (uint32_t)(a->text_base + a->text.bytes + a->utf8.held_bytes);
    }
    *out_news = a->released > before || (a->token_count > 0 && a->tokens[a->token_count - 1].end <= a->released);
    go_on = !a->stopped && !a->failed;
    (void)pthread_mutex_unlock(&a->lock);
    return go_on;
}

void nef_answer_finish(struct nef_answer *a, enum nef_finish finish, nef_err err, uint32_t cached)
{
    (void)pthread_mutex_lock(&a->lock);
    if (!a->stopped && !a->failed && (finish == NEF_FINISH_STOP || finish == NEF_FINISH_LENGTH)) {
        add_text(a, "", 0, true);
        if (!a->stopped)
            a->released = a->text_base + a->text.bytes; /* no stop string comes any more */
    }
    a->finish = a->failed ? NEF_FINISH_ERROR : a->stopped ? NEF_FINISH_STOP : finish;
    a->err = a->failed ? NEF_E_NOMEM : err;
    a->cached = cached;
    a->finished = true;
    (void)pthread_mutex_unlock(&a->lock);
}

/* ---- the listener's thread ---- */

/* Cut a length so that no character is split. */
static size_t whole_characters(const uint8_t *text, size_t bytes, size_t max)
{
    size_t cut = max;

    if (bytes <= max)
        return bytes;
    while (cut > 0 && (text[cut] & 0xc0) == 0x80)
        cut--;
    return cut;
}

void nef_answer_take(struct nef_answer *a, size_t text_max, struct nef_buf *text, struct nef_buf *tokens,
                     struct nef_answer_state *out_state)
{
    size_t bytes;

    NEF_ASSERT(text_max >= 4);
    (void)pthread_mutex_lock(&a->lock);
    bytes = whole_characters(a->text.data, (size_t)(a->released - a->text_base), text_max);
    nef_buf_append(text, a->text.data, bytes);
    if (bytes > 0)
        memmove(a->text.data, a->text.data + bytes, a->text.bytes - bytes);
    a->text.bytes -= bytes;
    a->text_base += bytes;
    /* After the end of it all, ids whose text was cut away by a stop string go out too. */
    while (a->tokens_taken < a->token_count &&
           (a->tokens[a->tokens_taken].end <= a->text_base || (a->finished && a->text_base == a->released))) {
        if (tokens != NULL)
            nef_buf_append(tokens, &a->tokens[a->tokens_taken].id, sizeof(uint32_t));
        a->tokens_taken++;
    }
    *out_state = (struct nef_answer_state){
        .finished = a->finished && a->text_base == a->released,
        .finish = a->finish,
        .err = a->err,
        .tokens = a->token_count,
        .cached = a->cached,
    };
    (void)pthread_mutex_unlock(&a->lock);
}
