/* Vocabulary, merges and special tokens from a GGUF's tokenizer.ggml.* keys.
 *
 * The file writes ordinary tokens and merges in GPT-2's alphabet: each byte is a printable character (33-126, 161-172
 * and 174-255 are themselves, the others U+0100 and up in order), so "Ġhe" is " he". Here everything is bytes.
 *
 *   type           bytes              matched in texts     merges   shown to clients
 *   1 normal       decoded            no                   yes      yes
 *   2 unknown,
 *   3 control      its text           when asked for       no       no
 *   4 user         its text           always               no       yes
 *   5 unused       none               no                   no       no
 *
 * End of generation, as in llama.cpp: what the keys eos, eot, eom, fim_pad, fim_rep and fim_sep name, and <|im_end|>,
 * <|endoftext|>, <|fim_pad|>, <|repo_name|>, <|file_sep|> by text.
 *
 * The file may be hostile: numbers and texts are checked, hash tables refuse to be flooded. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/siphash.h"
#include "infer/text/text_internal.h"

#define KEY(name) "tokenizer.ggml." name
#define PROBES_MAX 4096u /* steps of one look-up; a table at most half full needs dozens */

static nef_err refuse(char *out_error, nef_err err, const char *format, ...) NEF_PRINTF(3, 4);
static nef_err refuse(char *out_error, nef_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(out_error, NEF_GGUF_ERROR_MAX, format, args); /* may be cut off */
    va_end(args);
    return err;
}

/* ---- GPT-2's alphabet ---- */

/* The byte that CODE stands for, or -1. */
static int byte_of(uint32_t code)
{
    if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255))
        return (int)code;
    if (code < 256 || code > 256 + 67)
        return -1;
    code -= 256; /* the other 68 bytes, ascending: 0-32, 127-160, 173 */
    return code <= 32 ? (int)code : code <= 66 ? (int)(code - 33 + 127) : 173;
}

/* Decode BYTES bytes at P to OUT (as many at most). False: a character that isn't of the alphabet. */
static bool decode(const char *p, size_t bytes, uint8_t *out, size_t *out_bytes)
{
    size_t count = 0;

    for (size_t at = 0; at < bytes;) {
        uint32_t code = 0;
        size_t step = nef_utf8_char((const uint8_t *)p + at, bytes - at, &code);
        int byte = step == 0 ? -1 : byte_of(code);

        if (byte < 0)
            return false;
        out[count++] = (uint8_t)byte;
        at += step;
    }
    *out_bytes = count;
    return true;
}

/* ---- tables ---- */

struct by_text { /* normal tokens by their bytes, while merges are read */
    uint32_t *slots;
    uint32_t mask;
};

static uint32_t table_mask(uint64_t count)
{
    uint32_t slots = 64;

    while (slots < count * 2)
        slots *= 2;
    return slots - 1;
}

static uint64_t text_hash(const void *p, size_t bytes)
{
    static const uint8_t key[16] = "nef vocabulary.";

    return nef_siphash(key, p, bytes);
}

static uint32_t pair_hash(uint64_t pair)
{
    pair *= 0x9e3779b97f4a7c15u; /* 2^64 / golden ratio: Knuth's multiplicative hashing */
    return (uint32_t)(pair >> 32) ^ (uint32_t)(pair >> 12);
}

static uint32_t find_text(const struct nef_tokenizer *t, const struct by_text *table, const uint8_t *p, size_t bytes)
{
    uint32_t at = (uint32_t)text_hash(p, bytes) & table->mask;

    for (; table->slots[at] != NEF_NO_TOKEN; at = (at + 1) & table->mask) {
        uint32_t token = table->slots[at];

        if (t->offsets[token + 1] - t->offsets[token] == bytes && memcmp(t->text + t->offsets[token], p, bytes) == 0)
            return token;
    }
    return NEF_NO_TOKEN;
}

/* Of equal texts the lowest number stays. False: flooded. */
static bool add_text(const struct nef_tokenizer *t, struct by_text *table, uint32_t token)
{
    const uint8_t *p = (const uint8_t *)t->text + t->offsets[token];
    size_t bytes = t->offsets[token + 1] - t->offsets[token];
    uint32_t at = (uint32_t)text_hash(p, bytes) & table->mask;

    for (uint32_t probes = 0; probes < PROBES_MAX; probes++, at = (at + 1) & table->mask) {
        uint32_t other = table->slots[at];

        if (other == NEF_NO_TOKEN) {
            table->slots[at] = token;
            return true;
        }
        if (t->offsets[other + 1] - t->offsets[other] == bytes && memcmp(t->text + t->offsets[other], p, bytes) == 0)
            return true;
    }
    return false;
}

