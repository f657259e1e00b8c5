/* Unit tests of src/io/config*.c: what is read, what is refused and how that is said, and that what
 * is printed reads back the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/limits.h"
#include "io/config.h"
#include "temp_dir.h"

struct peer {
    char *zone;
    struct nef_host_port address;
};

struct sample {
    char *name;
    char *title;
    char *dir;
    char *url;
    struct nef_host_port listen;
    struct nef_id id;
    bool on;
    uint32_t cells;
    uint64_t segment;
    uint64_t lease;
    double fraction;
    uint32_t level;
    bool has_tls;
    struct {
        char *cert;
        char *key;
    } tls;
    struct {
        uint64_t beat;
    } timing;
    struct peer *peers;
    uint32_t peer_count;
    char **urls;
    uint32_t url_count;
};

#define AT(type, member) .offset = offsetof(type, member)

static const struct nef_config_field peer_fields[] = {
    {.name = "zone", .kind = NEF_CONFIG_NAME, AT(struct peer, zone), .required = true, .max = 8},
    {.name = "address", .kind = NEF_CONFIG_HOST_PORT, AT(struct peer, address), .required = true},
};
static const struct nef_config_schema peer_schema = {peer_fields, NEF_COUNT(peer_fields)};
static const struct nef_config_field peer_item = {.kind = NEF_CONFIG_MAP, .map = &peer_schema};
static const struct nef_config_field url_item = {.kind = NEF_CONFIG_URL};
static const struct nef_config_field tls_fields[] = {
    {.name = "cert", .kind = NEF_CONFIG_PATH, AT(struct sample, tls.cert), .required = true},
    {.name = "key", .kind = NEF_CONFIG_PATH, AT(struct sample, tls.key), .required = true},
};
static const struct nef_config_schema tls_schema = {tls_fields, NEF_COUNT(tls_fields)};
static const struct nef_config_field timing_fields[] = {
    {.name = "beat",
     .kind = NEF_CONFIG_DURATION,
     AT(struct sample, timing.beat),
     .preset = "50ms",
     .min = 1000000,
     .max = 1000000000},
};
static const struct nef_config_schema timing_schema = {timing_fields, NEF_COUNT(timing_fields)};
static const char *const levels[] = {"low", "high", NULL};
static const struct nef_config_field fields[] = {
    {.name = "name",
     .kind = NEF_CONFIG_NAME,
     AT(struct sample, name),
     .required = true,
     .max = 8,
     .help = "who\nreally"},
    {.name = "title", .kind = NEF_CONFIG_STRING, AT(struct sample, title)},
    {.name = "dir", .kind = NEF_CONFIG_PATH, AT(struct sample, dir)},
    {.name = "url", .kind = NEF_CONFIG_URL, AT(struct sample, url)},
    {.name = "listen",
     .kind = NEF_CONFIG_HOST_PORT,
     AT(struct sample, listen),
     .preset = "127.0.0.1:1"},
    {.name = "id",
     .kind = NEF_CONFIG_ID,
     AT(struct sample, id),
     .preset = "000102030405060708090a0b0c0d0e0f"},
    {.name = "on", .kind = NEF_CONFIG_BOOL, AT(struct sample, on), .preset = "true"},
    {.name = "cells",
     .kind = NEF_CONFIG_INT,
     AT(struct sample, cells),
     .preset = "4",
     .min = 1,
     .max = 64},
    {.name = "segment", .kind = NEF_CONFIG_SIZE, AT(struct sample, segment), .preset = "256MiB"},
    {.name = "lease",
     .kind = NEF_CONFIG_DURATION,
     AT(struct sample, lease),
     .preset = "500ms",
     .min = 100000000,
     .max = 10000000000},
    {.name = "fraction",
     .kind = NEF_CONFIG_FRACTION,
     AT(struct sample, fraction),
     .preset = "0.5",
     .min = 50,
     .max = 950},
    {.name = "level",
     .kind = NEF_CONFIG_CHOICE,
     AT(struct sample, level),
     .preset = "high",
     .choices = levels},
    {.name = "tls",
     .kind = NEF_CONFIG_MAP,
     .map = &tls_schema,
     .flag = NEF_CONFIG_FLAG(struct sample, has_tls)},
    {.name = "timing", .kind = NEF_CONFIG_MAP, .map = &timing_schema},
    {.name = "peers",
     .kind = NEF_CONFIG_LIST,
     AT(struct sample, peers),
     .max = 2,
     .item = &peer_item,
     .item_bytes = sizeof(struct peer),
     .count = offsetof(struct sample, peer_count)},
    {.name = "urls",
     .kind = NEF_CONFIG_LIST,
     AT(struct sample, urls),
     .min = 1,
     .item = &url_item,
     .item_bytes = sizeof(char *),
     .count = offsetof(struct sample, url_count)},
};
static const struct nef_config_schema schema = {fields, NEF_COUNT(fields)};

static nef_err read_text(const char *text, struct sample *out, struct nef_config_source **source,
                         struct nef_config_error *error)
{
    return nef_config_parse("/etc/nef/zone.yaml", text, strlen(text), &schema, out, sizeof(*out),
                            source, error);
}

static const char full[] = "# a comment\n"
                           "name: a\n"
                           "title: \"two words: # not a comment\"\n"
                           "dir: data\n"
                           "url: 'https://[::1]:2379'\n"
                           "listen: \"[fd00::1]:9010\"\n"
                           "id: ffeeddccbbaa99887766554433221100\n"
                           "on: false\n"
                           "cells: 64\n"
                           "segment: 8MiB\n"
                           "lease: 1500ms\n"
                           "fraction: 0.375\n"
                           "level: low\n"
                           "tls: {cert: /x/cert.pem, key: key.pem}\n"
                           "timing:\n"
                           "  beat: 7ms\n"
                           "peers:\n"
                           "  - zone: b\n"
                           "    address: host-b.example.org:9022\n"
                           "  - {zone: c, address: \"10.0.0.3:0\"}\n"
                           "urls: [\"http://a:1\", \"http://b:2\"]\n";

static void everything_is_read(void **state)
{
    struct nef_config_error error;
    struct sample s;

    (void)state;
    assert_int_equal(read_text(full, &s, NULL, &error), NEF_OK);
    assert_string_equal(error.text, "");
    assert_string_equal(s.name, "a");
    assert_string_equal(s.title, "two words: # not a comment");
    assert_string_equal(s.dir, "/etc/nef/data");
    assert_string_equal(s.url, "https://[::1]:2379");
    assert_string_equal(s.listen.host, "fd00::1");
    assert_int_equal(s.listen.port, 9010);
    assert_int_equal(s.id.bytes[0], 0xff);
    assert_false(s.on);
    assert_int_equal(s.cells, 64);
    assert_int_equal(s.segment, 8u << 20);
    assert_int_equal(s.lease, 1500000000);
    assert_true(s.fraction == 0.375);
    assert_int_equal(s.level, 0);
    assert_true(s.has_tls);
    assert_string_equal(s.tls.cert, "/x/cert.pem");
    assert_string_equal(s.tls.key, "/etc/nef/key.pem");
    assert_int_equal(s.timing.beat, 7000000);
    assert_int_equal(s.peer_count, 2);
    assert_string_equal(s.peers[1].zone, "c");
    assert_string_equal(s.peers[0].address.host, "host-b.example.org");
    assert_int_equal(s.peers[1].address.port, 0);
    assert_int_equal(s.url_count, 2);
    assert_string_equal(s.urls[1], "http://b:2");
    nef_config_free(&schema, &s, sizeof(s));
    assert_null(s.peers);
}

static void presets_fill_the_rest(void **state)
{
    struct nef_config_error error;
    struct sample s;

    (void)state;
    assert_int_equal(read_text("name: a\n", &s, NULL, &error), NEF_OK);
    assert_null(s.title);
    assert_string_equal(s.listen.host, "127.0.0.1");
    assert_true(s.on);
    assert_int_equal(s.cells, 4);
    assert_int_equal(s.segment, 256u << 20);
    assert_int_equal(s.lease, 500000000);
    assert_int_equal(s.level, 1);
    assert_false(s.has_tls);
    assert_null(s.tls.cert);
    assert_int_equal(s.timing.beat, 50000000);
    assert_int_equal(s.peer_count, 0);
    nef_config_free(&schema, &s, sizeof(s));
    assert_int_equal(nef_config_preset(&schema, &s, sizeof(s)), NEF_OK); /* without a name */
    assert_null(s.name);
    assert_int_equal(s.timing.beat, 50000000);
    nef_config_free(&schema, &s, sizeof(s));
}

