/* Preloaded into a process under test: records every change to files whose path contains $RECORD_PATH, in the
 * order in which the kernel was asked for them, into $RECORD_LOG. One record is
 *   operation (1 byte: W write, T truncate, S sync, O open, U unlink), file (1 byte), offset (8), length (4), data
 * in the machine's byte order; the data of O and U is the path. The record is written before the change is made.
 *
 * While the file $RECORD_FAULTS is there, the disk fails as its letters say: R reads, W writes and truncations, S syncs
 * end with EIO; H syncs do not end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES 16
#define DESCRIPTORS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char names[FILES][512];
static unsigned char file_of[DESCRIPTORS]; /* 0 for none, else index into names plus 1 */
static int log_fd = -1;

static int is_ours(const char *path) {
    const char *wanted = getenv("RECORD_PATH");
    return wanted && path && strstr(path, wanted) && !strstr(path, "-shm") && !strstr(path, ".lock");
}

/* Whether the disk fails in this way now. */
static int fails(int fd, char how) {
    const char *path = getenv("RECORD_FAULTS");
    if (!path || fd < 0 || fd >= DESCRIPTORS || !file_of[fd]) {
        return 0;
    }
    char letters[8] = {0};
    int faults = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
    if (faults < 0) {
        return 0;
    }
    long got = syscall(SYS_read, faults, letters, sizeof letters - 1);
    syscall(SYS_close, faults);
    return got > 0 && strchr(letters, how) != NULL;
}

#define FAIL(fd, how) if (fails(fd, how)) { errno = EIO; return -1; }

static void record(char operation, unsigned char file, uint64_t offset, uint32_t length, const void *data) {
    if (!getenv("RECORD_LOG")) {
        return;
    }
    char head[14];
    head[0] = operation;
    head[1] = (char)file;
    memcpy(head + 2, &offset, 8);
    memcpy(head + 10, &length, 4);
    if (log_fd < 0) {
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("RECORD_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    }
    struct { void *base; size_t count; } parts[2] = {{head, sizeof head}, {(void *)data, data ? length : 0}};
    if (syscall(SYS_writev, log_fd, parts, 2) < 0) {
        abort();
    }
}

static unsigned char named(const char *path) {
    for (unsigned char at = 0; at < FILES; at++) {
        if (!names[at][0]) {
            strncpy(names[at], path, sizeof names[at] - 1);
        }
        if (strcmp(names[at], path) == 0) {
            return at + 1;
        }
    }
    abort();
}

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < DESCRIPTORS) {
        pthread_mutex_lock(&lock);
        file_of[fd] = 0;
        if (is_ours(path)) {
            file_of[fd] = named(path);
            record('O', file_of[fd], 0, (uint32_t)strlen(path), path);
        }
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

static unsigned char ours(int fd) { return fd >= 0 && fd < DESCRIPTORS ? file_of[fd] : 0; }

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return opened((int)syscall(SYS_openat, AT_FDCWD, path, flags, mode), path);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return opened((int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode), path);
}

int close(int fd) {
    if (ours(fd)) {
        pthread_mutex_lock(&lock);
        file_of[fd] = 0;
        pthread_mutex_unlock(&lock);
    }
    return (int)syscall(SYS_close, fd);
}

#define CHANGE(fd, operation, offset, length, data, call) \
    unsigned char file = ours(fd); \
    FAIL(fd, 'W') \
    if (!file) { return call; } \
    pthread_mutex_lock(&lock); \
    record(operation, file, (uint64_t)(offset), (uint32_t)(length), data); \
    __typeof__(call) result = call; \
    pthread_mutex_unlock(&lock); \
    return result;

ssize_t write(int fd, const void *data, size_t length) {
    CHANGE(fd, 'W', lseek(fd, 0, SEEK_CUR), length, data, syscall(SYS_write, fd, data, length))
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    CHANGE(fd, 'W', offset, length, data, syscall(SYS_pwrite64, fd, data, length, offset))
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    CHANGE(fd, 'W', offset, length, data, syscall(SYS_pwrite64, fd, data, length, offset))
}

int ftruncate(int fd, off_t length) { CHANGE(fd, 'T', length, 0, NULL, (int)syscall(SYS_ftruncate, fd, length)) }

int ftruncate64(int fd, off64_t length) { CHANGE(fd, 'T', length, 0, NULL, (int)syscall(SYS_ftruncate, fd, length)) }

/* A sync counts once it is over: what was recorded up to then is safe only afterwards. */
static int synced(int fd, long number) {
    while (fails(fd, 'H')) {
        usleep(1000);
    }
    FAIL(fd, 'S')
    int result = (int)syscall(number, fd);
    if (ours(fd) && result == 0) {
        pthread_mutex_lock(&lock);
        record('S', file_of[fd], 0, 0, NULL);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }

int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

#define READ(fd, call) FAIL(fd, 'R') return call;

ssize_t read(int fd, void *data, size_t length) { READ(fd, syscall(SYS_read, fd, data, length)) }

ssize_t pread(int fd, void *data, size_t length, off_t offset) {
    READ(fd, syscall(SYS_pread64, fd, data, length, offset))
}

ssize_t pread64(int fd, void *data, size_t length, off64_t offset) {
    READ(fd, syscall(SYS_pread64, fd, data, length, offset))
}

int unlink(const char *path) {
    if (is_ours(path)) {
        pthread_mutex_lock(&lock);
        record('U', named(path), 0, (uint32_t)strlen(path), path);
        pthread_mutex_unlock(&lock);
    }
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
