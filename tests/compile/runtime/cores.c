/* cores ALLOWED: what the runtime makes of the cores that it is shown, and which it sees. */
#include <stdio.h>
#include <stdlib.h>

#include "runtime.h"

int main(int argc, char **argv)
{
    const pb_cores found = pb_find_cores(argc > 1 ? strtoull(argv[1], NULL, 0) : 0);
    printf("%d %#llx %d %#llx\n", found.count, (unsigned long long)found.big, found.unequal,
           (unsigned long long)pb_present_cores());
    return 0;
}
