/* The file or files of a model, mapped and parsed. */
#ifndef NEF_INFER_SOURCE_H
#define NEF_INFER_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/gguf/gguf.h"

/* What tells a file from another one, and from itself after a change, without reading it. */
struct nef_source_identity {
    uint64_t device, inode, bytes, modified_ns, changed_ns;
};
struct nef_source_file {
    const uint8_t *data;
    size_t bytes;
    int fd;
    struct nef_gguf *gguf;
    struct nef_source_identity identity;
};
struct nef_source {
    uint32_t count;
    struct nef_source_file *files; /* the first holds the metadata */
};
/* TEXT as struct nef_model_options.source. What is wrong: out_error (NEF_GGUF_ERROR_MAX bytes). The mapping is private
 * and read-only; a file that is cut short while it is mapped kills the process (SIGBUS), so models are replaced by
 * rename. */
NEF_MUST_CHECK nef_err nef_source_open(const char *text, char *out_error, struct nef_source *out_source);
void nef_source_close(struct nef_source *source);
const struct nef_gguf_tensor *nef_source_tensor(const struct nef_source *source, const char *name); /* NULL: none */
uint64_t nef_source_bytes(const struct nef_source *source);
/* No file has changed since it was opened (as far as its times tell). */
bool nef_source_unchanged(const struct nef_source *source);
/* The pages that lie wholly in these bytes of a mapping count no more as this process's memory; they can still be
 * read. */
void nef_source_release(const uint8_t *data, size_t bytes);

#endif
