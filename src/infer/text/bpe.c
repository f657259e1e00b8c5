/* Byte-pair merges of one word: start with a token for each byte, then again and again merge the two neighbours whose
 * pair has the lowest rank (the leftmost of equals), until no pair is known (Sennrich et al. 2016).
 *
 * A word can be a megabyte of one letter, so the next pair comes from a heap and tokens are a linked list: O(n log n).
 *
 *     place   0     1     2     3          next/prev link the places that still hold a token;
 *     token  "he"   -    "l"   "lo"        a merged right neighbour's place is empty (NEF_NO_TOKEN)
 *
 * Heap entries are rank << 32 | place. They aren't taken out when a neighbour changes: an entry counts only if the pair
 * now at its place has its rank, and ranks belong to one pair each. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/text/text_internal.h"

#define NO_PLACE UINT32_MAX

nef_err nef_tokens_push(struct nef_tokens *tokens, uint32_t token)
{
    if (tokens->count == tokens->capacity) {
        size_t capacity = tokens->capacity == 0 ? 64 : tokens->capacity * 2;
        uint32_t *data = realloc(tokens->data, capacity * sizeof(*data));

        if (data == NULL)
            return NEF_E_NOMEM;
        tokens->data = data;
        tokens->capacity = capacity;
    }
    tokens->data[tokens->count++] = token;
    return NEF_OK;
}

static nef_err reserve(struct nef_bpe *bpe, size_t bytes)
{
    size_t capacity = bpe->capacity == 0 ? 64 : bpe->capacity;

    if (bytes <= bpe->capacity)
        return NEF_OK;
    while (capacity < bytes)
        capacity *= 2;
    nef_bpe_done(bpe);
    bpe->token = malloc(capacity * sizeof(*bpe->token));
    bpe->next = malloc(capacity * sizeof(*bpe->next));
    bpe->prev = malloc(capacity * sizeof(*bpe->prev));
    if (bpe->token == NULL || bpe->next == NULL || bpe->prev == NULL)
        return NEF_E_NOMEM;
    bpe->capacity = capacity;
    return NEF_OK;
}

static nef_err heap_push(struct nef_bpe *bpe, uint64_t entry)
{
    size_t at;

    if (bpe->heap_count == bpe->heap_capacity) {
        size_t capacity = bpe->heap_capacity == 0 ? 64 : bpe->heap_capacity * 2;
        uint64_t *heap = realloc(bpe->heap, capacity * sizeof(*heap));

        if (heap == NULL)
            return NEF_E_NOMEM;
        bpe->heap = heap;
        bpe->heap_capacity = capacity;
    }
    for (at = bpe->heap_count++; at > 0 && bpe->heap[(at - 1) / 2] > entry; at = (at - 1) / 2)
        bpe->heap[at] = bpe->heap[(at - 1) / 2];
    bpe->heap[at] = entry;
    return NEF_OK;
}

static uint64_t heap_pop(struct nef_bpe *bpe)
{
    uint64_t top = bpe->heap[0], last = bpe->heap[--bpe->heap_count];
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;

        if (child >= bpe->heap_count)
            break;
        if (child + 1 < bpe->heap_count && bpe->heap[child + 1] < bpe->heap[child])
            child++;
        if (bpe->heap[child] >= last)
            break;
        bpe->heap[at] = bpe->heap[child];
        at = child;
    }
    bpe->heap[at] = last;
    return top;
}

static nef_err offer(struct nef_bpe *bpe, const struct nef_tokenizer *t, uint32_t place)
{
    const struct nef_merge *merge;

    if (place == NO_PLACE || bpe->next[place] == NO_PLACE)
        return NEF_OK;
    merge = nef_vocab_merge(t, bpe->token[place], bpe->token[bpe->next[place]]);
    return merge == NULL ? NEF_OK : heap_push(bpe, (uint64_t)merge->rank << 32 | place);
}

static nef_err merge_all(struct nef_bpe *bpe, const struct nef_tokenizer *t)
{
    nef_err err = NEF_OK;

    while (bpe->heap_count > 0 && err == NEF_OK) {
        uint64_t entry = heap_pop(bpe);
        uint32_t place = (uint32_t)entry, right;
        const struct nef_merge *merge;

        if (bpe->token[place] == NEF_NO_TOKEN || bpe->next[place] == NO_PLACE)
            continue;
        right = bpe->next[place];
        merge = nef_vocab_merge(t, bpe->token[place], bpe->token[right]);
        if (merge == NULL || merge->rank != (uint32_t)(entry >> 32))
            continue;
        bpe->token[place] = merge->token;
        bpe->token[right] = NEF_NO_TOKEN;
        bpe->next[place] = bpe->next[right];
        if (bpe->next[place] != NO_PLACE)
            bpe->prev[bpe->next[place]] = place;
        err = offer(bpe, t, bpe->prev[place]);
        if (err == NEF_OK)
            err = offer(bpe, t, place);
    }
    return err;
}

nef_err nef_bpe_encode(struct nef_bpe *bpe, const struct nef_tokenizer *t, const uint8_t *p, size_t bytes,
                       struct nef_tokens *out)
{
    nef_err err;

    NEF_ASSERT(bytes > 0 && bytes < NO_PLACE);
    if (bytes == 1)
        return nef_tokens_push(out, t->byte_token[p[0]]);
    err = reserve(bpe, bytes);
    if (err != NEF_OK)
        return err;
    bpe->heap_count = 0;
    for (size_t i = 0; i < bytes; i++) {
        bpe->token[i] = t->byte_token[p[i]];
        bpe->prev[i] = i == 0 ? NO_PLACE : (uint32_t)(i - 1);
        bpe->next[i] = i + 1 == bytes ? NO_PLACE : (uint32_t)(i + 1);
    }
    for (size_t i = 0; i + 1 < bytes && err == NEF_OK; i++)
        err = offer(bpe, t, (uint32_t)i);
    if (err == NEF_OK)
        err = merge_all(bpe, t);
    for (uint32_t place = 0; place != NO_PLACE && err == NEF_OK; place = bpe->next[place])
        err = nef_tokens_push(out, bpe->token[place]);
    return err;
}

void nef_bpe_done(struct nef_bpe *bpe)
{
    free(bpe->token);
    free(bpe->next);
    free(bpe->prev);
    free(bpe->heap);
    *bpe = (struct nef_bpe){0};
}