const struct nef_merge *nef_vocab_merge(const struct nef_tokenizer *t, uint32_t left, uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    uint32_t at = pair_hash(pair) & t->merges_mask;

    for (; t->merges[at].rank != UINT32_MAX; at = (at + 1) & t->merges_mask)
        if (t->merges[at].pair == pair)
            return &t->merges[at];
    return NULL;
}

static bool add_merge(struct nef_tokenizer *t, uint64_t pair, uint32_t rank, uint32_t token)
{
    uint32_t at = pair_hash(pair) & t->merges_mask;

    for (uint32_t probes = 0; probes < PROBES_MAX; probes++, at = (at + 1) & t->merges_mask) {
        if (t->merges[at].rank == UINT32_MAX) {
            t->merges[at] = (struct nef_merge){.pair = pair, .rank = rank, .token = token};
            return true;
        }
        if (t->merges[at].pair == pair)
            return true; /* of equal pairs the lowest rank stays, as in llama.cpp */
    }
    return false;
}

/* ---- tokens ---- */

static nef_err read_type(const struct nef_gguf *file, uint32_t token, char *out_error, uint8_t *out_flags,
                         bool *out_text)
{
    static const uint8_t flags[] = {0, NEF_TOKEN_NORMAL, NEF_TOKEN_CONTROL, NEF_TOKEN_CONTROL, NEF_TOKEN_USER, 0};
    uint64_t type = 0;
    nef_err err = nef_gguf_array_u64(file, KEY("token_type"), token, &type);

    if (err != NEF_OK || type == 0 || type > 5)
        return refuse(out_error, NEF_E_INVALID, KEY("token_type") "[%u]: not a type of a byte-level vocabulary", token);
    *out_flags = flags[type];
    *out_text = type != 5;
    return NEF_OK;
}

static nef_err read_token(struct nef_tokenizer *t, const struct nef_gguf *file, uint32_t token,
                          const struct nef_gguf_string *text, char *out_error)
{
    uint32_t offset = t->offsets[token];
    size_t bytes = 0;
    bool has_text = false;
    nef_err err;

    if (text->bytes > NEF_TOKEN_BYTES_MAX)
        return refuse(out_error, NEF_E_LIMIT, KEY("tokens") "[%u]: %zu bytes are too many", token, text->bytes);
    err = read_type(file, token, out_error, &t->flags[token], &has_text);
    if (err != NEF_OK)
        return err;
    if (t->flags[token] == NEF_TOKEN_NORMAL) {
        if (!decode(text->data, text->bytes, (uint8_t *)t->text + offset, &bytes) || bytes == 0)
            return refuse(out_error, NEF_E_INVALID, KEY("tokens") "[%u]: not in GPT-2's byte alphabet", token);
    } else if (has_text) {
        memcpy(t->text + offset, text->data, text->bytes);
        bytes = text->bytes;
    }
    t->offsets[token + 1] = offset + (uint32_t)bytes;
    return NEF_OK;
}

/* The array KEY of strings: its length, and the bytes of all its strings. */
static nef_err measure(const struct nef_gguf *file, const char *key, uint64_t count_max, char *out_error,
                       uint32_t *out_count, size_t *out_bytes)
{
    enum nef_gguf_value_type type;
    struct nef_gguf_string text;
    uint64_t count = 0, at = 0;
    size_t bytes = 0;
    nef_err err = nef_gguf_array(file, key, &type, &count);

    if (err == NEF_E_NOT_FOUND)
        return refuse(out_error, NEF_E_INVALID, "%s is missing", key);
    if (err != NEF_OK || type != NEF_GGUF_STRING || count == 0)
        return refuse(out_error, NEF_E_INVALID, "%s: not an array of strings", key);
    if (count > count_max)
        return refuse(out_error, NEF_E_LIMIT, "%s: %llu entries are too many", key, (unsigned long long)count);
    for (uint64_t i = 0; i < count; i++) {
        err = nef_gguf_array_string(file, key, &at, &text);
        if (err != NEF_OK)
            return refuse(out_error, err, "%s[%llu]: not readable", key, (unsigned long long)i);
        if (text.bytes > NEF_VOCAB_BYTES_MAX - bytes)
            return refuse(out_error, NEF_E_LIMIT, "%s: more than %u bytes", key, NEF_VOCAB_BYTES_MAX);
        bytes += text.bytes;
    }
    *out_count = (uint32_t)count;
    *out_bytes = bytes;
    return NEF_OK;
}

