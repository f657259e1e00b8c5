/* Conditions, entity tags, dates and ranges. */
#include "s3_test.h"

#include "s3/condition.h"
#include "s3/range.h"

#define NOW      1700000000
#define MODIFIED 784111777 /* Sun, 06 Nov 1994 08:49:37 GMT */
#define SAME     "Sun, 06 Nov 1994 08:49:37 GMT"
#define BEFORE   "Sun, 06 Nov 1994 08:49:36 GMT"
#define AFTER    "Sun, 06 Nov 1994 08:49:38 GMT"

static void dates(void **state)
{
    static const char *const good[] = {SAME, "Sunday, 06-Nov-94 08:49:37 GMT",
                                       "Sun Nov  6 08:49:37 1994"};
    static const char *const bad[] = {"",
                                      "x",
                                      "Sun, 6 Nov 1994 08:49:37 GMT",
                                      "Sun, 06 Nov 1994 08:49:37 CET",
                                      "Sun, 06 Nov 1994 08:49:37 GMT ",
                                      "Sun, 31 Feb 1994 08:49:37 GMT",
                                      "Sun, 06 Nov 1994 24:49:37 GMT",
                                      "Sun, 06 Nox 1994 08:49:37 GMT",
                                      "Sun, 06 Nov 199",
                                      "Sun,",
                                      "Sun ",
                                      "Sunday,"};
    char http[NEF_HTTP_DATE_BYTES], iso[NEF_ISO_DATE_BYTES], basic[17];
    int64_t s;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(nef_s3_date_parse(good[i], NOW, &s), NEF_OK);
        assert_int_equal(s, MODIFIED);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(nef_s3_date_parse(bad[i], NOW, &s), NEF_E_INVALID);
    assert_int_equal(nef_s3_date_parse("Tue, 29 Feb 2000 00:00:00 GMT", NOW, &s), NEF_OK);
    assert_int_equal(s, 951782400);
    assert_int_equal(nef_s3_date_parse("Thu, 29 Feb 1900 00:00:00 GMT", NOW, &s), NEF_E_INVALID);
    nef_s3_date_http(MODIFIED, http);
    assert_string_equal(http, SAME);
    nef_s3_date_iso(1255369830123, iso);
    assert_string_equal(iso, "2009-10-12T17:50:30.123Z");
    nef_s3_date_iso(-1, iso);
    assert_string_equal(iso, "1969-12-31T23:59:59.999Z");
    nef_s3_date_iso(INT64_MAX, iso);
    assert_int_equal(strlen(iso), 24);
    assert_int_equal(nef_s3_date_basic("20130524T000000Z", &s), NEF_OK);
    assert_int_equal(s, 1369353600);
    nef_s3_date_basic_text(s, basic);
    assert_string_equal(basic, "20130524T000000Z");
    assert_int_equal(nef_s3_date_basic("20130524T000000", &s), NEF_E_INVALID);
    assert_int_equal(nef_s3_date_basic("20131324T000000Z", &s), NEF_E_INVALID);
    for (int64_t day = -800000; day < 800000; day += 997) { /* there and back */
        char text[17];

        if (day * 86400 < -62167219200 || day > 2900000)
            continue;
        nef_s3_date_basic_text(day * 86400 + 3661, text);
        assert_int_equal(nef_s3_date_basic(text, &s), NEF_OK);
        assert_int_equal(s, day * 86400 + 3661);
    }
}

static void etags(void **state)
{
    (void)state;
    assert_true(nef_s3_etag_list_has("\"a\"", "a", false));
    assert_true(nef_s3_etag_list_has("a", "a", false));
    assert_true(nef_s3_etag_list_has("\"x\" , \"a\"", "a", false));
    assert_true(nef_s3_etag_list_has("x,a", "a", false));
    assert_true(nef_s3_etag_list_has("*", "a", false));
    assert_true(nef_s3_etag_list_has("W/\"a\"", "a", true));
    assert_false(nef_s3_etag_list_has("W/\"a\"", "a", false));
    assert_false(nef_s3_etag_list_has("\"aa\"", "a", true));
    assert_false(nef_s3_etag_list_has("\"*\"", "a", true));
    assert_false(nef_s3_etag_list_has("", "a", true));
    assert_false(nef_s3_etag_list_has("\"", "a", true));
    assert_false(nef_s3_etag_list_has(",,, ,", "a", true));
}

