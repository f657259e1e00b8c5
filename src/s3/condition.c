/* Conditional requests, entity tags and dates. The order of the conditions is RFC 9110's (13.2.2):
 * If-Match, else If-Unmodified-Since; then If-None-Match, else If-Modified-Since. S3 documents the
 * two mixed cases that follow from it: a true If-Match makes a false If-Unmodified-Since irrelevant
 * (200), a false If-None-Match makes a true If-Modified-Since irrelevant (304). */
#include "s3/condition.h"
#include <string.h>

/* ---- entity tags ---- */

bool nef_s3_etag_list_has(const char *list, const char *etag, bool weak_allowed)
{
    size_t etag_bytes = strlen(etag);
    const char *p = list;

    while (*p != '\0') {
        const char *tag;
        size_t bytes;
        bool weak = false;

        while (*p == ' ' || *p == '\t' || *p == ',')
            p++;
        if (*p == '\0')
            break;
        if (p[0] == 'W' && p[1] == '/' && p[2] == '"') {
            weak = true;
            p += 2;
        }
        if (*p == '"') {
            tag = ++p;
            while (*p != '\0' && *p != '"')
                p++;
            bytes = (size_t)(p - tag);
            if (*p == '"')
                p++;
        } else {
            tag = p;
            while (*p != '\0' && *p != ',' && *p != ' ' && *p != '\t')
                p++;
            bytes = (size_t)(p - tag);
            if (bytes == 1 && *tag == '*')
                return true;
        }
        if ((!weak || weak_allowed) && bytes == etag_bytes && memcmp(tag, etag, bytes) == 0)
            return true;
    }
    return false;
}

/* ---- evaluation ---- */

static enum nef_s3_verdict evaluate(const struct nef_s3_conditions *c, const char *etag,
                                    int64_t modified_s, int64_t now_s,
                                    enum nef_s3_verdict unchanged, const char **out_condition)
{
    const char *ignored;
    int64_t date_s;

    if (out_condition == NULL)
        out_condition = &ignored;
    if (c->if_match != NULL) {
        if (!nef_s3_etag_list_has(c->if_match, etag, false)) {
            *out_condition = "If-Match";
            return NEF_S3_VERDICT_FAILED;
        }
    } else if (c->if_unmodified_since != NULL &&
               nef_s3_date_parse(c->if_unmodified_since, now_s, &date_s) == NEF_OK &&
               modified_s > date_s) {
        *out_condition = "If-Unmodified-Since";
        return NEF_S3_VERDICT_FAILED;
    }
    if (c->if_none_match != NULL) {
        if (nef_s3_etag_list_has(c->if_none_match, etag, true)) {
            *out_condition = "If-None-Match";
            return unchanged;
        }
    } else if (c->if_modified_since != NULL &&
               nef_s3_date_parse(c->if_modified_since, now_s, &date_s) == NEF_OK &&
               date_s <= now_s && modified_s <= date_s) {
        *out_condition = "If-Modified-Since";
        return unchanged;
    }
    return NEF_S3_VERDICT_GO;
}

enum nef_s3_verdict nef_s3_condition_read(const struct nef_s3_conditions *c, const char *etag,
                                          int64_t modified_s, int64_t now_s,
                                          const char **out_condition)
{
    return evaluate(c, etag, modified_s, now_s, NEF_S3_VERDICT_NOT_MODIFIED, out_condition);
}

enum nef_s3_verdict nef_s3_condition_copy(const struct nef_s3_conditions *c, const char *etag,
                                          int64_t modified_s, int64_t now_s,
                                          const char **out_condition)
{
    enum nef_s3_verdict verdict =
        evaluate(c, etag, modified_s, now_s, NEF_S3_VERDICT_FAILED, out_condition);

    if (verdict != NEF_S3_VERDICT_GO && out_condition != NULL) {
        /* the same conditions under the names the client used */
        static const char *const names[][2] = {
            {"If-Match", "x-amz-copy-source-If-Match"},
            {"If-None-Match", "x-amz-copy-source-If-None-Match"},
            {"If-Modified-Since", "x-amz-copy-source-If-Modified-Since"},
            {"If-Unmodified-Since", "x-amz-copy-source-If-Unmodified-Since"},
        };
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
            if (strcmp(*out_condition, names[i][0]) == 0) {
                *out_condition = names[i][1];
                break;
            }
    }
    return verdict;
}

