/* The zone's `ai`: the gateway, its engine and its backends; see config.h. */
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "server/config_internal.h"

#define AI(member, kind_)      FIELD(struct nef_ai_config, member, kind_)
#define ENGINE(member, kind_)  FIELD(struct nef_ai_engine_config, member, kind_)
#define BACKEND(member, kind_) FIELD(struct nef_ai_backend_config, member, kind_)

static const struct nef_config_field timing_fields[] = {
    {.name = "probe",
     AI(timing.probe_ns, DURATION),
     .preset = "200ms",
     .min = 20 * NS_PER_MS,
     .max = 60 * NS_PER_S,
     .help = "between two looks at a backend"},
    {.name = "probe_timeout",
     AI(timing.probe_timeout_ns, DURATION),
     .preset = "600ms",
     .min = 50 * NS_PER_MS,
     .max = 60 * NS_PER_S,
     .help = "a backend that says nothing for so long is lost: its streams go on elsewhere"},
    {.name = "first_token",
     AI(timing.first_token_ns, DURATION),
     .preset = "60s",
     .min = 100 * NS_PER_MS,
     .max = NS_PER_H,
     .help = "a backend that hasn't begun an answer after this is left for another one"},
    {.name = "stall",
     AI(timing.stall_ns, DURATION),
     .preset = "1500ms",
     .min = 100 * NS_PER_MS,
     .max = NS_PER_H,
     .help = "an answer that pauses for so long, and for 8 times its usual pause, goes on elsewhere, if it can"},
    {.name = "hold",
     AI(timing.hold_ns, DURATION),
     .preset = "30s",
     .min = 0,
     .max = NS_PER_H,
     .help = "how long a request waits for a backend when none is there"},
};
static const struct nef_config_schema timing = SCHEMA(timing_fields);

static const struct nef_config_field peer_fields[] = {
    {.name = "zone", FIELD(struct nef_ai_peer_config, zone, NAME), .required = true, .max = NEF_ZONE_NAME_MAX},
    {.name = "address", FIELD(struct nef_ai_peer_config, address, HOST_PORT), .required = true},
};
static const struct nef_config_schema peer = SCHEMA(peer_fields);
static const struct nef_config_field peer_item = {.kind = NEF_CONFIG_MAP, .map = &peer};

static const struct nef_config_field model_item = {.kind = NEF_CONFIG_STRING, .max = NEF_MODEL_NAME_MAX};

static const struct nef_config_field backend_fields[] = {
    {.name = "name", BACKEND(name, NAME), .required = true, .max = 32},
    {.name = "url", BACKEND(url, URL), .required = true, .max = 300},
    {.name = "unix_socket", BACKEND(unix_socket, PATH), .max = 100},
    {.name = "key_file", BACKEND(key_file, PATH)},
    {.name = "ca", BACKEND(ca, PATH)},
    {.name = "health", BACKEND(health, STRING), .preset = "/health", .max = 128},
    {.name = "models", BACKEND(models, LIST), .max = 64, .item = &model_item, .item_bytes = sizeof(char *),
     .count = offsetof(struct nef_ai_backend_config, model_count)},
    {.name = "slots", BACKEND(slots, INT), .preset = "32", .min = 1, .max = 65536},
    {.name = "token_ids", BACKEND(token_ids, BOOL), .preset = "false"},
};
static const struct nef_config_schema backend = SCHEMA(backend_fields);
static const struct nef_config_field backend_item = {.kind = NEF_CONFIG_MAP, .map = &backend};

static const struct nef_config_field engine_fields[] = {
    {.name = "model",
     ENGINE(model, STRING),
     .max = NEF_MODEL_NAME_MAX,
     .help = "the only model that the built-in engine serves"},
    {.name = "models_max",
     ENGINE(models_max, INT),
     .preset = "2",
     .min = 1,
     .max = NEF_AI_ENGINES_MAX,
     .help = "without model: so many of the region's models, in the order of their names, get an engine each"},
    {.name = "model_file",
     ENGINE(model_file, PATH),
     .help = "a GGUF file of this host instead of an object of the region: neither replicated nor encrypted"},
    {.name = "threads",
     ENGINE(threads, INT),
     .preset = "0",
     .max = 256,
     .help = "0: the engine's own presets; so below"},
    {.name = "slots", ENGINE(slots, INT), .preset = "0", .max = NEF_ENGINE_SLOTS_MAX},
    {.name = "context", ENGINE(context_tokens, INT), .preset = "0", .max = NEF_MODEL_CONTEXT_MAX},
    {.name = "kv_type", ENGINE(kv_type, STRING), .max = 16},
    {.name = "hung",
     ENGINE(hung_ns, DURATION),
     .preset = "3s",
     .min = 200 * NS_PER_MS,
     .max = NS_PER_H,
     .help = "an engine that says nothing for so long (while it loads, four times as long) is killed and started again"},
};
static const struct nef_config_schema engine = SCHEMA(engine_fields);

