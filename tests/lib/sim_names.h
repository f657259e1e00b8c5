/* Directories of the simulated disk: tables of names, and the changes between what is durable and
 * what is seen. Inodes are opaque here. Only sim_disk.c uses this. */
#ifndef NEF_TESTS_SIM_NAMES_H
#define NEF_TESTS_SIM_NAMES_H

#include <stddef.h>

#define SIM_NAME_BYTES 64u

struct inode;

struct entry {
    char name[SIM_NAME_BYTES];
    struct inode *inode;
};

struct names {
    struct entry *at;
    size_t count, capacity;
};

enum change_type { CHANGE_CREATE, CHANGE_UNLINK, CHANGE_RENAME };

struct change {
    enum change_type type;
    char name[SIM_NAME_BYTES], to[SIM_NAME_BYTES];
    struct inode *inode;
};

struct directory {
    struct directory *next;
    char name[SIM_NAME_BYTES];
    struct names now, durable;
    struct change *changes;
    size_t change_count, change_capacity;
};

void *sim_grow(void *p, size_t bytes);
struct entry *sim_find_name(struct names *n, const char *name);
void sim_set_name(struct names *n, const char *name, struct inode *inode);
void sim_remove_name(struct names *n, const char *name);
void sim_copy_names(struct names *to, const struct names *from);
void sim_note_change(struct directory *dir, enum change_type type, const char *name, const char *to,
                     struct inode *inode);
void sim_apply_change(struct names *n, const struct change *c);

#endif
