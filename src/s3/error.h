/* S3's errors: one table of code, HTTP status and message, the map from nef_err, and the Error
 * document.
 *
 * A function of s3/ that refuses a request returns a nef_err that isn't NEF_OK and has then filled
 * its `why`, so the HTTP layer answers with nef_s3_error_status and nef_s3_error_document. Messages
 * are Amazon's where Amazon publishes one (API reference, "Error responses"), since clients show
 * and some even compare them. An error holds what its own client sent (keys, header values): never
 * trace it. */
#ifndef NEF_S3_ERROR_H
#define NEF_S3_ERROR_H

#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

/* X(name, code, status, message) */
#define NEF_S3_ERROR_LIST(X)                                                                       \
    X(INTERNAL_ERROR, "InternalError", 500, "We encountered an internal error. Please try again.") \
    X(NOT_MODIFIED, "NotModified", 304, "Not Modified")                                            \
    X(ACCESS_CONTROL_LIST_NOT_SUPPORTED, "AccessControlListNotSupported", 400,                     \
      "The bucket does not allow ACLs")                                                            \
    X(ACCESS_DENIED, "AccessDenied", 403, "Access Denied")                                         \
    X(ACCESS_FORBIDDEN, "AccessForbidden", 403,                                                    \
      "CORSResponse: CORS is not enabled for this bucket.")                                        \
    X(AUTHORIZATION_HEADER_MALFORMED, "AuthorizationHeaderMalformed", 400,                         \
      "The authorization header that you provided is not valid.")                                  \
    X(AUTHORIZATION_QUERY_PARAMETERS_ERROR, "AuthorizationQueryParametersError", 400,              \
      "The authorization query parameters that you provided are not valid.")                       \
    X(BAD_DIGEST, "BadDigest", 400,                                                                \
      "The Content-MD5 or checksum value that you specified did not match what the server "        \
      "received.")                                                                                 \
    X(BAD_REQUEST, "BadRequest", 400, "Bad Request")                                               \
    X(BUCKET_ALREADY_EXISTS, "BucketAlreadyExists", 409,                                           \
      "The requested bucket name is not available. The bucket namespace is shared by all users "   \
      "of the system. Please select a different name and try again.")                              \
    X(BUCKET_ALREADY_OWNED_BY_YOU, "BucketAlreadyOwnedByYou", 409,                                 \
      "Your previous request to create the named bucket succeeded and you already own it.")        \
    X(BUCKET_NOT_EMPTY, "BucketNotEmpty", 409, "The bucket you tried to delete is not empty")      \
    X(CONDITIONAL_REQUEST_CONFLICT, "ConditionalRequestConflict", 409,                             \
      "A conflicting operation occurred during the request to this resource.")                     \
    X(ENTITY_TOO_LARGE, "EntityTooLarge", 400,                                                     \
      "Your proposed upload exceeds the maximum allowed size")                                     \
    X(ENTITY_TOO_SMALL, "EntityTooSmall", 400,                                                     \
      "Your proposed upload is smaller than the minimum allowed size")                             \
    X(ILLEGAL_LOCATION_CONSTRAINT, "IllegalLocationConstraintException", 400,                      \
      "The specified location constraint is incompatible for the region specific endpoint this "   \
      "request was sent to.")                                                                      \
    X(INCOMPLETE_BODY, "IncompleteBody", 400,                                                      \
      "You did not provide the number of bytes specified by the Content-Length HTTP header")       \
    X(INVALID_ACCESS_KEY_ID, "InvalidAccessKeyId", 403,                                            \
      "The AWS Access Key Id you provided does not exist in our records.")                         \
    X(INVALID_ARGUMENT, "InvalidArgument", 400, "Invalid Argument")                                \
    X(INVALID_BUCKET_NAME, "InvalidBucketName", 400, "The specified bucket is not valid.")         \
    X(INVALID_DIGEST, "InvalidDigest", 400, "The Content-MD5 you specified was invalid.")          \
    X(INVALID_ENCRYPTION_ALGORITHM, "InvalidEncryptionAlgorithmError", 400,                        \
      "The encryption request that you specified is not valid. The valid value is AES256.")        \
    X(INVALID_LOCATION_CONSTRAINT, "InvalidLocationConstraint", 400,                               \
      "The specified location-constraint is not valid")                                            \
    X(INVALID_OBJECT_STATE, "InvalidObjectState", 403,                                             \
      "The operation is not valid for the current state of the object.")                           \
    X(INVALID_PART, "InvalidPart", 400,                                                            \
      "One or more of the specified parts could not be found.  The part may not have been "        \
      "uploaded, or the specified entity tag may not match the part's entity tag.")                \
    X(INVALID_PART_NUMBER, "InvalidPartNumber", 416,                                               \
      "The requested partnumber is not satisfiable")                                               \
    X(INVALID_PART_ORDER, "InvalidPartOrder", 400,                                                 \
      "The list of parts was not in ascending order. Parts must be ordered by part number.")       \
    X(INVALID_RANGE, "InvalidRange", 416, "The requested range is not satisfiable")                \
    X(INVALID_REQUEST, "InvalidRequest", 400, "Invalid Request")                                   \
    X(INVALID_STORAGE_CLASS, "InvalidStorageClass", 400,                                           \
      "The storage class you specified is not valid")                                              \
    X(INVALID_TOKEN, "InvalidToken", 400, "The provided token is malformed or otherwise invalid.") \
    X(INVALID_URI, "InvalidURI", 400, "Couldn't parse the specified URI.")                         \
    X(KEY_TOO_LONG, "KeyTooLongError", 400, "Your key is too long")                                \
    X(MALFORMED_TRAILER, "MalformedTrailerError", 400,                                             \
      "The request contained trailing data that was not well-formed or did not conform to our "    \
      "published schema.")                                                                         \
    X(MALFORMED_XML, "MalformedXML", 400,                                                          \
      "The XML you provided was not well-formed or did not validate against our published schema") \
    X(MAX_MESSAGE_LENGTH_EXCEEDED, "MaxMessageLengthExceeded", 400, "Your request was too large.") \
    X(METADATA_TOO_LARGE, "MetadataTooLarge", 400,                                                 \
      "Your metadata headers exceed the maximum allowed metadata size")                            \
    X(METHOD_NOT_ALLOWED, "MethodNotAllowed", 405,                                                 \
      "The specified method is not allowed against this resource.")                                \
    X(MISSING_CONTENT_LENGTH, "MissingContentLength", 411,                                         \
      "You must provide the Content-Length HTTP header.")                                          \
    X(MISSING_REQUEST_BODY, "MissingRequestBodyError", 400, "Request Body is empty")               \
    X(MISSING_SECURITY_HEADER, "MissingSecurityHeader", 400,                                       \
      "Your request was missing a required header")                                                \
    X(NO_SUCH_BUCKET, "NoSuchBucket", 404, "The specified bucket does not exist")                  \
    X(NO_SUCH_KEY, "NoSuchKey", 404, "The specified key does not exist.")                          \
    X(NO_SUCH_UPLOAD, "NoSuchUpload", 404,                                                         \
      "The specified upload does not exist. The upload ID may be invalid, or the upload may have " \
      "been aborted or completed.")                                                                \
    X(NO_SUCH_VERSION, "NoSuchVersion", 404, "The specified version does not exist.")              \
    X(NOT_IMPLEMENTED, "NotImplemented", 501,                                                      \
      "A header you provided implies functionality that is not implemented")                       \
    X(OPERATION_ABORTED, "OperationAborted", 409,                                                  \
      "A conflicting conditional operation is currently in progress against this resource. "       \
      "Please try again.")                                                                         \
    X(PRECONDITION_FAILED, "PreconditionFailed", 412,                                              \
      "At least one of the pre-conditions you specified did not hold")                             \
    X(REQUEST_HEADER_SECTION_TOO_LARGE, "RequestHeaderSectionTooLarge", 400,                       \
      "Your request header section exceeds the maximum allowed request header section size.")      \
    X(REQUEST_TIMEOUT, "RequestTimeout", 400,                                                      \
      "Your socket connection to the server was not read from or written to within the timeout "   \
      "period. Idle connections will be closed.")                                                  \
    X(REQUEST_TIME_TOO_SKEWED, "RequestTimeTooSkewed", 403,                                        \
      "The difference between the request time and the current time is too large.")                \
    X(SERVICE_UNAVAILABLE, "ServiceUnavailable", 503,                                              \
      "Service is unable to handle request. Please try again.")                                    \
    X(SIGNATURE_DOES_NOT_MATCH, "SignatureDoesNotMatch", 403,                                      \
      "The request signature we calculated does not match the signature you provided. Check your " \
      "key and signing method.")                                                                   \
    X(SLOW_DOWN, "SlowDown", 503, "Please reduce your request rate.")                              \
    X(TOO_MANY_BUCKETS, "TooManyBuckets", 400,                                                     \
      "You have attempted to create more buckets than allowed")                                    \
    X(UNEXPECTED_CONTENT, "UnexpectedContent", 400, "This request contains unsupported content.")  \
    X(X_AMZ_CONTENT_SHA256_MISMATCH, "XAmzContentSHA256Mismatch", 400,                             \
      "The provided 'x-amz-content-sha256' header does not match what was computed.")

