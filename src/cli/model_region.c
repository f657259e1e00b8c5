/* The region's side of `nef model`: calls to an S3 listener with the region's keys; see model.h.
 *
 * What may be repeated is repeated, with a pause that doubles: a zone that dies answers nothing for a moment, and a
 * region that is busy says SlowDown. Completing an upload is the one call whose repetition can find its own work done:
 * then the upload is gone and the object is there, and that counts as success. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "cli/model.h"
#include "gateway/models.h"

#define UNSIGNED   "UNSIGNED-PAYLOAD"
#define ANSWER_MAX NEF_XML_BODY_MAX
#define TRIES      8u /* with pauses of 0.25 s, doubling up to 8: half a minute */
#define PAUSE_MS   250u
#define PAUSE_MAX  8000u
#define FIELDS_MAX 12u

struct call {
    const char *method, *bucket, *key, *query; /* query: "" or escaped "a=b&c=" */
    const struct nef_http_field *fields;
    size_t field_count;
    const void *body; /* NULL: none */
    size_t bytes;
    const char *payload;                                            /* NULL: UNSIGNED */
    bool once;                                                      /* not repeated */
    bool (*sink)(void *context, const uint8_t *data, size_t bytes); /* of a 2xx; NULL: into the answer */
    void *context;
};
struct answer {
    long status;
    struct nef_buf body;
    struct nef_model_object object; /* what the headers say */
    const struct call *call;
    bool stopped;
};

nef_err nef_model_fail(struct nef_model_why *why, nef_err err, const char *format, ...)
{
    char text[NEF_MODEL_WHY_MAX]; /* the arguments may be the text that is there */
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)strcpy(why->text, text);
    return err;
}

/* ---- one exchange ---- */

static void put(char *out, size_t room, const char *value)
{
    (void)snprintf(out, room, "%s", value); /* cut: it is only shown and compared */
}

static bool on_header(void *context, uint32_t hop, long status, const char *name, const char *value)
{
    struct answer *a = context;
    struct nef_model_object *o = &a->object;

    (void)hop, (void)status;
    if (strcmp(name, "content-length") == 0) {
        o->bytes = strtoull(value, NULL, 10);
    } else if (strcmp(name, "etag") == 0) {
        size_t bytes = strlen(value);

        if (bytes >= 2 && value[0] == '"' && bytes - 2 < sizeof(o->etag)) {
            memcpy(o->etag, value + 1, bytes - 2);
            o->etag[bytes - 2] = '\0';
        }
    } else if (strcmp(name, "last-modified") == 0) {
        put(o->modified, sizeof(o->modified), value);
    } else if (strcmp(name, NEF_MODELS_META_SHA256) == 0) {
        put(o->sha256, sizeof(o->sha256), value);
    } else if (strcmp(name, NEF_MODELS_META_SOURCE) == 0) {
        put(o->source, sizeof(o->source), value);
    } else if (strcmp(name, NEF_MODELS_META_SOURCE "-tag") == 0) {
        put(o->source_tag, sizeof(o->source_tag), value);
    }
    return true;
}

static bool on_data(void *context, long status, const uint8_t *data, size_t bytes)
{
    struct answer *a = context;

    if (status >= 200 && status < 300 && a->call->sink != NULL) {
        a->stopped = !a->call->sink(a->call->context, data, bytes);
        return !a->stopped;
    }
    nef_buf_append(&a->body, data, bytes);
    return !a->body.failed;
}

/* "Name: value" lines for what was signed, and the signature. */
static nef_err sign(const struct nef_model_region *r, const struct call *call, const char *target,
                    struct nef_buf *lines, const char **out_lines, uint32_t *out_count)
{
    const char *host = strstr(r->endpoint, "://") + 3;
    const struct nef_s3_client_request request = {
        .access_key = r->access_key,
        .secret_key = r->secret_key,
        .region = r->region,
        .method = call->method,
        .target = target,
        .host = host,
        .headers = call->fields,
        .header_count = call->field_count,
        .payload = call->payload != NULL ? call->payload : UNSIGNED,
        .now_s = (int64_t)time(NULL),
    };
    size_t starts[FIELDS_MAX + 4];
    struct nef_buf authorization = {0};
    char date[17];
    uint32_t count = 0;
    nef_err err = nef_s3_client_sign(&request, &authorization, date);

