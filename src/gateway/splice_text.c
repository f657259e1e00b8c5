/* The seam of the text way: the answer so far in the model's own form, and where what comes behind it belongs; see
 * splice.h.
 *
 * A backend that goes on inside <think> or <tool_call> has a parser that never saw the block begin, and most of them
 * give the rest of it as content. So content is walked through until the block is over:
 *
 *   thinking   -- </think> --> blank lines --> content
 *   arguments  -- their object is whole --> call end -- </tool_call> --> blank lines --> content
 *
 * An engine that is to answer in JSON and doesn't see that it is thinking answers at once. A { is therefore the
 * beginning of that, or a thought's draft of it: it is kept back until </think> comes, or doesn't.
 *
 * Some parse the message that they continue, too, and give the call a second time: then what was given is compared, not
 * trusted, and a difference ends the try. */
#include <string.h>
#include "base/assert.h"
#include "gateway/splice_internal.h"

static const char think_end[] = "</think>", call_end[] = "</tool_call>";

void nef_splice_text(const struct nef_splice *s, struct nef_buf *out)
{
    if (s->reasoning.bytes > 0) {
        nef_buf_text(out, "<think>\n");
        nef_buf_append(out, s->reasoning.data, s->reasoning.bytes);
        if (s->content.bytes > 0 || s->call_count > 0)
            nef_buf_text(out, "\n</think>\n\n");
    }
    nef_buf_append(out, s->content.data, s->content.bytes);
    for (uint32_t i = 0; i < s->call_count; i++) {
        const struct nef_splice_call *c = &s->calls[i];

        if (out->bytes > 0 && out->data[out->bytes - 1] != '\n')
            nef_buf_u8(out, '\n');
        nef_buf_text(out, "<tool_call>\n{\"name\": \"");
        nef_buf_append(out, c->name.data, c->name.bytes);
        nef_buf_text(out, "\", \"arguments\": ");
        nef_buf_append(out, c->arguments.data, c->arguments.bytes);
        if (c->whole)
            nef_buf_text(out, "}\n</tool_call>");
    }
}

/* True when this byte ends the object. */
static bool step(struct nef_splice_call *c, char byte)
{
    if (c->in_string) {
        if (c->escaped)
            c->escaped = false;
        else if (byte == '\\')
            c->escaped = true;
        else if (byte == '"')
            c->in_string = false;
    } else if (byte == '"') {
        c->in_string = true;
    } else if (byte == '{' || byte == '[') {
        c->depth++;
    } else if ((byte == '}' || byte == ']') && c->depth > 0) {
        c->depth--;
        c->whole = c->depth == 0;
    }
    return c->whole;
}

void nef_splice_arguments(struct nef_splice_call *c, const char *text, size_t bytes)
{
    nef_buf_append(&c->arguments, text, bytes);
    for (size_t i = 0; i < bytes && !c->whole; i++)
        (void)step(c, text[i]);
}

void nef_splice_seam_begin(struct nef_splice *s)
{
    s->seam.mode = NEF_SEAM_NONE;
    s->seam.repeated = 0;
    s->seam.constrained = false;
    s->seam.held.max = NEF_AI_ANSWER_MAX;
    nef_buf_reset(&s->seam.held);
    s->calls_before = s->call_count;
    if (s->call_count > 0 && !s->calls[s->call_count - 1].whole)
        s->seam.mode = NEF_SEAM_ARGUMENTS;
    else if (s->reasoning.bytes > 0 && s->content.bytes == 0 && s->call_count == 0)
        s->seam.mode = NEF_SEAM_THINKING;
}

/* What one delta becomes. */
struct parts {
    struct nef_buf content, reasoning, arguments;
};

/* How many bytes at the end of TEXT may be the beginning of TAG. */
static size_t tail_of(const char *text, size_t bytes, const char *tag)
{
    size_t most = NEF_MIN(bytes, strlen(tag) - 1);

    while (most > 0 && memcmp(text + bytes - most, tag, most) != 0)
        most--;
    return most;
}

/* Looks for TAG over the borders of pieces; what comes before it goes to OUT (NULL: nowhere). Returns bytes of TEXT
 * used; *out_found says whether the tag ended there. */
static size_t until_tag(struct nef_buf *held, const char *text, size_t bytes, const char *tag, struct nef_buf *out,
                        bool *out_found)
{
    struct nef_buf both = {.max = 0};
    const char *at;
    size_t used = bytes, keep;

    *out_found = false;
    nef_buf_append(&both, held->data, held->bytes);
    nef_buf_append(&both, text, bytes);
    if (both.failed) {
        held->failed = true;
        return bytes;
    }
    at = memmem(both.data, both.bytes, tag, strlen(tag));
    if (at != NULL) {
        size_t before = (size_t)(at - (const char *)both.data);

        *out_found = true;
        used = before + strlen(tag) - held->bytes;
        if (out != NULL)
            nef_buf_append(out, both.data, before);
        nef_buf_reset(held);
    } else {
        keep = tail_of((const char *)both.data, both.bytes, tag);
        if (out != NULL)
            nef_buf_append(out, both.data, both.bytes - keep);
        nef_buf_reset(held);
        nef_buf_append(held, both.data + both.bytes - keep, keep);
    }
    nef_buf_free(&both);
    return used;
}