static nef_err read_tokens(struct nef_tokenizer *t, const struct nef_gguf *file, char *out_error)
{
    struct nef_gguf_string text = {0};
    enum nef_gguf_value_type type;
    uint64_t at = 0, types = 0;
    size_t bytes = 0;
    nef_err err = measure(file, KEY("tokens"), NEF_VOCAB_MAX, out_error, &t->vocab, &bytes);

    if (err != NEF_OK)
        return err;
    err = nef_gguf_array(file, KEY("token_type"), &type, &types);
    if (err == NEF_E_NOT_FOUND)
        return refuse(out_error, NEF_E_INVALID, KEY("token_type") " is missing");
    if (err != NEF_OK || types != t->vocab)
        return refuse(out_error, NEF_E_INVALID, KEY("token_type") ": not as long as " KEY("tokens"));
    t->offsets = calloc((size_t)t->vocab + 1, sizeof(*t->offsets));
    t->flags = calloc(t->vocab, 1);
    t->text = malloc(bytes + 1);
    if (t->offsets == NULL || t->flags == NULL || t->text == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < t->vocab; i++) {
        err = nef_gguf_array_string(file, KEY("tokens"), &at, &text);
        if (err == NEF_OK)
            err = read_token(t, file, i, &text, out_error);
        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}

/* ---- merges ---- */

static nef_err read_merge(struct nef_tokenizer *t, const struct by_text *table, const struct nef_gguf_string *text,
                          uint32_t rank, char *out_error)
{
    uint8_t bytes[2 * NEF_TOKEN_BYTES_MAX];
    const char *space = text->bytes < 3 ? NULL : memchr(text->data + 1, ' ', text->bytes - 1);
    size_t left_bytes = 0, right_bytes = 0;
    uint32_t left, right, merged;

    if (space == NULL || text->bytes > sizeof(bytes) ||
        !decode(text->data, (size_t)(space - text->data), bytes, &left_bytes) ||
        !decode(space + 1, text->bytes - (size_t)(space + 1 - text->data), bytes + left_bytes, &right_bytes))
        return refuse(out_error, NEF_E_INVALID, KEY("merges") "[%u]: not two tokens in GPT-2's byte alphabet", rank);
    left = find_text(t, table, bytes, left_bytes);
    right = find_text(t, table, bytes + left_bytes, right_bytes);
    merged = find_text(t, table, bytes, left_bytes + right_bytes);
    if (left == NEF_NO_TOKEN || right == NEF_NO_TOKEN || merged == NEF_NO_TOKEN)
        return refuse(out_error, NEF_E_INVALID, KEY("merges") "[%u]: not of tokens of the vocabulary", rank);
    if (!add_merge(t, (uint64_t)left << 32 | right, rank, merged))
        return refuse(out_error, NEF_E_INVALID, KEY("merges") "[%u]: the table is flooded", rank);
    return NEF_OK;
}

static nef_err read_merges(struct nef_tokenizer *t, const struct nef_gguf *file, const struct by_text *table,
                           char *out_error)
{
    struct nef_gguf_string text = {0};
    uint32_t count = 0;
    uint64_t at = 0;
    size_t bytes = 0;
    nef_err err = measure(file, KEY("merges"), NEF_MERGES_MAX, out_error, &count, &bytes);

    if (err != NEF_OK)
        return err;
    t->merges_mask = table_mask(count);
    t->merges = malloc(((size_t)t->merges_mask + 1) * sizeof(*t->merges));
    if (t->merges == NULL)
        return NEF_E_NOMEM;
    for (size_t i = 0; i <= t->merges_mask; i++)
        t->merges[i] = (struct nef_merge){.rank = UINT32_MAX};
    for (uint32_t i = 0; i < count && err == NEF_OK; i++) {
        err = nef_gguf_array_string(file, KEY("merges"), &at, &text);
        if (err == NEF_OK)
            err = read_merge(t, table, &text, i, out_error);
    }
    return err;
}

static nef_err read_words(struct nef_tokenizer *t, const struct nef_gguf *file, char *out_error)
{
    struct by_text table = {.mask = table_mask(t->vocab)};
    nef_err err = NEF_OK;

    table.slots = malloc(((size_t)table.mask + 1) * sizeof(*table.slots));
    if (table.slots == NULL)
        return NEF_E_NOMEM;
    memset(table.slots, 0xff, ((size_t)table.mask + 1) * sizeof(*table.slots));
    for (uint32_t i = 0; i < t->vocab; i++)
        if (t->flags[i] == NEF_TOKEN_NORMAL && !add_text(t, &table, i)) {
            err = refuse(out_error, NEF_E_INVALID, KEY("tokens") "[%u]: the table is flooded", i);
            goto out;
        }
    for (uint32_t i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;

        t->byte_token[i] = find_text(t, &table, &byte, 1);
        if (t->byte_token[i] == NEF_NO_TOKEN) {
            err = refuse(out_error, NEF_E_INVALID, KEY("tokens") ": no token for the byte %u", i);
            goto out;
        }
    }
    err = read_merges(t, file, &table, out_error);
out:
    free(table.slots);
    return err;
}

/* ---- specials ---- */

static int compare_tokens(const void *a, const void *b, void *context)
{
    const struct nef_tokenizer *t = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    uint32_t x_bytes = t->offsets[x + 1] - t->offsets[x], y_bytes = t->offsets[y + 1] - t->offsets[y];
    int order = memcmp(t->text + t->offsets[x], t->text + t->offsets[y], x_bytes < y_bytes ? x_bytes : y_bytes);

    if (order != 0)
        return order;
    if (x_bytes != y_bytes)
        return x_bytes < y_bytes ? -1 : 1;
    return x < y ? -1 : x > y;
}

static nef_err read_specials(struct nef_tokenizer *t, char *out_error)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < t->vocab; i++)
        count += (t->flags[i] & (NEF_TOKEN_CONTROL | NEF_TOKEN_USER)) != 0;
    t->specials = malloc(((size_t)count + 1) * sizeof(*t->specials));
    if (t->specials == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < t->vocab; i++) {
        uint32_t bytes = t->offsets[i + 1] - t->offsets[i];

        if ((t->flags[i] & (NEF_TOKEN_CONTROL | NEF_TOKEN_USER)) == 0 || bytes == 0)
            continue;
        if (bytes > NEF_SPECIAL_BYTES_MAX) /* each place of a text is compared with it */
            return refuse(out_error, NEF_E_LIMIT, KEY("tokens") "[%u]: too long for a special token", i);
        t->special_starts[(uint8_t)t->text[t->offsets[i]]] = true;
        t->specials[t->specials_count++] = i;
    }
    qsort_r(t->specials, t->specials_count, sizeof(*t->specials), compare_tokens, t);
    return NEF_OK;
}

