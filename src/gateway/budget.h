/* What one zone does with one user's AI budget: spend, ask for more, give back. PURE: times come in, ops go out.
 *
 * What ops mean, and why the sum over zones never exceeds the whole, is in store/budget.h. Here is the zone's side of
 * it:
 *
 *   - it spends only below the limit that an applied op gave it, and only for NEF_BUDGET_LEASE_MS from when it sent
 * that op;
 *   - when it asks for less, it keeps to that from before the op is sent, until an op that counts has told otherwise;
 *   - what any zone had spent when this one saw it is claimed as `base` NEF_BUDGET_WINDOW_MS later;
 *   - the lease of a zone of which nothing new was seen for NEF_BUDGET_OVER_MS is claimed to be over.
 * Both windows are longer than what they stand for, so that clocks may run 1 % apart; only differences of one
 * monotonic clock count, so it may show anything, and a process that starts anew knows nothing and claims later.
 *
 * A zone holds what it will need in the next seconds, by what was asked of it lately, and nothing when it is idle: the
 * rest lies in the log for whoever asks. So an idle zone's share is at once what a busy one can have, and a lost zone
 * takes little with it.
 *
 * Tokens are reserved when a request is taken, and count as spent when it ends. An answer that was longer than
 * reserved is spent all the same, and paid off before anything else is taken. One thread at a time. */
#ifndef NEF_GATEWAY_BUDGET_H
#define NEF_GATEWAY_BUDGET_H

#include <stdbool.h>
#include <stdint.h>
#include "store/budget.h"

#define NEF_BUDGET_WINDOW_MS 61000u /* a minute */
#define NEF_BUDGET_LEASE_MS  5000u  /* longer than a failover */
#define NEF_BUDGET_OVER_MS   6000u
#define NEF_BUDGET_RENEW_MS  1250u
#define NEF_BUDGET_ACTIVE_MS 2000u /* a zone is idle when it took nothing for so long */

#define NEF_BUDGET_SAMPLES 72u /* one a second, of more than a window */

struct nef_budget_past { /* what a zone had spent, and when that was seen */
    struct nef_budget_sample {
        uint64_t from_ms, at_ms;
        uint64_t spent[NEF_BUDGET_RESOURCES];
    } ring[NEF_BUDGET_SAMPLES];
    uint32_t first, count;
    uint64_t base[NEF_BUDGET_RESOURCES]; /* of the last sample that is a window old */
};

struct nef_budget {
    char zone[NEF_ZONE_NAME_MAX + 1];
    uint64_t start;
    struct nef_budget_state row; /* as seen last */
    struct {
        uint64_t start, number;
        uint64_t since_ms; /* when these were seen first */
        struct nef_budget_past past;
    } seen[NEF_REPLICA_MAX]; /* as row.zones */

    uint64_t spent[NEF_BUDGET_RESOURCES];
    uint64_t reserved; /* tokens of what runs */
    uint32_t running;
    uint64_t until_ms; /* of the lease; 0: none */

    bool asked; /* ops were sent for the row's (start, number) */
    uint64_t asked_first_ms, asked_last_ms;
    uint64_t asked_limit[NEF_BUDGET_RESOURCES]; /* the least of them */
    uint32_t asked_slots;

    uint64_t pending[NEF_BUDGET_RESOURCES]; /* what was asked of this zone and isn't there */
    uint32_t pending_slots;
    uint64_t demand[NEF_BUDGET_RESOURCES]; /* taken lately: halved every second */
    uint64_t halved_ms, active_ms;
    bool active;
};

void nef_budget_init(struct nef_budget *b, const char *zone, uint64_t start);

/* The user's row G was read. Call it after every op and from time to time. */
void nef_budget_saw(struct nef_budget *b, uint64_t now_ms, const struct nef_budget_state *row);

enum nef_budget_verdict {
    NEF_BUDGET_TAKEN, /* settle it later */
    NEF_BUDGET_WAIT,  /* an op may bring it */
    NEF_BUDGET_REFUSED,
};
/* TOKENS are limited to the whole; *out_tokens: what was reserved (with TAKEN). */
enum nef_budget_verdict nef_budget_take(struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole,
                                        uint64_t tokens, uint64_t *out_tokens);
void nef_budget_settle(struct nef_budget *b, uint64_t now_ms, uint64_t reserved, uint64_t used);
/* An answer that another process began goes on here: it runs and has TOKENS reserved (at most the whole) as if taken,
 * but it was a request there, and it isn't refused: nothing else is taken until the log has given room for it. Settle
 * it later. */
void nef_budget_adopt(struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole, uint64_t tokens,
                      uint64_t *out_tokens);

/* Is there an op to propose now? It then counts as sent: propose it at once, with START and ZONE of init. entry->user
 * isn't set; the claims borrow from b->row. */
bool nef_budget_wants(struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole,
                      struct nef_budget_entry *out_entry);

/* Left for anyone in the region, and how long until AMOUNT (at most the whole) is there at the latest; 0: now. */
uint64_t nef_budget_left(const struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole,
                         unsigned resource);
uint64_t nef_budget_wait_ms(const struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole,
                            unsigned resource, uint64_t amount);
/* Nothing runs, is held or was spent lately: what is known may be forgotten. */
bool nef_budget_idle(const struct nef_budget *b, uint64_t now_ms);

#endif
