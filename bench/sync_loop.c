/* sync_loop FILE SECONDS: how long a bare write of 4 KiB and fdatasync takes on this disk, now.
 *
 * The disk's flush varies from 10 us to 8 ms from minute to minute, so a number of a store that syncs means something
 * only beside this one. Appends into a preallocated file, as the log does. Prints one JSON line. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WRITE_BYTES 4096
#define FILE_BYTES  (256l << 20)
#define COUNT_MAX   2000000

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    static char block[WRITE_BYTES];
    double *times = malloc(COUNT_MAX * sizeof(*times)), start, end;
    size_t count = 0;
    int fd;

    if (argc != 3 || times == NULL) {
        fprintf(stderr, "usage: sync_loop FILE SECONDS\n");
        return 2;
    }
    fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || posix_fallocate(fd, 0, FILE_BYTES) != 0 || fsync(fd) != 0) {
        perror(argv[1]);
        return 1;
    }
    memset(block, 0x6e, sizeof(block));
    start = now_s();
    end = start + atof(argv[2]);
    while (count < COUNT_MAX) {
        double before = now_s();

        if (before >= end)
            break;
        if (pwrite(fd, block, WRITE_BYTES, (off_t)(count * WRITE_BYTES) % FILE_BYTES) != WRITE_BYTES ||
            fdatasync(fd) != 0) {
            perror("sync");
            return 1;
        }
        times[count++] = now_s() - before;
    }
    end = now_s();
    close(fd);
    unlink(argv[1]);
    if (count == 0)
        return 1;
    qsort(times, count, sizeof(*times), by_value);
    printf("{\"syncs_per_s\": %.0f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"max_us\": %.0f}\n",
           (double)count / (end - start), times[count / 2] * 1e6, times[count * 99 / 100] * 1e6,
           times[count - 1] * 1e6);
    return 0;
}