static void complaints_name_file_line_and_key(void **state)
{
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        {"", "1: is empty"},
        {"# only a comment\n", "1: is empty"},
        {"just words\n", "1: must be a mapping (key: value lines)"},
        {"- a\n", "1: must be a mapping (key: value lines)"},
        {"cells: 4\n", "1: name: is missing"},
        {"name: a\nnames: b\n", "2: unknown key 'names'"},
        {"name: a\n\ncells: 4\ncells: 5\n", "4: cells: is set twice"},
        {"name: a\ncells: 0\n", "2: cells: must be between 1 and 64"},
        {"name: a\ncells: 65\n", "2: cells: must be between 1 and 64"},
        {"name: a\ncells: -1\n", "2: cells: must be a number"},
        {"name: a\ncells: 007\n", "2: cells: must be a number"},
        {"name: a\ncells: 99999999999999999999\n", "2: cells: must be a number"},
        {"name: a\ncells: \"4\"\n", "2: cells: must be a number, without quotes"},
        {"name: a\ncells: [4]\n", "2: cells: must be a single value"},
        {"name: a\ncells:\n", "2: cells: must not be empty"},
        {"name: a\ncells: ~\n", "2: cells: must not be empty"},
        {"name: a\ntitle: \"\"\n", "2: title: must not be empty"},
        {"name: a\ntitle: \"a\\0b\"\n", "2: title: must not contain a zero byte"},
        {"name: a\non: yes\n", "2: on: must be true or false"},
        {"name: a\non: \"true\"\n", "2: on: must be true or false"},
        {"name: a\nsegment: 256\n",
         "2: segment: must be a size such as 256MiB (B, KiB, MiB, GiB, TiB)"},
        {"name: a\nsegment: 256MB\n",
         "2: segment: must be a size such as 256MiB (B, KiB, MiB, GiB, TiB)"},
        {"name: a\nsegment: 99999999999TiB\n",
         "2: segment: must be a size such as 256MiB (B, KiB, MiB, GiB, TiB)"},
        {"name: a\nlease: 50ms\n", "2: lease: must be between 100ms and 10s"},
        {"name: a\nlease: 11s\n", "2: lease: must be between 100ms and 10s"},
        {"name: a\nlease: 1.5s\n",
         "2: lease: must be a duration such as 500ms (us, ms, s, m, h, d)"},
        {"name: a\nfraction: 0.96\n", "2: fraction: must be between 0.050 and 0.950"},
        {"name: a\nfraction: .5\n",
         "2: fraction: must be a fraction such as 0.5, with 3 decimals at most"},
        {"name: a\nfraction: 0.5555\n",
         "2: fraction: must be a fraction such as 0.5, with 3 decimals at most"},
        {"name: a\nlevel: middle\n", "2: level: must be one of low, high"},
        {"name: a\nid: 12\n", "2: id: must be 32 hexadecimal digits, not all 0"},
        {"name: a\nid: \"00000000000000000000000000000000\"\n",
         "2: id: must be 32 hexadecimal digits, not all 0"},
        {"name: a\nlisten: localhost\n",
         "2: listen: must be host:port, such as 127.0.0.1:9010 or [::1]:9010"},
        {"name: a\nlisten: \"::1:9\"\n",
         "2: listen: must be host:port, such as 127.0.0.1:9010 or [::1]:9010"},
        {"name: a\nlisten: h:65536\n",
         "2: listen: must be host:port, such as 127.0.0.1:9010 or [::1]:9010"},
        {"name: a\nurl: ftp://x:1\n", "2: url: must be http://host:port or https://host:port"},
        {"name: a\nurl: http://x:1/path\n",
         "2: url: must be http://host:port or https://host:port"},
        {"name: A\n", "1: name: must be of a-z, 0-9 and '-', not at its ends"},
        {"name: toolongname\n", "1: name: must be 1 to 8 characters long"},
        {"name: a\ntls:\n  cert: x\n", "3: tls.key: is missing"},
        {"name: a\ntls: x\n", "2: tls: must be a mapping (key: value lines)"},
        {"name: a\npeers: x\n", "2: peers: must be a list"},
        {"name: a\npeers: {}\n", "2: peers: must be a list"},
        {"name: a\npeers:\n- zone: b\n  address: h:1\n- zone: B\n",
         "5: peers[1].zone: must be of a-z, 0-9 and '-', not at its ends"},
        {"name: a\npeers:\n- zone: b\n", "3: peers[0].address: is missing"},
        {"name: a\npeers:\n- {zone: b, address: 'h:1'}\n- {zone: c, address: 'h:1'}\n- {}\n",
         "5: peers: must have at most 2 entries"},
        {"name: a\nurls: []\n", "2: urls: must have at least 1 entries"},
        {"name: &x a\n", "1: name: anchors (&name) are not allowed"},
        {"name: *x\n", "1: name: aliases (*name) are not allowed"},
        {"name: !!str a\n", "1: name: tags (!name) are not allowed"},
        {"tls: &x {}\n", "1: tls: anchors and tags are not allowed"},
        {"name: a\n---\nname: b\n", "2: must be one document"},
        {"? [a]\n: b\n", "1: a key must be a single word"},
        {"title: a\n  x: b\n", "2: not valid YAML: mapping values are not allowed in this context"},
        {"name: \"a\n", "2: not valid YAML: found unexpected end of stream"},
        {"\tname: a\n", "1: not valid YAML: found character that cannot start any token"},
    };

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(cases); i++) {
        struct nef_config_error error = {""};
        struct sample s, zero = {0};
        char expected[512];

        assert_int_equal(read_text(cases[i].text, &s, NULL, &error), NEF_E_CONFIG);
        (void)snprintf(expected, sizeof(expected), "/etc/nef/zone.yaml:%s", cases[i].complaint);
        assert_string_equal(error.text, expected);
        assert_memory_equal(&s, &zero, sizeof(s));
    }
}

