/* Records, runs of records and segment headers <-> bytes; see format.h for the layout and the rule that
 * makes a record valid, docs/formats.md for both at length.
 *
 * PURE: bytes in, bytes or a struct out. Nothing here knows where in a log a record should stand; the
 * callers compare cell, offset and epoch with the place. Decoders take hostile bytes: a new field or type
 * also goes in tests/fuzz/fuzz_format.c and in docs/formats.md. */
#include "seglog/format.h"
#include <string.h>
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "seglog/seglog_internal.h"

#define RECORD_MAGIC  0x5266654eu /* "NefR" */
#define SEGMENT_MAGIC 0x5366654eu /* "NefS" */
#define SEGMENT_VERSION 1u
#define FLAGS_KNOWN (NEF_RECORD_LAST | NEF_RECORD_ERASED)

enum { /* byte positions that are patched in place */
    AT_FLAGS = 8,
    AT_EPOCH = 16,
    AT_OFFSET = 24,
    AT_TIME = 32,
    AT_PROPOSER = 80,
    AT_NUMBER = 88,
    AT_MARK = 160,
    AT_HEADER_CRC = 188,
    AT_SEGMENT_CRC = NEF_SEGMENT_HEADER_BYTES - 4,
};
_Static_assert(AT_HEADER_CRC + 4 == NEF_RECORD_HEADER_BYTES, "the header's CRC is its last field");
_Static_assert(NEF_RECORD_HEADER_BYTES % NEF_RECORD_ALIGN == 0, "a body may be empty");
/* A torn header is told from a half-written erase by its CRC alone, which therefore must not tear itself:
 * it lies inside one 64-byte block, so inside one sector. */
_Static_assert(AT_HEADER_CRC / NEF_RECORD_ALIGN == (AT_HEADER_CRC + 3) / NEF_RECORD_ALIGN, "sector");

const char *nef_record_type_name(uint16_t type)
{
    switch ((enum nef_record_type)type) {
    case NEF_RECORD_PAD: return "pad";
    case NEF_RECORD_MARK: return "mark";
    case NEF_RECORD_DATA: return "data";
    case NEF_RECORD_KEY: return "key";
    case NEF_RECORD_REGION: return "region";
    case NEF_RECORD_BUCKET_PUT: return "bucket_put";
    case NEF_RECORD_BUCKET_CLOSE: return "bucket_close";
    case NEF_RECORD_BUCKET_REOPEN: return "bucket_reopen";
    case NEF_RECORD_BUCKET_DELETE: return "bucket_delete";
    case NEF_RECORD_USER_PUT: return "user_put";
    case NEF_RECORD_BUDGET: return "budget";
    case NEF_RECORD_OBJECT_PUT: return "object_put";
    case NEF_RECORD_OBJECT_DELETE: return "object_delete";
    case NEF_RECORD_UPLOAD_CREATE: return "upload_create";
    case NEF_RECORD_PART_PUT: return "part_put";
    case NEF_RECORD_UPLOAD_COMPLETE: return "upload_complete";
    case NEF_RECORD_UPLOAD_ABORT: return "upload_abort";
    case NEF_RECORD_STREAM_ABORT: return "stream_abort";
    case NEF_RECORD_MOVED: return "moved";
    case NEF_RECORD_ERASE: return "erase";
    case NEF_RECORD_DROP: return "drop";
    case NEF_RECORD_CHECKPOINT_BEGIN: return "checkpoint_begin";
    case NEF_RECORD_CHECKPOINT_ROWS: return "checkpoint_rows";
    case NEF_RECORD_CHECKPOINT_END: return "checkpoint_end";
    case NEF_RECORD_SEQUENCE: return "sequence";
    case NEF_RECORD_OVERRIDE: return "override";
    }
    return NULL;
}

int nef_record_is_op(uint16_t type)
{
    switch (type) {
#define X(name, number, is_op) \
    case number: \
        return is_op;
        NEF_RECORD_TYPES(X)
#undef X
    default:
        return 0;
    }
}

static void put_u32(uint8_t *p, uint32_t v)
{
    struct nef_writer w = nef_writer_of(p, 4);

    nef_write_u32(&w, v);
}

static void put_u64(uint8_t *p, uint64_t v)
{
    struct nef_writer w = nef_writer_of(p, 8);

    nef_write_u64(&w, v);
}

