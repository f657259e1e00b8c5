/* Unit tests of src/io/files.c, tls_make.c and tls.c: files made whole, certificates, handshakes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "io/tls.h"
#include "temp_dir.h"

static struct temp_dir dir;

static int set_up(void **state)
{
    (void)state;
    return temp_dir_make(&dir);
}

static int tear_down(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

static unsigned mode_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 0777;
}

static void files_are_made_once(void **state)
{
    struct nef_buf text = {0};
    const char *path = in_dir(&dir, "token");
    char relative[] = "nef-relative-test-file";

    (void)state;
    assert_int_equal(nef_file_read(path, 100, true, &text), NEF_E_NOT_FOUND);
    assert_int_equal(nef_file_make(path, 0600, "secret", 6), NEF_OK);
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(nef_file_make(path, 0600, "other", 5), NEF_E_EXISTS);
    assert_int_equal(nef_file_read(path, 5, true, &text), NEF_E_LIMIT);
    nef_buf_reset(&text);
    assert_int_equal(nef_file_read(path, 6, true, &text), NEF_OK);
    assert_string_equal(nef_buf_cstr(&text), "secret");
    assert_int_equal(nef_file_replace(path, 0640, "third", 5), NEF_OK);
    assert_int_equal(mode_of(path), 0640);
    nef_buf_reset(&text);
    assert_int_equal(nef_file_read(path, 6, true, &text), NEF_E_DENIED);
    assert_int_equal(nef_file_read(path, 6, false, &text), NEF_OK);
    assert_string_equal(nef_buf_cstr(&text), "third");
    assert_int_equal(nef_file_read(dir.path, 6, false, &text), NEF_E_DENIED);
    assert_int_equal(mkfifo(in_dir(&dir, "fifo"), 0600), 0);
    assert_int_equal(nef_file_read(in_dir(&dir, "fifo"), 6, true, &text), NEF_E_DENIED);
    assert_int_equal(nef_file_make(in_dir(&dir, "no/such"), 0600, "x", 1), NEF_E_NOT_FOUND);
    assert_int_equal(chdir(dir.path), 0); /* no directory in the path */
    assert_int_equal(nef_file_make(relative, 0600, "", 0), NEF_OK);
    assert_int_equal(nef_file_make(relative, 0600, "", 0), NEF_E_EXISTS);
    nef_buf_free(&text);
}

static X509 *cert_in(const char *name)
{
    FILE *f = fopen(in_dir(&dir, name), "r");
    X509 *cert;

    assert_non_null(f);
    cert = PEM_read_X509(f, NULL, NULL, NULL);
    (void)fclose(f);
    assert_non_null(cert);
    return cert;
}

static nef_err make_cert(const char *ca, const char *name, const struct nef_tls_cert *c)
{
    char ca_cert[300], ca_key[300], cert[300], key[300];

    (void)snprintf(ca_cert, sizeof(ca_cert), "%s/%s.pem", dir.path, ca);
    (void)snprintf(ca_key, sizeof(ca_key), "%s/%s.key", dir.path, ca);
    (void)snprintf(cert, sizeof(cert), "%s/%s.pem", dir.path, name);
    (void)snprintf(key, sizeof(key), "%s/%s.key", dir.path, name);
    return nef_tls_make_cert(ca_cert, ca_key, c, cert, key);
}

