/* What parse.c builds and values.c reads. */
#ifndef NEF_INFER_GGUF_INTERNAL_H
#define NEF_INFER_GGUF_INTERNAL_H

#include "infer/gguf/gguf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "floats and weights are read in the processor's order");

struct nef_gguf_value {
    struct nef_gguf_string key;
    enum nef_gguf_value_type type;
    enum nef_gguf_value_type element; /* of an array */
    uint64_t count;                   /* of an array */
    const uint8_t *data;              /* the value, the characters of a string, the elements of an array */
    size_t bytes;                     /* of data */
};

struct nef_gguf {
    uint32_t version;
    uint32_t value_count, tensor_count;
    size_t header_bytes;
    uint64_t alignment, data_start;
    struct nef_gguf_value *values;   /* sorted by key */
    struct nef_gguf_tensor *tensors; /* in the file's order */
    uint32_t *by_name;               /* tensor indices, sorted by name */
};

/* Bytes of a scalar of this type; 0 for strings and arrays. */
size_t nef_gguf_scalar_bytes(enum nef_gguf_value_type type);
/* Order of names and keys: as memcmp, the shorter first. */
int nef_gguf_compare(struct nef_gguf_string a, struct nef_gguf_string b);

#endif
