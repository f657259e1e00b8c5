/* One GGUF file made of a split one. PURE: works on parsed heads, and says which bytes of which file go where; it never
 * sees a tensor's data.
 *
 *   header of the joined file (made here)      keys of the first file but split.*; all tensors, with new offsets
 *   data of file 0 as it is, padded
 *   data of file 1 as it is, padded ...
 *
 * What comes out is what llama.cpp's gguf-split --merge makes in all that a reader sees; the order of keys and the gaps
 * between tensors may differ. */
#ifndef NEF_INFER_GGUF_JOIN_H
#define NEF_INFER_GGUF_JOIN_H

#include "base/buf.h"
#include "infer/gguf/gguf.h"

/* A run of the joined file's bytes. */
struct nef_gguf_run {
    bool padding; /* zeros; file and offset aren't used */
    uint32_t file;
    uint64_t offset; /* in that file */
    uint64_t bytes;
};

/* FILES[i] is the head of file i, which has TOTALS[i] bytes. out_header: the joined file's beginning, up to where its
 * data begins (its max, if not 0, is kept to). out_runs: what follows, in order: 2 * COUNT runs, of which some may be
 * empty.
 * Errors: NEF_E_INVALID: they are not the parts of one model in this order, or don't fit together; out_error
 * (NEF_GGUF_ERROR_MAX) says how. NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_gguf_join(const struct nef_gguf *const *files, const uint64_t *totals, uint32_t count,
                                     char *out_error, struct nef_buf *out_header, struct nef_gguf_run *out_runs);

#endif
