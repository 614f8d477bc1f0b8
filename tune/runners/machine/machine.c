/* A machine for one program, device.c: as much of Linux as that asks for, with neither firmware nor drivers.
 *
 * The first disk holds the program's arguments and files. What it writes goes to the printer's port: the file's number,
 * a count of bytes, the bytes. Between two readings of the monotonic clock each instruction of the mapped library is
 * counted.
 */
#include <stddef.h>
#include <stdint.h>

enum { READ = 0, WRITE = 1, CLOSE = 3, MMAP = 9, MUNMAP = 11, GET_AFFINITY = 204, CLOCK_GETTIME = 228 };
enum { MONOTONIC = 1 }; /* clock */
enum { EXIT_GROUP = 231, OPENAT = 257, CREATE = 0x40, EXECUTE = 4, FIXED = 0x10, NO_FILE = -2, NO_CALL = -38 };
enum { SIGILL = 4, SIGFPE = 8, SIGSEGV = 11 };
enum { SECTOR = 512, PAGE = 1 << 16, STACK_BYTES = 1 << 20, TRAP = 0x100, CODE_SEGMENT = 0x18, TASK_SEGMENT = 0x28 };
/* What goes to the printer beside the program's own files, which begin at FIRST. */
enum { FIRST = 3, COUNT = 0xfe, STATUS = 0xff, MOST = 16 };

/* The disk, as it is read to this address. */
typedef struct {
    uint64_t bytes;     /* of all of it */
    uint64_t registers; /* which the system saves, and so programs may use: XCR0 */
    uint64_t arguments; /* of the entries, these are the program's arguments; the others are files */
    uint64_t count;
    struct {
        char name[48];
        uint64_t at; /* an address */
        uint64_t bytes;
    } entries[MOST];
} disk;

static disk *const given = (disk *)0x1000000;
static uint64_t already_read[MOST];
static uintptr_t memory; /* what lies from here on is free */

/* For entry.S. */
uint64_t caller_stack, stepping, code, code_bytes, code_offset;
uint32_t *counts;
extern char trap_stack_end[], traps[], single_step[], system_call_entry[];

void machine(void);
long system_call(long a, long b, long c, long d, long e, long f, long number);
void trap(int vector);
void run_program(const void *stack);

