/* Requests of /v1/responses and records of answers: JSON of anyone. Lines: the request, then records or chunks. What is taken as a request
 * becomes a chat; events are numbered without a gap, and a replay of the same records tells the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "gateway/responses_events.h"
#include "gateway/responses_request.h"

struct told {
    uint64_t count;
    uint64_t hash;
};

static void on_event(void *context, uint64_t sequence, const char *type, const json_t *event)
{
    struct told *t = context;
    char *text = json_dumps(event, JSON_COMPACT);

    if (sequence != t->count++ || text == NULL || strncmp(type, "response.", 9) != 0)
        abort();
    for (const char *c = text; *c != '\0'; c++)
        t->hash = t->hash * 31 + (uint8_t)*c;
    free(text);
}

static struct told tell(json_t *body, const json_t *records)
{
    struct nef_response_head head = {"resp_00", 1, body};
    struct told told = {0};
    struct nef_response *r = nef_response_new(&head, on_event, &told);
    json_t *record, *object;
    size_t i;

    if (r == NULL || nef_response_begin(r) != NEF_OK)
        abort();
    json_array_foreach(records, i, record)
    {
        nef_err err = nef_response_take(r, record);

        if (err != NEF_OK && err != NEF_E_PROTOCOL)
            abort();
    }
    object = nef_response_object(r);
    if (object == NULL)
        abort();
    json_decref(object);
    nef_response_free(r);
    return told;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    json_t *records = json_array(), *body = NULL, *chat = NULL;
    struct nef_responses_request request = {0};
    struct nef_responses_why why;
    struct told one, two;
    nef_err err;

    for (size_t at = 0; at < bytes;) {
        const uint8_t *end = memchr(data + at, '\n', bytes - at);
        size_t n = end == NULL ? bytes - at : (size_t)(end - data) - at;
        json_t *value = json_loadb((const char *)data + at, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

        at += n + 1;
        if (value == NULL)
            continue;
        if (body == NULL)
            body = value;
        else if (json_object_get(value, "choices") != NULL)
            (void)json_array_append_new(records, nef_response_chunk_record(value)), json_decref(value);
        else
            (void)json_array_append_new(records, value);
    }
    if (body != NULL) {
        err = nef_responses_request_parse(body, "resp_00", &request, &why);
        if (err == NEF_OK)
            err = nef_responses_chat(request.body, records, request.input, 1, &chat, &why);
        if (err == NEF_OK && !json_is_array(json_object_get(chat, "messages")))
            abort();
        if (err == NEF_E_INVALID && (why.status < 400 || why.message[0] == '\0'))
            abort();
        if (request.body != NULL) {
            one = tell(request.body, records);
            two = tell(request.body, records);
            if (one.count != two.count || one.hash != two.hash)
                abort();
        }
        json_decref(chat);
        nef_responses_request_free(&request);
        json_decref(body);
    }
    json_decref(records);
    return 0;
}
