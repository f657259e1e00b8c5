/* Small files beside the segments: seals and the note of a cut in progress.
 *
 * seal (NNNNNNNNNNNNNNNN.seal)             cut (truncate)
 *    0    4  magic "NefL"                     0    4  magic "NefC"
 *    4    2  version (1)                      4    2  version (1)
 *    6    2  zero                             6    2  zero
 *    8    4  bytes of the file                8    4  bytes of the file (32)
 *   12    4  cell                            12    4  cell
 *   16    8  segment number                  16    8  where the log is cut
 *   24    8  segment bytes                   24    4  zero
 *   32   16  region id                       28    4  CRC-32C of all before
 *   48    8  end of the records (address)
 *   56    8  record count
 *   64    8  highest synced-before mark
 *   72    8  epoch of the last record
 *   80   32  SHA-256 of the headers
 *  112    4  epochs (n, at most 256)
 *  116    4  zero
 *  120  16n  epoch, offset of its first record
 *  then   4  CRC-32C of all before
 *
 * Both are derived or transient: a seal that is lost costs a scan of its segment, never data. One that can't be
 * read does, too, and what that scan finds bad is damage, for the segment was whole when it was sealed. A name appears only when its content is durable (temporary name, sync, rename, sync of the
 * directory), so a half-written one is never seen after a crash, only after decay. */
#include <string.h>
#include "base/bytes.h"
#include "base/crc32c.h"
#include "seglog/seglog_internal.h"

#define SEAL_MAGIC   0x4c66654eu /* "NefL" */
#define CUT_MAGIC    0x4366654eu /* "NefC" */
#define SEAL_HEAD    120u
#define CUT_BYTES    32u
#define SIDECAR_VERSION 1u

_Static_assert(SEAL_HEAD + 16 * NEF_EPOCHS_KEPT + 4 <= NEF_SIDECAR_BYTES_MAX, "a seal fits");

nef_err nef_sidecar_write(struct nef_dir *dir, const char *name, const void *data, size_t bytes)
{
    char temporary[NEF_NAME_BYTES + 8];
    struct nef_file *file = NULL;
    nef_err err;

    strcpy(temporary, name); /* names are our own, shorter than NEF_NAME_BYTES */
    strcat(temporary, ".tmp");
    err = nef_dir_remove(dir, temporary);
    if (err == NEF_OK)
        err = dir->ops->open(dir, temporary, NEF_FILE_CREATE, &file);
    if (err != NEF_OK)
        return err;
    err = file->ops->write(file, 0, data, bytes);
    if (err == NEF_OK)
        err = file->ops->sync(file);
    file->ops->close(file);
    if (err == NEF_OK)
        err = dir->ops->rename(dir, temporary, name);
    if (err == NEF_OK)
        err = dir->ops->sync_dir(dir);
    if (err != NEF_OK)
        (void)dir->ops->unlink(dir, temporary); /* the next nef_log_open removes it otherwise */
    return err;
}

nef_err nef_sidecar_read(struct nef_dir *dir, const char *name, uint8_t out[NEF_SIDECAR_BYTES_MAX],
                         size_t *out_bytes)
{
    struct nef_file *file;
    uint64_t bytes;
    nef_err err;

    err = dir->ops->open(dir, name, NEF_FILE_READ, &file);
    if (err != NEF_OK)
        return err;
    err = file->ops->size(file, &bytes);
    if (err == NEF_OK && bytes > NEF_SIDECAR_BYTES_MAX)
        err = NEF_E_CORRUPT;
    if (err == NEF_OK)
        err = file->ops->read(file, 0, out, (size_t)bytes);
    file->ops->close(file);
    if (err == NEF_OK)
        *out_bytes = (size_t)bytes;
    return err;
}

/* Magic, version, length and CRC of either file; leaves the reader after the length. */
static nef_err open_sidecar(const uint8_t *in, size_t bytes, size_t least, uint32_t magic,
                            struct nef_reader *out_reader)
{
    struct nef_reader r = nef_reader_of(in, bytes);
    struct nef_reader crc;
    uint16_t version;

    if (bytes < least)
        return NEF_E_CORRUPT;
    crc = nef_reader_of(in + bytes - 4, 4);
    if (nef_read_u32(&r) != magic || nef_read_u32(&crc) != nef_crc32c(0, in, bytes - 4))
        return NEF_E_CORRUPT;
    version = nef_read_u16(&r);
    if (version != SIDECAR_VERSION)
        return NEF_E_VERSION;
    if (nef_read_u16(&r) != 0 || nef_read_u32(&r) != bytes)
        return NEF_E_CORRUPT;
    *out_reader = r;
    return NEF_OK;
}

