/* The parts of the cli tests; each file gives its list. */
#ifndef NEF_TESTS_CLI_TEST_H
#define NEF_TESTS_CLI_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "cli/region.h"

/* A region in DIR as nef_region_open would give it, without touching the disk. */
void test_region(struct nef_region *r, const char *dir);

int run_plan_tests(void);
int run_state_tests(void);
int run_options_tests(void);
int run_files_tests(void);
int run_model_tests(void);

#endif