enum nef_s3_code {
#define X(name, code, status, message) NEF_S3_##name,
    NEF_S3_ERROR_LIST(X)
#undef X
        NEF_S3_CODE_COUNT
};

#define NEF_S3_ERROR_EXTRAS     6u
#define NEF_S3_ERROR_TEXT_BYTES 3072u /* a key of 1,024 bytes and a string to sign fit */

/* No pointers to other memory: copy it freely. Zeroed is a valid InternalError. */
struct nef_s3_error {
    enum nef_s3_code code;
    char message[320]; /* "": the table's */
    unsigned extra_count;
    struct {
        const char *name; /* static text: an XML element such as BucketName */
        uint16_t at;      /* value: NUL-terminated in text */
    } extra[NEF_S3_ERROR_EXTRAS];
    uint16_t text_bytes;
    char text[NEF_S3_ERROR_TEXT_BYTES];
};

/* Static texts. */
const char *nef_s3_code_name(enum nef_s3_code code);
const char *nef_s3_code_message(enum nef_s3_code code);
unsigned nef_s3_code_status(enum nef_s3_code code);

/* Fills WHY with CODE and a message (NULL: the table's), without extras, and returns the nef_err
 * that stands for it: NEF_E_DENIED for 403, NEF_E_UNSUPPORTED for 501, else NEF_E_INVALID. So that
 * a refusal is one line: return nef_s3_refuse(why, NEF_S3_INVALID_ARGUMENT, "max-keys must be
 * ..."). */
