/* See responses_events.h. The answer is a row of items; the last of them may be open. What a chunk brings goes to the
 * open item if it is of that kind, else that one is closed and the next begins:
 *
 *   reasoning_content  -> reasoning item, part reasoning_text
 *   content            -> message item, part output_text
 *   tool_calls[n]      -> function_call item
 */
#include "gateway/responses_events.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"

enum item_kind { ITEM_NONE, ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL };

struct nef_response {
    char id[72];
    uint64_t created_s;
    json_t *body;
    nef_response_event_fn event;
    void *context;

    uint64_t sequence;
    json_t *output;      /* closed items */
    enum item_kind open; /* of the item after them */
    struct nef_buf text; /* of the open item */
    json_t *call_id, *call_name;
    int64_t call_index;
    int64_t call_last; /* the highest index that was seen; -1 */
    json_t *end;       /* of the end record */
    bool begun;
};

struct nef_response *nef_response_new(const struct nef_response_head *head, nef_response_event_fn event, void *context)
{
    struct nef_response *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return NULL;
    (void)snprintf(r->id, sizeof(r->id), "%s", head->id);
    r->created_s = head->created_s;
    r->body = json_incref(head->body);
    r->event = event;
    r->context = context;
    r->call_last = -1;
    r->output = json_array();
    if (r->output == NULL) {
        nef_response_free(r);
        return NULL;
    }
    return r;
}

void nef_response_free(struct nef_response *r)
{
    if (r == NULL)
        return;
    json_decref(r->body);
    json_decref(r->output);
    json_decref(r->call_id);
    json_decref(r->call_name);
    json_decref(r->end);
    nef_buf_free(&r->text);
    free(r);
}

bool nef_response_ended(const struct nef_response *r)
{
    return r->end != NULL;
}

/* ---- items ---- */

static void item_id(const struct nef_response *r, char out[96])
{
    static const char *const prefixes[] = {[ITEM_REASONING] = "rs", [ITEM_MESSAGE] = "msg", [ITEM_CALL] = "fc"};

    (void)snprintf(out, 96, "%s_%sout%zx", prefixes[r->open], r->id + (strncmp(r->id, "resp_", 5) == 0 ? 5 : 0),
                   json_array_size(r->output));
}

static json_t *text_json(const struct nef_buf *text)
{
    return text->failed ? NULL : json_stringn(text->bytes == 0 ? "" : (const char *)text->data, text->bytes);
}

static json_t *part_json(const struct nef_response *r, json_t *text)
{
    if (r->open == ITEM_REASONING)
        return json_pack("{s:s, s:o}", "type", "reasoning_text", "text", text);
    return json_pack("{s:s, s:o, s:[], s:[]}", "type", "output_text", "text", text, "annotations", "logprobs");
}

/* The open item as it is; fresh: as it was when it began. */
static json_t *item_json(const struct nef_response *r, const char *status, bool fresh)
{
    char id[96];
    json_t *content;

    item_id(r, id);
    if (r->open == ITEM_CALL)
        return json_pack("{s:s, s:s, s:s, s:O, s:O, s:o}", "id", id, "type", "function_call", "status", status,
                         "call_id", r->call_id, "name", r->call_name, "arguments",
                         fresh ? json_string("") : text_json(&r->text));
    content = fresh ? json_array() : json_pack("[o]", part_json(r, text_json(&r->text)));
    if (r->open == ITEM_REASONING)
        return json_pack("{s:s, s:s, s:s, s:[], s:o}", "id", id, "type", "reasoning", "status", status, "summary",
                         "content", content);
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "id", id, "type", "message", "status", status, "role", "assistant",
                     "content", content);
}

/* ---- events ---- */

/* Takes FIELDS, which the event gets besides its type and number. */
static nef_err tell(struct nef_response *r, const char *type, json_t *fields)
{
    if (fields == NULL)
        return NEF_E_NOMEM;
    if (r->event != NULL) {
        if (json_object_set_new(fields, "type", json_string(type)) != 0 ||
            json_object_set_new(fields, "sequence_number", json_integer((json_int_t)r->sequence)) != 0) {
            json_decref(fields);
            return NEF_E_NOMEM;
        }
        r->event(r->context, r->sequence, type, fields);
    }
    r->sequence++;
    json_decref(fields);
    return NEF_OK;
}

static json_t *place(const struct nef_response *r, bool part)
{
    json_t *fields;
    char id[96];

    item_id(r, id);
    fields = json_pack("{s:s, s:I}", "item_id", id, "output_index", (json_int_t)json_array_size(r->output));
    if (fields != NULL && part && json_object_set_new(fields, "content_index", json_integer(0)) != 0) {
        json_decref(fields);
        return NULL;
    }
    return fields;
}

