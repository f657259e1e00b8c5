/* When does a region serve? Asked from outside, as a client would: through the front, and of each
 * zone. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli/up.h"
#include "io/clock.h"
#include "io/files.h"
#include "io/http_client.h"

#define REGION_JSON_MAX ((size_t)1 << 20)
#define CRASHES_MAX     2u /* of one process while we wait: it won't start by itself */
#define FRONT_ASKS      4u /* in turn over both zones */
#define TAIL_BYTES      2048
#define TELL_MS         5000u

nef_err nef_region_view(const struct nef_region *r, struct nef_region_view *out)
{
    struct nef_region_view view = {.pid = {0}};
    char path[NEF_PATH_MAX];
    struct nef_buf text = {0};
    json_t *root = NULL, *item;
    size_t n;
    nef_err err;

    nef_region_path(r, path, "region.json");
    err = nef_file_read(path, REGION_JSON_MAX, true, &text);
    if (err == NEF_OK && (root = json_loadb((const char *)text.data, text.bytes, 0, NULL)) == NULL)
        err = NEF_E_CONFIG;
    json_array_foreach(json_object_get(root, "processes"), n, item)
    {
        for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
            struct nef_process p = nef_process_at(r, i);

            if (strcmp(p.name, nef_json_text(item, "name", "")) != 0)
                continue;
            (void)snprintf(view.state[i], sizeof(view.state[i]), "%s",
                           nef_json_text(item, "state", ""));
            view.pid[i] = (int64_t)nef_json_number(item, "pid", 0);
        }
    }
    json_decref(root);
    nef_buf_free(&text);
    if (err == NEF_OK)
        *out = view;
    return err;
}

void nef_up_log_tail(const struct nef_region *r, uint32_t index)
{
    struct nef_process p = nef_process_at(r, index);
    char path[NEF_PATH_MAX], text[TAIL_BYTES + 1];
    char *line, *save = NULL;
    FILE *file;
    size_t bytes;

    nef_region_path(r, path, "logs/%s.log", p.name);
    file = fopen(path, "re");
    if (file == NULL)
        return;
    if (fseek(file, -TAIL_BYTES, SEEK_END) != 0)
        rewind(file); /* shorter than that */
    bytes = fread(text, 1, TAIL_BYTES, file);
    text[bytes] = 0;
    (void)fclose(file); /* reading only */
    for (line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save))
        (void)fprintf(stderr, "    %s\n", line);
}

static bool stopped(const char *state)
{
    return strcmp(state, "stopped") == 0 || strcmp(state, "paused") == 0;
}

struct waiting {
    const struct nef_region *r;
    struct nef_caller admin;
    struct nef_region_view before;
    uint32_t crashes[NEF_PROCESS_COUNT];
    bool hopeless; /* it won't come by itself */
    struct nef_region_error *why, told; /* what keeps it now; what was shown of that */
    uint64_t tell_ms;
};

static void NEF_PRINTF(2, 3) say(struct waiting *w, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(w->why->text, sizeof(w->why->text), format, args);
    va_end(args);
}

static bool processes_run(struct waiting *w, const struct nef_region_view *view)
{
    bool all = true;

    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        struct nef_process p = nef_process_at(w->r, i);
        bool crashed = strcmp(view->state[i], "crashed") == 0;

        if (crashed && strcmp(w->before.state[i], "crashed") != 0 && ++w->crashes[i] >= CRASHES_MAX)
            w->hopeless = true;
        if (!stopped(view->state[i]) && strcmp(view->state[i], "running") != 0) {
            say(w, "%s is %s; see %s/logs/%s.log", p.name,
                view->state[i][0] != 0 ? view->state[i] : "not there", w->r->dir, p.name);
            all = false;
            if (w->hopeless) {
                nef_up_log_tail(w->r, i);
                break;
            }
        }
    }
    w->before = *view;
    return all;
}

