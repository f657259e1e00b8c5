/* The directory of a region on one machine. See region.h for its layout. */
#include "cli/region.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "io/files.h"
#include "io/tls.h"
#include "keys/keys.h"

#define PARAMETERS_VERSION 1
#define LOOPBACK           "127.0.0.1"

nef_err nef_region_fail(struct nef_region_error *error, nef_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return err;
}

void nef_region_path(const struct nef_region *r, char out[NEF_PATH_MAX], const char *format, ...)
{
    va_list args;
    int at = snprintf(out, NEF_PATH_MAX, "%s/", r->dir), written;

    va_start(args, format);
    written = vsnprintf(out + at, NEF_PATH_MAX - (size_t)at, format, args);
    va_end(args);
    NEF_ASSERT(written >= 0 && (size_t)(at + written) < NEF_PATH_MAX);
}

/* ---- the plan of one machine ---- */

static void fill_place(struct nef_region *r, uint32_t index)
{
    struct nef_place *p = &r->plan.places[index];
    /* offsets of design section 11: 10 a place; S3 0, AI 1, peer 2, etcd 3 and 4, gateways' relay 5, admin 6 */
    uint16_t base = (uint16_t)(r->port_base + 10 * (index + 1));
    bool zone = index != NEF_PLAN_WITNESS;

    (void)snprintf(p->host, sizeof(p->host), "%s", LOOPBACK);
    (void)snprintf(p->bind, sizeof(p->bind), "%s", LOOPBACK);
    p->s3 = zone ? base : 0;
    p->ai = zone ? (uint16_t)(base + 1) : 0;
    p->peer = zone ? (uint16_t)(base + 2) : 0;
    p->relay = zone ? (uint16_t)(base + 5) : 0;
    p->etcd_client = (uint16_t)(base + 3);
    p->etcd_peer = (uint16_t)(base + 4);
    p->admin = (uint16_t)(base + 6);
    if (zone)
        nef_region_path(r, p->data, "zone-%s", p->name);
    nef_region_path(r, p->etcd_data, "etcd-%s", p->name);
    nef_region_path(r, p->ca, "pki/ca.crt");
    nef_region_path(r, p->cert, zone ? "pki/zone-%s.crt" : "pki/witness.crt", p->name);
    nef_region_path(r, p->key, zone ? "pki/zone-%s.key" : "pki/witness.key", p->name);
    nef_region_path(r, p->etcd_cert, "pki/etcd-%s.crt", p->name);
    nef_region_path(r, p->etcd_key, "pki/etcd-%s.key", p->name);
    nef_region_path(r, p->token_file, "secrets/admin.token");
    nef_region_path(r, p->metrics_token_file, "secrets/metrics.token");
    nef_region_path(r, p->root_file, "secrets/root.json");
    nef_region_path(r, p->customer_key_file, "keys/customer.key");
}

void nef_region_fill(struct nef_region *r)
{
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++)
        fill_place(r, i);
    (void)snprintf(r->plan.front.bind, sizeof(r->plan.front.bind), "%s", LOOPBACK);
    r->plan.front.port = (uint16_t)r->port_base;
    r->plan.front.ai_port = (uint16_t)(r->port_base + 1);
}

/* ---- parameters.json ---- */

static nef_err check_parameters(const struct nef_region *r, struct nef_region_error *error)
{
    if (r->port_base < 1024 || r->port_base + NEF_PORT_SPAN > 65535)
        return nef_region_fail(error, NEF_E_INVALID, "the port base must be between 1024 and %u",
                               65535 - NEF_PORT_SPAN);
    if (r->plan.cells < 1 || r->plan.cells > NEF_CELL_MAX)
        return nef_region_fail(error, NEF_E_INVALID, "the number of cells must be between 1 and %u",
                               NEF_CELL_MAX);
    if (!nef_zone_name_ok(r->plan.region))
        return nef_region_fail(error, NEF_E_INVALID,
                               "a region's name is 1 to %u of a-z, 0-9 and '-', such as eu-paris",
                               NEF_ZONE_NAME_MAX);
    return NEF_OK;
}

