/* The admin listener; see admin.h. Health is answered in the listener's thread, because it must not
 * wait behind anything; all else in two workers. What operators do is traced; names and keys of
 * users aren't. */
#include "server/admin.h"
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "io/clock.h"
#include "io/workers.h"
#include "http/http.h"
#include "server/region_ops.h"
#include "server/user_rights.h"

#define BODY_MAX          (16u << 10)
#define CONNECTIONS_MAX   128u
#define THREADS           1u
#define WORKERS           2u
#define QUEUE_MAX         64u
#define IDLE_TIMEOUT_S    30u
#define USER_NAME_MAX     63u /* also the owner of what the user uploads */
#define ACCESS_KEY_RANDOM 17u
#define SECRET_KEY_RANDOM 40u
#define STOP_POLL_US      2000

struct nef_admin {
    struct nef_admin_options options;
    struct nef_http *http;
    struct nef_workers *workers;
    char *token, *metrics_token; /* NEF_TOKEN_BYTES of locked memory each; the second may be "" */
    pthread_rwlock_t s3_lock;
    struct nef_s3_service *s3; /* under s3_lock, as is ai */
    struct nef_admin_ai ai;    /* context NULL: none */
    atomic_uint calls;
};

struct admin_call;

struct route {
    const char *method, *path;
    bool open;   /* no token */
    bool prefix; /* path is only how it begins */
    void (*answer)(struct admin_call *c);
    bool direct; /* in the listener's thread */
};

struct admin_call {
    struct nef_admin *admin;
    struct nef_http_request *http;
    const struct route *route;
    char path[256];
    struct nef_buf body;
    atomic_uint refs;
    atomic_bool worked;
    bool submitted;
    unsigned status;
    uint64_t start_ns;
};

static void call_unref(struct admin_call *c)
{
    struct nef_admin *admin = c->admin;

    if (atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    nef_buf_free(&c->body);
    nef_http_unref(c->http);
    free(c);
    atomic_fetch_sub(&admin->calls, 1);
}

/* ---- answers ---- */

static void answer_text(struct admin_call *c, unsigned status, const char *type,
                        struct nef_buf *out)
{
    c->status = status;
    if (nef_buf_end(out) != NEF_OK) {
        nef_buf_free(out);
        c->status = status = 503;
    }
    nef_http_answer(c->http, status, out->data, out->bytes);
    *out = (struct nef_buf){0};
    nef_http_answer_header(c->http, "Content-Type", type);
    nef_http_answer_header(c->http, "Cache-Control", "no-store");
}

static void answer_json(struct admin_call *c, unsigned status, json_t *value)
{
    char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT);
    struct nef_buf out = {0};

    if (text == NULL) {
        out.failed = true;
    } else {
        nef_buf_text(&out, text);
        nef_buf_text(&out, "\n");
        nef_wipe(text, strlen(text)); /* a new user's secret */
    }
    free(text);
    json_decref(value);
    answer_text(c, status, "application/json", &out);
}

static void answer_error(struct admin_call *c, unsigned status, const char *why)
{
    answer_json(c, status, json_pack("{s:s}", "error", why));
}

static void answer_err(struct admin_call *c, nef_err err)
{
    unsigned status = 500;

    if (err == NEF_E_TIMEOUT || err == NEF_E_UNAVAILABLE || err == NEF_E_BUSY ||
        err == NEF_E_CLOSED || err == NEF_E_KEY || err == NEF_E_NOSPACE)
        status = 503;
    answer_error(c, status, nef_err_text(err));
}

static void answer_ok(struct admin_call *c)
{
    answer_json(c, 200, json_pack("{s:b}", "ok", 1));
}

/* ---- health, metrics, status ---- */

static void live(struct admin_call *c)
{
    answer_json(c, 200, json_pack("{s:b}", "live", 1));
}

static void ready(struct admin_call *c)
{
    struct nef_runtime_stats *st = calloc(1, sizeof(*st));
    bool is_ready = false;

    if (st != NULL) {
        nef_runtime_stats(c->admin->options.rt, st);
        is_ready = st->ready;
    }
    free(st);
    answer_json(c, is_ready ? 200 : 503, json_pack("{s:b}", "ready", is_ready));
}

