/* Rows of a cell's index: their keys and values. PURE.
 *
 * Numbers in keys are big-endian, so that RocksDB's byte order is the order of meaning; values are written
 * with nef_buf and read with nef_reader (little-endian). Every row but A is a function of the log alone:
 * all replicas that applied the same prefix have the same bytes, so a row holds nothing local, and time
 * only from record headers. Row A says up to where and carries the version of this whole layout.
 *
 *   A                                applied offset, epoch and place of the last record, layout version
 *   R                                region key (wrapped)
 *   T                                totals: objects, uploads, open streams
 *   C                                the latest complete checkpoint and the one that is being written
 *   V epoch(8)                       a loss that an operator accepted: where the log ended then
 *   B bucket(16)                     a bucket, in every cell
 *   N name                           bucket name -> bucket id, cell 0 only
 *   U access-key                     a user
 *   G access-key                     who may spend how much of a user's AI budget (budget.h), cell 0 only
 *   O bucket(16) object-key 0        an object: what a listing needs first, its parts last
 *   X stream(16) piece(4)            where the ciphertext of a piece lies
 *   S stream(16)                     an open stream: pieces are there, the op that ends it isn't; proposer 0:
 *                                    freed by nobody yet (an object too large to be freed in one op)
 *   M bucket(16) object-key 0 id(16) a multipart upload
 *   P upload(16) part(4)             an uploaded part
 *   Q proposer(8) slot(2)            outcome of a proposal
 *   L segment(8)                     bytes of a segment: live, all, and since when a small dead body is in it
 *   E record-offset(8)               a dead copy of a piece: since when, and whether it was erased
 *
 * A segment below the applied offset that has no L row is not needed: it was dropped (or lies before the
 * checkpoint this index was rebuilt from), and its file may go once the index is flushed. */
#ifndef NEF_STORE_ROWS_H
#define NEF_STORE_ROWS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/limits.h"
#include "repl/outcomes.h"
#include "store/store.h"

#define NEF_ROWS_VERSION  1u
#define NEF_ROW_KEY_MAX   (1u + 16u + NEF_OBJECT_KEY_MAX + 1u + 16u)
#define NEF_ROW_VALUE_MAX ((size_t)1 << 21) /* an object of 10,000 parts has 1.35 MB */
#define NEF_STREAM_PIECES_MAX ((uint32_t)(NEF_PUT_BYTES_MAX / NEF_PIECE_BYTES))

struct nef_row_key {
    uint32_t bytes;
    uint8_t data[NEF_ROW_KEY_MAX];
};

/* KIND alone: A, R, T, C; also the lower bound of all rows of KIND. */
void nef_key_kind(struct nef_row_key *k, char kind);
void nef_key_id(struct nef_row_key *k, char kind, const struct nef_id *id); /* B, S; prefix of O M X P */
void nef_key_text(struct nef_row_key *k, char kind, const void *text, size_t bytes); /* N, U */
void nef_key_u64(struct nef_row_key *k, char kind, uint64_t number);              /* V, L, E; prefix Q */
void nef_key_id_u32(struct nef_row_key *k, char kind, const struct nef_id *id, uint32_t n); /* X, P */
/* key_bytes <= NEF_OBJECT_KEY_MAX, no NUL inside (the op decoder and nef_key_valid see to it). */
void nef_key_object(struct nef_row_key *k, const struct nef_id *bucket, const void *object_key,
                    size_t key_bytes);
void nef_key_upload(struct nef_row_key *k, const struct nef_id *bucket, const void *object_key,
                    size_t key_bytes, const struct nef_id *upload);
void nef_key_outcome(struct nef_row_key *k, uint64_t proposer, uint32_t slot);
/* The least key above all that begin with k: k itself, counted up. KIND is never 0xff, so there is one. */
void nef_key_after_prefix(struct nef_row_key *k);
bool nef_key_valid(const void *object_key, size_t key_bytes); /* 1..NEF_OBJECT_KEY_MAX, no NUL */

/* Parts of keys as an iterator gives them; NEF_E_CORRUPT if they aren't of that shape. */
NEF_MUST_CHECK nef_err nef_key_read_object(const uint8_t *k, size_t bytes, struct nef_text *out_key);
NEF_MUST_CHECK nef_err nef_key_read_upload(const uint8_t *k, size_t bytes, struct nef_text *out_key,
                                           struct nef_id *out_upload);
