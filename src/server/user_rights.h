/* A user's AI rights as the admin API says them:
 *
 *   {"models": "*" | [name...], "zones": "*" | [name...], "requests_min": n, "tokens_min": n, "concurrency": n,
 *    "weight": 1..1000, "priority": 0..9}
 *
 * What isn't said stays as it is. PURE. */
#ifndef NEF_SERVER_USER_RIGHTS_H
#define NEF_SERVER_USER_RIGHTS_H

#include <jansson.h>
#include "store/store.h"

/* Change *AI as VALUE says: null takes all rights away, an object gives them. NULL, or why not (a static text; then *AI
 * is unchanged). Rights that are given anew begin with no models, no zones, no limits, weight 1, priority 0. */
const char *nef_user_ai_change(struct nef_user_ai *ai, const json_t *value);
/* New reference; null for a user without rights. NULL: out of memory. */
json_t *nef_user_ai_json(const struct nef_user_ai *ai);

#endif
