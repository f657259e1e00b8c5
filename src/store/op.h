/* Ops: what a record of each op type says, and how it is sealed. docs/formats.md has the bytes. PURE apart
 * from the key handles it is given.
 *
 * A run that changes the index is [KEY, op]: KEY's body is the wrapped DEK (72 bytes), bound to the op's
 * stream id; the op's body is
 *     u32 sealed bytes | sealed fields (AES-256-GCM under the DEK, purpose OP, number 0) | inline body
 * where the inline body (OBJECT_PUT and PART_PUT of at most NEF_INLINE_BYTES_MAX) is the ciphertext of
 * piece 0 with its tag, exactly as a DATA record would hold it. Nonce = purpose u32 LE | number u64 LE.
 * Associated data of a piece: bucket id (16) | stream id (16) | piece u64 LE | last u8.
 * Associated data of op fields: type u16 LE | bucket-key id (16) | stream id (16).
 * Types that hold no names (REGION, BUCKET_CLOSE, BUCKET_REOPEN, BUCKET_DELETE, MOVED, ERASE, DROP,
 * STREAM_ABORT, CHECKPOINT_BEGIN, CHECKPOINT_END, OVERRIDE) are single records whose body is their fields
 * in clear. BUCKET_PUT, USER_PUT and BUDGET are sealed under the region's key, the rest under their bucket's.
 * leaf hash of an op = SHA-256(0x00 | HMAC-SHA-256(DEK, "nef leaf salt") | plain fields); of a clear op the
 * same with an empty salt.
 * A stream is a sequence of pieces (NEF_PIECE_BYTES of plaintext each, the last one shorter) under one
 * DEK: the body of an object put or of one part. Its id is also the id of the op that ends it. */
#ifndef NEF_STORE_OP_H
#define NEF_STORE_OP_H

#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/bytes.h"
#include "base/id.h"
#include "base/limits.h"
#include "keys/keys.h"
#include "seglog/format.h"

#define NEF_PURPOSE_PIECE 1u
#define NEF_PURPOSE_OP    2u
#define NEF_ETAG_MAX      40u /* 32 hex, "-", 5 digits */

/* A list of header-like attributes kept with an object: content-type, cache-control, ..., and user
 * metadata with its x-amz-meta- prefix. Encoded as u16 count, then (u16 len, name, u16 len, value). */
struct nef_attrs {
    const uint8_t *data; /* borrowed, validated on decode */
    uint32_t bytes;
};
struct nef_attr {
    const char *name, *value; /* not NUL-terminated; borrowed */
    uint32_t name_bytes, value_bytes;
};
void nef_attrs_begin(struct nef_buf *b);
void nef_attrs_add(struct nef_buf *b, const void *name, size_t name_bytes, const void *value,
                   size_t value_bytes);
uint32_t nef_attrs_count(const struct nef_attrs *attrs);
/* i-th; false past the end. */
bool nef_attrs_at(const struct nef_attrs *attrs, uint32_t i, struct nef_attr *out_attr);
bool nef_attrs_find(const struct nef_attrs *attrs, const char *name, struct nef_attr *out_attr);

enum nef_checksum_kind { /* numbers are in the format */
    NEF_CHECKSUM_NONE = 0,
    NEF_CHECKSUM_CRC32 = 1,
    NEF_CHECKSUM_CRC32C = 2,
    NEF_CHECKSUM_CRC64NVME = 3,
    NEF_CHECKSUM_SHA1 = 4,
    NEF_CHECKSUM_SHA256 = 5,
};
enum nef_checksum_scope { NEF_CHECKSUM_FULL_OBJECT = 0, NEF_CHECKSUM_COMPOSITE = 1 };
struct nef_checksum {
    uint8_t kind;
    uint8_t scope;
    uint8_t bytes; /* 4, 8, 20 or 32; 0 if only kind and scope are chosen (a new upload) */
    uint8_t value[32];
};

/* Decided when the op is applied, from the index alone (design section 3, point 4). */
struct nef_condition {
    bool none;                    /* If-None-Match: *  the key must not exist */
    bool any;                     /* If-Match: *       the key must exist */
    char match[NEF_ETAG_MAX + 1]; /* If-Match: this ETag, unquoted; "" if none */
};

struct nef_text { /* borrowed bytes, not NUL-terminated */
    const char *data;
    uint32_t bytes;
};

