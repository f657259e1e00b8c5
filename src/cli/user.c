/* `nef user`: who may use the region. Users are ops of the region's log; this asks a zone to write
 * them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/limits.h"
#include "cli/cli.h"
#include "crypto/crypto.h"

/* What was said of AI rights; numbers that weren't said are UNSAID. */
#define UNSAID UINT32_MAX
struct rights {
    bool all, none;             /* --ai, --no-ai */
    const char *models, *zones; /* lists with commas, or "*" */
    uint32_t rpm, tpm, concurrency, weight, priority;
};

static bool rights_said(const struct rights *r)
{
    return r->all || r->none || r->models != NULL || r->zones != NULL || r->rpm != UNSAID || r->tpm != UNSAID ||
           r->concurrency != UNSAID || r->weight != UNSAID || r->priority != UNSAID;
}

static bool set_list(json_t *ai, const char *key, const char *list, bool all)
{
    json_t *array;

    if (list == NULL && !all)
        return true;
    if (list == NULL || strcmp(list, "*") == 0)
        return json_object_set_new(ai, key, json_string("*")) == 0;
    array = json_array();
    while (array != NULL && *list != 0) {
        size_t bytes = strcspn(list, ",");

        if (json_array_append_new(array, json_stringn(list, bytes)) != 0)
            break;
        list += bytes + (list[bytes] == ',');
    }
    return json_object_set_new(ai, key, array) == 0 && *list == 0;
}

static bool set_number(json_t *ai, const char *key, uint32_t value)
{
    return value == UNSAID || json_object_set_new(ai, key, json_integer((json_int_t)value)) == 0;
}

/* The admin API's "ai" (server/user_rights.h). NULL: out of memory. */
static json_t *rights_json(const struct rights *r)
{
    json_t *ai;

    if (r->none)
        return json_null();
    ai = json_object();
    if (ai != NULL && set_list(ai, "models", r->models, r->all) && set_list(ai, "zones", r->zones, r->all) &&
        set_number(ai, "requests_min", r->rpm) && set_number(ai, "tokens_min", r->tpm) &&
        set_number(ai, "concurrency", r->concurrency) && set_number(ai, "weight", r->weight) &&
        set_number(ai, "priority", r->priority))
        return ai;
    json_decref(ai);
    return NULL;
}

static int change(struct nef_caller *admin, const char *name, const struct rights *rights)
{
    json_t *request = json_pack("{s:o}", "ai", rights_json(rights));
    char *body = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;
    json_t *root = NULL;
    char path[256];
    int status = 0;

    if (body == NULL)
        status = nef_complain("user", "out of memory");
    else if (nef_text(path, sizeof(path), "/users/%s/change", name) != NEF_OK)
        status = nef_complain("user", "the name is too long");
    else if (nef_caller_any(admin, "POST", path, body, &root) != NEF_OK)
        status = nef_complain("user", "%s", admin->error);
    else
        printf("%s is changed: it holds for new requests\n", name);
    free(body);
    json_decref(request);
    json_decref(root);
    return status;
}

static int add(struct nef_caller *admin, const char *name, const char *bucket, bool read_only,
               const struct rights *rights, bool as_json)
{
    json_t *request = json_pack("{s:s, s:s*, s:b, s:o*}", "name", name, "bucket", bucket, "read_only",
                                (int)read_only, "ai", rights_said(rights) ? rights_json(rights) : NULL);
    char *body = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;
    json_t *root = NULL;
    const char *access_key = NULL, *secret_key = NULL;
    int status = 0;

    if (body == NULL)
        status = nef_complain("user", "out of memory");
    else if (nef_caller_any(admin, "POST", "/users", body, &root) != NEF_OK)
        status = nef_complain("user", "%s", admin->error);
    else if (json_unpack(root, "{s:s, s:s}", "access_key", &access_key, "secret_key",
                         &secret_key) != 0)
        status = nef_complain("user", "the answer has no keys");
    else if (as_json)
        printf("{\"name\": \"%s\", \"access_key\": \"%s\", \"secret_key\": \"%s\"}\n", name,
               access_key, secret_key);
    else if (rights_said(rights))
        printf("access key  %s\nsecret key  %s\nai key      %s:%s\nThe secret key is shown once; keep it now.\n",
               access_key, secret_key, access_key, secret_key);
    else
        printf("access key  %s\nsecret key  %s\nThe secret key is shown once; keep it now.\n",
               access_key, secret_key);
    free(body);
    json_decref(request);
    json_decref(root);
    return status;
}

