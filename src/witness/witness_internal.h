/* What the witness's two threads share: the main thread looks around and fills `seen`; the
 * listener's thread shows it. */
#ifndef NEF_WITNESS_WITNESS_INTERNAL_H
#define NEF_WITNESS_WITNESS_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/limits.h"
#include "io/etcd.h"
#include "server/config.h"

#define NEF_WITNESS_ZONES_MAX 8u /* shown; more are asked for nothing */

struct nef_witness_zone_seen {
    char name[NEF_ZONE_NAME_MAX + 1];
    bool answers, ready;
    bool clock_known;
    int64_t clock_ms; /* its wall time minus ours */
};

struct nef_witness_seen {
    bool member_answers;
    struct nef_etcd_status member;
    uint64_t at_ms; /* nef_now_ms of that answer */
    uint64_t transfers, transfer_failures;
    char error[256]; /* why etcd doesn't answer; "" */
    struct nef_witness_zone_seen zones[NEF_WITNESS_ZONES_MAX];
    uint32_t zone_count;
};

struct nef_witness {
    struct nef_witness_config config;
    char token[NEF_TOKEN_BYTES], metrics_token[NEF_TOKEN_BYTES];
    pthread_mutex_t lock;
    struct nef_witness_seen seen; /* lock */
};

/* ---- leadership: when to take it back (pure) ----
 *
 * Leadership taken back at once is what makes the loss of a zone cost no election. But a witness
 * behind a bad link would make an election of every try; so each time leadership is lost again soon
 * after it was taken, the pause before the next try doubles, up to NEF_LEADER_GAP_MAX_MS, and
 * NEF_LEADER_GAP_MAX_MS of quiet leadership makes it short again. */
#define NEF_LEADER_GAP_MIN_MS 1000u
#define NEF_LEADER_GAP_MAX_MS 60000u

struct nef_leader_policy {
    uint64_t gap_ms; /* 0: NEF_LEADER_GAP_MIN_MS */
    uint64_t tried_ms;
    uint64_t leads_since_ms; /* 0: it doesn't lead */
};
/* What the own member says: its id, and whom it takes for the leader (0: nobody). True: try now. */
bool nef_leader_wants(struct nef_leader_policy *policy, uint64_t now_ms, uint64_t member_id,
                      uint64_t leader_id);

/* ---- the admin listener ---- */
struct nef_http;
NEF_MUST_CHECK nef_err nef_witness_listen(struct nef_witness *w, struct nef_http **out_http);
/* The bodies of /status and /metrics, and whether the witness is ready (pure, but for the clock). */
void nef_witness_status_text(const struct nef_witness *w, const struct nef_witness_seen *seen,
                             struct nef_buf *out);
void nef_witness_metrics_text(const struct nef_witness *w, const struct nef_witness_seen *seen,
                              struct nef_buf *out);
bool nef_witness_ready(const struct nef_witness_seen *seen, uint64_t now_ms);

#endif
