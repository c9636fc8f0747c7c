/* Preloaded into the service by the torture test.
 *
 * It records what is written below TORTURE_WATCH and not synced yet. The page cache survives a
 * kill, so the test removes these writes after a kill, as a power failure would. As TORTURE_CONTROL
 * says, it also fails writes (a full disk, after half of the bytes; or only those below the
 * directory `index`) and syncs, and sets the clock.
 *
 * TORTURE_UNDO has a journal per file, named by the file's inode: the path and a line feed, then
 * records of five 64-bit numbers (kind, offset, length, size before, number of bytes that follow)
 * and the previous contents. A sync empties the journal.
 *
 * Changes of names are in one more journal, `names`: a line for each file or directory that is
 * created, renamed or removed, and for each sync of a directory, which makes the changes of its
 * names durable. A file that is removed or replaced is kept in TORTURE_UNDO under another name.
 * Calls that bypass the C library are not affected. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
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
    int64_t index_fails;
};

static struct control none;
static volatile struct control *control = &none;
static const char *watch, *undo;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_mkdir)(const char *, mode_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_rename)(const char *, const char *);

/* Descriptors for the shim's own files, reserved for when the service may open no more. */
static int spare[8];

static int open_own(const char *path, int flags) {
    for (int tries = 0; tries < 10000; tries++) {
        int fd = real_open(path, flags | O_CLOEXEC, 0600);
        if (fd >= 0 || errno != EMFILE) return fd;
        /* Another thread may take the descriptor first, and keep it until its own call fails. */
        for (size_t one = 0; one < sizeof spare / sizeof *spare; one++)
            if (spare[one] >= 0) {
                close(spare[one]);
                spare[one] = -1;
                break;
            }
        if (tries > 8) usleep(1000);
    }
    return -1;
}

static void close_own(int fd) {
    close(fd);
    for (size_t one = 0; one < sizeof spare / sizeof *spare; one++)
        if (spare[one] < 0) spare[one] = real_open("/dev/null", O_RDONLY | O_CLOEXEC);
}

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_open = dlsym(RTLD_NEXT, "open64");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_mkdir = dlsym(RTLD_NEXT, "mkdir");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fallocate = dlsym(RTLD_NEXT, "fallocate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    real_rename = dlsym(RTLD_NEXT, "rename");
    watch = getenv("TORTURE_WATCH");
    undo = getenv("TORTURE_UNDO");
    const char *path = getenv("TORTURE_CONTROL");
    int fd = path ? real_open(path, O_RDWR) : -1;
    if (fd >= 0) {
        void *mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
        if (mapped != MAP_FAILED) control = mapped;
        close(fd);
    }
    for (size_t one = 0; one < sizeof spare / sizeof *spare; one++)
        spare[one] = real_open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, watch, strlen(watch)) == 0;
}

/* Sets `path` to that of a regular file below the watched directory. Returns 0 for all others. */
static int watched(int fd, struct stat *stat, char *path) {
    return watch && undo && fstat(fd, stat) == 0 && S_ISREG(stat->st_mode) && path_of(fd, path);
}

static int journal(const struct stat *stat, const char *path) {
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s/%llu", undo, (unsigned long long)stat->st_ino);
    int fd = open_own(name, O_RDWR | O_CREAT | O_APPEND);
    if (fd >= 0 && lseek(fd, 0, SEEK_END) == 0) {
        real_write(fd, path, strlen(path));
        real_write(fd, "\n", 1);
    }
    return fd;
}

/* Records the contents of the `length` bytes from `offset` on, which are about to change. */
static void note(int fd, int64_t kind, off_t offset, size_t length, const struct stat *stat, const char *path) {
    off_t end = offset + (off_t)length < stat->st_size ? offset + (off_t)length : stat->st_size;
    size_t before = end > offset ? (size_t)(end - offset) : 0;
    int64_t record[5] = {kind, offset, (int64_t)length, stat->st_size, (int64_t)before};
    char *bytes = malloc(sizeof record + before);
    int reader = open_own(path, O_RDONLY);
    if (!bytes || reader < 0) abort();
    memcpy(bytes, record, sizeof record);
    if (before && pread(reader, bytes + sizeof record, before, offset) != (ssize_t)before) abort();
    close_own(reader);
    (void)fd;
    int to = journal(stat, path);
    if (to < 0 || real_write(to, bytes, sizeof record + before) < 0) abort();
    close_own(to);
    free(bytes);
}

