/* device LIBRARY NAME INPUTS OUTPUTS THREADS RUNS [TOKENS]: what compile/runtime/tools/runner.c does, for any 64-bit Linux.
 *
 * A static program without a libc: it runs on a phone that has bionic, a board that has glibc or musl, and an emulator
 * that has nothing, and needs no NDK to build. So it brings the few functions that a compiled model takes from libc,
 * and its own loader for just such libraries: no dependencies to load, no thread-local storage, two kinds of relocation.
 * TOKENS: how many the sample has; as many as the model takes if that is left out.
 */
#include <stddef.h>
#include <stdint.h>

#include "linux.h"
#include "pocketbert.h"

enum { STACK_BYTES = 1 << 20, PAGE = 1 << 16, NAME_BYTES = 256 };

static const unsigned long *auxiliary;

/* --- what a library takes from libc */

void *memcpy(void *to, const void *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memmove(void *to, const void *from, size_t count)
{
    if ((uintptr_t)to <= (uintptr_t)from)
        return memcpy(to, from, count);
    while (count--)
        ((volatile char *)to)[count] = ((const char *)from)[count];
    return to;
}

void *memset(void *to, int byte, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((volatile char *)to)[i] = (char)byte;
    return to;
}

static long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    const long result = call(number, a, b, c, d, e, f);
    return result < 0 ? -1 : result;
}

static void *map(void *address, size_t length, int protection, int flags, int file, long offset)
{
    const long result = call(MMAP, (long)address, (long)length, protection, flags, file, offset);
    return result < 0 && result > -4096 ? (void *)-1 : (void *)result;
}

static int unmap(void *address, size_t length)
{
    return (int)call(MUNMAP, (long)address, (long)length, 0, 0, 0, 0);
}

static int get_time(int clock, long time[2])
{
    return (int)call(CLOCK_GETTIME, clock, (long)time, 0, 0, 0, 0);
}

static unsigned long get_auxiliary(unsigned long type)
{
    for (const unsigned long *entry = auxiliary; entry[0]; entry += 2)
        if (entry[0] == type)
            return entry[1];
    return 0;
}

static int create_thread(unsigned long *thread, const void *attributes, void *(*start)(void *), void *argument)
{
    (void)attributes;
    char *stack = map(NULL, STACK_BYTES, READ_WRITE, PRIVATE | ANONYMOUS, -1, 0);
    if (stack == (void *)-1)
        return 12;
    int *running = (int *)stack; /* the kernel writes the thread's number here, and 0 when it has ended */
    uintptr_t *top = (uintptr_t *)(stack + STACK_BYTES) - 2;
    top[0] = (uintptr_t)start;
    top[1] = (uintptr_t)argument;
    *thread = (unsigned long)stack;
    const long id = start_thread(THREAD_FLAGS, top, running, 0, running);
    return id < 0 ? (int)-id : 0;
}

static int join_thread(unsigned long thread, void **result)
{
    (void)result;
    volatile int *running = (volatile int *)thread;
    for (int id; (id = *running) != 0;)
        call(FUTEX, (long)running, 0, id, 0, 0, 0);
    return unmap((void *)thread, STACK_BYTES);
}

/* To float's accuracy; what a task makes of scores is the only caller, so it need not be fast. */
static float exponential(float x)
{
    if (!(x > -104)) /* or not a number */
        return x < 0 ? 0 : x;
    if (x > 89)
        return __builtin_inff();
    const int whole = (int)(x * 1.44269504f);
    const double rest = x - whole * 0.6931471805599453;
    double term = 1, sum = 1;
    for (int i = 1; i < 16; i++)
        sum += term *= rest / i;
    for (int i = 0; i < whole; i++)
        sum *= 2;
    for (int i = 0; i > whole; i--)
        sum /= 2;
    return (float)sum;
}

static float square_root(float x)
{
    return __builtin_elementwise_sqrt(x);
}

static double square_root_of_double(double x)
{
    return __builtin_elementwise_sqrt(x);
}

static const struct {
    const char *name;
    void *address;
} libc[] = {
    {"expf", (void *)exponential},
    {"sqrt", (void *)square_root_of_double},
    {"sqrtf", (void *)square_root},
    {"memcpy", (void *)memcpy},
    {"memmove", (void *)memmove},
    {"memset", (void *)memset},
    {"mmap", (void *)map},
    {"munmap", (void *)unmap},
    {"syscall", (void *)system_call},
    {"getauxval", (void *)get_auxiliary},
    {"clock_gettime", (void *)get_time},
    {"pthread_create", (void *)create_thread},
    {"pthread_join", (void *)join_thread},
};

/* --- words to the user */