static void certificates_say_what_they_should(void **state)
{
    static const char *const names[] = {"zone-a.example.org", "10.1.2.3", "fd00::1"};
    static const char *const bad[] = {"a,DNS:evil.example.org"};
    struct nef_tls_cert c = {
        .zone = "a", .names = names, .name_count = 3, .server = true, .client = true};
    struct nef_tls_cert wrong = c;
    X509 *cert, *ca;

    (void)state;
    assert_int_equal(nef_tls_make_ca("eu-paris", in_dir(&dir, "ca.pem"), in_dir(&dir, "ca.key")),
                     NEF_OK);
    assert_int_equal(nef_tls_make_ca("eu-paris", in_dir(&dir, "ca.pem"), in_dir(&dir, "ca.key")),
                     NEF_E_EXISTS);
    assert_int_equal(mode_of(in_dir(&dir, "ca.key")), 0600);
    assert_int_equal(mode_of(in_dir(&dir, "ca.pem")), 0600);
    assert_int_equal(make_cert("ca", "a", &c), NEF_OK);
    assert_int_equal(make_cert("ca", "a", &c), NEF_E_EXISTS);
    assert_int_equal(mode_of(in_dir(&dir, "a.key")), 0600);

    ca = cert_in("ca.pem");
    cert = cert_in("a.pem");
    assert_int_equal(X509_verify(cert, X509_get0_pubkey(ca)), 1);
    assert_int_equal(X509_get_version(cert), X509_VERSION_3);
    assert_int_equal(X509_NAME_get_index_by_NID(X509_get_subject_name(cert), NID_commonName, -1),
                     -1);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(i == 0 ? X509_check_host(cert, names[i], 0, 0, NULL)
                                : X509_check_ip_asc(cert, names[i], 0),
                         1);
    assert_int_equal(X509_check_host(cert, "localhost", 0, 0, NULL), 1);
    assert_int_equal(X509_check_ip_asc(cert, "127.0.0.1", 0), 1);
    assert_int_equal(X509_check_ip_asc(cert, "::1", 0), 1);
    assert_int_equal(X509_check_host(cert, "zone-b.example.org", 0, 0, NULL), 0);
    assert_true((X509_get_extension_flags(ca) & EXFLAG_CA) != 0);
    assert_true((X509_get_extension_flags(cert) & EXFLAG_CA) == 0);
    assert_int_equal(X509_get_extended_key_usage(cert), XKU_SSL_SERVER | XKU_SSL_CLIENT);
    assert_true(X509_cmp_current_time(X509_get0_notBefore(cert)) < 0);
    X509_free(cert);
    X509_free(ca);

    wrong.names = bad; /* a name must not bring others with it */
    wrong.name_count = 1;
    assert_int_equal(make_cert("ca", "bad", &wrong), NEF_E_INVALID);
    wrong = c;
    wrong.zone = "A/b";
    assert_int_equal(make_cert("ca", "bad", &wrong), NEF_E_INVALID);
    assert_int_not_equal(access(in_dir(&dir, "bad.key"), F_OK), 0); /* nothing was made */
    assert_int_equal(make_cert("nowhere", "bad", &c), NEF_E_NOT_FOUND);
}

static void a_key_without_certificate_is_used(void **state)
{
    struct nef_tls_cert c = {.common_name = "client", .client = true};
    struct nef_buf first = {0}, second = {0};

    (void)state;
    assert_int_equal(make_cert("ca", "c", &c), NEF_OK);
    assert_int_equal(nef_file_read(in_dir(&dir, "c.key"), 10000, true, &first), NEF_OK);
    assert_int_equal(unlink(in_dir(&dir, "c.pem")), 0);
    assert_int_equal(make_cert("ca", "c", &c), NEF_OK);
    assert_int_equal(nef_file_read(in_dir(&dir, "c.key"), 10000, true, &second), NEF_OK);
    assert_string_equal(nef_buf_cstr(&first), nef_buf_cstr(&second));
    nef_buf_free(&first);
    nef_buf_free(&second);
}

static void zone_names(void **state)
{
    (void)state;
    assert_true(nef_zone_name_ok("a"));
    assert_true(nef_zone_name_ok("fr-par-2"));
    assert_false(nef_zone_name_ok(""));
    assert_false(nef_zone_name_ok("-a"));
    assert_false(nef_zone_name_ok("a-"));
    assert_false(nef_zone_name_ok("A"));
    assert_false(nef_zone_name_ok("a_b"));
    assert_false(nef_zone_name_ok("123456789012345678901234567890123")); /* 33 */
}

static nef_err context(bool server, const char *ca, const char *name, SSL_CTX **out)
{
    char ca_path[300], cert[300], key[300];

    (void)snprintf(ca_path, sizeof(ca_path), "%s/%s.pem", dir.path, ca);
    (void)snprintf(cert, sizeof(cert), "%s/%s.pem", dir.path, name);
    (void)snprintf(key, sizeof(key), "%s/%s.key", dir.path, name);
    return nef_tls_context(server, ca_path, cert, key, out);
}

/* Handshake in memory; true if both sides finished and the server could read a byte. */
static bool handshake(SSL_CTX *server_ctx, SSL_CTX *client_ctx, SSL **server, SSL **client)
{
    BIO *a = NULL, *b = NULL;
    char byte;

    *server = SSL_new(server_ctx);
    *client = SSL_new(client_ctx);
    assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
    SSL_set_bio(*server, a, a);
    SSL_set_bio(*client, b, b);
    SSL_set_accept_state(*server);
    SSL_set_connect_state(*client);
    for (int i = 0; i < 20; i++) {
        (void)SSL_do_handshake(*client);
        (void)SSL_do_handshake(*server);
    }
    return SSL_is_init_finished(*client) && SSL_is_init_finished(*server) &&
           SSL_write(*client, "x", 1) == 1 && SSL_read(*server, &byte, 1) == 1;
}

