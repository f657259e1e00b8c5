/* An answer while it is being made, here or in another process; see responses.h and responses_keep.h.
 *
 * Owning: chunks of the run are gathered for a moment, proposed as a piece, and once that is committed they are records, which readers
 * are given. One piece is under way at a time. When nothing happens an empty piece says that the owner is there.
 *
 * Following: pieces are read as they are applied here. When their writer is gone (its zone left the region's record, it is an older
 * process of this zone, or nothing was heard for a while) the follower proposes a claim as the next piece, and whoever's claim is
 * committed owns the answer: it starts a run that goes on after the chunks of all pieces before. An owner that was only slow finds the
 * claim where its own next piece should be, and follows.
 *
 *   FOLLOW --claim committed--> OWN --somebody's claim in the way--> FOLLOW
 *
 * A piece whose outcome isn't known is proposed again, as it was; if it is in its own way, it was committed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/trace.h"
#include "gateway/responses_internal.h"
#include "io/clock.h"

#define MS            1000000ull
#define GATHER_NS     (40 * MS)   /* between two pieces: 25 ops a second for an answer at most */
#define HEARTBEAT_NS  (1000 * MS)
#define SILENCE_NS    (3000 * MS) /* then its writer counts as gone */
#define FOLLOW_NS     (25 * MS)   /* between two looks, when somebody reads */
#define WATCH_NS      (500 * MS)  /* when nobody does */
#define AGAIN_NS      (200 * MS)  /* before a proposal that failed is made again */
#define LOOKS_MAX     64u         /* pieces of one answer at one step */
#define PIECE_BYTES   (40u << 10) /* of records in a piece; one record may be larger, up to what fits in an op */

/* ---- the table ---- */

static struct live **bucket_of(struct nef_responses *rs, const char *id)
{
    uint32_t hash = 2166136261u;

    for (const char *c = id; *c != '\0'; c++)
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    return &rs->lives[hash % RESPONSES_BUCKETS];
}

void live_ref(struct live *l)
{
    (void)atomic_fetch_add(&l->refs, 1);
}

void live_unref(struct live *l)
{
    if (atomic_fetch_sub(&l->refs, 1) != 1)
        return;
    NEF_ASSERT(l->readers == NULL && !l->listed);
    if (l->run != NULL)
        nef_ai_run_unref(l->run);
    json_decref(l->head);
    json_decref(l->records);
    json_decref(l->pending);
    json_decref(l->flying);
    json_decref(l->end_error);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

static struct live *find_locked(struct nef_responses *rs, const char *id)
{
    struct live *l = *bucket_of(rs, id);

    while (l != NULL && strcmp(l->id, id) != 0)
        l = l->next;
    return l;
}

struct live *live_find(struct nef_responses *rs, const char *id)
{
    struct live *l;

    (void)pthread_mutex_lock(&rs->lock);
    l = find_locked(rs, id);
    if (l != NULL)
        live_ref(l);
    (void)pthread_mutex_unlock(&rs->lock);
    return l;
}

struct live *live_new(struct nef_responses *rs, const char *id, json_t *head, bool stored, enum live_role role,
                      nef_err *out_err)
{
    struct live *l = calloc(1, sizeof(*l)), *other, **at;

    *out_err = NEF_E_NOMEM;
    if (l == NULL)
        return NULL;
    l->rs = rs;
    atomic_init(&l->refs, 2);
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)snprintf(l->id, sizeof(l->id), "%s", id);
    l->head = json_incref(head);
    l->stored = stored;
    l->role = role;
    l->busy = l->starting = role == LIVE_OWN; /* live_start is to come */
    l->heard_ns = l->seen_ns = l->flown_ns = nef_now_ns();
    l->records = json_array();
    l->pending = json_array();
    if (l->records == NULL || l->pending == NULL) {
        atomic_init(&l->refs, 1);
        live_unref(l);
        return NULL;
    }
    (void)pthread_mutex_lock(&rs->lock);
    other = find_locked(rs, id);
    if (other != NULL) { /* somebody else was quicker: theirs */
        live_ref(other);
    } else if (rs->live_count < NEF_RESPONSES_LIVE_MAX) {
        at = bucket_of(rs, id);
        l->next = *at;
        *at = l;
        l->listed = true;
        rs->live_count++;
    } else {
        *out_err = NEF_E_BUSY;
    }
    (void)pthread_mutex_unlock(&rs->lock);
    if (l->listed || other != NULL)
        *out_err = NEF_OK;
    if (l->listed)
        return l;
    atomic_init(&l->refs, 1);
    live_unref(l);
    return other;
}