NEF_MUST_CHECK nef_err nef_key_read_id(const uint8_t *k, size_t bytes, struct nef_id *out_id); /* B, S */
NEF_MUST_CHECK nef_err nef_key_read_id_u32(const uint8_t *k, size_t bytes, struct nef_id *out_id,
                                           uint32_t *out_n); /* X, P */
NEF_MUST_CHECK nef_err nef_key_read_u64(const uint8_t *k, size_t bytes, uint64_t *out_number); /* L, E */
NEF_MUST_CHECK nef_err nef_key_read_outcome(const uint8_t *k, size_t bytes, uint64_t *out_proposer,
                                            uint32_t *out_slot);

/* ---- values. put resets and fills OUT; get returns NEF_E_CORRUPT for what put can't have written.
 * Views (nef_text, nef_attrs, parts) borrow from the value. ---- */

struct nef_row_applied {
    uint64_t epoch;  /* of the last record applied; 0: none */
    uint64_t offset; /* the next record's place */
    uint64_t last;   /* place of the last record applied; meaningless when epoch is 0 */
    uint32_t version;
};
void nef_row_applied_put(struct nef_buf *out, const struct nef_row_applied *row);
NEF_MUST_CHECK nef_err nef_row_applied_get(const void *value, size_t bytes, struct nef_row_applied *out);

struct nef_row_region {
    struct nef_id region_key;
    struct nef_op_region op;
};
void nef_row_region_put(struct nef_buf *out, const struct nef_row_region *row);
NEF_MUST_CHECK nef_err nef_row_region_get(const void *value, size_t bytes, struct nef_row_region *out);

struct nef_row_totals {
    uint64_t objects, uploads, streams;
};
void nef_row_totals_put(struct nef_buf *out, const struct nef_row_totals *row);
NEF_MUST_CHECK nef_err nef_row_totals_get(const void *value, size_t bytes, struct nef_row_totals *out);

struct nef_row_checkpoint {
    struct nef_id complete; /* zero: there is none yet */
    uint64_t begin, end;    /* of the complete one: offsets of its BEGIN and END records */
    struct nef_id pending;  /* the one whose BEGIN was applied last, if its END wasn't */
    uint64_t pending_begin;
    uint32_t pending_pieces; /* its ROWS records that came in order */
};
void nef_row_checkpoint_put(struct nef_buf *out, const struct nef_row_checkpoint *row);
NEF_MUST_CHECK nef_err nef_row_checkpoint_get(const void *value, size_t bytes,
                                              struct nef_row_checkpoint *out);

struct nef_row_override {
    uint64_t end;     /* of the log when the loss was accepted */
    uint64_t offset;  /* of the record that says so */
    uint64_t time_ms; /* of it */
};
void nef_row_override_put(struct nef_buf *out, const struct nef_row_override *row);
NEF_MUST_CHECK nef_err nef_row_override_get(const void *value, size_t bytes, struct nef_row_override *out);

#define NEF_OWNER_MAX 63u
struct nef_row_bucket {
    char name[NEF_BUCKET_NAME_MAX + 1];
    char owner[NEF_OWNER_MAX + 1];
    uint64_t created_ms;
    uint32_t flags;
    bool closed;
    struct nef_id token; /* of the deletion that closed it */
    uint64_t closed_ms;
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX];
    uint32_t wrapped_bytes;
};
void nef_row_bucket_put(struct nef_buf *out, const struct nef_row_bucket *row);
NEF_MUST_CHECK nef_err nef_row_bucket_get(const void *value, size_t bytes, struct nef_row_bucket *out);

/* N: the value is the bucket id, 16 bytes. */
NEF_MUST_CHECK nef_err nef_row_name_get(const void *value, size_t bytes, struct nef_id *out);

void nef_row_user_put(struct nef_buf *out, const struct nef_user *row); /* all but access_key */
NEF_MUST_CHECK nef_err nef_row_user_get(const void *value, size_t bytes, struct nef_user *out);

