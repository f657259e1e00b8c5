/* SipHash-2-4 (Aumasson, Bernstein 2012), 64-bit output: the slot of an object, hash tables of names
 * that outsiders choose. key: 16 bytes. */
#ifndef NEF_BASE_SIPHASH_H
#define NEF_BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

#define NEF_SLOT_COUNT 4096u

uint64_t nef_siphash(const uint8_t key[16], const void *data, size_t bytes);

/* Slot (0..4095) of an object: SipHash of the bucket id (16 bytes) and the object key under an all-zero
 * key (the slot must be the same everywhere and forever). */
uint32_t nef_slot(const uint8_t bucket_id[16], const void *object_key, size_t object_key_bytes);

/* The cell of a slot when CELL_COUNT cells share the slots evenly in ranges. */
static inline uint32_t nef_slot_cell(uint32_t slot, uint32_t cell_count)
{
    return slot * cell_count / NEF_SLOT_COUNT;
}

#endif
