"""From kernels, weights and plan to the files that the linker takes."""
