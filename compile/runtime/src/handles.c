/* Open models and the handles that callers hold.
 *
 * A handle is not a model's address but that of its slot and, in the bits above every address, how often that slot has
 * been used. So a closed handle is recognised without a look at memory that may be gone, and so is one that belongs to
 * another library or to nobody.
 */
#include "runtime.h"

enum { MAX_MODELS = 256, ADDRESS_BITS = 48 };

static struct slot {
    pb_model *_Atomic model;  /* NULL: free */
    _Atomic uintptr_t handle; /* 0: not handed out */
    uintptr_t uses;
} slots[MAX_MODELS];

pocketbert_model *pb_handle_create(pb_model *model)
{
    for (int32_t i = 0; i < MAX_MODELS; i++) {
        pb_model *none = NULL;
        if (atomic_compare_exchange_strong(&slots[i].model, &none, model)) {
            const uintptr_t handle = (uintptr_t)&slots[i] ^ ++slots[i].uses << ADDRESS_BITS;
            atomic_store(&slots[i].handle, handle);
            return (pocketbert_model *)handle;
        }
    }
    return NULL;
}

static struct slot *find(const pocketbert_model *handle)
{
    const uintptr_t address = (uintptr_t)handle & (((uintptr_t)1 << ADDRESS_BITS) - 1);
    const uintptr_t index = (address - (uintptr_t)slots) / sizeof *slots;
    return handle && index < MAX_MODELS && atomic_load(&slots[index].handle) == (uintptr_t)handle ? &slots[index] : NULL;
}

pb_model *pb_handle_find(const pocketbert_model *handle)
{
    struct slot *slot = find(handle);
    return slot ? atomic_load(&slot->model) : NULL;
}

pb_model *pb_handle_close(pocketbert_model *handle)
{
    struct slot *slot = find(handle);
    uintptr_t expected = (uintptr_t)handle;
    if (!slot || !atomic_compare_exchange_strong(&slot->handle, &expected, 0))
        return NULL;
    return atomic_exchange(&slot->model, NULL);
}
