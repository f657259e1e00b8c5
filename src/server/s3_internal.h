/* What the files of the S3 service share; see s3_service.h for which file does what.
 *
 * A request is a struct call with counted references: one of its connection (until `closed`), one
 * of each callback that the runtime or a worker owes it. Fields belong to the listener's thread of
 * the connection, or to the one worker that has the call while the connection is parked; exceptions
 * are marked. */
#ifndef NEF_SERVER_S3_INTERNAL_H
#define NEF_SERVER_S3_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "io/clock.h"
#include "io/workers.h"
#include "s3/checksum.h"
#include "s3/chunked.h"
#include "s3/condition.h"
#include "s3/error.h"
#include "s3/multipart.h"
#include "s3/range.h"
#include "s3/request.h"
#include "s3/sigv4.h"
#include "s3/token.h"
#include "s3/xml.h"
#include "http/http.h"
#include "server/s3_service.h"
#include "store/op.h"
#include "store/store.h"

struct call;
struct credentials; /* s3_auth.c */

struct nef_s3_service {
    struct nef_runtime *rt;
    struct nef_store *store;
    struct nef_keys *keys;
    struct nef_metrics *metrics;
    struct nef_http *http;
    struct nef_workers *workers;
    struct nef_workers *readers; /* what a GET reads and the page cache doesn't have */
    atomic_uint loads;           /* under way there */
    struct credentials *credentials;
    const char *region;
    uint32_t cell_count;
    bool tls;          /* the listener speaks it */
    char owner_id[65]; /* canonical user id of all buckets: one tenant */
    char host_id[45];  /* x-amz-id-2 */
    uint64_t request_base;
    atomic_uint_fast64_t request_count;
    atomic_uint streams; /* answers being streamed: bounded memory */
    struct {
        pthread_mutex_t lock;
        uint64_t bytes;            /* of pieces being filled, of all uploads */
        struct call *first, *last; /* who waits for some, in order; one reference each */
        bool closed;
    } buffers;
    atomic_uint calls; /* alive */
    atomic_bool stopping;
};

/* Who signed a request. */
struct identity {
    bool root;
    bool read_only;
    char name[64];
    char bucket[NEF_BUCKET_NAME_MAX + 1]; /* "": all */
};

/* A body as it comes in: s3_intake.c. Zeroed is empty. */
struct intake {
    struct nef_chunked *chunked;
    struct nef_hash *md5, *sha256;
    struct nef_s3_checksum checksum;
    uint64_t expected; /* decoded bytes */
    uint64_t got;
    uint8_t md5_value[16];
    struct nef_s3_checksum_value checksum_value; /* after intake_end; kind NONE if none is kept */
};

/* An object's or a part's body on its way into the log: s3_stream.c. Zeroed is empty. */
struct stream {
    struct call *call;
    struct nef_id bucket, id;
    uint8_t dek[NEF_KEY_BYTES];
    uint8_t tag[16];
    uint32_t cell;
    uint64_t size;
    uint8_t *buffer; /* the piece being filled */
    uint32_t capacity, used;
    uint32_t piece; /* number of the piece in buffer */
    bool open;
    atomic_uint in_flight; /* pieces without an outcome */
    atomic_int failed;     /* the first nef_err of one */
    atomic_bool aborted;   /* propose STREAM_ABORT once nothing is in flight */
    atomic_bool abort_sent;
    atomic_uint abort_tries;
    bool proposed; /* at least one piece */
    bool committed;
};

enum phase {
    PHASE_AUTH,   /* whose request is it */
    PHASE_BUCKET, /* which bucket */
    PHASE_START,  /* the operation begins */
    PHASE_BODY,
    PHASE_RUN, /* the operation's step or work */
    PHASE_DONE,
};

enum proposal { PROPOSAL_NONE, PROPOSAL_SENT, PROPOSAL_DONE };

struct call {
    struct nef_s3_service *s;
    struct nef_http_request *http;
    atomic_uint refs;
    enum phase phase;
    nef_err phase_err; /* the request was refused before anything else: c->why says why */
    bool refused;      /* request_parse refused: `why` holds it until the signature was checked */
    bool head;
    char host[256];   /* Host header, for locations: headers are gone once the connection is */
    bool require_2_2; /* CreateBucket: x-nef-require-durability */
    struct nef_s3_http wire;
    struct nef_s3_request request;
    struct nef_sigv4 auth;
    struct nef_sigv4_key key;
    struct identity who;
    struct nef_bucket bucket;
    bool rechecked; /* the bucket look-up has been gated */
    uint64_t start_ns;
    char id[17]; /* x-amz-request-id */

