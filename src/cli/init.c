/* `nef init`: the files of a region on three hosts. OUT gets one tree a host, to be copied to its
 * root, and one that stays with the operator:
 *
 *   OUT/zone-a/   etc/nef/      zone.yaml pki/ secrets/ keys/       read by user nef
 *                 etc/nef-etcd/ ca.crt etcd.crt etcd.key            read by user etcd
 *                 etc/default/etcd, etc/haproxy/haproxy.cfg nef-front.pem nef-ca.crt
 *   OUT/zone-b/   the same        OUT/witness/   without keys, front and first user
 *   OUT/operator/ ca.crt ca.key root.json customer.key and tokens; kept off the hosts, with a copy
 *
 * The witness gets neither the customer's key nor any credential of S3. The CA's key is on no host. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "cli/cli.h"
#include "crypto/crypto.h"
#include "io/files.h"
#include "io/tls.h"
#include "keys/keys.h"

#define S3_PORT            9010
#define PEER_PORT          9012
#define ADMIN_PORT         9016
#define WITNESS_ADMIN_PORT 9036
#define ETCD_CLIENT_PORT   2379
#define ETCD_PEER_PORT     2380
#define AI_PORT            9011
#define RELAY_PORT         9015
#define FRONT_PORT_PRESET  443u
#define AI_FRONT_PRESET    8443u
#define SMALL_FILE_MAX     ((size_t)64 << 10)

struct init {
    struct nef_plan plan;
    const char *out;
    char error[1024];
};

static nef_err NEF_PRINTF(3, 4) fail(struct init *in, nef_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(in->error, sizeof(in->error), format, args);
    va_end(args);
    return err;
}

/* OUT/TREE/PATH; a tree of "operator", or of place (TREE NULL). */
static nef_err tree_path(struct init *in, uint32_t place, const char *path, char out[NEF_PATH_MAX])
{
    nef_err err;

    if (place == NEF_PLAN_PLACES)
        err = nef_text(out, NEF_PATH_MAX, "%s/operator/%s", in->out, path);
    else if (place == NEF_PLAN_WITNESS)
        err = nef_text(out, NEF_PATH_MAX, "%s/witness%s", in->out, path);
    else
        err =
            nef_text(out, NEF_PATH_MAX, "%s/zone-%s%s", in->out, in->plan.places[place].name, path);
    return err == NEF_OK ? NEF_OK : fail(in, err, "--out: the path is too long");
}

static nef_err make_directory(struct init *in, uint32_t place, const char *path)
{
    mode_t mode = strstr(path, "nef") != NULL || place == NEF_PLAN_PLACES ? 0700 : 0755;
    char full[NEF_PATH_MAX];
    nef_err err = tree_path(in, place, path, full);

    if (err != NEF_OK)
        return err;
    /* etc and etc/default are the host's: as open as there, whatever the operator's umask is, since a copy of the
     * tree onto the host's root sets their modes. Ours are closed. */
    if (mkdir(full, mode) != 0 || chmod(full, mode) != 0)
        return fail(in, NEF_E_IO, "can't make %s: %s", full, strerror(errno));
    return NEF_OK;
}

static nef_err copy_file(struct init *in, const char *from, uint32_t place, const char *path,
                         unsigned mode)
{
    char full[NEF_PATH_MAX];
    struct nef_buf text = {0};
    nef_err err = tree_path(in, place, path, full);

    if (err == NEF_OK) {
        err = nef_file_read(from, SMALL_FILE_MAX, false, &text);
        if (err == NEF_OK)
            err = nef_file_make(full, mode, text.data, text.bytes);
        if (err != NEF_OK)
            err = fail(in, err, "%s: %s", full, nef_err_text(err));
    }
    nef_buf_free(&text); /* wipes: it may be a key */
    return err;
}

static nef_err write_text(struct init *in, uint32_t place, const char *path, unsigned mode,
                          struct nef_buf *text)
{
    char full[NEF_PATH_MAX];
    nef_err err = tree_path(in, place, path, full);

    if (err != NEF_OK)
        return err;
    err = nef_buf_end(text);
    if (err == NEF_OK)
        err = nef_file_make(full, mode, text->data, text->bytes);
    return err == NEF_OK ? NEF_OK : fail(in, err, "%s: %s", full, nef_err_text(err));
}

/* ---- the plan ---- */

