/* Links between zones: frames over two TLS connections, one for what must be quick (states, leases,
 * acknowledgements) and one for bytes (log, proposals), so that a heartbeat never waits behind a megabyte.
 *
 * Frame, little-endian:
 *     u32 bytes that follow | u8 kind (1 core, 2 fetch, 3 fetched, 4 clock,
 *     5 digest)
 *   core:    head of repl/message.h (56) | body | payload
 *   fetch:   u64 id | u32 cell | u64 offset                       one whole record is wanted
 *   fetched: u64 id | u32 nef_err | record bytes
 *   clock:   u64 wall time in ms
 *   digest:  u32 cell | u64 segment | SHA-256 32                  what a scrub found
 * A payload (log bytes or a proposal) is checked here, in the link's own thread: whole records, every
 * checksum; a bad one closes the link and nothing of it reaches the core.
 *
 * Each connection has one thread that polls, reads and writes; an SSL object is used by that thread only.
 * When either connection breaks both are torn down, their threads end, and only then PEER_DOWN is posted:
 * no event of an old pair can follow it. */
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "io/clock.h"
#include "server/runtime_internal.h"

#define CORE_HEAD_BYTES (1u + NEF_MESSAGE_HEAD_BYTES)
#define FRAME_MAX       (NEF_MESSAGE_BYTES_MAX + NEF_MESSAGE_HEAD_MAX + 256)
#define SILENCE_MS      1500         /* ctl carries a heartbeat every 50 ms: after this it is dead */

void frame_free(struct frame *frame)
{
    if (frame == NULL)
        return;
    free(frame->head);
    payload_unref(frame->payload);
    free(frame);
}

static struct frame *frame_new(uint32_t head_bytes)
{
    struct frame *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return NULL;
    f->head = malloc(head_bytes);
    f->head_bytes = head_bytes;
    if (f->head == NULL) {
        free(f);
        return NULL;
    }
    return f;
}

struct frame *frame_core(const struct nef_message *m)
{
    uint32_t inner = CORE_HEAD_BYTES + m->body_bytes;
    struct frame *f = frame_new(4 + inner);
    struct nef_writer w;

    if (f == NULL)
        return NULL;
    w = nef_writer_of(f->head, f->head_bytes);
    nef_write_u32(&w, inner + m->payload_bytes);
    nef_write_u8(&w, FRAME_CORE);
    nef_message_encode(m, f->head + w.at);
    w.at += NEF_MESSAGE_HEAD_BYTES;
    nef_write_copy(&w, m->body, m->body_bytes);
    NEF_ASSERT(!w.failed && w.at == w.bytes);
    f->body_bytes = m->payload_bytes;
    return f;
}

struct frame *frame_plain(enum frame_kind kind, const void *body, uint32_t bytes)
{
    struct frame *f = frame_new(5 + bytes);
    struct nef_writer w;

    if (f == NULL)
        return NULL;
    w = nef_writer_of(f->head, f->head_bytes);
    nef_write_u32(&w, 1 + bytes);
    nef_write_u8(&w, (uint8_t)kind);
    nef_write_copy(&w, body, bytes);
    return f;
}

/* The other side compares it with its own when it comes: at once when the link is up, then every second. */
void link_send_clock(struct link *link)
{
    uint8_t text[8];
    struct nef_writer w = nef_writer_of(text, sizeof(text));

    nef_write_u64(&w, nef_wall_ms());
    (void)link_send(link, CONN_CTL, frame_plain(FRAME_CLOCK, text, sizeof(text))); /* the next one comes */
}

void link_close(struct link *link, const char *why)
{
    pthread_mutex_lock(&link->lock);
    if (!link->broken && (link->have[CONN_CTL] || link->have[CONN_BULK]))
        nef_trace(NEF_TRACE_WARN, "link_closed", "s:zone", link->zone, "s:why", why, NULL);
    link->broken = true;
    for (int k = 0; k < CONN_KINDS; k++)
        if (link->conns[k].fd >= 0)
            (void)shutdown(link->conns[k].fd, SHUT_RDWR);
    pthread_cond_broadcast(&link->cond);
    pthread_mutex_unlock(&link->lock);
}

