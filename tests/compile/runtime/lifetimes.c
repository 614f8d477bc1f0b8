/* lifetimes (close|profile|fork|handles) COUNT: models that are closed, profiled, inherited or remembered at bad moments.
 *
 * Link with a library and -DMODEL=<name>. Every mode prints what it has seen, or says what is wrong and exits with 1.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pocketbert.h"
#include "tensors.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const pocketbert_functions *JOIN(MODEL, _functions)(void);

enum { RUNNERS = 4, CLOSERS = 2 };

static const pocketbert_functions *api;
static pocketbert_description description = {.size = sizeof description};
static pocketbert_tensor inputs[MAX_TENSORS], expected[MAX_TENSORS];
static pocketbert_model *_Atomic model;
static _Atomic int runs, enough;

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "lifetimes: %s\n", what);
        _exit(1);
    }
}

static void release(pocketbert_tensor *tensors, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        free(tensors[i].data);
}

static pocketbert_model *open_model(int32_t threads, int32_t profile)
{
    const pocketbert_options options = {.size = sizeof options, .threads = threads, .profile = profile};
    pocketbert_model *opened;
    check(api->open(&options, &opened) == POCKETBERT_OK, api->last_error(NULL));
    return opened;
}

static int32_t run(pocketbert_model *handle, pocketbert_tensor *outputs)
{
    const int32_t status = api->run(handle, inputs, description.input_count, outputs, description.output_count);
    for (int32_t i = 0; status == POCKETBERT_OK && i < description.output_count; i++)
        check(memcmp(outputs[i].data, expected[i].data, description.outputs[i].bytes) == 0, "results differ");
    return status;
}

/* What is named in a text of several windows. */
static int32_t ask(pocketbert_model *handle)
{
    static const char text[] = "the a b c d e f g h i j k";
    const pocketbert_task_options options = {.size = sizeof options, .long_text = POCKETBERT_WINDOWS};
    pocketbert_entity entities[2];
    int32_t count;
    return api->entities(handle, text, sizeof text - 1, &options, entities, 2, &count, NULL);
}

/* Runs the shared model until it is closed, or there are enough; in turn for a task, where it has one. */
static void *run_until_closed(void *argument)
{
    pocketbert_tensor outputs[MAX_TENSORS];
    allocate(outputs, description.outputs, description.output_count);
    int32_t status = POCKETBERT_OK;
    for (int turn = 0; !enough && status != POCKETBERT_ERROR_ARGUMENT; turn++) {
        status = turn % 2 && description.task == POCKETBERT_ENTITIES ? ask(model) : run(model, outputs);
        runs += status == POCKETBERT_OK;
        check(status == POCKETBERT_OK || status == POCKETBERT_ERROR_BUSY || status == POCKETBERT_ERROR_ARGUMENT,
              "a run fails while the model is being closed");
        check(strlen(api->last_error(model)) > 0, "no message");
    }
    release(outputs, description.output_count);
    return argument;
}

static void *close_model(void *argument)
{
    while (!runs)
        sched_yield();
    api->close(model);
    check(run(model, expected) == POCKETBERT_ERROR_ARGUMENT, "a closed model runs");
    return argument;
}

static void start(pthread_t *threads, int count, void *(*function)(void *))
{
    for (int i = 0; i < count; i++)
        check(pthread_create(&threads[i], NULL, function, NULL) == 0, "no thread");
}

