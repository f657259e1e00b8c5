/* `nef model add`: one model from its source into the region; see model.h.
 *
 *   look at the source: its heads say whether it is a model the engine can load
 *   is it there already?  -> done
 *   its digest: said by the user or the source, or computed by reading it once before (what is near can be read twice)
 *   [ bytes -> part -> durable in the region -> kept in the resume file ] ...
 *   every file is what its digest says  -> complete: now the model exists, all of it at once
 *
 * Nothing is there under the model's name before the last step, and a source that proves to be wrong at its end leaves
 * nothing at all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "cli/model.h"
#include "gateway/models.h"
#include "io/files.h"

#define PART_BYTES   (16ull << 20)
#define PARTS_WANTED 9000u /* of at most 10,000 */
#define MIB          (1ull << 20)
#define TOKEN_MAX    4096u

struct add {
    const struct nef_model_add_options *options;
    struct nef_model_region *region;
    struct nef_model_region far; /* the same with a connection of its own: parts are stored while the source is read */
    struct nef_model_source source;
    struct nef_model_plan plan;
    struct nef_model_resume resume;
    struct nef_model_why source_why; /* the source's; the region's own may be the sender's */
    struct nef_model_sender sender;
    struct nef_model_digests digests; /* at `done` */
    struct nef_model_bar bar;
    char sha256[65];       /* of the object; "" until known */
    char source_text[512]; /* what is recorded */
    size_t filled;         /* of the part that comes next */
    uint64_t done;
    char token[TOKEN_MAX];
};

/* ERR is the source's: what it said is what is shown. */
static nef_err of_source(struct add *a, nef_err err)
{
    if (err != NEF_OK)
        a->region->why = a->source_why;
    return err;
}

/* ---- before the transfer ---- */

/* Where it came from, for people: without what may be secret (queries, passwords) or somebody's own (directories). */
static void name_source(struct add *a)
{
    const struct nef_model_origin *file = &a->source.files[0];
    const char *text = file->where;
    size_t at = 0, end = strlen(text);

    if (file->kind == NEF_ORIGIN_FILE) {
        const char *slash = strrchr(text, '/');

        text = slash != NULL ? slash + 1 : text;
        end = strlen(text);
    } else if (file->kind == NEF_ORIGIN_S3) {
        at = (size_t)snprintf(a->source_text, sizeof(a->source_text), "s3://");
    } else {
        const char *user = memchr(text + 8, '@', strcspn(text + 8, "/?#"));

        end = strcspn(text, "?#");
        if (user != NULL) {
            at = (size_t)snprintf(a->source_text, sizeof(a->source_text), "https://");
            end -= (size_t)(user + 1 - text);
            text = user + 1;
        }
    }
    for (size_t i = 0; i < end && at + 1 < sizeof(a->source_text); i++)
        a->source_text[at++] = text[i] > 0x20 && text[i] < 0x7f ? text[i] : '?'; /* it becomes a header */
    a->source_text[at] = '\0';
}

/* "--sha256 D" or, of a split model, "D,D,D". */
static nef_err take_digests(struct add *a)
{
    const char *text = a->options->sha256;

    for (uint32_t i = 0; text != NULL && i < a->source.count; i++) {
        struct nef_model_origin *file = &a->source.files[i];
        size_t bytes = strcspn(text, ",");

        if (bytes != 64 || nef_unhex(text, 64, file->sha256, 32) != NEF_OK ||
            (text[64] == ',') != (i + 1 < a->source.count))
            return nef_model_fail(&a->region->why, NEF_E_INVALID, "--sha256 must be 64 hex digits%s",
                                  a->source.count > 1 ? " for each file, with commas between" : "");
        file->has_sha256 = true;
        file->sha256_guessed = false;
        text += bytes + (text[bytes] == ',' ? 1 : 0);
    }
    return NEF_OK;
}

static nef_err pass(void *context, const uint8_t *data, size_t bytes)
{
    struct add *a = context;

    (void)data;
    a->done += bytes;
    nef_model_bar_show(&a->bar, a->done);
    return NEF_OK;
}

