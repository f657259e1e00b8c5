/* Fuzz target of repl/message.c: frames, the etcd record and every body.
 *
 * The first byte says which decoder gets the rest, and whether a record's magic and CRC are made good first,
 * for otherwise nearly nothing gets past them. What decodes must encode to the same bytes. The source is
 * included, not linked, so that it is instrumented whatever the library was built with. */
#include <stdlib.h>
#include "../../src/repl/message.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t again[NEF_MESSAGE_HEAD_MAX];

static void same(const struct nef_writer *w, const uint8_t *p, size_t bytes)
{
    NEF_ASSERT(!w->failed && w->at == bytes && memcmp(again, p, bytes) == 0);
}

static void try_group(uint8_t *p, uint32_t bytes, bool fix)
{
    struct nef_group g;
    uint32_t out;

    if (fix && bytes >= 10) {
        struct nef_writer w = nef_writer_of(p, bytes);

        nef_write_u32(&w, GROUP_MAGIC);
        nef_write_u16(&w, GROUP_VERSION);
        w.at = bytes - 4;
        nef_write_u32(&w, nef_crc32c(0, p, bytes - 4));
    }
    if (nef_group_decode(p, bytes, &g) != NEF_OK)
        return;
    NEF_ASSERT(nef_group_encode(&g, again, NEF_GROUP_BYTES_MAX, &out) == NEF_OK);
    NEF_ASSERT(out == bytes && memcmp(p, again, bytes) == 0);
}

static void try_frame(const uint8_t *p, size_t bytes)
{
    struct nef_message m;
    uint8_t head[NEF_MESSAGE_HEAD_BYTES];

    if (bytes < NEF_MESSAGE_HEAD_BYTES || nef_message_decode(p, &m) != NEF_OK)
        return;
    NEF_ASSERT(m.body_bytes <= NEF_MESSAGE_HEAD_MAX && m.payload_bytes <= NEF_MESSAGE_BYTES_MAX);
    if (bytes - NEF_MESSAGE_HEAD_BYTES < m.body_bytes)
        return;
    m.body = p + NEF_MESSAGE_HEAD_BYTES;
    nef_message_encode(&m, head); /* everything but the CRC is as it was */
    NEF_ASSERT(memcmp(head, p, 52) == 0);
    NEF_ASSERT(nef_message_check(head, m.body, &m) == NEF_OK);
}

static void try_joins(const uint8_t *p, size_t bytes)
{
    struct nef_reader r = nef_reader_of(p, bytes);
    struct nef_writer w = nef_writer_of(again, sizeof again);
    static struct nef_join_cell jc;
    static struct nef_joined_cell dc;
    struct nef_joined d;
    struct nef_join j;
    uint32_t c;

    if (nef_join_decode(&r, &j) == NEF_OK) {
        nef_join_encode(&w, &j);
        for (c = 0; c < j.cell_count && nef_join_cell_decode(&r, &jc) == NEF_OK; c++)
            nef_join_cell_encode(&w, jc.start, jc.end, &jc.epochs, NEF_EPOCHS_KEPT);
        if (c == j.cell_count && nef_reader_end(&r) == NEF_OK)
            same(&w, p, bytes);
    }
    r = nef_reader_of(p, bytes);
    w = nef_writer_of(again, sizeof again);
    if (nef_joined_decode(&r, &d) != NEF_OK)
        return;
    nef_joined_encode(&w, &d);
    for (c = 0; c < d.cell_count && nef_joined_cell_decode(&r, &dc) == NEF_OK; c++)
        nef_joined_cell_encode(&w, dc.cut, dc.from, &dc.epochs, NEF_EPOCHS_KEPT);
    if (c == d.cell_count && nef_reader_end(&r) == NEF_OK)
        same(&w, p, bytes);
}

static void try_bodies(const uint8_t *p, uint32_t bytes)
{
    struct nef_message m = {.type = NEF_MSG_APPEND, .body = p, .body_bytes = bytes, .payload_bytes = 1u << 20};
    struct nef_writer w = nef_writer_of(again, sizeof again);
    static struct nef_append a;
    struct nef_state s;
    struct nef_propose pr;
    struct nef_handover h;

    if (nef_state_decode(&m, &s) == NEF_OK) {
        nef_state_encode(&w, &s);
        same(&w, p, bytes);
    }
    w = nef_writer_of(again, sizeof again);
    if (nef_append_decode(&m, &a) == NEF_OK) {
        nef_append_encode(&w, &a);
        same(&w, p, bytes);
    }
    w = nef_writer_of(again, sizeof again);
    if (nef_propose_decode(&m, &pr) == NEF_OK) {
        nef_propose_encode(&w, &pr);
        same(&w, p, bytes);
    }
    w = nef_writer_of(again, sizeof again);
    if (nef_handover_decode(&m, &h) == NEF_OK) {
        nef_handover_encode(&w, &h);
        same(&w, p, bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;

    if (size == 0 || size > sizeof again)
        return 0;
    copy = malloc(size); /* exactly its size, so that a sanitizer sees each byte too far */
    if (copy == NULL)
        return 0;
    memcpy(copy, data + 1, size - 1);
    switch (data[0] >> 1 & 3) {
    case 0:
        try_group(copy, (uint32_t)size - 1, data[0] & 1);
        break;
    case 1:
        try_frame(copy, size - 1);
        break;
    case 2:
        try_joins(copy, size - 1);
        break;
    default:
        try_bodies(copy, (uint32_t)size - 1);
        break;
    }
    free(copy);
    return 0;
}
