/* runner LIBRARY NAME INPUTS OUTPUTS [THREADS [RUNS [TOKENS]]]
 *
 * Loads a compiled model, runs every sample in the file INPUTS (the inputs' bytes in the model's order,
 * sample after sample) and writes the outputs' bytes to OUTPUTS. With RUNS the last sample is run that often, and
 * each run's nanoseconds are printed, a line for each: those on the clock, and those of the processor's time that all
 * threads had together. TOKENS: how many each sample has; as many as the model takes if that is left out or 0.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pocketbert_loader.h"

static long long nanoseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "runner: %s: %s\n", what, why);
    exit(2);
}

static size_t bytes_of(const pocketbert_info *info, int64_t tokens)
{
    const int32_t axis = info->token_axis;
    return tokens && axis >= 0 ? info->bytes / (size_t)info->shape[axis] * (size_t)tokens : info->bytes;
}

static pocketbert_tensor *make_tensors(const pocketbert_info *infos, int32_t count, int64_t tokens)
{
    pocketbert_tensor *tensors = calloc((size_t)count, sizeof *tensors);
    for (int32_t i = 0; tensors && i < count; i++) {
        tensors[i].data = calloc(1, infos[i].bytes);
        tensors[i].type = infos[i].type;
        tensors[i].rank = infos[i].rank;
        memcpy(tensors[i].shape, infos[i].shape, sizeof tensors[i].shape);
        if (tokens && infos[i].token_axis >= 0)
            tensors[i].shape[infos[i].token_axis] = tokens;
        if (!tensors[i].data)
            die(infos[i].name, "out of memory");
    }
    if (!tensors)
        die("tensors", "out of memory");
    return tensors;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        die("usage", "runner LIBRARY NAME INPUTS OUTPUTS [THREADS [RUNS [TOKENS]]]");
    pocketbert_library library;
    if (pocketbert_load_path(&library, argv[1], argv[2]) != POCKETBERT_OK)
        die("library", library.error);
    const pocketbert_functions *api = library.functions;
    const pocketbert_options options = {.size = sizeof options, .threads = argc > 5 ? atoi(argv[5]) : 1};
    pocketbert_model *model;
    if (api->open(&options, &model) != POCKETBERT_OK)
        die("open", api->last_error(NULL));
    pocketbert_description description = {.size = sizeof description};
    api->describe(&description);
    const int64_t tokens = argc > 7 ? atoll(argv[7]) : 0;
    pocketbert_tensor *inputs = make_tensors(description.inputs, description.input_count, tokens);
    pocketbert_tensor *outputs = make_tensors(description.outputs, description.output_count, tokens);
    FILE *from = fopen(argv[3], "rb"), *to = fopen(argv[4], "wb");
    if (!from || !to)
        die(from ? argv[4] : argv[3], "cannot be opened");
    for (;;) {
        size_t got = 0;
        for (int32_t i = 0; i < description.input_count; i++)
            got += fread(inputs[i].data, bytes_of(&description.inputs[i], tokens), 1, from);
        if (got != (size_t)description.input_count)
            break;
        if (api->run(model, inputs, description.input_count, outputs, description.output_count) != POCKETBERT_OK)
            die("run", api->last_error(model));
        for (int32_t i = 0; i < description.output_count; i++)
            if (fwrite(outputs[i].data, bytes_of(&description.outputs[i], tokens), 1, to) != 1)
                die(argv[4], "cannot be written");
    }
    if (fclose(to) != 0)
        die(argv[4], "cannot be written");
    for (long left = argc > 6 ? atol(argv[6]) : 0; left > 0; left--) {
        const long long busy = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), start = nanoseconds(CLOCK_MONOTONIC);
        api->run(model, inputs, description.input_count, outputs, description.output_count);
        const long long end = nanoseconds(CLOCK_MONOTONIC);
        printf("%lld %lld\n", end - start, nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - busy);
    }
    api->close(model);
    return 0;
}
