/* The supervisor's state and region.json: encoding, decoding, and the decision to adopt. */
#include "cli/state.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "io/files.h"

#define STATE_VERSION 1
#define STATE_BYTES_MAX                                                                            \
    ((size_t)256 << 10) /* a few KiB are used; a limit on what a broken file costs */

static const char *const wanted_names[] = {"run", "stop", "pause"};

const char *nef_child_state_name(enum nef_child_state state)
{
    static const char *const names[] = {"stopped", "running", "paused", "stopping", "crashed"};

    NEF_ASSERT((size_t)state < NEF_COUNT(names));
    return names[state];
}

/* ---- supervisor.json ---- */

json_t *nef_up_state_encode(const struct nef_region *r, const struct nef_supervisor_state *state)
{
    json_t *list = json_array();
    json_t *root;

    for (uint32_t i = 0; i < NEF_PROCESS_COUNT && list != NULL; i++) {
        const struct nef_record *record = &state->records[i];
        struct nef_process p = nef_process_at(r, i);
        char command[65];

        nef_hex(record->identity.command, 32, command);
        if (json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I, s:s}", "name", p.name,
                                                  "wanted", wanted_names[record->wanted], "pid",
                                                  (json_int_t)record->identity.pid, "start_ticks",
                                                  (json_int_t)record->identity.start_ticks,
                                                  "command", command)) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    if (list == NULL)
        return NULL;
    root = json_pack("{s:i, s:s, s:b, s:i, s:I, s:i, s:o}", "version", STATE_VERSION, "boot_id",
                     state->boot_id, "etcd_formed", (int)state->etcd_formed, "etcd_void",
                     (int)state->etcd_void, "alone_since", (json_int_t)state->alone_since, "alone_place",
                     (int)state->alone_place, "processes", list);
    return root;
}

static nef_err decode_record(const json_t *item, struct nef_record *out)
{
    const char *wanted, *command;
    json_int_t pid, ticks;
    struct nef_record record = {.wanted = NEF_WANTED_RUN};
    size_t w;

    if (json_unpack((json_t *)(uintptr_t)item, "{s:s, s:I, s:I, s:s}", "wanted", &wanted, "pid",
                    &pid, "start_ticks", &ticks, "command", &command) != 0)
        return NEF_E_CONFIG;
    for (w = 0; w < NEF_COUNT(wanted_names) && strcmp(wanted, wanted_names[w]) != 0; w++)
        continue;
    /* kill(2) gives ids below 2 other meanings (a group, everybody, init) */
    if (w == NEF_COUNT(wanted_names) || pid < 0 || pid == 1 || pid > INT32_MAX || ticks < 0 ||
        nef_unhex(command, strlen(command), record.identity.command, 32) != NEF_OK)
        return NEF_E_CONFIG;
    record.wanted = (enum nef_wanted)w;
    record.identity.pid = (pid_t)pid;
    record.identity.start_ticks = (uint64_t)ticks;
    *out = record;
    return NEF_OK;
}

nef_err nef_up_state_decode(const struct nef_region *r, const json_t *root,
                            struct nef_supervisor_state *out)
{
    struct nef_supervisor_state state = {.etcd_formed = false};
    json_t *list;
    const char *boot;
    int version, formed, voided, alone_place = 0;
    json_int_t alone_since = 0; /* both absent: as an older program wrote it */

    if (json_unpack((json_t *)(uintptr_t)root, "{s:i, s:s, s:b, s:i, s?:I, s?:i, s:o}", "version", &version,
                    "boot_id", &boot, "etcd_formed", &formed, "etcd_void", &voided, "alone_since", &alone_since,
                    "alone_place", &alone_place, "processes", &list) != 0 ||
        version != STATE_VERSION || !json_is_array(list) || voided < 0 || alone_since < 0 || alone_place < 0 ||
        alone_place >= (int)NEF_PLAN_PLACES ||
        voided >= 1 << NEF_PLAN_PLACES ||
        nef_text(state.boot_id, sizeof(state.boot_id), "%s", boot) != NEF_OK)
        return NEF_E_CONFIG;
    state.etcd_formed = formed != 0;
    state.etcd_void = (unsigned)voided;
    state.alone_since = alone_since;
    state.alone_place = (uint32_t)alone_place;
    for (size_t n = 0; n < json_array_size(list); n++) {
        const json_t *item = json_array_get(list, n);
        const char *name = json_string_value(json_object_get(item, "name"));

        for (uint32_t i = 0; i < NEF_PROCESS_COUNT && name != NULL; i++) {
            struct nef_process p = nef_process_at(r, i);

            if (strcmp(name, p.name) == 0) {
                nef_err err = decode_record(item, &state.records[i]);

                if (err != NEF_OK)
                    return err;
            }
        }
    }
    *out = state;
    return NEF_OK;
}

