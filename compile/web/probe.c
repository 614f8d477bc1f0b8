/* What an engine's relaxed SIMD computes, which the standard leaves open: index.js chooses the module by it. */
#include <stdint.h>

typedef float floats __attribute__((vector_size(16)));
typedef int8_t bytes __attribute__((vector_size(16)));
typedef int32_t words __attribute__((vector_size(16)));

/* (1 + 2^-12)² − (1 + 2^-11) is 2^-24; rounded after the product it is 0. */
static int32_t fused(void)
{
    const float a = 1 + 0x1p-12f;
    return __builtin_wasm_relaxed_madd_f32x4((floats){a}, (floats){a}, (floats){-1 - 0x1p-11f})[0] == 0x1p-24f;
}

/* Whether sums of four products are exact for all eight bits of both factors, the second as signed or as unsigned. */
static int32_t exact(void)
{
    static const uint8_t extremes[] = {127, 128, 255};
    int32_t as_signed = 1, as_unsigned = 1;
    for (uint32_t test = 0; test < 16 * 81; test++) {
        uint8_t w[16] = {0}, x[16] = {0};
        int32_t sum = 7, unsigned_sum = 7;
        for (uint32_t i = 0, rest = test >> 4; i < 4; i++, rest /= 3) {
            w[i] = extremes[test >> i & 1];
            x[i] = extremes[rest % 3];
            sum += (int8_t)w[i] * (int8_t)x[i];
            unsigned_sum += (int8_t)w[i] * x[i];
        }
        bytes weights, activations;
        __builtin_memcpy(&weights, w, 16);
        __builtin_memcpy(&activations, x, 16);
        const int32_t got = __builtin_wasm_relaxed_dot_i8x16_i7x16_add_s_i32x4(weights, activations, (words){7})[0];
        as_signed &= got == sum;
        as_unsigned &= got == unsigned_sum;
    }
    return as_signed | as_unsigned;
}

/* 0: neither; 1: a multiply-add rounds once; 2: and products of bytes are exact. */
__attribute__((export_name("level"))) int32_t level(void)
{
    return fused() ? 1 + exact() : 0;
}
