/* S3's errors; error.h says what they are for. One table serves codes, statuses and messages, and
 * one switch translates nef_err, without a default, so that a new nef_err doesn't compile until
 * someone has decided what its client should see. */
#include "s3/error.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "s3/xml.h"

static const struct {
    const char *name;
    unsigned status;
    const char *message;
} table[NEF_S3_CODE_COUNT] = {
#define X(name, code, status, message) [NEF_S3_##name] = {code, status, message},
    NEF_S3_ERROR_LIST(X)
#undef X
};

const char *nef_s3_code_name(enum nef_s3_code code)
{
    NEF_ASSERT(code < NEF_S3_CODE_COUNT);
    return table[code].name;
}

const char *nef_s3_code_message(enum nef_s3_code code)
{
    NEF_ASSERT(code < NEF_S3_CODE_COUNT);
    return table[code].message;
}

unsigned nef_s3_code_status(enum nef_s3_code code)
{
    NEF_ASSERT(code < NEF_S3_CODE_COUNT);
    return table[code].status;
}

static void clear(struct nef_s3_error *why, enum nef_s3_code code)
{
    why->code = code;
    why->message[0] = '\0';
    why->extra_count = 0;
    why->text_bytes = 0;
}

nef_err nef_s3_refuse(struct nef_s3_error *why, enum nef_s3_code code, const char *format, ...)
{
    va_list args;

    clear(why, code);
    if (format != NULL) {
        va_start(args, format);
        (void)vsnprintf(why->message, sizeof(why->message), format, args); /* cut: only a text */
        va_end(args);
    }
    switch (table[code].status) {
    case 403:
        return NEF_E_DENIED;
    case 501:
        return NEF_E_UNSUPPORTED;
    default:
        return NEF_E_INVALID;
    }
}

nef_err nef_s3_refuse_argument(struct nef_s3_error *why, const char *argument, const char *value,
                               const char *message)
{
    nef_err err = nef_s3_refuse(why, NEF_S3_INVALID_ARGUMENT, "%s", message);

    nef_s3_error_extra(why, "ArgumentName", argument);
    nef_s3_error_extra(why, "ArgumentValue", value);
    return err;
}

void nef_s3_error_extra(struct nef_s3_error *why, const char *name, const char *value)
{
    size_t bytes = strlen(value) + 1;

    if (why->extra_count == NEF_S3_ERROR_EXTRAS || bytes > sizeof(why->text) - why->text_bytes)
        return;
    memcpy(why->text + why->text_bytes, value, bytes);
    why->extra[why->extra_count].name = name;
    why->extra[why->extra_count].at = why->text_bytes;
    why->extra_count++;
    why->text_bytes = (uint16_t)(why->text_bytes + bytes);
}

void nef_s3_error_extra_number(struct nef_s3_error *why, const char *name, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    nef_s3_error_extra(why, name, text);
}

enum nef_s3_code nef_s3_code_of(nef_err err)
{
    switch (err) {
    case NEF_OK:
        break;
    case NEF_E_BUSY:
        return NEF_S3_SLOW_DOWN;
    case NEF_E_AGAIN:
    case NEF_E_TIMEOUT:
    case NEF_E_UNAVAILABLE:
    case NEF_E_NOT_PRIMARY:
    case NEF_E_PEER:
    case NEF_E_CLOSED:
    case NEF_E_DURABILITY:
    case NEF_E_KEY:     /* comes back with the key manager; SDKs retry a 503 */
    case NEF_E_NOSPACE: /* S3 has no code for a full disk; reads and deletes go on */
    case NEF_E_NOMEM:
        return NEF_S3_SERVICE_UNAVAILABLE;
    case NEF_E_INVALID:
        return NEF_S3_INVALID_ARGUMENT;
    case NEF_E_PROTOCOL:
    case NEF_E_LIMIT:
        return NEF_S3_INVALID_REQUEST;
    case NEF_E_RANGE:
        return NEF_S3_INVALID_RANGE;
    case NEF_E_NOT_FOUND:
        return NEF_S3_NO_SUCH_KEY;
    case NEF_E_EXISTS:
        return NEF_S3_BUCKET_ALREADY_OWNED_BY_YOU;
    case NEF_E_NOT_EMPTY:
        return NEF_S3_BUCKET_NOT_EMPTY;
    case NEF_E_PRECONDITION:
        return NEF_S3_PRECONDITION_FAILED;
    case NEF_E_DENIED:
        return NEF_S3_ACCESS_DENIED;
    case NEF_E_DIGEST:
        return NEF_S3_BAD_DIGEST;
    case NEF_E_UNSUPPORTED:
        return NEF_S3_NOT_IMPLEMENTED;
    case NEF_E_NO_BUCKET:
        return NEF_S3_NO_SUCH_BUCKET;
    case NEF_E_NO_UPLOAD:
        return NEF_S3_NO_SUCH_UPLOAD;
    case NEF_E_BAD_PART:
        return NEF_S3_INVALID_PART;
    case NEF_E_PART_ORDER:
        return NEF_S3_INVALID_PART_ORDER;
    case NEF_E_PART_SIZE:
        return NEF_S3_ENTITY_TOO_SMALL;
    case NEF_E_VERSION:
    case NEF_E_CONFIG:
    case NEF_E_CORRUPT:
    case NEF_E_TORN:
    case NEF_E_DAMAGED:
    case NEF_E_ROLLED_BACK:
    case NEF_E_IO:
    case NEF_E_SYSTEM:
    case NEF_E_CRYPTO:
        return NEF_S3_INTERNAL_ERROR;
    }
    NEF_ASSERT(err != NEF_OK);
    return NEF_S3_INTERNAL_ERROR;
}

void nef_s3_error_of(struct nef_s3_error *why, nef_err err)
{
    const char *message = NULL;

    if (err == NEF_E_NOSPACE)
        message = "There is no space left for new objects. Reads and deletes still work.";
    else if (err == NEF_E_DURABILITY)
        message = "This bucket takes writes only while both zones are in sync, and one is away.";
    else if (err == NEF_E_KEY)
        message = "The encryption key of this bucket isn't available now.";
    else if (err == NEF_E_LIMIT)
        message = "Your request exceeds a limit of this region.";
    clear(why, nef_s3_code_of(err));
    if (message != NULL)
        (void)snprintf(why->message, sizeof(why->message), "%s", message);
}

void nef_s3_error_document(const struct nef_s3_error *why, const char *resource,
                           const char *request_id, const char *host_id, struct nef_buf *out)
{
    nef_s3_xml_begin(out);
    nef_buf_text(out, "<Error>");
    nef_s3_xml_element(out, "Code", nef_s3_code_name(why->code));
    nef_s3_xml_element(out, "Message",
                       why->message[0] != '\0' ? why->message : nef_s3_code_message(why->code));
    for (unsigned i = 0; i < why->extra_count; i++)
        nef_s3_xml_element(out, why->extra[i].name, why->text + why->extra[i].at);
    nef_s3_xml_element(out, "Resource", resource);
    nef_s3_xml_element(out, "RequestId", request_id);
    nef_s3_xml_element(out, "HostId", host_id);
    nef_buf_text(out, "</Error>");
}