static nef_err set_place(struct init *in, uint32_t index, const char *name, const char *host,
                         const char *config, const char *data)
{
    struct nef_place *p = &in->plan.places[index];
    bool zone = index != NEF_PLAN_WITNESS;
    struct nef_host_port parsed;
    char text[NEF_HOST_MAX + 8];
    nef_err err;

    if (!nef_zone_name_ok(name))
        return fail(in, NEF_E_INVALID, "'%s' isn't a name of a zone: 1 to %u of a-z, 0-9 and '-'",
                    name, NEF_ZONE_NAME_MAX);
    if (nef_text(text, sizeof(text), strchr(host, ':') != NULL ? "[%s]:1" : "%s:1", host) !=
            NEF_OK ||
        nef_host_port_parse(text, &parsed) != NEF_OK)
        return fail(in, NEF_E_INVALID, "'%s' is neither a host name nor an address", host);
    (void)snprintf(p->name, sizeof(p->name), "%s", name);
    (void)snprintf(p->host, sizeof(p->host), "%s", host);
    (void)snprintf(p->bind, sizeof(p->bind), "%s", strchr(host, ':') != NULL ? "::" : "0.0.0.0");
    p->s3 = zone ? S3_PORT : 0;
    p->peer = zone ? PEER_PORT : 0;
    p->ai = zone ? AI_PORT : 0;
    p->relay = zone ? RELAY_PORT : 0;
    p->admin = zone ? ADMIN_PORT : WITNESS_ADMIN_PORT;
    p->etcd_client = ETCD_CLIENT_PORT;
    p->etcd_peer = ETCD_PEER_PORT;
    err = nef_text(p->data, sizeof(p->data), "%s", zone ? data : "");
#define SET(field, format, ...)                                                                    \
    do {                                                                                           \
        if (err == NEF_OK)                                                                         \
            err = nef_text(p->field, sizeof(p->field), format, __VA_ARGS__);                       \
    } while (0)
    SET(etcd_data, "%s", "/var/lib/etcd/nef");
    SET(ca, "%s-etcd/ca.crt", config); /* etcd's own copy; see below for the zone's */
    SET(cert, "%s/pki/%s.crt", config, zone ? "zone" : "witness");
    SET(key, "%s/pki/%s.key", config, zone ? "zone" : "witness");
    SET(etcd_cert, "%s-etcd/etcd.crt", config);
    SET(etcd_key, "%s-etcd/etcd.key", config);
    SET(token_file, "%s/secrets/admin.token", config);
    SET(metrics_token_file, "%s/secrets/metrics.token", config);
    SET(root_file, "%s/secrets/root.json", config);
    SET(customer_key_file, "%s/keys/customer.key", config);
#undef SET
    return err == NEF_OK ? NEF_OK : fail(in, err, "a path is too long");
}

/* "a=HOST,b=HOST" */
static nef_err set_zones(struct init *in, const char *zones, const char *config, const char *data)
{
    char text[2 * (NEF_HOST_MAX + NEF_ZONE_NAME_MAX) + 8];
    char *save = NULL, *item;
    uint32_t count = 0;
    nef_err err = nef_text(text, sizeof(text), "%s", zones);

    if (err != NEF_OK)
        return fail(in, err, "--zones is too long");
    for (item = strtok_r(text, ",", &save); item != NULL; item = strtok_r(NULL, ",", &save)) {
        char *equals = strchr(item, '=');

        if (equals == NULL || count == NEF_PLAN_ZONES)
            return fail(in, NEF_E_INVALID,
                        "--zones must be two, as in a=zone-a.example,b=zone-b.example");
        *equals = 0;
        err = set_place(in, count++, item, equals + 1, config, data);
        if (err != NEF_OK)
            return err;
    }
    if (count != NEF_PLAN_ZONES)
        return fail(in, NEF_E_INVALID,
                    "--zones must be two, as in a=zone-a.example,b=zone-b.example");
    if (strcmp(in->plan.places[0].name, in->plan.places[1].name) == 0 ||
        strcmp(in->plan.places[0].host, in->plan.places[1].host) == 0)
        return fail(in, NEF_E_INVALID, "the zones need different names and different hosts");
    return NEF_OK;
}

/* ---- files ---- */

