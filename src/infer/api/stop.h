/* Stop strings, found across the borders of tokens and never given out. PURE.
 *
 * One automaton (Knuth, Morris, Pratt 1977) for each string runs over the bytes of the answer, so the result doesn't
 * depend on how the text was cut: the string whose end comes first wins; of those that end at the same byte, the
 * longest. What may be the beginning of one is held back. */
#ifndef NEF_INFER_API_STOP_H
#define NEF_INFER_API_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/api/request.h"

struct nef_stop; /* of one answer */

/* Strings are copied. count may be 0. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_stop_open(const struct nef_api_stop *strings, uint32_t count, struct nef_stop **out_stop);
void nef_stop_close(struct nef_stop *stop);
/* Look at BYTES more. False: nothing found, and the last *out_held bytes of all that was seen may be the beginning of a
 * stop string. True: one was found; *out_held bytes at the end of data[0 .. *out_used) (and before) are it. Not called
 * again then. */
bool nef_stop_take(struct nef_stop *stop, const char *data, size_t bytes, size_t *out_used, size_t *out_held);

#endif
