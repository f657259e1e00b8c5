/* `nef model`: models of a region, which are objects of the bucket nef-models (gateway/models.h).
 *
 *   model.c         the command: add, list, rm
 *   model_add.c     one model from its source into the region, part by part
 *   model_plan.c    what a model consists of: one file, or the parts of a split one joined
 *   model_origin.c  sources: where the bytes are, how they are fetched; model_https.c is the one that is far away
 *   model_region.c  the region's side: signed calls to an S3 listener
 *   model_send.c    parts on their way, beside the reading
 *   model_resume.c  what is kept of an interrupted transfer
 *   model_bar.c     progress on a terminal
 *
 * Bytes go straight from the source into the region: nothing of a model is written to a disk here. One thread reads the
 * source, another sends. */
#ifndef NEF_CLI_MODEL_H
#define NEF_CLI_MODEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/limits.h"
#include "cli/cli.h"
#include "crypto/crypto.h"
#include "infer/gguf/gguf.h"
#include "infer/gguf/join.h"
#include "io/fetch.h"
#include "s3/client.h"

#define NEF_MODEL_WHERE_MAX     4096u /* a URL or a path */
#define NEF_MODEL_VALIDATOR_MAX 200u  /* an ETag, or size and time of a file */
#define NEF_MODEL_WHY_MAX       1024u

/* What goes wrong is said once, by the command; everything below fills `why`. */
struct nef_model_why {
    char text[NEF_MODEL_WHY_MAX];
};
nef_err nef_model_fail(struct nef_model_why *why, nef_err err, const char *format, ...) NEF_PRINTF(3, 4);

/* ---- model_region.c ---- */

struct nef_model_region {
    const char *dir; /* of --dir, borrowed: an error says how to start that region; NULL: it doesn't */
    struct nef_fetcher *fetcher;
    char endpoint[NEF_URL_MAX + 64]; /* of an S3 listener or the front, without a slash at the end */
    char ca[NEF_PATH_MAX];           /* "": the system's roots */
    char region[NEF_REGION_NAME_MAX + 1];
    char access_key[128], secret_key[256];
    char state_dir[NEF_PATH_MAX]; /* where interrupted transfers are kept */
    struct nef_model_why why;
};
struct nef_model_object { /* what HEAD says */
    uint64_t bytes;
    char etag[48];
    char modified[40];
    char sha256[65]; /* "" if it isn't recorded */
    char source[512], source_tag[NEF_MODEL_VALIDATOR_MAX];
};

/* DIR (of nef up), or ENDPOINT with keys from AWS_ACCESS_KEY_ID and so on. False: it said why. */
bool nef_model_region_open(const char *dir, const char *endpoint, const char *region, const char *ca,
                           struct nef_model_region *out);
void nef_model_region_close(struct nef_model_region *r); /* wiped */

/* All: r->why says what went wrong. They repeat what may be repeated for half a minute, for a region may be in a
 * failover. Errors: NEF_E_NOT_FOUND (NoSuchKey, NoSuchBucket), NEF_E_NO_UPLOAD, NEF_E_PRECONDITION, NEF_E_DENIED,
 * NEF_E_UNAVAILABLE, NEF_E_PROTOCOL, NEF_E_INVALID (any other refusal), NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_model_bucket_make(struct nef_model_region *r); /* also if it is there already */
NEF_MUST_CHECK nef_err nef_model_head(struct nef_model_region *r, const char *bucket, const char *key,
                                      struct nef_model_object *out);
NEF_MUST_CHECK nef_err nef_model_delete(struct nef_model_region *r, const char *key);
/* One page; after: "" or list.next of the page before. */
NEF_MUST_CHECK nef_err nef_model_objects(struct nef_model_region *r, const char *after, struct nef_s3_answer_list *out);
NEF_MUST_CHECK nef_err nef_model_uploads(struct nef_model_region *r, const char *prefix, const char *after,
                                         struct nef_s3_answer_list *out);
/* sha256, source_tag: "" if not known. */
NEF_MUST_CHECK nef_err nef_model_upload_begin(struct nef_model_region *r, const char *key, const char *sha256,
                                              const char *source, const char *source_tag,
                                              char out_id[NEF_S3_UPLOAD_ID_MAX + 1]);
/* All parts there are, in order; items are struct nef_s3_answer_part. */
NEF_MUST_CHECK nef_err nef_model_upload_parts(struct nef_model_region *r, const char *key, const char *id,
                                              struct nef_s3_answer_list *out);
NEF_MUST_CHECK nef_err nef_model_upload_part(struct nef_model_region *r, const char *key, const char *id,
                                             uint32_t number, const void *data, size_t bytes);
