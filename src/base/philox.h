/* Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): random bits by counter and key.
 * What an engine draws with it must be the same on every machine and forever: answers are gone on with elsewhere. */
#ifndef NEF_BASE_PHILOX_H
#define NEF_BASE_PHILOX_H

#include <stdint.h>

void nef_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The seed of choice CHOICE of a request with SEED. Choice 0 has the request's own; no other's block (c, 0, 0, 1) is
 * one that a token is drawn with (position, 0, 0, 0). Engine and gateway both split a request into its choices. */
uint64_t nef_choice_seed(uint64_t seed, uint32_t choice);

#endif
