/* Who makes a stored answer: two zones, one log, and everything that can go wrong between them.
 *
 * responses_live.c and responses_pieces.c run as they are; log, runtime, engine and clock are of this file. A proposal
 * is applied after a random time, or its proposer is told that nobody knows and it is applied later, or never. Zones
 * are stopped, cut off from the log, and killed and started anew, in the middle of anything. An engine says the words
 * w0 w1 ... and goes on after what was given.
 *
 * What is checked: what a reader was given in one zone is the beginning of what a reader is given in the other,
 * always, and in the end both have the whole answer, once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "gateway/responses_internal.h"
#include "http/http.h"
#include "io/clock.h"

#define MS      1000000ull
#define ID      "resp_00000000aa"
#define WORDS   60u
#define PROMPT  16u /* nef_limits_guess(0): so a guess is right here */
#define OBJECTS 2000u
#define FLIGHTS 64u
#define RUNS    64u
#define JOBS    64u
#define ZONES   2u

struct object {
    char name[NEF_KEEP_NAME_BYTES];
    json_t *value; /* NULL: deleted */
};

struct flight {
    bool used, told;
    uint64_t at;
    nef_propose_fn done;
    void *context;
    struct nef_run run; /* data: the object */
    unsigned boot;
};

struct nef_ai_run { /* the engine's side */
    bool used, ended, cancelled;
    unsigned said;
    uint64_t next;
    unsigned boot;
    void (*chunk)(void *context, json_t *chunk);
    void (*end)(void *context, const struct nef_ai_end *end);
    void *context;
};

struct zone {
    struct nef_responses rs;
    struct live *live;
    json_t *seen; /* what its readers were given, over all its lives */
    uint64_t paused_until, cut_until;
    unsigned boot;
};

static struct {
    uint64_t now, random;
    struct object objects[OBJECTS];
    unsigned object_count;
    struct flight flights[FLIGHTS];
    struct nef_ai_run runs[RUNS];
    struct {
        void (*fn)(void *arg);
        void *arg;
        unsigned boot;
    } jobs[JOBS];
    unsigned job_count, boots;
    struct zone zones[ZONES];
    struct zone *at; /* whose code runs */
    unsigned claims, kills;
    bool user_gone;
    uint64_t paid;   /* tokens */
    int held[ZONES]; /* answers that a zone holds a place for */
} w;

static uint64_t draw(uint64_t below)
{
    w.random ^= w.random << 13;
    w.random ^= w.random >> 7;
    w.random ^= w.random << 17;
    return w.random % below;
}

/* ---- what the code under test stands on ---- */

uint64_t nef_now_ns(void)
{
    return w.now;
}

uint64_t nef_wall_ms(void)
{
    return w.now / MS;
}

void nef_http_wake(struct nef_http_request *r)
{
    (void)r;
}

void live_kick(struct nef_responses *rs)
{
    (void)rs;
}

bool responses_job(struct nef_responses *rs, void (*fn)(void *arg), void *arg)
{
    (void)rs;
    if (w.job_count == JOBS)
        return false;
    w.jobs[w.job_count].fn = fn;
    w.jobs[w.job_count].arg = arg;
    w.jobs[w.job_count++].boot = w.at->boot;
    return true;
}

void responses_job_done(struct nef_responses *rs)
{
    (void)rs;
}

static struct object *object_of(const char *name)
{
    for (unsigned i = 0; i < w.object_count; i++)
        if (strcmp(w.objects[i].name, name) == 0)
            return &w.objects[i];
    assert_true(w.object_count < OBJECTS);
    (void)snprintf(w.objects[w.object_count].name, sizeof(w.objects[0].name), "%s", name);
    return &w.objects[w.object_count++];
}

struct draft { /* what a run's data is here */
    char name[NEF_KEEP_NAME_BYTES];
    json_t *value;
    bool once;
};

static nef_err draft_apply(const struct draft *d)
{
    struct object *o = object_of(d->name);

    if (d->once && o->value != NULL)
        return NEF_E_PRECONDITION;
    w.claims += json_is_true(json_object_get(d->value, "claim"));
    json_decref(o->value);
    o->value = json_deep_copy(d->value);
    return NEF_OK;
}

nef_err nef_keep_run(struct nef_keep *keep, const char *name, const json_t *value, bool once, struct nef_run *out_run)
{
    struct draft *d = calloc(1, sizeof(*d));

    (void)keep;
    (void)snprintf(d->name, sizeof(d->name), "%s", name);
    d->value = json_deep_copy(value);
    d->once = once;
    out_run->data = (uint8_t *)d;
    return NEF_OK;
}

