/* States that all grammars share: the inside of a JSON string, and free text up to a tag. They accept most of the
 * vocabulary, so their masks are what costs time; made once with the vocabulary, they cost a grammar nothing.
 *
 * A string (RFC 8259 section 7, UTF-8 as in table 3-7 of the Unicode Standard), after its opening quote:
 *
 *   BODY --\--> ESCAPE --u--> X4 -> X3 -> X2 -> X1 --> BODY          \u and four digits
 *                             |0 -> Z3 0 Z2 0 Z1 --1-f--> BODY       not all of them 0
 *                             |d -> D3 --8-b--> H2 -> H1 --> L0 \ L1 u L2 d L3 c-f --> X2     a surrogate pair
 *   BODY --lead--> E0, ED, F0, F4 or C3 -> C2 -> C1 --> BODY         a character of several bytes
 *   BODY --"--> DONE
 *
 * Halves of surrogate pairs are refused: they are no character, and most parsers refuse them too; so is \u0000, which
 * parsers in C refuse. A string inside a tool call
 * may not contain </tool_call>, where the parser of answers (text/chat.h) ends the block: there are states for how
 * much of the tag has come. Tags begin with '<' and have no other one, so a mismatch falls back to one '<' or none. */
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/machine.h"

enum {
    BODY,
    ESCAPE,
    X4,
    X3,
    X2,
    X1,
    Z3,
    Z2,
    Z1,
    D3,
    H2,
    H1,
    L0,
    L1,
    L2,
    L3,
    C1,
    C2,
    C3,
    E0,
    ED,
    F0,
    F4,
    DONE,
    STRING_STATES
};

static void fill(uint32_t row[256], uint8_t low, uint8_t high, uint32_t to)
{
    for (unsigned byte = low; byte <= high; byte++)
        row[byte] = to;
}

static void fill_text(uint32_t row[256], const char *bytes, uint32_t to)
{
    for (; *bytes != '\0'; bytes++)
        row[(uint8_t)*bytes] = to;
}

static void fill_hex(uint32_t row[256], uint32_t to)
{
    fill(row, '0', '9', to);
    fill(row, 'a', 'f', to);
    fill(row, 'A', 'F', to);
}

/* A character begins, or the string ends. */
static void fill_body(uint32_t row[256], uint32_t base)
{
    fill(row, 0x20, 0x7f, base + BODY);
    row['"'] = base + DONE;
    row['\\'] = base + ESCAPE;
    fill(row, 0xc2, 0xdf, base + C1);
    fill(row, 0xe0, 0xef, base + C2);
    row[0xe0] = base + E0;
    row[0xed] = base + ED;
    fill(row, 0xf0, 0xf3, base + C3);
    row[0xf0] = base + F0;
    row[0xf4] = base + F4;
}

static void fill_string(uint32_t row[256], uint32_t base, int state)
{
    static const struct { /* states with one target for each of their bytes */
        uint8_t state, low, high, to;
    } plain[] = {{C1, 0x80, 0xbf, BODY}, {C2, 0x80, 0xbf, C1}, {C3, 0x80, 0xbf, C2},
                 {E0, 0xa0, 0xbf, C1},   {ED, 0x80, 0x9f, C1}, {F0, 0x90, 0xbf, C2},
                 {F4, 0x80, 0x8f, C2},   {L0, '\\', '\\', L1}, {L1, 'u', 'u', L2}},
      hex[] = {{X4, 0, 0, X3}, {X3, 0, 0, X2},   {X2, 0, 0, X1}, {X1, 0, 0, BODY}, {Z3, 0, 0, X2},
               {Z2, 0, 0, X1}, {Z1, 0, 0, BODY}, {H2, 0, 0, H1}, {H1, 0, 0, L0}};

    for (size_t i = 0; i < NEF_COUNT(plain); i++)
        if (plain[i].state == state)
            fill(row, plain[i].low, plain[i].high, base + plain[i].to);
    for (size_t i = 0; i < NEF_COUNT(hex); i++)
        if (hex[i].state == state)
            fill_hex(row, base + hex[i].to);
    switch (state) {
    case BODY:
        fill_body(row, base);
        break;
    case ESCAPE:
        fill_text(row, "\"\\/bfnrt", base + BODY);
        row['u'] = base + X4;
        break;
    case X4:
        fill_text(row, "dD", base + D3);
        row['0'] = base + Z3;
        break;
    case Z3:
        row['0'] = base + Z2;
        break;
    case Z2:
        row['0'] = base + Z1;
        break;
    case Z1:
        row['0'] = NEF_NO_STATE;
        break;
    case D3: /* U+D000 to U+D7FF, or the first half of a pair */
        fill(row, '0', '7', base + X2);
        fill_text(row, "89abAB", base + H2);
        break;
    case L2:
        fill_text(row, "dD", base + L3);
        break;
    case L3:
        fill_text(row, "cdefCDEF", base + X2);
        break;
    default:
        break;
    }
}