    for (size_t i = 0; err == NEF_OK && i < call->field_count; i++) {
        starts[count++] = lines->bytes;
        nef_buf_printf(lines, "%s: %s", call->fields[i].name, call->fields[i].value);
        nef_buf_u8(lines, 0);
    }
    if (err == NEF_OK) {
        starts[count++] = lines->bytes;
        nef_buf_printf(lines, "x-amz-content-sha256: %s", request.payload);
        nef_buf_u8(lines, 0);
        starts[count++] = lines->bytes;
        nef_buf_printf(lines, "x-amz-date: %s", date);
        nef_buf_u8(lines, 0);
        starts[count++] = lines->bytes;
        nef_buf_printf(lines, "Authorization: %s", nef_buf_cstr(&authorization));
        nef_buf_u8(lines, 0);
        err = nef_buf_end(lines);
    }
    nef_buf_free(&authorization);
    if (err != NEF_OK)
        return err;
    for (uint32_t i = 0; i < count; i++)
        out_lines[i] = (const char *)lines->data + starts[i];
    *out_count = count;
    return NEF_OK;
}

static nef_err exchange(struct nef_model_region *r, const struct call *call, struct answer *a,
                        struct nef_fetch_result *result)
{
    const char *lines[FIELDS_MAX + 4];
    struct nef_buf target = {0}, url = {0}, text = {0};
    struct nef_fetch fetch = {.method = call->method,
                              .headers = lines,
                              .body = call->body,
                              .body_bytes = call->bytes,
                              .ca = r->ca[0] != '\0' ? r->ca : NULL,
                              .context = a,
                              .header = on_header,
                              .data = on_data};
    nef_err err;

    NEF_ASSERT(call->field_count <= FIELDS_MAX);
    a->status = 0;
    a->object = (struct nef_model_object){.bytes = 0};
    nef_buf_reset(&a->body);
    a->body.max = ANSWER_MAX;
    a->call = call;
    nef_s3_client_path(&target, call->bucket, call->key);
    if (call->query[0] != '\0')
        nef_buf_printf(&target, "?%s", call->query);
    nef_buf_printf(&url, "%s%s", r->endpoint, nef_buf_cstr(&target));
    err = nef_buf_end(&url);
    if (err == NEF_OK)
        err = sign(r, call, nef_buf_cstr(&target), &text, lines, &fetch.header_count);
    if (err == NEF_OK) {
        fetch.url = nef_buf_cstr(&url);
        err = nef_fetch(r->fetcher, &fetch, result);
        a->status = result->status;
        if (err == NEF_E_CLOSED && !a->stopped)
            err = NEF_E_LIMIT; /* an answer larger than any of S3's */
    }
    nef_buf_free(&target);
    nef_buf_free(&url);
    nef_buf_free(&text);
    return err;
}

/* ---- calls ---- */

static nef_err code_of(const struct answer *a, const char *code)
{
    static const struct {
        const char *code;
        nef_err err;
    } codes[] = {
        {"NoSuchKey", NEF_E_NOT_FOUND},
        {"NoSuchBucket", NEF_E_NOT_FOUND},
        {"NoSuchUpload", NEF_E_NO_UPLOAD},
        {"PreconditionFailed", NEF_E_PRECONDITION},
        {"BucketAlreadyOwnedByYou", NEF_E_EXISTS},
        {"ConditionalRequestConflict", NEF_E_PRECONDITION},
    };

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        if (strcmp(code, codes[i].code) == 0)
            return codes[i].err;
    if (a->status == 404)
        return NEF_E_NOT_FOUND;
    if (a->status == 412)
        return NEF_E_PRECONDITION;
    if (a->status == 401 || a->status == 403)
        return NEF_E_DENIED;
    return a->status >= 500 ? NEF_E_UNAVAILABLE : NEF_E_INVALID;
}

