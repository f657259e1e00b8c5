/* See sim_disk.h. An inode has two images of its bytes, cache and platter, and a dirty flag per sector; a
 * directory has two tables of names, and between them the list of changes since the last sync_dir. */
#include "sim_disk.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "sim_names.h"

#define SECTOR     512u
#define BLOCK      64u
#define BAD_BYTES  4096u

struct inode {
    struct inode *next;
    uint8_t *cache, *platter, *dirty;
    uint64_t bytes, durable_bytes, capacity;
    uint32_t handles;
    bool reachable;
    bool unreadable; /* the BAD_BYTES at bad_at */
    uint64_t bad_at;
};

struct sim_disk {
    uint64_t random;
    struct inode *inodes;
    struct directory *directories;
    uint64_t generation; /* of power cycles */
    uint64_t ios, crash_in, fail_in;
    nef_err fail_err;
    bool off, failed, fail_sync;
    uint64_t capacity;
};

struct sim_file {
    struct nef_file base;
    struct sim_disk *disk;
    struct inode *inode;
    uint64_t generation;
    unsigned flags;
};

struct sim_dir {
    struct nef_dir base;
    struct sim_disk *disk;
    struct directory *directory;
    uint64_t generation;
};

uint64_t sim_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t below(struct sim_disk *d, uint64_t n)
{
    return sim_random(&d->random) % n;
}

/* ---- inodes ---- */

static void mark_reachable(const struct names *n)
{
    for (size_t i = 0; i < n->count; i++)
        n->at[i].inode->reachable = true;
}

static void collect(struct sim_disk *d)
{
    struct inode **link = &d->inodes;

    for (struct inode *i = d->inodes; i != NULL; i = i->next)
        i->reachable = i->handles > 0;
    for (struct directory *dir = d->directories; dir != NULL; dir = dir->next) {
        mark_reachable(&dir->now);
        mark_reachable(&dir->durable);
        for (size_t i = 0; i < dir->change_count; i++)
            if (dir->changes[i].inode != NULL)
                dir->changes[i].inode->reachable = true;
    }
    while (*link != NULL) {
        struct inode *i = *link;

        if (i->reachable) {
            link = &i->next;
            continue;
        }
        *link = i->next;
        free(i->cache);
        free(i->platter);
        free(i->dirty);
        free(i);
    }
}

/* ---- bytes ---- */

static uint64_t used_bytes(const struct sim_disk *d)
{
    uint64_t used = 0;

    for (const struct inode *i = d->inodes; i != NULL; i = i->next)
        used += i->bytes;
    return used;
}

static nef_err resize(struct sim_disk *d, struct inode *i, uint64_t bytes)
{
    uint64_t capacity = (bytes + SECTOR - 1) / SECTOR * SECTOR;

    if (bytes <= i->bytes)
        return NEF_OK;
    if (d->capacity != 0) {
        collect(d);
        if (used_bytes(d) + (bytes - i->bytes) > d->capacity)
            return NEF_E_NOSPACE;
    }
    if (capacity > i->capacity) {
        i->cache = sim_grow(i->cache, capacity);
        i->platter = sim_grow(i->platter, capacity);
        i->dirty = sim_grow(i->dirty, capacity / SECTOR);
        memset(i->cache + i->capacity, 0, capacity - i->capacity);
        memset(i->platter + i->capacity, 0, capacity - i->capacity);
        memset(i->dirty + i->capacity / SECTOR, 0, (capacity - i->capacity) / SECTOR);
        i->capacity = capacity;
    }
    i->bytes = bytes;
    return NEF_OK;
}

static void write_back(struct inode *i, uint64_t sector)
{
    memcpy(i->platter + sector * SECTOR, i->cache + sector * SECTOR, SECTOR);
    i->dirty[sector] = 0;
}

static void put_bytes(struct sim_disk *d, struct inode *i, uint64_t offset, const uint8_t *data,
                      uint64_t bytes)
{
    if (bytes == 0)
        return;
    if (offset <= i->bad_at && offset + bytes >= i->bad_at + BAD_BYTES)
        i->unreadable = false;
    if (data != NULL)
        memcpy(i->cache + offset, data, bytes);
    else
        memset(i->cache + offset, 0, bytes);
    for (uint64_t s = offset / SECTOR; s <= (offset + bytes - 1) / SECTOR; s++)
        i->dirty[s] = 1;
    if (below(d, 8) == 0) /* the disk's own mind */
        for (uint64_t s = 0; s < i->capacity / SECTOR; s++)
            if (i->dirty[s] && below(d, 2) == 0)
                write_back(i, s);
}

