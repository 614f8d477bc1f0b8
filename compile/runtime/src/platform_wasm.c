/* WebAssembly without threads: memory that grows and is never given back to the browser, and a clock of JavaScript's. */
#include "platform.h"

#ifdef __wasm__

enum { PAGE = 1 << 16, UNIT = 64 }; /* of memory, as it grows; bytes that allocations are multiples of */

/* What is free, in the order of addresses, with nothing free between two of them. */
struct hole {
    struct hole *next;
    size_t bytes;
};

static struct hole *holes;

__attribute__((import_module("pocketbert"), import_name("now"))) double pb_milliseconds(void);

void *memset(void *to, int byte, size_t count)
{
    return __builtin_memset(to, byte, count);
}

void *memcpy(void *to, const void *from, size_t count)
{
    return __builtin_memcpy(to, from, count);
}

static size_t whole_units(size_t bytes)
{
    return (bytes + UNIT - 1) & ~(size_t)(UNIT - 1);
}

void *pb_pages(size_t bytes, bool present)
{
    (void)present;
    const size_t size = whole_units(bytes);
    if (size < bytes)
        return NULL;
    for (struct hole **at = &holes; *at; at = &(*at)->next) {
        struct hole *hole = *at;
        if (hole->bytes < size)
            continue;
        struct hole *rest = hole->next;
        if (hole->bytes > size) {
            rest = (struct hole *)(void *)((char *)hole + size);
            *rest = (struct hole){hole->next, hole->bytes - size};
        }
        *at = rest;
        return memset(hole, 0, size);
    }
    const size_t pages = (size >> 16) + (size % PAGE != 0), first = __builtin_wasm_memory_grow(0, pages);
    if (first == SIZE_MAX)
        return NULL;
    char *grown = (char *)(first * PAGE);
    if (pages * PAGE > size)
        pb_free_pages(grown + size, pages * PAGE - size);
    return grown;
}

void pb_free_pages(void *pages, size_t bytes)
{
    struct hole **at = &holes, *before = NULL, *hole = pages;
    for (; *at && *at < hole; at = &(*at)->next)
        before = *at;
    *hole = (struct hole){*at, whole_units(bytes)};
    *at = hole;
    if (hole->next && (char *)hole + hole->bytes == (char *)hole->next)
        *hole = (struct hole){hole->next->next, hole->bytes + hole->next->bytes};
    if (before && (char *)before + before->bytes == (char *)hole)
        *before = (struct hole){hole->next, before->bytes + hole->bytes};
}

/* Memory ends at 2 GiB: what lies above it is never used. */
uintptr_t pb_reserve_addresses(size_t bytes)
{
    static uintptr_t next = (uintptr_t)1 << 31;
    const uintptr_t first = next;
    if (UINTPTR_MAX - first < bytes)
        return 0;
    next += bytes;
    return first;
}

void pb_return_addresses(uintptr_t first, size_t bytes)
{
    (void)first, (void)bytes;
}

void pb_sleep(void *word, uint32_t value)
{
    (void)word, (void)value;
}

void pb_wake(void *word)
{
    (void)word;
}

bool pb_start_thread(uintptr_t *thread, void *(*start)(void *), void *argument)
{
    (void)thread, (void)start, (void)argument;
    return false;
}

void pb_join_thread(uintptr_t thread)
{
    (void)thread;
}

uint32_t pb_system_features(void)
{
    return 0; /* a module that a browser cannot run does not load */
}

int32_t pb_this_process(void)
{
    return 0;
}

int64_t pb_now(void)
{
    return (int64_t)(pb_milliseconds() * 1e6);
}

int32_t pb_allowed_cores(uint64_t mask[PB_MASK_WORDS])
{
    mask[0] = 1;
    return sizeof *mask;
}

bool pb_bind_thread(uint64_t cores)
{
    return cores & 1;
}

uint64_t pb_present_cores(void)
{
    return 1;
}

int64_t pb_core_capacity(int32_t core)
{
    (void)core;
    return 0;
}

#endif