static void precedence(void **state)
{
    static const struct {
        struct nef_s3_conditions c;
        enum nef_s3_verdict read, copy;
        const char *failed;
    } cases[] = {
        {{NULL, NULL, NULL, NULL}, NEF_S3_VERDICT_GO, NEF_S3_VERDICT_GO, NULL},
        {{"\"e\"", NULL, NULL, NULL}, NEF_S3_VERDICT_GO, NEF_S3_VERDICT_GO, NULL},
        {{"\"x\"", NULL, NULL, NULL}, NEF_S3_VERDICT_FAILED, NEF_S3_VERDICT_FAILED, "If-Match"},
        {{NULL, "\"e\"", NULL, NULL},
         NEF_S3_VERDICT_NOT_MODIFIED,
         NEF_S3_VERDICT_FAILED,
         "If-None-Match"},
        {{NULL, "*", NULL, NULL},
         NEF_S3_VERDICT_NOT_MODIFIED,
         NEF_S3_VERDICT_FAILED,
         "If-None-Match"},
        {{NULL, "\"x\"", NULL, NULL}, NEF_S3_VERDICT_GO, NEF_S3_VERDICT_GO, NULL},
        {{NULL, NULL, SAME, NULL},
         NEF_S3_VERDICT_NOT_MODIFIED,
         NEF_S3_VERDICT_FAILED,
         "If-Modified-Since"},
        {{NULL, NULL, BEFORE, NULL}, NEF_S3_VERDICT_GO, NEF_S3_VERDICT_GO, NULL},
        {{NULL, NULL, NULL, SAME}, NEF_S3_VERDICT_GO, NEF_S3_VERDICT_GO, NULL},
        {{NULL, NULL, NULL, BEFORE},
         NEF_S3_VERDICT_FAILED,
         NEF_S3_VERDICT_FAILED,
         "If-Unmodified-Since"},
        /* S3: If-Match true and If-Unmodified-Since false: 200 */
        {{"\"e\"", NULL, NULL, BEFORE}, NEF_S3_VERDICT_GO, NEF_S3_VERDICT_GO, NULL},
        /* S3: If-None-Match false and If-Modified-Since true: 304 */
        {{NULL, "\"e\"", BEFORE, NULL},
         NEF_S3_VERDICT_NOT_MODIFIED,
         NEF_S3_VERDICT_FAILED,
         "If-None-Match"},
        {{NULL, "\"x\"", AFTER, NULL}, NEF_S3_VERDICT_GO, NEF_S3_VERDICT_GO, NULL},
        /* invalid dates, and dates to come, are no conditions */
        {{NULL, NULL, "yesterday", "tomorrow"}, NEF_S3_VERDICT_GO, NEF_S3_VERDICT_GO, NULL},
        {{NULL, NULL, "Fri, 01 Jan 2100 00:00:00 GMT", NULL},
         NEF_S3_VERDICT_GO,
         NEF_S3_VERDICT_GO,
         NULL},
    };
    struct nef_s3_error why = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *failed = NULL, *failed_copy = NULL;

        assert_int_equal(nef_s3_condition_read(&cases[i].c, "e", MODIFIED, NOW, &failed),
                         cases[i].read);
        assert_int_equal(nef_s3_condition_copy(&cases[i].c, "e", MODIFIED, NOW, &failed_copy),
                         cases[i].copy);
        if (cases[i].failed == NULL) {
            assert_null(failed);
            assert_null(failed_copy);
        } else {
            assert_string_equal(failed, cases[i].failed);
            assert_string_equal(failed_copy + 18, cases[i].failed);
        }
        (void)nef_s3_condition_copy(&cases[i].c, "e", MODIFIED, NOW, NULL);
    }
    assert_int_equal(nef_s3_condition_refuse("If-Match", &why), NEF_E_INVALID);
    assert_int_equal(nef_s3_code_status(why.code), 412);
    assert_string_equal(extra_of(&why, "Condition"), "If-Match");
}

static void ranges(void **state)
{
    static const struct {
        const char *header;
        uint64_t object, first, bytes;
        int result; /* 0: whole, 1: partial, 2: 416 */
    } cases[] = {
        {NULL, 100, 0, 100, 0},
        {"bytes=0-9", 100, 0, 10, 1},
        {"bytes=0-0", 100, 0, 1, 1},
        {"bytes=90-", 100, 90, 10, 1},
        {"bytes=90-1000", 100, 90, 10, 1},
        {"bytes=-10", 100, 90, 10, 1},
        {"bytes=-1000", 100, 0, 100, 1},
        {"bytes=0-99999999999999999999999", 100, 0, 100, 1},
        {"Bytes= 5-6 ", 100, 5, 2, 1},
        {"bytes=99-99", 100, 99, 1, 1},
        {"bytes=100-", 100, 0, 0, 2},
        {"bytes=100-200", 100, 0, 0, 2},
        {"bytes=99999999999999999999-", 100, 0, 0, 2},
        {"bytes=-0", 100, 0, 0, 2},
        {"bytes=0-", 0, 0, 0, 2},
        {"bytes=-5", 0, 0, 0, 2},
        {"bytes=9-5", 100, 0, 100, 0},
        {"bytes=0-1,5-6", 100, 0, 100, 0},
        {"bytes=a-b", 100, 0, 100, 0},
        {"bytes=", 100, 0, 100, 0},
        {"bytes=-", 100, 0, 100, 0},
        {"bytes=5", 100, 0, 100, 0},
        {"bytes=5-6x", 100, 0, 100, 0},
        {"lines=0-9", 100, 0, 100, 0},
        {"", 100, 0, 100, 0},
    };
    struct nef_s3_error why = {0};
    uint64_t first, last;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nef_s3_range range;
        nef_err err = nef_s3_range_resolve(cases[i].header, cases[i].object, &range, &why);

        if (cases[i].result == 2) {
            assert_int_equal(err, NEF_E_RANGE);
            assert_code(why, "InvalidRange");
            assert_string_equal(extra_of(&why, "RangeRequested"), cases[i].header);
            continue;
        }
        assert_int_equal(err, NEF_OK);
        assert_int_equal(range.partial, cases[i].result);
        assert_int_equal(range.first, cases[i].first);
        assert_int_equal(range.bytes, cases[i].bytes);
    }
    assert_int_equal(nef_s3_range_exact("bytes=5-9", &first, &last), NEF_OK);
    assert_true(first == 5 && last == 9);
    assert_int_equal(nef_s3_range_exact("bytes=5-", &first, &last), NEF_E_INVALID);
    assert_int_equal(nef_s3_range_exact("bytes=9-5", &first, &last), NEF_E_INVALID);
    assert_int_equal(nef_s3_range_exact("b", &first, &last), NEF_E_INVALID);
    assert_int_equal(nef_s3_range_exact("bytes=0-99999999999999999999", &first, &last),
                     NEF_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dates),
        cmocka_unit_test(etags),
        cmocka_unit_test(precedence),
        cmocka_unit_test(ranges),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
