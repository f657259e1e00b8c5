/* A text into words, before any merge: the pattern that Qwen's tokenizer.json publishes, by PCRE2.
 *
 * What is a space differs between regex engines, so spaces are spelled out: Unicode's White_Space, and U+FEFF as in
 * ECMAScript, because the reference vectors (tests/data/infer/tokens.jsonl) have it so; not U+180E, which PCRE2's \s
 * takes. \p{L} and \p{N} are Unicode's everywhere. Each character of a text matches some alternative, so words lie end
 * to end and every match is anchored where the last one ended.
 *
 * Hostile texts: no alternative backtracks further than its own run of spaces, and that run is then taken whole (but
 * for its last character) by the next alternatives, so the whole text costs linear time. The match limit is a net
 * below that. */
#include "base/assert.h"
#include "infer/text/text_internal.h"

#define SPACE \
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}"
/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static const char qwen2_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
                                    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
                                    "|\\p{N}"
                                    "| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n]*"
                                    "|[" SPACE "]*[\\r\\n]+"
                                    "|[" SPACE "]+(?![^" SPACE "])"
                                    "|[" SPACE "]+";

nef_err nef_pretoken_compile(pcre2_code **out_pattern)
{
    int code;
    PCRE2_SIZE where;
    pcre2_code *pattern = pcre2_compile((PCRE2_SPTR)qwen2_pattern, sizeof(qwen2_pattern) - 1,
                                        PCRE2_UTF | PCRE2_ANCHORED, &code, &where, NULL);

    if (pattern == NULL) {
        NEF_ASSERT(code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_UNICODE_NOT_SUPPORTED);
        return code == PCRE2_ERROR_NOMEMORY ? NEF_E_NOMEM : NEF_E_SYSTEM;
    }
    /* Where no executable memory may be had, PCRE2 interprets: slower, with the same matches. */
    (void)pcre2_jit_compile(pattern, PCRE2_JIT_COMPLETE);
    *out_pattern = pattern;
    return NEF_OK;
}

nef_err nef_pretoken_open(struct nef_pretoken *m, const pcre2_code *pattern)
{
    m->data = pcre2_match_data_create_from_pattern(pattern, NULL);
    m->context = pcre2_match_context_create(NULL);
    return m->data == NULL || m->context == NULL ? NEF_E_NOMEM : NEF_OK;
}

void nef_pretoken_done(struct nef_pretoken *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    *m = (struct nef_pretoken){0};
}

nef_err nef_pretoken_next(struct nef_pretoken *m, const pcre2_code *pattern, const uint8_t *p, size_t bytes, size_t at,
                          size_t *out_bytes)
{
    const PCRE2_SIZE *range;
    int rc;

    NEF_ASSERT(at < bytes && bytes <= UINT32_MAX / 8);
    (void)pcre2_set_match_limit(m->context, (uint32_t)bytes * 4 + 1000); /* never fails */
    rc = pcre2_match(pattern, p, bytes, at, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (rc == PCRE2_ERROR_NOMEMORY)
        return NEF_E_NOMEM;
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT ||
        rc == PCRE2_ERROR_JIT_STACKLIMIT)
        return NEF_E_LIMIT;
    if (rc <= 0)
        return NEF_E_SYSTEM;
    range = pcre2_get_ovector_pointer(m->data);
    if (range[0] != at || range[1] <= at || range[1] > bytes)
        return NEF_E_SYSTEM;
    *out_bytes = range[1] - at;
    return NEF_OK;
}
