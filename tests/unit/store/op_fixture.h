/* Keys in a temporary directory, and one op of each type: for the tests of ops and of runs. */
#ifndef NEF_TESTS_OP_FIXTURE_H
#define NEF_TESTS_OP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "store/op.h"

extern const struct nef_id bucket, other_bucket, upload, token;
extern const uint8_t tag[16]; /* of a key */
extern struct nef_keys *keys; /* from op_set_up to op_tear_down */
int op_set_up(void **state);
int op_tear_down(void **state);

struct nef_text text(const char *t);

/* One op of each type, with every field set; borrows from what follows, and is valid until the next call. */
#define SAMPLE_COUNT 24u
struct nef_op sample(unsigned i);
extern uint8_t complete_parts[3 * 20];
extern struct nef_buf list_buf;
void expect_same(const struct nef_op *a, const struct nef_op *b); /* once encoded */
bool is_clear(uint16_t type); /* is an op of that type not sealed? */

#endif
