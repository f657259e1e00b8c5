/* See budget.h. */
#include "store/budget.h"
#include <string.h>
#include "base/bytes.h"

static uint64_t used(const struct nef_budget_zone *z, unsigned r)
{
    return z->limit[r] - z->base[r];
}

struct nef_budget_zone *nef_budget_find(struct nef_budget_state *state, const char *name, size_t bytes)
{
    for (uint32_t i = 0; i < state->count; i++)
        if (strlen(state->zones[i].name) == bytes && memcmp(state->zones[i].name, name, bytes) == 0)
            return &state->zones[i];
    return NULL;
}

/* A place for a new zone: a free one, or that of a zone which holds nothing (it left the region). */
static struct nef_budget_zone *place(struct nef_budget_state *state)
{
    if (state->count < NEF_REPLICA_MAX)
        return &state->zones[state->count++];
    for (uint32_t i = 0; i < state->count; i++) {
        struct nef_budget_zone *z = &state->zones[i];

        if (z->slots == 0 && used(z, NEF_BUDGET_REQUESTS) == 0 && used(z, NEF_BUDGET_TOKENS) == 0)
            return z;
    }
    return NULL;
}

static void claim(struct nef_budget_state *state, const struct nef_budget_zone *own, const struct nef_budget_claim *c)
{
    struct nef_budget_zone *z = nef_budget_find(state, c->zone.data, c->zone.bytes);

    if (z == NULL)
        return;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
        if (c->base[r] > z->base[r])
            z->base[r] = c->base[r] < z->spent[r] ? c->base[r] : z->spent[r];
    if (!c->over || z == own || z->start != c->start || z->number != c->number)
        return;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        z->spent[r] = z->limit[r];
        z->unmet[r] = 0;
    }
    z->slots = z->slots_unmet = 0;
    z->number++;
}

/* What ZONE may have of a whole, others having theirs. */
static uint64_t room(const struct nef_budget_state *state, const struct nef_budget_zone *zone, unsigned r,
                     uint64_t whole)
{
    for (uint32_t i = 0; i < state->count; i++) {
        uint64_t theirs = &state->zones[i] == zone ? 0 : used(&state->zones[i], r);

        whole -= theirs < whole ? theirs : whole;
    }
    return whole;
}

static uint32_t slot_room(const struct nef_budget_state *state, const struct nef_budget_zone *zone, uint32_t whole)
{
    for (uint32_t i = 0; i < state->count; i++) {
        uint32_t theirs = &state->zones[i] == zone ? 0 : state->zones[i].slots;

        whole -= theirs < whole ? theirs : whole;
    }
    return whole;
}

static void grant(struct nef_budget_state *state, const struct nef_budget_whole *whole, struct nef_budget_zone *z,
                  const struct nef_budget_entry *entry)
{
    uint32_t slots = entry->slots;

    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        uint64_t wanted, most;

        if (entry->spent[r] > z->spent[r])
            z->spent[r] = entry->spent[r];
        wanted = entry->limit[r] > z->spent[r] ? entry->limit[r] : z->spent[r];
        if (whole->denied)
            most = z->spent[r];
        else if (whole->units[r] == 0)
            most = wanted;
        else
            most = z->base[r] + room(state, z, r, whole->units[r]);
        if (most < z->spent[r])
            most = z->spent[r];
        z->limit[r] = wanted < most ? wanted : most;
        z->unmet[r] = wanted - z->limit[r];
    }
    if (whole->denied)
        slots = 0;
    else if (whole->slots != 0 && slots > slot_room(state, z, whole->slots))
        slots = slot_room(state, z, whole->slots);
    z->slots = slots;
    z->slots_unmet = entry->slots - slots;
}

bool nef_budget_decide(struct nef_budget_state *state, const struct nef_budget_whole *whole,
                       const struct nef_text *zone, uint64_t start, const struct nef_budget_entry *entry)
{
    struct nef_budget_zone *z = nef_budget_find(state, zone->data, zone->bytes);

    if (z == NULL) {
        if (entry->start != 0 || entry->number != 0 || zone->bytes == 0 || zone->bytes > NEF_ZONE_NAME_MAX)
            return false;
        z = place(state);
        if (z == NULL)
            return false;
        memset(z, 0, sizeof *z);
        memcpy(z->name, zone->data, zone->bytes);
    } else if (z->start != entry->start || z->number != entry->number) {
        return false;
    }
    for (uint32_t i = 0; i < entry->claim_count; i++)
        claim(state, z, &entry->claims[i]);
    grant(state, whole, z, entry);
    z->start = start;
    z->number++;
    return true;
}

/* ---- row G ---- */

void nef_budget_put(struct nef_buf *out, const struct nef_budget_state *state)
{
    nef_buf_reset(out);
    nef_buf_u8(out, (uint8_t)state->count);
    for (uint32_t i = 0; i < state->count; i++) {
        const struct nef_budget_zone *z = &state->zones[i];

        nef_buf_block(out, z->name, strlen(z->name));
        nef_buf_u64(out, z->start);
        nef_buf_u64(out, z->number);
        for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
            nef_buf_u64(out, z->base[r]);
            nef_buf_u64(out, z->spent[r]);
            nef_buf_u64(out, z->limit[r]);
            nef_buf_u64(out, z->unmet[r]);
        }
        nef_buf_u32(out, z->slots);
        nef_buf_u32(out, z->slots_unmet);
    }
}

nef_err nef_budget_get(const void *value, size_t bytes, struct nef_budget_state *out_state)
{
    struct nef_reader reader = nef_reader_of(value, bytes);
    struct nef_budget_state state;
    bool bad;

    memset(&state, 0, sizeof state);
    state.count = nef_read_u8(&reader);
    bad = state.count > NEF_REPLICA_MAX;
    for (uint32_t i = 0; !bad && i < state.count; i++) {
        struct nef_budget_zone *z = &state.zones[i];
        size_t name_bytes = 0;
        const uint8_t *name = nef_read_block(&reader, NEF_ZONE_NAME_MAX, &name_bytes);

        bad = name == NULL || name_bytes == 0 || memchr(name, 0, name_bytes) != NULL;
        if (bad)
            break;
        memcpy(z->name, name, name_bytes);
        z->start = nef_read_u64(&reader);
        z->number = nef_read_u64(&reader);
        for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
            z->base[r] = nef_read_u64(&reader);
            z->spent[r] = nef_read_u64(&reader);
            z->limit[r] = nef_read_u64(&reader);
            z->unmet[r] = nef_read_u64(&reader);
            bad = bad || z->base[r] > z->spent[r] || z->spent[r] > z->limit[r];
        }
        z->slots = nef_read_u32(&reader);
        z->slots_unmet = nef_read_u32(&reader);
    }
    if (bad || nef_reader_end(&reader) != NEF_OK)
        return NEF_E_CORRUPT;
    *out_state = state;
    return NEF_OK;
}
