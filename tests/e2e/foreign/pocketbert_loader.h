/* In place of the loader that programs have: Windows' and Apple's libraries for arm64 on Linux for arm64. The calling
 * conventions are the same for functions with up to eight arguments, and none of the system's that a library takes has more.
 *
 * What is loaded is not the library itself: tests/support/image.py lays out its memory, as the system's loader would. Of the
 * system's functions those that Linux has not are here, by means of those that it has.
 */
#ifndef POCKETBERT_LOADER_H
#define POCKETBERT_LOADER_H

#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pocketbert.h"

typedef struct {
    const pocketbert_functions *functions;
    char error[256];
} pocketbert_library;

typedef struct {
    uint64_t bytes, moved, imports, functions; /* of memory; how many addresses, and names; where `functions` is */
} foreign_header;

typedef struct {
    uint64_t at;
    char name[56];
} foreign_import;

/* --- Of Apple's functions. */

static void *apple_mmap(void *address, size_t length, int protection, int flags, int file, int64_t offset)
{
    if (flags != 0x1002)
        abort();
    return mmap(address, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, file, offset);
}

static void apple_zero(void *to, size_t count)
{
    memset(to, 0, count);
}

static int apple_quality(unsigned quality, int priority)
{
    return quality == 0x21 && priority == 0 ? 0 : 22;
}

