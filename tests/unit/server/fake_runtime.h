/* A runtime for tests of the HTTP side: server/runtime.h over real logs and a real store, without
 * replication. One thread appends what is proposed, syncs, applies and calls back. Faults on
 * demand. */
#ifndef NEF_TESTS_FAKE_RUNTIME_H
#define NEF_TESTS_FAKE_RUNTIME_H

#include <stdatomic.h>
#include "server/runtime.h"

struct fake_options {
    bool slow_reads;         /* every read has to wait once */
    uint32_t delay_us;       /* of each batch of proposals */
    uint32_t room_bytes;     /* nef_runtime_room's bound */
    _Atomic bool clock_unknown;
    _Atomic uint32_t busy_aborts; /* so many STREAM_ABORTs are refused with NEF_E_BUSY */
};

/* All but clock_unknown and busy_aborts must be set before nef_runtime_start. */
extern struct fake_options fake_options;
/* What nef_runtime_repair repairs from now on; until then it can't. Any thread. */
void fake_set_damaged_file(const char *path);
/* Durability as told to clients: 2/2 or 1/2. */
void fake_set_durability(struct nef_runtime *rt, uint32_t have);
#endif
