/* samples LIBRARY NAME THREADS SAMPLES RESULTS: every sample in the file SAMPLES (its number of tokens as an int64, then
 * each input's bytes) through the C interface; the outputs' bytes go to RESULTS. */
#include <stdio.h>
#include <stdlib.h>

#include "pocketbert_loader.h"

enum { MAX_TENSORS = 8 };

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "samples: %s\n", what);
        exit(1);
    }
}

/* Room for the longest sequence, and the shape of one with `tokens` tokens. Returns its bytes. */
static size_t shape(pocketbert_tensor *tensor, const pocketbert_info *info, int64_t tokens)
{
    size_t bytes = info->bytes;
    tensor->type = info->type;
    tensor->rank = info->rank;
    for (int32_t i = 0; i < info->rank; i++) {
        tensor->shape[i] = i == info->token_axis ? tokens : info->shape[i];
        bytes = bytes / (size_t)info->shape[i] * (size_t)tensor->shape[i];
    }
    return bytes;
}

int main(int argc, char **argv)
{
    pocketbert_library library;
    pocketbert_model *model;
    pocketbert_description about = {.size = sizeof about};
    pocketbert_tensor inputs[MAX_TENSORS] = {{0}}, outputs[MAX_TENSORS] = {{0}};
    check(argc == 6, "five arguments");
    check(pocketbert_load_path(&library, argv[1], argv[2]) == POCKETBERT_OK, library.error);
    const pocketbert_functions *api = library.functions;
    const pocketbert_options options = {.size = sizeof options, .threads = atoi(argv[3])};
    check(api->open(&options, &model) == POCKETBERT_OK, api->last_error(NULL));
    api->describe(&about);
    for (int32_t i = 0; i < about.input_count; i++)
        check((inputs[i].data = malloc(about.inputs[i].bytes)) != NULL, "memory");
    for (int32_t i = 0; i < about.output_count; i++)
        check((outputs[i].data = malloc(about.outputs[i].bytes)) != NULL, "memory");
    FILE *samples = fopen(argv[4], "rb"), *results = fopen(argv[5], "wb");
    check(samples && results, "files");
    int64_t tokens;
    while (fread(&tokens, sizeof tokens, 1, samples) == 1) {
        for (int32_t i = 0; i < about.input_count; i++)
            check(fread(inputs[i].data, shape(&inputs[i], &about.inputs[i], tokens), 1, samples) == 1, "a short file");
        for (int32_t i = 0; i < about.output_count; i++)
            shape(&outputs[i], &about.outputs[i], tokens);
        const int32_t status = api->run(model, inputs, about.input_count, outputs, about.output_count);
        check(status == POCKETBERT_OK, api->last_error(model));
        for (int32_t i = 0; i < about.output_count; i++)
            fwrite(outputs[i].data, shape(&outputs[i], &about.outputs[i], tokens), 1, results);
    }
    check(fclose(results) == 0, "disk");
    api->close(model);
    return 0;
}
