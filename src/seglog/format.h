/* Record <-> bytes: the format of a cell's log. docs/formats.md has it byte by byte. PURE.
 *
 * A record is a header of 192 bytes in clear, everything that a replica without keys needs, then its
 * body (ciphertext, or small binary structures without names), then zeros up to a multiple of 64.
 *
 *   at  bytes  field           at  bytes  field
 *    0    4    magic "NefR"    64   16    stream id (upload id; all-zero: none)
 *    4    2    version (1)     80    8    proposer
 *    6    2    type            88    8    proposal number
 *    8    4    flags           96   16    key tag (HMAC of bucket id and object key)
 *   12    4    cell           112   16    bucket-key id
 *   16    8    epoch          128   32    leaf hash (zero for what is no op)
 *   24    8    offset         160    8    synced-before mark
 *   32    8    time           168    4    piece (number of this piece in its stream)
 *   40    4    body bytes     172   12    zero
 *   44    4    index in run   184    4    CRC-32C of the body
 *   48   16    zero           188    4    CRC-32C of bytes 0..187
 *
 * A proposal is a run of 1 to 4 whole records, encoded by its proposer with zero in the fields that the
 * primary stamps (flags NEF_RECORD_LAST on the run's last record). The run is appended together, inside
 * one segment, and applied together or not at all.
 *
 * A record is valid at OFFSET of CELL if: both CRCs hold, magic and version are known, cell and offset
 * are those of the place, padding and reserved fields are zero, the epoch isn't below that of the
 * record before it, and it doesn't cross its segment. A reader refuses an unknown version or type by
 * name (NEF_E_VERSION), never by skipping. */
#ifndef NEF_SEGLOG_FORMAT_H
#define NEF_SEGLOG_FORMAT_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/id.h"
#include "base/logaddr.h"

#define NEF_RECORD_VERSION 1u

/* X(name, number, is_op). An op changes the index and has a leaf hash. Numbers are forever. */
#define NEF_RECORD_TYPES(X)                                                                        \
    X(PAD, 1, 0)         /* fills a segment's end */                                               \
    X(MARK, 2, 0)        /* only carries synced-before, for an idle cell */                        \
    X(DATA, 3, 0)        /* one sealed piece of a stream */                                        \
    X(KEY, 4, 0)         /* wrapped DEK for the op that follows in the same run */                 \
    X(REGION, 16, 1)     /* region key and tag key, wrapped; the first op of a cell */             \
    X(BUCKET_PUT, 17, 1) /* create a bucket or change its settings */                              \
    X(BUCKET_CLOSE, 18, 1)  /* no more puts; refused where the cell holds something of it */       \
    X(BUCKET_REOPEN, 19, 1)                                                                        \
    X(BUCKET_DELETE, 20, 1)                                                                        \
    X(USER_PUT, 21, 1)                                                                             \
    X(BUDGET, 22, 1) /* leases of AI budgets, cell 0 only */                                       \
    X(OBJECT_PUT, 24, 1)                                                                           \
    X(OBJECT_DELETE, 25, 1)                                                                        \
    X(UPLOAD_CREATE, 26, 1) /* multipart */                                                        \
    X(PART_PUT, 27, 1)                                                                             \
    X(UPLOAD_COMPLETE, 28, 1)                                                                      \
    X(UPLOAD_ABORT, 29, 1)                                                                         \
    X(STREAM_ABORT, 30, 1) /* data records whose op will never come */                             \
    X(MOVED, 32, 1)        /* compaction: a body's old and new place */                            \
    X(ERASE, 33, 1)        /* punch these bodies in place */                                       \
    X(DROP, 34, 1)         /* unlink segments */                                                   \
    X(CHECKPOINT_BEGIN, 40, 1)                                                                     \
    X(CHECKPOINT_ROWS, 41, 0) /* sealed rows of the index as of the begin record */                \
    X(CHECKPOINT_END, 42, 1)                                                                       \
    X(SEQUENCE, 48, 1) /* reserved for the transparency log */                                     \
    X(OVERRIDE, 49, 1) /* an operator accepted a loss; body says what */

