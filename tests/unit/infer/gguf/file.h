/* GGUF files built by hand, right or wrong, for the tests. */
#ifndef NEF_TEST_GGUF_FILE_H
#define NEF_TEST_GGUF_FILE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "infer/gguf/gguf.h"

void put_string(struct nef_buf *b, const char *text);
void put_header(struct nef_buf *b, uint32_t version, uint64_t tensors, uint64_t keys);
void put_key(struct nef_buf *b, const char *key, uint32_t type); /* the value follows */
void put_tensor(struct nef_buf *b, const char *name, uint32_t dims_count, const uint64_t *dims, uint32_t type,
                uint64_t offset);
void put_padding(struct nef_buf *b, size_t alignment);

/* A small good file: 10 keys, 3 tensors (F32 [32], Q8_0 [32, 2], F16 [4]). */
void put_good_file(struct nef_buf *b);

/* Parse an exact copy, so that a sanitizer sees each byte too far. *out_copy is to be freed after the file. */
nef_err parse_copy(const void *data, size_t bytes, char *error, uint8_t **out_copy, struct nef_gguf **out_file);
/* B must be refused with ERR and a message that holds PART; frees B. */
void assert_refused(struct nef_buf *b, nef_err err, const char *part);

int run_row_tests(void); /* row_test.c; how many failed */

#endif
