/* Load a model's library while the program runs: from a path, on Linux and Android also from memory or from part of an open
 * file (a library that lies uncompressed inside an APK). Header only. An app that links the library, or that lets Java load it, needs none of
 * this.
 *
 *     pocketbert_library library;
 *     if (pocketbert_load_path(&library, "libmobilebert.so", "mobilebert") != POCKETBERT_OK)
 *         puts(library.error);
 *     library.functions->open(NULL, &model); ...
 *     pocketbert_unload(&library);
 *
 * In C, define _GNU_SOURCE before the first #include. glibc before 2.34 wants -ldl.
 */
#ifndef POCKETBERT_LOADER_H
#define POCKETBERT_LOADER_H

#if !defined(__cplusplus) && !defined(_GNU_SOURCE)
#error "pocketbert_loader.h: define _GNU_SOURCE before the first #include"
#endif

#include <stdio.h>
#include <string.h>
#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#else
#include <dlfcn.h>
#endif
#if defined(__linux__)
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__ANDROID__)
#include <android/dlext.h>
#endif

#include "pocketbert.h"

typedef struct {
    const pocketbert_functions *functions; /* NULL where nothing is loaded */
    void *handle;
    int file; /* kept open: the loader would take another file of its number for the same library; -1: none */
    char error[256];
} pocketbert_library;

/* Load the library of the model called `name`: a path in UTF-8, or a file name that the system's loader searches for. */
static inline int32_t pocketbert_load_path(pocketbert_library *library, const char *path, const char *name);

/* Load it from `bytes` bytes at `offset` of an open file, which may be closed afterwards. On Android they are mapped from
 * there, and `offset` must be a multiple of the page size; elsewhere they are copied to memory unless `offset` is 0. */
static inline int32_t pocketbert_load_file(pocketbert_library *library, int file, int64_t offset, int64_t bytes,
                                           const char *name);

/* Load it from memory, which is copied. */
static inline int32_t pocketbert_load_memory(pocketbert_library *library, const void *data, size_t bytes,
                                             const char *name);

/* No model of the library may be open. A library that failed to load is allowed. */
static inline void pocketbert_unload(pocketbert_library *library);

/* --- What follows is not for callers. */

static inline int32_t pocketbert_load_failed(pocketbert_library *library, const char *what, const char *why)
{
    pocketbert_unload(library);
    if (snprintf(library->error, sizeof library->error, "%s: %s", what, why) < 0) /* it may be cut short */
        library->error[0] = 0;
    return POCKETBERT_ERROR_LIBRARY;
}

#if defined(_WIN32)

static inline void *pocketbert_system_open(const char *path)
{
    wchar_t wide[32768]; /* the longest that Windows takes */
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, 32768) ? (void *)LoadLibraryW(wide)
                                                                                     : NULL;
}

static inline const char *pocketbert_system_error(void)
{
    switch (GetLastError()) {
    case ERROR_MOD_NOT_FOUND:
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
        return "no such file";
    case ERROR_BAD_EXE_FORMAT:
        return "not a library for this processor, or damaged";
    default:
        return "Windows cannot load it";
    }
}

static inline void *pocketbert_system_find(void *library, const char *symbol)
{
    void *address = NULL;
    const FARPROC function = GetProcAddress((HMODULE)library, symbol);
    memcpy(&address, &function, sizeof address);
    return address;
}

static inline void pocketbert_system_close(void *library)
{
    FreeLibrary((HMODULE)library);
}

#else

static inline void *pocketbert_system_open(const char *path)
{
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static inline const char *pocketbert_system_error(void)
{
    return dlerror();
}

static inline void *pocketbert_system_find(void *library, const char *symbol)
{
    return dlsym(library, symbol);
}

static inline void pocketbert_system_close(void *library)
{
    dlclose(library);
}

#endif

#if defined(__linux__)

/* The system's loader maps what it is told to map: of a truncated file it would read past the end and be killed. */
static inline const char *pocketbert_check_elf(int file, int64_t offset, int64_t bytes)
{
#if defined(__aarch64__)
    const int machine = EM_AARCH64, bits = ELFCLASS64;
    Elf64_Ehdr elf;
#elif defined(__arm__)
    const int machine = EM_ARM, bits = ELFCLASS32;
    Elf32_Ehdr elf;
#elif defined(__riscv)
    const int machine = EM_RISCV, bits = ELFCLASS64;
    Elf64_Ehdr elf;
#else
    const int machine = EM_X86_64, bits = ELFCLASS64;
    Elf64_Ehdr elf;
#endif
    if (bytes < (int64_t)sizeof elf || pread(file, &elf, sizeof elf, (off_t)offset) != (ssize_t)sizeof elf)
        return "too short for a library";
    if (memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 || elf.e_ident[EI_CLASS] != bits || elf.e_type != ET_DYN)
        return bits == ELFCLASS64 ? "not a 64-bit library" : "not a 32-bit library";
    if (elf.e_machine != machine)
        return "built for another processor";
    if (elf.e_shoff > (uint64_t)bytes || (uint64_t)bytes - elf.e_shoff < (uint64_t)elf.e_shnum * elf.e_shentsize)
        return "truncated";
    return NULL;
}

#endif

static inline int32_t pocketbert_load_finish(pocketbert_library *library, const char *what, const char *name)
{
    const pocketbert_functions *(*functions)(void);
    char symbol[256];
    if (!library->handle)
        return pocketbert_load_failed(library, what, pocketbert_system_error());
    snprintf(symbol, sizeof symbol, "%s_functions", name);
    *(void **)&functions =
        pocketbert_system_find(library->handle, symbol); /* POSIX: the way to make a function of it */
    if (!functions)
        return pocketbert_load_failed(library, symbol, "not in the library: is that the model's name?");
    library->functions = functions();
    if (library->functions->abi_version != POCKETBERT_ABI)
        return pocketbert_load_failed(library, what, "built for another POCKETBERT_ABI than this program");
    return POCKETBERT_OK;
}

static inline void pocketbert_load_begin(pocketbert_library *library)
{
    memset(library, 0, sizeof *library);
    library->file = -1;
}

static inline int32_t pocketbert_load_path(pocketbert_library *library, const char *path, const char *name)
{
    pocketbert_load_begin(library);
#if defined(__linux__)
    const char *wrong = NULL;
    struct stat status;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) { /* else it may be a name that the loader finds, also inside an APK */
        wrong = fstat(file, &status) == 0 ? pocketbert_check_elf(file, 0, status.st_size) : strerror(errno);
        close(file);
    }
    if (wrong)
        return pocketbert_load_failed(library, path, wrong);
#endif
    library->handle = pocketbert_system_open(path);
    return pocketbert_load_finish(library, path, name);
}

