/* What the CPU can do, asked once when a model is opened. */
#include "runtime.h"

#if defined(__x86_64__)

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]), "=d"(registers[3])
                     : "a"(leaf), "c"(subleaf));
}

enum { LEAF_1, LEAF_7, LEAF_7_1, LEAVES };
enum {
    LEAF_1_ECX = 4 * LEAF_1 + 2,
    LEAF_7_EBX = 4 * LEAF_7 + 1,
    LEAF_7_ECX = 4 * LEAF_7 + 2,
    LEAF_7_1_EAX = 4 * LEAF_7_1
};
enum { OSXSAVE = 1 << 27, AVX = 1 << 28, YMM = 0x6, ZMM = 0xe6 };

/* r: four registers for each leaf of cpuid; saved: the registers that the operating system saves, as xgetbv says. */
static uint32_t features_of(const uint32_t r[4 * LEAVES], uint32_t saved)
{
    uint32_t features = 0;
#define LOOK(name, word, bit, registers)                                                                               \
    features |= (r[word] >> (bit) & 1) && (saved & (registers)) == (registers) ? PB_CPU_##name : 0u;
    PB_X86_FEATURES(LOOK)
    return features;
}

uint32_t pb_cpu_features(void)
{
    uint32_t r[4 * LEAVES], saved = 0, high;
    cpuid(1, 0, &r[4 * LEAF_1]);
    cpuid(7, 0, &r[4 * LEAF_7]);
    cpuid(7, 1, &r[4 * LEAF_7_1]);
    if ((r[LEAF_1_ECX] & (OSXSAVE | AVX)) == (OSXSAVE | AVX))
        __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    return features_of(r, saved);
}

#else

uint32_t pb_cpu_features(void)
{
    return pb_system_features();
}

#endif

const char *pb_cpu_lacks(uint32_t missing)
{
#define SAY(name, ...)                                                                                                 \
    if (missing & PB_CPU_##name)                                                                                       \
        return "open: this CPU lacks " #name ", which the library was compiled for: build it for another CPU";
    PB_FEATURES(SAY)
    return "open: this CPU lacks instructions that the library was compiled for";
}

enum { CORES = 64 };

pb_cores pb_find_cores(uint64_t allowed)
{
    uint64_t mask[PB_MASK_WORDS] = {0};
    const int32_t bytes = pb_allowed_cores(mask);
    pb_cores found = {0};
    int64_t capacities[CORES], lowest = INT64_MAX, highest = 0;
    if (allowed)
        mask[0] = allowed;
    for (int32_t i = 0; i < (bytes + 7) / 8 && (i == 0 || !allowed); i++)
        found.count += __builtin_popcountll(mask[i]);
    for (int32_t core = 0; core < CORES; core++)
        if (mask[0] >> core & 1) {
            const int64_t c = capacities[core] = pb_core_capacity(core);
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
