/* The simulated disk: logs of records.
 *
 * Faults that the core promises to survive: everything that wasn't synced may after a crash be there, be
 * missing, be torn or be garbage, each record on its own; a cut or an epoch that wasn't acknowledged may or
 * may not have happened. What was synced is there. (Bytes that rot later, and disks that are rolled back
 * or wiped, are made by scenarios: they cost a copy, so two of them cost the data.)
 *
 * A record stands for its bytes: two records are equal if and only if their uid is. */
#include "sim/sim.h"

#include <stdlib.h>

void log_init(struct log *l)
{
    memset(l, 0, sizeof *l);
    l->start = l->base = l->end = l->durable = NEF_SEGMENT_HEADER_BYTES;
}

void log_free(struct log *l)
{
    free(l->at);
    free(l->kept);
    memset(l, 0, sizeof *l);
}

void log_copy(struct log *to, const struct log *from)
{
    log_free(to);
    *to = *from;
    to->kept = NULL;
    to->kept_count = 0;
    to->capacity = from->count + 1;
    to->at = malloc(to->capacity * sizeof *to->at);
    NEF_ASSERT(to->at);
    if (from->count > 0)
        memcpy(to->at, from->at, from->count * sizeof *to->at);
}

uint64_t record_end(const struct record *r)
{
    return nef_log_end_at(r->offset + r->bytes, SEGMENT);
}

void log_push(struct log *l, const struct record *r)
{
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 64;
        l->at = realloc(l->at, l->capacity * sizeof *l->at);
        NEF_ASSERT(l->at);
    }
    NEF_ASSERT(r->offset == l->end);
    l->at[l->count++] = *r;
    l->end = record_end(r);
}

uint32_t log_find(const struct log *l, uint64_t offset)
{
    uint32_t low = 0, high = l->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (l->at[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void log_truncate(struct log *l, uint64_t to)
{
    uint32_t keep = log_find(l, to);

    NEF_ASSERT(to <= l->end);
    NEF_ASSERT(to >= l->start || to == NEF_SEGMENT_HEADER_BYTES);
    NEF_ASSERT(keep == l->count || l->at[keep].offset == to || to < l->start ||
               to == l->hole_from); /* a record begins or ends there */
    free(l->kept);
    l->kept = malloc((l->count - keep + 1) * sizeof *l->kept);
    NEF_ASSERT(l->kept);
    l->kept_count = l->count - keep;
    if (l->kept_count > 0)
        memcpy(l->kept, l->at + keep, l->kept_count * sizeof *l->kept);
    l->kept_start = l->start;
    l->kept_end = l->end;
    l->kept_durable = l->durable;
    l->kept_hole_from = l->hole_from;
    l->kept_hole_to = l->hole_to;
    l->kept_base = l->base;
    NEF_ASSERT(!log_in_hole(l, to) || to == l->hole_from);
    if (to < l->hole_to)
        l->hole_from = l->hole_to = 0;
    l->start = NEF_MIN(l->start, to); /* below it: all is discarded, as if there had never been a log */
    if (to == NEF_SEGMENT_HEADER_BYTES)
        l->dropped_by = 0;
    if (to < l->base)
        l->base = l->start;
    l->count = keep;
    l->end = to;
    l->durable = NEF_MIN(l->durable, to);
}

/* Unlink the segments below TO, a segment's first record place. */
void log_drop(struct log *l, uint64_t to)
{
    uint32_t first = log_find(l, to);

    NEF_ASSERT(to % SEGMENT == NEF_SEGMENT_HEADER_BYTES && to >= l->start && to <= l->durable);
    memmove(l->at, l->at + first, (l->count - first) * sizeof *l->at);
    l->count -= first;
    l->start = to;
    if (log_in_hole(l, to))
        l->start = l->hole_to;
    if (l->start >= l->hole_to)
        l->hole_from = l->hole_to = 0;
    l->base = NEF_MAX(l->base, l->start);
}

bool log_in_hole(const struct log *l, uint64_t offset)
{
    return offset >= l->hole_from && offset < l->hole_to;
}

/* Go on at TO, a later segment's first record place. One hole is kept; at a second one the log begins anew. */
void log_skip(struct log *l, uint64_t to)
{
    NEF_ASSERT(to > l->end && to % SEGMENT == NEF_SEGMENT_HEADER_BYTES);
    if (l->hole_to > 0) {
        l->count = 0;
        l->start = to;
        l->hole_from = l->hole_to = 0;
    } else {
        l->hole_from = l->end;
        l->hole_to = to;
    }
    l->base = l->end = l->durable = to;
}

static void damage_unsynced(struct sim *s, struct log *l)
{
    uint32_t first = log_find(l, l->durable);
    uint64_t style = sim_below(s, 4);

    for (uint32_t i = first; i < l->count; i++) {
        if (style == 0) /* nothing reached the disk */
            l->at[i].bad = true;
        else if (style == 1) /* all of it did */
            l->at[i].bad = false;
        else if (style == 2) /* torn somewhere */
            l->at[i].bad = i > first ? l->at[i - 1].bad || sim_chance(s, 0.3) : sim_chance(s, 0.3);
        else /* pages in any order */
            l->at[i].bad = sim_chance(s, 0.4);
    }
}

void log_crash(struct sim *s, struct log *l)
{
    if (l->kept && sim_chance(s, 0.5)) { /* the cut never happened */
        for (uint32_t i = 0; i < l->kept_count; i++) {
            l->end = l->kept[i].offset; /* over a hole */
            log_push(l, &l->kept[i]);
        }
        l->start = l->kept_start;
        l->end = l->kept_end;
        l->durable = l->kept_durable;
        l->hole_from = l->kept_hole_from;
        l->hole_to = l->kept_hole_to;
        l->base = l->kept_base;
    }
    free(l->kept);
    l->kept = NULL;
    l->kept_count = 0;
    damage_unsynced(s, l);
}

/* As seglog's recovery: the first bad record above every mark ends the log; below one it is damage. */
void log_recover(struct log *l, struct nef_repl_cell_start *out)
{
    uint32_t bad = l->count;
    uint64_t mark = 0;

    for (uint32_t i = 0; i < l->count; i++) {
        if (l->at[i].bad && bad == l->count)
            bad = i;
        if (!l->at[i].bad)
            mark = NEF_MAX(mark, l->at[i].synced_before);
    }
    memset(out, 0, sizeof *out);
    if (bad < l->count && l->at[bad].offset < mark) {
        out->damaged = true;
        out->damage_offset = l->at[bad].offset;
    } else if (bad < l->count) {
        l->end = l->at[bad].offset;
        l->count = bad;
        NEF_ASSERT(l->end >= l->hole_to); /* a skip is durable before anything follows it */
    }
    l->durable = l->end; /* recovery syncs what it keeps */
    out->end = l->end;
    for (uint32_t i = 0; i < bad; i++)
        nef_table_add(&out->epochs, l->at[i].epoch, l->at[i].offset);
}
