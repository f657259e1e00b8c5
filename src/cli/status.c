/* `nef status`: what a zone says of the region, as it is or as a table. */
#include <stdio.h>
#include <string.h>
#include "cli/cli.h"

#define CALL_MS 3000u

void nef_human_bytes(char out[32], double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    unsigned unit = 0;

    while (bytes >= 1000 && unit < 5) {
        bytes /= 1000;
        unit++;
    }
    (void)snprintf(out, 32, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

const char *nef_json_text(const json_t *object, const char *name, const char *preset)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text != NULL ? text : preset;
}

double nef_json_number(const json_t *object, const char *name, double preset)
{
    const json_t *value = json_object_get(object, name);

    return json_is_number(value) ? json_number_value(value) : preset;
}

static void print_zone(const json_t *zone)
{
    const json_t *catch_up = json_object_get(zone, "catch_up"), *blocked = json_object_get(zone, "blocked");
    double contact = nef_json_number(zone, "last_contact_ms", -1);
    double left = nef_json_number(catch_up, "bytes_left", 0),
           eta = nef_json_number(catch_up, "eta_s", -1);
    char contact_text[32] = "-", left_text[32] = "-", eta_text[32] = "";

    if (contact >= 0)
        (void)snprintf(contact_text, sizeof(contact_text), "%.0f ms", contact);
    if (left > 0)
        nef_human_bytes(left_text, left);
    if (left > 0 && eta >= 0)
        (void)snprintf(eta_text, sizeof(eta_text), ", %.0f s", eta);
    printf("%-12s %-12s %-8s %12s   %s%s\n", nef_json_text(zone, "name", "?"),
           nef_json_text(zone, "state", "?"),
           json_is_true(json_object_get(zone, "in_sync")) ? "yes" : "no", contact_text, left_text,
           eta_text);
    if (json_is_object(blocked))
        printf("%-12s a record that it needs can't be read in any zone: cell %.0f, at or after offset %.0f of its "
               "log\n", "", nef_json_number(blocked, "cell", -1), nef_json_number(blocked, "offset", -1));
}

static void print_cell(const json_t *cell)
{
    const json_t *ends = json_object_get(cell, "log_end");
    const char *zone;
    json_t *end;
    char text[32];

    nef_human_bytes(text, nef_json_number(cell, "lag", 0));
    printf("%-12.0f %-12s %-8s", nef_json_number(cell, "id", -1),
           nef_json_text(cell, "primary", "-"), text);
    json_object_foreach((json_t *)(uintptr_t)ends, zone, end)
        printf("  %s %" JSON_INTEGER_FORMAT, zone, json_integer_value(end));
    printf("\n");
}

static const char *seen(const json_t *value, const char *yes, const char *no)
{
    return json_is_true(value) ? yes : json_is_false(value) ? no : "not asked";
}

/* The witness and etcd's members, as the zone sees them that answered. */
static void print_others(const json_t *root)
{
    const json_t *witness = json_object_get(root, "witness"), *members = json_object_get(root, "etcd"), *item;
    size_t n;

    printf("\n%-12s %s\n", "WITNESS", "ADDRESS");
    if (json_is_object(witness))
        printf("%-12s %s\n", seen(json_object_get(witness, "answers"), "answers", "UNREACHABLE"), nef_json_text(witness, "address", "?"));
    else
        printf("%-12s %s\n", "-", "not in this zone's configuration");
    printf("\n%-12s %s\n", "ETCD", "ENDPOINT");
    json_array_foreach(members, n, item)
        printf("%-12s %s\n", seen(json_object_get(item, "healthy"), "healthy", "UNHEALTHY"), nef_json_text(item, "endpoint", "?"));
}

/* Durability is what the region's record says, and stands there as well when nobody can change the record any more. */
static void print_serving(const json_t *root)
{
    const char *own = nef_json_text(root, "zone", "?");
    const json_t *item;
    bool anybody = false;
    size_t n;

    if (!json_is_false(json_object_get(root, "ready")))
        return;
    printf("ZONE %s DOESN'T SERVE", own);
    json_array_foreach(json_object_get(root, "zones"), n, item)
        anybody = anybody || json_is_true(json_object_get(item, "in_sync"));
    json_array_foreach(json_object_get(root, "zones"), n, item) {
        const char *name = nef_json_text(item, "name", "?"), *state = nef_json_text(item, "state", "?");
        bool in_sync = json_is_true(json_object_get(item, "in_sync"));

        if (strcmp(name, own) == 0 && strcmp(state, "starting") == 0) {
            printf(": it is starting");
            break;
        }
        if (strcmp(name, own) == 0 && !in_sync) {
            printf(": it isn't in sync");
            if (!anybody && strcmp(state, "out") == 0) /* it knows the record */
                printf(", and neither is another zone: the disk that the region's record counts on isn't there.\n"
                       "Put it back. If it is lost for good: docs/operations.md, \"The only whole disk is lost\"");
            break;
        }
        if (in_sync && strcmp(state, "unreachable") == 0) {
            printf(": %s is in sync, too, and can't be reached, and etcd's majority hasn't said that it is gone.\n"
                   "Bring back %s or the witness. If both are lost for good: docs/operations.md, \"One zone and the "
                   "witness are lost\"", name, name);
            break;
        }
    }
    printf("\n\n");
}

bool nef_status_print(const json_t *root)
{
    const json_t *zones = json_object_get(root, "zones"), *cells = json_object_get(root, "cells");
    const char *durability = json_string_value(json_object_get(root, "durability"));
    double lost = nef_json_number(json_object_get(root, "lost"), "accepted_bytes", 0);
    char text[32];
    json_t *item;
    size_t n;

    if (durability == NULL || !json_is_array(zones) || !json_is_array(cells))
        return false;
    printf("durability %s   epoch %" JSON_INTEGER_FORMAT "\n\n", durability,
           json_integer_value(json_object_get(root, "epoch")));
    print_serving(root);
    if (json_is_string(json_object_get(root, "error")))
        printf("zone %s does nothing any more: %s; its log says since when\n\n", nef_json_text(root, "zone", "?"),
               nef_json_text(root, "error", ""));
    printf("%-12s %-12s %-8s %12s   %s\n", "ZONE", "STATE", "IN SYNC", "LAST CONTACT", "CATCH-UP");
    json_array_foreach(zones, n, item) print_zone(item);
    printf("\n%-12s %-12s %-8s  %s\n", "CELL", "PRIMARY", "LAG", "LOG END");
    json_array_foreach(cells, n, item) print_cell(item);
    print_others(root);
    if (lost > 0) {
        nef_human_bytes(text, lost);
        printf("\nzone %s keeps %s of what an accepted loss gave up in lost/: docs/operations.md\n",
               nef_json_text(root, "zone", "?"), text);
    }
    return true;
}

/* The primary's answer if there is one, since only it knows how far each zone is; else one of a zone that serves; else
 * the first. NEF_OK: *out_root is a new reference. */
static nef_err ask(struct nef_caller *admin, json_t **out_root)
{
    nef_err err = NEF_E_PEER;
    json_t *best = NULL;
    int best_rank = -1;

    for (uint32_t i = 0; i < admin->count && best_rank < 2; i++) {
        json_t *root = NULL;
        long status;
        int rank;

        err = nef_caller_zone(admin, i, "GET", "/status", NULL, CALL_MS, &status, &root);
        if (err != NEF_OK)
            continue;
        rank = !json_is_true(json_object_get(root, "ready"))                ? 0
               : strcmp(nef_json_text(root, "role", ""), "primary") == 0 ? 2
                                                                             : 1;
        if (rank > best_rank) {
            json_decref(best);
            best = json_incref(root);
            best_rank = rank;
        }
        json_decref(root);
    }
    if (best == NULL)
        return err;
    *out_root = best;
    return NEF_OK;
}

int nef_cmd_status(int argc, char **argv)
{
    const char *dir = NULL, *endpoint = NULL, *token_file = NULL, *ca = NULL;
    bool as_json = false;
    const struct nef_option options[] = {{.name = "dir", .text = &dir},
                                         {.name = "endpoint", .text = &endpoint},
                                         {.name = "token-file", .text = &token_file},
                                         {.name = "ca", .text = &ca},
                                         {.name = "json", .flag = &as_json},
                                         {.name = NULL}};
    struct nef_caller admin;
    struct nef_words words;
    json_t *root = NULL;
    int status = 0;

    if (!nef_options(argc, argv, options, 0, 0, &words) ||
        !nef_caller_open("status", dir, endpoint, token_file, ca, &admin))
        return 2;
    if (ask(&admin, &root) != NEF_OK)
        return nef_complain("status", "no zone says how the region is: %s", admin.error);
    if (as_json) {
        (void)json_dumpf(root, stdout, JSON_INDENT(2));
        printf("\n");
    } else if (!nef_status_print(root)) {
        status = nef_complain("status", "the answer isn't a zone's status; is that the witness? Ask a zone");
    }
    json_decref(root);
    return fflush(stdout) == 0 ? status : 1;
}
