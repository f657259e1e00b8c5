/* JSON of texts, numbers and errors; see write.h. */
#include <string.h>
#include "infer/api/write.h"

void nef_json_text_write(struct nef_buf *out, const char *text, size_t bytes)
{
    size_t from = 0;

    nef_buf_u8(out, '"');
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        nef_buf_append(out, text + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\')
            nef_buf_printf(out, "\\%c", c);
        else if (c == '\n')
            nef_buf_text(out, "\\n");
        else
            nef_buf_printf(out, "\\u%04x", c);
    }
    nef_buf_append(out, text + from, bytes - from);
    nef_buf_u8(out, '"');
}

void nef_json_cstr_write(struct nef_buf *out, const char *text)
{
    nef_json_text_write(out, text, strlen(text));
}

void nef_json_ids_write(struct nef_buf *out, const uint32_t *ids, uint32_t count)
{
    nef_buf_u8(out, '[');
    for (uint32_t i = 0; i < count; i++)
        nef_buf_printf(out, i == 0 ? "%u" : ",%u", ids[i]);
    nef_buf_u8(out, ']');
}

void nef_json_floats_write(struct nef_buf *out, const float *values, uint32_t count)
{
    nef_buf_u8(out, '[');
    for (uint32_t i = 0; i < count; i++)
        nef_buf_printf(out, i == 0 ? "%.9g" : ",%.9g", (double)values[i]);
    nef_buf_u8(out, ']');
}

void nef_json_base64_write(struct nef_buf *out, const float *values, uint32_t count)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t held = 0, bits = 0, given = 0;

    nef_buf_u8(out, '"');
    for (uint32_t i = 0; i < count; i++) {
        uint32_t word;

        memcpy(&word, &values[i], sizeof(word));
        for (int byte = 0; byte < 4; byte++) {
            held = held << 8 | (word >> (8 * byte) & 0xff);
            for (bits += 8; bits >= 6; given++) {
                bits -= 6;
                nef_buf_u8(out, (uint8_t)letters[held >> bits & 63]);
            }
        }
    }
    if (bits > 0) {
        nef_buf_u8(out, (uint8_t)letters[held << (6 - bits) & 63]);
        given++;
    }
    for (; given % 4 != 0; given++)
        nef_buf_u8(out, '=');
    nef_buf_u8(out, '"');
}

static void text_or_null(struct nef_buf *out, const char *text)
{
    if (text[0] != '\0')
        nef_json_cstr_write(out, text);
    else
        nef_buf_text(out, "null");
}

void nef_write_error(const struct nef_api_error *e, struct nef_buf *out)
{
    nef_buf_text(out, "{\"error\":{\"message\":");
    nef_json_cstr_write(out, e->message);
    nef_buf_printf(out, ",\"type\":\"%s\",\"param\":", e->type);
    text_or_null(out, e->param);
    nef_buf_text(out, ",\"code\":");
    text_or_null(out, e->code);
    nef_buf_text(out, "}}");
}

void nef_write_error_chunk(const struct nef_api_error *e, struct nef_buf *out)
{
    nef_buf_text(out, "data: ");
    nef_write_error(e, out);
    nef_buf_text(out, "\n\n");
}
