/* What the files of responses share; see responses.h. */
#ifndef NEF_GATEWAY_RESPONSES_INTERNAL_H
#define NEF_GATEWAY_RESPONSES_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "gateway/responses.h"
#include "gateway/responses_events.h"
#include "gateway/responses_keep.h"
#include "gateway/responses_request.h"
#include "io/workers.h"

#define RESPONSES_WRITER_BYTES 96u
#define RESPONSES_BUCKETS      256u
#define RESPONSES_EARLY_NS     100000000ull /* what fails so soon is answered with its status, not by an event */

struct live;

struct nef_responses {
    struct nef_responses_options options;
    struct nef_keep keep;
    char writer[RESPONSES_WRITER_BYTES]; /* "zone/start", of this process */
    struct nef_workers *workers;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool stopping, hurry;                  /* lock */
    struct live *lives[RESPONSES_BUCKETS]; /* lock */
    uint32_t live_count;                   /* lock */
    struct nef_responses_call *calls;      /* lock */
    atomic_bool quiesced;
    atomic_uint jobs;    /* in workers */
    atomic_uint flights; /* proposals without an outcome */
};

enum live_role {
    LIVE_FOLLOW, /* another process makes it, or nobody: pieces are read as they are applied here */
    LIVE_OWN,    /* this process makes it */
    LIVE_BROKEN, /* it can't go on here; what was given stands, streams break */
};

/* A response that is being made, or was asked for. */
struct live {
    struct nef_responses *rs;
    atomic_uint refs;   /* the table's, calls', flights', jobs', the run's */
    struct live *next;  /* of its bucket; rs->lock */
    struct live *batch; /* the thread's */
    bool listed;        /* rs->lock */
    char id[NEF_RESPONSE_ID_BYTES];
    bool stored;
    json_t *head; /* never changes */

    pthread_mutex_t lock; /* of all below */
    enum live_role role;
    json_t *records; /* committed: what may be given */
    size_t bytes;    /* of them, as text */
    bool ended;      /* the last record is an end */
    bool put_away;   /* f is written, or was read */
    bool cancel_wanted;
    struct nef_responses_call *readers;

    uint32_t piece;                      /* the next one's number */
    char writer[RESPONSES_WRITER_BYTES]; /* who makes it, as far as is known */
    uint64_t heard_ns;                   /* when it was last heard of */
    uint64_t early_ns;                   /* readers that waited for an early failure are woken then; 0: were */
    uint64_t polled_ns, seen_ns;         /* seen: the sweep found its marker */

    json_t *pending; /* records that aren't proposed yet */
    json_t *flying;  /* the piece that is proposed; NULL: none */
    bool landed;     /* its outcome is here */
    nef_err landed_err;
    uint64_t flown_ns;

    struct nef_ai_run *run;
    uint64_t resumed_ns; /* when a run couldn't be started */
    bool starting, run_ended;
    bool busy;        /* a job works on it */
    bool cancel_sent; /* the piece that asks the owner to end */
    bool tell_end;    /* the run's end became a record already */
    char finish[32];
    struct nef_limits_hold hold; /* from before the run until what it made is committed, or another's to make */
    uint64_t given_tokens;       /* of the answer, that others made before the run */
    uint64_t made_tokens;        /* that the run made and that are committed */
    uint64_t end_tokens;         /* once it has ended: what is to be paid if that is committed, too */
    bool failed_early;           /* the run ended in an error before anything came: HTTP can tell it */
    unsigned end_status;         /* of the run, once it has ended */
    json_t *end_error;
    uint32_t retry_after;
};

/* ---- responses_live.c ---- */

/* New, in the table, with a reference for the caller; or, to follow, the one that is there already. Takes a reference
 * of HEAD. To own: live_start is to come. NULL: *out_err. */
struct live *live_new(struct nef_responses *rs, const char *id, json_t *head, bool stored, enum live_role role,
                      nef_err *out_err);
struct live *live_find(struct nef_responses *rs, const char *id); /* with a reference, or NULL */
void live_ref(struct live *l);
void live_unref(struct live *l);
/* Start the answer of a live that is new or was claimed: USER's, after what was given; l->hold is what is held for it.
 * NEF_OK without a run: it is another's already. Blocking. */