size_t nef_seal_encode(const struct nef_seal *seal, uint8_t out[NEF_SIDECAR_BYTES_MAX])
{
    struct nef_writer w = nef_writer_of(out, NEF_SIDECAR_BYTES_MAX);
    uint32_t bytes = SEAL_HEAD + 16 * seal->epochs.count + 4;

    nef_write_u32(&w, SEAL_MAGIC);
    nef_write_u16(&w, SIDECAR_VERSION);
    nef_write_u16(&w, 0);
    nef_write_u32(&w, bytes);
    nef_write_u32(&w, seal->cell);
    nef_write_u64(&w, seal->segment);
    nef_write_u64(&w, seal->segment_bytes);
    nef_write_copy(&w, seal->region.bytes, 16);
    nef_write_u64(&w, seal->end);
    nef_write_u64(&w, seal->record_count);
    nef_write_u64(&w, seal->mark);
    nef_write_u64(&w, seal->last_epoch);
    nef_write_copy(&w, seal->digest, 32);
    nef_write_u32(&w, seal->epochs.count);
    nef_write_u32(&w, 0);
    NEF_ASSERT(w.at == SEAL_HEAD);
    for (uint32_t i = 0; i < seal->epochs.count; i++) {
        nef_write_u64(&w, seal->epochs.at[i].epoch);
        nef_write_u64(&w, seal->epochs.at[i].offset);
    }
    nef_write_u32(&w, nef_crc32c(0, out, w.at));
    NEF_ASSERT(!w.failed && w.at == bytes);
    return w.at;
}

nef_err nef_seal_decode(const uint8_t *in, size_t bytes, struct nef_seal *out_seal)
{
    struct nef_seal s = {0};
    struct nef_reader r = {0};
    nef_err err;

    err = open_sidecar(in, bytes, SEAL_HEAD + 4, SEAL_MAGIC, &r);
    if (err != NEF_OK)
        return err;
    s.cell = nef_read_u32(&r);
    s.segment = nef_read_u64(&r);
    s.segment_bytes = nef_read_u64(&r);
    nef_read_copy(&r, s.region.bytes, 16);
    s.end = nef_read_u64(&r);
    s.record_count = nef_read_u64(&r);
    s.mark = nef_read_u64(&r);
    s.last_epoch = nef_read_u64(&r);
    nef_read_copy(&r, s.digest, 32);
    s.epochs.count = nef_read_u32(&r);
    if (nef_read_u32(&r) != 0 || s.epochs.count > NEF_EPOCHS_KEPT ||
        bytes != SEAL_HEAD + 16 * (size_t)s.epochs.count + 4)
        return NEF_E_CORRUPT;
    for (uint32_t i = 0; i < s.epochs.count; i++) {
        s.epochs.at[i].epoch = nef_read_u64(&r);
        s.epochs.at[i].offset = nef_read_u64(&r);
        if (i > 0 && (s.epochs.at[i].epoch <= s.epochs.at[i - 1].epoch ||
                      s.epochs.at[i].offset <= s.epochs.at[i - 1].offset))
            return NEF_E_CORRUPT;
    }
    if (!nef_segment_bytes_valid(s.segment_bytes) || s.segment > UINT64_MAX / s.segment_bytes - 1 ||
        s.end < s.segment * s.segment_bytes + NEF_SEGMENT_HEADER_BYTES ||
        s.end > (s.segment + 1) * s.segment_bytes || s.end % NEF_RECORD_ALIGN != 0)
        return NEF_E_CORRUPT;
    *out_seal = s;
    return NEF_OK;
}

size_t nef_cut_encode(uint32_t cell, uint64_t to, uint8_t out[NEF_SIDECAR_BYTES_MAX])
{
    struct nef_writer w = nef_writer_of(out, NEF_SIDECAR_BYTES_MAX);

    nef_write_u32(&w, CUT_MAGIC);
    nef_write_u16(&w, SIDECAR_VERSION);
    nef_write_u16(&w, 0);
    nef_write_u32(&w, CUT_BYTES);
    nef_write_u32(&w, cell);
    nef_write_u64(&w, to);
    nef_write_u32(&w, 0);
    nef_write_u32(&w, nef_crc32c(0, out, w.at));
    NEF_ASSERT(!w.failed && w.at == CUT_BYTES);
    return w.at;
}

nef_err nef_cut_decode(const uint8_t *in, size_t bytes, uint32_t cell, uint64_t *out_to)
{
    struct nef_reader r = {0};
    uint64_t to;
    nef_err err;

    err = open_sidecar(in, bytes, CUT_BYTES, CUT_MAGIC, &r);
    if (err != NEF_OK)
        return err;
    if (bytes != CUT_BYTES || nef_read_u32(&r) != cell)
        return NEF_E_CORRUPT;
    to = nef_read_u64(&r);
    if (nef_read_u32(&r) != 0)
        return NEF_E_CORRUPT;
    *out_to = to;
    return NEF_OK;
}
