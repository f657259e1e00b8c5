/* A simulated disk behind base/file.h: deterministic from its seed, with the faults that we promise to
 * survive. One thread.
 *
 * It keeps what the page cache shows and what is on the platter apart. A write is in the cache; a sync of
 * the file brings it to the platter; the disk may also write back any sector of its own accord at any time.
 *
 * Faults we promise to survive
 *   - Power fails at any I/O (sim_disk_crash_at, sim_disk_crash). Of what wasn't synced, per sector of 512
 *     bytes: kept, dropped, or, in 64-byte blocks that were all zeros on the platter, kept or dropped block
 *     by block, or replaced by garbage. So appends can be torn and corrupted anywhere.
 *   - Names created, renamed or unlinked since the last sync_dir are each kept or lost, in any combination.
 *   - A file's size since its last sync is kept or lost with what lies beyond.
 *   - The Nth I/O fails, having done a part of its work: a write, up to a multiple of 64 in the file.
 *   - A sync fails: its writes are forgotten, while the page cache goes on showing them.
 *   - No space is left.
 *   - Bytes decay on the platter (sim_disk_rot).
 * What we rely on, and don't simulate: a sync that returned has brought its bytes to the platter; writing
 * never changes bytes outside of what is written (power-safe overwrite); overwriting bytes that aren't
 * zero is atomic per sector. */
#ifndef NEF_TESTS_SIM_DISK_H
#define NEF_TESTS_SIM_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include "base/file.h"

struct sim_disk;

struct sim_disk *sim_disk_new(uint64_t seed); /* aborts when out of memory, like all of this */
void sim_disk_free(struct sim_disk *disk);    /* every handle must be closed */

/* Directory NAME, made durably if it isn't there. The handle is closed by its ops->close. */
struct nef_dir *sim_disk_dir(struct sim_disk *disk, const char *name);

/* Power comes back after a failure: what wasn't durable is decided now. Older handles answer NEF_E_IO. */
void sim_disk_crash(struct sim_disk *disk);
/* Power fails at the Nth I/O from now (1: the next): it and all later ones answer NEF_E_IO until
 * sim_disk_crash. 0: never mind. */
void sim_disk_crash_at(struct sim_disk *disk, uint64_t n);
bool sim_disk_is_off(const struct sim_disk *disk);

/* The Nth I/O from now answers ERR, once. 0: never mind. True is returned by _failed when it has. */
void sim_disk_fail_at(struct sim_disk *disk, uint64_t n, nef_err err);
bool sim_disk_failed(const struct sim_disk *disk);
/* The next sync of a file fails. */
void sim_disk_fail_sync(struct sim_disk *disk);

void sim_disk_set_capacity(struct sim_disk *disk, uint64_t bytes); /* 0: no limit */
uint64_t sim_disk_ios(const struct sim_disk *disk);                /* so far */

/* Invert bits of BYTES bytes at OFFSET, in cache and on the platter. False: no such file or place. */
bool sim_disk_rot(struct sim_disk *disk, const char *dir, const char *file, uint64_t offset,
                  uint64_t bytes);
/* The 4096 bytes around OFFSET can't be read until they are written. One such place a file. */
bool sim_disk_unreadable(struct sim_disk *disk, const char *dir, const char *file, uint64_t offset);
/* What is on the platter; false: no such durable name or place. */
bool sim_disk_platter(struct sim_disk *disk, const char *dir, const char *file, uint64_t offset,
                      void *out, uint64_t bytes);
/* Write bytes to cache and platter behind everybody's back (a test's doctored disk). */
bool sim_disk_doctor(struct sim_disk *disk, const char *dir, const char *file, uint64_t offset,
                     const void *data, uint64_t bytes);
bool sim_disk_exists(struct sim_disk *disk, const char *dir, const char *file);
bool sim_disk_remove(struct sim_disk *disk, const char *dir, const char *file); /* durably, by itself */

uint64_t sim_random(uint64_t *state); /* splitmix64 */

#endif