nef_err live_start(struct live *l, const struct nef_ai_user *user);
/* It won't be started: says why in a record. */
void live_fail(struct live *l, const char *code, const char *message);
void live_cancel(struct live *l);
/* Tokens of an answer if its request doesn't say; of the prompt of CHAT, as far as can be told. */
#define RESPONSES_ANSWER_GUESS 1024u
uint64_t live_prompt_guess(const json_t *chat);
uint64_t live_tokens(const json_t *records);
/* It was never begun: out of the table, and forgotten with its last reference. */
void live_abandon(struct live *l);
/* Under its lock: more records, for readers; it can't go on here. */
void live_add_records(struct live *l, const json_t *records);
void live_broken(struct live *l, const char *why, nef_err err);
void live_pay(struct live *l, uint64_t tokens); /* what is held is settled, once */
uint64_t live_share(const struct live *l);      /* tokens to pay if what is committed and under way is all */
void live_wake_readers(struct live *l);
/* Jobs, with a reference of theirs: start the run of an answer that was claimed; all records into one object. */
void live_resume_job(void *live);
void live_put_away_job(void *live);

/* ---- responses_pieces.c ---- */

/* What the thread does for each live every few milliseconds. */
void live_step(struct live *l, uint64_t now_ns);
/* Read what is stored: f, or the pieces there are. Blocking; fresh: see nef_keep_get. */
nef_err live_load(struct live *l, bool fresh);
/* Under its lock: take f, as applied here. True: all records are here. */
bool live_load_final(struct live *l);

/* ---- responses.c ---- */

void live_kick(struct nef_responses *rs); /* the thread, now */
void live_name(const char *id, const char *what, char out[NEF_KEEP_NAME_BYTES]);
void live_piece_name(const char *id, uint32_t piece, char out[NEF_KEEP_NAME_BYTES]);
/* Take a response and all that belongs to it away; cut short, a sweep ends it. ended: nobody writes to it any more;
 * else a sweep looks again. Blocking. */
nef_err live_delete(struct nef_responses *rs, const char *id, bool ended);
/* What is left of one whose records are all in f. Blocking. */
nef_err live_tidy(struct nef_responses *rs, const char *id);
/* Run FN(arg) in a worker, counted; false: it isn't. */
bool responses_job(struct nef_responses *rs, void (*fn)(void *arg), void *arg);
void responses_job_done(struct nef_responses *rs);

/* ---- responses_sweep.c: in a worker ---- */

void responses_watch(struct nef_responses *rs);  /* follow what isn't finished */
void responses_expire(struct nef_responses *rs); /* delete what is too old, or was left behind */

/* ---- responses_http.c ---- */

enum call_op { CALL_CREATE, CALL_GET, CALL_CANCEL, CALL_DELETE, CALL_ITEMS };
enum call_state { CALL_WORKING, CALL_LIMITED, CALL_ANSWER, CALL_UNTIL_END, CALL_STREAM };

struct nef_responses_call {
    struct nef_responses *rs;
    struct nef_http_request *http;
    struct nef_responses_call *next, *previous; /* rs->calls */
    struct nef_responses_call *reader_next;     /* live's lock */
    atomic_uint refs;
    struct nef_ai_user user;
    char request_id[72];
    struct nef_buf body;
    enum call_op op;
    char id[NEF_RESPONSE_ID_BYTES];
    bool stream;
    int64_t starting_after;
    uint32_t limit; /* of input_items */
    bool ascending;
    char after[128];

    struct nef_responses_request request; /* create */
    json_t *head;
    struct nef_limits_hold hold;
    struct nef_limits_now now;
    _Atomic enum call_state state;
    atomic_bool closed;

    unsigned status; /* of the answer */
    json_t *answer;
    uint32_t retry_after;

    struct live *live;
    struct nef_response *model; /* of the stream */
    size_t at;                  /* records that the model has */
    struct nef_buf out;
    size_t out_at;
    uint64_t opened_ns, told_ns;
    pthread_mutex_t lock; /* of live, while closed() and a worker may meet */
    uint64_t tokens;
};

void ask_ref(struct nef_responses_call *c);
void ask_unref(struct nef_responses_call *c);
void ask_wake(struct nef_responses_call *c);

/* ---- responses_work.c: what calls do in workers ---- */

void ask_work(void *call);
/* An answer, and the listener is woken. Takes VALUE (NULL: out of memory). */
void ask_finish(struct nef_responses_call *c, unsigned status, json_t *value);
/* The response object as of what is committed; a model for a stream of it. NULL: out of memory. */
json_t *ask_object(struct live *l);
struct nef_response *ask_model(struct live *l, nef_response_event_fn event, void *context);
void ask_refuse(struct nef_responses_call *c, unsigned status, const char *code, const char *param,
                const char *message);

#endif