/* Log bytes are read when they are sent; the core's window bounds them. */
static uint64_t frame_memory(const struct frame *frame)
{
    return frame->head_bytes + (frame->payload != NULL ? frame->body_bytes : 0);
}

/* Takes the frame. NEF_E_PEER: no link, or too much is queued (then the link is closed: the other side is
 * too slow for what the core wants, and the core must see it). */
nef_err link_send(struct link *link, enum conn_kind kind, struct frame *frame)
{
    bool overfull = false;
    static const uint64_t one = 1;

    if (frame == NULL)
        return NEF_E_NOMEM;
    pthread_mutex_lock(&link->lock);
    if (!link->up || link->broken) {
        pthread_mutex_unlock(&link->lock);
        frame_free(frame);
        return NEF_E_PEER;
    }
    overfull = link->queued_bytes[kind] > LINK_QUEUE_MAX;
    if (!overfull) {
        frame->next = NULL;
        if (link->last[kind] == NULL)
            link->first[kind] = frame;
        else
            link->last[kind]->next = frame;
        link->last[kind] = frame;
        link->queued_bytes[kind] += frame_memory(frame);
        (void)!write(link->conns[kind].wake_fd, &one, sizeof(one));
    }
    pthread_mutex_unlock(&link->lock);
    if (overfull) {
        frame_free(frame);
        link_close(link, "its queue is full");
        return NEF_E_PEER;
    }
    return NEF_OK;
}

static struct frame *next_frame(struct conn *conn)
{
    struct link *link = conn->link;
    struct frame *f;

    pthread_mutex_lock(&link->lock);
    f = link->first[conn->kind];
    if (f != NULL) {
        link->first[conn->kind] = f->next;
        if (f->next == NULL)
            link->last[conn->kind] = NULL;
        link->queued_bytes[conn->kind] -= frame_memory(f);
    }
    pthread_mutex_unlock(&link->lock);
    return f;
}

/* ---- receiving ---- */

bool log_bytes_good(const struct nef_runtime *rt, uint8_t *data, uint32_t bytes, uint32_t cell, uint64_t offset,
                    uint32_t *out_good)
{
    uint32_t at = 0;

    if (bytes == 0 || offset / rt->segment_bytes != (offset + bytes - 1) / rt->segment_bytes)
        return false;
    while (at < bytes) {
        struct nef_record record;
        uint64_t whole;

        if (bytes - at < NEF_RECORD_HEADER_BYTES || nef_record_decode(data + at, &record) != NEF_OK)
            return false;
        whole = nef_record_bytes(record.body_bytes);
        if (whole > bytes - at || record.cell != cell || record.offset != offset + at)
            return false;
        if ((record.flags & NEF_RECORD_ERASED) != 0)
            memset(data + at + NEF_RECORD_HEADER_BYTES, 0, whole - NEF_RECORD_HEADER_BYTES);
        if (nef_record_check_body(&record, data + at + NEF_RECORD_HEADER_BYTES) != NEF_OK)
            return false;
        at += (uint32_t)whole;
        *out_good = at;
    }
    return true;
}

static bool payload_good(const struct nef_runtime *rt, const struct nef_message *m, uint8_t *payload,
                         uint32_t *out_cell, uint64_t *out_offset)
{
    if (m->type == NEF_MSG_APPEND) {
        struct nef_append append;
        uint32_t good;

        if (nef_append_decode(m, &append) != NEF_OK || append.cell >= rt->cell_count)
            return false;
        *out_cell = append.cell;
        *out_offset = append.offset;
        return log_bytes_good(rt, payload, m->payload_bytes, append.cell, append.offset, &good);
    }
    if (m->type == NEF_MSG_PROPOSE) {
        struct nef_propose propose;
        struct nef_record first;

        if (nef_propose_decode(m, &propose) != NEF_OK || propose.cell >= rt->cell_count ||
            m->payload_bytes > NEF_PROPOSAL_BYTES_MAX)
            return false;
        *out_cell = propose.cell;
        return nef_record_check_run(payload, m->payload_bytes, propose.cell, &first) == NEF_OK;
    }
    return m->payload_bytes == 0;
}

