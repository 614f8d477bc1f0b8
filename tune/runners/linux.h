/* What device.c asks of Linux: its numbers, a system call, and where a program and a thread begin. */
#include <elf.h>

enum { AT_CWD = -100, CREATE = 0x241, READ_WRITE = 3, PRIVATE = 2, FIXED = 0x10, ANONYMOUS = 0x20 };
/* VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, PARENT_SETTID, CHILD_CLEARTID. */
enum { THREAD_FLAGS = 0x350f00 };

/* The stack as the kernel leaves it goes to `begin`; a new thread finds its function and argument on top of its stack. */
#if defined(__aarch64__)

#define ARCHITECTURE "arm64"
enum { OPENAT = 56, READ = 63, WRITE = 64, EXIT_GROUP = 94, FUTEX = 98, CLOCK_GETTIME = 113, MUNMAP = 215, MMAP = 222 };
enum { MACHINE = EM_AARCH64, RELATIVE = R_AARCH64_RELATIVE };
enum { ABSOLUTE = R_AARCH64_ABS64, GLOBAL = R_AARCH64_GLOB_DAT, JUMP = R_AARCH64_JUMP_SLOT };

__asm__(".globl _start\n_start:\n  mov x29, #0\n  mov x0, sp\n  bl begin\n"
        "start_thread:\n  mov x8, #220\n  svc #0\n  cbnz x0, 1f\n"
        "  ldp x1, x0, [sp]\n  blr x1\n  mov x0, #0\n  mov x8, #93\n  svc #0\n1:\n  ret\n");

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
    return x0;
}

#else

#define ARCHITECTURE "x86-64"
enum { OPENAT = 257, READ = 0, WRITE = 1, EXIT_GROUP = 231, FUTEX = 202, CLOCK_GETTIME = 228, MUNMAP = 11, MMAP = 9 };
enum { MACHINE = EM_X86_64, RELATIVE = R_X86_64_RELATIVE };
enum { ABSOLUTE = R_X86_64_64, GLOBAL = R_X86_64_GLOB_DAT, JUMP = R_X86_64_JUMP_SLOT };

/* clone takes its last two arguments the other way round here. */
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call begin\n"
        "start_thread:\n  mov %r8, %r10\n  mov %rcx, %r8\n  mov $56, %eax\n  syscall\n  test %rax, %rax\n  jnz 1f\n"
        "  pop %rdx\n  pop %rdi\n  call *%rdx\n  xor %edi, %edi\n  mov $60, %eax\n  syscall\n1:\n  ret\n");

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "+a"(number)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory", "cc");
    return number;
}

#endif

long start_thread(long flags, void *stack, int *parent, long tls, int *child);
