/* Who signed a request, and may they do this.
 *
 * The root credential comes from the zone's configuration and may do everything. Users are rows of
 * the store; each request reads its user's row (from RocksDB's cache), so disabling one holds as
 * soon as the op is applied here. What is cached is only the derived signing key of (access key,
 * day), valid for the secret it was derived from. An access key that isn't known here is looked up
 * again behind the read gate, because the user may have been made through the other zone a moment
 * ago.
 *
 * A user may be bound to one bucket and may be read-only. Stored answers of models are nobody's but root's. Buckets are made and deleted by root and
 * by users that are bound to none. */
#include <string.h>
#include "base/assert.h"
#include "base/siphash.h"
#include "server/s3_internal.h"

#define CACHE_ENTRIES 64u

struct cached {
    char access_key[64];
    char secret_key[128];
    struct nef_sigv4_key key;
};

struct credentials { /* one block of locked memory */
    struct nef_root_credentials root;
    uint8_t hash_key[16];
    pthread_mutex_t lock;
    struct cached cache[CACHE_ENTRIES]; /* under lock; direct-mapped */
};

nef_err credentials_new(const struct nef_root_credentials *root,
                        struct credentials **out_credentials)
{
    struct credentials *cr = nef_secret_new(sizeof(*cr));

    if (cr == NULL)
        return NEF_E_NOMEM;
    memset(cr, 0, sizeof(*cr));
    cr->root = *root;
    nef_random(cr->hash_key, sizeof(cr->hash_key));
    (void)pthread_mutex_init(&cr->lock, NULL);
    *out_credentials = cr;
    return NEF_OK;
}

void credentials_free(struct credentials *cr)
{
    if (cr == NULL)
        return;
    (void)pthread_mutex_destroy(&cr->lock);
    nef_secret_free(cr, sizeof(*cr));
}

static bool equal(const char *a, const char *b) /* secrets: time depends on lengths only */
{
    size_t bytes = strlen(a);

    return bytes == strlen(b) && nef_equal_ct(a, b, bytes);
}

/* The signing key of the credential, cached. */
static void signing_key(struct call *c, const char *access_key, const char *secret_key)
{
    struct credentials *cr = c->s->credentials;
    uint64_t hash = nef_siphash(cr->hash_key, access_key, strlen(access_key));
    struct cached *entry = &cr->cache[hash % CACHE_ENTRIES];
    bool found;

    (void)pthread_mutex_lock(&cr->lock);
    found = strcmp(entry->access_key, access_key) == 0 &&
            memcmp(entry->key.date, c->auth.date, sizeof(entry->key.date)) == 0 &&
            equal(entry->secret_key, secret_key);
    if (found)
        c->key = entry->key;
    (void)pthread_mutex_unlock(&cr->lock);
    if (found)
        return;
    nef_sigv4_derive(secret_key, c->auth.date, c->s->region, &c->key);
    if (strlen(access_key) >= sizeof(entry->access_key) ||
        strlen(secret_key) >= sizeof(entry->secret_key))
        return;
    (void)pthread_mutex_lock(&cr->lock);
    memset(entry, 0, sizeof(*entry));
    memcpy(entry->access_key, access_key, strlen(access_key));
    memcpy(entry->secret_key, secret_key, strlen(secret_key));
    entry->key = c->key;
    (void)pthread_mutex_unlock(&cr->lock);
}

/* Fills c->who and c->key. NEF_E_NOT_FOUND: unknown or disabled. */
static nef_err find_credential(struct call *c)
{
    const struct nef_root_credentials *root = &c->s->credentials->root;
    struct nef_user user;
    nef_err err;

    if (equal(root->access_key, c->auth.access_key)) {
        c->who.root = true;
        (void)strcpy(c->who.name, "root");
        signing_key(c, root->access_key, root->secret_key);
        return NEF_OK;
    }
    err = nef_store_user(c->s->store, c->auth.access_key, &user);
    if (err != NEF_OK)
        return err;
    if (user.disabled) {
        err = NEF_E_DENIED;
    } else {
        c->who.read_only = user.read_only;
        memcpy(c->who.bucket, user.bucket, sizeof(c->who.bucket));
        memcpy(c->who.name, user.name, sizeof(c->who.name) - 1);
        signing_key(c, user.access_key, user.secret_key);
    }
    nef_wipe(&user, sizeof(user));
    return err;
}

