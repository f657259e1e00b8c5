/* Stop strings; see stop.h. next[i] is the length of the longest proper beginning of text[0..i] that also ends it. */
#include "infer/api/stop.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"

struct automaton {
    uint16_t bytes, state;
    uint8_t text[NEF_INFER_STOP_BYTES_MAX];
    uint16_t next[NEF_INFER_STOP_BYTES_MAX];
};

struct nef_stop {
    uint32_t count;
    struct automaton automata[];
};

static void prepare(struct automaton *a, const struct nef_api_stop *string)
{
    uint16_t k = 0;

    NEF_ASSERT(string->bytes > 0 && string->bytes <= NEF_INFER_STOP_BYTES_MAX);
    a->bytes = (uint16_t)string->bytes;
    memcpy(a->text, string->text, string->bytes);
    a->next[0] = 0;
    for (uint16_t i = 1; i < a->bytes; i++) {
        while (k > 0 && a->text[i] != a->text[k])
            k = a->next[k - 1];
        if (a->text[i] == a->text[k])
            k++;
        a->next[i] = k;
    }
}

nef_err nef_stop_open(const struct nef_api_stop *strings, uint32_t count, struct nef_stop **out_stop)
{
    struct nef_stop *stop = calloc(1, sizeof(*stop) + count * sizeof(stop->automata[0]));

    if (stop == NULL)
        return NEF_E_NOMEM;
    stop->count = count;
    for (uint32_t i = 0; i < count; i++)
        prepare(&stop->automata[i], &strings[i]);
    *out_stop = stop;
    return NEF_OK;
}

void nef_stop_close(struct nef_stop *stop)
{
    free(stop);
}

bool nef_stop_take(struct nef_stop *stop, const char *data, size_t bytes, size_t *out_used, size_t *out_held)
{
    size_t held = 0;

    for (size_t at = 0; at < bytes && stop->count > 0; at++) {
        bool found = false;

        held = 0;
        for (uint32_t i = 0; i < stop->count; i++) {
            struct automaton *a = &stop->automata[i];

            while (a->state > 0 && a->text[a->state] != (uint8_t)data[at])
                a->state = a->next[a->state - 1];
            if (a->text[a->state] == (uint8_t)data[at])
                a->state++;
            if (a->state == a->bytes) {
                held = !found || a->bytes > held ? a->bytes : held;
                found = true;
                a->state = 0;
            } else if (!found && a->state > held) {
                held = a->state;
            }
        }
        if (found) {
            *out_used = at + 1;
            *out_held = held;
            return true;
        }
    }
    if (bytes == 0)
        for (uint32_t i = 0; i < stop->count; i++)
            held = NEF_MAX(held, stop->automata[i].state);
    *out_used = bytes;
    *out_held = held;
    return false;
}