static uint64_t apple_time(unsigned clock)
{
    struct timespec now;
    if (clock != 8 || clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        abort();
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int apple_ask(const char *name, void *value, size_t *bytes, const void *new_value, size_t new_bytes)
{
    static const struct {
        const char *name;
        unsigned long hwcap, hwcap2;
    } features[] = {{"hw.optional.arm.FEAT_DotProd", 1ul << 20, 0},
                    {"hw.optional.arm.FEAT_FP16", 1ul << 10, 0},
                    {"hw.optional.arm.FEAT_I8MM", 0, 1ul << 13},
                    {"hw.optional.arm.FEAT_BF16", 0, 1ul << 14}};
    int32_t answer = -1;
    if (strcmp(name, "hw.logicalcpu") == 0)
        answer = 8;
    if (strcmp(name, "hw.perflevel0.logicalcpu") == 0)
        answer = 4;
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        if (strcmp(name, features[i].name) == 0)
            answer = (getauxval(AT_HWCAP) & features[i].hwcap) || (getauxval(AT_HWCAP2) & features[i].hwcap2);
    if (answer < 0 || *bytes != sizeof answer || new_value || new_bytes)
        return -1;
    memcpy(value, &answer, sizeof answer);
    return 0;
}

static void no_binder(void)
{
    abort(); /* all is bound beforehand */
}

/* --- Of Windows' functions. */

static void *windows_allocate(void *address, size_t bytes, uint32_t kind, uint32_t protection)
{
    const int access = protection == 4 && kind == 0x3000 ? PROT_READ | PROT_WRITE : PROT_NONE;
    if (address || !(access || (protection == 1 && kind == 0x2000)))
        abort();
    char *pages = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    *(size_t *)(void *)pages = bytes + 4096;
    return mprotect(pages + 4096, bytes, access) == 0 ? pages + 4096 : NULL;
}

static int windows_free(void *address, size_t bytes, uint32_t kind)
{
    char *pages = (char *)address - 4096;
    return bytes == 0 && kind == 0x8000 && munmap(pages, *(size_t *)(void *)pages) == 0;
}

static int windows_wait(volatile void *word, void *value, size_t bytes, uint32_t milliseconds)
{
    if (bytes != 4 || milliseconds != UINT32_MAX)
        abort();
    return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, *(uint32_t *)value, NULL, NULL, 0) == 0;
}

static void windows_wake(void *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void *windows_thread(void *attributes, size_t stack, void *(*start)(void *), void *argument, uint32_t flags,
                            uint32_t *number)
{
    pthread_t thread;
    if (attributes || stack || flags || number)
        abort();
    return pthread_create(&thread, NULL, start, argument) == 0 ? (void *)thread : NULL;
}

static uint32_t windows_join(void *thread, uint32_t milliseconds)
{
    return milliseconds == UINT32_MAX ? (uint32_t)pthread_join((pthread_t)thread, NULL) : 1;
}

static int windows_close(void *thread)
{
    return thread != NULL;
}

static void *windows_this(void)
{
    return (void *)-1;
}

static int windows_ticks(int64_t *ticks)
{
    *ticks = (int64_t)apple_time(8) / 100;
    return 1;
}

static int windows_ticks_a_second(int64_t *ticks)
{
    *ticks = 10000000;
    return 1;
}

static int windows_cores(void *process, uint64_t *allowed, uint64_t *present)
{
    *allowed = *present = 0xff;
    return process == (void *)-1;
}

static uint64_t windows_bind(void *thread, uint64_t cores)
{
    return thread == (void *)-1 ? cores : 0;
}

static int windows_feature(uint32_t feature)
{
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    return feature == 43   ? (first >> 20 & 1) != 0
           : feature == 67 ? (first >> 10 & 1) != 0
           : feature == 66 ? (second >> 13 & 1) != 0
           : feature == 68 ? (second >> 14 & 1) != 0
                           : 0;
}

static int windows_sets(void *sets, uint32_t bytes, uint32_t *needed, void *process, uint32_t flags)
{
    (void)sets, (void)bytes, (void)needed, (void)process, (void)flags;
    return 0;
}

/* --- The loader. */

static const struct {
    const char *name;
    void *function;
} foreign_functions[] = {
    {"bzero", (void *)apple_zero},
    {"mmap", (void *)apple_mmap},
    {"pthread_set_qos_class_self_np", (void *)apple_quality},
    {"clock_gettime_nsec_np", (void *)apple_time},
    {"sysctlbyname", (void *)apple_ask},
    {"dyld_stub_binder", (void *)no_binder},
    {"VirtualAlloc", (void *)windows_allocate},
    {"VirtualFree", (void *)windows_free},
    {"WaitOnAddress", (void *)windows_wait},
    {"WakeByAddressAll", (void *)windows_wake},
    {"CreateThread", (void *)windows_thread},
    {"WaitForSingleObject", (void *)windows_join},
    {"CloseHandle", (void *)windows_close},
    {"GetCurrentProcessId", (void *)getpid},
    {"GetCurrentProcess", (void *)windows_this},
    {"GetCurrentThread", (void *)windows_this},
    {"QueryPerformanceCounter", (void *)windows_ticks},
    {"QueryPerformanceFrequency", (void *)windows_ticks_a_second},
    {"GetProcessAffinityMask", (void *)windows_cores},
    {"SetThreadAffinityMask", (void *)windows_bind},
    {"IsProcessorFeaturePresent", (void *)windows_feature},
    {"GetSystemCpuSetInformation", (void *)windows_sets},
};

static void *foreign_find(const char *name)
{
    for (size_t i = 0; i < sizeof foreign_functions / sizeof *foreign_functions; i++)
        if (strcmp(name, foreign_functions[i].name) == 0)
            return foreign_functions[i].function;
    void *function = dlsym(RTLD_DEFAULT, name);
    return function ? function : dlsym(dlopen("libm.so.6", RTLD_NOW), name);
}

static int32_t foreign_failed(pocketbert_library *library, const char *what)
{
    snprintf(library->error, sizeof library->error, "%s", what);
    return POCKETBERT_ERROR_LIBRARY;
}

static int32_t pocketbert_load_path(pocketbert_library *library, const char *path, const char *name)
{
    foreign_header header;
    foreign_import import;
    uint64_t at;
    FILE *file = fopen(path, "rb");
    (void)name;
    if (!file || fread(&header, sizeof header, 1, file) != 1)
        return foreign_failed(library, "no image");
    char *memory = mmap(NULL, header.bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || fread(memory, header.bytes, 1, file) != 1)
        return foreign_failed(library, "short image");
    for (uint64_t i = 0; i < header.moved && fread(&at, sizeof at, 1, file) == 1; i++)
        *(uint64_t *)(void *)(memory + at) += (uintptr_t)memory;
    for (uint64_t i = 0; i < header.imports && fread(&import, sizeof import, 1, file) == 1; i++) {
        void *function = foreign_find(import.name);
        if (!function)
            return foreign_failed(library, import.name);
        memcpy(memory + import.at, &function, sizeof function);
    }
    fclose(file);
    __builtin___clear_cache(memory, memory + header.bytes);
    const pocketbert_functions *(*functions)(void);
    *(void **)&functions = memory + header.functions;
    library->functions = functions();
    return POCKETBERT_OK;
}

#endif
