#include "op_fixture.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/bytes.h"
#include "crypto/crypto.h"

static const struct nef_id region_key = {"the region's key"};
const struct nef_id bucket = {"bucket one......"};
const struct nef_id other_bucket = {"bucket two......"};
const struct nef_id upload = {"an upload......."};
const struct nef_id token = {"a deletion......"};
const uint8_t tag[16] = "a key's tag....";

struct nef_keys *keys;
static char dir[64];

static struct nef_buf attrs_buf;
struct nef_buf list_buf;

int op_set_up(void **state)
{
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX];
    char path[96];
    size_t bytes;

    (void)state;
    assert_int_equal(nef_crypto_init(), NEF_OK);
    strcpy(dir, "/tmp/nef-op-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/customer.key", dir);
    assert_int_equal(nef_keys_make_file(path), NEF_OK);
    assert_int_equal(nef_keys_open_file(path, &keys), NEF_OK);
    assert_int_equal(nef_keys_create(keys, &region_key, wrapped, &bytes), NEF_OK);
    assert_int_equal(nef_keys_create(keys, &bucket, wrapped, &bytes), NEF_OK);
    assert_int_equal(nef_keys_create(keys, &other_bucket, wrapped, &bytes), NEF_OK);
    return unlink(path);
}

int op_tear_down(void **state)
{
    (void)state;
    nef_keys_close(keys);
    nef_buf_free(&attrs_buf);
    nef_buf_free(&list_buf);
    return rmdir(dir);
}

struct nef_text text(const char *t)
{
    return (struct nef_text){t, (uint32_t)strlen(t)};
}

uint8_t complete_parts[3 * 20];

static struct nef_attrs sample_attrs(void)
{
    nef_buf_reset(&attrs_buf);
    nef_attrs_begin(&attrs_buf);
    nef_attrs_add(&attrs_buf, "content-type", 12, "text/plain", 10);
    nef_attrs_add(&attrs_buf, "x-amz-meta-empty", 16, "", 0);
    nef_attrs_add(&attrs_buf, "x-amz-meta-name", 15, "caf\xc3\xa9", 5);
    assert_int_equal(nef_buf_end(&attrs_buf), NEF_OK);
    return (struct nef_attrs){attrs_buf.data, (uint32_t)attrs_buf.bytes};
}

static struct nef_checksum sample_checksum(uint8_t kind, uint8_t bytes)
{
    struct nef_checksum c = {.kind = kind, .scope = NEF_CHECKSUM_COMPOSITE, .bytes = bytes};

    memset(c.value, 0xab, bytes);
    return c;
}

static void sample_entries(struct nef_op_budget *op)
{
    static struct nef_buf entries;
    struct nef_budget_entry entry = {.user = text("AKIAEXAMPLE"), .slots = 3};

    nef_buf_reset(&entries);
    nef_budget_entry_put(&entries, &entry);
    entry = (struct nef_budget_entry){.user = text("NEFOTHER"),
                                      .start = 5,
                                      .number = 6,
                                      .spent = {1, 1000},
                                      .limit = {2, 2000},
                                      .claim_count = 2,
                                      .claims = {{.zone = text("a"), .base = {1, 900}},
                                                 {.zone = text("b"), .start = 8, .number = 9, .over = true}}};
    nef_budget_entry_put(&entries, &entry);
    op->entries = entries.data;
    op->entries_bytes = (uint32_t)entries.bytes;
}

struct nef_op sample(unsigned i)
{
    static const struct nef_condition match = {.match = "0123456789abcdef0123456789abcdef-17"};
    static const struct nef_condition none = {.none = true};
    static const struct nef_condition any = {.any = true};
    struct nef_op op;

