/* A disk that fails once, as the file sink sees it.
 *
 * Preloaded into this suite's own binary. What is to fail stands in a file of 64-bit numbers that
 * `broken.rs` shares with this; each order is carried out once. Without the file, or with zeros in it,
 * everything is as it would be. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Error numbers; how much of the write goes in all the same; from which byte on the disk loses what was
 * written before a failed fdatasync. */
enum { WRITE, WRITTEN_BYTES, FDATASYNC, LOST_FROM, FSYNC, NUMBERS };

static _Atomic long long *orders;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("RELAY_TEST_BROKEN_DISK");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, NUMBERS * sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) orders = at;
    close(fd);
}

static long long taken(int order) { return orders ? atomic_exchange(&orders[order], 0) : 0; }

static int is_lines(int fd) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 6 && memcmp(path + length - 6, ".jsonl", 6) == 0;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    long long error = orders && is_lines(fd) ? taken(WRITE) : 0;
    if (!error) return syscall(SYS_write, fd, bytes, length);
    size_t part = (size_t)taken(WRITTEN_BYTES);
    if (part) syscall(SYS_write, fd, bytes, part < length ? part : length);
    return errno = (int)error, -1;
}

/* Its own descriptor: where everything is appended, nothing can be overwritten. */
static void lose(int fd, off_t from) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int other = open(link, O_WRONLY | O_CLOEXEC);
    struct stat now;
    if (other < 0 || fstat(other, &now) < 0) return;
    for (off_t at = from; at < now.st_size; at++) syscall(SYS_pwrite64, other, "", 1, at);
    close(other);
}

int fdatasync(int fd) {
    long long error = taken(FDATASYNC);
    if (!error) return (int)syscall(SYS_fdatasync, fd);
    lose(fd, (off_t)taken(LOST_FROM));
    return errno = (int)error, -1;
}

int fsync(int fd) {
    long long error = taken(FSYNC);
    if (!error) return (int)syscall(SYS_fsync, fd);
    return errno = (int)error, -1;
}