nef_err nef_s3_condition_refuse(const char *condition, struct nef_s3_error *why)
{
    nef_err err = nef_s3_refuse(why, NEF_S3_PRECONDITION_FAILED, NULL);

    nef_s3_error_extra(why, "Condition", condition);
    return err;
}

/* ---- dates ---- */

static const char month_names[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
static const char day_names[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};

/* Howard Hinnant's days_from_civil: years begin in March, eras of 400 years. */
int64_t nef_s3_days(int64_t year, unsigned month, unsigned day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t year_of_era = y - era * 400;
    int64_t day_of_year = (153 * ((int64_t)month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

    return era * 146097 + day_of_era - 719468;
}

struct civil {
    int64_t year;
    unsigned month, day, hour, minute, second, weekday;
};

static struct civil civil_of(int64_t unix_s)
{
    struct civil c;
    int64_t days = unix_s / 86400, rest = unix_s % 86400;
    int64_t era, day_of_era, year_of_era, day_of_year, m;

    if (rest < 0) {
        rest += 86400;
        days--;
    }
    c.hour = (unsigned)(rest / 3600);
    c.minute = (unsigned)(rest % 3600 / 60);
    c.second = (unsigned)(rest % 60);
    c.weekday = (unsigned)(((days + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */
    days += 719468;
    era = (days >= 0 ? days : days - 146096) / 146097;
    day_of_era = days - era * 146097;
    year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    m = (5 * day_of_year + 2) / 153;
    c.day = (unsigned)(day_of_year - (153 * m + 2) / 5 + 1);
    c.month = (unsigned)(m < 10 ? m + 3 : m - 9);
    c.year = year_of_era + era * 400 + (c.month <= 2 ? 1 : 0);
    return c;
}

static unsigned month_days(int64_t year, unsigned month)
{
    static const unsigned days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

    return month == 2 && leap ? 29 : days[month - 1];
}

static nef_err unix_of(const struct civil *c, int64_t *out_s)
{
    /* second 60 is a leap second: taken as the next second, as RFC 9110's grammar allows it */
    if (c->month < 1 || c->month > 12 || c->day < 1 || c->day > month_days(c->year, c->month) ||
        c->hour > 23 || c->minute > 59 || c->second > 60)
        return NEF_E_INVALID;
    *out_s = nef_s3_days(c->year, c->month, c->day) * 86400 + (int64_t)c->hour * 3600 +
             (int64_t)c->minute * 60 + c->second;
    return NEF_OK;
}

/* A cursor over the text of a date; any mismatch makes it fail for good. */
struct scan {
    const char *p;
    bool failed;
};

static unsigned digits(struct scan *s, unsigned count)
{
    unsigned v = 0;

    for (unsigned i = 0; i < count && !s->failed; i++) {
        if (*s->p < '0' || *s->p > '9')
            s->failed = true;
        else
            v = v * 10 + (unsigned)(*s->p++ - '0');
    }
    return v;
}

static void literal(struct scan *s, const char *text)
{
    size_t bytes = strlen(text);

    if (s->failed || strncmp(s->p, text, bytes) != 0)
        s->failed = true;
    else
        s->p += bytes;
}

static unsigned month(struct scan *s)
{
    for (unsigned i = 0; i < 12 && !s->failed; i++)
        if (strncmp(s->p, month_names[i], 3) == 0) {
            s->p += 3;
            return i + 1;
        }
    s->failed = true;
    return 0;
}

static void clock_time(struct scan *s, struct civil *c)
{
    c->hour = digits(s, 2);
    literal(s, ":");
    c->minute = digits(s, 2);
    literal(s, ":");
    c->second = digits(s, 2);
}

nef_err nef_s3_date_parse(const char *text, int64_t now_s, int64_t *out_s)
{
    struct civil c = {0};
    struct scan s = {text, false};
    size_t name_bytes = strcspn(text, ", ");

    if (name_bytes == 3 && text[3] == ',') { /* Sun, 06 Nov 1994 08:49:37 GMT */
        s.p += 4;
        literal(&s, " ");
        c.day = digits(&s, 2);
        literal(&s, " ");
        c.month = month(&s);
        literal(&s, " ");
        c.year = digits(&s, 4);
        literal(&s, " ");
        clock_time(&s, &c);
        literal(&s, " GMT");
    } else if (name_bytes > 3 && text[name_bytes] == ',') { /* Sunday, 06-Nov-94 08:49:37 GMT */
        int64_t this_year = civil_of(now_s).year;

        s.p += name_bytes + 1;
        literal(&s, " ");
        c.day = digits(&s, 2);
        literal(&s, "-");
        c.month = month(&s);
        literal(&s, "-");
        c.year = this_year - this_year % 100 + digits(&s, 2);
        if (c.year > this_year + 50) /* RFC 9110, 5.6.7: then it is in the past */
            c.year -= 100;
        literal(&s, " ");
        clock_time(&s, &c);
        literal(&s, " GMT");
    } else if (name_bytes == 3 && text[3] == ' ') { /* Sun Nov  6 08:49:37 1994 */
        s.p += 4;
        c.month = month(&s);
        literal(&s, " ");
        if (*s.p == ' ') {
            s.p++;
            c.day = digits(&s, 1);
        } else {
            c.day = digits(&s, 2);
        }
        literal(&s, " ");
        clock_time(&s, &c);
        literal(&s, " ");
        c.year = digits(&s, 4);
    } else {
        return NEF_E_INVALID;
    }
    if (s.failed || *s.p != '\0')
        return NEF_E_INVALID;
    return unix_of(&c, out_s);
}

nef_err nef_s3_date_basic(const char *text, int64_t *out_s)
{
    struct civil c = {0};
    struct scan s = {text, false};

    c.year = digits(&s, 4);
    c.month = digits(&s, 2);
    c.day = digits(&s, 2);
    literal(&s, "T");
    c.hour = digits(&s, 2);
    c.minute = digits(&s, 2);
    c.second = digits(&s, 2);
    literal(&s, "Z");
    if (s.failed || *s.p != '\0')
        return NEF_E_INVALID;
    return unix_of(&c, out_s);
}

/* Four digits whatever comes: a clock beyond year 9999 must not overrun a header. */
static unsigned year4(int64_t year)
{
    return year < 0 || year > 9999 ? 0 : (unsigned)year;
}

static void two(char *p, unsigned v)
{
    p[0] = (char)('0' + v / 10 % 10);
    p[1] = (char)('0' + v % 10);
}

void nef_s3_date_http(int64_t unix_s, char out[NEF_HTTP_DATE_BYTES])
{
    struct civil c = civil_of(unix_s);
    unsigned year = year4(c.year);

    memcpy(out, "Sun, 00 Jan 0000 00:00:00 GMT", NEF_HTTP_DATE_BYTES);
    memcpy(out, day_names[c.weekday], 3);
    two(out + 5, c.day);
    memcpy(out + 8, month_names[c.month - 1], 3);
    two(out + 12, year / 100);
    two(out + 14, year % 100);
    two(out + 17, c.hour);
    two(out + 20, c.minute);
    two(out + 23, c.second);
}

void nef_s3_date_iso(int64_t unix_ms, char out[NEF_ISO_DATE_BYTES])
{
    int64_t ms = (unix_ms % 1000 + 1000) % 1000;
    struct civil c = civil_of((unix_ms - ms) / 1000);
    unsigned year = year4(c.year);

    memcpy(out, "0000-00-00T00:00:00.000Z", NEF_ISO_DATE_BYTES);
    two(out, year / 100);
    two(out + 2, year % 100);
    two(out + 5, c.month);
    two(out + 8, c.day);
    two(out + 11, c.hour);
    two(out + 14, c.minute);
    two(out + 17, c.second);
    out[20] = (char)('0' + ms / 100);
    two(out + 21, (unsigned)(ms % 100));
}

void nef_s3_date_basic_text(int64_t unix_s, char out[17])
{
    struct civil c = civil_of(unix_s);
    unsigned year = year4(c.year);

    memcpy(out, "00000000T000000Z", 17);
    two(out, year / 100);
    two(out + 2, year % 100);
    two(out + 4, c.month);
    two(out + 6, c.day);
    two(out + 9, c.hour);
    two(out + 11, c.minute);
    two(out + 13, c.second);
}
