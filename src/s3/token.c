/* Continuation tokens: base64url of
 *     u8 version (1) | last key | u32 CRC-32C of all before
 * The checksum only tells a damaged token from an old one; a client that forges one gets the
 * listing it could have asked for with start-after. */
#include "s3/token.h"
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"

#define VERSION  1u
#define RAW_MAX  (1u + NEF_OBJECT_KEY_MAX + 4u)
#define TEXT_MAX ((RAW_MAX + 2u) / 3u * 4u)

void nef_s3_token_text(const char *last, size_t last_bytes, struct nef_buf *out)
{
    uint8_t raw[RAW_MAX];
    char text[TEXT_MAX + 1];
    struct nef_writer w = nef_writer_of(raw, sizeof(raw));
    size_t bytes;

    NEF_ASSERT(last_bytes <= NEF_OBJECT_KEY_MAX);
    nef_write_u8(&w, VERSION);
    nef_write_copy(&w, last, last_bytes);
    nef_write_u32(&w, nef_crc32c(0, raw, w.at));
    nef_base64(raw, w.at, text);
    bytes = nef_base64_size(w.at);
    while (bytes > 0 && text[bytes - 1] == '=')
        bytes--;
    for (size_t i = 0; i < bytes; i++)
        text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
    nef_buf_append(out, text, bytes);
}

nef_err nef_s3_token_parse(const char *text, struct nef_s3_token *out, struct nef_s3_error *why)
{
    static const char message[] = "The continuation token provided is incorrect";
    uint8_t raw[TEXT_MAX / 4u * 3u];
    char padded[TEXT_MAX + 1];
    size_t bytes = strlen(text), raw_bytes;
    struct nef_reader r;

    if (bytes == 0 || bytes > TEXT_MAX)
        return nef_s3_refuse_argument(why, "continuation-token", text, message);
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '+' || text[i] == '/' || text[i] == '=')
            return nef_s3_refuse_argument(why, "continuation-token", text, message);
        padded[i] = text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i];
    }
    while (bytes % 4 != 0)
        padded[bytes++] = '=';
    if (nef_unbase64(padded, bytes, raw, sizeof(raw), &raw_bytes) != NEF_OK || raw_bytes < 5 ||
        raw_bytes > RAW_MAX)
        return nef_s3_refuse_argument(why, "continuation-token", text, message);
    r = nef_reader_of(raw + raw_bytes - 4, 4);
    if (raw[0] != VERSION || nef_read_u32(&r) != nef_crc32c(0, raw, raw_bytes - 4))
        return nef_s3_refuse_argument(why, "continuation-token", text, message);
    out->last_bytes = raw_bytes - 5;
    memcpy(out->last, raw + 1, out->last_bytes);
    out->last[out->last_bytes] = '\0';
    return NEF_OK;
}
