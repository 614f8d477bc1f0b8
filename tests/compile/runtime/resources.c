/* resources (returned|refused|text|tasks|threads|many): what a library takes from libc, which this program stands between.
 *
 * Link with a library and -DMODEL=<name>. Every mode prints what it has seen, or says what is wrong and exits with 1.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pocketbert.h"
#include "tensors.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const pocketbert_functions *JOIN(MODEL, _functions)(void);

enum { MAX_MAPS = 2000, MAX_MODELS = 1000 };

static const pocketbert_functions *api;
static pocketbert_description description = {.size = sizeof description};
static pocketbert_tensor inputs[MAX_TENSORS], outputs[MAX_TENSORS];

static struct map {
    char *address;
    size_t bytes;
    char *real; /* where what is mapped begins, and how much that is */
    size_t real_bytes;
} maps[MAX_MAPS], reserved[MAX_MAPS];
static int map_count, reserved_count, threads, files;
static int calls, refused_call;                           /* of mmap and pthread_create */
static int cores;                                         /* that the process may use; 0: as it is */
static int fixed;                                         /* no thread may be given to cores */
static pthread_mutex_t alone = PTHREAD_MUTEX_INITIALIZER; /* texts side by side ask for memory at once */

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "resources: %s\n", what);
        _exit(1);
    }
}

#define REAL(name) ((__typeof__(&name))(uintptr_t)dlsym(RTLD_NEXT, #name))

/* What is given out ends, up to a cache line, where a page begins that nobody may touch. */
static void *map_pages(void *address, size_t bytes, int protection, int flags, int file, off_t offset)
{
    if (++calls == refused_call)
        return MAP_FAILED;
    check(map_count < MAX_MAPS && reserved_count < MAX_MAPS, "too many maps");
    if (protection == PROT_NONE) {
        char *memory = REAL(mmap)(address, bytes, protection, flags, file, offset);
        reserved[reserved_count++] = (struct map){memory, bytes, memory, bytes};
        return memory;
    }
    const size_t page = 4096, before = (bytes + page - 1) / page * page;
    char *real = REAL(mmap)(address, before + page, protection, flags, file, offset);
    check(real != MAP_FAILED && mprotect(real + before, page, PROT_NONE) == 0, "out of memory");
    char *memory = real + before - (bytes + 63) / 64 * 64;
    maps[map_count++] = (struct map){memory, bytes, real, before + page};
    return memory;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset)
{
    pthread_mutex_lock(&alone);
    void *pages = map_pages(address, bytes, protection, flags, file, offset);
    pthread_mutex_unlock(&alone);
    return pages;
}

int munmap(void *address, size_t bytes)
{
    pthread_mutex_lock(&alone);
    struct map *map = maps;
    while (map < maps + map_count && map->address != address)
        map++;
    check(map < maps + map_count && map->bytes == bytes, "what is given back is not what was taken");
    const struct map old = *map;
    *map = maps[--map_count];
    pthread_mutex_unlock(&alone);
    return REAL(munmap)(old.real, old.real_bytes);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    if (++calls == refused_call)
        return EAGAIN;
    threads++;
    return REAL(pthread_create)(thread, attributes, start, argument);
}

int pthread_join(pthread_t thread, void **result)
{
    threads--;
    return REAL(pthread_join)(thread, result);
}

long syscall(long number, ...)
{
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_sched_setaffinity && fixed)
        return -1;
    if (number == SYS_sched_getaffinity && cores) { /* beyond the first 64, which no file says anything about */
        uint64_t *mask = (uint64_t *)a[2];
        mask[0] = 0;
        mask[1] = ((uint64_t)1 << cores) - 1;
        return 2 * sizeof *mask;
    }
    const long result = REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (number == SYS_openat && result >= 0)
        files++;
    if (number == SYS_close && result == 0)
        files--;
    return result;
}

static void all_returned(void)
{
    check(map_count == 0, "memory is not given back");
    check(threads == 0, "threads are not waited for");
    check(files == 0, "files stay open");
}

