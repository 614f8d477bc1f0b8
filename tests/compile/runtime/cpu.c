/* cpu: the features that the runtime knows of this architecture, those that this CPU has, and what to say without each. */
#include <stdio.h>

#include "runtime.h"

#define SHOW(name, ...)                                                                                                \
    printf("%s %d %s\n", #name, (pb_cpu_features() & PB_CPU_##name) != 0, pb_cpu_lacks(PB_CPU_##name));

int main(void)
{
#if defined(__aarch64__)
    PB_ARM_FEATURES(SHOW)
#else
    PB_X86_FEATURES(SHOW)
#endif
    return 0;
}
