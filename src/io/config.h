/* Strict configuration files: YAML against a schema that is a table of fields.
 *
 * Whatever the schema doesn't allow is an error that names file, line and key, and what would be right:
 *   zone.yaml:12: timing.lease: must be between 100ms and 10s
 * Unknown and repeated keys, wrong types, missing required keys, values out of range, empty values, a
 * second document, anchors, aliases and tags are all refused. (Aliases: a few lines of them unfold to
 * gigabytes; and a configuration should read as it is.) Parsing runs on libyaml's events straight against
 * the schema, so depth is the schema's and lines are exact.
 *
 * The same table writes the file back, with each field's help as its comment.
 *
 * Values land in a C struct through offsets. Memory: strings and lists are on the heap and belong to the
 * struct; nef_config_free releases them. Any thread. */
#ifndef NEF_IO_CONFIG_H
#define NEF_IO_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/id.h"

struct nef_host_port {
    char host[254]; /* a name or an address, IPv6 without brackets */
    uint16_t port;  /* 0: the system chooses (tests) */
};

#define NEF_HOST_PORT_TEXT 264u
/* "host:port", "[::1]:9000". */
NEF_MUST_CHECK nef_err nef_host_port_parse(const char *text, struct nef_host_port *out);
void nef_host_port_text(const struct nef_host_port *address, char out[NEF_HOST_PORT_TEXT]);

enum nef_config_kind {
    /* kind              C type at offset      in the file                  min, max are of */
    NEF_CONFIG_STRING,    /* char *             any text                    its length */
    NEF_CONFIG_NAME,      /* char *             a-z 0-9 -                   its length */
    NEF_CONFIG_PATH,      /* char *             relative: to the file's directory */
    NEF_CONFIG_URL,       /* char *             http(s)://host:port, no path */
    NEF_CONFIG_HOST_PORT, /* nef_host_port      host:port */
    NEF_CONFIG_ID,        /* nef_id             32 hex digits, not all 0 */
    NEF_CONFIG_BOOL,      /* bool               true, false */
    NEF_CONFIG_INT,       /* uint32_t           decimal                     the number */
    NEF_CONFIG_SIZE,      /* uint64_t bytes     256MiB, 64KiB, 1GiB, 512B   bytes */
    NEF_CONFIG_DURATION,  /* uint64_t ns        50ms, 1s, 5m, 24h, 7d       nanoseconds */
    NEF_CONFIG_FRACTION,  /* double             0.5                         thousandths */
    NEF_CONFIG_CHOICE,    /* uint32_t index     one of choices */
    NEF_CONFIG_MAP,       /* embedded struct    a mapping of `map` */
    NEF_CONFIG_LIST,      /* T *                a sequence of `item`        how many; count at `count` */
};

struct nef_config_schema;

struct nef_config_field {
    const char *name;
    enum nef_config_kind kind;
    size_t offset;
    bool required;
    const char *preset; /* as in the file; NULL: none, the field is left zero. Not for MAP and LIST */
    uint64_t min, max;  /* max 0: unbounded (strings: 4,096) */
    const char *const *choices;          /* CHOICE: names, NULL at the end */
    const struct nef_config_schema *map; /* MAP */
    /* MAP: NEF_CONFIG_FLAG of a bool that says whether it is there; an absent one stays all zero, nothing
     * in it is required. 0: an absent mapping counts as an empty one. */
    size_t flag;
    const struct nef_config_field *item; /* LIST: kind and limits of each; offset 0; not LIST itself */
    size_t item_bytes;                   /* LIST: sizeof(T) */
    size_t count;                        /* LIST: offset of a uint32_t */
    const char *help;                    /* one or more lines, for the writer; NULL: none */
};

#define NEF_CONFIG_FLAG(type, member) (offsetof(type, member) + 1)

struct nef_config_schema {
    const struct nef_config_field *fields;
    uint32_t field_count; /* 64 at most */
};

/* What was read: where each value stands, for errors found after parsing. */
struct nef_config_source;

struct nef_config_error {
    char text[512]; /* "zone.yaml:12: timing.lease: must be between 100ms and 10s" */
};

/* Read FILE into OUT, a zeroed struct of SCHEMA. On failure OUT is zeroed again and error->text says why.
 * out_source (NULL: not wanted) is freed with nef_config_source_free.
 * Errors: NEF_E_CONFIG (also: can't be opened), NEF_E_LIMIT (above NEF_CONFIG_FILE_MAX), NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_config_load(const char *path, const struct nef_config_schema *schema,
                                       void *out, size_t out_bytes,
                                       struct nef_config_source **out_source,
                                       struct nef_config_error *error);
/* The same from memory; PATH is for messages and relative paths. */
NEF_MUST_CHECK nef_err nef_config_parse(const char *path, const void *text, size_t bytes,
                                        const struct nef_config_schema *schema, void *out,
                                        size_t out_bytes, struct nef_config_source **out_source,
                                        struct nef_config_error *error);

/* A complaint about the value at KEY ("timing.lease", "peers[0].zone"; one that isn't in the file counts at
 * the nearest mapping that is): fills error, returns NEF_E_CONFIG. */
NEF_MUST_CHECK nef_err nef_config_fail(const struct nef_config_source *source, const char *key,
                                       struct nef_config_error *error, const char *format, ...)
    NEF_PRINTF(4, 5);
void nef_config_source_free(struct nef_config_source *source);

/* Release what OUT holds and zero it. */
void nef_config_free(const struct nef_config_schema *schema, void *out, size_t out_bytes);

/* The presets of everything that has one, the rest zero, nothing required: where a program begins that
 * writes a configuration. NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_config_preset(const struct nef_config_schema *schema, void *out,
                                         size_t out_bytes);

/* YAML of VALUES with comments; what equals its preset is written all the same, so that the file shows it.
 * Strings that are NULL are left out. */
void nef_config_print(const struct nef_config_schema *schema, const void *values, struct nef_buf *out);

#endif
