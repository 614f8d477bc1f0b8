/* threads MODELS RUNS: eight threads, each with RUNS inferences on its own model (MODELS 8) or all on one (MODELS 1).
 *
 * Every result must be the first one's, bit for bit; where a model is shared, a run may instead be refused as busy. While
 * they run, each thread also opens, describes and closes models of its own. Link with a library and -DMODEL=<name>.
 * With RUNS 0 the program breaks the rules, to see whether the sanitizer notices: one thread writes ids that another
 * one's run reads, and they are fewer than their shape says.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pocketbert.h"
#include "tensors.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const pocketbert_functions *JOIN(MODEL, _functions)(void);

enum { THREADS = 8 };

static const pocketbert_functions *api;
static pocketbert_description description = {.size = sizeof description};
static pocketbert_tensor inputs[MAX_TENSORS], expected[MAX_TENSORS];
static pocketbert_model *models[THREADS];
static int32_t model_count, runs;
static _Atomic int32_t done, busy;

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "threads: %s\n", what);
        exit(1);
    }
}

static void *work(void *argument)
{
    const int32_t index = (int32_t)(intptr_t)argument;
    pocketbert_model *model = models[index % model_count];
    pocketbert_tensor outputs[MAX_TENSORS];
    allocate(outputs, description.outputs, description.output_count);
    for (int32_t i = 0; i < runs; i++) {
        const int32_t status = api->run(model, inputs, description.input_count, outputs, description.output_count);
        if (status == POCKETBERT_ERROR_BUSY) {
            check(model_count == 1, "a model of one thread's own is busy");
            check(strstr(api->last_error(model), "another thread") != NULL, "busy is not what the message says");
            atomic_fetch_add(&busy, 1);
            continue;
        }
        check(status == POCKETBERT_OK, api->last_error(model));
        atomic_fetch_add(&done, 1);
        for (int32_t j = 0; j < description.output_count; j++)
            check(memcmp(outputs[j].data, expected[j].data, description.outputs[j].bytes) == 0, "results differ");
        if (i % 100 == 0) {
            pocketbert_model *another;
            pocketbert_description same = {.size = sizeof same};
            check(api->open(NULL, &another) == POCKETBERT_OK, "a model cannot be opened");
            api->describe(&same);
            check(same.tokens == description.tokens, "descriptions differ");
            api->close(another);
            check(api->run(another, inputs, 0, outputs, 0) == POCKETBERT_ERROR_ARGUMENT, "a closed model runs");
        }
    }
    for (int32_t i = 0; i < description.output_count; i++)
        free(outputs[i].data);
    return NULL;
}

static void *write_ids(void *argument)
{
    for (int32_t i = 0; i < 1000; i++)
        memset(argument, 0, 8);
    return NULL;
}

static void break_the_rules(void)
{
    pthread_t writer;
    inputs[0].data = realloc(inputs[0].data, 8);
    check(pthread_create(&writer, NULL, write_ids, inputs[0].data) == 0, "no thread");
    for (int32_t i = 0; i < 1000; i++)
        api->run(models[0], inputs, description.input_count, expected, description.output_count);
    pthread_join(writer, NULL);
}

int main(int argc, char **argv)
{
    check(argc == 3, "usage: threads MODELS RUNS");
    model_count = atoi(argv[1]);
    runs = atoi(argv[2]);
    api = JOIN(MODEL, _functions)();
    api->describe(&description);
    allocate(inputs, description.inputs, description.input_count);
    allocate(expected, description.outputs, description.output_count);
    for (int32_t i = 0; i < model_count; i++) {
        const pocketbert_options options = {.size = sizeof options, .threads = 1 + i % 2};
        check(api->open(&options, &models[i]) == POCKETBERT_OK, api->last_error(NULL));
    }
    check(api->run(models[0], inputs, description.input_count, expected, description.output_count) == POCKETBERT_OK,
          "the first run failed");
    if (runs == 0)
        break_the_rules();
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        check(pthread_create(&threads[i], NULL, work, (void *)i) == 0, "no thread");
    for (int32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int32_t i = 0; i < model_count; i++)
        api->close(models[i]);
    for (int32_t i = 0; i < description.input_count; i++)
        free(inputs[i].data);
    for (int32_t i = 0; i < description.output_count; i++)
        free(expected[i].data);
    printf("%d done, %d busy\n", done, busy);
    return 0;
}
