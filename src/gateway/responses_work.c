/* What requests of /v1/responses do in workers: they may block. See responses_internal.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/bytes.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "gateway/responses_internal.h"
#include "io/clock.h"

#define DELETE_WAIT_MS 1500u /* for an answer that is being made to end */
#define DELETE_LOOK_MS 20u

#define ID_RANDOM 20u

void ask_finish(struct nef_responses_call *c, unsigned status, json_t *value)
{
    json_decref(c->answer);
    c->answer = value;
    c->status = value == NULL ? 500 : status;
    atomic_store_explicit(&c->state, CALL_ANSWER, memory_order_release);
    ask_wake(c);
}

void ask_refuse(struct nef_responses_call *c, unsigned status, const char *code, const char *param, const char *message)
{
    ask_finish(c, status, json_pack("{s:o}", "error", nef_ai_error(status, code, param, "%s", message)));
}

static void refuse_err(struct nef_responses_call *c, nef_err err)
{
    if (err == NEF_E_NOT_FOUND)
        ask_refuse(c, 404, "not_found", "", "There is no response with this id.");
    else if (err == NEF_E_NOMEM)
        ask_refuse(c, 500, nef_err_name(err), "", "There is not enough memory.");
    else
        ask_refuse(c, 503, nef_err_name(err), "", "The region can't do this now; try again.");
}

/* Be told when records come. From now on the listener looks after the call. */
static void attach(struct nef_responses_call *c, struct live *l, enum call_state state)
{
    (void)pthread_mutex_lock(&c->lock);
    c->live = l; /* with its reference */
    (void)pthread_mutex_lock(&l->lock);
    if (!atomic_load(&c->closed)) {
        c->reader_next = l->readers;
        l->readers = c;
    }
    (void)pthread_mutex_unlock(&l->lock);
    (void)pthread_mutex_unlock(&c->lock);
    atomic_store_explicit(&c->state, state, memory_order_release);
    ask_wake(c);
}

/* ---- reading ---- */

static bool may_see(const struct nef_responses_call *c, const json_t *head)
{
    const char *owner = json_string_value(json_object_get(head, "owner"));

    return owner != NULL && strcmp(owner, c->user.access_key) == 0;
}

static nef_err read_head(struct nef_responses_call *c, const char *id, json_t **out_head)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *head = NULL;
    nef_err err;

    if (!nef_response_id_ok(id))
        return NEF_E_NOT_FOUND;
    live_name(id, "h", name);
    err = nef_keep_get(&c->rs->keep, name, true, &head);
    if (err == NEF_OK && !may_see(c, head)) /* whose it is isn't told */
        err = NEF_E_NOT_FOUND;
    if (err == NEF_OK)
        *out_head = head;
    else
        json_decref(head);
    return err;
}

/* The response with all that is committed of it. */
static nef_err find(struct nef_responses_call *c, const char *id, json_t *head, struct live **out)
{
    struct live *l = live_find(c->rs, id);
    nef_err err = NEF_OK;

    if (l == NULL)
        l = live_new(c->rs, id, head, true, LIVE_FOLLOW, &err);
    if (l == NULL)
        return err;
    err = live_load(l, true);
    if (err == NEF_OK)
        *out = l;
    else
        live_unref(l);
    return err;
}

static nef_err take_all(struct nef_response *r, struct live *l)
{
    nef_err err = nef_response_begin(r);
    json_t *records, *record;
    size_t i;

    (void)pthread_mutex_lock(&l->lock);
    records = json_copy(l->records);
    (void)pthread_mutex_unlock(&l->lock);
    if (records == NULL)
        return NEF_E_NOMEM;
    json_array_foreach (records, i, record) {
        if (err != NEF_OK)
            break;
        err = nef_response_take(r, record);
        if (err == NEF_E_PROTOCOL) /* an answer that made no sense was left out of its stream, too */
            err = NEF_OK;
    }
    json_decref(records);
    return err;
}

static struct nef_response *model_of(struct live *l, nef_response_event_fn event, void *context)
{
    struct nef_response_head head = {l->id, (uint64_t)json_integer_value(json_object_get(l->head, "created")),
                                     json_object_get(l->head, "request")};

    return nef_response_new(&head, event, context);
}

json_t *ask_object(struct live *l)
{
    struct nef_response *r = model_of(l, NULL, NULL);
    json_t *object = NULL;

    if (r != NULL && take_all(r, l) == NEF_OK)
        object = nef_response_object(r);
    nef_response_free(r);
    return object;
}

