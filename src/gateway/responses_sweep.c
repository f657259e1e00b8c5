/* Sweeps over what is stored, in a worker of each zone; see responses_internal.h.
 *
 * Names begin with when a response was made, so they are listed oldest first:
 *
 *   a/ID    a marker: ID isn't finished, or isn't all deleted. Found by both zones, so that an answer whose owner is
 *           lost is gone on with, and a deletion that was cut short is ended.
 *   r/ID/.. the response. It is deleted when it is as old as responses are kept. Whichever zone's sweep comes first
 *           proposes that; it holds where the log says it, so both zones have it until the same op.
 *
 * An answer that isn't finished isn't too old: its marker keeps it. */
#include <stdio.h>
#include <string.h>
#include "base/bytes.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "gateway/responses_internal.h"
#include "io/clock.h"

#define EXPIRE_MAX 64u /* ids of one listing */
#define YOUNG_S    60u /* a marker without a head may be of a response that is being made */

static uint64_t made_s(const char *id) /* 0: no id of ours */
{
    uint8_t seconds[4];

    if (!nef_response_id_ok(id) || strlen(id) < 13 || nef_unhex(id + 5, 8, seconds, sizeof(seconds)) != NEF_OK)
        return 0;
    return nef_get_be32(seconds);
}

/* ---- what isn't finished ---- */

/* Follow an answer that isn't finished, so that it is gone on with when its owner is lost. */
static void watch(struct nef_responses *rs, const char *id)
{
    struct live *l = live_find(rs, id);
    char name[NEF_KEEP_NAME_BYTES];
    json_t *head = NULL;
    nef_err err;

    if (l == NULL) {
        live_name(id, "h", name);
        err = nef_keep_get(&rs->keep, name, false, &head);
        if (err == NEF_OK)
            l = live_new(rs, id, head, true, LIVE_FOLLOW, &err);
        json_decref(head);
    }
    if (l == NULL)
        return;
    (void)pthread_mutex_lock(&l->lock);
    l->seen_ns = nef_now_ns();
    (void)pthread_mutex_unlock(&l->lock);
    live_unref(l);
}

static bool see_marker(void *context, const char *name)
{
    struct nef_responses *rs = context;

    if (strncmp(name, "a/", 2) == 0 && made_s(name + 2) != 0)
        watch(rs, name + 2);
    return !atomic_load(&rs->quiesced);
}

void responses_watch(struct nef_responses *rs)
{
    nef_err err = nef_keep_list(&rs->keep, "a/", "", see_marker, rs);

    if (err != NEF_OK)
        nef_trace(NEF_TRACE_WARN, "responses_not_swept", "e:err", (int)err, NULL);
}

/* ---- what is too old, or left behind ---- */

struct sweep {
    struct nef_responses *rs;
    char ids[EXPIRE_MAX][NEF_RESPONSE_ID_BYTES];
    uint32_t count;
    uint64_t now_s;
    char after[NEF_KEEP_NAME_BYTES];
};

/* A marker whose head never came, or went before all the rest did; or one that was left when all was put away. Again
 * at the next sweep if it fails. */
static bool see_stale(void *context, const char *name)
{
    struct sweep *s = context;
    char object[NEF_KEEP_NAME_BYTES];
    json_t *head = NULL, *records = NULL;
    uint64_t made = strncmp(name, "a/", 2) == 0 ? made_s(name + 2) : 0;
    nef_err err;

    if (made == 0 || made + YOUNG_S > s->now_s)
        return true;
    live_name(name + 2, "h", object);
    err = nef_keep_get(&s->rs->keep, object, true, &head);
    live_name(name + 2, "f", object);
    if (err == NEF_E_NOT_FOUND)
        (void)live_delete(s->rs, name + 2, true);
    else if (err == NEF_OK && nef_keep_get(&s->rs->keep, object, true, &records) == NEF_OK)
        (void)live_tidy(s->rs, name + 2);
    json_decref(head);
    json_decref(records);
    return !atomic_load(&s->rs->quiesced);
}

static bool is_marked(struct nef_responses *rs, const char *id)
{
    char name[NEF_KEEP_NAME_BYTES];
    json_t *marker = NULL;
    nef_err err;

    (void)snprintf(name, sizeof(name), "a/%s", id);
    err = nef_keep_get(&rs->keep, name, true, &marker);
    json_decref(marker);
    return err != NEF_E_NOT_FOUND; /* who can't tell leaves it */
}

static bool see_old(void *context, const char *name)
{
    struct sweep *s = context;
    char id[NEF_RESPONSE_ID_BYTES];
    size_t bytes = strncmp(name, "r/", 2) == 0 ? strcspn(name + 2, "/") : 0;
    uint64_t made;

    if (bytes == 0 || bytes >= sizeof(id))
        return true;
    memcpy(id, name + 2, bytes);
    id[bytes] = '\0';
    made = made_s(id);
    if (made == 0)
        return true;
    if (made + s->rs->options.kept_s > s->now_s)
        return false; /* all that follow are younger */
    if (s->count > 0 && strcmp(s->ids[s->count - 1], id) == 0)
        return true;
    if (s->count == EXPIRE_MAX)
        return false;
    (void)strcpy(s->ids[s->count++], id);
    return true;
}

void responses_expire(struct nef_responses *rs)
{
    struct sweep s = {.rs = rs, .now_s = nef_wall_ms() / 1000};
    uint64_t gone = 0;
    nef_err err = nef_keep_list(&rs->keep, "a/", "", see_stale, &s);

    do {
        s.count = 0;
        if (err == NEF_OK)
            err = nef_keep_list(&rs->keep, "r/", s.after, see_old, &s);
        for (uint32_t i = 0; err == NEF_OK && i < s.count && !atomic_load(&rs->quiesced); i++) {
            live_name(s.ids[i], "~", s.after); /* behind all that belongs to it */
            if (is_marked(rs, s.ids[i]))
                continue;
            err = live_delete(rs, s.ids[i], true);
            gone += err == NEF_OK;
        }
    } while (err == NEF_OK && s.count == EXPIRE_MAX && !atomic_load(&rs->quiesced));
    if (gone > 0 || err != NEF_OK)
        nef_trace(NEF_TRACE_INFO, "responses_expired", "u:count", gone, "e:err", (int)err, NULL);
}
