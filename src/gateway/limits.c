/* See limits.h. One lock over all users; the thread copies out whom it has to look after, reads their rows and
 * proposes without the lock, and wakes who waits under it (so that a wake never comes after its hold was settled). */
#include "gateway/limits.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "gateway/budget.h"
#include "io/clock.h"
#include "server/region_ops.h"

#define TICK_MS  100u
#define PAUSE_MS 5u
#define BUCKETS  1024u
#define MS       1000000ull

struct nef_limits_wait {
    struct nef_limits_hold *hold;
    void (*wake)(void *context);
    void *context;
    struct nef_limits_wait *next;
};

struct nef_limits_user {
    char access_key[64];
    struct nef_budget budget;
    struct nef_budget_whole whole; /* as the last request said it */
    uint32_t holds;                /* and the thread, while it works for this user */
    struct nef_limits_wait *waits;
    struct nef_limits_user *next;  /* of its bucket */
    struct nef_limits_user *batch; /* the thread's list */
};

struct nef_limits {
    struct nef_limits_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool stopping, hurry;
    bool failing; /* the last op had no outcome */
    struct nef_limits_user *users[BUCKETS];
    struct nef_limits_stats stats;
};

/* ---- rights ---- */

static bool listed(const char *list, const char *name)
{
    size_t bytes = strlen(name);

    if (strcmp(list, "*") == 0)
        return true;
    while (*list != '\0') {
        size_t n = strcspn(list, ",");

        if (n == bytes && bytes > 0 && memcmp(list, name, n) == 0)
            return true;
        list += n + (list[n] == ',');
    }
    return false;
}

void nef_ai_user_root(struct nef_ai_user *user, const char *access_key)
{
    memset(user, 0, sizeof(*user));
    NEF_ASSERT(strlen(access_key) < sizeof(user->access_key));
    (void)strcpy(user->access_key, access_key);
    user->root = true;
    user->ai.allowed = true;
    (void)strcpy(user->ai.models, "*");
    (void)strcpy(user->ai.zones, "*");
    user->ai.weight = 1;
}

bool nef_ai_allows_model(const struct nef_ai_user *user, const char *model)
{
    return user->ai.allowed && listed(user->ai.models, model);
}

bool nef_ai_allows_zone(const struct nef_ai_user *user, const char *zone)
{
    return user->ai.allowed && listed(user->ai.zones, zone);
}

/* ---- users, under the lock ---- */

static uint64_t now_ms(void)
{
    return nef_now_ns() / MS;
}

static struct nef_limits_user **bucket_of(struct nef_limits *l, const char *access_key)
{
    uint32_t hash = 2166136261u; /* FNV-1a: keys were drawn by us */

    for (const char *c = access_key; *c != '\0'; c++)
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    return &l->users[hash % BUCKETS];
}

static struct nef_limits_user *find_user(struct nef_limits *l, const struct nef_ai_user *who)
{
    struct nef_limits_user **at = bucket_of(l, who->access_key);
    struct nef_limits_user *u;

    for (u = *at; u != NULL; u = u->next)
        if (strcmp(u->access_key, who->access_key) == 0)
            return u;
    u = calloc(1, sizeof(*u));
    if (u == NULL)
        return NULL;
    (void)strcpy(u->access_key, who->access_key);
    nef_budget_init(&u->budget, l->options.zone, nef_runtime_proposer(l->options.rt));
    u->next = *at;
    *at = u;
    l->stats.users++;
    return u;
}

static void wake_all(struct nef_limits_user *u)
{
    while (u->waits != NULL) {
        struct nef_limits_wait *w = u->waits;

        u->waits = w->next;
        w->hold->wait = NULL;
        w->wake(w->context);
        free(w);
    }
}

static void unwait(struct nef_limits_hold *hold)
{
    struct nef_limits_wait **at = &hold->user->waits;

    while (*at != hold->wait)
        at = &(*at)->next;
    *at = hold->wait->next;
    free(hold->wait);
    hold->wait = NULL;
}

