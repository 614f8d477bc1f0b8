/* benchmark [RUNS]
 *
 * A compiled model and what measures it, in one static program: prints JSON with the device, and for each cluster of
 * equal cores, with one thread and with all of them, the first result, RUNS (default: 50) further runs, memory, and with
 * one thread also what each kernel call took. `python -m tune import` reads it. Progress goes to the error stream.
 *
 * Linked with the model's objects; MODEL, TARGET, SHA256 (of the library that they also are), PRECISION and TOOLCHAIN are strings.
 */
#define _GNU_SOURCE
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pocketbert.h"

#ifndef PB /* the file is opened by itself */
#define PB(name) pb_##name
#define MODEL ""
#define TARGET ""
#define SHA256 ""
#define PRECISION ""
#define TOOLCHAIN ""
#endif

const pocketbert_functions *PB(functions)(void);

enum { CORES = 64, WARM_UP = 2, PROFILED = 10, MOST_RUNS = 10000 };

typedef struct {
    uint64_t cores;
    int32_t count;
    long capacity, khz;
} cluster;

static const pocketbert_functions *api;
static pocketbert_description model;
static pocketbert_tensor *inputs, *outputs;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "benchmark: %s: %s\n", what, why);
    exit(2);
}

static int64_t nanoseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The first line of a file, or "". */
static const char *read_line(const char *path)
{
    static char line[256];
    FILE *file = fopen(path, "r");
    line[0] = 0;
    if (file && fgets(line, sizeof line, file))
        line[strcspn(line, "\n")] = 0;
    if (file)
        fclose(file);
    return line;
}

static const char *of_core(int32_t core, const char *file)
{
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", core, file);
    return read_line(path);
}

/* What follows `key` and a colon in a file of such lines, or "". */
static const char *entry(const char *path, const char *key)
{
    static char line[512];
    FILE *file = fopen(path, "r");
    const char *found = "";
    while (file && !*found && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0 && strchr(line, ':')) {
            line[strcspn(line, "\n")] = 0;
            found = strchr(line, ':') + 1;
            found += strspn(found, " \t");
        }
    if (file)
        fclose(file);
    return found;
}

static void print_string(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 32)
            printf("\\u%04x", (unsigned)*text);
        else
            putchar(*text);
    putchar('"');
}

/* What Android's getprop says; "" elsewhere. */
static void property(const char *name, char *value, size_t size)
{
    int ends[2];
    value[0] = 0;
    if (access("/system/bin/getprop", X_OK) != 0 || pipe(ends) != 0)
        return;
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        execl("/system/bin/getprop", "getprop", name, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    const ssize_t got = child > 0 ? read(ends[0], value, size - 1) : 0;
    value[got > 0 ? got : 0] = 0;
    value[strcspn(value, "\n")] = 0;
    close(ends[0]);
    if (child > 0)
        waitpid(child, NULL, 0);
}

static void print_device_name(void)
{
    char maker[128], name[300];
    property("ro.product.manufacturer", maker, sizeof maker);
    if (*maker) {
        char product[128];
        property("ro.product.model", product, sizeof product);
        snprintf(name, sizeof name, "%s %s", maker, product);
    } else {
        const char *board = read_line("/proc/device-tree/model");
        snprintf(name, sizeof name, "%s", *board ? board : entry("/proc/cpuinfo", "model name"));
    }
    print_string(*name ? name : "unknown");
}

/* qemu-user tells a program that it is on its own processor, and shows it the files of another. */
static int emulated(void)
{
#if defined(__x86_64__)
    const char *other = "aarch64", *sign = "CPU implementer";
#else
    const char *other = "x86_64", *sign = "vendor_id";
#endif
    return strcmp(read_line("/proc/sys/kernel/arch"), other) == 0 || *entry("/proc/cpuinfo", sign);
}

/* °C of the hottest sensor; -1 without any. */
static double temperature(void)
{
    double most = -1;
    for (int zone = 0; zone < 100; zone++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/class/thermal/thermal_zone%d/temp", zone);
        const char *text = read_line(path);
        const double degrees = *text ? atof(text) / 1000 : -1;
        if (degrees > most && degrees < 150)
            most = degrees;
    }
    return most;
}

/* Cores that work alike, the strongest first. */
static int32_t find_clusters(cluster *clusters)
{
    cpu_set_t allowed;
    int32_t count = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        die("cores", "cannot be asked for");
    for (int32_t core = 0; core < CORES; core++) {
        if (!CPU_ISSET(core, &allowed))
            continue;
        const long capacity = atol(of_core(core, "cpu_capacity")),
                   khz = atol(of_core(core, "cpufreq/cpuinfo_max_freq"));
        int32_t at = 0;
        while (at < count && (clusters[at].capacity != capacity || clusters[at].khz != khz))
            at++;
        if (at == count) {
            for (at = count++; at > 0 && (clusters[at - 1].capacity < capacity ||
                                          (clusters[at - 1].capacity == capacity && clusters[at - 1].khz < khz));
                 at--)
                clusters[at] = clusters[at - 1];
            clusters[at] = (cluster){0, 0, capacity, khz};
        }
        clusters[at].cores |= (uint64_t)1 << core;
        clusters[at].count++;
    }
    return count;
}

static void stay_on(uint64_t cores)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int32_t core = 0; core < CORES; core++)
        if (cores >> core & 1)
            CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        die("cores", "the system does not let this program choose any");
}

