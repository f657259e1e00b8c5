/* `nef model`: the models of a region; see model.h. They are ordinary objects, so this speaks S3 to the region as any
 * client would, with the region's own keys; zones see what changes by themselves (gateway/models.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli/model.h"
#include "gateway/models.h"

#define MODELS_MAX 100000u /* pages of a listing that has no end */

static int complain(const struct nef_model_region *r, nef_err err)
{
    return nef_complain("model", "%s", r->why.text[0] != '\0' ? r->why.text : nef_err_text(err));
}

/* ---- list ---- */

static json_t *object_json(struct nef_model_region *r, const struct nef_s3_answer_object *o, nef_err *out_err)
{
    struct nef_model_object head;

    *out_err = nef_model_head(r, NEF_MODELS_BUCKET, o->key, &head);
    if (*out_err != NEF_OK)
        return NULL;
    return json_pack("{s:s, s:I, s:s, s:s?, s:s?, s:s}", "name", o->key, "bytes", (json_int_t)o->bytes, "stored",
                     o->modified, "sha256", head.sha256[0] != '\0' ? head.sha256 : NULL, "source",
                     head.source[0] != '\0' ? head.source : NULL, "state", "ready");
}

static nef_err add_models(struct nef_model_region *r, json_t *models)
{
    struct nef_s3_answer_list page = {.next = ""};
    uint32_t seen = 0;
    nef_err err;

    do {
        err = nef_model_objects(r, page.next, &page);
        if (err != NEF_OK)
            return err == NEF_E_NOT_FOUND ? NEF_OK : err; /* no bucket: nobody has added a model yet */
        for (uint32_t i = 0; err == NEF_OK && i < page.count; i++) {
            const struct nef_s3_answer_object *o = (const struct nef_s3_answer_object *)page.items + i;
            json_t *item;

            if (!nef_model_name_ok(o->key, strlen(o->key)))
                continue; /* what zones don't see as a model */
            item = object_json(r, o, &err);
            if (err == NEF_E_NOT_FOUND)
                err = NEF_OK; /* removed meanwhile */
            else if (err == NEF_OK && json_array_append_new(models, item) != 0)
                err = NEF_E_NOMEM;
        }
        seen += page.count;
        free(page.items);
    } while (err == NEF_OK && page.next[0] != '\0' && page.count > 0 && seen < MODELS_MAX);
    return err;
}

/* Uploads that were begun and not completed: a transfer that goes on, or was interrupted. */
static nef_err add_uploads(struct nef_model_region *r, json_t *models)
{
    struct nef_s3_answer_list page;
    nef_err err = nef_model_uploads(r, "", "", &page);

    if (err != NEF_OK)
        return err == NEF_E_NOT_FOUND ? NEF_OK : err;
    for (uint32_t i = 0; err == NEF_OK && i < page.count; i++) {
        const struct nef_s3_answer_upload *u = (const struct nef_s3_answer_upload *)page.items + i;
        struct nef_s3_answer_list parts;
        uint64_t bytes = 0;

        err = nef_model_upload_parts(r, u->key, u->id, &parts);
        if (err == NEF_E_NO_UPLOAD) {
            err = NEF_OK;
            continue;
        }
        if (err != NEF_OK)
            break;
        for (uint32_t k = 0; k < parts.count; k++)
            bytes += ((const struct nef_s3_answer_part *)parts.items)[k].bytes;
        free(parts.items);
        if (json_array_append_new(models, json_pack("{s:s, s:I, s:s}", "name", u->key, "bytes", (json_int_t)bytes,
                                                    "state", "incomplete")) != 0)
            err = NEF_E_NOMEM;
    }
    free(page.items);
    return err;
}

static int list(struct nef_model_region *r, bool as_json)
{
    json_t *models = json_array(), *item;
    nef_err err = models == NULL ? NEF_E_NOMEM : add_models(r, models);
    size_t n;
    int status = 0;

    if (err == NEF_OK)
        err = add_uploads(r, models);
    if (err != NEF_OK) {
        status = complain(r, err);
    } else if (as_json) {
        (void)json_dumpf(models, stdout, JSON_INDENT(2));
        printf("\n");
    } else if (json_array_size(models) == 0) {
        printf("no models yet; see: nef help model\n");
    } else {
        printf("%-32s %10s  %-20s %-12s %s\n", "NAME", "SIZE", "STORED", "SHA256", "SOURCE");
        json_array_foreach(models, n, item)
        {
            bool ready = strcmp(nef_json_text(item, "state", ""), "ready") == 0;
            char human[32];

            nef_human_bytes(human, nef_json_number(item, "bytes", 0));
            printf("%-32s %10s  %-20.19s %-12.10s %s\n", nef_json_text(item, "name", "?"), human,
                   ready ? nef_json_text(item, "stored", "") : "incomplete", nef_json_text(item, "sha256", "-"),
                   nef_json_text(item, "source", "-"));
        }
    }
    json_decref(models);
    return status;
}