/* What the answer means; an error document may come with status 200 (CompleteMultipartUpload). */
static nef_err judge(struct nef_model_region *r, const struct answer *a)
{
    struct nef_s3_answer_error error = {{0}, {0}};
    bool said = nef_s3_answer_error(a->body.data, a->body.bytes, &error);

    if (a->status >= 200 && a->status < 300 && !said)
        return NEF_OK;
    return nef_model_fail(&r->why, code_of(a, error.code), "the region answers %s%s%s (status %ld)",
                          said ? error.code : "an error", error.message[0] != '\0' ? ": " : "", error.message,
                          a->status);
}

static void pause_ms(uint32_t ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000l};

    while (nanosleep(&t, &t) != 0)
        continue;
}

/* out_again: it was sent more than once. */
static nef_err call_region(struct nef_model_region *r, const struct call *call, struct answer *a, bool *out_again)
{
    uint32_t wait = PAUSE_MS;
    nef_err err = NEF_OK;

    for (uint32_t i = 0; i < (call->once ? 1 : TRIES); i++) {
        struct nef_fetch_result result;

        if (i > 0) {
            pause_ms(wait);
            wait = NEF_MIN(wait * 2, PAUSE_MAX);
            if (out_again != NULL)
                *out_again = true;
        }
        err = exchange(r, call, a, &result);
        if (err == NEF_OK)
            err = judge(r, a);
        else if (err != NEF_E_CLOSED)
            (void)nef_model_fail(&r->why, err, "%s%s%s", result.error[0] != '\0' ? result.error : nef_err_text(err),
                                 r->dir != NULL ? "; is it up? Start it with: nef up --detach --dir " : "",
                                 r->dir != NULL ? r->dir : "");
        if (err != NEF_E_UNAVAILABLE && err != NEF_E_PEER && err != NEF_E_TIMEOUT)
            return err;
    }
    return NEF_E_UNAVAILABLE;
}

static nef_err simple(struct nef_model_region *r, const struct call *call)
{
    struct answer a = {.status = 0};
    nef_err err = call_region(r, call, &a, NULL);

    nef_buf_free(&a.body);
    return err;
}

nef_err nef_model_bucket_make(struct nef_model_region *r)
{
    const struct call head = {.method = "HEAD", .bucket = NEF_MODELS_BUCKET, .query = ""};
    const struct call make = {.method = "PUT", .bucket = NEF_MODELS_BUCKET, .query = "", .body = "", .bytes = 0};
    nef_err err = simple(r, &head);

    if (err != NEF_E_NOT_FOUND)
        return err;
    err = simple(r, &make);
    return err == NEF_E_EXISTS ? NEF_OK : err; /* somebody was quicker */
}

nef_err nef_model_head(struct nef_model_region *r, const char *bucket, const char *key, struct nef_model_object *out)
{
    const struct call call = {.method = "HEAD", .bucket = bucket, .key = key, .query = ""};
    struct answer a = {.status = 0};
    nef_err err = call_region(r, &call, &a, NULL);

    if (err == NEF_OK)
        *out = a.object;
    nef_buf_free(&a.body);
    return err;
}

nef_err nef_model_delete(struct nef_model_region *r, const char *key)
{
    return simple(r, &(struct call){.method = "DELETE", .bucket = NEF_MODELS_BUCKET, .key = key, .query = ""});
}

/* A listing: QUERY is freed. */
static nef_err list(struct nef_model_region *r, const char *key, struct nef_buf *query,
                    nef_err (*parse)(const void *body, size_t bytes, struct nef_s3_answer_list *out),
                    struct nef_s3_answer_list *out)
{
    struct call call = {.method = "GET", .bucket = NEF_MODELS_BUCKET, .key = key};
    struct answer a = {.status = 0};
    nef_err err = nef_buf_end(query);

    if (err == NEF_OK) {
        call.query = nef_buf_cstr(query);
        err = call_region(r, &call, &a, NULL);
    }
    if (err == NEF_OK) {
        err = parse(a.body.data, a.body.bytes, out);
        if (err != NEF_OK)
            (void)nef_model_fail(&r->why, err, "the region's listing can't be read");
    }
    nef_buf_free(&a.body);
    nef_buf_free(query);
    return err;
}

