/* The KV cache; see kvcache.h.
 *
 * A page is always in exactly one of these states:
 *
 *   CLEAN     never handed out, or given back to the system: zero when it is touched, costs no memory till then
 *   DIRTY     free, but holds old bytes, since the system didn't take it: zeroed when it is handed out
 *   HELD      refs > 0 sequences hold it; findable (known, in a bucket's chain) once it is full
 *   KEPT      nobody holds it, findable; in the list, whose head is evicted first
 *
 * Clean pages go first, then dirty ones, then kept ones: a prefix is forgotten only when the room is needed. A page
 * whose content can't be found again (the last one of a sequence, which isn't full) is given back: it must be zero when
 * it is used again anyway, the system's zeroing costs no more, and it is done by the threads that compute.
 *
 * The name of a full page is SHA-256(name of the page before it, its 64 tokens), and that of the page before the first
 * is SHA-256(secret of this cache, salt). So equal names mean equal salts and equal tokens from position 0, and nobody
 * who chooses tokens and salts can make two names, or two buckets, collide. With the numerics of docs/numerics.md it
 * follows that the bytes of two pages of one name are equal: positions of a page depend on the tokens before them and
 * on nothing else.
 *
 * One page holds all layers: (layer, kv_head, K then V), so a page is one piece of memory of some MiB, and huge pages
 * of the system waste little. */
#include "infer/model/kvcache.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/assert.h"
#include "crypto/crypto.h"

#define NONE UINT32_MAX
#define NAME_BYTES 32u
#define SYSTEM_PAGE ((size_t)4096) /* on a system with larger ones pages aren't given back */

enum page_state { CLEAN, DIRTY, HELD, KEPT };

struct page {
    uint8_t name[NAME_BYTES]; /* when known */
    uint32_t refs;
    uint32_t next, previous; /* CLEAN and given back, DIRTY: next free. KEPT: in the list */
    uint32_t chain;          /* next page of the bucket */
    enum page_state state;
    bool known;
};

struct nef_kv_cache {
    struct nef_kv_options options;
    size_t part_bytes; /* K or V of one layer and head */
    size_t page_bytes;
    size_t bytes;
    uint8_t *memory;
    struct page *pages;
    uint32_t *buckets; /* first page of each chain, or NONE */
    uint32_t bucket_mask;
    uint32_t untouched;         /* pages [untouched, options.pages) are CLEAN */
    uint32_t clean, dirty;      /* heads of the free lists */
    uint32_t first, last;       /* of KEPT pages */
    uint32_t free;              /* CLEAN, DIRTY and KEPT */
    uint32_t sequences;
    uint8_t secret[NAME_BYTES];
    struct nef_hash *hash;
};

struct nef_kv_sequence {
    struct nef_kv_cache *cache;
    uint32_t *pages;
    uint32_t count, room;
    uint32_t noted;           /* positions */
    uint8_t name[NAME_BYTES]; /* of the last full page, or of the beginning */
    uint32_t tokens[NEF_KV_TILE];
};

