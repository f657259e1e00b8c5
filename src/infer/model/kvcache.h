/* The KV cache: pages of NEF_KV_TILE positions for all layers and kv heads, shared by content.
 *
 * A sequence holds a list of pages. A full page is known by a hash chained over (salt, the tokens of all pages before
 * it, its own tokens): a new sequence with the same beginning and salt takes those pages instead of computing them
 * (they are read-only and counted). Pages that no sequence holds stay until the room is needed, least recently used out
 * first. A page that is handed out anew is zeroed first, so nothing of another's prompt is left.
 *
 * Memory is reserved at start, touched on demand, and what can't be found again is given back to the system at once:
 * what the process holds is the pages that are held or findable. Not thread-safe: the engine's thread alone. */
#ifndef NEF_INFER_KVCACHE_H
#define NEF_INFER_KVCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/kernels/kernels.h"

struct nef_kv_cache;
struct nef_kv_sequence;

struct nef_kv_options {
    enum nef_kv_type type;
    uint32_t layers, kv_heads, head_dim;
    uint32_t pages; /* in all */
};
/* Errors: NEF_E_NOMEM (address space, or a size that overflows). */
NEF_MUST_CHECK nef_err nef_kv_open(const struct nef_kv_options *options, struct nef_kv_cache **out_cache);
void nef_kv_close(struct nef_kv_cache *cache); /* no sequence may be open */
uint64_t nef_kv_page_total_bytes(const struct nef_kv_cache *cache);
uint32_t nef_kv_pages_free(const struct nef_kv_cache *cache); /* unused, or held by nobody */

/* A new sequence for TOKENS (the prompt), with as many shared pages as match; *out_cached positions (a multiple of
 * NEF_KV_TILE, below count, so that at least one token is computed) need no forward pass. salt: 32 bytes, sets apart
 * tenants. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_kv_sequence_open(struct nef_kv_cache *cache, const uint8_t salt[32], const uint32_t *tokens,
                                            uint32_t count, uint32_t *out_cached,
                                            struct nef_kv_sequence **out_sequence);
void nef_kv_sequence_close(struct nef_kv_sequence *sequence); /* its full pages stay findable */
/* At the border of a page (positions noted so far a multiple of NEF_KV_TILE): take pages that others have made findable
 * since it was opened. TOKENS: all COUNT of the prompt, as for open. *out_cached as there: positions that need no
 * forward pass. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_kv_adopt(struct nef_kv_sequence *sequence, const uint32_t *tokens, uint32_t count,
                                    uint32_t *out_cached);
/* Pages for positions below POSITIONS. NEF_E_BUSY: not enough are free now; NEF_E_NOMEM. Then the sequence is as
 * before. */
NEF_MUST_CHECK nef_err nef_kv_reserve(struct nef_kv_sequence *sequence, uint32_t positions);
uint32_t nef_kv_reserved(const struct nef_kv_sequence *sequence); /* positions that pages exist for */
/* Say which token was computed at which position (in order, after the forward pass): makes full pages findable. A page
 * that another sequence has made findable in the meantime takes the place of this one's (their bits are equal). */
void nef_kv_note(struct nef_kv_sequence *sequence, uint32_t position, uint32_t token);

/* For the forward pass: the K or V part of a page. page: index in the sequence. */
void *nef_kv_page(const struct nef_kv_sequence *sequence, uint32_t page, uint32_t layer, uint32_t kv_head, bool value);
const struct nef_kv_options *nef_kv_sequence_options(const struct nef_kv_sequence *sequence);

#endif