uint32_t nef_vocab_special(const struct nef_tokenizer *t, const uint8_t *p, size_t bytes, bool control)
{
    uint32_t low = 0, high = t->specials_count, found = NEF_NO_TOKEN;

    /* Specials low .. high-1 begin with the first depth bytes; one that is no longer than that stands first. */
    for (size_t depth = 0; low < high; depth++) {
        uint32_t first = low, from, to;

        while (first < high && t->offsets[t->specials[first] + 1] - t->offsets[t->specials[first]] == depth) {
            if (control || (t->flags[t->specials[first]] & NEF_TOKEN_USER) != 0) {
                found = t->specials[first];
                break; /* of equal texts the lowest number */
            }
            first++;
        }
        while (first < high && t->offsets[t->specials[first] + 1] - t->offsets[t->specials[first]] == depth)
            first++;
        if (depth == bytes)
            break;
        for (from = first, to = high; from < to;) { /* the first whose next byte isn't below p[depth] */
            uint32_t middle = from + (to - from) / 2;

            if ((uint8_t)t->text[t->offsets[t->specials[middle]] + depth] < p[depth])
                from = middle + 1;
            else
                to = middle;
        }
        low = from;
        for (to = high; from < to;) { /* the first whose next byte is above it */
            uint32_t middle = from + (to - from) / 2;

            if ((uint8_t)t->text[t->offsets[t->specials[middle]] + depth] <= p[depth])
                from = middle + 1;
            else
                to = middle;
        }
        high = from;
    }
    return found;
}

/* ---- what the keys say ---- */

/* The token that KEY names, if the file has it. */
static nef_err read_id(const struct nef_tokenizer *t, const struct nef_gguf *file, const char *key, char *out_error,
                       uint32_t *out_token)
{
    uint64_t id = 0;
    nef_err err = nef_gguf_u64(file, key, &id);

    if (err == NEF_E_NOT_FOUND) {
        *out_token = NEF_NO_TOKEN;
        return NEF_OK;
    }
    if (err != NEF_OK || id >= t->vocab)
        return refuse(out_error, NEF_E_INVALID, "%s: not a token of the vocabulary", key);
    *out_token = (uint32_t)id;
    return NEF_OK;
}

