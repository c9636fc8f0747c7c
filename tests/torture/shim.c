/* Preloaded into the service by the torture test.
 *
 * It notes what is written below TORTURE_WATCH and not synced yet, so that after a kill the test can take
 * it away, as a power cut would: the page cache survives a kill. And, when told to in TORTURE_CONTROL, it
 * fails writes (a full disk, after half of the bytes) and syncs, and moves the clock.
 *
 * A journal per file, named by its inode, in TORTURE_UNDO: the path and a line feed, then records of
 * five numbers of 64 bits (kind, offset, length, size before, bytes that follow) and what was there before. A
 * sync empties it. Metadata (names, new files) is taken for durable at once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t full;
    int64_t sync_fails;
    int64_t clock_seconds;
};

static struct control none;
static volatile struct control *control = &none;
static const char *watch, *undo;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    real_rename = dlsym(RTLD_NEXT, "rename");
    watch = getenv("TORTURE_WATCH");
    undo = getenv("TORTURE_UNDO");
    const char *path = getenv("TORTURE_CONTROL");
    int fd = path ? open(path, O_RDWR) : -1;
    if (fd >= 0) {
        void *mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
        if (mapped != MAP_FAILED) control = mapped;
        close(fd);
    }
}

/* The path of a regular file below the watched folder; 0 for all others. */
static int watched(int fd, struct stat *stat, char *path, size_t size) {
    char link[64];
    if (!watch || !undo || fstat(fd, stat) != 0 || !S_ISREG(stat->st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, watch, strlen(watch)) == 0;
}

static int journal(const struct stat *stat, const char *path) {
    char name[4096];
    snprintf(name, sizeof name, "%s/%llu", undo, (unsigned long long)stat->st_ino);
    int fd = open(name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0 && lseek(fd, 0, SEEK_END) == 0) {
        real_write(fd, path, strlen(path));
        real_write(fd, "\n", 1);
    }
    return fd;
}

/* Notes what lies where `length` bytes from `offset` on are about to change. */
static void note(int fd, int64_t kind, off_t offset, size_t length, const struct stat *stat, const char *path) {
    off_t end = offset + (off_t)length < stat->st_size ? offset + (off_t)length : stat->st_size;
    size_t before = end > offset ? (size_t)(end - offset) : 0;
    int64_t record[5] = {kind, offset, (int64_t)length, stat->st_size, (int64_t)before};
    char *bytes = malloc(sizeof record + before);
    int reader = open(path, O_RDONLY | O_CLOEXEC);
    if (!bytes || reader < 0) abort();
    memcpy(bytes, record, sizeof record);
    if (before && pread(reader, bytes + sizeof record, before, offset) != (ssize_t)before) abort();
    close(reader);
    (void)fd;
    int to = journal(stat, path);
    if (to < 0 || real_write(to, bytes, sizeof record + before) < 0) abort();
    close(to);
    free(bytes);
}

static ssize_t write_watched(int fd, const void *bytes, size_t length, off_t offset, int moves) {
    struct stat stat;
    char path[4096];
    if (!watched(fd, &stat, path, sizeof path))
        return moves ? real_write(fd, bytes, length) : real_pwrite(fd, bytes, length, offset);
    pthread_mutex_lock(&lock);
    fstat(fd, &stat);
    if (moves) offset = fcntl(fd, F_GETFL) & O_APPEND ? stat.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t written = -1;
    int failed = ENOSPC;
    size_t fits = control->full ? (length > 1 ? length / 2 : 0) : length;
    if (fits > 0) {
        note(fd, 0, offset, fits, &stat, path);
        written = moves ? real_write(fd, bytes, fits) : real_pwrite(fd, bytes, fits, offset);
        failed = errno;
    }
    pthread_mutex_unlock(&lock);
    if (written < 0) errno = failed;
    return written;
}

ssize_t write(int fd, const void *bytes, size_t length) { return write_watched(fd, bytes, length, 0, 1); }

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    return write_watched(fd, bytes, length, offset, 0);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return write_watched(fd, bytes, length, offset, 0);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct stat stat;
    char path[4096];
    if (!watched(fd, &stat, path, sizeof path)) return real_writev(fd, parts, count);
    /* A short write is allowed: the caller goes on with the rest. */
    for (int part = 0; part < count; part++)
        if (parts[part].iov_len > 0) return write(fd, parts[part].iov_base, parts[part].iov_len);
    return 0;
}

int ftruncate64(int fd, off_t size) {
    struct stat stat;
    char path[4096];
    if (!watched(fd, &stat, path, sizeof path)) return real_ftruncate(fd, size);
    pthread_mutex_lock(&lock);
    fstat(fd, &stat);
    size_t cut = stat.st_size > size ? (size_t)(stat.st_size - size) : 0;
    note(fd, 1, size, cut, &stat, path);
    int done = real_ftruncate(fd, size);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int sync_watched(int fd, int (*sync)(int)) {
    struct stat stat;
    char path[4096];
    if (!watched(fd, &stat, path, sizeof path)) return sync(fd);
    if (control->sync_fails) {
        errno = EIO;
        return -1;
    }
    pthread_mutex_lock(&lock);
    /* The disk need not do it: whoever takes the power away is this test. */
    char name[4096];
    snprintf(name, sizeof name, "%s/%llu", undo, (unsigned long long)stat.st_ino);
    real_unlinkat(AT_FDCWD, name, 0);
    pthread_mutex_unlock(&lock);
    return 0;
}

/* A file that goes leaves its inode to another. */
static void forget(const struct stat *stat) {
    char name[4096];
    snprintf(name, sizeof name, "%s/%llu", undo, (unsigned long long)stat->st_ino);
    real_unlinkat(AT_FDCWD, name, 0);
}

int unlinkat(int folder, const char *path, int flags) {
    struct stat stat;
    int is_file = undo && !(flags & AT_REMOVEDIR) && fstatat(folder, path, &stat, AT_SYMLINK_NOFOLLOW) == 0;
    pthread_mutex_lock(&lock);
    int done = real_unlinkat(folder, path, flags);
    int failed = errno;
    if (done == 0 && is_file) forget(&stat);
    pthread_mutex_unlock(&lock);
    errno = failed;
    return done;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rename(const char *from, const char *to) {
    struct stat replaced;
    int is_there = undo && stat(to, &replaced) == 0 && S_ISREG(replaced.st_mode);
    pthread_mutex_lock(&lock);
    int done = real_rename(from, to);
    int failed = errno;
    if (done == 0 && is_there) forget(&replaced);
    pthread_mutex_unlock(&lock);
    errno = failed;
    return done;
}

int fsync(int fd) { return sync_watched(fd, real_fsync); }

int fdatasync(int fd) { return sync_watched(fd, real_fdatasync); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int done = real_clock_gettime(clock, time);
    if (done == 0 && clock == CLOCK_REALTIME) time->tv_sec += control->clock_seconds;
    return done;
}