static void zones_know_each_other(void **state)
{
    struct nef_tls_cert b = {.zone = "b", .server = true, .client = true};
    struct nef_tls_cert nobody = {.server = true, .client = true};
    SSL_CTX *server, *client, *anonymous, *stranger;
    SSL *s, *c;
    char zone[NEF_ZONE_NAME_MAX + 1] = "untouched";

    (void)state;
    assert_int_equal(make_cert("ca", "b", &b), NEF_OK);
    assert_int_equal(make_cert("ca", "nobody", &nobody), NEF_OK);
    assert_int_equal(nef_tls_make_ca("other", in_dir(&dir, "other.pem"), in_dir(&dir, "other.key")),
                     NEF_OK);
    assert_int_equal(make_cert("other", "stranger", &b), NEF_OK);
    assert_int_equal(context(true, "ca", "a", &server), NEF_OK);
    assert_int_equal(context(false, "ca", "b", &client), NEF_OK);
    assert_int_equal(context(false, "ca", "nobody", &anonymous), NEF_OK);
    assert_int_equal(context(false, "other", "stranger", &stranger), NEF_OK);

    assert_true(handshake(server, client, &s, &c));
    assert_int_equal(nef_tls_peer_zone(s, zone), NEF_OK);
    assert_string_equal(zone, "b");
    assert_int_equal(nef_tls_peer_zone(c, zone), NEF_OK);
    assert_string_equal(zone, "a");
    assert_int_equal(SSL_version(s), TLS1_3_VERSION);
    SSL_free(s);
    SSL_free(c);

    assert_true(handshake(server, anonymous, &s, &c)); /* of the region, but no zone */
    assert_int_equal(nef_tls_peer_zone(s, zone), NEF_E_DENIED);
    assert_string_equal(zone, "a");
    SSL_free(s);
    SSL_free(c);

    assert_false(handshake(server, stranger, &s, &c));
    assert_int_equal(nef_tls_peer_zone(s, zone), NEF_E_DENIED);
    SSL_free(s);
    SSL_free(c);

    (void)SSL_CTX_set_max_proto_version(client, TLS1_1_VERSION); /* too old */
    assert_false(handshake(server, client, &s, &c));
    SSL_free(s);
    SSL_free(c);
    (void)SSL_CTX_set_max_proto_version(client, TLS1_2_VERSION);
    assert_true(handshake(server, client, &s, &c));
    assert_int_equal(nef_tls_peer_zone(s, zone), NEF_OK);
    assert_string_equal(zone, "b");
    SSL_free(s);
    SSL_free(c);

    SSL_CTX_free(server);
    SSL_CTX_free(client);
    SSL_CTX_free(anonymous);
    SSL_CTX_free(stranger);
}

static void contexts_refuse_bad_files(void **state)
{
    SSL_CTX *ctx = NULL;

    (void)state;
    assert_int_equal(context(true, "nowhere", "a", &ctx), NEF_E_CONFIG);
    assert_int_equal(context(true, "ca", "nowhere", &ctx), NEF_E_CONFIG);
    assert_int_equal(nef_tls_context(true, in_dir(&dir, "ca.pem"), in_dir(&dir, "a.pem"),
                                     in_dir(&dir, "b.key"), &ctx),
                     NEF_E_CONFIG); /* another's key */
    assert_int_equal(chmod(in_dir(&dir, "a.key"), 0644), 0);
    assert_int_equal(context(true, "ca", "a", &ctx), NEF_E_CONFIG);
    assert_null(ctx);
}

/* A server's certificate alone may not be used as a client's. */
static void usages_are_checked(void **state)
{
    struct nef_tls_cert only = {.zone = "s", .server = true};
    SSL_CTX *server, *client;
    SSL *s, *c;

    (void)state;
    assert_int_equal(make_cert("ca", "only", &only), NEF_OK);
    assert_int_equal(context(true, "ca", "b", &server), NEF_OK);
    assert_int_equal(context(false, "ca", "only", &client), NEF_OK);
    assert_false(handshake(server, client, &s, &c));
    SSL_free(s);
    SSL_free(c);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_made_once),
        cmocka_unit_test(certificates_say_what_they_should),
        cmocka_unit_test(a_key_without_certificate_is_used),
        cmocka_unit_test(zone_names),
        cmocka_unit_test(zones_know_each_other),
        cmocka_unit_test(usages_are_checked),
        cmocka_unit_test(contexts_refuse_bad_files),
    };

    return cmocka_run_group_tests_name("io files and tls", tests, set_up, tear_down);
}
