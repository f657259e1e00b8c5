/* Building a machine (grammar_internal.h): states, callees, and at the end what leads nowhere is taken out. */
#ifndef NEF_INFER_MACHINE_H
#define NEF_INFER_MACHINE_H

#include "infer/grammar/grammar_internal.h"

/* Append a state with these targets; its number is the count before. Errors: NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_machine_state(struct nef_machine *m, const uint32_t row[256], uint8_t flags);
/* Append a call to the last state. */
NEF_MUST_CHECK nef_err nef_machine_call(struct nef_machine *m, struct nef_call call);
NEF_MUST_CHECK nef_err nef_machine_callee(struct nef_machine *m, struct nef_callee callee, uint32_t *out_number);
NEF_MUST_CHECK nef_err nef_machine_copy(const struct nef_machine *m, struct nef_machine *out_machine);
/* All callees' starts are known: heights, flags and rows; edges and calls to states from which no end can be reached
 * within NEF_GRAMMAR_DEPTH_MAX are taken out. Such a state has height UINT8_MAX. */
NEF_MUST_CHECK nef_err nef_machine_end(struct nef_machine *m);

#endif