    /* waiting */
    struct nef_read read;
    uint64_t read_ns;   /* first try of the present read */
    atomic_bool armed;  /* a wake is owed by the runtime */
    atomic_bool worked; /* the worker is done */
    void (*work)(struct call *c);
    _Atomic enum proposal proposal;
    nef_err proposal_err; /* written before proposal becomes DONE */
    struct nef_outcome outcome;
    pthread_mutex_t lock; /* for workers that wait: with cond, changed */
    pthread_cond_t cond;
    struct call *buffer_next; /* under s->buffers.lock, with the next */
    bool buffer_waiting;
    bool blocking;    /* under lock: a worker waits on cond for callbacks of the stream */
    uint64_t notices; /* under lock */

    /* operations */
    struct intake intake;
    struct stream stream;
    struct nef_buf xml; /* request body that is a document */
    uint8_t tag[16];
    bool has_tag;
    uint32_t cell;
    int step; /* of the operation's own state machine */

    /* reading */
    struct nef_object *object;
    struct nef_body *body;
    struct nef_s3_range range;
    uint32_t bad_cell;
    uint64_t bad_offset;
    unsigned repairs;
    nef_err repair_err;
    bool counted_stream;
    atomic_bool loading; /* a reader thread has `body` */
    nef_err load_err;    /* written by it before `worked` */
    uint8_t *small;   /* an answer that is read whole before it begins, and how much of it is there */
    size_t small_bytes;

    /* for the log */
    unsigned status;
    uint64_t bytes_out;

    struct nef_s3_error why;
};

/* ---- s3_call.c ---- */

struct call *call_new(struct nef_s3_service *s, struct nef_http_request *http);
void call_ref(struct call *c);
void call_unref(struct call *c);
/* For the runtime: context is the call, with a reference of its own. */
void call_woken(void *context);
/* True: the caller may hand call_woken to the runtime and must call call_disarm if it wasn't taken.
 * False: a wake is owed already. */
bool call_arm(struct call *c);
void call_disarm(struct call *c);
/* A notice from a callback of s3_stream.c or a batch: whoever waits looks again. */
void call_notify(struct call *c);
/* For workers that use a stream: between them, stream functions that return NEF_E_AGAIN are called
 * again after call_wait_notice(c, what call_notices gave before). */
void call_block(struct call *c, bool blocking);
uint64_t call_notices(struct call *c);
void call_wait_notice(struct call *c, uint64_t seen);

/* Gate of a read. NEF_OK: look now. NEF_E_AGAIN: return NEF_HTTP_WAIT. Other errors: answer them.
 * call_read_begin starts another read of the same request. */
void call_read_begin(struct call *c);
NEF_MUST_CHECK nef_err call_gate(struct call *c, uint32_t cell, const uint8_t *tag);
/* Propose one run; its outcome wakes the call. NEF_E_BUSY... as nef_runtime_propose. */
NEF_MUST_CHECK nef_err call_propose(struct call *c, struct nef_run *run);
/* err of the proposal that is DONE: of the runtime, or the outcome's. */
nef_err call_outcome(const struct call *c);
/* Have c->work run in a worker; call again after the wake. Answers SlowDown if there is no room. */
enum nef_http_next call_submit(struct call *c, void (*work)(struct call *c));

/* Answers. All end with NEF_HTTP_ANSWERED, so that steps can return them. */
enum nef_http_next call_answer_why(struct call *c); /* what c->why says */
enum nef_http_next call_refuse(struct call *c, enum nef_s3_code code, const char *message);
enum nef_http_next call_fail(struct call *c, nef_err err);
/* The outcome of a write. NoSuchBucket is looked into behind the gate, in a worker's time: if the
 * bucket is there under another id, it was made anew while we used the old one, and the client
 * should try again. */
enum nef_http_next call_fail_write(struct call *c, nef_err err); /* listener: may return WAIT */
enum nef_http_next call_fail_write_wait(struct call *c, nef_err err); /* worker */
enum nef_http_next call_answer_empty(struct call *c, unsigned status);
/* Takes out's memory. */
enum nef_http_next call_answer_xml(struct call *c, unsigned status, struct nef_buf *out);
/* Takes data. */
enum nef_http_next call_answer_bytes(struct call *c, unsigned status, void *data, size_t bytes);
void call_header(struct call *c, const char *name, const char *value);
void call_header_etag(struct call *c, const char *etag);
void call_header_checksum(struct call *c, const struct nef_s3_checksum_value *v);
void call_header_durability(struct call *c);
void call_log(struct call *c, bool complete);

/* Conversions between the store's and S3's checksums. parts: N of a composite one. */
struct nef_s3_checksum_value checksum_of_store(const struct nef_checksum *c, uint32_t parts);
struct nef_checksum checksum_to_store(const struct nef_s3_checksum_value *v);
/* Headers that are kept with an object, as the request has them. */
void call_attrs(const struct call *c, struct nef_buf *out);
struct nef_condition call_condition(const struct call *c); /* of a write */
/* REQUIRE_2_2: NEF_E_DURABILITY while a zone is away. */
NEF_MUST_CHECK nef_err call_check_durability(struct call *c);
/* The bucket or key look-up of the calling worker, gated; the bucket is c->bucket unless another is
 * given. */
