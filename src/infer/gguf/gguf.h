/* GGUF v2 and v3 model files. PURE: bytes in, structs out. The file is hostile: every count, length, type, offset
 * and alignment is checked before it is used, and an error names the field. Nothing is copied: strings and arrays
 * point into the bytes given, which must outlive the result (the caller maps the file).
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml's block layouts (ggml-common.h).
 * join.h makes one file of a split one. Not here: files and mapping (model/load.c), what the keys mean for a model (model/config.c). */
#ifndef NEF_INFER_GGUF_H
#define NEF_INFER_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

/* ggml's type numbers, those that we load. */
enum nef_ggml_type {
    NEF_GGML_F32 = 0,
    NEF_GGML_F16 = 1,
    NEF_GGML_Q4_0 = 2,
    NEF_GGML_Q5_0 = 6,
    NEF_GGML_Q8_0 = 8,
    NEF_GGML_Q4_K = 12,
    NEF_GGML_Q5_K = 13,
    NEF_GGML_Q6_K = 14,
    NEF_GGML_BF16 = 30,
};
/* Weights of a block and its bytes; false for a type that we don't load. */
bool nef_ggml_block(uint32_t type, uint32_t *out_weights, uint32_t *out_bytes);
const char *nef_ggml_type_name(uint32_t type); /* "Q4_K"; "type 23" is the caller's to print when NULL */

enum nef_gguf_value_type {
    NEF_GGUF_U8, NEF_GGUF_I8, NEF_GGUF_U16, NEF_GGUF_I16, NEF_GGUF_U32, NEF_GGUF_I32, NEF_GGUF_F32, NEF_GGUF_BOOL,
    NEF_GGUF_STRING, NEF_GGUF_ARRAY, NEF_GGUF_U64, NEF_GGUF_I64, NEF_GGUF_F64,
};
struct nef_gguf_string {
    const char *data; /* not terminated */
    size_t bytes;
};
#define NEF_GGUF_DIMS_MAX     4u
#define NEF_GGUF_ERROR_MAX    256u
#define NEF_GGUF_KEYS_MAX     65536u
#define NEF_GGUF_TENSORS_MAX  65536u
#define NEF_GGUF_KEY_BYTES_MAX 65535u     /* gguf.md: at most 2^16 - 1 */
#define NEF_GGUF_NAME_BYTES_MAX 64u       /* gguf.md: of a tensor */

struct nef_gguf_tensor {
    struct nef_gguf_string name;
    uint32_t dims_count;
    uint64_t dims[NEF_GGUF_DIMS_MAX]; /* dims[0] is the row's length; absent ones are 1 */
    uint32_t type;                    /* enum nef_ggml_type; always one that we load */
    const uint8_t *data;              /* into the bytes given; NULL when only the file's head was parsed */
    uint64_t bytes;
    uint64_t offset;                  /* of the data, from nef_gguf_data_start */
};

struct nef_gguf; /* one file */

/* Parse BYTES bytes at DATA. What is wrong, with the field's name, goes to out_error (NEF_GGUF_ERROR_MAX bytes).
 * Errors: NEF_E_VERSION, NEF_E_UNSUPPORTED (a tensor type that we don't load), NEF_E_PROTOCOL (malformed),
 * NEF_E_LIMIT, NEF_E_NOMEM. Memory: bounded by the bytes of the header. */
NEF_MUST_CHECK nef_err nef_gguf_parse(const uint8_t *data, size_t bytes, char *out_error, struct nef_gguf **out_file);
/* The same of the first BYTES bytes of a file that has TOTAL: for a file that is still elsewhere. All that nef_gguf_parse
 * checks is checked, against TOTAL. NEF_E_AGAIN: metadata and tensors' descriptions go on beyond BYTES; come back with
 * more. */
NEF_MUST_CHECK nef_err nef_gguf_parse_head(const uint8_t *data, size_t bytes, uint64_t total, char *out_error,
                                           struct nef_gguf **out_file);
void nef_gguf_free(struct nef_gguf *file);

uint32_t nef_gguf_version(const struct nef_gguf *file);
size_t nef_gguf_header_bytes(const struct nef_gguf *file); /* everything before the tensors' data and its padding */
uint64_t nef_gguf_data_start(const struct nef_gguf *file);   /* where that padding ends */
uint32_t nef_gguf_tensor_count(const struct nef_gguf *file);
const struct nef_gguf_tensor *nef_gguf_tensor_at(const struct nef_gguf *file, uint32_t index);
const struct nef_gguf_tensor *nef_gguf_tensor(const struct nef_gguf *file, const char *name); /* NULL: none */

/* Values by key. NEF_E_NOT_FOUND when the key is absent, NEF_E_INVALID when it has another type or doesn't fit; any
 * integer type is taken for u64 (if not negative), F32 and F64 for f64. NEF_E_RANGE: beyond an array's end. */
NEF_MUST_CHECK nef_err nef_gguf_u64(const struct nef_gguf *file, const char *key, uint64_t *out_value);
NEF_MUST_CHECK nef_err nef_gguf_f64(const struct nef_gguf *file, const char *key, double *out_value);
NEF_MUST_CHECK nef_err nef_gguf_bool(const struct nef_gguf *file, const char *key, bool *out_value);
NEF_MUST_CHECK nef_err nef_gguf_text(const struct nef_gguf *file, const char *key, struct nef_gguf_string *out_value);
/* Arrays of strings and of integers or floats. Walk strings in order: *at starts at 0 and is moved on. */
NEF_MUST_CHECK nef_err nef_gguf_array(const struct nef_gguf *file, const char *key, enum nef_gguf_value_type *out_type,
                                      uint64_t *out_count);
NEF_MUST_CHECK nef_err nef_gguf_array_string(const struct nef_gguf *file, const char *key, uint64_t *at,
                                             struct nef_gguf_string *out_value);
NEF_MUST_CHECK nef_err nef_gguf_array_u64(const struct nef_gguf *file, const char *key, uint64_t index,
                                          uint64_t *out_value); /* integers, bools too */
NEF_MUST_CHECK nef_err nef_gguf_array_f64(const struct nef_gguf *file, const char *key, uint64_t index,
                                          double *out_value);

/* One row of a tensor as floats, by docs/numerics.md section 3 (embedding). row: below dims[1] * dims[2] * dims[3];
 * out: dims[0] floats. Any thread. */
void nef_gguf_row(const struct nef_gguf_tensor *tensor, uint64_t row, float *out);

#endif