/* Takes frame. */
static nef_err receive_core(struct conn *conn, uint8_t *frame, uint32_t bytes)
{
    struct nef_runtime *rt = conn->link->rt;
    struct nef_reader r = nef_reader_of(frame, bytes);
    struct nef_message m = {0};
    struct item *item;
    const uint8_t *head, *body, *view;
    uint8_t *payload;
    uint64_t offset = 0; /* of log bytes */
    uint32_t cell = 0;

    (void)nef_read_u8(&r);
    head = nef_read_view(&r, NEF_MESSAGE_HEAD_BYTES);
    if (head == NULL || nef_message_decode(head, &m) != NEF_OK)
        goto bad;
    body = nef_read_view(&r, m.body_bytes);
    view = nef_read_view(&r, m.payload_bytes);
    if (nef_reader_end(&r) != NEF_OK || nef_message_check(head, body, &m) != NEF_OK)
        goto bad;
    payload = frame + (view - frame);
    if (!payload_good(rt, &m, payload, &cell, &offset))
        goto bad;
    item = item_new(NEF_EV_MESSAGE);
    item->event.peer = conn->link->peer;
    item->event.cell = cell;
    item->event.bytes = m.payload_bytes;
    if (m.payload_bytes > 0) {
        /* the payload owns the frame; the message's body lies in it, too, and lives as long as the item */
        item->payload = payload_new(frame, frame + (payload - frame), m.payload_bytes, cell);
        if (item->payload == NULL) {
            item_free(item);
            free(frame);
            return NEF_E_NOMEM;
        }
        item->event.handle = (uint64_t)(uintptr_t)item->payload;
    } else {
        item->frame = frame;
    }
    item->message = m;
    item->event.message = &item->message;
    post(rt, item);
    return NEF_OK;
bad:
    nef_trace(NEF_TRACE_ERROR, "bad_frame", "s:zone", conn->link->zone, "u:kind", (uint64_t)FRAME_CORE,
              "u:type", (uint64_t)m.type, "u:cell", (uint64_t)cell, "u:offset", offset, NULL);
    free(frame);
    return NEF_E_PROTOCOL;
}

/* Takes frame (its bytes after the length). */
static nef_err receive(struct conn *conn, uint8_t *frame, uint32_t bytes)
{
    struct nef_reader r = nef_reader_of(frame, bytes);
    uint8_t kind = nef_read_u8(&r);
    nef_err err;

    if (kind == FRAME_CORE)
        return receive_core(conn, frame, bytes);
    if (kind == FRAME_FETCH) {
        err = answer_fetch(conn, &r);
    } else if (kind == FRAME_FETCHED) {
        err = take_fetched(conn, &r);
    } else if (kind == FRAME_CLOCK) {
        uint64_t theirs = nef_read_u64(&r);

        err = nef_reader_end(&r);
        if (err == NEF_OK)
            atomic_store(&conn->link->clock_difference_ms,
                         (int64_t)theirs - (int64_t)nef_wall_ms());
    } else if (kind == FRAME_DIGEST) {
        err = scrub_digest(conn->link->rt, &r);
    } else {
        err = NEF_E_PROTOCOL;
    }
    if (err != NEF_OK)
        nef_trace(NEF_TRACE_ERROR, "bad_frame", "s:zone", conn->link->zone, "u:kind", (uint64_t)kind,
                  "e:err", err, NULL);
    free(frame);
    return err;
}

/* ---- the connection's thread ---- */

struct receiving {
    uint8_t length[4];
    uint32_t have; /* of the length, then of the frame */
    uint8_t *frame;
    uint32_t bytes;
    uint64_t total;  /* of this connection: the other one says nothing about it */
    const char *why; /* STEP_BROKEN wasn't the connection's fault */
};

struct sending {
    struct frame *frame;
    uint32_t at;   /* of head, then of head + body */
    uint8_t *log;  /* the body of a frame of log bytes, checked; room for the largest */
    const char *why;
};

enum step { STEP_MORE, STEP_WANT_READ, STEP_WANT_WRITE, STEP_BROKEN };