/* The object's digest, if it can be known before it is stored. */
static nef_err know_digest(struct add *a)
{
    const struct nef_model_origin *file = &a->source.files[0];
    struct nef_model_digests digests;
    uint8_t computed[32];
    nef_err err;

    if (a->source.count == 1 && file->has_sha256 && !file->sha256_guessed) {
        nef_hex(file->sha256, 32, a->sha256);
        return NEF_OK;
    }
    if (file->kind == NEF_ORIGIN_HTTPS) {
        if (a->source.count == 1 && file->has_sha256)
            nef_hex(file->sha256, 32, a->sha256);
        return NEF_OK;
    }
    a->done = 0;
    nef_model_digests_init(&digests);
    nef_model_bar_begin(&a->bar, "reading", 0, a->plan.bytes);
    err = nef_model_plan_walk(&a->source, &a->plan, 0, MIB, &digests, pass, a);
    nef_model_bar_end(&a->bar);
    if (err != NEF_OK)
        return of_source(a, err);
    nef_sha256_final(&digests.object, computed);
    nef_hex(computed, 32, a->sha256);
    return NEF_OK;
}

static const char *source_tag(const struct add *a)
{
    return a->source.files[0].kind == NEF_ORIGIN_FILE ? "" : a->source.files[0].validator;
}

/* NEF_E_EXISTS: this very model is there. */
static nef_err look_for_it(struct add *a)
{
    struct nef_model_object object;
    nef_err err = nef_model_head(a->region, NEF_MODELS_BUCKET, a->options->name, &object);
    bool same;

    if (err == NEF_E_NOT_FOUND)
        return NEF_OK;
    if (err != NEF_OK)
        return err;
    same = object.bytes == a->plan.bytes &&
           (a->sha256[0] != '\0' ? strcmp(a->sha256, object.sha256) == 0
                                 : source_tag(a)[0] != '\0' && strcmp(object.source_tag, source_tag(a)) == 0 &&
                                       strcmp(object.source, a->source_text) == 0);
    if (same)
        return NEF_E_EXISTS;
    if (!a->options->replace)
        return nef_model_fail(&a->region->why, NEF_E_PRECONDITION,
                              "there is another model of that name; to put this one in its place: --replace");
    return NEF_OK;
}

/* ---- which upload ---- */

/* A digest of all that must be as it was for a transfer to go on. */
static void identify(const struct add *a, uint64_t part_bytes, char out[65])
{
    struct nef_buf b = {0};
    uint8_t digest[32];

    nef_buf_printf(&b, "%s %llu %llu %s\n", a->options->name, (unsigned long long)a->plan.bytes,
                   (unsigned long long)part_bytes, a->sha256);
    for (uint32_t i = 0; i < a->source.count; i++) {
        const struct nef_model_origin *f = &a->source.files[i];
        char hex[65] = "";

        if (f->has_sha256)
            nef_hex(f->sha256, 32, hex);
        nef_buf_printf(&b, "%d %s %llu %s %s\n", (int)f->kind, f->where, (unsigned long long)f->bytes, f->validator,
                       hex);
    }
    nef_hash_of(NEF_HASH_SHA256, b.data, b.bytes, digest);
    nef_hex(digest, sizeof(digest), out);
    nef_buf_free(&b);
}

static uint64_t part_bytes_of(const struct add *a)
{
    uint64_t least = (a->plan.bytes / PARTS_WANTED + MIB) / MIB * MIB;
    uint64_t wish = a->options->part_mib != 0 ? a->options->part_mib * MIB : PART_BYTES;

    return wish > least ? wish : least;
}

/* Does the region have the parts that were kept? More may be there: one whose keeping was interrupted. */
static bool parts_fit(struct add *a)
{
    struct nef_s3_answer_list list;
    const struct nef_s3_answer_part *parts;
    bool fit;

    if (nef_model_upload_parts(a->region, a->options->name, a->resume.upload, &list) != NEF_OK)
        return false; /* the upload is gone, or the region says nothing sensible: begin anew, or fail at that */
    parts = list.items;
    fit = list.count >= a->resume.parts;
    for (uint32_t i = 0; fit && i < a->resume.parts; i++) {
        uint64_t left = a->plan.bytes - (uint64_t)i * a->resume.part_bytes;

        fit = parts[i].number == i + 1 && parts[i].bytes == NEF_MIN(left, a->resume.part_bytes);
    }
    free(list.items);
    return fit;
}