static nef_err read_parameters(struct nef_region *r, struct nef_region_error *error)
{
    char path[NEF_PATH_MAX];
    json_error_t at;
    json_t *root;
    int version = 0, base = 0, cells = 0;
    const char *region, *id, *token, *names[NEF_PLAN_PLACES];
    nef_err err = NEF_OK;

    nef_region_path(r, path, "config/parameters.json");
    if (access(path, F_OK) != 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? nef_region_fail(error, NEF_E_NOT_FOUND,
                                     "%s holds no region; make one with: nef up --dir %s", r->dir,
                                     r->dir)
                   : nef_region_fail(error, NEF_E_CONFIG,
                                     "%s: %s; choose a directory that you may read and "
                                     "write with --dir",
                                     path, strerror(errno));
    root = json_load_file(path, JSON_REJECT_DUPLICATES, &at);
    if (root == NULL)
        return nef_region_fail(error, NEF_E_CONFIG, "%s:%d: %s", path, at.line, at.text);
    if (json_unpack(root, "{s:i}", "version", &version) != 0 || version != PARAMETERS_VERSION)
        err = nef_region_fail(error, NEF_E_CONFIG,
                              "%s: not a version that this program knows (it knows %d)", path,
                              PARAMETERS_VERSION);
    else if (json_unpack_ex(root, &at, JSON_STRICT, "{s:i, s:s, s:s, s:i, s:i, s:s, s:[s, s, s!]}",
                            "version", &version, "region", &region, "region_id", &id, "port_base",
                            &base, "cells", &cells, "cluster_token", &token, "places", &names[0],
                            &names[1], &names[2]) != 0)
        err = nef_region_fail(error, NEF_E_CONFIG, "%s: %s", path, at.text);
    else if (nef_unhex(id, strlen(id), r->plan.region_id.bytes, 16) != NEF_OK || base < 0 ||
             cells < 0 ||
             nef_text(r->plan.region, sizeof(r->plan.region), "%s", region) != NEF_OK ||
             nef_text(r->plan.cluster_token, sizeof(r->plan.cluster_token), "%s", token) != NEF_OK)
        err = nef_region_fail(error, NEF_E_CONFIG, "%s: a value is out of range", path);
    for (uint32_t i = 0; i < NEF_PLAN_PLACES && err == NEF_OK; i++)
        if (!nef_zone_name_ok(names[i]) ||
            nef_text(r->plan.places[i].name, sizeof(r->plan.places[i].name), "%s", names[i]) !=
                NEF_OK)
            err = nef_region_fail(error, NEF_E_CONFIG, "%s: '%s' isn't a name of a place", path,
                                  names[i]);
    if (err == NEF_OK) {
        r->port_base = (uint32_t)base;
        r->plan.cells = (uint32_t)cells;
        err = check_parameters(r, error);
    }
    json_decref(root);
    return err;
}

static nef_err write_parameters(const struct nef_region *r, struct nef_region_error *error)
{
    const struct nef_plan *plan = &r->plan;
    char path[NEF_PATH_MAX], id[33];
    char *text;
    json_t *root;
    nef_err err;

    nef_hex(plan->region_id.bytes, 16, id);
    root = json_pack("{s:i, s:s, s:s, s:i, s:i, s:s, s:[s, s, s]}", "version", PARAMETERS_VERSION,
                     "region", plan->region, "region_id", id, "port_base", (int)r->port_base,
                     "cells", (int)plan->cells, "cluster_token", plan->cluster_token, "places",
                     plan->places[0].name, plan->places[1].name, plan->places[2].name);
    text = root != NULL ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (text == NULL)
        return nef_region_fail(error, NEF_E_NOMEM, "out of memory");
    nef_region_path(r, path, "config/parameters.json");
    err = nef_file_make(path, 0600, text, strlen(text));
    free(text);
    return err == NEF_OK
               ? NEF_OK
               : nef_region_fail(error, err, "%s: %s: is the disk full or the directory read-only?",
                                 path, nef_err_text(err));
}

/* ---- files that are made once ---- */

static nef_err made(nef_err err, const char *path, struct nef_region_error *error)
{
    if (err == NEF_OK || err == NEF_E_EXISTS)
        return NEF_OK;
    return nef_region_fail(error, err, "%s: %s: is the disk full or the directory read-only?", path,
                           nef_err_text(err));
}

static nef_err make_certificate(const struct nef_region *r, const char *cert_path,
                                const char *key_path, const char *zone,
                                struct nef_region_error *error)
{
    char ca[NEF_PATH_MAX], ca_key[NEF_PATH_MAX];
    /* no common name: etcd's JSON gateway refuses client certificates that have one */
    struct nef_tls_cert cert = {.zone = zone, .server = true, .client = true};

    nef_region_path(r, ca, "pki/ca.crt");
    nef_region_path(r, ca_key, "pki/ca.key");
    return made(nef_tls_make_cert(ca, ca_key, &cert, cert_path, key_path), cert_path, error);
}

/* In a region that exists already a lost secret is never made anew in silence: under a new customer
 * key nothing could be read, and a new CA or user would be a stranger to what runs. */
static nef_err check_secrets(const struct nef_region *r, struct nef_region_error *error)
{
    const struct nef_place *any = &r->plan.places[0];
    const char *const needed[] = {any->ca, any->customer_key_file, any->root_file, any->token_file};

    for (size_t i = 0; i < NEF_COUNT(needed); i++)
        if (access(needed[i], R_OK) != 0)
            return nef_region_fail(
                error, NEF_E_CONFIG, "%s: %s; put it back from a copy%s", needed[i],
                strerror(errno),
                needed[i] == any->customer_key_file
                    ? ": without the customer's key nothing in this region can be read"
                    : "");
    return NEF_OK;
}

static nef_err make_secrets(const struct nef_region *r, bool fresh, struct nef_region_error *error)
{
    const struct nef_place *any = &r->plan.places[0];
    char key[NEF_PATH_MAX];
    nef_err err;

    if (!fresh) {
        err = check_secrets(r, error);
        if (err != NEF_OK)
            return err;
    }
    nef_region_path(r, key, "pki/ca.key");
    err = made(nef_tls_make_ca(r->plan.region, any->ca, key), any->ca, error);
    for (uint32_t i = 0; i < NEF_PLAN_PLACES && err == NEF_OK; i++) {
        const struct nef_place *p = &r->plan.places[i];

        err = make_certificate(r, p->cert, p->key, i == NEF_PLAN_WITNESS ? NULL : p->name, error);
        if (err == NEF_OK)
            err = make_certificate(r, p->etcd_cert, p->etcd_key, NULL, error);
    }
    if (err == NEF_OK)
        err = made(nef_keys_make_file(any->customer_key_file), any->customer_key_file, error);
    if (err == NEF_OK)
        err = made(nef_root_credentials_make(any->root_file), any->root_file, error);
    if (err == NEF_OK)
        err = made(nef_token_make(any->token_file), any->token_file, error);
    if (err == NEF_OK)
        err = made(nef_token_make(any->metrics_token_file), any->metrics_token_file, error);
    return err;
}

static nef_err make_config(const struct nef_region *r, struct nef_region_error *error)
{
    char path[NEF_PATH_MAX];
    struct nef_buf text = {0};
    nef_err err = NEF_OK;

    for (uint32_t i = 0; i < NEF_PLAN_ZONES && err == NEF_OK; i++) {
        nef_region_path(r, path, "config/zone-%s.yaml", r->plan.places[i].name);
        if (access(path, F_OK) != 0)
            err = made(nef_plan_write_zone(&r->plan, i, path), path, error);
    }
    if (err == NEF_OK) {
        nef_region_path(r, path, "config/witness.yaml");
        if (access(path, F_OK) != 0)
            err = made(nef_plan_write_witness(&r->plan, path), path, error);
    }
    if (err == NEF_OK) {
        nef_region_path(r, path, "config/haproxy.cfg");
        err = made(nef_plan_haproxy(&r->plan, NEF_PLAN_ZONES, "", &text), path, error);
        if (err == NEF_OK)
            err = made(nef_file_make(path, 0600, text.data, text.bytes), path, error);
    }
    nef_buf_free(&text);
    return err;
}

static nef_err make_directories(const struct nef_region *r, struct nef_region_error *error)
{
    static const char *const names[] = {"", "config", "pki", "keys", "secrets", "logs"};
    char path[NEF_PATH_MAX];

    for (size_t i = 0; i < NEF_COUNT(names); i++) {
        nef_region_path(r, path, "%s", names[i]);
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return nef_region_fail(
                error, NEF_E_IO,
                "can't make %s: %s; choose a directory that you may write with --dir", path,
                strerror(errno));
    }
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++) {
        /* etcd insists on 0700. A zone's own directory is made here, too, and so can be wiped
         * whole. */
        if (mkdir(r->plan.places[i].etcd_data, 0700) != 0 && errno != EEXIST)
            return nef_region_fail(error, NEF_E_IO, "can't make %s: %s",
                                   r->plan.places[i].etcd_data, strerror(errno));
        if (i != NEF_PLAN_WITNESS && mkdir(r->plan.places[i].data, 0700) != 0 && errno != EEXIST)
            return nef_region_fail(error, NEF_E_IO, "can't make %s: %s", r->plan.places[i].data,
                                   strerror(errno));
    }
    nef_region_path(r, path, "config");
    if (access(path, W_OK) != 0)
        return nef_region_fail(error, NEF_E_IO,
                               "%s isn't writable: %s; choose another directory with --dir", path,
                               strerror(errno));
    return NEF_OK;
}

