/* An object's or a part's body on its way into the log.
 *
 * Pieces of NEF_PIECE_BYTES are filled in one buffer, sealed under the stream's own DEK straight
 * into a run and proposed; at most NEF_UPLOAD_PIECES_MAX of them have no outcome yet, and the
 * runtime's room bounds all uploads together. The buffers themselves come out of one budget: who
 * finds it spent waits in line, so any number of connections may upload. Whoever fills gets
 * NEF_E_AGAIN when there is no room, and is woken. A body that is small enough stays in the buffer
 * and becomes part of its op.
 *
 * If pieces were proposed and the op that names them never will be (the client went away, a digest
 * is wrong), a STREAM_ABORT gives their space back. It is proposed only when every piece has an
 * outcome, so that no piece comes after it in the log; and again if its own outcome stays unknown, or
 * when too much is waiting already: then a little later, and later still.
 */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/trace.h"
#include "server/s3_internal.h"

/* Of all uploads' buffers together. Pieces that were proposed are counted by the runtime. */
#define BUFFER_BYTES_MAX (64u << 20)
#define ABORT_TRIES_MAX  32u /* each is held for request_hold, or waits: some minutes of an outage */
#define ABORT_WAIT_MS     100u /* after the first one that was refused; twice as long after each */
#define ABORT_WAIT_MAX_MS 5000u

nef_err stream_begin(struct call *c, struct stream *st, uint64_t size)
{
    NEF_ASSERT(!st->open);
    st->call = c;
    st->bucket = c->bucket.id;
    nef_random(&st->id, sizeof(st->id));
    nef_random(st->dek, sizeof(st->dek));
    memcpy(st->tag, c->tag, sizeof(st->tag));
    st->cell = c->cell;
    st->size = size;
    st->open = true;
    return NEF_OK;
}

bool stream_is_inline(const struct stream *st)
{
    return st->size <= NEF_INLINE_BYTES_MAX;
}

/* ---- abort ---- */

static void send_abort(struct stream *st);
static void abort_later(struct stream *st, nef_err err);

static void on_aborted(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct stream *st = context;
    struct call *c = st->call;

    (void)outcome; /* whatever it says, the stream is gone */
    if (err == NEF_E_BUSY)
        abort_later(st, err);
    else if (err != NEF_OK && err != NEF_E_CLOSED && atomic_fetch_add(&st->abort_tries, 1) < ABORT_TRIES_MAX)
        send_abort(st);
    call_unref(c);
}

static void abort_again(void *context)
{
    struct stream *st = context;
    struct call *c = st->call;

    send_abort(st);
    call_unref(c);
}

/* It was refused before it could be proposed. A service that stops doesn't wait for it. */
static void abort_later(struct stream *st, nef_err err)
{
    struct call *c = st->call;
    uint32_t tries = atomic_fetch_add(&st->abort_tries, 1);
    uint32_t ms = tries < 6 ? ABORT_WAIT_MS << tries : ABORT_WAIT_MAX_MS;

    call_ref(c);
    if (tries < ABORT_TRIES_MAX && !atomic_load(&c->s->stopping) &&
        nef_runtime_later(c->s->rt, NEF_MIN(ms, ABORT_WAIT_MAX_MS), abort_again, st))
        return;
    call_unref(c);
    /* the space comes back after this process's next start */
    nef_trace(NEF_TRACE_WARN, "stream_abort_failed", "s:id", c->id, "e:err", (int)err, NULL);
}

static void send_abort(struct stream *st)
{
    struct call *c = st->call;
    struct nef_op op = {
        .type = NEF_RECORD_STREAM_ABORT, .stream = st->id, .bucket_key = st->bucket};
    struct nef_run run = {0};
    nef_err err;

    op.u.stream_abort.proposer = nef_runtime_proposer(c->s->rt);
    err = nef_run_op(c->s->keys, &op, st->cell, NULL, st->tag, NULL, 0, &run);
    if (err == NEF_OK) {
        call_ref(c);
        err = nef_runtime_propose(c->s->rt, &run, on_aborted, st);
        if (err != NEF_OK)
            call_unref(c);
    }
    if (err != NEF_OK)
        abort_later(st, err);
}

