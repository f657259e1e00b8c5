/* The state machine's inside: what apply.c hands to the files that apply one kind of op each. A cell's
 * apply thread only.
 *
 * Every nef_apply_* returns two things. Its nef_err is for this process: anything but NEF_OK means that the
 * batch is thrown away and applied again later (disk, memory, a key that isn't there). *out_code is the
 * op's outcome, the same on every replica; unless it is NEF_OK the op changed nothing. So each function
 * first looks at everything that can refuse the op and only then writes rows. */
#ifndef NEF_STORE_APPLY_H
#define NEF_STORE_APPLY_H

#include "store/store_internal.h"

struct nef_apply {
    struct nef_cell *cell;
    const struct nef_record *record; /* of the op */
    uint64_t time_ms;                /* its time; never 0 */
    const uint8_t *wrapped_dek;      /* of the KEY record of its run; NULL if there is none */
    struct nef_op op;                /* borrows from the cell's scratch */
    uint32_t inline_at;              /* in the record's body; body_bytes if none */
};

/* ---- rows of the batch ---- */
NEF_MUST_CHECK nef_err nef_batch_get(struct nef_cell *cell, const struct nef_row_key *k,
                                     struct nef_buf *out_value);
NEF_MUST_CHECK nef_err nef_batch_put(struct nef_cell *cell, const struct nef_row_key *k,
                                     const struct nef_buf *value);
void nef_batch_delete(struct nef_cell *cell, const struct nef_row_key *k);
/* Write what is in the batch and tell whom it concerns. */
NEF_MUST_CHECK nef_err nef_batch_commit(struct nef_cell *cell);

/* ---- apply_space.c: streams, pieces, segments ---- */

/* Counters of the segment that holds OFFSET, to be changed: made if it has none, and its row goes into the
 * batch. NULL: out of memory. Valid until the next call. */
struct nef_segment_count *nef_counts_change(struct nef_cell *cell, uint64_t offset);
/* NULL: it has none; then *out_at is where it would stand. */
struct nef_segment_count *nef_counts_find(struct nef_cell *cell, uint64_t segment, uint32_t *out_at);
uint32_t nef_pieces_of(uint64_t size);
NEF_MUST_CHECK nef_err nef_apply_data(struct nef_cell *cell, const struct nef_record *record,
                                      bool duplicate);
/* End what a failed op leaves: its stream, if it is open. */
NEF_MUST_CHECK nef_err nef_free_open_stream(struct nef_cell *cell, const struct nef_id *stream,
                                            uint64_t time_ms);
/* Free the SIZE bytes of a stream that an object or a part has. *budget: pieces that this op may still
 * free at once; what is more becomes an orphan that maintenance aborts. */
NEF_MUST_CHECK nef_err nef_free_stream(struct nef_cell *cell, const struct nef_id *stream, uint64_t size,
                                       uint64_t time_ms, uint32_t *budget);
/* Is the op's body there, SIZE bytes of it: in its stream, or inside the record? out_code. */
NEF_MUST_CHECK nef_err nef_stream_check(struct nef_apply *a, uint64_t size, bool inline_body,
                                        nef_err *out_code);
/* Make it the body of an object or part: the stream is no longer open; a body inside gets its row. */
NEF_MUST_CHECK nef_err nef_stream_take(struct nef_apply *a, uint64_t size, bool inline_body);
NEF_MUST_CHECK nef_err nef_apply_stream_abort(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_moved(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_erase(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_drop(struct nef_apply *a, nef_err *out_code);

/* ---- apply_bucket.c ---- */

/* The bucket if it is there and open, else *out_code NEF_E_NO_BUCKET. */
NEF_MUST_CHECK nef_err nef_bucket_open(struct nef_cell *cell, const struct nef_id *bucket,
                                       nef_err *out_code);
/* Make the key known that the record's DEK is wrapped by, from the rows. NEF_E_NOT_FOUND: no row has it. */
NEF_MUST_CHECK nef_err nef_apply_load_key(struct nef_cell *cell, const struct nef_id *key);
NEF_MUST_CHECK nef_err nef_apply_region(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_override(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_bucket_put(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_bucket_close(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_bucket_reopen(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_bucket_delete(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_user_put(struct nef_apply *a, nef_err *out_code);

/* ---- apply_budget.c ---- */

NEF_MUST_CHECK nef_err nef_apply_budget(struct nef_apply *a, nef_err *out_code);

/* ---- apply_object.c ---- */

NEF_MUST_CHECK nef_err nef_apply_object_put(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_object_delete(struct nef_apply *a, nef_err *out_code);
/* The object's row as it is (its value in cell->value), and whether CONDITION lets the op pass. */
NEF_MUST_CHECK nef_err nef_object_check(struct nef_apply *a, const struct nef_row_key *k,
                                        const struct nef_condition *condition, bool *out_exists,
                                        struct nef_row_object *out_row, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_object_free_parts(struct nef_cell *cell, const struct nef_row_object *row,
                                             uint64_t time_ms, uint32_t *budget);

/* ---- apply_upload.c ---- */

NEF_MUST_CHECK nef_err nef_apply_upload_create(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_part_put(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_upload_complete(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_upload_abort(struct nef_apply *a, nef_err *out_code);

/* ---- checkpoint.c ---- */

NEF_MUST_CHECK nef_err nef_apply_checkpoint_begin(struct nef_apply *a, nef_err *out_code);
NEF_MUST_CHECK nef_err nef_apply_checkpoint_end(struct nef_apply *a, nef_err *out_code);
void nef_apply_checkpoint_rows(struct nef_cell *cell, const struct nef_record *record);

#endif