static bool is_cut(void)
{
    return w.at->cut_until > w.now;
}

nef_err nef_keep_put(struct nef_keep *keep, const char *name, const json_t *value, bool once)
{
    struct draft d = {.value = (json_t *)(uintptr_t)value, .once = once};

    (void)keep;
    (void)snprintf(d.name, sizeof(d.name), "%s", name);
    return is_cut() ? NEF_E_TIMEOUT : draft_apply(&d);
}

nef_err nef_keep_get(struct nef_keep *keep, const char *name, bool fresh, json_t **out_value)
{
    struct object *o;

    (void)keep;
    if (fresh && is_cut())
        return NEF_E_UNAVAILABLE;
    o = object_of(name); /* a zone that is cut off sees too much here; what it sees is committed all the same */
    if (o->value == NULL)
        return NEF_E_NOT_FOUND;
    *out_value = json_deep_copy(o->value);
    return NEF_OK;
}

nef_err nef_keep_delete(struct nef_keep *keep, const char *name)
{
    struct object *o = object_of(name);

    (void)keep;
    if (is_cut())
        return NEF_E_TIMEOUT;
    json_decref(o->value);
    o->value = NULL;
    return NEF_OK;
}

nef_err nef_keep_list(struct nef_keep *keep, const char *prefix, const char *after,
                      bool (*visit)(void *context, const char *name), void *context)
{
    (void)keep;
    (void)after;
    for (unsigned i = 0; i < w.object_count; i++)
        if (w.objects[i].value != NULL && strncmp(w.objects[i].name, prefix, strlen(prefix)) == 0 &&
            !visit(context, w.objects[i].name))
            break;
    return NEF_OK;
}

nef_err nef_runtime_propose(struct nef_runtime *rt, struct nef_run *run, nef_propose_fn done, void *context)
{
    (void)rt;
    for (unsigned i = 0; i < FLIGHTS; i++)
        if (!w.flights[i].used) {
            uint64_t delay = is_cut() || draw(20) == 0 ? 500 + draw(9000) : draw(30);

            w.flights[i] = (struct flight){true, false, w.now + delay * MS, done, context, *run, w.at->boot};
            return NEF_OK;
        }
    fail();
    return NEF_E_BUSY;
}

void nef_runtime_durability(struct nef_runtime *rt, uint32_t *out_have, uint32_t *out_of)
{
    (void)rt;
    *out_have = 2; /* so that only silence tells: the hardest */
    *out_of = 2;
}

/* A hold is told from none by its user; what was paid is counted, and what is held: by a killed zone nothing. */
static struct nef_limits_user *const somebody = (struct nef_limits_user *)(uintptr_t)1;

static void hold_for(struct nef_limits_hold *hold, uint64_t tokens)
{
    assert_null(hold->user);
    hold->user = somebody;
    hold->tokens = tokens;
    w.held[w.at - w.zones]++;
}

void nef_limits_settle(struct nef_limits *limits, struct nef_limits_hold *hold, uint64_t tokens)
{
    (void)limits;
    if (hold->user != NULL) {
        w.paid += tokens;
        w.held[w.at - w.zones]--;
    }
    memset(hold, 0, sizeof(*hold));
}

nef_err nef_limits_adopt(struct nef_limits *limits, const struct nef_ai_user *user, uint64_t tokens,
                         struct nef_limits_hold *hold)
{
    (void)limits;
    (void)user;
    hold_for(hold, tokens);
    return NEF_OK;
}

nef_err nef_ai_run_start(struct nef_gateway *gateway, const struct nef_ai_run_options *options,
                         struct nef_ai_run **out_run)
{
    (void)gateway;
    for (unsigned i = 0; i < RUNS; i++) {
        struct nef_ai_run *r = &w.runs[i];

        if (r->used)
            continue;
        memset(r, 0, sizeof(*r));
        r->used = true;
        r->said = (unsigned)json_array_size(options->given);
        assert_int_equal(w.held[w.at - w.zones], 1); /* nothing is computed that isn't held for */
        r->next = w.now + 5 * MS;
        r->boot = w.at->boot;
        r->chunk = options->chunk;
        r->end = options->end;
        r->context = options->context;
        *out_run = r;
        return NEF_OK;
    }
    return NEF_E_BUSY;
}

void nef_ai_run_cancel(struct nef_ai_run *run)
{
    run->cancelled = true;
}