static int is_of_index(const char *path) {
    static const char index[] = "/index/";
    return strncmp(path + strlen(watch), index, sizeof index - 1) == 0;
}

static ssize_t write_watched(int fd, const void *bytes, size_t length, off_t offset, int moves) {
    struct stat stat;
    char path[PATH_MAX];
    if (!watched(fd, &stat, path))
        return moves ? real_write(fd, bytes, length) : real_pwrite(fd, bytes, length, offset);
    pthread_mutex_lock(&lock);
    fstat(fd, &stat);
    if (moves) offset = fcntl(fd, F_GETFL) & O_APPEND ? stat.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t written = -1;
    int failed = ENOSPC;
    size_t fits = control->full ? (length > 1 ? length / 2 : 0) : length;
    if (control->index_fails && is_of_index(path)) {
        failed = EIO;
        fits = 0;
    }
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
    char path[PATH_MAX];
    if (!watched(fd, &stat, path)) return real_writev(fd, parts, count);
    /* A short write is allowed: the caller continues with the rest. */
    for (int part = 0; part < count; part++)
        if (parts[part].iov_len > 0) return write(fd, parts[part].iov_base, parts[part].iov_len);
    return 0;
}

int ftruncate64(int fd, off_t size) {
    struct stat stat;
    char path[PATH_MAX];
    if (!watched(fd, &stat, path)) return real_ftruncate(fd, size);
    pthread_mutex_lock(&lock);
    fstat(fd, &stat);
    size_t cut = stat.st_size > size ? (size_t)(stat.st_size - size) : 0;
    note(fd, 1, size, cut, &stat, path);
    int done = real_ftruncate(fd, size);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fallocate64(int fd, int mode, off_t offset, off_t length) {
    struct stat stat;
    char path[PATH_MAX];
    if (!watched(fd, &stat, path)) return real_fallocate(fd, mode, offset, length);
    pthread_mutex_lock(&lock);
    fstat(fd, &stat);
    /* The contents stay as they are: only the size can change. */
    if (mode != 0) abort();
    note(fd, 2, stat.st_size, 0, &stat, path);
    /* On a full disk, a part is allocated. */
    int done = real_fallocate(fd, mode, offset, control->full ? (length + 1) / 2 : length);
    int failed = errno;
    if (control->full) {
        done = -1;
        failed = ENOSPC;
    }
    pthread_mutex_unlock(&lock);
    if (done < 0) errno = failed;
    return done;
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

/* Sets `path` to the full path of a name below the watched directory. Returns 0 for all others. */
static int named(int folder, const char *name, char *path) {
    char base[PATH_MAX];
    if (!watch || !undo) return 0;
    if (name[0] == '/') {
        base[0] = 0;
    } else if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else if (!path_of(folder, base)) {
        return 0;
    }
    while (strncmp(name, "./", 2) == 0) name += 2;
    if (snprintf(path, PATH_MAX, "%s%s%s", base, base[0] ? "/" : "", name) >= PATH_MAX) return 0;
    return strncmp(path, watch, strlen(watch)) == 0;
}

/* Writes a line to the journal of names. */
static void note_name(const char *kind, const char *path, const char *other, const char *kept) {
    char name[PATH_MAX], line[4 * PATH_MAX];
    snprintf(name, sizeof name, "%s/names", undo);
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%s\n", kind, path, other, kept);
    int fd = open_own(name, O_WRONLY | O_CREAT | O_APPEND);
    if (fd < 0 || real_write(fd, line, (size_t)length) != length) abort();
    close_own(fd);
}

/* Links a file that is about to be removed to another name, so that it can be restored. Its
 * unsynced writes count as durable from then on. */
static void keep(const char *path, const struct stat *stat, char *kept) {
    static unsigned long count;
    char name[PATH_MAX];
    snprintf(kept, PATH_MAX, "%s/kept-%d-%lu", undo, (int)getpid(), count++);
    if (linkat(AT_FDCWD, path, AT_FDCWD, kept, 0) != 0) abort();
    snprintf(name, sizeof name, "%s/%llu", undo, (unsigned long long)stat->st_ino);
    real_unlinkat(AT_FDCWD, name, 0);
}

static int is_file(const char *path, struct stat *found) {
    return lstat(path, found) == 0 && S_ISREG(found->st_mode);
}

static int open_named(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!(flags & O_CREAT) || !named(folder, name, path)) return real_openat(folder, name, flags, mode);
    struct stat found;
    pthread_mutex_lock(&lock);
    int is_new = !is_file(path, &found);
    int fd = real_openat(folder, name, flags, mode);
    int failed = errno;
    if (fd >= 0 && is_new) note_name("create", path, "", "");
    pthread_mutex_unlock(&lock);
    errno = failed;
    return fd;
}

static mode_t mode_of(int flags, va_list *rest) {
    return flags & O_CREAT ? (mode_t)va_arg(*rest, int) : 0;
}

#define OPEN(folder)                             \
    va_list rest;                                \
    va_start(rest, flags);                       \
    mode_t mode = mode_of(flags, &rest);         \
    va_end(rest);                                \
    return open_named(folder, path, flags, mode)

int open(const char *path, int flags, ...) { OPEN(AT_FDCWD); }

int open64(const char *path, int flags, ...) { OPEN(AT_FDCWD); }

int openat(int folder, const char *path, int flags, ...) { OPEN(folder); }

int openat64(int folder, const char *path, int flags, ...) { OPEN(folder); }

int unlinkat(int folder, const char *name, int flags) {
    char path[PATH_MAX], kept[PATH_MAX] = "";
    struct stat found;
    if (!named(folder, name, path)) return real_unlinkat(folder, name, flags);
    pthread_mutex_lock(&lock);
    int file = !(flags & AT_REMOVEDIR) && is_file(path, &found);
    if (file) keep(path, &found, kept);
    int done = real_unlinkat(folder, name, flags);
    int failed = errno;
    if (done == 0) note_name(flags & AT_REMOVEDIR ? "rmdir" : "remove", path, "", kept);
    pthread_mutex_unlock(&lock);
    errno = failed;
    return done;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdir(const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!named(AT_FDCWD, name, path)) return real_mkdir(name, mode);
    pthread_mutex_lock(&lock);
    int done = real_mkdir(name, mode);
    int failed = errno;
    if (done == 0) note_name("mkdir", path, "", "");
    pthread_mutex_unlock(&lock);
    errno = failed;
    return done;
}

int rename(const char *from, const char *to) {
    char path[PATH_MAX], other[PATH_MAX], kept[PATH_MAX] = "";
    struct stat found;
    if (!named(AT_FDCWD, from, path) || !named(AT_FDCWD, to, other)) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    if (is_file(other, &found)) keep(other, &found, kept);
    int done = real_rename(from, to);
    int failed = errno;
    if (done == 0) note_name("rename", path, other, kept);
    pthread_mutex_unlock(&lock);
    errno = failed;
    return done;
}

static int sync_watched(int fd, int (*sync)(int)) {
    struct stat stat;
    char path[PATH_MAX];
    if (!watch || !undo || fstat(fd, &stat) != 0) return sync(fd);
    /* The watched directory's own name is in its parent directory. */
    int is_below = path_of(fd, path);
    if (!is_below && (!S_ISDIR(stat.st_mode) || strncmp(path, watch, strlen(path)) != 0)) return sync(fd);
    if (control->sync_fails) {
        errno = EIO;
        return -1;
    }
    pthread_mutex_lock(&lock);
    /* The disk need not sync: only this test takes the power away. */
    if (S_ISDIR(stat.st_mode)) {
        note_name("sync", path, "", "");
    } else {
        char name[PATH_MAX];
        snprintf(name, sizeof name, "%s/%llu", undo, (unsigned long long)stat.st_ino);
        real_unlinkat(AT_FDCWD, name, 0);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { return sync_watched(fd, real_fsync); }

int fdatasync(int fd) { return sync_watched(fd, real_fdatasync); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int done = real_clock_gettime(clock, time);
    if (done == 0 && clock == CLOCK_REALTIME) time->tv_sec += control->clock_seconds;
    return done;
}
