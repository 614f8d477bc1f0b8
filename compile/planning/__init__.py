"""Kernel calls -> stages, memory, and a set of kernels for each level of CPU."""
