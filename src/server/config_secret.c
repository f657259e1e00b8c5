/* Files of secrets that zone and witness read at their start: the root credentials and tokens; see
 * config.h. They are private (mode 0600) or refused, and never overwritten once made. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "io/files.h"
#include "server/config.h"

#define SECRET_BYTES_MAX  4096u
#define ACCESS_KEY_BYTES  20u /* as AWS's, which some clients expect */
#define SECRET_KEY_BYTES  40u
#define TOKEN_RANDOM      32u
#define TOKEN_BYTES_MIN   16u

static nef_err refuse(struct nef_config_error *error, const char *path, const char *why)
{
    (void)snprintf(error->text, sizeof(error->text), "%s: %s", path, why);
    return NEF_E_CONFIG;
}

static nef_err read_private(const char *path, struct nef_buf *out, struct nef_config_error *error)
{
    nef_err err = nef_file_read(path, SECRET_BYTES_MAX, true, out);

    if (err == NEF_OK)
        return NEF_OK;
    return refuse(error, path,
                  err == NEF_E_DENIED ? "must be a plain file of mode 600 that this user can read"
                                      : nef_err_text(err));
}

/* Visible ASCII, MIN to MAX characters. */
static bool visible(const char *text, size_t min, size_t max)
{
    size_t n = text == NULL ? 0 : strlen(text);

    if (n < min || n > max)
        return false;
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return false;
    return true;
}

nef_err nef_root_credentials_load(const char *path, struct nef_root_credentials *out,
                                  struct nef_config_error *error)
{
    struct nef_buf text = {.max = SECRET_BYTES_MAX + 4096};
    const char *access_key, *secret_key;
    json_t *root = NULL;
    nef_err err;

    err = read_private(path, &text, error);
    if (err != NEF_OK)
        goto out;
    root = json_loadb((const char *)text.data, text.bytes, JSON_REJECT_DUPLICATES, NULL);
    access_key = json_string_value(json_object_get(root, "access_key"));
    secret_key = json_string_value(json_object_get(root, "secret_key"));
    if (json_object_size(root) != 2 || !visible(access_key, 3, sizeof(out->access_key) - 1) ||
        !visible(secret_key, 8, sizeof(out->secret_key) - 1)) {
        err = refuse(error, path, "must be {\"access_key\": \"...\", \"secret_key\": \"...\"}");
        goto out;
    }
    memset(out, 0, sizeof(*out));
    memcpy(out->access_key, access_key, strlen(access_key));
    memcpy(out->secret_key, secret_key, strlen(secret_key));
out:
    json_decref(root);
    nef_buf_free(&text);
    return err;
}

/* COUNT characters drawn evenly from ALPHABET, whose length divides 256, and a NUL. */
static void draw(const char *alphabet, size_t count, char *out)
{
    size_t n = strlen(alphabet);
    uint8_t random[64];

    NEF_ASSERT(256 % n == 0);
    NEF_ASSERT(count <= sizeof(random));
    nef_random(random, count);
    for (size_t i = 0; i < count; i++)
        out[i] = alphabet[random[i] % n];
    out[count] = '\0';
    nef_wipe(random, sizeof(random));
}

nef_err nef_root_credentials_make(const char *path)
{
    char access_key[ACCESS_KEY_BYTES + 1], secret_key[SECRET_KEY_BYTES + 1], text[256];
    nef_err err;
    int n;

    (void)snprintf(access_key, sizeof(access_key), "NEF");
    draw("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", ACCESS_KEY_BYTES - 3, access_key + 3);
    draw("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", SECRET_KEY_BYTES,
         secret_key);
    n = snprintf(text, sizeof(text), "{\"access_key\": \"%s\", \"secret_key\": \"%s\"}\n", access_key,
                 secret_key);
    NEF_ASSERT(n > 0 && (size_t)n < sizeof(text));
    err = nef_file_make(path, 0600, text, (size_t)n);
    nef_wipe(secret_key, sizeof(secret_key));
    nef_wipe(text, sizeof(text));
    return err;
}

nef_err nef_token_load(const char *path, char out[NEF_TOKEN_BYTES], struct nef_config_error *error)
{
    struct nef_buf text = {.max = SECRET_BYTES_MAX + 4096};
    const char *token;
    nef_err err;

    err = read_private(path, &text, error);
    if (err != NEF_OK)
        goto out;
    if (text.bytes > 0 && text.data[text.bytes - 1] == '\n')
        text.data[--text.bytes] = '\0';
    token = nef_buf_cstr(&text);
    if (strlen(token) != text.bytes || !visible(token, TOKEN_BYTES_MIN, NEF_TOKEN_BYTES - 1)) {
        err = refuse(error, path, "must be one line of 16 to 255 visible characters");
        goto out;
    }
    memset(out, 0, NEF_TOKEN_BYTES);
    memcpy(out, token, text.bytes);
out:
    nef_buf_free(&text);
    return err;
}

nef_err nef_token_make(const char *path)
{
    uint8_t random[TOKEN_RANDOM];
    char text[2 * TOKEN_RANDOM + 2];
    nef_err err;

    nef_random(random, sizeof(random));
    nef_hex(random, sizeof(random), text);
    text[2 * TOKEN_RANDOM] = '\n';
    err = nef_file_make(path, 0600, text, 2 * TOKEN_RANDOM + 1);
    nef_wipe(random, sizeof(random));
    nef_wipe(text, sizeof(text));
    return err;
}

bool nef_token_matches(const char *authorization, const char *token)
{
    static const char scheme[] = "Bearer ";
    size_t bytes = strlen(token);

    if (bytes == 0 || authorization == NULL || strncmp(authorization, scheme, sizeof(scheme) - 1) != 0)
        return false;
    authorization += sizeof(scheme) - 1;
    return strlen(authorization) == bytes && nef_equal_ct(authorization, token, bytes);
}
