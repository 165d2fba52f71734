/* The disk and the clock as the relay under torture sees them.
 *
 * Preloaded into the relay's own, unchanged binary. What is to go wrong stands in a file of 64-bit
 * numbers that the harness and this share (`shim.rs` names the places). Without the file, or with zeros
 * in it, everything is as it would be. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { /* orders */ SYNC_FAIL, OTHER_SYNC_FAIL, WRITE_FAIL, WRITE_TORN, NO_SPACE, SYNC_DELAY_MS, CLOCK_MS,
       /* what was done */ SYNCS_FAILED = 8, OTHER_SYNCS_FAILED, WRITES_FAILED, WRITES_TORN,
       SPACE_REFUSED, SYNCS_DELAYED, NUMBERS = 16 };

static _Atomic long long *control;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("RELAY_TORTURE_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, NUMBERS * sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) control = at;
    close(fd);
}

/* Carries out one order of this kind, if there is one. */
static int taken(int order, int done) {
    if (!control) return 0;
    long long left = atomic_load(&control[order]);
    while (left > 0)
        if (atomic_compare_exchange_weak(&control[order], &left, left - 1)) {
            atomic_fetch_add(&control[done], 1);
            return 1;
        }
    return 0;
}

/* A segment of the journal that holds events; spares in the making are none. */
static int is_segment(int fd) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && strstr(name, ".seg") && !strstr(name, "spare-");
}

static int fails_to_sync(int fd) {
    if (!control) return 0;
    long long delay = atomic_load(&control[SYNC_DELAY_MS]);
    if (delay > 0) {
        atomic_fetch_add(&control[SYNCS_DELAYED], 1);
        usleep((useconds_t)delay * 1000);
    }
    if (!atomic_load(&control[SYNC_FAIL]) && !atomic_load(&control[OTHER_SYNC_FAIL])) return 0;
    return is_segment(fd) ? taken(SYNC_FAIL, SYNCS_FAILED) : taken(OTHER_SYNC_FAIL, OTHER_SYNCS_FAILED);
}

int fdatasync(int fd) {
    if (fails_to_sync(fd)) return errno = EIO, -1;
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    if (fails_to_sync(fd)) return errno = EIO, -1;
    return (int)syscall(SYS_fsync, fd);
}

/* A full disk: what is there can be written over, and nothing grows. */
static int lacks_space(int fd, off_t at, size_t length) {
    struct stat now;
    if (!control || !atomic_load(&control[NO_SPACE]) || fd < 3) return 0;
    if (fstat(fd, &now) < 0 || !S_ISREG(now.st_mode)) return 0;
    if (at < 0) at = fcntl(fd, F_GETFL) & O_APPEND ? now.st_size : lseek(fd, 0, SEEK_CUR);
    if (at + (off_t)length <= now.st_size) return 0;
    atomic_fetch_add(&control[SPACE_REFUSED], 1);
    return 1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) {
    if (lacks_space(fd, at, length)) return errno = ENOSPC, -1;
    if (control && (atomic_load(&control[WRITE_FAIL]) || atomic_load(&control[WRITE_TORN])) && is_segment(fd)) {
        if (taken(WRITE_FAIL, WRITES_FAILED)) return errno = EIO, -1;
        if (taken(WRITE_TORN, WRITES_TORN)) {
            syscall(SYS_pwrite64, fd, bytes, length / 2, at);
            return errno = EIO, -1;
        }
    }
    return syscall(SYS_pwrite64, fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

ssize_t write(int fd, const void *bytes, size_t length) {
    if (lacks_space(fd, -1, length)) return errno = ENOSPC, -1;
    return syscall(SYS_write, fd, bytes, length);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = real_clock_gettime ? real_clock_gettime(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && control) {
        long long offset = atomic_load(&control[CLOCK_MS]);
        time->tv_sec += offset / 1000;
    }
    return result;
}
