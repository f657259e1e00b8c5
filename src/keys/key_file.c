/* Key files: the customer's key on this machine until a key manager is configured.
 *
 *     nef-customer-key 1\n
 *     64 lower-case hex digits: the key\n
 *     16 hex digits: the key's id (see wrap.c)\n
 *
 * 101 bytes, exactly. Text, because people back it up and compare it; with its id, because a mistyped key
 * must be found when it is read and not when an object can't be. The file belongs to the process's user
 * (or root) and nobody else may access it. Its bytes pass only through locked memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "io/files.h"
#include "keys/keys_internal.h"

#define HEAD       "nef-customer-key 1\n"
#define HEAD_BYTES (sizeof(HEAD) - 1)
#define FILE_BYTES (HEAD_BYTES + 2 * NEF_KEY_BYTES + 1 + 2 * NEF_CUSTOMER_ID_BYTES + 1)

/* An existing file is never replaced, and a crash leaves a whole one or none. */
nef_err nef_key_file_create(const char *path, const void *data, size_t bytes)
{
    return nef_file_make(path, 0600, data, bytes);
}

nef_err nef_key_file_load(const char *path, void *out, size_t max, size_t *out_bytes)
{
    uint8_t *to = out;
    size_t done = 0;
    struct stat st;
    nef_err err = NEF_OK;
    uint8_t more;
    int fd;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hang the start */
    if (fd < 0)
        return nef_file_error(errno);
    if (fstat(fd, &st) != 0) {
        err = nef_file_error(errno);
        goto out;
    }
    if (!S_ISREG(st.st_mode) || (st.st_mode & 077) != 0 ||
        (st.st_uid != geteuid() && st.st_uid != 0)) {
        err = NEF_E_CONFIG;
        goto out;
    }
    for (;;) {
        ssize_t n = done < max ? read(fd, to + done, max - done) : read(fd, &more, 1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err = nef_file_error(errno);
        else if (n > 0 && done == max)
            err = NEF_E_LIMIT;
        if (n <= 0 || err != NEF_OK)
            break;
        done += (size_t)n;
    }
    if (err == NEF_OK)
        *out_bytes = done;
out:
    (void)close(fd); /* only read from */
    return err;
}

nef_err nef_keys_make_file(const char *path)
{
    struct nef_customer_key *customer = nef_secret_new(sizeof(*customer));
    char *text = nef_secret_new(FILE_BYTES + 1);
    char *p = text;
    nef_err err = NEF_E_NOMEM;

    if (customer == NULL || text == NULL)
        goto out;
    nef_random(customer->key, NEF_KEY_BYTES);
    nef_customer_key_identify(customer);
    memcpy(p, HEAD, HEAD_BYTES);
    p += HEAD_BYTES;
    nef_hex(customer->key, NEF_KEY_BYTES, p);
    p += 2 * NEF_KEY_BYTES;
    *p++ = '\n';
    nef_hex(customer->id, NEF_CUSTOMER_ID_BYTES, p);
    p += 2 * NEF_CUSTOMER_ID_BYTES;
    *p++ = '\n';
    NEF_ASSERT((size_t)(p - text) == FILE_BYTES);
    err = nef_key_file_create(path, text, FILE_BYTES);
out:
    nef_secret_free(text, FILE_BYTES + 1);
    nef_secret_free(customer, sizeof(*customer));
    return err;
}

nef_err nef_key_file_read(const char *path, struct nef_customer_key *out_customer)
{
    struct nef_customer_key *customer = nef_secret_new(sizeof(*customer));
    char *text = nef_secret_new(FILE_BYTES);
    uint8_t id[NEF_CUSTOMER_ID_BYTES];
    const char *key_text, *id_text;
    size_t bytes = 0;
    nef_err err = NEF_E_NOMEM;

    if (customer == NULL || text == NULL)
        goto out;
    err = nef_key_file_load(path, text, FILE_BYTES, &bytes);
    if (err == NEF_E_LIMIT || (err == NEF_OK && bytes != FILE_BYTES))
        err = NEF_E_CONFIG;
    if (err != NEF_OK)
        goto out;
    key_text = text + HEAD_BYTES;
    id_text = key_text + 2 * NEF_KEY_BYTES + 1;
    err = NEF_E_CONFIG;
    if (memcmp(text, HEAD, HEAD_BYTES) != 0 || id_text[-1] != '\n' || text[FILE_BYTES - 1] != '\n' ||
        nef_unhex(key_text, 2 * NEF_KEY_BYTES, customer->key, NEF_KEY_BYTES) != NEF_OK ||
        nef_unhex(id_text, 2 * NEF_CUSTOMER_ID_BYTES, id, sizeof(id)) != NEF_OK)
        goto out;
    nef_customer_key_identify(customer);
    if (!nef_equal_ct(id, customer->id, sizeof(id)))
        goto out;
    *out_customer = *customer;
    err = NEF_OK;
out:
    nef_secret_free(text, FILE_BYTES);
    nef_secret_free(customer, sizeof(*customer));
    return err;
}
