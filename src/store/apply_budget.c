/* Applying leases of AI budgets (cell 0). The user's own record says what the whole is, so a change of it holds from
 * its place in the log on, in both zones alike. Entries of users that aren't known are passed over. */
#include <string.h>
#include "store/apply.h"
#include "store/budget.h"

static nef_err whole_of(struct nef_cell *cell, const struct nef_text *access_key, struct nef_budget_whole *out,
                        bool *out_known)
{
    struct nef_user user;
    struct nef_row_key k;
    nef_err err;

    memset(&user, 0, sizeof user);
    nef_key_text(&k, 'U', access_key->data, access_key->bytes);
    err = nef_batch_get(cell, &k, &cell->value2);
    *out_known = err == NEF_OK;
    if (err == NEF_E_NOT_FOUND)
        return NEF_OK;
    if (err == NEF_OK)
        err = nef_row_user_get(cell->value2.data, cell->value2.bytes, &user);
    if (err == NEF_OK)
        *out = (struct nef_budget_whole){
            .units = {[NEF_BUDGET_REQUESTS] = user.ai.requests_min, [NEF_BUDGET_TOKENS] = user.ai.tokens_min},
            .slots = user.ai.concurrency,
            .denied = user.disabled || !user.ai.allowed};
    nef_wipe(&user, sizeof user);
    if (cell->value2.data != NULL) /* the secret doesn't stay in the scratch */
        nef_wipe(cell->value2.data, cell->value2.bytes);
    return err;
}

nef_err nef_apply_budget(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_budget *op = &a->op.u.budget;
    struct nef_reader r = nef_reader_of(op->entries, op->entries_bytes);

    *out_code = NEF_OK;
    if (cell->number != 0) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    for (uint32_t i = 0; i < op->count; i++) {
        struct nef_budget_state state = {0};
        struct nef_budget_whole whole;
        struct nef_budget_entry entry;
        struct nef_row_key k;
        bool known;
        nef_err err = nef_budget_entry_get(&r, &entry);

        if (err == NEF_OK)
            err = whole_of(cell, &entry.user, &whole, &known);
        if (err != NEF_OK)
            return err;
        if (!known)
            continue;
        nef_key_text(&k, 'G', entry.user.data, entry.user.bytes);
        err = nef_batch_get(cell, &k, &cell->value2);
        if (err == NEF_OK)
            err = nef_budget_get(cell->value2.data, cell->value2.bytes, &state);
        if (err != NEF_OK && err != NEF_E_NOT_FOUND)
            return err;
        if (!nef_budget_decide(&state, &whole, &op->zone, op->start, &entry))
            continue;
        nef_budget_put(&cell->row, &state);
        err = nef_batch_put(cell, &k, &cell->row);
        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}