void nef_ai_run_unref(struct nef_ai_run *run)
{
    if (run != NULL)
        run->used = !run->ended;
}

static nef_err user_of(void *context, const char *access_key, struct nef_ai_user *out_user)
{
    (void)context;
    memset(out_user, 0, sizeof(*out_user));
    assert_string_equal(access_key, "KEY");
    return w.user_gone ? NEF_E_DENIED : NEF_OK;
}

static void caller_of(void *context, const struct nef_ai_user *user, struct nef_ai_caller *out_caller)
{
    (void)context;
    (void)user;
    memset(out_caller, 0, sizeof(*out_caller));
}

/* ---- zones ---- */

static json_t *head_of(void)
{
    return json_pack("{s:s, s:{s:s}}", "owner", "KEY", "chat", "model", "m");
}

static void boot(struct zone *z, enum live_role role)
{
    json_t *head = head_of();
    nef_err err;

    memset(&z->rs, 0, sizeof(z->rs));
    z->boot = ++w.boots;
    z->rs.options.zone = z == &w.zones[0] ? "a" : "b";
    z->rs.options.user = user_of;
    z->rs.options.caller = caller_of;
    (void)snprintf(z->rs.writer, sizeof(z->rs.writer), "%s/%u", z->rs.options.zone, z->boot);
    (void)pthread_mutex_init(&z->rs.lock, NULL);
    z->live = live_new(&z->rs, ID, head, true, role, &err);
    assert_int_equal(err, NEF_OK);
    json_decref(head);
}

/* The process is gone: nothing of it runs any more, and its memory isn't anybody's. */

static void kill_zone(struct zone *z)
{
    for (unsigned i = 0; i < RUNS; i++)
        if (w.runs[i].used && w.runs[i].boot == z->boot)
            w.runs[i].used = false;
    for (unsigned i = 0; i < FLIGHTS; i++)
        if (w.flights[i].used && w.flights[i].boot == z->boot)
            w.flights[i].told = true; /* it may still be applied */
    for (unsigned i = 0; i < w.job_count; i++)
        if (w.jobs[i].boot == z->boot)
            w.jobs[i--] = w.jobs[--w.job_count];
    memset(&z->live->hold, 0, sizeof(z->live->hold));
    w.held[z - w.zones] = 0;
    w.kills++;
    z->live->listed = false;
    z->live->run = NULL;
    atomic_store(&z->live->refs, 1);
    live_unref(z->live);
    z->live = NULL;
}

/* What a reader is given is never taken back, and the same everywhere. */
static void check(void)
{
    json_t *longest = NULL;

    for (unsigned i = 0; i < ZONES; i++) {
        struct zone *z = &w.zones[i];
        json_t *records = z->live == NULL ? NULL : z->live->records;

        if (records != NULL) {
            size_t have = json_array_size(z->seen);

            for (size_t k = 0; k < json_array_size(records); k++) {
                if (k < have)
                    assert_true(json_equal(json_array_get(z->seen, k), json_array_get(records, k)));
                else
                    assert_int_equal(json_array_append(z->seen, json_array_get(records, k)), 0);
            }
        }
        if (longest == NULL || json_array_size(z->seen) > json_array_size(longest))
            longest = z->seen;
    }
    for (unsigned i = 0; i < ZONES; i++)
        for (size_t k = 0; k < json_array_size(w.zones[i].seen); k++)
            assert_true(json_equal(json_array_get(w.zones[i].seen, k), json_array_get(longest, k)));
}

static void engine(struct nef_ai_run *r)
{
    struct nef_ai_end end = {.status = 200, .usage = {.prompt = PROMPT, .completion = r->said}};
    char word[16];
    json_t *chunk;

    if (r->cancelled) {
        end.status = 499;
        end.cancelled = true;
    } else if (r->next > w.now) {
        return;
    } else if (r->said < WORDS) {
        (void)snprintf(word, sizeof(word), "w%u ", r->said++);
        r->next = w.now + (5 + draw(60)) * MS;
        chunk = json_pack("{s:[{s:i, s:{s:s}}]}", "choices", "index", 0, "delta", "content", word);
        r->chunk(r->context, chunk);
        json_decref(chunk);
        return;
    }
    r->ended = true;
    r->end(r->context, &end);
}

