/* XML: hostile and well-meant request bodies, and the text of every result document. */
#include "s3_test.h"

#include "base/buf.h"
#include "s3/xml.h"

#define NS   " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""
#define DECL "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"

static struct nef_s3_error why;

static void complete_is_parsed(void **state)
{
    static const char body[] = DECL
        "<CompleteMultipartUpload" NS ">\n <Part>\n"
        "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><PartNumber>1</PartNumber></Part>"
        "<Part><PartNumber>10000</PartNumber><ChecksumCRC32>y/Q5Jg==</ChecksumCRC32>"
        "<ETag>abc</ETag><Unknown><Part/></Unknown></Part></CompleteMultipartUpload>";
    struct nef_s3_complete c;

    (void)state;
    assert_int_equal(nef_s3_xml_parse_complete(body, sizeof(body) - 1, &c, &why), NEF_OK);
    assert_int_equal(c.part_count, 2);
    assert_int_equal(c.parts[0].number, 1);
    assert_string_equal(c.parts[0].etag, "d41d8cd98f00b204e9800998ecf8427e");
    assert_int_equal(c.parts[0].checksum.kind, NEF_S3_CHECKSUM_NONE);
    assert_int_equal(c.parts[1].number, 10000);
    assert_string_equal(c.parts[1].etag, "abc");
    assert_int_equal(c.parts[1].checksum.kind, NEF_S3_CHECKSUM_CRC32);
    nef_s3_complete_free(&c);
}

static void complete_refused(const char *body, const char *code)
{
    struct nef_s3_complete c;

    assert_int_not_equal(nef_s3_xml_parse_complete(body, strlen(body), &c, &why), NEF_OK);
    assert_code(why, code);
}

static void complete_is_checked(void **state)
{
    struct nef_buf b = {0};
    struct nef_s3_complete c;

    (void)state;
    complete_refused("", "InvalidRequest");
    complete_refused("x", "MalformedXML");
    complete_refused("<CompleteMultipartUpload/>", "MalformedXML");
    complete_refused("<Delete><Object><Key>k</Key></Object></Delete>", "MalformedXML");
    complete_refused("<CompleteMultipartUpload><Part></CompleteMultipartUpload>", "MalformedXML");
    complete_refused("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part>"
                     "</CompleteMultipartUpload>",
                     "MalformedXML");
    complete_refused("<CompleteMultipartUpload><Part><ETag>a</ETag></Part>"
                     "</CompleteMultipartUpload>",
                     "MalformedXML");
    complete_refused(
        "<CompleteMultipartUpload><Part><PartNumber>0</PartNumber><ETag>a</ETag></Part>"
        "</CompleteMultipartUpload>",
        "InvalidArgument");
    complete_refused("<CompleteMultipartUpload><Part><PartNumber>10001</PartNumber></Part>"
                     "</CompleteMultipartUpload>",
                     "InvalidArgument");
    complete_refused(
        "<CompleteMultipartUpload><a><b><c><d><e><f><g><h/></g></f></e></d></c></b></a>"
        "</CompleteMultipartUpload>",
        "MalformedXML");
    /* no document types: no entities, no expansion */
    complete_refused(
        "<!DOCTYPE a [<!ENTITY x \"1\"><!ENTITY y \"&x;&x;&x;\">]>"
        "<CompleteMultipartUpload><Part><PartNumber>&y;</PartNumber><ETag>a</ETag></Part>"
        "</CompleteMultipartUpload>",
        "MalformedXML");
    complete_refused("<!DOCTYPE CompleteMultipartUpload SYSTEM \"file:///etc/passwd\">"
                     "<CompleteMultipartUpload/>",
                     "MalformedXML");
    nef_buf_text(&b, "<CompleteMultipartUpload>");
    for (int i = 0; i < 10000; i++)
        nef_buf_text(&b, "<Part><PartNumber>1</PartNumber><ETag>a</ETag></Part>");
    nef_buf_text(&b, "</CompleteMultipartUpload>");
    assert_int_equal(nef_s3_xml_parse_complete(b.data, b.bytes, &c, &why), NEF_OK);
    assert_int_equal(c.part_count, 10000);
    nef_s3_complete_free(&c);
    b.bytes -= strlen("</CompleteMultipartUpload>");
    nef_buf_text(&b, "<Part><PartNumber>1</PartNumber><ETag>a</ETag></Part>"
                     "</CompleteMultipartUpload>");
    assert_int_not_equal(nef_s3_xml_parse_complete(b.data, b.bytes, &c, &why), NEF_OK);
    while (b.bytes <= NEF_XML_BODY_MAX)
        nef_buf_text(&b, "                                                                ");
    assert_int_not_equal(nef_s3_xml_parse_complete(b.data, b.bytes, &c, &why), NEF_OK);
    assert_code(why, "MaxMessageLengthExceeded");
    nef_buf_free(&b);
}

