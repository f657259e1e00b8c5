/* One HTTP call, over libcurl: admin listeners, the witness, etcd's cluster API. Blocking; any
 * thread; nothing is kept between calls and nothing is sent twice. Proxies of the environment are
 * ignored: these are addresses of the region. Redirects aren't followed. */
#ifndef NEF_IO_HTTP_CLIENT_H
#define NEF_IO_HTTP_CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

#define NEF_HTTP_ANSWER_MAX ((size_t)16 << 20) /* /metrics of a large region stays far below */

struct nef_http_call {
    const char *method; /* NULL: GET, or POST when there is a body */
    const char *url;
    const char *bearer;       /* NULL: no Authorization */
    const char *content_type; /* NULL: application/json when there is a body */
    const void *body;         /* NULL: none */
    size_t body_bytes;
    uint32_t timeout_ms;         /* 0: 5000; of the whole call */
    const char *ca, *cert, *key; /* PEM files; NULL: system's roots, no client certificate */
    const char *unix_socket;     /* NULL: by the URL's host and port */
};

struct nef_http_answer {
    long status;         /* 200 ... */
    struct nef_buf body; /* zeroed before the call, or reused (it is reset) */
    char error[512];     /* why there was no answer */
};

/* NEF_OK: some answer came, whatever its status. NEF_E_PEER: nobody there, so nothing was sent.
 * NEF_E_TIMEOUT, NEF_E_UNAVAILABLE: no answer, though the call may have been received. NEF_E_LIMIT:
 * it is larger than NEF_HTTP_ANSWER_MAX. NEF_E_NOMEM. answer->error says why; the body is the
 * caller's to free. */
NEF_MUST_CHECK nef_err nef_http_do(const struct nef_http_call *call,
                                   struct nef_http_answer *answer);

#endif
