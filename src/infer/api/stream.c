/* Taking answers out as the client reads: server-sent events, or one document. Listener's thread. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/api/api_internal.h"

/* At once, of one choice, and before the client has read it: what waits for a slow client stays in the answer, where it
 * is compact. A token with 20 alternatives takes some 2 KB in a chunk. */
#define TAKE_BYTES      8192u
#define TAKE_TOKENS     2048u
#define TAKE_LOGPROBS   64u
#define PENDING_BYTES   (64u << 10)

struct nef_usage nef_api_usage(const struct call *c)
{
    struct nef_usage u = {0};

    for (uint32_t i = 0; i < c->run_count; i++) {
        const struct run *run = &c->runs[i];

        if (run->first) { /* what its other choices share isn't counted again */
            u.prompt += run->prompt_tokens;
            u.cached += NEF_MIN(run->state.cached, run->prompt_tokens);
        }
        u.completion += run->state.tokens;
        if (run->choice != NULL)
            u.reasoning += nef_choice_reasoning(run->choice);
    }
    return u;
}

static void failure_of(const struct nef_answer_state *state, struct nef_api_error *out)
{
    if (state->finish == NEF_FINISH_CANCELLED)
        (void)nef_api_fail(out, 503, "cancelled", "", "The server is stopping.");
    else if (state->err == NEF_E_LIMIT)
        (void)nef_api_fail(out, 503, "too_much_unread", "", "Too many answers wait to be read; try again later.");
    else
        (void)nef_api_fail(out, 500, nef_err_name(state->err), "", "The generation failed: %s.",
                           nef_err_text(state->err));
}

/* Moves what there is of a run to its choice. False: the run failed; state says how. */
static bool advance(struct call *c, struct run *run, size_t text_max, uint32_t tokens_max)
{
    struct nef_piece piece = {.text = {0}};
    bool good;
    nef_err err;

    nef_answer_take(&run->answer, text_max, tokens_max, &piece, &run->state);
    good = run->state.finish == NEF_FINISH_STOP || run->state.finish == NEF_FINISH_LENGTH;
    err = nef_choice_take(run->choice, &piece, run->state.finished && good, &c->pending);
    nef_piece_free(&piece);
    if (err == NEF_OK && run->state.finished) {
        if (!good)
            return false;
        err = nef_choice_end(run->choice, run->state.finish, &c->pending);
        run->ended = true;
    }
    if (err != NEF_OK) {
        run->state.finish = NEF_FINISH_ERROR;
        run->state.err = err;
    }
    return err == NEF_OK;
}

static bool all_ended(const struct call *c)
{
    for (uint32_t i = 0; i < c->run_count; i++)
        if (!c->runs[i].ended)
            return false;
    return true;
}

/* Appends what is new to `pending`, beginning with the run that is due. */
static void fill(struct call *c)
{
    const uint32_t tokens = c->write.logprobs ? TAKE_LOGPROBS : TAKE_TOKENS;

    for (uint32_t n = 0; n < c->run_count && c->pending.bytes < PENDING_BYTES; n++) {
        struct run *run = &c->runs[c->next_run];

        c->next_run = (c->next_run + 1) % c->run_count;
        if (!run->ended && !advance(c, run, TAKE_BYTES, tokens)) {
            struct nef_api_error error;

            failure_of(&run->state, &error);
            nef_write_error_chunk(&error, &c->pending);
            nef_api_call_cancel(c);
            c->stream_ends = c->stream_failed = true;
            return;
        }
    }
    if (all_ended(c)) {
        struct nef_usage usage = nef_api_usage(c);

        if (c->write.include_usage)
            nef_write_usage_chunk(&c->write, &usage, &c->pending);
        nef_write_done(&c->pending);
        c->stream_ends = true;
    }
}

static int64_t on_read(void *context, uint8_t *out, size_t max)
{
    struct call *c = context;
    size_t bytes = c->pending.bytes - c->pending_at;

    if (bytes == 0) {
        nef_buf_reset(&c->pending);
        c->pending_at = 0;
        if (c->stream_ends)
            return NEF_HTTP_STREAM_END;
        fill(c);
        if (c->pending.failed)
            return -1;
        bytes = c->pending.bytes;
        if (bytes == 0)
            return nef_http_gone(c->http) ? -1 : 0;
    }
    bytes = NEF_MIN(bytes, max);
    memcpy(out, c->pending.data + c->pending_at, bytes);
    c->pending_at += bytes;
    return (int64_t)bytes;
}

static void on_done(void *context)
{
    nef_api_call_unref(context);
}

void nef_api_stream_start(struct call *c)
{
    const struct nef_http_stream stream = {on_read, on_done, c};

    c->status = 200;
    nef_api_call_ref(c);
    nef_http_answer_stream(c->http, 200, NEF_HTTP_LENGTH_UNKNOWN, &stream);
    nef_http_answer_header(c->http, "Content-Type", "text/event-stream; charset=utf-8");
    nef_http_answer_header(c->http, "Cache-Control", "no-store");
    nef_http_answer_header(c->http, "X-Accel-Buffering", "no"); /* nginx would hold chunks back */
    nef_http_answer_header(c->http, "x-request-id", c->request_id);
}

void nef_api_whole(struct call *c)
{
    struct nef_choice **choices = calloc(c->run_count, sizeof(*choices));
    struct nef_api_error error;
    struct nef_usage usage;
    bool good = choices != NULL;

    if (!good)
        (void)nef_api_fail(&error, 500, "", "", "Out of memory.");
    for (uint32_t i = 0; i < c->run_count && good; i++) {
        while (good && !c->runs[i].ended)
            good = advance(c, &c->runs[i], NEF_BUF_MAX, UINT32_MAX);
        if (!good)
            failure_of(&c->runs[i].state, &error);
        choices[i] = c->runs[i].choice;
    }
    if (good) {
        usage = nef_api_usage(c);
        nef_write_whole(&c->write, choices, c->run_count, &usage, &c->document);
        nef_api_answer_json(c, 200, &c->document);
    } else {
        nef_api_answer_error(c, &error);
    }
    free(choices);
}
