/* The S3 service of a zone: a listener, a pool of workers and what is between them and the runtime.
 *
 * Files (all share s3_internal.h):
 *   s3_service.c    start and stop; the life of a request: open, begin, body, end, closed
 *   s3_call.c       what all operations use: waiting, refusing, answering, the access log line
 *   s3_auth.c       credentials, signing keys, who may do what
 *   s3_intake.c     a request's body: aws-chunked, digests, verification
 *   s3_stream.c     an object's body on its way into the log: pieces, back-pressure, abort
 *   s3_put.c        PutObject, UploadPart
 *   s3_get.c        GetObject, HeadObject
 *   s3_delete.c     DeleteObject, DeleteObjects
 *   s3_copy.c       CopyObject, UploadPartCopy
 *   s3_multipart.c  create, complete, abort; s3_parts.c lists of parts and uploads
 *   s3_list.c       listings of objects
 *   s3_bucket.c     buckets
 *
 * PUT, GET, HEAD and DELETE of objects never hold a thread while they wait; everything else runs in
 * the worker pool, whose queue is bounded (503 SlowDown). */
#ifndef NEF_SERVER_S3_SERVICE_H
#define NEF_SERVER_S3_SERVICE_H

#include <stdint.h>
#include "base/err.h"
#include "server/config.h"
#include "server/metrics.h"
#include "server/runtime.h"

struct nef_s3_service;

struct nef_s3_service_options {
    const struct nef_zone_config *config;    /* borrowed until stop */
    const struct nef_root_credentials *root; /* copied to locked memory */
    struct nef_runtime *rt;                  /* borrowed until stop */
    struct nef_keys *keys;                   /* borrowed until stop */
    struct nef_metrics *metrics;             /* with nef_s3_operation_names; borrowed until stop */
};

/* Names of operations for nef_metrics_new; nef_s3_op is the index. */
const char *const *nef_s3_operation_names(uint32_t *out_count);

/* Listens when it returns. NEF_E_CONFIG, NEF_E_NOMEM, NEF_E_SYSTEM. */
NEF_MUST_CHECK nef_err nef_s3_service_start(const struct nef_s3_service_options *options,
                                            struct nef_s3_service **out_service);
uint16_t nef_s3_service_port(const struct nef_s3_service *service);
uint32_t nef_s3_service_connections(const struct nef_s3_service *service);
uint32_t nef_s3_service_queue(const struct nef_s3_service *service);
/* Before nef_runtime_stop, which must go on calling back until this returns: takes no new
 * connections, lets requests end for GRACE_MS, cuts what is left, waits for what the runtime still
 * holds (at most request_hold), frees. NULL is accepted. */
void nef_s3_service_stop(struct nef_s3_service *service, uint32_t grace_ms);

#endif
