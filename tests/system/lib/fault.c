/* Preloaded into the processes of a test's region: a disk that fails, a disk that is slow, a clock that is wrong, and
 * the control group by which lib/net.py tells the packets of zones apart.
 *
 * NEF_GROUPS is the beginning of three control groups' paths: + "-a/cgroup.procs" takes zone-a and etcd-a.
 * NEF_FAULTS names a directory. A process is called by its configuration file (zone-a, zone-b, witness); others
 * aren't touched. What it suffers stands in files there, looked at again every 20 ms:
 *   NAME.sync    "eio": fdatasync and fsync fail. A number: they take so many microseconds longer.
 *   NAME.read    "MICROSECONDS INODE...": reads of these files take so much longer, and none is answered from the page
 *                cache (preadv2 with RWF_NOWAIT).
 *   NAME.clock   seconds that are added to the system clock (CLOCK_REALTIME, gettimeofday, time). The monotonic
 *                clocks stay: a step of the wall clock doesn't move them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char prefix[512];
static _Atomic long clock_offset, sync_delay; /* sync_delay -1: fail */
static _Atomic long long looked_ns;

static long long now_ns(void)
{
    struct timespec t;

    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void join_group(const char *line)
{
    const char *groups = getenv("NEF_GROUPS"), *zone = strstr(line, "/config/zone-"), *name;
    char path[512], place = 0;
    int fd;

    if (zone != NULL)
        place = zone[strlen("/config/zone-")];
    else if (strstr(line, "/config/witness.yaml") != NULL)
        place = 'w';
    else if (strstr(line, "etcd") != NULL && (name = strstr(line, " --name=")) != NULL)
        place = name[strlen(" --name=")];
    if (groups == NULL || place == 0)
        return;
    snprintf(path, sizeof(path), "%s-%c/cgroup.procs", groups, place);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1)
        dprintf(2, "%s: %s\n", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

__attribute__((constructor)) static void find_name(void)
{
    char line[1024] = "";
    const char *directory = getenv("NEF_FAULTS"), *name;
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t bytes = fd >= 0 ? read(fd, line, sizeof(line) - 1) : -1;

    if (fd >= 0)
        close(fd);
    for (ssize_t i = 0; i < bytes; i++)
        if (line[i] == 0)
            line[i] = ' ';
    join_group(line);
    name = strstr(line, "/config/");
    if (directory == NULL || name == NULL || strstr(line, ".yaml") == NULL)
        return;
    name += strlen("/config/");
    snprintf(prefix, sizeof(prefix), "%s/%.*s", directory, (int)(strstr(name, ".yaml") - name), name);
}

static long number_of(const char *what)
{
    char path[600], text[32] = "";
    int fd;

    snprintf(path, sizeof(path), "%s.%s", prefix, what);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (read(fd, text, sizeof(text) - 1) < 0)
        text[0] = 0;
    close(fd);
    return strncmp(text, "eio", 3) == 0 ? -1 : atol(text);
}

static void look(void)
{
    long long now, last = atomic_load(&looked_ns);
    int saved = errno;

    if (prefix[0] == 0)
        return;
    now = now_ns();
    if (now - last < 20000000 || !atomic_compare_exchange_strong(&looked_ns, &last, now))
        return;
    atomic_store(&clock_offset, number_of("clock"));
    atomic_store(&sync_delay, number_of("sync"));
    errno = saved;
}

static int sync_fault(void)
{
    long delay;

    look();
    delay = atomic_load(&sync_delay);
    if (delay < 0) {
        errno = EIO;
        return -1;
    }
    if (delay > 0)
        usleep((useconds_t)delay);
    return 0;
}

#define SLOW_FILES_MAX 64
static pthread_mutex_t slow_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long slow_files[SLOW_FILES_MAX]; /* under slow_lock, and so the two below */
static int slow_count;
static long slow_us;

static void look_at_reads(void)
{
    static long long looked;
    char path[600], text[2048] = "", *at;
    long long now = now_ns();
    int fd;

    if (now - looked < 20000000)
        return;
    looked = now;
    slow_count = 0;
    snprintf(path, sizeof(path), "%s.read", prefix);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (read(fd, text, sizeof(text) - 1) < 0)
        text[0] = 0;
    close(fd);
    slow_us = strtol(text, &at, 10);
    while (slow_count < SLOW_FILES_MAX && *at == ' ')
        slow_files[slow_count++] = strtoul(at + 1, &at, 10);
}

/* Microseconds that a read of FD takes longer; 0: it isn't one of those. */
static long read_delay(int fd)
{
    struct stat st;
    long us = 0;
    int saved = errno;

    if (prefix[0] == 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    pthread_mutex_lock(&slow_lock);
    look_at_reads();
    for (int i = 0; i < slow_count; i++)
        if (slow_files[i] == st.st_ino)
            us = slow_us;
    pthread_mutex_unlock(&slow_lock);
    errno = saved;
    return us;
}

ssize_t pread64(int fd, void *out, size_t bytes, off_t offset)
{
    long us = read_delay(fd);

    if (us > 0)
        usleep((useconds_t)us);
    return syscall(SYS_pread64, fd, out, bytes, offset);
}

ssize_t pread(int fd, void *out, size_t bytes, off_t offset)
{
    return pread64(fd, out, bytes, offset);
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    long us = read_delay(fd);

    if (us > 0 && (flags & RWF_NOWAIT) != 0) {
        errno = EAGAIN;
        return -1;
    }
    if (us > 0)
        usleep((useconds_t)us);
    return syscall(SYS_preadv2, fd, parts, count, offset, 0, flags);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    return preadv64v2(fd, parts, count, offset, flags);
}

int fdatasync(int fd)
{
    return sync_fault() != 0 ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    return sync_fault() != 0 ? -1 : (int)syscall(SYS_fsync, fd);
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    static int (*real)(clockid_t, struct timespec *);
    int result;

    if (real == NULL)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    result = real(id, t);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        look();
        t->tv_sec += atomic_load(&clock_offset);
    }
    return result;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec t;

    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &t) != 0)
        return -1;
    tv->tv_sec = t.tv_sec;
    tv->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec t;

    if (clock_gettime(CLOCK_REALTIME, &t) != 0)
        return (time_t)-1;
    if (out != NULL)
        *out = t.tv_sec;
    return t.tv_sec;
}