/* replace false: NEF_E_PRECONDITION if the key exists by now. */
NEF_MUST_CHECK nef_err nef_model_upload_complete(struct nef_model_region *r, const char *key, const char *id,
                                                 const struct nef_s3_answer_part *parts, uint32_t count, bool replace);
NEF_MUST_CHECK nef_err nef_model_upload_abort(struct nef_model_region *r, const char *key, const char *id);
/* GET of a range of an object with this ETag, streamed. sink false: stop (NEF_E_CLOSED). Doesn't repeat. */
NEF_MUST_CHECK nef_err nef_model_get(struct nef_model_region *r, const char *bucket, const char *key, const char *etag,
                                     uint64_t offset, uint64_t bytes,
                                     bool (*sink)(void *context, const uint8_t *data, size_t bytes), void *context);

/* ---- model_origin.c ---- */

enum nef_model_origin_kind { NEF_ORIGIN_FILE, NEF_ORIGIN_S3, NEF_ORIGIN_HTTPS };

/* One file of a source. */
struct nef_model_origin {
    enum nef_model_origin_kind kind;
    char where[NEF_MODEL_WHERE_MAX]; /* path; bucket/key; URL */
    int fd;                          /* FILE */
    uint64_t bytes;
    char validator[NEF_MODEL_VALIDATOR_MAX]; /* another one: other content. "": the source has none */
    bool has_sha256;                         /* the source, or the user, says what it must be */
    bool sha256_guessed;                     /* by an ETag that looks like one */
    uint8_t sha256[32];
    struct nef_buf head;   /* the file's beginning: metadata and all before the data */
    struct nef_gguf *gguf; /* parsed head; points into `head` */
};
struct nef_model_source {
    struct nef_model_region *region; /* for s3:// */
    struct nef_fetcher *fetcher;     /* for https:// */
    const char *ca;                  /* of https sources; NULL: the system's roots */
    const char *bearer;              /* NULL: none */
    struct nef_model_why *why;
    struct nef_model_origin *files;
    uint32_t count;
};
/* TEXT as the user wrote it: a path, s3://bucket/key or https://...; of a split model the first file. Reads size,
 * validator and head of every file. */
NEF_MUST_CHECK nef_err nef_model_source_open(struct nef_model_source *source, const char *text);
void nef_model_source_close(struct nef_model_source *source);
/* Bytes [offset, offset + bytes) of file INDEX to the sink, in order, each once; interruptions on the way are bridged.
 * The sink's error ends it and is returned. Errors: NEF_E_PRECONDITION: the source isn't what it was.
 * NEF_E_UNAVAILABLE: given up, the same command goes on later. */
NEF_MUST_CHECK nef_err nef_model_source_read(struct nef_model_source *source, uint32_t index, uint64_t offset,
                                             uint64_t bytes,
                                             nef_err (*sink)(void *context, const uint8_t *data, size_t bytes),
                                             void *context);
/* The parts of "-00001-of-0000N.gguf" before a query. count 1: it isn't split. */
NEF_MUST_CHECK nef_err nef_model_split_count(const char *where, uint32_t *out_count, struct nef_model_why *why);
NEF_MUST_CHECK nef_err nef_model_split_name(const char *first, uint32_t number, char out[NEF_MODEL_WHERE_MAX]);

/* ---- model_https.c ---- */

NEF_MUST_CHECK nef_err nef_model_https_open(struct nef_model_source *source, struct nef_model_origin *file);
NEF_MUST_CHECK nef_err nef_model_https_read(struct nef_model_source *source, struct nef_model_origin *file,
                                            uint64_t offset, uint64_t bytes,
                                            nef_err (*sink)(void *context, const uint8_t *data, size_t bytes),
                                            void *context);
/* Parse what is there of the head. NEF_E_AGAIN: more is needed. NEF_E_LIMIT: it has no end. */
NEF_MUST_CHECK nef_err nef_model_head_parse(struct nef_model_source *source, struct nef_model_origin *file);
/* "bytes 5-9/10" of Content-Range, "bytes 5-9/\*" (total UINT64_MAX). False: it isn't one. PURE. */
bool nef_model_content_range(const char *text, uint64_t *out_first, uint64_t *out_last, uint64_t *out_total);
/* A quoted, strong ETag without its quotes; false for a weak one or none. PURE. */
bool nef_model_strong_etag(const char *text, char *out, size_t room);

/* ---- model_plan.c ---- */

/* The object's bytes: `header`, then the runs. An unsplit model is one run and no header. */
struct nef_model_plan {
    struct nef_buf header;
    struct nef_gguf_run *runs;
    uint32_t run_count;
    uint64_t bytes;
};
NEF_MUST_CHECK nef_err nef_model_plan_make(struct nef_model_source *source, struct nef_model_plan *out);
void nef_model_plan_free(struct nef_model_plan *plan);