static json_t *with(json_t *fields, const char *name, json_t *value)
{
    if (fields != NULL && json_object_set_new(fields, name, value) == 0)
        return fields;
    if (fields == NULL)
        json_decref(value);
    json_decref(fields);
    return NULL;
}

static nef_err tell_item(struct nef_response *r, const char *type, const char *status, bool fresh)
{
    return tell(r, type,
                json_pack("{s:I, s:o}", "output_index", (json_int_t)json_array_size(r->output), "item",
                          item_json(r, status, fresh)));
}

static nef_err item_open(struct nef_response *r, enum item_kind kind)
{
    nef_err err;

    r->open = kind;
    nef_buf_reset(&r->text);
    err = tell_item(r, "response.output_item.added", "in_progress", true);
    if (err == NEF_OK && kind != ITEM_CALL)
        err = tell(r, "response.content_part.added", with(place(r, true), "part", part_json(r, json_string(""))));
    return err;
}

static nef_err item_close(struct nef_response *r, const char *status)
{
    json_t *text, *item;
    nef_err err;

    if (r->open == ITEM_NONE)
        return NEF_OK;
    text = text_json(&r->text);
    if (r->open == ITEM_CALL) {
        err = tell(r, "response.function_call_arguments.done",
                   with(with(place(r, false), "name", json_incref(r->call_name)), "arguments", text));
    } else {
        json_t *fields = with(place(r, true), "text", text);

        if (r->open == ITEM_MESSAGE)
            fields = with(fields, "logprobs", json_array());
        err = tell(r, r->open == ITEM_MESSAGE ? "response.output_text.done" : "response.reasoning_text.done", fields);
        if (err == NEF_OK)
            err =
                tell(r, "response.content_part.done", with(place(r, true), "part", part_json(r, text_json(&r->text))));
    }
    if (err == NEF_OK)
        err = tell_item(r, "response.output_item.done", status, false);
    if (err != NEF_OK)
        return err;
    item = item_json(r, status, false);
    if (json_array_append_new(r->output, item) != 0)
        return NEF_E_NOMEM;
    r->open = ITEM_NONE;
    return NEF_OK;
}

static nef_err take_text(struct nef_response *r, enum item_kind kind, const json_t *text)
{
    nef_err err = NEF_OK;
    json_t *fields;

    if (!json_is_string(text) || json_string_length(text) == 0)
        return NEF_OK;
    if (r->open != kind) {
        err = item_close(r, "completed");
        if (err == NEF_OK)
            err = item_open(r, kind);
    }
    if (err != NEF_OK)
        return err;
    nef_buf_append(&r->text, json_string_value(text), json_string_length(text));
    fields = with(place(r, true), "delta", json_incref((json_t *)text));
    if (kind == ITEM_MESSAGE)
        fields = with(fields, "logprobs", json_array());
    return tell(r, kind == ITEM_MESSAGE ? "response.output_text.delta" : "response.reasoning_text.delta", fields);
}

static nef_err take_call(struct nef_response *r, const json_t *call)
{
    const json_t *function = json_object_get(call, "function"), *arguments = json_object_get(function, "arguments");
    json_t *index = json_object_get(call, "index"), *id = json_object_get(call, "id"),
           *name = json_object_get(function, "name");
    int64_t at = json_is_integer(index) ? json_integer_value(index) : r->call_last;
    nef_err err = NEF_OK;

    if (r->open != ITEM_CALL || at != r->call_index) {
        if (at <= r->call_last || !json_is_string(id) || !json_is_string(name))
            return NEF_E_PROTOCOL; /* a call that is over goes on, or one begins without its name */
        err = item_close(r, "completed");
        if (err != NEF_OK)
            return err;
        json_decref(r->call_id);
        json_decref(r->call_name);
        r->call_id = json_incref(id);
        r->call_name = json_incref(name);
        r->call_index = r->call_last = at;
        err = item_open(r, ITEM_CALL);
    }
    if (err != NEF_OK || !json_is_string(arguments) || json_string_length(arguments) == 0)
        return err;
    nef_buf_append(&r->text, json_string_value(arguments), json_string_length(arguments));
    return tell(r, "response.function_call_arguments.delta",
                with(place(r, false), "delta", json_incref((json_t *)arguments)));
}

static nef_err take_chunk(struct nef_response *r, const json_t *chunk)
{
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0),
                 *delta = json_object_get(choice, "delta");
    const json_t *call;
    size_t i;
    nef_err err = take_text(r, ITEM_REASONING, json_object_get(delta, "reasoning_content"));

    if (err == NEF_OK)
        err = take_text(r, ITEM_MESSAGE, json_object_get(delta, "content"));
    json_array_foreach (json_object_get(delta, "tool_calls"), i, call) {
        if (err == NEF_OK)
            err = take_call(r, call);
    }
    return err;
}

