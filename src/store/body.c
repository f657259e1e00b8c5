/* Reading an object's body: pieces from the log, decrypted.
 *
 * Where the pieces lie is looked up when the reader is opened, for the whole range (or for the next
 * WINDOW_PIECES of a larger one), and the segments are pinned. So an object that is overwritten or deleted
 * while a client reads it is still read to its end: its rows go, its bytes stay until the pin goes. Only
 * beyond the window can a reader find that they are gone (NEF_E_NOT_FOUND).
 *
 *      row X: stream, piece -> [record header | ... | ciphertext, tag]
 *                              ^ record         ^ cipher_at   (right behind the header in a DATA record,
 *                                                             behind the op's fields if it lies inline)
 *
 * A piece may be moved by compaction between the look-up and the pin; then the old place is gone (or was
 * punched) and it is looked up again. What is read must name the stream and the piece in its header and
 * must verify under the DEK; else it is damage, and the caller repairs the record and calls again, for a
 * failed read leaves the reader where it was.
 *
 * Memory: one record's buffer and 24 bytes a piece of the window. A piece that is wanted whole is
 * decrypted into the caller's memory; of one that isn't, the plain bytes stay in the buffer until they
 * are read. */
#include <stdlib.h>
#include <string.h>
#include "store/store_internal.h"

#define WINDOW_PIECES 4096u /* 4 GiB ahead */
#define LOCATE_TRIES  4u    /* a piece that moves more often than this while we look isn't there */

struct place {
    struct nef_row_piece row;
    uint32_t part; /* index in object->parts */
    uint32_t piece;
};

struct nef_body {
    struct nef_store *store;
    const struct nef_object *object;
    struct nef_log *log;
    uint64_t at, end; /* of the object: next byte to give, end of the range */

    struct place *places; /* [place, place_count) are to be read and pinned */
    uint32_t place, place_count, place_capacity;
    uint32_t next_part;     /* where the next window begins */
    uint64_t next_piece_at; /* in that part */
    uint64_t skip;          /* bytes of the next piece before the range: of its first only */

    uint8_t dek[NEF_KEY_BYTES]; /* of the part dek_part */
    uint32_t dek_part;          /* UINT32_MAX: none */

    bool now;    /* reads don't wait for the disk */
    bool loaded; /* the next piece's record is in the buffer */
    uint8_t *buffer;
    size_t buffer_bytes;
    bool buffer_was_plain; /* it must be wiped */
    uint8_t *plain;        /* in the buffer: what is left of a piece that was decrypted there */
    size_t plain_bytes;
};

static uint32_t piece_bytes(const struct nef_object_part *part, uint32_t piece)
{
    return (uint32_t)NEF_MIN((uint64_t)NEF_PIECE_BYTES,
                             part->size - (uint64_t)piece * NEF_PIECE_BYTES);
}

static bool piece_is_last(const struct nef_object_part *part, uint32_t piece)
{
    return (uint64_t)(piece + 1) * NEF_PIECE_BYTES >= part->size;
}

/* Where the piece lies now, its segment pinned. */
static nef_err locate(struct nef_body *body, struct place *place)
{
    const struct nef_object_part *part = &body->object->parts[place->part];

    for (uint32_t i = 0; i < LOCATE_TRIES; i++) {
        nef_err err = nef_store_piece(body->store, body->object->cell, &part->stream, place->piece,
                                      &place->row);

        if (err == NEF_OK)
            err = nef_log_pin(body->log, place->row.record);
        else if (err == NEF_E_NOT_FOUND)
            return err;
        if (err != NEF_E_NOT_FOUND)
            return err;
    }
    return NEF_E_NOT_FOUND;
}

static void unpin_all(struct nef_body *body)
{
    for (; body->place < body->place_count; body->place++)
        nef_log_unpin(body->log, body->places[body->place].row.record);
    body->place = body->place_count = 0;
}

/* Look up and pin the next pieces, up to the range's end. FROM: the object's offset of the first. */
static nef_err fill_window(struct nef_body *body, uint64_t from)
{
    const struct nef_object *object = body->object;

    NEF_ASSERT(body->place == body->place_count);
    body->place = body->place_count = 0;
    while (from < body->end && body->place_count < body->place_capacity) {
        const struct nef_object_part *part;
        struct place *place = &body->places[body->place_count];
        nef_err err;

        if (body->next_part == object->part_count)
            return NEF_E_DAMAGED; /* the parts are shorter than the object: its row is wrong */
        part = &object->parts[body->next_part];
        if (body->next_piece_at >= part->size) {
            body->next_part++;
            body->next_piece_at = 0;
            continue;
        }
        place->part = body->next_part;
        place->piece = (uint32_t)(body->next_piece_at / NEF_PIECE_BYTES);
        err = locate(body, place);
        if (err != NEF_OK)
            return err == NEF_E_CORRUPT ? NEF_E_DAMAGED : err; /* the index is, not the log */
        body->place_count++;
        body->next_piece_at += NEF_PIECE_BYTES;
        from += piece_bytes(part, place->piece);
    }
    return NEF_OK;
}

