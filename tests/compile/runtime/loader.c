/* loader (path|memory|file:OFFSET:BYTES) FILE NAME ...: load every library with pocketbert_loader.h, keep all of them
 * loaded, open a model of each, and print its name and its tokens, or what is wrong. */
#include <stdio.h>
#include <stdlib.h>

#include "pocketbert_loader.h"

enum { MAX_LIBRARIES = 8 };

static int32_t load(pocketbert_library *library, const char *how, const char *path, const char *name)
{
    if (strcmp(how, "path") == 0)
        return pocketbert_load_path(library, path, name);
    const int file = open(path, O_RDONLY);
    long long offset = 0, bytes = lseek(file, 0, SEEK_END);
    int32_t status;
    if (strcmp(how, "memory") == 0) {
        char *data = malloc((size_t)bytes + 1);
        if (!data || pread(file, data, (size_t)bytes, 0) != bytes)
            exit(3);
        status = pocketbert_load_memory(library, data, (size_t)bytes, name);
        free(data);
    } else {
        sscanf(how, "file:%lld:%lld", &offset, &bytes);
        status = pocketbert_load_file(library, file, offset, bytes, name);
    }
    close(file);
    return status;
}

/* The lowest number that no open file has. */
static int next_file(void)
{
    const int file = dup(0);
    close(file);
    return file;
}

int main(int argc, char **argv)
{
    pocketbert_library libraries[MAX_LIBRARIES];
    const int before = next_file();
    int count = 0;
    for (int i = 1; i + 2 < argc && count < MAX_LIBRARIES; i += 3, count++) {
        pocketbert_library *library = &libraries[count];
        if (load(library, argv[i], argv[i + 1], argv[i + 2]) != POCKETBERT_OK) {
            printf("%s\n", library->error);
            continue;
        }
        pocketbert_model *model;
        pocketbert_description description = {.size = sizeof description};
        if (library->functions->open(NULL, &model) != POCKETBERT_OK)
            return 4;
        library->functions->describe(&description);
        library->functions->close(model);
        printf("%s %d %zu\n", argv[i + 2], description.tokens, description.weight_bytes);
    }
    for (int i = 0; i < count; i++) {
        pocketbert_unload(&libraries[i]);
        pocketbert_unload(&libraries[i]);
    }
    for (int i = 0; i < count; i++)
        if (dlopen(argv[3 * i + 2], RTLD_NOW | RTLD_NOLOAD))
            return 6;
    return next_file() == before ? 0 : 5;
}
