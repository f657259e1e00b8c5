/* OpenAI's messages, checked, and made what Qwen's templates expect (chat.h says what is made of what). Errors name
 * the field: "messages[2].content[0].type: ...". Fields that the template doesn't use (name, tool_call_id, refusal,
 * ...) are left alone: clients send a message back as they got it. */
#include <stdlib.h>
#include <string.h>
#include "base/limits.h"
#include "infer/text/chat_internal.h"

static bool present(const json_t *value)
{
    return value != NULL && !json_is_null(value);
}

static struct nef_chat_slice slice_of(const json_t *text)
{
    return (struct nef_chat_slice){.data = json_string_value(text), .bytes = json_string_length(text)};
}

static void read_role(struct nef_chat_out *out, const json_t *message, size_t index, enum nef_chat_role *role)
{
    static const struct {
        const char *name;
        enum nef_chat_role role;
    } roles[] = {{"system", NEF_CHAT_SYSTEM},       {"developer", NEF_CHAT_SYSTEM}, {"user", NEF_CHAT_USER},
                 {"assistant", NEF_CHAT_ASSISTANT}, {"tool", NEF_CHAT_TOOL}};
    const json_t *value = json_object_get(message, "role");

    if (!json_is_string(value)) {
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].role: %s", index,
                        present(value) ? "not a string" : "missing");
        return;
    }
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
        if (strcmp(json_string_value(value), roles[i].name) == 0) {
            *role = roles[i].role;
            return;
        }
    nef_chat_refuse(out, NEF_E_INVALID,
                    "messages[%zu].role: \"%.32s\" is not system, developer, user, assistant or tool", index,
                    json_string_value(value));
}

/* The text of part AT, or nothing with an error. */
static struct nef_chat_slice part_text(struct nef_chat_out *out, const json_t *part, size_t index, size_t at)
{
    const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");

    if (!json_is_object(part)) {
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].content[%zu]: not an object", index, at);
    } else if (!json_is_string(type)) {
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].content[%zu].type: %s", index, at,
                        present(type) ? "not a string" : "missing");
    } else if (strcmp(json_string_value(type), "text") != 0) {
        nef_chat_refuse(out, NEF_E_UNSUPPORTED,
                        "messages[%zu].content[%zu].type: \"%.32s\" is not supported, only text", index, at,
                        json_string_value(type));
    } else if (!json_is_string(text)) {
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].content[%zu].text: %s", index, at,
                        present(text) ? "not a string" : "missing");
    } else {
        return slice_of(text);
    }
    return (struct nef_chat_slice){0};
}

/* Parts joined by newlines. */
static void join(struct nef_chat_out *out, const json_t *parts, size_t index, struct nef_chat_message *m)
{
    size_t count = json_array_size(parts), bytes = count;

    for (size_t i = 0; i < count && out->err == NEF_OK; i++)
        bytes += part_text(out, json_array_get(parts, i), index, i).bytes;
    if (out->err != NEF_OK)
        return;
    m->joined = malloc(bytes + 1);
    if (m->joined == NULL) {
        nef_chat_refuse(out, NEF_E_NOMEM, "messages: out of memory");
        return;
    }
    m->content.data = m->joined;
    for (size_t i = 0; i < count; i++) {
        struct nef_chat_slice text = part_text(out, json_array_get(parts, i), index, i);

        if (i > 0)
            m->joined[m->content.bytes++] = '\n';
        memcpy(m->joined + m->content.bytes, text.data, text.bytes);
        m->content.bytes += text.bytes;
    }
}

static void read_content(struct nef_chat_out *out, const json_t *message, size_t index, struct nef_chat_message *m)
{
    const json_t *content = json_object_get(message, "content");

    if (json_is_string(content))
        m->content = slice_of(content);
    else if (json_is_array(content) && json_array_size(content) > 0)
        join(out, content, index, m);
    else if (present(content))
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].content: not a string or an array of parts", index);
    else if (m->role == NEF_CHAT_TOOL)
        m->content = (struct nef_chat_slice){.data = "", .bytes = 0};
    else if (m->role != NEF_CHAT_ASSISTANT)
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].content: missing", index);
}

static void read_assistant(struct nef_chat_out *out, const json_t *message, size_t index, struct nef_chat_message *m)
{
    static const char *const names[] = {"reasoning_content", "reasoning"};
    const json_t *calls = json_object_get(message, "tool_calls");

    for (size_t i = 0; i < 2 && m->reasoning.data == NULL; i++) {
        const json_t *reasoning = json_object_get(message, names[i]);

        if (json_is_string(reasoning))
            m->reasoning = slice_of(reasoning);
        else if (present(reasoning))
            nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].%s: not a string", index, names[i]);
    }
    if (json_is_array(calls))
        m->calls = json_array_size(calls) > 0 ? calls : NULL;
    else if (present(calls))
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].tool_calls: not an array", index);
    if (present(json_object_get(message, "function_call")))
        nef_chat_refuse(out, NEF_E_UNSUPPORTED, "messages[%zu].function_call: use tool_calls", index);
}

static void read_message(struct nef_chat_out *out, const json_t *message, size_t index, struct nef_chat_message *m)
{
    if (!json_is_object(message)) {
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu]: not an object", index);
        return;
    }
    read_role(out, message, index, &m->role);
    if (out->err == NEF_OK)
        read_content(out, message, index, m);
    if (out->err == NEF_OK && m->role == NEF_CHAT_ASSISTANT)
        read_assistant(out, message, index, m);
    if (out->err == NEF_OK && m->role != NEF_CHAT_ASSISTANT &&
        json_array_size(json_object_get(message, "tool_calls")) > 0)
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].tool_calls: only an assistant calls tools", index);
}

void nef_chat_messages_read(struct nef_chat_out *out, const json_t *messages, struct nef_chat_messages *m)
{
    size_t count = json_array_size(messages);

    if (!json_is_array(messages))
        nef_chat_refuse(out, NEF_E_INVALID, "messages: %s", present(messages) ? "not an array" : "missing");
    else if (count == 0)
        nef_chat_refuse(out, NEF_E_INVALID, "messages: empty");
    else if (count > NEF_CHAT_MESSAGES_MAX)
        nef_chat_refuse(out, NEF_E_LIMIT, "messages: more than %u", NEF_CHAT_MESSAGES_MAX);
    if (out->err != NEF_OK)
        return;
    m->list = calloc(count, sizeof(*m->list));
    if (m->list == NULL) {
        nef_chat_refuse(out, NEF_E_NOMEM, "messages: out of memory");
        return;
    }
    m->count = count;
    for (size_t i = 0; i < count && out->err == NEF_OK; i++)
        read_message(out, json_array_get(messages, i), i, &m->list[i]);
}

void nef_chat_messages_done(struct nef_chat_messages *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->list[i].joined != NULL) {
            explicit_bzero(m->list[i].joined, m->list[i].content.bytes);
            free(m->list[i].joined);
        }
    free(m->list);
}