struct nef_response *ask_model(struct live *l, nef_response_event_fn event, void *context)
{
    return model_of(l, event, context);
}

/* ---- creating ---- */

/* Items of the responses before, oldest first. */
static nef_err chain(struct nef_responses_call *c, const char *previous, json_t *context, struct nef_responses_why *why)
{
    json_t *turns = json_array(), *head = NULL, *turn;
    char id[NEF_RESPONSE_ID_BYTES];
    uint32_t count = 0;
    nef_err err = turns == NULL ? NEF_E_NOMEM : NEF_OK;

    (void)snprintf(id, sizeof(id), "%s", previous == NULL ? "" : previous);
    while (err == NEF_OK && id[0] != '\0') {
        const char *before;
        struct live *l = NULL;
        json_t *object = NULL;

        if (count++ == NEF_RESPONSES_CHAIN_MAX) {
            err = nef_responses_refuse(why, 400, "invalid_value", "previous_response_id",
                                       "The conversation is longer than %u responses.", NEF_RESPONSES_CHAIN_MAX);
            break;
        }
        err = read_head(c, id, &head);
        if (err == NEF_E_NOT_FOUND)
            err = nef_responses_refuse(why, 400, "previous_response_not_found", "previous_response_id",
                                       "Previous response with id '%s' not found.", id);
        if (err == NEF_OK)
            err = find(c, id, head, &l);
        if (err == NEF_OK) {
            object = ask_object(l);
            err = object == NULL ? NEF_E_NOMEM : NEF_OK;
            live_unref(l);
        }
        if (err == NEF_OK && strcmp(json_string_value(json_object_get(object, "status")), "in_progress") == 0)
            err = nef_responses_refuse(why, 400, "invalid_value", "previous_response_id",
                                       "The previous response isn't complete.");
        turn = err != NEF_OK ? NULL
                             : json_pack("[O, O]", json_object_get(head, "input"), json_object_get(object, "output"));
        if (err == NEF_OK && json_array_insert_new(turns, 0, turn) != 0)
            err = NEF_E_NOMEM;
        before = json_string_value(json_object_get(json_object_get(head, "request"), "previous_response_id"));
        (void)snprintf(id, sizeof(id), "%s", before == NULL ? "" : before);
        json_decref(object);
        json_decref(head);
        head = NULL;
    }
    for (size_t i = 0; err == NEF_OK && i < json_array_size(turns); i++) {
        turn = json_array_get(turns, i);
        if (json_array_extend(context, json_array_get(turn, 0)) != 0 ||
            json_array_extend(context, json_array_get(turn, 1)) != 0)
            err = NEF_E_NOMEM;
    }
    json_decref(head);
    json_decref(turns);
    return err;
}

/* What a body costs as a tree, counted before it is one. */
static bool fits(const struct nef_buf *body)
{
    uint64_t containers = 0, values = 0;
    bool in_string = false;

    for (size_t i = 0; i < body->bytes; i++) {
        uint8_t byte = body->data[i];

        if (in_string && byte == '\\')
            i++;
        else if (byte == '"')
            in_string = !in_string;
        if (in_string)
            continue;
        containers += byte == '{' || byte == '[';
        values += byte == ',';
    }
    return containers <= NEF_INFER_JSON_CONTAINERS_MAX && values <= NEF_INFER_JSON_VALUES_MAX;
}

static void make_id(char out[NEF_RESPONSE_ID_BYTES])
{
    uint8_t random[ID_RANDOM];
    char hex[2 * ID_RANDOM + 1];

    nef_random(random, sizeof(random));
    nef_hex(random, sizeof(random), hex);
    (void)snprintf(out, NEF_RESPONSE_ID_BYTES, "resp_%08x%s", (unsigned)(nef_wall_ms() / 1000), hex);
}

/* The head: all that is needed to make the answer. */
static nef_err make_head(struct nef_responses_call *c, struct nef_responses_why *why)
{
    json_t *context = json_array(), *chat = NULL, *most;
    uint64_t seed;
    nef_err err = context == NULL ? NEF_E_NOMEM : chain(c, c->request.previous, context, why);

    nef_random(&seed, sizeof(seed));
    if (err == NEF_OK)
        err = nef_responses_chat(c->request.body, context, c->request.input, seed, &chat, why);
    if (err == NEF_OK) {
        most = json_object_get(chat, "max_tokens");
        c->tokens =
            live_prompt_guess(chat) + (most == NULL ? RESPONSES_ANSWER_GUESS : (uint64_t)json_integer_value(most));
        c->head = json_pack("{s:i, s:s, s:I, s:s, s:O, s:O, s:o}", "v", 1, "id", c->id, "created",
                            (json_int_t)(nef_wall_ms() / 1000), "owner", c->user.access_key, "request", c->request.body,
                            "input", c->request.input, "chat", chat);
        if (c->head == NULL)
            err = NEF_E_NOMEM;
    }
    json_decref(context);
    return err;
}