static int32_t open_model(pocketbert_options options, pocketbert_model **model)
{
    options.size = sizeof options;
    *model = (pocketbert_model *)1;
    const int32_t status = api->open(&options, model);
    int inside = status != POCKETBERT_OK && !*model;
    for (int i = 0; i < reserved_count; i++)
        inside |= (char *)*model > reserved[i].address && (char *)*model < reserved[i].address + reserved[i].bytes;
    check(inside, "the handle is an address that something else may get");
    return status;
}

/* All that a model took is given back, and a run takes nothing; what one of a text takes it gives back at once. */
static void returned(void)
{
    int count = 0;
    for (pocketbert_options options = {0}; options.threads < 5;
         options.threads += options.profile, options.profile ^= 1) {
        pocketbert_model *model;
        int32_t tokens;
        check(open_model(options, &model) == POCKETBERT_OK, api->last_error(NULL));
        const int maps_before = map_count;
        for (int i = 0; i < 3; i++) {
            const int calls_before = calls;
            check(api->run(model, inputs, description.input_count, outputs, description.output_count) == POCKETBERT_OK,
                  api->last_error(model));
            check(calls == calls_before, "a run allocates");
            check(api->run_text(model, "a b", 3, NULL, 0, outputs, description.output_count, &tokens) == POCKETBERT_OK,
                  api->last_error(model));
            check(map_count == maps_before, "a run of a text keeps memory");
            for (int32_t j = 0; j < description.output_count; j++)
                memcpy(outputs[j].shape, description.outputs[j].shape, sizeof outputs[j].shape);
        }
        api->close(model);
        all_returned();
        count++;
    }
    printf("%d returned all\n", count);
}

/* Each call that may be refused is, often enough that whatever is lost each time runs out. */
static void refused(void)
{
    pocketbert_model *model;
    int32_t status = POCKETBERT_ERROR_MEMORY;
    for (int call = 1; status != POCKETBERT_OK; call++) {
        for (int i = 0; i < 300 && status != POCKETBERT_OK; i++) {
            calls = 0;
            refused_call = call;
            status = open_model((pocketbert_options){.threads = 3, .profile = 1}, &model);
            if (status == POCKETBERT_OK)
                break;
            all_returned();
        }
        printf("%d %s\n", status, status == POCKETBERT_OK ? "opened" : api->last_error(NULL));
    }
    refused_call = 0;
    api->close(model);
    fixed = 1;
    status = open_model((pocketbert_options){.threads = 2, .cores = 1}, &model);
    printf("%d %s\n", status, api->last_error(NULL));
    all_returned();
    status = open_model((pocketbert_options){.threads = 2}, &model);
    printf("%d %s\n", status, "opened");
    api->close(model);
    all_returned();
}

/* Each piece of memory that a text's run asks for is refused; then the model is as it was. */
static void refused_text(void)
{
    static const char text[] = "a quick ([MASK]) b\xc3\xa9";
    pocketbert_model *model;
    int32_t tokens, status = POCKETBERT_ERROR_MEMORY;
    int refusals = 0;
    check(open_model((pocketbert_options){.threads = 1}, &model) == POCKETBERT_OK, api->last_error(NULL));
    const int maps_before = map_count;
    for (int call = 1; status != POCKETBERT_OK; call++) {
        calls = 0;
        refused_call = call;
        status = api->run_text(model, text, sizeof text - 1, NULL, 0, outputs, description.output_count, &tokens);
        check(status == POCKETBERT_OK || status == POCKETBERT_ERROR_MEMORY, "not an error of memory");
        check(status == POCKETBERT_OK || strstr(api->last_error(model), "memory"), "no message");
        check(map_count == maps_before, "memory is not given back");
        refusals += status != POCKETBERT_OK;
    }
    refused_call = 0;
    api->close(model);
    all_returned();
    printf("%s\n", refusals ? "refused" : "nothing was asked for");
}

