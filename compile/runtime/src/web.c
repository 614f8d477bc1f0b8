/* What JavaScript needs beside the C interface: memory for what it passes, and where the members of structs lie. */
#include "runtime.h"

#ifdef __wasm__

/* Zeros; NULL if memory is short. */
PB_PUBLIC void *PB(web_take)(size_t bytes)
{
    return pb_pages(bytes, false);
}

PB_PUBLIC void PB(web_give)(void *memory, size_t bytes)
{
    pb_free_pages(memory, bytes);
}

/* Where the weights go, which JavaScript reads from a file of their own: the modules of all levels share it. */
PB_PUBLIC const char *PB(web_weights)(void)
{
    return pb_weights;
}

PB_PUBLIC size_t PB(web_weight_bytes)(void)
{
    return pb_the_plan.weight_bytes;
}

/* In the order in which web/index.js names them. */
PB_PUBLIC const int32_t *PB(web_layout)(void)
{
#define SIZE(type) (int32_t)sizeof(pocketbert_##type)
#define AT(type, member) (int32_t)offsetof(pocketbert_##type, member)
    static const int32_t layout[] = {
        SIZE(options),
        SIZE(info),
        AT(info, name),
        AT(info, type),
        AT(info, rank),
        AT(info, shape),
        AT(info, token_axis),
        AT(info, bytes),
        SIZE(description),
        AT(description, tokens),
        AT(description, input_count),
        AT(description, inputs),
        AT(description, output_count),
        AT(description, outputs),
        AT(description, task),
        AT(description, labels),
        AT(description, vector),
        AT(description, text_tokens),
        AT(description, facts),
        SIZE(tensor),
        AT(tensor, data),
        AT(tensor, type),
        AT(tensor, rank),
        AT(tensor, shape),
        SIZE(label),
        AT(label, label),
        AT(label, score),
        SIZE(entity),
        AT(entity, name),
        AT(entity, score),
        AT(entity, begin),
        AT(entity, end),
        SIZE(answer),
        AT(answer, score),
        AT(answer, begin),
        AT(answer, end),
        SIZE(task_options),
        AT(task_options, long_text),
        AT(task_options, no_answer),
        AT(task_options, threshold),
        AT(task_options, max_tokens),
        AT(task_options, stride),
        AT(task_options, longest),
        AT(task_options, allow),
        AT(task_options, allow_count),
        AT(task_options, deny),
        AT(task_options, deny_count),
        SIZE(text),
        AT(text, text),
        AT(text, text_bytes),
        AT(text, pair),
        AT(text, pair_bytes),
    };
    return layout;
}

#endif
