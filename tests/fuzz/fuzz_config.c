/* Fuzz target: configuration files. Whatever is accepted must print to something that is accepted and
 * prints the same again; whatever is refused must say why and leave nothing behind. The schema has a field
 * of every kind. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "io/config.h"

struct peer {
    char *zone;
    struct nef_host_port address;
};

struct sample {
    char *name, *title, *dir, *url;
    struct nef_host_port listen;
    struct nef_id id;
    bool on;
    uint32_t cells;
    uint64_t segment, lease;
    double fraction;
    uint32_t level;
    bool has_tls;
    struct {
        char *cert, *key;
    } tls;
    struct peer *peers;
    uint32_t peer_count;
    char **urls;
    uint32_t url_count;
};

#define FIELD(type, member, kind_) .kind = NEF_CONFIG_##kind_, .offset = offsetof(type, member)

static const struct nef_config_field peer_fields[] = {
    {.name = "zone", FIELD(struct peer, zone, NAME), .required = true, .max = 8},
    {.name = "address", FIELD(struct peer, address, HOST_PORT), .required = true},
};
static const struct nef_config_schema peer_schema = {peer_fields, NEF_COUNT(peer_fields)};
static const struct nef_config_field peer_item = {.kind = NEF_CONFIG_MAP, .map = &peer_schema};
static const struct nef_config_field url_item = {.kind = NEF_CONFIG_URL};
static const struct nef_config_field tls_fields[] = {
    {.name = "cert", FIELD(struct sample, tls.cert, PATH), .required = true},
    {.name = "key", FIELD(struct sample, tls.key, PATH)},
};
static const struct nef_config_schema tls_schema = {tls_fields, NEF_COUNT(tls_fields)};
static const char *const levels[] = {"low", "high", NULL};
static const struct nef_config_field fields[] = {
    {.name = "name", FIELD(struct sample, name, NAME), .help = "who\nreally"},
    {.name = "title", FIELD(struct sample, title, STRING)},
    {.name = "dir", FIELD(struct sample, dir, PATH)},
    {.name = "url", FIELD(struct sample, url, URL)},
    {.name = "listen", FIELD(struct sample, listen, HOST_PORT), .preset = "h:1"},
    {.name = "id", FIELD(struct sample, id, ID), .preset = "000102030405060708090a0b0c0d0e0f"},
    {.name = "on", FIELD(struct sample, on, BOOL), .preset = "true"},
    {.name = "cells", FIELD(struct sample, cells, INT), .preset = "4", .min = 1, .max = 64},
    {.name = "segment", FIELD(struct sample, segment, SIZE), .preset = "256MiB"},
    {.name = "lease", FIELD(struct sample, lease, DURATION), .preset = "500ms"},
    {.name = "fraction", FIELD(struct sample, fraction, FRACTION), .preset = "0.5"},
    {.name = "level", FIELD(struct sample, level, CHOICE), .preset = "high", .choices = levels},
    {.name = "tls", .kind = NEF_CONFIG_MAP, .map = &tls_schema,
     .flag = NEF_CONFIG_FLAG(struct sample, has_tls)},
    {.name = "peers", FIELD(struct sample, peers, LIST), .max = 3, .item = &peer_item,
     .item_bytes = sizeof(struct peer), .count = offsetof(struct sample, peer_count)},
    {.name = "urls", FIELD(struct sample, urls, LIST), .min = 1, .max = 3, .item = &url_item,
     .item_bytes = sizeof(char *), .count = offsetof(struct sample, url_count)},
};
static const struct nef_config_schema schema = {fields, NEF_COUNT(fields)};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const struct sample zero;
    struct nef_config_source *source = NULL;
    struct nef_buf first = {0}, second = {0};
    struct nef_config_error error;
    struct sample s;

    if (nef_config_parse("f.yaml", data, bytes, &schema, &s, sizeof(s), &source, &error) != NEF_OK) {
        NEF_ASSERT(strncmp(error.text, "f.yaml:", 7) == 0);
        NEF_ASSERT(memcmp(&s, &zero, sizeof(s)) == 0);
        return 0;
    }
    NEF_ASSERT(nef_config_fail(source, "peers[1].zone", &error, "x") == NEF_E_CONFIG);
    nef_config_source_free(source);
    nef_config_print(&schema, &s, &first);
    nef_config_free(&schema, &s, sizeof(s));
    NEF_ASSERT(nef_buf_end(&first) == NEF_OK);
    NEF_ASSERT(nef_config_parse("f.yaml", first.data, first.bytes, &schema, &s, sizeof(s), NULL,
                                &error) == NEF_OK);
    nef_config_print(&schema, &s, &second);
    nef_config_free(&schema, &s, sizeof(s));
    NEF_ASSERT(first.bytes == second.bytes);
    NEF_ASSERT(memcmp(first.data, second.data, first.bytes) == 0);
    nef_buf_free(&first);
    nef_buf_free(&second);
    return 0;
}