struct nef_row_object {
    uint64_t size, modified_ms;
    char etag[NEF_ETAG_MAX + 1];
    struct nef_checksum checksum;
    bool multipart;
    struct nef_attrs attrs;
    uint32_t part_count;
    const uint8_t *parts; /* part_count encoded parts */
};
/* put: head, then part_count calls of nef_row_object_part_put. */
void nef_row_object_put(struct nef_buf *out, const struct nef_row_object *row);
void nef_row_object_part_put(struct nef_buf *out, const struct nef_object_part *part);
NEF_MUST_CHECK nef_err nef_row_object_get(const void *value, size_t bytes, struct nef_row_object *out);
void nef_row_object_part(const struct nef_row_object *row, uint32_t i, struct nef_object_part *out);

struct nef_row_piece {
    uint64_t record;       /* offset of the record that holds it */
    uint32_t cipher_at;    /* where in the record the ciphertext begins, from the record's first byte */
    uint32_t cipher_bytes; /* with its tag */
};
#define NEF_ROW_PIECE_BYTES 16u
void nef_row_piece_put(struct nef_buf *out, const struct nef_row_piece *row);
NEF_MUST_CHECK nef_err nef_row_piece_get(const void *value, size_t bytes, struct nef_row_piece *out);
/* Bytes that the piece's record takes in the log (its ciphertext is the last thing in the body). */
static inline uint64_t nef_row_piece_record_bytes(const struct nef_row_piece *p)
{
    return nef_record_bytes((uint64_t)p->cipher_at - NEF_RECORD_HEADER_BYTES + p->cipher_bytes);
}
/* A DATA record of its own, not the body inside an op. */
static inline bool nef_row_piece_is_data(const struct nef_row_piece *p)
{
    return p->cipher_at == NEF_RECORD_HEADER_BYTES;
}

struct nef_row_stream {
    uint64_t proposer; /* 0: its object is gone, anyone may free it */
    uint64_t first;    /* offset of its first piece's record */
    uint64_t time_ms;  /* of that record */
    uint64_t cipher_bytes;
    uint32_t count; /* pieces there are */
    uint32_t top;   /* highest piece number + 1 */
};
void nef_row_stream_put(struct nef_buf *out, const struct nef_row_stream *row);
NEF_MUST_CHECK nef_err nef_row_stream_get(const void *value, size_t bytes, struct nef_row_stream *out);

struct nef_row_upload {
    uint64_t created_ms;
    struct nef_checksum checksum;
    char owner[NEF_OWNER_MAX + 1];
    struct nef_attrs attrs;
};
void nef_row_upload_put(struct nef_buf *out, const struct nef_row_upload *row);
NEF_MUST_CHECK nef_err nef_row_upload_get(const void *value, size_t bytes, struct nef_row_upload *out);

struct nef_row_part {
    struct nef_id stream;
    uint64_t size, modified_ms;
    uint8_t md5[16];
    struct nef_checksum checksum;
    uint8_t wrapped_dek[NEF_WRAPPED_DEK_BYTES];
};
void nef_row_part_put(struct nef_buf *out, const struct nef_row_part *row);
NEF_MUST_CHECK nef_err nef_row_part_get(const void *value, size_t bytes, struct nef_row_part *out);

void nef_row_outcome_put(struct nef_buf *out, const struct nef_outcome *row);
NEF_MUST_CHECK nef_err nef_row_outcome_get(const void *value, size_t bytes, struct nef_outcome *out);

struct nef_row_segment {
    uint64_t live;    /* bytes of records that a row X names */
    uint64_t total;   /* bytes of records applied */
    uint64_t dead_ms; /* since when the oldest dead body inside an op is in it, which only rewriting the
                       * segment removes; 0: none */
};
void nef_row_segment_put(struct nef_buf *out, const struct nef_row_segment *row);
NEF_MUST_CHECK nef_err nef_row_segment_get(const void *value, size_t bytes, struct nef_row_segment *out);

struct nef_row_dead { /* E */
    uint64_t dead_ms;
    uint64_t erased; /* offset of the ERASE op that named it, 0: none. The row stays until its segment goes:
                      * the hole itself is local, and can be late when a reader pins the segment */
    struct nef_id stream;
    uint32_t piece;
    uint32_t cipher_bytes;
};
void nef_row_dead_put(struct nef_buf *out, const struct nef_row_dead *row);
NEF_MUST_CHECK nef_err nef_row_dead_get(const void *value, size_t bytes, struct nef_row_dead *out);

#endif