static int list(struct nef_caller *admin, bool as_json)
{
    json_t *root = NULL, *users, *user;
    size_t n;

    if (nef_caller_any(admin, NULL, "/users", NULL, &root) != NEF_OK)
        return nef_complain("user", "%s", admin->error);
    users = json_is_array(root) ? root : json_object_get(root, "users");
    if (as_json) {
        (void)json_dumpf(root, stdout, JSON_INDENT(2));
        printf("\n");
    } else {
        printf("%-24s %-24s %-24s %-10s %-4s %s\n", "NAME", "ACCESS KEY", "BUCKET", "MAY", "AI", "STATE");
        json_array_foreach(users, n, user)
        {
            const char *bucket = nef_json_text(user, "bucket", "");

            printf("%-24s %-24s %-24s %-10s %-4s %s\n", nef_json_text(user, "name", "?"),
                   nef_json_text(user, "access_key", "?"), bucket[0] != 0 ? bucket : "(all)",
                   json_is_true(json_object_get(user, "read_only")) ? "read" : "read/write",
                   json_is_object(json_object_get(user, "ai")) ? "yes" : "no",
                   json_is_true(json_object_get(user, "disabled")) ? "disabled" : "enabled");
        }
    }
    json_decref(root);
    return 0;
}

static int disable(struct nef_caller *admin, const char *name)
{
    char path[256];
    json_t *root = NULL;

    if (nef_text(path, sizeof(path), "/users/%s/disable", name) != NEF_OK)
        return nef_complain("user", "the name is too long");
    if (nef_caller_any(admin, "POST", path, NULL, &root) != NEF_OK)
        return nef_complain("user", "%s", admin->error);
    json_decref(root);
    printf("%s is disabled: new requests are refused\n", name);
    return 0;
}

/* A name goes into a path and into JSON that we print. */
static bool name_ok(const char *name)
{
    size_t bytes = strlen(name);

    return bytes > 0 && bytes <= 63 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@") ==
               bytes &&
           name[0] != '.';
}

int nef_cmd_user(int argc, char **argv)
{
    const char *dir = NULL, *endpoint = NULL, *token_file = NULL, *ca = NULL, *bucket = NULL, *verb;
    bool as_json = false, read_only = false;
    struct rights rights = {false, false, NULL, NULL, UNSAID, UNSAID, UNSAID, UNSAID, UNSAID};
    const struct nef_option options[] = {{.name = "dir", .text = &dir},
                                         {.name = "endpoint", .text = &endpoint},
                                         {.name = "token-file", .text = &token_file},
                                         {.name = "ca", .text = &ca},
                                         {.name = "json", .flag = &as_json},
                                         {.name = "bucket", .text = &bucket},
                                         {.name = "read-only", .flag = &read_only},
                                         {.name = "ai", .flag = &rights.all},
                                         {.name = "no-ai", .flag = &rights.none},
                                         {.name = "ai-models", .text = &rights.models},
                                         {.name = "ai-zones", .text = &rights.zones},
                                         {.name = "ai-rpm", .number = &rights.rpm, .max = UNSAID - 1},
                                         {.name = "ai-tpm", .number = &rights.tpm, .max = UNSAID - 1},
                                         {.name = "ai-concurrency", .number = &rights.concurrency,
                                          .max = NEF_AI_CONCURRENCY_MAX},
                                         {.name = "ai-weight", .number = &rights.weight, .min = 1,
                                          .max = NEF_AI_WEIGHT_MAX},
                                         {.name = "ai-priority", .number = &rights.priority,
                                          .max = NEF_AI_PRIORITY_MAX},
                                         {.name = NULL}};
    struct nef_caller admin;
    struct nef_words words;
    int status = 2;

    if (!nef_options(argc, argv, options, 1, 2, &words))
        return 2;
    verb = words.word[0];
    if (strcmp(verb, "list") == 0 ? words.count != 1
                                  : (strcmp(verb, "add") != 0 && strcmp(verb, "change") != 0 &&
                                     strcmp(verb, "disable") != 0) ||
                                        words.count != 2 || !name_ok(words.word[1])) {
        (void)nef_complain("user", "say: add NAME, change NAME, list, or disable NAME (letters, digits and ._-@; at "
                                   "most 63)");
        return 2;
    }
    if (strcmp(verb, "change") == 0 && !rights_said(&rights)) {
        (void)nef_complain("user", "change what? --ai, --no-ai, --ai-models, ...: nef help user");
        return 2;
    }
    if (!nef_caller_open("user", dir, endpoint, token_file, ca, &admin))
        return 2;
    if (strcmp(verb, "add") == 0)
        status = add(&admin, words.word[1], bucket, read_only, &rights, as_json);
    else if (strcmp(verb, "change") == 0)
        status = change(&admin, words.word[1], &rights);
    else if (strcmp(verb, "list") == 0)
        status = list(&admin, as_json);
    else
        status = disable(&admin, words.word[1]);
    nef_wipe(&admin, sizeof(admin));
    return fflush(stdout) == 0 ? status : 1;
}
