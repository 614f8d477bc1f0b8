/* macOS and iOS, by public functions alone: the App Store takes no others. Declared by hand, as Apple's headers are not
 * there where libraries are cross-compiled. */
#include "cpu_features.h"
#include "platform.h"

#ifdef __APPLE__

void *mmap(void *address, size_t length, int protection, int flags, int file, int64_t offset);
int pthread_mutex_init(void *mutex, const void *attributes);
int pthread_mutex_lock(void *mutex);
int pthread_mutex_unlock(void *mutex);
int pthread_cond_init(void *condition, const void *attributes);
int pthread_cond_wait(void *condition, void *mutex);
int pthread_cond_broadcast(void *condition);
int pthread_set_qos_class_self_np(unsigned quality, int priority);
int getpid(void);
uint64_t clock_gettime_nsec_np(unsigned clock);
int sysctlbyname(const char *name, void *value, size_t *bytes, const void *new_value, size_t new_bytes);

/* Darwin's own constants. */
enum { PB_PROT_NONE = 0, PB_PROT_READ_WRITE = 3, PB_MAP_PRIVATE_ANONYMOUS = 0x1002 };
enum { PB_CLOCK_UPTIME_RAW = 8, PB_QOS_CLASS_USER_INTERACTIVE = 0x21 };

enum { PAGE = 16384 };

void *pb_pages(size_t bytes, bool present)
{
    void *pages = mmap(NULL, bytes, PB_PROT_READ_WRITE, PB_MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (pages == (void *)-1)
        return NULL;
    for (size_t i = 0; present && i < bytes; i += PAGE)
        ((volatile char *)pages)[i] = 0;
    return pages;
}

uintptr_t pb_reserve_addresses(size_t bytes)
{
    void *reserved = mmap(NULL, bytes, PB_PROT_NONE, PB_MAP_PRIVATE_ANONYMOUS, -1, 0);
    return reserved == (void *)-1 ? 0 : (uintptr_t)reserved;
}

/* What all sleepers sleep on: the one way that every version has, public, to wait for a word in memory. A word changes
 * before `pb_wake` takes the mutex, so nobody who saw the old value sleeps on. The child of a fork() makes it anew: a thread
 * that the child does not have may have held it. */
static struct {
    _Atomic int32_t process; /* whose it is; -1: it is being made */
    _Alignas(16) char mutex[64];
    _Alignas(16) char condition[64];
} gate;

static void enter_gate(void)
{
    const int32_t process = pb_this_process();
    for (int32_t owner; (owner = atomic_load(&gate.process)) != process;)
        if (owner != -1 && atomic_compare_exchange_strong(&gate.process, &owner, -1)) {
            pthread_mutex_init(gate.mutex, NULL);
            pthread_cond_init(gate.condition, NULL);
            atomic_store(&gate.process, process);
        }
    pthread_mutex_lock(gate.mutex);
}

void pb_sleep(void *word, uint32_t value)
{
    enter_gate();
    if (atomic_load((_Atomic uint32_t *)word) == value)
        pthread_cond_wait(gate.condition, gate.mutex);
    pthread_mutex_unlock(gate.mutex);
}

void pb_wake(void *word)
{
    (void)word;
    enter_gate();
    pthread_cond_broadcast(gate.condition);
    pthread_mutex_unlock(gate.mutex);
}

/* The number that the system knows by a name; 0 if it knows none. */
static int32_t ask(const char *name)
{
    int32_t value = 0;
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, NULL, 0) == 0 ? value : 0;
}

uint32_t pb_system_features(void)
{
    uint32_t features = 0;
#define LOOK(name, apple) features |= ask("hw.optional.arm.FEAT_" apple) ? PB_CPU_##name : 0u;
    LOOK(dotprod, "DotProd")
    LOOK(fp16, "FP16")
    LOOK(i8mm, "I8MM")
    LOOK(bf16, "BF16")
    return features;
}

int32_t pb_this_process(void)
{
    return getpid();
}

int64_t pb_now(void)
{
    return (int64_t)clock_gettime_nsec_np(PB_CLOCK_UPTIME_RAW);
}

/* Cores have no numbers here: the fast ones, which the system calls level 0, come first. */
int32_t pb_allowed_cores(uint64_t mask[PB_MASK_WORDS])
{
    mask[0] = pb_present_cores();
    return sizeof *mask;
}

uint64_t pb_present_cores(void)
{
    const int32_t count = ask("hw.logicalcpu");
    return count >= 64 ? UINT64_MAX : ((uint64_t)1 << count) - 1;
}

int64_t pb_core_capacity(int32_t core)
{
    return core < ask("hw.perflevel0.logicalcpu") ? 3 : 1;
}

/* A thread cannot choose; one whose work somebody waits for is given fast cores. */
bool pb_bind_thread(uint64_t cores)
{
    (void)cores;
    pthread_set_qos_class_self_np(PB_QOS_CLASS_USER_INTERACTIVE, 0);
    return false;
}

#endif
