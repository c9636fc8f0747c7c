/* Preloaded into the service by tests of a failing disk.
 *
 * The first byte of the file FAULT_KIND selects the fault below the directory FAULT_BELOW:
 * '0' none, 's' syncs fail with EIO, 'w' writes fail with ENOSPC, 'f' files cannot be opened
 * (EMFILE), 'r' the file system is read-only, 'a' only half of what is allocated ahead has room.
 * Calls that bypass the C library are not affected. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static const char none = '0';
static const volatile char *kind = &none;
static const char *below;

__attribute__((constructor)) static void begin(void) {
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    const char *path = getenv("FAULT_KIND");
    below = getenv("FAULT_BELOW");
    int fd = path ? real_open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) kind = mapped;
    close(fd);
}

static int is_below(const char *path) { return below && strncmp(path, below, strlen(below)) == 0; }

static int fd_is_below(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static int name_is_below(int folder, const char *name) {
    char path[2 * PATH_MAX], link[64];
    if (name[0] == '/') return is_below(name);
    if (folder == AT_FDCWD) {
        if (!getcwd(path, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, path, PATH_MAX - 1);
        if (length < 0) return 0;
        path[length] = 0;
    }
    while (strncmp(name, "./", 2) == 0) name += 2;
    strcat(path, "/");
    strncat(path, name, PATH_MAX - 2);
    return is_below(path);
}

static int refused(int error) {
    errno = error;
    return -1;
}

/* Returns the error of a write to `fd`, or 0. */
static int write_error(int fd) {
    if (*kind != 'w' && *kind != 'r') return 0;
    if (!fd_is_below(fd)) return 0;
    return *kind == 'w' ? ENOSPC : EROFS;
}

#define REAL(name, ...) ((typeof(&name))dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

ssize_t write(int fd, const void *bytes, size_t length) {
    int error = write_error(fd);
    return error ? refused(error) : REAL(write, fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    int error = write_error(fd);
    return error ? refused(error) : REAL(pwrite64, fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    int error = write_error(fd);
    return error ? refused(error) : REAL(writev, fd, parts, count);
}

int ftruncate64(int fd, off_t size) {
    if (*kind == 'r' && fd_is_below(fd)) return refused(EROFS);
    return REAL(ftruncate64, fd, size);
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fallocate64(int fd, int mode, off_t offset, off_t length) {
    int error = write_error(fd);
    if (error) return refused(error);
    int is_short = *kind == 'a' && fd_is_below(fd);
    int done = REAL(fallocate64, fd, mode, offset, is_short ? length / 2 : length);
    return is_short ? refused(ENOSPC) : done;
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

int fsync(int fd) {
    if (*kind == 's' && fd_is_below(fd)) return refused(EIO);
    return REAL(fsync, fd);
}

int fdatasync(int fd) {
    if (*kind == 's' && fd_is_below(fd)) return refused(EIO);
    return REAL(fdatasync, fd);
}

static int open_below(int folder, const char *name, int flags, mode_t mode) {
    if (*kind == 'f' && name_is_below(folder, name)) return refused(EMFILE);
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    if (*kind == 'r' && writes && name_is_below(folder, name)) return refused(EROFS);
    return REAL(openat64, folder, name, flags, mode);
}

#define OPEN(folder)                                              \
    va_list rest;                                                 \
    va_start(rest, flags);                                        \
    mode_t mode = flags & O_CREAT ? (mode_t)va_arg(rest, int) : 0; \
    va_end(rest);                                                 \
    return open_below(folder, path, flags, mode)

int open(const char *path, int flags, ...) { OPEN(AT_FDCWD); }
int open64(const char *path, int flags, ...) { OPEN(AT_FDCWD); }
int openat(int folder, const char *path, int flags, ...) { OPEN(folder); }
int openat64(int folder, const char *path, int flags, ...) { OPEN(folder); }

int mkdir(const char *path, mode_t mode) {
    if (*kind == 'r' && name_is_below(AT_FDCWD, path)) return refused(EROFS);
    return REAL(mkdir, path, mode);
}

int unlinkat(int folder, const char *name, int flags) {
    if (*kind == 'r' && name_is_below(folder, name)) return refused(EROFS);
    return REAL(unlinkat, folder, name, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rename(const char *from, const char *to) {
    if (*kind == 'r' && name_is_below(AT_FDCWD, from)) return refused(EROFS);
    return REAL(rename, from, to);
}