/* ---- opening and making ---- */

static nef_err absolute(const char *dir, struct nef_region *out, struct nef_region_error *error)
{
    char cwd[PATH_MAX], resolved[PATH_MAX];
    const char *use = dir;
    nef_err err;

    if (dir[0] == 0)
        return nef_region_fail(error, NEF_E_INVALID, "--dir is empty");
    if (realpath(dir, resolved) != NULL)
        use = resolved; /* one spelling, so that processes are recognised by their command lines */
    if (use[0] == '/') {
        err = nef_text(out->dir, sizeof(out->dir), "%s", use);
    } else {
        if (getcwd(cwd, sizeof(cwd)) == NULL)
            return nef_region_fail(error, NEF_E_SYSTEM, "the current directory: %s",
                                   strerror(errno));
        err = nef_text(out->dir, sizeof(out->dir), "%s/%s", cwd, use);
    }
    if (err != NEF_OK)
        return nef_region_fail(error, err, "%s: the path is too long (%zu at most)", dir,
                               sizeof(out->dir) - 1);
    for (const char *c = out->dir; *c != 0; c++) {
        /* It goes into haproxy.cfg and YAML; a quote or a newline there would be somebody's
         * surprise. */
        if ((unsigned char)*c <= ' ' || strchr("\"'\\#$", *c) != NULL)
            return nef_region_fail(
                error, NEF_E_INVALID,
                "%s: the path of a region can't have blanks, quotes, '\\', '#' or '$'", out->dir);
    }
    return NEF_OK;
}

