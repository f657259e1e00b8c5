/* HTTP exchanges with large bodies, over libcurl: models fetched from elsewhere, objects stored in a region. Blocking;
 * for commands, not for a zone. What comes is given on as it comes and nothing is sent twice: whoever calls decides
 * whether to try again. Small calls inside a region are http_client.h's. */
#ifndef NEF_IO_FETCH_H
#define NEF_IO_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

#define NEF_FETCH_REDIRECTS_MAX 10

/* Keeps connections between calls. One thread at a time, and not from a callback of its own call. */
struct nef_fetcher;
NEF_MUST_CHECK nef_err nef_fetcher_new(struct nef_fetcher **out_fetcher);
void nef_fetcher_free(struct nef_fetcher *fetcher);

struct nef_fetch {
    const char *method;         /* NULL: GET */
    const char *url;            /* http or https */
    const char *const *headers; /* "Name: value" */
    uint32_t header_count;
    const char *bearer; /* NULL: none. Given to the host and port of `url` only, not to where it redirects */
    const void *body;   /* NULL: none; borrowed for the call */
    size_t body_bytes;
    const char *ca;      /* PEM file; NULL: the system's roots */
    bool follow;         /* redirects; from https only to https */
    bool proxies;        /* those of the environment; else none */
    uint32_t connect_ms; /* 0: 10000 */
    uint32_t stall_s;    /* without a byte for so long: NEF_E_TIMEOUT; 0: 30 */

    void *context;
    /* Each header of each answer, in order; hop 0 is the first answer. Name in lower case. False: stop. May be NULL. */
    bool (*header)(void *context, uint32_t hop, long status, const char *name, const char *value);
    /* Body of the last answer. False: stop. */
    bool (*data)(void *context, long status, const uint8_t *data, size_t bytes);
};

struct nef_fetch_result {
    long status;        /* of the last answer; 0: there was none */
    uint32_t redirects; /* that were followed */
    char error[384];    /* why it failed; without credentials and without what follows '?' in an address */
};

/* NEF_OK: an answer came whole, whatever its status. NEF_E_CLOSED: a callback said stop. NEF_E_PEER: no connection, so
 * nothing was sent. NEF_E_TIMEOUT: stalled. NEF_E_UNAVAILABLE: cut off, or fewer bytes came than were announced.
 * NEF_E_DENIED: TLS can't be trusted. NEF_E_PROTOCOL: no HTTP, or a redirect that isn't followed. NEF_E_INVALID: the
 * URL isn't one. NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_fetch(struct nef_fetcher *fetcher, const struct nef_fetch *fetch,
                                 struct nef_fetch_result *out_result);

#endif