static uint32_t get_u32(const uint8_t *p)
{
    struct nef_reader r = nef_reader_of(p, 4);

    return nef_read_u32(&r);
}

static void fix_header_crc(uint8_t *header)
{
    put_u32(header + AT_HEADER_CRC, nef_crc32c(0, header, AT_HEADER_CRC));
}

static uint32_t body_bytes_max(uint16_t type)
{
    /* a pad is shorter than the run that didn't fit before the border, so it may exceed a body */
    return type == NEF_RECORD_PAD ? NEF_PROPOSAL_BYTES_MAX : NEF_RECORD_BODY_MAX;
}

void nef_record_encode(const struct nef_record *r, const void *body, int crc_known, uint8_t *out)
{
    struct nef_writer w = nef_writer_of(out, NEF_RECORD_HEADER_BYTES);
    uint8_t *at = out + NEF_RECORD_HEADER_BYTES;
    uint64_t bytes = nef_record_bytes(r->body_bytes);

    NEF_ASSERT(nef_record_type_name(r->type) != NULL);
    NEF_ASSERT(r->body_bytes <= body_bytes_max(r->type));
    NEF_ASSERT((r->flags & ~FLAGS_KNOWN) == 0);
    if (body == NULL)
        memset(at, 0, r->body_bytes); /* a pad */
    else if (body != at && r->body_bytes > 0)
        memmove(at, body, r->body_bytes);
    memset(at + r->body_bytes, 0, bytes - NEF_RECORD_HEADER_BYTES - r->body_bytes);

    nef_write_u32(&w, RECORD_MAGIC);
    nef_write_u16(&w, NEF_RECORD_VERSION);
    nef_write_u16(&w, r->type);
    nef_write_u32(&w, r->flags);
    nef_write_u32(&w, r->cell);
    nef_write_u64(&w, r->epoch);
    nef_write_u64(&w, r->offset);
    nef_write_u64(&w, r->time_ms);
    nef_write_u32(&w, r->body_bytes);
    nef_write_u32(&w, r->run_index);
    nef_write_zeros(&w, 16);
    nef_write_copy(&w, r->stream.bytes, 16);
    nef_write_u64(&w, r->proposer);
    nef_write_u64(&w, r->number);
    nef_write_copy(&w, r->key_tag, 16);
    nef_write_copy(&w, r->bucket_key_id, 16);
    nef_write_copy(&w, r->leaf, 32);
    nef_write_u64(&w, r->synced_before);
    nef_write_u32(&w, r->piece);
    nef_write_zeros(&w, 12);
    nef_write_u32(&w, crc_known ? r->body_crc : nef_crc32c(0, at, r->body_bytes));
    NEF_ASSERT(!w.failed && w.at == AT_HEADER_CRC);
    fix_header_crc(out);
}

void nef_record_stamp(uint8_t *header, uint64_t epoch, uint64_t offset, uint64_t time_ms,
                      uint64_t synced_before)
{
    put_u64(header + AT_EPOCH, epoch);
    put_u64(header + AT_OFFSET, offset);
    put_u64(header + AT_TIME, time_ms);
    put_u64(header + AT_MARK, synced_before);
    fix_header_crc(header);
}

void nef_record_propose(uint8_t *header, uint64_t proposer, uint64_t number)
{
    put_u64(header + AT_PROPOSER, proposer);
    put_u64(header + AT_NUMBER, number);
    fix_header_crc(header);
}

void nef_record_mark_erased(uint8_t *header)
{
    put_u32(header + AT_FLAGS, get_u32(header + AT_FLAGS) | NEF_RECORD_ERASED);
    fix_header_crc(header);
}

static bool all_zero(const uint8_t *p, size_t bytes)
{
    return bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0);
}

