/* What tests/system/test_infer_text.py asks of the text part, one JSON object a line, answers likewise:
 *
 *   text_tool tokens FILE    metadata of FILE (GGUF); {"text", "specials"} or {"hex", ...} -> {"ids", "hex": theirs}
 *   text_tool family FILE    -> {"family": 0 | 1 | 2 | 3}, once
 *   text_tool chat           {"family", "messages", "tools", "add_generation_prompt", "continue_final_message",
 *                             "enable_thinking"} -> {"text"} or {"error", "why"} */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/buf.h"
#include "infer/text/chat.h"
#include "infer/text/tokenizer.h"

static struct nef_gguf *open_file(const char *path)
{
    char why[NEF_GGUF_ERROR_MAX] = "";
    struct nef_gguf *file = NULL;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *data;

    NEF_ASSERT(fd >= 0 && fstat(fd, &st) == 0);
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0); /* stays until the end */
    NEF_ASSERT(data != MAP_FAILED);
    close(fd);
    if (nef_gguf_parse(data, (size_t)st.st_size, why, &file) != NEF_OK) {
        fprintf(stderr, "text_tool: %s\n", why);
        exit(1);
    }
    return file;
}

static void answer(json_t *object)
{
    NEF_ASSERT(object != NULL && json_dumpf(object, stdout, JSON_ENSURE_ASCII) == 0);
    (void)putchar('\n');
    json_decref(object);
}

/* The bytes of ASK's text or hex, malloc'd. */
static char *asked(const json_t *ask, size_t *out_bytes)
{
    const json_t *text = json_object_get(ask, "text"), *hex = json_object_get(ask, "hex");
    size_t bytes = text != NULL ? json_string_length(text) : json_string_length(hex) / 2;
    char *data = malloc(bytes + 1);

    NEF_ASSERT(data != NULL);
    if (text != NULL)
        memcpy(data, json_string_value(text), bytes);
    else
        for (size_t i = 0; i < bytes; i++) {
            unsigned byte = 0;

            NEF_ASSERT(sscanf(json_string_value(hex) + 2 * i, "%2x", &byte) == 1);
            data[i] = (char)byte;
        }
    *out_bytes = bytes;
    return data;
}

static json_t *bytes_of(const struct nef_tokenizer *t, const uint32_t *tokens, uint32_t count)
{
    struct nef_buf hex = {0};
    json_t *value;

    for (uint32_t i = 0; i < count; i++) {
        size_t bytes;
        const char *p = nef_token_bytes(t, tokens[i], &bytes);

        for (size_t b = 0; b < bytes; b++)
            nef_buf_printf(&hex, "%02x", (unsigned char)p[b]);
    }
    value = json_string(nef_buf_cstr(&hex));
    nef_buf_free(&hex);
    return value;
}

static void answer_tokens(const struct nef_tokenizer *t, const json_t *ask)
{
    size_t bytes;
    char *text = asked(ask, &bytes);
    uint32_t *tokens = NULL, count = 0;
    nef_err err = nef_tokenize(t, text, bytes, json_is_true(json_object_get(ask, "specials")), &tokens, &count);
    json_t *ids = json_array();

    if (err != NEF_OK) {
        json_decref(ids);
        answer(json_pack("{ss}", "error", nef_err_name(err)));
    } else {
        for (uint32_t i = 0; i < count; i++)
            NEF_ASSERT(json_array_append_new(ids, json_integer(tokens[i])) == 0);
        answer(json_pack("{so so}", "ids", ids, "hex", bytes_of(t, tokens, count)));
    }
    free(tokens);
    free(text);
}

static void answer_chat(const json_t *ask)
{
    struct nef_chat_options options = {
        .family = (enum nef_chat_family)json_integer_value(json_object_get(ask, "family")),
        .messages = json_object_get(ask, "messages"),
        .tools = json_object_get(ask, "tools"),
        .add_generation_prompt = json_is_true(json_object_get(ask, "add_generation_prompt")),
        .continue_final_message = json_is_true(json_object_get(ask, "continue_final_message")),
        .enable_thinking = !json_is_false(json_object_get(ask, "enable_thinking")),
    };
    char why[NEF_CHAT_ERROR_MAX] = "", *text = NULL;
    size_t bytes = 0;
    nef_err err = nef_chat_render(&options, why, &text, &bytes);

    if (err == NEF_OK)
        answer(json_pack("{so}", "text", json_stringn(text, bytes)));
    else
        answer(json_pack("{ss ss}", "error", nef_err_name(err), "why", why));
    free(text);
}

int main(int argc, char **argv)
{
    struct nef_gguf *file = argc == 3 ? open_file(argv[2]) : NULL;
    struct nef_tokenizer *t = NULL;
    char why[NEF_GGUF_ERROR_MAX] = "", *line = NULL;
    size_t capacity = 0;
    ssize_t bytes;

    if (argc < 2 || (strcmp(argv[1], "chat") != 0 && file == NULL)) {
        fputs("usage: text_tool tokens FILE | family FILE | chat\n", stderr);
        return 2;
    }
    if (strcmp(argv[1], "family") == 0) {
        answer(json_pack("{si}", "family", (int)nef_chat_family_of(file)));
        nef_gguf_free(file);
        return 0;
    }
    if (file != NULL && nef_tokenizer_open(file, why, &t) != NEF_OK) {
        fprintf(stderr, "text_tool: %s\n", why);
        return 1;
    }
    while ((bytes = getline(&line, &capacity, stdin)) > 0) {
        json_t *ask = json_loadb(line, (size_t)bytes, JSON_ALLOW_NUL, NULL);

        NEF_ASSERT(ask != NULL);
        if (t != NULL)
            answer_tokens(t, ask);
        else
            answer_chat(ask);
        json_decref(ask);
        (void)fflush(stdout);
    }
    free(line);
    nef_tokenizer_close(t);
    nef_gguf_free(file);
    return 0;
}