static void room(const struct nef_limits_user *u, uint64_t now, unsigned r, struct nef_limits_room *out)
{
    if (u->whole.units[r] == 0)
        return;
    out->limit = u->whole.units[r];
    out->remaining = nef_budget_left(&u->budget, now, &u->whole, r);
    out->reset_ms = nef_budget_wait_ms(&u->budget, now, &u->whole, r, u->whole.units[r]);
}

static void tell(const struct nef_limits_user *u, uint64_t now, uint64_t tokens, nef_err err,
                 struct nef_limits_now *out)
{
    uint64_t wait[NEF_BUDGET_RESOURCES] = {0};

    room(u, now, NEF_BUDGET_REQUESTS, &out->requests);
    room(u, now, NEF_BUDGET_TOKENS, &out->tokens);
    if (err != NEF_E_BUSY)
        return;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
        if (u->whole.units[r] != 0)
            wait[r] = nef_budget_wait_ms(&u->budget, now, &u->whole, r, r == NEF_BUDGET_TOKENS ? tokens : 1);
    out->concurrency = u->whole.slots != 0 && wait[0] == 0 && wait[1] == 0;
    out->retry_after_ms = (uint32_t)NEF_MAX(NEF_MAX(wait[0], wait[1]), 1000);
}

static nef_err wait_for(struct nef_limits *l, struct nef_limits_user *u, struct nef_limits_hold *hold,
                        void (*wake)(void *context), void *context)
{
    struct nef_limits_wait *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return NEF_E_NOMEM;
    *w = (struct nef_limits_wait){hold, wake, context, u->waits};
    u->waits = w;
    hold->wait = w;
    l->hurry = true;
    (void)pthread_cond_signal(&l->cond);
    return NEF_E_AGAIN;
}

static bool has_budget(const struct nef_ai_user *user)
{
    return !user->root && (user->ai.requests_min != 0 || user->ai.tokens_min != 0 || user->ai.concurrency != 0);
}

static struct nef_budget_whole whole_of(const struct nef_ai_user *user)
{
    const struct nef_user_ai *ai = &user->ai;

    return (struct nef_budget_whole){
        .units = {[NEF_BUDGET_REQUESTS] = ai->requests_min, [NEF_BUDGET_TOKENS] = ai->tokens_min},
        .slots = ai->concurrency,
        .denied = !ai->allowed};
}

nef_err nef_limits_take(struct nef_limits *limits, const struct nef_ai_user *user, uint64_t tokens,
                        struct nef_limits_hold *hold, void (*wake)(void *context), void *context,
                        struct nef_limits_now *out_now)
{
    struct nef_limits_user *u;
    uint64_t now;
    nef_err err;

    memset(out_now, 0, sizeof(*out_now));
    if (!has_budget(user))
        return NEF_OK;
    (void)pthread_mutex_lock(&limits->lock);
    now = now_ms();
    if (hold->user == NULL) {
        hold->user = find_user(limits, user);
        if (hold->user == NULL) {
            (void)pthread_mutex_unlock(&limits->lock);
            return NEF_E_NOMEM;
        }
        hold->user->holds++;
        hold->first_ns = now * MS;
    }
    u = hold->user;
    if (hold->wait != NULL)
        unwait(hold);
    u->whole = whole_of(user);
    switch (nef_budget_take(&u->budget, now, &u->whole, tokens, &hold->tokens)) {
    case NEF_BUDGET_TAKEN:
        limits->stats.taken++;
        hold->taken = true;
        err = NEF_OK;
        break;
    case NEF_BUDGET_WAIT:
        if (limits->stopping || now * MS - hold->first_ns >= NEF_LIMITS_WAIT_MS * MS) {
            err = limits->failing ? NEF_E_UNAVAILABLE : NEF_E_BUSY;
            break;
        }
        limits->stats.waited += now * MS == hold->first_ns;
        err = wait_for(limits, u, hold, wake, context);
        break;
    case NEF_BUDGET_REFUSED:
    default: err = NEF_E_BUSY; break;
    }
    tell(u, now, tokens, err, out_now);
    if (err != NEF_OK && err != NEF_E_AGAIN) {
        limits->stats.refused++;
        u->holds--;
        hold->user = NULL;
    }
    (void)pthread_mutex_unlock(&limits->lock);
    return err;
}

