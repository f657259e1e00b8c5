/* Addresses in a cell's log: the one rule of where a record may stand, shared by the replication core
 * (which assigns offsets) and seglog (which writes them).
 *
 * A log is one address space of bytes. Segment i is the file that holds [i*S, (i+1)*S), S a power of
 * two. The first NEF_SEGMENT_HEADER_BYTES of each segment are its header; records follow, each a
 * multiple of NEF_RECORD_ALIGN long, none across a segment border. What is left at a segment's end is
 * filled by one `pad` record (so the rest is always either 0 or at least a record header).
 * An empty log that begins with segment 0 has its end at NEF_SEGMENT_HEADER_BYTES. */
#ifndef NEF_BASE_LOGADDR_H
#define NEF_BASE_LOGADDR_H

#include <stdbool.h>
#include <stdint.h>
#include "base/assert.h"

#define NEF_SEGMENT_HEADER_BYTES 4096u
#define NEF_RECORD_HEADER_BYTES  192u
#define NEF_RECORD_ALIGN         64u
#define NEF_SEGMENT_BYTES        (256u << 20) /* default S; the region's configuration fixes it */

/* Bytes in the log of a record with BODY_BYTES of body. */
static inline uint64_t nef_record_bytes(uint64_t body_bytes)
{
    return (NEF_RECORD_HEADER_BYTES + body_bytes + NEF_RECORD_ALIGN - 1) &
           ~(uint64_t)(NEF_RECORD_ALIGN - 1);
}

/* Where RUN_BYTES of records that must stand together may begin if the log ends at END (never on a
 * segment border: an end there is written as the next segment's first record place, see below).
 * Returns END, or the first record place of the next segment; then [END, segment end) is a pad. */
static inline uint64_t nef_log_place(uint64_t end, uint64_t run_bytes, uint64_t segment_bytes)
{
    uint64_t left = segment_bytes - end % segment_bytes;

    NEF_ASSERT(end % segment_bytes >= NEF_SEGMENT_HEADER_BYTES);
    NEF_ASSERT(run_bytes <= segment_bytes - NEF_SEGMENT_HEADER_BYTES);
    if (run_bytes == left || run_bytes + NEF_RECORD_HEADER_BYTES <= left)
        return end;
    return end + left + NEF_SEGMENT_HEADER_BYTES;
}

/* The log's end after a record that stops at AT: a segment border moves on to the next segment's first
 * record place, so that every end is a place where a record can begin. */
static inline uint64_t nef_log_end_at(uint64_t at, uint64_t segment_bytes)
{
    return at % segment_bytes == 0 ? at + NEF_SEGMENT_HEADER_BYTES : at;
}

#endif
