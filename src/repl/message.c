/* Messages between replicas and the etcd record: encoder beside decoder. The layout of the frame and of
 * each body is in message.h; the order of the calls here is the order of the fields on the wire.
 *
 * A decoder accepts only what its encoder can write: counts within limits, tables ascending, flags
 * known, nothing left over. What a field *means* (is this offset mine?) is checked where it is used.
 * A new message type also goes into tests/fuzz/fuzz_message.c. */
#include "repl/message.h"

#include <string.h>
#include "base/assert.h"
#include "base/crc32c.h"
#include "base/logaddr.h"

#define FRAME_MAGIC   0x4d66654eu /* "NefM" */
#define GROUP_MAGIC   0x4766654eu /* "NefG" */
#define FRAME_VERSION 1u
#define GROUP_VERSION 1u
#define JOIN_HEAD_MAX 128u /* of JOIN and JOINED before the cells */
#define JOIN_CELL_MAX 18u  /* of a cell before its table */

/* ---- frame ---------------------------------------------------------------------------------------- */

void nef_message_encode(const struct nef_message *m, uint8_t out[NEF_MESSAGE_HEAD_BYTES])
{
    struct nef_writer w = nef_writer_of(out, NEF_MESSAGE_HEAD_BYTES);

    NEF_ASSERT(m->body_bytes <= NEF_MESSAGE_HEAD_MAX);
    nef_write_u32(&w, FRAME_MAGIC);
    nef_write_u8(&w, FRAME_VERSION);
    nef_write_u8(&w, m->type);
    nef_write_u16(&w, 0);
    nef_write_copy(&w, m->replica.bytes, 16);
    nef_write_u64(&w, m->incarnation);
    nef_write_u64(&w, m->epoch);
    nef_write_u32(&w, m->body_bytes);
    nef_write_u32(&w, m->payload_bytes);
    nef_write_u32(&w, 0);
    nef_write_u32(&w, nef_crc32c(nef_crc32c(0, out, 52), m->body, m->body_bytes));
    NEF_ASSERT(!w.failed && w.at == NEF_MESSAGE_HEAD_BYTES);
}

nef_err nef_message_decode(const uint8_t head[NEF_MESSAGE_HEAD_BYTES],
                           struct nef_message *out_message)
{
    struct nef_reader r = nef_reader_of(head, NEF_MESSAGE_HEAD_BYTES);
    struct nef_message m = {0};
    bool payload_allowed;

    if (nef_read_u32(&r) != FRAME_MAGIC)
        return NEF_E_PROTOCOL;
    if (nef_read_u8(&r) != FRAME_VERSION)
        return NEF_E_VERSION;
    m.type = nef_read_u8(&r);
    if (nef_read_u16(&r) != 0)
        return NEF_E_PROTOCOL;
    nef_read_copy(&r, m.replica.bytes, 16);
    m.incarnation = nef_read_u64(&r);
    m.epoch = nef_read_u64(&r);
    m.body_bytes = nef_read_u32(&r);
    m.payload_bytes = nef_read_u32(&r);
    if (nef_read_u32(&r) != 0)
        return NEF_E_PROTOCOL;
    (void)nef_read_u32(&r); /* the CRC: nef_message_check, once the body is there */
    if (m.type < NEF_MSG_STATE || m.type > NEF_MSG_HANDOVER)
        return NEF_E_VERSION;
    payload_allowed = m.type == NEF_MSG_APPEND || m.type == NEF_MSG_PROPOSE;
    if (m.body_bytes > NEF_MESSAGE_HEAD_MAX || m.payload_bytes > NEF_MESSAGE_BYTES_MAX ||
        (m.payload_bytes > 0) != payload_allowed || nef_id_is_zero(&m.replica))
        return NEF_E_PROTOCOL;
    *out_message = m;
    return NEF_OK;
}

nef_err nef_message_check(const uint8_t head[NEF_MESSAGE_HEAD_BYTES], const uint8_t *body,
                          struct nef_message *m)
{
    struct nef_reader r = nef_reader_of(head + 52, 4);

    if (nef_read_u32(&r) != nef_crc32c(nef_crc32c(0, head, 52), body, m->body_bytes))
        return NEF_E_PROTOCOL;
    m->body = body;
    return NEF_OK;
}

/* ---- the record ------------------------------------------------------------------------------------ */