/* ---- names ---- */

void live_name(const char *id, const char *what, char out[NEF_KEEP_NAME_BYTES])
{
    (void)snprintf(out, NEF_KEEP_NAME_BYTES, "r/%s/%s", id, what);
}

void live_piece_name(const char *id, uint32_t piece, char out[NEF_KEEP_NAME_BYTES])
{
    (void)snprintf(out, NEF_KEEP_NAME_BYTES, "r/%s/p/%08x", id, piece);
}

/* ---- records; under the lock ---- */

void live_wake_readers(struct live *l)
{
    for (struct nef_responses_call *c = l->readers; c != NULL; c = c->reader_next)
        nef_http_wake(c->http);
}

static void broken(struct live *l, const char *why, nef_err err)
{
    if (l->role == LIVE_BROKEN)
        return;
    nef_trace(NEF_TRACE_ERROR, "response_broken", "s:why", why, "u:piece", (uint64_t)l->piece, "e:err", (int)err, NULL);
    l->role = LIVE_BROKEN;
    if (l->run != NULL)
        nef_ai_run_cancel(l->run);
    live_wake_readers(l);
}

static void add_records(struct live *l, const json_t *records)
{
    json_t *record;
    size_t i;

    json_array_foreach(records, i, record)
    {
        if (l->ended)
            break;
        if (json_array_append(l->records, record) != 0) {
            broken(l, "no memory", NEF_E_NOMEM);
            return;
        }
        l->ended = json_object_get(record, "e") != NULL;
    }
    live_wake_readers(l);
}

/* A record of the run: to be proposed, or what isn't stored, given at once. */
static void add_pending(struct live *l, json_t *record)
{
    json_t *one;

    if (record == NULL || l->role != LIVE_OWN) {
        json_decref(record);
        if (l->role == LIVE_OWN)
            broken(l, "no memory", NEF_E_NOMEM);
        return;
    }
    l->bytes += json_dumpb(record, NULL, 0, JSON_COMPACT);
    if (l->stored) {
        if (json_array_append_new(l->pending, record) != 0)
            broken(l, "no memory", NEF_E_NOMEM);
        return;
    }
    one = json_pack("[o]", record);
    if (one == NULL)
        broken(l, "no memory", NEF_E_NOMEM);
    add_records(l, one);
    json_decref(one);
}

/* ---- the run ---- */

static void on_chunk(void *context, json_t *chunk)
{
    struct live *l = context;
    const char *finish = nef_response_finish(chunk);

    if (!nef_response_chunk_counts(chunk))
        return;
    (void)pthread_mutex_lock(&l->lock);
    if (finish != NULL)
        (void)snprintf(l->finish, sizeof(l->finish), "%s", finish);
    add_pending(l, nef_response_chunk_record(chunk));
    if (l->bytes > NEF_RESPONSES_BYTES_MAX && l->run != NULL && !l->tell_end) {
        l->tell_end = true;
        add_pending(l, nef_response_fail_record("server_error", "The answer is longer than what is kept of one.",
                                                nef_wall_ms() / 1000));
        nef_ai_run_cancel(l->run);
    }
    (void)pthread_mutex_unlock(&l->lock);
    live_kick(l->rs);
}

static void on_end(void *context, const struct nef_ai_end *end)
{
    struct live *l = context;

    nef_limits_settle(l->rs->options.limits, &l->hold, end->usage.prompt + end->usage.completion);
    (void)pthread_mutex_lock(&l->lock);
    l->run_ended = true;
    if (l->role == LIVE_OWN) {
        l->failed_early = end->status >= 400 && !end->cancelled && l->bytes == 0 && json_array_size(l->records) == 0;
        l->end_status = end->status;
        json_decref(l->end_error);
        l->end_error = json_deep_copy(end->error);
        l->retry_after = end->retry_after;
    }
    if (end->cancelled && !l->cancel_wanted && !l->tell_end) {
        /* This process stops, or the answer is another's by now: it isn't over. */
        if (l->role == LIVE_OWN)
            broken(l, "this process stops", NEF_E_CLOSED);
    } else if (!l->tell_end) {
        l->tell_end = true;
        add_pending(l, nef_response_end_record(end, l->finish[0] == '\0' ? NULL : l->finish, nef_wall_ms() / 1000));
    }
    live_wake_readers(l);
    (void)pthread_mutex_unlock(&l->lock);
    live_kick(l->rs);
    live_unref(l);
}