nef_err nef_body_open(struct nef_store *store, const struct nef_object *object, uint64_t offset,
                      uint64_t bytes, struct nef_body **out_body)
{
    struct nef_body *body;
    uint64_t in_part = offset, pieces;
    nef_err err;

    if (offset > object->size || bytes > object->size - offset)
        return NEF_E_RANGE;
    body = calloc(1, sizeof(*body));
    if (body == NULL)
        return NEF_E_NOMEM;
    body->store = store;
    body->object = object;
    body->log = store->options.logs[object->cell];
    body->at = offset;
    body->end = offset + bytes;
    body->dek_part = UINT32_MAX;
    while (body->next_part < object->part_count && in_part >= object->parts[body->next_part].size)
        in_part -= object->parts[body->next_part++].size;
    body->skip = in_part % NEF_PIECE_BYTES;
    body->next_piece_at = in_part - body->skip;
    /* at most: each part may end with a short piece, and the range begin and end inside one */
    pieces = bytes / NEF_PIECE_BYTES + 2 + (object->part_count - body->next_part);
    pieces = NEF_MIN(NEF_MIN(pieces, (uint64_t)WINDOW_PIECES), NEF_MAX(bytes, (uint64_t)1));
    body->place_capacity = (uint32_t)pieces;
    body->places = calloc(body->place_capacity, sizeof(*body->places));
    err = body->places == NULL ? NEF_E_NOMEM : fill_window(body, body->at - body->skip);
    if (err != NEF_OK) {
        nef_body_close(body);
        return err;
    }
    *out_body = body;
    return NEF_OK;
}

static void free_buffer(struct nef_body *body)
{
    if (body->buffer_was_plain)
        nef_wipe(body->buffer, body->buffer_bytes);
    free(body->buffer);
    body->buffer = NULL;
    body->buffer_bytes = 0;
    body->buffer_was_plain = false;
}

void nef_body_close(struct nef_body *body)
{
    if (body == NULL)
        return;
    if (body->places != NULL)
        unpin_all(body);
    free(body->places);
    nef_wipe(body->dek, sizeof(body->dek));
    free_buffer(body);
    free(body);
}

static nef_err load_dek(struct nef_body *body, uint32_t part)
{
    const struct nef_object_part *p = &body->object->parts[part];
    nef_err err;

    if (body->dek_part == part)
        return NEF_OK;
    body->dek_part = UINT32_MAX;
    err = nef_keys_unwrap_dek(body->store->options.keys, &body->object->bucket, &p->stream,
                              p->wrapped_dek, body->dek);
    if (err == NEF_OK)
        body->dek_part = part;
    return err == NEF_E_CORRUPT ? NEF_E_DAMAGED : err; /* the object's row is wrong, not the log */
}

static nef_err reserve(struct nef_body *body, size_t bytes)
{
    if (bytes <= body->buffer_bytes)
        return NEF_OK;
    free_buffer(body);
    body->buffer = malloc(bytes);
    if (body->buffer == NULL)
        return NEF_E_NOMEM;
    body->buffer_bytes = bytes;
    return NEF_OK;
}

/* The header in the buffer is that of the record which the row says. */
static nef_err check_header(const struct nef_body *body, const struct place *place)
{
    const struct nef_object *object = body->object;
    const struct nef_object_part *part = &object->parts[place->part];
    uint64_t cipher_end = (uint64_t)place->row.cipher_at + place->row.cipher_bytes;
    struct nef_record r;

    if (nef_record_decode(body->buffer, &r) != NEF_OK || r.cell != object->cell ||
        r.offset != place->row.record || !nef_id_equal(&r.stream, &part->stream) ||
        memcmp(r.bucket_key_id, object->bucket.bytes, 16) != 0 ||
        cipher_end != NEF_RECORD_HEADER_BYTES + (uint64_t)r.body_bytes)
        return NEF_E_CORRUPT;
    if (nef_row_piece_is_data(&place->row) ? r.type != NEF_RECORD_DATA || r.piece != place->piece
                                           : (r.type != NEF_RECORD_OBJECT_PUT &&
                                              r.type != NEF_RECORD_PART_PUT) ||
                                                 place->piece != 0)
        return NEF_E_CORRUPT;
    return r.flags & NEF_RECORD_ERASED ? NEF_E_NOT_FOUND : NEF_OK;
}

