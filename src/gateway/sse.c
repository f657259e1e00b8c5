/* Server-sent events; see sse.h. */
#include "gateway/sse.h"
#include <string.h>
#include "base/assert.h"

#define NAME_BYTES_MAX 64u /* of lines that are skipped nothing needs to be kept but that they are such lines */

void nef_sse_init(struct nef_sse *s, size_t event_max)
{
    *s = (struct nef_sse){.has_data = false};
    s->data.max = event_max;
    s->line.max = event_max + NAME_BYTES_MAX;
}

void nef_sse_done(struct nef_sse *s)
{
    nef_buf_free(&s->line);
    nef_buf_free(&s->data);
}

/* A whole line. */
static nef_err take_line(struct nef_sse *s, bool (*event)(void *context, const char *data, size_t data_bytes),
                         void *context)
{
    const char *line = (const char *)s->line.data;
    size_t bytes = s->line.bytes, name;
    bool go_on = true;

    if (!s->begun) {
        s->begun = true;
        if (bytes >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
            line += 3;
            bytes -= 3;
        }
    }
    if (bytes == 0) {
        if (s->has_data) {
            const char *text;

            s->data.max += 1; /* the NUL isn't the event's */
            text = nef_buf_cstr(&s->data);
            s->data.max -= 1;
            if (s->data.failed)
                return NEF_E_NOMEM;
            go_on = event(context, text, s->data.bytes);
        }
        s->has_data = false;
        nef_buf_reset(&s->data);
        return go_on ? NEF_OK : NEF_E_CLOSED;
    }
    name = (size_t)((const char *)(memchr(line, ':', bytes) != NULL ? memchr(line, ':', bytes) : line + bytes) - line);
    if (name != 4 || memcmp(line, "data", 4) != 0)
        return NEF_OK;
    line += name;
    bytes -= name;
    if (bytes > 0) {
        line++; /* the colon, and one blank */
        bytes--;
        if (bytes > 0 && line[0] == ' ') {
            line++;
            bytes--;
        }
    }
    if (s->has_data)
        nef_buf_u8(&s->data, '\n');
    s->has_data = true;
    nef_buf_append(&s->data, line, bytes);
    return s->data.failed ? NEF_E_LIMIT : NEF_OK;
}

nef_err nef_sse_take(struct nef_sse *s, const void *bytes, size_t count,
                     bool (*event)(void *context, const char *data, size_t data_bytes), void *context)
{
    const char *at = bytes, *end = at + count;
    nef_err err = NEF_OK;

    while (at < end && err == NEF_OK) {
        const char *stop = at;

        if (s->after_cr && *at == '\n') {
            s->after_cr = false;
            at++;
            continue;
        }
        s->after_cr = false;
        while (stop < end && *stop != '\n' && *stop != '\r')
            stop++;
        nef_buf_append(&s->line, at, (size_t)(stop - at));
        if (s->line.failed)
            return NEF_E_LIMIT;
        at = stop;
        if (stop == end)
            break;
        s->after_cr = *stop == '\r';
        at++;
        err = take_line(s, event, context);
        nef_buf_reset(&s->line);
    }
    return err;
}
