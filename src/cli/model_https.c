/* Models from afar: https with redirects, ranges and validators, as Hugging Face and ordinary web servers answer; see
 * model.h.
 *
 * Every request goes to the address that the user gave, never to where an earlier one was redirected: such addresses
 * are signed and short-lived. A request asks for a range, with If-Range where the server gave a strong ETag. What may
 * come back:
 *
 *   206   a range: it must be the one that was asked for, of a file of the length that is known
 *   200   the whole file (a server without ranges, or one whose file has changed): what was had already is skipped, if
 *         length and ETag are those that are known
 *
 * Nothing a server says is believed further than that: bytes beyond what was asked for, another length, another ETag
 * are errors, and what it sends is compared with the digest that was published.
 *
 * Digests: Hugging Face gives the SHA-256 of a large file as x-linked-etag, with the redirect. Elsewhere an ETag of 64
 * hex digits, given by the very address that was asked, is taken for one; behind a redirect it is something else
 * (Hugging Face's own storage has such ETags that aren't). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "cli/model.h"

#define HEAD_FIRST (1ull << 20) /* of the head are fetched at first, then as much again, and so on */
#define IDLE_TRIES 6u           /* attempts that bring nothing, one after the other */
#define PAUSE_MS   500u         /* doubles */
#define STALL_S    30u

/* ---- what headers say; pure ---- */

bool nef_model_strong_etag(const char *text, char *out, size_t room)
{
    size_t bytes = strlen(text);

    if (bytes < 3 || text[0] != '"' || text[bytes - 1] != '"' || bytes - 2 >= room ||
        memchr(text + 1, '"', bytes - 2) != NULL)
        return false;
    for (size_t i = 1; i + 1 < bytes; i++)
        if ((unsigned char)text[i] < 0x21 || (unsigned char)text[i] > 0x7e)
            return false; /* it goes into a request of ours */
    memcpy(out, text + 1, bytes - 2);
    out[bytes - 2] = '\0';
    return true;
}