static bool zones_ready(struct waiting *w, const struct nef_region_view *view)
{
    char want[16];
    const char *durability;
    uint32_t count = 0;
    bool good;
    json_t *root = NULL;

    for (uint32_t i = 0; i < NEF_PLAN_ZONES; i++) {
        uint32_t index = NEF_PLAN_PLACES + i;
        long status = 0;

        if (stopped(view->state[index]))
            continue;
        count++;
        if (nef_caller_zone(&w->admin, i, NULL, "/health/ready", NULL, 1000, &status, &root) !=
                NEF_OK &&
            status != 200) {
            say(w, "zone %s isn't ready (%s); see %s/logs/zone-%s.log", w->r->plan.places[i].name,
                w->admin.error, w->r->dir, w->r->plan.places[i].name);
            return false;
        }
        json_decref(root);
        root = NULL;
    }
    if (count == 0) {
        say(w, "all zones are stopped; start one with: nef zone-start --dir %s %s", w->r->dir,
            w->r->plan.places[0].name);
        w->hopeless = true;
        return false;
    }
    if (nef_caller_any(&w->admin, NULL, "/status", NULL, &root) != NEF_OK) {
        say(w, "no zone answers (%s)", w->admin.error);
        return false;
    }
    (void)snprintf(want, sizeof(want), "%u/", count);
    durability = nef_json_text(root, "durability", "");
    good = strncmp(durability, want, strlen(want)) == 0;
    if (!good)
        say(w, "durability is %s, not %u/%u", durability, count, NEF_PLAN_ZONES);
    json_decref(root);
    return good;
}

static bool front_answers(struct waiting *w)
{
    char url[NEF_URL_MAX + 8], base[NEF_URL_MAX];
    struct nef_http_answer answer = {0};
    bool good = true;

    nef_plan_url(base, false, w->r->plan.front.bind, w->r->plan.front.port);
    (void)snprintf(url, sizeof(url), "%s/", base);
    for (uint32_t i = 0; i < FRONT_ASKS && good; i++) {
        struct nef_http_call call = {.url = url, .timeout_ms = 1000};
        nef_err err = nef_http_do(&call, &answer);

        /* without a signature a zone refuses (403): that is an answer. HAProxy without a zone says
         * 503. */
        good = err == NEF_OK && answer.status < 500;
        if (!good)
            say(w, "the front %s doesn't answer (%s%ld)", url,
                err != NEF_OK ? answer.error : "status ", answer.status);
    }
    if (good && w->r->plan.front.ai_port != 0) {
        struct nef_http_call call = {.url = url, .timeout_ms = 1000};

        /* Its checks find the zones' AI ports by themselves, a moment later. No answer at all: a front whose file is from
         * before there was that port. */
        nef_plan_url(base, false, w->r->plan.front.bind, w->r->plan.front.ai_port);
        (void)snprintf(url, sizeof(url), "%s/health", base);
        good = nef_http_do(&call, &answer) != NEF_OK || answer.status < 500;
        if (!good)
            say(w, "the front's AI port %s doesn't answer (status %ld)", url, answer.status);
    }
    nef_buf_free(&answer.body);
    return good;
}

/* Somebody may sit in front of it. */
static void tell(struct waiting *w)
{
    if (nef_now_ms() < w->tell_ms || strcmp(w->why->text, w->told.text) == 0)
        return;
    (void)fprintf(stderr, "nef up: waiting: %s\n", w->why->text);
    w->told = *w->why;
    w->tell_ms = nef_now_ms() + TELL_MS;
}

bool nef_up_wait(const struct nef_region *r, uint32_t timeout_ms, struct nef_region_error *out_why)
{
    struct waiting w = {.r = r, .why = out_why, .tell_ms = nef_now_ms() + TELL_MS};
    uint64_t until = nef_now_ms() + timeout_ms;

    nef_caller_of(r, &w.admin);
    say(&w, "nothing answers yet");
    for (;;) {
        struct nef_region_view view;
        nef_err err = nef_region_view(r, &view);

        if (err != NEF_OK)
            say(&w, "%s/region.json: %s", r->dir, nef_err_text(err));
        else if (processes_run(&w, &view) && zones_ready(&w, &view) && front_answers(&w))
            return true;
        if (w.hopeless || nef_now_ms() >= until)
            return false;
        tell(&w);
        (void)usleep(50000);
    }
}