nef_err nef_limits_adopt(struct nef_limits *limits, const struct nef_ai_user *user, uint64_t tokens,
                         struct nef_limits_hold *hold)
{
    struct nef_limits_user *u;

    NEF_ASSERT(hold->user == NULL);
    if (!has_budget(user))
        return NEF_OK;
    (void)pthread_mutex_lock(&limits->lock);
    u = find_user(limits, user);
    if (u != NULL) {
        u->whole = whole_of(user);
        u->holds++;
        hold->user = u;
        hold->taken = true;
        nef_budget_adopt(&u->budget, now_ms(), &u->whole, tokens, &hold->tokens);
        limits->hurry = true;
        (void)pthread_cond_signal(&limits->cond);
    }
    (void)pthread_mutex_unlock(&limits->lock);
    return u == NULL ? NEF_E_NOMEM : NEF_OK;
}

void nef_limits_settle(struct nef_limits *limits, struct nef_limits_hold *hold, uint64_t tokens)
{
    struct nef_limits_user *u = hold->user;

    if (u == NULL)
        return;
    (void)pthread_mutex_lock(&limits->lock);
    if (hold->wait != NULL)
        unwait(hold);
    else if (hold->taken)
        nef_budget_settle(&u->budget, now_ms(), hold->tokens, tokens);
    u->holds--;
    (void)pthread_mutex_unlock(&limits->lock);
    memset(hold, 0, sizeof(*hold));
}

/* ---- the thread ---- */

/* A list of all users, held, so that none goes away; those of whom nothing is to be known any more go now. */
static struct nef_limits_user *gather(struct nef_limits *l)
{
    struct nef_limits_user *all = NULL;
    uint64_t now = now_ms();

    for (uint32_t i = 0; i < BUCKETS; i++)
        for (struct nef_limits_user **at = &l->users[i]; *at != NULL;) {
            struct nef_limits_user *u = *at;

            if (u->holds == 0 && nef_budget_idle(&u->budget, now)) {
                *at = u->next;
                free(u);
                l->stats.users--;
                continue;
            }
            u->holds++;
            u->batch = all;
            all = u;
            at = &u->next;
        }
    return all;
}

/* What was applied. A row that can't be read now is read at the next tick; nothing is spent because of it. */
static void look(struct nef_limits *l, struct nef_limits_user *all)
{
    for (struct nef_limits_user *u = all; u != NULL; u = u->batch) {
        struct nef_budget_state row = {0};
        nef_err err = nef_store_budget(nef_runtime_store(l->options.rt), u->access_key, &row);

        if (err != NEF_OK && err != NEF_E_NOT_FOUND)
            continue;
        (void)pthread_mutex_lock(&l->lock);
        nef_budget_saw(&u->budget, now_ms(), &row);
        (void)pthread_mutex_unlock(&l->lock);
    }
}

/* Entries of as many users as one op may have, from *at on. */
static uint32_t collect(struct nef_limits *l, struct nef_limits_user **at, struct nef_buf *entries)
{
    uint32_t count = 0;

    (void)pthread_mutex_lock(&l->lock);
    for (; *at != NULL && count < NEF_BUDGET_ENTRIES_MAX; *at = (*at)->batch) {
        struct nef_limits_user *u = *at;
        struct nef_budget_entry entry;

        if (!nef_budget_wants(&u->budget, now_ms(), &u->whole, &entry))
            continue;
        entry.user = (struct nef_text){u->access_key, (uint32_t)strlen(u->access_key)};
        nef_budget_entry_put(entries, &entry);
        count++;
    }
    (void)pthread_mutex_unlock(&l->lock);
    return count;
}

static nef_err propose(struct nef_limits *l, uint32_t count, const struct nef_buf *entries)
{
    struct nef_op op = {.type = NEF_RECORD_BUDGET};
    nef_err err = nef_buf_end(entries);

    if (err != NEF_OK)
        return err;
    op.u.budget = (struct nef_op_budget){.zone = {l->options.zone, (uint32_t)strlen(l->options.zone)},
                                         .start = nef_runtime_proposer(l->options.rt),
                                         .count = count,
                                         .entries = entries->data,
                                         .entries_bytes = (uint32_t)entries->bytes};
    return nef_region_propose(l->options.rt, l->options.keys, 0, &op);
}