nef_err nef_s3_refuse(struct nef_s3_error *why, enum nef_s3_code code, const char *format, ...)
    NEF_PRINTF(3, 4);
/* The same with the extra elements ArgumentName and ArgumentValue of InvalidArgument. */
nef_err nef_s3_refuse_argument(struct nef_s3_error *why, const char *argument, const char *value,
                               const char *message);
/* Adds the element <NAME>value</NAME>; name is static text, value is copied. Left out without
 * notice when there is no more room: extras help a reader and nothing depends on them. */
void nef_s3_error_extra(struct nef_s3_error *why, const char *name, const char *value);
void nef_s3_error_extra_number(struct nef_s3_error *why, const char *name, uint64_t value);

/* What any other part's error means to an S3 client. NEF_E_NOT_FOUND is NoSuchKey, NEF_E_EXISTS is
 * BucketAlreadyOwnedByYou. Asserts that err isn't NEF_OK. */
enum nef_s3_code nef_s3_code_of(nef_err err);
/* The same, with a message where the table's would mislead (full disk, a zone away, a missing key).
 */
void nef_s3_error_of(struct nef_s3_error *why, nef_err err);

/* Appends the Error document. resource: decoded path ("/bucket/key"), request_id, host_id: texts,
 * any may be NULL. HEAD and 304 answers carry no body; that is the HTTP layer's. */
void nef_s3_error_document(const struct nef_s3_error *why, const char *resource,
                           const char *request_id, const char *host_id, struct nef_buf *out);

#endif