static nef_err make_operator(struct init *in)
{
    static const char *const names[] = {"ca.crt",    "ca.key",      "customer.key",
                                        "root.json", "admin.token", "witness.token", "metrics.token"};
    char path[NEF_COUNT(names)][NEF_PATH_MAX];
    nef_err err = make_directory(in, NEF_PLAN_PLACES, "");

    for (size_t i = 0; i < NEF_COUNT(names) && err == NEF_OK; i++)
        err = tree_path(in, NEF_PLAN_PLACES, names[i], path[i]);
    if (err != NEF_OK)
        return err;
    err = nef_tls_make_ca(in->plan.region, path[0], path[1]);
    if (err == NEF_OK)
        err = nef_keys_make_file(path[2]);
    if (err == NEF_OK)
        err = nef_root_credentials_make(path[3]);
    if (err == NEF_OK)
        err = nef_token_make(path[4]);
    if (err == NEF_OK)
        err = nef_token_make(path[5]); /* its own: the zones' token makes users */
    if (err == NEF_OK)
        err = nef_token_make(path[6]); /* of all three, and opens nothing but metrics */
    return err == NEF_OK ? NEF_OK : fail(in, err, "%s/operator: %s", in->out, nef_err_text(err));
}

static nef_err make_cert(struct init *in, uint32_t place, const char *cert_path,
                         const char *key_path, bool names_zone)
{
    const struct nef_place *p = &in->plan.places[place];
    const char *const names[] = {p->host};
    struct nef_tls_cert cert = {.zone = names_zone ? p->name : NULL,
                                .names = names,
                                .name_count = 1,
                                .server = true,
                                .client = true};
    char ca[NEF_PATH_MAX], ca_key[NEF_PATH_MAX], crt[NEF_PATH_MAX], key[NEF_PATH_MAX];
    nef_err err = tree_path(in, NEF_PLAN_PLACES, "ca.crt", ca);

    if (err == NEF_OK)
        err = tree_path(in, NEF_PLAN_PLACES, "ca.key", ca_key);
    if (err == NEF_OK)
        err = tree_path(in, place, cert_path, crt);
    if (err == NEF_OK)
        err = tree_path(in, place, key_path, key);
    if (err != NEF_OK)
        return err;
    err = nef_tls_make_cert(ca, ca_key, &cert, crt, key);
    return err == NEF_OK ? NEF_OK : fail(in, err, "%s: %s", crt, nef_err_text(err));
}

/* Key and certificate in one file, as HAProxy wants; the front's own, so that it can be replaced by
 * a public one without touching a zone. */
static nef_err make_front(struct init *in, uint32_t zone)
{
    char crt[NEF_PATH_MAX], key[NEF_PATH_MAX], ca[NEF_PATH_MAX];
    struct nef_buf text = {0};
    nef_err err = make_cert(in, zone, "/etc/haproxy/front.crt", "/etc/haproxy/front.key", false);

    if (err == NEF_OK)
        err = tree_path(in, zone, "/etc/haproxy/front.crt", crt);
    if (err == NEF_OK)
        err = tree_path(in, zone, "/etc/haproxy/front.key", key);
    if (err == NEF_OK)
        err = tree_path(in, NEF_PLAN_PLACES, "ca.crt", ca);
    if (err == NEF_OK) {
        err = nef_file_read(crt, SMALL_FILE_MAX, false, &text);
        if (err == NEF_OK)
            err = nef_file_read(key, SMALL_FILE_MAX, false, &text);
        if (err != NEF_OK)
            err = fail(in, err, "%s: %s", crt, nef_err_text(err));
    }
    if (err == NEF_OK)
        err = write_text(in, zone, "/etc/haproxy/nef-front.pem", 0600, &text);
    nef_buf_free(&text); /* wipes */
    if (err == NEF_OK && (remove(crt) != 0 || remove(key) != 0))
        err = fail(in, NEF_E_IO, "%s: %s", crt, strerror(errno));
    if (err == NEF_OK)
        err = copy_file(in, ca, zone, "/etc/haproxy/nef-ca.crt", 0644);
    if (err == NEF_OK) {
        struct nef_buf config = {0};

        err = nef_plan_haproxy(&in->plan, zone, "/etc/haproxy/nef-ca.crt", &config);
        if (err == NEF_OK)
            err = write_text(in, zone, "/etc/haproxy/haproxy.cfg", 0644, &config);
        nef_buf_free(&config);
    }
    return err;
}

