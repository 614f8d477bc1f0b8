/* pocketbert_loader.h as on Windows, of which only what it calls is here: a file's name is the error that opening it makes.
 * Prints what is loaded, or why not, and how many libraries stay open after each. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

typedef void *HMODULE;
typedef intptr_t (*FARPROC)(void);
enum { CP_UTF8 = 65001, MB_ERR_INVALID_CHARS = 8 };
enum { ERROR_FILE_NOT_FOUND = 2, ERROR_PATH_NOT_FOUND = 3, ERROR_MOD_NOT_FOUND = 126, ERROR_BAD_EXE_FORMAT = 193 };
static int last_error, open_libraries;

static int MultiByteToWideChar(unsigned page, unsigned flags, const char *text, int bytes, wchar_t *wide, int room)
{
    int count = 0;
    last_error = 1113;
    if (page != CP_UTF8 || flags != MB_ERR_INVALID_CHARS || bytes != -1 || (int)strlen(text) >= room || text[0] < 0)
        return 0;
    do
        wide[count] = (wchar_t)text[count];
    while (text[count++]);
    return count;
}

static HMODULE LoadLibraryW(const wchar_t *path)
{
    last_error = (int)wcstol(path, NULL, 10);
    open_libraries += !last_error;
    return last_error ? NULL : &open_libraries;
}

static int GetLastError(void)
{
    return last_error;
}

static intptr_t functions(void);

static FARPROC GetProcAddress(HMODULE library, const char *symbol)
{
    return library == &open_libraries && strcmp(symbol, "model_functions") == 0 ? functions : NULL;
}

static int FreeLibrary(HMODULE library)
{
    open_libraries -= library == &open_libraries;
    return 1;
}

#include "pocketbert_loader.h"

static intptr_t functions(void)
{
    static const pocketbert_functions all = {.abi_version = POCKETBERT_ABI};
    return (intptr_t)&all;
}

int main(int argc, char **argv)
{
    pocketbert_library library;
    for (int i = 1; i + 1 < argc; i += 2) {
        const int32_t status = pocketbert_load_path(&library, argv[i], argv[i + 1]);
        printf("%d %s %d ", status, status ? library.error : argv[i], open_libraries);
        pocketbert_unload(&library);
        printf("%d\n", open_libraries);
    }
    for (int memory = 0; memory < 2; memory++) {
        const int32_t status = memory ? pocketbert_load_memory(&library, "", 1, "model")
                                      : pocketbert_load_file(&library, 0, 0, 1, "model");
        printf("%d %s\n", status, library.error);
    }
    return 0;
}