static bool all_zero(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != 0)
            return false;
    return true;
}

/* Decide what became of one unsynced sector. mood: how this crash treats most of them. */
static void settle_sector(struct sim_disk *d, struct inode *i, uint64_t sector, uint64_t mood)
{
    uint8_t *cache = i->cache + sector * SECTOR, *platter = i->platter + sector * SECTOR;
    uint64_t fate = mood < 2 ? mood : below(d, 4);
    bool keep;

    if (fate == 0)
        return; /* dropped */
    if (fate == 1) {
        memcpy(platter, cache, SECTOR);
        return;
    }
    keep = below(d, 2) == 0; /* what was there before is overwritten atomically */
    for (unsigned b = 0; b < SECTOR; b += BLOCK) {
        if (!all_zero(platter + b, BLOCK)) {
            if (keep)
                memcpy(platter + b, cache + b, BLOCK);
            continue;
        }
        if (fate == 2 && below(d, 2) == 0)
            continue;
        if (fate == 3 && !all_zero(cache + b, BLOCK) && below(d, 3) == 0) {
            for (unsigned k = 0; k < BLOCK; k++)
                platter[b + k] = (uint8_t)sim_random(&d->random);
            continue;
        }
        memcpy(platter + b, cache + b, BLOCK);
    }
}

static void settle_inode(struct sim_disk *d, struct inode *i, uint64_t mood)
{
    for (uint64_t s = 0; s < i->capacity / SECTOR; s++) {
        if (!i->dirty[s])
            continue;
        settle_sector(d, i, s, mood);
        i->dirty[s] = 0;
    }
    if (i->bytes != i->durable_bytes && (mood == 0 || (mood > 1 && below(d, 2) == 0))) {
        i->bytes = i->durable_bytes;
        memset(i->platter + i->bytes, 0, i->capacity - i->bytes);
    }
    i->durable_bytes = i->bytes;
    memcpy(i->cache, i->platter, i->capacity);
}

void sim_disk_crash(struct sim_disk *d)
{
    uint64_t mood = below(d, 5); /* 0: all dropped, 1: all kept, else mixed */

    for (struct directory *dir = d->directories; dir != NULL; dir = dir->next) {
        for (size_t i = 0; i < dir->change_count; i++)
            if (mood == 1 || (mood > 1 && below(d, 2) == 0))
                sim_apply_change(&dir->durable, &dir->changes[i]);
        dir->change_count = 0;
        sim_copy_names(&dir->now, &dir->durable);
    }
    for (struct inode *i = d->inodes; i != NULL; i = i->next)
        if (i->capacity > 0)
            settle_inode(d, i, mood);
    d->generation++;
    d->off = false;
    d->crash_in = d->fail_in = 0;
    d->fail_sync = false;
    collect(d);
}

/* ---- one I/O ---- */

static nef_err begin_io(struct sim_disk *d, uint64_t generation)
{
    if (d->off || generation != d->generation)
        return NEF_E_IO;
    d->ios++;
    if (d->crash_in > 0 && --d->crash_in == 0) {
        d->off = true;
        return NEF_E_IO;
    }
    if (d->fail_in > 0 && --d->fail_in == 0) {
        d->failed = true;
        return d->fail_err;
    }
    return NEF_OK;
}

static struct sim_file *file_of(struct nef_file *f)
{
    return (struct sim_file *)f;
}

static nef_err sim_read(struct nef_file *f, uint64_t offset, void *out, size_t bytes)
{
    struct sim_file *file = file_of(f);
    struct inode *i = file->inode;
    nef_err err = begin_io(file->disk, file->generation);

    if (err != NEF_OK)
        return err;
    if (bytes == 0)
        return NEF_OK;
    if (offset + bytes > i->bytes)
        return NEF_E_RANGE;
    if (i->unreadable && offset < i->bad_at + BAD_BYTES && offset + bytes > i->bad_at)
        return NEF_E_IO;
    if (!(file->flags & NEF_FILE_DIRECT)) {
        memcpy(out, i->cache + offset, bytes);
        return NEF_OK;
    }
    NEF_ASSERT(offset % 4096 == 0 && bytes % 4096 == 0 && (uintptr_t)out % 4096 == 0);
    for (uint64_t s = offset / SECTOR; s < (offset + bytes) / SECTOR; s++)
        if (i->dirty[s])
            write_back(i, s);
    memcpy(out, i->platter + offset, bytes);
    return NEF_OK;
}