static nef_err make_etcd(struct init *in, uint32_t place)
{
    struct nef_buf text = {0};
    char ca[NEF_PATH_MAX];
    nef_err err = make_directory(in, place, "/etc/nef-etcd");

    if (err == NEF_OK)
        err = make_cert(in, place, "/etc/nef-etcd/etcd.crt", "/etc/nef-etcd/etcd.key", false);
    if (err == NEF_OK)
        err = tree_path(in, NEF_PLAN_PLACES, "ca.crt", ca);
    if (err == NEF_OK)
        err = copy_file(in, ca, place, "/etc/nef-etcd/ca.crt", 0644);
    if (err == NEF_OK)
        err = nef_plan_etcd_env(&in->plan, place, &text);
    if (err == NEF_OK)
        err = write_text(in, place, "/etc/default/etcd", 0644, &text);
    nef_buf_free(&text);
    return err;
}

/* The zone's and witness's YAML name the copy of the CA that their user can read. */
static nef_err make_nef(struct init *in, uint32_t place)
{
    bool zone = place != NEF_PLAN_WITNESS;
    char from[NEF_PATH_MAX], path[NEF_PATH_MAX];
    struct nef_plan plan = in->plan;
    nef_err err = tree_path(in, NEF_PLAN_PLACES, "ca.crt", from);

    if (err == NEF_OK)
        err = copy_file(in, from, place, "/etc/nef/pki/ca.crt", 0644);
    if (err == NEF_OK)
        err = make_cert(in, place, zone ? "/etc/nef/pki/zone.crt" : "/etc/nef/pki/witness.crt",
                        zone ? "/etc/nef/pki/zone.key" : "/etc/nef/pki/witness.key", zone);
    if (err == NEF_OK)
        err = tree_path(in, NEF_PLAN_PLACES, zone ? "admin.token" : "witness.token", from);
    if (err == NEF_OK)
        err = copy_file(in, from, place, "/etc/nef/secrets/admin.token", 0600);
    if (err == NEF_OK)
        err = tree_path(in, NEF_PLAN_PLACES, "metrics.token", from);
    if (err == NEF_OK)
        err = copy_file(in, from, place, "/etc/nef/secrets/metrics.token", 0600);
    if (err == NEF_OK && zone)
        err = tree_path(in, NEF_PLAN_PLACES, "root.json", from);
    if (err == NEF_OK && zone)
        err = copy_file(in, from, place, "/etc/nef/secrets/root.json", 0600);
    if (err == NEF_OK && zone)
        err = tree_path(in, NEF_PLAN_PLACES, "customer.key", from);
    if (err == NEF_OK && zone)
        err = copy_file(in, from, place, "/etc/nef/keys/customer.key", 0600);
    if (err == NEF_OK)
        err = tree_path(in, place, zone ? "/etc/nef/zone.yaml" : "/etc/nef/witness.yaml", path);
    if (err != NEF_OK)
        return err;
    (void)snprintf(plan.places[place].ca, sizeof(plan.places[place].ca), "%s",
                   "/etc/nef/pki/ca.crt");
    err = zone ? nef_plan_write_zone(&plan, place, path) : nef_plan_write_witness(&plan, path);
    return err == NEF_OK ? NEF_OK : fail(in, err, "%s: %s", path, nef_err_text(err));
}

static nef_err make_place(struct init *in, uint32_t place)
{
    static const char *const directories[] = {"",
                                              "/etc",
                                              "/etc/default",
                                              "/etc/nef",
                                              "/etc/nef/pki",
                                              "/etc/nef/secrets",
                                              "/etc/nef/keys",
                                              "/etc/haproxy"};
    bool zone = place != NEF_PLAN_WITNESS;
    nef_err err = NEF_OK;

    /* the last two are a zone's */
    for (size_t i = 0; i < NEF_COUNT(directories) - (zone ? 0 : 2) && err == NEF_OK; i++)
        err = make_directory(in, place, directories[i]);
    if (err == NEF_OK)
        err = make_nef(in, place);
    if (err == NEF_OK)
        err = make_etcd(in, place);
    if (err == NEF_OK && zone)
        err = make_front(in, place);
    return err;
}

static nef_err make_all(struct init *in)
{
    nef_err err;

    if (mkdir(in->out, 0700) != 0)
        return fail(in, NEF_E_IO, "can't make %s: %s%s", in->out, strerror(errno),
                    errno == EEXIST ? "; choose another --out: keys are never overwritten" : "");
    err = make_operator(in);
    for (uint32_t i = 0; i < NEF_PLAN_PLACES && err == NEF_OK; i++)
        err = make_place(in, i);
    return err;
}

