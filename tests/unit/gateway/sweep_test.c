/* What becomes of stored responses in time: responses_sweep.c and the deleting of responses_live.c as they are, above a
 * log and a clock of the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "gateway/responses_internal.h"
#include "http/http.h"
#include "io/clock.h"

#define DAY     86400u
#define KEPT_S  (30u * DAY)
#define BEGIN_S 1700000000u
#define OBJECTS 4000u

static struct {
    uint64_t now_s;
    char names[OBJECTS][NEF_KEEP_NAME_BYTES]; /* "": none */
    unsigned writes_left;                     /* then the zone is lost: no write succeeds */
} w;

/* ---- what the code under test stands on ---- */

uint64_t nef_now_ns(void)
{
    return w.now_s * 1000000000ull;
}

uint64_t nef_wall_ms(void)
{
    return w.now_s * 1000;
}

static char *object(const char *name)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        if (strcmp(w.names[i], name) == 0)
            return w.names[i];
    return NULL;
}

static bool write_fails(void)
{
    if (w.writes_left == 0)
        return true;
    w.writes_left--;
    return false;
}

nef_err nef_keep_put(struct nef_keep *keep, const char *name, const json_t *value, bool once)
{
    char *at = object(name);

    (void)keep;
    (void)value;
    if (write_fails())
        return NEF_E_TIMEOUT;
    if (at != NULL)
        return once ? NEF_E_PRECONDITION : NEF_OK;
    at = object("");
    assert_non_null(at);
    (void)snprintf(at, NEF_KEEP_NAME_BYTES, "%s", name);
    return NEF_OK;
}

nef_err nef_keep_delete(struct nef_keep *keep, const char *name)
{
    char *at = object(name);

    (void)keep;
    if (write_fails())
        return NEF_E_TIMEOUT;
    if (at != NULL)
        at[0] = '\0';
    return NEF_OK;
}

