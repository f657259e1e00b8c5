/* etcd's options and HAProxy's configuration: what the design prescribes is there, what it forbids
 * isn't. */
#include "cli_test.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has(const struct nef_etcd_args *args, const char *option)
{
    for (uint32_t i = 0; i < args->count; i++)
        if (strcmp(args->argv[i], option) == 0)
            return true;
    return false;
}

static void etcd_is_durable_and_mutual(void **state)
{
    struct nef_etcd_args *args = malloc(sizeof(*args));
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    assert_int_equal(
        nef_plan_etcd_args(&r.plan, 0, "/usr/bin/etcd", NEF_ETCD_START_NORMAL, 0, args), NEF_OK);
    assert_string_equal(args->argv[0], "/usr/bin/etcd");
    assert_null(args->argv[args->count]);
    assert_true(has(args, "--name=a"));
    assert_true(has(args, "--data-dir=/srv/nef/etcd-a"));
    assert_true(has(args, "--listen-client-urls=https://127.0.0.1:9013"));
    assert_true(has(args, "--listen-peer-urls=https://127.0.0.1:9014"));
    assert_true(has(args, "--initial-cluster=a=https://127.0.0.1:9014,b=https://127.0.0.1:9024,"
                          "w=https://127.0.0.1:9034"));
    assert_true(has(args, "--initial-cluster-state=new"));
    assert_true(has(args, "--client-cert-auth=true"));
    assert_true(has(args, "--peer-client-cert-auth=true"));
    assert_true(has(args, "--heartbeat-interval=100"));
    assert_true(has(args, "--election-timeout=1000"));
    assert_true(has(args, "--enable-v2=false"));
    assert_true(has(args, "--pre-vote=true"));
    for (uint32_t i = 0; i < args->count; i++) {
        assert_null(strstr(args->argv[i], "fsync"));
        assert_null(strstr(args->argv[i], "force-new-cluster"));
        assert_null(strstr(args->argv[i], "http://"));
    }
    free(args);
}

static void etcd_joins_with_members_only(void **state)
{
    struct nef_etcd_args *args = malloc(sizeof(*args));
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    assert_int_equal(
        nef_plan_etcd_args(&r.plan, 2, "etcd", NEF_ETCD_START_JOIN, 1u << 2 | 1u << 0, args),
        NEF_OK);
    assert_true(has(args, "--initial-cluster=a=https://127.0.0.1:9014,w=https://127.0.0.1:9034"));
    assert_true(has(args, "--initial-cluster-state=existing"));
    free(args);
}

static void etcd_environment_has_the_same_options(void **state)
{
    struct nef_buf text = {0};
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    assert_int_equal(nef_plan_etcd_env(&r.plan, 2, &text), NEF_OK);
    assert_non_null(strstr(nef_buf_cstr(&text), "\nETCD_NAME=\"w\"\n"));
    assert_non_null(strstr(nef_buf_cstr(&text), "\nETCD_PEER_CLIENT_CERT_AUTH=\"true\"\n"));
    assert_non_null(strstr(nef_buf_cstr(&text), "\nETCD_AUTO_COMPACTION_RETENTION=\"1000\"\n"));
    assert_null(strstr(nef_buf_cstr(&text), "\nETCD_UNSAFE"));
    nef_buf_free(&text);
}

static void haproxy_is_as_designed(void **state)
{
    static const char *const lines[] = {
        "\n    bind 127.0.0.1:9000\n",
        "\n    timeout connect 200ms\n",
        "\n    timeout check 200ms\n",
        "\n    retries 3\n",
        "\n    option redispatch 1\n",
        "\n    option httpchk GET /health/ready\n",
        "\n    retry-on conn-failure empty-response\n",
        "\n    http-request disable-l7-retry unless METH_GET\n",
        ("\n    default-server check inter 100ms fastinter 50ms downinter 200ms fall 3 rise 2 "
         "on-marked-down shutdown-sessions\n"),
        "\n    server zone-a 127.0.0.1:9010 port 9016\n",
        "\n    server zone-b 127.0.0.1:9020 port 9026\n",
    };
    struct nef_buf text = {0};
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    assert_int_equal(nef_plan_haproxy(&r.plan, NEF_PLAN_ZONES, "", &text), NEF_OK);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        assert_non_null(strstr(nef_buf_cstr(&text), lines[i]));
    assert_null(strstr(nef_buf_cstr(&text), "response-timeout"));
    nef_buf_free(&text);
}