static void tell_time(struct admin_call *c)
{
    answer_json(c, 200, json_pack("{s:I}", "wall_ms", (json_int_t)nef_wall_ms()));
}

static void metrics(struct admin_call *c)
{
    struct nef_admin *admin = c->admin;
    struct nef_metrics_now now = {.config = admin->options.config};
    struct nef_buf out = {0};

    (void)pthread_rwlock_rdlock(&admin->s3_lock);
    if (admin->s3 != NULL) {
        now.connections = nef_s3_service_connections(admin->s3);
        now.worker_queue = nef_s3_service_queue(admin->s3);
    }
    nef_metrics_text(admin->options.metrics, admin->options.rt, &now, &out);
    if (admin->ai.context != NULL)
        admin->ai.metrics(admin->ai.context, &out);
    (void)pthread_rwlock_unlock(&admin->s3_lock);
    nef_buf_text(&out, "# EOF\n");
    answer_text(c, 200, NEF_METRICS_CONTENT_TYPE, &out);
}

static void status(struct admin_call *c)
{
    struct nef_buf out = {0};

    nef_runtime_status_json(c->admin->options.rt, &out);
    answer_text(c, 200, "application/json", &out);
}

static void ai_status(struct admin_call *c)
{
    struct nef_admin *admin = c->admin;
    struct nef_buf out = {0};

    (void)pthread_rwlock_rdlock(&admin->s3_lock);
    if (admin->ai.context != NULL)
        admin->ai.status(admin->ai.context, &out);
    (void)pthread_rwlock_unlock(&admin->s3_lock);
    if (out.bytes == 0)
        nef_buf_text(&out, "{}");
    answer_text(c, 200, "application/json", &out);
}

/* ---- users ---- */

static bool list_user(void *context, const struct nef_user *user)
{
    json_t *list = context;

    return json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:b, s:b, s:o}", "name", user->name,
                                                 "access_key", user->access_key, "bucket",
                                                 user->bucket, "read_only", user->read_only,
                                                 "disabled", user->disabled, "ai",
                                                 nef_user_ai_json(&user->ai))) == 0;
}

static nef_err see_all_users(struct admin_call *c)
{
    struct nef_read read = {0};

    return nef_runtime_read_wait(c->admin->options.rt, 0, NULL, &read);
}

static void users_list(struct admin_call *c)
{
    json_t *list = json_array();
    nef_err err = list == NULL ? NEF_E_NOMEM : see_all_users(c);

    if (err == NEF_OK)
        err = nef_store_users(nef_runtime_store(c->admin->options.rt), list_user, list);
    if (err != NEF_OK) {
        json_decref(list);
        answer_err(c, err);
        return;
    }
    answer_json(c, 200, json_pack("{s:o}", "users", list));
}

struct by_name {
    const char *name;
    struct nef_user user; /* the first one that isn't disabled, else any */
    bool found;
};

static bool match_name(void *context, const struct nef_user *user)
{
    struct by_name *w = context;

    if (strcmp(user->name, w->name) == 0 && (!w->found || w->user.disabled)) {
        w->user = *user;
        w->found = true;
    }
    return true;
}

static nef_err find_name(struct admin_call *c, struct by_name *w)
{
    nef_err err = see_all_users(c);

    return err != NEF_OK ? err
                         : nef_store_users(nef_runtime_store(c->admin->options.rt), match_name, w);
}

static bool name_valid(const char *name, size_t bytes)
{
    if (bytes == 0 || bytes > USER_NAME_MAX)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-", name[i]) ==
            NULL)
            return false;
    return true;
}

/* Characters drawn evenly from an alphabet of 32 or 64. */
static void draw(char *out, size_t count, const char *alphabet, uint8_t mask)
{
    uint8_t random[64];

    NEF_ASSERT(count <= sizeof(random));
    nef_random(random, count);
    for (size_t i = 0; i < count; i++)
        out[i] = alphabet[random[i] & mask];
    out[count] = '\0';
    nef_wipe(random, sizeof(random));
}