/* TAG: what must not come inside, or NULL. */
static nef_err add_string(struct nef_machine *m, const char *tag)
{
    uint32_t base = m->state_count, length = tag != NULL ? (uint32_t)strlen(tag) : 1, row[256];
    nef_err err = nef_machine_callee(m, (struct nef_callee){base, 0, NEF_NO_BOUND}, NULL);

    for (int state = 0; state < STRING_STATES && err == NEF_OK; state++) {
        memset(row, 0xff, sizeof(row));
        fill_string(row, base, state);
        if (tag != NULL && state == BODY)
            row[(uint8_t)tag[0]] = base + STRING_STATES;
        err = nef_machine_state(m, row,
                                (uint8_t)(state == DONE   ? NEF_STATE_FINAL
                                          : state == BODY ? NEF_STATE_STRING | NEF_STATE_COUNTS
                                                          : NEF_STATE_STRING));
    }
    for (uint32_t matched = 1; matched < length && err == NEF_OK; matched++) { /* state STRING_STATES + matched - 1 */
        memset(row, 0xff, sizeof(row));
        fill_body(row, base);
        row[(uint8_t)tag[0]] = base + STRING_STATES;
        row[(uint8_t)tag[matched]] = matched + 1 < length ? base + STRING_STATES + matched : NEF_NO_STATE;
        err = nef_machine_state(m, row, NEF_STATE_STRING | NEF_STATE_COUNTS);
    }
    return err;
}

static nef_err add_free(struct nef_machine *m, const char *tag)
{
    uint32_t base = m->state_count, length = (uint32_t)strlen(tag), row[256];
    nef_err err = nef_machine_callee(m, (struct nef_callee){base, 0, NEF_NO_BOUND}, NULL);

    for (uint32_t matched = 0; matched <= length && err == NEF_OK; matched++) {
        memset(row, 0xff, sizeof(row));
        if (matched < length) {
            fill(row, 0, 0xff, base);
            row[(uint8_t)tag[0]] = base + 1;
            row[(uint8_t)tag[matched]] = base + matched + 1;
        }
        err = nef_machine_state(m, row, matched < length ? NEF_STATE_FREE : NEF_STATE_FINAL);
    }
    return err;
}

nef_err nef_builtin_make(struct nef_machine *out_machine)
{
    struct nef_machine m = {0};
    nef_err err = add_string(&m, NULL); /* in the order of enum nef_builtin */

    if (err == NEF_OK)
        err = add_string(&m, "</tool_call>");
    if (err == NEF_OK)
        err = add_free(&m, "</think>");
    if (err == NEF_OK)
        err = add_free(&m, "<tool_call>");
    if (err == NEF_OK)
        err = nef_machine_end(&m);
    if (err != NEF_OK) {
        nef_machine_free(&m);
        return err;
    }
    NEF_ASSERT(m.state_count <= NEF_BUILTIN_STATES_MAX && m.callee_count == NEF_BUILTINS);
    *out_machine = m;
    return NEF_OK;
}
