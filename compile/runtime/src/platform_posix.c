/* What Linux and Apple's systems do alike. */
#include "platform.h"

#if defined(__linux__) || defined(__APPLE__)

int munmap(void *address, size_t length);
int pthread_create(uintptr_t *thread, const void *attributes, void *(*start)(void *), void *argument);
int pthread_join(uintptr_t thread, void **result);

void pb_free_pages(void *pages, size_t bytes)
{
    munmap(pages, bytes);
}

void pb_return_addresses(uintptr_t first, size_t bytes)
{
    munmap((void *)first, bytes);
}

bool pb_start_thread(uintptr_t *thread, void *(*start)(void *), void *argument)
{
    return pthread_create(thread, NULL, start, argument) == 0;
}

void pb_join_thread(uintptr_t thread)
{
    pthread_join(thread, NULL);
}

#endif