static void haproxy_verifies_zones_over_tls(void **state)
{
    struct nef_buf text = {0};
    struct nef_region r;
    const char *a, *b;

    (void)state;
    test_region(&r, "/srv/nef");
    r.plan.tls = true;
    (void)snprintf(r.plan.front.pem, sizeof(r.plan.front.pem), "/etc/front.pem");
    (void)snprintf(r.plan.places[1].host, sizeof(r.plan.places[1].host), "fd00::2");
    assert_int_equal(nef_plan_haproxy(&r.plan, 1, "/etc/ca.crt", &text), NEF_OK);
    b = strstr(nef_buf_cstr(&text),
               "server zone-b [fd00::2]:9020 port 9026 ssl check-ssl verify required "
               "verifyhost fd00::2 ca-file /etc/ca.crt\n");
    a = strstr(nef_buf_cstr(&text), "server zone-a 127.0.0.1:9010");
    assert_non_null(b);
    assert_non_null(a);
    assert_true(b < a); /* the zone of its own host first */
    assert_non_null(strstr(nef_buf_cstr(&text), "ssl-min-ver TLSv1.2"));
    assert_non_null(strstr(nef_buf_cstr(&text), "ssl alpn http/1.1 crt /etc/front.pem\n"));
    nef_buf_free(&text);
}

/* deploy/haproxy.cfg is what nef init writes for zone a of an example, so that it can be read
 * without running it. */
static void the_template_is_what_is_written(void **state)
{
    struct nef_buf text = {0};
    char *kept = calloc(1, 16384);
    struct nef_region r;
    FILE *file = fopen(NEF_SOURCE_ROOT "/deploy/haproxy.cfg", "re");

    (void)state;
    assert_non_null(file);
    assert_true(fread(kept, 1, 16383, file) > 0);
    (void)fclose(file);
    test_region(&r, "/srv/nef");
    r.plan.tls = true;
    (void)snprintf(r.plan.front.bind, sizeof(r.plan.front.bind), "0.0.0.0");
    (void)snprintf(r.plan.front.pem, sizeof(r.plan.front.pem), "/etc/haproxy/nef-front.pem");
    r.plan.front.port = 443;
    r.plan.front.ai_port = 8443;
    for (uint32_t i = 0; i < NEF_PLAN_ZONES; i++) {
        (void)snprintf(r.plan.places[i].host, sizeof(r.plan.places[i].host), "zone-%s.example",
                       r.plan.places[i].name);
        r.plan.places[i].s3 = 9010;
        r.plan.places[i].ai = 9011;
        r.plan.places[i].admin = 9016;
    }
    assert_int_equal(nef_plan_haproxy(&r.plan, 0, "/etc/haproxy/nef-ca.crt", &text), NEF_OK);
    assert_string_equal(nef_buf_cstr(&text), kept);
    nef_buf_free(&text);
    free(kept);
}

static void too_long_a_path_is_refused(void **state)
{
    struct nef_etcd_args *args = malloc(sizeof(*args));
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++) {
        memset(r.plan.places[i].host, 'x', NEF_HOST_MAX - 1);
        r.plan.places[i].host[NEF_HOST_MAX - 1] = 0;
    }
    assert_int_equal(nef_plan_etcd_args(&r.plan, 0, "etcd", NEF_ETCD_START_NORMAL, 0, args),
                     NEF_OK);
    memset(r.plan.places[0].etcd_data, 'y', NEF_PATH_MAX - 1);
    r.plan.places[0].etcd_data[NEF_PATH_MAX - 1] = 0;
    args->count = 77;
    args->argv[0] = NULL;
    memset(args->text, 'z', sizeof(args->text));
    {
        char *program = calloc(1, sizeof(args->text) + 1);

        memset(program, 'p', sizeof(args->text));
        assert_int_equal(nef_plan_etcd_args(&r.plan, 0, program, NEF_ETCD_START_NORMAL, 0, args),
                         NEF_E_LIMIT);
        free(program);
    }
    assert_int_equal(args->count, 77); /* untouched */
    free(args);
}

int run_plan_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(etcd_is_durable_and_mutual),
        cmocka_unit_test(etcd_joins_with_members_only),
        cmocka_unit_test(etcd_environment_has_the_same_options),
        cmocka_unit_test(haproxy_is_as_designed),
        cmocka_unit_test(haproxy_verifies_zones_over_tls),
        cmocka_unit_test(the_template_is_what_is_written),
        cmocka_unit_test(too_long_a_path_is_refused),
    };

    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
