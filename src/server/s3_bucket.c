/* CreateBucket, DeleteBucket (workers), HeadBucket, GetBucketLocation, GetBucketVersioning. */
#include <string.h>
#include "server/region_ops.h"
#include "server/s3_internal.h"

void bucket_create_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_bucket bucket;
    uint32_t flags = c->require_2_2 ? NEF_BUCKET_REQUIRE_2_2 : 0;
    char location[NEF_BUCKET_NAME_MAX + 2] = "/";
    nef_err err = nef_s3_xml_parse_create_bucket(c->xml.data, c->xml.bytes, c->s->region, &c->why);

    if (err != NEF_OK) {
        (void)call_answer_why(c);
        return;
    }
    err = call_bucket_wait(c, r->bucket, &bucket);
    if (err == NEF_OK)
        err = NEF_E_EXISTS;
    else if (err == NEF_E_NO_BUCKET)
        err = nef_region_bucket_create(c->s->rt, c->s->keys, c->s->cell_count, r->bucket,
                                       c->who.name, flags);
    if (err == NEF_E_LIMIT) {
        (void)call_refuse(c, NEF_S3_TOO_MANY_BUCKETS, NULL);
    } else if (err != NEF_OK) {
        (void)call_fail(c, err);
    } else {
        (void)strcat(location, r->bucket);
        (void)call_answer_empty(c, 200);
        call_header(c, "Location", location);
        call_header_durability(c);
    }
}

void bucket_delete_work(struct call *c)
{
    nef_err err = nef_region_bucket_delete(c->s->rt, c->s->keys, c->s->cell_count, &c->bucket.id);

    if (err == NEF_E_AGAIN) {
        (void)call_refuse(c, NEF_S3_OPERATION_ABORTED, NULL);
    } else if (err != NEF_OK) {
        (void)call_fail_write_wait(c, err);
    } else {
        (void)call_answer_empty(c, 204);
        call_header_durability(c);
    }
}

enum nef_http_next bucket_head_step(struct call *c)
{
    (void)call_answer_empty(c, 200);
    call_header(c, "x-amz-bucket-region", c->s->region);
    return NEF_HTTP_ANSWERED;
}

enum nef_http_next bucket_location_step(struct call *c)
{
    struct nef_buf out = {0};

    nef_s3_xml_location(&out, c->s->region);
    return call_answer_xml(c, 200, &out);
}

enum nef_http_next bucket_versioning_step(struct call *c)
{
    struct nef_buf out = {0};

    nef_s3_xml_versioning(&out);
    return call_answer_xml(c, 200, &out);
}