static pocketbert_tensor *make_tensors(const pocketbert_info *infos, int32_t count)
{
    uint64_t state = 1;
    pocketbert_tensor *tensors = calloc((size_t)count + 1, sizeof *tensors);
    for (int32_t i = 0; tensors && i < count; i++) {
        const pocketbert_info *info = &infos[i];
        tensors[i].data = calloc(1, info->bytes + 1);
        tensors[i].type = info->type;
        tensors[i].rank = info->rank;
        memcpy(tensors[i].shape, info->shape, sizeof info->shape);
        if (!tensors[i].data)
            die(info->name, "out of memory");
        const size_t each = info->type == POCKETBERT_INT64 ? 8 : info->type == POCKETBERT_BOOL ? 1 : 4;
        for (size_t k = 0; k < info->bytes / each; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            const uint64_t random = state >> 33;
            const int64_t id =
                info->high > info->low ? info->low + (int64_t)(random % (uint64_t)(info->high - info->low)) : 1;
            if (info->type == POCKETBERT_FLOAT32)
                ((float *)tensors[i].data)[k] = (float)random / (float)(1u << 30) - 1;
            else if (info->type == POCKETBERT_INT64)
                ((int64_t *)tensors[i].data)[k] = id;
            else if (info->type == POCKETBERT_INT32)
                ((int32_t *)tensors[i].data)[k] = (int32_t)id;
            else
                ((char *)tensors[i].data)[k] = 1;
        }
    }
    if (!tensors)
        die("tensors", "out of memory");
    return tensors;
}

static pocketbert_model *open_model(int32_t threads, uint64_t cores, int32_t profile)
{
    const pocketbert_options options = {.size = sizeof options, .threads = threads, .cores = cores, .profile = profile};
    pocketbert_model *opened;
    if (api->open(&options, &opened) != POCKETBERT_OK)
        die("open", api->last_error(NULL));
    return opened;
}

static void run(pocketbert_model *opened)
{
    if (api->run(opened, inputs, model.input_count, outputs, model.output_count) != POCKETBERT_OK)
        die("run", api->last_error(opened));
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value that a share of the sorted samples does not exceed. */
static double percentile(const double *samples, int32_t count, double share)
{
    const int32_t place = (int32_t)ceil(share * count) - 1;
    return samples[place < 0 ? 0 : place];
}

static void print_numbers(const char *name, const double *values, int32_t count)
{
    printf(", \"%s\": [", name);
    for (int32_t i = 0; i < count; i++)
        printf("%s%.6g", i ? ", " : "", values[i]);
    printf("]");
}

/* With one thread: the median ms of each kernel call. */
static void print_calls(uint64_t cores)
{
    pocketbert_model *opened = open_model(1, cores, 1);
    const pocketbert_record *records;
    int32_t count, calls = 0;
    double *times = NULL;
    run(opened);
    for (int32_t turn = 0; turn < PROFILED; turn++) {
        run(opened);
        if (api->profile(opened, &records, &count) != POCKETBERT_OK)
            die("profile", api->last_error(opened));
        for (int32_t i = 0; !times && i < count; i++)
            calls = records[i].call >= calls ? records[i].call + 1 : calls;
        if (!times && !(times = calloc((size_t)calls * PROFILED + 1, sizeof *times)))
            die("profile", "out of memory");
        for (int32_t i = 0; i < count; i++)
            if (records[i].call >= 0 && records[i].call < calls)
                times[records[i].call * PROFILED + turn] += (double)(records[i].end_ns - records[i].start_ns) / 1e6;
    }
    for (int32_t call = 0; call < calls; call++) {
        qsort(times + call * PROFILED, PROFILED, sizeof *times, compare);
        times[call] = percentile(times + call * PROFILED, PROFILED, 0.5);
    }
    print_numbers("calls_ms", times, calls);
    free(times);
    api->close(opened);
}

static void print_result(const cluster *on, int32_t threads, int32_t runs)
{
    double *wall = calloc((size_t)runs, sizeof *wall), *cpu = calloc((size_t)runs, sizeof *cpu);
    if (!wall || !cpu)
        die("samples", "out of memory");
    fprintf(stderr, "%d core(s), %d thread(s) ...\n", on->count, threads);
    const int64_t begun = nanoseconds(CLOCK_MONOTONIC);
    pocketbert_model *opened = open_model(threads, on->cores, 0);
    const int64_t ready = nanoseconds(CLOCK_MONOTONIC);
    run(opened);
    const int64_t first = nanoseconds(CLOCK_MONOTONIC);
    for (int32_t i = -WARM_UP; i < runs; i++) {
        const int64_t busy = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), start = nanoseconds(CLOCK_MONOTONIC);
        run(opened);
        const int64_t end = nanoseconds(CLOCK_MONOTONIC);
        if (i >= 0) {
            wall[i] = (double)(end - start) / 1e6;
            cpu[i] = (double)(nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - busy) / 1e6;
        }
    }
    const long resident = atol(entry("/proc/self/status", "VmRSS")), own = atol(entry("/proc/self/status", "RssAnon"));
    for (int32_t i = 0; i < model.output_count; i++)
        for (size_t k = 0; outputs[i].type == POCKETBERT_FLOAT32 && k < model.outputs[i].bytes / 4; k++)
            if (!isfinite(((float *)outputs[i].data)[k]))
                die(model.outputs[i].name, "is not finite: this processor computes it wrong");
    api->close(opened);
    printf("{\"threads\": %d, \"open_ms\": %.6g, \"first_ms\": %.6g", threads, (double)(ready - begun) / 1e6,
           (double)(first - begun) / 1e6);
    print_numbers("samples_ms", wall, runs);
    print_numbers("cpu_ms", cpu, runs);
    qsort(wall, (size_t)runs, sizeof *wall, compare);
    printf(", \"p50_ms\": %.6g, \"p90_ms\": %.6g", percentile(wall, runs, 0.5), percentile(wall, runs, 0.9));
    printf(", \"resident_bytes\": %lld, \"anonymous_bytes\": %lld", resident * 1024ll, own * 1024ll);
    if (threads == 1)
        print_calls(on->cores);
    printf("}");
    free(wall);
    free(cpu);
}

