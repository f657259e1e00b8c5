/* The live lines of `nef up`: one a zone, from its admin listener; nothing here touches the region. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "cli/control.h"
#include "cli/up.h"
#include "io/clock.h"

#define LINE_MAX_BYTES 160

struct zone_line {
    double log_end, rate; /* bytes, bytes a second */
    uint64_t at_ms;
    char text[LINE_MAX_BYTES];
    char key[LINE_MAX_BYTES]; /* what doesn't change with every second: for output that is no
                                 terminal */
};

static double sum_of_log_ends(const json_t *cells, const char *zone)
{
    double sum = 0;
    json_t *cell;
    size_t n;

    json_array_foreach(cells, n, cell) sum +=
        nef_json_number(json_object_get(cell, "log_end"), zone, 0);
    return sum;
}

static const json_t *zone_of(const json_t *root, const char *name)
{
    json_t *item;
    size_t n;

    json_array_foreach(json_object_get(root, "zones"), n,
                       item) if (strcmp(nef_json_text(item, "name", ""), name) == 0) return item;
    return NULL;
}

static void describe(const struct nef_region *r, uint32_t i, const struct nef_region_view *view,
                     const json_t *root, struct zone_line *line)
{
    const char *name = r->plan.places[i].name, *process = view->state[NEF_PLAN_PLACES + i];
    const json_t *zone = zone_of(root, name), *cells = json_object_get(root, "cells");
    double end = sum_of_log_ends(cells, name), lag = 0;
    char rate[32], lag_text[32], role[48];
    uint64_t now = nef_now_ms();
    unsigned primary = 0, total = 0;
    bool in_sync = json_is_true(json_object_get(zone, "in_sync"));
    json_t *cell;
    size_t n;

    if (strcmp(process, "running") != 0 || zone == NULL) {
        (void)snprintf(line->text, sizeof(line->text), "zone %-8s %s", name,
                       process[0] != 0 && strcmp(process, "running") != 0 ? process : "no answer");
        (void)snprintf(line->key, sizeof(line->key), "%s", line->text);
        line->at_ms = 0;
        return;
    }
    json_array_foreach(cells, n, cell)
    {
        total++;
        if (strcmp(nef_json_text(cell, "primary", ""), name) == 0)
            primary++;
        else if (nef_json_number(cell, "lag", 0) > lag)
            lag = nef_json_number(cell, "lag", 0);
    }
    if (line->at_ms != 0 && now > line->at_ms && end >= line->log_end)
        line->rate = (end - line->log_end) * 1000.0 / (double)(now - line->at_ms);
    line->at_ms = now;
    line->log_end = end;
    if (primary == total && total > 0)
        (void)snprintf(role, sizeof(role), "primary");
    else if (primary == 0)
        (void)snprintf(role, sizeof(role), "backup");
    else
        (void)snprintf(role, sizeof(role), "primary of %u/%u", primary, total);
    nef_human_bytes(rate, line->rate);
    nef_human_bytes(lag_text, lag);
    (void)snprintf(line->text, sizeof(line->text), "zone %-8s %-16s %-12s %12s/s   lag %s", name,
                   role, in_sync ? "in sync" : nef_json_text(zone, "state", "away"), rate,
                   lag_text);
    (void)snprintf(line->key, sizeof(line->key), "zone %-8s %-16s %s", name, role,
                   in_sync ? "in sync" : nef_json_text(zone, "state", "away"));
}

static void show(struct zone_line *lines, struct zone_line *before, bool terminal, bool first)
{
    if (terminal && !first)
        printf("\033[%uA", NEF_PLAN_ZONES);
    for (uint32_t i = 0; i < NEF_PLAN_ZONES; i++) {
        if (terminal)
            printf("\r\033[K%s\n", lines[i].text);
        else if (strcmp(lines[i].key, before[i].key) != 0)
            printf("%s\n", lines[i].key);
        before[i] = lines[i];
    }
    (void)fflush(stdout); /* a closed pipe ends us by the next signal, not here */
}

void nef_up_watch(const struct nef_region *r)
{
    struct zone_line lines[NEF_PLAN_ZONES] = {{.at_ms = 0}},
                     before[NEF_PLAN_ZONES] = {{.at_ms = 0}};
    const struct timespec second = {.tv_sec = 1};
    struct nef_region_error error;
    struct nef_caller admin;
    bool terminal = isatty(STDOUT_FILENO) == 1, first = true;
    sigset_t set;

    nef_caller_of(r, &admin);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, NULL); /* valid arguments: can't fail */
    do {
        struct nef_region_view view = {.pid = {0}};
        json_t *root = NULL;

        if (nef_control_call(r, "ping", NULL, NULL, 5000, &error) == NEF_E_NOT_FOUND) {
            printf("the region is down\n");
            return;
        }
        if (nef_region_view(r, &view) == NEF_OK &&
            nef_caller_any(&admin, NULL, "/status", NULL, &root) != NEF_OK)
            root = NULL; /* shown as no answer */
        for (uint32_t i = 0; i < NEF_PLAN_ZONES; i++)
            describe(r, i, &view, root, &lines[i]);
        json_decref(root);
        show(lines, before, terminal, first);
        first = false;
    } while (sigtimedwait(&set, NULL, &second) < 0);
}
