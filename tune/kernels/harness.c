/* One kernel behind the interface of a compiled model. task.h, which is generated, says which.
 *
 * The first run copies the inputs to where the kernel will find them, the weights once for each call; later runs call
 * the kernel REPEATS times. Outputs are those of the first run, which calls it once. Only our own runner calls this, so
 * nothing is checked.
 */
#include "pocketbert.h"

typedef struct {
    char *first;
    size_t copies;
    size_t bytes;
} memory;

#include "task.h"

#define LENGTH(array) ((int32_t)(sizeof(array) / sizeof *(array)))

static int opened; /* any address will do for a handle */

static void copy(char *to, const char *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = from[i];
}

static int32_t open_kernel(const pocketbert_options *options, pocketbert_model **model)
{
    (void)options;
    opened = 0;
    *model = (pocketbert_model *)&opened;
    return POCKETBERT_OK;
}

static int32_t run(pocketbert_model *model, const pocketbert_tensor *given, int32_t input_count,
                   const pocketbert_tensor *taken, int32_t output_count)
{
    (void)model;
    for (int32_t i = 0; i < input_count && !opened; i++)
        for (size_t c = 0; c < input_memory[i].copies; c++)
            copy(input_memory[i].first + c * input_memory[i].bytes, given[i].data, inputs[i].bytes);
    for (int32_t turn = 0; turn < (opened ? REPEATS : 1); turn++)
        call(turn);
    for (int32_t i = 0; i < output_count && !opened; i++)
        copy(taken[i].data, output_memory[i].first, outputs[i].bytes);
    opened = 1;
    return POCKETBERT_OK;
}

static void close_kernel(pocketbert_model *model)
{
    (void)model;
}

static const char *last_error(const pocketbert_model *model)
{
    (void)model;
    return "";
}

static void describe(pocketbert_description *description)
{
    description->inputs = inputs;
    description->input_count = LENGTH(inputs);
    description->outputs = outputs;
    description->output_count = LENGTH(outputs);
}

const pocketbert_functions *kernel_functions(void);

const pocketbert_functions *kernel_functions(void)
{
    static const pocketbert_functions functions = {
        .size = sizeof functions,
        .abi_version = POCKETBERT_ABI,
        .open = open_kernel,
        .run = run,
        .close = close_kernel,
        .last_error = last_error,
        .describe = describe,
    };
    return &functions;
}
