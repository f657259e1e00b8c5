/* Runs the tests of src/cli: configuration from a plan, state and adoption, options, files of a
 * region. */
#include "cli_test.h"
#include <stdio.h>
#include <string.h>
#include "crypto/crypto.h"

void test_region(struct nef_region *r, const char *dir)
{
    static const char *const names[] = {"a", "b", "w"};

    memset(r, 0, sizeof(*r));
    (void)snprintf(r->dir, sizeof(r->dir), "%s", dir);
    r->port_base = 9000;
    (void)snprintf(r->plan.region, sizeof(r->plan.region), "eu-paris");
    (void)snprintf(r->plan.cluster_token, sizeof(r->plan.cluster_token),
                   "00112233445566778899aabbccddeeff");
    (void)snprintf(r->root.access_key, sizeof(r->root.access_key), "NEFTEST");
    (void)snprintf(r->root.secret_key, sizeof(r->root.secret_key), "secret");
    (void)snprintf(r->admin_token, sizeof(r->admin_token), "0123456789abcdef");
    r->plan.cells = 4;
    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++)
        (void)snprintf(r->plan.places[i].name, sizeof(r->plan.places[i].name), "%s", names[i]);
    nef_region_fill(r);
}

int main(void)
{
    if (nef_crypto_init() != NEF_OK)
        return 1;
    return run_plan_tests() + run_state_tests() + run_options_tests() + run_files_tests() + run_model_tests() == 0 ? 0 : 1;
}