nef_err nef_keep_get(struct nef_keep *keep, const char *name, bool fresh, json_t **out_value)
{
    (void)keep;
    (void)fresh;
    if (object(name) == NULL)
        return NEF_E_NOT_FOUND;
    *out_value = json_array();
    return NEF_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

nef_err nef_keep_list(struct nef_keep *keep, const char *prefix, const char *after,
                      bool (*visit)(void *context, const char *name), void *context)
{
    char(*names)[NEF_KEEP_NAME_BYTES] = calloc(OBJECTS, sizeof(*names));
    unsigned count = 0;

    (void)keep;
    assert_non_null(names);
    for (unsigned i = 0; i < OBJECTS; i++)
        if (w.names[i][0] != '\0')
            memcpy(names[count++], w.names[i], sizeof(w.names[i]));
    qsort(names, count, sizeof(*names), by_name);
    for (unsigned i = 0; i < count; i++)
        if (strncmp(names[i], prefix, strlen(prefix)) == 0 && strcmp(names[i], after) > 0 && !visit(context, names[i]))
            break;
    free(names);
    return NEF_OK;
}

/* None of these is for sweeps. */
void nef_http_wake(struct nef_http_request *r)
{
    (void)r;
}

void live_kick(struct nef_responses *rs)
{
    (void)rs;
}

void responses_job_done(struct nef_responses *rs)
{
    (void)rs;
}

bool live_load_final(struct live *l)
{
    (void)l;
    return false;
}

void nef_limits_settle(struct nef_limits *limits, struct nef_limits_hold *hold, uint64_t tokens)
{
    (void)limits;
    (void)hold;
    (void)tokens;
}

nef_err nef_limits_adopt(struct nef_limits *limits, const struct nef_ai_user *user, uint64_t tokens,
                         struct nef_limits_hold *hold)
{
    (void)limits;
    (void)user;
    (void)tokens;
    (void)hold;
    return NEF_E_NOMEM;
}

nef_err nef_ai_run_start(struct nef_gateway *gateway, const struct nef_ai_run_options *options,
                         struct nef_ai_run **out_run)
{
    (void)gateway;
    (void)options;
    (void)out_run;
    return NEF_E_NOMEM;
}

void nef_ai_run_cancel(struct nef_ai_run *run)
{
    (void)run;
}

void nef_ai_run_unref(struct nef_ai_run *run)
{
    (void)run;
}

/* ---- the tests ---- */

static struct nef_responses *begin(void)
{
    struct nef_responses *rs = calloc(1, sizeof(*rs));

    assert_non_null(rs);
    memset(&w, 0, sizeof(w));
    w.now_s = BEGIN_S;
    w.writes_left = UINT32_MAX;
    rs->options.kept_s = KEPT_S;
    (void)pthread_mutex_init(&rs->lock, NULL);
    return rs;
}

static void id_of(uint64_t made, unsigned number, char out[NEF_RESPONSE_ID_BYTES])
{
    (void)snprintf(out, NEF_RESPONSE_ID_BYTES, "resp_%08lx%06x", (unsigned long)made, number);
}

/* One that was made then, with the names WHAT, of letters: marker, head, records, piece, claim left behind. */
static void make(uint64_t made, unsigned number, const char *what)
{
    char id[NEF_RESPONSE_ID_BYTES], name[NEF_KEEP_NAME_BYTES];

    id_of(made, number, id);
    for (; *what != '\0'; what++) {
        if (*what == 'a')
            (void)snprintf(name, sizeof(name), "a/%s", id);
        else if (*what == 'p')
            live_piece_name(id, 3, name);
        else
            live_name(id, *what == 'h' ? "h" : "f", name);
        assert_int_equal(nef_keep_put(NULL, name, NULL, true), NEF_OK);
    }
}

/* How many objects there are of a response. */
static unsigned left_of(uint64_t made, unsigned number)
{
    char id[NEF_RESPONSE_ID_BYTES];
    unsigned count = 0;

    id_of(made, number, id);
    for (unsigned i = 0; i < OBJECTS; i++)
        count += strstr(w.names[i], id) != NULL;
    return count;
}

static void responses_expire_after_thirty_days(void **state)
{
    struct nef_responses *rs = begin();

    (void)state;
    make(BEGIN_S, 1, "hf");
    make(BEGIN_S, 2, "hfp"); /* a claim that stayed in somebody's way */
    make(BEGIN_S + 1, 3, "hf");
    make(BEGIN_S, 4, "ahp"); /* isn't finished */
    w.now_s = BEGIN_S + KEPT_S - 1;
    responses_expire(rs);
    assert_int_equal(left_of(BEGIN_S, 1), 2);
    w.now_s++;
    responses_expire(rs);
    assert_int_equal(left_of(BEGIN_S, 1) + left_of(BEGIN_S, 2), 0);
    assert_int_equal(left_of(BEGIN_S + 1, 3), 2);
    assert_int_equal(left_of(BEGIN_S, 4), 3);
    w.now_s++;
    responses_expire(rs);
    assert_int_equal(left_of(BEGIN_S + 1, 3), 0);
    free(rs);
}

/* A region that makes them quickly loses them as quickly: nothing piles up from sweep to sweep. */
static void all_that_is_too_old_goes_at_once(void **state)
{
    struct nef_responses *rs = begin();

    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        make(BEGIN_S + i, i, i % 300 == 7 ? "ahp" : "hf");
    w.now_s = BEGIN_S + KEPT_S + 899;
    responses_expire(rs);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(left_of(BEGIN_S + i, i), i % 300 == 7 ? 3 : i < 900 ? 0 : 2);
    free(rs);
}

/* A zone is lost at each write of a deletion: nothing of it stays for long. */
static void a_deletion_that_was_cut_short_is_ended(void **state)
{
    char id[NEF_RESPONSE_ID_BYTES];

    (void)state;
    id_of(BEGIN_S, 1, id);
    for (unsigned cut = 0;; cut++) {
        struct nef_responses *rs = begin();
        nef_err err;

        make(BEGIN_S, 1, "hfp");
        w.writes_left = cut;
        err = live_delete(rs, id, true);
        w.writes_left = UINT32_MAX;
        w.now_s += 120;
        responses_expire(rs);
        if (cut <= 1) /* it isn't begun */
            assert_true(left_of(BEGIN_S, 1) >= 2);
        else
            assert_int_equal(left_of(BEGIN_S, 1), 0);
        free(rs);
        if (err == NEF_OK)
            break;
    }
}

static void what_is_left_behind_goes(void **state)
{
    struct nef_responses *rs = begin();

    (void)state;
    make(BEGIN_S, 1, "a");    /* its head never came */
    make(BEGIN_S, 2, "ahfp"); /* put away, and then its zone was lost */
    make(BEGIN_S, 3, "ahp");  /* is being made */
    w.now_s += 59;
    responses_expire(rs);
    assert_int_equal(left_of(BEGIN_S, 1), 1);
    w.now_s++;
    responses_expire(rs);
    assert_int_equal(left_of(BEGIN_S, 1), 0);
    assert_int_equal(left_of(BEGIN_S, 2), 2);
    assert_int_equal(left_of(BEGIN_S, 3), 3);
    free(rs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(responses_expire_after_thirty_days),
        cmocka_unit_test(all_that_is_too_old_goes_at_once),
        cmocka_unit_test(a_deletion_that_was_cut_short_is_ended),
        cmocka_unit_test(what_is_left_behind_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