static nef_err take_end(struct nef_response *r, json_t *end)
{
    const char *status = json_string_value(json_object_get(end, "status"));
    bool whole, failed;
    nef_err err;

    if (status == NULL || r->end != NULL)
        return NEF_E_PROTOCOL;
    whole = strcmp(status, "completed") == 0;
    failed = strcmp(status, "failed") == 0;
    err = item_close(r, whole ? "completed" : "incomplete");
    if (err != NEF_OK)
        return err;
    r->end = json_incref(end);
    return tell(r,
                whole    ? "response.completed"
                : failed ? "response.failed"
                         : "response.incomplete",
                json_pack("{s:o}", "response", nef_response_object(r)));
}

nef_err nef_response_begin(struct nef_response *r)
{
    bool background = json_is_true(json_object_get(r->body, "background"));
    nef_err err = tell(r, "response.created", json_pack("{s:o}", "response", nef_response_object(r)));

    if (err == NEF_OK && background)
        err = tell(r, "response.queued", json_pack("{s:o}", "response", nef_response_object(r)));
    r->begun = true;
    if (err == NEF_OK)
        err = tell(r, "response.in_progress", json_pack("{s:o}", "response", nef_response_object(r)));
    return err;
}

nef_err nef_response_take(struct nef_response *r, const json_t *record)
{
    json_t *chunk = json_object_get(record, "c"), *end = json_object_get(record, "e");

    if (r->end != NULL)
        return NEF_E_PROTOCOL;
    if (json_is_object(chunk))
        return take_chunk(r, chunk);
    return json_is_object(end) ? take_end(r, end) : NEF_E_PROTOCOL;
}

/* ---- the object ---- */

static bool put(json_t *object, const char *name, json_t *value)
{
    return json_object_set_new(object, name, value) == 0;
}

/* A field of the request, or what stands for it. Takes PRESET. */
static bool echo(const struct nef_response *r, json_t *object, const char *name, json_t *preset)
{
    json_t *value = json_object_get(r->body, name);

    if (value == NULL || json_is_null(value))
        return put(object, name, preset);
    json_decref(preset);
    return json_object_set(object, name, value) == 0;
}

static bool put_request(const struct nef_response *r, json_t *o)
{
    json_t *text = json_object_get(r->body, "text"), *format = json_object_get(text, "format");

    format = format == NULL || json_is_null(format) ? json_pack("{s:s}", "type", "text") : json_incref(format);
    return echo(r, o, "background", json_false()) && echo(r, o, "instructions", json_null()) &&
           echo(r, o, "max_output_tokens", json_null()) && put(o, "max_tool_calls", json_null()) &&
           echo(r, o, "metadata", json_object()) && echo(r, o, "model", json_string("")) &&
           echo(r, o, "parallel_tool_calls", json_true()) && echo(r, o, "previous_response_id", json_null()) &&
           echo(r, o, "reasoning", json_pack("{s:n, s:n}", "effort", "summary")) &&
           put(o, "service_tier", json_string("default")) && echo(r, o, "store", json_true()) &&
           echo(r, o, "temperature", json_real(1.0)) &&
           put(o, "text", json_pack("{s:o, s:s}", "format", format, "verbosity", "medium")) &&
           echo(r, o, "tool_choice", json_string("auto")) && echo(r, o, "tools", json_array()) &&
           put(o, "top_logprobs", json_integer(0)) && echo(r, o, "top_p", json_real(1.0)) &&
           put(o, "truncation", json_string("disabled")) && echo(r, o, "user", json_null());
}

static bool put_state(const struct nef_response *r, json_t *o)
{
    json_t *output = json_copy(r->output), *usage = json_object_get(r->end, "usage"),
           *error = json_object_get(r->end, "error");
    json_t *reason = json_object_get(r->end, "reason"), *at = json_object_get(r->end, "at");
    const char *status = json_string_value(json_object_get(r->end, "status"));

    if (status == NULL)
        status = !r->begun && json_is_true(json_object_get(r->body, "background")) ? "queued" : "in_progress";
    if (r->open != ITEM_NONE && json_array_append_new(output, item_json(r, "in_progress", false)) != 0) {
        json_decref(output);
        return false;
    }
    return put(o, "status", json_string(status)) && put(o, "output", output) &&
           put(o, "usage", usage == NULL ? json_null() : json_incref(usage)) &&
           put(o, "error", error == NULL ? json_null() : json_incref(error)) &&
           put(o, "completed_at", at == NULL || strcmp(status, "completed") != 0 ? json_null() : json_incref(at)) &&
           put(o, "incomplete_details", reason == NULL ? json_null() : json_pack("{s:O}", "reason", reason));
}

