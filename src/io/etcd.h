/* Client of etcd (3.4 and later) through its JSON gateway, over mutual TLS.
 *
 * What matters is what an answer proves. A read is linearizable (never served from one member's own
 * state). A compare-and-swap has three outcomes:
 *
 *   WON      etcd said that the value is written.
 *   LOST     etcd said that the key has another revision; that and its value are in the answer.
 *   UNKNOWN  anything else once a byte of the request may have left: no answer in time, a broken
 *            connection, an error of the gateway ("request timed out", "leader changed", any other), an
 *            answer that can't be understood. The write may have happened, or may still happen.
 *
 * Only what was certainly not sent (connection refused, TLS failed) is tried at the next member, in the
 * order given, own member first; if nobody could be reached the outcome is UNKNOWN too, which is always
 * safe to assume. libcurl may send a request a second time when a kept connection turns out to be dead;
 * the second is then LOST against the first, so values must be unique (they carry a nonce): an answer
 * "LOST" that shows our own value is reported as WON.
 *
 * A member that failed is tried last for a few seconds. Each call to each member takes timeout_ms at most.
 * Blocking; a handle belongs to one thread at a time. */
#ifndef NEF_IO_ETCD_H
#define NEF_IO_ETCD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

#define NEF_ETCD_MEMBERS_MAX 9u    /* more members than etcd is good with */
#define NEF_ETCD_KEY_MAX     256u
#define NEF_ETCD_VALUE_MAX   (256u << 10) /* base64 and JSON around it stay below NEF_ETCD_ANSWER_MAX */

struct nef_etcd;

struct nef_etcd_options {
    const char *const *endpoints; /* "https://host:port"; own member first; copied */
    uint32_t endpoint_count;
    const char *ca, *cert, *key; /* PEM files; all or, for http://, none */
    uint32_t timeout_ms;         /* per call and member; 0: 200 */
};

NEF_MUST_CHECK nef_err nef_etcd_new(const struct nef_etcd_options *options, struct nef_etcd **out_etcd);
void nef_etcd_free(struct nef_etcd *etcd);
void nef_etcd_set_timeout(struct nef_etcd *etcd, uint32_t timeout_ms);

/* Why the last call failed, for the operator: "https://10.0.0.1:2379: etcdserver: no leader". Never NULL;
 * valid until the next call. */
const char *nef_etcd_error(const struct nef_etcd *etcd);

/* Linearizable read. out_value is reset first (its memory is reused) and is empty if the key is absent
 * (revision 0). Errors: NEF_E_UNAVAILABLE: no member gave an answer. */
NEF_MUST_CHECK nef_err nef_etcd_get(struct nef_etcd *etcd, const char *key, struct nef_buf *out_value,
                                    uint64_t *out_revision);

enum nef_etcd_outcome { NEF_ETCD_WON, NEF_ETCD_LOST, NEF_ETCD_UNKNOWN };

/* Write VALUE if the key's revision is EXPECTED (0: absent). out_revision: the new one (WON) or the other
 * one (LOST; 0 and an empty out_value: absent); both untouched if UNKNOWN. out_value may be NULL. */
NEF_MUST_CHECK enum nef_etcd_outcome nef_etcd_cas(struct nef_etcd *etcd, const char *key,
                                                  uint64_t expected, const void *value, size_t bytes,
                                                  struct nef_buf *out_value, uint64_t *out_revision);

/* ---- members; indexes are those of options.endpoints ---- */

struct nef_etcd_status {
    uint64_t member_id; /* of the member that answered */
    uint64_t leader_id; /* 0: it knows none */
    uint64_t raft_term;
    uint64_t raft_index;
    uint64_t db_bytes;
    char version[32];
};
/* What the member at ENDPOINT says of itself. NEF_E_UNAVAILABLE: no answer. */
NEF_MUST_CHECK nef_err nef_etcd_status(struct nef_etcd *etcd, uint32_t endpoint,
                                       struct nef_etcd_status *out_status);

/* Its /health, which includes a linearizable read: NEF_OK: healthy. NEF_E_UNAVAILABLE otherwise. */
NEF_MUST_CHECK nef_err nef_etcd_health(struct nef_etcd *etcd, uint32_t endpoint);

struct nef_etcd_member {
    uint64_t id;
    char name[64]; /* "" before its first start */
    char client_url[256]; /* the first one; "" if there is none */
};
/* The cluster's members as any member knows them. out has room for NEF_ETCD_MEMBERS_MAX. */
NEF_MUST_CHECK nef_err nef_etcd_members(struct nef_etcd *etcd, struct nef_etcd_member *out_members,
                                        uint32_t *out_count);

/* Make MEMBER_ID the leader. Only the leader accepts this, so all endpoints are asked in turn. NEF_OK: it
 * is the leader now (or was already). NEF_E_UNAVAILABLE: nobody would, or the transfer didn't finish. */
NEF_MUST_CHECK nef_err nef_etcd_transfer_leader(struct nef_etcd *etcd, uint64_t member_id);

#endif