static nef_err parse_delete(const char *body, struct nef_s3_delete *d)
{
    return nef_s3_xml_parse_delete(body, strlen(body), d, &why);
}

static void delete_is_parsed(void **state)
{
    struct nef_s3_delete d;
    struct nef_buf b = {0};

    (void)state;
    assert_int_equal(parse_delete("<Delete" NS
                                  "><Quiet>true</Quiet><Object><Key> a&amp;b&#233; </Key></Object>"
                                  "<Object><VersionId>null</VersionId><Key><![CDATA[<c>]]></Key>"
                                  "<ETag>\"e\"</ETag></Object>"
                                  "<Object><Key>d</Key><VersionId>7</VersionId></Object></Delete>",
                                  &d),
                     NEF_OK);
    assert_true(d.quiet);
    assert_int_equal(d.item_count, 3);
    assert_string_equal(d.items[0].object_key, " a&b\xC3\xA9 ");
    assert_int_equal(d.items[0].object_key_bytes, 7);
    assert_null(d.items[0].etag);
    assert_string_equal(d.items[1].object_key, "<c>");
    assert_string_equal(d.items[1].etag, "e");
    assert_false(d.items[1].bad_version);
    assert_true(d.items[2].bad_version);
    nef_s3_delete_free(&d);

    assert_int_not_equal(parse_delete("", &d), NEF_OK);
    assert_code(why, "MissingRequestBodyError");
    assert_int_not_equal(parse_delete("<Delete/>", &d), NEF_OK);
    assert_code(why, "MalformedXML");
    assert_int_not_equal(parse_delete("<Delete><Object/></Delete>", &d), NEF_OK);
    assert_int_not_equal(parse_delete("<Delete><Object><Key/></Object></Delete>", &d), NEF_OK);
    assert_int_not_equal(
        parse_delete("<Delete><Object><Key>a</Key><Size>1</Size></Object></Delete>", &d), NEF_OK);
    assert_code(why, "NotImplemented");
    nef_buf_text(&b, "<Delete>");
    for (int i = 0; i < 1000; i++)
        nef_buf_printf(&b, "<Object><Key>%d</Key></Object>", i);
    nef_buf_text(&b, "</Delete>");
    assert_int_equal(parse_delete(nef_buf_cstr(&b), &d), NEF_OK);
    assert_int_equal(d.item_count, 1000);
    assert_string_equal(d.items[999].object_key, "999");
    nef_s3_delete_free(&d);
    b.bytes -= strlen("</Delete>");
    nef_buf_text(&b, "<Object><Key>x</Key></Object></Delete>");
    assert_int_not_equal(parse_delete(nef_buf_cstr(&b), &d), NEF_OK);
    nef_buf_reset(&b);
    nef_buf_text(&b, "<Delete><Object><Key>");
    for (int i = 0; i < 1025; i++)
        nef_buf_text(&b, "k");
    nef_buf_text(&b, "</Key></Object></Delete>");
    assert_int_not_equal(parse_delete(nef_buf_cstr(&b), &d), NEF_OK);
    assert_code(why, "KeyTooLongError");
    nef_buf_free(&b);
}

static nef_err create(const char *body)
{
    return nef_s3_xml_parse_create_bucket(body, strlen(body), "eu-paris", &why);
}

static void create_bucket(void **state)
{
#define CONSTRAINT(text)                                                                           \
    "<CreateBucketConfiguration" NS "><LocationConstraint>" text                                   \
    "</LocationConstraint></CreateBucketConfiguration>"
    (void)state;
    assert_int_equal(create(""), NEF_OK);
    assert_int_equal(create("<CreateBucketConfiguration/>"), NEF_OK);
    assert_int_equal(create(CONSTRAINT("eu-paris")), NEF_OK);
    assert_int_equal(create(CONSTRAINT("us-east-1")), NEF_OK);
    assert_int_not_equal(create(CONSTRAINT("eu-west-1")), NEF_OK);
    assert_code(why, "IllegalLocationConstraintException");
    assert_int_not_equal(create("<x/>"), NEF_OK);
    assert_int_not_equal(create("<CreateBucketConfiguration><Bucket><Type>Directory</Type></Bucket>"
                                "</CreateBucketConfiguration>"),
                         NEF_OK);
    assert_code(why, "NotImplemented");
}

static struct nef_buf out;

static void wrote(const char *expected)
{
    assert_int_equal(nef_buf_end(&out), NEF_OK);
    assert_string_equal(nef_buf_cstr(&out), expected);
    nef_buf_free(&out);
}