NEF_MUST_CHECK nef_err call_bucket_wait(struct call *c, const char *name, struct nef_bucket *out);
NEF_MUST_CHECK nef_err call_object_wait(struct call *c, const struct nef_bucket *bucket,
                                        const char *key, size_t key_bytes,
                                        struct nef_object **out_object);
NEF_MUST_CHECK nef_err call_place(struct call *c, const char *key,
                                  size_t key_bytes); /* cell and tag */

/* ---- s3_auth.c ---- */

NEF_MUST_CHECK nef_err credentials_new(const struct nef_root_credentials *root,
                                       struct credentials **out_credentials);
void credentials_free(struct credentials *credentials);
/* Checks the signature and who may do this. NEF_E_AGAIN: return NEF_HTTP_WAIT. Others: c->why is
 * filled. */
NEF_MUST_CHECK nef_err auth_check(struct call *c);
/* May this identity read from the source of a copy? */
NEF_MUST_CHECK nef_err auth_source(struct call *c, const char *bucket);
bool op_writes(enum nef_s3_op op);

/* ---- s3_intake.c ---- */

/* want_md5: for the ETag. want_checksum: computed if the request brings none. Fills c->why on
 * refusal. */
NEF_MUST_CHECK nef_err intake_begin(struct call *c, bool want_md5,
                                    enum nef_s3_checksum_kind want_checksum);
/* Decodes a part of the input: at most what makes DATA_MAX bytes of data. */
NEF_MUST_CHECK nef_err intake_step(struct call *c, const uint8_t *input, size_t bytes,
                                   size_t data_max, size_t *out_used, const uint8_t **out_data,
                                   size_t *out_data_bytes);
/* The body is complete: verifies everything the request promised of it. */
NEF_MUST_CHECK nef_err intake_end(struct call *c);
void intake_free(struct intake *in);

/* ---- s3_stream.c ---- */

/* A new stream of SIZE bytes with a fresh DEK, for c's bucket, tag and cell. */
NEF_MUST_CHECK nef_err stream_begin(struct call *c, struct stream *st, uint64_t size);
/* Room in the piece being filled, making some by proposing it when it is full. NEF_E_AGAIN: none
 * now, a wake comes. */
NEF_MUST_CHECK nef_err stream_room(struct stream *st, uint8_t **out, uint32_t *out_bytes);
void stream_filled(struct stream *st, uint32_t bytes);
/* All bytes are in: propose what is left. NEF_E_AGAIN: not yet; NEF_OK: every piece is committed.
 */
NEF_MUST_CHECK nef_err stream_finish(struct stream *st);
/* No upload waits for memory any more: the service stops. */
void stream_close_buffers(struct nef_s3_service *s);
/* True if the body is small enough to lie in its op. */
bool stream_is_inline(const struct stream *st);
/* Build the run of the op that ends the stream, inline body included. */
NEF_MUST_CHECK nef_err stream_op(struct stream *st, struct nef_op *op, struct nef_run *out_run);
/* The op was sent: nothing to abort any more. */
void stream_committed(struct stream *st);
/* Ends it: frees the buffer, wipes the DEK, and if pieces were proposed and no op was, has them
 * aborted. */
void stream_end(struct stream *st);
void stream_free(struct stream *st); /* with the last reference */

/* ---- operations: step (listener's thread, may return WAIT) or work (a worker, must answer) ----
 */

/* The op that ends c->stream, with the digests in c->intake; attrs NULL: the request's. */
NEF_MUST_CHECK nef_err put_build(struct call *c, const struct nef_attrs *attrs,
                                 struct nef_run *out_run);
enum nef_http_next put_start(struct call *c);
enum nef_http_next put_body(struct call *c, const uint8_t *data, size_t bytes, size_t *out_used);
enum nef_http_next put_step(struct call *c);
enum nef_http_next get_step(struct call *c);
enum nef_http_next delete_step(struct call *c);
void get_end(struct call *c);
void delete_many_work(struct call *c);
void copy_object_work(struct call *c);
void copy_part_work(struct call *c);
void upload_create_work(struct call *c);
void upload_complete_work(struct call *c);
void upload_abort_work(struct call *c);
void list_parts_work(struct call *c);
void list_uploads_work(struct call *c);
void list_objects_work(struct call *c);
void list_buckets_work(struct call *c);
void bucket_create_work(struct call *c);
void bucket_delete_work(struct call *c);
enum nef_http_next bucket_head_step(struct call *c);
enum nef_http_next bucket_location_step(struct call *c);
enum nef_http_next bucket_versioning_step(struct call *c);

#endif