nef_err nef_model_objects(struct nef_model_region *r, const char *after, struct nef_s3_answer_list *out)
{
    struct nef_buf query = {0};

    if (after[0] != '\0') {
        nef_buf_text(&query, "continuation-token=");
        nef_s3_client_value(&query, after);
        nef_buf_u8(&query, '&');
    }
    nef_buf_text(&query, "list-type=2");
    return list(r, NULL, &query, nef_s3_answer_objects, out);
}

nef_err nef_model_uploads(struct nef_model_region *r, const char *prefix, const char *after,
                          struct nef_s3_answer_list *out)
{
    struct nef_buf query = {0};

    if (after[0] != '\0') {
        nef_buf_text(&query, "key-marker=");
        nef_s3_client_value(&query, after);
        nef_buf_u8(&query, '&');
    }
    nef_buf_text(&query, "prefix=");
    nef_s3_client_value(&query, prefix);
    nef_buf_text(&query, "&uploads=");
    return list(r, NULL, &query, nef_s3_answer_uploads, out);
}

/* ---- uploads ---- */

nef_err nef_model_upload_begin(struct nef_model_region *r, const char *key, const char *sha256, const char *source,
                               const char *source_tag, char out_id[NEF_S3_UPLOAD_ID_MAX + 1])
{
    struct nef_http_field fields[FIELDS_MAX];
    struct call call = {.method = "POST",
                        .bucket = NEF_MODELS_BUCKET,
                        .key = key,
                        .query = "uploads=",
                        .fields = fields,
                        .body = "",
                        .bytes = 0};
    struct answer a = {.status = 0};
    nef_err err;

    fields[call.field_count++] = (struct nef_http_field){"x-amz-checksum-algorithm", "SHA256"};
    if (sha256[0] != '\0')
        fields[call.field_count++] = (struct nef_http_field){NEF_MODELS_META_SHA256, sha256};
    if (source[0] != '\0')
        fields[call.field_count++] = (struct nef_http_field){NEF_MODELS_META_SOURCE, source};
    if (source_tag[0] != '\0')
        fields[call.field_count++] = (struct nef_http_field){NEF_MODELS_META_SOURCE "-tag", source_tag};
    err = call_region(r, &call, &a, NULL);
    if (err == NEF_OK) {
        err = nef_s3_answer_upload_id(a.body.data, a.body.bytes, out_id);
        if (err != NEF_OK)
            (void)nef_model_fail(&r->why, err, "the region's answer to a new upload can't be read");
    }
    nef_buf_free(&a.body);
    return err;
}

static nef_err append_parts(struct nef_s3_answer_list *all, const struct nef_s3_answer_list *page)
{
    size_t each = sizeof(struct nef_s3_answer_part);
    void *items = realloc(all->items, ((size_t)all->count + page->count + 1) * each);

    if (items == NULL)
        return NEF_E_NOMEM;
    all->items = items;
    if (page->count > 0)
        memcpy((uint8_t *)items + all->count * each, page->items, page->count * each);
    all->count += page->count;
    return NEF_OK;
}

nef_err nef_model_upload_parts(struct nef_model_region *r, const char *key, const char *id,
                               struct nef_s3_answer_list *out)
{
    struct nef_s3_answer_list all = {.items = NULL}, page;
    char marker[16] = "";
    nef_err err;

    do {
        struct nef_buf query = {0};

        if (marker[0] != '\0')
            nef_buf_printf(&query, "part-number-marker=%s&", marker);
        nef_buf_text(&query, "uploadId=");
        nef_s3_client_value(&query, id);
        err = list(r, key, &query, nef_s3_answer_parts, &page);
        if (err != NEF_OK)
            break;
        err = append_parts(&all, &page);
        if (err == NEF_OK && page.next[0] != '\0' &&
            (page.count == 0 || all.count > NEF_PART_COUNT_MAX || strlen(page.next) >= sizeof(marker)))
            err = nef_model_fail(&r->why, NEF_E_PROTOCOL, "the region's listing of parts has no end");
        (void)snprintf(marker, sizeof(marker), "%.15s", page.next);
        free(page.items);
    } while (err == NEF_OK && marker[0] != '\0');
    if (err != NEF_OK)
        free(all.items);
    else
        *out = all;
    return err;
}