struct nef_op_region {
    struct nef_id region;
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX]; /* region key under the customer key; region_key id = record.stream */
    uint32_t wrapped_bytes;
    uint32_t cell_count;
};
struct nef_op_bucket_put {
    struct nef_id bucket; /* also the bucket-key id */
    struct nef_text name;
    struct nef_text owner;
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX];
    uint32_t wrapped_bytes;
    uint32_t flags; /* NEF_BUCKET_REQUIRE_2_2 */
};
#define NEF_BUCKET_REQUIRE_2_2 1u
struct nef_op_bucket { /* CLOSE, REOPEN, DELETE */
    struct nef_id bucket;
    struct nef_id token; /* of the deletion; REOPEN and DELETE count only for the CLOSE with the same token */
};
struct nef_op_user_put {
    struct nef_text name, access_key, secret_key, bucket; /* bucket "": all */
    bool read_only, disabled;
    bool ai; /* the rest is there: struct nef_user_ai, which says what each means */
    struct nef_text models, zones;
    uint64_t requests_min, tokens_min;
    uint32_t concurrency, weight, priority;
};
enum { NEF_BUDGET_REQUESTS, NEF_BUDGET_TOKENS, NEF_BUDGET_RESOURCES };
struct nef_budget_claim { /* of another zone, or of base also of its own; store/budget.h */
    struct nef_text zone;
    uint64_t start, number;
    bool over; /* its lease is over, if it is still what START and NUMBER say */
    uint64_t base[NEF_BUDGET_RESOURCES];
};
struct nef_budget_entry {
    struct nef_text user;   /* access key */
    uint64_t start, number; /* of the zone's part as it was found; 0, 0: it has none */
    uint64_t spent[NEF_BUDGET_RESOURCES], limit[NEF_BUDGET_RESOURCES];
    uint32_t slots;
    uint32_t claim_count;
    struct nef_budget_claim claims[NEF_REPLICA_MAX];
};
struct nef_op_budget {
    struct nef_text zone;
    uint64_t start;         /* the process that asks */
    uint32_t count;         /* 1 .. NEF_BUDGET_ENTRIES_MAX */
    const uint8_t *entries; /* borrowed; nef_budget_entry_put and _get */
    uint32_t entries_bytes;
};
struct nef_op_object_put {
    struct nef_id bucket;
    struct nef_text key;
    uint64_t size;
    char etag[NEF_ETAG_MAX + 1];
    struct nef_attrs attrs;
    struct nef_checksum checksum;
    struct nef_condition condition;
    bool inline_body; /* size > 0 and the body lies in this record */
};
struct nef_op_object_delete {
    struct nef_id bucket;
    struct nef_text key;
    struct nef_condition condition;
};
struct nef_op_upload_create { /* upload id = record.stream */
    struct nef_id bucket;
    struct nef_text key;
    struct nef_attrs attrs;
    struct nef_checksum checksum;
    struct nef_text owner;
};
struct nef_op_part_put {
    struct nef_id bucket;
    struct nef_text key;
    struct nef_id upload;
    uint32_t part; /* 1..10000 */
    uint64_t size;
    uint8_t md5[16];
    struct nef_checksum checksum;
    bool inline_body;
};
struct nef_op_complete_part {
    uint32_t part;
    uint8_t md5[16];
};
struct nef_op_upload_complete {
    struct nef_id bucket;
    struct nef_text key;
    struct nef_id upload;
    char etag[NEF_ETAG_MAX + 1];
    struct nef_checksum checksum;
    struct nef_condition condition;
    uint32_t part_count;
    const uint8_t *parts; /* part_count times u32 LE part, 16 bytes md5; borrowed */
};
struct nef_op_upload_abort {
    struct nef_id bucket;
    struct nef_text key;
    struct nef_id upload;
};
struct nef_op_stream_abort { /* record.stream */
    uint64_t proposer;       /* whose stream it was */
};
struct nef_op_moved { /* repeated: body is u32 count, then these */
    struct nef_id stream;
    uint32_t piece;
    uint64_t from, to; /* record offsets; `to` is the DATA record that was appended before */
};
struct nef_op_erase { /* repeated: record offsets */
    uint64_t offset;
};
struct nef_op_drop { /* repeated: segment numbers */
    uint64_t segment;
};
struct nef_op_checkpoint_begin {
    struct nef_id checkpoint; /* = record.stream of all its records */
};
struct nef_op_checkpoint_end {
    uint64_t begin; /* offset of the BEGIN record */
    uint64_t rows;  /* how many rows the ROWS records hold together */
    uint8_t digest[32]; /* SHA-256 over all rows' plain bytes in order */
};
struct nef_op_override {
    uint64_t epoch;
    uint64_t end; /* log end of this cell when the loss was accepted */
};

struct nef_op {
    uint16_t type;
    struct nef_id stream;
    struct nef_id bucket_key;
    union {
        struct nef_op_region region;
        struct nef_op_bucket_put bucket_put;
        struct nef_op_bucket bucket;
        struct nef_op_user_put user_put;
        struct nef_op_budget budget;
        struct nef_op_object_put object_put;
        struct nef_op_object_delete object_delete;
        struct nef_op_upload_create upload_create;
        struct nef_op_part_put part_put;
        struct nef_op_upload_complete upload_complete;
        struct nef_op_upload_abort upload_abort;
        struct nef_op_stream_abort stream_abort;
        struct nef_op_checkpoint_begin checkpoint_begin;
        struct nef_op_checkpoint_end checkpoint_end;
        struct nef_op_override override;
        struct {
            uint32_t count;
            /* moved (36 bytes: stream, u32 piece, u64 from, u64 to), erase and drop (u64), all
             * little-endian: decode with nef_op_item_* */
            const uint8_t *items;
        } list;
    } u;
};