static void later_checks_find_the_line(void **state)
{
    struct nef_config_source *source = NULL;
    struct nef_config_error error;
    struct sample s;

    (void)state;
    assert_int_equal(read_text(full, &s, &source, &error), NEF_OK);
    assert_int_equal(nef_config_fail(source, "lease", &error, "is %d", 7), NEF_E_CONFIG);
    assert_string_equal(error.text, "/etc/nef/zone.yaml:11: lease: is 7");
    assert_int_equal(nef_config_fail(source, "peers[1].address", &error, "bad"), NEF_E_CONFIG);
    assert_string_equal(error.text, "/etc/nef/zone.yaml:20: peers[1].address: bad");
    assert_int_equal(nef_config_fail(source, "timing.other", &error, "bad"), NEF_E_CONFIG);
    assert_string_equal(error.text, "/etc/nef/zone.yaml:16: timing.other: bad");
    assert_int_equal(nef_config_fail(source, "titles", &error, "bad"), NEF_E_CONFIG);
    assert_string_equal(error.text, "/etc/nef/zone.yaml:1: titles: bad");
    nef_config_source_free(source);
    nef_config_source_free(NULL);
    nef_config_free(&schema, &s, sizeof(s));
}

static void print_of(const struct sample *s, struct nef_buf *out)
{
    nef_buf_reset(out);
    nef_config_print(&schema, s, out);
    assert_int_equal(nef_buf_end(out), NEF_OK);
}

