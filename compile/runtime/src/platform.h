/* What the runtime takes from libc and libm, declared by hand.
 *
 * Libraries are linked without the target's headers (there is no NDK), so only functions whose types are the same in
 * bionic, glibc and musl on 64-bit Linux appear here, and no struct of theirs. Threads synchronise with atomics and
 * futexes because pthread_mutex_t differs between the three.
 */
#ifndef PB_PLATFORM_H
#define PB_PLATFORM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mmap(void *address, size_t length, int protection, int flags, int file, long offset);
int munmap(void *address, size_t length);
void *memset(void *to, int byte, size_t count);
int clock_gettime(int clock, long time[2]);
void *memcpy(void *to, const void *from, size_t count);
long syscall(long number, ...);
int pthread_create(unsigned long *thread, const void *attributes, void *(*start)(void *), void *argument);
int pthread_join(unsigned long thread, void **result);
unsigned long getauxval(unsigned long type);

/* Linux's own constants, the same for all 64-bit architectures that we compile for. */
enum { PB_PROT_NONE = 0, PB_PROT_READ_WRITE = 3, PB_MAP_PRIVATE_ANONYMOUS = 0x22, PB_MAP_POPULATE = 0x8000 };
enum { PB_AT_FDCWD = -100, PB_O_RDONLY_CLOEXEC = 02000000 };
enum { PB_FUTEX_WAIT_PRIVATE = 128, PB_FUTEX_WAKE_PRIVATE = 129 };
#if defined(__aarch64__)
enum { PB_SYS_FUTEX = 98, PB_SYS_SCHED_SETAFFINITY = 122, PB_SYS_SCHED_GETAFFINITY = 123 };
enum { PB_SYS_OPENAT = 56, PB_SYS_CLOSE = 57, PB_SYS_READ = 63, PB_SYS_GETPID = 172, PB_SYS_FACCESSAT = 48 };
#elif defined(__x86_64__)
enum { PB_SYS_FUTEX = 202, PB_SYS_SCHED_SETAFFINITY = 203, PB_SYS_SCHED_GETAFFINITY = 204 };
enum { PB_SYS_OPENAT = 257, PB_SYS_CLOSE = 3, PB_SYS_READ = 0, PB_SYS_GETPID = 39, PB_SYS_FACCESSAT = 269 };
#else
#error "only aarch64 and x86_64 are supported"
#endif

static inline void pb_relax(void)
{
#if defined(__aarch64__)
    __asm__ volatile("yield");
#else
    __asm__ volatile("pause");
#endif
}

#endif