static bool take_number(const char **text, uint64_t *out)
{
    const char *t = *text;
    uint64_t value = 0;

    if (*t < '0' || *t > '9')
        return false;
    for (; *t >= '0' && *t <= '9'; t++) {
        if (value > (UINT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (uint64_t)(*t - '0');
    }
    *text = t;
    *out = value;
    return true;
}

bool nef_model_content_range(const char *text, uint64_t *out_first, uint64_t *out_last, uint64_t *out_total)
{
    uint64_t first, last, total = UINT64_MAX;

    if (strncasecmp(text, "bytes ", 6) != 0)
        return false;
    text += 6;
    if (!take_number(&text, &first) || *text++ != '-' || !take_number(&text, &last) || *text++ != '/')
        return false;
    if (*text == '*')
        text++;
    else if (!take_number(&text, &total))
        return false;
    if (*text != '\0' || last < first || last >= total)
        return false;
    *out_first = first;
    *out_last = last;
    *out_total = total;
    return true;
}

/* ---- one request ---- */

struct request {
    struct nef_model_source *source;
    struct nef_model_origin *file;
    uint64_t offset, bytes; /* wanted; less if the file ends before */
    bool opening;           /* length and validator aren't known yet */
    /* of the answer that is coming */
    uint32_t hop;
    bool has_range, has_length, checked;
    uint64_t first, last, total, length;
    char etag[NEF_MODEL_VALIDATOR_MAX];
    char linked_etag[80];
    bool has_linked_size;
    uint64_t linked_size;
    uint64_t skip; /* of a whole file that was asked for in part */
    /* progress */
    uint64_t done;
    nef_err (*sink)(void *context, const uint8_t *data, size_t bytes);
    void *context;
    nef_err err; /* of the sink, or of what came */
};

static nef_err refuse(struct request *q, nef_err err, const char *what)
{
    size_t shown = strcspn(q->file->where, "?#");

    q->err = nef_model_fail(q->source->why, err, "%.*s: %s", (int)NEF_MIN(shown, 600), q->file->where, what);
    return q->err;
}

static bool on_header(void *context, uint32_t hop, long status, const char *name, const char *value)
{
    struct request *q = context;

    (void)status;
    if (hop != q->hop) { /* another answer: what the last one said of itself is void,
                        but for what it said of the file */
        q->hop = hop;
        q->has_range = q->has_length = false;
        q->etag[0] = '\0';
    }
    if (strcmp(name, "content-range") == 0) {
        q->has_range = nef_model_content_range(value, &q->first, &q->last, &q->total);
    } else if (strcmp(name, "content-length") == 0) {
        q->has_length = take_number(&value, &q->length) && *value == '\0';
    } else if (strcmp(name, "etag") == 0) {
        if (!nef_model_strong_etag(value, q->etag, sizeof(q->etag)))
            q->etag[0] = '\0';
    } else if (strcmp(name, "x-linked-etag") == 0 && q->linked_etag[0] == '\0') {
        if (!nef_model_strong_etag(value, q->linked_etag, sizeof(q->linked_etag)))
            q->linked_etag[0] = '\0';
    } else if (strcmp(name, "x-linked-size") == 0 && !q->has_linked_size) {
        q->has_linked_size = take_number(&value, &q->linked_size) && *value == '\0';
    } else if (strcmp(name, "content-encoding") == 0 && strcmp(value, "identity") != 0) {
        (void)refuse(q, NEF_E_PROTOCOL, "the server compresses what it sends, though it was asked not to");
        return false;
    }
    return true;
}

static nef_err learn(struct request *q, uint64_t total)
{
    struct nef_model_origin *file = q->file;
    const char *tag = q->linked_etag;

    if (total == 0)
        return refuse(q, NEF_E_PROTOCOL, "it is empty");
    if (total > NEF_OBJECT_BYTES_MAX)
        return refuse(q, NEF_E_LIMIT, "it is said to be larger than an object may be");
    if (q->has_linked_size && q->linked_size != total)
        return refuse(q, NEF_E_PROTOCOL, "the server says two different lengths");
    file->bytes = total;
    (void)snprintf(file->validator, sizeof(file->validator), "%s", q->etag);
    if (tag[0] == '\0' && q->hop == 0)
        tag = q->etag;
    if (!file->has_sha256 && strlen(tag) == 64 && nef_unhex(tag, 64, file->sha256, 32) == NEF_OK) {
        file->has_sha256 = true;
        file->sha256_guessed = tag == q->etag;
    }
    return NEF_OK;
}

/* Status and headers of the last answer, when its first byte comes or it ends without one. */
static nef_err check(struct request *q, long status)
{
    uint64_t total;

    q->checked = true;
    if (status == 206) {
        if (!q->has_range || q->first != q->offset + q->done)
            return refuse(q, NEF_E_PROTOCOL, "the server sends another range than it was asked for");
        total = q->total;
        q->skip = 0;
    } else {
        total = q->has_length ? q->length : UINT64_MAX;
        q->skip = q->offset + q->done;
    }
    if (total == UINT64_MAX)
        return refuse(q, NEF_E_PROTOCOL, "the server doesn't say how long it is");
    if (q->opening && q->file->bytes == 0)
        return learn(q, total);
    if (total != q->file->bytes || (q->file->validator[0] != '\0' && strcmp(q->file->validator, q->etag) != 0))
        return refuse(q, NEF_E_PRECONDITION, "it has changed at the source");
    return NEF_OK;
}

static bool on_data(void *context, long status, const uint8_t *data, size_t bytes)
{
    struct request *q = context;
    uint64_t wanted;

    if (status != 200 && status != 206)
        return true; /* an error page: thrown away */
    if (!q->checked && check(q, status) != NEF_OK)
        return false;
    if (q->skip >= bytes) {
        q->skip -= bytes;
        return true;
    }
    data += q->skip;
    bytes -= (size_t)q->skip;
    q->skip = 0;
    wanted = NEF_MIN(q->bytes, q->file->bytes - q->offset) - q->done;
    if (bytes > wanted) {
        if (status == 206) {
            (void)refuse(q, NEF_E_PROTOCOL, "the server sends more than it was asked for");
            return false;
        }
        bytes = (size_t)wanted;
    }
    q->err = bytes > 0 ? q->sink(q->context, data, bytes) : NEF_OK;
    if (q->err != NEF_OK)
        return false;
    q->done += bytes;
    return bytes < wanted || status == 206;
}

static nef_err by_status(struct request *q, long status)
{
    switch (status) {
    case 401:
    case 403:
        return refuse(q, NEF_E_DENIED,
                      q->source->bearer == NULL
                          ? "the server refuses access; if it wants a token: --source-token-file FILE"
                          : "the server refuses access with this token");
    case 404:
    case 410:
        return refuse(q, NEF_E_NOT_FOUND, "there is nothing at this address");
    case 416:
        return refuse(q, NEF_E_PRECONDITION,
                      q->opening && q->done == 0 ? "it is empty" : "it has become shorter at the source");
    case 408:
    case 429:
        return NEF_E_UNAVAILABLE;
    default:
        break;
    }
    if (status >= 500)
        return NEF_E_UNAVAILABLE;
    if (status >= 200 && status < 300 && status != 200 && status != 206)
        return refuse(q, NEF_E_PROTOCOL, "the server answers with a status that fits no file");
    if (status < 200 || status >= 300)
        return refuse(q, NEF_E_PROTOCOL, "the server refuses the request");
    return NEF_OK;
}

/* One attempt. NEF_E_UNAVAILABLE: another may bring more. */
static nef_err attempt(struct request *q, struct nef_fetch_result *result)
{
    char range[80], if_range[NEF_MODEL_VALIDATOR_MAX + 16];
    const char *headers[3];
    const struct nef_fetch fetch = {.url = q->file->where,
                                    .headers = headers,
                                    .header_count = q->file->validator[0] != '\0' ? 3 : 2,
                                    .bearer = q->source->bearer,
                                    .ca = q->source->ca,
                                    .follow = true,
                                    .proxies = true,
                                    .stall_s = STALL_S,
                                    .context = q,
                                    .header = on_header,
                                    .data = on_data};
    nef_err err;

    (void)snprintf(range, sizeof(range), "Range: bytes=%llu-%llu", (unsigned long long)(q->offset + q->done),
                   (unsigned long long)(q->offset + q->bytes - 1));
    (void)snprintf(if_range, sizeof(if_range), "If-Range: \"%s\"", q->file->validator);
    headers[0] = range;
    headers[1] = "Accept-Encoding: identity";
    headers[2] = if_range;
    q->hop = UINT32_MAX;
    q->checked = q->has_range = q->has_length = false;
    q->etag[0] = '\0';
    err = nef_fetch(q->source->fetcher, &fetch, result);
    if (q->err != NEF_OK)
        return q->err;
    if (err == NEF_E_CLOSED)
        return NEF_OK; /* all that was wanted came, and the server had more */
    if (err == NEF_OK)
        return by_status(q, result->status);
    if (err == NEF_E_PEER || err == NEF_E_TIMEOUT || err == NEF_E_UNAVAILABLE)
        return NEF_E_UNAVAILABLE;
    q->err = nef_model_fail(q->source->why, err, "%s", result->error);
    return err;
}

static bool whole(const struct request *q)
{
    return q->file->bytes > 0 && q->done >= NEF_MIN(q->bytes, q->file->bytes - q->offset);
}

/* Attempts until all is there, or nothing comes any more. */
static nef_err fetch_all(struct request *q)
{
    struct nef_fetch_result result = {.status = 0};
    uint32_t idle = 0, wait = PAUSE_MS;

    for (;;) {
        uint64_t before = q->done;
        nef_err err = attempt(q, &result);

        if (err != NEF_OK && err != NEF_E_UNAVAILABLE)
            return err;
        if (whole(q))
            return NEF_OK;
        if (q->done > before) {
            idle = 0;
            wait = PAUSE_MS;
        } else if (++idle == IDLE_TRIES) {
            char why[300];

            if (result.error[0] != '\0')
                return nef_model_fail(q->source->why, NEF_E_UNAVAILABLE, "%s", result.error);
            (void)snprintf(why, sizeof(why), "the server answers with status %ld, again and again", result.status);
            return refuse(q, NEF_E_UNAVAILABLE,
                          result.status == 200 || result.status == 206
                              ? "the server sends less than it announces, again and again"
                              : why);
        }
        (void)usleep(wait * 1000);
        wait = NEF_MIN(wait * 2, 8000u);
    }
}

/* ---- opening and reading ---- */

static nef_err on_head(void *context, const uint8_t *data, size_t bytes)
{
    struct request *q = context;

    nef_buf_append(&q->file->head, data, bytes);
    return q->file->head.failed ? nef_model_fail(q->source->why, NEF_E_NOMEM, "out of memory") : NEF_OK;
}

nef_err nef_model_https_open(struct nef_model_source *source, struct nef_model_origin *file)
{
    struct request q = {
        .source = source, .file = file, .bytes = HEAD_FIRST, .opening = true, .sink = on_head, .context = &q};
    nef_err err;

    file->head.max = NEF_MODEL_HEAD_MAX;
    do {
        err = fetch_all(&q);
        if (err == NEF_OK)
            err = nef_model_head_parse(source, file);
        q.bytes = NEF_MIN(q.bytes * 2, NEF_MODEL_HEAD_MAX);
    } while (err == NEF_E_AGAIN); /* never of a whole file, nor beyond the limit */
    return err;
}

nef_err nef_model_https_read(struct nef_model_source *source, struct nef_model_origin *file, uint64_t offset,
                             uint64_t bytes, nef_err (*sink)(void *context, const uint8_t *data, size_t bytes),
                             void *context)
{
    struct request q = {
        .source = source, .file = file, .offset = offset, .bytes = bytes, .sink = sink, .context = context};

    return fetch_all(&q);
}
