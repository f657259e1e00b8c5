/* CRC-32C (Castagnoli, reflected 0x82F63B78), as in iSCSI (RFC 3720) and S3's x-amz-checksum-crc32c.
 * crc is 0 for the first call, the previous result for a continuation. Uses SSE4.2 or ARMv8 when the
 * processor has it; NEF_CRC32C=table in the environment forces the table. Any thread. */
#ifndef NEF_BASE_CRC32C_H
#define NEF_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t nef_crc32c(uint32_t crc, const void *data, size_t bytes);
uint32_t nef_crc32c_table(uint32_t crc, const void *data, size_t bytes); /* the reference */

#endif
