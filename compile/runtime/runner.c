/* runner LIBRARY NAME INPUTS OUTPUTS [THREADS [RUNS]]
 *
 * Opens a compiled model with dlopen, runs every sample in the file INPUTS (the inputs' bytes in the model's order,
 * sample after sample) and writes the outputs' bytes to OUTPUTS. With RUNS the last sample is run that often, and
 * each run's nanoseconds are printed, one a line.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pb.h" /* the interface with symbols named pb_*; only its types are used */

static void die(const char *what, const char *why)
{
    fprintf(stderr, "runner: %s: %s\n", what, why);
    exit(2);
}

static void *find(void *library, const char *name, const char *function)
{
    char symbol[256];
    snprintf(symbol, sizeof symbol, "%s_%s", name, function);
    void *address = dlsym(library, symbol);
    if (!address)
        die(symbol, "not in the library");
    return address;
}

static pb_tensor *make_tensors(const pb_info *infos, int32_t count)
{
    pb_tensor *tensors = calloc((size_t)count, sizeof *tensors);
    for (int32_t i = 0; tensors && i < count; i++) {
        tensors[i].data = calloc(1, infos[i].bytes);
        tensors[i].type = infos[i].type;
        tensors[i].rank = infos[i].rank;
        memcpy(tensors[i].shape, infos[i].shape, sizeof tensors[i].shape);
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
        die("usage", "runner LIBRARY NAME INPUTS OUTPUTS [THREADS [RUNS]]");
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library)
        die(argv[1], dlerror());
    const char *name = argv[2];
    int32_t (*open_model)(const pb_options *, pb_model **);
    int32_t (*run)(pb_model *, const pb_tensor *, int32_t, const pb_tensor *, int32_t);
    const char *(*last_error)(const pb_model *);
    void (*describe)(pb_description *);
    void (*close_model)(pb_model *);
    /* POSIX: the way to turn dlsym's object pointer into a function's. */
    *(void **)&open_model = find(library, name, "open");
    *(void **)&run = find(library, name, "run");
    *(void **)&last_error = find(library, name, "last_error");
    *(void **)&describe = find(library, name, "describe");
    *(void **)&close_model = find(library, name, "close");

    const pb_options options = {.size = sizeof options, .threads = argc > 5 ? atoi(argv[5]) : 1};
    pb_model *model;
    if (open_model(&options, &model) != pb_OK)
        die("open", last_error(NULL));
    pb_description description;
    describe(&description);
    pb_tensor *inputs = make_tensors(description.inputs, description.input_count);
    pb_tensor *outputs = make_tensors(description.outputs, description.output_count);
    FILE *from = fopen(argv[3], "rb"), *to = fopen(argv[4], "wb");
    if (!from || !to)
        die(from ? argv[4] : argv[3], "cannot be opened");
    for (;;) {
        size_t got = 0;
        for (int32_t i = 0; i < description.input_count; i++)
            got += fread(inputs[i].data, description.inputs[i].bytes, 1, from);
        if (got != (size_t)description.input_count)
            break;
        if (run(model, inputs, description.input_count, outputs, description.output_count) != pb_OK)
            die("run", last_error(model));
        for (int32_t i = 0; i < description.output_count; i++)
            if (fwrite(outputs[i].data, description.outputs[i].bytes, 1, to) != 1)
                die(argv[4], "cannot be written");
    }
    if (fclose(to) != 0)
        die(argv[4], "cannot be written");
    for (long left = argc > 6 ? atol(argv[6]) : 0; left > 0; left--) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        run(model, inputs, description.input_count, outputs, description.output_count);
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%lld\n", (end.tv_sec - start.tv_sec) * 1000000000ll + (end.tv_nsec - start.tv_nsec));
    }
    close_model(model);
    return 0;
}
