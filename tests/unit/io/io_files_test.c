/* Unit tests of src/io/files.c: the file that takes turns with another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "temp_dir.h"

static void expect(const char *path, const char *text)
{
    struct nef_buf got = {0};

    assert_int_equal(nef_file_read(path, 1024, true, &got), NEF_OK);
    assert_string_equal(nef_buf_cstr(&got), text);
    nef_buf_free(&got);
}

static ino_t inode(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

static void two_files_take_turns(void **state)
{
    struct temp_dir dir;
    const char *path, *other;
    ino_t first, second;

    (void)state;
    assert_int_equal(temp_dir_make(&dir), 0);
    path = in_dir(&dir, "epoch");
    other = in_dir(&dir, "epoch" NEF_FILE_OTHER);
    assert_int_equal(nef_file_swap(path, 0600, "one", 3), NEF_OK);
    expect(path, "one");
    first = inode(path);
    second = inode(other); /* it has a block already when space runs out */
    assert_int_equal(nef_file_swap(path, 0600, "the second", 10), NEF_OK);
    expect(path, "the second");
    assert_int_equal(inode(path), second);
    assert_int_equal(inode(other), first);
    assert_int_equal(nef_file_swap(path, 0600, "3", 1), NEF_OK); /* nothing is left of what was longer */
    expect(path, "3");
    assert_int_equal(inode(path), first);
    assert_int_equal(unlink(other), 0); /* as after a copy of the directory without it */
    assert_int_equal(nef_file_swap(path, 0600, "four", 4), NEF_OK);
    expect(path, "four");
    assert_int_equal(nef_file_swap(path, 0600, other, NEF_FILE_SWAP_MAX + 1), NEF_E_INVALID);
    expect(path, "four");
    temp_dir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_files_take_turns),
    };

    return cmocka_run_group_tests_name("io_files", tests, NULL, NULL);
}
