/* What the CPU can do, asked once when a model is opened. */
#include "runtime.h"

#if defined(__aarch64__)

uint32_t pb_cpu_features(void)
{
    enum { AT_HWCAP = 16 };
    const unsigned long capabilities = getauxval(AT_HWCAP);
    uint32_t found = 0;
    if (capabilities & (1ul << 20))
        found |= PB_CPU_DOTPROD;
    if ((capabilities & (1ul << 9)) && (capabilities & (1ul << 10)))
        found |= PB_CPU_FP16;
    return found;
}

#else

static void cpuid(uint32_t leaf, uint32_t registers[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]), "=d"(registers[3])
                     : "a"(leaf), "c"(0));
}

uint32_t pb_cpu_features(void)
{
    uint32_t r[4], low, high;
    cpuid(1, r);
    const bool fma = r[2] & (1u << 12), osxsave = r[2] & (1u << 27), avx = r[2] & (1u << 28);
    if (!osxsave || !avx)
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6) /* the operating system saves ymm registers */
        return 0;
    cpuid(7, r);
    uint32_t found = fma ? PB_CPU_FMA : 0;
    if (r[1] & (1u << 5))
        found |= PB_CPU_AVX2;
    if ((r[1] & (1u << 16)) && (low & 0xe6) == 0xe6)
        found |= PB_CPU_AVX512F;
    return found;
}

#endif

int32_t pb_usable_cores(void)
{
    uint64_t mask[16] = {0};
    const long bytes = syscall(PB_SYS_SCHED_GETAFFINITY, 0, sizeof mask, mask);
    int32_t cores = 0;
    for (long i = 0; i < bytes / 8; i++)
        cores += __builtin_popcountll(mask[i]);
    return cores > 0 ? cores : 1;
}