/* A write or punch that fails half way has done some of it. */
static nef_err change_bytes(struct sim_file *file, uint64_t offset, const uint8_t *data, uint64_t bytes)
{
    struct sim_disk *d = file->disk;
    struct inode *i = file->inode;
    nef_err err;

    NEF_ASSERT(!(file->flags & NEF_FILE_READ));
    err = begin_io(d, file->generation);
    if (file->generation != d->generation)
        return NEF_E_IO;
    if (err != NEF_OK) {
        if (bytes > 0 && offset + bytes <= i->bytes) {
            uint64_t end = (offset + below(d, bytes + 1)) / BLOCK * BLOCK;

            put_bytes(d, i, offset, data, end > offset ? end - offset : 0);
        }
        return err;
    }
    err = resize(d, i, offset + bytes);
    if (err == NEF_OK)
        put_bytes(d, i, offset, data, bytes);
    return err;
}

static nef_err sim_write(struct nef_file *f, uint64_t offset, const void *data, size_t bytes)
{
    return change_bytes(file_of(f), offset, data, bytes);
}

static nef_err sim_punch(struct nef_file *f, uint64_t offset, uint64_t bytes)
{
    NEF_ASSERT(offset + bytes <= file_of(f)->inode->bytes);
    return change_bytes(file_of(f), offset, NULL, bytes);
}

static nef_err sim_sync(struct nef_file *f)
{
    struct sim_file *file = file_of(f);
    struct inode *i = file->inode;
    nef_err err = begin_io(file->disk, file->generation);

    if (file->generation != file->disk->generation || file->disk->off)
        return NEF_E_IO;
    if (err != NEF_OK || file->disk->fail_sync) {
        /* reported once, then forgotten: the cache shows what the platter never gets */
        file->disk->fail_sync = false;
        if (i->capacity > 0)
            memset(i->dirty, 0, i->capacity / SECTOR);
        return err == NEF_OK ? NEF_E_IO : err;
    }
    for (uint64_t s = 0; s < i->capacity / SECTOR; s++)
        if (i->dirty[s])
            write_back(i, s);
    i->durable_bytes = i->bytes;
    return NEF_OK;
}

static nef_err sim_allocate(struct nef_file *f, uint64_t bytes)
{
    struct sim_file *file = file_of(f);
    nef_err err = begin_io(file->disk, file->generation);

    return err == NEF_OK ? resize(file->disk, file->inode, bytes) : err;
}

static nef_err sim_size(struct nef_file *f, uint64_t *out_bytes)
{
    struct sim_file *file = file_of(f);
    nef_err err = begin_io(file->disk, file->generation);

    if (err == NEF_OK)
        *out_bytes = file->inode->bytes;
    return err;
}

static void sim_file_close(struct nef_file *f)
{
    file_of(f)->inode->handles--;
    free(f);
}

static const struct nef_file_ops file_ops = {
    .read = sim_read,
    .read_now = sim_read, /* nobody waits for this disk */
    .write = sim_write,
    .sync = sim_sync,
    .allocate = sim_allocate,
    .punch = sim_punch,
    .size = sim_size,
    .close = sim_file_close,
};

/* ---- directories ---- */

static struct sim_dir *dir_of(struct nef_dir *d)
{
    return (struct sim_dir *)d;
}