static void join(pthread_t *threads, int count)
{
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

/* Two threads close the model that four others are running. */
static void close_while_running(int count)
{
    pthread_t runners[RUNNERS], closers[CLOSERS];
    int all = 0;
    for (int i = 0; i < count; i++) {
        runs = 0;
        model = open_model(1 + i % 2, 0);
        start(runners, RUNNERS, run_until_closed);
        start(closers, CLOSERS, close_model);
        join(closers, CLOSERS);
        join(runners, RUNNERS);
        all += runs;
    }
    printf("%d closed, %s\n", count, all >= count ? "all while running" : "too few runs");
}

static void profile_while_running(int count)
{
    pthread_t runner;
    int profiles = 0;
    model = open_model(2, 1);
    start(&runner, 1, run_until_closed);
    while (profiles < count) {
        const pocketbert_record *records;
        int32_t records_count;
        const int32_t status = api->profile(model, &records, &records_count);
        check(status == POCKETBERT_OK || status == POCKETBERT_ERROR_BUSY, "no profile");
        if (status != POCKETBERT_OK)
            continue;
        profiles++;
        for (const int before = runs; runs < before + 2;) /* they must not change meanwhile */
            sched_yield();
        for (int32_t i = 0; i < records_count; i++)
            check(records[i].start_ns >= records[0].start_ns && records[i].end_ns <= records[0].end_ns &&
                      records[i].end_ns > 0,
                  "a record of another run");
        const int64_t last = records_count ? records[0].end_ns : 0;
        for (const int before = runs; runs < before + 2;)
            sched_yield();
        check(!records_count || records[0].end_ns == last, "a profile changes after it was given");
    }
    enough = 1;
    join(&runner, 1);
    api->close(model);
    printf("%d profiles\n", count);
}

static void in_the_child(int generation)
{
    const pocketbert_record *records;
    int32_t count;
    pocketbert_tensor outputs[MAX_TENSORS];
    allocate(outputs, description.outputs, description.output_count);
    alarm(60); /* what hangs is killed */
    check(run(model, outputs) == POCKETBERT_ERROR_FORK, "an inherited model runs");
    check(strstr(api->last_error(model), "fork") != NULL, "the message does not say why");
    check(api->run_text(model, "a", 1, NULL, 0, outputs, description.output_count, &count) == POCKETBERT_ERROR_FORK,
          "an inherited model reads text");
    check(api->profile(model, &records, &count) == POCKETBERT_ERROR_FORK, "an inherited model has a profile");
    if (generation == 0 && fork() == 0)
        in_the_child(1);
    else if (generation == 0)
        check(wait(&count) > 0 && count == 0, "the child's child has failed");
    pocketbert_model *own = open_model(2, 0);
    check(run(own, outputs) == POCKETBERT_OK, "a child's own model does not run");
    api->close(model);
    api->close(model);
    check(run(model, outputs) == POCKETBERT_ERROR_ARGUMENT, "a closed model is not refused");
    check(run(own, outputs) == POCKETBERT_OK, "a child's own model is gone");
    api->close(own);
    _exit(0);
}

/* Each fork() while another thread is in a run. */
static void fork_while_running(int count)
{
    pthread_t runner;
    pocketbert_tensor outputs[MAX_TENSORS];
    allocate(outputs, description.outputs, description.output_count);
    model = open_model(2, 1);
    start(&runner, 1, run_until_closed);
    for (int i = 0; i < count; i++) {
        int status;
        while (!runs)
            sched_yield();
        runs = 0;
        const pid_t child = fork();
        check(child >= 0, "fork");
        if (child == 0)
            in_the_child(0);
        check(waitpid(child, &status, 0) == child && status == 0, "a child has failed or hung");
    }
    enough = 1;
    join(&runner, 1);
    check(run(model, outputs) == POCKETBERT_OK, "the parent's model does not run any more");
    api->close(model);
    release(outputs, description.output_count);
    printf("%d forked\n", count);
}

/* A handle that was closed `count` models ago closes none of them. */
static void remember_a_handle(int count)
{
    pocketbert_model *const first = open_model(1, 0);
    api->close(first);
    for (int i = 0; i < count; i++) {
        pocketbert_model *const opened = open_model(1, 0);
        check(opened != first, "a handle was given out twice");
        api->close(first);
        check(strcmp(api->last_error(opened), "no error") == 0, "a stale handle closes another model");
        api->close(opened);
    }
    printf("%d handles\n", count);
}

int main(int argc, char **argv)
{
    check(argc == 3, "usage: lifetimes (close|profile|fork|handles) COUNT");
    api = JOIN(MODEL, _functions)();
    api->describe(&description);
    allocate(inputs, description.inputs, description.input_count);
    allocate(expected, description.outputs, description.output_count);
    model = open_model(1, 0);
    check(api->run(model, inputs, description.input_count, expected, description.output_count) == POCKETBERT_OK,
          "the first run failed");
    api->close(model);
    const int count = atoi(argv[2]);
    switch (argv[1][0]) {
    case 'c':
        close_while_running(count);
        break;
    case 'p':
        profile_while_running(count);
        break;
    case 'f':
        fork_while_running(count);
        break;
    default:
        remember_a_handle(count);
    }
    release(inputs, description.input_count);
    release(expected, description.output_count);
    return 0;
}
