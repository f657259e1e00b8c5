/* Shared by the files that render a chat; nobody else includes it.
 *
 *   chat.c           the templates of the families
 *   chat_messages.c  OpenAI's messages, checked and made plain
 *   chat_tools.c     tools, tool calls, JSON as the template engine prints it */
#ifndef NEF_INFER_CHAT_INTERNAL_H
#define NEF_INFER_CHAT_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "base/buf.h"
#include "base/err.h"
#include "infer/text/chat.h"

/* ---- text that is being built ---- */
struct nef_chat_out { /* the first error stays, and nothing is added after it */
    struct nef_buf buf;
    nef_err err;
    char *error; /* NEF_CHAT_ERROR_MAX bytes: what is wrong */
};
void nef_chat_put(struct nef_chat_out *out, const char *text, size_t bytes);
void nef_chat_puts(struct nef_chat_out *out, const char *text);
void nef_chat_refuse(struct nef_chat_out *out, nef_err err, const char *format, ...) NEF_PRINTF(3, 4);

/* ---- messages ---- */
struct nef_chat_slice { /* borrowed; data NULL: absent or null */
    const char *data;
    size_t bytes;
};
bool nef_chat_starts(struct nef_chat_slice s, const char *text);
bool nef_chat_ends(struct nef_chat_slice s, const char *text);
struct nef_chat_slice nef_chat_lstrip(struct nef_chat_slice s); /* Python's lstrip("\n") */
struct nef_chat_slice nef_chat_rstrip(struct nef_chat_slice s);

enum nef_chat_role { NEF_CHAT_SYSTEM, NEF_CHAT_USER, NEF_CHAT_ASSISTANT, NEF_CHAT_TOOL };
struct nef_chat_message {
    enum nef_chat_role role;
    struct nef_chat_slice content;   /* absent only where it was null, of an assistant */
    struct nef_chat_slice reasoning; /* reasoning_content */
    const json_t *calls;             /* array with at least one entry, or NULL */
    char *joined;                    /* owned: content made of parts */
};
struct nef_chat_messages {
    struct nef_chat_message *list;
    size_t count;
};
/* Check MESSAGES and fill *m, whose slices point into it. Errors go to out. */
void nef_chat_messages_read(struct nef_chat_out *out, const json_t *messages, struct nef_chat_messages *m);
void nef_chat_messages_done(struct nef_chat_messages *m);

/* ---- tools ---- */
/* VALUE as transformers' tojson prints it: json.dumps(value, ensure_ascii=False). */
void nef_chat_json(struct nef_chat_out *out, const json_t *value);
/* The system message's part about tools, from "# Tools" to "</tool_call>"; checks them. */
void nef_chat_tools(struct nef_chat_out *out, const json_t *tools);
/* One block '<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>' of message INDEX's call AT. parse: arguments
 * given as text are parsed and printed anew (Qwen2.5); else they are kept as they are (Qwen3). */
void nef_chat_call(struct nef_chat_out *out, const json_t *call, size_t index, size_t at, bool parse);

#endif
