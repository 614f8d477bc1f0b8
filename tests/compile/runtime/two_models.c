/* Two models linked into one program: each computes its own results, and takes no handle of the other's. */
#include <stdio.h>
#include <stdlib.h>

#include "another.h"
#include "small.h"

enum { MAX_TENSORS = 4 };

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static void describe(const pocketbert_functions *api, pocketbert_tensor *inputs, pocketbert_tensor *outputs)
{
    pocketbert_description model = {.size = sizeof model};
    api->describe(&model);
    for (int32_t i = 0; i < model.input_count + model.output_count; i++) {
        const pocketbert_info *info = i < model.input_count ? &model.inputs[i] : &model.outputs[i - model.input_count];
        pocketbert_tensor *tensor = i < model.input_count ? &inputs[i] : &outputs[i - model.input_count];
        *tensor = (pocketbert_tensor){calloc(1, info->bytes), info->type, info->rank, {0}};
        for (int32_t j = 0; j < info->rank; j++)
            tensor->shape[j] = info->shape[j];
    }
}

/* Prints the first numbers of what ids of 0 give. */
static void run(const pocketbert_functions *mine, const pocketbert_functions *other)
{
    pocketbert_model *model, *theirs;
    pocketbert_tensor inputs[MAX_TENSORS], outputs[MAX_TENSORS];
    describe(mine, inputs, outputs);
    check(mine->open(NULL, &model) == POCKETBERT_OK, mine->last_error(NULL));
    check(other->open(NULL, &theirs) == POCKETBERT_OK, other->last_error(NULL));
    check(mine->run(theirs, inputs, 3, outputs, 2) == POCKETBERT_ERROR_ARGUMENT, "ran the other library's model");
    mine->close(theirs);
    check(other->run(theirs, inputs, 3, outputs, 2) == POCKETBERT_OK, "closed the other library's model");
    check(mine->run(model, inputs, 3, outputs, 2) == POCKETBERT_OK, mine->last_error(model));
    for (int i = 0; i < 8; i++)
        printf("%.9g ", (double)((float *)outputs[0].data)[i]);
    printf("\n");
    mine->close(model);
    other->close(theirs);
}

int main(void)
{
    run(small_functions(), another_functions());
    run(another_functions(), small_functions());
    return 0;
}