/* TEXT up to </think> goes behind what is held, without the tag. Returns bytes used. */
static size_t keep_back(struct nef_buf *held, const char *text, size_t bytes, bool *out_found)
{
    size_t before = held->bytes, from, tag = strlen(think_end);
    const char *at;

    nef_buf_append(held, text, bytes);
    if (held->failed)
        return bytes;
    from = before < tag ? 0 : before - tag + 1; /* it may have begun in the piece before */
    at = memmem(held->data + from, held->bytes - from, think_end, tag);
    *out_found = at != NULL;
    if (at == NULL)
        return bytes;
    from = (size_t)(at - (const char *)held->data);
    held->bytes = from;
    return from + tag - before;
}

/* The first content of a constrained answer behind a seam in a thought. Returns bytes used. */
static size_t decide(struct nef_splice *s, const char *text, size_t bytes)
{
    size_t blank = 0;

    while (blank < bytes && text[blank] != '\0' && strchr(" \n\r\t", text[blank]) != NULL)
        blank++;
    nef_buf_append(&s->seam.held, text, blank);
    if (blank < bytes) {
        s->seam.constrained = false;
        if (text[blank] == '{' || text[blank] == '[')
            s->seam.mode = NEF_SEAM_EITHER;
    }
    return blank;
}

static void walk(struct nef_splice *s, struct nef_splice_call *scan, const char *text, size_t bytes, struct parts *out)
{
    while (bytes > 0) {
        size_t used = bytes;
        bool found = false;

        switch (s->seam.mode) {
        case NEF_SEAM_NONE:
        case NEF_SEAM_REPEATED:
            nef_buf_append(&out->content, text, bytes);
            break;
        case NEF_SEAM_EITHER:
            used = keep_back(&s->seam.held, text, bytes, &found);
            if (found) {
                nef_buf_append(&out->reasoning, s->seam.held.data, s->seam.held.bytes);
                nef_buf_reset(&s->seam.held);
                s->seam.mode = NEF_SEAM_BLANK;
            }
            break;
        case NEF_SEAM_THINKING:
            if (s->seam.constrained) {
                used = decide(s, text, bytes);
                break;
            }
            used = until_tag(&s->seam.held, text, bytes, think_end, &out->reasoning, &found);
            if (found)
                s->seam.mode = NEF_SEAM_BLANK;
            break;
        case NEF_SEAM_ARGUMENTS:
            for (used = 0; used < bytes && !scan->whole; used++)
                (void)step(scan, text[used]);
            nef_buf_append(&out->arguments, text, used);
            if (scan->whole)
                s->seam.mode = NEF_SEAM_CALL_END;
            break;
        case NEF_SEAM_CALL_END:
            used = until_tag(&s->seam.held, text, bytes, call_end, NULL, &found);
            if (found)
                s->seam.mode = NEF_SEAM_BLANK;
            break;
        case NEF_SEAM_BLANK:
            for (used = 0; used < bytes && strchr(" \n\r\t", text[used]) != NULL && text[used] != '\0'; used++)
                continue;
            if (used < bytes)
                s->seam.mode = NEF_SEAM_NONE;
            break;
        }
        text += used;
        bytes -= used;
    }
}

/* The unfinished call once more: what of it is new. */
static nef_err repeated(struct nef_splice *s, const json_t *call, struct parts *out)
{
    const struct nef_splice_call *last = &s->calls[s->calls_before - 1];
    const json_t *function = json_object_get(call, "function"), *name = json_object_get(function, "name");
    const json_t *arguments = json_object_get(function, "arguments");
    size_t bytes = json_string_length(arguments),
           known = last->arguments.bytes - NEF_MIN(s->seam.repeated, last->arguments.bytes);
    size_t same = NEF_MIN(bytes, known);

    if (json_is_string(name) && (json_string_length(name) != last->name.bytes ||
                                 memcmp(json_string_value(name), last->name.data, last->name.bytes) != 0))
        return NEF_E_PROTOCOL;
    if (bytes == 0)
        return NEF_OK;
    if (same > 0 && memcmp(json_string_value(arguments), last->arguments.data + s->seam.repeated, same) != 0)
        return NEF_E_PROTOCOL;
    s->seam.repeated += same;
    nef_buf_append(&out->arguments, json_string_value(arguments) + same, bytes - same);
    /* what is new becomes a part of what was given, and must not be taken for a repetition */
    s->seam.repeated += bytes - same;
    return NEF_OK;
}