static nef_err sim_open(struct nef_dir *d, const char *name, unsigned flags, struct nef_file **out_file)
{
    struct sim_dir *dir = dir_of(d);
    struct sim_disk *disk = dir->disk;
    struct entry *e;
    struct inode *inode;
    struct sim_file *file;
    nef_err err = begin_io(disk, dir->generation);

    if (err != NEF_OK)
        return err;
    NEF_ASSERT(!(flags & NEF_FILE_DIRECT) || (flags & NEF_FILE_READ));
    e = sim_find_name(&dir->directory->now, name);
    if (flags & NEF_FILE_CREATE) {
        if (e != NULL)
            return NEF_E_EXISTS;
        inode = calloc(1, sizeof(*inode));
        NEF_ASSERT(inode != NULL);
        inode->next = disk->inodes;
        disk->inodes = inode;
        sim_set_name(&dir->directory->now, name, inode);
        sim_note_change(dir->directory, CHANGE_CREATE, name, NULL, inode);
    } else {
        if (e == NULL)
            return NEF_E_NOT_FOUND;
        inode = e->inode;
    }
    file = calloc(1, sizeof(*file));
    NEF_ASSERT(file != NULL);
    *file = (struct sim_file){{&file_ops}, disk, inode, disk->generation, flags};
    inode->handles++;
    for (uint64_t s = 0; (flags & NEF_FILE_FRESH) && s < inode->capacity / SECTOR; s++)
        if (!inode->dirty[s])
            memcpy(inode->cache + s * SECTOR, inode->platter + s * SECTOR, SECTOR);
    *out_file = &file->base;
    return NEF_OK;
}

static nef_err sim_unlink(struct nef_dir *d, const char *name)
{
    struct sim_dir *dir = dir_of(d);
    nef_err err = begin_io(dir->disk, dir->generation);

    if (err != NEF_OK)
        return err;
    if (sim_find_name(&dir->directory->now, name) == NULL)
        return NEF_E_NOT_FOUND;
    sim_remove_name(&dir->directory->now, name);
    sim_note_change(dir->directory, CHANGE_UNLINK, name, NULL, NULL);
    return NEF_OK;
}

static nef_err sim_rename(struct nef_dir *d, const char *from, const char *to)
{
    struct sim_dir *dir = dir_of(d);
    nef_err err = begin_io(dir->disk, dir->generation);

    if (err != NEF_OK)
        return err;
    if (sim_find_name(&dir->directory->now, from) == NULL)
        return NEF_E_NOT_FOUND;
    sim_note_change(dir->directory, CHANGE_RENAME, from, to, NULL);
    sim_apply_change(&dir->directory->now, &dir->directory->changes[dir->directory->change_count - 1]);
    return NEF_OK;
}

static nef_err sim_sync_dir(struct nef_dir *d)
{
    struct sim_dir *dir = dir_of(d);
    nef_err err = begin_io(dir->disk, dir->generation);

    if (err != NEF_OK)
        return err;
    sim_copy_names(&dir->directory->durable, &dir->directory->now);
    dir->directory->change_count = 0;
    collect(dir->disk);
    return NEF_OK;
}

static nef_err sim_list(struct nef_dir *d, void (*visit)(void *context, const char *name),
                        void *context)
{
    struct sim_dir *dir = dir_of(d);
    nef_err err = begin_io(dir->disk, dir->generation);

    for (size_t i = 0; err == NEF_OK && i < dir->directory->now.count; i++)
        visit(context, dir->directory->now.at[i].name);
    return err;
}

static nef_err sim_free_bytes(struct nef_dir *d, uint64_t *out_free, uint64_t *out_total)
{
    struct sim_disk *disk = dir_of(d)->disk;
    uint64_t total = disk->capacity == 0 ? UINT64_C(1) << 40 : disk->capacity;
    uint64_t used = used_bytes(disk);

    *out_free = used < total ? total - used : 0;
    *out_total = total;
    return NEF_OK;
}

static void sim_dir_close(struct nef_dir *d)
{
    free(d);
}

static const struct nef_dir_ops dir_ops = {
    .open = sim_open,
    .unlink = sim_unlink,
    .rename = sim_rename,
    .sync_dir = sim_sync_dir,
    .list = sim_list,
    .free_bytes = sim_free_bytes,
    .close = sim_dir_close,
};

static struct directory *find_directory(struct sim_disk *disk, const char *name)
{
    struct directory *dir = disk->directories;

    while (dir != NULL && strcmp(dir->name, name) != 0)
        dir = dir->next;
    return dir;
}

struct nef_dir *sim_disk_dir(struct sim_disk *disk, const char *name)
{
    struct directory *directory = find_directory(disk, name);
    struct sim_dir *dir = calloc(1, sizeof(*dir));