static void zone_encode(struct nef_writer *w, const char *zone)
{
    size_t n = strnlen(zone, NEF_ZONE_NAME_MAX);

    nef_write_u8(w, (uint8_t)n);
    nef_write_copy(w, zone, n);
}

static nef_err zone_decode(struct nef_reader *r, char out[NEF_ZONE_NAME_MAX + 1])
{
    size_t n = nef_read_u8(r);

    if (n > NEF_ZONE_NAME_MAX)
        return NEF_E_PROTOCOL;
    memset(out, 0, NEF_ZONE_NAME_MAX + 1);
    nef_read_copy(r, out, n);
    return memchr(out, 0, n) ? NEF_E_PROTOCOL : NEF_OK;
}

nef_err nef_group_encode(const struct nef_group *g, uint8_t *out, uint32_t bytes_max,
                         uint32_t *out_bytes)
{
    struct nef_writer w = nef_writer_of(out, bytes_max);

    nef_write_u32(&w, GROUP_MAGIC);
    nef_write_u16(&w, GROUP_VERSION);
    nef_write_u8(&w, 0);
    nef_write_u8(&w, (uint8_t)g->member_count);
    nef_write_u64(&w, g->epoch);
    nef_write_u64(&w, g->override_epoch);
    nef_write_u64(&w, g->nonce[0]);
    nef_write_u64(&w, g->nonce[1]);
    nef_write_u32(&w, g->in_sync);
    nef_write_u32(&w, g->cell_count);
    for (uint32_t i = 0; i < g->member_count && i < NEF_REPLICA_MAX; i++) {
        nef_write_copy(&w, g->members[i].replica.bytes, 16);
        zone_encode(&w, g->members[i].zone);
    }
    for (uint32_t c = 0; c < g->cell_count && c < NEF_CELL_MAX; c++) {
        nef_write_u8(&w, g->primary[c]);
        nef_write_u64(&w, g->first_offset[c]);
    }
    nef_write_u32(&w, nef_crc32c(0, out, w.failed ? 0 : w.at));
    if (nef_writer_end(&w) != NEF_OK)
        return NEF_E_LIMIT;
    *out_bytes = (uint32_t)w.at;
    return NEF_OK;
}

nef_err nef_group_decode(const uint8_t *data, uint32_t bytes, struct nef_group *out_group)
{
    struct nef_reader r = nef_reader_of(data, bytes);
    struct nef_group g = {0};
    uint32_t zero, crc;

    if (nef_read_u32(&r) != GROUP_MAGIC)
        return NEF_E_PROTOCOL;
    if (nef_read_u16(&r) != GROUP_VERSION)
        return NEF_E_VERSION;
    zero = nef_read_u8(&r);
    g.member_count = nef_read_u8(&r);
    g.epoch = nef_read_u64(&r);
    g.override_epoch = nef_read_u64(&r);
    g.nonce[0] = nef_read_u64(&r);
    g.nonce[1] = nef_read_u64(&r);
    g.in_sync = nef_read_u32(&r);
    g.cell_count = nef_read_u32(&r);
    if (r.failed || zero != 0 || g.epoch == 0 || g.override_epoch > g.epoch || g.member_count == 0 ||
        g.member_count > NEF_REPLICA_MAX || g.cell_count == 0 || g.cell_count > NEF_CELL_MAX ||
        g.in_sync == 0 || g.in_sync >= 1u << g.member_count)
        return NEF_E_PROTOCOL;
    for (uint32_t i = 0; i < g.member_count; i++) {
        nef_read_copy(&r, g.members[i].replica.bytes, 16);
        if (zone_decode(&r, g.members[i].zone) != NEF_OK)
            return NEF_E_PROTOCOL;
    }
    for (uint32_t c = 0; c < g.cell_count; c++) {
        g.primary[c] = nef_read_u8(&r);
        g.first_offset[c] = nef_read_u64(&r);
        if (g.primary[c] >= g.member_count || !(g.in_sync >> g.primary[c] & 1))
            return NEF_E_PROTOCOL;
    }
    crc = nef_crc32c(0, data, r.at);
    if (nef_read_u32(&r) != crc || nef_reader_end(&r) != NEF_OK)
        return NEF_E_PROTOCOL;
    *out_group = g;
    return NEF_OK;
}

/* ---- STATE ----------------------------------------------------------------------------------------- */