json_t *nef_response_object(const struct nef_response *r)
{
    json_t *o = json_pack("{s:s, s:s, s:I}", "id", r->id, "object", "response", "created_at", (json_int_t)r->created_s);

    if (o != NULL && put_state(r, o) && put_request(r, o))
        return o;
    json_decref(o);
    return NULL;
}

/* ---- records ---- */

bool nef_response_chunk_counts(const json_t *chunk)
{
    return json_array_size(json_object_get(chunk, "choices")) > 0;
}

const char *nef_response_finish(const json_t *chunk)
{
    return json_string_value(json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "finish_reason"));
}

uint64_t nef_response_tokens(const json_t *record)
{
    const json_t *choice = json_array_get(json_object_get(json_object_get(record, "c"), "choices"), 0),
                 *delta = json_object_get(choice, "delta"), *ids = json_object_get(choice, "token_ids");

    if (json_is_array(ids))
        return json_array_size(ids);
    return json_string_length(json_object_get(delta, "content")) > 0 ||
           json_string_length(json_object_get(delta, "reasoning_content")) > 0 ||
           json_array_size(json_object_get(delta, "tool_calls")) > 0;
}

json_t *nef_response_chunk_record(const json_t *chunk)
{
    return json_pack("{s:{s:O}}", "c", "choices", json_object_get(chunk, "choices"));
}

static json_t *usage_json(const struct nef_ai_usage *u)
{
    return json_pack("{s:I, s:{s:I}, s:I, s:{s:I}, s:I}", "input_tokens", (json_int_t)u->prompt, "input_tokens_details",
                     "cached_tokens", (json_int_t)u->cached, "output_tokens", (json_int_t)u->completion,
                     "output_tokens_details", "reasoning_tokens", (json_int_t)u->reasoning, "total_tokens",
                     (json_int_t)(u->prompt + u->completion));
}

json_t *nef_response_error(const json_t *chat_error)
{
    static const char schema[] = "response_format.json_schema.schema: ";
    static const char *const names[][2] = {{"response_format", "text.format"},
                                           {"max_tokens", "max_output_tokens"},
                                           {"max_completion_tokens", "max_output_tokens"},
                                           {"messages", "input"}};
    json_t *error = json_deep_copy(chat_error);
    const char *message = json_string_value(json_object_get(chat_error, "message"));
    const char *param = json_string_value(json_object_get(chat_error, "param"));
    int bad = error == NULL;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && param != NULL && !bad; i++)
        if (strcmp(param, names[i][0]) == 0)
            bad = json_object_set_new(error, "param", json_string(names[i][1]));
    if (message != NULL && strncmp(message, schema, sizeof(schema) - 1) == 0 && !bad) {
        bad = json_object_set_new(error, "param", json_string("text.format.schema"));
        if (!bad)
            bad = json_object_set_new(error, "message",
                                      json_sprintf("text.format.schema: %s", message + sizeof(schema) - 1));
    }
    if (!bad)
        return error;
    json_decref(error);
    return NULL;
}

json_t *nef_response_end_record(const struct nef_ai_end *end, const char *finish_reason, uint64_t at_s)
{
    const char *code, *message;
    json_t *error, *record;

    if (end->cancelled)
        return json_pack("{s:{s:s, s:o, s:I}}", "e", "status", "cancelled", "usage", usage_json(&end->usage), "at",
                         (json_int_t)at_s);
    if (end->status == 200 && finish_reason != NULL && strcmp(finish_reason, "length") == 0)
        return json_pack("{s:{s:s, s:s, s:o, s:I}}", "e", "status", "incomplete", "reason", "max_output_tokens",
                         "usage", usage_json(&end->usage), "at", (json_int_t)at_s);
    if (end->status == 200 && finish_reason != NULL && strcmp(finish_reason, "content_filter") == 0)
        return json_pack("{s:{s:s, s:s, s:o, s:I}}", "e", "status", "incomplete", "reason", "content_filter", "usage",
                         usage_json(&end->usage), "at", (json_int_t)at_s);
    if (end->status == 200)
        return json_pack("{s:{s:s, s:o, s:I}}", "e", "status", "completed", "usage", usage_json(&end->usage), "at",
                         (json_int_t)at_s);
    /* OpenAI's codes of a response's error; what else there is to say is in the message */
    code = end->status == 429 ? "rate_limit_exceeded" : end->status < 500 ? "invalid_prompt" : "server_error";
    error = end->error == NULL ? NULL : nef_response_error(end->error);
    message = json_string_value(json_object_get(error, "message"));
    record = nef_response_fail_record(code, message == NULL ? "The answer failed." : message, at_s);
    json_decref(error);
    return record;
}

json_t *nef_response_fail_record(const char *code, const char *message, uint64_t at_s)
{
    return json_pack("{s:{s:s, s:{s:s, s:s}, s:I}}", "e", "status", "failed", "error", "code", code, "message", message,
                     "at", (json_int_t)at_s);
}