enum nef_record_type {
#define X(name, number, is_op) NEF_RECORD_##name = number,
    NEF_RECORD_TYPES(X)
#undef X
};

#define NEF_RECORD_LAST   1u /* last record of its run */
#define NEF_RECORD_ERASED 2u /* the body was punched: it reads as zeros and its CRC isn't checked */

struct nef_record {
    uint16_t type;
    uint32_t flags;
    uint32_t cell;
    uint64_t epoch;         /* stamped by the primary */
    uint64_t offset;        /* stamped */
    uint64_t time_ms;       /* stamped: the primary's wall time, milliseconds since 1970 */
    uint64_t synced_before; /* stamped: everything below was durable on every in-sync replica */
    uint32_t body_bytes;
    uint32_t run_index; /* 0-based place in its run */
    struct nef_id stream;
    uint64_t proposer;
    uint64_t number;
    uint8_t key_tag[16];
    uint8_t bucket_key_id[16];
    uint8_t leaf[32];
    uint32_t piece;
    uint32_t body_crc;
};

/* Name ("object_put") of a type, or NULL if it is unknown. */
const char *nef_record_type_name(uint16_t type);
int nef_record_is_op(uint16_t type);

/* Write header and body to out, with padding: nef_record_bytes(body_bytes) bytes. body may already lie
 * at out + NEF_RECORD_HEADER_BYTES. Computes body_crc unless crc_known (then r->body_crc is trusted). */
void nef_record_encode(const struct nef_record *r, const void *body, int crc_known, uint8_t *out);

/* Set what the primary decides in the encoded header at `header` and make its CRC good again. */
void nef_record_stamp(uint8_t *header, uint64_t epoch, uint64_t offset, uint64_t time_ms,
                      uint64_t synced_before);

/* Set the proposal's id in the encoded header at `header` and make its CRC good again. */
void nef_record_propose(uint8_t *header, uint64_t proposer, uint64_t number);

/* Set NEF_RECORD_ERASED in the encoded header at `header` and make its CRC good again. */
void nef_record_mark_erased(uint8_t *header);

/* Decode and check a header (192 bytes). NEF_E_TORN: no valid header here (all-zero included);
 * NEF_E_VERSION: valid checksum but a version or type this program doesn't know; NEF_E_CORRUPT: valid
 * checksum but impossible values. Doesn't look at the body. */
NEF_MUST_CHECK nef_err nef_record_decode(const uint8_t *header, struct nef_record *out_record);

/* Check body (r->body_bytes) and padding against r. NEF_E_CORRUPT if not equal. Erased: all must be 0. */
NEF_MUST_CHECK nef_err nef_record_check_body(const struct nef_record *r, const uint8_t *body);

/* Check a proposal's run as received from another process, before it is stamped: 1 to
 * NEF_PROPOSAL_RECORDS_MAX records of CELL, same proposer and number, run_index counting from 0, LAST
 * on the last and only there, stamped fields zero, body CRCs good, no trailing bytes.
 * out_first: the first record's header. NEF_E_PROTOCOL otherwise. */
NEF_MUST_CHECK nef_err nef_record_check_run(const uint8_t *run, size_t bytes, uint32_t cell,
                                            struct nef_record *out_first);

/* ---- segment header: the first 4,096 bytes of a segment; equal in both zones ---- */
struct nef_segment_header {
    uint32_t cell;
    uint64_t segment; /* number: its first byte's address / segment_bytes */
    uint64_t segment_bytes;
    struct nef_id region; /* region id: a disk of another region is refused */
};

void nef_segment_header_encode(const struct nef_segment_header *h, uint8_t out[NEF_SEGMENT_HEADER_BYTES]);
NEF_MUST_CHECK nef_err nef_segment_header_decode(const uint8_t in[NEF_SEGMENT_HEADER_BYTES],
                                                 struct nef_segment_header *out_header);

#endif
