/* UTF-8: one character of a text, and a stream of token bytes into whole characters.
 *
 * Tokens are byte strings, so a character of several bytes can arrive in several tokens. The stream holds back an
 * incomplete one (at most three bytes). Bytes that can't become a character are replaced as the Unicode Standard's
 * "maximal subpart" practice says (chapter 3.9, table 3-8), which is what browsers and Python do: one U+FFFD for each
 * longest start of a character that breaks off, one for each other byte. */
#include <string.h>
#include "infer/text/text_internal.h"

/* Is BYTE allowed at place AT (1 .. 3) after FIRST? Table 3-7 of the standard. */
static bool continues(uint8_t first, size_t at, uint8_t byte)
{
    uint8_t low = 0x80, high = 0xbf;

    if (at == 1) {
        if (first == 0xe0)
            low = 0xa0;
        else if (first == 0xed)
            high = 0x9f;
        else if (first == 0xf0)
            low = 0x90;
        else if (first == 0xf4)
            high = 0x8f;
    }
    return byte >= low && byte <= high;
}

/* Bytes of a character that starts with FIRST; 0: none does. */
static size_t length_of(uint8_t first)
{
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf)
        return 2;
    if (first >= 0xe0 && first <= 0xef)
        return 3;
    if (first >= 0xf0 && first <= 0xf4)
        return 4;
    return 0;
}

size_t nef_utf8_char(const uint8_t *p, size_t bytes, uint32_t *out_code)
{
    size_t length = length_of(p[0]);
    uint32_t code;

    if (length == 1) {
        *out_code = p[0];
        return 1;
    }
    if (length == 0 || length > bytes)
        return 0;
    code = p[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (!continues(p[0], i, p[i]))
            return 0;
        code = code << 6 | (p[i] & 0x3fu);
    }
    *out_code = code;
    return length;
}

static size_t replacement(char *out)
{
    memcpy(out, "\xef\xbf\xbd", 3);
    return 3;
}

size_t nef_utf8_stream_take(struct nef_utf8_stream *s, const char *bytes, size_t count, bool last, char *out)
{
    size_t written = 0;

    for (size_t i = 0; i < count; i++) {
        uint8_t c = (uint8_t)bytes[i];

        if (s->held_bytes > 0 && !continues(s->held[0], s->held_bytes, c)) {
            written += replacement(out + written); /* what was held breaks off; c begins anew */
            s->held_bytes = 0;
        }
        if (s->held_bytes == 0 && length_of(c) == 0) {
            written += replacement(out + written);
            continue;
        }
        s->held[s->held_bytes++] = c;
        if (s->held_bytes == length_of(s->held[0])) {
            memcpy(out + written, s->held, s->held_bytes);
            written += s->held_bytes;
            s->held_bytes = 0;
        }
    }
    if (last && s->held_bytes > 0) {
        written += replacement(out + written);
        s->held_bytes = 0;
    }
    return written;
}