/* The library's task: labels, many: of three texts; entities, answers. */
static int32_t ask(pocketbert_model *model, int many)
{
    static const pocketbert_text texts[] = {{"a b", 3, NULL, 0}, {"the", 3, "c", 1}, {"d, e", 4, NULL, 0}};
    pocketbert_label labels[9];
    pocketbert_entity entities[9];
    pocketbert_answer answers[9];
    int32_t count, overflows[3];
    if (description.task == POCKETBERT_ENTITIES)
        return api->entities(model, "the a b", 7, NULL, entities, 9, &count, NULL);
    if (description.task == POCKETBERT_ANSWER)
        return api->answer(model, "a", 1, "b the c", 7, NULL, answers, 9, &count);
    return many ? api->classify_all(model, texts, 3, NULL, labels, 3, overflows)
                : api->classify(model, "a b", 3, NULL, 0, NULL, labels, 9, &count, overflows);
}

/* A task on one text, and on three by two threads: each piece of memory that it asks for is refused. */
static void refused_task(void)
{
    for (int many = 0; many < 2; many++) {
        pocketbert_model *model;
        int32_t status = POCKETBERT_ERROR_MEMORY;
        int refusals = 0;
        check(open_model((pocketbert_options){.threads = 1 + many}, &model) == POCKETBERT_OK, api->last_error(NULL));
        for (int call = 1; status != POCKETBERT_OK; call++) {
            calls = 0;
            refused_call = call;
            status = ask(model, many);
            check(status == POCKETBERT_OK || status == POCKETBERT_ERROR_MEMORY, "not an error of memory");
            check(status == POCKETBERT_OK || strstr(api->last_error(model), "memory"), "no message");
            refusals += status != POCKETBERT_OK;
        }
        refused_call = 0;
        const int maps_before = map_count;
        for (int i = 0; i < 3; i++) {
            check(ask(model, many) == POCKETBERT_OK, api->last_error(model));
            check(map_count == maps_before, "a task keeps memory");
        }
        api->close(model);
        all_returned();
        printf("%s\n", refusals ? "refused" : "nothing was asked for");
    }
}

/* How many threads a model has where the process may use 1, 2, … cores, and how many with 1, 2, … that it is told. */
static void count_threads(void)
{
    pocketbert_model *model;
    for (int told = 0; told < 2; told++)
        for (int count = 1; count <= (told ? 64 : 10); count += count < 10 ? 1 : 54) {
            cores = told ? 1 : count;
            check(open_model((pocketbert_options){.threads = told ? count : 0}, &model) == POCKETBERT_OK, "open");
            printf("%d ", 1 + threads);
            api->close(model);
        }
    printf("\n");
}

static void many(void)
{
    static pocketbert_model *models[MAX_MODELS];
    for (int round = 0; round < 2; round++) {
        int count = 0;
        while (count < MAX_MODELS && open_model((pocketbert_options){.threads = 1}, &models[count]) == POCKETBERT_OK)
            count++;
        printf("%d, %s\n", count, api->last_error(NULL));
        for (int i = 0; i < count; i++)
            api->close(models[i]);
        all_returned();
    }
}

int main(int argc, char **argv)
{
    check(argc == 2, "usage: resources (returned|refused|text|tasks|threads|many)");
    api = JOIN(MODEL, _functions)();
    api->describe(&description);
    allocate(inputs, description.inputs, description.input_count);
    allocate(outputs, description.outputs, description.output_count);
    map_count = 0; /* those of this program */
    if (strcmp(argv[1], "returned") == 0)
        returned();
    else if (strcmp(argv[1], "refused") == 0)
        refused();
    else if (strcmp(argv[1], "text") == 0)
        refused_text();
    else if (strcmp(argv[1], "tasks") == 0)
        refused_task();
    else if (strcmp(argv[1], "threads") == 0)
        count_threads();
    else
        many();
    return 0;
}