nef_err nef_model_upload_part(struct nef_model_region *r, const char *key, const char *id, uint32_t number,
                              const void *data, size_t bytes)
{
    uint8_t digest[32];
    char hex[65], base64[45];
    const struct nef_http_field fields[] = {{"x-amz-checksum-sha256", base64}};
    struct nef_buf query = {0};
    struct call call = {.method = "PUT",
                        .bucket = NEF_MODELS_BUCKET,
                        .key = key,
                        .fields = fields,
                        .field_count = 1,
                        .body = data,
                        .bytes = bytes,
                        .payload = hex};
    nef_err err;

    nef_hash_of(NEF_HASH_SHA256, data, bytes, digest);
    nef_hex(digest, sizeof(digest), hex);
    nef_base64(digest, sizeof(digest), base64);
    nef_buf_printf(&query, "partNumber=%u&uploadId=", number);
    nef_s3_client_value(&query, id);
    call.query = nef_buf_cstr(&query);
    err = nef_buf_end(&query);
    if (err == NEF_OK)
        err = simple(r, &call);
    nef_buf_free(&query);
    return err;
}

nef_err nef_model_upload_complete(struct nef_model_region *r, const char *key, const char *id,
                                  const struct nef_s3_answer_part *parts, uint32_t count, bool replace)
{
    const struct nef_http_field fields[] = {{"if-none-match", "*"}};
    struct call call = {
        .method = "POST", .bucket = NEF_MODELS_BUCKET, .key = key, .fields = fields, .field_count = replace ? 0 : 1};
    struct nef_buf body = {0}, query = {0};
    struct answer a = {.status = 0};
    bool again = false;
    uint64_t bytes = 0;
    nef_err err;

    nef_buf_text(&query, "uploadId=");
    nef_s3_client_value(&query, id);
    nef_buf_text(&body, "<CompleteMultipartUpload>");
    for (uint32_t i = 0; i < count; i++) {
        nef_buf_printf(&body, "<Part><PartNumber>%u</PartNumber><ETag>%s</ETag></Part>", parts[i].number,
                       parts[i].etag);
        bytes += parts[i].bytes;
    }
    nef_buf_text(&body, "</CompleteMultipartUpload>");
    err = nef_buf_end(&body);
    if (err == NEF_OK)
        err = nef_buf_end(&query);
    if (err == NEF_OK) {
        call.query = nef_buf_cstr(&query);
        call.body = body.data;
        call.bytes = body.bytes;
        err = call_region(r, &call, &a, &again);
    }
    if (again && (err == NEF_E_NO_UPLOAD || err == NEF_E_PRECONDITION)) { /* perhaps the first call's own doing */
        struct nef_model_object object;

        if (nef_model_head(r, NEF_MODELS_BUCKET, key, &object) == NEF_OK && object.bytes == bytes)
            err = NEF_OK;
    }
    nef_buf_free(&a.body);
    nef_buf_free(&body);
    nef_buf_free(&query);
    return err;
}

nef_err nef_model_upload_abort(struct nef_model_region *r, const char *key, const char *id)
{
    struct call call = {.method = "DELETE", .bucket = NEF_MODELS_BUCKET, .key = key};
    struct nef_buf query = {0};
    nef_err err;

    nef_buf_text(&query, "uploadId=");
    nef_s3_client_value(&query, id);
    call.query = nef_buf_cstr(&query);
    err = nef_buf_end(&query);
    if (err == NEF_OK)
        err = simple(r, &call);
    nef_buf_free(&query);
    return err == NEF_E_NO_UPLOAD ? NEF_OK : err;
}

nef_err nef_model_get(struct nef_model_region *r, const char *bucket, const char *key, const char *etag,
                      uint64_t offset, uint64_t bytes, bool (*sink)(void *context, const uint8_t *data, size_t bytes),
                      void *context)
{
    char match[64], range[64];
    const struct nef_http_field fields[] = {{"if-match", match}, {"range", range}};
    const struct call call = {.method = "GET",
                              .bucket = bucket,
                              .key = key,
                              .query = "",
                              .fields = fields,
                              .field_count = 2,
                              .once = true,
                              .sink = sink,
                              .context = context};
    struct answer a = {.status = 0};
    nef_err err;

    NEF_ASSERT(bytes > 0);
    (void)snprintf(match, sizeof(match), "\"%s\"", etag);
    (void)snprintf(range, sizeof(range), "bytes=%llu-%llu", (unsigned long long)offset,
                   (unsigned long long)(offset + bytes - 1));
    err = call_region(r, &call, &a, NULL);
    nef_buf_free(&a.body);
    return err;
}

