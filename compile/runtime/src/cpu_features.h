/* The instruction sets that kernels may need, and where a CPU says that it has them: the one table of both.
 *
 * Names are LLVM's, as `required` in compile/cpus.py has them. A new one is a line here; it becomes PB_CPU_<name>.
 */
#ifndef PB_CPU_FEATURES_H
#define PB_CPU_FEATURES_H

/* X(name, word of the auxiliary vector, all of its bits that must be set) */
#define PB_ARM_FEATURES(X)                                                                                             \
    X(dotprod, HWCAP, 1ul << 20)                                                                                       \
    X(fp16, HWCAP, 1ul << 9 | 1ul << 10) /* for numbers and for vectors */                                             \
    X(i8mm, HWCAP2, 1ul << 13)                                                                                         \
    X(bf16, HWCAP2, 1ul << 14)

/* Of 32-bit Arm: fused multiply-adds of vectors, division. */
#define PB_ARM32_FEATURES(X)                                                                                           \
    X(vfp4, HWCAP, 1ul << 16)                                                                                          \
    X(idiva, HWCAP, 1ul << 17)

/* Of 64-bit RISC-V: vectors of at least 128 bits. */
#define PB_RISCV_FEATURES(X) X(v, HWCAP, 1ul << ('v' - 'a'))

/* X(name, leaf and register of cpuid, its bit, registers that the operating system must save) */
#define PB_X86_FEATURES(X)                                                                                             \
    X(sse42, LEAF_1_ECX, 20, 0)                                                                                        \
    X(fma, LEAF_1_ECX, 12, YMM)                                                                                        \
    X(avx2, LEAF_7_EBX, 5, YMM)                                                                                        \
    X(avxvnni, LEAF_7_1_EAX, 4, YMM)                                                                                   \
    X(avx512f, LEAF_7_EBX, 16, ZMM)                                                                                    \
    X(avx512bw, LEAF_7_EBX, 30, ZMM)                                                                                   \
    X(avx512cd, LEAF_7_EBX, 28, ZMM)                                                                                   \
    X(avx512dq, LEAF_7_EBX, 17, ZMM)                                                                                   \
    X(avx512vl, LEAF_7_EBX, 31, ZMM)                                                                                   \
    X(avx512vnni, LEAF_7_ECX, 11, ZMM)

#define PB_FEATURES(X) PB_ARM_FEATURES(X) PB_ARM32_FEATURES(X) PB_RISCV_FEATURES(X) PB_X86_FEATURES(X)
#define PB_POSITION(name, ...) PB_POSITION_##name,
#define PB_BIT(name, ...) PB_CPU_##name = 1 << PB_POSITION_##name,

enum { PB_FEATURES(PB_POSITION) };
enum { PB_FEATURES(PB_BIT) };

#endif
