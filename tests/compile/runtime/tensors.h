/* Tensors of zeros as a model's description has them, for programs that define `check`. Include it after pocketbert.h. */
#include <stdlib.h>
#include <string.h>

enum { MAX_TENSORS = 8 };

static void check(int holds, const char *what);

static void allocate(pocketbert_tensor *tensors, const pocketbert_info *infos, int32_t count)
{
    check(count <= MAX_TENSORS, "the model has more tensors than this program takes");
    for (int32_t i = 0; i < count; i++) {
        tensors[i] = (pocketbert_tensor){.type = infos[i].type, .rank = infos[i].rank};
        memcpy(tensors[i].shape, infos[i].shape, sizeof tensors[i].shape);
        tensors[i].data = calloc(1, infos[i].bytes);
        check(tensors[i].data != NULL, "out of memory");
    }
}