nef_err nef_record_decode(const uint8_t *header, struct nef_record *out_record)
{
    struct nef_reader in = nef_reader_of(header, NEF_RECORD_HEADER_BYTES);
    struct nef_record r = {0};
    const uint8_t *zeros1, *zeros2;
    uint32_t magic = nef_read_u32(&in);
    uint16_t version = nef_read_u16(&in);

    if (magic != RECORD_MAGIC || get_u32(header + AT_HEADER_CRC) != nef_crc32c(0, header, AT_HEADER_CRC))
        return NEF_E_TORN;
    r.type = nef_read_u16(&in);
    if (version != NEF_RECORD_VERSION || nef_record_type_name(r.type) == NULL)
        return NEF_E_VERSION;
    r.flags = nef_read_u32(&in);
    r.cell = nef_read_u32(&in);
    r.epoch = nef_read_u64(&in);
    r.offset = nef_read_u64(&in);
    r.time_ms = nef_read_u64(&in);
    r.body_bytes = nef_read_u32(&in);
    r.run_index = nef_read_u32(&in);
    zeros1 = nef_read_view(&in, 16);
    nef_read_copy(&in, r.stream.bytes, 16);
    r.proposer = nef_read_u64(&in);
    r.number = nef_read_u64(&in);
    nef_read_copy(&in, r.key_tag, 16);
    nef_read_copy(&in, r.bucket_key_id, 16);
    nef_read_copy(&in, r.leaf, 32);
    r.synced_before = nef_read_u64(&in);
    r.piece = nef_read_u32(&in);
    zeros2 = nef_read_view(&in, 12);
    r.body_crc = nef_read_u32(&in);
    NEF_ASSERT(!in.failed && in.at == AT_HEADER_CRC);

    if ((r.flags & ~FLAGS_KNOWN) != 0 || !all_zero(zeros1, 16) || !all_zero(zeros2, 12) ||
        r.body_bytes > body_bytes_max(r.type) || r.run_index >= NEF_PROPOSAL_RECORDS_MAX ||
        r.offset % NEF_RECORD_ALIGN != 0 || r.synced_before > r.offset)
        return NEF_E_CORRUPT;
    *out_record = r;
    return NEF_OK;
}

nef_err nef_record_check_body(const struct nef_record *r, const uint8_t *body)
{
    size_t padded = (size_t)(nef_record_bytes(r->body_bytes) - NEF_RECORD_HEADER_BYTES);

    if (r->flags & NEF_RECORD_ERASED)
        return all_zero(body, padded) ? NEF_OK : NEF_E_CORRUPT;
    if (nef_crc32c(0, body, r->body_bytes) != r->body_crc ||
        !all_zero(body + r->body_bytes, padded - r->body_bytes))
        return NEF_E_CORRUPT;
    return NEF_OK;
}

nef_err nef_record_check_run(const uint8_t *run, size_t bytes, uint32_t cell,
                             struct nef_record *out_first)
{
    struct nef_record first = {0}, r;
    size_t at = 0;

    if (bytes > NEF_PROPOSAL_BYTES_MAX)
        return NEF_E_PROTOCOL;
    for (uint32_t i = 0;; i++) {
        if (i == NEF_PROPOSAL_RECORDS_MAX || bytes - at < NEF_RECORD_HEADER_BYTES ||
            nef_record_decode(run + at, &r) != NEF_OK || nef_record_bytes(r.body_bytes) > bytes - at)
            return NEF_E_PROTOCOL;
        if (i == 0)
            first = r;
        if (r.cell != cell || r.run_index != i || r.proposer != first.proposer ||
            r.number != first.number || (r.flags & NEF_RECORD_ERASED) || r.epoch != 0 ||
            r.offset != 0 || r.time_ms != 0 || r.synced_before != 0)
            return NEF_E_PROTOCOL;
        if (r.type == NEF_RECORD_PAD || r.type == NEF_RECORD_MARK)
            return NEF_E_PROTOCOL; /* only a primary makes these, and not by a proposal */
        if (nef_record_check_body(&r, run + at + NEF_RECORD_HEADER_BYTES) != NEF_OK)
            return NEF_E_PROTOCOL;
        at += nef_record_bytes(r.body_bytes);
        if ((r.flags & NEF_RECORD_LAST) != (at == bytes ? NEF_RECORD_LAST : 0))
            return NEF_E_PROTOCOL;
        if (at == bytes)
            break;
    }
    *out_first = first;
    return NEF_OK;
}

/* ---- what only seglog itself needs ---- */

nef_err nef_record_check_crc(const struct nef_record *r, const uint8_t *body)
{
    return nef_crc32c(0, body, r->body_bytes) == r->body_crc ? NEF_OK : NEF_E_CORRUPT;
}

nef_err nef_record_decode_at(const uint8_t *header, uint32_t cell, uint64_t offset,
                             struct nef_record *out_record, bool *out_half_erased)
{
    uint8_t other[NEF_RECORD_HEADER_BYTES];
    struct nef_record r;
    bool half = false;
    nef_err err;

