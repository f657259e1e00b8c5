/* Penalties; see penalty.h. A table with open addressing, at most half full, because a prompt of 100,000 tokens has far
 * fewer different ones than the vocabulary, and each step goes through all of them. */
#include "infer/engine/penalty.h"
#include <stdlib.h>
#include "crypto/crypto.h"

#define ROOM_MIN 256u

struct entry {
    uint32_t token;
    uint32_t used; /* 0: the entry is empty; else 1 and times it was generated */
};
struct nef_tally {
    struct entry *entries;
    uint32_t room, count; /* room: a power of two */
};

bool nef_penalties_wanted(const struct nef_sampling *s)
{
    return s->presence_penalty != 0 || s->frequency_penalty != 0 ||
           (s->repetition_penalty != 0 && s->repetition_penalty != 1);
}

nef_err nef_tally_new(struct nef_tally **out_tally)
{
    struct nef_tally *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return NEF_E_NOMEM;
    t->room = ROOM_MIN;
    t->entries = calloc(t->room, sizeof(t->entries[0]));
    if (t->entries == NULL) {
        free(t);
        return NEF_E_NOMEM;
    }
    *out_tally = t;
    return NEF_OK;
}

static void free_entries(struct nef_tally *t)
{
    nef_wipe(t->entries, t->room * sizeof(t->entries[0])); /* what a customer said */
    free(t->entries);
}

void nef_tally_free(struct nef_tally *t)
{
    if (t == NULL)
        return;
    free_entries(t);
    free(t);
}

static struct entry *find(struct entry *entries, uint32_t room, uint32_t token)
{
    uint32_t at = token * 0x9E3779B9u & (room - 1);

    while (entries[at].used != 0 && entries[at].token != token)
        at = (at + 1) & (room - 1);
    return &entries[at];
}

static nef_err grow(struct nef_tally *t)
{
    uint32_t room = t->room * 2;
    struct entry *entries = calloc(room, sizeof(entries[0]));

    if (entries == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < t->room; i++)
        if (t->entries[i].used != 0)
            *find(entries, room, t->entries[i].token) = t->entries[i];
    free_entries(t);
    t->entries = entries;
    t->room = room;
    return NEF_OK;
}

nef_err nef_tally_add(struct nef_tally *t, uint32_t token, bool generated)
{
    struct entry *entry;
    nef_err err;

    if (2 * (t->count + 1) > t->room) {
        err = grow(t);
        if (err != NEF_OK)
            return err;
    }
    entry = find(t->entries, t->room, token);
    if (entry->used == 0) {
        *entry = (struct entry){token, 1};
        t->count++;
    }
    entry->used += generated;
    return NEF_OK;
}

void nef_tally_apply(const struct nef_tally *t, const struct nef_sampling *s, float *logits)
{
    float repetition = s->repetition_penalty != 0 ? s->repetition_penalty : 1.0f;

    for (uint32_t i = 0; i < t->room; i++) {
        uint32_t generated = t->entries[i].used - 1;
        float *logit = &logits[t->entries[i].token];

        if (t->entries[i].used == 0)
            continue;
        *logit = *logit > 0 ? *logit / repetition : *logit * repetition;
        if (generated == 0)
            continue;
        *logit -= s->frequency_penalty * (float)generated;
        *logit -= s->presence_penalty;
    }
}