/* The piece's record into the buffer, its header checked. NEF_E_NOT_FOUND: it was punched. */
static nef_err read_record(struct nef_body *body, const struct place *place, bool now)
{
    const struct nef_object_part *part = &body->object->parts[place->part];
    size_t bytes = (size_t)place->row.cipher_at + place->row.cipher_bytes;
    nef_err err;

    if (place->row.cipher_at < NEF_RECORD_HEADER_BYTES ||
        bytes > NEF_RECORD_HEADER_BYTES + (size_t)NEF_RECORD_BODY_MAX ||
        place->row.cipher_bytes != piece_bytes(part, place->piece) + NEF_TAG_BYTES)
        return NEF_E_CORRUPT;
    err = reserve(body, bytes);
    if (err != NEF_OK)
        return err;
    err = now ? nef_log_read_now(body->log, place->row.record, body->buffer, bytes)
              : nef_log_read(body->log, place->row.record, body->buffer, bytes);
    if (err == NEF_E_IO || err == NEF_E_RANGE)
        return NEF_E_CORRUPT; /* a bad sector is damage that the peer can repair */
    if (err != NEF_OK)
        return err;
    return check_header(body, place);
}

/* As above, from wherever it lies now if it isn't any more where it was. */
static nef_err read_record_anywhere(struct nef_body *body, struct place *place, bool at_once)
{
    struct place now = *place;
    nef_err err = read_record(body, place, at_once);

    if (err != NEF_E_NOT_FOUND)
        return err;
    err = locate(body, &now);
    if (err != NEF_OK)
        return err == NEF_E_CORRUPT ? NEF_E_DAMAGED : err;
    if (now.row.record == place->row.record)
        err = NEF_E_CORRUPT; /* it is still named, so nobody should have punched it */
    else
        err = read_record(body, &now, at_once);
    nef_log_unpin(body->log, err == NEF_OK ? place->row.record : now.row.record);
    if (err == NEF_OK)
        *place = now;
    return err == NEF_E_NOT_FOUND ? NEF_E_CORRUPT : err;
}

/* The next piece: [skip, skip + wanted) of it, to OUT if it is wanted whole and fits, else to the buffer. */
static nef_err read_piece(struct nef_body *body, uint8_t *out, size_t max, size_t *out_bytes)
{
    struct place *place = &body->places[body->place];
    const struct nef_object_part *part = &body->object->parts[place->part];
    uint32_t bytes = piece_bytes(part, place->piece);
    size_t wanted = (size_t)NEF_MIN(bytes - body->skip, body->end - body->at);
    bool whole = wanted == bytes && bytes <= max;
    uint8_t *cipher, *to;
    nef_err err;

    err = load_dek(body, place->part);
    if (err == NEF_OK && !body->loaded)
        err = read_record_anywhere(body, place, body->now);
    if (err != NEF_OK)
        return err;
    body->loaded = false; /* it may be decrypted in its place */
    cipher = body->buffer + place->row.cipher_at;
    to = whole ? out : cipher;
    err = nef_piece_open(&body->object->bucket, &part->stream, body->dek, place->piece,
                         piece_is_last(part, place->piece), cipher, place->row.cipher_bytes, to);
    if (err != NEF_OK)
        return err;
    nef_log_unpin(body->log, place->row.record);
    body->place++;
    if (whole) {
        *out_bytes = bytes;
    } else {
        body->buffer_was_plain = true;
        body->plain = cipher + body->skip;
        body->plain_bytes = wanted;
        *out_bytes = 0;
    }
    body->skip = 0;
    return NEF_OK;
}

void nef_body_now(struct nef_body *body, bool now)
{
    body->now = now;
}

nef_err nef_body_load(struct nef_body *body, uint32_t *out_bad_cell, uint64_t *out_bad_offset)
{
    nef_err err = NEF_OK;

    if (body->at == body->end || body->plain_bytes > 0 || body->loaded)
        return NEF_OK;
    if (body->place == body->place_count) {
        err = fill_window(body, body->at);
        if (err != NEF_OK && body->place_count == 0)
            return err;
    }
    err = read_record_anywhere(body, &body->places[body->place], false);
    body->loaded = err == NEF_OK;
    if (err == NEF_E_CORRUPT) {
        *out_bad_cell = body->object->cell;
        *out_bad_offset = body->places[body->place].row.record;
    }
    return err;
}

nef_err nef_body_read(struct nef_body *body, uint8_t *out, size_t max, size_t *out_bytes,
                      uint32_t *out_bad_cell, uint64_t *out_bad_offset)
{
    size_t bytes = 0;
    nef_err err;

    if (body->at == body->end || max == 0) {
        *out_bytes = 0;
        return NEF_OK;
    }
    if (body->plain_bytes == 0) {
        if (body->place == body->place_count) {
            err = fill_window(body, body->at);
            /* what was found before the failure can be read first */
            if (err != NEF_OK && body->place_count == 0)
                return err;
        }
        err = read_piece(body, out, max, &bytes);
        if (err == NEF_E_CORRUPT) {
            *out_bad_cell = body->object->cell;
            *out_bad_offset = body->places[body->place].row.record;
        }
        if (err != NEF_OK)
            return err;
    }
    if (bytes == 0) {
        bytes = NEF_MIN(max, body->plain_bytes);
        memcpy(out, body->plain, bytes);
        body->plain += bytes;
        body->plain_bytes -= bytes;
    }
    body->at += bytes;
    *out_bytes = bytes;
    return NEF_OK;
}
