/* Assertions state what we believe; they stay on in release builds. Bytes from disk, network, client
 * or configuration are never asserted: they return an error. */
#ifndef NEF_BASE_ASSERT_H
#define NEF_BASE_ASSERT_H

/* Prints the place and the condition to stderr and aborts. Async-signal-unsafe; any thread. */
_Noreturn void nef_assert_fail(const char *file, int line, const char *condition);

#define NEF_ASSERT(c) ((c) ? (void)0 : nef_assert_fail(__FILE__, __LINE__, #c))

/* For full scans and kernels; built with -Dslow_asserts=true. */
#ifdef NEF_SLOW_ASSERTS
#define NEF_ASSERT_SLOW(c) NEF_ASSERT(c)
#else
#define NEF_ASSERT_SLOW(c) ((void)0)
#endif

#define NEF_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define NEF_MIN(a, b) ((a) < (b) ? (a) : (b))
#define NEF_MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