static void escaping(void **state)
{
    (void)state;
    nef_s3_xml_text(&out, "a<b>&\"'\x01\r\n\t\x7F\xC3\xA9\xEF\xBF\xBF\xFF\xC3", 19);
    wrote("a&lt;b&gt;&amp;&quot;'&#x1;&#xd;\n\t&#x7f;\xC3\xA9&#xffff;\xEF\xBF\xBD\xEF\xBF\xBD");
    nef_s3_xml_url(&out, "a b/c+%\xC3\xA9~*(\x01", 13);
    wrote("a+b/c%2B%25%C3%A9%7E*%28%01");
}

static const struct nef_s3_owner owner = {"id", "nef"};

static void small_documents(void **state)
{
    const struct nef_s3_xml_bucket bucket = {"b", 0};
    struct nef_s3_checksum_value sum;

    (void)state;
    assert_int_equal(nef_s3_checksum_parse(NEF_S3_CHECKSUM_CRC32, "y/Q5Jg==-2", true, &sum),
                     NEF_OK);
    nef_s3_xml_list_buckets(&out, &owner, "eu-paris", &bucket, 1, NULL, NULL);
    wrote(DECL
          "<ListAllMyBucketsResult" NS "><Owner><ID>id</ID><DisplayName>nef</DisplayName></Owner>"
          "<Buckets><Bucket><Name>b</Name><CreationDate>1970-01-01T00:00:00.000Z</CreationDate>"
          "<BucketRegion>eu-paris</BucketRegion></Bucket></Buckets></ListAllMyBucketsResult>");
    nef_s3_xml_location(&out, "eu-paris");
    wrote(DECL "<LocationConstraint" NS ">eu-paris</LocationConstraint>");
    nef_s3_xml_location(&out, "us-east-1");
    wrote(DECL "<LocationConstraint" NS "></LocationConstraint>");
    nef_s3_xml_versioning(&out);
    wrote(DECL "<VersioningConfiguration" NS "></VersioningConfiguration>");
    nef_s3_xml_initiate(&out, "b", "k&", 2, "u");
    wrote(DECL "<InitiateMultipartUploadResult" NS "><Bucket>b</Bucket><Key>k&amp;</Key>"
               "<UploadId>u</UploadId></InitiateMultipartUploadResult>");
    nef_s3_xml_complete(&out, "http://h/b/k", "b", "k", 1, "e-2", &sum);
    wrote(DECL "<CompleteMultipartUploadResult" NS "><Location>http://h/b/k</Location>"
               "<Bucket>b</Bucket><Key>k</Key><ETag>&quot;e-2&quot;</ETag>"
               "<ChecksumCRC32>y/Q5Jg==-2</ChecksumCRC32><ChecksumType>COMPOSITE</ChecksumType>"
               "</CompleteMultipartUploadResult>");
    nef_s3_xml_copy_object(&out, "e", 1000, NULL);
    wrote(DECL "<CopyObjectResult" NS "><LastModified>1970-01-01T00:00:01.000Z</LastModified>"
               "<ETag>&quot;e&quot;</ETag></CopyObjectResult>");
    nef_s3_xml_copy_part(&out, "e", 1000, &sum);
    wrote(DECL
          "<CopyPartResult" NS "><LastModified>1970-01-01T00:00:01.000Z</LastModified>"
          "<ETag>&quot;e&quot;</ETag><ChecksumCRC32>y/Q5Jg==-2</ChecksumCRC32></CopyPartResult>");
}

static void delete_results(void **state)
{
    static const struct nef_s3_xml_deleted items[] = {{"a", 1, false, 0, NULL},
                                                      {"b", 1, true, NEF_S3_ACCESS_DENIED, NULL}};

    (void)state;
    nef_s3_xml_delete_result(&out, items, 2, false);
    wrote(DECL "<DeleteResult" NS "><Deleted><Key>a</Key></Deleted><Error><Key>b</Key>"
               "<Code>AccessDenied</Code><Message>Access Denied</Message></Error></DeleteResult>");
    nef_s3_xml_delete_result(&out, items, 2, true);
    wrote(DECL "<DeleteResult" NS "><Error><Key>b</Key><Code>AccessDenied</Code>"
               "<Message>Access Denied</Message></Error></DeleteResult>");
}

