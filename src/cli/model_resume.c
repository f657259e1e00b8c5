/* What is kept of an interrupted `nef model add`; see model.h.
 *
 * After each part that the region has durably, a small file is replaced: which upload, how many parts, and the digests
 * up to there. The same command, given again, goes on from that. The file holds no key, no address (only a digest of
 * it, for an address may carry a token) and nothing of the model: a digest's state shows at most the last 63 bytes of a
 * part. If it is lost, the transfer begins anew and nothing else is lost. A lock beside it keeps two commands from
 * adding one model. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "cli/model.h"
#include "io/files.h"

#define VERSION    1
#define RESUME_MAX 4096u

static void put_state(struct nef_buf *out, const char *name, const struct nef_sha256 *state)
{
    uint8_t kept[NEF_SHA256_STATE_BYTES];
    char hex[2 * NEF_SHA256_STATE_BYTES + 1];

    nef_sha256_save(state, kept);
    nef_hex(kept, sizeof(kept), hex);
    nef_buf_printf(out, "\"%s\": \"%s\"", name, hex);
}

nef_err nef_model_resume_encode(const struct nef_model_resume *state, struct nef_buf *out)
{
    json_t *upload = json_string(state->upload);
    char *text = upload == NULL ? NULL : json_dumps(upload, JSON_ENCODE_ANY);

    json_decref(upload);
    if (text == NULL)
        return NEF_E_NOMEM;
    nef_buf_printf(out,
                   "{\"version\": %d, \"upload\": %s, \"part_bytes\": %llu, \"parts\": %u, \"identity\": \"%s\", "
                   "\"file_index\": %lld, ",
                   VERSION, text, (unsigned long long)state->part_bytes, state->parts, state->identity,
                   state->digests.file_index == UINT32_MAX ? -1ll : (long long)state->digests.file_index);
    put_state(out, "object", &state->digests.object);
    nef_buf_text(out, ", ");
    put_state(out, "file", &state->digests.file);
    nef_buf_text(out, "}\n");
    free(text);
    return nef_buf_end(out);
}

static bool take_state(const char *hex, struct nef_sha256 *out)
{
    uint8_t kept[NEF_SHA256_STATE_BYTES];

    if (nef_unhex(hex, strlen(hex), kept, sizeof(kept)) != NEF_OK)
        return false;
    nef_sha256_load(out, kept);
    return true;
}

nef_err nef_model_resume_decode(const void *text, size_t bytes, struct nef_model_resume *out)
{
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    const char *upload, *identity, *object, *file;
    json_int_t part_bytes, parts, file_index;
    struct nef_model_resume state = *out;
    nef_err err = NEF_E_CONFIG;
    int version;

    if (root == NULL)
        return NEF_E_CONFIG;
    if (json_unpack(root, "{s:i, s:s, s:I, s:I, s:s, s:I, s:s, s:s}", "version", &version, "upload", &upload,
                    "part_bytes", &part_bytes, "parts", &parts, "identity", &identity, "file_index", &file_index,
                    "object", &object, "file", &file) == 0 &&
        version == VERSION && upload[0] != '\0' && part_bytes >= (json_int_t)NEF_PART_BYTES_MIN &&
        part_bytes <= (json_int_t)NEF_PUT_BYTES_MAX && parts >= 0 && parts <= (json_int_t)NEF_PART_COUNT_MAX &&
        file_index >= -1 && file_index < (json_int_t)NEF_MODEL_FILES_MAX && strlen(identity) == 64 &&
        nef_text(state.upload, sizeof(state.upload), "%s", upload) == NEF_OK &&
        take_state(object, &state.digests.object) && take_state(file, &state.digests.file)) {
        (void)strcpy(state.identity, identity);
        state.part_bytes = (uint64_t)part_bytes;
        state.parts = (uint32_t)parts;
        state.digests.file_index = file_index < 0 ? UINT32_MAX : (uint32_t)file_index;
        *out = state;
        err = NEF_OK;
    }
    json_decref(root);
    return err;
}

/* ---- the file ---- */

/* Makes PATH and what is above it, for this user alone. */
static bool make_directories(const char *path)
{
    char part[NEF_PATH_MAX];

    for (size_t i = 1; path[i - 1] != '\0'; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return false;
    }
    return true;
}

nef_err nef_model_resume_open(struct nef_model_region *r, const char *name, struct nef_model_resume *out)
{
    char lock[NEF_PATH_MAX + 8], hex[33], what[NEF_URL_MAX + 64 + NEF_MODEL_NAME_MAX + 2];
    struct nef_buf text = {0};
    uint8_t digest[32];
    nef_err err;

    memset(out, 0, sizeof(*out));
    out->lock = -1;
    (void)snprintf(what, sizeof(what), "%s %s", r->endpoint, name);
    nef_hash_of(NEF_HASH_SHA256, what, strlen(what), digest);
    nef_hex(digest, 16, hex);
    if (!make_directories(r->state_dir))
        return nef_model_fail(&r->why, NEF_E_IO, "%s: %s", r->state_dir, strerror(errno));
    if (nef_text(out->path, sizeof(out->path), "%s/%s.json", r->state_dir, hex) != NEF_OK)
        return nef_model_fail(&r->why, NEF_E_LIMIT, "%s: the path is too long", r->state_dir);
    (void)snprintf(lock, sizeof(lock), "%s.lock", out->path);
    out->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (out->lock < 0)
        return nef_model_fail(&r->why, NEF_E_IO, "%s: %s", lock, strerror(errno));
    if (flock(out->lock, LOCK_EX | LOCK_NB) != 0)
        return nef_model_fail(&r->why, NEF_E_BUSY, "another command is adding %s now", name);
    err = nef_file_read(out->path, RESUME_MAX, true, &text);
    if (err == NEF_OK)
        out->found = nef_model_resume_decode(text.data, text.bytes, out) == NEF_OK; /* else: as if there were none */
    nef_buf_free(&text);
    return NEF_OK;
}

nef_err nef_model_resume_save(struct nef_model_region *r, struct nef_model_resume *state)
{
    struct nef_buf text = {0};
    nef_err err = nef_model_resume_encode(state, &text);

    if (err == NEF_OK)
        err = nef_file_replace(state->path, 0600, text.data, text.bytes);
    nef_buf_free(&text);
    return err == NEF_OK ? NEF_OK : nef_model_fail(&r->why, err, "%s: %s", state->path, nef_err_text(err));
}

void nef_model_resume_forget(struct nef_model_resume *state)
{
    if (state->path[0] != '\0')
        (void)unlink(state->path); /* what remains is found not to fit, and replaced */
    state->found = false;
}

void nef_model_resume_close(struct nef_model_resume *state)
{
    if (state->lock >= 0)
        (void)close(state->lock); /* the lock's file stays: removing it would let two have it */
    state->lock = -1;
}