/* The request's fields. False: answered. */
static bool parse_user(struct admin_call *c, struct nef_user *out)
{
    json_error_t error;
    json_t *root =
        json_loadb((const char *)c->body.data, c->body.bytes, JSON_REJECT_DUPLICATES, &error);
    const char *name = NULL, *bucket = "", *why = NULL;
    int read_only = 0;
    json_t *ai = NULL;

    if (root == NULL || json_unpack(root, "{s:s, s?s, s?b, s?o !}", "name", &name, "bucket", &bucket,
                                    "read_only", &read_only, "ai", &ai) != 0)
        why = "want {\"name\": text, \"bucket\": text?, \"read_only\": boolean?, \"ai\": object?}";
    else if (!name_valid(name, strlen(name)))
        why = "a name has 1 to 63 of a-z A-Z 0-9 . _ @ -";
    else if (strlen(bucket) > NEF_BUCKET_NAME_MAX)
        why = "that can't be a bucket's name";
    if (why == NULL && ai != NULL)
        why = nef_user_ai_change(&out->ai, ai);
    if (why == NULL) {
        (void)strcpy(out->name, name);
        (void)strcpy(out->bucket, bucket);
        out->read_only = read_only != 0;
    } else {
        answer_error(c, 400, why);
    }
    json_decref(root);
    return why == NULL;
}

static void users_create(struct admin_call *c)
{
    struct nef_admin *admin = c->admin;
    struct nef_user user = {0};
    nef_err err;

    if (!parse_user(c, &user))
        return;
    (void)strcpy(user.access_key, "NEF");
    draw(user.access_key + 3, ACCESS_KEY_RANDOM, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 31);
    draw(user.secret_key, SECRET_KEY_RANDOM,
         "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", 63);
    /* Whether the name is taken is decided where all zones decide the same: when the op is applied. */
    err = nef_region_user_put(admin->options.rt, admin->options.keys, admin->options.config->cells,
                              &user);
    if (err == NEF_OK)
        answer_json(c, 201,
                    json_pack("{s:s, s:s, s:s, s:s, s:b, s:o}", "name", user.name, "access_key",
                              user.access_key, "secret_key", user.secret_key, "bucket", user.bucket,
                              "read_only", user.read_only, "ai", nef_user_ai_json(&user.ai)));
    else if (err == NEF_E_EXISTS)
        answer_error(c, 409, "a user of that name exists");
    else if (err == NEF_E_LIMIT)
        answer_error(c, 409, "there are too many users");
    else
        answer_err(c, err);
    nef_wipe(&user, sizeof(user));
}

/* What a change of a user says, on *USER. NULL, or why not. */
static const char *change(struct admin_call *c, struct nef_user *user)
{
    json_error_t error;
    json_t *root =
        json_loadb((const char *)c->body.data, c->body.bytes, JSON_REJECT_DUPLICATES, &error);
    const char *why = "want {\"ai\": object or null}";
    json_t *ai = NULL;

    if (root != NULL && json_unpack(root, "{s:o !}", "ai", &ai) == 0)
        why = nef_user_ai_change(&user->ai, ai);
    json_decref(root);
    return why;
}

/* /users/NAME/disable and /users/NAME/change */
static void users_change(struct admin_call *c)
{
    static const char before[] = "/users/";
    struct nef_admin *admin = c->admin;
    const char *at = c->path + sizeof(before) - 1, *verb = strchr(at, '/');
    bool disable = verb != NULL && strcmp(verb, "/disable") == 0, write = true;
    struct by_name w = {0};
    char name[USER_NAME_MAX + 1];
    const char *why;
    nef_err err;

    if (!disable && (verb == NULL || strcmp(verb, "/change") != 0)) {
        answer_error(c, 404, "no such page");
        return;
    }
    if (!name_valid(at, (size_t)(verb - at))) {
        answer_error(c, 404, "no such user");
        return;
    }
    memcpy(name, at, (size_t)(verb - at));
    name[verb - at] = '\0';
    w.name = name;
    err = find_name(c, &w);
    if (err == NEF_OK && (!w.found || (!disable && w.user.disabled))) {
        nef_wipe(&w.user, sizeof(w.user));
        answer_error(c, 404, "no such user");
        return;
    }
    if (disable) {
        write = !w.user.disabled;
        w.user.disabled = true;
    } else if (err == NEF_OK) {
        why = change(c, &w.user);
        if (why != NULL) {
            nef_wipe(&w.user, sizeof(w.user));
            answer_error(c, 400, why);
            return;
        }
    }
    if (err == NEF_OK && write)
        err = nef_region_user_put(admin->options.rt, admin->options.keys,
                                  admin->options.config->cells, &w.user);
    nef_wipe(&w.user, sizeof(w.user));
    if (err != NEF_OK)
        answer_err(c, err);
    else
        answer_ok(c);
}

