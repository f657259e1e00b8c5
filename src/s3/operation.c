/* Which operation a method, a level (service, bucket, object) and a query name: one table of
 * everything Amazon's API reference has in a path, built or not, so that what isn't built is
 * refused by its name and never mistaken for something else ("PUT /bucket?acl" must not create a
 * bucket). */
#include "s3/operation.h"
#include <string.h>

#define B false /* sub-resource of a bucket */
#define O true  /* of an object */

static const struct row {
    const char *sub;
    bool object;
    const char *method;
    enum nef_s3_op op;
    const char *name; /* NULL: that of op */
} rows[] = {
#define NO NEF_S3_OP_NOT_IMPLEMENTED
    {"location", B, "GET", NEF_S3_OP_GET_BUCKET_LOCATION, NULL},
    {"versioning", B, "GET", NEF_S3_OP_GET_BUCKET_VERSIONING, NULL},
    {"versioning", B, "PUT", NO, "PutBucketVersioning"},
    {"versions", B, "GET", NEF_S3_OP_LIST_OBJECT_VERSIONS, NULL},
    {"uploads", B, "GET", NEF_S3_OP_LIST_MULTIPART_UPLOADS, NULL},
    {"delete", B, "POST", NEF_S3_OP_DELETE_OBJECTS, NULL},
    {"uploads", O, "POST", NEF_S3_OP_CREATE_MULTIPART_UPLOAD, NULL},
    {"uploadId", O, "GET", NEF_S3_OP_LIST_PARTS, NULL},
    {"uploadId", O, "PUT", NEF_S3_OP_UPLOAD_PART, NULL},
    {"uploadId", O, "POST", NEF_S3_OP_COMPLETE_MULTIPART_UPLOAD, NULL},
    {"uploadId", O, "DELETE", NEF_S3_OP_ABORT_MULTIPART_UPLOAD, NULL},
    {"abac", B, "GET", NO, "GetBucketAbac"},
    {"abac", B, "PUT", NO, "PutBucketAbac"},
    {"accelerate", B, "GET", NO, "GetBucketAccelerateConfiguration"},
    {"accelerate", B, "PUT", NO, "PutBucketAccelerateConfiguration"},
    {"acl", B, "GET", NO, "GetBucketAcl"},
    {"acl", B, "PUT", NO, "PutBucketAcl"},
    {"analytics", B, "GET", NO, "GetBucketAnalyticsConfiguration"},
    {"analytics", B, "PUT", NO, "PutBucketAnalyticsConfiguration"},
    {"analytics", B, "DELETE", NO, "DeleteBucketAnalyticsConfiguration"},
    {"cors", B, "GET", NO, "GetBucketCors"},
    {"cors", B, "PUT", NO, "PutBucketCors"},
    {"cors", B, "DELETE", NO, "DeleteBucketCors"},
    {"encryption", B, "GET", NO, "GetBucketEncryption"},
    {"encryption", B, "PUT", NO, "PutBucketEncryption"},
    {"encryption", B, "DELETE", NO, "DeleteBucketEncryption"},
    {"intelligent-tiering", B, "GET", NO, "GetBucketIntelligentTieringConfiguration"},
    {"intelligent-tiering", B, "PUT", NO, "PutBucketIntelligentTieringConfiguration"},
    {"intelligent-tiering", B, "DELETE", NO, "DeleteBucketIntelligentTieringConfiguration"},
    {"inventory", B, "GET", NO, "GetBucketInventoryConfiguration"},
    {"inventory", B, "PUT", NO, "PutBucketInventoryConfiguration"},
    {"inventory", B, "DELETE", NO, "DeleteBucketInventoryConfiguration"},
    {"lifecycle", B, "GET", NO, "GetBucketLifecycleConfiguration"},
    {"lifecycle", B, "PUT", NO, "PutBucketLifecycleConfiguration"},
    {"lifecycle", B, "DELETE", NO, "DeleteBucketLifecycle"},
    {"logging", B, "GET", NO, "GetBucketLogging"},
    {"logging", B, "PUT", NO, "PutBucketLogging"},
    {"metadataConfiguration", B, "GET", NO, "GetBucketMetadataConfiguration"},
    {"metadataConfiguration", B, "POST", NO, "CreateBucketMetadataConfiguration"},
    {"metadataConfiguration", B, "DELETE", NO, "DeleteBucketMetadataConfiguration"},
    {"metadataTable", B, "GET", NO, "GetBucketMetadataTableConfiguration"},
    {"metadataTable", B, "POST", NO, "CreateBucketMetadataTableConfiguration"},
    {"metadataTable", B, "DELETE", NO, "DeleteBucketMetadataTableConfiguration"},
    {"metadataInventoryTable", B, "PUT", NO, "UpdateBucketMetadataInventoryTableConfiguration"},
    {"metadataJournalTable", B, "PUT", NO, "UpdateBucketMetadataJournalTableConfiguration"},
    {"metrics", B, "GET", NO, "GetBucketMetricsConfiguration"},
    {"metrics", B, "PUT", NO, "PutBucketMetricsConfiguration"},
    {"metrics", B, "DELETE", NO, "DeleteBucketMetricsConfiguration"},
    {"notification", B, "GET", NO, "GetBucketNotificationConfiguration"},
    {"notification", B, "PUT", NO, "PutBucketNotificationConfiguration"},
    {"object-lock", B, "GET", NO, "GetObjectLockConfiguration"},
    {"object-lock", B, "PUT", NO, "PutObjectLockConfiguration"},
    {"ownershipControls", B, "GET", NO, "GetBucketOwnershipControls"},
    {"ownershipControls", B, "PUT", NO, "PutBucketOwnershipControls"},
    {"ownershipControls", B, "DELETE", NO, "DeleteBucketOwnershipControls"},
    {"policy", B, "GET", NO, "GetBucketPolicy"},
    {"policy", B, "PUT", NO, "PutBucketPolicy"},
    {"policy", B, "DELETE", NO, "DeleteBucketPolicy"},
    {"policyStatus", B, "GET", NO, "GetBucketPolicyStatus"},
    {"publicAccessBlock", B, "GET", NO, "GetPublicAccessBlock"},
    {"publicAccessBlock", B, "PUT", NO, "PutPublicAccessBlock"},
    {"publicAccessBlock", B, "DELETE", NO, "DeletePublicAccessBlock"},
    {"replication", B, "GET", NO, "GetBucketReplication"},
    {"replication", B, "PUT", NO, "PutBucketReplication"},
    {"replication", B, "DELETE", NO, "DeleteBucketReplication"},
    {"requestPayment", B, "GET", NO, "GetBucketRequestPayment"},
    {"requestPayment", B, "PUT", NO, "PutBucketRequestPayment"},
    {"session", B, "GET", NO, "CreateSession"},
    {"tagging", B, "GET", NO, "GetBucketTagging"},
    {"tagging", B, "PUT", NO, "PutBucketTagging"},
    {"tagging", B, "DELETE", NO, "DeleteBucketTagging"},
    {"website", B, "GET", NO, "GetBucketWebsite"},
    {"website", B, "PUT", NO, "PutBucketWebsite"},
    {"website", B, "DELETE", NO, "DeleteBucketWebsite"},
    {"acl", O, "GET", NO, "GetObjectAcl"},
    {"acl", O, "PUT", NO, "PutObjectAcl"},
    {"attributes", O, "GET", NO, "GetObjectAttributes"},
    {"encryption", O, "PUT", NO, "UpdateObjectEncryption"},
    {"legal-hold", O, "GET", NO, "GetObjectLegalHold"},
    {"legal-hold", O, "PUT", NO, "PutObjectLegalHold"},
    {"renameObject", O, "PUT", NO, "RenameObject"},
    {"restore", O, "POST", NO, "RestoreObject"},
    {"retention", O, "GET", NO, "GetObjectRetention"},
    {"retention", O, "PUT", NO, "PutObjectRetention"},
    {"select", O, "POST", NO, "SelectObjectContent"},
    {"tagging", O, "GET", NEF_S3_OP_GET_OBJECT_TAGGING, NULL},
    {"tagging", O, "PUT", NO, "PutObjectTagging"},
    {"tagging", O, "DELETE", NO, "DeleteObjectTagging"},
    {"torrent", O, "GET", NO, "GetObjectTorrent"},
#undef NO
};

