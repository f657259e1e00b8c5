/* Trace lines; see trace.h. */
#include "base/trace.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/err.h"

static int trace_fd = 2;
static char trace_who[64] = "nef";
static enum nef_trace_level trace_least = NEF_TRACE_INFO;

void nef_trace_setup(int fd, const char *who, enum nef_trace_level least)
{
    trace_fd = fd;
    (void)snprintf(trace_who, sizeof(trace_who), "%s", who);
    trace_least = least;
}

struct line {
    char text[2048];
    size_t at;
};

static void put(struct line *l, const char *text, size_t bytes)
{
    if (bytes > sizeof(l->text) - 8 - l->at) /* room for the closing characters */
        return;
    memcpy(l->text + l->at, text, bytes);
    l->at += bytes;
}

static void put_string(struct line *l, const char *text)
{
    put(l, "\"", 1);
    for (size_t n = 0; *text != '\0' && n < 512; text++, n++) {
        unsigned char c = (unsigned char)*text;
        char escaped[8];

        if (c == '"' || c == '\\') {
            escaped[0] = '\\';
            escaped[1] = (char)c;
            put(l, escaped, 2);
        } else if (c < 0x20 || c >= 0x7f) {
            put(l, escaped, (size_t)snprintf(escaped, sizeof(escaped), "\\u%04x", c));
        } else {
            put(l, text, 1);
        }
    }
    put(l, "\"", 1);
}

/* Lines that wait, when buffering is on: a write(2) for each of 20,000 requests a second costs a twentieth of
 * the processor. */
static pthread_mutex_t buffer_lock = PTHREAD_MUTEX_INITIALIZER;
static bool buffering;
static char buffer[64 << 10];
static size_t buffered;

static void flush_locked(void)
{
    if (buffered > 0)
        (void)!write(trace_fd, buffer, buffered); /* nobody to tell if the trace can't be written */
    buffered = 0;
}

void nef_trace_buffer(bool on)
{
    pthread_mutex_lock(&buffer_lock);
    buffering = on;
    flush_locked();
    pthread_mutex_unlock(&buffer_lock);
}

void nef_trace_flush(void)
{
    pthread_mutex_lock(&buffer_lock);
    flush_locked();
    pthread_mutex_unlock(&buffer_lock);
}

static void emit(const struct line *l, enum nef_trace_level level)
{
    pthread_mutex_lock(&buffer_lock);
    if (buffered + l->at > sizeof(buffer))
        flush_locked();
    memcpy(buffer + buffered, l->text, l->at);
    buffered += l->at;
    if (!buffering || level >= NEF_TRACE_WARN)
        flush_locked();
    pthread_mutex_unlock(&buffer_lock);
}

void nef_trace(enum nef_trace_level level, const char *event, ...)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    struct line l = {.at = 0};
    struct timespec now;
    struct tm tm;
    char head[96];
    va_list args;
    const char *name;

    if (level < trace_least)
        return;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &tm);
    put(&l, head,
        (size_t)snprintf(head, sizeof(head),
                         "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ\",\"level\":\"%s\",",
                         tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
                         tm.tm_sec, now.tv_nsec / 1000, levels[level]));
    put(&l, "\"who\":", 6);
    put_string(&l, trace_who);
    put(&l, ",\"event\":", 9);
    put_string(&l, event);
    va_start(args, event);
    while ((name = va_arg(args, const char *)) != NULL) {
        char number[32];

        put(&l, ",", 1);
        put_string(&l, name + 2);
        put(&l, ":", 1);
        switch (name[0]) {
        case 's':
            put_string(&l, va_arg(args, const char *));
            break;
        case 'u':
            put(&l, number,
                (size_t)snprintf(number, sizeof(number), "%llu",
                                 (unsigned long long)va_arg(args, uint64_t)));
            break;
        case 'i':
            put(&l, number,
                (size_t)snprintf(number, sizeof(number), "%lld",
                                 (long long)va_arg(args, int64_t)));
            break;
        default:
            put_string(&l, nef_err_name((nef_err)va_arg(args, int)));
            break;
        }
    }
    va_end(args);
    memcpy(l.text + l.at, "}\n", 2);
    l.at += 2;
    emit(&l, level);
}
