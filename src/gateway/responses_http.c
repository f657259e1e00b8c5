/* The endpoints of /v1/responses:
 *
 *   POST   /v1/responses
 *   GET    /v1/responses/ID                   ?stream=true&starting_after=N
 *   POST   /v1/responses/ID/cancel
 *   DELETE /v1/responses/ID
 *   GET    /v1/responses/ID/input_items       ?limit=&order=&after=
 *
 * A call is parsed in the listener's thread, works in a worker, and is then looked after by the listener: it answers,
 * waits for the end, or streams. A stream makes its events from records (responses_events.h) as the client takes them,
 * so a slow client costs no more than the one that is quick. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "gateway/responses_internal.h"
#include "io/clock.h"

#define MS         1000000ull
#define COMMENT_NS (10000 * MS) /* without an event: something that proxies see */
#define FILL_BYTES (64u << 10)
#define ITEMS_MAX  100u
#define ITEMS      20u

static const char path[] = "/v1/responses";

void ask_ref(struct nef_responses_call *c)
{
    (void)atomic_fetch_add(&c->refs, 1);
}

void ask_unref(struct nef_responses_call *c)
{
    struct nef_responses *rs = c->rs;

    if (atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    (void)pthread_mutex_lock(&rs->lock);
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        rs->calls = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    (void)pthread_mutex_unlock(&rs->lock);
    if (c->live != NULL)
        live_unref(c->live);
    nef_responses_request_free(&c->request);
    json_decref(c->head);
    json_decref(c->answer);
    nef_response_free(c->model);
    nef_buf_free(&c->body);
    nef_buf_free(&c->out);
    nef_http_unref(c->http);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

void ask_wake(struct nef_responses_call *c)
{
    nef_http_wake(c->http);
}

/* ---- the target ---- */

bool nef_responses_target(const char *target)
{
    size_t bytes = sizeof(path) - 1;

    return strncmp(target, path, bytes) == 0 && (target[bytes] == '\0' || target[bytes] == '/' || target[bytes] == '?');
}

/* The value of NAME in QUERY: letters, digits and "_-." need no decoding. False: it isn't there. */
static bool query_of(const char *query, const char *name, char *out, size_t room)
{
    size_t n = strlen(name);

    while (*query != '\0') {
        size_t bytes = strcspn(query, "&");

        if (bytes > n && strncmp(query, name, n) == 0 && query[n] == '=' && bytes - n - 1 < room) {
            memcpy(out, query + n + 1, bytes - n - 1);
            out[bytes - n - 1] = '\0';
            return true;
        }
        query += bytes + (query[bytes] == '&');
    }
    return false;
}

static bool number_of(const char *text, uint64_t most, uint64_t *out)
{
    size_t bytes = strlen(text);

    if (bytes == 0 || bytes > 15 || strspn(text, "0123456789") != bytes)
        return false;
    *out = strtoull(text, NULL, 10);
    return *out <= most;
}

/* Fill op, id and what the query says. NULL, or what is wrong with it. */
static const char *parse_query(struct nef_responses_call *c, const char *query)
{
    char value[128];
    uint64_t number;

    if (query_of(query, "stream", value, sizeof(value)))
        c->stream = strcmp(value, "true") == 0;
    if (query_of(query, "starting_after", value, sizeof(value))) {
        if (!number_of(value, INT64_MAX, &number))
            return "starting_after";
        c->starting_after = (int64_t)number;
    }
    if (query_of(query, "limit", value, sizeof(value))) {
        if (!number_of(value, ITEMS_MAX, &number) || number == 0)
            return "limit";
        c->limit = (uint32_t)number;
    }
    if (query_of(query, "order", value, sizeof(value))) {
        if (strcmp(value, "asc") != 0 && strcmp(value, "desc") != 0)
            return "order";
        c->ascending = strcmp(value, "asc") == 0;
    }
    if (query_of(query, "after", value, sizeof(value)))
        (void)snprintf(c->after, sizeof(c->after), "%s", value);
    return NULL;
}

static unsigned parse_target(struct nef_responses_call *c, const char **out_param)
{
    const char *method = nef_http_method(c->http), *at = nef_http_target(c->http) + sizeof(path) - 1;
    size_t bytes = strcspn(at, "?"), id;
    const char *query = at[bytes] == '?' ? at + bytes + 1 : "";
    bool is_get = strcmp(method, "GET") == 0, post = strcmp(method, "POST") == 0;

    if (bytes <= 1) {
        c->op = CALL_CREATE;
        return post ? 0 : 405;
    }
    *out_param = parse_query(c, query);
    if (*out_param != NULL)
        return 400;
    at++;
    bytes--;
    id = strcspn(at, "/?");
    if (id > bytes)
        id = bytes;
    if (id == 0 || id >= sizeof(c->id))
        return 404;
    memcpy(c->id, at, id);
    c->id[id] = '\0';
    at += id;
    bytes -= id;
    if (bytes == 0) {
        c->op = is_get ? CALL_GET : CALL_DELETE;
        return is_get || strcmp(method, "DELETE") == 0 ? 0 : 405;
    }
    if (bytes == strlen("/cancel") && strncmp(at, "/cancel", bytes) == 0) {
        c->op = CALL_CANCEL;
        return post ? 0 : 405;
    }
    if (bytes == strlen("/input_items") && strncmp(at, "/input_items", bytes) == 0) {
        c->op = CALL_ITEMS;
        return is_get ? 0 : 405;
    }
    return 404;
}

nef_err nef_responses_open(struct nef_responses *responses, struct nef_http_request *http,
                           const struct nef_ai_user *user, const char *request_id, struct nef_buf *body,
                           struct nef_responses_call **out_call)
{
    struct nef_responses_call *c = calloc(1, sizeof(*c));
    const char *param = NULL;
    unsigned status;

    if (c == NULL || atomic_load(&responses->quiesced)) {
        nef_err err = c == NULL ? NEF_E_NOMEM : NEF_E_CLOSED;

        free(c);
        nef_buf_free(body);
        return err;
    }
    c->rs = responses;
    c->http = http;
    nef_http_ref(http);
    (void)pthread_mutex_init(&c->lock, NULL);
    atomic_init(&c->refs, 1);
    c->user = *user;
    c->starting_after = -1;
    c->limit = ITEMS;
    (void)snprintf(c->request_id, sizeof(c->request_id), "%s", request_id);
    c->body = *body;
    memset(body, 0, sizeof(*body));
    (void)pthread_mutex_lock(&responses->lock);
    c->next = responses->calls;
    if (c->next != NULL)
        c->next->previous = c;
    responses->calls = c;
    (void)pthread_mutex_unlock(&responses->lock);
    status = parse_target(c, &param);
    if (status != 0) {
        ask_refuse(c, status, status == 400 ? "invalid_value" : "not_found", param == NULL ? "" : param,
                   status == 400   ? "A parameter of the URL has a value that can't be."
                   : status == 404 ? "There is no such URL."
                                   : "This URL isn't there with that method.");
    } else {
        ask_ref(c);
        if (!responses_job(responses, ask_work, c)) {
            ask_unref(c);
            ask_refuse(c, 503, "busy", "", "Too much is waiting already.");
        }
    }
    *out_call = c;
    return NEF_OK;
}

/* ---- answering: the listener's thread ---- */

static void number_header(struct nef_responses_call *c, const char *name, uint64_t value, const char *unit)
{
    char text[32];

    (void)snprintf(text, sizeof(text), "%llu%s", (unsigned long long)value, unit);
    nef_http_answer_header(c->http, name, text);
}

static void headers(struct nef_responses_call *c, const char *type)
{
    const struct nef_limits_room *rooms[] = {&c->now.requests, &c->now.tokens};
    static const char *const names[][3] = {
        {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"},
        {"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"}};

    nef_http_answer_header(c->http, "Content-Type", type);
    nef_http_answer_header(c->http, "Cache-Control", "no-store");
    nef_http_answer_header(c->http, "x-request-id", c->request_id);
    for (size_t i = 0; i < 2; i++) {
        if (rooms[i]->limit == 0)
            continue;
        number_header(c, names[i][0], rooms[i]->limit, "");
        number_header(c, names[i][1], rooms[i]->remaining, "");
        number_header(c, names[i][2], rooms[i]->reset_ms, "ms");
    }
    if (c->retry_after > 0)
        number_header(c, "Retry-After", c->retry_after, "");
}

static enum nef_http_next answer(struct nef_responses_call *c)
{
    char *text = c->answer == NULL ? NULL : json_dumps(c->answer, JSON_COMPACT);

    nef_http_answer(c->http, text == NULL ? 500 : c->status, text, text == NULL ? 0 : strlen(text));
    headers(c, "application/json");
    return NEF_HTTP_ANSWERED;
}

static void refuse_now(struct nef_responses_call *c, unsigned status, const char *code, const char *message)
{
    json_decref(c->answer);
    c->answer = json_pack("{s:o}", "error", nef_ai_error(status, code, "", "%s", message));
    c->status = status;
    if (status == 503 && c->retry_after == 0)
        c->retry_after = 1;
}

static void on_room(void *context)
{
    ask_wake(context);
}

static enum nef_http_next take_budget(struct nef_responses_call *c)
{
    nef_err err = nef_limits_take(c->rs->options.limits, &c->user, c->tokens, &c->hold, on_room, c, &c->now);

    if (err == NEF_E_AGAIN)
        return NEF_HTTP_WAIT;
    if (err == NEF_OK) {
        atomic_store(&c->state, CALL_WORKING);
        ask_ref(c);
        if (responses_job(c->rs, ask_work, c))
            return NEF_HTTP_WAIT;
        ask_unref(c);
        nef_limits_settle(c->rs->options.limits, &c->hold, 0);
        refuse_now(c, 503, "busy", "Too much is waiting already.");
        return answer(c);
    }
    if (err == NEF_E_BUSY) {
        c->retry_after = (c->now.retry_after_ms + 999) / 1000;
        refuse_now(c, 429, "rate_limit_exceeded",
                   c->now.concurrency ? "This key has as many answers under way as it may have."
                                      : "This key's budget of requests or tokens is used up.");
    } else {
        refuse_now(c, 503, nef_err_name(err), "The budget can't be asked for now.");
    }
    return answer(c);
}

struct live_view {
    size_t count;
    bool ended, broken, failed;
};

static struct live_view look(struct nef_responses_call *c)
{
    struct live *l = c->live;
    struct live_view v;

    (void)pthread_mutex_lock(&l->lock);
    v = (struct live_view){json_array_size(l->records), l->ended, l->role == LIVE_BROKEN,
                           l->failed_early && c->op == CALL_CREATE};
    if (v.failed) {
        json_decref(c->answer);
        c->answer = l->end_error == NULL ? NULL : json_pack("{s:O}", "error", l->end_error);
        c->status = l->end_status;
        c->retry_after = l->retry_after;
    }
    (void)pthread_mutex_unlock(&l->lock);
    return v;
}

static enum nef_http_next until_end(struct nef_responses_call *c)
{
    struct live_view v = look(c);

    if (v.failed)
        return answer(c);
    if (v.ended) {
        c->answer = ask_object(c->live);
        c->status = 200;
        return answer(c);
    }
    if (v.broken || atomic_load(&c->rs->quiesced)) {
        refuse_now(c, 503, "unavailable", "The answer goes on elsewhere; ask for it by its id.");
        return answer(c);
    }
    return nef_http_gone(c->http) ? NEF_HTTP_DROP : NEF_HTTP_WAIT;
}

/* ---- streams ---- */

static void on_event(void *context, uint64_t sequence, const char *type, const json_t *event)
{
    struct nef_responses_call *c = context;
    char *text;

    if (c->starting_after >= 0 && sequence <= (uint64_t)c->starting_after)
        return;
    text = json_dumps(event, JSON_COMPACT);
    if (text == NULL) {
        c->out.failed = true;
        return;
    }
    nef_buf_text(&c->out, "event: ");
    nef_buf_text(&c->out, type);
    nef_buf_text(&c->out, "\ndata: ");
    nef_buf_text(&c->out, text);
    nef_buf_text(&c->out, "\n\n");
    free(text);
}

/* More events, if there are records. */
static bool fill(struct nef_responses_call *c)
{
    struct live *l = c->live;

    nef_buf_reset(&c->out);
    c->out_at = 0;
    if (c->model == NULL) {
        c->model = ask_model(l, on_event, c);
        if (c->model == NULL || nef_response_begin(c->model) != NEF_OK)
            return false;
    }
    while (c->out.bytes < FILL_BYTES && !nef_response_ended(c->model)) {
        json_t *record = NULL;
        nef_err err;

        (void)pthread_mutex_lock(&l->lock);
        if (c->at < json_array_size(l->records))
            record = json_incref(json_array_get(l->records, c->at));
        (void)pthread_mutex_unlock(&l->lock);
        if (record == NULL)
            break;
        c->at++;
        err = nef_response_take(c->model, record);
        json_decref(record);
        if (err != NEF_OK && err != NEF_E_PROTOCOL)
            return false;
    }
    return !c->out.failed;
}

static int64_t stream_read(void *context, uint8_t *out, size_t max)
{
    struct nef_responses_call *c = context;
    uint64_t now = nef_now_ns();
    size_t bytes;
    bool broken;

    if (c->out_at == c->out.bytes && !fill(c))
        return -1;
    if (c->out_at == c->out.bytes) {
        if (nef_response_ended(c->model))
            return NEF_HTTP_STREAM_END;
        (void)pthread_mutex_lock(&c->live->lock);
        broken = c->live->role == LIVE_BROKEN && c->at == json_array_size(c->live->records);
        (void)pthread_mutex_unlock(&c->live->lock);
        if (broken || atomic_load(&c->rs->quiesced) || nef_http_gone(c->http))
            return -1;
        if (now - c->told_ns < COMMENT_NS)
            return 0;
        nef_buf_text(&c->out, ":\n\n");
    }
    c->told_ns = now;
    bytes = NEF_MIN(max, c->out.bytes - c->out_at);
    memcpy(out, c->out.data + c->out_at, bytes);
    c->out_at += bytes;
    return (int64_t)bytes;
}

static void stream_done(void *context)
{
    ask_unref(context);
}

static enum nef_http_next begin_stream(struct nef_responses_call *c)
{
    const struct nef_http_stream stream = {stream_read, stream_done, c};
    struct live_view v = look(c);
    uint64_t now = nef_now_ns();

    if (v.failed)
        return answer(c);
    if (v.count == 0 && !v.broken && c->op == CALL_CREATE && !c->request.background &&
        now - c->opened_ns < RESPONSES_EARLY_NS && !atomic_load(&c->rs->quiesced))
        return NEF_HTTP_WAIT;
    c->told_ns = now;
    ask_ref(c);
    nef_http_answer_stream(c->http, 200, NEF_HTTP_LENGTH_UNKNOWN, &stream);
    headers(c, "text/event-stream");
    return NEF_HTTP_ANSWERED;
}

enum nef_http_next nef_responses_next(struct nef_responses_call *call)
{
    switch (atomic_load_explicit(&call->state, memory_order_acquire)) {
    case CALL_LIMITED: return take_budget(call);
    case CALL_ANSWER: return answer(call);
    case CALL_UNTIL_END: return until_end(call);
    case CALL_STREAM: return begin_stream(call);
    case CALL_WORKING:
    default: return NEF_HTTP_WAIT;
    }
}

static void detach(struct nef_responses_call *c)
{
    struct live *l = c->live;
    struct nef_responses_call **at;

    (void)pthread_mutex_lock(&l->lock);
    for (at = &l->readers; *at != NULL && *at != c;)
        at = &(*at)->reader_next;
    if (*at != NULL)
        *at = c->reader_next;
    (void)pthread_mutex_unlock(&l->lock);
    if (!l->stored) /* nobody can ask for it any more */
        live_cancel(l);
}

void nef_responses_closed(struct nef_responses_call *call)
{
    (void)pthread_mutex_lock(&call->lock);
    atomic_store(&call->closed, true);
    if (call->live != NULL)
        detach(call);
    (void)pthread_mutex_unlock(&call->lock);
    if (atomic_load(&call->state) == CALL_LIMITED)
        nef_limits_settle(call->rs->options.limits, &call->hold, 0);
    ask_unref(call);
}