nef_err nef_region_write_json(const struct nef_region *r, const char *name, const json_t *root)
{
    char path[NEF_PATH_MAX];
    char *text = root != NULL ? json_dumps(root, JSON_INDENT(2)) : NULL;
    nef_err err;

    if (text == NULL)
        return NEF_E_NOMEM;
    nef_region_path(r, path, "%s", name);
    err = nef_file_replace(path, 0600, text, strlen(text));
    nef_wipe(text, strlen(text)); /* region.json holds credentials */
    free(text);
    return err;
}

nef_err nef_state_load(const struct nef_region *r, struct nef_supervisor_state *out,
                       struct nef_region_error *error)
{
    char path[NEF_PATH_MAX];
    struct nef_buf text = {0};
    json_t *root = NULL;
    nef_err err;

    nef_region_path(r, path, "supervisor.json");
    err = nef_file_read(path, STATE_BYTES_MAX, true, &text);
    if (err == NEF_E_NOT_FOUND) {
        nef_buf_free(&text);
        *out = (struct nef_supervisor_state){.etcd_formed = false};
        return NEF_OK;
    }
    if (err == NEF_OK) {
        root = json_loadb((const char *)text.data, text.bytes, JSON_REJECT_DUPLICATES, NULL);
        err = root != NULL ? nef_up_state_decode(r, root, out) : NEF_E_CONFIG;
    }
    if (err != NEF_OK)
        err = nef_region_fail(
            error, err, "%s: %s; stop what runs of the region, remove the file and run nef up",
            path, nef_err_text(err));
    json_decref(root);
    nef_buf_free(&text);
    return err;
}

nef_err nef_state_save(const struct nef_region *r, const struct nef_supervisor_state *state)
{
    json_t *root = nef_up_state_encode(r, state);
    nef_err err = nef_region_write_json(r, "supervisor.json", root);

    json_decref(root);
    return err;
}

/* ---- adoption ---- */

bool nef_adopts(const struct nef_supervisor_state *state, const char *boot_id, uint32_t index,
                const struct nef_seen *seen)
{
    const struct nef_identity *recorded = &state->records[index].identity;

    /* Ticks count from boot: the same number in another boot is chance. */
    return recorded->pid > 1 && seen->there && boot_id[0] != 0 &&
           strcmp(state->boot_id, boot_id) == 0 && seen->identity.pid == recorded->pid &&
           seen->identity.start_ticks == recorded->start_ticks &&
           memcmp(seen->identity.command, recorded->command, 32) == 0;
}

void nef_command_digest(const struct nef_etcd_args *argv, uint8_t out[32])
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < argv->count; i++)
        bytes += strlen(argv->argv[i]) + 1;
    /* the strings lie one after the other in argv->text, as in /proc/PID/cmdline */
    nef_hash_of(NEF_HASH_SHA256, argv->text, bytes, out);
}

/* The argument that no other process of any region has. */
static bool names_us(const char *argument, const struct nef_etcd_args *argv,
                     enum nef_process_kind kind)
{
    if (kind != NEF_PROCESS_ETCD)
        return strcmp(argument, argv->argv[argv->count - 1]) == 0;
    for (uint32_t i = 1; i < argv->count; i++)
        if (strncmp(argv->argv[i], "--data-dir=", 11) == 0)
            return strcmp(argument, argv->argv[i]) == 0;
    return false;
}