static void work(struct nef_limits *l)
{
    struct nef_buf entries = {0};
    struct nef_limits_user *all, *at;
    bool proposed = false, failed = false;

    (void)pthread_mutex_lock(&l->lock);
    all = gather(l);
    (void)pthread_mutex_unlock(&l->lock);
    look(l, all);
    for (at = all; at != NULL;) {
        uint32_t count;
        nef_err err;

        nef_buf_reset(&entries);
        count = collect(l, &at, &entries);
        if (count == 0)
            break;
        err = propose(l, count, &entries);
        proposed = true;
        if (err != NEF_OK) {
            nef_trace(NEF_TRACE_WARN, "budget_op_failed", "u:users", (uint64_t)count, "e:err", (int)err, NULL);
            failed = true;
        }
        (void)pthread_mutex_lock(&l->lock);
        l->stats.proposals++;
        l->stats.proposals_failed += err != NEF_OK;
        (void)pthread_mutex_unlock(&l->lock);
    }
    nef_buf_free(&entries);
    if (proposed)
        look(l, all);
    (void)pthread_mutex_lock(&l->lock);
    if (proposed)
        l->failing = failed;
    for (at = all; at != NULL; at = at->batch) {
        at->holds--;
        wake_all(at);
    }
    (void)pthread_mutex_unlock(&l->lock);
}

static void *run(void *context)
{
    struct nef_limits *l = context;
    uint64_t worked = 0;

    (void)pthread_mutex_lock(&l->lock);
    while (!l->stopping) {
        struct timespec until;
        uint64_t at;

        if (!l->hurry) {
            (void)clock_gettime(CLOCK_MONOTONIC, &until);
            at = (uint64_t)until.tv_nsec + TICK_MS * MS;
            until.tv_sec += (time_t)(at / (1000 * MS));
            until.tv_nsec = (long)(at % (1000 * MS));
            (void)pthread_cond_timedwait(&l->cond, &l->lock, &until);
        }
        if (l->stopping)
            break;
        l->hurry = false;
        (void)pthread_mutex_unlock(&l->lock);
        /* Who was woken and still has to wait comes back at once: not faster than an op takes. */
        at = now_ms();
        if (at - worked < PAUSE_MS)
            (void)usleep((unsigned)(PAUSE_MS - (at - worked)) * 1000);
        worked = now_ms();
        work(l);
        (void)pthread_mutex_lock(&l->lock);
    }
    (void)pthread_mutex_unlock(&l->lock);
    return NULL;
}

nef_err nef_limits_start(const struct nef_limits_options *options, struct nef_limits **out_limits)
{
    struct nef_limits *l = calloc(1, sizeof(*l));
    pthread_condattr_t attr;

    if (l == NULL)
        return NEF_E_NOMEM;
    l->options = *options;
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&l->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    if (pthread_create(&l->thread, NULL, run, l) != 0) {
        (void)pthread_cond_destroy(&l->cond);
        (void)pthread_mutex_destroy(&l->lock);
        free(l);
        return NEF_E_SYSTEM;
    }
    *out_limits = l;
    return NEF_OK;
}

void nef_limits_stop(struct nef_limits *limits)
{
    if (limits == NULL)
        return;
    (void)pthread_mutex_lock(&limits->lock);
    limits->stopping = true;
    (void)pthread_cond_signal(&limits->cond);
    (void)pthread_mutex_unlock(&limits->lock);
    (void)pthread_join(limits->thread, NULL);
    for (uint32_t i = 0; i < BUCKETS; i++)
        while (limits->users[i] != NULL) {
            struct nef_limits_user *u = limits->users[i];

            NEF_ASSERT(u->holds == 0 && u->waits == NULL);
            limits->users[i] = u->next;
            free(u);
        }
    (void)pthread_cond_destroy(&limits->cond);
    (void)pthread_mutex_destroy(&limits->lock);
    free(limits);
}

void nef_limits_stats(struct nef_limits *limits, struct nef_limits_stats *out_stats)
{
    (void)pthread_mutex_lock(&limits->lock);
    *out_stats = limits->stats;
    (void)pthread_mutex_unlock(&limits->lock);
}
