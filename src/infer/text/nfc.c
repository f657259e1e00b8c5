/* Unicode's normal form C (UAX #15), in linear time.
 *
 * utf8proc has the tables, the decomposition of one character and the composition, all linear; its own ordering of
 * combining marks is an insertion sort, which a text of a million accents turns into hours. So a text is cut into
 * segments that can't influence each other, each is decomposed by character, its marks are ordered here by a stable
 * counting sort, and utf8proc composes it.
 *
 * A segment begins at an *inert* character: one that is its own NFC, is no combining mark and never joins what stands
 * before it. Runs of inert characters (all of ASCII, most of Latin, CJK) are copied as they are. The list below is a
 * part of all inert characters, chosen for short tests; the unit test checks it against utf8proc. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "base/assert.h"
#include "infer/text/text_internal.h"

#define OPTIONS (UTF8PROC_STABLE | UTF8PROC_COMPOSE)

static bool inert(uint32_t code)
{
    return code < 0x300 || (code >= 0x400 && code <= 0x482) || (code >= 0x2010 && code <= 0x2027) ||
           (code >= 0x3041 && code <= 0x3096) || (code >= 0x30a1 && code <= 0x30fa) ||
           (code >= 0x4e00 && code <= 0x9fff) || (code >= 0xac00 && code <= 0xd7a3);
}

static nef_err grow(int32_t **data, size_t *capacity, size_t count)
{
    size_t wanted = *capacity == 0 ? 64 : *capacity;
    int32_t *grown;

    if (count <= *capacity)
        return NEF_OK;
    while (wanted < count)
        wanted *= 2;
    grown = realloc(*data, wanted * sizeof(*grown));
    if (grown == NULL)
        return NEF_E_NOMEM;
    *data = grown;
    *capacity = wanted;
    return NEF_OK;
}

static nef_err decompose(struct nef_nfc *nfc, uint32_t code)
{
    int32_t parts[8]; /* no canonical decomposition has more than four */
    utf8proc_ssize_t count;
    nef_err err;

    count = utf8proc_decompose_char((utf8proc_int32_t)code, parts, 8, OPTIONS, NULL);
    NEF_ASSERT(count > 0 && count <= 8);
    err = grow(&nfc->codes, &nfc->codes_capacity, nfc->codes_count + (size_t)count);
    if (err != NEF_OK)
        return err;
    memcpy(nfc->codes + nfc->codes_count, parts, (size_t)count * sizeof(parts[0]));
    nfc->codes_count += (size_t)count;
    return NEF_OK;
}

static uint32_t combining_class(int32_t code)
{
    return (uint32_t)utf8proc_get_property(code)->combining_class & 255;
}

/* Stable, by class: UAX #15's canonical ordering of one run of marks. */
static nef_err order_run(struct nef_nfc *nfc, int32_t *run, size_t count)
{
    size_t starts[257] = {0};
    nef_err err;

    if (count == 2 && combining_class(run[0]) <= combining_class(run[1]))
        return NEF_OK;
    err = grow(&nfc->sorted, &nfc->sorted_capacity, count);
    if (err != NEF_OK)
        return err;
    for (size_t i = 0; i < count; i++)
        starts[combining_class(run[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        starts[i] += starts[i - 1];
    for (size_t i = 0; i < count; i++)
        nfc->sorted[starts[combining_class(run[i])]++] = run[i];
    memcpy(run, nfc->sorted, count * sizeof(*run));
    return NEF_OK;
}

static nef_err order(struct nef_nfc *nfc)
{
    size_t i = 0;

    while (i < nfc->codes_count) {
        size_t end = i;
        nef_err err;

        while (end < nfc->codes_count && combining_class(nfc->codes[end]) != 0)
            end++;
        if (end > i + 1) {
            err = order_run(nfc, nfc->codes + i, end - i);
            if (err != NEF_OK)
                return err;
        }
        i = end + 1;
    }
    return NEF_OK;
}

static nef_err compose(struct nef_nfc *nfc)
{
    utf8proc_ssize_t count = utf8proc_normalize_utf32(nfc->codes, (utf8proc_ssize_t)nfc->codes_count, OPTIONS);

    NEF_ASSERT(count >= 0 && (size_t)count <= nfc->codes_count);
    for (utf8proc_ssize_t i = 0; i < count; i++) {
        uint8_t encoded[4];
        utf8proc_ssize_t bytes = utf8proc_encode_char(nfc->codes[i], encoded);

        nef_buf_append(&nfc->text, encoded, (size_t)bytes);
    }
    return nfc->text.failed ? NEF_E_NOMEM : NEF_OK;
}

/* One segment: BYTES bytes at P, more than an inert character. */
static nef_err segment(struct nef_nfc *nfc, const uint8_t *p, size_t bytes)
{
    nef_err err = NEF_OK;

    nfc->codes_count = 0;
    for (size_t at = 0; at < bytes && err == NEF_OK;) {
        uint32_t code = 0;

        at += nef_utf8_char(p + at, bytes - at, &code);
        err = decompose(nfc, code);
    }
    if (err == NEF_OK)
        err = order(nfc);
    return err == NEF_OK ? compose(nfc) : err;
}

nef_err nef_nfc_apply(struct nef_nfc *nfc, const uint8_t *p, size_t bytes, const uint8_t **out_text, size_t *out_bytes)
{
    size_t at = 0, done = 0, last = 0; /* last: where the last inert character begins */
    uint32_t code = 0;
    nef_err err;

    nef_buf_reset(&nfc->text);
    nfc->text.max = (size_t)NEF_TOKENIZE_BYTES_MAX * 3; /* NFC triples UTF-8 at most (UAX #15, table 8) */
    while (at < bytes) {
        size_t start, step = nef_utf8_char(p + at, bytes - at, &code);

        NEF_ASSERT(step > 0);
        if (inert(code)) {
            last = at;
            at += step;
            continue;
        }
        start = at > 0 ? last : at; /* the inert character before may take what follows */
        for (at += step; at < bytes; at += step) {
            step = nef_utf8_char(p + at, bytes - at, &code);
            NEF_ASSERT(step > 0);
            if (inert(code))
                break;
        }
        nef_buf_append(&nfc->text, p + done, start - done);
        err = segment(nfc, p + start, at - start);
        if (err != NEF_OK)
            return err;
        done = last = at;
    }
    if (done == 0) {
        *out_text = p;
        *out_bytes = bytes;
        return NEF_OK;
    }
    nef_buf_append(&nfc->text, p + done, bytes - done);
    if (nfc->text.failed)
        return NEF_E_NOMEM;
    *out_text = nfc->text.data;
    *out_bytes = nfc->text.bytes;
    return NEF_OK;
}

void nef_nfc_done(struct nef_nfc *nfc)
{
    nef_buf_free(&nfc->text);
    free(nfc->codes);
    free(nfc->sorted);
    *nfc = (struct nef_nfc){0};
}
