/* Error codes: one list for the whole program.
 *
 * Every function that can fail returns `nef_err`, must be checked, and leaves its `out_` parameters
 * untouched on failure. Codes are grouped by what the caller does with them: retry later, refuse the
 * request, repair the data, or stop the process. s3/error.c maps them to S3's codes; nothing else
 * may translate them. Texts are for operators and never contain customer data. */
#ifndef NEF_BASE_ERR_H
#define NEF_BASE_ERR_H

#define NEF_MUST_CHECK __attribute__((warn_unused_result))
#define NEF_PRINTF(a, b) __attribute__((format(printf, a, b)))

/* X(name, text) */
#define NEF_ERR_LIST(X)                                                                            \
    X(OK, "ok")                                                                                    \
    /* retry: the same call may succeed later */                                                   \
    X(E_AGAIN, "not ready yet")                                                                    \
    X(E_BUSY, "too much is waiting already")                                                       \
    X(E_TIMEOUT, "timed out")                                                                      \
    X(E_UNAVAILABLE, "the region can't serve this now")                                            \
    X(E_NOT_PRIMARY, "this replica isn't the primary")                                             \
    X(E_PEER, "the peer is not reachable")                                                         \
    X(E_CLOSED, "closed")                                                                          \
    /* refuse: the request, the file or the caller is wrong */                                     \
    X(E_INVALID, "invalid argument")                                                               \
    X(E_PROTOCOL, "malformed message")                                                             \
    X(E_RANGE, "out of range")                                                                     \
    X(E_LIMIT, "a limit is exceeded")                                                              \
    X(E_NOT_FOUND, "not found")                                                                    \
    X(E_EXISTS, "exists already")                                                                  \
    X(E_NOT_EMPTY, "not empty")                                                                    \
    X(E_PRECONDITION, "a precondition failed")                                                     \
    X(E_DENIED, "access denied")                                                                   \
    X(E_DIGEST, "a digest doesn't match")                                                          \
    X(E_UNSUPPORTED, "not supported")                                                              \
    X(E_VERSION, "unknown format version")                                                         \
    X(E_CONFIG, "configuration error")                                                             \
    X(E_KEY, "the key isn't available")                                                            \
    X(E_NO_BUCKET, "no such bucket")                                                               \
    X(E_NO_UPLOAD, "no such upload")                                                               \
    X(E_BAD_PART, "a part is missing or doesn't match")                                            \
    X(E_PART_ORDER, "parts are not in ascending order")                                            \
    X(E_PART_SIZE, "a part is too small")                                                          \
    X(E_DURABILITY, "the bucket refuses writes while a zone is away")                              \
    /* repair: bytes at rest aren't what was written */                                            \
    X(E_CORRUPT, "corrupt data")                                                                   \
    X(E_TORN, "torn write")                                                                        \
    X(E_DAMAGED, "damaged log, repair from the peer needed")                                       \
    X(E_ROLLED_BACK, "the disk holds an older state than the region acknowledged")                 \
    /* stop: this process can't go on */                                                           \
    X(E_IO, "input/output error")                                                                  \
    X(E_NOSPACE, "no space left on the disk")                                                      \
    X(E_NOMEM, "out of memory")                                                                    \
    X(E_SYSTEM, "system call failed")                                                              \
    X(E_CRYPTO, "cryptographic operation failed")

typedef enum nef_err {
#define X(name, text) NEF_##name,
    NEF_ERR_LIST(X)
#undef X
} nef_err;

/* Name ("E_CORRUPT") and text of a code; static strings, valid forever, never NULL. */
const char *nef_err_name(nef_err err);
const char *nef_err_text(nef_err err);

#endif
