/* startup LIBRARY NAME THREADS MODELS RUNS
 *
 * Loads a compiled model, opens it and runs it once; then opens the rest of MODELS and runs all of them at once, RUNS times
 * each. Prints one "key value" a line: nanoseconds, and bytes from /proc/self/smaps.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pocketbert_loader.h"

enum { MOST_TENSORS = 8, MOST_MODELS = 64 };

typedef struct {
    pocketbert_model *model;
    pocketbert_tensor inputs[MOST_TENSORS], outputs[MOST_TENSORS];
} opened;

static pocketbert_library library;
static pocketbert_description description = {.size = sizeof description};
static long runs;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "startup: %s: %s\n", what, why);
    exit(2);
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* Bytes of this process in memory: of the library's read-only pages, and of all else, which nobody else shares. */
static void print_memory(const char *when, const char *path)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[4096], access[8];
    unsigned long long mapped = 0, dirty = 0, kib;
    int ours = 0;
    if (!maps)
        die("/proc/self/smaps", "cannot be read");
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%*x-%*x %7s", access) == 1)
            ours = strstr(line, path) != NULL;
        else if (sscanf(line, "Private_Dirty: %llu", &kib) == 1)
            dirty += kib << 10;
        else if (ours &&
                 (sscanf(line, "Private_Clean: %llu", &kib) == 1 || sscanf(line, "Shared_Clean: %llu", &kib) == 1))
            mapped += kib << 10;
    }
    fclose(maps);
    printf("%s_mapped_bytes %llu\n%s_dirty_bytes %llu\n", when, mapped, when, dirty);
}

static size_t make_tensors(pocketbert_tensor *tensors, const pocketbert_info *infos, int32_t count)
{
    size_t bytes = 0;
    if (count > MOST_TENSORS)
        die("model", "more tensors than this program is made for");
    for (int32_t i = 0; i < count; i++) {
        tensors[i].data = malloc(infos[i].bytes);
        tensors[i].type = infos[i].type;
        tensors[i].rank = infos[i].rank;
        memcpy(tensors[i].shape, infos[i].shape, sizeof tensors[i].shape);
        if (!tensors[i].data)
            die(infos[i].name, "out of memory");
        memset(tensors[i].data, 0, infos[i].bytes);
        for (size_t k = 0; strcmp(infos[i].name, "attention_mask") == 0 && k < infos[i].bytes / sizeof(int64_t); k++)
            ((int64_t *)tensors[i].data)[k] = 1;
        bytes += infos[i].bytes;
    }
    return bytes;
}

static void run(opened *one)
{
    if (library.functions->run(one->model, one->inputs, description.input_count, one->outputs,
                               description.output_count) != POCKETBERT_OK)
        die("run", library.functions->last_error(one->model));
}

static void *run_often(void *argument)
{
    for (long i = 0; i < runs; i++)
        run(argument);
    return NULL;
}

/* Nanoseconds for `count` models to run `runs` times each, all at once. */
static long long together(opened *models, int count)
{
    pthread_t threads[MOST_MODELS];
    const long long start = now();
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, run_often, &models[i]) != 0)
            die("thread", "cannot be created");
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return now() - start;
}

int main(int argc, char **argv)
{
    static opened models[MOST_MODELS];
    if (argc != 6)
        die("usage", "startup LIBRARY NAME THREADS MODELS RUNS");
    const int count = atoi(argv[4]);
    const pocketbert_options options = {.size = sizeof options, .threads = atoi(argv[3])};
    runs = atol(argv[5]);
    if (count < 1 || count > MOST_MODELS)
        die("MODELS", "choose 1 to 64");
    print_memory("before", argv[1]);
    size_t buffers = 0;
    for (int i = 0; i < count; i++) {
        const long long start = now();
        if (i == 0 && pocketbert_load_path(&library, argv[1], argv[2]) != POCKETBERT_OK)
            die("library", library.error);
        const long long loaded = now();
        if (library.functions->open(&options, &models[i].model) != POCKETBERT_OK)
            die("open", library.functions->last_error(NULL));
        const long long open = now();
        library.functions->describe(&description);
        buffers += make_tensors(models[i].inputs, description.inputs, description.input_count);
        buffers += make_tensors(models[i].outputs, description.outputs, description.output_count);
        const long long ready = now();
        run(&models[i]);
        const long long end = now();
        if (i == 0) {
            printf("load_ns %lld\nopen_ns %lld\nfirst_run_ns %lld\n", loaded - start, open - loaded, end - ready);
            print_memory("one", argv[1]);
            printf("one_buffer_bytes %zu\n", buffers);
        }
    }
    print_memory("all", argv[1]);
    printf("all_buffer_bytes %zu\n", buffers);
    if (runs > 0) {
        printf("alone_ns %lld\n", together(models, 1));
        printf("together_ns %lld\n", together(models, count));
    }
    for (int i = 0; i < count; i++)
        library.functions->close(models[i].model);
    return 0;
}