#undef B
#undef O

#define ROWS (sizeof(rows) / sizeof(rows[0]))

const char *nef_s3_op_name(enum nef_s3_op op)
{
    static const char *const names[NEF_S3_OP_COUNT] = {
#define X(name, text) [NEF_S3_OP_##name] = text,
        NEF_S3_OP_LIST(X)
#undef X
    };

    return names[op];
}

static bool is_sub_resource(const char *name, bool object)
{
    for (size_t i = 0; i < ROWS; i++)
        if (rows[i].object == object && rows[i].sub[0] == name[0] && strcmp(rows[i].sub, name) == 0)
            return true;
    return false;
}

static nef_err not_allowed(const char *method, const char *type, struct nef_s3_error *why)
{
    nef_err err = nef_s3_refuse(why, NEF_S3_METHOD_NOT_ALLOWED, NULL);

    nef_s3_error_extra(why, "Method", method);
    nef_s3_error_extra(why, "ResourceType", type);
    return err;
}

/* The operations without a sub-resource. */
static nef_err plain(struct nef_s3_parser *p, const char *method, const char *list_type)
{
    static const struct {
        const char *method;
        enum nef_s3_op bucket, object;
    } ops[] = {
        {"GET", NEF_S3_OP_LIST_OBJECTS, NEF_S3_OP_GET_OBJECT},
        {"HEAD", NEF_S3_OP_HEAD_BUCKET, NEF_S3_OP_HEAD_OBJECT},
        {"PUT", NEF_S3_OP_CREATE_BUCKET, NEF_S3_OP_PUT_OBJECT},
        {"DELETE", NEF_S3_OP_DELETE_BUCKET, NEF_S3_OP_DELETE_OBJECT},
    };
    struct nef_s3_request *r = p->r;

    if (r->bucket == NULL) {
        if (strcmp(method, "GET") != 0)
            return not_allowed(method, "SERVICE", p->why);
        r->op = NEF_S3_OP_LIST_BUCKETS;
        return NEF_OK;
    }
    if (r->object_key == NULL && strcmp(method, "POST") == 0)
        return nef_s3_refuse(p->why, NEF_S3_NOT_IMPLEMENTED,
                             "POST Object (an upload by an HTML form) is not implemented");
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
        if (strcmp(method, ops[i].method) == 0) {
            r->op = r->object_key != NULL ? ops[i].object : ops[i].bucket;
            if (r->op == NEF_S3_OP_LIST_OBJECTS && list_type != NULL) {
                if (strcmp(list_type, "2") != 0)
                    return nef_s3_refuse_argument(p->why, "list-type", list_type,
                                                  "Invalid List Type specified in Request");
                r->op = NEF_S3_OP_LIST_OBJECTS_V2;
            }
            return NEF_OK;
        }
    return not_allowed(method, r->object_key != NULL ? "OBJECT" : "BUCKET", p->why);
}

