/* Windows 8 and later, on x86-64 and arm64. Without the system's headers: what is used of it is declared by hand. */
#include "cpu_features.h"
#include "platform.h"

#ifdef _WIN32

#define SYSTEM __declspec(dllimport)

SYSTEM void *VirtualAlloc(void *address, size_t bytes, uint32_t kind, uint32_t protection);
SYSTEM int VirtualFree(void *address, size_t bytes, uint32_t kind);
SYSTEM int WaitOnAddress(volatile void *word, void *value, size_t bytes, uint32_t milliseconds);
SYSTEM void WakeByAddressAll(void *word);
SYSTEM void *CreateThread(void *attributes, size_t stack, void *(*start)(void *), void *argument, uint32_t flags,
                          uint32_t *number); /* which reads the lower half of what `start` returns */
SYSTEM uint32_t WaitForSingleObject(void *object, uint32_t milliseconds);
SYSTEM int CloseHandle(void *object);
SYSTEM uint32_t GetCurrentProcessId(void);
SYSTEM void *GetCurrentProcess(void);
SYSTEM void *GetCurrentThread(void);
SYSTEM int QueryPerformanceCounter(int64_t *ticks);
SYSTEM int QueryPerformanceFrequency(int64_t *ticks);
SYSTEM int GetProcessAffinityMask(void *process, uint64_t *allowed, uint64_t *present);
SYSTEM uint64_t SetThreadAffinityMask(void *thread, uint64_t cores);
SYSTEM int IsProcessorFeaturePresent(uint32_t feature);
SYSTEM int GetSystemCpuSetInformation(void *sets, uint32_t bytes, uint32_t *needed, void *process, uint32_t flags);

/* Windows' own constants. */
enum { PB_MEM_COMMIT = 0x1000, PB_MEM_RESERVE = 0x2000, PB_MEM_RELEASE = 0x8000 };
enum { PB_PAGE_NOACCESS = 1, PB_PAGE_READWRITE = 4 };
enum { PB_PF_DOTPROD = 43, PB_PF_I8MM = 66, PB_PF_FP16 = 67, PB_PF_BF16 = 68 };
#define PB_INFINITE UINT32_MAX

enum { PAGE = 4096 };

/* SYSTEM_CPU_SET_INFORMATION, as long as Windows has only one kind of it. */
struct cpu_set {
    uint32_t size, kind, number;
    uint16_t group;
    uint8_t index, core, cache, node, efficiency_class, flags;
    uint32_t scheduling;
    uint64_t tag;
};

/* Where a library would run code of its own when it is loaded. */
int DllMainCRTStartup(void *library, uint32_t reason, void *reserved);
int DllMainCRTStartup(void *library, uint32_t reason, void *reserved)
{
    (void)library, (void)reason, (void)reserved;
    return 1;
}

/* What code calls before it takes more of the stack than a page: Windows adds one only where the one above was touched. */
#if defined(__x86_64__)
__asm__(".globl ___chkstk_ms\n"
        "___chkstk_ms:\n" /* rax: bytes, to be kept as all registers are */
        "    pushq %rcx\n"
        "    pushq %rax\n"
        "    leaq 24(%rsp), %rcx\n"
        "1:  cmpq $4096, %rax\n"
        "    jb 2f\n"
        "    subq $4096, %rcx\n"
        "    orq $0, (%rcx)\n"
        "    subq $4096, %rax\n"
        "    jmp 1b\n"
        "2:  subq %rax, %rcx\n"
        "    orq $0, (%rcx)\n"
        "    popq %rax\n"
        "    popq %rcx\n"
        "    retq\n");
#else
__asm__(".globl __chkstk\n"
        "__chkstk:\n" /* x15: units of 16 bytes, to be kept */
        "    lsl x16, x15, #4\n"
        "    mov x17, sp\n"
        "1:  sub x17, x17, #4096\n"
        "    subs x16, x16, #4096\n"
        "    ldr xzr, [x17]\n"
        "    b.gt 1b\n"
        "    ret\n");
#endif

void *pb_pages(size_t bytes, bool present)
{
    volatile char *pages = VirtualAlloc(NULL, bytes, PB_MEM_RESERVE | PB_MEM_COMMIT, PB_PAGE_READWRITE);
    for (size_t i = 0; pages && present && i < bytes; i += PAGE)
        pages[i] = 0;
    return (void *)pages;
}

void pb_free_pages(void *pages, size_t bytes)
{
    (void)bytes;
    VirtualFree(pages, 0, PB_MEM_RELEASE);
}

uintptr_t pb_reserve_addresses(size_t bytes)
{
    return (uintptr_t)VirtualAlloc(NULL, bytes, PB_MEM_RESERVE, PB_PAGE_NOACCESS);
}

void pb_return_addresses(uintptr_t first, size_t bytes)
{
    pb_free_pages((void *)first, bytes);
}

void pb_sleep(void *word, uint32_t value)
{
    WaitOnAddress(word, &value, sizeof value, PB_INFINITE);
}

void pb_wake(void *word)
{
    WakeByAddressAll(word);
}

bool pb_start_thread(uintptr_t *thread, void *(*start)(void *), void *argument)
{
    *thread = (uintptr_t)CreateThread(NULL, 0, start, argument, 0, NULL);
    return *thread != 0;
}

void pb_join_thread(uintptr_t thread)
{
    WaitForSingleObject((void *)thread, PB_INFINITE);
    CloseHandle((void *)thread);
}

uint32_t pb_system_features(void)
{
    uint32_t features = 0;
#define LOOK(name, feature) features |= IsProcessorFeaturePresent(feature) ? PB_CPU_##name : 0u;
    LOOK(dotprod, PB_PF_DOTPROD)
    LOOK(fp16, PB_PF_FP16)
    LOOK(i8mm, PB_PF_I8MM)
    LOOK(bf16, PB_PF_BF16)
    return features;
}

int32_t pb_this_process(void)
{
    return (int32_t)GetCurrentProcessId();
}

int64_t pb_now(void)
{
    int64_t ticks = 0, each_second = 1;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&each_second);
    return ticks / each_second * 1000000000 + ticks % each_second * 1000000000 / each_second;
}

/* Of the first 64 cores, which a process has where it asks for no more. */
int32_t pb_allowed_cores(uint64_t mask[PB_MASK_WORDS])
{
    uint64_t present;
    return GetProcessAffinityMask(GetCurrentProcess(), mask, &present) ? sizeof *mask : 0;
}

bool pb_bind_thread(uint64_t cores)
{
    return SetThreadAffinityMask(GetCurrentThread(), cores) != 0;
}

uint64_t pb_present_cores(void)
{
    uint64_t allowed, present;
    return GetProcessAffinityMask(GetCurrentProcess(), &allowed, &present) ? present : 0;
}

/* Windows numbers classes of cores by their speed and does not say how much faster one is: work is shared among all. */
int64_t pb_core_capacity(int32_t core)
{
    struct cpu_set sets[64];
    uint32_t bytes = 0;
    if (!GetSystemCpuSetInformation(sets, sizeof sets, &bytes, GetCurrentProcess(), 0))
        return 0;
    for (uint32_t i = 0; i < bytes / sizeof *sets; i++)
        if (sets[i].size == sizeof *sets && sets[i].group == 0 && sets[i].index == core)
            return 64 + sets[i].efficiency_class;
    return 0;
}

#endif