nef_err nef_kv_open(const struct nef_kv_options *options, struct nef_kv_cache **out_cache)
{
    struct nef_kv_cache *cache;
    size_t buckets = 64;
    void *memory;
    nef_err err = NEF_E_NOMEM;

    NEF_ASSERT(options->pages > 0);
    NEF_ASSERT(options->layers > 0 && options->kv_heads > 0);
    NEF_ASSERT(options->head_dim > 0 && options->head_dim <= NEF_HEAD_DIM_MAX);
    cache = calloc(1, sizeof(*cache));
    if (cache == NULL)
        return NEF_E_NOMEM;
    cache->options = *options;
    cache->part_bytes = nef_kv_page_bytes(options->type, options->head_dim);
    if (__builtin_mul_overflow(cache->part_bytes, (size_t)options->layers * options->kv_heads * 2,
                               &cache->page_bytes) ||
        __builtin_add_overflow(cache->page_bytes, SYSTEM_PAGE - 1, &cache->page_bytes))
        goto out;
    cache->page_bytes = cache->page_bytes / SYSTEM_PAGE * SYSTEM_PAGE;
    if (__builtin_mul_overflow(cache->page_bytes, (size_t)options->pages, &cache->bytes))
        goto out;
    while (buckets < options->pages && buckets < 1u << 31)
        buckets *= 2;
    cache->bucket_mask = (uint32_t)(buckets - 1);
    cache->pages = calloc(options->pages, sizeof(cache->pages[0]));
    cache->buckets = malloc(buckets * sizeof(cache->buckets[0]));
    cache->hash = nef_hash_new(NEF_HASH_SHA256);
    if (cache->pages == NULL || cache->buckets == NULL || cache->hash == NULL)
        goto out;
    memset(cache->buckets, 0xff, buckets * sizeof(cache->buckets[0]));
    memory = mmap(NULL, cache->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        goto out;
    cache->memory = memory;
    (void)madvise(memory, cache->bytes, MADV_HUGEPAGE);  /* a hint */
    (void)madvise(memory, cache->bytes, MADV_DONTDUMP); /* customers' prompts: not in a core file */
    cache->clean = cache->dirty = cache->first = cache->last = NONE;
    cache->free = options->pages;
    nef_random(cache->secret, sizeof(cache->secret));
    *out_cache = cache;
    return NEF_OK;
out:
    nef_kv_close(cache);
    return err;
}

void nef_kv_close(struct nef_kv_cache *cache)
{
    if (cache == NULL)
        return;
    NEF_ASSERT(cache->sequences == 0);
    if (cache->memory != NULL)
        (void)munmap(cache->memory, cache->bytes);
    nef_hash_free(cache->hash);
    free(cache->buckets);
    free(cache->pages);
    free(cache);
}

uint64_t nef_kv_page_total_bytes(const struct nef_kv_cache *cache)
{
    return cache->page_bytes;
}

uint32_t nef_kv_pages_free(const struct nef_kv_cache *cache)
{
    return cache->free;
}

/* ---- names ---- */

static uint32_t *bucket_of(struct nef_kv_cache *cache, const uint8_t name[NAME_BYTES])
{
    uint32_t start;

    memcpy(&start, name, sizeof(start));
    return &cache->buckets[start & cache->bucket_mask];
}

static uint32_t find(struct nef_kv_cache *cache, const uint8_t name[NAME_BYTES])
{
    uint32_t at = *bucket_of(cache, name);

    while (at != NONE && memcmp(cache->pages[at].name, name, NAME_BYTES) != 0)
        at = cache->pages[at].chain;
    return at;
}

static void make_known(struct nef_kv_cache *cache, uint32_t index, const uint8_t name[NAME_BYTES])
{
    struct page *page = &cache->pages[index];
    uint32_t *bucket = bucket_of(cache, name);

    memcpy(page->name, name, NAME_BYTES);
    page->known = true;
    page->chain = *bucket;
    *bucket = index;
}

static void forget(struct nef_kv_cache *cache, uint32_t index)
{
    struct page *page = &cache->pages[index];
    uint32_t *at = bucket_of(cache, page->name);

    while (*at != index)
        at = &cache->pages[*at].chain;
    *at = page->chain;
    page->known = false;
}

/* name := SHA-256(name, 64 tokens) */
static void name_next(struct nef_kv_cache *cache, uint8_t name[NAME_BYTES], const uint32_t tokens[NEF_KV_TILE])
{
    nef_hash_reset(cache->hash);
    nef_hash_update(cache->hash, name, NAME_BYTES);
    /* in memory only: byte order doesn't matter */
    nef_hash_update(cache->hash, tokens, NEF_KV_TILE * sizeof(tokens[0]));
    nef_hash_final(cache->hash, name);
}

static void name_first(struct nef_kv_cache *cache, uint8_t name[NAME_BYTES], const uint8_t salt[32])
{
    nef_hash_reset(cache->hash);
    nef_hash_update(cache->hash, cache->secret, sizeof(cache->secret));
    nef_hash_update(cache->hash, salt, 32);
    nef_hash_final(cache->hash, name);
}

/* ---- pages ---- */

static void unlist(struct nef_kv_cache *cache, uint32_t index)
{
    struct page *page = &cache->pages[index];

    if (page->previous == NONE)
        cache->first = page->next;
    else
        cache->pages[page->previous].next = page->next;
    if (page->next == NONE)
        cache->last = page->previous;
    else
        cache->pages[page->next].previous = page->previous;
}

/* A zeroed page, held once; the caller has checked that one is free. */
static uint32_t hand_out(struct nef_kv_cache *cache)
{
    struct page *page;
    uint32_t index;

    NEF_ASSERT(cache->free > 0);
    if (cache->clean != NONE) {
        index = cache->clean;
        cache->clean = cache->pages[index].next;
    } else if (cache->untouched < cache->options.pages) {
        index = cache->untouched++;
    } else {
        if (cache->dirty != NONE) {
            index = cache->dirty;
            cache->dirty = cache->pages[index].next;
        } else {
            index = cache->first;
            unlist(cache, index);
            forget(cache, index);
        }
        memset(cache->memory + (size_t)index * cache->page_bytes, 0, cache->page_bytes);
    }
    page = &cache->pages[index];
    NEF_ASSERT(page->refs == 0 && !page->known);
    page->refs = 1;
    page->state = HELD;
    cache->free--;
    return index;
}

static void hold(struct nef_kv_cache *cache, uint32_t index)
{
    struct page *page = &cache->pages[index];

    if (page->state == KEPT) {
        unlist(cache, index);
        page->state = HELD;
        cache->free--;
    }
    page->refs++;
}

/* A page that nobody holds and nobody can find. */
static void set_free(struct nef_kv_cache *cache, uint32_t index)
{
    struct page *page = &cache->pages[index];
    bool given = madvise(cache->memory + (size_t)index * cache->page_bytes, cache->page_bytes, MADV_DONTNEED) == 0;
    uint32_t *list = given ? &cache->clean : &cache->dirty;

    page->state = given ? CLEAN : DIRTY;
    page->next = *list;
    *list = index;
}

static void let_go(struct nef_kv_cache *cache, uint32_t index)
{
    struct page *page = &cache->pages[index];

    NEF_ASSERT(page->state == HELD && page->refs > 0);
    if (--page->refs > 0)
        return;
    cache->free++;
    if (!page->known) {
        set_free(cache, index);
        return;
    }
    page->state = KEPT;
    page->next = NONE;
    page->previous = cache->last;
    if (cache->last == NONE)
        cache->first = index;
    else
        cache->pages[cache->last].next = index;
    cache->last = index;
}

/* ---- sequences ---- */

static nef_err make_room(struct nef_kv_sequence *sequence, uint32_t pages)
{
    uint32_t room = sequence->room == 0 ? 16 : sequence->room;
    uint32_t *grown;

    if (pages <= sequence->room)
        return NEF_OK;
    while (room < pages)
        room *= 2; /* pages <= 2^32 / 64: no overflow */
    grown = realloc(sequence->pages, room * sizeof(grown[0]));
    if (grown == NULL)
        return NEF_E_NOMEM;
    sequence->pages = grown;
    sequence->room = room;
    return NEF_OK;
}

nef_err nef_kv_adopt(struct nef_kv_sequence *sequence, const uint32_t *tokens, uint32_t count, uint32_t *out_cached)
{
    struct nef_kv_cache *cache = sequence->cache;
    uint8_t name[NAME_BYTES];

    NEF_ASSERT(sequence->noted % NEF_KV_TILE == 0);
    NEF_ASSERT(sequence->noted <= count);
    /* The last token is always computed, since its logits are wanted: a page that would hold it isn't taken. */
    while (count - sequence->noted > NEF_KV_TILE) {
        uint32_t index = sequence->noted / NEF_KV_TILE, page;
        nef_err err;

        memcpy(name, sequence->name, NAME_BYTES);
        name_next(cache, name, tokens + sequence->noted);
        page = find(cache, name);
        if (page == NONE)
            break;
        err = make_room(sequence, index + 1);
        if (err != NEF_OK)
            return err;
        hold(cache, page);
        if (index < sequence->count) /* it was reserved */
            let_go(cache, sequence->pages[index]);
        else
            sequence->count++;
        sequence->pages[index] = page;
        sequence->noted += NEF_KV_TILE;
        memcpy(sequence->name, name, NAME_BYTES);
    }
    *out_cached = sequence->noted;
    return NEF_OK;
}

nef_err nef_kv_sequence_open(struct nef_kv_cache *cache, const uint8_t salt[32], const uint32_t *tokens, uint32_t count,
                             uint32_t *out_cached, struct nef_kv_sequence **out_sequence)
{
    struct nef_kv_sequence *sequence = calloc(1, sizeof(*sequence));
    nef_err err;

    if (sequence == NULL)
        return NEF_E_NOMEM;
    sequence->cache = cache;
    cache->sequences++;
    name_first(cache, sequence->name, salt);
    err = nef_kv_adopt(sequence, tokens, count, out_cached);
    if (err != NEF_OK) {
        nef_kv_sequence_close(sequence);
        return err;
    }
    *out_sequence = sequence;
    return NEF_OK;
}

void nef_kv_sequence_close(struct nef_kv_sequence *sequence)
{
    if (sequence == NULL)
        return;
    /* Last page first, so that of a prompt its end is forgotten before its beginning, without which it can't be
     * found. */
    for (uint32_t i = sequence->count; i-- > 0;)
        let_go(sequence->cache, sequence->pages[i]);
    sequence->cache->sequences--;
    nef_wipe(sequence->tokens, sizeof(sequence->tokens));
    free(sequence->pages);
    free(sequence);
}

nef_err nef_kv_reserve(struct nef_kv_sequence *sequence, uint32_t positions)
{
    struct nef_kv_cache *cache = sequence->cache;
    uint32_t pages = positions / NEF_KV_TILE + (positions % NEF_KV_TILE != 0);
    nef_err err;

    if (pages <= sequence->count)
        return NEF_OK;
    if (pages - sequence->count > cache->free)
        return NEF_E_BUSY;
    err = make_room(sequence, pages);
    if (err != NEF_OK)
        return err;
    while (sequence->count < pages)
        sequence->pages[sequence->count++] = hand_out(cache);
    return NEF_OK;
}

uint32_t nef_kv_reserved(const struct nef_kv_sequence *sequence)
{
    return sequence->count * NEF_KV_TILE;
}

void nef_kv_note(struct nef_kv_sequence *sequence, uint32_t position, uint32_t token)
{
    struct nef_kv_cache *cache = sequence->cache;
    uint32_t index = position / NEF_KV_TILE, same;

    NEF_ASSERT(position == sequence->noted);
    NEF_ASSERT(index < sequence->count);
    sequence->tokens[position % NEF_KV_TILE] = token;
    sequence->noted++;
    if (sequence->noted % NEF_KV_TILE != 0)
        return;
    name_next(cache, sequence->name, sequence->tokens);
    same = find(cache, sequence->name);
    if (same == NONE) {
        make_known(cache, sequence->pages[index], sequence->name);
        return;
    }
    hold(cache, same);
    let_go(cache, sequence->pages[index]);
    sequence->pages[index] = same;
}

void *nef_kv_page(const struct nef_kv_sequence *sequence, uint32_t page, uint32_t layer, uint32_t kv_head, bool value)
{
    const struct nef_kv_cache *cache = sequence->cache;
    size_t part = ((size_t)layer * cache->options.kv_heads + kv_head) * 2 + value;

    NEF_ASSERT_SLOW(page < sequence->count);
    return cache->memory + (size_t)sequence->pages[page] * cache->page_bytes + part * cache->part_bytes;
}

const struct nef_kv_options *nef_kv_sequence_options(const struct nef_kv_sequence *sequence)
{
    return &sequence->cache->options;
}