/* What earlier commands left unfinished under this name. */
static nef_err abort_uploads(struct add *a)
{
    struct nef_s3_answer_list list;
    nef_err err = nef_model_uploads(a->region, a->options->name, "", &list);

    if (err != NEF_OK)
        return err;
    for (uint32_t i = 0; err == NEF_OK && i < list.count; i++) {
        const struct nef_s3_answer_upload *upload = (const struct nef_s3_answer_upload *)list.items + i;

        if (strcmp(upload->key, a->options->name) == 0)
            err = nef_model_upload_abort(a->region, upload->key, upload->id);
    }
    free(list.items);
    return err;
}

static nef_err choose_upload(struct add *a)
{
    struct nef_model_resume *resume = &a->resume;
    uint64_t part_bytes = part_bytes_of(a);
    char identity[65];
    nef_err err;

    identify(a, part_bytes, identity);
    if (resume->found && strcmp(resume->identity, identity) == 0 &&
        (uint64_t)resume->parts * resume->part_bytes < a->plan.bytes + resume->part_bytes && parts_fit(a)) {
        uint64_t there = NEF_MIN((uint64_t)resume->parts * resume->part_bytes, a->plan.bytes);
        char human[32];

        nef_human_bytes(human, (double)there);
        if (resume->parts > 0)
            printf("going on where it was interrupted, after %s\n", human);
        return NEF_OK;
    }
    err = abort_uploads(a);
    if (err != NEF_OK)
        return err;
    resume->part_bytes = part_bytes;
    resume->parts = 0;
    (void)strcpy(resume->identity, identity);
    nef_model_digests_init(&resume->digests);
    err = nef_model_upload_begin(a->region, a->options->name, a->sha256, a->source_text, source_tag(a), resume->upload);
    return err == NEF_OK ? nef_model_resume_save(a->region, resume) : err;
}

/* ---- the transfer ---- */

/* The walk gives nothing across the border of a part, so at its end the digests are those of just here. */
static nef_err take(void *context, const uint8_t *data, size_t bytes)
{
    struct add *a = context;
    nef_err err = NEF_OK;

    NEF_ASSERT(bytes <= a->resume.part_bytes - a->filled);
    memcpy(a->sender.filling + a->filled, data, bytes);
    a->filled += bytes;
    a->done += bytes;
    nef_model_bar_show(&a->bar, a->done);
    if (a->filled == a->resume.part_bytes || a->done == a->plan.bytes) {
        err = nef_model_sender_give(&a->sender, a->filled, &a->digests);
        a->filled = 0;
    }
    return err;
}

static nef_err transfer(struct add *a)
{
    nef_err err, sent;

    a->done = NEF_MIN((uint64_t)a->resume.parts * a->resume.part_bytes, a->plan.bytes);
    a->digests = a->resume.digests;
    err = nef_model_sender_start(a->region, a->options->name, &a->resume, &a->sender);
    if (err != NEF_OK)
        return err;
    nef_model_bar_begin(&a->bar, a->source.files[0].kind == NEF_ORIGIN_HTTPS ? "fetching" : "storing", a->done,
                        a->plan.bytes);
    err = nef_model_plan_walk(&a->source, &a->plan, a->done, a->resume.part_bytes, &a->digests, take, a);
    sent = nef_model_sender_stop(&a->sender);
    nef_model_bar_end(&a->bar);
    return sent != NEF_OK ? sent : of_source(a, err);
}

/* All parts are there: make the object of them. */
static nef_err complete(struct add *a)
{
    struct nef_sha256 object = a->digests.object;
    struct nef_s3_answer_list list;
    uint8_t digest[32];
    char computed[65];
    nef_err err;

    nef_sha256_final(&object, digest);
    nef_hex(digest, sizeof(digest), computed);
    if (a->sha256[0] != '\0' && strcmp(computed, a->sha256) != 0)
        return nef_model_fail(&a->region->why, NEF_E_DIGEST, "its SHA-256 is %s and should be %s", computed, a->sha256);
    if (!parts_fit(a))
        return nef_model_fail(&a->region->why, NEF_E_UNAVAILABLE, "the region doesn't have all parts that it took");
    err = nef_model_upload_parts(a->region, a->options->name, a->resume.upload, &list);
    if (err != NEF_OK)
        return err;
    err = nef_model_upload_complete(a->region, a->options->name, a->resume.upload, list.items, a->resume.parts,
                                    a->options->replace);
    free(list.items);
    (void)strcpy(a->sha256, computed);
    return err;
}

