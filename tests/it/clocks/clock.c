/* Preloaded into the service by tests of the clock.
 *
 * The file CLOCK_OFFSETS holds two 64-bit numbers: the seconds by which the wall clock is set
 * ahead, and the seconds that pass at once for both the wall clock and the clock since boot. Calls
 * that bypass the C library are not affected. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const int64_t none[2];
static const volatile int64_t *offsets = none;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSETS");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) offsets = mapped;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += offsets[0] + offsets[1];
    if (result == 0 && clock == CLOCK_BOOTTIME) time->tv_sec += offsets[1];
    return result;
}
