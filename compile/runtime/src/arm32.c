/* What clang calls on 32-bit Arm for lack of an instruction, and its own library, which is not linked, would have. */
#include <stdint.h>

#if defined(__arm__)

float __floatdisf(int64_t whole);
float __floatdisf(int64_t whole)
{
    uint64_t size = whole < 0 ? -(uint64_t)whole : (uint64_t)whole;
    /* A double has 53 bits: what is beyond them only says on which side of a tie the number is. */
    if (size >> 53)
        size = (size >> 11 | ((size & 0x7FF) != 0)) << 11;
    const double exact = (double)(uint32_t)(size >> 32) * 4294967296.0 + (double)(uint32_t)size;
    return (float)(whole < 0 ? -exact : exact);
}

#else
typedef int pb_no_empty_file;
#endif