static const struct nef_config_field ai_fields[] = {
    {.name = "listen", AI(listener.listen, HOST_PORT), .required = true},
    {.name = "tls", AI(listener.tls, MAP), .map = &nef_server_tls_schema,
     .flag = NEF_CONFIG_FLAG(struct nef_ai_config, listener.has_tls),
     .help = "PEM files; without them this listener speaks plain HTTP"},
    {.name = "relay", AI(relay, HOST_PORT), .required = true, .help = "for the other zones' gateways, mutual TLS"},
    {.name = "peers", AI(peers, LIST), .max = NEF_REPLICA_MAX - 1, .item = &peer_item,
     .item_bytes = sizeof(struct nef_ai_peer_config), .count = offsetof(struct nef_ai_config, peer_count),
     .help = "the other zones and their relay listeners: an answer that can't go on here goes on there"},
    {.name = "connections", AI(connections, INT), .preset = "16384", .min = 16, .max = 1u << 20},
    {.name = "queue_factor", AI(queue_factor, INT), .preset = "16", .min = 1, .max = 10000,
     .help = "requests under way for each slot of an engine; more are refused, low priorities first"},
    {.name = "responses_kept", AI(responses_kept_ns, DURATION), .preset = "30d", .min = NS_PER_S, .max = 87600 * NS_PER_H,
     .help = "answers stored by /v1/responses are deleted when they are so old; the same in all zones, else the\n"
             "shortest counts"},
    {.name = "sockets", AI(socket_dir, PATH), .help = "directory of the engines' sockets; without it, data"},
    {.name = "timing", .kind = NEF_CONFIG_MAP, .map = &timing},
    {.name = "engine", AI(engine, MAP), .map = &engine, .flag = NEF_CONFIG_FLAG(struct nef_ai_config, has_engine),
     .help = "the built-in engine; without it only the backends below compute in this zone"},
    {.name = "backends", AI(backends, LIST), .max = NEF_AI_BACKENDS_MAX, .item = &backend_item,
     .item_bytes = sizeof(struct nef_ai_backend_config), .count = offsetof(struct nef_ai_config, backend_count),
     .help = "OpenAI-compatible servers of this zone: name, url, and perhaps unix_socket, key_file, ca, health,\n"
             "models, slots, token_ids (docs/gateway.md)"},
};
const struct nef_config_schema nef_ai_schema = SCHEMA(ai_fields);

nef_err nef_ai_config_preset(struct nef_ai_config *out)
{
    nef_err err = nef_config_preset(&nef_ai_schema, out, sizeof(*out));

    /* the engine isn't there by itself either, and its presets are to be what a file gets that has one */
    return err == NEF_OK ? nef_config_preset(&engine, &out->engine, sizeof(out->engine)) : err;
}

static nef_err check_peers(const struct nef_config_source *source, const struct nef_zone_config *c,
                           struct nef_config_error *error)
{
    char key[64];

    for (uint32_t i = 0; i < c->ai.peer_count; i++) {
        bool known = false;

        for (uint32_t j = 0; j < c->peer_count; j++)
            known = known || strcmp(c->ai.peers[i].zone, c->peers[j].zone) == 0;
        (void)snprintf(key, sizeof(key), "ai.peers[%u].zone", i);
        if (!known)
            return nef_config_fail(source, key, error, "is none of the zones under peers");
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(c->ai.peers[i].zone, c->ai.peers[j].zone) == 0)
                return nef_config_fail(source, key, error, "is there twice");
        (void)snprintf(key, sizeof(key), "ai.peers[%u].address", i);
        if (c->ai.peers[i].address.port == 0)
            return nef_config_fail(source, key, error, "must have a port");
    }
    return NEF_OK;
}

nef_err nef_check_ai(const struct nef_config_source *source, const struct nef_zone_config *c,
                     struct nef_config_error *error)
{
    const struct nef_ai_config *ai = &c->ai;
    nef_err err = NEF_OK;
    char key[64];

    if (ai->listener.has_tls)
        err = nef_check_private(source, "ai.tls.key", ai->listener.tls.key, 007, error);
    if (err == NEF_OK)
        err = check_peers(source, c, error);
    if (err == NEF_OK && ai->engine.model_file != NULL && ai->engine.model == NULL)
        return nef_config_fail(source, "ai.engine", error, "model_file needs model, the name that clients ask for");
    for (uint32_t i = 0; i < ai->backend_count && err == NEF_OK; i++) {
        const struct nef_ai_backend_config *b = &ai->backends[i];

        for (uint32_t j = 0; j < i; j++) {
            (void)snprintf(key, sizeof(key), "ai.backends[%u].name", i);
            if (strcmp(b->name, ai->backends[j].name) == 0)
                return nef_config_fail(source, key, error, "is there twice");
        }
        (void)snprintf(key, sizeof(key), "ai.backends[%u].health", i);
        if (b->health[0] != '/')
            return nef_config_fail(source, key, error, "must begin with /");
        (void)snprintf(key, sizeof(key), "ai.backends[%u].key_file", i);
        if (b->key_file != NULL)
            err = nef_check_private(source, key, b->key_file, 077, error);
    }
    return err;
}
