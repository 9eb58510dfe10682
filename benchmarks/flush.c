/* Stands between a process and its flushes: counts them, and may let each take a fixed time instead of the disk's own,
 * so that runs on different disks can be compared. Loaded with LD_PRELOAD; see disk.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <time.h>

/* Microseconds that a flush takes; below zero: the disk's own time. */
static atomic_long takes = -1;
static atomic_long count = 0;

void turnlog_flush_takes(long microseconds) { atomic_store(&takes, microseconds); }
long turnlog_flushes(void) { return atomic_load(&count); }

static int flush(int fd, const char *name) {
    long us = atomic_load(&takes);
    atomic_fetch_add(&count, 1);
    if (us < 0) {
        int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
        return real(fd);
    }
    if (us > 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += us * 1000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        prctl(PR_SET_TIMERSLACK, 1000L, 0, 0, 0); /* a thread is woken up to 50 us late unless it asks for better */
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
        }
    }
    return 0;
}

int fsync(int fd) { return flush(fd, "fsync"); }
int fdatasync(int fd) { return flush(fd, "fdatasync"); }