static size_t length(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static void say(int file, const char *text)
{
    call(WRITE, file, (long)text, (long)length(text), 0, 0, 0);
}

static void quit(int status)
{
    call(EXIT_GROUP, status, 0, 0, 0, 0, 0);
    for (;;)
        ;
}

static void die(const char *what, const char *why)
{
    const char *const parts[] = {"device: ", what, ": ", why, "\n"};
    for (int i = 0; i < 5; i++)
        say(2, parts[i]);
    quit(2);
}

static void print(long number, char after)
{
    char text[24], *at = text + sizeof text - 2;
    at[0] = after, at[1] = 0;
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    say(1, at);
}

enum { MONOTONIC = 1, PROCESSOR_TIME = 2 };

static long nanoseconds(int clock)
{
    long now[2];
    get_time(clock, now);
    return now[0] * 1000000000 + now[1];
}

static long parse(const char *text)
{
    long number = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        number = number * 10 + *text - '0';
    return number;
}

/* --- the loader */

static int open_file(const char *path, int flags)
{
    const long file = call(OPENAT, AT_CWD, (long)path, flags, 0600, 0, 0);
    if (file < 0)
        die(path, "cannot be opened");
    return (int)file;
}

static void *allocate(size_t bytes)
{
    void *memory = map(NULL, bytes ? bytes : 1, READ_WRITE, PRIVATE | ANONYMOUS, -1, 0);
    if (memory == (void *)-1)
        die("memory", "there is not enough");
    return memory;
}

static uintptr_t find(const char *name)
{
    for (size_t i = 0; i < sizeof libc / sizeof *libc; i++)
        if (same(libc[i].name, name))
            return (uintptr_t)libc[i].address;
    die(name, "the library needs it and this program has none");
    return 0;
}

typedef struct {
    char *base;
    const Elf64_Sym *symbols;
    const char *names;
    const uint32_t *hash;
} image;

static void relocate(const image *library, const Elf64_Rela *entries, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof *entries; i++) {
        uintptr_t *place = (uintptr_t *)(library->base + entries[i].r_offset);
        const Elf64_Sym *symbol = &library->symbols[ELF64_R_SYM(entries[i].r_info)];
        switch (ELF64_R_TYPE(entries[i].r_info)) {
        case RELATIVE:
            *place = (uintptr_t)library->base + (uintptr_t)entries[i].r_addend;
            break;
        case ABSOLUTE:
        case GLOBAL:
        case JUMP:
            *place = (uintptr_t)entries[i].r_addend + (symbol->st_shndx ? (uintptr_t)library->base + symbol->st_value
                                                                        : find(library->names + symbol->st_name));
            break;
        default:
            die("library", "it has a relocation that this program does not know");
        }
    }
}

/* Map every segment of `path` and resolve what it needs. */
static image load(const char *path)
{
    const int file = open_file(path, 0);
    char *head = map(NULL, PAGE, 1, PRIVATE, file, 0);
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)head;
    if (head == (void *)-1 || elf->e_ident[0] != 0x7f || elf->e_machine != MACHINE || elf->e_type != ET_DYN)
        die(path, "not a library for " ARCHITECTURE);
    const Elf64_Phdr *segments = (const Elf64_Phdr *)(head + elf->e_phoff);
    size_t span = 0;
    for (int i = 0; i < elf->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD)
            span = segments[i].p_vaddr + segments[i].p_memsz;
    image library = {.base = map(NULL, span + PAGE, 0, PRIVATE | ANONYMOUS, -1, 0)};
    const Elf64_Dyn *dynamic = NULL;
    for (int i = 0; i < elf->e_phnum; i++) {
        const Elf64_Phdr *s = &segments[i];
        if (s->p_type == PT_DYNAMIC)
            dynamic = (const Elf64_Dyn *)(library.base + s->p_vaddr);
        if (s->p_type != PT_LOAD)
            continue;
        const size_t skew = s->p_vaddr % s->p_align;
        const int kind = s->p_flags & PF_X ? 5 : s->p_flags & PF_W ? READ_WRITE : 1;
        char *start = library.base + s->p_vaddr - skew;
        if (map(start, skew + s->p_memsz, kind, PRIVATE | FIXED | ANONYMOUS, -1, 0) == (void *)-1 ||
            (s->p_filesz &&
             map(start, skew + s->p_filesz, kind, PRIVATE | FIXED, file, (long)(s->p_offset - skew)) == (void *)-1))
            die(path, "cannot be mapped");
        if (s->p_flags & PF_W) /* the file goes on where the segment's part of it ends */
            for (char *end = start + skew + s->p_filesz; (uintptr_t)end % 4096; end++)
                *end = 0;
    }
    uintptr_t found[DT_JMPREL + 1] = {0}, hash = 0;
    for (; dynamic && dynamic->d_tag; dynamic++) {
        if (dynamic->d_tag <= DT_JMPREL)
            found[dynamic->d_tag] = dynamic->d_un.d_val;
        if (dynamic->d_tag == DT_GNU_HASH)
            hash = dynamic->d_un.d_val;
    }
    if (!found[DT_SYMTAB] || !hash)
        die(path, "not a library that the compiler made");
    library.symbols = (const Elf64_Sym *)(library.base + found[DT_SYMTAB]);
    library.names = library.base + found[DT_STRTAB];
    library.hash = (const uint32_t *)(library.base + hash);
    relocate(&library, (const Elf64_Rela *)(library.base + found[DT_RELA]), found[DT_RELASZ]);
    relocate(&library, (const Elf64_Rela *)(library.base + found[DT_JMPREL]), found[DT_PLTRELSZ]);
    return library;
}

