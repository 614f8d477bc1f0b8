/* What the runtime takes from the operating system: platform_<system>.c has it, and nothing else differs between systems.
 *
 * Libraries are linked without the target's headers, so what these files use of libc is declared by hand.
 */
#ifndef PB_PLATFORM_H
#define PB_PLATFORM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memset(void *to, int byte, size_t count);
void *memcpy(void *to, const void *from, size_t count);

/* Zeros. present: with their pages there, so that no run faults one in. NULL if memory is short. */
void *pb_pages(size_t bytes, bool present);
void pb_free_pages(void *pages, size_t bytes);

/* Where addresses begin that nothing will ever lie at; 0 if there are no more. Only what nobody has seen may be given back. */
uintptr_t pb_reserve_addresses(size_t bytes);
void pb_return_addresses(uintptr_t first, size_t bytes);

/* Sleep while the word has the value, or for any shorter time. Wake everybody who sleeps on it. */
void pb_sleep(void *word, uint32_t value);
void pb_wake(void *word);

/* false if there can be no such thread. */
bool pb_start_thread(uintptr_t *thread, void *(*start)(void *), void *argument);
void pb_join_thread(uintptr_t thread);

/* PB_CPU_*, of a processor that only tells the operating system. */
uint32_t pb_system_features(void);

int32_t pb_this_process(void);
int64_t pb_now(void); /* nanoseconds of a clock that never goes back */

/* Cores by number. The mask of those that the caller may use: how many bytes of it were filled in. The calling thread on
 * these alone from now on: whether that was possible. Of the first 64 those that the machine has, at work or not; 0 if it
 * does not say. How much work one does in a second, next to the others of its CPU; 0 if it does not say. */
enum { PB_MASK_WORDS = 16 };
int32_t pb_allowed_cores(uint64_t mask[PB_MASK_WORDS]);
bool pb_bind_thread(uint64_t cores);
uint64_t pb_present_cores(void);
int64_t pb_core_capacity(int32_t core);

static inline void pb_relax(void)
{
#if defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#elif defined(__x86_64__)
    __asm__ volatile("pause");
#elif defined(__riscv)
    __asm__ volatile(".insn i 0x0F, 0, x0, x0, 0x010"); /* pause; no more than a hint to cores that lack it */
#endif
}

#endif