static void abort_if_idle(struct stream *st)
{
    if (atomic_load(&st->in_flight) == 0 && atomic_load(&st->aborted) &&
        !atomic_exchange(&st->abort_sent, true))
        send_abort(st);
}

/* ---- pieces ---- */

static void on_piece(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct stream *st = context;
    struct call *c = st->call;
    int none = NEF_OK;

    if (err == NEF_OK)
        err = (nef_err)outcome->code;
    if (err != NEF_OK)
        (void)atomic_compare_exchange_strong(&st->failed, &none, (int)err);
    if (atomic_fetch_sub(&st->in_flight, 1) == 1)
        abort_if_idle(st);
    call_notify(c);
    call_unref(c);
}

/* Seal and propose what is in the buffer. NEF_E_AGAIN: no room, a wake will come. */
static nef_err send_piece(struct stream *st, bool last)
{
    struct call *c = st->call;
    struct nef_run run = {0};
    nef_err err = (nef_err)atomic_load(&st->failed);

    if (err != NEF_OK)
        return err;
    if (atomic_load(&st->in_flight) >= NEF_UPLOAD_PIECES_MAX)
        return NEF_E_AGAIN; /* the outcome of one of them wakes */
    if (!call_arm(c))
        return NEF_E_AGAIN;
    if (!nef_runtime_room(c->s->rt, call_woken, c))
        return NEF_E_AGAIN;
    call_disarm(c);
    err = nef_run_piece(&st->bucket, &st->id, st->dek, st->piece, last, st->tag, st->cell,
                        st->buffer, st->used, &run);
    if (err != NEF_OK)
        return err;
    call_ref(c);
    atomic_fetch_add(&st->in_flight, 1);
    st->proposed = true;
    err = nef_runtime_propose(c->s->rt, &run, on_piece, st);
    if (err != NEF_OK) {
        atomic_fetch_sub(&st->in_flight, 1);
        call_unref(c);
        return err;
    }
    st->piece++;
    st->used = 0;
    return NEF_OK;
}

/* ---- buffers ---- */

/* Under the lock: takes the first in line out if there may be something for it. The caller wakes
 * it. */
static struct call *next_waiting(struct nef_s3_service *s, bool closing)
{
    struct call *c = s->buffers.first;

    if (c == NULL || (!closing && s->buffers.bytes >= BUFFER_BYTES_MAX))
        return NULL;
    s->buffers.first = c->buffer_next;
    if (s->buffers.first == NULL)
        s->buffers.last = NULL;
    c->buffer_waiting = false;
    return c;
}

static void wake(struct call *c)
{
    if (c == NULL)
        return;
    call_notify(c);
    call_unref(c);
}

/* NEF_E_AGAIN: in line; a wake comes. Whoever gets something wakes the next: there may be more. */
static nef_err take_buffer(struct stream *st, uint32_t capacity)
{
    struct nef_s3_service *s = st->call->s;
    struct call *c = st->call, *next = NULL;
    nef_err err = NEF_OK;

    (void)pthread_mutex_lock(&s->buffers.lock);
    if (s->buffers.closed) {
        err = NEF_E_CLOSED;
    } else if (c->buffer_waiting) {
        err = NEF_E_AGAIN;
    } else if (s->buffers.bytes + capacity > BUFFER_BYTES_MAX) {
        call_ref(c);
        c->buffer_waiting = true;
        c->buffer_next = NULL;
        if (s->buffers.last != NULL)
            s->buffers.last->buffer_next = c;
        else
            s->buffers.first = c;
        s->buffers.last = c;
        err = NEF_E_AGAIN;
    } else {
        s->buffers.bytes += capacity;
        next = next_waiting(s, false);
    }
    (void)pthread_mutex_unlock(&s->buffers.lock);
    wake(next);
    if (err != NEF_OK)
        return err;
    st->buffer = malloc(capacity + NEF_TAG_BYTES); /* an inline body is sealed in place */
    st->capacity = capacity;
    return NEF_OK;
}