static json_t *chunks_given(struct live *l) /* under the lock */
{
    json_t *given = json_array(), *record;
    size_t i;

    json_array_foreach(l->records, i, record)
    {
        json_t *chunk = json_object_get(record, "c");
        const char *finish = nef_response_finish(chunk);

        if (finish != NULL)
            (void)snprintf(l->finish, sizeof(l->finish), "%s", finish);
        if (chunk != NULL && json_array_append(given, chunk) != 0) {
            json_decref(given);
            return NULL;
        }
    }
    return given;
}

nef_err live_start(struct live *l, const struct nef_ai_user *user)
{
    struct nef_ai_run_options options = {.kind = NEF_AI_CHAT, .chunk = on_chunk, .end = on_end, .context = l};
    struct nef_ai_run *run = NULL;
    nef_err err;

    l->rs->options.caller(l->rs->options.context, user, &options.caller);
    (void)snprintf(options.request_id, sizeof(options.request_id), "%s", l->id);
    options.body = json_object_get(l->head, "chat");
    (void)pthread_mutex_lock(&l->lock);
    l->role = LIVE_OWN;
    l->starting = true;
    options.given = chunks_given(l);
    (void)pthread_mutex_unlock(&l->lock);
    live_ref(l); /* the run's, until its end */
    err = options.given == NULL ? NEF_E_NOMEM : nef_ai_run_start(l->rs->options.gateway, &options, &run);
    json_decref(options.given);
    if (err != NEF_OK)
        live_unref(l);
    (void)pthread_mutex_lock(&l->lock);
    l->starting = l->busy = false;
    l->run = run;
    if (run != NULL && (l->role != LIVE_OWN || l->cancel_wanted))
        nef_ai_run_cancel(run);
    (void)pthread_mutex_unlock(&l->lock);
    return err;
}

void live_fail(struct live *l, const char *code, const char *message)
{
    (void)pthread_mutex_lock(&l->lock);
    l->role = LIVE_OWN;
    l->run_ended = l->tell_end = true;
    add_pending(l, nef_response_fail_record(code, message, nef_wall_ms() / 1000));
    (void)pthread_mutex_unlock(&l->lock);
    live_kick(l->rs);
}

void live_cancel(struct live *l)
{
    (void)pthread_mutex_lock(&l->lock);
    l->cancel_wanted = true;
    if (l->role == LIVE_OWN && l->run != NULL)
        nef_ai_run_cancel(l->run);
    (void)pthread_mutex_unlock(&l->lock);
    live_kick(l->rs);
}

void live_abandon(struct live *l)
{
    (void)pthread_mutex_lock(&l->lock);
    l->role = LIVE_BROKEN;
    l->busy = l->starting = false;
    (void)pthread_mutex_unlock(&l->lock);
    live_kick(l->rs);
}

/* ---- jobs ---- */

