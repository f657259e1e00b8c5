/* Fuzz target of seglog/format.c: record headers, runs of another process, segment headers.
 *
 * The first byte says what follows and whether its magic and CRCs are made good first, for otherwise
 * nearly nothing gets past them. What decodes must encode to the same bytes. The source is included, not
 * linked, so that it is instrumented whatever the library was built with. */
#include <stdlib.h>
#include "../../src/seglog/format.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fix_run(uint8_t *run, size_t bytes)
{
    size_t at = 0;

    while (bytes - at >= NEF_RECORD_HEADER_BYTES) {
        struct nef_reader r = nef_reader_of(run + at + 40, 4);
        uint32_t body = nef_read_u32(&r);
        uint64_t record = nef_record_bytes(body);

        if (record > bytes - at)
            break;
        put_u32(run + at, RECORD_MAGIC);
        put_u32(run + at + 184, nef_crc32c(0, run + at + NEF_RECORD_HEADER_BYTES, body));
        fix_header_crc(run + at);
        at += record;
    }
}

static void try_record(uint8_t *p, size_t bytes, bool fix)
{
    uint8_t again[NEF_RECORD_HEADER_BYTES + NEF_RECORD_ALIGN];
    struct nef_record r, at;
    bool half;

    if (bytes < NEF_RECORD_HEADER_BYTES)
        return;
    if (fix)
        fix_run(p, bytes);
    if (nef_record_decode(p, &r) == NEF_OK) {
        NEF_ASSERT(nef_record_type_name(r.type) != NULL);
        if (nef_record_bytes(r.body_bytes) <= bytes)
            (void)!nef_record_check_body(&r, p + NEF_RECORD_HEADER_BYTES);
        if (r.body_bytes == 0) {
            nef_record_encode(&r, NULL, 1, again);
            NEF_ASSERT(memcmp(p, again, NEF_RECORD_HEADER_BYTES) == 0);
        }
        NEF_ASSERT(nef_record_decode_at(p, r.cell, r.offset, &at, &half) == NEF_OK && !half);
        nef_record_mark_erased(p);
        NEF_ASSERT(nef_record_decode(p, &at) == NEF_OK && (at.flags & NEF_RECORD_ERASED));
    } else {
        (void)!nef_record_decode_at(p, 0, 0, &at, &half);
    }
}

static void try_run(uint8_t *p, size_t bytes, bool fix)
{
    struct nef_record first, r;
    size_t at = 0;

    if (fix)
        fix_run(p, bytes);
    if (nef_record_check_run(p, bytes, 0, &first) != NEF_OK)
        return;
    while (at < bytes) {
        nef_record_stamp(p + at, 1, 4096 + at, 2, 4096);
        NEF_ASSERT(nef_record_decode(p + at, &r) == NEF_OK && r.offset == 4096 + at);
        at += nef_record_bytes(r.body_bytes);
    }
    NEF_ASSERT(at == bytes && (r.flags & NEF_RECORD_LAST));
}

static void try_segment(uint8_t *p, size_t bytes, bool fix)
{
    static uint8_t in[NEF_SEGMENT_HEADER_BYTES], again[NEF_SEGMENT_HEADER_BYTES];
    struct nef_segment_header h;

    memset(in, 0, sizeof(in));
    memcpy(in, p, NEF_MIN(bytes, sizeof(in)));
    if (fix) {
        put_u32(in, SEGMENT_MAGIC);
        put_u32(in + AT_SEGMENT_CRC, nef_crc32c(0, in, AT_SEGMENT_CRC));
    }
    if (nef_segment_header_decode(in, &h) != NEF_OK)
        return;
    nef_segment_header_encode(&h, again);
    NEF_ASSERT(memcmp(in, again, sizeof(in)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;

    if (size == 0)
        return 0;
    copy = malloc(size); /* exactly its size, so that a sanitizer sees each byte too far */
    if (copy == NULL)
        return 0;
    memcpy(copy, data + 1, size - 1);
    switch (data[0] >> 1 & 3) {
    case 0:
        try_record(copy, size - 1, data[0] & 1);
        break;
    case 1:
        try_run(copy, size - 1, data[0] & 1);
        break;
    default:
        try_segment(copy, size - 1, data[0] & 1);
        break;
    }
    free(copy);
    return 0;
}
