/* Makes every flush take a fixed time instead of the disk's own, so that runs on different disks can be compared. */
#include <stdlib.h>
#include <time.h>

static int wait_instead(void) {
    const char *text = getenv("TURNLOG_FLUSH_US");
    long us = text ? atol(text) : 1000;
    struct timespec left = {us / 1000000, (us % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0) {
    }
    return 0;
}

int fsync(int fd) { (void)fd; return wait_instead(); }
int fdatasync(int fd) { (void)fd; return wait_instead(); }