static void print_cluster(const cluster *on, int32_t runs)
{
    int32_t printed = 0, first = 0;
    stay_on(on->cores);
    printf("    {\"cores\": [");
    for (int32_t core = CORES - 1; core >= 0; core--)
        if (on->cores >> core & 1)
            first = core;
    for (int32_t core = first; core < CORES; core++)
        if (on->cores >> core & 1)
            printf("%s%d", printed++ ? ", " : "", core);
    printf("], \"capacity\": %ld, \"max_khz\": %ld, \"governor\": ", on->capacity, on->khz);
    print_string(of_core(first, "cpufreq/scaling_governor"));
    printf(", \"temperature\": %.1f, \"results\": [\n      ", temperature());
    print_result(on, 1, runs);
    if (on->count > 1) {
        printf(",\n      ");
        print_result(on, on->count, runs);
    }
    printf("]}");
}

int main(int argc, char **argv)
{
    char *end = NULL;
    const long runs = argc > 1 ? strtol(argv[1], &end, 10) : 50;
    if (argc > 2 || (end && *end) || runs < 1 || runs > MOST_RUNS)
        die("usage", "benchmark [RUNS], from 1 to 10000");
    api = PB(functions)();
    model.size = sizeof model;
    api->describe(&model);
    inputs = make_tensors(model.inputs, model.input_count);
    outputs = make_tensors(model.outputs, model.output_count);
    cluster clusters[CORES];
    const int32_t count = find_clusters(clusters);
    struct utsname system;
    uname(&system);
    printf("{\"format\": 1, \"model\": \"" MODEL "\", \"target\": \"" TARGET "\", \"precision\": \"" PRECISION "\",\n");
    printf("  \"sha256\": \"" SHA256 "\", \"cpu\": \"%s\", \"tokens\": %d,\n", model.cpu, model.tokens);
    printf("  \"weight_bytes\": %zu, \"arena_bytes\": %zu, \"emulated\": %s,\n", model.weight_bytes, model.arena_bytes,
           emulated() ? "true" : "false");
    printf("  \"device\": ");
    print_device_name();
    printf(", \"system\": ");
    char name[sizeof system.sysname + sizeof system.release + sizeof system.machine + 2];
    snprintf(name, sizeof name, "%s %s %s", system.sysname, system.release, system.machine);
    print_string(name);
    printf(",\n  \"clusters\": [\n");
    for (int32_t i = 0; i < count; i++) {
        print_cluster(&clusters[i], (int32_t)runs);
        printf(i + 1 < count ? ",\n" : "\n");
    }
    printf("  ]}\n");
    return fflush(stdout) == 0 ? 0 : 2;
}