/* Plain fields <-> bytes. Decode borrows from `in`; every length, number and text is checked
 * (NEF_E_PROTOCOL). */
void nef_op_encode(const struct nef_op *op, struct nef_buf *out);
NEF_MUST_CHECK nef_err nef_op_decode(uint16_t type, const uint8_t *in, size_t bytes,
                                     struct nef_op *out_op);
void nef_op_item_moved(const struct nef_op *op, uint32_t i, struct nef_op_moved *out);
uint64_t nef_op_item_u64(const struct nef_op *op, uint32_t i); /* erase, drop */
void nef_budget_entry_put(struct nef_buf *out, const struct nef_budget_entry *entry);
/* The next of an op's entries; borrows. NEF_E_PROTOCOL. */
NEF_MUST_CHECK nef_err nef_budget_entry_get(struct nef_reader *r, struct nef_budget_entry *out_entry);
void nef_op_complete_part_at(const struct nef_op *op, uint32_t i, struct nef_op_complete_part *out);

/* ---- runs: what is proposed ---- */

struct nef_run {
    uint8_t *data; /* malloc'd, encoded records, stamped fields zero */
    uint32_t bytes;
    uint32_t cell;
    uint8_t tag[16]; /* key tag of its op; zero: touches everything */
    bool is_op;
    bool frees_space; /* delete, abort, drop...: admitted when the disk is full */
};
void nef_run_free(struct nef_run *run);

/* Build [KEY, op] (or the single clear record). dek: 32 bytes; the op's fields are sealed under it.
 * inline_cipher: sealed piece 0 with its tag, appended after the fields; NULL if none. It must be there
 * exactly when the op says inline_body, and then have size + 16 bytes. dek is NULL for clear types.
 * NEF_E_INVALID: a field that a reader would refuse (nef_op_decode); NEF_E_KEY.
 * tag: key tag or NULL (zero). Proposer and number are set by nef_run_number. */
NEF_MUST_CHECK nef_err nef_run_op(struct nef_keys *keys, const struct nef_op *op, uint32_t cell,
                                  const uint8_t *dek, const uint8_t tag[16],
                                  const uint8_t *inline_cipher, uint32_t inline_bytes,
                                  struct nef_run *out_run);
/* Build a DATA run: seals `bytes` of plaintext (1..NEF_PIECE_BYTES) straight into the run. */
NEF_MUST_CHECK nef_err nef_run_piece(const struct nef_id *bucket, const struct nef_id *stream,
                                     const uint8_t dek[32], uint32_t piece, bool last,
                                     const uint8_t tag[16], uint32_t cell, const uint8_t *plain,
                                     uint32_t bytes, struct nef_run *out_run);
/* A DATA run that holds ciphertext as it is (compaction). */
NEF_MUST_CHECK nef_err nef_run_cipher(const struct nef_id *stream, const uint8_t bucket_key[16],
                                      uint32_t piece, uint32_t cell, const uint8_t *cipher,
                                      uint32_t bytes, struct nef_run *out_run);
/* Set proposer and number in every header of the run. The runtime calls it once, when it queues the run. */
void nef_run_number(struct nef_run *run, uint64_t proposer, uint64_t number);

void nef_piece_seal(const struct nef_id *bucket, const struct nef_id *stream, const uint8_t dek[32],
                    uint32_t piece, bool last, const uint8_t *plain, uint32_t bytes, uint8_t *out);
NEF_MUST_CHECK nef_err nef_piece_open(const struct nef_id *bucket, const struct nef_id *stream,
                                      const uint8_t dek[32], uint32_t piece, bool last,
                                      const uint8_t *cipher, uint32_t bytes, uint8_t *out);

/* Open an op record: body and the wrapped DEK of its KEY record (NULL for clear types). Scratch keeps the
 * plain fields that out_op borrows from. out_inline_at: where in the body the inline ciphertext begins
 * (body_bytes if none). out_dek may be NULL.
 * NEF_E_KEY: the bucket key isn't known; NEF_E_CORRUPT: DEK, fields or leaf hash don't verify;
 * NEF_E_PROTOCOL: they do, but say what no op says. */
NEF_MUST_CHECK nef_err nef_op_open(struct nef_keys *keys, const struct nef_record *record,
                                   const uint8_t *body, const uint8_t *wrapped_dek,
                                   struct nef_buf *scratch, struct nef_op *out_op,
                                   uint32_t *out_inline_at, uint8_t *out_dek);

#endif