static void what_is_printed_reads_back(void **state)
{
    static const char *const texts[] = {full, "name: a\n",
                                        "name: \"null\"\ntitle: \"q\\\"\\\\\\x01é\"\n",
                                        "name: true\npeers: []\n", "name: 12\nsegment: 1023B\n"};
    struct nef_buf first = {0}, second = {0};

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(texts); i++) {
        struct nef_config_error error = {""};
        struct sample s, again;

        assert_int_equal(read_text(texts[i], &s, NULL, &error), NEF_OK);
        print_of(&s, &first);
        assert_int_equal(read_text(nef_buf_cstr(&first), &again, NULL, &error), NEF_OK);
        print_of(&again, &second);
        assert_string_equal(nef_buf_cstr(&first), nef_buf_cstr(&second));
        assert_string_equal(s.name, again.name);
        assert_true(s.title == NULL || strcmp(s.title, again.title) == 0);
        assert_int_equal(s.segment, again.segment);
        assert_int_equal(s.peer_count, again.peer_count);
        assert_true(strncmp(nef_buf_cstr(&first), "# who\n# really\nname: ", 21) == 0);
        nef_config_free(&schema, &s, sizeof(s));
        nef_config_free(&schema, &again, sizeof(again));
    }
    nef_buf_free(&first);
    nef_buf_free(&second);
}

