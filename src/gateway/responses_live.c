/* Answers that are being made or were asked for: their table, their runs, and what takes longer (going on after a
 * claim, putting away). How pieces get into the log and out of it: responses_pieces.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/trace.h"
#include "gateway/responses_internal.h"
#include "io/clock.h"

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
    live_pay(l, live_share(l)); /* of what this process doesn't end any more */
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

void live_broken(struct live *l, const char *why, nef_err err)
{
    if (l->role == LIVE_BROKEN)
        return;
    nef_trace(err == NEF_E_CLOSED ? NEF_TRACE_INFO : NEF_TRACE_ERROR, "response_broken", "s:why", why, "u:piece",
              (uint64_t)l->piece, "e:err", (int)err, NULL);
    l->role = LIVE_BROKEN;
    if (l->stored)
        live_pay(l, live_share(l));
    if (l->run != NULL)
        nef_ai_run_cancel(l->run);
    live_wake_readers(l);
}

void live_add_records(struct live *l, const json_t *records)
{
    json_t *record;
    size_t i;

    json_array_foreach (records, i, record) {
        if (l->ended)
            break;
        if (json_array_append(l->records, record) != 0) {
            live_broken(l, "no memory", NEF_E_NOMEM);
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

    if (l->role != LIVE_OWN) { /* of a run that is another's by now */
        json_decref(record);
        return;
    }
    if (record == NULL) {
        live_broken(l, "no memory", NEF_E_NOMEM);
        return;
    }
    l->bytes += json_dumpb(record, NULL, 0, JSON_COMPACT);
    if (l->stored) {
        if (json_array_append_new(l->pending, record) != 0)
            live_broken(l, "no memory", NEF_E_NOMEM);
        return;
    }
    one = json_pack("[o]", record);
    if (one == NULL)
        live_broken(l, "no memory", NEF_E_NOMEM);
    live_add_records(l, one);
    json_decref(one);
}

/* ---- what it costs ---- */

static uint64_t text_bytes(const json_t *value)
{
    uint64_t sum = 0;
    const char *name;
    json_t *member;
    size_t i;

    if (json_is_string(value))
        return json_string_length(value);
    json_array_foreach (value, i, member) {
        sum += text_bytes(member);
    }
    json_object_foreach ((json_t *)(uintptr_t)value, name, member) {
        sum += text_bytes(member);
    }
    return sum;
}

uint64_t live_prompt_guess(const json_t *chat)
{
    return nef_limits_guess(text_bytes(json_object_get(chat, "messages")) + text_bytes(json_object_get(chat, "tools")));
}

uint64_t live_tokens(const json_t *records)
{
    const json_t *record;
    uint64_t sum = 0;
    size_t i;

    json_array_foreach (records, i, record) {
        sum += nef_response_tokens(record);
    }
    return sum;
}

/* Each process pays for what it added to the answer as it is kept, so all of them together for each token once, and
 * the first for the prompt. What a lost owner computed and nobody was given is computed again by another, and paid
 * there. */
static uint64_t with_prompt(const struct live *l, uint64_t made, uint64_t prompt)
{
    return l->given_tokens > 0 ? made : made + prompt;
}

uint64_t live_share(const struct live *l)
{
    uint64_t made = l->made_tokens + live_tokens(json_object_get(l->flying, "r"));

    return made == 0 ? 0 : with_prompt(l, made, live_prompt_guess(json_object_get(l->head, "chat")));
}

void live_pay(struct live *l, uint64_t tokens)
{
    nef_limits_settle(l->rs->options.limits, &l->hold, tokens);
}

/* What is left of it, for whoever goes on. */
static uint64_t tokens_left(struct live *l)
{
    const json_t *most = json_object_get(json_object_get(l->head, "chat"), "max_tokens");
    uint64_t all = most == NULL ? RESPONSES_ANSWER_GUESS : (uint64_t)json_integer_value(most), given;

    (void)pthread_mutex_lock(&l->lock);
    given = live_tokens(l->records);
    (void)pthread_mutex_unlock(&l->lock);
    return all > given ? all - given : 0;
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
    struct nef_ai_run *run;
    uint64_t made = end->usage.completion;
    bool stops, wanted;

    (void)pthread_mutex_lock(&l->lock);
    run = l->run; /* what has ended holds nothing: a gateway that stops waits for its runs */
    l->run = NULL;
    wanted = l->cancel_wanted || l->tell_end;
    /* An answer that was cut because this process stops goes on in the other zone, or here after the next start. */
    stops = l->stored && !wanted && end->status != 200 && atomic_load(&l->rs->quiesced);
    made -= NEF_MIN(made, l->given_tokens);
    l->end_tokens = with_prompt(l, made, end->usage.prompt);
    if (!l->stored)
        live_pay(l, l->end_tokens);
    l->run_ended = true;
    if (l->role == LIVE_OWN && !stops) {
        l->failed_early = end->status >= 400 && !end->cancelled && l->bytes == 0 && json_array_size(l->records) == 0;
        l->end_status = end->status;
        json_decref(l->end_error);
        l->end_error = end->error == NULL ? NULL : nef_response_error(end->error);
        l->retry_after = end->retry_after;
    }
    if (stops || (end->cancelled && !wanted)) { /* or it is another's by now: it isn't over */
        if (l->role == LIVE_OWN)
            live_broken(l, "this process stops", NEF_E_CLOSED);
    } else if (!l->tell_end) {
        l->tell_end = true;
        add_pending(l, nef_response_end_record(end, l->finish[0] == '\0' ? NULL : l->finish, nef_wall_ms() / 1000));
    }
    live_wake_readers(l);
    (void)pthread_mutex_unlock(&l->lock);
    live_kick(l->rs);
    nef_ai_run_unref(run); /* NULL is accepted */
    live_unref(l);
}

static json_t *chunks_given(struct live *l) /* under the lock */
{
    json_t *given = json_array(), *record;
    size_t i;

    json_array_foreach (l->records, i, record) {
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
    if (l->role != LIVE_OWN) { /* lost again before it began */
        l->starting = l->busy = false;
        live_pay(l, 0);
        (void)pthread_mutex_unlock(&l->lock);
        return NEF_OK;
    }
    options.given = chunks_given(l);
    (void)pthread_mutex_unlock(&l->lock);
    live_ref(l); /* the run's, until its end */
    err = options.given == NULL ? NEF_E_NOMEM : nef_ai_run_start(l->rs->options.gateway, &options, &run);
    json_decref(options.given);
    if (err != NEF_OK)
        live_unref(l);
    (void)pthread_mutex_lock(&l->lock);
    l->starting = l->busy = false;
    if (run != NULL && l->run_ended) {
        nef_ai_run_unref(run);
        run = NULL;
    }
    l->run = run;
    if (run != NULL && (l->role != LIVE_OWN || l->cancel_wanted))
        nef_ai_run_cancel(run);
    (void)pthread_mutex_unlock(&l->lock);
    return err;
}

void live_fail(struct live *l, const char *code, const char *message)
{
    (void)pthread_mutex_lock(&l->lock);
    l->starting = l->busy = false;
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

/* A claim that was on its way for long may have taken the place of a piece that was put away meanwhile: then there is
 * an f, which was written before any piece went. NEF_OK: there is. *out_wait: this zone can't tell now. */
static nef_err is_over(struct live *l, bool *out_wait)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *records = NULL;
    nef_err err;

    live_name(l->id, "f", name);
    err = nef_keep_get(&l->rs->keep, name, true, &records);
    json_decref(records);
    *out_wait = err != NEF_OK && err != NEF_E_NOT_FOUND;
    return err;
}

/* Then nobody wants to know how it goes on. */
static bool is_deleted(struct live *l)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *head = NULL;
    nef_err err;

    live_name(l->id, "h", name);
    err = nef_keep_get(&l->rs->keep, name, false, &head);
    json_decref(head);
    return err == NEF_E_NOT_FOUND;
}

/* It counts here before it is computed here. */
static nef_err start_adopted(struct live *l, const struct nef_ai_user *user)
{
    struct nef_limits_hold hold = {0};
    nef_err err = nef_limits_adopt(l->rs->options.limits, user, tokens_left(l), &hold);

    if (err != NEF_OK)
        return err;
    (void)pthread_mutex_lock(&l->lock);
    l->hold = hold;
    (void)pthread_mutex_unlock(&l->lock);
    err = live_start(l, user);
    if (err != NEF_OK) {
        (void)pthread_mutex_lock(&l->lock);
        live_pay(l, 0);
        (void)pthread_mutex_unlock(&l->lock);
    }
    return err;
}

/* Who was claimed goes on. */
void live_resume_job(void *arg)
{
    struct live *l = arg;
    struct nef_responses *rs = l->rs;
    const char *owner = json_string_value(json_object_get(l->head, "owner"));
    struct nef_ai_user user = {0};
    bool cancelled, wait;
    nef_err err = is_over(l, &wait);

    (void)pthread_mutex_lock(&l->lock);
    cancelled = l->cancel_wanted || (!wait && err != NEF_OK && is_deleted(l));
    if (wait) {
        l->resumed_ns = nef_now_ns();
    } else if (err == NEF_OK) {
        l->role = LIVE_FOLLOW;
        l->starting = false;
        (void)live_load_final(l);
    }
    (void)pthread_mutex_unlock(&l->lock);
    if (wait || err == NEF_OK) {
        /* nothing to make now */
    } else if (cancelled) {
        const struct nef_ai_end end = {.status = 499, .cancelled = true};

        (void)pthread_mutex_lock(&l->lock);
        l->run_ended = l->tell_end = true;
        l->starting = false;
        add_pending(l, nef_response_end_record(&end, NULL, nef_wall_ms() / 1000));
        (void)pthread_mutex_unlock(&l->lock);
    } else {
        err = rs->options.user(rs->options.context, owner == NULL ? "" : owner, &user);
        if (err == NEF_OK)
            err = start_adopted(l, &user);
        nef_trace(NEF_TRACE_INFO, "response_taken_over", "s:id", l->id, "u:records",
                  (uint64_t)json_array_size(l->records), "e:err", (int)err, NULL);
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

/* Pieces whose records are in f go, but not claims and cancels: they stay in the way of a writer that knows nothing of
 * them yet. */
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
void live_put_away_job(void *arg)
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
        err = live_tidy(rs, l->id);
    else if (err == NEF_E_NOT_FOUND) /* it was deleted while it was made */
        err = live_delete(rs, l->id, true);
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

nef_err live_tidy(struct nef_responses *rs, const char *id)
{
    nef_err err = delete_all(rs, id, "p/", false);

    return err != NEF_OK ? err : delete_marker(rs, id);
}

nef_err live_delete(struct nef_responses *rs, const char *id, bool ended)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *empty = json_object();
    nef_err err;

    (void)snprintf(name, sizeof(name), "a/%s", id); /* what is begun is ended by a sweep, if not here */
    err = empty == NULL ? NEF_E_NOMEM : nef_keep_put(&rs->keep, name, empty, false);
    json_decref(empty);
    live_name(id, "h", name); /* then this: without it there is no response */
    if (err == NEF_OK)
        err = nef_keep_delete(&rs->keep, name);
    if (err == NEF_OK)
        err = delete_all(rs, id, "", true);
    return err != NEF_OK || !ended ? err : delete_marker(rs, id);
}
