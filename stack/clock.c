/* Moves the wall clock of the programs that preload it by CLOCK_OFFSET seconds, and nothing else: what waits for so
 * many seconds waits as long as ever, and the times of files stay what they are. CLOCK_FILE names a file of eight
 * bytes instead, the offset as the machine writes a 64-bit integer: a change steps the clock of those that run. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t fixed;
static const volatile int64_t *moved = &fixed;

__attribute__((constructor)) static void read_offset(void)
{
    const char *value = getenv("CLOCK_OFFSET"), *path = getenv("CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    fixed = value ? atol(value) : 0;
    if (file >= 0) {
        /* A child has it, too, whatever it may open. */
        void *shared = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
        if (shared != MAP_FAILED) moved = shared;
        close(file);
    }
}

static int is_wall(clockid_t clock)
{
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t clock, struct timespec *at)
{
    REAL(clock_gettime);
    int failed = real(clock, at);
    if (!failed && is_wall(clock)) at->tv_sec += *moved;
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;
    /* Nobody has used it for thirty years. */
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

/* Moments to wait until are of the moved clock, and the kernel knows its own. */
static struct timespec shifted(const struct timespec *until)
{
    struct timespec at = *until;
    at.tv_sec -= *moved;
    return at;
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until)
{
    REAL(sem_timedwait);
    struct timespec at = shifted(until);
    return real(sem, &at);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
    REAL(pthread_mutex_timedlock);
    struct timespec at = shifted(until);
    return real(mutex, &at);
}

/* The clock of a condition is its own; a machine has not been up for thirty years. */
int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    REAL(pthread_cond_timedwait);
    struct timespec at = until->tv_sec > 1000000000 ? shifted(until) : *until;
    return real(cond, mutex, &at);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left)
{
    REAL(clock_nanosleep);
    struct timespec at = is_wall(clock) && (flags & TIMER_ABSTIME) ? shifted(time) : *time;
    return real(clock, flags, &at, left);
}