static void explain(const struct init *in)
{
    const struct nef_plan *plan = &in->plan;

    printf("The files of region %s are in %s. Next, for each host (docs/operations.md has every "
           "step):\n\n",
           plan->region, in->out);
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++) {
        bool zone = i != NEF_PLAN_WITNESS;

        printf("  %s%s\n    rsync -a --chown=root:root %s/%s%s/ root@%s:/\n",
               zone ? "zone " : "witness", zone ? plan->places[i].name : "", in->out,
               zone ? "zone-" : "witness", zone ? plan->places[i].name : "", plan->places[i].host);
        /* --no-block: a member is ready when it has a majority. haproxy runs already, as Debian's package starts it. */
        printf("    ssh root@%s 'chown -R nef: /etc/nef; chown -R etcd: /etc/nef-etcd; systemctl daemon-reload; "
               "systemctl enable etcd nef-%s; systemctl --no-block restart etcd nef-%s%s'\n",
               plan->places[i].host, zone ? "zone" : "witness", zone ? "zone" : "witness", zone ? " haproxy" : "");
    }
    printf("\n%s/operator holds the CA's key, the customer's key and the first user: keep it off "
           "the hosts, and "
           "keep a copy.\nWithout the customer's key nothing in the region can ever be read.\n",
           in->out);
}

int nef_cmd_init(int argc, char **argv)
{
    const char *out = NULL, *region = "eu-paris", *zones = NULL, *witness = NULL,
               *data = "/var/lib/nef";
    uint32_t cells = NEF_CELLS_PRESET, front = FRONT_PORT_PRESET, ai_front = AI_FRONT_PRESET;
    const struct nef_option options[] = {
        {.name = "out", .text = &out},
        {.name = "region", .text = &region},
        {.name = "zones", .text = &zones},
        {.name = "witness", .text = &witness},
        {.name = "data-dir", .text = &data},
        {.name = "cells", .number = &cells, .min = 1, .max = NEF_CELL_MAX},
        {.name = "front-port", .number = &front, .min = 1, .max = 65535},
        {.name = "ai-port", .number = &ai_front, .min = 1, .max = 65535},
        {.name = NULL}};
    struct nef_words words;
    struct init *in;
    uint8_t token[16];
    nef_err err;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if (out == NULL || zones == NULL || witness == NULL || data[0] != '/' ||
        !nef_zone_name_ok(region)) {
        (void)nef_complain(
            "init",
            "needs --out DIR, --zones a=HOST,b=HOST and --witness HOST; a region's "
            "name is 1 to %u of a-z, 0-9 and '-', --data-dir an absolute path; see: nef "
            "help init",
            NEF_ZONE_NAME_MAX);
        return 2;
    }
    in = calloc(1, sizeof(*in));
    if (in == NULL || nef_crypto_init() != NEF_OK)
        return nef_complain("init", "out of memory, or OpenSSL fails its self-test");
    in->out = out;
    in->plan.cells = cells;
    in->plan.tls = true;
    (void)snprintf(in->plan.region, sizeof(in->plan.region), "%s", region);
    nef_random(in->plan.region_id.bytes, sizeof(in->plan.region_id.bytes));
    nef_random(token, sizeof(token));
    nef_hex(token, sizeof(token), in->plan.cluster_token);
    (void)snprintf(in->plan.front.bind, sizeof(in->plan.front.bind), "0.0.0.0");
    (void)snprintf(in->plan.front.pem, sizeof(in->plan.front.pem), "/etc/haproxy/nef-front.pem");
    in->plan.front.port = (uint16_t)front;
    in->plan.front.ai_port = (uint16_t)ai_front;
    err = set_zones(in, zones, "/etc/nef", data);
    if (err == NEF_OK)
        err = set_place(in, NEF_PLAN_WITNESS, "w", witness, "/etc/nef", data);
    for (uint32_t i = 0; i < NEF_PLAN_ZONES && err == NEF_OK; i++)
        if (strcmp(witness, in->plan.places[i].host) == 0)
            err = fail(in, NEF_E_INVALID, "the witness needs a host of its own, not zone %s's: lost with it, it would "
                                          "stop the other zone, too", in->plan.places[i].name);
    if (err == NEF_OK)
        err = make_all(in);
    if (err == NEF_OK)
        explain(in);
    else
        (void)nef_complain("init", "%s", in->error);
    free(in);
    return err == NEF_OK ? 0 : 1;
}