/* Who was claimed goes on. */
static void resume_job(void *arg)
{
    struct live *l = arg;
    struct nef_responses *rs = l->rs;
    const char *owner = json_string_value(json_object_get(l->head, "owner"));
    struct nef_ai_user user = {0};
    bool cancelled;
    nef_err err;

    (void)pthread_mutex_lock(&l->lock);
    cancelled = l->cancel_wanted;
    (void)pthread_mutex_unlock(&l->lock);
    if (cancelled) {
        const struct nef_ai_end end = {.status = 499, .cancelled = true};

        (void)pthread_mutex_lock(&l->lock);
        l->run_ended = l->tell_end = true;
        l->starting = false;
        add_pending(l, nef_response_end_record(&end, NULL, nef_wall_ms() / 1000));
        (void)pthread_mutex_unlock(&l->lock);
    } else {
        err = rs->options.user(rs->options.context, owner == NULL ? "" : owner, &user);
        if (err == NEF_OK)
            err = live_start(l, &user);
        nef_trace(NEF_TRACE_INFO, "response_taken_over", "s:id", l->id, "u:records", (uint64_t)json_array_size(l->records),
                  "e:err", (int)err, NULL);
        if (err == NEF_E_BUSY || err == NEF_E_UNAVAILABLE || err == NEF_E_NOMEM) {
            (void)pthread_mutex_lock(&l->lock);
            l->starting = true; /* again, a little later */
            l->resumed_ns = nef_now_ns();
            (void)pthread_mutex_unlock(&l->lock);
        } else if (err == NEF_E_NOT_FOUND || err == NEF_E_DENIED || err == NEF_E_PRECONDITION)
            live_fail(l, "server_error", "The user has no rights any more.");
        else if (err != NEF_OK && err != NEF_E_CLOSED)
            live_fail(l, "server_error", "The answer can't be gone on with.");
        nef_wipe(&user, sizeof(user));
    }
    (void)pthread_mutex_lock(&l->lock);
    l->busy = false;
    (void)pthread_mutex_unlock(&l->lock);
    live_kick(rs);
    live_unref(l);
    responses_job_done(rs);
}

struct sweep_pieces {
    struct nef_responses *rs;
    nef_err err;
    bool all;
};

/* Pieces whose records are in f go, but not claims and cancels: they stay in the way of a writer that knows nothing of them yet. */
static bool sweep_piece(void *context, const char *name)
{
    struct sweep_pieces *s = context;
    json_t *piece = NULL;
    bool fence = false;

    if (!s->all && nef_keep_get(&s->rs->keep, name, false, &piece) == NEF_OK)
        fence = json_is_true(json_object_get(piece, "claim")) || json_is_true(json_object_get(piece, "cancel"));
    json_decref(piece);
    if (!fence)
        s->err = nef_keep_delete(&s->rs->keep, name);
    return s->err == NEF_OK;
}

static nef_err delete_all(struct nef_responses *rs, const char *id, const char *what, bool all)
{
    struct sweep_pieces s = {.rs = rs, .all = all};
    char prefix[NEF_KEEP_NAME_BYTES];
    nef_err err;

    live_name(id, what, prefix);
    err = nef_keep_list(&rs->keep, prefix, "", sweep_piece, &s);
    return err != NEF_OK ? err : s.err;
}

static nef_err delete_marker(struct nef_responses *rs, const char *id)
{
    char name[NEF_KEEP_NAME_BYTES];

    (void)snprintf(name, sizeof(name), "a/%s", id);
    return nef_keep_delete(&rs->keep, name);
}

/* All records into one object, and the pieces away. Whoever does it, and however often, the same is written. */
static void put_away_job(void *arg)
{
    struct live *l = arg;
    struct nef_responses *rs = l->rs;
    char name[NEF_KEEP_NAME_BYTES];
    json_t *records, *head = NULL;
    nef_err err;

    (void)pthread_mutex_lock(&l->lock);
    records = json_copy(l->records);
    (void)pthread_mutex_unlock(&l->lock);
    live_name(l->id, "h", name);
    err = records == NULL ? NEF_E_NOMEM : nef_keep_get(&rs->keep, name, true, &head);
    live_name(l->id, "f", name);
    if (err == NEF_OK)
        err = nef_keep_put(&rs->keep, name, records, false);
    if (err == NEF_OK)
        err = delete_all(rs, l->id, "p/", false);
    else if (err == NEF_E_NOT_FOUND) /* it was deleted while it was made */
        err = delete_all(rs, l->id, "", true);
    if (err == NEF_OK)
        err = delete_marker(rs, l->id);
    json_decref(records);
    json_decref(head);
    if (err != NEF_OK)
        nef_trace(NEF_TRACE_WARN, "response_put_away_later", "e:err", (int)err, NULL);
    (void)pthread_mutex_lock(&l->lock);
    l->busy = false;
    l->put_away = err == NEF_OK;
    l->polled_ns = nef_now_ns();
    (void)pthread_mutex_unlock(&l->lock);
    live_unref(l);
    responses_job_done(rs);
}