nef_err nef_s3_find_operation(struct nef_s3_parser *p)
{
    struct nef_s3_request *r = p->r;
    const char *method = p->http->method, *sub = NULL, *list_type = NULL;
    bool object = r->object_key != NULL, copies;
    nef_err err;

    if (strcmp(method, "OPTIONS") == 0)
        return nef_s3_refuse(p->why, NEF_S3_ACCESS_FORBIDDEN, NULL);
    for (size_t i = 0; i < p->parameter_count; i++) {
        const char *name = p->parameters[i].name;

        if (strcmp(name, "list-type") == 0)
            list_type = p->parameters[i].value;
        if (r->bucket == NULL || !is_sub_resource(name, object))
            continue;
        if (sub != NULL && strcmp(sub, name) != 0) {
            err = nef_s3_refuse(p->why, NEF_S3_INVALID_ARGUMENT,
                                "Conflicting query string parameters: %s, %s", sub, name);
            nef_s3_error_extra(p->why, "ArgumentName", "ResourceType");
            nef_s3_error_extra(p->why, "ArgumentValue", sub);
            return err;
        }
        sub = name;
    }
    if (sub == NULL) {
        err = plain(p, method, list_type);
        if (err != NEF_OK)
            return err;
    } else {
        size_t i = 0;

        while (i < ROWS && (rows[i].object != object || strcmp(rows[i].sub, sub) != 0 ||
                            strcmp(rows[i].method, method) != 0))
            i++;
        if (i == ROWS)
            return not_allowed(method, sub, p->why);
        r->op = rows[i].op;
        r->op_name = rows[i].name;
    }
    copies = nef_s3_http_header(p->http, "x-amz-copy-source") != NULL;
    if (copies && r->op == NEF_S3_OP_PUT_OBJECT)
        r->op = NEF_S3_OP_COPY_OBJECT;
    else if (copies && r->op == NEF_S3_OP_UPLOAD_PART)
        r->op = NEF_S3_OP_UPLOAD_PART_COPY;
    if (r->op_name == NULL)
        r->op_name = nef_s3_op_name(r->op);
    r->body_is_xml = r->op == NEF_S3_OP_CREATE_BUCKET || r->op == NEF_S3_OP_DELETE_OBJECTS ||
                     r->op == NEF_S3_OP_COMPLETE_MULTIPART_UPLOAD;
    return NEF_OK;
}