static void step(void)
{
    w.now += 5 * MS;
    for (unsigned i = 0; i < FLIGHTS; i++) {
        struct flight *f = &w.flights[i];
        struct draft *d = (struct draft *)f->run.data;
        struct nef_outcome outcome = {0};
        bool forgotten;

        if (!f->used || f->at > w.now)
            continue;
        forgotten = !f->told && draw(25) == 0; /* nobody knows; then it comes, or doesn't */
        if (forgotten) {
            f->told = true;
            f->at = w.now + draw(4000) * MS;
            f->done(f->context, NEF_E_TIMEOUT, NULL);
            if (draw(3) > 0)
                continue;
        } else {
            outcome.code = draft_apply(d);
        }
        f->used = false;
        if (!f->told)
            f->done(f->context, NEF_OK, &outcome);
        json_decref(d->value);
        free(d);
    }
    for (unsigned i = 0; i < ZONES; i++) {
        struct zone *z = &w.zones[i];

        w.at = z;
        if (z->live == NULL || z->paused_until > w.now)
            continue;
        for (unsigned k = 0; k < RUNS; k++)
            if (w.runs[k].used && !w.runs[k].ended && w.runs[k].boot == z->boot)
                engine(&w.runs[k]);
        for (unsigned k = 0; k < w.job_count; k++)
            if (w.jobs[k].boot == z->boot && draw(3) == 0) {
                void (*fn)(void *) = w.jobs[k].fn;
                void *arg = w.jobs[k].arg;

                w.jobs[k] = w.jobs[--w.job_count];
                fn(arg);
                break;
            }
        live_step(z->live, w.now);
    }
    check();
}

static void begin(uint64_t seed)
{
    struct nef_ai_user user = {0};
    json_t *head = head_of();
    char name[NEF_KEEP_NAME_BYTES];

    memset(&w, 0, sizeof(w));
    w.random = seed * 0x9e3779b97f4a7c15ull + 1;
    w.now = 1000000 * MS;
    for (unsigned i = 0; i < ZONES; i++)
        w.zones[i].seen = json_array();
    live_name(ID, "h", name);
    object_of(name)->value = head;
    w.at = &w.zones[0];
    boot(&w.zones[0], LIVE_OWN);
    hold_for(&w.zones[0].live->hold, PROMPT + WORDS);
    assert_int_equal(live_start(w.zones[0].live, &user), NEF_OK);
    boot(&w.zones[1], LIVE_FOLLOW);
}

static bool over(void)
{
    for (unsigned i = 0; i < ZONES; i++)
        if (w.zones[i].live == NULL || !w.zones[i].live->ended)
            return false;
    return true;
}

static const char *status_of(const struct zone *z)
{
    return json_string_value(
        json_object_get(json_object_get(json_array_get(z->seen, json_array_size(z->seen) - 1), "e"), "status"));
}

static void expect_whole(const struct zone *z)
{
    assert_int_equal(json_array_size(z->seen), WORDS + 1);
    for (unsigned i = 0; i < WORDS; i++) {
        char word[16];
        json_t *choice =
            json_array_get(json_object_get(json_object_get(json_array_get(z->seen, i), "c"), "choices"), 0);

        (void)snprintf(word, sizeof(word), "w%u ", i);
        assert_string_equal(json_string_value(json_object_get(json_object_get(choice, "delta"), "content")), word);
    }
    assert_string_equal(status_of(z), "completed");
}

static void end(void)
{
    for (unsigned i = 0; i < FLIGHTS; i++)
        if (w.flights[i].used) {
            json_decref(((struct draft *)w.flights[i].run.data)->value);
            free(w.flights[i].run.data);
        }
    for (unsigned i = 0; i < ZONES; i++) {
        if (w.zones[i].live != NULL)
            kill_zone(&w.zones[i]);
        json_decref(w.zones[i].seen);
    }
    for (unsigned i = 0; i < w.object_count; i++)
        json_decref(w.objects[i].value);
}

/* However often it changed hands, each token of the answer was paid for once, and so was the prompt; what a killed
 * zone had computed is in what it held. */
static void expect_paid(void)
{
    uint64_t whole = PROMPT + WORDS;

    for (unsigned i = 0; i < ZONES; i++)
        assert_int_equal(w.held[i], 0);
    if (w.kills == 0 ? w.paid != whole : w.paid > whole)
        fail_msg("%lu of %lu tokens were paid for, %u claims, %u kills", (unsigned long)w.paid, (unsigned long)whole,
                 w.claims, w.kills);
}

static void settle_down(void)
{
    for (unsigned i = 0; i < 4000; i++)
        step();
}

