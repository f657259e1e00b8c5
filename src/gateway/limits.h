/* AI rights and budgets of the region's users, as the gateway asks for them.
 *
 * Rights (struct nef_user_ai, store.h) are part of the user's record. Budgets are requests and tokens in any 60
 * seconds, and answers at once, of a user over the whole region. Each zone spends from a lease that it asks of cell 0:
 * the op NEF_RECORD_BUDGET is decided when it is applied, from the user's row G alone (store/budget.h), so what both
 * zones hold never exceeds the whole. What a zone needs is worked out by budget.c (pure); this is the thread that
 * proposes ops for it, and the door for requests. A user without any budget costs nothing here.
 *
 *   take --> NEF_OK, run, settle
 *        --> NEF_E_AGAIN: an op is under way that may allow it (some milliseconds; at most NEF_LIMITS_WAIT_MS); again
 * on wake
 *        --> NEF_E_BUSY: 429, with the numbers for x-ratelimit-* and Retry-After
 *        --> NEF_E_UNAVAILABLE: the region grants nothing to anyone now: 503
 *
 * Not here: which backend answers, and weights and priorities between requests (they go to the engine and to route.c).
 * Threads: any, but the runtime's callbacks. */
#ifndef NEF_GATEWAY_LIMITS_H
#define NEF_GATEWAY_LIMITS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "keys/keys.h"
#include "server/runtime.h"
#include "store/store.h"

#define NEF_LIMITS_WAIT_MS 1500u /* a request waits so long for a lease that another zone may give up */

/* Who asks: filled by the gateway's authentication. The root user is `root` and has all rights, no budgets, weight 1.
 * */
struct nef_ai_user {
    char access_key[64]; /* also the owner of stored responses */
    bool root;
    struct nef_user_ai ai;
};
void nef_ai_user_root(struct nef_ai_user *user, const char *access_key);

/* May this user ask MODEL; may it be computed in ZONE. Lists are of names and commas, or "*"; empty allows none. */
bool nef_ai_allows_model(const struct nef_ai_user *user, const char *model);
bool nef_ai_allows_zone(const struct nef_ai_user *user, const char *zone);

struct nef_limits;

struct nef_limits_options {
    struct nef_runtime *rt; /* borrowed until stop */
    struct nef_keys *keys;  /* borrowed until stop */
    const char *zone;       /* this zone's name; borrowed until stop */
};

NEF_MUST_CHECK nef_err nef_limits_start(const struct nef_limits_options *options, struct nef_limits **out_limits);
/* When nothing is held or waiting any more, and before nef_runtime_stop (it may take request_hold). NULL is accepted.
 * */
void nef_limits_stop(struct nef_limits *limits);

/* For the headers of any answer, also of a 429. limit 0: this user has no such budget, send no header. */
struct nef_limits_room {
    uint64_t limit;
    uint64_t remaining;
    uint64_t reset_ms; /* until all of it is there again if nothing is spent */
};
struct nef_limits_now {
    struct nef_limits_room requests, tokens;
    uint32_t retry_after_ms; /* with NEF_E_BUSY */
    bool concurrency;        /* with NEF_E_BUSY: it is the number of answers at once that is used up */
};

/* One request's hold on its user's budget. Zero it, use the same one for every call. */
struct nef_limits_hold {
    struct nef_limits_user *user; /* NULL: holds nothing */
    struct nef_limits_wait *wait; /* NULL: isn't waiting */
    bool taken;
    uint64_t tokens;
    uint64_t first_ns;
};

/* TOKENS: what the request will use at most, as far as can be told: prompt and answer. More than the user's whole
 * budget counts as the whole. NEF_OK: held until settled; NEF_E_AGAIN: WAKE(context) is called once, from any thread,
 * when it is worth calling again, and must neither block nor call back; NEF_E_BUSY, NEF_E_UNAVAILABLE: refused.
 * NEF_E_NOMEM. *out_now is written in every case. */
NEF_MUST_CHECK nef_err nef_limits_take(struct nef_limits *limits, const struct nef_ai_user *user, uint64_t tokens,
                                       struct nef_limits_hold *hold, void (*wake)(void *context), void *context,
                                       struct nef_limits_now *out_now);
/* The request has ended, with TOKENS really used (0 if nothing was computed), or is given up while it waits. When it
 * returns, wake isn't called any more. A hold that holds nothing is accepted. */
void nef_limits_settle(struct nef_limits *limits, struct nef_limits_hold *hold, uint64_t tokens);

/* An answer that another process began goes on here (a zone was lost): it counts from now on, with TOKENS as what is
 * left to compute of it, and is settled with what was computed here. It can't be refused any more, and it was a request
 * when it began; whatever else this user asks waits for what it takes. NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_limits_adopt(struct nef_limits *limits, const struct nef_ai_user *user, uint64_t tokens,
                                        struct nef_limits_hold *hold);

/* A guess of the tokens of a prompt of TEXT_BYTES: for take, where no tokenizer is at hand. */
static inline uint64_t nef_limits_guess(uint64_t text_bytes)
{
    return text_bytes / 3 + 16;
}

struct nef_limits_stats {
    uint64_t taken, refused, waited; /* requests since the start */
    uint64_t proposals, proposals_failed;
    uint32_t users; /* with a budget that were active lately */
};
void nef_limits_stats(struct nef_limits *limits, struct nef_limits_stats *out_stats);

#endif
