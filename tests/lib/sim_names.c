/* See sim_names.h. */
#include "sim_names.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

void *sim_grow(void *p, size_t bytes)
{
    void *q = realloc(p, bytes);

    NEF_ASSERT(q != NULL);
    return q;
}

struct entry *sim_find_name(struct names *n, const char *name)
{
    for (size_t i = 0; i < n->count; i++)
        if (strcmp(n->at[i].name, name) == 0)
            return &n->at[i];
    return NULL;
}

void sim_set_name(struct names *n, const char *name, struct inode *inode)
{
    struct entry *e = sim_find_name(n, name);

    if (e == NULL) {
        if (n->count == n->capacity) {
            n->capacity = n->capacity == 0 ? 16 : 2 * n->capacity;
            n->at = sim_grow(n->at, n->capacity * sizeof(*n->at));
        }
        e = &n->at[n->count++];
        NEF_ASSERT(strlen(name) < SIM_NAME_BYTES);
        strcpy(e->name, name);
    }
    e->inode = inode;
}

void sim_remove_name(struct names *n, const char *name)
{
    struct entry *e = sim_find_name(n, name);

    if (e != NULL)
        *e = n->at[--n->count];
}

void sim_copy_names(struct names *to, const struct names *from)
{
    to->count = 0;
    for (size_t i = 0; i < from->count; i++)
        sim_set_name(to, from->at[i].name, from->at[i].inode);
}

void sim_note_change(struct directory *dir, enum change_type type, const char *name, const char *to,
                     struct inode *inode)
{
    struct change *c;

    if (dir->change_count == dir->change_capacity) {
        dir->change_capacity = dir->change_capacity == 0 ? 16 : 2 * dir->change_capacity;
        dir->changes = sim_grow(dir->changes, dir->change_capacity * sizeof(*dir->changes));
    }
    c = &dir->changes[dir->change_count++];
    *c = (struct change){.type = type, .inode = inode};
    strcpy(c->name, name);
    if (to != NULL)
        strcpy(c->to, to);
}

void sim_apply_change(struct names *n, const struct change *c)
{
    struct entry *e;

    switch (c->type) {
    case CHANGE_CREATE:
        sim_set_name(n, c->name, c->inode);
        break;
    case CHANGE_UNLINK:
        sim_remove_name(n, c->name);
        break;
    case CHANGE_RENAME:
        e = sim_find_name(n, c->name);
        if (e != NULL) {
            struct inode *inode = e->inode;

            sim_remove_name(n, c->name);
            sim_set_name(n, c->to, inode);
        }
        break;
    }
}