static nef_err read_ends(struct nef_tokenizer *t, const struct nef_gguf *file, char *out_error)
{
    static const char *const keys[] = {KEY("eos_token_id"), KEY("eot_token_id"), KEY("eom_token_id"),
                                       KEY("fim_pad_token_id"), KEY("fim_rep_token_id"), KEY("fim_sep_token_id")};
    static const char *const texts[] = {"<|im_end|>", "<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"};
    uint32_t token = NEF_NO_TOKEN;

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        nef_err err = read_id(t, file, keys[i], out_error, &token);

        if (err != NEF_OK)
            return err;
        if (token != NEF_NO_TOKEN)
            t->flags[token] |= NEF_TOKEN_ENDS;
    }
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        token = nef_token_find(t, texts[i]);
        if (token != NEF_NO_TOKEN)
            t->flags[token] |= NEF_TOKEN_ENDS;
    }
    return NEF_OK;
}

/* An absent flag is false: llama.cpp's default for byte-level vocabularies. */
static nef_err read_flag(const struct nef_gguf *file, const char *key, char *out_error, bool *out_value)
{
    bool value = false;
    nef_err err = nef_gguf_bool(file, key, &value);

    if (err != NEF_OK && err != NEF_E_NOT_FOUND)
        return refuse(out_error, NEF_E_INVALID, "%s: not a bool", key);
    *out_value = value;
    return NEF_OK;
}

static nef_err read_bos(struct nef_tokenizer *t, const struct nef_gguf *file, char *out_error)
{
    bool add_bos = false, add_eos = false;
    uint32_t bos = NEF_NO_TOKEN;
    nef_err err = read_flag(file, KEY("add_bos_token"), out_error, &add_bos);

    if (err == NEF_OK)
        err = read_flag(file, KEY("add_eos_token"), out_error, &add_eos);
    if (err == NEF_OK)
        err = read_id(t, file, KEY("bos_token_id"), out_error, &bos);
    if (err != NEF_OK)
        return err;
    if (add_eos)
        return refuse(out_error, NEF_E_UNSUPPORTED, KEY("add_eos_token") ": texts that end with eos are not supported");
    if (add_bos && bos == NEF_NO_TOKEN)
        return refuse(out_error, NEF_E_INVALID,
                      KEY("bos_token_id") " is missing, " KEY("add_bos_token") " asks for it");
    t->bos = add_bos ? bos : NEF_NO_TOKEN;
    return NEF_OK;
}

static nef_err require_text(const struct nef_gguf *file, const char *key, const char *wanted, char *out_error)
{
    struct nef_gguf_string text = {0};
    nef_err err = nef_gguf_text(file, key, &text);

    if (err == NEF_E_NOT_FOUND)
        return refuse(out_error, NEF_E_UNSUPPORTED, "%s is missing; only \"%s\" is supported", key, wanted);
    if (err != NEF_OK)
        return refuse(out_error, NEF_E_INVALID, "%s: not a text", key);
    if (text.bytes != strlen(wanted) || memcmp(text.data, wanted, text.bytes) != 0)
        return refuse(out_error, NEF_E_UNSUPPORTED, "%s is \"%.*s\"; only \"%s\" is supported", key,
                      (int)(text.bytes < 64 ? text.bytes : 64), text.data, wanted);
    return NEF_OK;
}

nef_err nef_vocab_read(struct nef_tokenizer *t, const struct nef_gguf *file, char *out_error)
{
    nef_err err = require_text(file, KEY("model"), "gpt2", out_error);

    if (err == NEF_OK)
        err = require_text(file, KEY("pre"), "qwen2", out_error);
    if (err == NEF_OK)
        err = read_tokens(t, file, out_error);
    if (err == NEF_OK)
        err = read_words(t, file, out_error);
    if (err == NEF_OK)
        err = read_specials(t, out_error);
    if (err == NEF_OK)
        err = read_ends(t, file, out_error);
    if (err == NEF_OK)
        err = read_bos(t, file, out_error);
    if (err == NEF_E_NOMEM)
        return refuse(out_error, err, "tokenizer: %s", nef_err_text(err));
    return err;
}

void nef_vocab_done(struct nef_tokenizer *t)
{
    free(t->offsets);
    free(t->text);
    free(t->flags);
    free(t->merges);
    free(t->specials);
}