/* What went wrong with the source won't go away: what was stored of it is given back. */
static void give_up(struct add *a)
{
    struct nef_model_why why = a->region->why;

    if (nef_model_upload_abort(a->region, a->options->name, a->resume.upload) == NEF_OK)
        nef_model_resume_forget(&a->resume); /* else the next try, or its abort_uploads, finds it */
    a->region->why = why;
}

static nef_err store(struct add *a)
{
    nef_err err = choose_upload(a);

    if (err != NEF_OK)
        return err;
    err = transfer(a);
    if (err == NEF_OK)
        err = complete(a);
    if (err == NEF_E_DIGEST || err == NEF_E_PRECONDITION || err == NEF_E_PROTOCOL || err == NEF_E_LIMIT)
        give_up(a);
    if (err == NEF_OK)
        nef_model_resume_forget(&a->resume);
    return err;
}

/* ---- the command ---- */

static nef_err read_token(struct add *a)
{
    struct nef_buf text = {0};
    size_t bytes;
    nef_err err;

    if (a->options->token_file == NULL)
        return NEF_OK;
    err = nef_file_read(a->options->token_file, TOKEN_MAX - 1, true, &text);
    bytes = err == NEF_OK ? strcspn(nef_buf_cstr(&text), "\r\n") : 0;
    if (err != NEF_OK || bytes == 0 || bytes >= TOKEN_MAX) {
        nef_buf_free(&text);
        return nef_model_fail(&a->region->why, NEF_E_CONFIG,
                              "%s: it must be a file of one line that only you can read (mode 0600)",
                              a->options->token_file);
    }
    memcpy(a->token, text.data, bytes);
    a->token[bytes] = '\0';
    nef_buf_free(&text);
    a->source.bearer = a->token;
    return NEF_OK;
}

static nef_err run(struct add *a)
{
    nef_err err = read_token(a);

    if (err == NEF_OK)
        err = of_source(a, nef_model_source_open(&a->source, a->options->source));
    if (err == NEF_OK)
        err = take_digests(a);
    if (err == NEF_OK)
        err = of_source(a, nef_model_plan_make(&a->source, &a->plan));
    if (err != NEF_OK)
        return err;
    name_source(a);
    err = nef_model_bucket_make(a->region);
    if (err == NEF_OK)
        err = nef_model_resume_open(a->region, a->options->name, &a->resume);
    if (err == NEF_OK)
        err = know_digest(a);
    if (err == NEF_OK)
        err = look_for_it(a);
    return err == NEF_OK ? store(a) : err;
}

int nef_model_add(struct nef_model_region *r, const struct nef_model_add_options *options)
{
    struct add *a = calloc(1, sizeof(*a));
    char human[32];
    int status = 0;
    nef_err err;

    if (a == NULL)
        return nef_complain("model", "out of memory");
    a->options = options;
    a->region = r;
    a->resume.lock = -1;
    a->far = *r;
    a->far.fetcher = NULL;
    err = nef_fetcher_new(&a->far.fetcher);
    a->source = (struct nef_model_source){
        .region = &a->far, .fetcher = a->far.fetcher, .ca = options->source_ca, .why = &a->source_why};
    if (err == NEF_OK)
        err = run(a);
    nef_human_bytes(human, (double)a->plan.bytes);
    if (err == NEF_OK)
        printf("%s is stored: %s%s, sha256 %s%s\n", options->name, human,
               a->source.count > 1 ? " (the files are joined)" : "", a->sha256,
               a->source.files[0].has_sha256 ? ", as published" : "");
    else if (err == NEF_E_EXISTS)
        printf("%s is there already: %s\n", options->name, human);
    else
        status =
            nef_complain("model", "%s: %s%s", options->name, r->why.text[0] != '\0' ? r->why.text : nef_err_text(err),
                         a->resume.found || a->resume.parts > 0
                             ? err == NEF_E_UNAVAILABLE ? "; the same command goes on from here" : ""
                             : "");
    nef_model_plan_free(&a->plan);
    nef_model_source_close(&a->source);
    nef_model_resume_close(&a->resume);
    nef_fetcher_free(a->far.fetcher);
    nef_wipe(a, sizeof(*a));
    free(a);
    return status;
}
