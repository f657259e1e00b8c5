/* Wire format of the messages between replicas, and of the record in etcd. PURE; every decoder here is
 * fuzzed (tests/fuzz/fuzz_message.c). docs/protocol.md says what the messages mean.
 *
 * Frame: head (56 bytes), body, payload.
 *
 *   at  bytes  field                         at  bytes  field
 *    0    4    magic "NefM"                  40    4    body bytes    (<= NEF_MESSAGE_HEAD_MAX)
 *    4    1    version (1)                   44    4    payload bytes (APPEND, PROPOSE; else 0)
 *    5    1    type                          48    4    zero
 *    6    2    zero                          52    4    CRC-32C of bytes 0..51, then of the body
 *    8   16    sender's replica id
 *   24    8    sender's incarnation
 *   32    8    sender's epoch, durable there (0: it has not read a record since it started)
 *
 * The payload is log or proposal bytes, whose records carry their own checksums. Numbers are
 * little-endian. A body must be consumed to its last byte, else the message is malformed. */
#ifndef NEF_REPL_MESSAGE_H
#define NEF_REPL_MESSAGE_H

#include "base/bytes.h"
#include "repl/repl.h"

#define NEF_MESSAGE_HEAD_BYTES 56u
#define NEF_GROUP_BYTES_MAX    2048u /* 48 + 4 members of 49 + 64 cells of 9 + 4 is well below */

/* Write the head of M; the CRC covers its body. */
void nef_message_encode(const struct nef_message *m, uint8_t out[NEF_MESSAGE_HEAD_BYTES]);

/* Read a head. out_message->body is NULL until nef_message_check has seen the body; sizes are within
 * limits. NEF_E_PROTOCOL, NEF_E_VERSION: close the link. */
NEF_MUST_CHECK nef_err nef_message_decode(const uint8_t head[NEF_MESSAGE_HEAD_BYTES],
                                          struct nef_message *out_message);

/* Check the CRC of HEAD and BODY (m->body_bytes) and set m->body, which stays the caller's. */
NEF_MUST_CHECK nef_err nef_message_check(const uint8_t head[NEF_MESSAGE_HEAD_BYTES],
                                         const uint8_t *body, struct nef_message *m);

/* The record as stored in etcd and as the body of GROUP: magic "NefG", version, fields, CRC-32C. Decode
 * also refuses records that can't be (no member in sync, a primary that isn't, epoch 0). */
NEF_MUST_CHECK nef_err nef_group_encode(const struct nef_group *group, uint8_t *out,
                                        uint32_t bytes_max, uint32_t *out_bytes);
NEF_MUST_CHECK nef_err nef_group_decode(const uint8_t *data, uint32_t bytes,
                                        struct nef_group *out_group);

/* ---- bodies -------------------------------------------------------------------------------------- */

#define NEF_STATE_UNFIT     1u /* damaged or rolled back: don't wait for me */
#define NEF_STATE_PREFERRED 2u
#define NEF_STATE_NO_SPACE  4u /* below the reserve, here or (primary) at an in-sync replica */

#define NEF_STATE_GAP 1u /* of a cell: log bytes arrived that don't follow its end */
#define NEF_STATE_UNREADABLE 2u /* of a cell, by the primary: what the receiver needs next can't be read */

struct nef_state {
    uint64_t session;       /* of the stream between these two; 0: none */
    uint64_t lease_request; /* sender's clock now: "grant me a lease" */
    uint64_t lease_grant;   /* receiver's lease_request that this grants; 0: no grant */
    uint64_t free_bytes;
    uint32_t flags;
    uint32_t cell_count;
    struct {
        uint64_t end, durable, commit;
        uint8_t flags;
    } cells[NEF_CELL_MAX];
};

/* First part of JOIN; per cell follow nef_join_cell. */
struct nef_join {
    uint64_t attempt; /* echoed by JOINED */
    char zone[NEF_ZONE_NAME_MAX + 1];
    uint32_t flags; /* NEF_STATE_UNFIT */
    uint32_t cell_count;
};
struct nef_join_cell {
    uint64_t start, end;
    struct nef_epoch_table epochs;
};

struct nef_joined {
    uint64_t attempt;
    uint64_t session;
    uint32_t cell_count;
};
struct nef_joined_cell {
    uint64_t cut;  /* the joiner's log must end here */
    uint64_t from; /* then the stream begins here: > cut where the primary dropped what lies between */
    struct nef_epoch_table epochs; /* the primary's */
};

struct nef_append {
    uint64_t session;
    uint32_t cell;
    uint64_t offset;
    uint64_t commit;
    struct nef_epoch_table epochs; /* that begin within these bytes */
};

struct nef_propose {
    uint32_t cell;
    bool frees_space; /* or admitted before space became short */
};

struct nef_handover {
    uint64_t session;
    bool drained; /* false: the primary's disk stalls, take over alone */
};

/* Encoders write into W (whose failure the caller checks); decoders return NEF_E_PROTOCOL. */
void nef_state_encode(struct nef_writer *w, const struct nef_state *s);
NEF_MUST_CHECK nef_err nef_state_decode(const struct nef_message *m, struct nef_state *out_state);

/* JOIN and JOINED are read and written cell by cell, so that nobody needs 64 tables at once: read the
 * head, then each cell, then check nef_reader_end. A table written with ENTRIES_MAX keeps its newest. */
void nef_join_encode(struct nef_writer *w, const struct nef_join *j);
NEF_MUST_CHECK nef_err nef_join_decode(struct nef_reader *r, struct nef_join *out_join);
void nef_join_cell_encode(struct nef_writer *w, uint64_t start, uint64_t end,
                          const struct nef_epoch_table *t, uint32_t entries_max);
NEF_MUST_CHECK nef_err nef_join_cell_decode(struct nef_reader *r, struct nef_join_cell *out_cell);
void nef_joined_encode(struct nef_writer *w, const struct nef_joined *j);
NEF_MUST_CHECK nef_err nef_joined_decode(struct nef_reader *r, struct nef_joined *out_joined);
void nef_joined_cell_encode(struct nef_writer *w, uint64_t cut, uint64_t from,
                            const struct nef_epoch_table *t, uint32_t entries_max);
NEF_MUST_CHECK nef_err nef_joined_cell_decode(struct nef_reader *r, struct nef_joined_cell *out_cell);
/* Entries of each cell's table that fit into a JOIN or JOINED. */
uint32_t nef_join_entries_max(uint32_t cell_count);

void nef_append_encode(struct nef_writer *w, const struct nef_append *a);
/* Also for the runtime: which place the payload of an APPEND claims, to check its records against it
 * before the message goes to the core. */
NEF_MUST_CHECK nef_err nef_append_decode(const struct nef_message *m, struct nef_append *out_append);
void nef_propose_encode(struct nef_writer *w, const struct nef_propose *p);
NEF_MUST_CHECK nef_err nef_propose_decode(const struct nef_message *m, struct nef_propose *out_propose);
void nef_handover_encode(struct nef_writer *w, const struct nef_handover *h);
NEF_MUST_CHECK nef_err nef_handover_decode(const struct nef_message *m,
                                           struct nef_handover *out_handover);

#endif
