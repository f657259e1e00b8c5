/* Trace: one JSON line per event, for operators. Libraries call nef_trace; only server/ and cli/ set
 * where it goes. Fields come as (name, kind, value) so that no text is ever glued together; values are
 * JSON-escaped. Names and values never hold plaintext of objects, object keys, or secrets.
 *
 *   nef_trace(NEF_TRACE_WARN, "peer_lost", "s:zone", "b", "u:epoch", (uint64_t)7, NULL);
 *
 * Prefixes: s: const char *, u: uint64_t, i: int64_t, e: nef_err (int). The list ends with NULL.
 * Any thread; lines never mix. Unless buffering is on each line is written at once. */
#ifndef NEF_BASE_TRACE_H
#define NEF_BASE_TRACE_H

#include <stdbool.h>

enum nef_trace_level { NEF_TRACE_DEBUG, NEF_TRACE_INFO, NEF_TRACE_WARN, NEF_TRACE_ERROR };

/* fd: where lines go (default 2). who: "zone-a"; copied, 63 bytes at most. Call before threads start. */
void nef_trace_setup(int fd, const char *who, enum nef_trace_level least);
/* On: lines below WARN wait for the next WARN, for 64 KiB, or for nef_trace_flush, which the caller must then
 * call several times a second. What waits is lost with a crash. Off: writes what waits. Any thread. */
void nef_trace_buffer(bool on);
void nef_trace_flush(void);
void nef_trace(enum nef_trace_level level, const char *event, ...) __attribute__((sentinel));

#endif
