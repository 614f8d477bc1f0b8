/* Open models and the handles that callers hold.
 *
 * A handle is an address that nobody can use and that is never given out again: one byte of memory that is reserved, never
 * touched and never returned. So a closed handle is recognised without a look at memory that may be gone, however many
 * models have been opened since, and so is one that belongs to another library.
 *
 * There are no locks here: a process made by fork() while another thread held one could never take it.
 */
#include "runtime.h"

enum { MAX_MODELS = 256, USER_BITS = 16, MAX_USERS = (1 << USER_BITS) - 1, RESERVED = 1 << 20 };

struct pb_slot {
    pb_model *model;
    _Atomic int32_t process; /* that opened it */
    _Atomic bool taken;      /* by an open model, or one that is being opened or closed */
    _Atomic uint64_t state;  /* the handle, or 0 once it is closed, << USER_BITS | how many calls are using the model */
};

static pb_slot slots[MAX_MODELS];
static _Atomic uintptr_t next_handle; /* a multiple of RESERVED: what was reserved is used up */

/* 0 if there is no address space left. The first byte of what is reserved is not given out. */
static uint64_t new_handle(void)
{
    for (;;) {
        uintptr_t handle = atomic_load(&next_handle);
        uintptr_t reserved = 0;
        const uintptr_t before = handle;
        if (handle % RESERVED == 0) {
            reserved = pb_reserve_addresses(2 * RESERVED);
            if (!reserved)
                return 0;
            handle = ((reserved + RESERVED - 1) & ~(uintptr_t)(RESERVED - 1)) + 1;
        }
        uintptr_t expected = before;
        if (atomic_compare_exchange_strong(&next_handle, &expected, handle + 1))
            return handle;
        if (reserved)
            pb_return_addresses(reserved, 2 * RESERVED);
    }
}

pocketbert_model *pb_handle_create(pb_model *model)
{
    for (int32_t i = 0; i < MAX_MODELS; i++) {
        pb_slot *slot = &slots[i];
        if (atomic_exchange(&slot->taken, true))
            continue;
        const uint64_t handle = new_handle();
        slot->model = model;
        atomic_store(&slot->process, pb_this_process());
        atomic_store(&slot->state, handle << USER_BITS);
        if (!handle)
            atomic_store(&slot->taken, false);
        return (pocketbert_model *)(uintptr_t)handle;
    }
    return NULL;
}

/* The slot of an open model, with `state` as it was; NULL if there is none. */
static pb_slot *find(const pocketbert_model *model, uint64_t *state)
{
    const uint64_t handle = (uintptr_t)model;
    for (int32_t i = 0; handle && i < MAX_MODELS; i++) {
        *state = atomic_load(&slots[i].state);
        if (*state >> USER_BITS == handle)
            return &slots[i];
    }
    return NULL;
}

int32_t pb_handle_enter(const pocketbert_model *handle, pb_slot **entered)
{
    uint64_t state;
    pb_slot *slot;
    while ((slot = find(handle, &state)) && (state & MAX_USERS) != MAX_USERS) {
        if (atomic_load(&slot->process) != pb_this_process())
            return POCKETBERT_ERROR_FORK;
        if (atomic_compare_exchange_strong(&slot->state, &state, state + 1)) {
            *entered = slot;
            return POCKETBERT_OK;
        }
    }
    return POCKETBERT_ERROR_ARGUMENT;
}

pb_model *pb_handle_model(const pb_slot *slot)
{
    return slot->model;
}

/* The half of the state that one can sleep on: it changes with every user. */
static void *users(pb_slot *slot)
{
    return &slot->state;
}

void pb_handle_leave(pb_slot *slot)
{
    if (atomic_fetch_sub(&slot->state, 1) == 1)
        pb_wake(users(slot));
}

pb_model *pb_handle_close(pocketbert_model *handle, bool *inherited)
{
    uint64_t state;
    pb_slot *slot;
    do
        if (!(slot = find(handle, &state)))
            return NULL;
    while (!atomic_compare_exchange_strong(&slot->state, &state, state & MAX_USERS));
    *inherited = atomic_load(&slot->process) != pb_this_process(); /* then nobody here uses it */
    while (!*inherited && (state = atomic_load(&slot->state)))
        pb_sleep(users(slot), (uint32_t)state);
    pb_model *model = slot->model;
    atomic_store(&slot->state, 0);
    atomic_store(&slot->taken, false);
    return model;
}