/* ---- which region ---- */

static bool by_endpoint(const char *endpoint, const char *region, const char *ca, struct nef_model_region *r)
{
    const char *access_key = getenv("AWS_ACCESS_KEY_ID"), *secret_key = getenv("AWS_SECRET_ACCESS_KEY");
    const char *home = getenv("HOME"), *state = getenv("XDG_STATE_HOME");
    size_t bytes = strlen(endpoint);

    while (bytes > 0 && endpoint[bytes - 1] == '/')
        bytes--;
    if (region == NULL)
        region = getenv("AWS_DEFAULT_REGION");
    if ((strncmp(endpoint, "http://", 7) != 0 && strncmp(endpoint, "https://", 8) != 0) ||
        bytes >= sizeof(r->endpoint)) {
        (void)nef_complain("model", "--endpoint must be the URL of the region's S3 front or of a zone's S3 listener");
        return false;
    }
    memcpy(r->endpoint, endpoint, bytes);
    if (region == NULL || access_key == NULL || secret_key == NULL) {
        (void)nef_complain("model",
                           "--endpoint needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, and "
                           "the region's name: --region NAME or AWS_DEFAULT_REGION");
        return false;
    }
    if (nef_text(r->region, sizeof(r->region), "%s", region) != NEF_OK ||
        nef_text(r->access_key, sizeof(r->access_key), "%s", access_key) != NEF_OK ||
        nef_text(r->secret_key, sizeof(r->secret_key), "%s", secret_key) != NEF_OK ||
        (ca != NULL && nef_text(r->ca, sizeof(r->ca), "%s", ca) != NEF_OK) ||
        nef_text(r->state_dir, sizeof(r->state_dir), "%s%s/nef",
                 state != NULL && state[0] == '/' ? state
                 : home != NULL                   ? home
                                                  : "",
                 state != NULL && state[0] == '/' ? "" : "/.local/state") != NEF_OK) {
        (void)nef_complain("model", "a value is too long");
        return false;
    }
    return true;
}

bool nef_model_region_open(const char *dir, const char *endpoint, const char *region, const char *ca,
                           struct nef_model_region *out)
{
    struct nef_region_error error = {{0}};
    struct nef_region *r = NULL;
    bool good = false;

    memset(out, 0, sizeof(*out));
    if ((dir == NULL) == (endpoint == NULL)) {
        (void)nef_complain("model", "say which region: --dir DIR (of nef up), or --endpoint URL (of its S3 front)");
        return false;
    }
    if (endpoint != NULL) {
        good = by_endpoint(endpoint, region, ca, out);
    } else if ((r = calloc(1, sizeof(*r))) == NULL) {
        (void)nef_complain("model", "out of memory");
    } else if (nef_region_open(dir, r, &error) != NEF_OK) {
        (void)nef_complain("model", "%s", error.text);
    } else {
        char url[NEF_URL_MAX];

        nef_plan_url(url, r->plan.front.pem[0] != 0, r->plan.front.bind, r->plan.front.port);
        (void)snprintf(out->endpoint, sizeof(out->endpoint), "%s", url);
        (void)snprintf(out->region, sizeof(out->region), "%s", r->plan.region);
        (void)snprintf(out->access_key, sizeof(out->access_key), "%s", r->root.access_key);
        (void)snprintf(out->secret_key, sizeof(out->secret_key), "%s", r->root.secret_key);
        nef_region_path(r, out->state_dir, "models");
        good = true;
    }
    if (r != NULL)
        nef_wipe(r, sizeof(*r));
    free(r);
    if (good && nef_fetcher_new(&out->fetcher) != NEF_OK) {
        (void)nef_complain("model", "out of memory");
        good = false;
    }
    if (!good)
        nef_model_region_close(out);
    return good;
}

void nef_model_region_close(struct nef_model_region *r)
{
    nef_fetcher_free(r->fetcher);
    nef_wipe(r, sizeof(*r));
}