/* Also without a buffer: who was woken and has no use for it any more passes the wake on. */
static void free_buffer(struct stream *st)
{
    struct nef_s3_service *s = st->call->s;
    struct call *next;

    if (st->buffer != NULL)
        nef_wipe(st->buffer, st->capacity);
    free(st->buffer);
    st->buffer = NULL;
    (void)pthread_mutex_lock(&s->buffers.lock);
    s->buffers.bytes -= st->capacity;
    next = next_waiting(s, false);
    (void)pthread_mutex_unlock(&s->buffers.lock);
    st->capacity = st->used = 0;
    wake(next);
}

void stream_close_buffers(struct nef_s3_service *s)
{
    for (;;) {
        struct call *c;

        (void)pthread_mutex_lock(&s->buffers.lock);
        s->buffers.closed = true;
        c = next_waiting(s, true);
        (void)pthread_mutex_unlock(&s->buffers.lock);
        if (c == NULL)
            return;
        wake(c);
    }
}

nef_err stream_room(struct stream *st, uint8_t **out, uint32_t *out_bytes)
{
    uint64_t filled = (uint64_t)st->piece * NEF_PIECE_BYTES + st->used;
    nef_err err;

    NEF_ASSERT(st->open && filled < st->size);
    if (st->capacity == 0) {
        err = take_buffer(st, (uint32_t)NEF_MIN(st->size, NEF_PIECE_BYTES));
        if (err != NEF_OK)
            return err;
    }
    if (st->buffer == NULL)
        return NEF_E_NOMEM;
    if (st->used == st->capacity) {
        err = send_piece(st, false);
        if (err != NEF_OK)
            return err;
    }
    *out = st->buffer + st->used;
    *out_bytes = st->capacity - st->used;
    return NEF_OK;
}

void stream_filled(struct stream *st, uint32_t bytes)
{
    NEF_ASSERT(bytes <= st->capacity - st->used);
    st->used += bytes;
}

nef_err stream_finish(struct stream *st)
{
    nef_err err;

    if (!stream_is_inline(st) && st->used > 0) {
        err = send_piece(st, true);
        if (err != NEF_OK)
            return err;
        free_buffer(st);
    }
    if (atomic_load(&st->in_flight) > 0)
        return NEF_E_AGAIN;
    return (nef_err)atomic_load(&st->failed);
}

nef_err stream_op(struct stream *st, struct nef_op *op, struct nef_run *out_run)
{
    const uint8_t *cipher = NULL;
    uint32_t cipher_bytes = 0;

    op->stream = st->id;
    op->bucket_key = st->bucket;
    if (stream_is_inline(st) && st->size > 0) {
        NEF_ASSERT(st->used == st->size);
        nef_piece_seal(&st->bucket, &st->id, st->dek, 0, true, st->buffer, st->used, st->buffer);
        cipher = st->buffer;
        cipher_bytes = st->used + NEF_TAG_BYTES;
    }
    return nef_run_op(st->call->s->keys, op, st->cell, st->dek, st->tag, cipher, cipher_bytes,
                      out_run);
}

void stream_committed(struct stream *st)
{
    st->committed = true;
}

void stream_end(struct stream *st)
{
    if (!st->open)
        return;
    st->open = false;
    free_buffer(st);
    nef_wipe(st->dek, sizeof(st->dek));
    if (st->proposed && !st->committed) {
        atomic_store(&st->aborted, true);
        abort_if_idle(st);
    }
}

void stream_free(struct stream *st)
{
    NEF_ASSERT(!st->open); /* stream_end came, at the latest when the connection was closed */
}
