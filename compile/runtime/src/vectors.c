/* Vectors in fewer bytes, and how alike they are. */
#include "model.h"

double sqrt(double x);

static const float LARGEST = 0x1.fffffep127f;

/* The nearest whole number, ties to even, of one between -2^22 and 2^22: its last digit then stands for 1. */
static float whole(float x)
{
    const float moved = x + 0x1.8p23f;
    return moved - 0x1.8p23f;
}

PB_PUBLIC int32_t PB(convert)(const float *vector, int32_t size, int32_t type, void *converted)
{
    if (!vector || !converted || size < 1 || (type != POCKETBERT_INT8 && type != POCKETBERT_BITS))
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT,
                       "convert: a pointer is NULL, `size` below 1, or `type` neither POCKETBERT_INT8 nor _BITS");
    float most = 0;
    for (int32_t i = 0; i < size; i++) {
        const float value = vector[i] < 0 ? -vector[i] : vector[i];
        if (!(value <= LARGEST))
            return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT, "convert: the vector holds what is infinite or no number");
        most = value > most ? value : most;
    }
    if (type == POCKETBERT_BITS)
        memset(converted, 0, ((size_t)size + 7) / 8);
    for (int32_t i = 0; i < size; i++)
        if (type == POCKETBERT_INT8)
            ((int8_t *)converted)[i] = (int8_t)(most > 0 ? whole(vector[i] / most * 127) : 0);
        else
            ((uint8_t *)converted)[i / 8] |= (uint8_t)((vector[i] > 0) << (7 - i % 8));
    return POCKETBERT_OK;
}

static double element(const void *vector, int32_t i, int32_t type)
{
    if (type == POCKETBERT_FLOAT32)
        return (double)((const float *)vector)[i];
    if (type == POCKETBERT_INT8)
        return ((const int8_t *)vector)[i];
    return ((const uint8_t *)vector)[i / 8] >> (7 - i % 8) & 1 ? 1 : -1;
}

PB_PUBLIC float PB(cosine)(const void *a, const void *b, int32_t size, int32_t type)
{
    if (!a || !b || (type != POCKETBERT_FLOAT32 && type != POCKETBERT_INT8 && type != POCKETBERT_BITS))
        return 0;
    double product = 0, square_a = 0, square_b = 0;
    for (int32_t i = 0; i < size; i++) {
        const double x = element(a, i, type), y = element(b, i, type);
        product += x * y;
        square_a += x * x;
        square_b += y * y;
    }
    const bool no_length = square_a == 0 || square_b == 0;
    return no_length ? 0 : (float)(product / (sqrt(square_a) * sqrt(square_b)));
}