bool op_writes(enum nef_s3_op op)
{
    switch (op) {
    case NEF_S3_OP_CREATE_BUCKET:
    case NEF_S3_OP_DELETE_BUCKET:
    case NEF_S3_OP_DELETE_OBJECTS:
    case NEF_S3_OP_PUT_OBJECT:
    case NEF_S3_OP_COPY_OBJECT:
    case NEF_S3_OP_DELETE_OBJECT:
    case NEF_S3_OP_CREATE_MULTIPART_UPLOAD:
    case NEF_S3_OP_UPLOAD_PART:
    case NEF_S3_OP_UPLOAD_PART_COPY:
    case NEF_S3_OP_COMPLETE_MULTIPART_UPLOAD:
    case NEF_S3_OP_ABORT_MULTIPART_UPLOAD:
        return true;
    case NEF_S3_OP_NOT_IMPLEMENTED:
    case NEF_S3_OP_LIST_BUCKETS:
    case NEF_S3_OP_HEAD_BUCKET:
    case NEF_S3_OP_GET_BUCKET_LOCATION:
    case NEF_S3_OP_GET_BUCKET_VERSIONING:
    case NEF_S3_OP_LIST_OBJECTS:
    case NEF_S3_OP_LIST_OBJECTS_V2:
    case NEF_S3_OP_LIST_OBJECT_VERSIONS:
    case NEF_S3_OP_LIST_MULTIPART_UPLOADS:
    case NEF_S3_OP_GET_OBJECT:
    case NEF_S3_OP_HEAD_OBJECT:
    case NEF_S3_OP_LIST_PARTS:
    case NEF_S3_OP_GET_OBJECT_TAGGING:
    case NEF_S3_OP_COUNT:
        break;
    }
    return false;
}

/* What the region keeps for its users, with prompts of all of them in it: through S3 it is the root user's alone. */
static bool is_reserved(const char *bucket)
{
    return bucket != NULL && strcmp(bucket, "nef-responses") == 0;
}

static nef_err authorize(struct call *c)
{
    const struct nef_s3_request *r = &c->request;

    if (r->expected_bucket_owner != NULL && strcmp(r->expected_bucket_owner, c->s->owner_id) != 0)
        return nef_s3_refuse(&c->why, NEF_S3_ACCESS_DENIED, NULL);
    if (r->expected_source_owner != NULL && strcmp(r->expected_source_owner, c->s->owner_id) != 0)
        return nef_s3_refuse(&c->why, NEF_S3_ACCESS_DENIED, NULL);
    if (c->who.root)
        return NEF_OK;
    if (is_reserved(r->bucket) || is_reserved(r->source_bucket))
        return nef_s3_refuse(&c->why, NEF_S3_ACCESS_DENIED, NULL);
    if (c->who.read_only && op_writes(r->op))
        return nef_s3_refuse(&c->why, NEF_S3_ACCESS_DENIED, NULL);
    if (c->who.bucket[0] == '\0')
        return NEF_OK;
    if (r->op == NEF_S3_OP_CREATE_BUCKET || r->op == NEF_S3_OP_DELETE_BUCKET)
        return nef_s3_refuse(&c->why, NEF_S3_ACCESS_DENIED, NULL);
    if (r->bucket != NULL && strcmp(r->bucket, c->who.bucket) != 0)
        return nef_s3_refuse(&c->why, NEF_S3_ACCESS_DENIED, NULL);
    return r->source_bucket == NULL ? NEF_OK : auth_source(c, r->source_bucket);
}

nef_err auth_source(struct call *c, const char *bucket)
{
    if (c->who.root || c->who.bucket[0] == '\0' || strcmp(bucket, c->who.bucket) == 0)
        return NEF_OK;
    return nef_s3_refuse(&c->why, NEF_S3_ACCESS_DENIED, NULL);
}

nef_err auth_check(struct call *c)
{
    nef_err err = find_credential(c);

    if (err == NEF_E_NOT_FOUND) {
        err = call_gate(c, 0, NULL);
        if (err == NEF_E_AGAIN)
            return err;
        if (err == NEF_OK) {
            err = find_credential(c);
            if (err == NEF_E_NOT_FOUND && nef_runtime_read_done(c->s->rt, &c->read) != NEF_OK)
                err = NEF_E_UNAVAILABLE; /* the lease went meanwhile: the client tries again */
        }
    }
    if (err == NEF_E_NOT_FOUND || err == NEF_E_DENIED)
        return nef_sigv4_unknown_key(&c->auth, &c->why);
    if (err != NEF_OK) {
        nef_s3_error_of(&c->why, err);
        return err;
    }
    err = nef_sigv4_verify(&c->wire, &c->auth, &c->key, &c->why);
    if (err != NEF_OK)
        return err;
    return authorize(c);
}