/* ---- the operator's wishes ---- */

static void recover(struct admin_call *c)
{
    nef_runtime_recover(c->admin->options.rt);
    answer_ok(c);
}

static void handover(struct admin_call *c)
{
    nef_runtime_handover(c->admin->options.rt);
    answer_ok(c);
}

static const struct route routes[] = {
    {"GET", "/health/live", true, false, live, true},
    {"GET", "/health/ready", true, false, ready, true},
    {"GET", "/time", true, false, tell_time, true},
    {"GET", "/metrics", false, false, metrics, false},
    {"GET", "/status", false, false, status, false},
    {"GET", "/ai/status", false, false, ai_status, false},
    {"GET", "/users", false, false, users_list, false},
    {"POST", "/users", false, false, users_create, false},
    {"POST", "/users/", false, true, users_change, false},
    {"POST", "/recover", false, false, recover, false},
    {"POST", "/handover", false, false, handover, false},
};

/* ---- the request's life ---- */

static bool token_good(const struct admin_call *c)
{
    const char *header = nef_http_header(c->http, "Authorization");

    return nef_token_matches(header, c->admin->token) ||
           (c->route != NULL && c->route->answer == metrics && nef_token_matches(header, c->admin->metrics_token));
}

static void *on_open(void *context, struct nef_http_request *http)
{
    struct nef_admin *admin = context;
    struct admin_call *c = calloc(1, sizeof(*c));
    const char *target = nef_http_target(http);
    size_t bytes = strcspn(target, "?");

    if (c == NULL)
        return NULL;
    c->admin = admin;
    c->http = http;
    nef_http_ref(http);
    atomic_init(&c->refs, 1);
    c->start_ns = nef_now_ns();
    c->body.max = BODY_MAX;
    if (bytes < sizeof(c->path))
        memcpy(c->path, target, bytes);
    atomic_fetch_add(&admin->calls, 1);
    return c;
}

static enum nef_http_next on_begin(void *context)
{
    struct admin_call *c = context;
    const char *method = nef_http_method(c->http);
    bool is_get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    bool path_known = false;

    for (size_t i = 0; i < NEF_COUNT(routes) && c->route == NULL; i++) {
        const struct route *route = &routes[i];

        if (route->prefix ? strncmp(c->path, route->path, strlen(route->path)) != 0
                          : strcmp(c->path, route->path) != 0)
            continue;
        path_known = true;
        if (strcmp(route->method, method) == 0 || (is_get && strcmp(route->method, "GET") == 0))
            c->route = route;
    }
    if ((c->route == NULL || !c->route->open) && !token_good(c)) {
        answer_error(c, 401, "the admin token is missing or wrong");
        nef_http_answer_header(c->http, "WWW-Authenticate", "Bearer");
        return NEF_HTTP_ANSWERED;
    }
    if (c->route == NULL) {
        answer_error(c, path_known ? 405 : 404,
                     path_known ? "not with this method" : "no such page");
        return NEF_HTTP_ANSWERED;
    }
    return NEF_HTTP_GO;
}

static enum nef_http_next on_body(void *context, const uint8_t *data, size_t bytes,
                                  size_t *out_used)
{
    struct admin_call *c = context;

    nef_buf_append(&c->body, data, bytes);
    *out_used = bytes;
    if (!c->body.failed)
        return NEF_HTTP_GO;
    answer_error(c, 413, "that is too long");
    return NEF_HTTP_ANSWERED;
}

static void run(void *context)
{
    struct admin_call *c = context;

    c->route->answer(c);
    atomic_store_explicit(&c->worked, true, memory_order_release);
    nef_http_wake(c->http);
    call_unref(c);
}

static enum nef_http_next on_end(void *context)
{
    struct admin_call *c = context;