/* Digests along the object's bytes, and those of the file that is being read. */
struct nef_model_digests {
    struct nef_sha256 object, file;
    uint32_t file_index; /* whose digest `file` is, of a split model */
};
/* Walks the object's bytes from OFFSET on and gives them to SINK, never across a multiple of BORDER. digests: as they
 * were at OFFSET (init at 0); when the sink is called they include what it is given. Each file whose end is reached is
 * compared with its published digest (NEF_E_DIGEST). */
void nef_model_digests_init(struct nef_model_digests *digests);
NEF_MUST_CHECK nef_err nef_model_plan_walk(struct nef_model_source *source, const struct nef_model_plan *plan,
                                           uint64_t offset, uint64_t border, struct nef_model_digests *digests,
                                           nef_err (*sink)(void *context, const uint8_t *data, size_t bytes),
                                           void *context);

/* ---- model_resume.c ---- */

/* What is kept of a transfer after each part. */
struct nef_model_resume {
    char path[NEF_PATH_MAX];
    int lock; /* held while the transfer runs; -1: none */
    bool found;
    char upload[NEF_S3_UPLOAD_ID_MAX + 1];
    uint64_t part_bytes;
    uint32_t parts;    /* whole ones, up to which the digests go */
    char identity[65]; /* digest of everything that must be as it was: sources, sizes, validators, digest wanted */
    struct nef_model_digests digests;
};
/* Looks for what is kept of NAME in this region; takes the lock. NEF_E_BUSY: another command adds it now. */
NEF_MUST_CHECK nef_err nef_model_resume_open(struct nef_model_region *r, const char *name,
                                             struct nef_model_resume *out);
NEF_MUST_CHECK nef_err nef_model_resume_save(struct nef_model_region *r, struct nef_model_resume *state);
void nef_model_resume_forget(struct nef_model_resume *state);
void nef_model_resume_close(struct nef_model_resume *state);
/* Text <-> fields. PURE but for memory. Decode: NEF_E_CONFIG for what isn't one. */
NEF_MUST_CHECK nef_err nef_model_resume_encode(const struct nef_model_resume *state, struct nef_buf *out);
NEF_MUST_CHECK nef_err nef_model_resume_decode(const void *text, size_t bytes, struct nef_model_resume *out);

/* ---- model_send.c ---- */

struct nef_model_sender {
    struct nef_model_region *region; /* the sender's until it is stopped */
    const char *name;
    struct nef_model_resume *resume; /* so is this; its digests are those of its last part */
    uint8_t *filling;                /* the giver's: room for part_bytes */
    pthread_t thread;
    bool running;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    uint8_t *part; /* the sender's while full */
    size_t bytes;
    struct nef_model_digests digests;
    bool full, stop;
    nef_err err;
};
NEF_MUST_CHECK nef_err nef_model_sender_start(struct nef_model_region *region, const char *name,
                                              struct nef_model_resume *resume, struct nef_model_sender *s);
/* What is in `filling`, BYTES bytes, is the next part; DIGESTS are those at its end. Waits while the part before it is
 * being sent. Then `filling` is another room. An error is of an earlier part, and nothing was taken. */
NEF_MUST_CHECK nef_err nef_model_sender_give(struct nef_model_sender *s, size_t bytes,
                                             const struct nef_model_digests *digests);
/* Sends what was given, then ends. The first error of any part; region->why says it. */
NEF_MUST_CHECK nef_err nef_model_sender_stop(struct nef_model_sender *s);

/* ---- model_bar.c ---- */

struct nef_model_bar {
    bool on; /* standard error is a terminal */
    const char *verb;
    uint64_t total, start_ms, start_bytes, shown_ms;
};
void nef_model_bar_begin(struct nef_model_bar *bar, const char *verb, uint64_t done, uint64_t total);
void nef_model_bar_show(struct nef_model_bar *bar, uint64_t done);
void nef_model_bar_end(struct nef_model_bar *bar); /* the line is taken away */
/* The line without its colours, as wide as WIDTH at most. PURE. */
void nef_model_bar_text(char *out, size_t room, uint32_t width, const char *verb, uint64_t done, uint64_t total,
                        double bytes_per_s);

/* ---- model_add.c ---- */

struct nef_model_add_options {
    const char *name, *source;
    const char *sha256; /* NULL, or one, or of split files one for each, with commas */
    const char *source_ca, *token_file;
    uint32_t part_mib; /* 0: 16, or what 10,000 parts need */
    bool replace;
};
/* Returns the exit status; it said what happened. */
int nef_model_add(struct nef_model_region *r, const struct nef_model_add_options *options);

#endif