static enum step ssl_step(SSL *ssl, int rc)
{
    int e = SSL_get_error(ssl, rc);

    if (e == SSL_ERROR_WANT_READ)
        return STEP_WANT_READ;
    if (e == SSL_ERROR_WANT_WRITE)
        return STEP_WANT_WRITE;
    ERR_clear_error();
    return STEP_BROKEN;
}

static enum step read_some(struct conn *conn, struct receiving *in)
{
    uint8_t *to = in->frame == NULL ? in->length + in->have : in->frame + in->have;
    uint32_t want = in->frame == NULL ? 4 - in->have : in->bytes - in->have;
    int n = SSL_read(conn->ssl, to, (int)want);

    if (n <= 0)
        return ssl_step(conn->ssl, n);
    (void)atomic_fetch_add(&conn->link->bytes_received, (uint64_t)n);
    in->have += (uint32_t)n;
    in->total += (uint64_t)n;
    if (in->frame == NULL) {
        if (in->have == 4) {
            struct nef_reader r = nef_reader_of(in->length, 4);

            in->bytes = nef_read_u32(&r);
            if (in->bytes == 0 || in->bytes > FRAME_MAX) {
                in->why = "a frame's length is impossible";
                return STEP_BROKEN;
            }
            in->frame = malloc(in->bytes);
            if (in->frame == NULL)
                return STEP_BROKEN;
            in->have = 0;
        }
        return STEP_MORE;
    }
    if (in->have == in->bytes) {
        uint8_t *frame = in->frame;

        in->frame = NULL;
        in->have = 0;
        if (receive(conn, frame, in->bytes) != NEF_OK) {
            in->why = "a frame was refused";
            return STEP_BROKEN;
        }
    }
    return STEP_MORE;
}

enum load { LOAD_GOOD, LOAD_DAMAGED, LOAD_BROKEN };

/* Read the log bytes of a frame that is about to be sent, and check them: the other side would only close the
 * link over a record that decayed here, and the same again after each reconnection. DAMAGED: the frame is
 * dropped, the core was told (it waits before it tries again), and the record was handed to the scrub thread. */
static enum load load_log(struct conn *conn, struct sending *out)
{
    struct nef_runtime *rt = conn->link->rt;
    const struct frame *f = out->frame;
    uint32_t good = 0;

    if (out->log == NULL)
        out->log = malloc(NEF_MESSAGE_BYTES_MAX);
    if (out->log == NULL || f->body_bytes > NEF_MESSAGE_BYTES_MAX) {
        out->why = "no memory for what is to be sent";
        return LOAD_BROKEN;
    }
    for (int attempt = 0; attempt < 2; attempt++) { /* an erase may have come between header and body */
        nef_err err = nef_log_read(rt->cells[f->cell].log, f->offset, out->log, f->body_bytes);

        if (err != NEF_OK && err != NEF_E_IO) {
            out->why = err == NEF_E_RANGE || err == NEF_E_NOT_FOUND ? "what was to be sent was cut"
                                                                    : "the log couldn't be read";
            return LOAD_BROKEN;
        }
        good = 0;
        if (err == NEF_OK && log_bytes_good(rt, out->log, f->body_bytes, f->cell, f->offset, &good))
            return LOAD_GOOD;
    }
    nef_trace(NEF_TRACE_ERROR, "log_damaged", "u:cell", (uint64_t)f->cell, "u:offset", f->offset + good,
              "u:range", (uint64_t)f->body_bytes, NULL);
    log_unreadable(rt, f->cell, f->offset + good, f->offset + f->body_bytes);
    return LOAD_DAMAGED;
}

static void next_bytes(const struct sending *out, const uint8_t **from, uint32_t *bytes)
{
    const struct frame *f = out->frame;
    uint32_t at;

    if (out->at < f->head_bytes) {
        *from = f->head + out->at;
        *bytes = f->head_bytes - out->at;
        return;
    }
    at = out->at - f->head_bytes;
    *from = (f->from_log ? out->log : f->payload->data) + at;
    *bytes = f->body_bytes - at;
}

static enum step write_some(struct conn *conn, struct sending *out)
{
    const uint8_t *from;
    uint32_t bytes;
    int n;