/* The calls of a delta, with the indexes that the client knows. */
static nef_err shift_calls(struct nef_splice *s, const json_t *calls, struct parts *out, json_t *list)
{
    size_t i;
    json_t *call;
    nef_err err = NEF_OK;

    json_array_foreach(calls, i, call) {
        json_int_t index = json_integer_value(json_object_get(call, "index"));
        json_t *copy;

        if (!json_is_integer(json_object_get(call, "index")) || index < 0 || index > NEF_SPLICE_CALLS_MAX)
            return NEF_E_PROTOCOL;
        if (s->seam.mode == NEF_SEAM_ARGUMENTS && index == 0)
            s->seam.mode = NEF_SEAM_REPEATED;
        if (s->seam.mode == NEF_SEAM_REPEATED && index == 0) {
            err = repeated(s, call, out);
            if (err != NEF_OK)
                return err;
            continue;
        }
        index += s->calls_before - (s->seam.mode == NEF_SEAM_REPEATED ? 1 : 0);
        copy = json_copy(call);
        if (copy == NULL || json_object_set_new(copy, "index", json_integer(index)) != 0 ||
            json_array_append(list, copy) != 0)
            err = NEF_E_NOMEM;
        json_decref(copy);
        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}

static nef_err put_text(json_t *delta, const char *name, const struct nef_buf *text)
{
    if (text->bytes == 0) {
        (void)json_object_del(delta, name);
        return NEF_OK;
    }
    /* a piece that isn't UTF-8 is none that a backend's JSON can hold */
    return json_object_set_new(delta, name, json_stringn((const char *)text->data, text->bytes)) == 0 ? NEF_OK
                                                                                                      : NEF_E_PROTOCOL;
}

nef_err nef_splice_seam(struct nef_splice *s, json_t *choice)
{
    json_t *delta = json_object_get(choice, "delta"), *list = json_array();
    const json_t *content = json_object_get(delta, "content"), *reasoning = json_object_get(delta, "reasoning_content");
    struct nef_splice_call none = {.depth = 0}, scan = s->calls_before > 0 ? s->calls[s->calls_before - 1] : none;
    struct parts out = {.content.max = 0};
    nef_err err = list == NULL ? NEF_E_NOMEM : NEF_OK;

    if (json_is_string(reasoning) && json_string_length(reasoning) > 0) {
        if (s->seam.mode == NEF_SEAM_THINKING)
            s->seam.mode = NEF_SEAM_NONE; /* it knows where it is */
        nef_buf_append(&out.reasoning, json_string_value(reasoning), json_string_length(reasoning));
    }
    if (err == NEF_OK)
        err = shift_calls(s, json_object_get(delta, "tool_calls"), &out, list);
    if (err == NEF_OK && json_is_string(content))
        walk(s, &scan, json_string_value(content), json_string_length(content), &out);
    if (err == NEF_OK && json_is_string(json_object_get(choice, "finish_reason")) && s->seam.mode == NEF_SEAM_THINKING)
        nef_buf_append(&out.reasoning, s->seam.held.data, s->seam.held.bytes);
    if (err == NEF_OK && json_is_string(json_object_get(choice, "finish_reason")) && s->seam.mode == NEF_SEAM_EITHER)
        nef_buf_append(&out.content, s->seam.held.data, s->seam.held.bytes);
    if (err == NEF_OK && out.arguments.bytes > 0) {
        json_t *call = json_pack("{s:i, s:{s:s%}}", "index", (int)s->calls_before - 1, "function", "arguments",
                                 (const char *)out.arguments.data, out.arguments.bytes);

        err = call != NULL && json_array_insert(list, 0, call) == 0 ? NEF_OK : NEF_E_NOMEM;
        json_decref(call);
    }
    if (err == NEF_OK)
        err = put_text(delta, "content", &out.content);
    if (err == NEF_OK)
        err = put_text(delta, "reasoning_content", &out.reasoning);
    if (err == NEF_OK && json_array_size(list) > 0)
        err = json_object_set(delta, "tool_calls", list) == 0 ? NEF_OK : NEF_E_NOMEM;
    else if (err == NEF_OK)
        (void)json_object_del(delta, "tool_calls");
    if (err == NEF_OK && (out.content.failed || out.reasoning.failed || out.arguments.failed || s->seam.held.failed))
        err = NEF_E_NOMEM;
    nef_buf_free(&out.content);
    nef_buf_free(&out.reasoning);
    nef_buf_free(&out.arguments);
    json_decref(list);
    return err;
}
