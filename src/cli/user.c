/* `nef user`: who may use the region. Users are ops of the region's log; this asks a zone to write
 * them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "crypto/crypto.h"

static int add(struct nef_caller *admin, const char *name, const char *bucket, bool read_only,
               bool as_json)
{
    json_t *request =
        json_pack("{s:s, s:s*, s:b}", "name", name, "bucket", bucket, "read_only", (int)read_only);
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
        printf("%-24s %-24s %-24s %-10s %s\n", "NAME", "ACCESS KEY", "BUCKET", "MAY", "STATE");
        json_array_foreach(users, n, user)
        {
            const char *bucket = nef_json_text(user, "bucket", "");

            printf("%-24s %-24s %-24s %-10s %s\n", nef_json_text(user, "name", "?"),
                   nef_json_text(user, "access_key", "?"), bucket[0] != 0 ? bucket : "(all)",
                   json_is_true(json_object_get(user, "read_only")) ? "read" : "read/write",
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

    return bytes > 0 && bytes <= 64 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@") ==
               bytes &&
           name[0] != '.';
}

int nef_cmd_user(int argc, char **argv)
{
    const char *dir = NULL, *endpoint = NULL, *token_file = NULL, *ca = NULL, *bucket = NULL, *verb;
    bool as_json = false, read_only = false;
    const struct nef_option options[] = {{.name = "dir", .text = &dir},
                                         {.name = "endpoint", .text = &endpoint},
                                         {.name = "token-file", .text = &token_file},
                                         {.name = "ca", .text = &ca},
                                         {.name = "json", .flag = &as_json},
                                         {.name = "bucket", .text = &bucket},
                                         {.name = "read-only", .flag = &read_only},
                                         {.name = NULL}};
    struct nef_caller admin;
    struct nef_words words;
    int status = 2;

    if (!nef_options(argc, argv, options, 1, 2, &words))
        return 2;
    verb = words.word[0];
    if (strcmp(verb, "list") == 0 ? words.count != 1
                                  : (strcmp(verb, "add") != 0 && strcmp(verb, "disable") != 0) ||
                                        words.count != 2 || !name_ok(words.word[1])) {
        (void)nef_complain(
            "user", "say: add NAME, list, or disable NAME (letters, digits and ._-@; at most 64)");
        return 2;
    }
    if (!nef_caller_open("user", dir, endpoint, token_file, ca, &admin))
        return 2;
    if (strcmp(verb, "add") == 0)
        status = add(&admin, words.word[1], bucket, read_only, as_json);
    else if (strcmp(verb, "list") == 0)
        status = list(&admin, as_json);
    else
        status = disable(&admin, words.word[1]);
    nef_wipe(&admin, sizeof(admin));
    return fflush(stdout) == 0 ? status : 1;
}