/* Every prefix and every changed byte of a good file is read or refused, cleanly (the sanitizers
 * look). */
static void damaged_files(void **state)
{
    char text[sizeof(full)];

    (void)state;
    for (size_t i = 0; i < sizeof(full) - 1; i++) {
        static const char others[] = "\0\n:-[{&\xff";
        struct nef_config_error error;
        struct sample s;

        if (nef_config_parse("z", full, i, &schema, &s, sizeof(s), NULL, &error) == NEF_OK)
            nef_config_free(&schema, &s, sizeof(s));
        for (size_t j = 0; j < sizeof(others); j++) {
            memcpy(text, full, sizeof(full));
            text[i] = others[j];
            if (nef_config_parse("z", text, sizeof(full) - 1, &schema, &s, sizeof(s), NULL,
                                 &error) == NEF_OK)
                nef_config_free(&schema, &s, sizeof(s));
            else
                assert_true(strlen(error.text) > 3);
        }
    }
}

static void files_have_a_limit(void **state)
{
    struct nef_config_error error;
    struct temp_dir dir;
    struct sample s;
    FILE *f;

    (void)state;
    assert_int_equal(temp_dir_make(&dir), 0);
    assert_int_equal(nef_config_load(in_dir(&dir, "no.yaml"), &schema, &s, sizeof(s), NULL, &error),
                     NEF_E_CONFIG);
    assert_non_null(strstr(error.text, "no.yaml: can't be read: not found"));
    f = fopen(in_dir(&dir, "big.yaml"), "w");
    assert_non_null(f);
    (void)fprintf(f, "name: a\n");
    for (unsigned i = 0; i < NEF_CONFIG_FILE_MAX / 16; i++)
        (void)fprintf(f, "#..............\n");
    (void)fclose(f);
    assert_int_equal(
        nef_config_load(in_dir(&dir, "big.yaml"), &schema, &s, sizeof(s), NULL, &error),
        NEF_E_LIMIT);
    assert_int_equal(truncate(in_dir(&dir, "big.yaml"), NEF_CONFIG_FILE_MAX), 0);
    assert_int_equal(
        nef_config_load(in_dir(&dir, "big.yaml"), &schema, &s, sizeof(s), NULL, &error), NEF_OK);
    nef_config_free(&schema, &s, sizeof(s));
    temp_dir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_read),
        cmocka_unit_test(presets_fill_the_rest),
        cmocka_unit_test(complaints_name_file_line_and_key),
        cmocka_unit_test(later_checks_find_the_line),
        cmocka_unit_test(what_is_printed_reads_back),
        cmocka_unit_test(damaged_files),
        cmocka_unit_test(files_have_a_limit),
    };

    return cmocka_run_group_tests_name("io config", tests, NULL, NULL);
}