static void out(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static uint8_t in(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void copy(uintptr_t to, uintptr_t from, uint64_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
}

static void clear(uintptr_t to, uint64_t bytes)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
}

static void read_disk(uintptr_t to, uint64_t sectors)
{
    enum {
        DATA = 0x1f0,
        SECTORS = 0x1f2,
        ADDRESS = 0x1f3,
        DRIVE = 0x1f6,
        COMMAND = 0x1f7,
        READ_SECTORS = 0x20,
        READY = 8
    };
    for (uint64_t done = 0; done < sectors; done++) {
        if (done % 256 == 0) {
            out(SECTORS, (uint8_t)(sectors - done < 256 ? sectors - done : 0));
            for (uint16_t i = 0; i < 3; i++)
                out(ADDRESS + i, (uint8_t)(done >> 8 * i));
            out(DRIVE, (uint8_t)(0xe0 | done >> 24));
            out(COMMAND, READ_SECTORS);
        }
        while (!(in(COMMAND) & READY))
            ;
        uint64_t words = SECTOR / 2;
        __asm__ volatile("rep insw" : "+D"(to), "+c"(words) : "d"((uint16_t)DATA) : "memory");
    }
}

/* --- to the outside */

static void print(const void *data, uint64_t bytes)
{
    enum { DATA = 0x378, CONTROL = 0x37a, ONLINE = 0x0c, STROBE = 1 };
    for (uint64_t i = 0; i < bytes; i++) {
        out(DATA, ((const uint8_t *)data)[i]);
        out(CONTROL, ONLINE | STROBE);
        out(CONTROL, ONLINE);
    }
}

static void print_record(long kind, const void *data, uint64_t bytes)
{
    print(&kind, 1);
    print(&bytes, sizeof bytes);
    print(data, bytes);
}

static void finish(uint64_t status)
{
    for (uint64_t at = 0; counts && at < code_bytes; at++)
        if (counts[at]) {
            const uint64_t pair[] = {code_offset + at, counts[at]};
            print_record(COUNT, pair, sizeof pair);
        }
    print_record(STATUS, &status, sizeof status);
    for (const char *c = "Shutdown"; *c; c++) /* Bochs ends at these letters */
        out(0x8900, (uint8_t)*c);
    for (;;)
        ;
}

void trap(int vector)
{
    enum { INVALID_OPCODE = 6, PROTECTION = 13, PAGE_FAULT = 14 };
    finish(128 + (vector == INVALID_OPCODE ? SIGILL : vector == PROTECTION || vector == PAGE_FAULT ? SIGSEGV : SIGFPE));
}

/* --- system calls */

static uintptr_t allocate(uint64_t bytes)
{
    const uintptr_t found = memory;
    memory += (bytes + PAGE - 1) / PAGE * PAGE;
    clear(found, bytes);
    return found;
}

static long map(uintptr_t at, uint64_t bytes, long protection, long flags, long file, uint64_t offset)
{
    if (!(flags & FIXED))
        at = allocate(bytes);
    else if (file < FIRST)
        clear(at, bytes);
    if (file >= FIRST) {
        const uint64_t left = given->entries[file - FIRST].bytes - offset;
        copy(at, given->entries[file - FIRST].at + offset, bytes < left ? bytes : left);
        if (protection & EXECUTE) {
            code = at;
            code_bytes = bytes;
            code_offset = offset;
        }
    }
    return (long)at;
}

static long open_file(const char *name, long flags)
{
    if (flags & CREATE)
        return FIRST + (long)given->count;
    for (uint64_t i = given->arguments; i < given->count; i++) {
        const char *other = given->entries[i].name;
        uint64_t c = 0;
        while (name[c] && name[c] == other[c])
            c++;
        if (name[c] == other[c])
            return FIRST + (long)i;
    }
    return NO_FILE;
}

static long read_file(long file, uintptr_t to, uint64_t bytes)
{
    uint64_t *already = &already_read[file - FIRST];
    const uint64_t left = given->entries[file - FIRST].bytes - *already;
    bytes = bytes < left ? bytes : left;
    copy(to, given->entries[file - FIRST].at + *already, bytes);
    *already += bytes;
    return (long)bytes;
}

long system_call(long a, long b, long c, long d, long e, long f, long number)
{
    stepping = 0;
    switch (number) {
    case OPENAT:
        return open_file((const char *)b, c);
    case READ:
        return read_file(a, (uintptr_t)b, (uint64_t)c);
    case WRITE:
        print_record(a, (const void *)b, (uint64_t)c);
        return c;
    case MMAP:
        return map((uintptr_t)a, (uint64_t)b, c, d, e, (uint64_t)f);
    case CLOSE:
    case MUNMAP:
        return 0;
    case GET_AFFINITY:
        *(uint64_t *)c = 1;
        return sizeof(uint64_t);
    case CLOCK_GETTIME:
        if (!counts)
            counts = (uint32_t *)allocate(code_bytes * sizeof *counts);
        stepping = a == MONOTONIC ? TRAP : 0;
        clear((uintptr_t)b, 2 * sizeof(long));
        return 0;
    case EXIT_GROUP:
        finish((uint64_t)a);
    }
    return NO_CALL;
}

/* --- start */

static void write_register(uint32_t number, uint64_t value)
{
    __asm__ volatile("wrmsr" ::"c"(number), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

/* System calls and traps. Those have a stack of their own: below the program's its functions keep what they need. */
static void prepare_processor(void)
{
    enum { STAR = 0xc0000081, LSTAR = 0xc0000082, FMASK = 0xc0000084 };
    typedef struct __attribute__((packed)) {
        uint16_t last;
        const void *at;
    } table;
    static uint64_t segments[7] = {0, 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff}, vectors[32][2];
    static uint32_t task[26];
    *(uint64_t *)&task[9] = (uint64_t)trap_stack_end;
    segments[TASK_SEGMENT / 8] = 0x0000890000000000 | (sizeof task - 1) | (uint64_t)task << 16;
    for (uint64_t i = 0; i < 32; i++) {
        const uint64_t at = (uint64_t)(i == 1 ? single_step : traps + 16 * i);
        vectors[i][0] = (at & 0xffff) | CODE_SEGMENT << 16 | 0x8e01ull << 32 | (at >> 16) << 48;
    }
    const table descriptors = {sizeof segments - 1, segments}, interrupts = {sizeof vectors - 1, vectors};
    __asm__ volatile("lgdt %0\n  lidt %1\n  ltr %w2" ::"m"(descriptors), "m"(interrupts), "r"(TASK_SEGMENT));
    write_register(STAR, (uint64_t)CODE_SEGMENT << 32);
    write_register(LSTAR, (uint64_t)system_call_entry);
    write_register(FMASK, TRAP);
    __asm__ volatile("xsetbv" ::"a"((uint32_t)given->registers), "c"(0), "d"(0));
}

void machine(void)
{
    read_disk((uintptr_t)given, 1);
    const uint64_t bytes = given->bytes;
    read_disk((uintptr_t)given, (bytes + SECTOR - 1) / SECTOR);
    memory = ((uintptr_t)given + bytes) / PAGE * PAGE + PAGE;
    prepare_processor();
    uint64_t *stack = (uint64_t *)(allocate(STACK_BYTES) + STACK_BYTES) - 2 * MOST;
    stack[0] = given->arguments;
    for (uint64_t i = 0; i < given->arguments; i++)
        stack[1 + i] = (uint64_t)given->entries[i].name;
    run_program(stack);
}