    if (out->frame == NULL) {
        out->frame = next_frame(conn);
        out->at = 0;
        if (out->frame == NULL)
            return STEP_WANT_READ; /* nothing to send */
        switch (out->frame->from_log ? load_log(conn, out) : LOAD_GOOD) {
        case LOAD_GOOD:
            break;
        case LOAD_DAMAGED:
            frame_free(out->frame);
            out->frame = NULL;
            return STEP_MORE;
        case LOAD_BROKEN:
            return STEP_BROKEN;
        }
    }
    next_bytes(out, &from, &bytes);
    n = SSL_write(conn->ssl, from, (int)NEF_MIN(bytes, (uint32_t)INT_MAX));
    if (n <= 0)
        return ssl_step(conn->ssl, n);
    (void)atomic_fetch_add(&conn->link->bytes_sent, (uint64_t)n);
    out->at += (uint32_t)n;
    if (out->at == out->frame->head_bytes + out->frame->body_bytes) {
        frame_free(out->frame);
        out->frame = NULL;
    }
    return STEP_MORE;
}

static bool has_frames(struct conn *conn)
{
    bool has;

    pthread_mutex_lock(&conn->link->lock);
    has = conn->link->first[conn->kind] != NULL;
    pthread_mutex_unlock(&conn->link->lock);
    return has;
}

void *conn_main(void *argument)
{
    struct conn *conn = argument;
    struct link *link = conn->link;
    struct nef_runtime *rt = link->rt;
    struct receiving in = {.have = 0};
    struct sending out = {.frame = NULL};
    uint64_t last_heard = now_ns();
    const char *why = "the connection broke";

    thread_name("%s-%.12s", conn->kind == CONN_CTL ? "ctl" : "bulk", link->zone);
    pthread_mutex_lock(&link->lock); /* until PEER_UP was posted: nothing of this pair may come before it */
    pthread_mutex_unlock(&link->lock);
    SSL_set_mode(conn->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    for (;;) {
        struct pollfd fds[2] = {{.fd = conn->fd, .events = POLLIN},
                                {.fd = conn->wake_fd, .events = POLLIN}};
        enum step got = STEP_WANT_READ, put;
        uint64_t counter;
        bool full = atomic_load(&rt->queue_payload_bytes) > QUEUE_PAYLOAD_MAX;
        uint64_t before = in.total;
        int i;

        if (atomic_load(&rt->stopping) || link->broken)
            break;
        /* some of each, so that neither direction starves the other */
        if (!full)
            for (i = 0; i < 64 && (got = read_some(conn, &in)) == STEP_MORE; i++)
                ;
        if (got == STEP_BROKEN) {
            why = in.why != NULL ? in.why : why;
            break;
        }
        for (i = 0, put = STEP_MORE; i < 64 && (put = write_some(conn, &out)) == STEP_MORE; i++)
            ;
        if (put == STEP_BROKEN) {
            why = out.why != NULL ? out.why : why;
            break;
        }
        if (in.total != before || full) /* full: it isn't listened to */
            last_heard = now_ns();
        if (conn->kind == CONN_CTL && now_ns() - last_heard > SILENCE_MS * 1000000ull) {
            why = "nothing was heard";
            break;
        }
        if ((got == STEP_MORE && !full) || put == STEP_MORE)
            continue;
        if (got == STEP_WANT_WRITE || put == STEP_WANT_WRITE)
            fds[0].events |= POLLOUT;
        if (full)
            fds[0].events &= ~POLLIN;
        else if (out.frame == NULL && has_frames(conn))
            continue;
        if (poll(fds, 2, full ? 2 : 250) < 0 && errno != EINTR)
            break;
        if (fds[1].revents != 0)
            (void)!read(conn->wake_fd, &counter, sizeof(counter));
    }
    free(in.frame);
    frame_free(out.frame);
    free(out.log);
    link_close(link, why);
    pthread_mutex_lock(&link->lock);
    link->users--;
    pthread_cond_broadcast(&link->cond);
    pthread_mutex_unlock(&link->lock);
    return NULL;
}