void nef_state_encode(struct nef_writer *w, const struct nef_state *s)
{
    nef_write_u64(w, s->session);
    nef_write_u64(w, s->lease_request);
    nef_write_u64(w, s->lease_grant);
    nef_write_u64(w, s->free_bytes);
    nef_write_u32(w, s->flags);
    nef_write_u32(w, s->cell_count);
    for (uint32_t c = 0; c < s->cell_count; c++) {
        nef_write_u64(w, s->cells[c].end);
        nef_write_u64(w, s->cells[c].durable);
        nef_write_u64(w, s->cells[c].commit);
        nef_write_u8(w, s->cells[c].flags);
    }
}

nef_err nef_state_decode(const struct nef_message *m, struct nef_state *out)
{
    struct nef_reader r = nef_reader_of(m->body, m->body_bytes);

    out->session = nef_read_u64(&r);
    out->lease_request = nef_read_u64(&r);
    out->lease_grant = nef_read_u64(&r);
    out->free_bytes = nef_read_u64(&r);
    out->flags = nef_read_u32(&r);
    out->cell_count = nef_read_u32(&r);
    if (r.failed || out->cell_count > NEF_CELL_MAX)
        return NEF_E_PROTOCOL;
    for (uint32_t c = 0; c < out->cell_count; c++) {
        out->cells[c].end = nef_read_u64(&r);
        out->cells[c].durable = nef_read_u64(&r);
        out->cells[c].commit = nef_read_u64(&r);
        out->cells[c].flags = nef_read_u8(&r);
        if (out->cells[c].durable > out->cells[c].end)
            return NEF_E_PROTOCOL;
    }
    return nef_reader_end(&r);
}

/* ---- epoch tables, JOIN, JOINED ---------------------------------------------------------------------- */

uint32_t nef_join_entries_max(uint32_t cell_count)
{
    uint32_t cell_bytes = (NEF_MESSAGE_HEAD_MAX - JOIN_HEAD_MAX) / cell_count;

    NEF_ASSERT(cell_bytes > JOIN_CELL_MAX + 16);
    return NEF_MIN((cell_bytes - JOIN_CELL_MAX) / 16, NEF_EPOCHS_KEPT);
}

static void table_encode(struct nef_writer *w, const struct nef_epoch_table *t, uint32_t entries_max)
{
    uint32_t n = NEF_MIN(t->count, entries_max);

    nef_write_u16(w, (uint16_t)n);
    for (uint32_t i = t->count - n; i < t->count; i++) {
        nef_write_u64(w, t->at[i].epoch);
        nef_write_u64(w, t->at[i].offset);
    }
}

static nef_err table_decode(struct nef_reader *r, struct nef_epoch_table *out)
{
    uint32_t n = nef_read_u16(r);

    if (r->failed || n > NEF_EPOCHS_KEPT)
        return NEF_E_PROTOCOL;
    out->count = n;
    for (uint32_t i = 0; i < n; i++) {
        out->at[i].epoch = nef_read_u64(r);
        out->at[i].offset = nef_read_u64(r);
        if (i > 0 && (out->at[i].epoch <= out->at[i - 1].epoch ||
                      out->at[i].offset <= out->at[i - 1].offset))
            return NEF_E_PROTOCOL;
    }
    return r->failed ? NEF_E_PROTOCOL : NEF_OK;
}

static bool cell_count_good(uint32_t n)
{
    return n > 0 && n <= NEF_CELL_MAX;
}

void nef_join_encode(struct nef_writer *w, const struct nef_join *j)
{
    nef_write_u64(w, j->attempt);
    zone_encode(w, j->zone);
    nef_write_u32(w, j->flags);
    nef_write_u32(w, j->cell_count);
}

nef_err nef_join_decode(struct nef_reader *r, struct nef_join *out)
{
    out->attempt = nef_read_u64(r);
    if (zone_decode(r, out->zone) != NEF_OK)
        return NEF_E_PROTOCOL;
    out->flags = nef_read_u32(r);
    out->cell_count = nef_read_u32(r);
    return r->failed || !cell_count_good(out->cell_count) ? NEF_E_PROTOCOL : NEF_OK;
}

void nef_join_cell_encode(struct nef_writer *w, uint64_t start, uint64_t end,
                          const struct nef_epoch_table *t, uint32_t entries_max)
{
    nef_write_u64(w, start);
    nef_write_u64(w, end);
    table_encode(w, t, entries_max);
}