    NEF_ASSERT(dir != NULL && strlen(name) < SIM_NAME_BYTES);
    if (directory == NULL) {
        directory = calloc(1, sizeof(*directory));
        NEF_ASSERT(directory != NULL);
        strcpy(directory->name, name);
        directory->next = disk->directories;
        disk->directories = directory;
    }
    *dir = (struct sim_dir){{&dir_ops}, disk, directory, disk->generation};
    return &dir->base;
}

/* ---- the disk ---- */

struct sim_disk *sim_disk_new(uint64_t seed)
{
    struct sim_disk *d = calloc(1, sizeof(*d));

    NEF_ASSERT(d != NULL);
    d->random = seed;
    return d;
}

void sim_disk_free(struct sim_disk *d)
{
    while (d->directories != NULL) {
        struct directory *dir = d->directories;

        d->directories = dir->next;
        free(dir->now.at);
        free(dir->durable.at);
        free(dir->changes);
        free(dir);
    }
    collect(d);
    NEF_ASSERT(d->inodes == NULL); /* a handle is still open */
    free(d);
}

void sim_disk_crash_at(struct sim_disk *d, uint64_t n)
{
    d->crash_in = n;
}

bool sim_disk_is_off(const struct sim_disk *d)
{
    return d->off;
}

void sim_disk_fail_at(struct sim_disk *d, uint64_t n, nef_err err)
{
    d->fail_in = n;
    d->fail_err = err;
    d->failed = false;
}

bool sim_disk_failed(const struct sim_disk *d)
{
    return d->failed;
}

void sim_disk_fail_sync(struct sim_disk *d)
{
    d->fail_sync = true;
}

void sim_disk_set_capacity(struct sim_disk *d, uint64_t bytes)
{
    d->capacity = bytes;
}

uint64_t sim_disk_ios(const struct sim_disk *d)
{
    return d->ios;
}

static struct inode *durable_inode(struct sim_disk *d, const char *dir, const char *file,
                                   uint64_t offset, uint64_t bytes)
{
    struct directory *directory = find_directory(d, dir);
    struct entry *e = directory == NULL ? NULL : sim_find_name(&directory->durable, file);

    return e == NULL || offset + bytes > e->inode->bytes ? NULL : e->inode;
}

bool sim_disk_rot(struct sim_disk *d, const char *dir, const char *file, uint64_t offset,
                  uint64_t bytes)
{
    struct inode *i = durable_inode(d, dir, file, offset, bytes);

    for (uint64_t k = 0; i != NULL && k < bytes; k++) {
        uint8_t mask = (uint8_t)(1 + below(d, 255));

        i->cache[offset + k] ^= mask;
        i->platter[offset + k] ^= mask;
    }
    return i != NULL;
}

bool sim_disk_unreadable(struct sim_disk *d, const char *dir, const char *file, uint64_t offset)
{
    uint64_t at = offset / BAD_BYTES * BAD_BYTES;
    struct inode *i = durable_inode(d, dir, file, at, BAD_BYTES);

    if (i != NULL) {
        i->unreadable = true;
        i->bad_at = at;
    }
    return i != NULL;
}

bool sim_disk_platter(struct sim_disk *d, const char *dir, const char *file, uint64_t offset, void *out,
                      uint64_t bytes)
{
    struct inode *i = durable_inode(d, dir, file, offset, bytes);

    if (i != NULL)
        memcpy(out, i->platter + offset, bytes);
    return i != NULL;
}

bool sim_disk_doctor(struct sim_disk *d, const char *dir, const char *file, uint64_t offset,
                     const void *data, uint64_t bytes)
{
    struct inode *i = durable_inode(d, dir, file, offset, bytes);

    if (i != NULL) {
        memcpy(i->cache + offset, data, bytes);
        memcpy(i->platter + offset, data, bytes);
    }
    return i != NULL;
}

bool sim_disk_exists(struct sim_disk *d, const char *dir, const char *file)
{
    return durable_inode(d, dir, file, 0, 0) != NULL;
}

bool sim_disk_remove(struct sim_disk *d, const char *dir, const char *file)
{
    struct directory *directory = find_directory(d, dir);

    if (directory == NULL || sim_find_name(&directory->durable, file) == NULL)
        return false;
    sim_remove_name(&directory->durable, file);
    sim_remove_name(&directory->now, file);
    collect(d);
    return true;
}
