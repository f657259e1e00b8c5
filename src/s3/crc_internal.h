/* Folding of CRCs by carry-less multiplication; inside s3/ only. */
#ifndef NEF_S3_CRC_INTERNAL_H
#define NEF_S3_CRC_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEF_CRC_CLMUL_MIN 128u /* below that the tables are as fast */

/* 16 bytes whose CRC, begun with 0, is that of the whole run begun with crc. */
struct nef_crc_block {
    uint8_t bytes[16];
};

bool nef_crc_clmul_usable(void); /* the processor has it */
/* bytes: a multiple of 16, at least 64. crc: the raw register (not inverted). */
struct nef_crc_block nef_crc_clmul_fold32(uint32_t crc, const uint8_t *data, size_t bytes);
struct nef_crc_block nef_crc_clmul_fold64(uint64_t crc, const uint8_t *data, size_t bytes);

/* x^exponent modulo a reflected polynomial (the highest bit of width is x^0). */
uint64_t nef_crc_power(uint64_t poly, unsigned width, uint64_t exponent);

#endif