static nef_err read_secrets(struct nef_region *r, struct nef_region_error *error)
{
    struct nef_config_error ce = {{0}};
    nef_err err = nef_root_credentials_load(r->plan.places[0].root_file, &r->root, &ce);

    if (err == NEF_OK)
        err = nef_token_load(r->plan.places[0].token_file, r->admin_token, &ce);
    return err == NEF_OK ? NEF_OK : nef_region_fail(error, NEF_E_CONFIG, "%s", ce.text);
}

nef_err nef_region_open(const char *dir, struct nef_region *out, struct nef_region_error *error)
{
    struct nef_region r = {.port_base = 0};
    nef_err err;

    err = absolute(dir, &r, error);
    if (err == NEF_OK)
        err = read_parameters(&r, error);
    if (err == NEF_OK) {
        nef_region_fill(&r);
        err = read_secrets(&r, error);
    }
    if (err == NEF_OK)
        *out = r;
    return err;
}

nef_err nef_region_make(const char *dir, const struct nef_region_wish *wish, struct nef_region *out,
                        bool *out_made, struct nef_region_error *error)
{
    struct nef_region r = {.port_base = 0};
    bool fresh = false;
    nef_err err;

    err = absolute(dir, &r, error);
    if (err != NEF_OK)
        return err;
    err = read_parameters(&r, error);
    if (err == NEF_E_NOT_FOUND) {
        static const char *const names[NEF_PLAN_PLACES] = {"a", "b", "w"};
        uint8_t token[16];

        fresh = true;
        r.port_base = wish->port_base != 0 ? wish->port_base : NEF_PORT_BASE_PRESET;
        r.plan.cells = wish->cells != 0 ? wish->cells : NEF_CELLS_PRESET;
        err = nef_text(r.plan.region, sizeof(r.plan.region), "%s",
                       wish->region != NULL ? wish->region : "eu-paris");
        if (err != NEF_OK)
            return nef_region_fail(error, err, "the region's name is too long");
        for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++)
            (void)snprintf(r.plan.places[i].name, sizeof(r.plan.places[i].name), "%s", names[i]);
        nef_random(r.plan.region_id.bytes, sizeof(r.plan.region_id.bytes));
        nef_random(token, sizeof(token));
        nef_hex(token, sizeof(token), r.plan.cluster_token);
        err = check_parameters(&r, error);
    } else if (err == NEF_OK) {
        if (wish->port_base != 0 && wish->port_base != r.port_base)
            err = nef_region_fail(
                error, NEF_E_INVALID,
                "the region in %s has port base %u; it can't change (leave --port-base out)", r.dir,
                r.port_base);
        else if (wish->cells != 0 && wish->cells != r.plan.cells)
            err = nef_region_fail(
                error, NEF_E_INVALID,
                "the region in %s has %u cells; that can't change (leave --cells out)", r.dir,
                r.plan.cells);
        else if (wish->region != NULL && strcmp(wish->region, r.plan.region) != 0)
            err = nef_region_fail(error, NEF_E_INVALID,
                                  "the region in %s is called %s (leave --region out)", r.dir,
                                  r.plan.region);
    }
    if (err != NEF_OK)
        return err;
    nef_region_fill(&r);
    if (wish->model != NULL && (nef_text(r.plan.model, sizeof(r.plan.model), "%s", wish->model) != NEF_OK ||
                                wish->model[0] == '\0'))
        return nef_region_fail(error, NEF_E_INVALID, "--model: 1 to %u characters", NEF_MODEL_NAME_MAX);
    if (wish->model_file != NULL && realpath(wish->model_file, r.plan.model_file) == NULL)
        return nef_region_fail(error, NEF_E_INVALID, "%s: %s", wish->model_file, strerror(errno));
    err = make_directories(&r, error);
    if (err == NEF_OK) {
        /* mkdir may have been what made a symbolic link's target resolvable; keep one spelling */
        char resolved[PATH_MAX];

        if (realpath(r.dir, resolved) != NULL && strcmp(resolved, r.dir) != 0) {
            err = nef_text(r.dir, sizeof(r.dir), "%s", resolved);
            nef_region_fill(&r);
        }
    }
    if (err == NEF_OK)
        err = make_secrets(&r, fresh, error);
    if (err == NEF_OK)
        err = make_config(&r, error);
    if (err == NEF_OK && fresh)
        err = write_parameters(&r, error);
    if (err == NEF_OK)
        err = read_secrets(&r, error);
    if (err == NEF_OK) {
        *out = r;
        *out_made = fresh;
    }
    return err;
}