    memset(&op, 0, sizeof(op));
    op.stream = (struct nef_id){"a stream's id..."};
    op.bucket_key = bucket;
    nef_buf_reset(&list_buf);
    switch (i) {
    case 0:
        op.type = NEF_RECORD_REGION;
        op.bucket_key = region_key;
        op.u.region.region = (struct nef_id){"a region"};
        memset(op.u.region.wrapped, 7, NEF_WRAPPED_KEY_MAX);
        op.u.region.wrapped_bytes = NEF_WRAPPED_KEY_MAX;
        op.u.region.cell_count = NEF_CELL_MAX;
        break;
    case 1:
        op.type = NEF_RECORD_BUCKET_PUT;
        op.bucket_key = region_key;
        op.u.bucket_put.bucket = bucket;
        op.u.bucket_put.name = text("a-bucket.name");
        op.u.bucket_put.owner = text("AKIAOWNER");
        memset(op.u.bucket_put.wrapped, 8, 88);
        op.u.bucket_put.wrapped_bytes = 88;
        op.u.bucket_put.flags = NEF_BUCKET_REQUIRE_2_2;
        break;
    case 2:
    case 3:
    case 4:
        op.type = (uint16_t)(NEF_RECORD_BUCKET_CLOSE + i - 2);
        op.u.bucket.bucket = bucket;
        op.u.bucket.token = token;
        break;
    case 5:
        op.type = NEF_RECORD_USER_PUT;
        op.bucket_key = region_key;
        op.u.user_put = (struct nef_op_user_put){.name = text("alice"),
                                                 .access_key = text("AKIAEXAMPLE"),
                                                 .secret_key = text("a very secret key"),
                                                 .bucket = text("her-bucket"),
                                                 .read_only = true,
                                                 .disabled = true};
        break;
    case 6: /* in pieces */
    case 7: /* inline */
        op.type = NEF_RECORD_OBJECT_PUT;
        op.u.object_put = (struct nef_op_object_put){
            .bucket = bucket,
            .key = text("directory/name \xc3\xa9\x01\n"),
            .size = i == 6 ? NEF_PUT_BYTES_MAX : 1000,
            .etag = "0123456789abcdef0123456789abcdef",
            .attrs = sample_attrs(),
            .checksum = sample_checksum(NEF_CHECKSUM_SHA256, 32),
            .condition = i == 6 ? match : none,
            .inline_body = i == 7};
        break;
    case 8: /* empty, nothing set */
        op.type = NEF_RECORD_OBJECT_PUT;
        op.u.object_put = (struct nef_op_object_put){
            .bucket = bucket, .key = text("k"), .etag = "d41d8cd98f00b204e9800998ecf8427e"};
        break;
    case 9:
        op.type = NEF_RECORD_OBJECT_DELETE;
        op.u.object_delete = (struct nef_op_object_delete){bucket, text("name"), any};
        break;
    case 10:
        op.type = NEF_RECORD_UPLOAD_CREATE;
        op.u.upload_create = (struct nef_op_upload_create){.bucket = bucket,
                                                           .key = text("big"),
                                                           .attrs = sample_attrs(),
                                                           .checksum = {NEF_CHECKSUM_CRC32, 1, 0, {0}},
                                                           .owner = text("AKIAEXAMPLE")};
        break;
    case 11:
    case 12:
        op.type = NEF_RECORD_PART_PUT;
        op.u.part_put = (struct nef_op_part_put){.bucket = bucket,
                                                 .key = text("big"),
                                                 .upload = upload,
                                                 .part = NEF_PART_COUNT_MAX,
                                                 .size = i == 11 ? 5u << 20 : NEF_INLINE_BYTES_MAX,
                                                 .md5 = "md5 of the part",
                                                 .checksum = sample_checksum(NEF_CHECKSUM_CRC64NVME, 8),
                                                 .inline_body = i == 12};
        break;
    case 13: {
        struct nef_writer w = nef_writer_of(complete_parts, sizeof(complete_parts));

        for (uint32_t part = 1; part <= 3; part++) {
            nef_write_u32(&w, part * 7);
            nef_write_copy(&w, "0123456789abcdef", 16);
        }
        op.type = NEF_RECORD_UPLOAD_COMPLETE;
        op.u.upload_complete =
            (struct nef_op_upload_complete){.bucket = bucket,
                                            .key = text("big"),
                                            .upload = upload,
                                            .etag = "0123456789abcdef0123456789abcdef-3",
                                            .checksum = sample_checksum(NEF_CHECKSUM_SHA1, 20),
                                            .condition = none,
                                            .part_count = 3,
                                            .parts = complete_parts};
        break;
    }
    case 14:
        op.type = NEF_RECORD_UPLOAD_ABORT;
        op.u.upload_abort = (struct nef_op_upload_abort){bucket, text("big"), upload};
        break;
    case 15:
        op.type = NEF_RECORD_STREAM_ABORT;
        op.u.stream_abort.proposer = 99;
        break;
    case 16:
        op.type = NEF_RECORD_MOVED;
        for (uint64_t n = 0; n < 5; n++) {
            nef_buf_append(&list_buf, upload.bytes, 16);
            nef_buf_u32(&list_buf, (uint32_t)n);
            nef_buf_u64(&list_buf, 64 * n);
            nef_buf_u64(&list_buf, 6400 * n);
        }
        op.u.list.count = 5;
        op.u.list.items = list_buf.data;
        break;
    case 17:
    case 18:
        op.type = i == 17 ? NEF_RECORD_ERASE : NEF_RECORD_DROP;
        nef_buf_u64(&list_buf, 64);
        nef_buf_u64(&list_buf, 1 << 20);
        op.u.list.count = 2;
        op.u.list.items = list_buf.data;
        break;
    case 19:
        op.type = NEF_RECORD_CHECKPOINT_BEGIN;
        op.u.checkpoint_begin.checkpoint = op.stream;
        break;
    case 20:
        op.type = NEF_RECORD_CHECKPOINT_END;
        op.u.checkpoint_end = (struct nef_op_checkpoint_end){.begin = 4096, .rows = 77};
        memset(op.u.checkpoint_end.digest, 9, 32);
        break;
    case 21:
        op = sample(5);
        op.u.user_put.ai = true;
        op.u.user_put.models = text("qwen3,Qwen2.5-7B");
        op.u.user_put.zones = text("a,b");
        op.u.user_put.requests_min = 60;
        op.u.user_put.tokens_min = NEF_AI_BUDGET_MAX;
        op.u.user_put.concurrency = 4;
        op.u.user_put.weight = NEF_AI_WEIGHT_MAX;
        op.u.user_put.priority = 9;
        break;
    case 22:
        op.type = NEF_RECORD_BUDGET;
        op.bucket_key = region_key;
        op.u.budget = (struct nef_op_budget){.zone = text("a"), .start = 7, .count = 2};
        sample_entries(&op.u.budget);
        break;
    default:
        op.type = NEF_RECORD_OVERRIDE;
        op.u.override = (struct nef_op_override){.epoch = 12, .end = 8192};
        break;
    }
    return op;
}

bool is_clear(uint16_t type)
{
    return type != NEF_RECORD_BUCKET_PUT && type != NEF_RECORD_USER_PUT && type != NEF_RECORD_BUDGET &&
           !(type >= NEF_RECORD_OBJECT_PUT && type <= NEF_RECORD_UPLOAD_ABORT);
}

void expect_same(const struct nef_op *a, const struct nef_op *b)
{
    struct nef_buf x = {0}, y = {0};

    nef_op_encode(a, &x);
    nef_op_encode(b, &y);
    assert_int_equal(nef_buf_end(&x), NEF_OK);
    assert_int_equal(x.bytes, y.bytes);
    assert_memory_equal(x.data, y.data, x.bytes);
    nef_buf_free(&x);
    nef_buf_free(&y);
}