static void create(struct nef_responses_call *c)
{
    struct nef_responses_why why = {0};
    json_error_t error;
    json_t *body;
    const char *model;
    nef_err err;

    if (!fits(&c->body)) {
        ask_refuse(c, 413, "", "", "The body has too many values.");
        return;
    }
    body = json_loadb((const char *)c->body.data, c->body.bytes, JSON_ALLOW_NUL, &error);
    nef_buf_free(&c->body);
    if (body == NULL) {
        ask_refuse(c, 400, "invalid_json", "", "The body isn't a JSON object.");
        return;
    }
    make_id(c->id);
    err = nef_responses_request_parse(body, c->id, &c->request, &why);
    json_decref(body);
    model = err == NEF_OK ? json_string_value(json_object_get(c->request.body, "model")) : NULL;
    if (err == NEF_OK && (strlen(model) > NEF_MODEL_NAME_MAX || !nef_ai_allows_model(&c->user, model)))
        err = nef_responses_refuse(&why, 404, "model_not_found", "model",
                                   "The model does not exist or you do not have access to it.");
    if (err == NEF_OK)
        err = make_head(c, &why);
    if (err == NEF_E_INVALID) {
        ask_refuse(c, why.status, why.code, why.param, why.message);
        return;
    }
    if (err != NEF_OK) {
        refuse_err(c, err);
        return;
    }
    c->stream = c->request.stream;
    /* the listener's thread takes from the budget */
    atomic_store_explicit(&c->state, CALL_LIMITED, memory_order_release);
    ask_wake(c);
}

/* The marker first: a response without one would never be gone on with. */
static nef_err store_head(struct nef_responses_call *c)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *empty = json_object();
    nef_err err;

    (void)snprintf(name, sizeof(name), "a/%s", c->id);
    err = empty == NULL ? NEF_E_NOMEM : nef_keep_put(&c->rs->keep, name, empty, false);
    json_decref(empty);
    live_name(c->id, "h", name);
    return err != NEF_OK ? err : nef_keep_put(&c->rs->keep, name, c->head, true);
}

/* Its budget is taken: store it, start it. */
static void start(struct nef_responses_call *c)
{
    struct live *l = NULL;
    nef_err err = NEF_OK;

    if (atomic_load(&c->closed) || atomic_load(&c->rs->quiesced))
        err = NEF_E_CLOSED;
    if (err == NEF_OK)
        l = live_new(c->rs, c->id, c->head, c->request.store, LIVE_OWN, &err);
    if (l != NULL && c->request.store) {
        err = store_head(c);
        if (err != NEF_OK)
            live_abandon(l);
    }
    if (l != NULL && err == NEF_OK) {
        (void)pthread_mutex_lock(&l->lock); /* it is in the table, and the thread steps it */
        l->early_ns = nef_now_ns() + RESPONSES_EARLY_NS;
        l->hold = c->hold; /* the answer's from now on */
        memset(&c->hold, 0, sizeof(c->hold));
        (void)pthread_mutex_unlock(&l->lock);
        err = live_start(l, &c->user);
        if (err != NEF_OK) {
            (void)pthread_mutex_lock(&l->lock);
            live_pay(l, 0);
            (void)pthread_mutex_unlock(&l->lock);
            if (c->request.store)
                live_fail(l, "server_error", "The answer can't be begun now.");
            else
                live_abandon(l);
        }
    }
    if (err != NEF_OK) {
        nef_limits_settle(c->rs->options.limits, &c->hold, 0);
        if (l != NULL)
            live_unref(l);
        refuse_err(c, err);
        return;
    }
    c->opened_ns = nef_now_ns();
    if (c->request.background && !c->stream) {
        ask_finish(c, 200, ask_object(l));
        live_unref(l);
    } else {
        attach(c, l, c->stream ? CALL_STREAM : CALL_UNTIL_END);
    }
}

/* ---- the others ---- */