nef_err nef_join_cell_decode(struct nef_reader *r, struct nef_join_cell *out)
{
    out->start = nef_read_u64(r);
    out->end = nef_read_u64(r);
    if (r->failed || out->start > out->end)
        return NEF_E_PROTOCOL;
    return table_decode(r, &out->epochs);
}

void nef_joined_encode(struct nef_writer *w, const struct nef_joined *j)
{
    nef_write_u64(w, j->attempt);
    nef_write_u64(w, j->session);
    nef_write_u32(w, j->cell_count);
}

nef_err nef_joined_decode(struct nef_reader *r, struct nef_joined *out)
{
    out->attempt = nef_read_u64(r);
    out->session = nef_read_u64(r);
    out->cell_count = nef_read_u32(r);
    return r->failed || out->session == 0 || !cell_count_good(out->cell_count) ? NEF_E_PROTOCOL
                                                                                : NEF_OK;
}

void nef_joined_cell_encode(struct nef_writer *w, uint64_t cut, uint64_t from,
                            const struct nef_epoch_table *t, uint32_t entries_max)
{
    nef_write_u64(w, cut);
    nef_write_u64(w, from);
    table_encode(w, t, entries_max);
}

nef_err nef_joined_cell_decode(struct nef_reader *r, struct nef_joined_cell *out)
{
    out->cut = nef_read_u64(r);
    out->from = nef_read_u64(r);
    if (r->failed || out->from < out->cut)
        return NEF_E_PROTOCOL;
    return table_decode(r, &out->epochs);
}

/* ---- APPEND, PROPOSE, HANDOVER -------------------------------------------------------------------------- */

void nef_append_encode(struct nef_writer *w, const struct nef_append *a)
{
    nef_write_u64(w, a->session);
    nef_write_u32(w, a->cell);
    nef_write_u64(w, a->offset);
    nef_write_u64(w, a->commit);
    table_encode(w, &a->epochs, NEF_EPOCHS_KEPT);
}

nef_err nef_append_decode(const struct nef_message *m, struct nef_append *out)
{
    struct nef_reader r = nef_reader_of(m->body, m->body_bytes);

    if (m->type != NEF_MSG_APPEND)
        return NEF_E_PROTOCOL;
    out->session = nef_read_u64(&r);
    out->cell = nef_read_u32(&r);
    out->offset = nef_read_u64(&r);
    out->commit = nef_read_u64(&r);
    /* An offset near 2^64 would overflow every sum made with it. */
    if (r.failed || out->offset > UINT64_MAX / 2 || out->offset % NEF_RECORD_ALIGN != 0 ||
        m->payload_bytes % NEF_RECORD_ALIGN != 0)
        return NEF_E_PROTOCOL;
    if (table_decode(&r, &out->epochs) != NEF_OK)
        return NEF_E_PROTOCOL;
    for (uint32_t i = 0; i < out->epochs.count; i++)
        if (out->epochs.at[i].offset < out->offset ||
            out->epochs.at[i].offset >= out->offset + m->payload_bytes)
            return NEF_E_PROTOCOL;
    return nef_reader_end(&r);
}

void nef_propose_encode(struct nef_writer *w, const struct nef_propose *p)
{
    nef_write_u32(w, p->cell);
    nef_write_u8(w, p->frees_space ? 1 : 0);
}

nef_err nef_propose_decode(const struct nef_message *m, struct nef_propose *out)
{
    struct nef_reader r = nef_reader_of(m->body, m->body_bytes);
    uint8_t flags;

    out->cell = nef_read_u32(&r);
    flags = nef_read_u8(&r);
    if (r.failed || flags > 1 || m->payload_bytes > NEF_PROPOSAL_BYTES_MAX ||
        m->payload_bytes % NEF_RECORD_ALIGN != 0)
        return NEF_E_PROTOCOL;
    out->frees_space = flags == 1;
    return nef_reader_end(&r);
}

void nef_handover_encode(struct nef_writer *w, const struct nef_handover *h)
{
    nef_write_u64(w, h->session);
    nef_write_u8(w, h->drained ? 1 : 0);
}

nef_err nef_handover_decode(const struct nef_message *m, struct nef_handover *out)
{
    struct nef_reader r = nef_reader_of(m->body, m->body_bytes);
    uint8_t drained;

    out->session = nef_read_u64(&r);
    drained = nef_read_u8(&r);
    if (r.failed || drained > 1)
        return NEF_E_PROTOCOL;
    out->drained = drained == 1;
    return nef_reader_end(&r);
}
