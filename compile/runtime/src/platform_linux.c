/* Linux, with any libc: only functions whose types are the same in bionic, glibc and musl appear here, and no
 * struct of theirs. Threads synchronise with atomics and futexes because pthread_mutex_t differs between the three. */
#include "cpu_features.h"
#include "platform.h"

#ifdef __linux__

#ifndef PB_CPU_FOLDER
#define PB_CPU_FOLDER "/sys/devices/system/cpu"
#endif

void *mmap(void *address, size_t length, int protection, int flags, int file, long offset);
int clock_gettime(int clock, long time[2]);
long syscall(long number, ...);
unsigned long getauxval(unsigned long type);

/* Linux's own constants, the same for all architectures that we compile for. */
enum { PB_PROT_NONE = 0, PB_PROT_READ_WRITE = 3, PB_MAP_PRIVATE_ANONYMOUS = 0x22, PB_MAP_POPULATE = 0x8000 };
enum { PB_AT_FDCWD = -100, PB_O_RDONLY_CLOEXEC = 02000000, PB_CLOCK_MONOTONIC = 1 };
enum { PB_AT_HWCAP = 16, PB_AT_HWCAP2 = 26 };
enum { PB_FUTEX_WAIT_PRIVATE = 128, PB_FUTEX_WAKE_PRIVATE = 129 };
#if defined(__aarch64__) || (defined(__riscv) && __riscv_xlen == 64)
enum { PB_SYS_FUTEX = 98, PB_SYS_SCHED_SETAFFINITY = 122, PB_SYS_SCHED_GETAFFINITY = 123 };
enum { PB_SYS_OPENAT = 56, PB_SYS_CLOSE = 57, PB_SYS_READ = 63, PB_SYS_GETPID = 172, PB_SYS_FACCESSAT = 48 };
#elif defined(__x86_64__)
enum { PB_SYS_FUTEX = 202, PB_SYS_SCHED_SETAFFINITY = 203, PB_SYS_SCHED_GETAFFINITY = 204 };
enum { PB_SYS_OPENAT = 257, PB_SYS_CLOSE = 3, PB_SYS_READ = 0, PB_SYS_GETPID = 39, PB_SYS_FACCESSAT = 269 };
#elif defined(__arm__)
enum { PB_SYS_FUTEX = 240, PB_SYS_SCHED_SETAFFINITY = 241, PB_SYS_SCHED_GETAFFINITY = 242 };
enum { PB_SYS_OPENAT = 322, PB_SYS_CLOSE = 6, PB_SYS_READ = 3, PB_SYS_GETPID = 20, PB_SYS_FACCESSAT = 334 };
enum { PB_SYS_MMAP2 = 192, PB_SYS_CLOCK_GETTIME = 263 };
#else
#error "only aarch64, arm, riscv64 and x86_64 are supported"
#endif

/* On 32-bit Arm not by libc, which may have wider offsets and seconds than the kernel. */
static void *map(size_t bytes, int protection, int flags)
{
#ifdef __arm__
    return (void *)syscall(PB_SYS_MMAP2, NULL, bytes, protection, flags, -1, 0L);
#else
    return mmap(NULL, bytes, protection, flags, -1, 0);
#endif
}

static void read_clock(long time[2]) /* struct timespec */
{
#ifdef __arm__
    syscall(PB_SYS_CLOCK_GETTIME, PB_CLOCK_MONOTONIC, time);
#else
    clock_gettime(PB_CLOCK_MONOTONIC, time);
#endif
}

void *pb_pages(size_t bytes, bool present)
{
    const int flags = PB_MAP_PRIVATE_ANONYMOUS | (present ? PB_MAP_POPULATE : 0);
    void *pages = map(bytes, PB_PROT_READ_WRITE, flags);
    return pages == (void *)-1 ? NULL : pages;
}

uintptr_t pb_reserve_addresses(size_t bytes)
{
    void *reserved = map(bytes, PB_PROT_NONE, PB_MAP_PRIVATE_ANONYMOUS);
    return reserved == (void *)-1 ? 0 : (uintptr_t)reserved;
}

void pb_sleep(void *word, uint32_t value)
{
    syscall(PB_SYS_FUTEX, word, PB_FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

void pb_wake(void *word)
{
    syscall(PB_SYS_FUTEX, word, PB_FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

uint32_t pb_system_features(void)
{
    uint32_t features = 0;
#if !defined(__x86_64__)
    enum { HWCAP, HWCAP2 };
    const unsigned long words[] = {getauxval(PB_AT_HWCAP), getauxval(PB_AT_HWCAP2)};
#define LOOK(name, word, bits) features |= (words[word] & (bits)) == (bits) ? PB_CPU_##name : 0u;
#if defined(__aarch64__)
    PB_ARM_FEATURES(LOOK)
#elif defined(__arm__)
    PB_ARM32_FEATURES(LOOK)
#else
    PB_RISCV_FEATURES(LOOK)
#endif
#endif
    return features;
}

int32_t pb_this_process(void)
{
    return (int32_t)syscall(PB_SYS_GETPID);
}

int64_t pb_now(void)
{
    long time[2];
    read_clock(time);
    return (int64_t)time[0] * 1000000000 + time[1];
}

int32_t pb_allowed_cores(uint64_t mask[PB_MASK_WORDS])
{
    return (int32_t)syscall(PB_SYS_SCHED_GETAFFINITY, 0, PB_MASK_WORDS * sizeof *mask, mask);
}

bool pb_bind_thread(uint64_t cores)
{
    return syscall(PB_SYS_SCHED_SETAFFINITY, 0, sizeof cores, &cores) == 0;
}

/* The number that a file begins with; 0 if there is none. */
static int64_t read_number(const char *path)
{
    char text[24];
    const long file = syscall(PB_SYS_OPENAT, PB_AT_FDCWD, path, PB_O_RDONLY_CLOEXEC);
    if (file < 0)
        return 0;
    const long length = syscall(PB_SYS_READ, file, text, sizeof text);
    syscall(PB_SYS_CLOSE, file);
    int64_t number = 0;
    for (long i = 0; i < length && text[i] >= '0' && text[i] <= '9'; i++)
        number = 10 * number + (text[i] - '0');
    return number;
}

/* The path of a file about a core. `path` has room for it. */
static const char *core_path(char path[static sizeof PB_CPU_FOLDER + 40], int32_t core, const char *file)
{
    char *end = path;
    for (const char *c = PB_CPU_FOLDER "/cpu"; *c; c++)
        *end++ = *c;
    if (core >= 10)
        *end++ = (char)('0' + core / 10);
    *end++ = (char)('0' + core % 10);
    do
        *end++ = *file;
    while (*file++);
    return path;
}

int64_t pb_core_capacity(int32_t core)
{
    char path[sizeof PB_CPU_FOLDER + 40];
    const int64_t number = read_number(core_path(path, core, "/cpu_capacity"));
    return number ? number : read_number(core_path(path, core, "/cpufreq/cpuinfo_max_freq"));
}

uint64_t pb_present_cores(void)
{
    char path[sizeof PB_CPU_FOLDER + 40];
    uint64_t present = 0;
    for (int32_t core = 0; core < 64; core++)
        if (syscall(PB_SYS_FACCESSAT, PB_AT_FDCWD, core_path(path, core, ""), 0) == 0)
            present |= (uint64_t)1 << core;
    return present;
}

#endif