#if defined(__linux__)

/* Map the library that begins at `offset` of library->file. */
static inline int32_t pocketbert_map(pocketbert_library *library, int64_t offset, const char *name)
{
#if defined(__ANDROID__)
    android_dlextinfo where;
    memset(&where, 0, sizeof where);
    where.flags = ANDROID_DLEXT_USE_LIBRARY_FD | ANDROID_DLEXT_USE_LIBRARY_FD_OFFSET;
    where.library_fd = library->file;
    where.library_fd_offset = offset;
    library->handle = android_dlopen_ext(name, RTLD_NOW | RTLD_LOCAL, &where);
#else
    char path[64];
    (void)offset;
    snprintf(path, sizeof path, "/proc/self/fd/%d", library->file);
    library->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
#endif
    return pocketbert_load_finish(library, "library", name);
}

static inline int pocketbert_anonymous_file(void)
{
    return (int)syscall(SYS_memfd_create, "pocketbert", 1u /* MFD_CLOEXEC */);
}

static inline const char *pocketbert_write(int file, const char *data, size_t bytes)
{
    while (bytes > 0) {
        const ssize_t written = write(file, data, bytes);
        if (written <= 0)
            return strerror(errno);
        data += written;
        bytes -= (size_t)written;
    }
    return NULL;
}

static inline int32_t pocketbert_load_file(pocketbert_library *library, int file, int64_t offset, int64_t bytes,
                                           const char *name)
{
    struct stat status;
    pocketbert_load_begin(library);
    if (fstat(file, &status) != 0)
        return pocketbert_load_failed(library, "file", strerror(errno));
    if (offset < 0 || bytes < 0 || offset > status.st_size || bytes > status.st_size - offset)
        return pocketbert_load_failed(library, "file", "offset and bytes lie outside it");
    const char *wrong = pocketbert_check_elf(file, offset, bytes);
#if defined(__ANDROID__)
    const int copied = 0;
#else
    const int copied = offset != 0;
#endif
    if (!wrong && (library->file = copied ? pocketbert_anonymous_file() : fcntl(file, F_DUPFD_CLOEXEC, 0)) < 0)
        wrong = strerror(errno);
    for (int64_t done = 0; !wrong && copied && done < bytes;) {
        char part[16384];
        const size_t want = bytes - done < (int64_t)sizeof part ? (size_t)(bytes - done) : sizeof part;
        const ssize_t got = pread(file, part, want, (off_t)(offset + done));
        wrong = got > 0 ? pocketbert_write(library->file, part, (size_t)got) : "cannot be read";
        done += got;
    }
    return wrong ? pocketbert_load_failed(library, "file", wrong) : pocketbert_map(library, offset, name);
}

static inline int32_t pocketbert_load_memory(pocketbert_library *library, const void *data, size_t bytes,
                                             const char *name)
{
    const char *wrong = NULL;
    pocketbert_load_begin(library);
    if ((library->file = pocketbert_anonymous_file()) < 0)
        wrong = strerror(errno);
    if (!wrong)
        wrong = pocketbert_write(library->file, (const char *)data, bytes);
    if (!wrong)
        wrong = pocketbert_check_elf(library->file, 0, (int64_t)bytes);
    return wrong ? pocketbert_load_failed(library, "memory", wrong) : pocketbert_map(library, 0, name);
}

#else

static inline int32_t pocketbert_load_file(pocketbert_library *library, int file, int64_t offset, int64_t bytes,
                                           const char *name)
{
    (void)file, (void)offset, (void)bytes, (void)name;
    pocketbert_load_begin(library);
    return pocketbert_load_failed(library, "file", "this system loads libraries by their paths alone");
}

static inline int32_t pocketbert_load_memory(pocketbert_library *library, const void *data, size_t bytes,
                                             const char *name)
{
    (void)data, (void)bytes, (void)name;
    pocketbert_load_begin(library);
    return pocketbert_load_failed(library, "memory", "this system loads libraries by their paths alone");
}

#endif

static inline void pocketbert_unload(pocketbert_library *library)
{
    if (library->handle)
        pocketbert_system_close(library->handle);
#if defined(__linux__)
    if (library->file >= 0)
        close(library->file);
#endif
    pocketbert_load_begin(library);
}

#endif