static void listings(void **state)
{
    static const struct nef_s3_xml_object rows[] = {
        {"a b", 3, false, 0, 5, "e", NEF_S3_CHECKSUM_CRC32, NEF_S3_CHECKSUM_FULL_OBJECT},
        {"d/", 2, true, 0, 0, NULL, 0, 0}};
    struct nef_s3_xml_listing l = {.bucket = "b",
                                   .prefix = "",
                                   .delimiter = "/",
                                   .encoding_url = true,
                                   .max = 2,
                                   .truncated = true,
                                   .objects = rows,
                                   .object_count = 2,
                                   .next_continuation_token = "t",
                                   .next_marker = "d/",
                                   .next_key_marker = "d/"};

    (void)state;
#define ROW(extra)                                                                                 \
    "<LastModified>1970-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"              \
    "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>"         \
    "<Size>5</Size>" extra "<StorageClass>STANDARD</StorageClass>"
#define PREFIXES "<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>"
    nef_s3_xml_list_objects_v2(&out, &l);
    wrote(DECL
          "<ListBucketResult" NS "><Name>b</Name><Prefix></Prefix>"
          "<NextContinuationToken>t</NextContinuationToken><KeyCount>2</KeyCount>"
          "<MaxKeys>2</MaxKeys><Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>"
          "<EncodingType>url</EncodingType><Contents><Key>a+b</Key>" ROW("") "</Contents>" PREFIXES
                                                                             "</ListBucketResult>");
    l.encoding_url = false;
    l.owner = &owner;
    nef_s3_xml_list_objects(&out, &l);
    wrote(DECL
          "<ListBucketResult" NS "><Name>b</Name><Prefix></Prefix><Marker></Marker>"
          "<NextMarker>d/</NextMarker><MaxKeys>2</MaxKeys><Delimiter>/</Delimiter>"
          "<IsTruncated>true</IsTruncated><Contents><Key>a b</Key>" ROW(
              "<Owner><ID>id</ID><DisplayName>nef</DisplayName></Owner>") "</Contents>" PREFIXES
                                                                          "</ListBucketResult>");
    l.owner = NULL;
    nef_s3_xml_list_versions(&out, &l);
    wrote(DECL "<ListVersionsResult" NS "><Name>b</Name><Prefix></Prefix><KeyMarker></KeyMarker>"
               "<VersionIdMarker></VersionIdMarker><NextKeyMarker>d/</NextKeyMarker>"
               "<MaxKeys>2</MaxKeys><Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>"
               "<Version><Key>a b</Key><VersionId>null</VersionId><IsLatest>true</IsLatest>" ROW(
                   "") "</Version>" PREFIXES "</ListVersionsResult>");
}

static void uploads_and_parts(void **state)
{
    static const struct nef_s3_xml_upload uploads[] = {{"k", 1, false, "u", 0, 0, 0}};
    static const struct nef_s3_xml_part parts[] = {{3, 0, 5, "e", {0}}};
    const struct nef_s3_xml_uploads l = {
        .bucket = "b", .max = 1000, .uploads = uploads, .upload_count = 1};
    const struct nef_s3_xml_parts p = {.bucket = "b",
                                       .object_key = "k",
                                       .object_key_bytes = 1,
                                       .upload_id = "u",
                                       .next_marker = 3,
                                       .max = 1,
                                       .truncated = true,
                                       .parts = parts,
                                       .part_count = 1};

    (void)state;
    nef_s3_xml_list_uploads(&out, &l);
    wrote(DECL
          "<ListMultipartUploadsResult" NS "><Bucket>b</Bucket><KeyMarker></KeyMarker>"
          "<UploadIdMarker></UploadIdMarker><Prefix></Prefix><MaxUploads>1000</MaxUploads>"
          "<IsTruncated>false</IsTruncated><Upload><Key>k</Key><UploadId>u</UploadId>"
          "<StorageClass>STANDARD</StorageClass><Initiated>1970-01-01T00:00:00.000Z</Initiated>"
          "</Upload></ListMultipartUploadsResult>");
    nef_s3_xml_list_parts(&out, &p);
    wrote(DECL "<ListPartsResult" NS "><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId>"
               "<StorageClass>STANDARD</StorageClass><PartNumberMarker>0</PartNumberMarker>"
               "<NextPartNumberMarker>3</NextPartNumberMarker><MaxParts>1</MaxParts>"
               "<IsTruncated>true</IsTruncated><Part><PartNumber>3</PartNumber>"
               "<LastModified>1970-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
               "<Size>5</Size></Part></ListPartsResult>");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(complete_is_parsed), cmocka_unit_test(complete_is_checked),
        cmocka_unit_test(delete_is_parsed),   cmocka_unit_test(create_bucket),
        cmocka_unit_test(escaping),           cmocka_unit_test(small_documents),
        cmocka_unit_test(delete_results),     cmocka_unit_test(listings),
        cmocka_unit_test(uploads_and_parts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
