/* The inside of a generated <tool_call> block, byte by byte: strict JSON (RFC 8259), of which the function's name and
 * the arguments' text are picked out while they come. For chat_parse.c alone.
 *
 *   {"name": "NAME", "arguments": VALUE}      other keys are passed over; one of these twice or missing is malformed
 *
 * What it doesn't do: find the end of the block, keep its text, know of schemas. */
#ifndef NEF_INFER_CHAT_CALL_H
#define NEF_INFER_CHAT_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/limits.h"

struct nef_call_scan { /* zeroed, but for the buffers, is the start of a block; nef_call_begin does it */
    uint8_t state;
    uint8_t number;                                /* how far a number is */
    uint8_t hex;                                   /* digits of \uXXXX still to come */
    uint8_t field;                                 /* which value of the outer object comes */
    bool key;                                      /* the string is a key */
    bool have_name, have_arguments, in_arguments;
    const char *literal;                           /* rest of true, false or null */
    uint32_t depth;
    uint8_t arrays[NEF_CHAT_JSON_DEPTH_MAX / 8];   /* bit: the container at this depth is an array */
    struct nef_buf text;                           /* of a key or name of the outer object, as written */
    struct nef_buf name;                           /* decoded; valid with have_name */
};
void nef_call_begin(struct nef_call_scan *s);
void nef_call_done(struct nef_call_scan *s);
/* Take one byte. *out_argument: it belongs to the arguments' text. False: the block is malformed (or memory ran out,
 * then *out_err says so). */
bool nef_call_take(struct nef_call_scan *s, char c, bool *out_argument, nef_err *out_err);
/* The block may end here: the object is closed and had both fields. */
bool nef_call_whole(const struct nef_call_scan *s);

#endif
