/* Listing objects of a bucket over all cells.
 *
 * Each cell has an iterator over the bucket's O rows; the least object key among them comes next. When a
 * key falls under a common prefix, the prefix is put out once and every iterator that stands on it seeks
 * past it, so a listing by delimiter costs one seek a cell for each prefix, however many keys are below.
 * Memory is bounded by max entries; nothing of a row but its head is copied. */
#include <stdlib.h>
#include <string.h>
#include "store/store_internal.h"

struct cursor {
    struct nef_index_iter *it;
    struct nef_text key; /* where it stands; data NULL: at the end */
};

struct listing {
    struct nef_store *store;
    const struct nef_bucket *bucket;
    const struct nef_list_query *query;
    struct cursor cursors[NEF_CELL_MAX];
    struct nef_list_entry *entries; /* key and etag: offsets into texts until the end */
    uint32_t count;
    struct nef_buf texts;
    bool truncated;
};

static int compare(const struct nef_text *a, const struct nef_text *b)
{
    uint32_t bytes = NEF_MIN(a->bytes, b->bytes);
    int c = bytes > 0 ? memcmp(a->data, b->data, bytes) : 0;

    return c != 0 ? c : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static nef_err cursor_settle(struct cursor *c)
{
    size_t bytes;
    const uint8_t *k;

    c->key = (struct nef_text){NULL, 0};
    if (!nef_index_iter_valid(c->it))
        return nef_index_iter_error(c->it);
    k = nef_index_iter_key(c->it, &bytes);
    return nef_key_read_object(k, bytes, &c->key);
}

/* Open a cell's iterator at the first key that may be listed. */
static nef_err cursor_open(struct listing *l, uint32_t number)
{
    struct nef_cell *cell = &l->store->cells[number];
    const struct nef_text *prefix = &l->query->prefix, *after = &l->query->after;
    struct cursor *c = &l->cursors[number];
    struct nef_row_key from, to;

    nef_key_object(&from, &l->bucket->id, prefix->data, prefix->bytes);
    from.bytes--; /* the prefix itself, without the zero that ends a key */
    to = from;
    nef_key_after_prefix(&to);
    if (cell->index == NULL)
        return NEF_E_UNAVAILABLE;
    c->it = nef_index_iter_new(cell->index, NULL, from.data, from.bytes, to.data, to.bytes);
    if (c->it == NULL)
        return NEF_E_NOMEM;
    if (after->bytes > 0 && compare(after, prefix) >= 0) {
        nef_key_object(&from, &l->bucket->id, after->data, after->bytes);
        from.data[from.bytes++] = 0; /* just above the row of that very key */
        nef_index_iter_seek(c->it, from.data, from.bytes);
    } else {
        nef_index_iter_first(c->it);
    }
    return cursor_settle(c);
}

static struct cursor *least(struct listing *l)
{
    struct cursor *best = NULL;

    for (uint32_t i = 0; i < l->store->options.cell_count; i++) {
        struct cursor *c = &l->cursors[i];

        if (c->key.data != NULL && (best == NULL || compare(&c->key, &best->key) < 0))
            best = c;
    }
    return best;
}

/* The common prefix that KEY falls under, if there is one. */
static bool common_prefix(const struct nef_list_query *q, const struct nef_text *key,
                          struct nef_text *out)
{
    const char *from = key->data + q->prefix.bytes, *at;

    if (q->delimiter.bytes == 0 || key->bytes < q->prefix.bytes)
        return false;
    at = memmem(from, key->bytes - q->prefix.bytes, q->delimiter.data, q->delimiter.bytes);
    if (at == NULL)
        return false;
    *out = (struct nef_text){key->data, (uint32_t)(at - key->data) + q->delimiter.bytes};
    return true;
}

/* Move every cursor that stands below PREFIX past all keys that begin with it. */
static nef_err skip_prefix(struct listing *l, const struct nef_row_key *past,
                           const struct nef_text *prefix)
{
    nef_err err = NEF_OK;

    for (uint32_t i = 0; err == NEF_OK && i < l->store->options.cell_count; i++) {
        struct cursor *c = &l->cursors[i];

        if (c->key.data == NULL || c->key.bytes < prefix->bytes ||
            memcmp(c->key.data, prefix->data, prefix->bytes) != 0)
            continue;
        nef_index_iter_seek(c->it, past->data, past->bytes);
        err = cursor_settle(c);
    }
    return err;
}

static void add(struct listing *l, const struct nef_text *key, const struct nef_row_object *row)
{
    struct nef_list_entry *e = &l->entries[l->count++];

    memset(e, 0, sizeof *e);
    e->key_bytes = key->bytes;
    e->is_prefix = row == NULL;
    nef_buf_append(&l->texts, key->data, key->bytes);
    nef_buf_u8(&l->texts, 0);
    if (row != NULL) {
        e->size = row->size;
        e->modified_ms = row->modified_ms;
        e->checksum = row->checksum;
        nef_buf_append(&l->texts, row->etag, strlen(row->etag));
    }
    nef_buf_u8(&l->texts, 0);
}

static nef_err fill(struct listing *l)
{
    const struct nef_list_query *q = l->query;

    for (;;) {
        struct cursor *c = least(l);
        struct nef_text prefix;
        nef_err err;

        if (c == NULL)
            return NEF_OK;
        if (common_prefix(q, &c->key, &prefix)) {
            char copy[NEF_OBJECT_KEY_MAX];
            struct nef_row_key past;

            memcpy(copy, prefix.data, prefix.bytes); /* the cursor it lies in moves */
            prefix.data = copy;
            /* "after" counts for prefixes too: one that was put out before isn't put out again. */
            if (q->after.bytes == 0 || compare(&prefix, &q->after) > 0) {
                if (l->count == q->max) {
                    l->truncated = true;
                    return NEF_OK;
                }
                add(l, &prefix, NULL);
            }
            nef_key_object(&past, &l->bucket->id, copy, prefix.bytes);
            past.bytes--;
            nef_key_after_prefix(&past);
            err = skip_prefix(l, &past, &prefix);
        } else {
            struct nef_row_object row;
            size_t bytes;
            const uint8_t *v = nef_index_iter_value(c->it, &bytes);

            if (l->count == q->max) {
                l->truncated = true;
                return NEF_OK;
            }
            err = nef_row_object_get(v, bytes, &row);
            if (err != NEF_OK)
                return err;
            add(l, &c->key, &row);
            nef_index_iter_next(c->it);
            err = cursor_settle(c);
        }
        if (err != NEF_OK)
            return err;
    }
}

/* The arena is final: offsets become pointers. */
static nef_err finish(struct listing *l, struct nef_list *out)
{
    const char *at;
    nef_err err = nef_buf_end(&l->texts);

    if (err != NEF_OK)
        return err;
    at = (const char *)l->texts.data;
    for (uint32_t i = 0; i < l->count; i++) {
        l->entries[i].key = at;
        at += l->entries[i].key_bytes + 1;
        l->entries[i].etag = at;
        at += strlen(at) + 1;
    }
    *out = (struct nef_list){.count = l->count, .entries = l->entries, .truncated = l->truncated,
                             .memory = l->texts.data};
    return NEF_OK;
}

nef_err nef_store_list(struct nef_store *store, const struct nef_bucket *bucket,
                       const struct nef_list_query *query, struct nef_list *out_list)
{
    struct nef_list_query q = *query;
    struct listing *l;
    uint32_t locked = 0;
    nef_err err = NEF_OK;

    q.max = NEF_MIN(q.max, NEF_LIST_MAX);
    if (q.max == 0 || q.prefix.bytes > NEF_OBJECT_KEY_MAX) {
        *out_list = (struct nef_list){0};
        return NEF_OK;
    }
    /* No key is longer, so a longer "after" stands where its first bytes stand. */
    q.after.bytes = NEF_MIN(q.after.bytes, NEF_OBJECT_KEY_MAX);
    l = calloc(1, sizeof *l);
    if (l == NULL)
        return NEF_E_NOMEM;
    l->store = store;
    l->bucket = bucket;
    l->query = &q;
    l->entries = calloc(q.max, sizeof *l->entries);
    if (l->entries == NULL)
        err = NEF_E_NOMEM;
    for (; err == NEF_OK && locked < store->options.cell_count; locked++) {
        nef_cell_read_begin(&store->cells[locked]);
        err = cursor_open(l, locked);
    }
    if (err == NEF_OK)
        err = fill(l);
    for (uint32_t i = 0; i < locked; i++) {
        if (l->cursors[i].it != NULL)
            nef_index_iter_free(l->cursors[i].it);
        nef_cell_read_end(&store->cells[i]);
    }
    if (err == NEF_OK)
        err = finish(l, out_list);
    if (err != NEF_OK) {
        free(l->entries);
        nef_buf_free(&l->texts);
    }
    free(l);
    return err;
}

void nef_list_free(struct nef_list *list)
{
    free(list->entries);
    free(list->memory);
    *list = (struct nef_list){0};
}