nef_err live_delete(struct nef_responses *rs, const char *id)
{
    char name[NEF_KEEP_NAME_BYTES];
    nef_err err;

    live_name(id, "h", name); /* first: without it there is no response */
    err = nef_keep_delete(&rs->keep, name);
    if (err == NEF_OK)
        err = delete_marker(rs, id);
    return err != NEF_OK ? err : delete_all(rs, id, "", true);
}

/* ---- pieces; under the lock ---- */

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text == NULL ? "" : text;
}

static void heard(struct live *l, const json_t *piece, uint64_t now)
{
    (void)snprintf(l->writer, sizeof(l->writer), "%s", text_of(piece, "w"));
    l->heard_ns = now;
}

static void on_landed(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct live *l = context;
    struct nef_responses *rs = l->rs;

    (void)pthread_mutex_lock(&l->lock);
    l->landed = true;
    l->landed_err = err != NEF_OK ? err : (nef_err)outcome->code;
    (void)pthread_mutex_unlock(&l->lock);
    live_kick(rs);
    live_unref(l);
    (void)atomic_fetch_sub(&rs->flights, 1);
}

/* Propose what flies, again if need be. It is in l->flying already. */
static void fly(struct live *l, uint64_t now)
{
    struct nef_responses *rs = l->rs;
    char name[NEF_KEEP_NAME_BYTES];
    struct nef_run run = {0};
    nef_err err;

    l->landed = false;
    l->flown_ns = now;
    live_piece_name(l->id, l->piece, name);
    err = nef_keep_run(&rs->keep, name, l->flying, true, &run);
    if (err == NEF_OK) {
        live_ref(l);
        (void)atomic_fetch_add(&rs->flights, 1);
        (void)pthread_mutex_unlock(&l->lock); /* the outcome may come before this returns */
        err = nef_runtime_propose(rs->options.rt, &run, on_landed, l);
        (void)pthread_mutex_lock(&l->lock);
        if (err != NEF_OK) {
            (void)atomic_fetch_sub(&rs->flights, 1);
            live_unref(l);
        }
    }
    if (err == NEF_OK)
        return;
    if (err == NEF_E_BUSY || err == NEF_E_KEY || err == NEF_E_NOMEM || err == NEF_E_NO_BUCKET) {
        l->landed = true;
        l->landed_err = err;
    } else {
        broken(l, "a piece can't be written", err);
    }
}

/* The next piece from what is pending. */
static void take_off(struct live *l, uint64_t now)
{
    json_t *records = json_array();
    size_t bytes = 0;

    while (records != NULL && json_array_size(l->pending) > 0) {
        json_t *record = json_array_get(l->pending, 0);
        size_t more = json_dumpb(record, NULL, 0, JSON_COMPACT);

        if (bytes > 0 && bytes + more > PIECE_BYTES)
            break;
        bytes += more;
        if (json_array_append(records, record) != 0 || json_array_remove(l->pending, 0) != 0) {
            json_decref(records);
            records = NULL;
        }
    }
    l->flying = json_pack("{s:s, s:o}", "w", l->rs->writer, "r", records);
    if (l->flying == NULL)
        broken(l, "no memory", NEF_E_NOMEM);
    else
        fly(l, now);
}

static void propose_word(struct live *l, const char *word, uint64_t now)
{
    l->flying = json_pack("{s:s, s:[], s:b}", "w", l->rs->writer, "r", word, 1);
    if (l->flying != NULL)
        fly(l, now);
}

static void start_job(struct live *l, void (*job)(void *arg))
{
    live_ref(l);
    l->busy = true;
    if (responses_job(l->rs, job, l))
        return;
    l->busy = false; /* at the next step */
    (void)atomic_fetch_sub(&l->refs, 1);
}