    err = nef_record_decode(header, &r);
    if (err == NEF_E_TORN && get_u32(header) == RECORD_MAGIC) {
        /* An erase rewrites two fields of a header in place, the flag and the CRC, which can lie in two
         * sectors. If only one of them reached the disk, the CRC holds with the flag inverted; the body
         * wasn't touched yet, because the punch waits for the header's sync. */
        memcpy(other, header, sizeof(other));
        put_u32(other + AT_FLAGS, get_u32(header + AT_FLAGS) ^ NEF_RECORD_ERASED);
        err = nef_record_decode(other, &r);
        if (err != NEF_OK)
            return NEF_E_TORN;
        r.flags &= ~NEF_RECORD_ERASED;
        half = true;
    }
    if (err != NEF_OK)
        return err;
    if (r.cell != cell || r.offset != offset)
        return NEF_E_CORRUPT; /* a valid record, but not of this place */
    *out_record = r;
    *out_half_erased = half;
    return NEF_OK;
}

void nef_record_clear_erased(uint8_t *header)
{
    put_u32(header + AT_FLAGS, get_u32(header + AT_FLAGS) & ~NEF_RECORD_ERASED);
    fix_header_crc(header);
}

void nef_record_canonical(const uint8_t *header, uint8_t out[NEF_RECORD_CANONICAL_BYTES])
{
    _Static_assert(NEF_RECORD_CANONICAL_BYTES == AT_HEADER_CRC, "all but the header's CRC");
    memcpy(out, header, NEF_RECORD_CANONICAL_BYTES);
    put_u32(out + AT_FLAGS, get_u32(header + AT_FLAGS) & ~NEF_RECORD_ERASED);
}

bool nef_record_magic_at(const uint8_t *p)
{
    return get_u32(p) == RECORD_MAGIC;
}

/* ---- segment header ---- */

void nef_segment_header_encode(const struct nef_segment_header *h, uint8_t out[NEF_SEGMENT_HEADER_BYTES])
{
    struct nef_writer w = nef_writer_of(out, NEF_SEGMENT_HEADER_BYTES);

    nef_write_u32(&w, SEGMENT_MAGIC);
    nef_write_u16(&w, SEGMENT_VERSION);
    nef_write_u16(&w, 0);
    nef_write_u32(&w, NEF_SEGMENT_HEADER_BYTES);
    nef_write_u32(&w, h->cell);
    nef_write_u64(&w, h->segment);
    nef_write_u64(&w, h->segment_bytes);
    nef_write_copy(&w, h->region.bytes, 16);
    nef_write_zeros(&w, AT_SEGMENT_CRC - w.at);
    nef_write_u32(&w, nef_crc32c(0, out, AT_SEGMENT_CRC));
    NEF_ASSERT(!w.failed && w.at == NEF_SEGMENT_HEADER_BYTES);
}

nef_err nef_segment_header_decode(const uint8_t in[NEF_SEGMENT_HEADER_BYTES],
                                  struct nef_segment_header *out_header)
{
    struct nef_reader r = nef_reader_of(in, NEF_SEGMENT_HEADER_BYTES);
    struct nef_segment_header h;
    uint16_t version, zero;
    uint32_t length;

    if (nef_read_u32(&r) != SEGMENT_MAGIC ||
        get_u32(in + AT_SEGMENT_CRC) != nef_crc32c(0, in, AT_SEGMENT_CRC))
        return NEF_E_TORN;
    version = nef_read_u16(&r);
    if (version != SEGMENT_VERSION)
        return NEF_E_VERSION;
    zero = nef_read_u16(&r);
    length = nef_read_u32(&r);
    h.cell = nef_read_u32(&r);
    h.segment = nef_read_u64(&r);
    h.segment_bytes = nef_read_u64(&r);
    nef_read_copy(&r, h.region.bytes, 16);
    if (zero != 0 || length != NEF_SEGMENT_HEADER_BYTES ||
        !nef_segment_bytes_valid(h.segment_bytes) || h.segment > UINT64_MAX / h.segment_bytes - 1 ||
        !all_zero(in + r.at, AT_SEGMENT_CRC - r.at))
        return NEF_E_CORRUPT;
    *out_header = h;
    return NEF_OK;
}

bool nef_segment_bytes_valid(uint64_t bytes)
{
    return bytes >= NEF_SEGMENT_BYTES_MIN && bytes <= NEF_SEGMENT_BYTES_LIMIT &&
           (bytes & (bytes - 1)) == 0;
}
