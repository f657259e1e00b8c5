/* An answer in the region's log, made here or in another process; see responses.h and responses_keep.h.
 *
 * Owning: chunks of the run are gathered for a moment, proposed as a piece, and once that is committed they are
 * records, which readers are given. One piece is under way at a time. When nothing happens an empty piece says that
 * the owner is there.
 *
 * Following: pieces are read as they are applied here. When their writer is gone (its zone left the region's record,
 * it is an older process of this zone, or nothing was heard for a while) the follower proposes a claim as the next
 * piece, and whoever's claim is committed owns the answer: it starts a run that goes on after the chunks of all pieces
 * before. An owner that was only slow finds the claim where its own next piece should be, and follows.
 *
 *   FOLLOW --claim committed--> OWN --somebody's claim in the way--> FOLLOW
 *
 * A piece whose outcome isn't known is proposed again, as it was; if it is in its own way, it was committed. */
#include <stdio.h>
#include <string.h>
#include "base/trace.h"
#include "gateway/responses_internal.h"
#include "io/clock.h"

#define MS           1000000ull
#define GATHER_NS    (40 * MS) /* between two pieces: 25 ops a second for an answer at most */
#define HEARTBEAT_NS (1000 * MS)
#define SILENCE_NS   (3000 * MS) /* then its writer counts as gone */
#define FOLLOW_NS    (25 * MS)   /* between two looks, when somebody reads */
#define WATCH_NS     (500 * MS)  /* when nobody does */
#define AGAIN_NS     (200 * MS)  /* before a proposal that failed is made again */
#define LOOKS_MAX    64u         /* pieces of one answer at one step */
#define PIECE_BYTES  (40u << 10) /* of records in a piece; one record may be larger, up to what fits in an op */

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
        live_broken(l, "a piece can't be written", err);
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
        live_broken(l, "no memory", NEF_E_NOMEM);
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
    live_add_records(l, json_object_get(piece, "r"));
    l->made_tokens += live_tokens(json_object_get(piece, "r"));
    if (l->ended)
        live_pay(l, l->run_ended ? l->end_tokens : live_share(l));
    if (claim) {
        l->role = LIVE_OWN;
        if (l->run != NULL) /* of an earlier time, and over */
            nef_ai_run_unref(l->run);
        l->run = NULL;
        l->run_ended = l->tell_end = false;
        l->given_tokens = live_tokens(l->records);
        l->made_tokens = l->end_tokens = 0;
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
    live_add_records(l, json_object_get(piece, "r"));
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
            live_broken(l, "no memory", NEF_E_NOMEM);
        json_decref(rest);
        if (l->run != NULL)
            nef_ai_run_cancel(l->run);
    } else if (l->role == LIVE_OWN) {
        nef_trace(NEF_TRACE_WARN, "response_lost_to_another", "s:id", l->id, NULL);
        l->role = LIVE_FOLLOW;
        l->starting = false;
        live_pay(l, live_share(l));
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

bool live_load_final(struct live *l)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *records = NULL;

    live_name(l->id, "f", name);
    if (nef_keep_get(&l->rs->keep, name, false, &records) != NEF_OK)
        return false;
    if (json_is_array(records) && json_array_size(records) >= json_array_size(l->records)) {
        json_t *more = json_array(), *record;
        size_t i, have = json_array_size(l->records);

        json_array_foreach (records, i, record) {
            if (i >= have && json_array_append(more, record) != 0)
                break;
        }
        live_add_records(l, more);
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
        if (err != NEF_E_NOT_FOUND || live_load_final(l))
            return;
        break;
    }
    if (l->ended)
        return;
    if (is_orphan(l, now) && !l->busy && (l->run == NULL || l->run_ended)) {
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
        start_job(l, live_resume_job);
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
            start_job(l, live_put_away_job);
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
        if (l->ended || l->role != LIVE_FOLLOW || l->flying != NULL || live_load_final(l)) {
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
        if (err == NEF_E_NOT_FOUND && live_load_final(l)) /* put away between the two looks */
            err = NEF_OK;
        (void)pthread_mutex_unlock(&l->lock);
        json_decref(value);
        if (err != NEF_OK)
            return err == NEF_E_NOT_FOUND ? NEF_OK : err;
    }
}