/* What flew is committed. */
static void arrived(struct live *l, uint64_t now)
{
    json_t *piece = l->flying;
    bool claim = json_is_true(json_object_get(piece, "claim")), cancel = json_is_true(json_object_get(piece, "cancel"));

    l->flying = NULL;
    l->piece++;
    if (!cancel)
        heard(l, piece, now);
    add_records(l, json_object_get(piece, "r"));
    if (claim) {
        l->role = LIVE_OWN;
        if (l->run != NULL) /* of an earlier time, and over */
            nef_ai_run_unref(l->run);
        l->run = NULL;
        l->run_ended = l->tell_end = false;
        l->starting = true; /* until the job has a run */
    }
    if (cancel)
        l->heard_ns = now; /* its owner has time to say so */
    json_decref(piece);
}

/* Somebody else's piece, or one of an owner that is followed. */
static void take_piece(struct live *l, const json_t *piece, uint64_t now)
{
    bool cancel = json_is_true(json_object_get(piece, "cancel"));

    l->piece++;
    l->heard_ns = now;
    if (cancel)
        l->cancel_wanted = l->cancel_sent = true;
    else
        heard(l, piece, now);
    add_records(l, json_object_get(piece, "r"));
}

/* Another piece is where this one should be. */
static void in_the_way(struct live *l, const json_t *piece, uint64_t now)
{
    json_t *mine = l->flying, *records, *rest;
    bool cancel = json_is_true(json_object_get(piece, "cancel"));

    if (json_equal(mine, piece)) { /* it is this very one, proposed twice */
        arrived(l, now);
        return;
    }
    l->flying = NULL;
    l->cancel_sent = false;
    take_piece(l, piece, now);
    if (l->role == LIVE_OWN && cancel) { /* what was to be written comes after it */
        records = json_object_get(mine, "r");
        rest = l->pending;
        l->pending = json_copy(records);
        if (l->pending == NULL || json_array_extend(l->pending, rest) != 0)
            broken(l, "no memory", NEF_E_NOMEM);
        json_decref(rest);
        if (l->run != NULL)
            nef_ai_run_cancel(l->run);
    } else if (l->role == LIVE_OWN) {
        nef_trace(NEF_TRACE_WARN, "response_lost_to_another", "s:id", l->id, NULL);
        l->role = LIVE_FOLLOW;
        (void)json_array_clear(l->pending);
        if (l->run != NULL)
            nef_ai_run_cancel(l->run);
    }
    json_decref(mine);
}

static void landed(struct live *l, uint64_t now)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *piece = NULL;
    nef_err err = l->landed_err;

    if (err == NEF_OK) {
        arrived(l, now);
        return;
    }
    if (err == NEF_E_PRECONDITION) {
        live_piece_name(l->id, l->piece, name);
        err = nef_keep_get(&l->rs->keep, name, false, &piece);
        if (err == NEF_OK)
            in_the_way(l, piece, now);
        json_decref(piece);
        if (err == NEF_OK)
            return;
        if (err == NEF_E_NOT_FOUND && l->role == LIVE_FOLLOW) { /* put away meanwhile: a look finds it */
            json_decref(l->flying);
            l->flying = NULL;
            return;
        }
    }
    if (now - l->flown_ns < AGAIN_NS)
        return;
    if (l->role == LIVE_FOLLOW) { /* a claim or a cancel: whether it is still wanted is decided anew */
        json_decref(l->flying);
        l->flying = NULL;
        l->cancel_sent = false;
        return;
    }
    fly(l, now);
}

/* ---- following ---- */

/* Is whoever makes it gone? */
static bool is_orphan(const struct live *l, uint64_t now)
{
    const struct nef_responses *rs = l->rs;
    size_t zone = strcspn(l->writer, "/");
    bool own_zone = strlen(rs->options.zone) == zone && memcmp(rs->options.zone, l->writer, zone) == 0;
    uint32_t have = 0, of = 0;

    if (strcmp(l->writer, rs->writer) == 0)
        return now - l->heard_ns >= SILENCE_NS; /* this process gave it up */
    if (own_zone)
        return true;
    if (now - l->heard_ns >= SILENCE_NS)
        return true;
    nef_runtime_durability(rs->options.rt, &have, &of);
    return l->writer[0] != '\0' && have < of && have > 0;
}