/* ---- rm ---- */

static int remove_model(struct nef_model_region *r, const char *name)
{
    struct nef_s3_answer_list page;
    struct nef_model_resume resume;
    struct nef_model_object object;
    bool found = false;
    nef_err err = nef_model_head(r, NEF_MODELS_BUCKET, name, &object);

    if (err == NEF_OK) {
        found = true;
        err = nef_model_delete(r, name);
    }
    if (err == NEF_OK || err == NEF_E_NOT_FOUND)
        err = nef_model_uploads(r, name, "", &page);
    if (err == NEF_E_NOT_FOUND)
        return nef_complain("model", "there is no model '%s'; see: nef model list", name);
    if (err != NEF_OK)
        return complain(r, err);
    for (uint32_t i = 0; err == NEF_OK && i < page.count; i++) {
        const struct nef_s3_answer_upload *u = (const struct nef_s3_answer_upload *)page.items + i;

        if (strcmp(u->key, name) != 0)
            continue;
        found = true;
        err = nef_model_upload_abort(r, name, u->id);
    }
    free(page.items);
    if (err != NEF_OK)
        return complain(r, err);
    if (!found)
        return nef_complain("model", "there is no model '%s'; see: nef model list", name);
    if (nef_model_resume_open(r, name, &resume) == NEF_OK)
        nef_model_resume_forget(&resume); /* else a command that adds it finds its upload gone */
    nef_model_resume_close(&resume);
    printf("%s is removed from both zones\n", name);
    return 0;
}

/* ---- the command ---- */

int nef_cmd_model(int argc, char **argv)
{
    const char *dir = NULL, *endpoint = NULL, *region = NULL, *ca = NULL, *verb;
    struct nef_model_add_options add = {.name = NULL};
    bool as_json = false;
    const struct nef_option options[] = {{.name = "dir", .text = &dir},
                                         {.name = "endpoint", .text = &endpoint},
                                         {.name = "region", .text = &region},
                                         {.name = "ca", .text = &ca},
                                         {.name = "json", .flag = &as_json},
                                         {.name = "sha256", .text = &add.sha256},
                                         {.name = "source-ca", .text = &add.source_ca},
                                         {.name = "source-token-file", .text = &add.token_file},
                                         {.name = "part-mib", .number = &add.part_mib, .min = 5, .max = 5120},
                                         {.name = "replace", .flag = &add.replace},
                                         {.name = NULL}};
    struct nef_model_region *r;
    struct nef_words words;
    bool good;
    int status;

    if (!nef_options(argc, argv, options, 1, 3, &words))
        return 2;
    verb = words.word[0];
    good = strcmp(verb, "add") == 0    ? words.count == 3
           : strcmp(verb, "rm") == 0   ? words.count == 2
           : strcmp(verb, "list") == 0 ? words.count == 1
                                       : false;
    if (good && words.count > 1 && !nef_model_name_ok(words.word[1], strlen(words.word[1]))) {
        (void)nef_complain("model", "a model's name is 1 to %u letters, digits and ._-/ such as qwen3-8b, not '%s'",
                           NEF_MODEL_NAME_MAX, words.word[1]);
        return 2;
    }
    if (!good) {
        (void)nef_complain("model", "say: add NAME FILE | s3://BUCKET/KEY | https://..., list, or rm NAME");
        return 2;
    }
    r = calloc(1, sizeof(*r));
    if (r == NULL || nef_crypto_init() != NEF_OK) {
        free(r);
        return nef_complain("model", "out of memory, or OpenSSL fails its self-test");
    }
    if (!nef_model_region_open(dir, endpoint, region, ca, r)) {
        free(r);
        return 2;
    }
    r->dir = dir;
    if (strcmp(verb, "add") == 0) {
        add.name = words.word[1];
        add.source = words.word[2];
        status = nef_model_add(r, &add);
    } else if (strcmp(verb, "list") == 0) {
        status = list(r, as_json);
    } else {
        status = remove_model(r, words.word[1]);
    }
    nef_model_region_close(r);
    free(r);
    return fflush(stdout) == 0 ? status : 1;
}