static void get(struct nef_responses_call *c)
{
    struct live *l = NULL;
    json_t *head = NULL;
    nef_err err = read_head(c, c->id, &head);

    if (err == NEF_OK)
        err = find(c, c->id, head, &l);
    json_decref(head);
    if (err != NEF_OK) {
        refuse_err(c, err);
    } else if (c->stream) {
        attach(c, l, CALL_STREAM);
    } else {
        ask_finish(c, 200, ask_object(l));
        live_unref(l);
    }
}

/* As OpenAI: only what runs in the background; what has ended is given as it is. */
static void cancel(struct nef_responses_call *c)
{
    struct live *l = NULL;
    json_t *head = NULL;
    nef_err err = read_head(c, c->id, &head);
    bool background = json_is_true(json_object_get(json_object_get(head, "request"), "background"));

    if (err == NEF_OK && background)
        err = find(c, c->id, head, &l);
    json_decref(head);
    if (err != NEF_OK) {
        refuse_err(c, err);
        return;
    }
    if (!background) {
        ask_refuse(c, 400, "", "", "Cannot cancel a synchronous response.");
        return;
    }
    live_cancel(l);
    attach(c, l, CALL_UNTIL_END);
}

static bool has_ended(struct live *l)
{
    bool ended;

    (void)pthread_mutex_lock(&l->lock);
    ended = l->ended;
    (void)pthread_mutex_unlock(&l->lock);
    return ended;
}

static void delete (struct nef_responses_call *c)
{
    struct live *l = NULL;
    json_t *head = NULL;
    bool ended = false;
    nef_err err = read_head(c, c->id, &head);

    if (err == NEF_OK)
        err = find(c, c->id, head, &l);
    json_decref(head);
    if (err == NEF_OK) {
        ended = has_ended(l);
        if (!ended)
            live_cancel(l);
        /* A piece that is written meanwhile would stay until whoever makes the answer finds, when it ends, that it is gone: so
         * it gets the time to hear that it should end. If it is lost, that is who goes on with it. */
        for (unsigned waited = 0; !ended && waited < DELETE_WAIT_MS; waited += DELETE_LOOK_MS) {
            (void)usleep(DELETE_LOOK_MS * 1000);
            ended = has_ended(l);
        }
        live_unref(l);
        err = live_delete(c->rs, c->id, ended);
    }
    if (err != NEF_OK)
        refuse_err(c, err);
    else
        ask_finish(c, 200, json_pack("{s:s, s:s, s:b}", "id", c->id, "object", "response", "deleted", 1));
}

static const char *item_id(const json_t *item)
{
    const char *id = json_string_value(json_object_get(item, "id"));

    return id == NULL ? "" : id;
}

static void items(struct nef_responses_call *c)
{
    json_t *head = NULL, *data = json_array(), *input;
    size_t count = 0, from = 0;
    bool good = data != NULL, found = c->after[0] == '\0';
    nef_err err = read_head(c, c->id, &head);

    if (err != NEF_OK) {
        json_decref(data);
        refuse_err(c, err);
        return;
    }
    input = json_object_get(head, "input");
    count = json_array_size(input);
    for (size_t i = 0; i < count && !found; i++) { /* places are counted in the order that is asked for */
        from = i + 1;
        found = strcmp(item_id(json_array_get(input, c->ascending ? i : count - 1 - i)), c->after) == 0;
    }
    for (size_t i = from; good && i < count && json_array_size(data) < c->limit; i++)
        good = json_array_append(data, json_array_get(input, c->ascending ? i : count - 1 - i)) == 0;
    if (!found) {
        json_decref(data);
        ask_refuse(c, 400, "invalid_value", "after", "There is no such item.");
    } else if (!good) {
        json_decref(data);
        refuse_err(c, NEF_E_NOMEM);
    } else {
        size_t n = json_array_size(data);

        ask_finish(c, 200,
                   json_pack("{s:s, s:o, s:o, s:o, s:b}", "object", "list", "data", data, "first_id",
                             n == 0 ? json_null() : json_string(item_id(json_array_get(data, 0))), "last_id",
                             n == 0 ? json_null() : json_string(item_id(json_array_get(data, n - 1))), "has_more",
                             from + n < count));
    }
    json_decref(head);
}

void ask_work(void *arg)
{
    struct nef_responses_call *c = arg;
    struct nef_responses *rs = c->rs;

    switch (c->op) {
    case CALL_CREATE:
        if (c->head == NULL)
            create(c);
        else
            start(c);
        break;
    case CALL_GET: get(c); break;
    case CALL_CANCEL: cancel(c); break;
    case CALL_DELETE: delete (c); break;
    case CALL_ITEMS: items(c); break;
    default: break;
    }
    ask_unref(c);
    responses_job_done(rs);
}