static bool load_final(struct live *l)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *records = NULL;

    live_name(l->id, "f", name);
    if (nef_keep_get(&l->rs->keep, name, false, &records) != NEF_OK)
        return false;
    if (json_is_array(records) && json_array_size(records) >= json_array_size(l->records)) {
        json_t *more = json_array(), *record;
        size_t i, have = json_array_size(l->records);

        json_array_foreach(records, i, record)
        {
            if (i >= have && json_array_append(more, record) != 0)
                break;
        }
        add_records(l, more);
        json_decref(more);
        l->put_away = l->ended;
    }
    json_decref(records);
    return l->ended;
}

static void follow(struct live *l, uint64_t now)
{
    uint64_t pause = l->readers != NULL ? FOLLOW_NS : WATCH_NS;

    if (now - l->polled_ns < pause)
        return;
    l->polled_ns = now;
    for (uint32_t i = 0; i < LOOKS_MAX && !l->ended; i++) {
        char name[NEF_KEEP_NAME_BYTES];
        json_t *piece = NULL;
        nef_err err;

        live_piece_name(l->id, l->piece, name);
        err = nef_keep_get(&l->rs->keep, name, false, &piece);
        if (err == NEF_OK)
            take_piece(l, piece, now);
        json_decref(piece);
        if (err == NEF_OK)
            continue;
        if (err != NEF_E_NOT_FOUND || load_final(l))
            return;
        break;
    }
    if (l->ended)
        return;
    if (is_orphan(l, now) && (l->run == NULL || l->run_ended)) {
        propose_word(l, "claim", now);
    } else if (l->cancel_wanted && !l->cancel_sent) {
        l->cancel_sent = true; /* the owner is followed until it says that it is over */
        propose_word(l, "cancel", now);
    }
}

static void own(struct live *l, uint64_t now)
{
    bool waits = json_array_size(l->pending) > 0;

    if (l->starting && l->run == NULL && !l->busy && !l->tell_end && now - l->resumed_ns >= AGAIN_NS)
        start_job(l, resume_job);
    if (waits && (l->run_ended || now - l->flown_ns >= GATHER_NS))
        take_off(l, now);
    else if (!waits && !l->run_ended && now - l->flown_ns >= HEARTBEAT_NS)
        take_off(l, now);
}

void live_step(struct live *l, uint64_t now)
{
    if (atomic_load(&l->rs->quiesced)) /* what isn't committed is made again by whoever goes on */
        return;
    (void)pthread_mutex_lock(&l->lock);
    if (l->early_ns != 0 && now >= l->early_ns) {
        l->early_ns = 0;
        live_wake_readers(l);
    }
    if (l->stored && l->role != LIVE_BROKEN) {
        if (l->flying != NULL && l->landed)
            landed(l, now);
        if (l->flying == NULL && !l->ended && l->role == LIVE_OWN)
            own(l, now);
        else if (l->flying == NULL && !l->ended && l->role == LIVE_FOLLOW)
            follow(l, now);
        if (l->ended && !l->put_away && !l->busy && l->flying == NULL && now - l->polled_ns >= AGAIN_NS &&
            (l->role == LIVE_OWN || is_orphan(l, now)))
            start_job(l, put_away_job);
    }
    (void)pthread_mutex_unlock(&l->lock);
}

nef_err live_load(struct live *l, bool fresh)
{
    char name[NEF_KEEP_NAME_BYTES];
    nef_err err = NEF_OK;

    for (;;) {
        json_t *value = NULL;
        uint32_t piece;

        (void)pthread_mutex_lock(&l->lock);
        if (l->ended || l->role != LIVE_FOLLOW || l->flying != NULL || load_final(l)) {
            (void)pthread_mutex_unlock(&l->lock);
            return NEF_OK;
        }
        piece = l->piece;
        (void)pthread_mutex_unlock(&l->lock);
        live_piece_name(l->id, piece, name);
        err = nef_keep_get(&l->rs->keep, name, fresh, &value);
        (void)pthread_mutex_lock(&l->lock);
        if (err == NEF_OK && l->piece == piece && l->flying == NULL)
            take_piece(l, value, nef_now_ns());
        if (err == NEF_E_NOT_FOUND && load_final(l)) /* put away between the two looks */
            err = NEF_OK;
        (void)pthread_mutex_unlock(&l->lock);
        json_decref(value);
        if (err != NEF_OK)
            return err == NEF_E_NOT_FOUND ? NEF_OK : err;
    }
}
