/* What the CPU can do, asked once when a model is opened. */
#include "runtime.h"

#ifndef PB_CPU_FOLDER
#define PB_CPU_FOLDER "/sys/devices/system/cpu"
#endif

#if defined(__aarch64__)

uint32_t pb_cpu_features(void)
{
    enum { AT_HWCAP = 16, AT_HWCAP2 = 26 };
    const unsigned long capabilities = getauxval(AT_HWCAP), more = getauxval(AT_HWCAP2);
    uint32_t found = 0;
    if (capabilities & (1ul << 20))
        found |= PB_CPU_DOTPROD;
    if ((capabilities & (1ul << 9)) && (capabilities & (1ul << 10)))
        found |= PB_CPU_FP16;
    if (more & (1ul << 13))
        found |= PB_CPU_I8MM;
    if (more & (1ul << 14))
        found |= PB_CPU_BF16;
    return found;
}

#else

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]), "=d"(registers[3])
                     : "a"(leaf), "c"(subleaf));
}

uint32_t pb_cpu_features(void)
{
    uint32_t r[4], low, high;
    cpuid(1, 0, r);
    const bool fma = r[2] & (1u << 12), osxsave = r[2] & (1u << 27), avx = r[2] & (1u << 28);
    if (!osxsave || !avx)
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6) /* the operating system saves ymm registers */
        return 0;
    uint32_t found = fma ? PB_CPU_FMA : 0;
    cpuid(7, 1, r);
    found |= r[0] & (1u << 4) ? PB_CPU_AVXVNNI : 0;
    cpuid(7, 0, r);
    found |= r[1] & (1u << 5) ? PB_CPU_AVX2 : 0;
    if ((low & 0xe6) != 0xe6) /* but zmm registers it does not */
        return found;
    found |= r[1] & (1u << 16) ? PB_CPU_AVX512F : 0;
    found |= r[1] & (1u << 17) ? PB_CPU_AVX512DQ : 0;
    found |= r[1] & (1u << 28) ? PB_CPU_AVX512CD : 0;
    found |= r[1] & (1u << 30) ? PB_CPU_AVX512BW : 0;
    found |= r[1] & (1u << 31) ? PB_CPU_AVX512VL : 0;
    found |= r[2] & (1u << 11) ? PB_CPU_AVX512VNNI : 0;
    return found;
}

#endif

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

/* How much work the core does in a second, next to the others of its CPU; 0 if the kernel does not say. */
static int64_t capacity(int32_t core)
{
    static const char *const files[] = {"/cpu_capacity", "/cpufreq/cpuinfo_max_freq"};
    static const char folder[] = PB_CPU_FOLDER "/cpu";
    int64_t found = 0;
    for (int32_t f = 0; f < 2 && !found; f++) {
        char path[sizeof folder + 32], *end = path;
        for (const char *c = folder; *c; c++)
            *end++ = *c;
        if (core >= 10)
            *end++ = (char)('0' + core / 10);
        *end++ = (char)('0' + core % 10);
        for (const char *c = files[f]; *c; c++)
            *end++ = *c;
        *end = 0;
        found = read_number(path);
    }
    return found;
}

pb_cores pb_find_cores(uint64_t allowed)
{
    enum { CORES = 64 };
    uint64_t mask[16] = {0};
    const long bytes = syscall(PB_SYS_SCHED_GETAFFINITY, 0, sizeof mask, mask);
    pb_cores found = {0};
    int64_t capacities[CORES], lowest = INT64_MAX, highest = 0;
    if (allowed)
        mask[0] = allowed;
    for (long i = 0; i < bytes / 8 && (i == 0 || !allowed); i++)
        found.count += __builtin_popcountll(mask[i]);
    for (int32_t core = 0; core < CORES; core++)
        if (mask[0] >> core & 1) {
            const int64_t c = capacities[core] = capacity(core);
            lowest = c < lowest ? c : lowest;
            highest = c > highest ? c : highest;
        }
    found.unequal = 0 < lowest && lowest < highest;
    if (found.unequal && highest > 2 * lowest) { /* little cores would only be waited for */
        for (int32_t core = 0; core < CORES; core++)
            if ((mask[0] >> core & 1) && 2 * capacities[core] > highest)
                found.big |= (uint64_t)1 << core;
        found.count = __builtin_popcountll(found.big);
    }
    found.count = found.count ? found.count : 1;
    return found;
}