/* The hash table's chains cover every symbol that the library defines. */
static void *symbol(const image *library, const char *name)
{
    const uint32_t buckets = library->hash[0], first = library->hash[1], words = library->hash[2];
    const uint32_t *bucket = library->hash + 4 + 2 * words, *chain = bucket + buckets;
    for (uint32_t b = 0; b < buckets; b++)
        for (uint32_t i = bucket[b]; i >= first && i; i++) {
            if (same(library->names + library->symbols[i].st_name, name))
                return library->base + library->symbols[i].st_value;
            if (chain[i - first] & 1)
                break;
        }
    die(name, "not in the library");
    return NULL;
}

/* --- the program */

/* tokens: 0 for as many as the model takes. */
static pocketbert_tensor *make_tensors(const pocketbert_info *infos, int32_t count, int64_t tokens)
{
    pocketbert_tensor *tensors = allocate((size_t)count * sizeof *tensors);
    for (int32_t i = 0; i < count; i++) {
        tensors[i].data = allocate(infos[i].bytes);
        tensors[i].type = infos[i].type;
        tensors[i].rank = infos[i].rank;
        for (int32_t d = 0; d < 4; d++)
            tensors[i].shape[d] = tokens && d == infos[i].token_axis ? tokens : infos[i].shape[d];
    }
    return tensors;
}

/* Read or write all of a tensor. */
static int transfer(long number, int file, const pocketbert_tensor *tensor)
{
    size_t bytes = tensor->type == POCKETBERT_INT64 ? 8 : tensor->type == POCKETBERT_BOOL ? 1 : 4;
    for (int32_t d = 0; d < tensor->rank; d++)
        bytes *= (size_t)tensor->shape[d];
    for (size_t done = 0; done < bytes;) {
        const long got = call(number, file, (long)((char *)tensor->data + done), (long)(bytes - done), 0, 0, 0);
        if (got <= 0)
            return 0;
        done += (size_t)got;
    }
    return 1;
}

static void run_model(char **arguments)
{
    const image library = load(arguments[1]);
    char name[NAME_BYTES];
    const size_t letters = length(arguments[2]);
    if (letters + sizeof "_functions" > sizeof name)
        die("name", "too long");
    memcpy(name, arguments[2], letters);
    memcpy(name + letters, "_functions", sizeof "_functions");
    const pocketbert_functions *(*functions)(void);
    *(void **)&functions = symbol(&library, name);
    const pocketbert_functions *api = functions();
    if (api->abi_version != POCKETBERT_ABI)
        die(arguments[1], "built for another POCKETBERT_ABI than this program");
    const pocketbert_options options = {.size = sizeof options, .threads = (int32_t)parse(arguments[5])};
    pocketbert_model *model;
    if (api->open(&options, &model) != POCKETBERT_OK)
        die("open", api->last_error(NULL));
    pocketbert_description about = {.size = sizeof about};
    api->describe(&about);
    const int64_t tokens = arguments[7] ? parse(arguments[7]) : 0;
    pocketbert_tensor *inputs = make_tensors(about.inputs, about.input_count, tokens);
    pocketbert_tensor *outputs = make_tensors(about.outputs, about.output_count, tokens);
    const int from = open_file(arguments[3], 0);
    for (int32_t i = 0; i < about.input_count; i++)
        if (!transfer(READ, from, &inputs[i]))
            die(arguments[3], "ends too early");
    if (api->run(model, inputs, about.input_count, outputs, about.output_count) != POCKETBERT_OK)
        die("run", api->last_error(model));
    const int to = open_file(arguments[4], CREATE);
    for (int32_t i = 0; i < about.output_count; i++)
        if (!transfer(WRITE, to, &outputs[i]))
            die(arguments[4], "cannot be written");
    for (long left = parse(arguments[6]); left > 0; left--) {
        const long busy = nanoseconds(PROCESSOR_TIME), start = nanoseconds(MONOTONIC);
        api->run(model, inputs, about.input_count, outputs, about.output_count);
        const long end = nanoseconds(MONOTONIC);
        print(end - start, ' ');
        print(nanoseconds(PROCESSOR_TIME) - busy, '\n');
    }
    api->close(model);
}

void begin(unsigned long *stack);

void begin(unsigned long *stack)
{
    const unsigned long *entry = stack + 1 + stack[0] + 1;
    while (*entry++)
        ; /* the environment */
    auxiliary = entry;
    if (stack[0] != 7 && stack[0] != 8)
        die("usage", "device LIBRARY NAME INPUTS OUTPUTS THREADS RUNS [TOKENS]");
    run_model((char **)(stack + 1));
    quit(0);
}