    if (c->route->direct) {
        c->route->answer(c);
        return NEF_HTTP_ANSWERED;
    }
    if (c->submitted)
        return atomic_load_explicit(&c->worked, memory_order_acquire) ? NEF_HTTP_ANSWERED
                                                                      : NEF_HTTP_WAIT;
    c->submitted = true;
    atomic_fetch_add(&c->refs, 1);
    if (nef_workers_submit(c->admin->workers, run, c) == NEF_OK)
        return NEF_HTTP_WAIT;
    call_unref(c);
    answer_error(c, 503, "too much is waiting already");
    return NEF_HTTP_ANSWERED;
}

static void on_closed(void *context, bool complete)
{
    struct admin_call *c = context;

    if (c->route == NULL || !c->route->open) /* health is asked ten times a second */
        nef_trace(NEF_TRACE_INFO, "admin", "s:method", nef_http_method(c->http), "s:page",
                  c->route == NULL ? "" : c->route->path, "u:status",
                  (uint64_t)(complete ? c->status : 0), "u:us", (nef_now_ns() - c->start_ns) / 1000,
                  NULL);
    call_unref(c);
}

/* ---- start and stop ---- */

static void free_admin(struct nef_admin *admin)
{
    nef_workers_free(admin->workers);
    nef_secret_free(admin->token, NEF_TOKEN_BYTES);
    nef_secret_free(admin->metrics_token, NEF_TOKEN_BYTES);
    (void)pthread_rwlock_destroy(&admin->s3_lock);
    free(admin);
}

nef_err nef_admin_start(const struct nef_admin_options *options, struct nef_admin **out_admin)
{
    const struct nef_admin_config *config = &options->config->listeners.admin;
    struct nef_admin *admin = calloc(1, sizeof(*admin));
    struct nef_http_options http = {
        .listen = config->listen,
        .connections_max = CONNECTIONS_MAX,
        .threads = THREADS,
        .idle_timeout_s = IDLE_TIMEOUT_S,
        .handler = {on_open, on_begin, on_body, on_end, on_closed, admin}};
    nef_err err = NEF_E_NOMEM;

    if (admin == NULL)
        return NEF_E_NOMEM;
    admin->options = *options;
    admin->s3 = options->s3;
    (void)pthread_rwlock_init(&admin->s3_lock, NULL);
    admin->token = nef_secret_new(NEF_TOKEN_BYTES);
    admin->metrics_token = nef_secret_new(NEF_TOKEN_BYTES);
    if (admin->token == NULL || admin->metrics_token == NULL)
        goto fail;
    NEF_ASSERT(strlen(options->token) > 0 && strlen(options->token) < NEF_TOKEN_BYTES);
    NEF_ASSERT(strlen(options->metrics_token) < NEF_TOKEN_BYTES);
    (void)strcpy(admin->token, options->token);
    (void)strcpy(admin->metrics_token, options->metrics_token);
    err = nef_workers_new("nef-admin", WORKERS, QUEUE_MAX, &admin->workers);
    if (err != NEF_OK)
        goto fail;
    if (config->has_tls) {
        http.cert_file = config->tls.cert;
        http.key_file = config->tls.key;
    }
    err = nef_http_start(&http, &admin->http);
    if (err != NEF_OK)
        goto fail;
    *out_admin = admin;
    return NEF_OK;
fail:
    free_admin(admin);
    return err;
}

void nef_admin_attach(struct nef_admin *admin, struct nef_s3_service *s3)
{
    (void)pthread_rwlock_wrlock(&admin->s3_lock);
    admin->s3 = s3;
    (void)pthread_rwlock_unlock(&admin->s3_lock);
}

void nef_admin_attach_ai(struct nef_admin *admin, const struct nef_admin_ai *ai)
{
    (void)pthread_rwlock_wrlock(&admin->s3_lock);
    admin->ai = ai != NULL ? *ai : (struct nef_admin_ai){.context = NULL};
    (void)pthread_rwlock_unlock(&admin->s3_lock);
}

uint16_t nef_admin_port(const struct nef_admin *admin)
{
    return nef_http_port(admin->http);
}

void nef_admin_stop(struct nef_admin *admin)
{
    if (admin == NULL)
        return;
    nef_http_stop(admin->http);
    nef_workers_stop(admin->workers);
    while (atomic_load(&admin->calls) > 0)
        (void)usleep(STOP_POLL_US);
    free_admin(admin);
}
