/* Randomness, comparing and wiping, and memory for keys.
 *
 * Memory for keys lies in pages of its own: locked (never swapped), left out of core dumps, zeroed
 * in a forked child. RLIMIT_MEMLOCK is often 8 MiB, and a page for each 32-byte key would spend it
 * on 2,000 keys, so small secrets share pages: a page holds slots of one size (a multiple of 32, up
 * to 1,024), its free slots are bits of a word, and a page whose last slot is freed goes back to
 * the system. The bookkeeping lies outside the page. One lock guards all of it; keys are made
 * seldom. */
#include "crypto/crypto_internal.h"
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/assert.h"

#define PAGE_BYTES  4096u /* of a shared page; the kernel's may be larger, mmap rounds up */
#define SLOT_BYTES  32u
#define SHARED_MAX  1024u
#define CLASS_COUNT (SHARED_MAX / SLOT_BYTES)
#define SLOTS_MAX   (PAGE_BYTES / SLOT_BYTES)

struct page {
    struct page *next;
    uint8_t *memory;
    uint32_t used_count;
    uint64_t used[SLOTS_MAX / 64];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct page *pages[CLASS_COUNT]; /* under lock; [i]: slots of (i + 1) * SLOT_BYTES */

void nef_random(void *out, size_t bytes)
{
    uint8_t *to = out;

    while (bytes > 0) {
        size_t step = NEF_MIN(bytes, (size_t)1 << 20);

        NEF_ASSERT(RAND_bytes(to, (int)step) == 1); /* going on with weak keys would be worse */
        to += step;
        bytes -= step;
    }
}

uint64_t nef_random_u64(void)
{
    uint64_t v;

    do {
        nef_random(&v, sizeof(v));
    } while (v == 0);
    return v;
}

bool nef_equal_ct(const void *a, const void *b, size_t bytes)
{
    return CRYPTO_memcmp(a, b, bytes) == 0;
}

void nef_wipe(void *p, size_t bytes)
{
    if (bytes > 0)
        explicit_bzero(p, bytes);
}

static void *map_locked(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    if (mlock(p, bytes) != 0 || madvise(p, bytes, MADV_DONTDUMP) != 0 ||
        madvise(p, bytes, MADV_WIPEONFORK) != 0) {
        (void)munmap(p, bytes); /* nothing secret in it yet */
        return NULL;
    }
    return p;
}

static void unmap_wiped(void *p, size_t bytes)
{
    nef_wipe(p, bytes);
    (void)munmap(p, bytes); /* can't fail for a mapping of ours; munmap also unlocks */
}

static struct page *page_new(void)
{
    struct page *page = calloc(1, sizeof(*page));

    if (page == NULL)
        return NULL;
    page->memory = map_locked(PAGE_BYTES);
    if (page->memory == NULL) {
        free(page);
        return NULL;
    }
    return page;
}

static void *shared_new(size_t bytes)
{
    size_t class = (bytes + SLOT_BYTES - 1) / SLOT_BYTES - 1;
    size_t slot_bytes = (class + 1) * SLOT_BYTES;
    uint32_t slots = (uint32_t)(PAGE_BYTES / slot_bytes);
    struct page *page;
    void *p = NULL;

    (void)pthread_mutex_lock(&lock);
    for (page = pages[class]; page != NULL && page->used_count == slots; page = page->next)
        ;
    if (page == NULL && (page = page_new()) != NULL) {
        page->next = pages[class];
        pages[class] = page;
    }
    for (uint32_t i = 0; page != NULL && i < slots; i++) {
        if ((page->used[i / 64] >> (i % 64) & 1) == 0) {
            page->used[i / 64] |= (uint64_t)1 << (i % 64);
            page->used_count++;
            p = page->memory + i * slot_bytes;
            break;
        }
    }
    (void)pthread_mutex_unlock(&lock);
    return p;
}

static void shared_free(uint8_t *p, size_t bytes)
{
    size_t class = (bytes + SLOT_BYTES - 1) / SLOT_BYTES - 1;
    size_t slot_bytes = (class + 1) * SLOT_BYTES;
    struct page **at = &pages[class];
    struct page *page;
    size_t i;

    (void)pthread_mutex_lock(&lock);
    while (*at != NULL && (p < (*at)->memory || p >= (*at)->memory + PAGE_BYTES))
        at = &(*at)->next;
    page = *at;
    NEF_ASSERT(page != NULL); /* not from nef_secret_new, or freed with another size */
    i = (size_t)(p - page->memory) / slot_bytes;
    NEF_ASSERT(p == page->memory + i * slot_bytes);
    NEF_ASSERT((page->used[i / 64] >> (i % 64) & 1) == 1);
    nef_wipe(p, slot_bytes);
    page->used[i / 64] &= ~((uint64_t)1 << (i % 64));
    if (--page->used_count == 0) {
        *at = page->next;
        unmap_wiped(page->memory, PAGE_BYTES);
        free(page);
    }
    (void)pthread_mutex_unlock(&lock);
}

void *nef_secret_new(size_t bytes)
{
    NEF_ASSERT(bytes > 0);
    return bytes <= SHARED_MAX ? shared_new(bytes) : map_locked(bytes);
}

void nef_secret_free(void *p, size_t bytes)
{
    if (p == NULL)
        return;
    if (bytes <= SHARED_MAX)
        shared_free(p, bytes);
    else
        unmap_wiped(p, bytes);
}