bool nef_command_matches(const struct nef_etcd_args *argv, enum nef_process_kind kind,
                         const char *command, size_t bytes)
{
    bool verb = kind != NEF_PROCESS_ZONE && kind != NEF_PROCESS_WITNESS;
    bool ours = false;
    size_t at = 0, number = 0;

    if (bytes == 0 || command[bytes - 1] != 0)
        return false;
    while (at < bytes) {
        const char *argument = command + at;

        if (number == 0) {
            const char *base = strrchr(argument, '/'), *want = strrchr(argv->argv[0], '/');

            /* The name, not the path: the program may have been upgraded to another place. */
            if (strcmp(base != NULL ? base + 1 : argument,
                       want != NULL ? want + 1 : argv->argv[0]) != 0)
                return false;
        } else if (number == 1 && !verb) {
            verb = strcmp(argument, argv->argv[1]) == 0;
        } else if (names_us(argument, argv, kind)) {
            ours = true;
        }
        at += strlen(argument) + 1;
        number++;
    }
    return ours && verb;
}

/* ---- region.json ---- */

static json_t *pid_json(pid_t pid)
{
    return pid > 0 ? json_integer(pid) : json_null();
}

static json_t *zone_json(const struct nef_region *r, uint32_t i, pid_t pid)
{
    const struct nef_place *p = &r->plan.places[i];
    char s3[NEF_URL_MAX], ai[NEF_URL_MAX], admin[NEF_URL_MAX];

    nef_plan_url(s3, r->plan.tls, p->host, p->s3);
    nef_plan_url(ai, r->plan.tls, p->host, p->ai);
    nef_plan_url(admin, r->plan.tls, p->host, p->admin);
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", p->name, "s3", s3, "ai", ai, "admin", admin, "pid",
                     pid_json(pid));
}

static json_t *etcd_json(const struct nef_region *r, uint32_t i, pid_t pid)
{
    const struct nef_place *p = &r->plan.places[i];
    struct nef_process process = nef_process_at(r, i);
    char url[NEF_URL_MAX];

    nef_plan_url(url, true, p->host, p->etcd_client);
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", process.name, "endpoint", url, "cert",
                     p->etcd_cert, "key", p->etcd_key, "pid", pid_json(pid));
}

json_t *nef_region_json(const struct nef_region *r,
                        const struct nef_child_view views[NEF_PROCESS_COUNT])
{
    const struct nef_plan *plan = &r->plan;
    char endpoint[NEF_URL_MAX], ai[NEF_URL_MAX], admin[NEF_URL_MAX], log[NEF_PATH_MAX];
    char ai_key[sizeof(r->root.access_key) + sizeof(r->root.secret_key) + 2];
    json_t *zones = json_array(), *etcd = json_array(), *processes = json_array();
    json_t *witness = NULL;
    bool failed = zones == NULL || etcd == NULL || processes == NULL;

    nef_plan_url(endpoint, plan->front.pem[0] != 0, plan->front.bind, plan->front.port);
    nef_plan_url(ai, plan->front.pem[0] != 0, plan->front.bind, plan->front.ai_port);
    (void)snprintf(ai_key, sizeof(ai_key), "%s:%s", r->root.access_key, r->root.secret_key);
    nef_plan_url(admin, plan->tls, plan->places[NEF_PLAN_WITNESS].host,
                 plan->places[NEF_PLAN_WITNESS].admin);
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT && !failed; i++) {
        struct nef_process p = nef_process_at(r, i);

        nef_region_path(r, log, "logs/%s.log", p.name);
        failed = json_array_append_new(processes, json_pack("{s:s, s:o, s:s, s:s}", "name", p.name,
                                                            "pid", pid_json(views[i].pid), "state",
                                                            nef_child_state_name(views[i].state),
                                                            "log", log)) != 0;
        if (!failed && p.kind == NEF_PROCESS_ZONE)
            failed = json_array_append_new(zones, zone_json(r, p.place, views[i].pid)) != 0;
        if (!failed && p.kind == NEF_PROCESS_ETCD)
            failed = json_array_append_new(etcd, etcd_json(r, p.place, views[i].pid)) != 0;
        if (!failed && p.kind == NEF_PROCESS_WITNESS) {
            witness = json_pack("{s:s, s:o}", "admin", admin, "pid", pid_json(views[i].pid));
            failed = witness == NULL;
        }
    }
    if (failed) {
        json_decref(zones);
        json_decref(etcd);
        json_decref(processes);
        json_decref(witness);
        return NULL;
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "region", plan->region,
                     "endpoint", endpoint, "ai_endpoint", ai, "ai_key", ai_key, "access_key", r->root.access_key, "secret_key",
                     r->root.secret_key, "admin_token", r->admin_token, "ca", plan->places[0].ca,
                     "zones", zones, "witness", witness, "etcd", etcd, "processes", processes);
}
