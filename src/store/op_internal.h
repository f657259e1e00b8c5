/* What op.c, op_decode.c, attrs.c, run.c and op_open.c share. */
#ifndef NEF_STORE_OP_INTERNAL_H
#define NEF_STORE_OP_INTERNAL_H

#include "store/op.h"

/* Numbers of the format that encoder and decoder share. */
#define NEF_OP_MOVED_BYTES     36u /* stream, u32 piece, u64 from, u64 to */
#define NEF_OP_OFFSET_BYTES    8u
#define NEF_OP_COMPLETE_BYTES  20u /* u32 part, md5 */
#define NEF_OP_CONDITION_NONE  1u
#define NEF_OP_CONDITION_ANY   2u
#define NEF_OP_CONDITION_MATCH 4u
#define NEF_OP_USER_READ_ONLY  1u
#define NEF_OP_USER_DISABLED   2u
#define NEF_OP_USER_AI         4u
#define NEF_OP_CLAIM_OVER      1u
#define NEF_OP_BODY_INLINE     1u

/* Count, lengths, names and values; NEF_E_PROTOCOL. */
NEF_MUST_CHECK nef_err nef_attrs_check(const struct nef_attrs *attrs);

/* Bytes that nef_op_encode needs at most, a little more than what it writes. */
size_t nef_op_encoded_max(const struct nef_op *op);

/* Sealed types carry names; the others lie in the log in clear. */
bool nef_op_is_clear(uint16_t type);

/* Whether the op says that its body lies in its record, and of what size. */
bool nef_op_inline_body(const struct nef_op *op, uint64_t *out_size);

#endif
