/* Server-sent events, parsed as they come (WHATWG HTML, section 9.2.6): lines end with LF, CR or CRLF, `data` lines of
 * an event are joined with LF, comments and other fields are skipped, an event that the stream's end cuts off doesn't
 * count. PURE. Bytes are hostile: an event above the limit ends the parse. */
#ifndef NEF_GATEWAY_SSE_H
#define NEF_GATEWAY_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

struct nef_sse {
    struct nef_buf line; /* of the line that isn't whole */
    struct nef_buf data; /* of the event that isn't whole; max: the largest event */
    bool has_data;       /* of an event's data may be empty */
    bool after_cr;       /* a LF now belongs to the line before */
    bool begun;          /* past the place of a byte order mark */
};

void nef_sse_init(struct nef_sse *s, size_t event_max);
void nef_sse_done(struct nef_sse *s); /* wipes */
/* EVENT is called for each whole event's data (NUL behind it, not counted; valid during the call); returning false
 * stops: what follows is not looked at (NEF_E_CLOSED). Errors: NEF_E_LIMIT, NEF_E_NOMEM. After an error: only done. */
NEF_MUST_CHECK nef_err nef_sse_take(struct nef_sse *s, const void *bytes, size_t count,
                                    bool (*event)(void *context, const char *data, size_t data_bytes), void *context);

#endif