/* Zones are stopped and cut off, and killed if KILLS; then there is peace, and the answer is whole. Returns claims. */
static unsigned go_wrong(uint64_t seed, bool kills)
{
    begin(seed);
    for (unsigned steps = 0; !over() && steps < 200000; steps++) {
        struct zone *z = &w.zones[draw(ZONES)];

        step();
        if (w.now > 1060000 * MS) /* after a minute */
            continue;
        if (z->live != NULL && draw(400) == 0)
            z->paused_until = w.now + draw(8000) * MS;
        if (z->live != NULL && draw(400) == 0)
            z->cut_until = w.now + draw(8000) * MS;
        if (kills && z->live != NULL && draw(400) == 0)
            kill_zone(z);
        w.at = z;
        if (z->live == NULL && draw(100) == 0)
            boot(z, LIVE_FOLLOW);
    }
    for (unsigned i = 0; i < ZONES; i++)
        if (w.zones[i].live == NULL)
            boot(&w.zones[i], LIVE_FOLLOW);
    for (unsigned steps = 0; !over() && steps < 20000; steps++)
        step();
    if (!over())
        fail_msg("seed %lu: it never ends", (unsigned long)seed);
    expect_whole(&w.zones[0]);
    expect_whole(&w.zones[1]);
    settle_down(); /* who was lost hears of it */
    expect_paid();
    end();
    return w.claims;
}

static void each_token_is_paid_once(void **state)
{
    unsigned claims = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++)
        claims += go_wrong(seed, false);
    assert_true(claims > 20);
}

static void anything_goes_wrong(void **state)
{
    unsigned claims = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++)
        claims += go_wrong(seed, true);
    assert_true(claims > 60);
}

/* Nothing happens: one piece log, one owner, no claim, and in the end one object instead of the pieces. */
static void peace(void **state)
{
    char name[NEF_KEEP_NAME_BYTES];

    (void)state;
    begin(1);
    w.random = 7;
    while (!over())
        step();
    for (unsigned i = 0; i < 400; i++)
        step();
    expect_whole(&w.zones[1]);
    live_name(ID, "f", name);
    assert_int_equal(json_array_size(object_of(name)->value), WORDS + 1);
    for (unsigned i = 0; i < w.object_count; i++)
        if (strstr(w.objects[i].name, "/p/") != NULL)
            assert_true(w.objects[i].value == NULL || w.claims > 0);
    end();
}

/* The other zone asks to end it; and a user without rights any more gets no more of it. */
static void cancelled_from_afar(void **state)
{
    unsigned cancelled = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        begin(seed);
        for (unsigned i = 0; i < 100; i++)
            step();
        w.at = &w.zones[1];
        live_cancel(w.zones[1].live);
        for (unsigned i = 0; i < 20000 && !over(); i++)
            step();
        assert_true(over());
        assert_true(json_equal(w.zones[0].seen, w.zones[1].seen));
        cancelled += strcmp(status_of(&w.zones[0]), "cancelled") == 0; /* else the word of it came too late */
        end();
    }
    assert_true(cancelled >= 15);
}

static void an_owner_without_rights(void **state)
{
    (void)state;
    begin(3);
    for (unsigned i = 0; i < 100; i++)
        step();
    w.user_gone = true;
    kill_zone(&w.zones[0]);
    for (unsigned i = 0; i < 20000 && !w.zones[1].live->ended; i++)
        step();
    assert_string_equal(status_of(&w.zones[1]), "failed");
    end();
}

/* Its owner dies, and it is deleted: nobody computes what nobody can ask for, and nothing of it stays. */
static void deleted_when_its_owner_is_lost(void **state)
{
    char name[NEF_KEEP_NAME_BYTES];
    struct object *head;

    (void)state;
    begin(4);
    for (unsigned i = 0; i < 100; i++)
        step();
    live_name(ID, "h", name);
    head = object_of(name);
    json_decref(head->value);
    head->value = NULL;
    kill_zone(&w.zones[0]);
    for (unsigned i = 0; i < 20000 && !w.zones[1].live->ended; i++)
        step();
    assert_string_equal(status_of(&w.zones[1]), "cancelled");
    settle_down();
    for (unsigned i = 0; i < w.object_count; i++)
        assert_null(w.objects[i].value);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(peace),
                                       cmocka_unit_test(cancelled_from_afar),
                                       cmocka_unit_test(an_owner_without_rights),
                                       cmocka_unit_test(deleted_when_its_owner_is_lost),
                                       cmocka_unit_test(each_token_is_paid_once),
                                       cmocka_unit_test(anything_goes_wrong)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
